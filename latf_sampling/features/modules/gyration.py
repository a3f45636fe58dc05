"""Radius of gyration: the torch module."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import join_double, safe_sqrt, split_double, squared_lengths, weighted_sums
from latf_sampling.features.unwrap import Unwrap


class Gyration(torch.nn.Module):
    """Radius of gyration, nm, (..., n, 3) -> (..., 1): R^2 = sum_i w_i |x_i - sum_j w_j x_j|^2.

    In a box, molecules are unwrapped. Where all atoms coincide the radius and its gradient are zero.

    Parameters
    ----------
    atoms
        Indices of positions: the atoms that count, then those that `bonded_tree` added.
    tree
        Edges of `bonded_tree`.
    weights
        Weights of the atoms that count; they sum to one.
    n_atoms
        Number of positions.
    """

    weights: Tensor

    def __init__(self, atoms: Sequence[int], tree: np.ndarray, weights: np.ndarray, n_atoms: int):
        super().__init__()
        self.unwrap = Unwrap(atoms, tree, n_atoms, range(len(weights)))
        self.register_buffer("weights", split_double(weights[None]))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        weights = join_double(self.weights).to(x.dtype)
        squares = squared_lengths(x - weighted_sums(weights, x))
        return safe_sqrt((squares * weights[0]).sum(-1, keepdim=True), 1e-16)
