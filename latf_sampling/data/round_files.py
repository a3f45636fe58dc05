"""The files of a round: of its walkers and their segments, external trajectories, structures to start from, and model.

See `latf_sampling.data.layout` for all files of a campaign.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latf_sampling.core.manifest import Manifest
from latf_sampling.data.failures import WalkerFailures
from latf_sampling.errors import StoreError

FAILURES = "failures.json"


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
        """Manifest, JSON; written last, so that its existence marks the segment as finished."""
        return self.stem.with_suffix(".json")

    def finish(self, summary: Mapping, provenance: Mapping | None = None) -> None:
        """Mark the segment as finished, after its files are complete."""
        Manifest.write(self.marker, summary, [self.trajectory, self.frames, self.state], provenance)

    def manifest(self) -> Manifest:
        """The manifest, without a look at the other files.

        Raises
        ------
        StoreError
            It is missing or was changed.
        """
        return Manifest.load(self.marker, ("step", "frames", "temperature", "seconds"))


@dataclass(frozen=True)
class WalkerDirectory:
    """The folder of one walker."""

    path: Path

    def segment(self, index: int) -> SegmentFiles:
        return SegmentFiles(self.path / _stem(index))

    def markers(self) -> list[Path]:
        """Manifests of finished segments, in order, up to the first one that is missing."""
        return [self.path / f"{_stem(index)}.json" for index in range(self.finished())]

    def finished(self) -> int:
        """Number of finished segments, up to the first one whose manifest is missing."""
        names, count = self._names(), 0
        while f"{_stem(count)}.json" in names:
            count += 1
        return count

    def check_gaps(self) -> None:
        """Refuse a walker that has manifests after one that is missing.

        Raises
        ------
        StoreError
            Names the missing one.
        """
        count = self.finished()
        if count < len(names := self._names()) and any(_index(Path(name)) > count for name in names):
            raise StoreError(f"{self.segment(count).marker}: is missing, while later segments of this walker exist.")

    def _names(self) -> set[str]:
        """Names of the manifests: one look at the folder, since there may be thousands."""
        try:
            return {name for name in os.listdir(self.path) if name.endswith(".json")}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def finished_segments(self) -> list[Manifest]:
        """Manifests of the finished segments, in order, whose files are as they were written.

        Raises
        ------
        StoreError
            A file of a finished segment is missing or was changed; names it.
        """
        self.check_gaps()
        return [self.segment(index).manifest().verified() for index in range(self.finished())]

    def is_finished(self, segments: int) -> bool:
        """Whether there is nothing left to simulate of so many segments; files are not checked."""
        done = self.finished()
        return done >= segments or self.stop_reason() is not None or self.failures().ends_before(done)

    @property
    def failures_file(self) -> Path:
        """What was rolled back, and why the walker was retired, JSON; missing as long as nothing failed."""
        return self.path / FAILURES

    def failures(self) -> WalkerFailures:
        """What was rolled back, and why the walker was retired.

        Raises
        ------
        StoreError
            The file was changed.
        """
        return WalkerFailures.load(self.failures_file)

    def stop_reason(self) -> str | None:
        """The reason why the walker must not be continued; `None` where it may be."""
        done = self.finished()
        return Manifest.load(self.segment(done - 1).marker).content.get("stopped") if done else None


def _stem(index: int) -> str:
    """Common name of a segment's files."""
    return f"segment-{index:03d}"


def _index(segment: Path) -> int:
    """The number in the name of a segment's file; -1 where there is none."""
    number = segment.stem.removeprefix("segment-")
    return int(number) if number.isdecimal() else -1


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
        """Training history and manifest, JSON; written last, so that its existence marks the training as finished."""
        return self.path / "history.json"

    def finish(self, summary: Mapping, provenance: Mapping | None = None) -> None:
        """Mark the training as finished, after its files are complete."""
        Manifest.write(self.history, summary, [self.model, self.cv], provenance)

    def manifest(self) -> Manifest:
        """The manifest, without a look at the other files.

        Raises
        ------
        StoreError
            It is missing or was changed.
        """
        return Manifest.load(self.history, ("history", "states", "seconds", "converged"))

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self.path / "training.pt"

    @property
    def finished(self) -> bool:
        return self.history.exists()


@dataclass(frozen=True)
class VariableDirectory:
    """The folder of the variable that a round is biased along, where it is not the one that was learned before."""

    path: Path

    @property
    def cv(self) -> Path:
        return self.path / "cv.pt"

    @property
    def marker(self) -> Path:
        """Manifest, JSON; written last."""
        return self.path / "variable.json"

    def manifest(self) -> Manifest:
        """The manifest, without a look at the other files.

        Raises
        ------
        StoreError
            It is missing or was changed.
        """
        return Manifest.load(self.marker, ("variable", "frames"))


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
        """Path, checksum and length of the trajectory, and manifest, JSON; written last."""
        return self.stem.with_suffix(".json")

    def finish(self, summary: Mapping, provenance: Mapping | None = None) -> None:
        """Mark the trajectory as read, after the numbers are written."""
        Manifest.write(self.marker, summary, [self.numbers], provenance)

    def manifest(self) -> Manifest:
        """The manifest, without a look at the other files.

        Raises
        ------
        StoreError
            It is missing or was changed.
        """
        return Manifest.load(self.marker, ("path", "sha256", "size", "modified", "frames", "stride", "temperature"))


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
        """Folder where the walkers share their bias; see `hills_of` for those at several temperatures."""
        return self.path / "hills"

    def hills_of(self, temperatures: Sequence[float], walker: int) -> Path:
        """Folder where a walker shares its bias with the others at its temperature.

        Parameters
        ----------
        temperatures
            Of all walkers of the round, K. A bias at one temperature is not that at another: hills at the temperature
            of the first walker are in `hills`, those at others in a folder there.
        walker
            Number of the walker.

        Examples
        --------
        >>> files = RoundDirectory(Path("rounds/01"))
        >>> [files.hills_of([300.0, 450.0], walker).as_posix() for walker in (0, 1)]
        ['rounds/01/hills', 'rounds/01/hills/450K']
        """
        own = temperatures[walker]
        return self.hills if own == temperatures[0] else self.hills / f"{own:.12g}K"

    @property
    def exchange(self) -> Path:
        """Folder of what walkers tell each other where they exchange configurations, as long as it is needed."""
        return self.path / "exchange"

    @property
    def starts(self) -> Path:
        """Folder with the structures that the walkers start from."""
        return self.start_set(0)

    def start_set(self, first: int) -> Path:
        """Folder with the structures that walkers from a number on start from.

        Walkers that were added to the protocol after the others had begun have a folder of their own.
        """
        return self.path / ("starts" if first == 0 else f"starts-{first:03d}")

    def start_sets(self) -> list[int]:
        """The first walker of each folder of structures, in order; 0 is always there."""
        later = (path.name.removeprefix("starts-") for path in self.path.glob("starts-*"))
        return [0, *sorted(int(number) for number in later if number.isdecimal())]

    @property
    def learning(self) -> LearningDirectory:
        return LearningDirectory(self.path / "learning")

    @property
    def variable(self) -> VariableDirectory:
        return VariableDirectory(self.path / "variable")
