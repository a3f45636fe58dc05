"""From a bias shape in latent space to an OpenMM force, by either backend.

Collective variable, shape and the pull-back to the atoms are one graph of plain operations (`graph`). `TorchForce`
evaluates it as TorchScript (`torch_force`), `PythonForce` as machine code (`python_force`); both give the same numbers.

The table of a shape is mapped from a file into memory. What is written to it acts in every context on the CPU at once;
a global parameter, its version, tells contexts elsewhere to read it again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import openmm
import torch
from openmm import app
from torch import Tensor

from latf_sampling.core.backends import choose_backend
from latf_sampling.cv.python_force import python_force
from latf_sampling.cv.shapes import Shape
from latf_sampling.cv.torch_force import torch_force
from latf_sampling.cv.variable import Variable
from latf_sampling.errors import SimulationError

NAME = "table-"
"""Of the file of a table; a zero is appended, see `torch_force`."""

_MAKE = {"torchforce": torch_force, "pythonforce": python_force}


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
        variable: Variable,
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
        parameters, file = {} if fixed else {self._parameter: 0.0}, None
        if fixed:
            read = np.array(table, np.float64)
            self.table = read.copy()
            self.table.setflags(write=False)
        else:
            directory, lock = _scratch_folder()
            weakref.finalize(self, _remove, directory, lock)
            file = str(directory / f"{NAME}0")
            self.table = np.memmap(file, np.float64, "w+", shape=(max(1, shape.size),))[: shape.size]
            self.table[:] = table
            read = self.table
        self.force: Any = _MAKE[self.backend](variable, shape, read, file, parameters)
        self.force.setForceGroup(self.group)
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
        if self.fixed:
            return
        try:
            if context.getParameter(self._parameter) != self.version:
                context.setParameter(self._parameter, self.version)
        except openmm.OpenMMException as error:
            raise SimulationError(
                "bias: the simulation has not this bias in it; make the bias first, and then the Simulation, of the "
                "same system."
            ) from error


def free_group(system: openmm.System, variable: Variable) -> int:
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


def component_force(variable: Variable, component: int, backend: str = "auto") -> openmm.Force:
    """A force whose energy is one component of the variable, for OpenMM's own biases."""
    return _MAKE[choose_backend(backend)[0]](variable, _Component(variable.dim, component), np.zeros(0))


def bias_variables(variable: Variable, backend: str = "auto") -> list[app.BiasVariable]:
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


class _Component:
    """One component of u itself."""

    size = 0

    def __init__(self, dim: int, component: int) -> None:
        self.component, self.force = component, -torch.eye(dim, dtype=torch.float64)[component]

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        return u[self.component], self.force


def _remove(folder: Path, lock: IO) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _scratch_folder() -> tuple[Path, IO]:
    """A temporary folder, locked as long as the second value lives; those of processes that were killed go."""
    for leftover in Path(tempfile.gettempdir()).glob("latf-bias-*/lock"):
        with suppress(OSError), open(leftover) as lock:  # not ours to look at, in use, or gone already
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="latf-bias-"))
    lock = open(folder / "new", "w")  # noqa: SIM115 - held open as long as the lock is
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / "new", folder / "lock")  # under this name only once it is held
    return folder, lock
