"""Coordination numbers of identical particles, sorted, and the moments of their distribution: the torch module."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences


class CoordinationNumbers(torch.nn.Module):
    """Coordination numbers, smallest first, then central moments, (..., n, 3) -> (..., atoms + moments), no unit.

    The coordination number of particle i is a smooth count of the others, c_i = sum_j s(r_ij), with a switching
    function s, and the moment of order k is the mean over i of (c_i - <c>)^k: COORDINATIONNUMBER with MOMENTS of PLUMED
    (Tribello et al., doi:10.1016/j.cpc.2013.09.018). Both are invariant to permutations of the particles. Where two
    numbers cross, the sorted ones are continuous with a kink; moments are smooth.

    Parameters
    ----------
    atoms
        Indices of the particles in the positions; two or more.
    n_atoms
        Number of positions.
    switching
        Switching function of difference vectors, see `latf_sampling.features.switching`.
    moments
        Orders k.

    Examples
    --------
    >>> from latf_sampling.features.modules.switching import Rational
    >>> square = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> CoordinationNumbers(range(4), 4, Rational(1.0), moments=[2])(square)
    tensor([1.1111, 1.1111, 1.1111, 1.1111, 0.0000])
    """

    __constants__ = ["moments"]  # TorchScript cannot tell the type of an attribute that is empty

    ends: Tensor

    def __init__(
        self,
        atoms: Sequence[int],
        n_atoms: int,
        switching: torch.nn.Module,
        moments: Sequence[int] = (),
    ):
        super().__init__()
        pairs = torch.tensor(list(combinations(range(len(atoms)), 2)))
        particles = torch.as_tensor(atoms)
        self.differences = Differences(particles[pairs[:, 0]], particles[pairs[:, 1]], n_atoms)
        self.switching = switching
        self.moments = tuple(moments)
        self.register_buffer("ends", torch.nn.functional.one_hot(pairs, len(atoms)).sum(1).float())

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        numbers = torch.matmul(self.switching(self.differences(positions, box)), self.ends)
        # the derivative of torch.sort itself is traced with zeros that stay on the device of the trace
        columns = [torch.gather(numbers, -1, torch.argsort(numbers.detach(), -1))]
        deviations = numbers - numbers.mean(-1, keepdim=True)
        for order in self.moments:
            columns.append((deviations**order).mean(-1, keepdim=True))
        return torch.cat(columns, -1)
