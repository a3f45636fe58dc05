"""From a traced graph of torch operations to the source of one function that numba compiles.

Shapes come from running each operation on meta tensors, which have a layout but no numbers; so does what a view is: a
result that shares the storage of an argument costs no code. Operations on constants alone are done here, by torch.
What every other operation does stands in `operations.py`, elementwise ones, and `emitters.py`.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from latf_sampling.cv.compiler.emitters import EMITTERS
from latf_sampling.cv.compiler.operations import ELEMENTWISE, FILLED, HANDLED, KernelError
from latf_sampling.cv.compiler.source import WORKSPACE, Array, Source, constant, meta


@dataclass
class Program:
    """Source of a function `kernel(*inputs, w, v)`, and the workspaces w and v with the constants in their places.

    The source depends on operations, shapes and plain numbers in the graph, and on no number of a tensor.
    """

    source: str
    floats: np.ndarray
    integers: np.ndarray


def lowered(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> Program:
    """Write the source of a graph; see `kernel.compiled`.

    Raises
    ------
    KernelError
        An operation has no machine code here.
    """
    return _Lowering(graph, example).program()


class _Lowering:
    def __init__(self, graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
        self.graph, self.example = graph, example
        self.source = Source()
        self.values: dict[fx.Node, Any] = {}  # an array for each tensor, a list for several
        self.attributes: dict[str, Array] = {}
        self.own: set[fx.Node] = set()  # nodes whose result has a place of its own
        self.changed = _changed_in_place(graph)

    def program(self) -> Program:
        inputs = iter(range(len(self.example)))
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                k = next(inputs)
                self.values[node] = Array(meta(self.example[k].shape, self.example[k].dtype), f"p{k}")
            elif node.op == "get_attr":
                if node.target not in self.attributes:
                    value = operator.attrgetter(node.target)(self.graph)
                    self.attributes[node.target] = constant(value.detach().cpu().contiguous())
                self.values[node] = self.attributes[node.target]
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "output":
                return self.finished([self.values[x] for x in node.args[0]])
            else:
                raise KernelError(f"a node of the kind {node.op} has no machine code.")
        raise KernelError("a graph without an output has no machine code.")

    def call(self, node: fx.Node) -> Any:
        """The result of one operation; mostly, lines are written for it."""
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]
        if not isinstance(node.target, torch._ops.OpOverload):
            raise KernelError(f"the operation {node.target} has no machine code.")
        target, destination = node.target, None
        if target._schema.is_mutable:
            # An operation in place is an ordinary one whose result goes where its first argument is, or elsewhere
            # if nothing else can see that argument.
            target = _out_of_place(target)
            first = node.args[0]
            if torch.Tag.inplace_view not in node.target.tags and not (first in self.own and len(first.users) == 1):
                destination = self.values[first]
                if destination.buffer not in WORKSPACE.values():
                    raise KernelError(f"the operation {node.target} on an input or a constant has no machine code.")
        name = target._schema.name.removeprefix("aten::")
        inputs = [self.values[n] for n in node.all_input_nodes]
        if destination is None and (name in FILLED or all(x.value is not None for x in inputs)):
            return self.folded(node, target)
        results = self.layouts(node, target)
        several = results if isinstance(results, (list, tuple)) else [results]
        if destination is None:
            owner = {_storage(self.values[n].layout): self.values[n] for n in node.all_input_nodes}.get(
                _storage(several[0])
            )
            if owner is not None:
                views = [replace(self.source.placed(owner), layout=layout) for layout in several]
                return views[0] if several[0] is results else views
        bound = self.bound(node, target)
        if name not in ELEMENTWISE and name not in EMITTERS:
            raise KernelError(f"the operation {node.target} has no machine code.")
        outs = [destination or self.source.fresh(x.shape, x.dtype) for x in several]
        if destination is None:
            self.own.add(node)
        if name in EMITTERS:
            if destination is not None:
                bound["self"] = destination
            EMITTERS[name](self.source, bound, *outs)
        else:
            self.elementwise(node, target, bound, outs[0], destination is not None)
        return outs[0] if several[0] is results else outs

    def elementwise(self, node: fx.Node, target, bound: dict[str, Any], out: Array, in_place: bool) -> None:
        text = ELEMENTWISE[target._schema.name.removeprefix("aten::")]
        if callable(text):
            text = text(bound, out.dtype)
        else:
            for argument in target._schema.arguments:
                given = bound[argument.name]
                if (
                    "{" + argument.name + "}" not in text
                    and given != argument.default_value
                    and argument.name not in HANDLED
                ):
                    raise KernelError(f"the operation {node.target} has no machine code for {argument.name}={given}.")
        for factor in (" * {alpha}", "{value} * "):  # nearly always 1
            if bound.get(factor.strip(" *{}")) == 1:
                text = text.replace(factor, "")
        operands = {key: x for key, x in bound.items() if "{" + key + "}" in text}
        if in_place:  # what is pending may still have to read the numbers that are there now
            self.source.flush()
            self.source.elementwise(text, operands, out)
            self.source.flush()
        else:
            self.source.elementwise(text, operands, out, node)

    def folded(self, node: fx.Node, target) -> Any:
        """A constant; copied at run time if something changes it in place."""

        def pick(n: fx.Node) -> Tensor:
            x = self.values[n]
            return x.value if x.value is not None else torch.zeros(x.shape, dtype=x.dtype)

        with torch.no_grad():
            value = target(*fx.node.map_arg(node.args, pick), **fx.node.map_arg(node.kwargs, pick))
        found = [constant(x.contiguous()) for x in (value if isinstance(value, (list, tuple)) else [value])]
        if node in self.changed:
            found = [self.source.copied(x) for x in found]
        return found[0] if isinstance(value, Tensor) else found

    def layouts(self, node: fx.Node, target) -> Any:
        """What the operation gives on meta tensors."""

        def run() -> Any:
            def pick(n: fx.Node) -> Tensor:
                return self.values[n].layout

            return target(*fx.node.map_arg(node.args, pick), **fx.node.map_arg(node.kwargs, pick))

        try:
            try:
                return run()
            except RuntimeError:
                # Perhaps a view that fits the strides that torch had, but not those here.
                for n in node.all_input_nodes:
                    if not self.values[n].layout.is_contiguous():
                        self.values[n] = self.source.copied(self.values[n])
                return run()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise KernelError(f"the operation {node.target} has no machine code ({reason}).") from error

    def bound(self, node: fx.Node, target) -> dict[str, Any]:
        """Arguments by their names in the schema, defaults included."""
        arguments = target._schema.arguments
        given = dict(zip((a.name for a in arguments), node.args)) | dict(node.kwargs)
        found = {a.name: given.get(a.name, a.default_value) for a in arguments}
        return fx.node.map_aggregate(found, lambda x: self.values[x] if isinstance(x, fx.Node) else x)

    def finished(self, outputs: list[Array]) -> Program:
        sizes, returned = [], []
        for k, array in enumerate(outputs):
            self.source.elementwise("{self}", {"self": array}, Array(meta(array.shape, array.dtype), f"r{k}"))
            kind = "float64" if array.dtype == torch.float64 else "int64"
            sizes.append(f"    r{k} = np.empty({array.layout.numel()}, np.{kind})")
            returned.append(f"r{k}.reshape({array.shape})" if array.shape else f"r{k}[0]")
        self.source.flush()
        inputs = range(len(self.example))
        types = [f'types.Array(types.float64, {x.dim()}, "C", readonly=True)' for x in self.example]
        lines = [
            "import math",
            "import numpy as np",
            "from numba import njit, types",
            "",
            f"SIGNATURE = ({', '.join(types)}, types.float64[::1], types.int64[::1])",
            "",
            "",
            # With these flags, NaN and infinity stay what they are.
            '@njit(SIGNATURE, cache=CACHE, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})',
            f"def kernel({', '.join(f'a{k}' for k in inputs)}, w, v):",
            *(f"    p{k} = a{k}.reshape(-1)" for k in inputs),
            *sizes,
            *self.source.lines,
            f"    return ({', '.join(returned)},)",
            "",
        ]
        return Program("\n".join(lines), *self.source.workspaces())


def _storage(layout: Tensor) -> int:
    return layout.untyped_storage()._cdata


def _out_of_place(target):
    """The operation that an operation in place is named after."""
    packet, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    found = getattr(torch.ops.aten, packet.removesuffix("_"), None) if packet.endswith("_") else None
    if found is None or not hasattr(found, overload):
        raise KernelError(f"the operation {target} has no machine code.")
    return getattr(found, overload)


def _changed_in_place(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes that an operation in place changes, itself or by way of views.

    Raises
    ------
    KernelError
        One of them is a constant of the graph.
    """
    found = set()
    for node in graph.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        first = node.args[0]
        while first.op == "call_function":
            found.add(first)
            if not (first.target is operator.getitem or first.target.is_view):
                break
            first = first.args[0]
        if first.op == "get_attr" and torch.Tag.inplace_view not in node.target.tags:
            raise KernelError(f"the operation {node.target} on a constant has no machine code.")
    return found
