"""The files of a campaign's directory: every name stands here or in `round_files`, and nowhere else.

Each finished task has a manifest (`latf_sampling.core.manifest`), written last, with the digests of its files.

A campaign's directory::

    protocol.json                 settings of the campaign; one that changes what was simulated is refused
    earlier/1/                    the first protocol, where it was changed later, and results that depended on it
    inputs/                       copies of the structure and of other files that the protocol names
    system/                       the simulated molecule, see `latf_sampling.systems.Molecule`
    equilibration/300K-0/         stages, .npz and .json, and what walkers at 300 K start from (`equilibrate`)
    lock                          locked while a process runs the campaign
    ledger.sqlite                 a row for each task, made from the manifests, see `latf_sampling.records.ledger`
    log.txt                       each start with its versions, each step, repair, roll-back and retry, each end
    log.jsonl                     the same for programs, with the progress of steps and the free energy after each round
    rounds/00/walker-00/          segment-000.nc, .npz (numbers per frame), .xml (state), .json (manifest)
    rounds/00/walker-00/failures.json     what was rolled back, and why the walker was retired, if anything failed
    rounds/00/trajectory-000.json     in place of a walker: an external trajectory's path and checksum; .npz: energies
    rounds/01/hills/walker-00.hills   the hills that a walker has added to the bias so far
    rounds/01/hills/450K/         hills of walkers at another temperature than that of the round's first walker
    rounds/01/exchange/00000042/  what walkers tell each other at the 42nd replica exchange, while it may be needed
    rounds/01/starts/             structures that the walkers of the round started from
    rounds/01/starts-002/         those of walkers from number 2 on, at another temperature or added later
    rounds/01/variable/           cv.pt and manifest of a variable that was trained elsewhere, if the round has one
    rounds/00/learning/           model.pt, cv.pt, history.json (manifest); training.pt while the model is trained
    references/walker-00/         the simulations of `evaluate`
    starts/                       structures at the new temperature, see `latf_sampling.starts.Starts`
    until.json                    why a run with a goal added a round, or no further one
    evaluation.html, report.html  pages with their manifests evaluation.json, report.json; lags.html
    attempts.txt                  how often what is in the same folder was begun, beside segments, models and here
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from latf_sampling.core import arguments
from latf_sampling.core.manifest import Manifest, digest
from latf_sampling.core.storage import atomic_write, move, remove_folder, remove_stale, try_lock
from latf_sampling.data.round_files import (
    FAILURES,
    ExternalFiles,
    LearningDirectory,
    RoundDirectory,
    SegmentFiles,
    VariableDirectory,
    WalkerDirectory,
)
from latf_sampling.errors import LatfError, RepairWarning, SettingsError, StoreError
from latf_sampling.settings import Protocol
from latf_sampling.settings.fields import Location, spell
from latf_sampling.settings.stored import ADDED_ROUNDS, VERSION

__all__ = [
    "CampaignDirectory",
    "Extend",
    "ExternalFiles",
    "LearningDirectory",
    "RoundDirectory",
    "SegmentFiles",
    "WalkerDirectory",
    "locate_model",
]

LOCK = "lock"
Extend = Callable[[list[Location], Manifest], list[Path]]
"""Called with the changed keys and the manifest of the stored protocol where a campaign with results gets another
protocol. It returns the files and folders that do not belong to the new one, or raises a `StoreError`."""
DATES = ("stored", "replaced")
"""Keys of an earlier protocol: the times from and until which it held."""


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
        self.path = arguments.path("Campaign", "directory", path, "a folder").absolute()

    def round(self, index: int) -> RoundDirectory:
        return RoundDirectory(self.path / "rounds" / f"{index:02d}")

    def run(self, protocol: Protocol, index: int) -> RoundDirectory:
        """The folder of an entry of `Protocol.runs`: of a round, or of the simulations of `evaluate`."""
        rounds = len(protocol.all_rounds)
        return self.round(index) if index < rounds else self.references(rounds)

    def references(self, rounds: int) -> RoundDirectory:
        """The folder of the simulations of `evaluate`; in version 0.2 that after the last of so many rounds."""
        old = self.round(rounds)
        files = RoundDirectory(self.path / "references")
        return old if old.path.exists() and not files.path.exists() else files

    def biased_along(self, protocol: Protocol, index: int) -> LearningDirectory | VariableDirectory:
        """The folder of the variable that a biased round is biased along."""
        bias = protocol.runs[index].bias
        own = bias is not None and bias.variable is not None
        return self.round(index).variable if own else self.round(index - 1).learning

    @property
    def earlier(self) -> Path:
        """Folder of earlier protocols of this campaign, each with its results that depended on it."""
        return self.path / "earlier"

    def versions(self) -> list[Manifest]:
        """The earlier protocols of this campaign, in order.

        Their content has the further keys `DATES`, in UTC.
        """
        numbers = sorted(int(path.name) for path in self.earlier.glob("*") if path.name.isdecimal())
        files = [self.earlier / str(number) / self.protocol_file.name for number in numbers]
        return [Manifest.load(file) for file in files if file.exists()]

    def protocols(self) -> list[Protocol]:
        """The earlier protocols of this campaign whose input files are still there, in order."""
        protocols = []
        for version in self.versions():
            with suppress(SettingsError):  # an input, or an external trajectory, is no longer there
                protocols.append(Protocol.restore(_without_dates(version), self.inputs))
        return protocols

    @property
    def inputs(self) -> Path:
        """Folder with copies of the files that the protocol names."""
        return self.path / "inputs"

    @property
    def system(self) -> Path:
        """Folder of the simulated molecule."""
        return self.path / "system"

    @property
    def equilibration(self) -> Path:
        """Folder of the equilibrations before the first round, one for each temperature and conformation."""
        return self.path / "equilibration"

    def equilibration_of(self, protocol: Protocol, index: int, number: int) -> Path:
        """Folder of the equilibration that a walker of a run begins with."""
        conformation = number % max(len(protocol.system.conformations or ()), 1)
        return self.equilibration / f"{protocol.runs[index].walkers[number]:.10g}K-{conformation}"

    @property
    def starts(self) -> Path:
        """Folder with the structures at the new temperature."""
        return self.path / "starts"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.html"

    @property
    def evaluation_marker(self) -> Path:
        """Manifest of the evaluation, JSON; written last."""
        return self.path / "evaluation.json"

    @property
    def until(self) -> Path:
        """Why the last run with a goal added a round, or no further one, JSON."""
        return self.path / "until.json"

    @property
    def lags(self) -> Path:
        return self.path / "lags.html"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def report_marker(self) -> Path:
        """Manifest of the report, JSON; written last."""
        return self.path / "report.json"

    @property
    def ledger(self) -> Path:
        """Index of all tasks, SQLite."""
        return self.path / "ledger.sqlite"

    @property
    def log(self) -> Path:
        """What happened and when, for people; nothing reads it."""
        return self.path / "log.txt"

    @property
    def protocol_file(self) -> Path:
        """Manifest of the protocol, JSON."""
        return self.path / "protocol.json"

    def protocol(self) -> Protocol:
        """The settings that the campaign was made with.

        Raises
        ------
        StoreError
            No campaign is in the directory, or its settings or inputs were changed after it was made.
        SettingsError
            An external trajectory is no longer there.
        """
        manifest = self._stored()
        try:
            manifest.verified()
        except StoreError as error:
            raise StoreError(f"{error} `latf run` copies it again from beside the protocol.") from error
        damaged = f"{self.protocol_file}: was changed after the campaign was made; restore it."
        try:
            protocol = Protocol.restore(manifest.content, self.inputs)
        except SettingsError as error:
            if manifest.changed:
                raise StoreError(damaged) from error
            raise
        # Settings of an earlier version, which lack what was added since, mean the same as with the defaults.
        if manifest.changed and not self._restates(manifest, protocol):
            raise StoreError(damaged)
        return protocol

    def load_protocol(self, path: str | Path) -> Protocol:
        """A protocol from its YAML file; this campaign's copies stand for input files that are gone.

        Raises
        ------
        SettingsError
            The protocol cannot work, or another file is missing.
        StoreError
            The campaign's own protocol is damaged.
        """
        stored = self._stored().content if self.protocol_file.exists() else None
        return Protocol.load(path, None if stored is None else (stored, self.inputs))

    def with_added_rounds(self, protocol: Protocol) -> tuple[Protocol, int]:
        """A protocol with the rounds that this campaign has beyond its file, and their number, see `ADDED_ROUNDS`."""
        if not self.protocol_file.exists():
            return protocol, 0
        content = self._stored().content
        rounds, added = content.get("rounds"), content.get(ADDED_ROUNDS, 0)
        missing = len(rounds) - len(protocol.rounds) if isinstance(rounds, list) else 0
        if not (protocol.rounds and isinstance(added, int) and 0 <= missing <= added):
            return protocol, 0
        return protocol.with_rounds(missing), missing or added

    @contextmanager
    def acquire(self, protocol: Protocol, extend: Extend | None = None, added: int = 0) -> Iterator[None]:
        """Lock the directory for one process and one protocol, which is stored if the directory is new.

        A protocol that means the same as the stored one replaces it, and so does any protocol as long as nothing is
        simulated or learned.

        Parameters
        ----------
        protocol
            The settings.
        extend
            What of the campaign does not belong to a protocol that means something else; `None` refuses one.
        added
            Number of its last rounds that are copies, which the protocol's file does not have.

        Raises
        ------
        StoreError
            Another process runs this campaign, the directory belongs to another protocol, or it is gone while the
            campaign runs.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be used as a campaign directory ({error.strerror}).") from error
        lock = try_lock(self.path / LOCK)
        if lock is None:
            raise StoreError(f"{self.path}: another process is running this campaign.")
        with lock:
            if self.protocol_file.exists():
                self.replace(protocol, extend or self.refuse, added)
            else:
                self._refuse_other_files()
                self._store(protocol, added)
            remove_stale(self.path)
            try:
                yield
            except (LatfError, OSError):
                self.check_present()  # or it would be about whichever file was looked for first
                raise
            finally:
                remove_stale(self.path)  # of walkers that were stopped while they wrote

    def refuse(self, locations: Sequence[Location], stored: Manifest) -> list[Path]:
        """Refuse a protocol that differs from the stored one in these keys.

        Raises
        ------
        StoreError
            Always; names the keys.
        """
        raise StoreError(
            f"{self.path}: was made with other settings ({', '.join(map(spell, locations))}); go on with those, or "
            "give another directory."
        )

    def _stored(self) -> Manifest:
        if not self.protocol_file.exists():
            self._refuse_results_alone()
            raise StoreError(f"{self.path}: there is no campaign in this directory; `latf run` makes one.")
        return Manifest.load_unverified(self.protocol_file)

    @staticmethod
    def _restates(manifest: Manifest, protocol: Protocol) -> bool:
        """Whether the protocol is what the manifest was made of."""
        own = {key: value for key, value in manifest.content.items() if key in (VERSION, ADDED_ROUNDS)}
        return manifest.digest == digest({**json.loads(protocol.canonical()), **own}, manifest.files)

    def replace(self, protocol: Protocol, extend: Extend, added: int = 0) -> None:
        """Store a protocol in place of another one; the directory is locked already, see `acquire`."""
        stored = self._stored()
        restated = self._restates(stored, protocol)
        damaged = stored.changed and not restated
        try:
            changes: list[Location] = [] if restated else protocol.changes(stored.content)
        except StoreError as error:
            if not damaged:
                raise StoreError(f"{self.protocol_file}: {error}") from error
            changes = [(str(error).partition(":")[0],)]
        superseded: list[Path] = []
        if changes and not self.has_results():
            for folder in (self.system, self.equilibration, self.path / "rounds"):
                if folder.exists():
                    remove_folder(folder)
            kept = protocol.inputs()
            for copy in self.inputs.glob("*"):
                if copy.name not in kept:
                    copy.unlink()
        elif changes and damaged:
            raise StoreError(
                f"{self.protocol_file}: was changed after the campaign was made ({', '.join(map(spell, changes))}); "
                "restore it."
            )
        elif changes:
            superseded = extend(changes, stored)
        lost = [self.protocol_file] * stored.changed or stored.damaged()
        if lost and not changes:
            warnings.warn(f"{lost[0]}: is missing or was changed. It is written again.", RepairWarning, stacklevel=2)
        content = {**json.loads(protocol.canonical()), **_added(added)}
        if self.has_results() and _settings(content) != _settings(stored.content):
            self._set_aside(stored, superseded, protocol)
        if lost or stored.content != content:
            self._store(protocol, added)

    def _set_aside(self, stored: Manifest, superseded: Sequence[Path], protocol: Protocol) -> None:
        """Keep a protocol that another one will replace, with its inputs and results that belong to it alone.

        The new protocol is stored after this. If it is interrupted in between, the same is done again.
        """
        versions = self.versions()
        kept = _without_dates(versions[-1]) if versions else None
        folder = self.earlier / str(len(versions) + (kept != stored.content))
        if kept != stored.content:
            began = datetime.fromtimestamp(self.protocol_file.stat().st_mtime, timezone.utc)
            dates = zip(DATES, (moment.isoformat(timespec="seconds") for moment in (began, datetime.now(timezone.utc))))
            Manifest.write(folder / self.protocol_file.name, {**stored.content, **dict(dates)})
        for name, data in protocol.inputs().items():
            before = self.inputs / name
            if before.is_file() and (replaced := before.read_bytes()) != data:
                with atomic_write(folder / self.inputs.name / name) as temporary:
                    temporary.write_bytes(replaced)
        for path in superseded:
            if path.exists():
                move(path, folder / path.relative_to(self.path))
        content = stored.content
        old = self.references(len(content.get("rounds") or ()) + bool(content.get("from_trajectories"))).path
        if old.exists() and old.parent.name == "rounds":  # of version 0.2, where a further round may be now
            move(old, self.path / "references")

    def check_present(self) -> None:
        """Refuse to write where the campaign is no longer, before folders are made anew on another disk.

        Raises
        ------
        StoreError
            The directory has no protocol any more.
        """
        if not self.protocol_file.exists():
            raise StoreError(
                f"{self.path}: is gone while the campaign runs; was its disk disconnected, or the folder moved? When "
                "it is back, the same command continues with what is finished."
            )

    def has_results(self) -> bool:
        """Whether anything was simulated or learned, which takes longer than reading trajectories."""
        return any(path.name != FAILURES for path in self.path.glob("rounds/*/*/*.json"))

    def _refuse_results_alone(self) -> None:
        """Refuse results whose protocol is missing."""
        if self.has_results():
            raise StoreError(f"{self.protocol_file}: is missing, while the campaign's results are here; restore it.")

    def _refuse_other_files(self) -> None:
        # Copies of inputs may exist without a protocol: an earlier start was interrupted between the two.
        ours = (LOCK, self.inputs.name)
        others = [entry.name for entry in self.path.iterdir() if entry.name not in ours and entry.name[0] != "."]
        if others:
            self._refuse_results_alone()
            names = ", ".join(sorted(others)[:3])
            raise StoreError(f"{self.path}: holds other files ({names}); give an empty directory.")

    def _store(self, protocol: Protocol, added: int) -> None:
        copies = [(self.inputs / name, content) for name, content in protocol.inputs().items()]
        for path, content in copies:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        settings = {**json.loads(protocol.canonical()), **_added(added)}
        Manifest.write(self.protocol_file, settings, [path for path, _ in copies])


def _added(rounds: int) -> dict[str, int]:
    return {ADDED_ROUNDS: rounds} if rounds else {}


def _without_dates(version: Manifest) -> dict:
    """The content of an earlier protocol as it was stored."""
    return {key: value for key, value in version.content.items() if key not in DATES}


def _settings(content: Mapping) -> dict:
    """A stored protocol without the version of the package."""
    return {key: value for key, value in content.items() if key != VERSION}


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
