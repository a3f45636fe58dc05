"""From a system and settings to finished segments of trajectory.

Every segment starts in a new OpenMM context from the state that the previous one saved, with a seed of its own. A run
that continues after an interruption therefore does exactly what the uninterrupted run does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.bias import Bias, respa_integrator
from latf_sampling.bias.from_settings import BiasTask
from latf_sampling.bias.from_settings import make_bias as bias_from_settings
from latf_sampling.core import platforms, storage, streams
from latf_sampling.core.arrays import read_npz
from latf_sampling.core.openmm_xml import read_openmm_xml
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.layout import LearningDirectory, WalkerDirectory
from latf_sampling.data.trajectory_writers import write_netcdf
from latf_sampling.errors import LeftTrustRegion, SimulationError
from latf_sampling.features import as_mdtraj
from latf_sampling.learning.model import LaTF
from latf_sampling.settings import AnyBiasSettings, IntegratorSettings, Protocol, RoundSettings, n_steps
from latf_sampling.simulation.explosion import has_exploded, likely_cause
from latf_sampling.systems import Molecule, build
from latf_sampling.units import BAR


def integrator(settings: IntegratorSettings, temperature: float, seed: int) -> openmm.LangevinMiddleIntegrator:
    """Langevin dynamics at a temperature, with a seed."""
    dynamics = openmm.LangevinMiddleIntegrator(temperature, settings.friction, settings.timestep)
    dynamics.setRandomNumberSeed(seed)
    return dynamics


@dataclass(frozen=True)
class WalkerJob:
    """One walker of one round: everything that a process needs to run it, or to continue it.

    Attributes
    ----------
    protocol, round_index, walker
        The settings, and the numbers of the round and of the walker in it.
    directory
        Folder of the walker's segments.
    start
        NPZ file with "positions" (N, 3) in nm, "velocities" (N, 3) in nm/ps and, in a periodic system, "box" (3, 3) in
        nm; `None` is the protocol's structure, or one of its conformations, minimized.
    learning, hills
        Folder with the model and the collective variable of the bias, and folder where the walkers of the round share
        their bias; `None` for plain dynamics.
    system
        Folder with the campaign's molecule; `None` builds it from the protocol.
    """

    protocol: Protocol
    round_index: int
    walker: int
    directory: Path
    start: Path | None = None
    learning: Path | None = None
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
        settings = self.protocol.runs[self.round_index]
        assert isinstance(settings, RoundSettings)  # external trajectories are not simulated
        return n_steps(settings.length, self.protocol.segment)

    @property
    def timestep(self) -> float:
        """ps of one step of the integrator, which with multiple time steps is all steps from one bias to the next."""
        return self.protocol.integrator.timestep * (1 if self.bias is None else self.bias.stride)


def run_walker(job: WalkerJob, progress: Callable[[float], None] = lambda fraction: None) -> None:
    """Run a walker's missing segments.

    Parameters
    ----------
    job
        The walker.
    progress
        Called with the fraction that is finished.

    Raises
    ------
    SimulationError
        The simulation exploded; finished segments remain.
    """
    directory = WalkerDirectory(job.directory)
    done = directory.finished_segments()
    progress(len(done) / job.segments)
    if len(done) >= job.segments or directory.stop_reason():
        return
    molecule = None if job.system is None else Molecule.load(job.system)
    if molecule is None:
        molecule = build(job.protocol.system, job.protocol.seed)
    _add_barostat(job, molecule.system)
    bias = make_bias(job, molecule)
    with nullcontext() if bias is None else closing(bias):
        if bias is not None:
            bias.rewind(done[-1].content["step"] if done else 0)
        for index in range(len(done), job.segments):
            began = time.perf_counter()
            try:
                simulation = _simulation(job, molecule, bias, index)
            except openmm.OpenMMException as error:
                raise SimulationError(f"{_name(job)}: segment {index} cannot start ({error}).") from error
            try:
                _run_segment(job, simulation, bias, index, progress, began)
            except LeftTrustRegion:
                progress(1.0)
                return


def make_bias(job: WalkerJob, molecule: Molecule) -> Bias | None:
    """The bias of a walker, whose force is added to the molecule's system; `None` for plain dynamics.

    It contains what the walkers of the round have added so far.
    """
    if job.bias is None:
        return None
    if job.learning is None:
        raise SimulationError(f"{_name(job)}: a bias needs a collective variable, and no round before it learned one.")
    learning = LearningDirectory(job.learning)
    task = BiasTask(
        molecule.system,
        LatentCV.load(learning.cv, molecule.topology),
        lambda: LaTF.load(learning.model),
        job.temperature,
        job.timestep,
        platform=_platform(job, molecule).getName(),
        directory=job.hills,
        walker=f"walker-{job.walker:02d}",
    )
    return bias_from_settings(job.bias, task)


def _name(job: WalkerJob) -> str:
    return f"round {job.round_index}, walker {job.walker}"


def _platform(job: WalkerJob, molecule: Molecule) -> openmm.Platform:
    return platforms.pick_platform(job.protocol.system.platform, molecule.system.getNumParticles())


def _add_barostat(job: WalkerJob, system: openmm.System) -> None:
    settings = job.protocol.system.barostat
    if settings is not None:
        system.addForce(openmm.MonteCarloBarostat(settings.pressure, job.temperature, settings.interval))


def _simulation(job: WalkerJob, molecule: Molecule, bias: Bias | None, index: int) -> app.Simulation:
    """A new simulation at the beginning of a segment."""
    names = ("segment", job.round_index, job.walker, index)
    seed, settings = streams.stream_seed(job.protocol.seed, *names), job.protocol.integrator
    if bias is None or job.bias is None or job.bias.stride == 1:
        dynamics = integrator(settings, job.temperature, seed)
    else:
        dynamics = respa_integrator(
            molecule.system, bias, job.temperature, settings.friction, settings.timestep, job.bias.stride, seed
        )
    for force in molecule.system.getForces():
        if isinstance(force, openmm.MonteCarloBarostat):
            force.setRandomNumberSeed(streams.stream_seed(job.protocol.seed, "barostat", *names))
    simulation = app.Simulation(molecule.topology, molecule.system, dynamics, _platform(job, molecule))
    context = simulation.context
    if index > 0:
        before = WalkerDirectory(job.directory).segment(index - 1)
        simulation.context.setState(read_openmm_xml(before.state, openmm.State))
        simulation.currentStep = before.manifest().content["step"]
    elif job.start is not None:
        start = read_npz(job.start)
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
    bias: Bias | None,
    index: int,
    progress: Callable[[float], None],
    began: float,
) -> None:
    protocol, context = job.protocol, simulation.context
    stride = n_steps(protocol.frame_interval, job.timestep)
    count = n_steps(protocol.segment, protocol.frame_interval)
    groups = -1 if bias is None else ~(1 << bias.group) & 0xFFFFFFFF
    periodic = simulation.system.usesPeriodicBoundaryConditions()
    positions = np.empty((count, simulation.system.getNumParticles(), 3), np.float32)
    boxes = np.empty((count, 3, 3), np.float32) if periodic else None
    barostat = protocol.system.barostat
    energy, applied, offset = np.zeros(count), np.zeros(count), np.zeros(count)
    left = None
    for frame in range(count):
        try:
            left = _to_next_frame(simulation, bias, stride)
            state = context.getState(getPositions=True, getEnergy=True, groups=groups)
        except SimulationError as error:  # from the bias, whose messages do not name the walker
            if has_exploded(context):
                raise _exploded(job, simulation, str(error).rstrip(".")) from error
            raise SimulationError(f"{_name(job)}: {error}") from error
        except openmm.OpenMMException as error:
            raise _exploded(job, simulation, str(error)) from error
        energy[frame] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        exact = state.getPositions(asNumpy=True)._value
        with np.errstate(over="ignore"):  # an atom may have flown to where single precision does not reach
            positions[frame] = exact
        if not (np.isfinite(energy[frame]) and np.isfinite(positions[frame]).all()):
            raise _exploded(job, simulation, f"the potential energy is {energy[frame]} kJ/mol")
        box = None
        if boxes is not None:
            boxes[frame] = box = state.getPeriodicBoxVectors(asNumpy=True)._value
            if barostat is not None:  # enthalpy, which weights frames at any temperature and this pressure
                energy[frame] += barostat.pressure * BAR * np.linalg.det(box)
        if bias is not None:
            applied[frame] = bias.applied_bias(bias.cv(exact, box), simulation.currentStep)
            offset[frame] = bias.offset()
        if left is not None:
            count = frame + 1
            break
        progress((index + (frame + 1) / count) / job.segments)
    if bias is not None:
        bias.save()
    table = {"energy": energy[:count], "bias": applied[:count], "offset": offset[:count]}
    _write_segment(job, simulation, bias, index, positions[:count], boxes, table, began, left)
    if left is not None:
        raise left


def _to_next_frame(simulation: app.Simulation, bias: Bias | None, stride: int) -> LeftTrustRegion | None:
    """Simulate up to the next frame; a walker that leaves its trust region ends with this frame, for the training."""
    if bias is None:
        simulation.step(stride)
        return None
    end = simulation.currentStep + stride
    try:
        bias.step(simulation, stride)
    except LeftTrustRegion as left:
        simulation.step(end - simulation.currentStep)
        return left
    return None


def _write_segment(
    job: WalkerJob,
    simulation: app.Simulation,
    bias: Bias | None,
    index: int,
    positions: np.ndarray,
    boxes: np.ndarray | None,
    table: dict[str, np.ndarray],
    began: float,
    left: LeftTrustRegion | None,
) -> None:
    """Write a finished segment to the disk; the last one of a walker that was stopped has fewer frames than others."""
    protocol, count = job.protocol, len(positions)
    files = WalkerDirectory(job.directory).segment(index)
    times = index * protocol.segment + np.arange(1, count + 1) * protocol.frame_interval
    trajectory = mdtraj.Trajectory(positions, as_mdtraj(simulation.topology), times)
    if boxes is not None:
        trajectory.unitcell_vectors = boxes[:count]
    with storage.atomic_write(files.trajectory) as temporary:
        write_netcdf(trajectory, temporary)
    with storage.atomic_write(files.frames) as temporary:
        np.savez(temporary, allow_pickle=False, **table)
    with storage.atomic_write(files.state) as temporary:
        simulation.saveState(str(temporary))
    summary: dict[str, Any] = {
        "step": simulation.currentStep,
        "frames": count,
        "temperature": job.temperature,
        "seconds": time.perf_counter() - began,
    }
    if bias is not None:
        summary |= {"backend": bias.backend, "backend_reason": bias.backend_reason}
        summary |= {"variable": bias.cv.fingerprint()}
        if (saved := bias.saved()) is not None:
            summary["hills"] = saved
    if index == 0 and job.start is not None:
        summary["start"] = storage.checksum(job.start)
    if left is not None:
        summary["stopped"] = str(left)
    files.finish(summary)


def _exploded(job: WalkerJob, simulation: app.Simulation, why: str) -> SimulationError:
    cause = likely_cause(
        simulation.system, simulation.topology, job.protocol.integrator.timestep, job.bias, job.temperature
    )
    return SimulationError(
        f"{_name(job)}: the simulation exploded near step {simulation.currentStep} ({why}); {cause}. Finished segments "
        "are kept."
    )
