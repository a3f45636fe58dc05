"""Smallest distances between residues, as soft minima: the torch modules."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, squared_lengths

_CLOSEST = 1e-8  # nm^2; added to squares of distances, which makes a distance d longer by 5e-9 nm^2 / d
_CACHED = 512  # pairs at a time for many frames, whose differences then stay in a processor's cache


class SoftMinima(torch.nn.Module):
    """Soft minima of groups of distances, nm, (..., n, 3) -> (..., groups).

        d = beta / ln(sum_i exp(beta / r_i)),

    which is below the smallest of the distances r_i and approaches it as beta grows, as in MDTraj's
    ``compute_contacts(soft_min=True)`` and PLUMED's MINDIST. The exponents are taken relative to the largest, so that
    nothing overflows, and r_i^2 + (1e-4 nm)^2 instead of r_i^2 keeps values and gradients finite at coincident atoms.

    Parameters
    ----------
    groups
        Pairs of atoms (pairs, 2) of each group.
    beta
        1/nm.
    n_atoms
        Number of positions.
    """

    least: Tensor
    indices: Tensor
    real: Tensor

    def __init__(self, groups: Sequence[np.ndarray], beta: float, n_atoms: int):
        super().__init__()
        pairs = np.concatenate(groups)
        self.differences = Differences(pairs[:, 0], pairs[:, 1], n_atoms)
        self.beta, self.scale = beta, beta**-2
        self.register_buffer("least", torch.tensor(_CLOSEST * beta**-2))
        sizes = np.array([len(group) for group in groups])
        ends = np.cumsum(sizes)
        column = np.arange(sizes.max())
        real = column < sizes[:, None]
        # rows of equal length: shorter groups repeat their first pair, with weight zero
        indices = (ends - sizes)[:, None] + np.where(real, column, 0)
        self.register_buffer("indices", torch.from_numpy(indices))
        self.register_buffer("real", torch.from_numpy(real.astype(np.float32)))
        # parts of the table: first and last group, first and last pair, longest group
        parts, first = [], 0
        for last in range(1, len(groups) + 1):
            if last == len(groups) or ends[last] - (ends - sizes)[first] > _CACHED:
                part = [first, last, (ends - sizes)[first], ends[last - 1], sizes[first:last].max()]
                parts.append([int(number) for number in part])
                first = last
        self.parts = parts

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        if positions.dim() == 2:
            return self.minima(self.differences(positions, box), self.indices, self.real)
        columns: list[Tensor] = []
        for first, last, start, stop, longest in self.parts:
            vectors = self.differences.subset(positions, box, start, stop)
            indices = self.indices[first:last, :longest] - start
            minima = self.minima(vectors, indices, self.real[first:last, :longest])
            columns.append(minima.movedim(-1, 0))
        return torch.cat(columns).movedim(0, -1)

    def minima(self, vectors: Tensor, indices: Tensor, real: Tensor) -> Tensor:
        """Soft minima of the lengths of vectors (..., pairs, 3), in groups that are the rows of ``indices``."""
        inverse = torch.rsqrt(torch.add(self.least, squared_lengths(vectors), alpha=self.scale))  # beta / r
        inverse = inverse.movedim(-1, 0).index_select(0, indices.flatten()).movedim(0, -1).unflatten(-1, indices.shape)
        largest = _largest(inverse.detach())
        terms = torch.exp(inverse - largest) * real
        return self.beta / (torch.log(terms.sum(-1)) + largest.squeeze(-1))


def _largest(values: Tensor) -> Tensor:
    """Largest values along the last dimension, which is kept."""
    if values.dim() > 2:  # many frames: halving is several times faster, as this dimension is not innermost in memory
        while values.shape[-1] > 1:
            half = (values.shape[-1] + 1) // 2
            values = torch.maximum(values[..., :half], values[..., values.shape[-1] - half :])
        return values
    return values.amax(-1, keepdim=True)
