"""Loops for torch's operations with indices, for `emitters.py`.

An index is brought into range before anything is read or written with it, whatever number it is.
"""

from __future__ import annotations

import torch

from latf_sampling.cv.compiler.operations import Bound, KernelError
from latf_sampling.cv.compiler.source import Array, Source, merged, split


def _in_range(code: Source, place: str, x: Array, dim: int) -> str:
    """A variable with the index at a place, brought into the range of a dimension; negative ones count from its end."""
    length = str(x.shape[dim])
    if x.buffer.startswith("p") and len(x.shape) == 1 and not x.layout.storage_offset():
        # The length of an input, that of the table, is no part of the source: grids differ in it, and in nothing else.
        length = f"{x.buffer}.size"
    index = code.name("k")
    code.line(f"{index} = {place}")
    code.line(f"{index} = {index} + {length} if {index} < 0 else {index}")
    code.line(f"{index} = max(min({index}, {length} - 1), 0)")
    return index


def _gather(code: Source, bound: Bound, out: Array) -> None:
    x, index = code.read(bound["self"]), code.read(bound["index"])
    with code.loops(index.shape) as at:
        source = list(at)
        source[bound["dim"]] = _in_range(code, index.address(at), x, bound["dim"])
        code.line(f"{out.address(at)} = {x.address(source)}")


def _scatter(sign: str):
    def emit(code: Source, bound: Bound, out: Array) -> None:
        if bound.get("reduce") is not None:
            raise KernelError("the operation aten.scatter.reduce has no machine code.")
        base, index = bound["self"], code.read(bound["index"])
        if base is not out:
            code.elementwise("{self}", {"self": base}, out)
        source = code.read(bound["src"]) if "src" in bound else None
        with code.loops(index.shape) as at:
            target = list(at)
            target[bound["dim"]] = _in_range(code, index.address(at), out, bound["dim"])
            code.line(f"{out.address(target)} {sign} {bound['value'] if source is None else source.address(at)}")

    return emit


def _index_select(code: Source, bound: Bound, out: Array) -> None:
    x, index = code.read(bound["self"]), code.read(bound["index"])
    kept, along = split(bound["dim"], len(x.shape))
    with code.loops([out.shape[d] for d in along]) as inner:
        row = _in_range(code, index.address(inner), x, along[0])
        with code.loops([x.shape[d] for d in kept]) as outer:
            source = x.address(merged(kept, outer, along, [row]))
            code.line(f"{out.address(merged(kept, outer, along, inner))} = {source}")


def _index_add(code: Source, bound: Bound, out: Array) -> None:
    base, index, source = bound["self"], code.read(bound["index"]), code.read(bound["source"])
    if base is not out:
        code.elementwise("{self}", {"self": base}, out)
    kept, along = split(bound["dim"], len(out.shape))
    with code.loops([source.shape[d] for d in along]) as inner:
        row = _in_range(code, index.address(inner), out, along[0])
        with code.loops([out.shape[d] for d in kept]) as outer:
            target = out.address(merged(kept, outer, along, [row]))
            place = source.address(merged(kept, outer, along, inner))
            code.line(f"{target} = {target} + {place} * {bound['alpha']}")


def _advanced(code: Source, x: Array, indices: list[Array | None], other: Array):
    """Loops over what x[indices] gives, which `other` is broadcast to; yields source of both places."""
    indexed = [d for d, index in enumerate(indices) if index is not None]
    tensors = [code.read(indices[d]) for d in indexed]
    if any(t.dtype == torch.bool for t in tensors):
        raise KernelError("the operation aten.index has no machine code for masks.")
    common = torch.broadcast_shapes(*(t.shape for t in tensors))
    kept = [d for d in range(len(x.shape)) if d not in indexed]
    # The dimensions of the indices come where these are if they are neighbours, and first if not.
    neighbours = indexed == list(range(indexed[0], indexed[-1] + 1))
    first = indexed[0] if neighbours else 0
    sizes = [x.shape[d] for d in kept]
    sizes[first:first] = common
    other = other.mapped(lambda t: t.expand(sizes))
    with code.loops(sizes) as at:
        inner, outer = at[first : first + len(common)], at[:first] + at[first + len(common) :]
        places = [t.address(inner, t.layout.expand(common).stride()) for t in tensors]
        found = [_in_range(code, place, x, d) for place, d in zip(places, indexed)]
        yield x.address(merged(kept, outer, indexed, found)), other.address(at)


def _index(code: Source, bound: Bound, out: Array) -> None:
    for source, place in _advanced(code, code.read(bound["self"]), bound["indices"], out):
        code.line(f"{place} = {source}")


def _index_put(code: Source, bound: Bound, out: Array) -> None:
    if bound["self"] is not out:
        code.elementwise("{self}", {"self": bound["self"]}, out)
    for target, place in _advanced(code, out, bound["indices"], code.read(bound["values"])):
        code.line(f"{target} {'+=' if bound['accumulate'] else '='} {place}")


INDICES = {
    "gather": _gather,
    "scatter": _scatter("="),
    "scatter_add": _scatter("+="),
    "index_select": _index_select,
    "index_add": _index_add,
    "index": _index,
    "index_put": _index_put,
}
