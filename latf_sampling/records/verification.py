"""Every file of every finished task, read from end to end: what is damaged, and what a run would do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from latf_sampling.bias.history import SUFFIX, verify_hills
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory, SegmentFiles
from latf_sampling.errors import StoreError
from latf_sampling.records.integrity import advice, verify_campaign, verify_round
from latf_sampling.records.ledger import Ledger
from latf_sampling.settings import ExternalRound, Protocol
from latf_sampling.starts.files import StartFiles

Progress = Callable[[int], None]
"""Called with the number of files that were read."""


@dataclass(frozen=True)
class Finding:
    """A damaged file.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    fault : str
        What is wrong with it, without a period.
    remedy : str
        A sentence: what running the campaign again does about it.
    """

    path: Path
    fault: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.fault}. {self.remedy}"


@dataclass
class Verification:
    """What all files of a campaign are found to be.

    Attributes
    ----------
    tasks, files, size : int
        Number of the finished tasks, of their files, and of the bytes of these.
    findings : list of Finding
        What is damaged.

    Examples
    --------
    >>> verification = Verification.of("runs/demo")  # doctest: +SKIP
    >>> verification.findings  # doctest: +SKIP
    []
    """

    tasks: int = 0
    files: int = 0
    size: int = 0
    findings: list[Finding] = field(default_factory=list)
    progress: Progress = field(default=lambda files: None, repr=False)
    _found: set[Path] = field(default_factory=set, repr=False)

    @classmethod
    def of(cls, directory: str | Path, progress: Progress = lambda files: None) -> Verification:
        """Read all files of the campaign in a directory.

        Raises
        ------
        StoreError
            There is no campaign in it, or its protocol cannot be read, so that nothing else can be verified.
        """
        files, verification = CampaignDirectory(directory), cls(progress=progress)
        if not files.protocol_file.exists():
            files.protocol()  # which says what is missing
        verification._files(
            Manifest.load_unverified(files.protocol_file), "`latf run` copies it again from beside the protocol."
        )
        protocols: list[Protocol] = []
        if not verification.findings:  # without its inputs a protocol cannot be read
            verification._consistent(lambda: protocols.append(files.protocol()), "Restore it.")
        for protocol in protocols:
            verification._campaign(protocol, files)
        return verification

    @property
    def summary(self) -> str:
        """One sentence."""
        read = f"{self.files:,} files of {plural(self.tasks, 'finished task')} ({self.size / 1e9:.3g} GB)"
        if not self.findings:
            return f"{read} are as they were written."
        return f"{plural(len(self.findings), 'damaged file')} among {read}."

    def _campaign(self, protocol: Protocol, files: CampaignDirectory) -> None:
        """Verify everything but the protocol."""
        molecule = "`latf run` makes the molecule again, if the result is the same system."
        if files.has_results() and not (files.system / "molecule.json").exists():
            self._add(files.system / "molecule.json", "is missing", molecule)
        self._task(files.system / "molecule.json", molecule)
        for path in sorted(files.equilibration.rglob("*.json")):
            self._task(
                path, "Restore it, or delete its folder: `latf run` equilibrates again if nothing started from it."
            )
        for index in range(len(protocol.runs)):
            self._round(protocol, files, index)
        self._starts(StartFiles(files.starts), "`latf run` makes the structures again.")
        self._task(files.evaluation_marker, "`latf run` makes the evaluation again.")
        self._task(files.report_marker, "`latf run` or `latf report` writes it again.")
        for path in sorted(files.earlier.rglob("*.json")):
            self._task(path, "It belongs to an earlier protocol, and `latf run` does not need it.")
        if not self.findings:
            self._consistent(lambda: verify_campaign(protocol, files), "`latf run` makes it again.")
        self._ledger(files)

    def _ledger(self, files: CampaignDirectory) -> None:
        """Compare the ledger with the manifests. One that is behind, as while the campaign runs, is not damaged."""
        ledger, remedy = Ledger(files), "`latf run` makes it again from the manifests."
        if ledger.path.is_symlink() or ledger.path.is_dir():
            self._add(ledger.path, "is no regular file", f"Remove it: {remedy}")
            return
        tasks = ledger.tasks({})
        if not ledger.path.exists():
            if any(task.attempts for task in tasks.values()):  # versions that had no ledger did not count either
                self._add(ledger.path, "is missing", remedy)
            return
        self.files += 1
        self.size += ledger.path.stat().st_size
        try:
            rows, _ = ledger.read()
        except StoreError as error:
            self._add(ledger.path, str(error).partition(": ")[2].rstrip("."), remedy)
            return
        if not self.findings:  # one that is damaged is named already
            for task in ledger.lost(rows, tasks):
                self._add(
                    files.path / task.marker,
                    "is missing, although it was finished",
                    "`latf run` makes it again, if nothing that is left was made from it.",
                )

    def _add(self, path: Path, fault: str, remedy: str) -> None:
        if path not in self._found:
            self._found.add(path)
            self.findings.append(Finding(path, fault, remedy))

    def _consistent(self, verify: Callable[[], object], remedy: str) -> None:
        """Add what a check of several files together finds, whose sentence begins with the file and its fault."""
        try:
            verify()
        except StoreError as error:
            path, _, rest = str(error).partition(": ")
            fault, _, advised = rest.partition(". ")
            self._add(Path(path), fault.rstrip("."), advised or remedy)

    def _task(self, marker: Path, remedy: str, load: Callable[[], Manifest] | None = None) -> Manifest | None:
        """Verify a manifest and all of its files; one that does not exist is that of a task that is not finished."""
        if not marker.exists():
            return None
        manifests: list[Manifest] = []
        self._consistent(lambda: manifests.append(load() if load else Manifest.load(marker)), remedy)
        if not manifests:
            return None
        self._files(manifests[0], remedy)
        return manifests[0]

    def _files(self, manifest: Manifest, remedy: str) -> None:
        """Verify all files of a manifest."""
        self.tasks += 1
        for path in manifest.damaged(full=True):
            self._add(path, manifest.fault(path), remedy)
        paths = [manifest.path.parent / name for name in manifest.files]
        self.files += len(paths)
        self.size += sum(path.stat().st_size for path in paths if path.is_file())
        self.progress(self.files)

    def _starts(self, files: StartFiles, remedy: str) -> None:
        """Verify a set of structures; the arrays have all of it but the table, and the states have the arrays."""
        before = len(self.findings)
        manifest = self._task(files.table, remedy, files.manifest)
        if manifest is None:
            if files.arrays(0).exists() and not files.unfinished.exists():
                self._add(files.table, "is missing", remedy)
            return
        damaged = [finding.path for finding in self.findings[before:]]
        lost = [path for path in damaged if path.suffix == ".npz" and path.with_suffix(".xml") in damaged]
        if not lost:
            for number in range(before, len(self.findings)):
                self.findings[number] = replace(self.findings[number], remedy="`latf run` writes it again.")

    def _round(self, protocol: Protocol, directory: CampaignDirectory, index: int) -> None:
        """Verify a round; what follows from several files only is looked at where each of them is intact."""
        settings, files, before = protocol.runs[index], directory.run(protocol, index), len(self.findings)
        remedy = advice(directory, index)
        for number in range(len(settings.walkers)):
            if isinstance(settings, ExternalRound):
                self._task(files.external(number).marker, remedy, files.external(number).manifest)
            else:
                self._walker(directory, protocol, index, number, remedy)
        if not isinstance(settings, ExternalRound):
            for first in files.start_sets():
                begun = any(files.walker(number).markers() for number in range(first, len(settings.walkers)))
                lost = "Walkers have started from these structures; restore it."
                self._starts(
                    StartFiles(files.start_set(first)), lost if begun else "`latf run` makes the structures again."
                )
        self._task(files.variable.marker, "Walkers were biased along it; restore it.", files.variable.manifest)
        self._task(files.learning.history, _trained_again(protocol, directory, index), files.learning.manifest)
        if len(self.findings) == before:
            self._consistent(lambda: verify_round(protocol, directory, index), remedy)

    def _walker(self, directory: CampaignDirectory, protocol: Protocol, index: int, number: int, remedy: str) -> None:
        files = directory.run(protocol, index)
        walker = files.walker(number)
        # in order, also those after one that is missing
        markers = sorted(walker.path.glob("segment-*.json"), key=lambda path: (len(path.name), path.name))
        segments = [SegmentFiles(marker.with_suffix("")) for marker in markers]
        manifests = [self._task(segment.marker, remedy, segment.manifest) for segment in segments]
        self._task(walker.failures_file, remedy)
        self._consistent(walker.check_gaps, remedy)
        saved = [manifest.content["hills"] for manifest in manifests if manifest and manifest.content.get("hills")]
        if saved:
            hills = files.hills_of(protocol.runs[index].walkers, number) / f"{walker.path.name}{SUFFIX}"
            self.files += 1
            self.size += hills.stat().st_size if hills.is_file() else 0
            self._consistent(lambda: verify_hills(hills, saved[-1], complete=False), remedy)


def _trained_again(protocol: Protocol, directory: CampaignDirectory, index: int) -> str:
    """What running again does about a lost model; another processor or number of threads may give other last digits."""
    bias = protocol.runs[index + 1].bias if index + 1 < len(protocol.all_rounds) else None
    biased = bias is not None and bias.variable is None
    begun = biased and any(directory.round(index + 1).path.glob("walker-*/segment-000.json"))
    condition = ", if the result is the variable that later walkers were biased along" if begun else ""
    return f"`latf run` trains the model again{condition}."
