"""A bias in `TorchForce`: variable, shape and the pull-back to the atoms as one TorchScript module.

OpenMM copies the module into each context, where Python cannot reach it afterwards. A table that changes is therefore
read from shared memory, see `shared_table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from latf_sampling.core import backends
from latf_sampling.cv import graph
from latf_sampling.cv.shapes import Shape
from latf_sampling.cv.shared_table import SharedTable
from latf_sampling.cv.variable import Variable


def torch_force(
    variable: Variable,
    shape: Shape,
    table: np.ndarray,
    shared: SharedTable | None = None,
    parameters: dict[str, float] | None = None,
) -> openmm.Force:
    """A `TorchForce` of a shape.

    Parameters
    ----------
    variable, shape
        The collective variable, and energy and force as functions of it.
    table
        The numbers (m,) that the shape reads.
    shared
        Where they are mapped from, whenever a parameter says that they have changed; `None` makes them part of the
        force.
    parameters
        Global parameters and their defaults; with a shared table its version.
    """
    script = graph.to_torchscript(graph.trace(variable, shape), graph.example(variable, shape))
    if shared is None:
        module = (_PeriodicFixed if variable.periodic else _Fixed)(script, variable.atoms, table)
    else:
        module = (_PeriodicMapped if variable.periodic else _Mapped)(script, variable.atoms, table, shared)
    force = backends.torchforce()(torch.jit.script(module))
    force.setOutputsForces(True)
    force.setUsesPeriodicBoundaryConditions(variable.periodic)
    for name, value in (parameters or {}).items():
        force.addGlobalParameter(name, value)
    return force


class _Evaluation(nn.Module):
    """What all of the modules below share: the graph, evaluated on the atoms that it depends on."""

    if TYPE_CHECKING:  # TorchScript cannot read annotations that are text
        atoms: Tensor
        box: Tensor
        table: Tensor

    def __init__(self, graph: torch.jit.ScriptModule, atoms: np.ndarray, table: np.ndarray) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer("atoms", torch.from_numpy(atoms))
        self.register_buffer("box", torch.eye(3, dtype=torch.float64))
        self.register_buffer("table", torch.from_numpy(np.array(table)))

    def evaluate(self, positions: Tensor, box: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        # A TorchForce asks for gradients of all it evaluates; recording for them would double the cost.
        with torch.no_grad():
            x = positions.index_select(0, self.atoms).to(torch.float64)
            energy, forces = self.graph(x, box, table)
            return energy, torch.zeros_like(positions).index_copy(0, self.atoms, forces.to(positions.dtype))


class _Fixed(_Evaluation):
    """A table that never changes, in a system without a box."""

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, self.box, self.table)


class _PeriodicFixed(_Evaluation):
    """A table that never changes, with box vectors."""

    def forward(self, positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, box.to(torch.float64), self.table)


class _MappedTable(_Evaluation):
    """A table that is mapped anew whenever its version changes."""

    def __init__(
        self, graph: torch.jit.ScriptModule, atoms: np.ndarray, table: np.ndarray, shared: SharedTable
    ) -> None:
        super().__init__(graph, atoms, table)
        self.stem, self.number, self.key = shared.stem, shared.number, shared.key
        self.length, self.version = len(table), 0.0

    def current_table(self, version: Tensor, positions: Tensor) -> Tensor:
        if float(version) != self.version:
            self.version = float(version)
            # Freezing would fold the reading of a file of constant name into a constant.
            file = self.stem + str(self.number + 0 * int(version))
            mapped = torch.from_file(file, True, 1 + self.length, dtype=torch.float64)
            assert float(mapped[0]) == self.key, "the shared memory of the bias is gone"
            # On the CPU the memory itself. Graphs that ask for the device at every step run a fifth slower.
            self.table = mapped[1:].to(positions.device)
        return self.table


class _Mapped(_MappedTable):
    """A mapped table in a system without a box."""

    def forward(self, positions: Tensor, version: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, self.box, self.current_table(version, positions))


class _PeriodicMapped(_MappedTable):
    """A mapped table, with box vectors."""

    def forward(self, positions: Tensor, box: Tensor, version: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, box.to(torch.float64), self.current_table(version, positions))
