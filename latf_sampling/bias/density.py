"""The reweighted density of the points that walkers visited, as kernels and on a grid."""

from __future__ import annotations

import math

import numpy as np

from latf_sampling.bias.kernels import Kernels


class Density:
    """Weighted kernels that are merged as they come, and their sum at the nodes of a grid.

    Parameters
    ----------
    first, step
        Position of the first node and distance of nodes, (d,) each.
    counts
        Number of nodes along each dimension.
    cutoff
        In kernel widths.
    unbiased
        Weight of a frame without bias; the first kernel counts besides one such frame.

    Attributes
    ----------
    kernels : Kernels
    values : numpy.ndarray
        Sum of the kernels at the nodes.
    low, high : numpy.ndarray (d,)
        Nodes low to high - 1 are those where it may be other than zero.
    sum_of_weights, sum_of_squares : float
        Of the frames' weights, and of their squares.
    """

    def __init__(
        self, first: np.ndarray, step: np.ndarray, counts: tuple[int, ...], cutoff: float, unbiased: float
    ) -> None:
        self._first, self._step = first, step
        self.kernels, self.values = Kernels(len(counts), cutoff), np.zeros(counts)
        self.low, self.high = np.array(counts), np.zeros(len(counts), int)
        self.sum_of_weights, self.sum_of_squares = unbiased, unbiased**2

    @property
    def mean(self) -> float:
        """Mean of the density over the visited region, as its mean over the centers of kernels."""
        return self.kernels.total / len(self.kernels)

    @property
    def visited(self) -> tuple[slice, ...]:
        """The nodes from `low` to `high`."""
        return tuple(map(slice, self.low.tolist(), self.high.tolist()))

    def effective_sample_size(self, weight: float = 0.0) -> float:
        """Of all frames so far, and one more of a weight."""
        return (1 + self.sum_of_weights + weight) ** 2 / (1 + self.sum_of_squares + weight**2)

    def add(self, center: np.ndarray, width: np.ndarray, weight: float, height: float) -> None:
        """Add a frame of a weight as a kernel of a height."""
        self.sum_of_weights += weight
        self.sum_of_squares += weight**2
        removed, new = self.kernels.add(center, width, height)
        for kernel in removed:
            self._add_to_nodes(*kernel[:2], -kernel[2])
        self._add_to_nodes(*new)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `load` needs, by name."""
        return {
            "first": self._first,
            "step": self._step,
            "nodes": np.array(self.values.shape),
            "density": self.values[self.visited],  # zero elsewhere, and the grid of three components has millions
            "visited": np.array([self.low, self.high]),
            "centers": self.kernels.centers,
            "widths": self.kernels.widths,
            "heights": self.kernels.heights,
            "sums": np.array([self.kernels.total, self.sum_of_weights, self.sum_of_squares]),
        }

    def load(self, arrays: dict[str, np.ndarray]) -> bool:
        """Become the density that was saved; returns whether that was on this grid, and if not, changes nothing."""
        values, (low, high), sums = arrays["density"], arrays["visited"], arrays["sums"].tolist()
        if "nodes" not in arrays:  # of an earlier version, which saved all nodes
            arrays, values = {**arrays, "nodes": np.array(values.shape)}, values[tuple(map(slice, low, high))]
        same = np.array_equal(arrays["nodes"], self.values.shape)
        if not (same and all(np.array_equal(arrays[k], v) for k, v in (("first", self._first), ("step", self._step)))):
            return False
        kernels = arrays["centers"], arrays["widths"], arrays["heights"]
        self.low, self.high = low, high
        self.values[...] = 0.0
        self.values[self.visited] = values
        self.kernels.centers, self.kernels.widths, self.kernels.heights = kernels
        self.kernels.total, self.sum_of_weights, self.sum_of_squares = sums
        return True

    def _add_to_nodes(self, center: np.ndarray, width: np.ndarray, height: float) -> None:
        cutoff = self.kernels.cutoff * width / self._step
        middle = (center - self._first) / self._step
        first = np.maximum(0, np.ceil(middle - cutoff).astype(int))
        last = np.minimum(self.values.shape, np.floor(middle + cutoff).astype(int) + 1)
        if (first >= last).any():  # off the grid
            return
        self.low, self.high = np.minimum(self.low, first), np.maximum(self.high, last)
        square = np.zeros(())
        for k in range(len(center)):
            away = ((np.arange(first[k], last[k]) - middle[k]) * (self._step[k] / width[k])) ** 2
            square = np.add.outer(square, away)
        lowest = math.exp(-0.5 * self.kernels.cutoff**2)
        region = tuple(map(slice, first, last))
        self.values[region] += height * np.maximum(np.exp(-0.5 * square) - lowest, 0.0)
