"""Loops for torch's operations that are not elementwise, for `lowering.py`.

Each function takes the `Source`, the arguments by their names in the schema, and the arrays of the results.
"""

from __future__ import annotations

import math

import torch

from latf_sampling.cv.compiler.indices import INDICES
from latf_sampling.cv.compiler.operations import Bound, KernelError
from latf_sampling.cv.compiler.products import PRODUCTS
from latf_sampling.cv.compiler.source import Array, Source, merged, reshaped, split


def _reduction(start: str, step: str, end: str = "{0}"):
    """Take the numbers {1} along some dimensions one by one; at the end {1} is their count."""

    def emit(code: Source, bound: Bound, out: Array) -> None:
        if bound.get("ord", 2) != 2:
            raise KernelError("the operation aten.linalg_vector_norm has machine code for the norm of order 2 alone.")
        x = code.read(bound["self"])
        kept, along = split(bound.get("dim"), len(x.shape))
        out = reshaped(out, [x.shape[d] for d in kept])
        total, count = code.name("s"), math.prod(x.shape[d] for d in along)
        with code.loops([x.shape[d] for d in kept]) as outer:
            code.line(f"{total} = {start if out.dtype == torch.float64 else start.replace('.0', '')}")
            with code.loops([x.shape[d] for d in along]) as inner:
                code.line(f"{total} = {step.format(total, x.address(merged(kept, outer, along, inner)))}")
            code.line(f"{out.address(outer)} = {end.format(total, count)}")

    return emit


def _extreme(sign: str, value):
    """The first smallest or largest number along a dimension and its index, or one of them; NaN is either."""

    def emit(code: Source, bound: Bound, *outs: Array) -> None:
        if "other" in bound:
            raise KernelError("the operation aten.max.other has no machine code; aten.maximum has.")
        if "dim" not in bound:
            value(code, bound, *outs)
            return
        x, dim = bound["self"], bound["dim"]
        if dim is None:
            x, dim = reshaped(code.copied(x), [-1]), 0
        x = code.read(x)
        kept, along = split(dim, len(x.shape))
        best, index, here = code.name("s"), code.name("k"), code.name("x")
        with code.loops([x.shape[d] for d in kept]) as outer:
            code.line(f"{best} = {x.address(merged(kept, outer, along, ['0'] * len(along)))}")
            code.line(f"{index} = 0")
            with code.loops([x.shape[d] for d in along]) as inner:
                code.line(f"{here} = {x.address(merged(kept, outer, along, inner))}")
                code.line(f"if {here} {sign} {best} or ({here} != {here} and {best} == {best}):")
                code.line(f"    {best} = {here}")
                code.line(f"    {index} = {inner[0] if inner else 0}")
            for out, name in zip(outs, [best, index][-len(outs) :]):
                code.line(f"{reshaped(out, [x.shape[d] for d in kept]).address(outer)} = {name}")

    return emit


def _cumulative(start: str, sign: str):
    def emit(code: Source, bound: Bound, out: Array) -> None:
        x = code.read(bound["self"])
        kept, along = split(bound["dim"], len(x.shape))
        total = code.name("s")
        with code.loops([x.shape[d] for d in kept]) as outer:
            code.line(f"{total} = {start if out.dtype == torch.float64 else start.replace('.0', '')}")
            with code.loops([x.shape[d] for d in along]) as inner:
                at = merged(kept, outer, along, inner)
                code.line(f"{total} = {total} {sign} {x.address(at)}")
                code.line(f"{out.address(at)} = {total}")

    return emit


def _flip(code: Source, bound: Bound, out: Array) -> None:
    x, dims = code.read(bound["self"]), [d % len(out.shape) for d in bound["dims"]]
    with code.loops(x.shape) as at:
        turned = [f"({x.shape[d] - 1} - {c})" if d in dims else c for d, c in enumerate(at)]
        code.line(f"{out.address(turned)} = {x.address(at)}")


def _sort(code: Source, bound: Bound, values: Array, indices: Array) -> None:
    """By insertion, which keeps the order of equals and is fast for the few numbers of a molecule; NaN is largest."""
    x = code.read(bound["self"])
    kept, along = split(bound["dim"], len(x.shape))
    here, other, place = code.name("x"), code.name("y"), code.name("k")
    before = f"{here} > {other} or ({here} != {here} and {other} == {other})"
    if not bound["descending"]:
        before = f"{here} < {other} or ({other} != {other} and {here} == {here})"

    def at(coordinate: str) -> list[str]:
        return merged(kept, outer, along, [coordinate] * len(along))

    with code.loops([x.shape[d] for d in kept]) as outer, code.loops([x.shape[d] for d in along]) as inner:
        row = inner[0] if inner else "0"
        code.line(f"{here} = {x.address(at(row))}")
        code.line(f"{place} = {row}")
        code.line(f"while {place} > 0:")
        # Places are multiplied in the source of an address, so they have to be plain names.
        code.line(f"    {place}_below = {place} - 1")
        code.line(f"    {other} = {values.address(at(place + '_below'))}")
        code.line(f"    if not ({before}):")
        code.line("        break")
        code.line(f"    {values.address(at(place))} = {other}")
        code.line(f"    {indices.address(at(place))} = {indices.address(at(place + '_below'))}")
        code.line(f"    {place} = {place}_below")
        code.line(f"{values.address(at(place))} = {here}")
        code.line(f"{indices.address(at(place))} = {row}")


def _cat(code: Source, bound: Bound, out: Array) -> None:
    start, dim = 0, bound["dim"] % len(out.shape)
    for x in bound["tensors"]:
        if len(x.shape) < len(out.shape):  # torch takes an empty vector as nothing, whatever the shape of the others
            continue
        part = out.mapped(lambda t, start=start, x=x: t.narrow(dim, start, x.shape[dim]))
        code.elementwise("{self}", {"self": x}, part)
        start += x.shape[dim]


def _stack(code: Source, bound: Bound, out: Array) -> None:
    for k, x in enumerate(bound["tensors"]):
        part = out.mapped(lambda t, k=k: t.select(bound["dim"], k))
        code.elementwise("{self}", {"self": x}, part)


def _placed(view):
    """Zeros, or other numbers, with a source in a part of them that `view` of the layout gives."""

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
EMITTERS = {
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
    "argmax": _extreme(">", _AMAX),
    "argmin": _extreme("<", _AMIN),
    "max": _extreme(">", _AMAX),
    "min": _extreme("<", _AMIN),
    "cumsum": _cumulative("0.0", "+"),
    "cumprod": _cumulative("1.0", "*"),
    "flip": _flip,
    "sort": _sort,
    "cat": _cat,
    "stack": _stack,
    "select_backward": _placed(lambda layout, bound: layout.select(bound["dim"], bound["index"])),
    "select_scatter": _placed(lambda layout, bound: layout.select(bound["dim"], bound["index"])),
    "slice_backward": _placed(_slice),
    "slice_scatter": _placed(_slice),
}
"""What to do for an operation, all its overloads, and those in place."""
