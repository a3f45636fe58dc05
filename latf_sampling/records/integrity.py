"""Whether the files of a round are what its walkers, and the training after it, wrote and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latf_sampling.bias.history import SUFFIX, verify_hills
from latf_sampling.core.manifest import Manifest, digest
from latf_sampling.core.storage import checksum
from latf_sampling.data.layout import CampaignDirectory, RoundDirectory
from latf_sampling.data.round_files import LearningDirectory, VariableDirectory
from latf_sampling.errors import StoreError
from latf_sampling.settings import ExternalRound, Protocol, n_steps
from latf_sampling.simulation.equilibration import FINISHED
from latf_sampling.starts.files import StartFiles, start_of


@dataclass(frozen=True)
class Damage:
    """What is wrong with the files of a walker or external trajectory.

    Attributes
    ----------
    number : int
        Of the walker or external trajectory in its round.
    intact : int
        Number of its segments before the damage, which can be kept.
    reason : str
        A sentence that names the file.
    """

    number: int
    intact: int
    reason: str


def damages(protocol: Protocol, directory: CampaignDirectory, index: int, renew: bool = False) -> Iterator[Damage]:
    """What is wrong with each walker or external trajectory of a round, as far as the round has come.

    Parameters
    ----------
    protocol, directory, index
        The campaign, and the number of the round.
    renew
        Whether to record the present times of intact files, as after a copy, so that they are not read again.
    """
    settings, files = protocol.runs[index], directory.run(protocol, index)
    for number in range(len(settings.walkers)):
        if isinstance(settings, ExternalRound):
            found = _external_damage(files, number)
        else:
            found = _walker_damage(files, settings.walkers, number, n_steps(settings.length, protocol.segment), renew)
        if found is not None:
            yield found


def inputs(protocol: Protocol, directory: CampaignDirectory, index: int) -> dict[str, str]:
    """The manifests of a round by their paths in the directory, with a digest of what each task produced.

    Raises
    ------
    StoreError
        A manifest was changed.
    """
    settings, files = protocol.runs[index], directory.run(protocol, index)
    numbers = range(len(settings.walkers))
    if isinstance(settings, ExternalRound):
        externals = [files.external(number) for number in numbers]
        manifests = [external.manifest() for external in externals if external.marker.exists()]
    else:
        walkers = [files.walker(number) for number in numbers]
        manifests = [walker.segment(k).manifest() for walker in walkers for k in range(walker.finished())]
        failed = [walker.failures_file for walker in walkers if walker.failures().retired is not None]
        manifests += [Manifest.load(file) for file in failed]
    return {manifest.path.relative_to(directory.path).as_posix(): _product(manifest) for manifest in manifests}


def verify_campaign(protocol: Protocol, directory: CampaignDirectory) -> None:
    """Refuse a campaign in which a file of a finished task is missing or was changed.

    Raises
    ------
    StoreError
        Names the first such file, and says what to do.
    """
    for index in range(len(protocol.runs)):
        verify_round(protocol, directory, index)
        if directory.round(index).learning.finished:
            verify_learning(directory, index)
    starts, last = StartFiles(directory.starts), directory.round(len(protocol.all_rounds) - 1).learning
    for made in (starts.table, directory.evaluation_marker):
        if made.exists() and not last.finished:
            raise StoreError(f"{last.history}: is missing, while {made} exists. `latf run` trains the model again.")
    try:
        # While structures are made, their folder of targets exists.
        if starts.complete or (starts.arrays(0).exists() and not starts.unfinished.exists()):
            verify_model(directory, last, starts.table, starts.read_table()["settings"])
        if directory.evaluation_marker.exists():
            evaluation = Manifest.load(directory.evaluation_marker).verified()
            verify_model(directory, last, evaluation.path, evaluation.content)
    except StoreError as error:
        raise StoreError(f"{error} `latf run` makes it again.") from error


def verify_model(directory: CampaignDirectory, learning: LearningDirectory, made: Path, content: Mapping) -> None:
    """Refuse what was made from another model than the one that is there, as after that was learned again elsewhere.

    Parameters
    ----------
    directory, learning
        The campaign, and the folder of the model.
    made, content
        The file that says what it was made from, and what it states; "variable" is the fingerprint of the model's
        variable. Earlier versions did not state it everywhere.

    Raises
    ------
    StoreError
        It belongs to another model.
    """
    variable = learning.manifest().content.get("variable")
    if variable is not None and content.get("variable", variable) != variable:
        model = learning.model.relative_to(directory.path)
        raise StoreError(f"{made}: was made from another model than {model}, which was learned again.")


def verify_learning(directory: CampaignDirectory, index: int) -> Manifest:
    """The manifest of a round's model; refuses one whose files are not what was written.

    Raises
    ------
    StoreError
        A file is missing or was changed; names it.
    """
    try:
        return directory.round(index).learning.manifest().verified()
    except StoreError as error:
        raise StoreError(f"{error} `latf run` trains this model again.") from error


def verify_round(protocol: Protocol, directory: CampaignDirectory, index: int, renew: bool = False) -> None:
    """Refuse a round whose files are not what was written, or not what the model after it was trained on.

    Parameters
    ----------
    protocol, directory, index, renew
        As in `damages`.

    Raises
    ------
    StoreError
        A file is missing or was changed; names it, and says what to do.
    """
    files = directory.run(protocol, index)
    for damage in damages(protocol, directory, index, renew):
        raise StoreError(f"{damage.reason} {advice(directory, index)}")
    _verify_origin(protocol, directory, index)
    if index == len(protocol.all_rounds) and directory.evaluation_marker.exists():
        _verify_references(protocol, directory, index)
    if not files.learning.finished:
        return
    trained_on = verify_learning(directory, index).content.get("inputs")
    if trained_on is None:  # of a version that did not record them
        return
    present = inputs(protocol, directory, index)
    for name, product in trained_on.items():
        if present.get(name) != product:
            what = "is missing" if name not in present else "is not that of the segment"
            raise StoreError(f"{directory.path / name}: {what}. {advice(directory, index)}")
    for name in present.keys() - trained_on.keys():
        raise StoreError(
            f"{directory.path / name}: was written after the model of round {index} was trained; "
            f"delete {files.learning.path} and all later rounds, so that `latf run` trains it again."
        )


def advice(directory: CampaignDirectory, index: int) -> str:
    """What to do about a damaged file of a round."""
    learning = directory.round(index).learning
    if learning.finished:
        return (
            f"The model of round {index} was trained on it: restore it, or delete {learning.path} and all later "
            "rounds, so that `latf run` makes it again with everything that depends on it."
        )
    if directory.evaluation_marker.exists():
        return (
            f"The model was evaluated with it: restore it, or delete {directory.evaluation_marker}, so that "
            "`latf run` makes it again."
        )
    return "`latf run` makes it again."


def _walker_damage(
    files: RoundDirectory, temperatures: Sequence[float], number: int, segments: int, renew: bool
) -> Damage | None:
    walker, reason = files.walker(number), None
    manifests: list[Manifest] = []
    try:
        for index in range(walker.finished()):
            manifest = walker.segment(index).manifest().verified()
            manifests.append(manifest.renewed() if renew else manifest)
        walker.check_gaps()
        walker.failures()
    except StoreError as error:
        reason = str(error)
    hills, intact = files.hills_of(temperatures, number) / f"{walker.path.name}{SUFFIX}", len(manifests)
    # After the last segment of a walker that was retired its bias has read those of the others, and saved that.
    complete = reason is None and walker.is_finished(segments) and walker.failures().retired is None
    while intact and (saved := manifests[intact - 1].content.get("hills")) is not None:
        try:
            verify_hills(hills, saved, complete)
            break
        except StoreError as error:
            reason = reason or str(error)
        if not complete:
            intact -= 1
        complete = False
    return None if reason is None else Damage(number, intact, reason)


def _external_damage(files: RoundDirectory, number: int) -> Damage | None:
    external = files.external(number)
    try:
        if external.marker.exists():
            external.manifest().verified()
    except StoreError as error:
        return Damage(number, 0, str(error))
    return None


def _verify_references(protocol: Protocol, directory: CampaignDirectory, index: int) -> None:
    """Refuse references that are not complete although the model was evaluated with them."""
    settings, files = protocol.runs[index], directory.run(protocol, index)
    assert not isinstance(settings, ExternalRound)  # references are simulated
    for walker in map(files.walker, range(len(settings.walkers))):
        if not walker.is_finished(n_steps(settings.length, protocol.segment)):
            raise StoreError(f"{walker.segment(walker.finished()).marker}: is missing. {advice(directory, index)}")


def _verify_origin(protocol: Protocol, directory: CampaignDirectory, index: int) -> None:
    """Refuse walkers that did not start from the structures, or were not biased along the variable, that are there."""
    settings, files = protocol.runs[index], directory.run(protocol, index)
    walkers = [files.walker(number) for number in range(len(settings.walkers))]
    firsts = {k: walker.segment(0).manifest() for k, walker in enumerate(walkers) if walker.markers()}
    biased = [first for first in firsts.values() if "variable" in first.content]
    along = directory.biased_along(protocol, index)
    if biased and isinstance(along, VariableDirectory):
        try:
            learned = along.manifest().verified().content["variable"]
        except StoreError as error:
            raise StoreError(f"{error} The walkers of round {index} were biased along it; restore it.") from error
        for first in biased:
            if first.content["variable"] != learned:
                raise StoreError(f"{first.path}: was biased along another variable than that of {along.cv}.")
    elif biased:
        learning = directory.round(index - 1).learning
        if not learning.finished:
            raise StoreError(
                f"{learning.history}: is missing, while the walkers of round {index} were biased along the "
                "variable that was learned there. `latf run` trains the model again."
            )
        learned = verify_learning(directory, index - 1).content.get("variable")
        for first in biased:
            if learned not in (None, first.content["variable"]):
                raise StoreError(
                    f"{first.path}: was biased along another variable than that of {learning.cv}; restore the model of "
                    f"round {index - 1}, or delete {files.path} and all later rounds."
                )
    started = {number: first for number, first in firsts.items() if "start" in first.content}
    if index in (0, len(protocol.all_rounds)):
        for number, first in started.items():
            start = directory.equilibration_of(protocol, index, number) / f"{FINISHED}.npz"
            if not start.exists() or checksum(start) != first.content["start"]:
                raise StoreError(f"{start}: is not what {first.path} started from; restore it.")
    elif started:
        try:
            for folder in {start_of(files, number).parent for number in started}:
                StartFiles(folder).read_table()  # verifies all files of the set
        except StoreError as error:
            raise StoreError(f"{error} The walkers of round {index} started from these structures.") from error
        for number, first in started.items():
            if checksum(start_of(files, number)) != first.content["start"]:
                raise StoreError(f"{start_of(files, number)}: is not the structure that {first.path} started from.")


def _product(manifest: Manifest) -> str:
    """Digest of the files of a task; without NetCDF, which holds the time when it was written."""
    return digest({}, {name: value for name, value in manifest.files.items() if not name.endswith(".nc")})
