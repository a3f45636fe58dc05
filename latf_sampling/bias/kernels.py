"""A density of weighted Gaussian kernels that merges kernels close to each other."""

from __future__ import annotations

import numpy as np

MERGE = 1.0
"""A new kernel is merged with the closest one if that is less than so many of its widths away."""


class Kernels:
    """Sum of Gaussians, each cut off at `cutoff` widths, where it goes to zero continuously.

    Merging keeps the height-weighted mean and variance of both kernels, so that their number grows with the explored
    volume and not with time. Source: Invernizzi and Parrinello, doi:10.1021/acs.jpclett.0c00497, and for the merging
    rule Sodkomkham et al., doi:10.1016/j.knosys.2016.03.006.

    Parameters
    ----------
    dim
        d.
    cutoff
        In kernel widths.

    Attributes
    ----------
    centers, widths : numpy.ndarray (n, d)
    heights : numpy.ndarray (n,)
    total : float
        Sum over all kernels i and j of kernel j at the centre of i.
    """

    def __init__(self, dim: int, cutoff: float) -> None:
        self.cutoff = cutoff
        self.centers, self.widths, self.heights = np.empty((0, dim)), np.empty((0, dim)), np.empty(0)
        self.total = 0.0

    def __len__(self) -> int:
        return len(self.heights)

    def add(self, center: np.ndarray, width: np.ndarray, height: float) -> tuple[list, tuple]:
        """Add a kernel, and merge as far as kernels are close.

        Returns
        -------
        tuple
            Kernels (centre, width, height) that are gone, and the one that is new.
        """
        new, gone = (np.array(center), np.array(width), float(height)), []
        while len(self) and (closest := self._closest(new[0])) is not None:
            old = self.centers[closest], self.widths[closest], self.heights[closest]
            gone.append(old)
            self._remove(closest)
            new = _merged(old, new)
        others = self._at(new[0], self.centers, self.widths, self.heights).sum()
        there = self._at(self.centers, *new).sum()
        self.total += others + there + new[2] * (1 - np.exp(-0.5 * self.cutoff**2))
        self.centers = np.vstack([self.centers, new[0]])
        self.widths = np.vstack([self.widths, new[1]])
        self.heights = np.append(self.heights, new[2])
        return gone, new

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """Sum of all kernels at points (n, d); (n,)."""
        return sum((self._at(u, *kernel) for kernel in zip(self.centers, self.widths, self.heights)), np.zeros(len(u)))

    def _remove(self, index: int) -> None:
        old = self.centers[index], self.widths[index], self.heights[index]
        keep = np.arange(len(self)) != index
        self.centers, self.widths, self.heights = self.centers[keep], self.widths[keep], self.heights[keep]
        others = self._at(old[0], self.centers, self.widths, self.heights).sum()
        there = self._at(self.centers, *old).sum()
        self.total -= others + there + old[2] * (1 - np.exp(-0.5 * self.cutoff**2))

    def _closest(self, center: np.ndarray) -> int | None:
        distances = (((center - self.centers) / self.widths) ** 2).sum(1)
        index = int(distances.argmin())
        return index if distances[index] < MERGE**2 else None

    def _at(self, u, center, width, height) -> np.ndarray:
        square = (((u - center) / width) ** 2).sum(-1)
        return height * np.maximum(np.exp(-0.5 * square) - np.exp(-0.5 * self.cutoff**2), 0.0)


def _merged(one: tuple, other: tuple) -> tuple:
    """The kernel with the height, mean and variance of both together."""
    height = one[2] + other[2]
    first, second = one[2] / height, other[2] / height
    variance = first * one[1] ** 2 + second * other[1] ** 2 + first * second * (one[0] - other[0]) ** 2
    return first * one[0] + second * other[0], np.sqrt(variance), height
