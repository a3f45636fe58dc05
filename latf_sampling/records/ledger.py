"""The ledger of a campaign: an SQLite file with one row for each task, beside the plain files.

The files are the truth, and the ledger is their index. A task is finished when its manifest is there; whatever the
ledger has of it stands in the manifest, so that a ledger that is lost, damaged or behind is made again from the files
(`latf_sampling.campaign.ledger`). What the ledger knows and the files do not is that a task was finished whose manifest
is gone. `Ledger.tasks` puts what is new on the disk on top of the rows, and reads no manifest twice: one whose size
and time have not changed since its row was made is that of the row.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from latf_sampling.core.manifest import Manifest, digest
from latf_sampling.core.provenance import attempts
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import StoreError

FORMAT = 1
"""SQLite's ``user_version`` of a ledger as it is described here; another one is made again from the files."""


@dataclass(frozen=True)
class Task:
    """One task of a campaign.

    Attributes
    ----------
    name : str
        Its place in the directory: "rounds/01/walker-00/segment-003".
    kind : str
        "molecule", "reading" (of an external trajectory), "segment", "training", "export" (of the collective variable),
        "starts", "evaluation" or "report".
    state : str
        "finished" or "begun".
    attempts : int
        How often it was begun; 0 of versions that did not count.
    began, ended : str
        ISO 8601 in UTC, of the last attempt; empty where it is not known.
    seconds : float
        That the last attempt took.
    host, platform, device : str
        Where it was done; OpenMM's platform and device of what was simulated.
    versions : dict
        Versions of packages.
    stream : list
        Name of its random stream, see `latf_sampling.core.streams`.
    inputs, outputs : dict
        Digests of what it was made from and of what it made, by their names in the directory.
    result : str
        Digest of what the same inputs and stream give again: of the outputs, or of parts of them where files hold times
        or paths.
    manifest : str
        Digest of its manifest.
    size, modified : int
        Of the manifest's file, bytes and ns.
    """

    name: str
    kind: str
    state: str
    attempts: int = 0
    began: str = ""
    ended: str = ""
    seconds: float = 0.0
    host: str = ""
    platform: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    stream: list[str | int] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    result: str = ""
    manifest: str = ""
    size: int = 0
    modified: int = 0

    @property
    def marker(self) -> str:
        """Name of its manifest in the directory; of the tasks that are one file each, that with the ending."""
        return MARKERS.get(self.kind, "{}.json").format(self.name.removesuffix("/cv"))

    @property
    def repeatable(self) -> dict[str, Any]:
        """What is the same whenever, wherever and after however many attempts the task was done."""
        keys = ("name", "kind", "state", "stream", "inputs", "result")
        return {key: getattr(self, key) for key in keys}

    def row(self) -> list[Any]:
        """Values of the columns of the ledger, in the order of `COLUMNS`."""
        values = [json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value for value in self._all]
        return [*values, _row_digest(values)]

    @property
    def _all(self) -> list[Any]:
        return list(asdict(self).values())

    @classmethod
    def from_row(cls, row: tuple) -> Task | None:
        """The task of a row; `None` if the row is damaged."""
        *values, stated = row
        if _row_digest(values) != stated:
            return None
        parsed = [json.loads(value) if name in _JSON else value for name, value in zip(_NAMES, values)]
        return cls(**dict(zip(_NAMES, parsed)))


MARKERS = {"training": "{}/history.json", "export": "{}/history.json", "starts": "{}/starts.json"}
"""Manifests of kinds of tasks that are folders, by the name of the task; other tasks are named as their manifests."""
_NAMES = [entry.name for entry in fields(Task)]
_JSON = {"versions", "stream", "inputs", "outputs"}
_TYPES = {"attempts": "INTEGER", "seconds": "REAL", "size": "INTEGER", "modified": "INTEGER"}
COLUMNS = {name: _TYPES.get(name, "TEXT") for name in _NAMES} | {"digest": "TEXT"}
"""Names and types of the columns of the ledger's table "task"; "digest" is that of the others."""


def _row_digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


class Ledger:
    """The ledger of a campaign, which is only read here.

    Parameters
    ----------
    directory
        The campaign.

    Examples
    --------
    >>> ledger = Ledger(CampaignDirectory("runs/demo"))
    >>> [task.name for task in ledger.tasks().values() if task.attempts > 1]
    []
    """

    def __init__(self, directory: CampaignDirectory) -> None:
        self.directory, self.path = directory, directory.ledger

    def read(self) -> tuple[dict[str, Task], str]:
        """All rows by the names of their tasks, and SQLite's journal mode: "wal", or "delete"; without a file none.

        Raises
        ------
        StoreError
            The file is damaged, or is no ledger of this format.
        """
        if not self.path.exists():
            return {}, ""
        # One that nobody writes to has no log beside it. To read it as such makes none, also on a read-only disk.
        writing = os.path.exists(f"{self.path}-wal")
        address = f"file:{quote(str(self.path))}?{'mode=ro' if writing else 'immutable=1'}"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=10.0)) as connection:
                return read_rows(connection, self.path), journal_mode(self.path)
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: cannot be read ({error}).") from error
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: is damaged ({error}).") from error

    def tasks(self, rows: Mapping[str, Task] | None = None) -> dict[str, Task]:
        """All tasks as the files say, by their names, in the order in which they depend on each other.

        Parameters
        ----------
        rows
            What is known; by default what the ledger has, which is not needed where it is damaged.
        """
        if rows is None:
            try:
                rows, _ = self.read()
            except StoreError:
                rows = {}
        return {task.name: task for task in _Scan(self.directory, rows).tasks()}

    def lost(self, rows: Mapping[str, Task], tasks: Mapping[str, Task]) -> list[Task]:
        """Tasks that were finished by the rows, and whose manifests are neither there nor among earlier protocols'."""
        places = [self.directory.path, *(path for path in self.directory.earlier.glob("*") if path.is_dir())]
        return [
            row
            for name, row in rows.items()
            if row.state == "finished"
            and row.kind != "export"  # whose manifest is that of the training
            and (name not in tasks or tasks[name].state != "finished")
            and not any((path / row.marker).exists() for path in places)
        ]


def repeatable_digest(tasks: Mapping[str, Task]) -> str:
    """SHA-256 of what is the same in each run of a protocol on a platform that repeats itself, like Reference."""
    return hashlib.sha256(
        json.dumps([tasks[name].repeatable for name in sorted(tasks)], sort_keys=True).encode()
    ).hexdigest()


def summary(directory: CampaignDirectory) -> dict[str, Any]:
    """What there is to say about a ledger, and about all tasks as the files say.

    Returns
    -------
    dict
        "file"; "journal", SQLite's journal mode, "wal" or "delete", empty without a file; "tasks", the number of
        finished tasks of each kind; "repeatable", see `repeatable_digest`.
    """
    ledger = Ledger(directory)
    try:
        rows, journal = ledger.read()
    except StoreError:
        rows, journal = {}, ""
    tasks = ledger.tasks(rows)
    finished = Counter(task.kind for task in tasks.values() if task.state == "finished")
    return {
        "file": str(ledger.path),
        "journal": journal,
        "tasks": dict(finished),
        "repeatable": repeatable_digest(tasks),
    }


def read_rows(connection: sqlite3.Connection, path: Path) -> dict[str, Task]:
    """All rows of a ledger.

    Raises
    ------
    sqlite3.Error
        The file is no database, or a damaged one.
    StoreError
        A row or the table is damaged, or the ledger is of another format.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise StoreError(f"{path}: is of format {version}, and not {FORMAT}.")
    found = connection.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise StoreError(f"{path}: is damaged ({found.splitlines()[0]}).")
    columns = {column for _, column, *_ in connection.execute("PRAGMA table_info(task)")}
    if missing := [name for name in COLUMNS if name not in columns]:
        raise StoreError(f"{path}: is damaged (its table lacks {', '.join(missing)}).")
    tasks = {}
    for row in connection.execute(f"SELECT {', '.join(COLUMNS)} FROM task"):
        task = Task.from_row(row)
        if task is None:
            raise StoreError(f"{path}: is damaged (the row of {row[0]}).")
        tasks[task.name] = task
    return tasks


def journal_mode(path: Path) -> str:
    """SQLite's journal mode of a database, from its header: "wal" or "delete"; empty where there is no file."""
    try:
        with open(path, "rb") as file:
            return "wal" if file.read(20)[18:20] == b"\2\2" else "delete"
    except OSError:
        return ""


class _Scan:
    """One look at all manifests of a directory."""

    def __init__(self, directory: CampaignDirectory, rows: Mapping[str, Task]) -> None:
        self.root, self.rows = directory.path, rows
        self.found: dict[str, Task] = {}

    def tasks(self) -> Iterator[Task]:
        """What is finished or was begun, in the order in which tasks depend on each other."""
        yield from self._task("molecule", "system/molecule", lambda manifest: {})
        folders = [*sorted((self.root / "rounds").glob("[0-9]*")), self.root / "references"]
        for folder in folders:
            for starts in sorted(folder.glob("starts*")):
                yield from self._task("starts", self._name(starts), self._of_model)
            yield from self._in_folder(folder, "reading", lambda manifest: _external_inputs(manifest))
            for walker in sorted(folder.glob("walker-*")):
                yield from self._in_folder(walker, "segment", self._segment_inputs)
            name = self._name(folder / "learning")
            yield from self._task("training", name, lambda manifest: dict(manifest.content.get("inputs") or {}))
            yield from self._task("export", f"{name}/cv", self._of_training)
        yield from self._task("evaluation", "evaluation", self._of_model)
        yield from self._task("starts", "starts", self._of_model)
        yield from self._task("report", "report", lambda manifest: {})

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _in_folder(self, folder: Path, kind: str, inputs: Any) -> Iterator[Task]:
        """Tasks of a folder that may hold thousands, in the order of their numbers, and what was begun."""
        prefix = {"segment": "segment-", "reading": "trajectory-"}[kind]
        try:
            entries = [entry for entry in os.scandir(folder) if entry.name.startswith(prefix)]
        except (FileNotFoundError, NotADirectoryError):
            return
        manifests = {entry.name[:-5]: entry for entry in entries if entry.name.endswith(".json")}
        for name in sorted(manifests, key=lambda name: (len(name), name)):
            yield from self._finished(kind, self._name(folder / name), manifests[name].stat(), inputs)
        for name, times in attempts(folder).items():
            if name.startswith(prefix) and name not in manifests:
                yield self._begun(kind, self._name(folder / name), times)

    def _task(self, kind: str, name: str, inputs: Any) -> Iterator[Task]:
        """The task of this name, if it was begun."""
        marker = self.root / Task(name, kind, "").marker
        try:
            stat = marker.stat()
        except (FileNotFoundError, NotADirectoryError):
            folder = marker.parent / "targets" if kind == "starts" else marker.parent
            if times := attempts(folder).get(kind):
                yield self._begun(kind, name, times)
            return
        yield from self._finished(kind, name, stat, inputs)

    def _begun(self, kind: str, name: str, times: list[str]) -> Task:
        return Task(name, kind, "begun", len(times), times[-1])

    def _finished(self, kind: str, name: str, stat: os.stat_result, inputs: Any) -> Iterator[Task]:
        known = self.rows.get(name)
        if known is not None and (known.size, known.modified) == (stat.st_size, stat.st_mtime_ns):
            task = known
        else:
            try:
                manifest = Manifest.load(self.root / Task(name, kind, "").marker)
                task = self._read(kind, name, manifest, stat, inputs)
            except StoreError:  # `latf verify` names it; it is none of the finished ones
                return
        self.found[name] = task
        yield task

    def _read(self, kind: str, name: str, manifest: Manifest, stat: os.stat_result, inputs: Any) -> Task:
        """The row of a manifest."""
        content, how = manifest.content, manifest.provenance
        below = self._name(manifest.path.parent)
        prefix = "" if below == "." else f"{below}/"
        files = {f"{prefix}{file}": value for file, value in manifest.files.items()}
        outputs = {file: value for file, value in files.items() if file.endswith("cv.pt") == (kind == "export")}
        if hills := content.get("hills"):
            outputs["hills"] = f"{hills['entries']} {hills['sha256']}"
        result = digest({}, {file: value for file, value in outputs.items() if not file.endswith(".html")})
        if kind in _FINGERPRINTS:  # their files hold times and paths
            result = str(content.get(_FINGERPRINTS[kind], ""))
        return Task(
            name,
            kind,
            "finished",
            attempts=how.get("attempts", 0),
            began=how.get("began", ""),
            ended=how.get("ended", ""),
            seconds=float(how.get("seconds", content.get("seconds", 0.0))),
            host=how.get("host", ""),
            platform=how.get("platform", ""),
            device=how.get("device", ""),
            versions=how.get("versions", {}),
            stream=how.get("stream", []),
            inputs=inputs(manifest),
            outputs=outputs,
            result=result,
            manifest=manifest.digest,
            size=stat.st_size,
            modified=stat.st_mtime_ns,
        )

    # What tasks are made from, by what stands before them

    def _segment_inputs(self, manifest: Manifest) -> dict[str, str]:
        """The molecule, the state before or the structure to start from, and the variable of the bias."""
        inputs, content = {}, manifest.content
        if "system/molecule" in self.found:
            inputs["system/system.xml"] = self.found["system/molecule"].outputs.get("system/system.xml", "")
        name = self._name(manifest.path.with_suffix(""))
        stem, _, number = name.rpartition("-")
        before = self.found.get(f"{stem}-{int(number) - 1:03d}")
        if before is not None:
            inputs |= {file: value for file, value in before.outputs.items() if file.endswith(".xml")}
        if "start" in content:
            inputs["start"] = content["start"]
        if "variable" in content:
            inputs["variable"] = content["variable"]
        return inputs

    def _of_model(self, manifest: Manifest) -> dict[str, str]:
        """The last model before a task."""
        trained = [task for task in self.found.values() if task.kind in _FINGERPRINTS]
        return {task.name: task.result for task in trained[-2:]}

    def _of_training(self, manifest: Manifest) -> dict[str, str]:
        return {manifest.path.parent.relative_to(self.root).as_posix(): str(manifest.content.get("model", ""))}


_FINGERPRINTS = {"training": "model", "export": "variable"}
"""Kinds of tasks whose files hold times, and the key of the digest of what they learned."""


def _external_inputs(manifest: Manifest) -> dict[str, str]:
    """An external trajectory with its weights and energies, by the names of their files, which may be anywhere."""
    files = [manifest.content, *manifest.content.get("values", {}).values()]
    return {Path(entry["path"]).name: entry["sha256"] for entry in files}
