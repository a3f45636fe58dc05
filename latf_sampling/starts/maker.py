"""One context in which structures are made, one after the other: pulled, minimised, thermalised, released, examined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from latf_sampling.bias import Umbrella
from latf_sampling.core import platforms, streams
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SimulationError
from latf_sampling.starts.archive import CLOSE
from latf_sampling.starts.checks import Checks, Found
from latf_sampling.starts.thermal import Thermal
from latf_sampling.units import KB

PULL = 1.0
"""ps in which the umbrella moves by one `cv.sigma`; a shorter way takes as long."""
MOVE = 10
"""Steps from one move of the umbrella to the next."""
ROUNDS = 4
"""Velocities are drawn anew so many times while a structure is thermalised: each time what the potential energy lacks
of being thermal halves, where friction alone would take picoseconds."""
MINIMISE = 200
"""Iterations of the minimiser, which only takes the strain out of what was pulled."""
LOOKS = 20
"""Energies are taken so many times in a plain run, at least."""
STABLE_PHASE = 0.5
"""The umbrella's fastest oscillation may turn by so many radians in one time step."""


@dataclass(frozen=True)
class Recipe:
    """All that a process needs to make structures; it can be pickled.

    Attributes
    ----------
    system : str
        XML of the system without umbrella.
    topology : openmm.app.Topology
    variable : pathlib.Path
        File of the collective variable.
    temperature, timestep, friction : float
        K, ps and 1/ps.
    thermalise, release : int
        Steps.
    checks : Checks
    seed : int
    platform : str or None
    threads : int or None
        Threads of the CPU platform in this process; None takes its default.
    """

    system: str
    topology: app.Topology
    variable: Path
    temperature: float
    timestep: float
    friction: float
    thermalise: int
    release: int
    checks: Checks
    seed: int
    platform: str | None
    threads: int | None


@dataclass(frozen=True)
class Frame:
    """An archived frame: its index, positions (N, 3) and box vectors, nm, and its latent point (d,)."""

    index: int
    positions: np.ndarray
    box: np.ndarray | None
    latent: np.ndarray


@dataclass(frozen=True)
class PlainRun:
    """A task: a short run without umbrella."""

    number: int
    frame: Frame


@dataclass(frozen=True)
class Making:
    """A task: a structure at a target (d,), from one of some frames, the best first."""

    number: int
    target: np.ndarray
    frames: Sequence[Frame]
    thermal: Thermal


@dataclass(frozen=True)
class Made:
    """What became of a target.

    Attributes
    ----------
    attempts : list of dict
        One for each frame that was tried, in order: "source", "pulled", every check's value, and "reason", which is
        empty in the last one if there is a structure.
    found : Found or None
        The structure.
    """

    attempts: list[dict]
    found: Found | None


class Maker:
    """Does `PlainRun` and `Making` tasks.

    Every attempt begins with new random numbers from a seed of its own, so that its result depends on nothing that was
    done in the context before.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.cv = LatentCV.load(recipe.variable, recipe.topology)
        system = openmm.XmlSerializer.deserialize(recipe.system)
        self.natural = KB * recipe.temperature / self.cv.noise**2
        self.umbrella = Umbrella(system, self.cv, np.zeros(self.cv.dim), self.natural)
        self.without = ~(1 << self.umbrella.group) & 0xFFFFFFFF
        self.integrator = openmm.LangevinMiddleIntegrator(recipe.temperature, recipe.friction, recipe.timestep)
        platform = platforms.pick_platform(recipe.platform, system.getNumParticles())
        properties = {}
        if recipe.threads is not None and platform.getName() == "CPU":
            properties["Threads"] = str(recipe.threads)
        self.simulation = app.Simulation(recipe.topology, system, self.integrator, platform, properties)
        self.context = self.simulation.context

    def __call__(self, task: PlainRun | Making):
        return self.run(task) if isinstance(task, PlainRun) else self.make(task)

    def run(self, task: PlainRun) -> tuple[np.ndarray, np.ndarray] | str:
        """Energies (k,), and squared changes of the latent (k, d) over runs as long as the release.

        Where the simulation explodes, the words that say so.
        """
        interval = self.recipe.release or max(1, self.recipe.thermalise // LOOKS)
        try:
            self._begin(task.frame, "plain", task.number)
            self._thermalise("plain", task.number)
            energies, latents = [], [self.umbrella.values(self.context)]
            for _ in range(max(LOOKS, self.recipe.thermalise // interval)):
                self.simulation.step(interval)
                energies.append(self._energy())
                latents.append(self.umbrella.values(self.context))
        except openmm.OpenMMException as error:
            return f"the simulation exploded ({error})"
        if not (np.isfinite(energies).all() and np.isfinite(latents).all()):
            return "the simulation exploded"
        changes = np.diff(latents, axis=0) ** 2
        return np.array(energies), changes if self.recipe.release else np.zeros_like(changes)

    def make(self, task: Making) -> Made:
        """Try one frame after the other, until a structure passes every check."""
        attempts: list[dict] = []
        for attempt, frame in enumerate(task.frames):
            pulled = bool(np.linalg.norm(task.target - frame.latent) > CLOSE * self.cv.noise)
            found, values = None, {}
            try:
                found = self._attempt(task, attempt, frame, pulled)
            except (openmm.OpenMMException, SimulationError) as error:
                why = f"the simulation exploded ({error})"
            if found is not None:
                values, why = self.recipe.checks.examine(found, task.target, task.thermal, frame.positions, frame.box)
            attempts.append({"source": frame.index, "pulled": pulled, **values, "reason": why})
            if not why:
                return Made(attempts, found)
        return Made(attempts, None)

    def _attempt(self, task: Making, attempt: int, frame: Frame, pulled: bool) -> Found:
        names = ("target", task.number, attempt)
        self._begin(frame, *names)
        self._hold(frame.latent if pulled else task.target)
        if pulled:
            way = float(np.linalg.norm((task.target - frame.latent) / self.cv.sigma))
            steps = max(1, round(PULL * max(1.0, way) / self.recipe.timestep))
            self.umbrella.steer(self.simulation, task.target, steps, MOVE)
            self.simulation.minimizeEnergy(maxIterations=MINIMISE)
        self._thermalise(*names)
        held = self.umbrella.values(self.context)
        if self.recipe.release:
            self._let_go()
            self.simulation.step(self.recipe.release)
        state = self.context.getState(getPositions=True, getVelocities=True)
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if frame.box is not None else None
        return Found(
            np.array(state.getPositions(asNumpy=True)._value),
            np.array(state.getVelocities(asNumpy=True)._value),
            None if box is None else np.array(box),
            held,
            self.umbrella.values(self.context),
            self._energy(),
        )

    def _begin(self, frame: Frame, *names: str | int) -> None:
        """Put the context to a frame, and its random numbers, a barostat's among them, to the beginning of a stream."""
        self.integrator.setRandomNumberSeed(streams.stream_seed(self.recipe.seed, "noise", *names))
        for k, force in enumerate(self.simulation.system.getForces()):
            if hasattr(force, "setRandomNumberSeed"):
                force.setRandomNumberSeed(streams.stream_seed(self.recipe.seed, "force", k, *names))
        self.context.reinitialize()
        if frame.box is not None:
            self.context.setPeriodicBoxVectors(*frame.box)
        self.context.setPositions(frame.positions)
        # Archived positions have seven digits.
        self.context.applyConstraints(1e-6)
        self.context.computeVirtualSites()
        # Velocities are drawn for half a step before, by all forces: not by the umbrella of the target before this one.
        self._let_go()
        self.context.setVelocitiesToTemperature(
            self.recipe.temperature, streams.stream_seed(self.recipe.seed, "velocities", *names)
        )

    def _hold(self, centers: np.ndarray) -> None:
        self.umbrella.stiffness = np.full(self.cv.dim, self.natural)
        self.umbrella.move_to(self.context, centers)
        self.integrator.setIntegrationForceGroups(0xFFFFFFFF)

    def _let_go(self) -> None:
        self.umbrella.stiffness = np.zeros(self.cv.dim)
        self.umbrella.move_to(self.context, self.umbrella.centers)
        self.integrator.setIntegrationForceGroups(self.without)  # which saves its evaluation

    def _thermalise(self, *names: str | int) -> None:
        for k, part in enumerate(np.diff(np.linspace(0, self.recipe.thermalise, ROUNDS + 1).round().astype(int))):
            seed = streams.stream_seed(self.recipe.seed, "thermalise", *names, k)
            self.context.setVelocitiesToTemperature(self.recipe.temperature, seed)
            self.simulation.step(int(part))

    def _energy(self) -> float:
        """Without umbrella, kJ/mol."""
        return self.context.getState(getEnergy=True, groups=self.without).getPotentialEnergy()._value


def stable_timestep(
    timestep: float, cv: LatentCV, temperature: float, system: openmm.System, positions, boxes
) -> float:
    """A time step (ps) that an umbrella of stiffness kT / sigma^2 lets be stable on frames (n, N, 3)."""
    masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
    steepest = float(np.quantile(cv.mobility(positions, masses, boxes), 0.995))
    natural = KB * temperature / cv.noise**2
    if steepest == 0 or timestep <= (stable := STABLE_PHASE / float(np.sqrt(natural * steepest))):
        return timestep
    return float(f"{stable:.3g}")  # without the last bits, which may depend on how often torch has run the graph
