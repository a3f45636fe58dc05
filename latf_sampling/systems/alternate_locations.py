"""Alternate locations of atoms in structure files: refused, or one of them is taken for each residue."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from latf_sampling.core.words import first_of
from latf_sampling.systems import mmcif, pdb
from latf_sampling.systems.structure_text import StructureText

HIGHEST = "highest"
"""Stands for the location of the highest occupancy."""
_SHOWN = 5


class Location(NamedTuple):
    """An atom of a file by its place; residues of different names may share one, as alternatives."""

    chain: str
    number: str
    residue: str
    name: str
    label: str
    """Of the alternate location; empty where the atom has one location."""
    occupancy: float


def one_location(source: StructureText, wanted: str | None = None) -> StructureText:
    """The text with one location of each atom; other lines of a PDB file keep their numbers.

    Parameters
    ----------
    source
        The text of one model.
    wanted
        `None` refuses alternate locations. A label, like "A", is taken where a residue has it, otherwise, and with
        "highest", the label whose atoms have the highest mean occupancy, and the first of several. All atoms of a
        residue have the same label, so that no residue is put together from two.

    Raises
    ------
    SettingsError
        There are alternate locations, and `wanted` is `None`; names the residues.
    """
    entries = _locations(source)
    places: dict[tuple[str, str], list[Location]] = defaultdict(list)
    for entry in entries:
        places[entry.chain, entry.number].append(entry)
    ambiguous = {place: members for place, members in places.items() if _is_ambiguous(members)}
    if not ambiguous:
        return source
    if wanted is None:
        advice = "Keep one of them in the file"
        if source.key == "system.structure":
            advice += f", or set prepare: {{alternate_locations: {HIGHEST}}}"
        raise source.fault(
            f"has alternate locations of {first_of([*map(_described, ambiguous.values())], _SHOWN, '; ')}. {advice}."
        )
    chosen = {place: _chosen(members, wanted) for place, members in ambiguous.items()}
    words = [
        f"{next(m.residue for m in members if m.label == chosen[place])} {place[1]} (chain {place[0]}) {chosen[place]}"
        for place, members in ambiguous.items()
    ]
    warnings.warn(
        f"{source.key}: of {len(ambiguous)} residues with alternate locations one is taken: "
        f"{first_of(words, _SHOWN, '; ')}.",
        stacklevel=2,
    )
    named = {(e.chain, e.number, e.name) for e in entries if e.label == chosen.get((e.chain, e.number))}
    kept = [
        entry.label == chosen.get((entry.chain, entry.number), entry.label)
        or (not entry.label and (entry.chain, entry.number, entry.name) not in named)
        for entry in entries
    ]
    return (mmcif if source.is_mmcif else pdb).keep_locations(source, kept)


def _locations(source: StructureText) -> list[Location]:
    if source.is_mmcif:
        rows = zip(mmcif.atoms(source), mmcif.occupancies(source))
        entries = [(chain, residue, name, label, occupancy) for (residue, chain, name, label), occupancy in rows]
    else:
        rows = zip(pdb.atoms(source), pdb.occupancies(source))
        entries = [(atom.chain, atom.residue, atom.name, atom.alternate, occupancy) for atom, occupancy in rows]
    return [
        Location(chain, residue.rsplit(" ", 1)[-1], residue.rsplit(" ", 1)[0], name, label.strip(" .?"), occupancy)
        for chain, residue, name, label, occupancy in entries
    ]


def _is_ambiguous(members: list[Location]) -> bool:
    """Whether an atom has several locations, or the residue several names, as alternatives."""
    labels: dict[str, set[str]] = defaultdict(set)
    for member in members:
        labels[member.name].add(member.label)
    if any(len(of_atom) > 1 for of_atom in labels.values()):
        return True
    labeled = [member for member in members if member.label]
    return len({member.label for member in labeled}) > 1 and len({member.residue for member in labeled}) > 1


def _chosen(members: list[Location], wanted: str) -> str:
    occupancies: dict[str, list[float]] = defaultdict(list)
    for member in members:
        if member.label:
            occupancies[member.label].append(member.occupancy)
    if wanted in occupancies:
        return wanted
    return max(sorted(occupancies), key=lambda label: round(float(np.mean(occupancies[label])), 6))


def _described(members: list[Location]) -> str:
    """A residue with alternate locations, like "SER 12 (chain A): A, B"."""
    names = "/".join(dict.fromkeys(member.residue for member in members))
    labels = ", ".join(sorted({member.label for member in members if member.label}))
    return f"{names} {members[0].number} (chain {members[0].chain}): {labels}"
