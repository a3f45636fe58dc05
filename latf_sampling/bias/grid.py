"""Cubic B-splines on a box of latent space, and walls that push back into it.

The bias is V(u) = sum_i c_i B(u - u_i), with the coefficients c such that the spline passes through the values at the
nodes. It has continuous second derivatives, so that forces have no jumps; an evaluation needs 4^d numbers, and a
Gaussian hill, which is a product over dimensions, has coefficients that are a product too.

The walls stand some hill widths outside the training data, at `low` and `high`. The grid continues behind them, to
where a walker would need some 250 kJ/mol to get, and ends with four equal coefficients across each face: beyond it the
bias keeps its value, the wall continues to grow, and neither energy nor force jumps anywhere.
"""

from __future__ import annotations

import warnings

import numpy as np
import openmm
from scipy.ndimage import convolve1d, spline_filter1d

from latf_sampling.bias.arguments import latent_points
from latf_sampling.bias.base import Bias
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.force import BiasForce
from latf_sampling.cv.shapes import BASIS, Shape, Spline, Sum, Walls
from latf_sampling.errors import OutsideWarning, SimulationError

MARGIN = 3.0
"""Distance of the walls from the training data, in hill widths."""
BEHIND = 5.0
"""Distance from the walls to the end of the grid, in hill widths."""
SPACING = 0.25
"""Distance of grid nodes, in hill widths."""
WALL = 20.0
"""Stiffness of the walls, kJ/mol per square of `cv.sigma`, whatever the hill width: narrow hills would make them
stiffer than a time step can follow."""
MAX_NODES = 8_000_000
FLAT = 4
"""Number of coefficients across a face that are equal, so that the spline is flat there."""
FADE = 8
"""Nodes around what is filtered: what the filter assumes beyond the last one fades by a factor of 0.27 a node."""
CUTOFF = 6.0
"""A hill is cut off so many of its widths from its center, where it is 1e-8 of its height."""

DIFFERENCE = 0.1
"""kJ/mol by which the energy in OpenMM may differ from that of the bias."""

Region = tuple[slice, ...]
"""A part of the coefficients of a grid."""


def walls_around(cv: CollectiveVariable, hill_width: np.ndarray) -> Walls:
    """Walls that stand three hill widths (d,) outside the training data of a variable."""
    return Walls(cv.bounds[:, 0] - MARGIN * hill_width, cv.bounds[:, 1] + MARGIN * hill_width, WALL / cv.sigma**2)


def mesh(axes: list[np.ndarray]) -> np.ndarray:
    """All nodes of a grid; (..., d)."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


class Grid:
    """The nodes of a spline on the values of a collective variable.

    Parameters
    ----------
    cv
        The variable, of 1 to 3 dimensions.
    hill_width
        Width (d,) of the hills that are put on the grid, in the unit of the variable.
    spacing
        Distance of nodes in hill widths.

    Attributes
    ----------
    hill_width : numpy.ndarray (d,)
    walls : Walls
    low, high : numpy.ndarray (d,)
        Where the walls stand.
    ends : tuple of numpy.ndarray (d,)
        Lowest and highest point of the grid that is not on its flat faces, five hill widths behind the walls.
    first, step : numpy.ndarray (d,)
        Position of the first node, and distance of nodes.
    counts : tuple of int
        Number (d,) of nodes along each dimension.
    axes : list of numpy.ndarray
        Positions of the nodes along each dimension, between the walls.

    Raises
    ------
    SimulationError
        The grid would be too large for the memory.
    """

    def __init__(self, cv: CollectiveVariable, hill_width: np.ndarray, spacing: float = SPACING) -> None:
        if cv.dim > 3:
            raise SimulationError(
                f"bias: a grid in {cv.dim} dimensions does not fit in memory; use a latent space of 1 to 3."
            )
        self.dim, self.hill_width = cv.dim, np.asarray(hill_width, dtype=np.float64)
        self.walls = walls_around(cv, self.hill_width)
        self.low, self.high = self.walls.low, self.walls.high
        cells = np.ceil((self.high - self.low) / (spacing * self.hill_width))
        self.step = (self.high - self.low) / cells
        behind = np.ceil(BEHIND * self.hill_width / self.step) + FLAT
        counts = cells + 1 + 2 * behind
        if not np.prod(counts) <= MAX_NODES:
            raise SimulationError(
                f"bias: hills of width {self.hill_width} on a box of {self.high - self.low} need "
                f"{np.prod(counts):.3g} grid nodes {spacing:g} widths apart, more than {MAX_NODES}; use "
                "wider hills, for OPES a larger `narrowest`, or fewer dimensions."
            )
        cells, self._behind, counts = cells.astype(int), behind.astype(int), counts.astype(int)
        self.axes = [self.low[k] + self.step[k] * np.arange(cells[k] + 1) for k in range(cv.dim)]
        self.first = self.low - self._behind * self.step
        last = self.first + (np.array(counts) - 1) * self.step
        self.ends = self.first + FLAT * self.step, last - FLAT * self.step
        self.counts = tuple(counts.tolist())

    @property
    def everything(self) -> Region:
        """All coefficients."""
        return (slice(None),) * self.dim

    def between_walls(self, margin: int = 0) -> Region:
        """The coefficients between the walls, with so many more on each side."""
        return tuple(slice(b - margin, n - b + margin) for b, n in zip(self._behind, self.counts))

    def nodes(self) -> list[np.ndarray]:
        """Positions of all coefficients along each dimension, those behind the walls too."""
        return [self.first[k] + self.step[k] * np.arange(count) for k, count in enumerate(self.counts)]

    def spline_through(self, values: np.ndarray) -> np.ndarray:
        """Coefficients of the spline through values at all of `nodes`, but flat at the faces."""
        for k in range(self.dim):
            values = spline_filter1d(values, order=3, axis=k, mode="mirror")
        inner = values[(slice(FLAT, -FLAT),) * self.dim]
        return np.pad(inner, FLAT, mode="edge")

    def add_hill(self, coefficients: np.ndarray, center: np.ndarray, width: np.ndarray, height: float) -> Region:
        """Add a Gaussian hill to coefficients, as far as it lies on the grid and off its flat faces.

        Returns
        -------
        tuple of slice
            The coefficients that are changed.
        """
        product, region = np.array(height), []
        for k, count in enumerate(self.counts):
            middle, cutoff = (center[k] - self.first[k]) / self.step[k], CUTOFF * width[k] / self.step[k]
            first, last = int(np.ceil(middle - cutoff)), int(np.floor(middle + cutoff))
            nodes = np.arange(first - FADE, last + FADE + 1)
            hill = np.exp(-0.5 * ((nodes - middle) * (self.step[k] / width[k])) ** 2)
            hill = spline_filter1d(hill, order=3, mode="mirror")
            start, stop = max(first, FLAT), min(last + 1, count - FLAT)
            region.append(slice(start, max(start, stop)))
            product = np.multiply.outer(product, hill[start - nodes[0] : max(start, stop) - nodes[0]])
        coefficients[tuple(region)] += product
        return tuple(region)

    def interpolate(self, u: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Spline at latent points (n, d); returns (n,)."""
        t = (u - self.first) / self.step
        t = np.fmin(np.fmax(t, 1), np.array(self.counts) - 3)  # not NaN, which is no index
        cell = np.floor(t).astype(int)
        weights = (t - cell)[:, :, None] ** np.arange(4) @ BASIS  # (n, d, 4)
        total = np.zeros(len(u))
        for corner in np.ndindex(*(4,) * self.dim):
            product = np.ones(len(u))
            for k, offset in enumerate(corner):
                product = product * weights[:, k, offset]
            total += product * coefficients[tuple(cell[:, k] + offset - 1 for k, offset in enumerate(corner))]
        return total

    def at_nodes(self, coefficients: np.ndarray) -> np.ndarray:
        """Spline at the nodes of `axes`."""
        values = np.asarray(coefficients[self.between_walls(1)])
        for k in range(self.dim):
            values = convolve1d(values, BASIS[0, :3], axis=k)
        return values[(slice(1, -1),) * self.dim]


class GridBias(Bias):
    """A bias that is a spline on a grid: the base of `Metadynamics`, `OPES` and `FlowBias`.

    Parameters
    ----------
    system
        Gets the force; `None` for a bias that is only read.
    cv
        The collective variable.
    grid
        The nodes.
    coefficients
        Of the spline, at the start.
    walls
        Whether walls push back into the box.
    fixed
        Whether the coefficients will never change.
    backend
        "torchforce", "pythonforce" or "auto".

    Attributes
    ----------
    grid : Grid
    hill_width : numpy.ndarray (d,)
        Width of hills in the unit of the variable: the argument `width`, which is in units of `cv.sigma`, times it.
    low, high : numpy.ndarray (d,)
        Where the walls stand.
    coefficients : numpy.ndarray
        Of the spline, on the nodes of `axes` and those behind the walls, as the force evaluates it.
    outside : int
        Number of updates at which a walker was behind a wall.
    """

    def __init__(
        self,
        system: openmm.System | None,
        cv: CollectiveVariable,
        grid: Grid,
        coefficients: np.ndarray,
        *,
        walls: bool = True,
        fixed: bool = False,
        backend: str = "auto",
    ) -> None:
        self.grid, self.walls, self.axes = grid, walls, grid.axes
        self.outside = self._checked = 0
        force = None
        if system is not None:
            force = BiasForce(system, cv, self._shape(), coefficients.ravel(), fixed, backend)
            coefficients = force.table.reshape(grid.counts)
        self.coefficients = coefficients
        super().__init__(cv, force)

    @property
    def hill_width(self) -> np.ndarray:
        """Width (d,) of hills in the unit of the variable."""
        return self.grid.hill_width

    @property
    def low(self) -> np.ndarray:
        """Where the lower walls stand (d,)."""
        return self.grid.low

    @property
    def high(self) -> np.ndarray:
        """Where the upper walls stand (d,)."""
        return self.grid.high

    def _shape(self) -> Shape:
        """The bias as the force evaluates it."""
        spline = Spline(self.grid.first, self.grid.step, self.grid.counts)
        return Sum(spline, self.grid.walls) if self.walls else spline

    def energy(self, u: np.ndarray) -> np.ndarray:
        return self._energy_with(self.coefficients, latent_points(type(self).__name__, u, self.cv.dim))

    def _energy_with(self, coefficients: np.ndarray, u: np.ndarray) -> np.ndarray:
        """What `energy` at points (n, d) is with other coefficients, kJ/mol; returns (n,)."""
        total = self.grid.interpolate(u, coefficients)
        return total + self.grid.walls.energies(u) if self.walls else total

    def on_grid(self) -> np.ndarray:
        """Bias at the nodes of `axes`, without walls, kJ/mol."""
        return self.grid.at_nodes(self.coefficients)

    def _check_value(self, u: np.ndarray) -> None:
        """Refuse a value (d,) of the variable that is not finite, and warn where walkers are often behind a wall.

        Raises
        ------
        SimulationError
            The value is not finite.
        """
        if not np.isfinite(u).all():
            raise SimulationError(f"bias: the simulation exploded; the collective variable is {u.tolist()}.")
        self._checked += 1
        if ((u < self.low) | (u > self.high)).any():
            self.outside += 1
            if self.outside in (10, 100, 1000):
                what = "the walls push it back" if self.walls else "there are no walls, and the bias is flat there"
                warnings.warn(
                    f"bias: {self.outside} of {self._checked} checked frames lay outside the box "
                    f"{self.low} to {self.high}, now at {u}; {what}. No training data were there.",
                    OutsideWarning,
                    stacklevel=4,
                )

    def _check_force(self, context: openmm.Context, u: np.ndarray, expected: float) -> None:
        """Refuse to go on where the force that acts is not this bias, whose energy at the present u (d,) is given.

        Raises
        ------
        SimulationError
            OpenMM has another energy than this bias has at u.
        """
        state = context.getState(getEnergy=True, groups=1 << self.group)
        acts = state.getPotentialEnergy()._value
        # Positions are in single precision on some platforms, and variables may be steep.
        if not abs(acts - expected) <= DIFFERENCE + 1e-3 * abs(expected):
            raise SimulationError(
                f"bias: the force that acts on the simulation has an energy of {acts:.6g} kJ/mol at {u.tolist()}, and "
                f"the bias {expected:.6g}; its memory was changed or lost. Continue from the last saved state."
            )
