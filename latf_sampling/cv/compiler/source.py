"""Source of a function for numba, line by line: arrays in two workspaces, loops, and merged elementwise operations.

Every tensor is a strided view of a flat array: of an input, of a result, or of one of two workspaces, `w` for floats
and `v` for integers and booleans, in which constants and intermediate results have fixed places. Since most loops stay
within one array at known places, the compiler can tell which of them to vectorize.

Consecutive elementwise operations on one shape become one loop. Of their results only those are stored that something
outside the loop reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, fx

from latf_sampling.cv.compiler.kernel import KernelError

WORKSPACE = {torch.float64: "w", torch.int64: "v", torch.bool: "v"}


@dataclass(frozen=True, eq=False)
class Array:
    """Where the numbers of a tensor are: `layout`, a meta tensor, has its shape and its strides, from `start` on."""

    layout: Tensor
    buffer: str = ""
    start: int = 0
    value: Tensor | None = None  # of a constant, which has a place only once it is read at run time

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layout.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.layout.dtype

    def mapped(self, view: Callable[[Tensor], Tensor]) -> Array:
        """Another view of the same numbers."""
        if self.value is None:
            return replace(self, layout=view(self.layout))
        return constant(view(self.value).contiguous())

    def address(self, coordinates: list[str], strides: tuple[int, ...] | None = None) -> str:
        """Source of one element, at coordinates that are source too."""
        strides = self.layout.stride() if strides is None else strides
        terms = [f"{c} * {s}" if s > 1 else c for c, s in zip(coordinates, strides) if s and c != "0"]
        place = self.start + self.layout.storage_offset()
        return f"{self.buffer}[{' + '.join([str(place)] * (place > 0 or not terms) + terms)}]"

    def key(self) -> tuple:
        """Equal for the same numbers in the same order."""
        return self.buffer, self.start, self.shape, self.layout.stride(), self.layout.storage_offset()


def constant(value: Tensor) -> Array:
    """An array with known numbers, C-contiguous."""
    return Array(meta(value.shape, value.dtype), value=value)


def meta(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """A C-contiguous layout."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def split_dimensions(dim: int | list[int] | None, count: int) -> tuple[list[int], list[int]]:
    """Outer dimensions, which stay, and inner ones, along which an operation runs: all of them if `dim` names none."""
    dims = [dim] if isinstance(dim, int) else dim
    inner_dims = sorted({d % count for d in dims}) if dims and count else list(range(count))
    return [d for d in range(count) if d not in inner_dims], inner_dims


def merge(outer_dims: list[int], outer: list[str], inner_dims: list[int], inner: list[str]) -> list[str]:
    """Coordinates in the order of the dimensions."""
    coordinates = dict(zip(outer_dims, outer)) | dict(zip(inner_dims, inner))
    return [coordinates[d] for d in sorted(coordinates)]


def reshape(x: Array, sizes: list[int]) -> Array:
    """A view of another shape."""
    return x.mapped(lambda t: t.view(sizes))


@dataclass
class _Loop:
    """Elementwise operations on one shape that are not written yet; loads and results by the arrays' keys."""

    shape: tuple[int, ...]
    loads: dict[tuple, tuple[str, Array]] = field(default_factory=dict)
    body: list[str] = field(default_factory=list)
    results: dict[tuple, tuple[str, Array, fx.Node | None]] = field(default_factory=dict)

    def accepts(self, shape: tuple[int, ...], operands: Iterable[Array | float]) -> bool:
        """Whether this is the loop's shape, and the loop computes no operand of which another view is read."""
        written = {(out.buffer, out.start) for _, out, _ in self.results.values()}
        return self.shape == shape and not any(
            (x.buffer, x.start) in written and x.key() not in self.results for x in operands if isinstance(x, Array)
        )


class Source:
    """The body of a function, to which lines are added.

    Attributes
    ----------
    lines : list of str
        The lines so far; `flush` completes them.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 1
        self._names = 0
        self._sizes = {"w": 0, "v": 0}
        # Constants by the identity of their value, which stays alive here.
        self._constants: dict[int, tuple[Array, Tensor]] = {}
        self._loop: _Loop | None = None

    def name(self, letter: str) -> str:
        """A new name of a variable."""
        self._names += 1
        return f"{letter}{self._names}"

    def line(self, text: str) -> None:
        """Add a line inside the open loops."""
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def loops(self, sizes: Iterable[int]) -> Iterator[list[str]]:
        """Nested loops around the lines that follow; yields the coordinates."""
        self.flush()
        depth, names = self._depth, []
        for size in sizes:
            names.append(self.name("i") if size != 1 else "0")
            if size != 1:
                self.line(f"for {names[-1]} in range({size}):")
                self._depth += 1
        yield names
        self._depth = depth

    def allocate(self, shape: Iterable[int], dtype: torch.dtype) -> Array:
        """A new array, C-contiguous, in one of the workspaces.

        Raises
        ------
        KernelError
            Its numbers are of another type than float64, int64 and bool.
        """
        if dtype not in WORKSPACE:
            raise KernelError(f"numbers of type {dtype} have no machine code here, only float64, int64 and bool.")
        layout, buffer = meta(shape, dtype), WORKSPACE[dtype]
        self._sizes[buffer] += layout.numel()
        return Array(layout, buffer, self._sizes[buffer] - layout.numel())

    def allocated(self, array: Array) -> Array:
        """The array with a place in a workspace; a constant gets one the first time."""
        if array.value is None:
            return array
        if id(array.value) not in self._constants:
            self._constants[id(array.value)] = self.allocate(array.shape, array.dtype), array.value
        return self._constants[id(array.value)][0]

    def readable(self, array: Array) -> Array:
        """The allocated array, after the pending loop is written, so that the lines that follow can read it."""
        self.flush()
        return self.allocated(array)

    def copy(self, array: Array) -> Array:
        """A C-contiguous copy."""
        out = self.allocate(array.shape, array.dtype)
        self.elementwise("{self}", {"self": array}, out)
        return out

    def elementwise(
        self, text: str, operands: Mapping[str, Array | float], out: Array, node: fx.Node | None = None
    ) -> None:
        """Write an expression of operands, arrays or numbers, broadcast to the shape of `out`, to it.

        If it is the result of a node, it is stored only where something outside the loop reads it.
        """
        operands = {name: self.allocated(x) if isinstance(x, Array) else x for name, x in operands.items()}
        loop = self._loop
        if loop is None or not loop.accepts(out.shape, operands.values()):
            self.flush()
            loop = self._loop = _Loop(out.shape)
        names = {}
        for name, operand in operands.items():
            if not isinstance(operand, Array):
                names[name] = _literal(operand)
            elif operand.key() in loop.results:
                names[name] = loop.results[operand.key()][0]
            else:
                operand = operand.mapped(lambda t: t.expand(out.shape))
                names[name] = loop.loads.setdefault(operand.key(), (self.name("x"), operand))[0]
        result = self.name("t")
        loop.body.append(f"{result} = {text.format(**names)}")
        loop.results[out.key()] = (result, out, node)

    def flush(self) -> None:
        """Write the pending loop."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        members = {node for _, _, node in loop.results.values()}
        stores = [(name, out) for name, out, node in loop.results.values() if not node or set(node.users) - members]
        arrays = [array for _, array in loop.loads.values()] + [out for _, out in stores]
        sizes, strides = _merge_dimensions(loop.shape, [array.layout.stride() for array in arrays])
        with self.loops(sizes) as at:
            addresses = [array.address(at, stride) for array, stride in zip(arrays, strides)]
            for (name, _), address in zip(loop.loads.values(), addresses):
                self.line(f"{name} = {address}")
            for text in loop.body:
                self.line(text)
            for (name, _), address in zip(stores, addresses[len(loop.loads) :]):
                self.line(f"{address} = {name}")

    def workspaces(self) -> tuple[np.ndarray, np.ndarray]:
        """`w` and `v`, with the constants in their places."""
        workspaces = {"w": np.zeros(self._sizes["w"]), "v": np.zeros(self._sizes["v"], dtype=np.int64)}
        for array, value in self._constants.values():
            workspaces[array.buffer][array.start :][: value.numel()] = value.reshape(-1).numpy()
        return workspaces["w"], workspaces["v"]


def _literal(number: float) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return f"({'-' if number < 0 else ''}np.{abs(number)})"
    return f"({number!r})" if number < 0 else repr(number)


def _merge_dimensions(
    shape: tuple[int, ...], strides: list[tuple[int, ...]]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Merge neighboring dimensions that all arrays step through evenly: fewer loops."""
    sizes: list[int] = []
    steps: list[tuple[int, ...]] = []  # of each remaining dimension, one for each array
    for size, step in zip(shape, zip(*strides) if strides else [()] * len(shape)):
        if size == 1:
            continue
        if sizes and all(outer == size * inner for outer, inner in zip(steps[-1], step)):
            sizes[-1], steps[-1] = sizes[-1] * size, step
        else:
            sizes.append(size)
            steps.append(step)
    return sizes, [tuple(step[k] for step in steps) for k in range(len(strides))]
