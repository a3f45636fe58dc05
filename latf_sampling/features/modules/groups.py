"""Distances between the centers of groups of atoms: the torch module."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import (
    IMAGES,
    Differences,
    join_double,
    lengths,
    molecule_shares,
    split_double,
    weighted_sums,
)
from latf_sampling.features.unwrap import Unwrap


class GroupDistances(torch.nn.Module):
    """Distances between centers of groups, nm, (..., n, 3) -> (..., pairs); zero gradient where centers coincide.

    In a box, each group is unwrapped, with each further molecule of it in the image that makes the group smallest, and
    the distance is that of the shortest image.

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
    molecules
        For each group, the number of the molecule of each of its atoms; None if each group is of one.
    """

    centers: Tensor
    members: Tensor
    shares: Tensor
    of_group: Tensor
    images: Tensor

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], np.ndarray]],
        weights: Sequence[np.ndarray],
        pairs: np.ndarray,
        n_atoms: int,
        molecules: Sequence[np.ndarray] | None = None,
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
        molecules = [np.zeros(len(weight), int) for weight in weights] if molecules is None else molecules
        ends = np.cumsum([len(weight) for weight in weights])
        members, shares, of_group = [], [], []
        for group, (end, labels, weight) in enumerate(zip(ends, molecules, weights)):
            for number, share in enumerate(molecule_shares(labels, weight), 1):
                here = np.zeros((2, ends[-1]))
                here[:, end - len(weight) : end] = labels == number, share
                of_group.append(group)
                members.append(here[0])
                shares.append(here[1])
        self.further = len(members)
        empty = np.zeros((0, ends[-1]))
        self.register_buffer("members", torch.from_numpy(np.array([*empty, *members]).reshape(-1, ends[-1])).float())
        self.register_buffer("shares", torch.from_numpy(np.array([*empty, *shares]).reshape(-1, ends[-1])).float())
        self.register_buffer("of_group", torch.tensor(of_group, dtype=torch.int64))
        self.register_buffer("images", torch.tensor(IMAGES))
        self.register_buffer("centers", split_double(centers.numpy()))
        self.differences = Differences(pairs[:, 0], pairs[:, 1], len(groups))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        centers = join_double(self.centers).to(x.dtype)
        if box is not None and self.further > 0:
            weights = centers.index_select(0, self.of_group)
            for k in range(self.further):
                x = x + self.nearest(x.detach(), box, k, weights[k])
        return lengths(self.differences(weighted_sums(centers, x), box))

    def nearest(self, x: Tensor, box: Tensor, k: int, weights: Tensor) -> Tensor:
        """Shifts (..., n, 3) by the image of a molecule that makes its group smallest."""
        images, share = self.images.to(x.dtype), self.shares[k].to(x.dtype)
        shifts = torch.matmul(images, box.detach())
        away = x - torch.matmul(weights, x).unsqueeze(-2)
        lever = torch.matmul(weights * share, away).unsqueeze(-2)
        growth = 2.0 * (shifts * lever).sum(-1) + (weights * share * share).sum() * (shifts * shifts).sum(-1)
        counts = images[torch.argmin(growth, -1)]
        return self.members[k].to(x.dtype).unsqueeze(-1) * torch.matmul(counts.unsqueeze(-2), box)
