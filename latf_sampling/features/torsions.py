"""Torsions, as sine and cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mdtraj.geometry import dihedral
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Index, Row, Settings, check_indices, validated
from latf_sampling.features.periodic import Differences
from latf_sampling.features.topology import Labels

TORSIONS = {
    "phi": dihedral.indices_phi,
    "psi": dihedral.indices_psi,
    "omega": dihedral.indices_omega,
    "chi1": dihedral.indices_chi1,
    "chi2": dihedral.indices_chi2,
    "chi3": dihedral.indices_chi3,
    "chi4": dihedral.indices_chi4,
}
"""Torsions known by name, and the function of a topology that gives their atoms (torsions, 4)."""

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
        m = torch.linalg.cross(b1, b2, dim=-1)
        sine = m * torch.linalg.vector_norm(b2, dim=-1, keepdim=True)
        cosine = torch.linalg.cross(m, b2, dim=-1)
        both = (torch.cat([sine, cosine], -2) * b3).sum(-1).unflatten(-1, [2, self.count])
        return (both * torch.rsqrt((both * both).sum(-2, keepdim=True) + self.straight)).flatten(-2)


class _TorsionAtoms(Settings):
    atoms: tuple[tuple[Index, Index, Index, Index], ...] = Field(min_length=1)


class TorsionDescriptor(Descriptor):
    """``"phi psi"``, names in `TORSIONS`, or ``{atoms: [[i, j, k, l], ...]}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        if isinstance(value, str):
            return self._by_name(value, labels, where)
        settings = validated(_TorsionAtoms, value, where, 'write names like "phi psi", or {atoms: [[0, 1, 2, 3]]}')
        rows = {}
        for position, quadruple in enumerate(settings.atoms):
            check_indices(quadruple, labels.topology.n_atoms, f"{where}.atoms[{position}]")
            atoms = min(quadruple, quadruple[::-1])  # backwards is the same torsion
            rows[atoms] = Row(atoms, "torsion " + " ".join(labels.atom(a) for a in atoms))
        return Entry(settings.model_dump(mode="json"), list(rows.values()))

    def _by_name(self, value: str, labels: Labels, where: str) -> Entry:
        names = list(dict.fromkeys(value.split()))
        if not names:
            raise SettingsError(f"{where}: names no torsion; known are {', '.join(TORSIONS)}.")
        rows = []
        for name in names:
            if name not in TORSIONS:
                raise SettingsError(f"{where}: '{name}' is not a torsion; known are {', '.join(TORSIONS)}.")
            found = np.asarray(TORSIONS[name](labels.topology), dtype=np.int64).reshape(-1, 4)
            if not len(found):
                raise SettingsError(f"{where}: '{name}' finds no torsion in this topology.")
            # the second atom of every named torsion lies in the residue that it is named after
            rows += [Row(tuple(q), f"{name} {labels.residue(q[1])}") for q in found.tolist()]
        return Entry(" ".join(names), rows)

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(f"{part} {row.label}") for part in ("sin", "cos") for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        return Torsions(np.array([row.atoms for row in rows]), n_atoms)
