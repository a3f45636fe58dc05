"""Switched contacts of pairs of atoms: 1 for near and 0 for far, smooth in between: the torch module."""

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences


class SwitchedPairs(torch.nn.Module):
    """Switching function of the distance of every pair, (..., n, 3) -> (..., pairs), or the sum, (..., 1), no unit."""

    def __init__(self, pairs: np.ndarray, n_atoms: int, switching: torch.nn.Module, total: bool = False):
        super().__init__()
        self.differences = Differences(pairs[:, 0], pairs[:, 1], n_atoms)
        self.switching = switching
        self.total: bool = total

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        values = self.switching(self.differences(positions, box))
        return values.sum(-1, keepdim=True) if self.total else values
