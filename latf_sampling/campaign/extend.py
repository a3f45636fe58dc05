"""A campaign that has results gets another protocol: what stays, what is made again, and what is refused.

`latf_sampling.settings.changes` has the rule for each key. What was simulated stays. What was learned from it is made
again where it does not belong to the new protocol, unless later walkers depend on it: those of a biased round were
biased along the variable of the model before, and others started from its samples.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from latf_sampling.campaign.progress import Progress, nowhere
from latf_sampling.core.manifest import Manifest
from latf_sampling.data.layout import CampaignDirectory, Extend, RoundDirectory, WalkerDirectory
from latf_sampling.errors import ProtocolWarning, StoreError
from latf_sampling.settings import Protocol, n_steps
from latf_sampling.settings.changes import change_of
from latf_sampling.settings.fields import Location, spell
from latf_sampling.settings.stored import differences
from latf_sampling.starts.files import StartFiles

FOR_ROUNDS = {"thermalise", "release", "tolerance", "allow_cis", "allow_inversion"}
"""Keys of `starts` that the structures which rounds start from are made with, too."""

MOVABLE = {"files", "weights", "energies"}
"""Keys of `from_trajectories` whose files are not copied, and told apart by their SHA-256 once they were read."""
EXTERNAL = -1
"""Stands for the external trajectories of a round in place of the number of a walker."""


class Extension:
    """What of a campaign does not belong to another protocol.

    Parameters
    ----------
    directory
        The campaign.
    protocol
        The new protocol.
    changes
        Locations of the keys in which it differs from the stored one.
    stored
        Manifest of the stored protocol.

    Attributes
    ----------
    superseded : list of pathlib.Path
        Files and folders that do not belong to the new protocol.
    words : str
        What was changed, and what is made again; empty without changes.
    remark : str
        A sentence on models that stay although they would be learned otherwise now; empty without any.

    Raises
    ------
    StoreError
        The new protocol contradicts what was simulated; names the key.
    """

    def __init__(
        self, directory: CampaignDirectory, protocol: Protocol, changes: Sequence[Location], stored: Manifest
    ) -> None:
        self.directory, self.protocol, self.stored = directory, protocol, stored
        content = stored.content
        self._n_stored = len(content.get("rounds") or ()) + bool(content.get("from_trajectories"))
        self._first = len(protocol.all_rounds) - len(protocol.rounds)  # index of rounds[0]
        self._last = max((index for index in range(self._n_stored) if _begun(directory.round(index))), default=-1)
        self.superseded: list[Path] = []
        self.remark = self.words = ""
        if fixed := [place for place in changes if change_of(place) == "fixed" and not self._is_of_open_round(place)]:
            directory.refuse(fixed, stored)
        sections = {section: [place for place in changes if place[0] == section] for section, *_ in changes}
        external = [place for place in sections.get("from_trajectories", []) if not self._was_moved(place)]
        rounds = sections.get("rounds", [])
        rounds = [place for place in rounds if change_of(place) != "free"]
        learning = [place for place in changes if change_of(place) == "learn"]
        if external:
            self._extend_external(external[0])
        for number in dict.fromkeys(place[1] for place in rounds):
            self._extend_round(int(number), [place for place in rounds if place[1] == number])
        if learning:
            self._learn_again(learning)
        if any(place[-1] in FOR_ROUNDS for place in sections.get("starts", [])):
            self.superseded += [*self._open_rounds(), *self._unfinished_starts()]
        if "evaluate" in sections:
            self._change_references()
        if external or rounds or learning or "evaluate" in sections:
            self.superseded += [directory.evaluation_marker, directory.evaluation]
        if external or rounds or learning or "starts" in sections:
            self.superseded.append(directory.starts)
        self.superseded = [path for path in dict.fromkeys(self.superseded) if path.exists()]
        if changes:
            names = ", ".join(path.relative_to(directory.path).as_posix() for path in self.superseded)
            again = f" Made again where needed, while the earlier ones go to {directory.earlier}: {names}."
            self.words = f"Changed in {', '.join(map(spell, changes))}.{again if names else ''}"

    def _refuse(self, location: Location, why: str) -> NoReturn:
        raise StoreError(f"{self.directory.path}: {spell(location)}: {why}; restore it, or give another directory.")

    def _is_of_open_round(self, location: Location) -> bool:
        """Whether a key belongs to a round of which nothing was simulated."""
        return location[0] == "rounds" and self._first + int(location[1]) > self._last

    def _open_rounds(self) -> list[Path]:
        """Folders of stored rounds of which nothing was simulated, in which structures and hills may be."""
        return [self.directory.round(index).path for index in range(self._last + 1, self._n_stored)]

    def _unfinished_starts(self) -> list[Path]:
        """Structures for the last round that were begun with other settings, or for another number of walkers."""
        files = self.directory.round(max(self._last, 0))
        return [folder for folder in map(files.start_set, files.start_sets()) if not StartFiles(folder).complete]

    def _was_moved(self, location: Location) -> bool:
        """Whether the files of an entry of external trajectories are those that were read, in another place."""
        from latf_sampling.data.external import ExternalTrajectory, is_same  # with torch, which takes seconds

        _, index, *key = location
        before, entries = self.stored.content.get("from_trajectories") or (), self.protocol.from_trajectories
        if not (key and key[0] in MOVABLE and int(index) < len(before)):
            return False
        entry = entries[int(index)]
        first = sum(len(other.files) for other in entries[: int(index)])
        files = [self.directory.round(0).external(first + number) for number in range(len(entry.files))]
        return len(before[int(index)]["files"]) == len(files) and all(
            file.marker.exists() and is_same(external, file)
            for file, external in zip(files, ExternalTrajectory.from_settings([entry]))
        )

    def _extend_external(self, location: Location) -> None:
        """External trajectories are read again, as long as no walker depends on what was learned from them."""
        if self._last >= 0 and not self.stored.content.get("from_trajectories"):
            self._refuse(location, "round 0 was simulated, and external trajectories come before all rounds")
        if self._last > 0 or (self._last == 0 and _begun(self.directory.round(0)) != [EXTERNAL]):
            self._refuse(location, "walkers depend on what was learned from the external trajectories")
        self._last = -1
        self.superseded += self._open_rounds()

    def _extend_round(self, number: int, places: Sequence[Location]) -> None:
        index = self._first + number
        if index > self._last:
            self.superseded += self._open_rounds()
            return
        if number >= len(self.protocol.rounds):
            self._refuse(places[0], "this round was simulated, and the protocol lacks it")
        if index < self._last:
            self._refuse(
                places[0],
                f"round {index} is not the last one that was simulated, and walkers depend on what was learned from it",
            )
        files = self.directory.round(index)
        self._check_walkers(number, files)
        self.superseded.append(files.learning.path)
        self.superseded += [*self._open_rounds(), *self._unfinished_starts()]

    def _check_walkers(self, number: int, files: RoundDirectory) -> None:
        """Refuse settings of a round that do not hold what was simulated."""
        settings, here = self.protocol.rounds[number], ("rounds", number)
        segments = n_steps(settings.length, self.protocol.segment)
        before = self.stored.content["rounds"][number]["walkers"]
        if settings.exchange is not None and list(settings.walkers) != before:
            self._refuse((*here, "walkers"), f"its {len(before)} walkers have exchanged configurations with each other")
        for walker in _begun(files):
            kelvin, simulated = _temperature(files.walker(walker)), files.walker(walker).finished()
            if walker >= len(settings.walkers):
                self._refuse((*here, "walkers"), f"walker {walker} was simulated, and the protocol lacks it")
            if kelvin != settings.walkers[walker]:
                before, wanted = _as_kelvin(kelvin, settings.walkers[walker])
                self._refuse((*here, "walkers"), f"walker {walker} was simulated at {before}, not {wanted}")
            if simulated > segments:
                time = simulated * self.protocol.segment
                self._refuse((*here, "length"), f"walker {walker} was simulated for {time:g} ps, longer than this")
        for first in files.start_sets():
            structures = StartFiles(files.start_set(first))
            if not structures.complete:
                continue
            kelvin, count = (structures.manifest().content[key] for key in ("temperature", "requested"))
            for walker, wanted in list(enumerate(settings.walkers))[first : first + count]:
                if wanted != kelvin:
                    made, asked = _as_kelvin(kelvin, wanted)
                    here = (*here, "walkers")
                    self._refuse(here, f"walker {walker} has a structure of {made} to start from, not {asked}")

    def _learn_again(self, places: Sequence[Location]) -> None:
        """The last model is learned again; those that walkers depend on stay."""
        last = self._last
        self.superseded += self._open_rounds()
        if last >= 0:
            self.superseded.append(self.directory.round(last).learning.path)
        if last < 1:
            return
        if features := [place for place in places if place[0] == "features"]:
            self._keep_descriptors(features[0])
        stay = "that of round 0 stays" if last == 1 else f"those of rounds 0 to {last - 1} stay"
        self.remark = (
            f"{', '.join(map(spell, places))}: applies from the model of round {last} on; {stay} as learned before, "
            "since later walkers were started or biased with it."
        )

    def _keep_descriptors(self, location: Location) -> None:
        """Refuse descriptors without those that models which stay were learned with."""
        entries, before = json.loads(self.protocol.canonical())["features"], self.stored.content["features"]

        def is_in(entry: dict, others: list[dict]) -> bool:
            return any(next(differences(other, entry, []), None) is None for other in others)

        restricted = [entry for entry in entries if "columns" in entry and not is_in(entry, before)]
        if restricted or not all(is_in(entry, entries) for entry in before):
            self._refuse(
                location,
                "later walkers depend on a model that was learned with the descriptors before, beside which others may "
                "be added",
            )

    def _change_references(self) -> None:
        """Keep the simulations of `evaluate` that the new protocol asks for."""
        files, settings = self.directory.references(self._n_stored), self.protocol.evaluate
        if settings is None:
            self.superseded.append(files.path)
            return
        segments = n_steps(settings.length, self.protocol.segment)
        for number in _begun(files):
            walker, temperatures = files.walker(number), settings.temperatures
            if number >= len(temperatures) or _temperature(walker) != temperatures[number]:
                self.superseded.append(walker.path)
                continue
            for index in reversed(range(segments, walker.finished())):  # the last one first, to leave no gap
                segment = walker.segment(index)
                self.superseded += [segment.marker, segment.trajectory, segment.frames, segment.state]


def preview(directory: CampaignDirectory, protocol: Protocol) -> list[str]:
    """What running a campaign with a protocol would do about its earlier results, one sentence each.

    Nothing is built for it, which takes minutes for a large system.

    Raises
    ------
    StoreError
        The protocol contradicts what was simulated; names the key.
    """
    if not directory.protocol_file.exists() or not directory.has_results():
        return []
    stored, (protocol, _) = Manifest.load_unverified(directory.protocol_file), directory.with_added_rounds(protocol)
    if stored.changed:  # which `CampaignDirectory.acquire` looks into
        return []
    extension = Extension(directory, protocol, protocol.changes(stored.content), stored)
    return [words for words in (extension.words, extension.remark) if words]


def extend(directory: CampaignDirectory, protocol: Protocol, progress: Progress = nowhere) -> Extend:
    """What `CampaignDirectory.acquire` calls where a campaign with results gets another protocol.

    Parameters
    ----------
    directory, protocol
        The campaign, and its new protocol.
    progress
        Is told what was changed, and what is made again.
    """

    def plan(changes: Sequence[Location], stored: Manifest) -> list[Path]:
        extension = Extension(directory, protocol, changes, stored)
        if extension.remark:
            warnings.warn(extension.remark, ProtocolWarning, stacklevel=2)
        progress("protocol", 1.0, extension.words)
        return extension.superseded

    return plan


def _begun(files: RoundDirectory) -> list[int]:
    """Numbers of the walkers of a round that have a finished segment, or `EXTERNAL`."""
    if files.external(0).marker.exists():
        return [EXTERNAL]
    names = (path.name.removeprefix("walker-") for path in files.path.glob("walker-*"))
    numbers = sorted(int(name) for name in names if name.isdecimal())
    return [number for number in numbers if files.walker(number).segment(0).marker.exists()]


def _temperature(walker: WalkerDirectory) -> float:
    return walker.segment(0).manifest().content["temperature"]


def _as_kelvin(*temperatures: float) -> list[str]:
    """Different temperatures, with as many digits as tell them apart."""
    for digits in range(6, 17):
        words = [f"{temperature:.{digits}g} K" for temperature in temperatures]
        if len(set(words)) == len(words):
            return words
    return [f"{temperature!r} K" for temperature in temperatures]
