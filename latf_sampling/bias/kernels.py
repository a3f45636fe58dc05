"""A sum of weighted Gaussian kernels in which kernels close to each other are merged."""

from __future__ import annotations

import numpy as np

MERGE = 1.0
"""A new kernel is merged with the closest one if that is less than so many of its widths away."""

Kernel = tuple[np.ndarray, np.ndarray, float]
"""Center (d,), width (d,) and height."""


class Kernels:
    """Sum of Gaussians, each cut off at `cutoff` widths, where it goes to zero continuously.

    Merging preserves the height-weighted mean and variance of both kernels, so that their number grows with the
    explored volume and not with time. Source: Invernizzi and Parrinello, doi:10.1021/acs.jpclett.0c00497, and for the
    merging rule Sodkomkham et al., doi:10.1016/j.knosys.2016.03.006.

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
        Sum over all kernels i and j of kernel j at the center of i.

    Examples
    --------
    >>> kernels = Kernels(dim=1, cutoff=4.0)
    >>> removed, new = kernels.add(np.array([0.0]), np.array([0.1]), 1.0)
    >>> removed, new = kernels.add(np.array([0.0625]), np.array([0.1]), 3.0)
    >>> len(kernels), kernels.centers.tolist(), kernels.heights.tolist()
    (1, [[0.046875]], [4.0])
    """

    def __init__(self, dim: int, cutoff: float) -> None:
        self.cutoff = cutoff
        self.centers, self.widths, self.heights = np.empty((0, dim)), np.empty((0, dim)), np.empty(0)
        self.total = 0.0

    def __len__(self) -> int:
        return len(self.heights)

    def add(self, center: np.ndarray, width: np.ndarray, height: float) -> tuple[list[Kernel], Kernel]:
        """Add a kernel, and merge as long as one is close.

        Returns
        -------
        tuple
            The kernels that were removed, and the one that is new.
        """
        new: Kernel = (np.array(center), np.array(width), float(height))
        removed: list[Kernel] = []
        while len(self) and (closest := self._closest(new[0])) is not None:
            old = self.centers[closest], self.widths[closest], self.heights[closest]
            removed.append(old)
            self._remove(closest)
            new = _merged(old, new)
        at_new = self._at(new[0], self.centers, self.widths, self.heights).sum()
        of_new = self._at(self.centers, *new).sum()
        self.total += at_new + of_new + new[2] * (1 - np.exp(-0.5 * self.cutoff**2))
        self.centers = np.vstack([self.centers, new[0]])
        self.widths = np.vstack([self.widths, new[1]])
        self.heights = np.append(self.heights, new[2])
        return removed, new

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """Sum of all kernels at points (n, d); (n,)."""
        return sum((self._at(u, *kernel) for kernel in zip(self.centers, self.widths, self.heights)), np.zeros(len(u)))

    def _remove(self, index: int) -> None:
        old = self.centers[index], self.widths[index], self.heights[index]
        others = np.arange(len(self)) != index
        self.centers, self.widths, self.heights = self.centers[others], self.widths[others], self.heights[others]
        at_old = self._at(old[0], self.centers, self.widths, self.heights).sum()
        of_old = self._at(self.centers, *old).sum()
        self.total -= at_old + of_old + old[2] * (1 - np.exp(-0.5 * self.cutoff**2))

    def _closest(self, center: np.ndarray) -> int | None:
        distances = (((center - self.centers) / self.widths) ** 2).sum(1)
        index = int(distances.argmin())
        return index if distances[index] < MERGE**2 else None

    def _at(self, u: np.ndarray, center: np.ndarray, width: np.ndarray, height: float | np.ndarray) -> np.ndarray:
        square = (((u - center) / width) ** 2).sum(-1)
        return height * np.maximum(np.exp(-0.5 * square) - np.exp(-0.5 * self.cutoff**2), 0.0)


def _merged(one: Kernel, other: Kernel) -> Kernel:
    """The kernel with the height, mean and variance of both together."""
    height = one[2] + other[2]
    first, second = one[2] / height, other[2] / height
    variance = first * one[1] ** 2 + second * other[1] ** 2 + first * second * (one[0] - other[0]) ** 2
    return first * one[0] + second * other[0], np.sqrt(variance), height
