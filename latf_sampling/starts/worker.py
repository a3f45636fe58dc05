"""One context in which structures are made one after the other: pulled, minimized, thermalized, released, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import openmm
from openmm import app

from latf_sampling.bias import Umbrella
from latf_sampling.core import backends, devices, streams
from latf_sampling.core.lease import Lease
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SimulationError
from latf_sampling.starts.archive import ON_TARGET
from latf_sampling.starts.checks import Checks, Structure, TargetResult
from latf_sampling.starts.thermal import Thermal
from latf_sampling.units import KB

PULLING_TIME = 1.0
"""ps in which the umbrella moves by one `cv.sigma`; a shorter distance takes as long."""
MOVE_INTERVAL = 10
"""Steps from one move of the umbrella to the next."""
VELOCITY_DRAWS = 4
"""Velocities are drawn anew so many times while a structure is thermalized. Each time the difference of the potential
energy from its thermal mean is halved; friction alone would take picoseconds."""
MINIMIZER_ITERATIONS = 200
"""The minimizer only removes the strain of pulling."""
MIN_ENERGIES = 20
"""Smallest number of energies that a plain run gives."""
REPORT_STEPS = 50
"""Steps from one report of progress to the next."""
STABLE_PHASE = 0.5
"""Largest phase, in radians, of the umbrella's fastest oscillation in one time step."""


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that a process needs to make structures; it can be pickled.

    Attributes
    ----------
    system : str
        XML of the system without umbrella.
    topology : openmm.app.Topology
    variable : pathlib.Path
        File of the collective variable.
    temperature, timestep, friction : float
        K, ps and 1/ps.
    thermalization, release : int
        Steps.
    checks : Checks
    seed : int
    platform : str or None
        `None` takes the fastest one where the worker is.
    at_once : int or None
        Number of workers that share the cores of a machine; `None` where that is not known.
    devices : "auto" or tuple of int
        GPUs that workers use in turn.
    lease : Lease or None
        Under which workers go on.
    """

    system: str
    topology: app.Topology
    variable: Path
    temperature: float
    timestep: float
    friction: float
    thermalization: int
    release: int
    checks: Checks
    seed: int
    platform: str | None
    at_once: int | None
    devices: devices.Devices
    lease: Lease | None = None


def no_report(fraction: float) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class SourceFrame:
    """An archived frame: its index, positions (N, 3) and box vectors (3, 3), nm, and its latent point (d,)."""

    index: int
    positions: np.ndarray
    box: np.ndarray | None
    latent: np.ndarray


@dataclass(frozen=True)
class PlainRun:
    """A task: a short run without umbrella."""

    kind: ClassVar[str] = "plain run"
    number: int
    frame: SourceFrame


@dataclass(frozen=True)
class TargetTask:
    """A task: a structure at a target (d,), from one of several frames, which are tried in their order."""

    kind: ClassVar[str] = "target"
    number: int
    target: np.ndarray
    frames: Sequence[SourceFrame]
    thermal: Thermal


def part_of(kind: str, number: int) -> str:
    """Name of a task among the parts of a lease.

    >>> part_of("plain run", 3)
    'plain-run-3'
    """
    return f"{kind.replace(' ', '-')}-{number}"


def expected_steps(settings: WorkerSettings) -> dict[str, float]:
    """Steps of a plain run, and of a structure that is found at the first attempt; minimizing counts as so many."""
    interval, count = _plain_interval(settings)
    pulling = round(PULLING_TIME / settings.timestep) + MINIMIZER_ITERATIONS
    return {
        PlainRun.kind: settings.thermalization + interval * count,
        TargetTask.kind: pulling + settings.thermalization + settings.release,
    }


def _plain_interval(settings: WorkerSettings) -> tuple[int, int]:
    """Steps from one energy of a plain run to the next, and number of energies."""
    interval = settings.release or max(1, settings.thermalization // MIN_ENERGIES)
    return interval, max(MIN_ENERGIES, settings.thermalization // interval)


class Worker:
    """Runs `PlainRun` and `TargetTask` tasks.

    Attributes
    ----------
    report : callable
        Called with the fraction of the present task that is done; without effect unless it is set.

    Every attempt begins with new random numbers from a seed of its own, so that its result does not depend on what was
    done in the context before.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings, self.report = settings, no_report
        self._steps, self._made = expected_steps(settings), 0.0
        self.cv = LatentCV.load(settings.variable, settings.topology)
        system = backends.read_system(settings.system)
        self.stiffness = KB * settings.temperature / self.cv.noise**2
        self.umbrella = Umbrella(system, self.cv, np.zeros(self.cv.dim), self.stiffness)
        self.other_groups = ~(1 << self.umbrella.group) & 0xFFFFFFFF
        self.integrator = openmm.LangevinMiddleIntegrator(settings.temperature, settings.friction, settings.timestep)
        platform, properties = devices.pick(
            settings.platform, system.getNumParticles(), settings.devices, at_once=settings.at_once
        )
        self.simulation = app.Simulation(settings.topology, system, self.integrator, platform, properties)
        self.context = self.simulation.context

    def __call__(self, task: PlainRun | TargetTask) -> tuple[np.ndarray, np.ndarray] | str | TargetResult:
        self._kind, self._made = task.kind, 0.0
        if self.settings.lease is not None:
            self.report = self.settings.lease.reporter(part_of(task.kind, task.number))
        return self.run_plain(task) if isinstance(task, PlainRun) else self.make_structure(task)

    def _step(self, steps: int) -> None:
        """Simulate so many steps, and report the fraction of the task that is done."""
        for first in range(0, steps, REPORT_STEPS):
            part = min(REPORT_STEPS, steps - first)
            self.simulation.step(part)
            self._report_steps(part)

    def _report_steps(self, steps: float) -> None:
        self._made += steps
        self.report(min(1.0, self._made / self._steps[self._kind]))

    def run_plain(self, task: PlainRun) -> tuple[np.ndarray, np.ndarray] | str:
        """Energies (k,), and squared changes of the latent (k, d) over runs as long as the release.

        If the simulation explodes, the reason as text.
        """
        interval, count = _plain_interval(self.settings)
        try:
            self._begin(task.frame, "plain", task.number)
            self._thermalize("plain", task.number)
            energies, latents = [], [self.umbrella.values(self.context)]
            for _ in range(count):
                self._step(interval)
                energies.append(self._energy())
                latents.append(self.umbrella.values(self.context))
        except openmm.OpenMMException as error:
            return f"the simulation exploded ({error})"
        if not (np.isfinite(energies).all() and np.isfinite(latents).all()):
            return "the simulation exploded"
        changes = np.diff(latents, axis=0) ** 2
        return np.array(energies), changes if self.settings.release else np.zeros_like(changes)

    def make_structure(self, task: TargetTask) -> TargetResult:
        """Try one frame after the other, until a structure passes every check."""
        attempts: list[dict] = []
        for attempt, frame in enumerate(task.frames):
            pulled = bool(np.linalg.norm(task.target - frame.latent) > ON_TARGET * self.cv.noise)
            try:
                structure = self._attempt(task, attempt, frame, pulled)
            except (openmm.OpenMMException, SimulationError) as error:
                structure, values, reason = None, {}, f"the simulation exploded ({error})"
            else:
                values, reason = self.settings.checks.examine(
                    structure, task.target, task.thermal, frame.positions, frame.box
                )
            attempts.append({"source": frame.index, "pulled": pulled, **values, "reason": reason})
            if not reason:
                return TargetResult(attempts, structure)
        return TargetResult(attempts, None)

    def _attempt(self, task: TargetTask, attempt: int, frame: SourceFrame, pulled: bool) -> Structure:
        names = ("target", task.number, attempt)
        self._begin(frame, *names)
        self._switch_on(frame.latent if pulled else task.target)
        if pulled:
            distance = float(np.linalg.norm((task.target - frame.latent) / self.cv.sigma))
            steps = max(1, round(PULLING_TIME * max(1.0, distance) / self.settings.timestep))
            self.umbrella.steer(self.simulation, task.target, steps, MOVE_INTERVAL)
            self.simulation.minimizeEnergy(maxIterations=MINIMIZER_ITERATIONS)
        self._report_steps(self._steps[TargetTask.kind] - self.settings.thermalization - self.settings.release)
        self._thermalize(*names)
        held = self.umbrella.values(self.context)
        if self.settings.release:
            self._switch_off()
            self._step(self.settings.release)
        state = self.context.getState(getPositions=True, getVelocities=True)
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if frame.box is not None else None
        return Structure(
            np.array(state.getPositions(asNumpy=True)._value),
            np.array(state.getVelocities(asNumpy=True)._value),
            None if box is None else np.array(box),
            held,
            self.umbrella.values(self.context),
            self._energy(),
        )

    def _begin(self, frame: SourceFrame, *names: str | int) -> None:
        """Set the context to a frame, and all random numbers, a barostat's among them, to the beginning of a stream."""
        self._check_lease()
        self.integrator.setRandomNumberSeed(streams.stream_seed(self.settings.seed, "noise", *names))
        for k, force in enumerate(self.simulation.system.getForces()):
            if hasattr(force, "setRandomNumberSeed"):
                force.setRandomNumberSeed(streams.stream_seed(self.settings.seed, "force", k, *names))
        self.context.reinitialize()
        if frame.box is not None:
            self.context.setPeriodicBoxVectors(*frame.box)
        self.context.setPositions(frame.positions)
        # Archived positions have seven digits.
        self.context.applyConstraints(1e-6)
        self.context.computeVirtualSites()
        # OpenMM shifts drawn velocities by half a step with all forces; the umbrella at the previous target must not
        # be one of them.
        self._switch_off()
        self.context.setVelocitiesToTemperature(
            self.settings.temperature, streams.stream_seed(self.settings.seed, "velocities", *names)
        )

    def _switch_on(self, centers: np.ndarray) -> None:
        """Switch the umbrella on, at centers (d,)."""
        self.umbrella.stiffness = np.full(self.cv.dim, self.stiffness)
        self.umbrella.move_to(self.context, centers)
        self.integrator.setIntegrationForceGroups(0xFFFFFFFF)

    def _switch_off(self) -> None:
        """Switch the umbrella off."""
        self.umbrella.stiffness = np.zeros(self.cv.dim)
        self.umbrella.move_to(self.context, self.umbrella.centers)
        self.integrator.setIntegrationForceGroups(self.other_groups)  # so that the variable is not evaluated

    def _thermalize(self, *names: str | int) -> None:
        parts = np.diff(np.linspace(0, self.settings.thermalization, VELOCITY_DRAWS + 1).round().astype(int))
        for k, steps in enumerate(parts):
            self._check_lease()
            seed = streams.stream_seed(self.settings.seed, "thermalise", *names, k)
            self.context.setVelocitiesToTemperature(self.settings.temperature, seed)
            self._step(int(steps))

    def _check_lease(self) -> None:
        if self.settings.lease is not None:
            self.settings.lease.check()

    def _energy(self) -> float:
        """Potential energy without umbrella, kJ/mol."""
        return self.context.getState(getEnergy=True, groups=self.other_groups).getPotentialEnergy()._value


def particle_masses(system: openmm.System) -> np.ndarray:
    """The masses (N,) of a system's particles, amu."""
    return np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])


def stable_timestep(
    timestep: float,
    cv: LatentCV,
    temperature: float,
    system: openmm.System,
    positions: np.ndarray,
    boxes: np.ndarray | None,
) -> float:
    """The largest time step, ps, up to the given one, that is stable in an umbrella of stiffness kT / sigma^2.

    It is determined from the gradients of the variable on frames (n, N, 3).
    """
    steepest = float(np.quantile(cv.mobility(positions, particle_masses(system), boxes), 0.995))
    stiffness = KB * temperature / cv.noise**2
    if steepest == 0 or timestep <= (stable := STABLE_PHASE / float(np.sqrt(stiffness * steepest))):
        return timestep
    return float(f"{stable:.3g}")  # without the last bits, which may depend on how often torch has run the graph
