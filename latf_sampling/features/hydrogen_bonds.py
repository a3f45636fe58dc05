"""Hydrogen bonds: switched distances of donors and acceptors."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Annotated, Any

import mdtraj
import torch
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.contacts import pair_module, rows_of
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Row, atoms_of, validated, words_of
from latf_sampling.features.switching import Switched
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Length

_BACKBONE = {"donors": "backbone", "acceptors": "backbone"}


class _BondSettings(Switched):
    donors: Any = "backbone"
    acceptors: Any = "backbone"
    r0: Length = 0.25
    skip: Annotated[int, Field(strict=True, ge=0)] = 3
    sum: bool = False


class HydrogenBondDescriptor(Descriptor):
    """``backbone``, or ``{donors: selection, acceptors: selection, r0: "0.25 nm", n: 6, m: 12, skip: 3, sum: false}``.

    A bond is a switching function of one distance, that of the atoms selected: hydrogen and acceptor, or, with
    ``donors: name N`` and a longer r0, donor and acceptor. Nothing is asked of the angle. ``backbone`` stands for the
    hydrogens of amides, or for the oxygens of carbonyls.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        if isinstance(value, str) and value == "backbone":
            value = _BACKBONE
        help_ = 'write backbone, or {donors: selection of hydrogens, acceptors: selection, r0: "0.25 nm"}'
        settings = validated(_BondSettings, value, where, help_)
        topology = labels.topology
        atoms = {}
        for key, of in (("donors", settings.donors), ("acceptors", settings.acceptors)):
            find = _amides if of == "backbone" else atoms_of
            atoms[key] = find(topology, key if of == "backbone" else of, f"{where}.{key}")
        residues = [atom.residue.index for atom in topology.atoms]
        pairs = [
            (i, j)
            for i, j in product(atoms["donors"], atoms["acceptors"])
            if i != j and abs(residues[i] - residues[j]) >= settings.skip
        ]
        if not pairs:
            raise SettingsError(f"{where}.skip: no donor and acceptor are {settings.skip} or more residues apart.")
        words = [words_of(of, atoms[key], labels) for key, of in zip(atoms, (settings.donors, settings.acceptors))]
        total = f"hydrogen bonds of {words[0]} to {words[1]}, {settings.skip} residues apart,"
        return Entry(settings.normal(), rows_of(pairs, "hydrogen bond", total, settings, labels))

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label) for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        return pair_module(rows, n_atoms)


def _amides(topology: mdtraj.Topology, key: str, where: str) -> list[int]:
    """Hydrogens of the amides between residues, or oxygens of their carbonyls."""
    names = ("H", "HN") if key == "donors" else ("O",)
    atoms = [atom for residue in topology.residues if residue.is_protein for atom in residue.atoms]
    found = [atom.index for atom in atoms if atom.name in names]
    if key == "donors":  # a terminal nitrogen, which has several hydrogens, is no amide
        hydrogens = Counter(
            (atom.residue.index, heavy.name)
            for bond in topology.bonds
            for heavy, atom in (bond, bond[::-1])
            if heavy.name == "N" and atom.element is mdtraj.element.hydrogen
        )
        found = [index for index in found if hydrogens[topology.atom(index).residue.index, "N"] <= 1]
    if not found:
        hint = "; select other donors, such as name N" if key == "donors" else ""
        raise SettingsError(f"{where}: the backbone has no amide atom {' or '.join(names)}{hint}.")
    return found
