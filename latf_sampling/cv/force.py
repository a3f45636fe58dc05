"""From a bias shape in latent space to an OpenMM force, in whichever lane is installed.

Collective variable, shape and the pull-back to the atoms are one graph of plain operations (`graph`), which either lane
evaluates:

- torchforce (OpenMM 8.4): a `TorchForce` around the graph.
- pythonforce (OpenMM 8.5 and later): a `PythonForce` that calls the graph, compiled to machine code by numba, on the
  atoms that matter.

The table of a shape lives in a file that is mapped into memory, for a module inside a TorchForce is copied when a
context is made and cannot be reached from Python later. What is written to the table is seen by every context on the
CPU at once; a global parameter, its version, tells contexts elsewhere to read it again.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from latf_sampling.core import installation
from latf_sampling.cv import graph
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Shape
from latf_sampling.errors import InstallationError, SimulationError

NAME = "table-"
"""Of the file of a table; a zero is appended, see `_Mapped`."""


class BiasForce:
    """A force of the latent variables with a table that can be changed while simulations run.

    A system with it can be serialized by `openmm.XmlSerializer`, and so copied. A fixed table goes along. Of one that
    can change, a copy shares the table while this object lives. After that it has the table that this object was made
    with; in the torchforce lane it then works only if the table was never changed.

    Parameters
    ----------
    system
        Gets the force, in a force group of its own, so that its energy can be told from the others'.
    cv
        The collective variable.
    shape
        Energy and force in latent space.
    table
        The numbers (m,) that the shape reads.
    fixed
        Whether these will never change: then they are part of the force, which reads no file and has no parameter, as
        a CUDA graph needs it (``force.setProperty("useCUDAGraphs", "true")``).

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

    Raises
    ------
    CVError
        The system has another number of particles than the variable was made for.
    SimulationError
        Only one of variable and system is periodic, or no force group is free.
    """

    def __init__(
        self, system: openmm.System, cv: LatentCV, shape: Shape, table: np.ndarray, fixed: bool = False
    ) -> None:
        self.group, self.fixed, self.version = free_group(system, cv), fixed, 0
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
            self.table = np.memmap(file, np.float64, "w+", shape=(max(1, shape.size),))
            self.table[: shape.size] = table
            read = self.table
        self._torchforce = installation.lane() == "torchforce"  # looked up once: it reads files
        if self._torchforce:
            self.force = _torch_force(cv, shape, read, file)
            for name, value in parameters.items():
                self.force.addGlobalParameter(name, value)
        else:
            self.force = _python_force(cv, shape, read, file, parameters)
        self.force.setUsesPeriodicBoundaryConditions(cv.periodic)
        self.force.setForceGroup(self.group)
        system.addForce(self.force)

    def publish(self, context: openmm.Context | None = None) -> None:
        """Let this context see the table as it is now, and those made from now on; for others, see `refresh`."""
        self.version += 1
        if self._torchforce:
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


class Bias:
    """What every bias can do, whatever its shape: `cv` is its variable, `_force` its `BiasForce`."""

    cv: LatentCV
    _force: BiasForce

    def step(self, simulation: openmm.app.Simulation, steps: int) -> None:
        """Simulate so many steps.

        Raises
        ------
        SimulationError
            The simulation exploded.
        """
        self._force.refresh(simulation.context)
        self._advance(simulation, steps)

    def values(self, context: openmm.Context) -> np.ndarray:
        """Present value (d,) of the collective variable."""
        return self.cv.of_context(context)

    def _advance(self, simulation: openmm.app.Simulation, steps: int) -> None:
        try:
            simulation.step(steps)
        except openmm.OpenMMException as error:
            raise SimulationError(
                f"{type(self).__name__}: the simulation stopped near step {simulation.currentStep} ({error})."
            ) from error


def free_group(system: openmm.System, cv: LatentCV) -> int:
    """Check that variable and system fit together; returns the highest force group that no force has."""
    cv.check_system(system)
    if cv.periodic != system.usesPeriodicBoundaryConditions():
        raise SimulationError(
            f"bias: the collective variable was made {'with' if cv.periodic else 'without'} a periodic box, the system "
            f"is {'not periodic' if cv.periodic else 'periodic'}; make Features(..., periodic={not cv.periodic}) and "
            "train again."
        )
    free = set(range(32)) - {entry.getForceGroup() for entry in system.getForces()}
    if not free:
        raise SimulationError("bias: all 32 force groups of the system are taken; free one with Force.setForceGroup.")
    return max(free)


def component_force(cv: LatentCV, component: int) -> openmm.Force:
    """A force whose energy is one component of the variable, for OpenMM's own biases."""
    shape, table = _Component(cv.dim, component), np.zeros(1)
    make = _torch_force if installation.lane() == "torchforce" else _python_force
    force = make(cv, shape, table)
    force.setUsesPeriodicBoundaryConditions(cv.periodic)
    return force


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


def _torch_force(cv: LatentCV, shape: Shape, table: np.ndarray, file: str | None = None) -> openmm.Force:
    """A `TorchForce` of a table that never changes, or of one that is mapped from a file."""
    script = graph.to_torchscript(graph.trace(cv, shape), graph.example(cv, shape))
    if file is None:
        module = (_PeriodicFixed if cv.periodic else _Fixed)(script, cv.atoms, table)
    else:
        module = (_PeriodicMapped if cv.periodic else _Mapped)(script, cv.atoms, table, file)
    force = installation.torchforce()(torch.jit.script(module))
    force.setOutputsForces(True)
    return force


def _python_force(
    cv: LatentCV, shape: Shape, table: np.ndarray, file: str | None = None, parameters: dict[str, float] | None = None
) -> openmm.Force:
    """A `PythonForce` of the same."""
    force = openmm.PythonForce(_Compute(cv, shape, table, file), parameters or {})
    if hasattr(force, "setParticles"):  # from OpenMM 8.6 on
        force.setParticles([int(atom) for atom in cv.atoms])
    return force


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


class _Fixed(nn.Module):
    """What a TorchForce evaluates on all positions of a system without a box, with a table that never changes."""

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

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, self.box, self.table)


class _PeriodicFixed(_Fixed):
    """The same with box vectors."""

    def forward(self, positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, box.to(torch.float64), self.table)


class _Mapped(_Fixed):
    """The same with a table that is mapped anew whenever its version changes."""

    def __init__(self, graph: torch.jit.ScriptModule, atoms: np.ndarray, table: np.ndarray, file: str) -> None:
        super().__init__(graph, atoms, table)
        self.stem, self.length, self.version = file[:-1], len(table), 0.0

    def present(self, version: Tensor, positions: Tensor) -> Tensor:
        if float(version) != self.version:
            self.version = float(version)
            # Freezing would fold the reading of a file of constant name into a constant.
            file = self.stem + str(0 * int(version))
            # On the CPU this is still the file itself. Graphs that ask for the device at every step run a fifth slower.
            self.table = torch.from_file(file, True, self.length, dtype=torch.float64).to(positions.device)
        return self.table

    def forward(self, positions: Tensor, version: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, self.box, self.present(version, positions))


class _PeriodicMapped(_Mapped):
    """The same with box vectors."""

    def forward(self, positions: Tensor, box: Tensor, version: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, box.to(torch.float64), self.present(version, positions))


class _Compute:
    """What a PythonForce calls; picklable, since OpenMM copies forces by serializing them."""

    def __init__(self, cv: LatentCV, shape: Shape, table: np.ndarray, file: str | None = None) -> None:
        self.cv, self.shape, self.table, self.file = cv, shape, table, file
        self.periodic, self.box = cv.periodic, np.eye(3)
        self.evaluate = _compiled(cv, shape)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        positions = np.asarray(state.getPositions(asNumpy=True)._value, np.float64)
        box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value) if self.periodic else self.box
        if len(positions) == len(self.cv.atoms):
            return self.evaluate(positions, box, self.table)
        # OpenMM 8.5 gives and takes all atoms.
        energy, own = self.evaluate(positions[self.cv.atoms], box, self.table)
        forces = np.zeros_like(positions)
        forces[self.cv.atoms] = own
        return energy, forces

    def __reduce__(self):
        buffer = io.BytesIO()
        torch.jit.save(self.cv.module, buffer)
        return _restore_compute, (buffer.getvalue(), self.cv.metadata, self.shape, np.array(self.table), self.file)


def _restore_compute(module: bytes, metadata: dict, shape: Shape, table: np.ndarray, file: str | None) -> _Compute:
    if file is not None and os.path.exists(file):
        table = np.memmap(file, np.float64, "c", shape=table.shape)
    return _Compute(LatentCV(torch.jit.load(io.BytesIO(module)), metadata), shape, table, file)


def _compiled(cv: LatentCV, shape: Shape) -> Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]:
    """The graph as machine code: (positions, box, table) -> (energy, forces).

    A descriptor of one's own may contain an operation that has no machine code here. Then torch evaluates the graph:
    the same numbers, several times slower, and a warning that says so. LATF_COMPILE=0 in the environment asks for
    torch from the start, for scripts that are done before a new kernel is compiled.
    """
    traced, inputs = graph.trace(cv, shape), graph.example(cv, shape)
    if os.environ.get("LATF_COMPILE") != "0":
        try:
            from latf_sampling.cv.compiler import KernelError, compiled
        except ImportError as error:
            raise InstallationError(
                "bias: numba, which compiles the bias, is not installed: pip install numba (or set LATF_COMPILE=0 and "
                "do without, several times slower)."
            ) from error
        try:
            return compiled(traced, inputs)
        except KernelError as error:
            warnings.warn(f"bias: evaluated by torch, not as machine code ({error})", RuntimeWarning, stacklevel=5)
    script = torch.jit.freeze(graph.to_torchscript(traced, inputs).eval())

    def evaluate(positions: np.ndarray, box: np.ndarray, table: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = script(*(torch.from_numpy(array) for array in (positions, box, table)))
        return float(energy), forces.numpy()

    return evaluate
