"""Pucker of five-membered rings, above all the sugars of nucleic acids: phase and amplitude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Row,
    Settings,
    check_indices,
    validated,
)
from latf_sampling.features.nucleotides import chosen_nucleotides
from latf_sampling.features.periodic import Differences, cross, dot, inner, outer, squared_lengths
from latf_sampling.features.topology import Labels

_COLLAPSED = 1e-12  # nm^4; squared length of the normal before normalisation where a ring ceases to have a plane
_FLAT = 1e-10  # nm^2; squared amplitude where the phase ceases to be defined


class Pucker(torch.nn.Module):
    """Sines of the phases of all rings, their cosines, then amplitudes, nm, (..., n, 3) -> (..., 3 * rings).

    Amplitude q and phase P from the heights z_j of the atoms over the ring's mean plane, of Cremer and Pople, J. Am.
    Chem. Soc. 97, 1354 (1975), doi:10.1021/ja00839a011: for atoms r_j, j = 0 ... 4, around the ring, the plane goes
    through their mean, its normal points along R1 x R2, R1 = sum_j r_j sin(72 j), R2 = sum_j r_j cos(72 j), and

        z_j = sqrt(2 / 5) q cos(P + 126 + 144 j),   angles in degrees, q >= 0.

    The origin of P is chosen such that for C4', O4', C1', C2', C3' in this order P is the phase of pseudorotation of
    Altona and Sundaralingam, J. Am. Chem. Soc. 94, 8205 (1972), doi:10.1021/ja00778a043: C3'-endo 18, O4'-endo 90,
    C2'-endo 162. Theirs comes from five torsions; in real sugars, whose bonds differ in length, the two differ by up to
    3 degrees, and q is about 0.055 nm times their amplitude in radian. Heights were taken because they are linear in
    the positions once the plane is known: smooth where angles computed from torsions are not, and far fewer operations.

    A flat ring has no phase. Dividing by sqrt(q^2 + 1e-10 nm^2) instead of q keeps sine, cosine and amplitude smooth
    there; of a sugar's 0.04 nm it takes less than 1e-7.

    Parameters
    ----------
    rings : shape (rings, 5)
        Indices in the positions, around each ring.
    n_atoms
        Number of positions.
    """

    def __init__(self, rings: np.ndarray, n_atoms: int):
        super().__init__()
        # Plane and heights need differences alone: from the atom across, of which none is longer than two bonds.
        others = [0, 1, 3, 4]
        self.differences = Differences(np.tile(rings[:, 2], 4), rings[:, others].T.ravel(), n_atoms)
        self.count = len(rings)
        j = np.array(others)
        plane = [np.sin(np.radians(72 * j)), np.cos(np.radians(72 * j))]
        phase = np.radians(126 + 144 * j)
        heights = [-np.sqrt(2 / 5) * np.sin(phase), np.sqrt(2 / 5) * np.cos(phase)]
        self.register_buffer("sums", torch.from_numpy(np.stack(plane + heights)).float())
        self.collapsed, self.flat = _COLLAPSED, _FLAT

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        edges = self.differences(positions, box)
        if edges.dim() == 2:
            sums = torch.matmul(self.sums, edges.view(4, -1)).view(4 * self.count, 3)
        else:
            rows = inner(edges)
            sums = outer(torch.matmul(self.sums, rows.reshape(3, 4, -1)).view(rows.shape))
        r1, r2, sine, cosine = torch.split(sums, [self.count] * 4, -2)
        normal = cross(r1, r2)
        scale = torch.rsqrt(squared_lengths(normal) + self.collapsed)
        sine, cosine = dot(sine, normal) * scale, dot(cosine, normal) * scale
        squares = sine * sine + cosine * cosine
        scale = torch.rsqrt(squares + self.flat)
        return torch.cat([sine * scale, cosine * scale, squares * scale], -1)


class _Rings(Settings):
    atoms: tuple[tuple[Index, Index, Index, Index, Index], ...] = Field(min_length=1)


class _Sugars(Settings):
    of: str


class PuckerDescriptor(Descriptor):
    """A selection that the nucleotides have an atom in, or ``{atoms: [[C4', O4', C1', C2', C3'], ...]}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        help_ = "write a selection such as all, or {atoms: [[0, 1, 2, 3, 4]]}"
        if isinstance(value, Mapping) and "atoms" in value:
            settings = validated(_Rings, value, where, help_)
            rows = {}
            for position, ring in enumerate(settings.atoms):
                check_indices(ring, labels.topology.n_atoms, f"{where}.atoms[{position}]")
                rows[ring] = Row(ring, " ".join(labels.atom(atom) for atom in ring))
            return Entry(settings.model_dump(mode="json"), list(rows.values()))
        settings = validated(_Sugars, {"of": value} if isinstance(value, str) else value, where, help_)
        key = where if isinstance(value, str) else f"{where}.of"
        found = chosen_nucleotides(labels.topology, settings.of, key)
        rows = [Row(nucleotide.sugar, labels.residue(nucleotide.sugar[0])) for nucleotide in found]
        return Entry(settings.model_dump(mode="json"), rows)

    def columns(self, rows: list[Row]) -> list[Column]:
        columns = [Column(f"{part} pucker {row.label}") for part in ("sin", "cos") for row in rows]
        return columns + [Column(f"pucker amplitude {row.label}", "nm") for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        return Pucker(np.array([row.atoms for row in rows]), n_atoms)
