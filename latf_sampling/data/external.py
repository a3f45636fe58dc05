"""Reading an external trajectory for the first time: checks, energies, weights and checksum."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mdtraj
import numpy as np
import openmm

from latf_sampling.core import storage
from latf_sampling.core.arrays import read_npy, read_npz
from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.core.provenance import Attempt
from latf_sampling.core.readers import quiet, why
from latf_sampling.data.frame_checks import CheckedFrames, FrameChecks, check_energies, check_minimum, digest
from latf_sampling.data.layout import ExternalFiles
from latf_sampling.data.trajectory_files import check_atoms, read_pieces, without_first
from latf_sampling.errors import DataError
from latf_sampling.settings import TrajectoriesSettings
from latf_sampling.units import BAR

WITH_TIMES = (".xtc", ".trr", ".nc", ".netcdf", ".ncdf", ".ncrst", ".h5", ".hdf5", ".lh5", ".gro")
"""Formats whose times MDTraj reads; in others it numbers the frames."""


@dataclass(frozen=True)
class ExternalTrajectory:
    """One of the trajectories that a protocol names.

    Attributes
    ----------
    path : str
        Absolute.
    temperature : float
        K.
    interval : float or None
        Time between its frames, ps, as the protocol says it.
    topology : pathlib.Path or None
        File with the topology, which must be that of the system.
    values : dict
        Files with one number per frame, by the kind of number: "weights", "energies".
    position, count : int
        Its position in its entry of the protocol, and the number of trajectories in this entry.
    chain : bool
        Whether the trajectories of this entry are parts of one run.
    """

    path: str
    temperature: float
    interval: float | None = None
    topology: Path | None = None
    values: dict[str, str] = field(default_factory=dict)
    position: int = 0
    count: int = 1
    chain: bool = False

    @classmethod
    def from_settings(cls, entries: Sequence[TrajectoriesSettings]) -> list[ExternalTrajectory]:
        """All trajectories of a protocol, in its order."""
        trajectories = []
        for entry in entries:
            for position, path in enumerate(entry.files):
                named = {"weights": entry.weights, "energies": entry.energies}
                values = {name: files[min(position, len(files) - 1)] for name, files in named.items() if files}
                trajectories.append(
                    cls(
                        path,
                        entry.temperature,
                        entry.interval,
                        entry.topology,
                        values,
                        position,
                        len(entry.files),
                        entry.chain,
                    )
                )
        return trajectories


def stride_of(
    external: ExternalTrajectory,
    topology: mdtraj.Topology,
    periodic: bool,
    frame_interval: float,
    checks: FrameChecks | None = None,
) -> int:
    """The stride that thins a trajectory to the interval of the campaign, from its first two frames.

    These frames are all that can be checked without reading the whole trajectory; with `checks` they have to be
    physical.

    Raises
    ------
    DataError
        The file cannot be used; the time between its frames is not known, is not what the protocol says, or does not
        fit `frame_interval`, ps.
    """
    if external.topology is not None:
        try:
            with quiet():
                given = mdtraj.load_topology(str(external.topology))
        except Exception as error:  # readers raise many types for a damaged file
            raise DataError(f"{external.topology}: cannot be read as a topology{why(error)}.") from error
        check_atoms(given, topology, str(external.topology))
    pieces = read_pieces(external.path, topology, periodic, chunk=2)
    first = next(pieces if checks is None else CheckedFrames(checks, external.path, external.temperature)(pieces))
    interval = _even_interval(external, np.asarray(first.time))
    if interval is None:
        if len(first) < 2:
            return 1
        raise DataError(
            f"{external.path}: holds no times; write the time between its frames into the protocol, like "
            "interval: 1 ps."
        )
    # times in single precision are a little off
    ratio = frame_interval / interval
    stride = round(ratio)
    if stride < 1 or abs(ratio - stride) > 1e-3 * ratio:
        remedy = (
            "make frame_interval a multiple of it" if ratio > 1 else f"frame_interval cannot be below {interval:.4g} ps"
        )
        raise DataError(
            f"{external.path}: has a frame every {interval:.4g} ps, frame_interval is {frame_interval:g} ps; {remedy}."
        )
    return stride


def examine(
    external: ExternalTrajectory,
    earlier: int,
    topology: mdtraj.Topology,
    system: openmm.System,
    platform: openmm.Platform,
    frame_interval: float,
    pressure: float | None,
    target: ExternalFiles,
    progress: Callable[[int], None] = lambda frames: None,
    reference: np.ndarray | None = None,
    previous: Sequence[dict] = (),
) -> dict:
    """Read a trajectory once from end to end, and write down what a campaign needs besides its positions.

    Parameters
    ----------
    external
        The trajectory.
    earlier
        Number of frames in the trajectories before it in its entry of the protocol.
    topology, system, platform
        Those of the campaign; energies are computed with them, unless there is a file with energies.
    frame_interval
        ps; frames are thinned to it.
    pressure
        bar; at constant pressure pV is added to the energies, as to those of the campaign's own simulations.
    target
        Files to write: energies and weights of the frames that are used, then the marker.
    progress
        Called with the number of frames read.
    reference
        Positions (N, 3), nm, of the system's structure, whose handedness the frames must have; `None` is any.
    previous
        The contents of the markers of the trajectories before it, in order.

    Returns
    -------
    dict
        The content of the marker.

    Raises
    ------
    DataError
        The trajectory, or a file with weights or energies, cannot be used, or a frame is not physical; names the file,
        and the frame.
    """
    path, periodic = Path(external.path), system.usesPeriodicBoundaryConditions()
    attempt = Attempt(target.stem.parent, target.stem.name)
    stride = stride_of(external, topology, periodic, frame_interval)
    before = stamp(path)
    context = None if "energies" in external.values else _context(system, platform)
    times: list[np.ndarray] = []
    energies: list[list[float]] = []
    work: list[np.ndarray] = []
    done = 0
    checks = FrameChecks.from_system(topology, system, reference)
    # Where two files have frames in common, the first or the last one of a file is among them.
    apart = previous[: len(previous) - external.position] if external.chain else previous
    others = {end: summary["path"] for summary in apart for end in summary.get("ends", ())}
    checked = CheckedFrames(checks, str(path), external.temperature, others=others)
    skip = _overlap(external, topology, periodic, previous)
    for piece in without_first(checked(read_pieces(path, topology, periodic)), skip):
        times.append(np.asarray(piece.time))
        selected = range(-done % stride, len(piece), stride)
        if context is not None:
            if not done:
                energy = _energy(context, piece, 0, f"{path}: frame 0")
                check_minimum(str(path), energy, context, external.temperature)
            where = f"{path}: frame"
            energies.append([_energy(context, piece, frame, f"{where} {skip + done + frame}") for frame in selected])
        if pressure is not None:
            work.append(pressure * BAR * np.asarray(piece.unitcell_volumes)[selected.start :: stride])
        done += len(piece)
        progress(done)
    if not done:
        raise DataError(
            f"{path}: none of its frames is later than the end of {previous[-1]['path']}; a chain names files in the "
            "order of time, and none that another one contains."
        )
    interval = _even_interval(external, np.concatenate(times))
    numbers = {name: _read_values(name, external, earlier, skip + done)[skip::stride] for name in external.values}
    weights = numbers.get("weights", np.ones(len(range(0, done, stride))))
    if not weights.any():
        raise DataError(f"{path}: none of the frames that are used, every {stride}th, has a weight.")
    potential = numbers["energies"] if context is None else np.concatenate(energies)
    check_energies(str(path), potential, stride, weights, external.temperature, system)
    summary = {
        "path": str(path),
        **before,
        "sha256": storage.checksum(path),
        "frames": skip + done,
        "skip": skip,
        "end": float(times[-1][-1]) if _has_times(external) else None,
        "interval": interval,
        "ends": checked.ends(),
        "stride": stride,
        "temperature": external.temperature,
        "values": {name: {"path": file, "sha256": storage.checksum(file)} for name, file in external.values.items()},
    }
    if stamp(path) != before:
        raise DataError(f"{path}: changed while it was read; is a simulation still writing it?")
    with storage.atomic_write(target.numbers) as temporary:
        np.savez(temporary, energy=potential + (np.concatenate(work) if work else 0.0), weight=weights)
    target.finish(summary, attempt.provenance())
    return summary


def _has_times(external: ExternalTrajectory) -> bool:
    """Whether the times of a file count."""
    return external.interval is None and external.path.lower().endswith(WITH_TIMES)


def _overlap(external: ExternalTrajectory, topology: mdtraj.Topology, periodic: bool, previous: Sequence[dict]) -> int:
    """The number of first frames that the trajectory before it in a chain has too."""
    if not external.chain or not external.position:
        return 0
    before, seen = previous[-1], 0
    for piece in read_pieces(external.path, topology, periodic):
        if _has_times(external) and before["end"] is not None:
            later = np.asarray(piece.time) > before["end"] + 0.5 * (before["interval"] or 0.0)
            if later.any():
                return seen + int(later.argmax())
        else:
            same = [digest(positions) == before["ends"][-1] for positions in np.asarray(piece.xyz)]
            if any(same):
                return seen + same.index(True) + 1
        seen += len(piece)
    return seen if _has_times(external) else 0


def stamp(path: Path) -> dict[str, int]:
    """Size and time of the last change of a file; a file with the same stamp is taken to be the same."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return {"size": status.st_size, "modified": status.st_mtime_ns}


def is_same(external: ExternalTrajectory, target: ExternalFiles) -> bool:
    """Whether a trajectory and its weights and energies are those that were read, by their SHA-256, wherever they are.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    summary = target.manifest().content
    path, values = Path(external.path), summary.get("values", {})
    now = stamp(path)
    return (
        now["size"] == summary["size"]
        and external.values.keys() == values.keys()
        and checksum_at(path, now["modified"]) == summary["sha256"]
        and all(
            checksum_at(Path(file), stamp(Path(file))["modified"]) == values[name]["sha256"]
            for name, file in external.values.items()
        )
    )


def relocate(external: ExternalTrajectory, target: ExternalFiles) -> None:
    """Write down where a trajectory that was read before is now, and its weights and energies.

    Raises
    ------
    DataError
        It is another one; names both.
    """
    manifest = target.manifest().verified()
    summary = manifest.content
    values = {name: {**summary.get("values", {}).get(name, {}), "path": file} for name, file in external.values.items()}
    moved = {**summary, "path": external.path, "values": values}
    if moved == {"values": {}, **summary}:
        return
    if not is_same(external, target):
        raise DataError(
            f"{external.path}: is not the trajectory that was read as {summary['path']}, or has other weights or "
            "energies; their SHA-256 differ."
        )
    target.finish({**moved, **stamp(Path(external.path))}, manifest.provenance)


@cache
def checksum_at(path: Path, modified: int) -> str:
    """SHA-256 of a file that was changed at this time, ns; computed once per process."""
    try:
        return storage.checksum(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def _even_interval(external: ExternalTrajectory, times: np.ndarray) -> float | None:
    """Time between frames, ps, which has to be the same everywhere; `None` where it is unknown.

    The interval of a protocol overrules the times of the file; a warning says so where both are even and differ.
    """
    steps = np.diff(times.astype(np.float64))
    if not external.path.lower().endswith(WITH_TIMES) or not len(steps) or not steps.any():
        return external.interval
    interval = float(np.median(steps))
    tolerance = 1e-3 * interval + 2 * float(np.spacing(np.float32(np.abs(times).max())))
    off = ~(np.abs(steps - interval) <= tolerance)  # also where a time is no number
    if external.interval is not None:
        if not off.any() and abs(interval - external.interval) > tolerance:
            warnings.warn(
                f"{external.path}: has a frame every {interval:.4g} ps by its times; {external.interval:g} ps count, "
                "as interval says.",
                stacklevel=3,
            )
        return external.interval
    remedy = "interval: in the protocol overrules the times, if it is one continuous trajectory."
    backwards = ~(steps > 0)
    if backwards.any():
        frame = int(backwards.argmax())
        raise DataError(
            f"{external.path}: frame {frame + 1} is at {times[frame + 1]:.6g} ps, not later than frame {frame} at "
            f"{times[frame]:.6g} ps; {remedy}"
        )
    if off.any():
        frame = int(off.argmax())
        raise DataError(
            f"{external.path}: frames {frame} and {frame + 1} are {steps[frame]:.4g} ps apart, others {interval:.4g} "
            f"ps; {remedy}"
        )
    return interval


def _read_values(name: str, external: ExternalTrajectory, earlier: int, frames: int) -> np.ndarray:
    """Weights or energies of all frames of one trajectory; (frames,)."""
    file = external.values[name]
    if file.endswith(".npz"):
        table = read_npz(file)
        if len(table) != 1 and name not in table:
            raise DataError(f"{file}: holds {', '.join(table)}, and none of them is '{name}'.")
        values = table[name if name in table else next(iter(table))]
    elif file.endswith(".npy"):
        values = read_npy(file)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an empty file, whose number of values is compared below
                values = np.loadtxt(file, encoding="utf-8")
        except (OSError, ValueError, EOFError, zlib.error) as error:  # the last ones from a compressed file
            raise DataError(f"{file}: cannot be read as numbers ({' '.join(str(error).split())}).") from error
    if values.dtype.kind not in "fiu":
        raise DataError(f"{file}: holds {values.dtype} in place of real numbers.")
    values = np.asarray(values, np.float64).squeeze()
    if values.ndim != 1:
        raise DataError(f"{file}: needs one value per frame; has the shape {values.shape}.")
    end = earlier + frames
    if len(values) < end or (external.position == external.count - 1 and len(values) != end):
        raise DataError(f"{file}: holds {len(values)} values for {end} frames up to the end of {external.path}.")
    values = values[earlier:end]
    if not np.isfinite(values).all():
        raise DataError(f"{file}: value {earlier + int(np.isfinite(values).argmin())} is not a number.")
    if name == "weights" and ((values < 0).any() or not values.any()):
        raise DataError(f"{file}: weights must not be negative, and some of each trajectory must be positive.")
    return values


def _context(system: openmm.System, platform: openmm.Platform) -> openmm.Context:
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform)


def _energy(context: openmm.Context, piece: mdtraj.Trajectory, frame: int, where: str) -> float:
    """Potential energy of a frame, kJ/mol."""
    if piece.unitcell_vectors is not None:
        context.setPeriodicBoxVectors(*reduced_boxes(piece.unitcell_vectors[frame]).tolist())
    context.setPositions(np.asarray(piece.xyz)[frame])
    try:
        context.computeVirtualSites()
        value = context.getState(getEnergy=True).getPotentialEnergy()._value
    except openmm.OpenMMException as error:
        raise DataError(f"{where}: has no potential energy ({error}).") from error
    if not np.isfinite(value):
        raise DataError(f"{where}: its potential energy is {value}; atoms overlap, or their order is not the system's.")
    return value
