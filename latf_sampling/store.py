"""The only owner of paths and writes: nothing is ever half-written, and a finished file stays what it was.

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
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from latf_sampling.errors import StoreError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name, and give it its own once it is whole and on the disk.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'

    Raises
    ------
    StoreError
        The file cannot be written, for example on a full disk; an earlier file of this name is untouched.
    """
    path = Path(path)
    # The suffix stays last, since writers of trajectories choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed.") from error
    finally:
        with suppress(OSError):  # a folder that could not be made or written must not hide the error above
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def append(path: str | Path, text: str, place: int) -> int:
    """Add whole lines to a file that ends at a place, in bytes; returns where it ends then.

    A call that is interrupted, or that finds the disk full, leaves whole lines alone behind. The next one, given the
    same lines and more, goes on after them.

    Raises
    ------
    StoreError
        They cannot be written, for example on a full disk; what was there is untouched.
    """
    content = text.encode()
    try:
        with open(path, "r+b", buffering=0) as file:
            there = file.seek(0, os.SEEK_END) - place
            if not 0 <= there <= len(content):
                raise OSError(None, "another program changed it")
            try:
                while there < len(content):  # one call, unless the disk is full: readers see few broken lines
                    there += file.write(content[there:])
            except OSError:
                # Whole lines stay, since a reader may have taken them up.
                file.truncate(place + content.rfind(b"\n", 0, there) + 1)
                raise
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{path}: cannot be written ({reason}); what was there is untouched.") from error
    return place + len(content)


def sync(path: str | Path) -> None:
    """Bring a file from the memory of the operating system to the disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def hold(path: str | Path) -> IO | None:
    """A file that one process alone may hold, open as long as it is wanted; none where another process holds it.

    Raises
    ------
    StoreError
        It cannot be made or locked.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115 - held open as long as the lock is
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}).") from error
    try:
        # The kernel drops this lock with the process, however it ends, so that a kill leaves nothing behind.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        lock.close()
        raise StoreError(f"{path}: cannot be locked ({error.strerror}).") from error
    return lock


def write_json(path: str | Path, content) -> None:
    """Write a JSON file at once or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))


def read_json(path: str | Path):
    """Read a JSON file.

    Raises
    ------
    StoreError
        The file is missing or damaged.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}).") from error


def remove(path: str | Path) -> None:
    """Remove a file that is no longer needed, where it exists."""
    Path(path).unlink(missing_ok=True)


def sweep(folder: str | Path, stem: str | None = None) -> None:
    """Remove temporary files of processes that were killed while writing; of files of one name, or of all below."""
    for leftover in Path(folder).rglob(".*") if stem is None else Path(folder).glob(".*"):
        found = re.fullmatch(r"\.(.+)\.\d+(\.\w+)?", leftover.name)
        if found and stem in (None, found[1]) and leftover.is_file():
            leftover.unlink(missing_ok=True)


def remove_folder(path: str | Path) -> None:
    """Remove a folder that is no longer needed, with all that is in it."""
    shutil.rmtree(path)


def checksum(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Store:
    """The files of one campaign.

    Parameters
    ----------
    directory
        Where the campaign lives; made by `claim`.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()

    @contextmanager
    def claim(self, protocol: str, inputs: Mapping[str, bytes] | None = None) -> Iterator[None]:
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
                    with replacing(self.inputs / name) as temporary:
                        temporary.write_bytes(content)
                write_text(mark, protocol)
            elif keys := _different(self.protocol(), json.loads(protocol)):
                raise StoreError(
                    f"{self.directory}: was made with other settings ({', '.join(keys)}); "
                    "go on with those, or give another directory."
                )
            sweep(self.directory)
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


def stop(walker: Path, why: str) -> None:
    """Mark a walker as one that is not to go on, and say why."""
    write_json(walker / "stopped.json", {"why": why})


def stopped(walker: Path) -> str | None:
    """Why a walker is not to go on; none where it is."""
    mark = walker / "stopped.json"
    return read_json(mark)["why"] if mark.exists() else None


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _different(old: dict, new: dict, prefix: str = "") -> list[str]:
    keys = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                keys += _different(old[key], new[key], f"{prefix}{key}.")
            else:
                keys.append(prefix + key)
    return keys
