"""Tables of descriptors of trajectories, for other programs and for inspection."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import mdtraj
import numpy as np

from latf_sampling.core import installation, storage
from latf_sampling.core.outputs import output_file, reason
from latf_sampling.core.words import plural
from latf_sampling.data.columns import ColumnStatistics, column_statistics
from latf_sampling.data.external import ExternalTrajectory, stride_of
from latf_sampling.data.frame_checks import CheckedFrames
from latf_sampling.data.trajectories import Frames
from latf_sampling.data.trajectory_files import read_strided
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.features import Features
from latf_sampling.records.records import Records
from latf_sampling.records.setup import Setup

SUFFIXES = (".npz", ".npy", ".csv")
ROWS = 8192
"""Number of frames that are copied at a time."""


@dataclass(frozen=True)
class Source:
    """One continuous trajectory to measure.

    Attributes
    ----------
    name : str
    files : list of dict
        "path" and "sha256" of each file of the trajectory.
    pieces
        Returns its frames, some at a time.
    temperature : float or None
        K; `None` where it is not known.
    frames : Frames or None
        The trajectory with its energies and weights; `None` where they are not known.
    """

    name: str
    files: list[dict[str, str]]
    pieces: Callable[[], Iterable[mdtraj.Trajectory]]
    temperature: float | None = None
    frames: Frames | None = None

    @classmethod
    def from_records(cls, records: Records) -> list[Source]:
        """All walkers and external trajectories of a campaign."""
        return [
            cls(frames.label, records.source_files(frames), frames.pieces, frames.temperature, frames)
            for frames in records.frames()
        ]

    @classmethod
    def from_protocol(cls, setup: Setup) -> list[Source]:
        """The external trajectories that a protocol starts from, thinned to its interval."""
        sources = []
        for external in ExternalTrajectory.from_settings(setup.protocol.from_trajectories):
            stride = stride_of(
                external, setup.topology, setup.periodic, setup.protocol.frame_interval, setup.frame_checks
            )
            sources.append(cls._from_file(setup, external.path, stride, external.temperature))
        return sources

    @classmethod
    def from_files(cls, setup: Setup, paths: Sequence[str | Path]) -> list[Source]:
        """All frames of trajectory files of a protocol's system.

        Raises
        ------
        SettingsError
            There is no such file.
        """
        return [cls._from_file(setup, str(Path(path).resolve()), 1, None) for path in paths]

    @classmethod
    def _from_file(cls, setup: Setup, path: str, stride: int, temperature: float | None) -> Source:
        if not Path(path).is_file():
            raise SettingsError(f"there is no file {path}.")

        def pieces() -> Iterator[mdtraj.Trajectory]:
            pieces = read_strided(path, setup.topology, setup.periodic, stride)
            return CheckedFrames(setup.frame_checks, path, temperature, stride)(pieces)

        return cls(Path(path).name, [{"path": path, "sha256": storage.checksum(path)}], pieces, temperature)


def write_features(
    features: Features,
    sources: Sequence[Source],
    path: str | Path | None = None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> ColumnStatistics:
    """Compute descriptors of trajectories, write them to a file, and return the statistics of their columns.

    Only some frames are in memory at a time. An NPZ file holds ``x`` (frames, F), ``names`` and ``units`` (F,),
    ``trajectory`` (frames,) with the number of each frame's trajectory, ``temperatures`` (trajectories,), K, where they
    are known, ``energies``, kJ/mol, and ``weights``, (frames,) each, where they are known, and ``provenance``, a JSON
    text with specification, topology, trajectories with their files' checksums, and versions. An NPY file holds ``x``
    alone, so that it can be mapped into memory; a CSV file has one line per frame. Names, units and provenance of these
    two are written to a JSON file next to them.

    Parameters
    ----------
    features
        The descriptors.
    sources
        One or more trajectories.
    path
        File to write, in the format of its suffix; `None` writes no file.
    progress
        Called with the fraction done and a few words.

    Raises
    ------
    SettingsError
        The suffix is none of these, or there is no trajectory.
    StoreError
        The file cannot be written, which is found before anything is computed.
    """
    if not sources:
        raise SettingsError("there is no trajectory to compute descriptors of; name one.")
    target = None if path is None else feature_file(path)
    lengths: list[int] = []

    def parts(scratch: IO[bytes]) -> Iterator[np.ndarray]:
        for number, source in enumerate(sources):
            lengths.append(0)
            for piece in source.pieces():
                x = features.transform(piece)
                lengths[-1] += len(x)
                if target is not None:
                    scratch.write(x.tobytes())
                yield x
                progress(number / len(sources), f"{source.name}: {plural(lengths[-1], 'frame')}")

    try:
        with tempfile.TemporaryFile(dir=None if target is None else target.absolute().parent) as scratch:
            statistics = column_statistics(parts(scratch), features.names, features.units)
            if target is not None:
                _write(target, features, sources, lengths, scratch)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({reason(error)}); nothing was changed.") from error
    progress(1.0, f"{plural(statistics.frames, 'frame')}, {plural(len(features.names), 'column')}")
    return statistics


def provenance(features: Features, sources: Sequence[Source], lengths: Sequence[int]) -> dict:
    """The meaning and the origin of the numbers, for JSON."""
    return {
        "names": features.names,
        "units": features.units,
        "features": features.spec,
        "topology": features.topology_fingerprint,
        "periodic": features.periodic,
        "trajectories": [
            {"name": source.name, "frames": length, "temperature_K": source.temperature, "files": source.files}
            for source, length in zip(sources, lengths)
        ],
        "versions": {name: version for name, version in installation.installed().items() if version},
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def feature_file(path: str | Path) -> Path:
    """The file for a table of descriptors, after a try to write there.

    Raises
    ------
    SettingsError
        The suffix is none of `SUFFIXES`, or there is no such folder.
    StoreError
        The file cannot be written.
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise SettingsError(f"{path}: there is no folder {folder}.")
    target = output_file(path)
    if target.suffix not in SUFFIXES:
        raise SettingsError(f"{path}: features are written as {', '.join(SUFFIXES)}; the suffix selects the format.")
    if target.suffix != ".npz":
        output_file(target.with_suffix(".json"))
    return target


def _write(path: Path, features: Features, sources: Sequence[Source], lengths: list[int], scratch: IO[bytes]) -> None:
    about = provenance(features, sources, lengths)
    shape = (sum(lengths), len(features.names))
    if path.suffix != ".npz":
        if path.suffix == ".npy":
            with storage.atomic_write(path) as temporary, temporary.open("wb") as file:
                _copy_npy(file, shape, scratch)
        else:
            with storage.atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                _copy_csv(csv.writer(file), features, lengths, scratch)
        storage.write_json(path.with_suffix(".json"), about)
        return
    arrays = {
        "names": np.array(features.names),
        "units": np.array(features.units),
        "trajectory": np.repeat(np.arange(len(lengths)), lengths),
        "provenance": np.array(json.dumps(about)),
    }
    if all(source.temperature is not None for source in sources):
        arrays["temperatures"] = np.array([source.temperature for source in sources])
    frames = [source.frames for source in sources if source.frames is not None]
    if len(frames) == len(sources):
        arrays["energies"] = np.concatenate([part.energies for part in frames])
        arrays["weights"] = np.concatenate([part.weights for part in frames])
    with storage.atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            _copy_npy(member, shape, scratch)
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def _copy_npy(file: IO[bytes], shape: tuple[int, int], scratch: IO[bytes]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for part in _rows(shape[1], scratch):
        file.write(part.tobytes())


def _copy_csv(writer, features: Features, lengths: list[int], scratch: IO[bytes]) -> None:
    trajectory = iter(np.repeat(np.arange(len(lengths)), lengths).tolist())
    titles = [f"{name} / {unit}" if unit else name for name, unit in zip(features.names, features.units)]
    writer.writerow(["trajectory", *titles])
    for part in _rows(len(titles), scratch):
        writer.writerows([next(trajectory), *(f"{value:.7g}" for value in row)] for row in part.tolist())


def _rows(width: int, scratch: IO[bytes]) -> Iterator[np.ndarray]:
    scratch.seek(0)
    while block := scratch.read(4 * width * ROWS):
        yield np.frombuffer(block, "<f4").reshape(-1, width)
