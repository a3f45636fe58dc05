"""The collective variable and a bias shape as one graph of plain operations: energy and forces, without autograd.

One network pass forward and one back, whatever the latent dimension. On a small molecule what a step costs is the
number of operations, so those that need not be done at every step are folded away here.
"""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from latf_sampling.cv.shapes import Shape
from latf_sampling.cv.variable import Variable

aten = torch.ops.aten


def trace(variable: Variable, shape: Shape) -> fx.GraphModule:
    """Graph of (positions (n, 3) of its atoms, box (3, 3), table (m,)) -> (energy, forces (n, 3)), all double."""

    def energy_and_forces(positions: Tensor, box: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.detach().requires_grad_(True)
        u = variable.module.compact(positions, box if variable.periodic else None)
        with torch.no_grad():
            energy, force = shape(u, table)
        (forces,) = torch.autograd.grad(u, positions, force)
        return energy, forces

    # The profiling executor would record its own guards and fused kernels instead of plain operations.
    with torch.jit.optimized_execution(False):
        traced = make_fx(energy_and_forces)(*example(variable, shape))
    _fold(traced)
    return traced


def example(variable: Variable, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shapes: random positions, a large box, an empty table."""
    return (
        torch.from_numpy(0.2 * np.random.default_rng(0).normal(size=(len(variable.atoms), 3))),
        10 * torch.eye(3, dtype=torch.float64),
        torch.zeros(shape.size, dtype=torch.float64),
    )


def to_torchscript(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """The graph in the form that a TorchForce takes."""
    with torch.no_grad():
        return torch.jit.trace(graph, inputs, check_trace=False)


def _fold(traced: fx.GraphModule) -> None:
    """Take out of a graph what does not depend on its inputs, or does nothing."""
    graph = traced.graph
    constants: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":  # one node for each constant
            if node.target in constants:
                node.replace_all_uses_with(constants[node.target])
            else:
                constants[node.target] = node
        if node.op != "call_function":
            continue
        # A device written into the graph would tie it to the machine that traced it.
        node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("device", "pin_memory")}
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.masked_fill_.Scalar:
            _unmask(graph, node)
        elif node.all_input_nodes and all(argument.op == "get_attr" for argument in node.all_input_nodes):
            _to_constant(traced, node)
    graph.eliminate_dead_code()
    traced.recompile()


def _to_constant(traced: fx.GraphModule, node: fx.Node) -> None:
    """Replace an operation on constants by its result."""
    arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: operator.attrgetter(n.target)(traced))
    value = node.target(*arguments[0], **arguments[1])
    if not isinstance(value, Tensor):
        return
    name = f"_folded_{node.name}"
    traced.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with traced.graph.inserting_before(node):
        node.replace_all_uses_with(traced.graph.get_attr(name))


def _unmask(graph: fx.Graph, node: fx.Node) -> None:
    """The gradient of a norm, v / |v| and zero where |v| is, without its mask: v / max(|v|, tiny)."""
    quotient, mask, value = node.args
    if value != 0 or quotient.target is not aten.div.Tensor or mask.target is not aten.eq.Scalar:
        return
    vectors, lengths = quotient.args
    if mask.args != (lengths, 0):
        return
    with graph.inserting_before(node):
        tiny = graph.call_function(aten.clamp_min.default, (lengths, 1e-300))
        node.replace_all_uses_with(graph.call_function(aten.div.Tensor, (vectors, tiny)))
    graph.erase_node(node)  # it writes in place, so that it would not count as dead
