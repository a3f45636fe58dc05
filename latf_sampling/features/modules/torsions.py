"""Torsions, as sine and cosine: the torch module."""

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, cross, dot, lengths, stack_vectors

_STRAIGHT = 1e-16  # nm^8; squared length of (sine, cosine) below which a torsion ceases to be defined


class Torsions(torch.nn.Module):
    """Sines of all torsions, then their cosines, (..., n, 3) -> (..., 2 * torsions).

    With bond vectors b1, b2, b3 and m = b1 x b2, the pair (|b2| m . b3, (m x b2) . b3) points along (sin, cos) and is
    divided by its length L; there is no arctangent, and no angle that jumps by 2 pi. The sign is IUPAC's: cis is 0. The
    derivatives have no spurious poles: Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996),
    doi:10.1002/(SICI)1096-987X(19960715)17:9<1132::AID-JCC5>3.0.CO;2-T

    L = |b1| |b2|^2 |b3| times the sines of the two bond angles; a torsion has no value where L is zero. Dividing by
    sqrt(L^2 + 1e-16 nm^8) keeps value and gradient finite there. For ordinary bonds this changes sine and cosine by
    less than 1e-9; they start to shrink where a bond angle is within some thousandths of a degree of straight.
    """

    def __init__(self, quadruples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k, l = quadruples.T  # noqa: E741
        # b3 twice, for the sine and for the cosine
        self.differences = Differences(np.concatenate([i, j, k, k]), np.concatenate([j, k, l, l]), n_atoms)
        self.count = len(quadruples)
        self.straight = _STRAIGHT

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        bonds = self.differences(positions, box)
        b1, b2, b3 = torch.split(bonds, [self.count, self.count, 2 * self.count], -2)
        m = cross(b1, b2)
        both = dot(stack_vectors([m * lengths(b2, keepdim=True), cross(m, b2)]), b3).unflatten(-1, [2, self.count])
        return (both * torch.rsqrt((both * both).sum(-2, keepdim=True) + self.straight)).flatten(-2)
