"""Loops for torch's products of vectors and matrices, for `emitters.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from latf_sampling.cv.compiler.kernel import KernelError
from latf_sampling.cv.compiler.operations import Bound
from latf_sampling.cv.compiler.source import Array, Source, constant, merge, split_dimensions

_SWEEPS = 30
"""Upper bound of the sweeps of Jacobi's method, each of which doubles the number of correct digits."""
_SPARSE = 4
"""A constant matrix counts as sparse if at most one in this many of its entries is not zero."""

Write = Callable[[list[str], str], None]
"""Function of (coordinates, name of a variable) that writes one element of a product."""


def _cross(code: Source, bound: Bound, out: Array) -> None:
    a, b = (code.readable(bound[name]) for name in ("self", "other"))
    a, b = (x.mapped(lambda t: t.expand(out.shape)) for x in (a, b))
    outer_dims, inner_dims = split_dimensions(bound["dim"], len(out.shape))
    with code.loops([out.shape[d] for d in outer_dims]) as outer:
        for k in range(3):
            (i, j), at = ((k + 1) % 3, (k + 2) % 3), [merge(outer_dims, outer, inner_dims, [str(d)]) for d in range(3)]
            value = f"{a.address(at[i])} * {b.address(at[j])} - {a.address(at[j])} * {b.address(at[i])}"
            code.line(f"{out.address(at[k])} = {value}")


def _product(first: str, second: str) -> Callable[[Source, Bound, Array], None]:
    """Matrix products of all kinds, as (..., m, k) times (..., k, n), plus an optional bias."""

    def emit(code: Source, bound: Bound, out: Array) -> None:
        a, b, bias = bound[first], bound[second], bound["self"] if first != "self" else None
        if len(b.shape) == 1:
            b, out = (x.mapped(lambda t: t.unsqueeze(-1)) for x in (b, out))
            bias = bias and bias.mapped(lambda t: t.unsqueeze(-1))
        if len(a.shape) == 1:  # the dot product, whose result is a vector by now
            a, out = (x.mapped(lambda t: t.unsqueeze(0)) for x in (a, out))
        if bias is not None:
            bias = code.readable(bias).mapped(lambda t: t.expand(out.shape))

        def write(at: list[str], total: str) -> None:
            text = total
            if bias is not None:
                factors = ["" if bound[name] == 1 else f"{bound[name]} * " for name in ("beta", "alpha")]
                text = f"{factors[0]}{bias.address(at)} + {factors[1]}{total}"
            code.line(f"{out.address(at)} = {text}")

        if (matrix := _sparse_matrix(a)) is not None:
            _sparse(code, matrix, b, write)
        elif (matrix := _sparse_matrix(b)) is not None:
            _sparse(code, matrix.t(), a.mapped(lambda t: t.t()), lambda at, total: write(at[::-1], total))
        else:
            _dense(code, a, b, out.shape, write)

    return emit


def _dense(code: Source, a: Array, b: Array, shape: tuple[int, ...], write: Write) -> None:
    def swapped(t: torch.Tensor) -> torch.Tensor:
        return t.transpose(-1, -2)

    # A constant is stored such that numbers multiplied one after the other are next to each other.
    b = code.readable(b) if b.value is None else code.readable(b.mapped(swapped)).mapped(swapped)
    a = code.readable(a)
    total = code.name("s")
    with code.loops(shape) as at:
        code.line(f"{total} = 0.0")
        with code.loops([a.shape[-1]]) as (k,):
            code.line(f"{total} += {a.address([*at[:-1], k])} * {b.address([*at[:-2], k, at[-1]])}")
        write(at, total)


def _sparse_matrix(x: Array) -> torch.Tensor | None:
    """The value of a constant that is a sparse matrix, `None` for everything else."""
    if x.value is None or len(x.shape) != 2 or _SPARSE * int((x.value != 0).sum()) > x.value.numel():
        return None
    return x.value


def _sparse(code: Source, matrix: torch.Tensor, dense: Array, write: Write) -> None:
    """A constant matrix, stored row by row without its zeros, times an array (k, n)."""
    rows, columns = matrix.nonzero(as_tuple=True)
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(rows, minlength=len(matrix)).cumsum(0)])
    values, columns, ends = (code.readable(constant(t)) for t in (matrix[rows, columns], columns, ends))
    dense, n = code.readable(dense), dense.shape[1]
    few = n <= 4  # the three components of positions are summed in one loop
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


def _eigh(code: Source, bound: Bound, values: Array, vectors: Array) -> None:
    """Ascending eigenvalues and eigenvectors of small symmetric matrices by Jacobi's method.

    The signs of eigenvectors may differ from torch's.
    """
    if not bound["compute_v"]:
        raise KernelError("the operation aten._linalg_eigh has machine code with eigenvectors alone.")
    a = code.readable(code.copy(bound["A"]))
    n = a.shape[-1]
    off, size, t, c, s, x, y, least = (code.name(letter) for letter in "sstcsxyk")
    with code.loops(a.shape[:-2]) as at:

        def entry(array: Array, i: str, j: str) -> str:
            return array.address([*at, i, j])

        def rotate(array: Array, one: tuple[str, str], other: tuple[str, str]) -> None:
            code.line(f"{x}, {y} = {entry(array, *one)}, {entry(array, *other)}")
            code.line(f"{entry(array, *one)} = {c} * {x} - {s} * {y}")
            code.line(f"{entry(array, *other)} = {s} * {x} + {c} * {y}")

        with code.loops([n, n]) as (i, j):
            code.line(f"{entry(vectors, i, j)} = 1.0 if {i} == {j} else 0.0")
        with code.loops([_SWEEPS]):
            code.line(f"{off} = {size} = 0.0")
            with code.loops([n, n]) as (i, j):
                code.line(f"{size} += {entry(a, i, j)} * {entry(a, i, j)}")
                code.line(f"{off} += 0.0 if {i} == {j} else {entry(a, i, j)} * {entry(a, i, j)}")
            code.line(f"if not {off} > 1e-34 * {size}:")
            code.line("    break")
            with code.loops([n, n]) as (p, q):
                code.line(f"if {p} >= {q} or {entry(a, p, q)} == 0.0:")
                code.line("    continue")
                code.line(f"{t} = 0.5 * ({entry(a, q, q)} - {entry(a, p, p)}) / {entry(a, p, q)}")
                code.line(f"{t} = (1.0 if {t} >= 0.0 else -1.0) / (abs({t}) + math.sqrt({t} * {t} + 1.0))")
                code.line(f"{c} = 1.0 / math.sqrt({t} * {t} + 1.0)")
                code.line(f"{s} = {t} * {c}")
                with code.loops([n]) as (k,):
                    rotate(a, (k, p), (k, q))
                with code.loops([n]) as (k,):
                    rotate(a, (p, k), (q, k))
                    rotate(vectors, (k, p), (k, q))
        with code.loops([n]) as (i,):
            code.line(f"{values.address([*at, i])} = {entry(a, i, i)}")
        with code.loops([n]) as (i,):
            code.line(f"{least} = {i}")
            with code.loops([n]) as (j,):
                code.line(f"if {j} > {i} and {values.address([*at, j])} < {values.address([*at, least])}:")
                code.line(f"    {least} = {j}")
            one, other = values.address([*at, i]), values.address([*at, least])
            code.line(f"{one}, {other} = {other}, {one}")
            with code.loops([n]) as (k,):
                one, other = entry(vectors, k, i), entry(vectors, k, least)
                code.line(f"{one}, {other} = {other}, {one}")


PRODUCTS = {
    "_linalg_eigh": _eigh,
    "linalg_cross": _cross,
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "addmv": _product("mat", "vec"),
    "addmm": _product("mat1", "mat2"),
    "baddbmm": _product("batch1", "batch2"),
}
