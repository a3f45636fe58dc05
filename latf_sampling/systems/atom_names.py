"""Names of atoms in a topology and in coordinates, which tell whether both have the same order."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from openmm import app

from latf_sampling.errors import SettingsError

_SITES = ("M", "E", "L", "V", "D")
"""How names of virtual sites, lone pairs and Drude particles begin."""
ION_ELEMENTS = {"SOD": "NA", "POT": "K", "CLA": "CL", "CES": "CS", "CAL": "CA", "LIT": "LI", "RUB": "RB"}
"""CHARMM's names of ions, and their elements."""


def check_names(
    key: str,
    source: str | Path,
    topology: app.Topology,
    own: list[str],
    coordinates: Path,
    names: list[str],
    strict: bool = True,
) -> None:
    """Refuse coordinates whose atoms are in another order than those of the topology, as grompp of GROMACS does.

    Parameters
    ----------
    key
        The key of the coordinates in a protocol.
    source
        The file of the topology, or what else it is, for errors.
    topology
        Its residues and elements.
    own : list of str, length N
        Names of its atoms as the file has them.
    coordinates, names
        The file of the coordinates, and the names of its atoms (N,).
    strict
        Whether to warn of another name of the same element; programs spell some differently.

    Raises
    ------
    SettingsError
        A residue has the same names in another order, or an atom the name of another element; names the first one.
    """
    renamed = None
    for residue in topology.residues():
        atoms = list(residue.atoms())
        here = [_plain(own[atom.index]) for atom in atoms]
        there = [_plain(names[atom.index]) for atom in atoms]
        if here == there:
            continue
        moved = sorted(here) == sorted(there)
        for atom, one, other in zip(atoms, here, there):
            if one != other and (moved or not _may_be(names[atom.index], atom.element)):
                raise SettingsError(
                    f"{key}: atom {atom.index + 1} is '{names[atom.index]}' in {coordinates}, and "
                    f"'{own[atom.index]}' of {residue.name} {residue.id} in {source}; both need the same order of "
                    "atoms."
                )
            if one != other and renamed is None:
                renamed = (
                    f"atom {atom.index + 1} is '{names[atom.index]}' in {coordinates}, '{own[atom.index]}' in {source}"
                )
    if strict and renamed is not None:
        warnings.warn(f"{key}: {renamed}; names differ, and are taken to be of the same atoms.", stacklevel=2)


def _plain(name: str) -> str:
    """A name without differences of spelling: 1HB is HB1."""
    return "".join(sorted(name.upper()))


def _may_be(name: str, element: app.Element | None) -> bool:
    """Whether a name begins with an element; `None` is that of a virtual site."""
    word = re.sub(r"^\d+", "", name).upper()
    word = ION_ELEMENTS.get(word, word)
    if element is None:
        return word.startswith(_SITES)
    return word.startswith(("H", "D") if element.symbol == "H" else element.symbol.upper())
