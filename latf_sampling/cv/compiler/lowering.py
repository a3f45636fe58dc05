"""From a traced graph of torch operations to the source of one function that numba compiles.

Shapes come from running each operation on meta tensors, which have a layout but no numbers. So does the knowledge of
what is a view: a result that shares the storage of an argument costs no code. Operations on constants alone are done
by torch here. All other operations are defined in `operations.py`, if elementwise, and in `emitters.py`.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.node import Argument, map_arg

from latf_sampling.cv.compiler.emitters import EMITTERS
from latf_sampling.cv.compiler.kernel import Kernel, KernelError, Program
from latf_sampling.cv.compiler.operations import CREATION, ELEMENTWISE, IGNORED_ARGUMENTS, Bound
from latf_sampling.cv.compiler.source import WORKSPACE, Array, Source, constant, meta


def compile_graph(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> Kernel:
    """Compile a graph of aten operations, or load its machine code from the cache.

    Parameters
    ----------
    graph
        A result of `make_fx`; its inputs are float64 tensors, its output is a tuple of tensors.
    example
        Inputs; only their shapes matter.

    Returns
    -------
    Kernel
        A function that takes arrays in place of the graph's inputs and returns the graph's outputs.

    Raises
    ------
    KernelError
        The graph contains an operation that the compiler does not support.

    Notes
    -----
    Where an index is out of range torch raises an error; the kernel takes the closest one that is in range.

    Examples
    --------
    >>> import numpy as np
    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> example = (torch.zeros(3, dtype=torch.float64),)
    >>> kernel = compile_graph(make_fx(lambda x: (x * x.sum(),))(*example), example)
    >>> kernel(np.array([1.0, 2.0, 3.0]))
    (array([ 6., 12., 18.]),)
    """
    return Kernel(lower(graph, example))


def lower(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> Program:
    """Write the source of a graph; see `compile_graph`.

    Raises
    ------
    KernelError
        The graph contains an operation that the compiler does not support.
    """
    return _Lowering(graph, example).program()


class _Lowering:
    def __init__(self, graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
        self.graph, self.example = graph, example
        self.source = Source()
        self.values: dict[fx.Node, Array | list[Array]] = {}  # an array for each tensor, a list for several
        self.attributes: dict[str, Array] = {}
        self.owners: set[fx.Node] = set()  # nodes whose result is no view
        self.changed = _changed_in_place(graph)

    def program(self) -> Program:
        inputs = iter(range(len(self.example)))
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                k = next(inputs)
                self.values[node] = Array(meta(self.example[k].shape, self.example[k].dtype), f"p{k}")
            elif node.op == "get_attr":
                name = str(node.target)
                if name not in self.attributes:
                    value: Tensor = operator.attrgetter(name)(self.graph)
                    self.attributes[name] = constant(value.detach().cpu().contiguous())
                self.values[node] = self.attributes[name]
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "output":
                outputs = node.args[0]
                if not isinstance(outputs, (list, tuple)):
                    raise KernelError("a graph whose output is not a tuple has no machine code.")
                return self.finished([self.array(x) for x in outputs])
            else:
                raise KernelError(f"a node of the kind {node.op} has no machine code.")
        raise KernelError("a graph without an output has no machine code.")

    def array(self, argument: Argument) -> Array:
        """The array of an argument, which has to be one tensor of the graph."""
        value = self.values[argument] if isinstance(argument, fx.Node) else None
        if not isinstance(value, Array):
            raise KernelError(f"{argument} in the place of a tensor has no machine code.")
        return value

    def call(self, node: fx.Node) -> Array | list[Array]:
        """The result of one operation; for most operations, this writes lines."""
        if node.target is operator.getitem:
            return self.item(node)
        if not isinstance(node.target, OpOverload):
            raise KernelError(f"the operation {node.target} has no machine code.")
        target, destination = node.target, None
        if target._schema.is_mutable:
            # An operation in place is an ordinary one whose result goes where its first argument is, or elsewhere
            # if nothing else can see that argument.
            target = _out_of_place(target)
            first = _first_argument(node)
            if torch.Tag.inplace_view not in node.target.tags and not (first in self.owners and len(first.users) == 1):
                destination = self.array(first)
                if destination.buffer not in WORKSPACE.values():
                    raise KernelError(f"the operation {node.target} on an input or a constant has no machine code.")
        name = _name(target)
        inputs = [self.array(n) for n in node.all_input_nodes]
        if destination is None and (name in CREATION or all(x.value is not None for x in inputs)):
            return self.folded(node, target)
        results = self.layouts(node, target)
        several = results if isinstance(results, (list, tuple)) else [results]
        if destination is None:
            # `layouts` may have replaced inputs by contiguous copies.
            inputs = [self.array(n) for n in node.all_input_nodes]
            owner = {_storage(x.layout): x for x in inputs}.get(_storage(several[0]))
            if owner is not None:
                views = [replace(self.source.allocated(owner), layout=layout) for layout in several]
                return views[0] if several[0] is results else views
        bound = self.bound(node, target)
        if name not in ELEMENTWISE and name not in EMITTERS:
            raise KernelError(f"the operation {node.target} has no machine code.")
        outs = [destination or self.source.allocate(x.shape, x.dtype) for x in several]
        if destination is None:
            self.owners.add(node)
        if name in EMITTERS:
            if destination is not None:
                bound["self"] = destination
            EMITTERS[name](self.source, bound, *outs)
        else:
            self.elementwise(node, target, bound, outs[0], destination is not None)
        return outs[0] if several[0] is results else outs

    def item(self, node: fx.Node) -> Array:
        """One of several results of an operation."""
        arrays, index = self.values[_first_argument(node)], node.args[1]
        if not isinstance(arrays, list) or not isinstance(index, int):
            raise KernelError(f"the operation {node.target} has no machine code for one tensor.")
        return arrays[index]

    def elementwise(self, node: fx.Node, target: OpOverload, bound: Bound, out: Array, in_place: bool) -> None:
        expression = ELEMENTWISE[_name(target)]
        if isinstance(expression, str):
            text = expression
            for argument in target._schema.arguments:
                value = bound[argument.name]
                if (
                    "{" + argument.name + "}" not in text
                    and value != argument.default_value
                    and argument.name not in IGNORED_ARGUMENTS
                ):
                    raise KernelError(f"the operation {node.target} has no machine code for {argument.name}={value}.")
        else:
            text = expression(bound, out.dtype)
        for factor in (" * {alpha}", "{value} * "):  # nearly always 1
            if bound.get(factor.strip(" *{}")) == 1:
                text = text.replace(factor, "")
        operands = {key: x for key, x in bound.items() if "{" + key + "}" in text}
        if in_place:  # the pending loop may still have to read the old numbers
            self.source.flush()
            self.source.elementwise(text, operands, out)
            self.source.flush()
        else:
            self.source.elementwise(text, operands, out, node)

    def folded(self, node: fx.Node, target: OpOverload) -> Array | list[Array]:
        """A constant, copied at run time if an operation in place changes it."""

        def pick(n: fx.Node) -> Tensor:
            x = self.array(n)
            return x.value if x.value is not None else torch.zeros(x.shape, dtype=x.dtype)

        with torch.no_grad():
            value = target(*map_arg(node.args, pick), **map_arg(node.kwargs, pick))
        arrays = [constant(x.contiguous()) for x in (value if isinstance(value, (list, tuple)) else [value])]
        if node in self.changed:
            arrays = [self.source.copy(x) for x in arrays]
        return arrays[0] if isinstance(value, Tensor) else arrays

    def layouts(self, node: fx.Node, target: OpOverload) -> Any:
        """The result of the operation on meta tensors: a tensor or several."""

        def run() -> Any:
            def pick(n: fx.Node) -> Tensor:
                return self.array(n).layout

            return target(*map_arg(node.args, pick), **map_arg(node.kwargs, pick))

        try:
            try:
                return run()
            except RuntimeError:
                # The operation may be a view that fits the strides that torch had, but not those here.
                for n in node.all_input_nodes:
                    if not self.array(n).layout.is_contiguous():
                        self.values[n] = self.source.copy(self.array(n))
                return run()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise KernelError(f"the operation {node.target} has no machine code ({reason}).") from error

    def bound(self, node: fx.Node, target: OpOverload) -> Bound:
        """Arguments by their names in the schema, defaults included."""

        def with_arrays(x: Argument) -> Any:
            if isinstance(x, (list, tuple)):
                return [with_arrays(y) for y in x]
            return self.array(x) if isinstance(x, fx.Node) else x

        schema = target._schema.arguments
        arguments = dict(zip((a.name for a in schema), node.args)) | dict(node.kwargs)
        return {a.name: with_arrays(arguments.get(a.name, a.default_value)) for a in schema}

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
            # These flags of fastmath, unlike the others, preserve NaN and infinity.
            '@njit(SIGNATURE, cache=CACHE, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})',
            f"def kernel({', '.join(f'a{k}' for k in inputs)}, w, v):",
            *(f"    p{k} = a{k}.reshape(-1)" for k in inputs),
            *sizes,
            *self.source.lines,
            f"    return ({', '.join(returned)},)",
            "",
        ]
        shapes = [tuple(x.shape) for x in self.example]
        return Program("\n".join(lines), shapes, *self.source.workspaces())


def _name(target: OpOverload) -> str:
    return target._schema.name.removeprefix("aten::")


def _storage(layout: Tensor) -> int:
    return layout.untyped_storage()._cdata


def _first_argument(node: fx.Node) -> fx.Node:
    first = node.args[0]
    if not isinstance(first, fx.Node):
        raise KernelError(f"the operation {node.target} has no machine code unless its first argument is a tensor.")
    return first


def _out_of_place(target: OpOverload) -> OpOverload:
    """The operation that an operation in place is named after."""
    name, overload = _name(target), target._overloadname
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    if packet is None or not hasattr(packet, overload):
        raise KernelError(f"the operation {target} has no machine code.")
    return getattr(packet, overload)


def _changed_in_place(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes that an operation in place changes, directly or through views.

    Raises
    ------
    KernelError
        One of them is a constant of the graph.
    """
    changed = set()
    for node in graph.graph.nodes:
        if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
            continue
        first = _first_argument(node)
        while first.op == "call_function":
            changed.add(first)
            is_view = isinstance(first.target, OpOverload) and first.target.is_view
            if not (first.target is operator.getitem or is_view):
                break
            first = _first_argument(first)
        if first.op == "get_attr" and torch.Tag.inplace_view not in node.target.tags:
            raise KernelError(f"the operation {node.target} on a constant has no machine code.")
    return changed
