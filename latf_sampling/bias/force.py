"""From a bias shape in latent space to an OpenMM force, in whichever lane is installed.

A shape is a function (u, table) -> (energy, dE/du) of plain torch operations. Together with the collective variable and
the pull-back of dE/du to the atoms it is traced once into a graph without autograd (one network pass forward, one
back, whatever the latent dimension), which either lane evaluates:

- torchforce (OpenMM 8.4): a `TorchForce` around the graph. The table is read from a small file whenever a global
  parameter, its version, changes: a module is copied when a context is made and cannot be reached from Python later.
  The file always holds the present table, whatever the version, since a loaded state brings an older version back.
- pythonforce (OpenMM 8.5 and later): a `PythonForce` that calls the graph on the atoms that matter.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable

import numpy as np
import openmm
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from latf_sampling import runtime
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SimulationError

Shape = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class BiasForce:
    """A force of the latent variables with a table that can be changed while simulations run.

    A system with it can be serialized by `openmm.XmlSerializer`, and so copied. In the torchforce lane a copy shares
    the table, and works while this object lives, or for good if the table was never changed; in the pythonforce lane
    a copy keeps the initial table.

    Parameters
    ----------
    system
        Gets the force, in a force group of its own, so that its energy can be told from the others'.
    cv
        The collective variable.
    shape
        Function of u (d,) and the table (m,), both double, giving the energy, kJ/mol, and its gradient in u (d,).
    table
        Initial values (m,).

    Attributes
    ----------
    force : openmm.Force
        What was added to the system.
    group : int
        Its force group.
    version : int
        How often the table was changed.

    Raises
    ------
    CVError
        The system has another number of particles than the variable was made for.
    SimulationError
        Only one of variable and system is periodic, or no force group is free.
    """

    def __init__(self, system: openmm.System, cv: LatentCV, shape: Shape, table: np.ndarray) -> None:
        self.group = _free_group(system, cv)
        self._system = system  # owns the force, which `set_table` changes
        self._table = np.array(table, dtype=np.float64)
        # No other force of the system has this name, and a script gives the same one in every run: states that one
        # run saves can be loaded in the next.
        self._parameter = f"latf_version_{system.getNumForces()}"
        self.version = 0
        self._file = None
        graph = _trace(cv, shape, len(self._table))
        if runtime.lane() == "torchforce":
            directory = tempfile.mkdtemp(prefix="latf-bias-")
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            self._file = f"{directory}/table-0"
            self._write()
            wrapper = (_PeriodicModule if cv.periodic else _Module)(graph, cv.atoms, directory + "/table-", self._table)
            self.force = runtime.torchforce()(torch.jit.script(wrapper))
            self.force.setOutputsForces(True)
            self.force.addGlobalParameter(self._parameter, 0.0)
        else:
            self._compute = _Compute(graph, torch.from_numpy(self._table), cv.periodic)
            self.force = openmm.PythonForce(self._compute, {self._parameter: 0.0})
            self.force.setParticles([int(atom) for atom in cv.atoms])
        self.force.setUsesPeriodicBoundaryConditions(cv.periodic)
        self.force.setForceGroup(self.group)
        system.addForce(self.force)

    def set_table(self, context: openmm.Context, table: np.ndarray) -> None:
        """Give the force new values, in this context and in those made from now on; for others, see `refresh`."""
        self._table[:] = table
        self.version += 1
        if self._file is not None:
            self._write()
            self.force.setGlobalParameterDefaultValue(0, self.version)
        context.setParameter(self._parameter, self.version)

    def refresh(self, context: openmm.Context) -> None:
        """Give a context the present values, where they were changed by way of another one, or its state was loaded."""
        if context.getParameter(self._parameter) != self.version:
            context.setParameter(self._parameter, self.version)

    def _write(self) -> None:
        """Replace the file at once, for a context may be reading it."""
        self._table.tofile(f"{self._file}.new")
        os.replace(f"{self._file}.new", self._file)


class Bias:
    """What every bias can do, whatever its shape: `cv` is its variable, `_force` its `BiasForce`."""

    cv: LatentCV
    _force: BiasForce

    def step(self, simulation: openmm.app.Simulation, steps: int) -> None:
        """Simulate so many steps."""
        self._force.refresh(simulation.context)
        simulation.step(steps)

    def values(self, context: openmm.Context) -> np.ndarray:
        """Present value (d,) of the collective variable."""
        return self.cv.of_context(context)


def _free_group(system: openmm.System, cv: LatentCV) -> int:
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
    unit = torch.eye(cv.dim, dtype=torch.float64)[component]

    def shape(u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        return u[component], unit

    graph = _trace(cv, shape, 1)
    if runtime.lane() == "torchforce":
        wrapper = (_PeriodicComponent if cv.periodic else _Component)(graph, cv.atoms)
        force = runtime.torchforce()(torch.jit.script(wrapper))
        force.setOutputsForces(True)
    else:
        force = openmm.PythonForce(_Compute(graph, torch.zeros(1, dtype=torch.float64), cv.periodic), {})
        force.setParticles([int(atom) for atom in cv.atoms])
    force.setUsesPeriodicBoundaryConditions(cv.periodic)
    return force


def _trace(cv: LatentCV, shape: Shape, length: int) -> torch.jit.ScriptModule:
    """One graph: (positions (n, 3) of the CV's atoms, box (3, 3), table (m,)) -> (energy, forces (n, 3))."""

    def energy_and_forces(positions: Tensor, box: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.detach().requires_grad_(True)
        u = cv.module.compact(positions, box if cv.periodic else None)
        with torch.no_grad():
            energy, slope = shape(u, table)
        (gradient,) = torch.autograd.grad(u, positions, slope)
        return energy, -gradient

    example = (
        torch.from_numpy(0.2 * np.random.default_rng(0).normal(size=(len(cv.atoms), 3))),
        10 * torch.eye(3, dtype=torch.float64),
        torch.zeros(length, dtype=torch.float64),
    )
    # The profiling executor would record its own guards and fused kernels instead of plain operations.
    with torch.jit.optimized_execution(False):
        graph = make_fx(energy_and_forces)(*example)
    for node in graph.graph.nodes:
        if node.op == "call_function":
            # A device written into the graph would tie it to the machine that traced it.
            node.kwargs = {key: value for key, value in node.kwargs.items() if key not in ("device", "pin_memory")}
            if node.target is torch.ops.aten.detach.default:
                node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with torch.no_grad():
        return torch.jit.trace(graph, example, check_trace=False)


class _Component(nn.Module):
    """What a TorchForce evaluates on all positions of a system without a box, with a table that never changes."""

    def __init__(self, graph: torch.jit.ScriptModule, atoms: np.ndarray) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer("atoms", torch.from_numpy(atoms))
        self.register_buffer("box", torch.eye(3, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(1, dtype=torch.float64))

    def evaluate(self, positions: Tensor, box: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        # A TorchForce asks for gradients of all it evaluates; recording for them would double the cost.
        with torch.no_grad():
            x = positions.index_select(0, self.atoms).to(torch.float64)
            energy, forces = self.graph(x, box, table)
            return energy, torch.zeros_like(positions).index_copy(0, self.atoms, forces.to(positions.dtype))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, self.box, self.empty)


class _PeriodicComponent(_Component):
    """The same with box vectors."""

    def forward(self, positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, box.to(torch.float64), self.empty)


class _Module(_Component):
    """The same with a table that is read anew whenever its version changes."""

    def __init__(self, graph: torch.jit.ScriptModule, atoms: np.ndarray, path: str, table: np.ndarray) -> None:
        super().__init__(graph, atoms)
        self.path, self.length, self.version = path, len(table), 0.0
        self.table = torch.from_numpy(table.copy())

    def present(self, version: Tensor, device: torch.device) -> Tensor:
        if float(version) != self.version:
            self.version = float(version)
            # Freezing would fold the reading of a file of constant name into a constant.
            path = self.path + str(0 * int(version))
            self.table = torch.from_file(path, False, self.length, dtype=torch.float64).clone()
        if self.table.device != device:
            self.table = self.table.to(device)
        return self.table

    def forward(self, positions: Tensor, version: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, self.box, self.present(version, positions.device))


class _PeriodicModule(_Module):
    """The same with box vectors."""

    def forward(self, positions: Tensor, box: Tensor, version: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(positions, box.to(torch.float64), self.present(version, positions.device))


class _Compute:
    """What a PythonForce calls; picklable, since OpenMM copies forces by serializing them."""

    def __init__(self, graph: torch.jit.ScriptModule, table: Tensor, periodic: bool) -> None:
        self.graph, self.table, self.periodic = torch.jit.freeze(graph.eval()), table, periodic
        self.box = torch.eye(3, dtype=torch.float64)
        self._source = graph

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        positions = torch.from_numpy(np.asarray(state.getPositions(asNumpy=True)._value, dtype=np.float64))
        box = (
            torch.from_numpy(np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value))
            if self.periodic
            else self.box
        )
        energy, forces = self.graph(positions, box, self.table)
        return float(energy), forces.numpy()

    def __reduce__(self):
        buffer = io.BytesIO()
        torch.jit.save(self._source, buffer)
        return _restore_compute, (buffer.getvalue(), self.table.numpy(), self.periodic)


def _restore_compute(graph: bytes, table: np.ndarray, periodic: bool) -> _Compute:
    return _Compute(torch.jit.load(io.BytesIO(graph)), torch.from_numpy(table), periodic)
