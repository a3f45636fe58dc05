"""Torsions, as sine and cosine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import mdtraj
import numpy as np
import torch
from mdtraj.geometry import dihedral
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Row,
    Settings,
    check_indices,
    select,
    validated,
)
from latf_sampling.features.nucleotides import nucleotides
from latf_sampling.features.periodic import Differences, cross, dot, joined, lengths
from latf_sampling.features.topology import Labels

# IUPAC-IUB, Eur. J. Biochem. 131, 9 (1983), doi:10.1111/j.1432-1033.1983.tb07225.x; - is of the nucleotide before, + of
# the one after.
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
    """Atoms of a nucleic acid's torsions of this name."""
    every = nucleotides(topology)
    after = {one.residue.index: two for one, two in zip(every, every[1:]) if one.bonded_to(two)}
    before = {two.residue.index: one for one, two in zip(every, every[1:]) if one.bonded_to(two)}
    found = []
    for own in every:
        places = {"": own, "-": before.get(own.residue.index), "+": after.get(own.residue.index)}
        names = _NUCLEIC[name] if name != "chi" else ("O4'", "C1'", *own.glycosidic)
        atoms = []
        for atom in names:
            place = places[atom[0] if atom[0] in "-+" else ""]
            atoms.append(None if place is None else place.atoms.get(atom.lstrip("-+")))
        if None not in atoms:
            found.append(tuple(atoms))
    return found


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
"""Torsions known by name, of proteins and of nucleic acids, and the function of a topology that gives their atoms."""

_STRAIGHT = 1e-16  # nm^8; squared length of (sine, cosine) before normalisation where a torsion ceases to be defined


class Torsions(torch.nn.Module):
    """Sines of all torsions, then their cosines, (..., n, 3) -> (..., 2 * torsions).

    With bond vectors b1, b2, b3 and m = b1 x b2, the pair (|b2| m . b3, (m x b2) . b3) points along (sin, cos) and is
    divided by its length L; no arctangent, no angle that jumps by 2 pi. Sign as in IUPAC: cis is 0. Torsions and their
    derivatives without spurious poles: Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996),
    doi:10.1002/(SICI)1096-987X(19960715)17:9<1132::AID-JCC5>3.0.CO;2-T

    L = |b1| |b2|^2 |b3| times the sines of the two bond angles; a torsion has no value where it is zero. Dividing by
    sqrt(L^2 + 1e-16 nm^8) keeps value and gradient finite there. Of a torsion of ordinary bonds this takes less than
    1e-9; sine and cosine start to shrink where a bond angle is within some thousandths of a degree of straight.
    """

    def __init__(self, quadruples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k, l = quadruples.T  # noqa: E741
        # b3 twice, for the sine and for the cosine
        self.differences = Differences(np.concatenate([i, j, k, k]), np.concatenate([j, k, l, l]), n_atoms)
        self.count = len(quadruples)
        self.straight = _STRAIGHT

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        bonds = self.differences(positions, box)
        b1, b2, b3 = torch.split(bonds, [self.count, self.count, 2 * self.count], -2)
        m = cross(b1, b2)
        both = dot(joined([m * lengths(b2, keepdim=True), cross(m, b2)]), b3).unflatten(-1, [2, self.count])
        return (both * torch.rsqrt((both * both).sum(-2, keepdim=True) + self.straight)).flatten(-2)


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
        help_ = 'write names like "phi psi", {names: phi psi, residues: selection}, or {atoms: [[0, 1, 2, 3]]}'
        if isinstance(value, Mapping) and "names" in value:
            settings = validated(_TorsionNames, value, where, help_)
            return self._by_name(settings, labels, where, f"{where}.names")
        settings = validated(_TorsionAtoms, value, where, help_)
        rows = {}
        for position, quadruple in enumerate(settings.atoms):
            check_indices(quadruple, labels.topology.n_atoms, f"{where}.atoms[{position}]")
            atoms = min(quadruple, quadruple[::-1])  # backwards is the same torsion
            rows[atoms] = Row(atoms, "torsion " + " ".join(labels.atom(a) for a in atoms))
        return Entry(settings.model_dump(mode="json"), list(rows.values()))

    def _by_name(self, settings: _TorsionNames, labels: Labels, where: str, key: str) -> Entry:
        topology = labels.topology
        names = list(dict.fromkeys(settings.names.split()))
        if not names:
            raise SettingsError(f"{key}: names no torsion; known are {', '.join(TORSIONS)}.")
        residues, place = None, "in this topology"
        if settings.residues is not None:
            chosen = select(topology, settings.residues, f"{where}.residues")
            residues, place = {topology.atom(atom).residue.index for atom in chosen}, f"in '{settings.residues}'"
        rows = []
        for name in names:
            if name not in TORSIONS:
                raise SettingsError(f"{key}: '{name}' is not a torsion; known are {', '.join(TORSIONS)}.")
            found = np.asarray(TORSIONS[name](topology), dtype=np.int64).reshape(-1, 4).tolist()
            # the second atom of every named torsion lies in the residue that it is named after
            if residues is not None:
                found = [q for q in found if topology.atom(q[1]).residue.index in residues]
            if not found:
                takes = f"; it takes nucleotides with {', '.join(_NUCLEIC[name])}" if name in _NUCLEIC else ""
                raise SettingsError(f"{key}: '{name}' finds no torsion {place}{takes}.")
            rows += [Row(tuple(q), f"{name} {labels.residue(q[1])}") for q in found]
        text = " ".join(names)
        return Entry(text if residues is None else {"names": text, "residues": settings.residues}, rows)

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(f"{part} {row.label}") for part in ("sin", "cos") for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        return Torsions(np.array([row.atoms for row in rows]), n_atoms)
