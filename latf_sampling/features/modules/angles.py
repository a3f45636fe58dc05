"""Angles between three atoms, as their cosine or in radian: the torch modules."""

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, cross, dot, squared_lengths

_SHORT = 1e-16  # nm^4; squared product of the two lengths below which an angle ceases to be defined


class Cosines(torch.nn.Module):
    """Cosines of angles, (..., n, 3) -> (..., angles).

    u . v / sqrt(|u|^2 |v|^2 + 1e-16 nm^4) for the vectors u and v from the middle atom to the two others. It is smooth
    at 0 and 180 degrees; where two atoms coincide the angle is not defined, and the cosine goes to zero with a finite
    gradient. For ordinary bonds the small term changes the cosine by less than 1e-11.
    """

    def __init__(self, triples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k = triples.T
        self.differences = Differences(np.concatenate([j, j]), np.concatenate([i, k]), n_atoms)
        self.count = len(triples)
        self.short = _SHORT

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        u, v = torch.split(self.differences(positions, box), [self.count, self.count], -2)
        return dot(u, v) * torch.rsqrt(squared_lengths(u) * squared_lengths(v) + self.short)


class Angles(torch.nn.Module):
    """Angles, rad, (..., n, 3) -> (..., angles).

    The arctangent of sqrt(|u x v|^2 + 1e-16 nm^4) and u . v, accurate at 0 and 180 degrees, where the arccosine is not.
    The angle has a kink there; the small term rounds it off, so that value and gradient are finite everywhere. It
    changes the angle of ordinary bonds by less than 1e-11 rad, and by 1e-6 rad at the kink itself.
    """

    def __init__(self, triples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k = triples.T
        self.differences = Differences(np.concatenate([j, j]), np.concatenate([i, k]), n_atoms)
        self.count = len(triples)
        self.short = _SHORT

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        u, v = torch.split(self.differences(positions, box), [self.count, self.count], -2)
        return torch.atan2(torch.sqrt(squared_lengths(cross(u, v)) + self.short), dot(u, v))
