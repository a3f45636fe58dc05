"""Histograms of latent points: the difference between two of them, and between a density and one of them.

Two sets of samples are compared in the bins of a `Grid`; one additional bin counts points outside the grid, so that no
sample is lost. With three or more latent dimensions there are histograms of all pairs of components, and every number
is the mean over the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import jensenshannon
from scipy.special import logsumexp

from latf_sampling.analysis.weights import kish

POISSON = 0.5
"""A bin is populated if the Poisson error of its free energy is below so many kT: above four effective counts."""
FINE = 3
"""Points per bin and dimension that a density is averaged over."""


@dataclass(frozen=True)
class Histogram:
    """Weighted counts of one set of samples.

    Attributes
    ----------
    counts : numpy.ndarray (projections, cells + 1)
        The last cell counts the points outside the grid.
    size : float
        Effective number of samples (Kish).
    """

    counts: np.ndarray
    size: float

    @property
    def shares(self) -> np.ndarray:
        """Counts divided by their sum, per projection; (projections, cells + 1)."""
        return self.counts / self.counts.sum(1, keepdims=True)


def divergence(p: Histogram, q: Histogram) -> float:
    """Kullback-Leibler divergence sum p ln(p / q) in nats, mean over projections.

    A bin with samples of p and without samples of q counts as half a sample of q, which keeps the divergence finite.

    Examples
    --------
    >>> grid = Grid(np.zeros(1), np.ones(1), bins=2)
    >>> p, q = (grid.histogram(np.array(u)[:, None]) for u in ([0.1, 0.9], [0.1, 0.2, 0.3, 0.9]))
    >>> round(divergence(p, q), 4)  # ln(0.5 / 0.75) / 2 + ln(0.5 / 0.25) / 2
    0.1438
    """
    expected = p.shares
    other = np.where((expected > 0) & (q.counts == 0), 0.5 / q.size, q.shares)
    other /= other.sum(1, keepdims=True)
    populated = expected > 0
    terms = np.zeros_like(expected)
    terms[populated] = expected[populated] * np.log(expected[populated] / other[populated])
    return float(terms.sum(1).mean())


def distance(p: Histogram, q: Histogram) -> float:
    """Jensen-Shannon distance, the square root of the divergence in nats: from 0 to 0.83; mean over projections.

    Source: Endres and Schindelin, doi:10.1109/TIT.2003.813506.
    """
    distances = jensenshannon(p.shares, q.shares, axis=1)  # pyright: ignore[reportCallIssue] - scipy's stub lacks axis
    return float(np.mean(distances))


@dataclass(frozen=True)
class FreeEnergyError:
    """Free energy of a density minus that of a histogram, over populated bins, after their mean difference is removed.

    Attributes
    ----------
    rms : float
        Root of the mean square, bins weighted by the data in them, kJ/mol.
    largest : float
        Largest absolute difference, kJ/mol.
    noise : float
        Value of `rms` for an exact density and independent frames: the Poisson error of the histogram, kJ/mol.
    coverage : float
        Share of the data in populated bins.
    data, model : numpy.ndarray (bins,) * d
        The two free energies, kJ/mol, on a common zero; NaN in `data` where a bin is not populated.
    """

    rms: float
    largest: float
    noise: float
    coverage: float
    data: np.ndarray = field(repr=False, metadata={"picture": True})
    model: np.ndarray = field(repr=False, metadata={"picture": True})


class Grid:
    """Equal bins over a box in latent space.

    Parameters
    ----------
    low, high
        Corners of the box, (d,) each.
    bins
        Bins per dimension.

    Attributes
    ----------
    projections : list of tuple
        Components of each histogram: all of them for d = 1 and 2, pairs for d >= 3.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, bins: int) -> None:
        self.low, self.bins = np.asarray(low, np.float64), bins
        # The bins of a constant component need a width above zero.
        self.width = np.maximum(np.asarray(high, np.float64) - self.low, 1e-6) / bins
        self.dim = len(self.low)
        self.projections = [(0,)] if self.dim == 1 else list(combinations(range(self.dim), 2))

    @classmethod
    def around(cls, parts: Sequence[np.ndarray], bins: int) -> Grid:
        """A grid over the joint range of sets of points, (n, d) each."""
        low, high = np.min([part.min(0) for part in parts], 0), np.max([part.max(0) for part in parts], 0)
        return cls(low, high, bins)

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins along each dimension; (d, bins + 1)."""
        return self.low[:, None] + self.width[:, None] * np.arange(self.bins + 1)

    def histogram(self, u: np.ndarray, weights: np.ndarray | None = None) -> Histogram:
        """Histogram of points (n, d) with weights (n,)."""
        cells = self.bins ** len(self.projections[0]) + 1
        counts = [np.bincount(self._cells(u, columns), weights, cells) for columns in self.projections]
        return Histogram(np.array(counts, np.float64), float(len(u)) if weights is None else kish(weights))

    def occupied(self, u: np.ndarray) -> np.ndarray:
        """Which cells hold any point of u (n, d), with a margin of one cell; (projections, cells) of bool."""
        cells = (self.bins + 2) ** len(self.projections[0]) + 1
        counts = [np.bincount(self._cells(u, columns, 1), minlength=cells) for columns in self.projections]
        return np.array(counts)[:, :-1] > 0

    def outside(self, u: np.ndarray, occupied: np.ndarray) -> int:
        """Number of points (n, d) that lie, in any projection, neither in an occupied cell nor next to one."""
        outside = np.zeros(len(u), bool)
        for columns, cells in zip(self.projections, occupied):
            shape = (self.bins + 2,) * len(columns)
            near = binary_dilation(cells.reshape(shape), np.ones((3,) * len(columns)))
            outside |= ~np.append(near, False)[self._cells(u, columns, 1)]
        return int(outside.sum())

    def _cells(self, u: np.ndarray, projection: tuple[int, ...], margin: int = 0) -> np.ndarray:
        """Flat index of the cell of each point, or the number of cells for a point outside the grid; (n,)."""
        columns, side = list(projection), self.bins + 2 * margin
        place = (u[:, columns].astype(np.float64) - self.low[columns]) / self.width[columns]
        place[np.isclose(place, self.bins, rtol=0, atol=1e-6)] = self.bins - 1  # the upper edge belongs to the last bin
        index = np.floor(place) + margin
        inside = ((index >= 0) & (index < side)).all(1)
        flat = np.full(len(u), side ** len(columns))
        flat[inside] = index[inside].astype(np.int64) @ side ** np.arange(len(columns))[::-1]
        return flat

    def log_shares(self, log_density: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """ln of the integral of a density over each bin, for d = 1 and 2.

        Parameters
        ----------
        log_density
            ln of the density at points (n, d), returns (n,).

        Returns
        -------
        numpy.ndarray (bins,) * d
        """
        fine = self.bins * FINE
        along = self.low[:, None] + self.width[:, None] / FINE * (np.arange(fine) + 0.5)
        points = np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, self.dim)
        values = log_density(points).astype(np.float64).reshape((self.bins, FINE) * self.dim)
        within = tuple(range(1, 2 * self.dim, 2))
        return logsumexp(values, axis=within) + np.log(self.width / FINE).sum()

    def free_energy_error(
        self, log_shares: np.ndarray, u: np.ndarray, weights: np.ndarray, kT: float
    ) -> FreeEnergyError | None:
        """Compare a density with data, for d = 1 and 2.

        Parameters
        ----------
        log_shares
            Result of `log_shares`; (bins,) * d.
        u, weights
            Points (n, d) and their weights (n,).
        kT
            kJ/mol.

        Returns
        -------
        FreeEnergyError, or None where no bin is populated
        """
        counts, squares = (self.histogram(u, w).counts[0, :-1].reshape(log_shares.shape) for w in (weights, weights**2))
        share = counts / weights.sum()
        effective = np.divide(counts**2, squares, out=np.zeros_like(counts), where=squares > 0)
        populated = effective > POISSON**-2
        if not populated.any():
            return None
        data = np.full(share.shape, np.nan)
        data[populated] = -kT * np.log(share[populated])
        data -= np.nanmin(data)
        weight, model = share[populated], -kT * log_shares
        model = model + np.average((data - model)[populated], weights=weight)
        difference = (model - data)[populated]
        return FreeEnergyError(
            rms=float(np.sqrt(np.average(difference**2, weights=weight))),
            largest=float(np.abs(difference).max()),
            noise=float(kT * np.sqrt(np.average(1 / effective[populated], weights=weight))),
            coverage=float(weight.sum()),
            data=data,
            model=model,
        )
