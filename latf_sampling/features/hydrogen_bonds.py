"""Hydrogen bonds, as switched distances of donors and acceptors."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import mdtraj
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.contacts import pair_module, pair_terms
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Term,
    atom_indices,
    describe_atoms,
    refuse_too_many,
    validate,
)
from latf_sampling.features.switching import SwitchingSettings
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Length

if TYPE_CHECKING:
    import torch

_BACKBONE = {"donors": "backbone", "acceptors": "backbone"}


class _BondSettings(SwitchingSettings):
    donors: Any = "backbone"
    acceptors: Any = "backbone"
    r0: Length = 0.25
    skip: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 3
    sum: bool = False


class HydrogenBondDescriptor(Descriptor):
    """``backbone``, or ``{donors: selection, acceptors: selection, r0: "0.25 nm", n: 6, m: 12, skip: 3, sum: false}``.

    A bond is a switching function of the distance between the selected atoms: hydrogen and acceptor or, with
    ``donors: name N`` and a longer r0, donor and acceptor. The angle does not matter. ``backbone`` stands for the
    hydrogens of the amides as donors, and for the oxygens of the carbonyls as acceptors.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        if isinstance(value, str) and value == "backbone":
            value = _BACKBONE
        usage = 'write backbone, or {donors: selection of hydrogens, acceptors: selection, r0: "0.25 nm"}'
        settings = validate(_BondSettings, value, where, usage)
        topology = labels.topology
        atoms = {}
        for key, of in (("donors", settings.donors), ("acceptors", settings.acceptors)):
            if of == "backbone":
                atoms[key] = _backbone(topology, key, f"{where}.{key}")
            else:
                atoms[key] = atom_indices(topology, of, f"{where}.{key}")
        refuse_too_many(len(atoms["donors"]) * len(atoms["acceptors"]), where, settings.sum)
        residues = [atom.residue.index for atom in topology.atoms]
        pairs = [
            (i, j)
            for i, j in product(atoms["donors"], atoms["acceptors"])
            if i != j and abs(residues[i] - residues[j]) >= settings.skip
        ]
        if not pairs:
            raise SettingsError(f"{where}.skip: no donor and acceptor are {settings.skip} or more residues apart.")
        donors = describe_atoms(settings.donors, atoms["donors"], labels)
        acceptors = describe_atoms(settings.acceptors, atoms["acceptors"], labels)
        total = f"hydrogen bonds of {donors} to {acceptors}, {settings.skip} residues apart,"
        return Entry(settings.normal_form(), pair_terms(pairs, "hydrogen bond", total, settings, labels))

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label) for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        return pair_module(terms, n_atoms)


def _backbone(topology: mdtraj.Topology, key: str, where: str) -> list[int]:
    """Donors or acceptors of the backbone: hydrogens of the amides between residues, or oxygens of the carbonyls."""
    names = ("H", "HN") if key == "donors" else ("O",)
    atoms = [atom for residue in topology.residues if residue.is_protein for atom in residue.atoms]
    indices = [atom.index for atom in atoms if atom.name in names]
    if key == "donors":  # a terminal nitrogen, which has several hydrogens, is not an amide
        hydrogens = Counter(
            (atom.residue.index, heavy.name)
            for bond in topology.bonds
            for heavy, atom in (bond, bond[::-1])
            if heavy.name == "N" and atom.element is mdtraj.element.hydrogen
        )
        indices = [index for index in indices if hydrogens[topology.atom(index).residue.index, "N"] <= 1]
    if not indices:
        hint = "; select other donors, such as name N" if key == "donors" else ""
        raise SettingsError(f"{where}: the backbone has no amide atom {' or '.join(names)}{hint}.")
    return indices
