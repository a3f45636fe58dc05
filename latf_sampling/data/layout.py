"""The files of a campaign's directory: every name stands here, and nowhere else.

A campaign's directory::

    protocol.json                 settings of the campaign; another protocol is refused
    inputs/                       copies of the structure and of other files that the protocol names
    system/                       the simulated molecule, see `latf_sampling.systems.Molecule`
    lock                          locked while a process runs the campaign
    rounds/00/walker-00/          segment-000.nc, .npz (numbers per frame), .xml (state), .json (marker: checksums)
    rounds/00/trajectory-000.json     in place of a walker: an external trajectory's path and checksum; .npz: energies
    rounds/01/walker-00/stopped.json  the reason why a walker that left its trust region was stopped
    rounds/01/hills/walker-00.hills   the hills that a walker has added to the bias so far
    rounds/01/starts/             structures that the walkers of the round started from
    rounds/00/learning/           model.pt, cv.pt, history.json; training.pt while the model is trained
    starts/                       structures at the new temperature, see `latf_sampling.starts.Starts`
    evaluation.html, lags.html, report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latf_sampling.core.storage import atomic_write, checksum, read_json, remove_stale, try_lock, write_json, write_text
from latf_sampling.errors import StoreError

LOCK = "lock"


@dataclass(frozen=True)
class SegmentFiles:
    """The files of one segment of a walker.

    Attributes
    ----------
    stem : pathlib.Path
        Their common name, without a suffix.
    """

    stem: Path

    @property
    def trajectory(self) -> Path:
        """Positions and boxes of the frames, NetCDF."""
        return self.stem.with_suffix(".nc")

    @property
    def frames(self) -> Path:
        """Energy, bias and offset of each frame, NPZ."""
        return self.stem.with_suffix(".npz")

    @property
    def state(self) -> Path:
        """OpenMM's state at the end, XML."""
        return self.stem.with_suffix(".xml")

    @property
    def marker(self) -> Path:
        """Summary and checksums, JSON; written last, so that its existence marks the segment as finished."""
        return self.stem.with_suffix(".json")

    @property
    def contents(self) -> dict[str, Path]:
        """The files that the marker holds checksums of, by their role."""
        return {"trajectory": self.trajectory, "frames": self.frames, "state": self.state}

    def finish(self, summary: Mapping) -> None:
        """Mark the segment as finished, after its files are complete."""
        sums = {name: checksum(path) for name, path in self.contents.items()}
        write_json(self.marker, {**summary, "checksums": sums})


@dataclass(frozen=True)
class WalkerDirectory:
    """The folder of one walker."""

    path: Path

    def segment(self, index: int) -> SegmentFiles:
        return SegmentFiles(self.path / f"segment-{index:03d}")

    def markers(self) -> list[Path]:
        """Markers of finished segments, in order, up to the first one that is missing."""
        markers: list[Path] = []
        while (marker := self.segment(len(markers)).marker).exists():
            markers.append(marker)
        return markers

    def finished_segments(self) -> list[dict]:
        """Summaries of the finished segments, in order, up to the first one that is missing.

        Raises
        ------
        StoreError
            A file of a finished segment has changed since; names it.
        """
        summaries = [read_json(marker) for marker in self.markers()]
        for index, summary in enumerate(summaries):
            segment = self.segment(index)
            for name, path in segment.contents.items():
                if not path.exists() or checksum(path) != summary["checksums"][name]:
                    raise StoreError(
                        f"{path}: is missing or was changed after it was finished; delete {segment.marker} to simulate "
                        "it again."
                    )
        return summaries

    def is_finished(self, segments: int) -> bool:
        """Whether there is nothing left to simulate of so many segments; files are not checked."""
        return self.segment(segments - 1).marker.exists() or self.stop_reason() is not None

    @property
    def _stop_marker(self) -> Path:
        return self.path / "stopped.json"

    def mark_stopped(self, reason: str) -> None:
        """Mark the walker as one that must not be continued."""
        write_json(self._stop_marker, {"why": reason})

    def stop_reason(self) -> str | None:
        """The reason why the walker must not be continued; `None` where it may be."""
        return read_json(self._stop_marker)["why"] if self._stop_marker.exists() else None


@dataclass(frozen=True)
class LearningDirectory:
    """The folder of the model that was trained after a round."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model.pt"

    @property
    def cv(self) -> Path:
        return self.path / "cv.pt"

    @property
    def history(self) -> Path:
        """Training history, JSON; written last, so that its existence marks the training as finished."""
        return self.path / "history.json"

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self.path / "training.pt"

    @property
    def finished(self) -> bool:
        return self.history.exists()


@dataclass(frozen=True)
class ExternalFiles:
    """The files that describe an external trajectory, which itself stays where it is.

    Attributes
    ----------
    stem : pathlib.Path
        Their common name, without a suffix.
    """

    stem: Path

    @property
    def numbers(self) -> Path:
        """Energy and weight of each frame that is used, NPZ."""
        return self.stem.with_suffix(".npz")

    @property
    def marker(self) -> Path:
        """Path, checksum and length of the trajectory, JSON; written last."""
        return self.stem.with_suffix(".json")


@dataclass(frozen=True)
class RoundDirectory:
    """The folder of one round."""

    path: Path

    def walker(self, number: int) -> WalkerDirectory:
        return WalkerDirectory(self.path / f"walker-{number:02d}")

    def external(self, number: int) -> ExternalFiles:
        """Files about an external trajectory, which takes the place of a walker."""
        return ExternalFiles(self.path / f"trajectory-{number:03d}")

    @property
    def hills(self) -> Path:
        """Folder where the walkers share their bias."""
        return self.path / "hills"

    @property
    def starts(self) -> Path:
        """Folder with the structures that the walkers start from."""
        return self.path / "starts"

    @property
    def learning(self) -> LearningDirectory:
        return LearningDirectory(self.path / "learning")


class CampaignDirectory:
    """The files of one campaign. Nothing is written before `acquire`.

    Parameters
    ----------
    path
        The directory; it does not have to exist.

    Examples
    --------
    >>> CampaignDirectory("/data/run").round(1).walker(0).segment(2).trajectory.as_posix()
    '/data/run/rounds/01/walker-00/segment-002.nc'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def round(self, index: int) -> RoundDirectory:
        return RoundDirectory(self.path / "rounds" / f"{index:02d}")

    @property
    def inputs(self) -> Path:
        """Folder with copies of the files that the protocol names."""
        return self.path / "inputs"

    @property
    def system(self) -> Path:
        """Folder of the simulated molecule."""
        return self.path / "system"

    @property
    def starts(self) -> Path:
        """Folder with the structures at the new temperature."""
        return self.path / "starts"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.html"

    @property
    def lags(self) -> Path:
        return self.path / "lags.html"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def _protocol(self) -> Path:
        return self.path / "protocol.json"

    def protocol(self) -> dict:
        """The settings of the campaign, as `Protocol.canonical` wrote them.

        Raises
        ------
        StoreError
            No campaign is in the directory.
        """
        if not self._protocol.exists():
            raise StoreError(f"{self.path}: there is no campaign in this directory; `latf run` makes one.")
        return read_json(self._protocol)

    @contextmanager
    def acquire(self, protocol: str, inputs: Mapping[str, bytes] | None = None) -> Iterator[None]:
        """Lock the directory for one process and one protocol.

        Parameters
        ----------
        protocol
            The protocol's canonical text, which is stored if the directory is new.
        inputs
            Contents of the files that the protocol names, which are stored with it, by name.

        Raises
        ------
        StoreError
            Another process runs this campaign, or the directory belongs to another protocol.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be used as a campaign directory ({error.strerror}).") from error
        lock = try_lock(self.path / LOCK)
        if lock is None:
            raise StoreError(f"{self.path}: another process is running this campaign.")
        with lock:
            if not self._protocol.exists():
                self._store(protocol, inputs or {})
            elif keys := _differing_keys(self.protocol(), json.loads(protocol)):
                raise StoreError(
                    f"{self.path}: was made with other settings ({', '.join(keys)}); "
                    "go on with those, or give another directory."
                )
            remove_stale(self.path)
            yield

    def _store(self, protocol: str, inputs: Mapping[str, bytes]) -> None:
        # Copies of inputs may exist without a protocol: an earlier start was interrupted between the two.
        ours = (LOCK, self.inputs.name)
        others = [entry.name for entry in self.path.iterdir() if entry.name not in ours and entry.name[0] != "."]
        if others:
            names = ", ".join(sorted(others)[:3])
            raise StoreError(f"{self.path}: holds other files ({names}); give an empty directory.")
        for name, content in inputs.items():
            with atomic_write(self.inputs / name) as temporary:
                temporary.write_bytes(content)
        write_text(self._protocol, protocol)


def locate_model(path: str | Path) -> tuple[Path, int] | None:
    """The campaign directory and the round that a model file belongs to; `None` where the path is not that of a model.

    Examples
    --------
    >>> locate_model("/data/run/rounds/01/learning/model.pt")
    (PosixPath('/data/run'), 1)
    """
    path = Path(path).absolute()
    if len(path.parents) < 4 or not path.parents[1].name.isdigit():
        return None
    directory, index = path.parents[3], int(path.parents[1].name)
    return (directory, index) if path == CampaignDirectory(directory).round(index).learning.model else None


def _differing_keys(old: dict, new: dict, prefix: str = "") -> list[str]:
    keys = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                keys += _differing_keys(old[key], new[key], f"{prefix}{key}.")
            else:
                keys.append(prefix + key)
    return keys
