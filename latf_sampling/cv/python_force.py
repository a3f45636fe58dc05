"""A bias in `PythonForce`: a function that OpenMM calls, compiled to machine code by numba."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import openmm

from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.shapes import Shape
from latf_sampling.cv.shared_table import SharedTable, mapped


def python_force(
    variable: CollectiveVariable,
    shape: Shape,
    table: np.ndarray,
    shared: SharedTable | None = None,
    parameters: dict[str, float] | None = None,
) -> openmm.Force:
    """A `PythonForce` of a shape; parameters are those of `torch_force`, and `table` itself is read at every step."""
    force: Any = openmm.PythonForce(_Function(variable, shape, table, shared), parameters or {})
    force.setUsesPeriodicBoundaryConditions(variable.periodic)
    if hasattr(force, "setParticles"):  # from OpenMM 8.6 on
        force.setParticles([int(atom) for atom in variable.atoms])
    return force


class _Buffers(threading.local):
    """Arrays that are used again at every step, for each thread its own."""

    positions: np.ndarray | None = None
    own: np.ndarray
    forces: np.ndarray


class _Function:
    """The function of a PythonForce; picklable, since OpenMM copies forces by serializing them."""

    def __init__(
        self, variable: CollectiveVariable, shape: Shape, table: np.ndarray, shared: SharedTable | None = None
    ) -> None:
        self.variable, self.shape, self.table = variable, shape, table
        self.place = None if shared is None else (shared.path, shared.key)
        self.atoms, self.periodic, self.box = variable.atoms, variable.periodic, np.eye(3)
        self.evaluate = variable.evaluator(shape)
        self.buffers = _Buffers()
        self.of_particles = hasattr(openmm.PythonForce, "setParticles")
        # OpenMM 8.5 loads numpy's C interface with the first array that it gets. A PythonForce that is evaluated
        # before, as after `Simulation.loadState` in a new process, ends in a segmentation fault.
        openmm.Continuous1DFunction(np.zeros(2), 0.0, 1.0)

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        positions, box = self._positions(state), self.box
        if self.periodic:
            box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value)
        if self.of_particles and len(positions) == len(self.atoms):
            return self.evaluate(positions, box, self.table)
        # OpenMM 8.5 passes all atoms, and takes the forces on all.
        buffers = self.buffers
        positions.take(self.atoms, 0, buffers.own, "clip")
        energy, buffers.forces[self.atoms] = self.evaluate(buffers.own, box, self.table)
        return energy, buffers.forces

    def _positions(self, state: Any) -> np.ndarray:
        buffers = self.buffers
        if buffers.positions is None:
            buffers.positions = np.array(state.getPositions(asNumpy=True)._value, np.float64)
            buffers.own = np.empty((len(self.atoms), 3))
            buffers.forces = np.zeros_like(buffers.positions)
        else:  # what `getPositions` does, without a quantity and a search through its attributes, which take 20 us
            state._getVectorAsNumpy(openmm.State.Positions, buffers.positions)
        return buffers.positions

    def __reduce__(self) -> tuple:
        return _restored, (self.variable, self.shape, np.array(self.table), self.place)


def _restored(
    variable: CollectiveVariable, shape: Shape, table: np.ndarray, place: tuple[str, float] | None
) -> _Function:
    shared = None if place is None else mapped(*place, len(table))
    function = _Function(variable, shape, table if shared is None else shared)
    function.place = place
    return function
