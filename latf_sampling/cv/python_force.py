"""A bias in `PythonForce`: a function that OpenMM calls, compiled to machine code by numba."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import torch

from latf_sampling.core import backends
from latf_sampling.cv import graph
from latf_sampling.cv.shapes import Shape
from latf_sampling.cv.variable import Variable


def python_force(
    variable: Variable,
    shape: Shape,
    table: np.ndarray,
    file: str | None = None,
    parameters: dict[str, float] | None = None,
) -> openmm.Force:
    """A `PythonForce` of a shape; parameters are those of `torch_force`, and `table` itself is read at every step."""
    force: Any = openmm.PythonForce(_Function(variable, shape, table, file), parameters or {})
    force.setUsesPeriodicBoundaryConditions(variable.periodic)
    if hasattr(force, "setParticles"):  # from OpenMM 8.6 on
        force.setParticles([int(atom) for atom in variable.atoms])
    return force


class _Function:
    """The function of a PythonForce; picklable, since OpenMM copies forces by serializing them."""

    def __init__(self, variable: Variable, shape: Shape, table: np.ndarray, file: str | None = None) -> None:
        self.variable, self.shape, self.table, self.file = variable, shape, table, file
        self.atoms, self.periodic, self.box = variable.atoms, variable.periodic, np.eye(3)
        self.evaluate = compiled(variable, shape)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        quantity: Any = state.getPositions(asNumpy=True)
        positions = np.asarray(quantity._value, np.float64)
        box = self.box
        if self.periodic:
            quantity = state.getPeriodicBoxVectors(asNumpy=True)
            box = np.asarray(quantity._value)
        if len(positions) == len(self.atoms):
            return self.evaluate(positions, box, self.table)
        # OpenMM 8.5 passes all atoms, and takes the forces on all.
        energy, own = self.evaluate(positions[self.atoms], box, self.table)
        forces = np.zeros_like(positions)
        forces[self.atoms] = own
        return energy, forces

    def __reduce__(self) -> tuple:
        return _restored, (self.variable, self.shape, np.array(self.table), self.file)


def _restored(variable: Variable, shape: Shape, table: np.ndarray, file: str | None) -> _Function:
    if file is not None and os.path.exists(file):
        table = np.memmap(file, np.float64, "c", shape=table.shape)
    return _Function(variable, shape, table, file)


def compiled(
    variable: Variable, shape: Shape
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]:
    """The graph as machine code: (positions, box, table) -> (energy, forces).

    A custom descriptor may contain an operation that the compiler does not translate. Then torch evaluates the graph:
    the same numbers, several times slower, and a warning that says so. LATF_COMPILE=0 in the environment makes torch
    evaluate everything, for scripts that end before a new kernel would be compiled.
    """
    traced, inputs = graph.trace(variable, shape), graph.example(variable, shape)
    if backends.compiles():
        from latf_sampling.cv.compiler.kernel import KernelError, compile_graph

        try:
            return compile_graph(traced, inputs)
        except KernelError as error:
            warnings.warn(f"bias: evaluated by torch, not as machine code ({error})", RuntimeWarning, stacklevel=5)
    script = torch.jit.freeze(graph.to_torchscript(traced, inputs).eval())

    def evaluate(positions: np.ndarray, box: np.ndarray, table: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = script(*(torch.from_numpy(array) for array in (positions, box, table)))
        return float(energy), forces.numpy()

    return evaluate
