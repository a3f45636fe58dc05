"""One segment of a walker: from the state that the previous one saved to files that are complete."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.core import devices, storage, streams
from latf_sampling.core.arrays import read_npz
from latf_sampling.core.openmm_xml import read_openmm_xml
from latf_sampling.core.provenance import Attempt, device
from latf_sampling.core.space import require_space
from latf_sampling.data.exchanges import KEY as EXCHANGES
from latf_sampling.data.exchanges import Exchange
from latf_sampling.data.failures import Diagnosis, Failure, WalkerFailures
from latf_sampling.data.layout import CampaignDirectory, WalkerDirectory
from latf_sampling.data.sizes import segment_size
from latf_sampling.data.trajectory_writers import write_netcdf
from latf_sampling.errors import CVError, LatfError, LeftTrustRegion, SimulationError
from latf_sampling.features import as_mdtraj
from latf_sampling.settings import n_steps
from latf_sampling.simulation.diagnosis import Snapshot, diagnose
from latf_sampling.simulation.dynamics import divided_integrator, integrator
from latf_sampling.simulation.exchange import Meeting, attempt_interval, remove_past
from latf_sampling.simulation.explosion import Explosion, KineticLimit, has_exploded, likely_cause
from latf_sampling.simulation.job import WalkerJob
from latf_sampling.simulation.minimization import minimize
from latf_sampling.systems import Molecule, build
from latf_sampling.units import BAR

if TYPE_CHECKING:  # a walker without a bias needs no torch
    from latf_sampling.bias import Bias


class Segment:
    """A segment that is simulated for the first time, or again after the walker was rolled back.

    Parameters
    ----------
    job
        The walker.
    molecule
        What is simulated; its system contains the force of the bias.
    bias
        As it was at the beginning of the segment; `None` for plain dynamics.
    index
        Number of the segment.
    failures
        What went wrong with the walker before: each attempt at a segment has a random stream of its own, and the one
        after the second explosion has half the time step.
    progress
        Called with the fraction of the walker that is done.

    Raises
    ------
    SimulationError
        OpenMM cannot simulate the system, or not on this machine.
    Explosion
        The positions to start from have no finite energy.
    """

    def __init__(
        self,
        job: WalkerJob,
        molecule: Molecule,
        bias: Bias | None,
        index: int,
        failures: WalkerFailures,
        progress: Callable[[float], None],
    ) -> None:
        self.began = time.perf_counter()
        _check_present(job)
        periodic = molecule.system.usesPeriodicBoundaryConditions()
        size = segment_size(job.protocol, job.round_index, molecule.system.getNumParticles(), periodic)
        require_space(job.directory, size, f"segment {index} of {job.name}")
        self.tried = Attempt(job.directory, WalkerDirectory(job.directory).segment(index).stem.name)
        self.job, self.bias, self.index, self.failures = job, bias, index, failures
        self.attempt, self.progress = failures.attempt(index), progress
        self.stream = job.stream(index, self.attempt)
        self.exchanges: list[Exchange] = []
        self.attempt_interval = attempt_interval(job)
        self.parts = 2 if failures.shortens_timestep(index) else 1
        self.frames, self.segments = n_steps(job.protocol.segment, job.protocol.frame_interval), job.segments
        try:
            self.simulation = self._simulation(molecule)
        except openmm.OpenMMException as error:
            raise SimulationError(f"{job.name}: segment {index} cannot start ({error}).") from error
        try:
            self._place(molecule)
        except openmm.OpenMMException as error:
            conformation = molecule.start(job.walker)
            raise self._exploded(str(error), (conformation.positions, conformation.box), 0, b"") from error
        self.limit = KineticLimit(self.simulation.system, job.temperature)

    @property
    def timestep(self) -> float:
        """Time step of all forces but a bias at multiple time steps, ps."""
        return self.job.protocol.integrator.timestep / self.parts

    def _simulation(self, molecule: Molecule) -> app.Simulation:
        job, bias = self.job, self.bias
        seed, settings = streams.stream_seed(job.protocol.seed, *self.stream), job.protocol.integrator
        if self.parts > 1:  # with the bias in each of the shorter steps too
            parts = self.parts * (1 if job.bias is None else job.bias.stride)
            dynamics = divided_integrator(job.timestep, parts, settings.friction, job.temperature, seed)
        elif bias is None or job.bias is None or job.bias.stride == 1:
            dynamics = integrator(settings, job.temperature, seed)
        else:
            from latf_sampling.bias import respa_integrator

            dynamics = respa_integrator(
                molecule.system, bias, job.temperature, settings.friction, settings.timestep, job.bias.stride, seed
            )
        for force in molecule.system.getForces():
            if isinstance(force, openmm.MonteCarloBarostat):
                force.setRandomNumberSeed(streams.stream_seed(job.protocol.seed, "barostat", *self.stream))
        platform, properties = walker_platform(job, molecule)
        return app.Simulation(molecule.topology, molecule.system, dynamics, platform, properties)

    def _place(self, molecule: Molecule) -> None:
        """Set what the segment begins with."""
        job, simulation = self.job, self.simulation
        context = simulation.context
        if self.index > 0:
            before = WalkerDirectory(job.directory).segment(self.index - 1)
            context.setState(read_openmm_xml(before.state, openmm.State))
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
            # As little progress as can be told: what is minimized must not be taken for a walker that is stuck.
            steps = n_steps(job.protocol.segment, job.timestep)  # which do not change where a round is made longer
            minimize(simulation, steps, lambda share: self.progress(1e-9 * share))
            context.setVelocitiesToTemperature(job.temperature, streams.stream_seed(job.protocol.seed, *self.stream))

    def run(self) -> LeftTrustRegion | None:
        """Simulate the segment and write its files; returns the reason if the walker left its trust region.

        Raises
        ------
        Explosion
            The simulation exploded; nothing is written but hills, which are to be taken back.
        """
        job, protocol, bias, simulation = self.job, self.job.protocol, self.bias, self.simulation
        context, periodic = simulation.context, simulation.system.usesPeriodicBoundaryConditions()
        stride = n_steps(protocol.frame_interval, job.timestep)
        count = self.frames
        groups = -1 if bias is None else ~(1 << bias.group) & 0xFFFFFFFF
        positions = np.empty((count, simulation.system.getNumParticles(), 3), np.float32)
        boxes = np.empty((count, 3, 3), np.float32) if periodic else None
        energy, applied, offset = np.zeros(count), np.zeros(count), np.zeros(count)
        first = _snapshot(context)
        checkpoint, left = b"", None
        for frame in range(count):
            # A walker that waits must not be taken for one that makes no progress.
            share, beats = self._fraction(frame), cycle((0.0, 1e-9))
            self._exchange(self.index * count + frame, groups, lambda s=share, b=beats: self.progress(s + next(b)))
            start = simulation.currentStep
            if self.failures.explosions:  # a further explosion is looked at from here
                checkpoint = context.createCheckpoint()
            try:
                left = _to_next_frame(simulation, bias, stride)
                state = context.getState(getPositions=True, getEnergy=True, groups=groups)
                exact = state.getPositions(asNumpy=True)._value
                why = self._divergence(state, exact)
            except openmm.OpenMMException as error:
                raise self._exploded(str(error), first, start, checkpoint) from error
            except (SimulationError, CVError) as error:  # from the bias, whose messages do not name the walker
                if has_exploded(context, bias):
                    raise self._exploded(str(error).rstrip("."), first, start, checkpoint) from error
                raise SimulationError(f"{job.name}: {error}") from error
            if why is not None:
                raise self._exploded(why, first, start, checkpoint)
            energy[frame] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            positions[frame] = exact
            box = None
            if boxes is not None:
                boxes[frame] = box = state.getPeriodicBoxVectors(asNumpy=True)._value
                energy[frame] += self._pressure_energy(box)
            if bias is not None:
                applied[frame] = bias.applied_bias(bias.cv(exact, box), simulation.currentStep)
                offset[frame] = bias.offset()
                if not np.isfinite([applied[frame], offset[frame]]).all():
                    raise self._exploded(f"the bias is {applied[frame]} kJ/mol", first, start, checkpoint)
            if left is not None:
                count = frame + 1
                break
            self.progress(self._fraction(frame + 1))
        if bias is not None:
            bias.save()
        table = {"energy": energy[:count], "bias": applied[:count], "offset": offset[:count]}
        self._write(positions[:count], boxes, table, left)
        return left

    def _fraction(self, frames: int) -> float:
        """Share of the walker's segments that is done after so many frames of this one."""
        return (self.index + frames / self.frames) / self.segments

    def _exchange(self, frame: int, groups: int, waiting: Callable[[], None]) -> None:
        """Go on with the configuration of another walker, where the round has replica exchange and it is accepted.

        Parameters
        ----------
        frame
            Number of frames of the walker so far.
        groups
            Force groups without that of the bias.
        waiting
            Called while the other walker has not come.
        """
        interval = self.attempt_interval
        if not interval or not frame or frame % interval:
            return
        context = self.simulation.context
        state = context.getState(getPositions=True, getVelocities=True, getEnergy=True, groups=groups)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        arrays = {"positions": state.getPositions(asNumpy=True)._value, "velocities": _velocities(context)}
        if self.simulation.system.usesPeriodicBoundaryConditions():
            arrays["box"] = box = state.getPeriodicBoxVectors(asNumpy=True)._value
            energy += self._pressure_energy(box)
        met = Meeting(self.job, frame // interval, waiting).exchange(frame, energy, self.bias, arrays)
        if met is None:
            return
        outcome, received = met
        self.exchanges.append(outcome)
        if received is not None:
            if "box" in received:
                context.setPeriodicBoxVectors(*received["box"])
            context.setPositions(received["positions"])
            context.setVelocities(received["velocities"])

    def _pressure_energy(self, box: np.ndarray) -> float:
        """pV of a box (3, 3), kJ/mol, which makes an energy the enthalpy; 0 at constant volume."""
        barostat = self.job.protocol.system.barostat
        return 0.0 if barostat is None else barostat.pressure * BAR * float(np.linalg.det(box))

    def _divergence(self, state: Any, positions: np.ndarray) -> str | None:
        """Why a state of OpenMM, with these positions (N, 3), is no part of a trajectory; `None` if it is."""
        energy = state.getPotentialEnergy()._value
        with np.errstate(over="ignore"):  # an atom may have flown to where single precision does not reach
            finite = np.isfinite(positions.astype(np.float32)).all()
        if not (np.isfinite(energy) and finite):
            return f"the potential energy is {energy} kJ/mol"
        return self.limit.excess(state.getKineticEnergy()._value)

    # ------------------------------------------------------------------------------------------------------ explosions

    def _failure(self, step: int, why: str, diagnosis: Diagnosis | None = None) -> Failure:
        job, system = self.job, self.simulation.system
        timestep = job.protocol.integrator.timestep
        cause = likely_cause(system, self.simulation.topology, timestep, job.bias, job.temperature)
        reason = f"the simulation exploded near step {step} ({why}); {cause}"
        return Failure("explosion", self.index, self.attempt, step, reason, self.timestep, self.stream, diagnosis)

    def _exploded(self, why: str, first: Snapshot, start: int, checkpoint: bytes) -> Explosion:
        """What to raise.

        The first explosion of a walker is not diagnosed, so that simulations that never explode keep no checkpoints.

        Parameters
        ----------
        why
            How it was noticed.
        first
            Positions and box at the beginning of the segment.
        start, checkpoint
            Step of the frame before, and the context there; empty if there is none.
        """
        end, diagnosis = self.simulation.currentStep, None
        if self.failures.explosions:
            step, last = self._last_finite(start, checkpoint) if checkpoint else (start, first)
            bias, forces = (None, None) if self.bias is None else self._bias_at(self.bias, last)
            molecule, platform = load_molecule(self.job), self.simulation.context.getPlatform()  # without the bias
            diagnosis = diagnose(molecule.system, molecule.topology, platform, step, last, first, bias, forces)
            if bias is not None and not math.isfinite(bias):
                diagnosis = replace(diagnosis, undefined=self._undefined(last))
        return Explosion(self._failure(end, why, diagnosis))

    def _last_finite(self, start: int, checkpoint: bytes) -> tuple[int, Snapshot]:
        """Repeat the steps after a frame one by one, until the simulation diverges; returns the step and its positions.

        Positions that are not finite do not count. Where all was well before them, the next ones are taken without any
        force: a force that is no number acted there.
        """
        context, step = self.simulation.context, start
        context.loadCheckpoint(checkpoint)
        last, velocities = _snapshot(context), _velocities(context)
        try:
            # Without a look at energies: a CustomIntegrator goes on with other random numbers after it.
            while step < start + n_steps(self.job.protocol.frame_interval, self.job.timestep):
                self.simulation.integrator.step(1)
                here = _snapshot(context)
                if not np.isfinite(here[0]).all():
                    break
                step, last, velocities = step + 1, here, _velocities(context)
                if self.limit.excess(self.limit.kinetic_energy(velocities)) is not None:
                    return step, last
        except openmm.OpenMMException:  # some platforms refuse a step from which nothing finite follows
            pass
        moved = last[0] + velocities * self.job.timestep
        context.setPositions(moved)
        return step, last if np.isfinite(_energy(context)) else (moved, last[1])

    def _undefined(self, snapshot: Snapshot) -> list[str]:
        """Descriptors that have no finite value, so that their bias has none."""
        return [] if self.bias is None else self.bias.cv.undefined(*snapshot)

    def _bias_at(self, bias: Bias, snapshot: Snapshot) -> tuple[float, np.ndarray | None]:
        """The bias, kJ/mol, and its forces (N, 3), kJ/mol/nm; NaN and `None` where it has none."""
        context = self.simulation.context
        try:
            height = float(bias.energy(bias.cv(*snapshot)[None])[0])
            context.setPositions(snapshot[0])
            return height, context.getState(getForces=True, groups=1 << bias.group).getForces(asNumpy=True)._value
        except (openmm.OpenMMException, LatfError):
            return math.nan, None

    # ----------------------------------------------------------------------------------------------------------- files

    def _write(
        self,
        positions: np.ndarray,
        boxes: np.ndarray | None,
        table: dict[str, np.ndarray],
        left: LeftTrustRegion | None,
    ) -> None:
        """Write a finished segment; the last one of a walker that was stopped has fewer frames than others."""
        job, protocol, simulation, count = self.job, self.job.protocol, self.simulation, len(positions)
        _check_present(job)
        files = WalkerDirectory(job.directory).segment(self.index)
        times = self.index * protocol.segment + np.arange(1, count + 1) * protocol.frame_interval
        trajectory = mdtraj.Trajectory(positions, as_mdtraj(simulation.topology), times)
        if boxes is not None:
            trajectory.unitcell_vectors = boxes[:count]
        with storage.atomic_write(files.trajectory) as temporary:
            write_netcdf(trajectory, temporary)
        with storage.atomic_write(files.frames) as temporary:
            np.savez(temporary, allow_pickle=False, **table)
        # Without parameters, which nothing here changes but a bias: it counts the hills that this process has added.
        state = simulation.context.getState(positions=True, velocities=True, integratorParameters=True)
        storage.write_text(files.state, openmm.XmlSerializer.serialize(state))
        summary: dict[str, Any] = {
            "step": simulation.currentStep,
            "frames": count,
            "temperature": job.temperature,
            "seconds": time.perf_counter() - self.began,
        }
        if self.attempt:
            summary |= {"attempt": self.attempt, "timestep": self.timestep}
        if self.bias is not None:
            summary |= {"backend": self.bias.backend, "backend_reason": self.bias.backend_reason}
            summary |= {"variable": self.bias.cv.fingerprint()}
            if (saved := self.bias.saved()) is not None:
                summary["hills"] = saved
        if self.attempt_interval:
            summary[EXCHANGES] = [list(astuple(entry)) for entry in self.exchanges]
        if self.index == 0 and job.start is not None:
            summary["start"] = storage.checksum(job.start)
        if left is not None:
            summary["stopped"] = str(left)
        where = device(simulation.context)
        files.finish(summary, self.tried.provenance(device=where, stream=self.stream))
        remove_past(job, self.index)


def _check_present(job: WalkerJob) -> None:
    """Refuse to write where the campaign is no longer, as on a disk that was disconnected."""
    if job.system is not None:
        CampaignDirectory(job.system.parent).check_present()


def load_molecule(job: WalkerJob) -> Molecule:
    """The molecule of a campaign, or one that is built from the protocol, with the barostat of the walker."""
    molecule = None if job.system is None else Molecule.load(job.system)
    if molecule is None:
        molecule = build(job.protocol.system, job.protocol.seed)
    settings = job.protocol.system.barostat
    if settings is not None:
        molecule.system.addForce(openmm.MonteCarloBarostat(settings.pressure, job.temperature, settings.interval))
    return molecule


def walker_platform(job: WalkerJob, molecule: Molecule) -> tuple[openmm.Platform, dict[str, str]]:
    """Where a walker is simulated: the platform with its GPU, or with its share of the cores."""
    protocol, particles = job.protocol, molecule.system.getNumParticles()
    return devices.pick(protocol.system.platform, particles, protocol.devices.use, job.walker, job.at_once)


def _snapshot(context: openmm.Context) -> Snapshot:
    """Positions (N, 3) and box (3, 3), nm; no box where the system has none."""
    state = context.getState(getPositions=True)
    periodic = context.getSystem().usesPeriodicBoundaryConditions()
    box = state.getPeriodicBoxVectors(asNumpy=True)._value if periodic else None
    return state.getPositions(asNumpy=True)._value, box


def _velocities(context: openmm.Context) -> np.ndarray:
    """(N, 3), nm/ps."""
    return np.asarray(context.getState(getVelocities=True).getVelocities(asNumpy=True)._value)


def _energy(context: openmm.Context) -> float:
    """kJ/mol; NaN where OpenMM refuses to tell."""
    try:
        return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    except openmm.OpenMMException:
        return math.nan


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
