"""Topologies of MDTraj or OpenMM: conversion, fingerprints, and labels of residues and atoms."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mdtraj
import numpy as np

from latf_sampling.errors import SettingsError


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
            f"topology: need an mdtraj.Topology or an openmm.app.Topology, got {type(topology).__name__}."
        )
    return mdtraj.Topology.from_openmm(topology)


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


class Labels:
    """Readable and unambiguous labels of residues ("ALA 2") and atoms ("ALA2-CB").

    If two residues share name and number, ":" and the index of the chain follow, or, if they share the chain as well,
    "#" and the index of the residue; if two atoms of a residue share a name, the atom's index follows in brackets.
    """

    def __init__(self, topology: mdtraj.Topology):
        self.topology = topology
        short = Counter((r.name, r.resSeq) for r in topology.residues)
        full = Counter((r.name, r.resSeq, r.chain.index) for r in topology.residues)
        self._numbers = []
        for r in topology.residues:
            tag = "" if short[r.name, r.resSeq] == 1 else f":{r.chain.index}"
            if full[r.name, r.resSeq, r.chain.index] > 1:
                tag = f"#{r.index}"
            self._numbers.append(f"{r.resSeq}{tag}")
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
