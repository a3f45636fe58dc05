"""Torsions, as sine and cosine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
from mdtraj.geometry import dihedral
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Term,
    check_indices,
    select_atoms,
    validate,
)
from latf_sampling.features.nucleotides import nucleotides
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


# IUPAC-IUB, Eur. J. Biochem. 131, 9 (1983), doi:10.1111/j.1432-1033.1983.tb07225.x; "-" marks an atom of the preceding
# nucleotide, "+" one of the next.
_NUCLEIC = {
    "alpha": ("-O3'", "P", "O5'", "C5'"),
    "beta": ("P", "O5'", "C5'", "C4'"),
    "gamma": ("O5'", "C5'", "C4'", "C3'"),
    "delta": ("C5'", "C4'", "C3'", "O3'"),
    "epsilon": ("C4'", "C3'", "O3'", "+P"),
    "zeta": ("C3'", "O3'", "+P", "+O5'"),
    "chi": ("O4'", "C1'", "N9 or N1", "C4 or C2"),
}


def _nucleic(name: str, topology: mdtraj.Topology) -> list[tuple[int, ...]]:
    """Atoms of all torsions of this name in nucleic acids."""
    all_nucleotides = nucleotides(topology)
    bonded = [(one, two) for one, two in zip(all_nucleotides, all_nucleotides[1:]) if one.bonded_to(two)]
    following = {one.residue.index: two for one, two in bonded}
    preceding = {two.residue.index: one for one, two in bonded}
    quadruples = []
    for nucleotide in all_nucleotides:
        index = nucleotide.residue.index
        owners = {"": nucleotide, "-": preceding.get(index), "+": following.get(index)}
        names = _NUCLEIC[name] if name != "chi" else ("O4'", "C1'", *nucleotide.glycosidic)
        atoms = []
        for atom in names:
            owner = owners[atom[0] if atom[0] in "-+" else ""]
            atoms.append(None if owner is None else owner.atoms.get(atom.lstrip("-+")))
        if None not in atoms:
            quadruples.append(tuple(atoms))
    return quadruples


TORSIONS = {
    "phi": dihedral.indices_phi,
    "psi": dihedral.indices_psi,
    "omega": dihedral.indices_omega,
    "chi1": dihedral.indices_chi1,
    "chi2": dihedral.indices_chi2,
    "chi3": dihedral.indices_chi3,
    "chi4": dihedral.indices_chi4,
    "chi5": dihedral.indices_chi5,
    **{name: partial(_nucleic, name) for name in _NUCLEIC},
}
"""Named torsions of proteins and nucleic acids, each with the function that finds their atoms in a topology."""


class _TorsionAtoms(Settings):
    atoms: tuple[tuple[Index, Index, Index, Index], ...] = Field(min_length=1)


class _TorsionNames(Settings):
    names: str
    residues: str | None = None


class TorsionDescriptor(Descriptor):
    """``"phi psi"``, names in `TORSIONS`; ``{names: phi, residues: selection}``; ``{atoms: [[i, j, k, l], ...]}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        if isinstance(value, str):
            return self._by_name(_TorsionNames(names=value), labels, where, where)
        usage = 'write names like "phi psi", {names: phi psi, residues: selection}, or {atoms: [[0, 1, 2, 3]]}'
        if isinstance(value, Mapping) and "names" in value:
            settings = validate(_TorsionNames, value, where, usage)
            return self._by_name(settings, labels, where, f"{where}.names")
        settings = validate(_TorsionAtoms, value, where, usage)
        terms = {}
        for position, quadruple in enumerate(settings.atoms):
            check_indices(quadruple, labels.topology.n_atoms, f"{where}.atoms[{position}]")
            atoms = min(quadruple, quadruple[::-1])  # the reversed quadruple is the same torsion
            terms[atoms] = Term(atoms, "torsion " + " ".join(labels.atom(a) for a in atoms))
        return Entry(settings.model_dump(mode="json"), list(terms.values()))

    def _by_name(self, settings: _TorsionNames, labels: Labels, where: str, key: str) -> Entry:
        topology = labels.topology
        names = list(dict.fromkeys(settings.names.split()))
        if not names:
            raise SettingsError(f"{key}: names no torsion; known are {', '.join(TORSIONS)}.")
        residues, place = None, "in this topology"
        if settings.residues is not None:
            atoms = select_atoms(topology, settings.residues, f"{where}.residues")
            residues, place = {topology.atom(atom).residue.index for atom in atoms}, f"in '{settings.residues}'"
        terms = []
        for name in names:
            if name not in TORSIONS:
                raise SettingsError(f"{key}: '{name}' is not a torsion; known are {', '.join(TORSIONS)}.")
            quadruples = np.asarray(TORSIONS[name](topology), dtype=np.int64).reshape(-1, 4).tolist()
            # the second atom of every named torsion lies in the residue that the torsion is named after
            if residues is not None:
                quadruples = [q for q in quadruples if topology.atom(q[1]).residue.index in residues]
            if not quadruples:
                needs = f"; it needs nucleotides with {', '.join(_NUCLEIC[name])}" if name in _NUCLEIC else ""
                raise SettingsError(f"{key}: '{name}' finds no torsion {place}{needs}.")
            terms += [Term(tuple(q), f"{name} {labels.residue(q[1])}") for q in quadruples]
        text = " ".join(names)
        return Entry(text if residues is None else {"names": text, "residues": settings.residues}, terms)

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(f"{part} {term.label}") for part in ("sin", "cos") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.torsions import Torsions

        return Torsions(np.array([term.atoms for term in terms]), n_atoms)
