"""The collective variable and a bias shape as one graph of plain operations: energy and forces, without autograd.

The graph passes forward and backward through the network once, whatever the latent dimension. On a small molecule the
cost of a step is proportional to the number of operations, so those that need not be done at every step are removed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from latf_sampling.cv.shapes import Shape

aten = torch.ops.aten


class TorchVariable(Protocol):
    """What is traced: a `latf_sampling.cv.variable.Variable`."""

    module: Any
    atoms: np.ndarray
    periodic: bool


def trace(variable: TorchVariable, shape: Shape) -> fx.GraphModule:
    """Energy and forces of a bias shape on a collective variable, as a graph without autograd.

    Parameters
    ----------
    variable
        The collective variable.
    shape
        Energy and force as functions of it.

    Returns
    -------
    torch.fx.GraphModule
        (positions (n, 3) of the variable's atoms in nm, box vectors (3, 3) in nm, table (m,) of the shape) ->
        (energy in kJ/mol, forces (n, 3) in kJ/mol/nm), all in double precision.

    Examples
    --------
    A harmonic well at 0.4 nm on the distance between two atoms:

    >>> from latf_sampling.cv.shapes import Harmonic
    >>> from latf_sampling.cv.variable import Variable
    >>> class Distance(torch.nn.Module):
    ...     def forward(self, positions: Tensor, box: Tensor | None) -> Tensor:
    ...         return (positions[..., 1, :] - positions[..., 0, :]).norm(2, dim=-1, keepdim=True)
    >>> distance = Variable(Distance(), atoms=[0, 1], n_atoms=2, bounds=[[0.1, 1.0]], sigma=[0.02])
    >>> graph = trace(distance, Harmonic(1))
    >>> positions = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.4]], dtype=torch.float64)
    >>> box, table = torch.eye(3, dtype=torch.float64), torch.tensor([0.4, 200.0], dtype=torch.float64)
    >>> energy, forces = graph(positions, box, table)
    >>> energy.round(decimals=6), forces.round(decimals=6)
    (tensor(1., dtype=torch.float64), tensor([[ 12.,   0.,  16.],
            [-12.,   0., -16.]], dtype=torch.float64))
    """

    def energy_and_forces(positions: Tensor, box: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.detach().requires_grad_(True)
        u = variable.module.compact(positions, box if variable.periodic else None)
        with torch.no_grad():
            energy, force = shape(u, table)
        (forces,) = torch.autograd.grad(u, positions, force)
        return energy, forces

    return _traced(energy_and_forces, example(variable, shape))


def trace_value(variable: TorchVariable) -> fx.GraphModule:
    """A collective variable as a graph: (positions (n, 3), box vectors (3, 3)) -> (u (d,),)."""

    def value(positions: Tensor, box: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            return (variable.module.compact(positions, box if variable.periodic else None),)

    return _traced(value, configuration(variable))


def trace_gradient(variable: TorchVariable) -> fx.GraphModule:
    """The gradient of each component as a graph: (positions (n, 3), box vectors (3, 3)) -> (du_1/dx (n, 3), ...)."""

    def gradient(positions: Tensor, box: Tensor) -> tuple[Tensor, ...]:
        positions = positions.detach().requires_grad_(True)
        u = variable.module.compact(positions, box if variable.periodic else None)
        return tuple(torch.autograd.grad(each, positions, retain_graph=True)[0] for each in u)

    return _traced(gradient, configuration(variable))


def example(variable: TorchVariable, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shapes: random positions, a large box, a table of zeros."""
    return *configuration(variable), torch.zeros(shape.size, dtype=torch.float64)


def configuration(variable: TorchVariable) -> tuple[Tensor, Tensor]:
    """Random positions (n, 3) of a variable's atoms, and a large box."""
    positions = 0.2 * np.random.default_rng(0).normal(size=(len(variable.atoms), 3))
    return torch.from_numpy(positions), 10 * torch.eye(3, dtype=torch.float64)


def _traced(function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    # The profiling executor would record its own guards and fused kernels instead of plain operations.
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]  # no __all__ lists it
        traced = make_fx(function)(*inputs)
    _fold(traced)
    return traced


def to_torchscript(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """The graph as TorchScript, which a TorchForce takes."""
    with torch.no_grad():
        # For a module the result is a module; the annotation covers everything that can be traced.
        return cast(torch.jit.ScriptModule, torch.jit.trace(graph, inputs, check_trace=False))


def _fold(traced: fx.GraphModule) -> None:
    """Remove from a graph the operations that do not depend on its inputs, and those without an effect."""
    graph = traced.graph
    constants: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":  # one node for each constant
            name = str(node.target)
            if name in constants:
                node.replace_all_uses_with(constants[name])
            else:
                constants[name] = node
        if node.op != "call_function":
            continue
        # A device written into the graph would tie it to the machine that traced it.
        node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("device", "pin_memory")}
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.all_input_nodes[0])
        elif node.target is aten.masked_fill_.Scalar:
            _unmask(graph, node)
        elif node.all_input_nodes and all(argument.op == "get_attr" for argument in node.all_input_nodes):
            _to_constant(traced, node)
    graph.eliminate_dead_code()
    traced.recompile()


def _to_constant(traced: fx.GraphModule, node: fx.Node) -> None:
    """Replace an operation on constants by its result."""

    def constant(n: fx.Node) -> Tensor:
        return operator.attrgetter(str(n.target))(traced)

    if isinstance(node.target, str):
        return
    value = node.target(*map_arg(node.args, constant), **map_arg(node.kwargs, constant))
    if not isinstance(value, Tensor):
        return
    name = f"_folded_{node.name}"
    traced.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with traced.graph.inserting_before(node):
        node.replace_all_uses_with(traced.graph.get_attr(name))


def _unmask(graph: fx.Graph, node: fx.Node) -> None:
    """Replace the gradient of a norm, which is v / |v| with a mask for |v| = 0, by v / max(|v|, tiny)."""
    quotient, mask, value = node.args
    if value != 0 or not isinstance(quotient, fx.Node) or not isinstance(mask, fx.Node):
        return
    if quotient.target is not aten.div.Tensor or mask.target is not aten.eq.Scalar:
        return
    vectors, lengths = quotient.args
    if mask.args != (lengths, 0):
        return
    with graph.inserting_before(node):
        tiny = graph.call_function(aten.clamp_min.default, (lengths, 1e-300))
        node.replace_all_uses_with(graph.call_function(aten.div.Tensor, (vectors, tiny)))
    graph.erase_node(node)  # it writes in place, so that it does not count as dead code
