"""Pucker of five-membered rings, such as the sugars of nucleic acids: phase and amplitude: the torch module."""

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, components_first, components_last, cross, dot, squared_lengths

_COLLAPSED = 1e-12  # nm^4; squared length of the normal below which a ring ceases to have a plane
_FLAT = 1e-10  # nm^2; squared amplitude below which the phase ceases to be defined


class Pucker(torch.nn.Module):
    """Sines of the phases of all rings, their cosines, then amplitudes, nm, (..., n, 3) -> (..., 3 * rings).

    Amplitude q and phase P come from the heights z_j of the atoms over the mean plane of Cremer and Pople, J. Am. Chem.
    Soc. 97, 1354 (1975), doi:10.1021/ja00839a011: for atoms r_j, j = 0 ... 4, around the ring, the plane goes
    through their mean, its normal points along R1 x R2, R1 = sum_j r_j sin(72 j), R2 = sum_j r_j cos(72 j), and

        z_j = sqrt(2 / 5) q cos(P + 126 + 144 j),   angles in degrees, q >= 0.

    The origin of P is chosen such that for C4', O4', C1', C2', C3' in this order P is the phase of pseudorotation of
    Altona and Sundaralingam, J. Am. Chem. Soc. 94, 8205 (1972), doi:10.1021/ja00778a043: C3'-endo 18, O4'-endo 90,
    C2'-endo 162. Their phase comes from five torsions; in real sugars, whose bonds differ in length, the two differ by
    up to 3 degrees, and q is about 0.055 nm times their amplitude in radian. Heights are used because they are linear
    in the positions once the plane is known: smooth where angles computed from torsions are not, in fewer operations.

    A flat ring has no phase. Dividing by sqrt(q^2 + 1e-10 nm^2) instead of q keeps sine, cosine and amplitude smooth
    there; it changes a sugar's 0.04 nm by less than 1e-7.

    Parameters
    ----------
    rings : shape (rings, 5)
        Indices of positions, around each ring.
    n_atoms
        Number of positions.
    """

    sums: Tensor

    def __init__(self, rings: np.ndarray, n_atoms: int):
        super().__init__()
        # Plane and heights need only differences; from the opposite atom, none is longer than two bonds.
        others = [0, 1, 3, 4]
        self.differences = Differences(np.tile(rings[:, 2], 4), rings[:, others].T.ravel(), n_atoms)
        self.count = len(rings)
        j = np.array(others)
        plane = [np.sin(np.radians(72 * j)), np.cos(np.radians(72 * j))]
        phase = np.radians(126 + 144 * j)
        heights = [-np.sqrt(2 / 5) * np.sin(phase), np.sqrt(2 / 5) * np.cos(phase)]
        self.register_buffer("sums", torch.from_numpy(np.stack(plane + heights)).float())
        self.collapsed, self.flat = _COLLAPSED, _FLAT

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        edges = self.differences(positions, box)
        if edges.dim() == 2:
            sums = torch.matmul(self.sums, edges.view(4, -1)).view(4 * self.count, 3)
        else:
            vectors = components_first(edges)
            sums = components_last(torch.matmul(self.sums, vectors.reshape(3, 4, -1)).view(vectors.shape))
        r1, r2, sine, cosine = torch.split(sums, [self.count] * 4, -2)
        normal = cross(r1, r2)
        scale = torch.rsqrt(squared_lengths(normal) + self.collapsed)
        sine, cosine = dot(sine, normal) * scale, dot(cosine, normal) * scale
        squares = sine * sine + cosine * cosine
        scale = torch.rsqrt(squares + self.flat)
        return torch.cat([sine * scale, cosine * scale, squares * scale], -1)
