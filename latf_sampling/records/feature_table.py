"""Descriptors of trajectories as a file of their own: for other programs, and to look at."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING

import mdtraj
import numpy as np

from latf_sampling.core import installation, storage
from latf_sampling.data import layout
from latf_sampling.data.columns import ColumnStatistics, column_statistics
from latf_sampling.data.external import ExternalTrajectory, stride_of
from latf_sampling.data.external_frames import ExternalFrames
from latf_sampling.data.trajectories import Frames
from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import SettingsError
from latf_sampling.features import Features

if TYPE_CHECKING:
    from latf_sampling.campaign.campaign import Campaign

SUFFIXES = (".npz", ".npy", ".csv")
ROWS = 8192
"""Frames that are copied at a time."""


@dataclass(frozen=True)
class Source:
    """One continuous trajectory to measure.

    Attributes
    ----------
    name : str
    files : list of dict
        "path" and "sha256" of each file that it comes from.
    pieces
        Gives its frames, some at a time.
    temperature : float or None
        K, where it is known.
    frames : Frames or None
        Its energies and weights, where they are known.
    """

    name: str
    files: list[dict[str, str]]
    pieces: Callable[[], Iterator[mdtraj.Trajectory]]
    temperature: float | None = None
    frames: Frames | None = None

    @classmethod
    def of_campaign(cls, campaign: Campaign) -> list[Source]:
        """All that a campaign has simulated or was given."""
        return [cls._of_frames(campaign, walker) for walker in campaign.frames()]

    @classmethod
    def _of_frames(cls, campaign: Campaign, walker: Frames) -> Source:
        if isinstance(walker, ExternalFrames):
            mark = storage.read_json(campaign.store.given(walker.walker).with_suffix(".json"))
            files = [{"path": mark["path"], "sha256": mark["sha256"]}]
        else:
            folder, files = campaign.store.walker(walker.round_index, walker.walker), []
            while (mark := folder / f"segment-{len(files):03d}.json").exists():
                path = layout.segment_files(folder, len(files))["trajectory"]
                files.append({"path": str(path), "sha256": storage.read_json(mark)["checksums"]["trajectory"]})
        return cls(walker.label, files, walker.pieces, walker.temperature, walker)

    @classmethod
    def of_protocol(cls, campaign: Campaign) -> list[Source]:
        """The trajectories that a protocol starts from, thinned as it says."""
        made = []
        for given in ExternalTrajectory.of(campaign.protocol.from_trajectories):
            stride = stride_of(given, campaign.topology, campaign.periodic, campaign.protocol.frame_interval)
            made.append(cls._of_file(campaign, given.path, stride, given.temperature))
        return made

    @classmethod
    def of_files(cls, campaign: Campaign, paths: Sequence[str | Path]) -> list[Source]:
        """All frames of trajectories of a campaign's system."""
        return [cls._of_file(campaign, str(Path(path).resolve()), 1, None) for path in paths]

    @classmethod
    def _of_file(cls, campaign: Campaign, path: str, stride: int, temperature: float | None) -> Source:
        def pieces() -> Iterator[mdtraj.Trajectory]:
            done = 0
            for piece in read_pieces(path, campaign.topology, campaign.periodic):
                kept = piece[-done % stride :: stride]
                done += len(piece)
                if len(kept):
                    yield kept

        if not Path(path).is_file():
            raise SettingsError(f"there is no file {path}.")
        return cls(Path(path).name, [{"path": path, "sha256": storage.checksum(path)}], pieces, temperature)


def write_features(
    features: Features,
    sources: Sequence[Source],
    path: str | Path | None = None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> ColumnStatistics:
    """Measure descriptors of trajectories, write them, and look at their columns, some frames at a time.

    An NPZ file holds ``x`` (frames, F), ``names`` and ``units`` (F,), ``trajectory`` (frames,), the number of the
    trajectory that each frame is of, ``temperatures`` of the trajectories, K, where they are known, ``energies``,
    kJ/mol, and ``weights`` (frames,) where they are, and ``provenance``, a JSON text: specification, topology,
    trajectories with their files' checksums, versions. An NPY file holds ``x`` alone, so that it can be mapped into
    memory; a CSV file has one line a frame. Provenance, with names and units, then is in a JSON file next to it.

    Parameters
    ----------
    features
        What to measure.
    sources
        Trajectories; one or more.
    path
        File to write; its suffix says how. None writes none.
    progress
        Called with the fraction done and a few words.

    Raises
    ------
    SettingsError
        The suffix is none of these, or there is no trajectory.
    """
    if path is not None and Path(path).suffix not in SUFFIXES:
        raise SettingsError(f"{path}: features are written as {', '.join(SUFFIXES)}; the suffix says which.")
    if not sources:
        raise SettingsError("there is no trajectory to measure; name some.")
    lengths: list[int] = []
    with tempfile.TemporaryFile(dir=None if path is None else _folder(path)) as scratch:

        def parts() -> Iterator[np.ndarray]:
            for number, source in enumerate(sources):
                lengths.append(0)
                for piece in source.pieces():
                    x = features.transform(piece)
                    lengths[-1] += len(x)
                    if path is not None:
                        scratch.write(x.tobytes())
                    yield x
                    progress(number / len(sources), f"{source.name}: {lengths[-1]:,} frames")

        found = column_statistics(parts(), features.names, features.units)
        if path is not None:
            _write(Path(path), features, sources, lengths, scratch)
    progress(1.0, f"{found.frames:,} frames, {len(features.names)} columns")
    return found


def provenance(features: Features, sources: Sequence[Source], lengths: Sequence[int]) -> dict:
    """What the numbers are and where they come from, for JSON."""
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


def _folder(path: str | Path) -> Path:
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise SettingsError(f"{path}: there is no folder {folder}.")
    return folder


def _write(path: Path, features: Features, sources: Sequence[Source], lengths: list[int], scratch: IO[bytes]) -> None:
    about = provenance(features, sources, lengths)
    shape = (sum(lengths), len(features.names))
    if path.suffix != ".npz":
        if path.suffix == ".npy":
            with storage.atomic_write(path) as temporary, temporary.open("wb") as file:
                _copy_npy(file, shape, scratch)
        else:
            with storage.atomic_write(path) as temporary, temporary.open("w", newline="") as file:
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
    if all(source.frames is not None for source in sources):
        arrays["energies"] = np.concatenate([source.frames.energies for source in sources])
        arrays["weights"] = np.concatenate([source.frames.weights for source in sources])
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
