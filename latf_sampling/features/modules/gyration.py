"""Radius of gyration: the torch module."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import (
    Differences,
    gather,
    join_double,
    safe_sqrt,
    split_double,
    squared_lengths,
    weighted_sums,
)
from latf_sampling.features.unwrap import Unwrap


class Gyration(torch.nn.Module):
    """Radius of gyration, nm, (..., n, 3) -> (..., 1): R^2 = sum_i w_i |x_i - sum_j w_j x_j|^2.

    Of several molecules with the weights W_m and the centers c_m that is sum_i w_i |x_i - c_m(i)|^2
    + sum_(m<n) W_m W_n |c_m - c_n|^2. In a box, molecules are unwrapped, and the differences of centers are shortest
    images: the radius is continuous wherever molecules go, with a kink where two are half a box apart, and it is that
    of the molecules together where all are within half a box of each other. Where all atoms coincide the radius and
    its gradient are zero.

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
    molecules
        Number of the molecule of each atom that counts; None if they are of one.
    """

    weights: Tensor
    centers: Tensor
    molecules: Tensor
    pair_weights: Tensor

    def __init__(
        self,
        atoms: Sequence[int],
        tree: np.ndarray,
        weights: np.ndarray,
        n_atoms: int,
        molecules: np.ndarray | None = None,
    ):
        super().__init__()
        labels = np.zeros(len(weights), int) if molecules is None else molecules
        members = (labels == np.arange(labels.max() + 1)[:, None]) * weights
        of_molecule = members.sum(1)
        first, second = np.triu_indices(len(members), 1)
        self.further: int = len(members) - 1
        self.unwrap = Unwrap(atoms, tree, n_atoms, range(len(weights)))
        self.differences = Differences(first, second, len(members))
        self.register_buffer("weights", split_double(weights))
        self.register_buffer("centers", split_double(members / of_molecule[:, None]))
        self.register_buffer("molecules", torch.from_numpy(labels))
        self.register_buffer("pair_weights", split_double(of_molecule[first] * of_molecule[second]))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        centers = weighted_sums(join_double(self.centers).to(x.dtype), x)
        away = x - gather(centers, self.molecules) if self.further > 0 else x - centers
        squares = (squared_lengths(away) * join_double(self.weights).to(x.dtype)).sum(-1, keepdim=True)
        if self.further > 0:
            between = squared_lengths(self.differences(centers, box))
            squares = squares + (between * join_double(self.pair_weights).to(x.dtype)).sum(-1, keepdim=True)
        return safe_sqrt(squares, 1e-16)
