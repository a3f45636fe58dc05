"""Distances between atoms: the torch module."""

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, lengths

_STEP = 256  # pairs at a time for many frames, whose differences then stay in a processor's cache


class Distances(torch.nn.Module):
    """Distances, nm, (..., n, 3) -> (..., pairs); at coincident atoms the gradient is zero, not NaN."""

    def __init__(self, pairs: np.ndarray, n_atoms: int):
        super().__init__()
        self.differences = Differences(pairs[:, 0], pairs[:, 1], n_atoms)
        self.count, self.step = len(pairs), _STEP

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        if positions.dim() == 2 or self.count <= self.step:
            return lengths(self.differences(positions, box))
        parts = [
            lengths(self.differences.subset(positions, box, start, min(start + self.step, self.count))).movedim(-1, 0)
            for start in range(0, self.count, self.step)
        ]
        return torch.cat(parts).movedim(0, -1)
