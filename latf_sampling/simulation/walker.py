"""From a system and settings to finished segments of trajectory.

Every segment starts in a new OpenMM context from the state that the one before it left on the disk, with a seed of
its own. Going on after an interruption is therefore no special case: it does what the uninterrupted run does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.bias import OPES, FlowBias, Metadynamics, TrustRegion, respa_integrator
from latf_sampling.core import platforms, storage, streams
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data import layout
from latf_sampling.errors import LeftTrustRegion, SimulationError
from latf_sampling.features import as_mdtraj
from latf_sampling.learning.model import LaTF
from latf_sampling.settings import AnyBiasSettings, IntegratorSettings, Protocol, steps
from latf_sampling.systems import Molecule, build
from latf_sampling.units import BAR


def integrator(settings: IntegratorSettings, temperature: float, seed: int) -> openmm.LangevinMiddleIntegrator:
    """Langevin dynamics at a temperature, with a seed."""
    made = openmm.LangevinMiddleIntegrator(temperature, settings.friction, settings.timestep)
    made.setRandomNumberSeed(seed)
    return made


@dataclass(frozen=True)
class WalkerJob:
    """One walker of one round: everything a process needs to run it, or to go on with it.

    Attributes
    ----------
    protocol, round_index, walker
        The settings, and which of its walkers this is.
    folder
        Where its segments go.
    start
        NPZ file with "positions" (N, 3) in nm, "velocities" (N, 3) in nm/ps and, in a periodic system, "box" (3, 3) in
        nm; none is the protocol's structure, or one of its conformations, minimised.
    learned, hills
        Folder with the model and the CV file to bias along, and the folder where the walkers of the round share their
        bias; none for plain dynamics.
    system
        Folder where the campaign keeps its molecule; none builds it from the protocol.
    """

    protocol: Protocol
    round_index: int
    walker: int
    folder: Path
    start: Path | None = None
    learned: Path | None = None
    hills: Path | None = None
    system: Path | None = None

    @property
    def temperature(self) -> float:
        return self.protocol.runs[self.round_index].walkers[self.walker]

    @property
    def bias(self) -> AnyBiasSettings | None:
        return self.protocol.runs[self.round_index].bias

    @property
    def segments(self) -> int:
        return steps(self.protocol.runs[self.round_index].length, self.protocol.segment)

    @property
    def timestep(self) -> float:
        """ps of one step of the integrator: with a bias every few steps, all of them together."""
        return self.protocol.integrator.timestep * (1 if self.bias is None else self.bias.stride)


def run_walker(job: WalkerJob, progress: Callable[[float], None] = lambda fraction: None) -> None:
    """Run a walker's missing segments.

    Parameters
    ----------
    job
        What to run.
    progress
        Called with the fraction done.

    Raises
    ------
    SimulationError
        The simulation exploded; finished segments stay.
    """
    done = layout.finished_segments(job.folder)
    progress(len(done) / job.segments)
    if len(done) >= job.segments or layout.stopped(job.folder):
        return
    molecule = None if job.system is None else Molecule.load(job.system)
    if molecule is None:
        molecule = build(job.protocol.system, job.protocol.seed)
    _add_barostat(job, molecule.system)
    bias = make_bias(job, molecule)
    with nullcontext() if bias is None else closing(bias):
        if bias is not None:
            bias.rewind(done[-1]["step"] if done else 0)
        for index in range(len(done), job.segments):
            began = time.perf_counter()
            simulation = _simulation(job, molecule, bias, index)
            try:
                _run_segment(job, simulation, bias, index, progress, began)
            except LeftTrustRegion as left:
                layout.mark_stopped(job.folder, str(left))
                progress(1.0)
                return


def make_bias(job: WalkerJob, molecule: Molecule) -> Metadynamics | OPES | FlowBias | None:
    """The bias of a walker, which adds its force to the molecule's system; none for plain dynamics.

    What the walkers of the round have added so far is in it.
    """
    settings = job.bias
    if settings is None:
        return None
    frequency = steps(settings.interval, job.timestep)
    cv = LatentCV.load(job.learned / "cv.pt", molecule.topology)
    flow_start = settings.kind == "metadynamics" and settings.start == "flow"
    needs_model = settings.kind == "flow" or settings.trust is not None or flow_start
    model = LaTF.load(job.learned / "model.pt") if needs_model else None
    trust = None
    if settings.trust is not None:
        trust = TrustRegion(model, job.temperature, settings.trust.threshold, settings.trust.on_leaving)
    if settings.kind == "flow":
        return FlowBias(
            molecule.system, cv, model, job.temperature, settings.bias_factor, trust=trust, frequency=frequency
        )
    common = {
        "bias_factor": settings.bias_factor,
        "width": settings.width,
        "trust": trust,
        "directory": job.hills,
        "walker": f"walker-{job.walker:02d}",
    }
    if settings.kind == "opes":
        return OPES(molecule.system, cv, job.temperature, settings.barrier, frequency, **common)
    start = model if flow_start else None
    return Metadynamics(
        molecule.system, cv, job.temperature, height=settings.height, frequency=frequency, model=start, **common
    )


def _add_barostat(job: WalkerJob, system: openmm.System) -> None:
    settings = job.protocol.system.barostat
    if settings is not None:
        system.addForce(openmm.MonteCarloBarostat(settings.pressure, job.temperature, settings.interval))


def _simulation(job: WalkerJob, molecule: Molecule, bias, index: int) -> app.Simulation:
    """A new simulation at the beginning of a segment."""
    names = ("segment", job.round_index, job.walker, index)
    seed, settings = streams.stream_seed(job.protocol.seed, *names), job.protocol.integrator
    if bias is None or job.bias.stride == 1:
        dynamics = integrator(settings, job.temperature, seed)
    else:
        dynamics = respa_integrator(
            molecule.system, bias, job.temperature, settings.friction, settings.timestep, job.bias.stride, seed
        )
    for force in molecule.system.getForces():
        if isinstance(force, openmm.MonteCarloBarostat):
            force.setRandomNumberSeed(streams.stream_seed(job.protocol.seed, "barostat", *names))
    simulation = app.Simulation(
        molecule.topology,
        molecule.system,
        dynamics,
        platforms.pick_platform(job.protocol.system.platform, molecule.system.getNumParticles()),
    )
    context = simulation.context
    if index > 0:
        simulation.loadState(str(layout.segment_files(job.folder, index - 1)["state"]))
        simulation.currentStep = storage.read_json(job.folder / f"segment-{index - 1:03d}.json")["step"]
    elif job.start is not None:
        with np.load(job.start) as start:
            if "box" in start:
                context.setPeriodicBoxVectors(*start["box"])
            context.setPositions(start["positions"])
            context.setVelocities(start["velocities"])
    else:
        conformation = molecule.start(job.walker)
        if conformation.box is not None:
            context.setPeriodicBoxVectors(*conformation.box)
        context.setPositions(conformation.positions)
        simulation.minimizeEnergy()
        context.setVelocitiesToTemperature(job.temperature, seed)
    return simulation


def _run_segment(
    job: WalkerJob,
    simulation: app.Simulation,
    bias: Metadynamics | OPES | FlowBias | None,
    index: int,
    progress: Callable[[float], None],
    began: float,
) -> None:
    protocol, context = job.protocol, simulation.context
    stride = steps(protocol.frame_interval, job.timestep)
    count = steps(protocol.segment, protocol.frame_interval)
    advance = simulation.step if bias is None else lambda n: bias.step(simulation, n)
    groups = -1 if bias is None else ~(1 << bias.group) & 0xFFFFFFFF
    periodic = simulation.system.usesPeriodicBoundaryConditions()
    positions = np.empty((count, simulation.system.getNumParticles(), 3), np.float32)
    boxes = np.empty((count, 3, 3), np.float32) if periodic else None
    barostat = protocol.system.barostat
    energy, applied, offset = np.zeros(count), np.zeros(count), np.zeros(count)
    left = None
    for frame in range(count):
        try:
            left = _to_next_frame(simulation, advance, stride)
        except SimulationError as error:  # from the bias, which does not know whose it is
            raise SimulationError(f"round {job.round_index}, walker {job.walker}: {error}") from error
        except openmm.OpenMMException as error:
            raise _exploded(job, simulation, str(error)) from error
        try:
            state = context.getState(getPositions=True, getEnergy=True, groups=groups)
        except openmm.OpenMMException as error:
            raise _exploded(job, simulation, str(error)) from error
        energy[frame] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        exact = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        with np.errstate(over="ignore"):  # an atom may have flown to where single precision does not reach
            positions[frame] = exact
        if not (np.isfinite(energy[frame]) and np.isfinite(positions[frame]).all()):
            raise _exploded(job, simulation, f"the potential energy is {energy[frame]} kJ/mol")
        vectors = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer) if periodic else None
        if periodic:
            boxes[frame] = vectors
        if barostat is not None:  # what the ensemble weighs a frame by at any temperature and this pressure
            energy[frame] += barostat.pressure * BAR * np.linalg.det(vectors)
        if bias is not None:
            applied[frame] = bias.applied_bias(bias.cv(exact, vectors), simulation.currentStep)
            offset[frame] = bias.offset()
        if left is not None:
            count = frame + 1
            break
        progress((index + (frame + 1) / count) / job.segments)
    if bias is not None:
        bias.save()
    table = {"energy": energy[:count], "bias": applied[:count], "offset": offset[:count]}
    _write_segment(job, simulation, index, positions[:count], boxes, table, began)
    if left is not None:
        raise left


def _to_next_frame(simulation: app.Simulation, advance: Callable[[int], None], stride: int) -> LeftTrustRegion | None:
    """Go on by one frame; a walker that leaves its region on the way ends with this frame, for the next training."""
    end = simulation.currentStep + stride
    try:
        advance(stride)
    except LeftTrustRegion as left:
        simulation.step(end - simulation.currentStep)
        return left
    return None


def _write_segment(
    job: WalkerJob,
    simulation: app.Simulation,
    index: int,
    positions: np.ndarray,
    boxes: np.ndarray | None,
    table: dict[str, np.ndarray],
    began: float,
) -> None:
    """Put a finished segment on the disk; one whose walker was stopped has fewer frames than others."""
    protocol, count = job.protocol, len(positions)
    files = layout.segment_files(job.folder, index)
    times = index * protocol.segment + np.arange(1, count + 1) * protocol.frame_interval
    trajectory = mdtraj.Trajectory(positions, as_mdtraj(simulation.topology), times)
    if boxes is not None:
        trajectory.unitcell_vectors = boxes[:count]
    with storage.atomic_write(files["trajectory"]) as temporary:
        trajectory.save_netcdf(str(temporary))
    with storage.atomic_write(files["frames"]) as temporary:
        np.savez(temporary, **table)
    with storage.atomic_write(files["state"]) as temporary:
        simulation.saveState(str(temporary))
    summary = {
        "step": simulation.currentStep,
        "frames": count,
        "temperature": job.temperature,
        "seconds": time.perf_counter() - began,
    }
    layout.finish_segment(job.folder, index, summary)


def _exploded(job: WalkerJob, simulation: app.Simulation, why: str) -> SimulationError:
    return SimulationError(
        f"round {job.round_index}, walker {job.walker}: the simulation exploded near step {simulation.currentStep} "
        f"({why}). A shorter integrator.timestep, or a lower bias.height, usually mends it; finished segments are kept."
    )
