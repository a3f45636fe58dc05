"""Distances between the centers of groups of atoms: the torch module."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, join_double, lengths, split_double, weighted_sums
from latf_sampling.features.unwrap import Unwrap


class GroupDistances(torch.nn.Module):
    """Distances between centers of groups, nm, (..., n, 3) -> (..., pairs); zero gradient where centers coincide.

    In a box, each group is unwrapped, and the distance is that of the shortest image.

    Parameters
    ----------
    groups
        For each group, its atoms (indices of positions) followed by those that `bonded_tree` added, and the edges.
    weights
        Weights of the atoms of each group; they sum to one.
    pairs
        Indices of the two groups of each distance (pairs, 2).
    n_atoms
        Number of positions.
    """

    centers: Tensor

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], np.ndarray]],
        weights: Sequence[np.ndarray],
        pairs: np.ndarray,
        n_atoms: int,
    ):
        super().__init__()
        atoms: list[int] = []
        trees, counted = [], []
        for (members, tree), weight in zip(groups, weights, strict=True):
            trees.append(tree + len(atoms))
            counted.append(np.arange(len(weight)) + len(atoms))
            atoms += members
        self.unwrap = Unwrap(atoms, np.concatenate(trees), n_atoms, np.concatenate(counted).tolist())
        centers = torch.block_diag(*(torch.from_numpy(weight)[None] for weight in weights))
        self.register_buffer("centers", split_double(centers.numpy()))
        self.differences = Differences(pairs[:, 0], pairs[:, 1], len(groups))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        return lengths(self.differences(weighted_sums(join_double(self.centers).to(x.dtype), x), box))
