"""Loops for torch's operations that are not elementwise, for `lowering.py`.

Each emitter takes the `Source`, the arguments by their names in the schema, and the arrays of the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from latf_sampling.cv.compiler.indices import INDICES
from latf_sampling.cv.compiler.kernel import KernelError
from latf_sampling.cv.compiler.operations import Bound
from latf_sampling.cv.compiler.products import PRODUCTS
from latf_sampling.cv.compiler.source import Array, Source, merge, reshape, split_dimensions

Emitter = Callable[..., None]
"""Function of (code, bound, *outs) that writes the loops of an operation."""


def _reduction(start: str, step: str, end: str = "{0}") -> Emitter:
    """Accumulate in {0} the numbers {1} along some dimensions; in `end`, {1} is their count."""

    def emit(code: Source, bound: Bound, out: Array) -> None:
        if bound.get("ord", 2) != 2:
            raise KernelError("the operation aten.linalg_vector_norm has machine code for the norm of order 2 alone.")
        x = code.readable(bound["self"])
        outer_dims, inner_dims = split_dimensions(bound.get("dim"), len(x.shape))
        out = reshape(out, [x.shape[d] for d in outer_dims])
        total, count = code.name("s"), math.prod(x.shape[d] for d in inner_dims)
        with code.loops([x.shape[d] for d in outer_dims]) as outer:
            code.line(f"{total} = {start if out.dtype == torch.float64 else start.replace('.0', '')}")
            with code.loops([x.shape[d] for d in inner_dims]) as inner:
                code.line(f"{total} = {step.format(total, x.address(merge(outer_dims, outer, inner_dims, inner)))}")
            code.line(f"{out.address(outer)} = {end.format(total, count)}")

    return emit


def _extremum(sign: str, reduction: Emitter) -> Emitter:
    """The first smallest or largest number along a dimension and its index, or one of them; NaN counts as either.

    Without a dimension the operation is a reduction.
    """

    def emit(code: Source, bound: Bound, *outs: Array) -> None:
        if "other" in bound:
            raise KernelError("the operation aten.max.other has no machine code; aten.maximum has.")
        if "dim" not in bound:
            reduction(code, bound, *outs)
            return
        x, dim = bound["self"], bound["dim"]
        if dim is None:
            x, dim = reshape(code.copy(x), [-1]), 0
        x = code.readable(x)
        outer_dims, inner_dims = split_dimensions(dim, len(x.shape))
        best, index, current = code.name("s"), code.name("k"), code.name("x")
        with code.loops([x.shape[d] for d in outer_dims]) as outer:
            code.line(f"{best} = {x.address(merge(outer_dims, outer, inner_dims, ['0'] * len(inner_dims)))}")
            code.line(f"{index} = 0")
            with code.loops([x.shape[d] for d in inner_dims]) as inner:
                code.line(f"{current} = {x.address(merge(outer_dims, outer, inner_dims, inner))}")
                code.line(f"if {current} {sign} {best} or ({current} != {current} and {best} == {best}):")
                code.line(f"    {best} = {current}")
                code.line(f"    {index} = {inner[0] if inner else 0}")
            for out, name in zip(outs, [best, index][-len(outs) :]):
                code.line(f"{reshape(out, [x.shape[d] for d in outer_dims]).address(outer)} = {name}")

    return emit


def _cumulative(start: str, sign: str) -> Emitter:
    def emit(code: Source, bound: Bound, out: Array) -> None:
        x = code.readable(bound["self"])
        outer_dims, inner_dims = split_dimensions(bound["dim"], len(x.shape))
        total = code.name("s")
        with code.loops([x.shape[d] for d in outer_dims]) as outer:
            code.line(f"{total} = {start if out.dtype == torch.float64 else start.replace('.0', '')}")
            with code.loops([x.shape[d] for d in inner_dims]) as inner:
                at = merge(outer_dims, outer, inner_dims, inner)
                code.line(f"{total} = {total} {sign} {x.address(at)}")
                code.line(f"{out.address(at)} = {total}")

    return emit


def _flip(code: Source, bound: Bound, out: Array) -> None:
    x, dims = code.readable(bound["self"]), [d % len(out.shape) for d in bound["dims"]]
    with code.loops(x.shape) as at:
        flipped = [f"({x.shape[d] - 1} - {c})" if d in dims else c for d, c in enumerate(at)]
        code.line(f"{out.address(flipped)} = {x.address(at)}")


def _sort(code: Source, bound: Bound, values: Array, indices: Array) -> None:
    """Insertion sort, which is stable and fast for the few numbers of a molecule; NaN is the largest."""
    x = code.readable(bound["self"])
    outer_dims, inner_dims = split_dimensions(bound["dim"], len(x.shape))
    current, other, position = code.name("x"), code.name("y"), code.name("k")
    before = f"{current} > {other} or ({current} != {current} and {other} == {other})"
    if not bound["descending"]:
        before = f"{current} < {other} or ({other} != {other} and {current} == {current})"

    def at(coordinate: str) -> list[str]:
        return merge(outer_dims, outer, inner_dims, [coordinate] * len(inner_dims))

    with code.loops([x.shape[d] for d in outer_dims]) as outer, code.loops([x.shape[d] for d in inner_dims]) as inner:
        row = inner[0] if inner else "0"
        code.line(f"{current} = {x.address(at(row))}")
        code.line(f"{position} = {row}")
        code.line(f"while {position} > 0:")
        # Positions are multiplied in the source of an address, so they have to be plain names.
        code.line(f"    {position}_below = {position} - 1")
        code.line(f"    {other} = {values.address(at(position + '_below'))}")
        code.line(f"    if not ({before}):")
        code.line("        break")
        code.line(f"    {values.address(at(position))} = {other}")
        code.line(f"    {indices.address(at(position))} = {indices.address(at(position + '_below'))}")
        code.line(f"    {position} = {position}_below")
        code.line(f"{values.address(at(position))} = {current}")
        code.line(f"{indices.address(at(position))} = {row}")


def _cat(code: Source, bound: Bound, out: Array) -> None:
    start, dim = 0, bound["dim"] % len(out.shape)
    for x in bound["tensors"]:
        if len(x.shape) < len(out.shape):  # torch ignores an empty vector, whatever the shape of the others
            continue
        part = out.mapped(lambda t, start=start, x=x: t.narrow(dim, start, x.shape[dim]))
        code.elementwise("{self}", {"self": x}, part)
        start += x.shape[dim]


def _stack(code: Source, bound: Bound, out: Array) -> None:
    for k, x in enumerate(bound["tensors"]):
        part = out.mapped(lambda t, k=k: t.select(bound["dim"], k))
        code.elementwise("{self}", {"self": x}, part)


def _embedding(view: Callable[[torch.Tensor, Bound], torch.Tensor]) -> Emitter:
    """Zeros, or other numbers, with a source in that part of them that `view` of the layout returns."""

    def emit(code: Source, bound: Bound, out: Array) -> None:
        code.elementwise("{self}", {"self": bound.get("self", 0.0)}, out)
        source = bound["src"] if "src" in bound else bound["grad_output"]
        part = out.mapped(lambda t: view(t, bound))
        code.flush()
        code.elementwise("{self}", {"self": source}, part)

    return emit


def _slice(layout: torch.Tensor, bound: Bound) -> torch.Tensor:
    return torch.ops.aten.slice.Tensor(layout, bound["dim"], bound["start"], bound["end"], bound["step"])


_AMAX = _reduction("-np.inf", "np.maximum({0}, {1})")
_AMIN = _reduction("np.inf", "np.minimum({0}, {1})")
EMITTERS: dict[str, Emitter] = {
    **INDICES,
    **PRODUCTS,
    "sum": _reduction("0.0", "{0} + {1}"),
    "mean": _reduction("0.0", "{0} + {1}", "{0} / {1}"),
    "prod": _reduction("1.0", "{0} * {1}"),
    "amax": _AMAX,
    "amin": _AMIN,
    "any": _reduction("0", "{0} | ({1} != 0)"),
    "all": _reduction("1", "{0} & ({1} != 0)"),
    "linalg_vector_norm": _reduction("0.0", "{0} + {1} * {1}", "math.sqrt({0})"),
    "argmax": _extremum(">", _AMAX),
    "argmin": _extremum("<", _AMIN),
    "max": _extremum(">", _AMAX),
    "min": _extremum("<", _AMIN),
    "cumsum": _cumulative("0.0", "+"),
    "cumprod": _cumulative("1.0", "*"),
    "flip": _flip,
    "sort": _sort,
    "cat": _cat,
    "stack": _stack,
    "select_backward": _embedding(lambda layout, bound: layout.select(bound["dim"], bound["index"])),
    "select_scatter": _embedding(lambda layout, bound: layout.select(bound["dim"], bound["index"])),
    "slice_backward": _embedding(_slice),
    "slice_scatter": _embedding(_slice),
}
"""Emitters by operation, for all its overloads and its variants in place."""
