"""Loops for torch's operations that are not elementwise, for `lowering.py`.

Each function takes the `Source`, the arguments by their names in the schema, and the arrays of the results. An index
is brought into range before anything is read or written with it, whatever number it is.
"""

from __future__ import annotations

import math

import torch

from latf_sampling.bias.operations import Bound, KernelError
from latf_sampling.bias.source import Array, Source, constant

_SPARSE = 4
"""A constant matrix of which at most one entry in so many is not zero is multiplied entry by entry."""


def _split(dim: int | list[int] | None, count: int) -> tuple[list[int], list[int]]:
    """Dimensions that stay, and those that an operation runs along: all of them if none are named."""
    dims = [dim] if isinstance(dim, int) else dim
    along = sorted({d % count for d in dims}) if dims and count else list(range(count))
    return [d for d in range(count) if d not in along], along


def _merged(kept: list[int], outer: list[str], along: list[int], inner: list[str]) -> list[str]:
    """Coordinates in the order of dimensions."""
    found = dict(zip(kept, outer)) | dict(zip(along, inner))
    return [found[d] for d in sorted(found)]


def _reshaped(x: Array, sizes: list[int]) -> Array:
    return x.mapped(lambda t: t.view(sizes))


def _reduction(start: str, step: str, end: str = "{0}"):
    """Take the numbers {1} along some dimensions one by one; at the end {1} is their count."""

    def emit(code: Source, bound: Bound, out: Array) -> None:
        if bound.get("ord", 2) != 2:
            raise KernelError("the operation aten.linalg_vector_norm has machine code for the norm of order 2 alone.")
        x = code.read(bound["self"])
        kept, along = _split(bound.get("dim"), len(x.shape))
        out = _reshaped(out, [x.shape[d] for d in kept])
        total, count = code.name("s"), math.prod(x.shape[d] for d in along)
        with code.loops([x.shape[d] for d in kept]) as outer:
            code.line(f"{total} = {start if out.dtype == torch.float64 else start.replace('.0', '')}")
            with code.loops([x.shape[d] for d in along]) as inner:
                code.line(f"{total} = {step.format(total, x.address(_merged(kept, outer, along, inner)))}")
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
            x, dim = _reshaped(code.copied(x), [-1]), 0
        x = code.read(x)
        kept, along = _split(dim, len(x.shape))
        best, index, here = code.name("s"), code.name("k"), code.name("x")
        with code.loops([x.shape[d] for d in kept]) as outer:
            code.line(f"{best} = {x.address(_merged(kept, outer, along, ['0'] * len(along)))}")
            code.line(f"{index} = 0")
            with code.loops([x.shape[d] for d in along]) as inner:
                code.line(f"{here} = {x.address(_merged(kept, outer, along, inner))}")
                code.line(f"if {here} {sign} {best} or ({here} != {here} and {best} == {best}):")
                code.line(f"    {best} = {here}")
                code.line(f"    {index} = {inner[0] if inner else 0}")
            for out, name in zip(outs, [best, index][-len(outs) :]):
                code.line(f"{_reshaped(out, [x.shape[d] for d in kept]).address(outer)} = {name}")

    return emit


def _cumulative(start: str, sign: str):
    def emit(code: Source, bound: Bound, out: Array) -> None:
        x = code.read(bound["self"])
        kept, along = _split(bound["dim"], len(x.shape))
        total = code.name("s")
        with code.loops([x.shape[d] for d in kept]) as outer:
            code.line(f"{total} = {start if out.dtype == torch.float64 else start.replace('.0', '')}")
            with code.loops([x.shape[d] for d in along]) as inner:
                at = _merged(kept, outer, along, inner)
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
    kept, along = _split(bound["dim"], len(x.shape))
    here, other, place = code.name("x"), code.name("y"), code.name("k")
    before = f"{here} > {other} or ({here} != {here} and {other} == {other})"
    if not bound["descending"]:
        before = f"{here} < {other} or ({other} != {other} and {here} == {here})"

    def at(coordinate: str) -> list[str]:
        return _merged(kept, outer, along, [coordinate] * len(along))

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


# ------------------------------------------------------------------------------------------------------------ indices


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
    kept, along = _split(bound["dim"], len(x.shape))
    with code.loops([out.shape[d] for d in along]) as inner:
        row = _in_range(code, index.address(inner), x, along[0])
        with code.loops([x.shape[d] for d in kept]) as outer:
            source = x.address(_merged(kept, outer, along, [row]))
            code.line(f"{out.address(_merged(kept, outer, along, inner))} = {source}")


def _index_add(code: Source, bound: Bound, out: Array) -> None:
    base, index, source = bound["self"], code.read(bound["index"]), code.read(bound["source"])
    if base is not out:
        code.elementwise("{self}", {"self": base}, out)
    kept, along = _split(bound["dim"], len(out.shape))
    with code.loops([source.shape[d] for d in along]) as inner:
        row = _in_range(code, index.address(inner), out, along[0])
        with code.loops([out.shape[d] for d in kept]) as outer:
            target = out.address(_merged(kept, outer, along, [row]))
            place = source.address(_merged(kept, outer, along, inner))
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
        yield x.address(_merged(kept, outer, indexed, found)), other.address(at)


def _index(code: Source, bound: Bound, out: Array) -> None:
    for source, place in _advanced(code, code.read(bound["self"]), bound["indices"], out):
        code.line(f"{place} = {source}")


def _index_put(code: Source, bound: Bound, out: Array) -> None:
    if bound["self"] is not out:
        code.elementwise("{self}", {"self": bound["self"]}, out)
    for target, place in _advanced(code, out, bound["indices"], code.read(bound["values"])):
        code.line(f"{target} {'+=' if bound['accumulate'] else '='} {place}")


# ----------------------------------------------------------------------------------------------------- linear algebra


def _cross(code: Source, bound: Bound, out: Array) -> None:
    a, b = (code.read(bound[name]) for name in ("self", "other"))
    a, b = (x.mapped(lambda t: t.expand(out.shape)) for x in (a, b))
    kept, along = _split(bound["dim"], len(out.shape))
    with code.loops([out.shape[d] for d in kept]) as outer:
        for k in range(3):
            (i, j), at = ((k + 1) % 3, (k + 2) % 3), [_merged(kept, outer, along, [str(d)]) for d in range(3)]
            value = f"{a.address(at[i])} * {b.address(at[j])} - {a.address(at[j])} * {b.address(at[i])}"
            code.line(f"{out.address(at[k])} = {value}")


def _product(first: str, second: str):
    """Matrix products of all kinds, as (..., m, k) times (..., k, n), plus an optional bias."""

    def emit(code: Source, bound: Bound, out: Array) -> None:
        a, b, bias = bound[first], bound[second], bound["self"] if first != "self" else None
        if len(b.shape) == 1:
            b, out = (x.mapped(lambda t: t.unsqueeze(-1)) for x in (b, out))
            bias = bias and bias.mapped(lambda t: t.unsqueeze(-1))
        if len(a.shape) == 1:  # the dot product, whose result is a vector by now
            a, out = (x.mapped(lambda t: t.unsqueeze(0)) for x in (a, out))
        if bias is not None:
            bias = code.read(bias).mapped(lambda t: t.expand(out.shape))

        def write(at: list[str], total: str) -> None:
            text = total
            if bias is not None:
                factors = ["" if bound[name] == 1 else f"{bound[name]} * " for name in ("beta", "alpha")]
                text = f"{factors[0]}{bias.address(at)} + {factors[1]}{total}"
            code.line(f"{out.address(at)} = {text}")

        if _is_sparse(a):
            _sparse(code, a.value, b, write)
        elif _is_sparse(b):
            _sparse(code, b.value.t(), a.mapped(lambda t: t.t()), lambda at, total: write(at[::-1], total))
        else:
            _dense(code, a, b, out.shape, write)

    return emit


def _dense(code: Source, a: Array, b: Array, shape: tuple[int, ...], write) -> None:
    def swapped(t: torch.Tensor) -> torch.Tensor:
        return t.transpose(-1, -2)

    # Of a constant, numbers that are multiplied one after the other are laid next to each other.
    b = code.read(b) if b.value is None else code.read(b.mapped(swapped)).mapped(swapped)
    a = code.read(a)
    total = code.name("s")
    with code.loops(shape) as at:
        code.line(f"{total} = 0.0")
        with code.loops([a.shape[-1]]) as (k,):
            code.line(f"{total} += {a.address([*at[:-1], k])} * {b.address([*at[:-2], k, at[-1]])}")
        write(at, total)


def _is_sparse(x: Array) -> bool:
    return x.value is not None and len(x.shape) == 2 and _SPARSE * int((x.value != 0).sum()) <= x.value.numel()


def _sparse(code: Source, matrix: torch.Tensor, dense: Array, write) -> None:
    """A constant matrix, of which only what is not zero is kept, row by row, times an array (k, n)."""
    rows, columns = matrix.nonzero(as_tuple=True)
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(rows, minlength=len(matrix)).cumsum(0)])
    values, columns, ends = (code.read(constant(t)) for t in (matrix[rows, columns], columns, ends))
    dense, n = code.read(dense), dense.shape[1]
    few = n <= 4  # the three components of positions go together
    entry, column = code.name("e"), code.name("k")
    with code.loops([len(matrix)] if few else [len(matrix), n]) as (i, *j):
        totals = {str(k): code.name("s") for k in range(n)} if few else {j[0]: code.name("s")}
        for total in totals.values():
            code.line(f"{total} = 0.0")
        code.line(f"for {entry} in range({ends.address([i])}, {ends.address([f'{i} + 1'])}):")
        code.line(f"    {column} = {columns.address([entry])}")
        for k, total in totals.items():
            code.line(f"    {total} += {values.address([entry])} * {dense.address([column, k])}")
        for k, total in totals.items():
            write([i, k], total)


_AMAX = _reduction("-np.inf", "np.maximum({0}, {1})")
_AMIN = _reduction("np.inf", "np.minimum({0}, {1})")
EMITTERS = {
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
    "gather": _gather,
    "scatter": _scatter("="),
    "scatter_add": _scatter("+="),
    "index_select": _index_select,
    "index_add": _index_add,
    "index": _index,
    "index_put": _index_put,
    "linalg_cross": _cross,
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "addmv": _product("mat", "vec"),
    "addmm": _product("mat1", "mat2"),
    "baddbmm": _product("batch1", "batch2"),
}
"""What to do for an operation, all its overloads, and those in place."""
