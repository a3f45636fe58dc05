"""What is damaged in a campaign's directory and can be made again is removed; the rest is refused.

Everything that is removed here was made by the campaign, and nothing that still exists was made from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from latf_sampling.bias.history import SUFFIX, keep_hills
from latf_sampling.campaign.check import platform
from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.data.layout import RoundDirectory
from latf_sampling.errors import RepairWarning, StoreError
from latf_sampling.records.integrity import Damage, damages, verify_model, verify_round
from latf_sampling.records.records import Records
from latf_sampling.settings import ExternalRound
from latf_sampling.simulation.exchange import first_lost, remove_from
from latf_sampling.starts import Starts
from latf_sampling.starts.files import StartFiles
from latf_sampling.starts.structure_set import restore_arrays
from latf_sampling.starts.working_directory import WorkingDirectory
from latf_sampling.systems import Molecule, build


def repair_round(records: Records, index: int) -> None:
    """Remove what is damaged in a round, so that its next steps make it again: segments, structures, or the model.

    Raises
    ------
    StoreError
        Something depends on what is lost: a model was trained on it or evaluated with it, or walkers started from it.
    """
    protocol, directory = records.protocol, records.directory
    settings, files = protocol.runs[index], directory.run(protocol, index)
    _remove_if_damaged(files.learning.history, files.learning.manifest, "The model is trained again.")
    if isinstance(settings, ExternalRound):  # reading again gives the same, which is verified afterwards
        for damage in list(damages(protocol, directory, index)):
            warnings.warn(f"{damage.reason} The trajectory is read again.", RepairWarning, stacklevel=2)
            storage.remove(files.external(damage.number).marker)
        return
    if 0 < index < records.n_rounds:
        sets = files.start_sets()
        for first, end in zip(sets, [*sets[1:], len(settings.walkers)]):
            begun = any(files.walker(number).markers() for number in range(first, end))
            repair_starts(records, StartFiles(files.start_set(first)), begun, index - 1)
    if files.learning.finished or (index == records.n_rounds and directory.evaluation_marker.exists()):
        verify_round(protocol, directory, index, renew=True)
        return
    damaged = list(damages(protocol, directory, index, renew=True))
    for damage in damaged:
        warnings.warn(f"{damage.reason} It is made again from there.", RepairWarning, stacklevel=2)
        _remove_segments(files, files.hills_of(settings.walkers, damage.number), damage)
    first = first_lost(protocol, index, files)
    if first is not None:  # of walkers that exchanged their configurations
        if not damaged:
            words = f"Segments of a walker from {first} on are missing, which exchanged configurations with the others."
            warnings.warn(f"{files.path}: {words} All are made again from there.", RepairWarning, stacklevel=2)
        for number in range(len(settings.walkers)):
            intact = min(first, files.walker(number).finished())
            _remove_segments(files, files.hills_of(settings.walkers, number), Damage(number, intact, ""))
        remove_from(protocol, index, files, first)


def variable_in_use(records: Records, index: int) -> str | None:
    """Fingerprint of the variable of a round's model, as the walkers of the next round state it; `None` without any."""
    if index + 1 >= records.n_rounds:
        return None
    bias = records.protocol.runs[index + 1].bias
    if bias is not None and bias.variable is not None:
        return None
    files = records.directory.round(index + 1)
    for number in range(len(records.protocol.runs[index + 1].walkers)):
        walker = files.walker(number)
        if walker.markers():
            return walker.segment(0).manifest().content.get("variable")
    return None


def repair_starts(records: Records, files: StartFiles, begun: bool, learned: int | None = None) -> None:
    """Write damaged files of a set of structures again; remove the table where that needs new structures.

    Parameters
    ----------
    begun
        Whether walkers have started from them, so that they must not be made anew.
    learned
        The round after which the model was learned that they are made from; by default the last one.

    Raises
    ------
    StoreError
        Walkers have started from structures that are lost.
    """
    learned = records.n_rounds - 1 if learned is None else learned
    if not files.complete:
        if begun:
            raise StoreError(f"{files.table}: is missing, while walkers have started from its structures; restore it.")
        _remove_of_other_plan(records, files, learned)
        return
    if files.unfinished.exists():  # a process was killed between the table and this
        storage.remove_folder(files.unfinished)
    try:
        manifest = files.manifest()
        damaged = manifest.damaged()
    except StoreError:
        manifest, damaged = None, [files.table]
    if manifest is not None:
        damaged = [path for path in damaged if not _restored(path, manifest, records.periodic)]
    if not damaged:
        if manifest is not None and not begun:
            _remove_of_other_model(records, learned, files.table, manifest.content["settings"])
        return
    reason = f"{damaged[0]}: is missing or was changed."
    if not any(path.suffix in (".npz", ".json") for path in damaged):
        warnings.warn(f"{reason} It is written again from the arrays.", RepairWarning, stacklevel=2)
        cif = any(name.endswith(".cif") for name in files.manifest().files)
        Starts.load(files.folder, records.molecule.topology).save(
            files.folder, "cif" if cif else None, files.manifest().provenance
        )
        return
    if begun:
        raise StoreError(f"{reason} Walkers have started from its structures; restore it.")
    warnings.warn(f"{reason} The structures are made again.", RepairWarning, stacklevel=2)
    storage.remove(files.table)


def _restored(path: Path, manifest: Manifest, periodic: bool) -> bool:
    """Write the arrays of a structure again from its state; returns whether they are what they were."""
    state = path.with_suffix(".xml")
    if path.suffix != ".npz" or not state.exists() or storage.checksum(state) != manifest.files.get(state.name):
        return False
    restore_arrays(path, periodic)
    if storage.checksum(path) != manifest.files[path.name]:
        return False
    words = f"is missing or was changed. It is written again from {state.name}."
    warnings.warn(f"{path}: {words}", RepairWarning, stacklevel=4)
    return True


def _remove_of_other_plan(records: Records, files: StartFiles, learned: int) -> None:
    """Remove an unfinished set that was begun from another model, or on another platform, whose last digits differ."""
    plan = WorkingDirectory(files.unfinished).settings
    if not plan.exists():
        return
    content = storage.read_json(plan)
    if _remove_of_other_model(records, learned, plan, content):
        storage.remove_folder(files.unfinished)
        return
    before, now = content.get("platform"), platform(records)
    if before != now:
        words = f"was begun on the platform {before}. The structures are made again on {now}."
        warnings.warn(f"{files.unfinished}: {words}", RepairWarning, stacklevel=3)
        storage.remove_folder(files.unfinished)


def _remove_of_other_model(records: Records, learned: int, marker: Path, content: Mapping) -> bool:
    """Remove the manifest of what was made from another model than the present one of a round; whether it was."""
    learning = records.directory.round(learned).learning
    if not learning.finished:  # without a model nothing is made
        return False
    try:
        verify_model(records.directory, learning, marker, content)
    except StoreError as error:
        warnings.warn(f"{error} It is made again.", RepairWarning, stacklevel=3)
        storage.remove(marker)
        return True
    return False


def repair_evaluation(records: Records) -> None:
    """Remove the manifest of an evaluation that is damaged or of another model, so that it is made again."""
    marker = records.directory.evaluation_marker
    _remove_if_damaged(marker, lambda: Manifest.load(marker), "The evaluation is made again.")
    if marker.exists():
        _remove_of_other_model(records, records.n_rounds - 1, marker, Manifest.load(marker).content)


def repair_molecule(records: Records) -> Molecule:
    """The molecule of a campaign; where its files are damaged a new one, if that is the same.

    Raises
    ------
    StoreError
        A new one would differ from the one that was simulated.
    """
    try:
        return records.molecule
    except StoreError as error:
        records.check_programs()
        molecule = build(records.protocol.system, records.protocol.seed)
        if records.directory.has_results() and not molecule.is_that_of(records.directory.system):
            raise StoreError(f"{error} It cannot be made again as it was; restore it.") from error
        warnings.warn(f"{error} It is made again.", RepairWarning, stacklevel=2)
        return molecule


def _remove_if_damaged(marker: Path, load: Callable[[], Manifest], words: str) -> None:
    """Remove the manifest of a task, if it exists and is or has a damaged file, so that the task is done again."""
    if not marker.exists():
        return
    try:
        load().verified()
    except StoreError as error:
        warnings.warn(f"{error} {words}", RepairWarning, stacklevel=3)
        storage.remove(marker)


def _remove_segments(files: RoundDirectory, folder: Path, damage: Damage) -> None:
    """Remove what a walker has beyond its intact segments: manifests, the last one first, and hills in a folder.

    A damaged record of failures is removed too: they happen again.
    """
    walker = files.walker(damage.number)
    try:
        walker.failures()
    except StoreError:
        storage.remove(walker.failures_file)
    for marker in sorted(walker.path.glob("segment-*.json"), reverse=True):
        if marker not in walker.markers()[: damage.intact]:
            storage.remove(marker)
    hills = folder / f"{walker.path.name}{SUFFIX}"
    if not hills.exists():
        return
    saved = walker.segment(damage.intact - 1).manifest().content.get("hills") if damage.intact else {"entries": 0}
    if saved is None:  # of a version that did not record them
        return
    keep_hills(hills, saved["entries"])
    state = hills.with_suffix(".npz")
    if state.exists() and storage.checksum(state) != saved.get("state"):
        storage.remove(state)  # it is made from the hills
