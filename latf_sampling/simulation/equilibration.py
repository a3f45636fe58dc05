"""From a structure that was just built to one that a simulation at equilibrium can begin with.

The stages are minimization; heating at constant volume with the solute's heavy atoms restrained; letting the restraints
go in steps; and dynamics without them, from the last half of which energy and density tell whether they still drift.
With a barostat, or a pressure that the volume is to be found at, everything after the heating is at constant pressure.

Each stage begins in a new context from the state that the one before saved, with a seed of its own, and its manifest is
written last: an equilibration that was interrupted goes on after its last finished stage, to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.core import devices, storage, streams
from latf_sampling.core.arrays import read_npz
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.provenance import Attempt
from latf_sampling.errors import SimulationError
from latf_sampling.features import as_mdtraj
from latf_sampling.settings import Protocol
from latf_sampling.settings.equilibration import STAGES_OF_RELEASE, EquilibrationSettings
from latf_sampling.simulation.dynamics import integrator
from latf_sampling.simulation.explosion import KineticLimit, usual_timestep
from latf_sampling.simulation.minimization import EXPECTED, minimize
from latf_sampling.systems import Molecule
from latf_sampling.units import to_float

HEATING_STEPS = 10
"""Temperatures on the way up, the first of which is a tenth of the last."""
SAMPLES = 100
"""Energies and volumes that are noted in the stage without restraints, evenly in time."""
BAROSTAT_INTERVAL = 25
"""Steps between changes of the box where the volume is to be found."""
DRIFT = 2.0
"""The means of the two quarters at the end differ by more standard deviations than this: something still drifts. Those
of uncorrelated samples differ by 0.3."""
DENSE, THIN = 1150.0, 850.0
"""kg/m^3; a box of water is between these."""
LEAST_WATER = 0.5
"""Share of the atoms that has to be water's for the density to be judged."""
KG_PER_M3 = 1.66053907
"""An amu/nm^3."""
FINISHED = "equilibrated"
"""Name of the files of the end."""


@dataclass(frozen=True)
class EquilibrationJob:
    """One equilibration, as it is handed to a process.

    Attributes
    ----------
    protocol
        The settings.
    directory
        Folder for its files.
    system
        Folder with the campaign's molecule.
    temperature
        K.
    walker
        The first walker that begins with it, which tells the conformation and the device.
    pressure
        bar, where the volume is to be found; `None` with a barostat and at a volume that is given.
    volume
        nm^3 that the box has from the beginning; `None` is that of the structure.
    at_once
        Number of equilibrations that share the cores of a machine; `None` where that is not known.
    """

    protocol: Protocol
    directory: Path
    system: Path
    temperature: float
    walker: int
    pressure: float | None = None
    volume: float | None = None
    at_once: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"equilibration at {self.temperature:g} K ({self.directory.name})"

    @property
    def settings(self) -> EquilibrationSettings:
        assert self.protocol.equilibrate is not None
        return self.protocol.equilibrate

    @property
    def start(self) -> Path:
        """NPZ file with what walkers start from: positions, velocities and box."""
        return self.directory / f"{FINISHED}.npz"

    @property
    def marker(self) -> Path:
        """Manifest of the whole, written last."""
        return self.directory / f"{FINISHED}.json"

    @property
    def is_finished(self) -> bool:
        return self.marker.exists()


@dataclass(frozen=True)
class Stage:
    """A part of an equilibration: its name, its length in ps, and under what it is simulated."""

    name: str
    time: float
    stiffness: float
    at_pressure: bool
    heats: bool = False


def stages(job: EquilibrationJob) -> list[Stage]:
    """The stages of an equilibration, in their order."""
    settings = job.settings
    at_pressure = _at_pressure(job)
    listed = [Stage("heating", settings.heating, settings.stiffness, False, heats=True)]
    for number, share in enumerate(STAGES_OF_RELEASE, 1):
        time = settings.release / len(STAGES_OF_RELEASE)
        listed.append(Stage(f"release-{number}", time, share * settings.stiffness, at_pressure))
    listed.append(Stage("free", settings.length, 0.0, at_pressure))
    if job.pressure is not None:
        listed.append(Stage("mean-volume", settings.length, 0.0, False))
    return listed


def equilibrate(job: EquilibrationJob, progress: Callable[[float, str], None] = lambda fraction, words: None) -> None:
    """Run the stages that are missing, and write what walkers start from.

    Parameters
    ----------
    job
        The equilibration.
    progress
        Called with the fraction that is done, and a few words.

    Raises
    ------
    SimulationError
        It exploded, or the box became too small; names the stage.
    """
    if job.is_finished:
        return
    listed, attempt = stages(job), Attempt(job.directory, "equilibration")
    done = minimization = EXPECTED * job.protocol.integrator.timestep  # which takes as long as so much dynamics
    total = minimization + sum(stage.time for stage in listed)
    arrays, summary = None, {}
    for number, stage in enumerate(listed):
        files = job.directory / f"stage-{number}.npz", job.directory / f"stage-{number}.json"
        if files[1].exists():
            manifest = Manifest.load(files[1]).verified()
            arrays = read_npz(files[0])
        else:
            if stage.name == "mean-volume":
                arrays = _with_volume(job, arrays, summary["free"]["volume"])
            arrays, content = _run(
                job, number, stage, arrays,
                lambda share, d=done, s=stage: progress((d + share * s.time) / total, s.name),
                lambda share: progress(share * minimization / total, "minimization"),
            )  # fmt: skip
            _write(files[0], arrays)
            manifest = Manifest.write(files[1], content, [files[0]])
        summary[stage.name] = manifest.content
        done += stage.time
        progress(done / total, stage.name)
    assert arrays is not None
    _write(job.start, arrays)
    content = {"temperature": job.temperature, "stages": summary, "warnings": list(_remarks(job, summary))}
    if "box" in arrays:
        content["volume"] = float(np.linalg.det(arrays["box"]))
    Manifest.write(job.marker, content, [job.start], attempt.provenance(stream=list(_stream(job))))


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with storage.atomic_write(file) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def _stream(job: EquilibrationJob, *more: str | int) -> tuple[str | int, ...]:
    return ("equilibration", job.directory.name, *more)


def _run(
    job: EquilibrationJob,
    number: int,
    stage: Stage,
    arrays: dict[str, np.ndarray] | None,
    progress: Callable[[float], None],
    minimized: Callable[[float], None],
) -> tuple[dict[str, np.ndarray], dict]:
    """Simulate a stage, the first one after a minimization.

    Returns positions, velocities and box at its end, and what it was like.
    """
    molecule = Molecule.load(job.system)
    assert molecule is not None, "a campaign stores its molecule first"
    system, conformation = molecule.system, molecule.start(job.walker)
    periodic = system.usesPeriodicBoundaryConditions()
    if stage.stiffness > 0:
        system.addForce(_restraints(molecule, conformation.positions, stage.stiffness))
    if stage.at_pressure:
        barostat = job.protocol.system.barostat
        pressure = job.pressure if barostat is None else barostat.pressure
        interval = BAROSTAT_INTERVAL if barostat is None else barostat.interval
        force = openmm.MonteCarloBarostat(pressure, job.temperature, interval)
        force.setRandomNumberSeed(streams.stream_seed(job.protocol.seed, "barostat", *_stream(job, number)))
        system.addForce(force)
    dynamics = integrator(
        job.protocol.integrator, job.temperature, streams.stream_seed(job.protocol.seed, *_stream(job, number))
    )
    chosen, use = job.protocol.system.platform, job.protocol.devices.use
    platform, properties = devices.pick(chosen, system.getNumParticles(), use, job.walker, job.at_once)
    try:
        simulation = app.Simulation(molecule.topology, system, dynamics, platform, properties)
        context = simulation.context
        if arrays is None:
            _place(job, molecule, simulation, minimized)
        else:
            if "box" in arrays:
                context.setPeriodicBoxVectors(*arrays["box"])
            context.setPositions(arrays["positions"])
            context.setVelocities(arrays["velocities"])
        content = {"time": stage.time, "stiffness": stage.stiffness, "constant_pressure": stage.at_pressure}
        content |= _simulate(job, stage, simulation, progress)
        state = context.getState(positions=True, velocities=True)
    except openmm.OpenMMException as error:
        raise SimulationError(f"{job.name}: stage {stage.name} failed ({error}).") from error
    found = {
        "positions": state.getPositions(asNumpy=True)._value,
        "velocities": np.asarray(state.getVelocities(asNumpy=True)._value),
    }
    if periodic:
        found["box"] = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value)
    return found, content


def _place(
    job: EquilibrationJob, molecule: Molecule, simulation: app.Simulation, progress: Callable[[float], None]
) -> None:
    """The structure, with the volume that it is to have, minimized and cold."""
    conformation, context = molecule.start(job.walker), simulation.context
    arrays = {"positions": conformation.positions}
    if molecule.system.usesPeriodicBoundaryConditions():
        box = conformation.box
        if box is None:
            box = np.array([vector._value for vector in molecule.system.getDefaultPeriodicBoxVectors()])
        arrays["box"] = box
        if job.volume is not None:
            arrays = _with_volume(job, arrays, job.volume)
        context.setPeriodicBoxVectors(*arrays["box"])
    context.setPositions(arrays["positions"])
    steps = sum(stage.time for stage in stages(job)) / job.protocol.integrator.timestep
    minimize(simulation, round(steps), progress)
    seed = streams.stream_seed(job.protocol.seed, *_stream(job, "velocities"))
    context.setVelocitiesToTemperature(job.temperature / HEATING_STEPS, seed)


def _simulate(
    job: EquilibrationJob, stage: Stage, simulation: app.Simulation, progress: Callable[[float], None]
) -> dict:
    """Run a stage; energies and volumes of its last half where it is one without restraints."""
    context, integrator_ = simulation.context, simulation.integrator
    steps = max(round(stage.time / job.protocol.integrator.timestep), 1)
    parts = HEATING_STEPS if stage.heats else SAMPLES
    borders = np.linspace(0, steps, parts + 1).astype(int)
    limit = KineticLimit(simulation.system, job.temperature)
    energies, volumes = [], []
    for part, count in enumerate(np.diff(borders)):
        if stage.heats:
            integrator_.setTemperature(job.temperature * (part + 1) / parts)
        simulation.step(int(count))
        state = context.getState(energy=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        excess = limit.excess(state.getKineticEnergy()._value)
        if not np.isfinite(energy) or excess is not None:
            usual = usual_timestep(simulation.system, simulation.topology)
            hint = "" if usual is None else f"; {usual[0]:g} fs is the longest step that is usual with {usual[1]}"
            raise SimulationError(
                f"{job.name}: exploded in stage {stage.name} "
                f"({excess or f'the potential energy is {energy} kJ/mol'}{hint}); look at the structure near its start."
            )
        energies.append(energy)
        volumes.append(state.getPeriodicBoxVolume()._value if simulation.system.usesPeriodicBoundaryConditions() else 0)
        progress((part + 1) / parts)
    late = slice(parts // 2, None)
    values = {"energy": energies[late], "volume": volumes[late]}
    content = {"energy": float(np.mean(values["energy"])), "volume": float(np.mean(values["volume"]))}
    if stage.name == "free":
        content |= {f"{name}_drift": _drift(np.array(series)) for name, series in values.items()}
        masses = sum(simulation.system.getParticleMass(k)._value for k in range(simulation.system.getNumParticles()))
        if content["volume"] > 0:
            content["density"] = KG_PER_M3 * masses / content["volume"]
    return content


def _drift(series: np.ndarray) -> float:
    """Difference between the means of the two halves of a series, in standard deviations of its halves."""
    first, second = np.array_split(series, 2)
    spread = np.sqrt(0.5 * (first.var() + second.var()))
    return float(abs(second.mean() - first.mean()) / spread) if spread > 0 else 0.0


def _remarks(job: EquilibrationJob, summary: dict[str, dict]) -> Iterator[str]:
    """What is wrong with the end, a sentence each."""
    free = summary["free"]
    drifting = [name for name in ("energy", "volume") if free[f"{name}_drift"] > DRIFT]
    if drifting:
        yield (
            f"{job.name}: the {' and the '.join(drifting)} still drifted at the end of {job.settings.length:g} ps; "
            "give a longer equilibrate.length."
        )
    if "density" in free and not THIN <= free["density"] <= DENSE and _water(job) > LEAST_WATER:
        remedy = "look at the box" if _at_pressure(job) else "give equilibrate.pressure"
        amount = "thin" if free["density"] < THIN else "dense"
        yield f"{job.name}: a box of water with {free['density']:.0f} kg/m^3 is too {amount}; {remedy}."


def _at_pressure(job: EquilibrationJob) -> bool:
    """Whether the stages after the heating are at constant pressure."""
    return job.pressure is not None or job.protocol.system.barostat is not None


def _water(job: EquilibrationJob) -> float:
    """Share of the atoms that is water's."""
    molecule = Molecule.load(job.system)
    assert molecule is not None
    atoms = list(as_mdtraj(molecule.topology).atoms)
    return sum(atom.residue.is_water for atom in atoms) / len(atoms)


def _restraints(molecule: Molecule, positions: np.ndarray, stiffness: float) -> openmm.CustomExternalForce:
    """Harmonic restraints of the heavy atoms that are neither water nor ions."""
    periodic = molecule.system.usesPeriodicBoundaryConditions()
    squared = "periodicdistance(x, y, z, x0, y0, z0)^2" if periodic else "(x-x0)^2 + (y-y0)^2 + (z-z0)^2"
    force = openmm.CustomExternalForce(f"0.5*{stiffness}*({squared})")
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for atom in as_mdtraj(molecule.topology).atoms:
        solvent = atom.residue.is_water or atom.residue.n_atoms == 1
        heavy = atom.element is not None and atom.element.symbol not in ("H", "VS")
        if heavy and not solvent and to_float(molecule.system.getParticleMass(atom.index), "mass") > 0:
            force.addParticle(atom.index, positions[atom.index])
    return force


def _with_volume(job: EquilibrationJob, arrays: dict[str, np.ndarray] | None, volume: float) -> dict[str, np.ndarray]:
    """The same molecules, moved as a whole with a box that is scaled to a volume, nm^3."""
    assert arrays is not None
    molecule = Molecule.load(job.system)
    assert molecule is not None
    factor = (volume / float(np.linalg.det(arrays["box"]))) ** (1 / 3)
    positions = np.array(arrays["positions"])
    context = openmm.Context(
        molecule.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for atoms in context.getMolecules():
        center = positions[list(atoms)].mean(0)
        positions[list(atoms)] += (factor - 1) * center
    return {**arrays, "positions": positions, "box": factor * np.asarray(arrays["box"])}
