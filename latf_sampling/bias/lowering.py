"""From a traced graph of torch operations to the source of one function that numba compiles.

Every tensor is a strided view of a flat array: of an input, or of one of two workspaces, `w` for floats and `v` for
integers and truth values, in which constants and intermediate results have fixed places. Since most loops stay within
one array at known places, the compiler sees by itself what can be vectorised. Shapes come from running each operation
on meta tensors, which have a layout but no numbers; so does what a view is: a result that shares the storage of an
argument costs no code. Operations on constants alone are done here, by torch.

Consecutive elementwise operations on one shape become one loop, and of their results only those are written that
something else reads. What each operation does stands in `operations.py` and `emitters.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from latf_sampling.bias.emitters import EMITTERS
from latf_sampling.bias.operations import ELEMENTWISE, FILLED, HANDLED, KernelError

_WORKSPACE = {torch.float64: "w", torch.int64: "v", torch.bool: "v"}


@dataclass(frozen=True, eq=False)
class Array:
    """Where the numbers of a tensor are: `layout`, a meta tensor, tells shape and strides behind place `start`."""

    layout: Tensor
    buffer: str = ""
    start: int = 0
    value: Tensor | None = None  # of a constant, which has a place only once it is read at run time

    def view(self, *sizes: int) -> Array:
        """The same numbers as another shape."""
        return self.mapped(lambda t: t.view(sizes))

    def mapped(self, view: Callable[[Tensor], Tensor]) -> Array:
        """Another view of the same numbers."""
        layout = view(self.layout)
        if self.value is None:
            return replace(self, layout=layout)
        return Array(_meta(layout.shape, layout.dtype), value=view(self.value).contiguous())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.layout.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.layout.dtype

    def address(self, coordinates: list[str], strides: tuple[int, ...] | None = None) -> str:
        """Source of one element, at coordinates that are source too."""
        strides = self.layout.stride() if strides is None else strides
        terms = [f"{c} * {s}" if s > 1 else c for c, s in zip(coordinates, strides) if s and c != "0"]
        place = self.start + self.layout.storage_offset()
        return f"{self.buffer}[{' + '.join([str(place)] * (place > 0 or not terms) + terms)}]"

    def key(self) -> tuple:
        return self.buffer, self.start, self.shape, self.layout.stride(), self.layout.storage_offset()


@dataclass
class Program:
    """Source of the function `kernel(*inputs, w, v)`, and the workspaces with the constants in their places."""

    source: str
    floats: np.ndarray
    integers: np.ndarray


@dataclass
class _Loop:
    """Elementwise operations on one shape that are not written out yet."""

    shape: tuple[int, ...]
    loads: dict[tuple, tuple[str, Array]] = field(default_factory=dict)
    body: list[str] = field(default_factory=list)
    results: dict[tuple, tuple[str, Array, fx.Node | None]] = field(default_factory=dict)


class Lowering:
    """Builds the source of one graph; `emitters.py` calls its public methods."""

    def __init__(self, graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
        self.graph, self.example = graph, example
        self.values: dict[fx.Node, Any] = {}
        self._lines: list[str] = []
        self._depth = 1
        self._names = 0
        self._sizes = {"w": 0, "v": 0}
        self._placed: dict[int, Array] = {}
        self._own: set[fx.Node] = set()  # nodes whose result has a place of its own
        self._loop: _Loop | None = None
        self._changed = self._changed_in_place()

    def program(self) -> Program:
        """Go through the graph."""
        inputs = iter(range(len(self.example)))
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                k = next(inputs)
                self.values[node] = Array(_meta(self.example[k].shape, self.example[k].dtype), f"p{k}")
            elif node.op == "get_attr":
                self.values[node] = self._attribute(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                return self._finish(node)
            else:
                raise KernelError(f"the graph has a node of kind {node.op}, which has no machine code.")
        raise KernelError("the graph has no output.")

    # For operations.

    def name(self, letter: str) -> str:
        """A variable that nothing else uses."""
        self._names += 1
        return f"{letter}{self._names}"

    def line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def loops(self, sizes: tuple[int, ...] | list[int]) -> Iterator[list[str]]:
        """Nested loops around the lines that follow; gives the coordinates."""
        self.flush()
        depth, names = self._depth, []
        for size in sizes:
            names.append(self.name("i") if size != 1 else "0")
            if size != 1:
                self.line(f"for {names[-1]} in range({size}):")
                self._depth += 1
        start = len(self._lines)
        yield names
        if len(self._lines) == start:
            self.line("pass")
        self._depth = depth

    def fresh(self, shape, dtype: torch.dtype) -> Array:
        """A new array, C-contiguous, in one of the workspaces."""
        if dtype not in _WORKSPACE:
            raise KernelError(f"numbers of type {dtype} have no machine code here, only float64, int64 and bool.")
        buffer, layout = _WORKSPACE[dtype], _meta(shape, dtype)
        array = Array(layout, buffer, self._sizes[buffer])
        self._sizes[buffer] += layout.numel()
        return array

    def constant(self, value: Tensor) -> Array:
        return Array(_meta(value.shape, value.dtype), value=value)

    def read(self, array: Array) -> Array:
        """The array with a place to read from, which a constant gets here; all that is pending is written."""
        self.flush()
        return self._place(array)

    def copied(self, array: Array) -> Array:
        """A C-contiguous copy of an array."""
        out = self.fresh(array.shape, array.dtype)
        self.elementwise("{self}", {"self": array}, out)
        return out

    def elementwise(self, text: str, operands: dict[str, Any], out: Array, node: fx.Node | None = None) -> None:
        """Write an expression of operands, broadcast to the shape of `out`, to it; a node's only if it is read."""
        loop, names = self._loop, {}
        placed = {name: self._place(x) if isinstance(x, Array) else x for name, x in operands.items()}
        if loop is None or loop.shape != out.shape or any(
            isinstance(x, Array) and x.key() not in loop.results and self._pending(x) for x in placed.values()
        ):
            self.flush()
            loop = self._loop = _Loop(out.shape)
        for name, operand in placed.items():
            if not isinstance(operand, Array):
                names[name] = _literal(operand)
            elif operand.key() in loop.results:
                names[name] = loop.results[operand.key()][0]
            else:
                operand = replace(operand, layout=operand.layout.expand(out.shape))
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
        stores = [(n, out) for n, out, node in loop.results.values() if node is None or set(node.users) - members]
        arrays = [array for _, array in loop.loads.values()] + [out for _, out in stores]
        sizes, strides = _joined(loop.shape, [array.layout.stride() for array in arrays])
        with self.loops(sizes) as at:
            addresses = [array.address(at, stride) for array, stride in zip(arrays, strides)]
            for (name, _), address in zip(loop.loads.values(), addresses):
                self.line(f"{name} = {address}")
            for text in loop.body:
                self.line(text)
            for (name, _), address in zip(stores, addresses[len(loop.loads) :]):
                self.line(f"{address} = {name}")

    # The graph.

    def _call(self, node: fx.Node) -> Any:
        target = node.target
        if target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]
        if not isinstance(target, torch._ops.OpOverload):
            raise KernelError(f"the operation {target} has no machine code.")
        destination = None
        if target._schema.is_mutable:
            # An operation in place is an ordinary one whose result goes where its first argument is, or elsewhere
            # if nothing else can see that argument.
            target = _out_of_place(target)
            if torch.Tag.inplace_view not in node.target.tags:
                first = node.args[0]
                if first not in self._own or len(first.users) > 1:
                    destination = self.values[first]
        inputs = [self.values[n] for n in node.all_input_nodes]
        name = target._schema.name.removeprefix("aten::")
        if destination is None and (name in FILLED or all(x.value is not None for x in inputs)):
            return self._folded(node, target)
        results = self._shapes(node, target)
        single = isinstance(results, Tensor)
        owner = {_storage(x.layout): x for x in inputs}.get(_storage(results if single else results[0]))
        if owner is not None and destination is None:
            views = [replace(self._place(owner), layout=x) for x in ([results] if single else results)]
            return views[0] if single else views
        if destination is not None and destination.buffer not in ("w", "v"):
            raise KernelError(f"the operation {node.target} changes an input or a constant of the graph.")
        bound = self._bound(node, target)
        if name in ELEMENTWISE and single:
            return self._elementwise(node, target, bound, results, destination)
        if name not in EMITTERS:
            raise KernelError(f"the operation {node.target} has no machine code.")
        outs = [destination or self.fresh(x.shape, x.dtype) for x in ([results] if single else results)]
        if destination is not None:
            bound["self"] = destination
        EMITTERS[name](self, bound, *outs)
        if destination is None:
            self._own.add(node)
        return outs[0] if single else outs

    def _elementwise(self, node: fx.Node, target, bound: dict, result: Tensor, destination: Array | None) -> Array:
        name = target._schema.name.removeprefix("aten::")
        text = ELEMENTWISE[name]
        if callable(text):
            text = text(bound, result.dtype)
        else:
            for argument in target._schema.arguments:
                given, default = bound[argument.name], argument.default_value
                if "{" + argument.name + "}" not in text and given != default and argument.name not in HANDLED:
                    raise KernelError(f"the operation {node.target} has no machine code for {argument.name}={given}.")
        for factor in (" * {alpha}", "{value} * "):  # nearly always 1
            if bound.get(factor.strip(" *{}")) == 1:
                text = text.replace(factor, "")
        operands = {key: x for key, x in bound.items() if "{" + key + "}" in text}
        if destination is None:
            out = self.fresh(result.shape, result.dtype)
            self.elementwise(text, operands, out, node)
            self._own.add(node)
            return out
        self.flush()
        self.elementwise(text, operands, destination)
        self.flush()
        return destination

    def _folded(self, node: fx.Node, target) -> Any:
        """A constant; copied at run time if something changes it in place."""

        def pick(n: fx.Node) -> Tensor:
            x = self.values[n]
            return x.value if x.value is not None else torch.zeros(x.shape, dtype=x.dtype)

        with torch.no_grad():
            value = target(*fx.node.map_arg(node.args, pick), **fx.node.map_arg(node.kwargs, pick))
        if not isinstance(value, Tensor):
            return [self.constant(x.contiguous()) for x in value]
        constant = self.constant(value.contiguous())
        return self.copied(constant) if node in self._changed else constant

    def _shapes(self, node: fx.Node, target) -> Any:
        """What the operation gives on meta tensors."""

        def run() -> Any:
            def pick(n: fx.Node) -> Tensor:
                return self.values[n].layout

            return target(*fx.node.map_arg(node.args, pick), **fx.node.map_arg(node.kwargs, pick))

        try:
            return run()
        except (RuntimeError, NotImplementedError) as error:
            ragged = [n for n in node.all_input_nodes if not self.values[n].layout.is_contiguous()]
            if not ragged:
                raise KernelError(f"the shape that {target} gives is not known ({error}).") from error
        # A view that fits the strides that torch had, but not those here.
        for n in ragged:
            self.values[n] = self.copied(self.values[n])
        return run()

    def _bound(self, node: fx.Node, target) -> dict[str, Any]:
        """Arguments by their names in the schema, defaults included."""
        arguments = target._schema.arguments
        given = dict(zip((a.name for a in arguments), node.args)) | dict(node.kwargs)
        return {
            a.name: fx.node.map_aggregate(
                given.get(a.name, a.default_value), lambda x: self.values[x] if isinstance(x, fx.Node) else x
            )
            for a in arguments
        }

    def _attribute(self, node: fx.Node) -> Array:
        value = operator.attrgetter(node.target)(self.graph)
        known = next((x for n, x in self.values.items() if n.op == "get_attr" and n.target == node.target), None)
        return known or self.constant(value.detach().cpu().contiguous())

    def _place(self, array: Array) -> Array:
        """Give a constant a place in a workspace; the same one each time."""
        if array.value is None:
            return array
        key = id(array.value)
        if key not in self._placed:
            self._placed[key] = replace(self.fresh(array.shape, array.dtype), value=array.value)
        return replace(self._placed[key], layout=self._placed[key].layout, value=None)

    def _pending(self, array: Array) -> bool:
        written = self._loop.results.values() if self._loop is not None else ()
        return any((out.buffer, out.start) == (array.buffer, array.start) for _, out, _ in written)

    def _changed_in_place(self) -> set[fx.Node]:
        """Nodes that an operation in place may change, by way of views."""
        found = set()
        for node in self.graph.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
                first = node.args[0]
                while isinstance(first, fx.Node) and first.op == "call_function":
                    found.add(first)
                    first = first.args[0] if first.args else None
        return found

    def _finish(self, node: fx.Node) -> Program:
        results = []
        for k, output in enumerate(node.args[0]):
            array = self.values[output]
            self.elementwise("{self}", {"self": array}, Array(_meta(array.shape, array.dtype), f"r{k}"))
            results.append(f"r{k}.reshape({array.shape})" if array.shape else f"r{k}[0]")
        self.flush()
        inputs = range(len(self.example))
        types = [f'types.Array(types.float64, {x.dim()}, "C", readonly=True)' for x in self.example]
        kinds = ["float64" if self.values[x].dtype == torch.float64 else "int64" for x in node.args[0]]
        head = [
            "import math",
            "import numpy as np",
            "from numba import njit, types",
            "",
            f"SIGNATURE = ({', '.join(types)}, types.float64[::1], types.int64[::1])",
            "",
            "",
            # The flags leave NaN and infinity what they are.
            '@njit(SIGNATURE, cache=CACHE, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})',
            f"def kernel({', '.join(f'a{k}' for k in inputs)}, w, v):",
            *(f"    p{k} = a{k}.reshape(-1)" for k in inputs),
            *(
                f"    r{k} = np.empty({math.prod(self.values[x].shape)}, np.{kind})"
                for k, (x, kind) in enumerate(zip(node.args[0], kinds))
            ),
        ]
        workspaces = {"w": np.zeros(self._sizes["w"]), "v": np.zeros(self._sizes["v"], dtype=np.int64)}
        for array in self._placed.values():
            workspaces[array.buffer][array.start :][: array.value.numel()] = array.value.reshape(-1).numpy()
        source = "\n".join([*head, *self._lines, f"    return ({', '.join(results)},)", ""])
        return Program(source, workspaces["w"], workspaces["v"])


def _meta(shape, dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _storage(layout: Tensor) -> int:
    return layout.untyped_storage()._cdata


def _out_of_place(target):
    packet, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    found = getattr(torch.ops.aten, packet.removesuffix("_"), None) if packet.endswith("_") else None
    if found is None or not hasattr(found, overload):
        raise KernelError(f"the operation {target} has no machine code.")
    return getattr(found, overload)


def _literal(number: Any) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return f"np.{abs(number)}" if number != -math.inf else "(-np.inf)"
    return f"({number!r})" if number < 0 else repr(number)


def _joined(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Merge neighbouring dimensions that all arrays step through evenly: fewer loops."""
    sizes: list[int] = []
    steps: list[list[int]] = []  # of each dimension kept, one for each array
    for size, step in zip(shape, zip(*strides) if strides else [()] * len(shape)):
        if size == 1:
            continue
        if sizes and all(outer == size * inner for outer, inner in zip(steps[-1], step)):
            sizes[-1] *= size
            steps[-1] = list(step)
        else:
            sizes.append(size)
            steps.append(list(step))
    return sizes, [tuple(step[k] for step in steps) for k in range(len(strides))]
