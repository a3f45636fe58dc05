"""From a bias shape in latent space to an OpenMM force, by either backend.

Collective variable, shape and the pull-back to the atoms are one graph of plain operations (`graph`). `TorchForce`
evaluates it as TorchScript (`torch_force`), `PythonForce` as machine code (`python_force`); both give the same numbers.

The table of a shape is shared memory (`shared_table`). What is written to it acts in every context on the CPU at once;
a global parameter, its version, tells contexts elsewhere to read it again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.core import arguments
from latf_sampling.core.backends import choose_backend
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.python_force import python_force
from latf_sampling.cv.shapes import Component, Shape
from latf_sampling.cv.shared_table import SharedTable
from latf_sampling.errors import SettingsError, SimulationError

BIAS_NAME = "latf_sampling bias"
"""Name of our forces in a system, `openmm.Force.getName`, by which they are recognized."""
NOT_IN_SIMULATION = (
    "bias: the simulation has not this bias in it; make the bias first, and then the Simulation, of the same system."
)
LEARNED = ("TorchForce", "PythonForce", "PlumedForce")
"""Names, where nobody gave another one, of forces that may be a bias or a potential."""


class BiasForce:
    """A force of the latent variables with a table that can be changed while simulations run.

    A system with it can be serialized by `openmm.XmlSerializer`, and so copied. A fixed table goes along. Of one that
    can change, a copy shares the table while this object lives. After that it has the table that this object was made
    with; a TorchForce then works only if the table was never changed.

    Parameters
    ----------
    system
        Gets the force, in a force group of its own, so that its energy can be told from the others'.
    variable
        The collective variable.
    shape
        Energy and force in latent space.
    table
        The numbers (m,) that the shape reads.
    fixed
        Whether these will never change: then they are part of the force, which reads no file and has no parameter, as
        a CUDA graph needs it (``force.setProperty("useCUDAGraphs", "true")``).
    backend
        "torchforce", "pythonforce" or "auto", see `choose_backend`.

    Attributes
    ----------
    force : openmm.Force
        What was added to the system.
    group : int
        Its force group.
    table : numpy.ndarray (m,)
        What the shape reads; unless it is fixed, write to it in place, then call `publish`.
    version : int
        How often the table was published.
    backend, backend_reason : str
        What evaluates the force, and why it is this one.

    Raises
    ------
    CVError
        The system has another number of particles than the variable was made for.
    SimulationError
        Only one of variable and system is periodic, or no force group is free.
    """

    def __init__(
        self,
        system: openmm.System,
        variable: CollectiveVariable,
        shape: Shape,
        table: np.ndarray,
        fixed: bool = False,
        backend: str = "auto",
    ) -> None:
        self.backend, self.backend_reason = choose_backend(backend)
        self.group, self.fixed, self.version = free_group(system, variable), fixed, 0
        self._system = system  # owns the force, whose default version `publish` changes
        # No other force has this group, nor this name. A script gives the same one in every run, so that states that
        # one run saves can be loaded in the next.
        self._parameter = f"latf_version_{self.group}"
        parameters, self._shared = {} if fixed else {self._parameter: 0.0}, None if fixed else SharedTable(shape.size)
        if self._shared is None:
            read = np.array(table, np.float64)
            self.table = read.copy()
            self.table.setflags(write=False)
        else:
            self.table = read = self._shared.values
            self.table[:] = table
        self.force: Any = _maker(self.backend)(variable, shape, read, self._shared, parameters)
        self.force.setForceGroup(self.group)
        self.force.setName(BIAS_NAME)
        system.addForce(self.force)

    def publish(self, context: openmm.Context | None = None) -> None:
        """Let this context see the table as it is now, and those made from now on; for others, see `refresh`."""
        self.version += 1
        if self.backend == "torchforce":
            self.force.setGlobalParameterDefaultValue(0, self.version)
        if context is not None:
            self.refresh(context)

    def refresh(self, context: openmm.Context) -> None:
        """Let a context see the present table, where it was changed by way of another one, or its state was loaded."""
        arguments.instance("bias", "context", context, openmm.Context, "an openmm.Context")
        if self.fixed:
            return
        try:
            if context.getParameter(self._parameter) != self.version:
                context.setParameter(self._parameter, self.version)
        except openmm.OpenMMException as error:
            raise SimulationError(NOT_IN_SIMULATION) from error


def free_group(system: openmm.System, variable: CollectiveVariable) -> int:
    """Check that variable and system fit together; returns the highest force group that no force has."""
    variable.check_system(system)
    if variable.periodic != system.usesPeriodicBoundaryConditions():
        raise SimulationError(
            f"bias: the collective variable was made {'with' if variable.periodic else 'without'} a periodic box, the "
            f"system is {'not periodic' if variable.periodic else 'periodic'}; make Features(..., "
            f"periodic={not variable.periodic}) and train again."
        )
    free = set(range(32)) - {entry.getForceGroup() for entry in system.getForces()}
    if not free:
        raise SimulationError("bias: all 32 force groups of the system are taken; free one with Force.setForceGroup.")
    return max(free)


def bias_groups(system: openmm.System) -> list[int]:
    """Force groups of the biases of this package that act in a system."""
    return [force.getForceGroup() for force in system.getForces() if force.getName() == BIAS_NAME]


def without_biases(system: openmm.System) -> openmm.System:
    """A system without the biases that this package added to it: the same one if there are none, else a copy.

    A TorchForce, PythonForce or PlumedForce of another origin may be a bias or a potential, such as a neural network.
    It is taken for a part of the system if it was given a name, as by ``force.setName("potential")``.

    Raises
    ------
    SettingsError
        Another force is a bias or may be one, such as that of `openmm.app.Metadynamics`; names it.
    """
    forces = list(system.getForces())
    for index, force in enumerate(forces):
        if force.getName() == BIAS_NAME:
            continue
        if force.getName() in LEARNED:
            raise SettingsError(
                f"system: force {index}, a {force.getName()}, may be a bias; give the system without it, or, if it is "
                'part of the potential energy, give it another name: force.setName("potential").'
            )
        if isinstance(force, openmm.CustomCVForce) and _is_bias(force):
            raise SettingsError(
                f"system: force {index}, a CustomCVForce, is a bias, such as that of openmm.app.Metadynamics; give the "
                "system without it."
            )
    if not bias_groups(system):
        return system
    bare = copy.deepcopy(system)
    for index in reversed(range(len(forces))):
        if forces[index].getName() == BIAS_NAME:
            bare.removeForce(index)
    return bare


def _is_bias(force: openmm.CustomCVForce) -> bool:
    """Whether a force of other variables has a tabulated energy, as metadynamics does, or a learned variable."""
    inner = [force.getCollectiveVariable(k) for k in range(force.getNumCollectiveVariables())]
    return force.getNumTabulatedFunctions() > 0 or any(part.getName() in (BIAS_NAME, *LEARNED) for part in inner)


def component_force(variable: CollectiveVariable, component: int, backend: str = "auto") -> openmm.Force:
    """A force whose energy is one component of the variable, for OpenMM's own biases."""
    force = _maker(choose_backend(backend)[0])(variable, Component(variable.dim, component), np.zeros(0))
    force.setName(BIAS_NAME)
    return force


def bias_variables(variable: CollectiveVariable, backend: str = "auto") -> list[app.BiasVariable]:
    """One `openmm.app.BiasVariable` per component, for the stock `openmm.app.Metadynamics`.

    Its range is that of the variable's bounds and three hill widths on either side.
    """
    low, high = variable.bounds.T + 3 * np.outer([-1, 1], variable.sigma)
    return [
        app.BiasVariable(
            component_force(variable, k, backend), float(low[k]), float(high[k]), float(variable.sigma[k]), False
        )
        for k in range(variable.dim)
    ]


def _maker(backend: str) -> Callable[..., openmm.Force]:
    """What makes a force of a backend."""
    if backend == "pythonforce":
        return python_force
    from latf_sampling.cv.torch_force import torch_force  # here, since the other one can do without torch

    return torch_force
