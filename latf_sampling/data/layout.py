"""The files of a campaign's directory.

A campaign's directory::

    protocol.json                 the settings that made it; another protocol is refused
    inputs/                       copies of the structure and of other files that the protocol names
    system/                       what is simulated: system.xml, structure.cif to look at, molecule.json
    lock                          held while a process works here
    rounds/00/walker-00/          segment-000.nc, .npz (per-frame numbers), .xml (state), .json (finished: checksums)
    rounds/00/trajectory-000.json     instead of walkers: where a given trajectory is, its checksum; .npz: its energies
    rounds/01/walker-00/stopped.json  why a walker that left what its model knows was stopped
    rounds/01/hills/walker-00.hills   what a walker added to the bias so far
    rounds/01/starts/             structures that the round started from
    rounds/00/learning/           model.pt, cv.pt, history.json
    starts/                       structures at the new temperature
    report.html
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from latf_sampling.core.storage import atomic_write, checksum, read_json, remove_stale, write_json, write_text
from latf_sampling.errors import StoreError


class Store:
    """The files of one campaign.

    Parameters
    ----------
    directory
        Where the campaign lives; made by `acquire`.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()

    @contextmanager
    def acquire(self, protocol: str, inputs: Mapping[str, bytes] | None = None) -> Iterator[None]:
        """Hold the directory for one process and one protocol (its canonical text), and keep its files by name.

        Raises
        ------
        StoreError
            Another process works here, or another protocol made what is here.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = open(self.directory / "lock", "a+")  # noqa: SIM115 - held open as long as the lock is
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot be used as a campaign directory ({error.strerror}).") from error
        with lock:
            try:
                # The kernel drops this lock with the process, however it ends, so that a kill leaves nothing behind.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{self.directory}: another process is running this campaign.") from error
            mark = self.directory / "protocol.json"
            if not mark.exists():
                # Copies of inputs may be there without it: an earlier start was cut short between the two.
                ours = ("lock", self.inputs.name)
                others = [e.name for e in self.directory.iterdir() if e.name not in ours and e.name[0] != "."]
                if others:
                    names = ", ".join(sorted(others)[:3])
                    raise StoreError(f"{self.directory}: holds other files ({names}); give an empty directory.")
                for name, content in (inputs or {}).items():
                    with atomic_write(self.inputs / name) as temporary:
                        temporary.write_bytes(content)
                write_text(mark, protocol)
            elif keys := _different(self.protocol(), json.loads(protocol)):
                raise StoreError(
                    f"{self.directory}: was made with other settings ({', '.join(keys)}); "
                    "go on with those, or give another directory."
                )
            remove_stale(self.directory)
            yield

    def protocol(self) -> dict:
        """The settings that this directory was made with.

        Raises
        ------
        StoreError
            No campaign is in the directory.
        """
        mark = self.directory / "protocol.json"
        if not mark.exists():
            raise StoreError(f"{self.directory}: there is no campaign in this directory; `latf run` makes one.")
        return read_json(mark)

    @property
    def inputs(self) -> Path:
        return self.directory / "inputs"

    @property
    def system(self) -> Path:
        return self.directory / "system"

    def walker(self, round_index: int, walker: int) -> Path:
        return self.directory / "rounds" / f"{round_index:02d}" / f"walker-{walker:02d}"

    def learning(self, round_index: int) -> Path:
        return self.directory / "rounds" / f"{round_index:02d}" / "learning"

    def given(self, number: int) -> Path:
        """What is known of a trajectory that the campaign started from: an NPZ and a JSON, without their suffixes."""
        return self.directory / "rounds" / "00" / f"trajectory-{number:03d}"

    def round_starts(self, round_index: int) -> Path:
        return self.directory / "rounds" / f"{round_index:02d}" / "starts"

    @property
    def starts(self) -> Path:
        return self.directory / "starts"

    @property
    def evaluation(self) -> Path:
        return self.directory / "evaluation.html"

    @property
    def report(self) -> Path:
        return self.directory / "report.html"


def segment_files(walker: Path, index: int) -> dict[str, Path]:
    """The files of one segment, by what they hold."""
    stem = walker / f"segment-{index:03d}"
    return {
        "trajectory": stem.with_suffix(".nc"),
        "frames": stem.with_suffix(".npz"),
        "state": stem.with_suffix(".xml"),
    }


def finish_segment(walker: Path, index: int, summary: dict) -> None:
    """Mark a segment as finished, once its files are whole, with their checksums."""
    sums = {name: checksum(path) for name, path in segment_files(walker, index).items()}
    write_json(walker / f"segment-{index:03d}.json", {**summary, "checksums": sums})


def finished_segments(walker: Path) -> list[dict]:
    """Summaries of a walker's finished segments, in order, up to the first one that is missing.

    Raises
    ------
    StoreError
        A finished segment's file has changed since; names it.
    """
    summaries: list[dict] = []
    while (mark := walker / f"segment-{len(summaries):03d}.json").exists():
        summary = read_json(mark)
        for name, path in segment_files(walker, len(summaries)).items():
            if not path.exists() or checksum(path) != summary["checksums"][name]:
                raise StoreError(
                    f"{path}: is missing or was changed after it was finished; delete {mark} to simulate it again."
                )
        summaries.append(summary)
    return summaries


def mark_stopped(walker: Path, why: str) -> None:
    """Mark a walker as one that is not to go on, and say why."""
    write_json(walker / "stopped.json", {"why": why})


def stopped(walker: Path) -> str | None:
    """Why a walker is not to go on; none where it is."""
    mark = walker / "stopped.json"
    return read_json(mark)["why"] if mark.exists() else None


def _different(old: dict, new: dict, prefix: str = "") -> list[str]:
    keys = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                keys += _different(old[key], new[key], f"{prefix}{key}.")
            else:
                keys.append(prefix + key)
    return keys
