"""What shapes the encoder besides the prediction of states: slow components, which are smooth from state to state.

A bias drives along the level sets of the variable, and hills have one width everywhere. It therefore needs a variable
that varies little within states, changes with the slow motion and not with fast ones, and rises evenly on the way
from state to state, where frames are few and a network could as well jump. On alanine dipeptide, walkers cross six
times as often along a variable that is trained in this way (benchmarks/variables.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS, PIECES = 128, 8
"""Lines between frames of different states in each step, and the pieces that each is cut into."""


def slowness(now: Tensor, later: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """Sum of the squared autocorrelations of the slowest linear combinations of components, from 0 to d.

    That is the VAMP-2 score of a reversible process without its constant 1: Wu and Noé, doi:10.1007/s00332-019-09567-y;
    as the objective of a network: Bonati, Piccini, Parrinello, doi:10.1073/pnas.2113533118. It does not depend on how
    components are scaled or combined.

    Parameters
    ----------
    now, later
        Latent points (n, d), and those of the same simulations one lag later.
    groups
        Index (n,) of the temperature of each pair: means are those of the same temperature, since a difference between
        temperatures would count as a motion that never decays.

    Examples
    --------
    >>> u = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(float(slowness(u, u, torch.zeros(1000, dtype=torch.int64), torch.ones(1000))), 3)
    2.0
    """
    share = (weights / weights.sum().clamp(min=1e-30)).to(now).unsqueeze(-1)
    totals = torch.zeros(int(groups.max()) + 1, 1, dtype=now.dtype, device=now.device).index_add(0, groups, share)
    sums = torch.zeros(len(totals), now.shape[1], dtype=now.dtype, device=now.device)
    means = sums.index_add(0, groups, 0.5 * share * (now + later)) / totals.clamp(min=1e-30)
    a, b = now - means[groups], later - means[groups]
    covariance = 0.5 * (a.T @ (share * a) + b.T @ (share * b))
    lagged = 0.5 * (a.T @ (share * b) + b.T @ (share * a))
    tiny = 1e-5 * covariance.diagonal().sum().detach() + 1e-12  # for components that are functions of each other
    regular = covariance + tiny * torch.eye(len(covariance), dtype=now.dtype, device=now.device)
    factor, _ = torch.linalg.cholesky_ex(regular)  # of values that are not finite it is not finite, and raises nothing
    half = torch.linalg.solve_triangular(factor, lagged, upper=False)
    return torch.linalg.solve_triangular(factor, half.T, upper=False).square().sum()


def unevenness(lines: Tensor) -> Tensor:
    """How unevenly latent points advance along lines: 1 for a constant speed, and the number of pieces for a jump.

    Parameters
    ----------
    lines
        Latent points (pieces + 1, n, d) along n straight lines between descriptors of two frames.

    Returns
    -------
    Tensor
        Mean square of the steps relative to that of equal steps, a scalar; long lines weigh more.

    Examples
    --------
    >>> float(unevenness(torch.linspace(0, 1, 9).reshape(9, 1, 1)))
    1.0
    >>> float(unevenness((torch.arange(9) > 3).float().reshape(9, 1, 1)))
    8.0
    """
    steps = (lines[1:] - lines[:-1]).square().sum()
    direct = (lines[-1] - lines[0]).square().sum()
    return (len(lines) - 1) * steps / (direct + 1e-12)


def lines_between(one: Tensor, other: Tensor) -> Tensor:
    """Descriptors (PIECES + 1, n, F) at evenly spaced points from those of some frames (n, F) to those of others."""
    return torch.lerp(one, other, torch.linspace(0, 1, PIECES + 1, device=one.device)[:, None, None])


class StatePairs:
    """Draws pairs of frames of different states, each pair of states with the same probability.

    Parameters
    ----------
    frames
        Indices of the frames to draw from (n,).
    labels
        State of each frame of the data set.
    """

    def __init__(self, frames: Tensor, labels: Tensor) -> None:
        states = labels[frames]
        self._frames = frames[torch.argsort(states, stable=True)]
        self._counts = torch.unique(states, return_counts=True)[1]
        self._first = torch.cumsum(self._counts, 0) - self._counts

    def __len__(self) -> int:
        """Number of states."""
        return len(self._counts)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Indices (n,) of one frame and of another, whose state differs; there must be two states."""
        device = self._frames.device
        one = torch.randint(len(self), (n,), generator=generator, device=device)
        other = (one + torch.randint(1, len(self), (n,), generator=generator, device=device)) % len(self)
        return self._of(one, generator), self._of(other, generator)

    def _of(self, states: Tensor, generator: torch.Generator) -> Tensor:
        counts = self._counts[states]
        place = torch.rand(len(states), generator=generator, device=counts.device, dtype=torch.float64) * counts
        return self._frames[self._first[states] + place.long()]
