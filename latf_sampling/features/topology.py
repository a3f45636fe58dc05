"""Topologies of MDTraj or OpenMM: conversion, fingerprints, and labels of residues and atoms."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import mdtraj
import numpy as np

from latf_sampling.core import arguments
from latf_sampling.errors import SettingsError

INSERTION_CODE = "insertion_code"
"""Attribute of residues of MDTraj, which have none of their own."""
_NUMBER = r"-?\d+[A-Za-z]?(?![\w.])"
_NUMBERS = re.compile(rf"\b(resSeq|residue)\s+(?:(?:==|eq)\s*)?({_NUMBER}(?:\s+(?:to\s+)?{_NUMBER})*)")
"""The numbers of residues in a selection."""


def as_mdtraj(topology: Any) -> mdtraj.Topology:
    """Convert a topology to MDTraj's type.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology``, which is returned itself, or an ``openmm.app.Topology``.

    Raises
    ------
    SettingsError
        ``topology`` is neither.

    Examples
    --------
    >>> as_mdtraj(mdtraj.Topology().to_openmm()).n_atoms
    0
    """
    if isinstance(topology, mdtraj.Topology):
        return topology
    from openmm import app

    if not isinstance(topology, app.Topology):
        raise SettingsError(
            f"topology: need an mdtraj.Topology or an openmm.app.Topology, got {arguments.describe(topology)}; that of "
            "a file is mdtraj.load(file).topology."
        )
    converted = mdtraj.Topology.from_openmm(topology)
    for residue, given in zip(converted.residues, topology.residues()):
        if code := given.insertionCode.strip():
            setattr(residue, INSERTION_CODE, code)
    return converted


def insertion_code(residue: Any) -> str:
    """The insertion code of a residue of MDTraj, which only topologies from `as_mdtraj` have; else empty text."""
    return getattr(residue, INSERTION_CODE, "")


def select(topology: mdtraj.Topology, selection: str, everything: bool = False) -> np.ndarray:
    """Indices of the atoms in an MDTraj selection, with insertion codes, and without water and sites by element.

    ``resSeq 52B`` is the residue with this insertion code, and ``resSeq 52`` the one without; a range, like
    ``resSeq 52 to 52B``, takes all between. Numbers may be negative. A selection by elements never takes virtual sites
    unless it names them (VS), nor water unless it says so, by ``water``, or by names, numbers or indices of residues.

    Parameters
    ----------
    topology
        Where the atoms are.
    selection
        In MDTraj's language.
    everything
        Whether water and virtual sites are taken by element too.

    Raises
    ------
    ValueError
        MDTraj cannot read the selection; its parser raises other types too.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("HOH", topology.add_chain(), resSeq=-1)
    >>> for name, element in (("O", mdtraj.element.oxygen), ("M", mdtraj.element.virtual)):
    ...     atom = topology.add_atom(name, element, residue)
    >>> select(topology, "element != H"), select(topology, "resSeq -1 and element != H")
    (array([], dtype=int64), array([0]))
    """
    atoms = np.asarray(topology.select(_NUMBERS.sub(lambda match: _by_index(topology, match), selection)), np.int64)
    if everything or not re.search(r"\b(element|symbol|type)\b", selection):
        return atoms
    water = not re.search(r"\b(waters?|is_water|resname|resn|resSeq|residue|resid|resi|index)\b", selection)
    sites = not re.search(r"\bVS\b", selection)
    return np.array(
        [
            index
            for index in atoms.tolist()
            if not (water and topology.atom(index).residue.is_water)
            and not (sites and topology.atom(index).element in (None, mdtraj.element.virtual))
        ],
        np.int64,
    )


def _by_index(topology: mdtraj.Topology, match: re.Match[str]) -> str:
    """Numbers of residues, as far as MDTraj cannot read them, as their indices."""
    words = match[2].split()
    codes = {residue.resSeq for residue in topology.residues if insertion_code(residue)}
    if not any(word.startswith("-") or word[-1].isalpha() or int(word) in codes for word in words if word != "to"):
        return match[0]
    places = [(residue.resSeq, insertion_code(residue).upper()) for residue in topology.residues]
    wanted, position = set(), 0
    while position < len(words):
        last = position + 2 if words[position + 1 : position + 2] == ["to"] else position
        low, high = _place(words[position]), _place(words[last])
        wanted |= {index for index, place in enumerate(places) if low <= place <= high}
        position = last + 1
    return "(" + (" or ".join(f"resid {index}" for index in sorted(wanted)) or "not all") + ")"


def _place(word: str) -> tuple[int, str]:
    return (int(word[:-1]), word[-1].upper()) if word[-1].isalpha() else (int(word), "")


def fingerprint(topology: Any) -> str:
    """Hash of a topology: equal for topologies that describe the same atoms in the same order.

    Names and elements of the atoms, names and order of the residues and the number of chains count. Bonds, residue
    numbers and chain names do not, since different readers of the same file disagree about them.

    Parameters
    ----------
    topology
        An ``mdtraj.Topology`` or an ``openmm.app.Topology``.

    Returns
    -------
    str
        SHA-256 in hexadecimal; conversion between MDTraj and OpenMM does not change it.

    Examples
    --------
    >>> fingerprint(mdtraj.Topology()) == fingerprint(mdtraj.Topology().to_openmm())
    True
    """
    topology = as_mdtraj(topology)
    return digest(atom_lines(topology), topology.n_chains)


def atom_lines(topology: mdtraj.Topology) -> tuple[str, ...]:
    """Name, element ("VS" for a virtual site), residue name and residue index of every atom."""
    return tuple(
        f"{a.name} {a.element.symbol if a.element is not None else 'VS'} {a.residue.name} {a.residue.index}"
        for a in topology.atoms
    )


def digest(lines: Sequence[str], chains: int) -> str:
    """SHA-256 of the lines of `atom_lines` and the number of chains."""
    return hashlib.sha256("\n".join((f"{chains} chains", *lines)).encode()).hexdigest()


def normalized_weights(topology: mdtraj.Topology, atoms: Sequence[int], kind: str, where: str) -> np.ndarray:
    """Weights (len(atoms),) that sum to one; ``kind`` is "mass", by the masses of the elements, or "equal".

    Raises
    ------
    SettingsError
        All masses are zero, since no atom has an element; virtual sites beside other atoms have weight zero.
    """
    if kind == "equal":
        return np.full(len(atoms), 1 / len(atoms))
    elements = [topology.atom(int(atom)).element for atom in atoms]
    masses = np.array([0.0 if element is None else element.mass for element in elements])
    if masses.sum() == 0:
        raise SettingsError(f"{where}: the atoms have no masses, since they have no elements; choose equal weights.")
    return masses / masses.sum()


def _have_letters(topology: mdtraj.Topology, chains: Collection[int]) -> bool:
    """Whether letters tell chains apart."""
    letters = {topology.chain(index).chain_id for index in chains}
    return len(letters) == len(chains) and all(letter and letter.isalpha() for letter in letters)


class Labels:
    """Readable and unambiguous labels of residues ("ALA 2") and atoms ("ALA2-CB").

    An insertion code follows its number: "ALA 52A". If two residues share all of these, ":" and the letter of the chain
    follow, or its index where some of their chains have no letter or share one; if they share the chain as well, "#"
    and the index of the residue. If two atoms of a residue share a name, the atom's index follows in brackets.
    """

    def __init__(self, topology: mdtraj.Topology):
        self.topology = topology
        numbers = [f"{residue.resSeq}{insertion_code(residue)}" for residue in topology.residues]
        groups: dict[tuple[str, str], Counter] = defaultdict(Counter)
        for residue, number in zip(topology.residues, numbers):
            groups[residue.name, number][residue.chain.index] += 1
        lettered = {key: _have_letters(topology, chains) for key, chains in groups.items() if len(chains) > 1}
        self._numbers = []
        for residue, number in zip(topology.residues, numbers):
            chains, tag = groups[residue.name, number], ""
            if chains[residue.chain.index] > 1:
                tag = f"#{residue.index}"
            elif len(chains) > 1:
                tag = f":{residue.chain.chain_id if lettered[residue.name, number] else residue.chain.index}"
            self._numbers.append(f"{number}{tag}")
        self._names = Counter((a.residue.index, a.name) for a in topology.atoms)

    def residue(self, atom: int) -> str:
        """Label of the residue of an atom."""
        residue = self.topology.atom(int(atom)).residue
        return f"{residue.name} {self._numbers[residue.index]}"

    def atom(self, index: int) -> str:
        """Label of an atom."""
        atom = self.topology.atom(int(index))
        same = self._names[atom.residue.index, atom.name] > 1
        number = self._numbers[atom.residue.index]
        return f"{atom.residue.name}{number}-{atom.name}{f'[{atom.index}]' if same else ''}"
