"""How much a walker's variable fluctuates: the widths of the kernels that OPES adds with ``width="adaptive"``."""

from __future__ import annotations

import numpy as np

WINDOW = 10
"""Positions that the running mean covers, and of which all but the last get no kernel: PLUMED's default for
ADAPTIVE_SIGMA_STRIDE, which is ten times the time between kernels."""


class Fluctuations:
    """Root mean square fluctuation of a variable around its running mean, from position to position of one walker.

    The running mean decays exponentially over `WINDOW` positions; the squares are averaged over all of them, so that
    widths settle. A bias that was there widens free-energy minima by the square root of gamma; what was measured before
    the first kernel is counted as if it were so wide too. Source: Invernizzi and Parrinello,
    doi:10.1021/acs.jctc.2c00152.

    Parameters
    ----------
    dim
        d.
    bias_factor
        gamma.

    Attributes
    ----------
    count : int
        Number of positions.

    Examples
    --------
    >>> fluctuations = Fluctuations(dim=1, bias_factor=9.0)
    >>> for u in (0.0, 2.0, 4.0):
    ...     fluctuations.add(np.array([u]), biased=True)
    >>> fluctuations.kernel_width().round(2).tolist()
    [1.63]
    """

    def __init__(self, dim: int, bias_factor: float) -> None:
        self.count = 0
        self._bias_factor, self._unbiased = bias_factor, True
        self._mean, self._squares = np.zeros(dim), np.zeros(dim)

    def add(self, u: np.ndarray, biased: bool) -> None:
        """Add the next position (d,) of the walker, and whether a bias acted there."""
        self.count += 1
        self._unbiased = self._unbiased and not biased
        away = u - self._mean
        self._mean = self._mean + away / min(self.count, WINDOW)
        self._squares = self._squares + away * (u - self._mean)

    def kernel_width(self) -> np.ndarray:
        """Fluctuation (d,) under the bias; to be called once for each position at which a kernel is added."""
        if self._unbiased:
            self._squares, self._unbiased = self._squares * self._bias_factor, False
        return np.sqrt(self._squares / self.count)
