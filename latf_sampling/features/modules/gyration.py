"""Radius of gyration: the torch module."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import (
    IMAGES,
    join_double,
    molecule_shares,
    safe_sqrt,
    split_double,
    squared_lengths,
    weighted_sums,
)
from latf_sampling.features.unwrap import Unwrap


class Gyration(torch.nn.Module):
    """Radius of gyration, nm, (..., n, 3) -> (..., 1): R^2 = sum_i w_i |x_i - sum_j w_j x_j|^2.

    In a box, molecules are unwrapped, and each further one is in that of its images which makes the radius smallest:
    the radius is continuous, with a kink where two images make it as small, half a box apart. Where all atoms coincide
    the radius and its gradient are zero.

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
    shares: Tensor
    images: Tensor

    def __init__(
        self,
        atoms: Sequence[int],
        tree: np.ndarray,
        weights: np.ndarray,
        n_atoms: int,
        molecules: np.ndarray | None = None,
    ):
        super().__init__()
        shares = molecule_shares(np.zeros(len(weights), int) if molecules is None else molecules, weights)
        self.further = len(shares)
        self.register_buffer("shares", torch.from_numpy(shares).float())
        self.register_buffer("images", torch.tensor(IMAGES))
        self.unwrap = Unwrap(atoms, tree, n_atoms, range(len(weights)))
        self.register_buffer("weights", split_double(weights[None]))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        weights = join_double(self.weights).to(x.dtype)
        x = x - weighted_sums(weights, x)
        if box is not None:
            for k in range(self.further):
                x = x + self.nearest(x.detach(), box, self.shares[k].to(x.dtype), weights[0])
        squares = squared_lengths(x)
        return safe_sqrt((squares * weights[0]).sum(-1, keepdim=True), 1e-16)

    def nearest(self, x: Tensor, box: Tensor, share: Tensor, weights: Tensor) -> Tensor:
        """Shifts (..., n, 3) of centered positions by the image of a molecule that makes the radius smallest."""
        images = self.images.to(x.dtype)
        shifts = torch.matmul(images, box.detach())
        lever = torch.matmul(weights * share, x).unsqueeze(-2)
        growth = 2.0 * (shifts * lever).sum(-1) + (weights * share * share).sum() * (shifts * shifts).sum(-1)
        counts = images[torch.argmin(growth, -1)]
        return share.unsqueeze(-1) * torch.matmul(counts.unsqueeze(-2), box)
