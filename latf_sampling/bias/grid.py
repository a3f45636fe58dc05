"""A bias on a grid: cubic B-splines inside a box of latent space, walls at its faces.

The bias is V(u) = sum_i c_i B(u - u_i), with the coefficients c such that the spline passes through the values at the
nodes. Inside the box it has continuous second derivatives, so that forces have no jumps; it needs 4^d numbers per
evaluation, and a Gaussian hill, being a product over dimensions, has coefficients that are a product too. Outside, it
keeps its value at the closest point of a face, and the wall is added.
"""

from __future__ import annotations

import numpy as np
import openmm
import torch
from scipy.ndimage import convolve1d, spline_filter1d
from torch import Tensor

from latf_sampling.bias.force import Bias, BiasForce
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SimulationError

MARGIN = 3.0
"""The box reaches so many hill widths beyond the training data."""
SPACING = 0.25
"""Distance of grid nodes in hill widths."""
WALL = 20.0
"""Stiffness of the walls, kJ/mol per squared hill width."""
MAX_NODES = 8_000_000
FADE = 8
"""Nodes beyond the box that a hill is sampled on, for its spline to be exact up to the faces."""

# Cubic B-spline on four neighbouring nodes: row = power of the position t in the cell, column = node.
_BASIS = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6.0
_SLOPE = np.vstack([_BASIS[1:] * np.array([[1], [2], [3]]), np.zeros((1, 4))])


class GridBias(Bias):
    """A bias in the latent space that `Metadynamics` and `FlowBias` fill.

    Attributes
    ----------
    axes : list of numpy.ndarray
        Positions of the nodes along each dimension, inside the box.
    group : int
        The force group of the bias in the system.
    """

    def __init__(self, cv: LatentCV, width: np.ndarray) -> None:
        if cv.dim > 3:
            raise SimulationError(
                f"bias: a grid in {cv.dim} dimensions does not fit in memory; use a latent space of 1 to 3."
            )
        self.cv, self.width = cv, np.asarray(width, dtype=np.float64)
        low, high = cv.bounds[:, 0] - MARGIN * self.width, cv.bounds[:, 1] + MARGIN * self.width
        cells = np.ceil((high - low) / (SPACING * self.width)).astype(int)
        if np.prod(cells + 3.0) > MAX_NODES:
            raise SimulationError(
                f"bias: hills of width {self.width} on a box of {high - low} need {np.prod(cells + 3.0):.3g} grid "
                f"nodes, more than {MAX_NODES}; use wider hills."
            )
        self.low, self.high, self._cells = low, high, cells
        self._step = (high - low) / cells
        self.axes = [low[k] + self._step[k] * np.arange(cells[k] + 1) for k in range(cv.dim)]
        self.coefficients = np.zeros(tuple(cells + 3))  # one node beyond each face

    def _attach(self, system: openmm.System) -> None:
        """Add the force to a system, with the coefficients as they are now."""
        self._force = BiasForce(system, self.cv, self._shape(), self.coefficients.ravel())
        self.group = self._force.group

    def energy(self, u: np.ndarray) -> np.ndarray:
        """Bias at latent points (n, d), walls included, kJ/mol; returns (n,)."""
        u = np.asarray(u, dtype=np.float64).reshape(-1, self.cv.dim)
        inside = np.fmin(np.fmax(u, self.low), self.high)  # not NaN, which is no index
        t = (inside - self.low) / self._step
        cell = np.minimum(np.floor(t).astype(int), self._cells - 1)
        weights = (t - cell)[:, :, None] ** np.arange(4) @ _BASIS  # (n, d, 4)
        total = np.zeros(len(u))
        for corner in np.ndindex(*(4,) * self.cv.dim):
            product = np.ones(len(u))
            for k, offset in enumerate(corner):
                product = product * weights[:, k, offset]
            total += product * self.coefficients[tuple(cell[:, k] + offset for k, offset in enumerate(corner))]
        return total + 0.5 * WALL * (((u - inside) / self.width) ** 2).sum(1)

    def on_grid(self) -> np.ndarray:
        """Bias at the nodes of `axes`, kJ/mol."""
        values = self.coefficients
        for k in range(self.cv.dim):
            values = convolve1d(values, _BASIS[0, :3], axis=k)
        return values[(slice(1, -1),) * self.cv.dim]

    def _push(self, context: openmm.Context) -> None:
        """Bring the coefficients into a context."""
        self._force.set_table(context, self.coefficients.ravel())

    def _set_values(self, values: np.ndarray) -> None:
        """Make the spline pass through values at the nodes of `axes`."""
        values = np.pad(values, 1, mode="edge")
        for k in range(self.cv.dim):
            values = spline_filter1d(values, order=3, axis=k, mode="mirror")
        self.coefficients[...] = values

    def _add_hill(self, center: np.ndarray, height: float) -> None:
        product = np.array(height)
        for k in range(self.cv.dim):
            # What the filter assumes beyond the last node fades by a factor of 0.27 a node.
            nodes = self.low[k] + self._step[k] * np.arange(-1 - FADE, self._cells[k] + 2 + FADE)
            hill = np.exp(-0.5 * ((nodes - center[k]) / self.width[k]) ** 2)
            product = np.multiply.outer(product, spline_filter1d(hill, order=3, mode="mirror")[FADE:-FADE])
        self.coefficients += product

    def _shape(self):
        """The bias as plain torch operations on one point: value and gradient from one contraction of a 4^d block."""
        d = self.cv.dim
        low, high, step = (torch.from_numpy(np.array(v)) for v in (self.low, self.high, self._step))
        stiffness = torch.from_numpy(WALL / self.width**2)
        strides = torch.tensor([int(np.prod(self.coefficients.shape[k + 1 :])) for k in range(d)])
        corners = torch.from_numpy(np.array(list(np.ndindex(*(4,) * d)))) @ strides
        last = torch.from_numpy((self._cells - 1).astype(np.float64))
        basis = torch.from_numpy(np.hstack([_BASIS, _SLOPE]))
        powers = torch.arange(4, dtype=torch.float64)

        def shape(u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
            inside = torch.fmin(torch.fmax(u, low), high)  # not NaN, which is no index
            outside = u - inside
            t = (inside - low) / step
            cell = torch.minimum(torch.floor(t), last)
            weights = ((t - cell).unsqueeze(1) ** powers @ basis).view(d, 2, 4)
            block = table.index_select(0, (cell.to(torch.int64) * strides).sum() + corners)
            # Contract dimension by dimension; after all, entry (a, b, ...) has a derivative where an index is 1.
            for k in range(d):
                block = weights[k] @ block.view(4, -1)
                block = block.t().reshape(-1)
            # Each contraction has moved its index (value, slope) to the end, so dimension k has the stride 2^(d-1-k).
            slopes = torch.stack([block[1 << (d - 1 - k)] for k in range(d)]) / step
            pull = stiffness * outside
            return block[0] + 0.5 * (pull * outside).sum(), slopes * (outside == 0) + pull

        return shape
