"""Loops for torch's operations with indices, for `emitters.py`.

Every index is clamped to the range of its dimension before anything is read or written with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from latf_sampling.cv.compiler.kernel import KernelError
from latf_sampling.cv.compiler.operations import Bound
from latf_sampling.cv.compiler.source import Array, Source, merge, split_dimensions


def _clamped(code: Source, place: str, x: Array, dim: int) -> str:
    """Name of a variable with the index at `place`, clamped to a dimension; negative ones count from its end."""
    length = str(x.shape[dim])
    if x.buffer.startswith("p") and len(x.shape) == 1 and not x.layout.storage_offset():
        # The length of an input, which is that of the table, stays out of the source: grids differ in nothing else.
        length = f"{x.buffer}.size"
    index = code.name("k")
    code.line(f"{index} = {place}")
    code.line(f"{index} = {index} + {length} if {index} < 0 else {index}")
    code.line(f"{index} = max(min({index}, {length} - 1), 0)")
    return index


def _gather(code: Source, bound: Bound, out: Array) -> None:
    x, index = code.readable(bound["self"]), code.readable(bound["index"])
    with code.loops(index.shape) as at:
        source = list(at)
        source[bound["dim"]] = _clamped(code, index.address(at), x, bound["dim"])
        code.line(f"{out.address(at)} = {x.address(source)}")


def _scatter(sign: str) -> Callable[[Source, Bound, Array], None]:
    def emit(code: Source, bound: Bound, out: Array) -> None:
        if bound.get("reduce") is not None:
            raise KernelError("the operation aten.scatter.reduce has no machine code.")
        base, index = bound["self"], code.readable(bound["index"])
        if base is not out:
            code.elementwise("{self}", {"self": base}, out)
        source = code.readable(bound["src"]) if "src" in bound else None
        with code.loops(index.shape) as at:
            target = list(at)
            target[bound["dim"]] = _clamped(code, index.address(at), out, bound["dim"])
            code.line(f"{out.address(target)} {sign} {bound['value'] if source is None else source.address(at)}")

    return emit


def _index_select(code: Source, bound: Bound, out: Array) -> None:
    x, index = code.readable(bound["self"]), code.readable(bound["index"])
    outer_dims, inner_dims = split_dimensions(bound["dim"], len(x.shape))
    with code.loops([out.shape[d] for d in inner_dims]) as inner:
        row = _clamped(code, index.address(inner), x, inner_dims[0])
        with code.loops([x.shape[d] for d in outer_dims]) as outer:
            source = x.address(merge(outer_dims, outer, inner_dims, [row]))
            code.line(f"{out.address(merge(outer_dims, outer, inner_dims, inner))} = {source}")


def _index_add(code: Source, bound: Bound, out: Array) -> None:
    base, index, source = bound["self"], code.readable(bound["index"]), code.readable(bound["source"])
    if base is not out:
        code.elementwise("{self}", {"self": base}, out)
    outer_dims, inner_dims = split_dimensions(bound["dim"], len(out.shape))
    with code.loops([source.shape[d] for d in inner_dims]) as inner:
        row = _clamped(code, index.address(inner), out, inner_dims[0])
        with code.loops([out.shape[d] for d in outer_dims]) as outer:
            target = out.address(merge(outer_dims, outer, inner_dims, [row]))
            summand = source.address(merge(outer_dims, outer, inner_dims, inner))
            code.line(f"{target} = {target} + {summand} * {bound['alpha']}")


@contextmanager
def _advanced_indexing(code: Source, x: Array, indices: list[Array | None], other: Array) -> Iterator[tuple[str, str]]:
    """Loops over the elements of x[indices], to which `other` is broadcast; yields their addresses in both."""
    by_dimension = {d: code.readable(index) for d, index in enumerate(indices) if index is not None}
    indexed, tensors = list(by_dimension), list(by_dimension.values())
    if any(t.dtype == torch.bool for t in tensors):
        raise KernelError("the operation aten.index has no machine code for masks.")
    common = torch.broadcast_shapes(*(t.shape for t in tensors))
    outer_dims = [d for d in range(len(x.shape)) if d not in indexed]
    # The dimensions of the indices stand where the indices are if these are neighbors, and first if not.
    are_neighbors = indexed == list(range(indexed[0], indexed[-1] + 1))
    first = indexed[0] if are_neighbors else 0
    sizes = [x.shape[d] for d in outer_dims]
    sizes[first:first] = common
    other = other.mapped(lambda t: t.expand(sizes))
    with code.loops(sizes) as at:
        inner, outer = at[first : first + len(common)], at[:first] + at[first + len(common) :]
        places = [t.address(inner, t.layout.expand(common).stride()) for t in tensors]
        rows = [_clamped(code, place, x, d) for place, d in zip(places, indexed)]
        yield x.address(merge(outer_dims, outer, indexed, rows)), other.address(at)


def _index(code: Source, bound: Bound, out: Array) -> None:
    with _advanced_indexing(code, code.readable(bound["self"]), bound["indices"], out) as (source, target):
        code.line(f"{target} = {source}")


def _index_put(code: Source, bound: Bound, out: Array) -> None:
    if bound["self"] is not out:
        code.elementwise("{self}", {"self": bound["self"]}, out)
    with _advanced_indexing(code, out, bound["indices"], code.readable(bound["values"])) as (target, source):
        code.line(f"{target} {'+=' if bound['accumulate'] else '='} {source}")


INDICES = {
    "gather": _gather,
    "scatter": _scatter("="),
    "scatter_add": _scatter("+="),
    "index_select": _index_select,
    "index_add": _index_add,
    "index": _index,
    "index_put": _index_put,
}
