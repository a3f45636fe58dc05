"""Reading a given trajectory for the first time: whether it can be used, its energies and weights, its checksum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import torch

from latf_sampling.core import storage
from latf_sampling.data.trajectory_files import check_atoms, read_pieces
from latf_sampling.errors import DataError
from latf_sampling.features.periodic import reduced_box
from latf_sampling.settings import TrajectoriesSettings
from latf_sampling.units import BAR

WITH_TIMES = (".xtc", ".trr", ".nc", ".netcdf", ".ncdf", ".ncrst", ".h5", ".hdf5", ".lh5", ".gro")
"""Formats whose times MDTraj reads; it numbers the frames of others."""


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
    values : dict
        File with one number a frame, by what the numbers are: "weights", "energies".
    place, siblings : int
        Its number in its entry of the protocol, and how many there are.
    """

    path: str
    temperature: float
    interval: float | None = None
    topology: Path | None = None
    values: dict[str, str] | None = None
    place: int = 0
    siblings: int = 1

    @classmethod
    def of(cls, entries: Sequence[TrajectoriesSettings]) -> list[ExternalTrajectory]:
        """All trajectories of a protocol, in its order."""
        made = []
        for entry in entries:
            for place, path in enumerate(entry.files):
                named = {"weights": entry.weights, "energies": entry.energies}
                values = {name: files[min(place, len(files) - 1)] for name, files in named.items() if files}
                made.append(
                    cls(path, entry.temperature, entry.interval, entry.topology, values, place, len(entry.files))
                )
        return made


def stride_of(given: ExternalTrajectory, topology: mdtraj.Topology, periodic: bool, frame_interval: float) -> int:
    """Every how many frames one is kept, from a look at the first two; all that can be told before a long reading.

    Raises
    ------
    DataError
        The file cannot be used; the time between its frames is not known, is not what the protocol says, or does not
        fit `frame_interval`, ps.
    """
    if given.topology is not None:
        try:
            check_atoms(mdtraj.load_topology(str(given.topology)), topology, str(given.topology))
        except DataError:
            raise
        except Exception as error:  # readers raise many types for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{given.topology}: cannot be read as a topology ({reason}).") from error
    first = next(read_pieces(given.path, topology, periodic, chunk=2))
    interval = _even(given, first.time)
    if interval is None:
        if len(first) < 2:
            return 1
        raise DataError(
            f"{given.path}: says nothing about times; write the time between its frames into the protocol, like "
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
            f"{given.path}: has a frame every {interval:.4g} ps, frame_interval is {frame_interval:g} ps; {remedy}."
        )
    return stride


def examine(
    given: ExternalTrajectory,
    earlier: int,
    topology: mdtraj.Topology,
    system: openmm.System,
    platform: openmm.Platform,
    frame_interval: float,
    pressure: float | None,
    target: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> dict:
    """Read a trajectory once from end to end, and note what a campaign needs besides its positions.

    Parameters
    ----------
    given
        Which one.
    earlier
        Number of frames in those before it in its entry of the protocol.
    topology, system, platform
        Of the campaign; energies are computed with them, unless there is a file with them.
    frame_interval
        ps; frames are thinned to it.
    pressure
        bar; at constant pressure pV is added to the energies, as to those of the campaign's own simulations.
    target
        Files to write, without suffix: an NPZ with energies and weights of the frames that are kept, then a JSON with
        the rest.
    progress
        Called with the number of frames read.

    Returns
    -------
    dict
        What the JSON holds.

    Raises
    ------
    DataError
        The trajectory, or a file with weights or energies, cannot be used; names the file, and the frame.
    """
    path, periodic = Path(given.path), system.usesPeriodicBoundaryConditions()
    stride = stride_of(given, topology, periodic, frame_interval)
    before = stamp(path)
    context = None if "energies" in given.values else _context(system, platform)
    times, energies, work, done = [], [], [], 0
    for piece in read_pieces(path, topology, periodic):
        times.append(piece.time)
        kept = range(-done % stride, len(piece), stride)
        if context is not None:
            energies.append([_energy(context, piece, frame, f"{path}: frame {done + frame}") for frame in kept])
        if pressure is not None:
            work.append(pressure * BAR * piece.unitcell_volumes[kept.start :: stride])
        done += len(piece)
        progress(done)
    _even(given, np.concatenate(times))
    numbers = {name: _read_values(name, given, earlier, done)[::stride] for name in given.values}
    weights = numbers.get("weights", np.ones(len(range(0, done, stride))))
    if not weights.any():
        raise DataError(f"{path}: none of the frames that are kept, every {stride}th, has a weight.")
    summary = {
        "path": str(path),
        **before,
        "sha256": storage.checksum(path),
        "frames": done,
        "stride": stride,
        "temperature": given.temperature,
        "values": {name: {"path": file, "sha256": storage.checksum(file)} for name, file in given.values.items()},
    }
    if stamp(path) != before:
        raise DataError(f"{path}: changed while it was read; is a simulation still writing it?")
    with storage.atomic_write(target.with_suffix(".npz")) as temporary:
        energy = numbers["energies"] if context is None else np.concatenate(energies)
        np.savez(temporary, energy=energy + (np.concatenate(work) if work else 0.0), weight=weights)
    storage.write_json(target.with_suffix(".json"), summary)
    return summary


def stamp(path: Path) -> dict[str, int]:
    """Size and time of the last change of a file, which tell whether it may be another one."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return {"size": status.st_size, "modified": status.st_mtime_ns}


def _even(given: ExternalTrajectory, times: np.ndarray) -> float | None:
    """Time between frames, ps, which has to be the same everywhere; none where nothing says it."""
    steps = np.diff(times.astype(np.float64))
    if not given.path.lower().endswith(WITH_TIMES) or not len(steps) or not steps.any():
        return given.interval
    interval = float(np.median(steps)) if given.interval is None else given.interval
    tolerance = 1e-3 * interval + 2 * float(np.spacing(np.float32(np.abs(times).max())))
    off = np.abs(steps - interval) > tolerance
    if not off.any():
        return interval
    frame = int(off.argmax())
    if off.all():
        raise DataError(
            f"{given.path}: has a frame every {steps[frame]:.4g} ps, and not every {interval:g} ps as interval says."
        )
    raise DataError(
        f"{given.path}: frames {frame} and {frame + 1} are {steps[frame]:.4g} ps apart, others {interval:.4g} ps; it "
        "has to be one continuous trajectory."
    )


def _read_values(name: str, given: ExternalTrajectory, earlier: int, frames: int) -> np.ndarray:
    """Weights or energies of all frames of one trajectory; (frames,)."""
    file = given.values[name]
    try:
        if file.endswith(".npz"):
            with np.load(file) as table:
                if len(table.files) != 1 and name not in table.files:
                    raise DataError(f"{file}: holds {', '.join(table.files)}, and none of them is '{name}'.")
                values = table[name if name in table.files else table.files[0]]
        else:
            values = np.load(file) if file.endswith(".npy") else np.loadtxt(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as numbers ({error}).") from error
    values = np.asarray(values, np.float64).squeeze()
    if values.ndim != 1:
        raise DataError(f"{file}: needs one value a frame; has the shape {values.shape}.")
    end = earlier + frames
    if len(values) < end or (given.place == given.siblings - 1 and len(values) != end):
        raise DataError(f"{file}: holds {len(values)} values for {end} frames up to the end of {given.path}.")
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
        box = reduced_box(torch.from_numpy(np.tril(piece.unitcell_vectors[frame].astype(np.float64))))
        context.setPeriodicBoxVectors(*box.tolist())
    context.setPositions(piece.xyz[frame])
    try:
        context.computeVirtualSites()
        value = context.getState(getEnergy=True).getPotentialEnergy()._value
    except openmm.OpenMMException as error:
        raise DataError(f"{where}: has no potential energy ({error}).") from error
    if not np.isfinite(value):
        raise DataError(f"{where}: its potential energy is {value}; atoms overlap, or their order is not the system's.")
    return value
