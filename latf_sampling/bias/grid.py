"""A bias on a grid: cubic B-splines on a box of latent space, and walls that push back into it.

The bias is V(u) = sum_i c_i B(u - u_i), with the coefficients c such that the spline passes through the values at the
nodes. It has continuous second derivatives, so that forces have no jumps; it needs 4^d numbers per evaluation, and a
Gaussian hill, being a product over dimensions, has coefficients that are a product too.

The walls stand some hill widths outside the training data, at `low` and `high`. The grid goes on behind them, to where
a walker would need some 250 kJ/mol to get, and ends with four equal coefficients across each face: beyond it the bias
keeps its value, the wall goes on growing, and neither energy nor force jumps anywhere.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import openmm
from scipy.ndimage import convolve1d, gaussian_filter, spline_filter1d

from latf_sampling.analysis.mbar import boltzmann_weights
from latf_sampling.bias.arguments import latent_points
from latf_sampling.cv.force import Bias, BiasForce
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import BASIS, Shape, Spline, Sum, Walls
from latf_sampling.errors import OutsideWarning, SettingsError, SimulationError
from latf_sampling.learning.model import LaTF

MARGIN = 3.0
"""The walls stand so many hill widths outside the training data."""
BEHIND = 5.0
"""The grid goes on for so many hill widths behind them."""
SPACING = 0.25
"""Distance of grid nodes in hill widths."""
WALL = 20.0
"""Stiffness of the walls, kJ/mol per square of `cv.sigma`, whatever the hill width: narrow ones would make them stiffer
than a time step can follow."""
MAX_NODES = 8_000_000
FLAT = 4
"""Coefficients across a face that are equal, for a spline that is flat there."""
FADE = 8
"""Nodes around what is filtered: what the filter assumes beyond the last one fades by a factor of 0.27 a node."""
SAMPLES = 20_000
"""Of the flow, to find the highest free energy that it has seen."""
SMOOTHING = 0.5
"""Width of the Gaussian that a flow's surface is smoothed by, in hill widths."""
REACH = 6.0
"""A hill is cut off so many of its widths from its centre, where it is 1e-8 of its height."""


def walls_around(cv: LatentCV, width: np.ndarray) -> Walls:
    """Walls that stand three hill widths (d,) outside the training data of a variable."""
    return Walls(cv.bounds[:, 0] - MARGIN * width, cv.bounds[:, 1] + MARGIN * width, WALL / cv.sigma**2)


def mesh(axes: list[np.ndarray]) -> np.ndarray:
    """All nodes of a grid; (..., d)."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def check_dimension(model: LaTF, dim: int) -> None:
    """Refuse a model of another dimension than a variable's.

    Raises
    ------
    SettingsError
        It is.
    """
    if model.latent_dim != dim:
        raise SettingsError(
            f"the model has {model.latent_dim} latent dimensions, the variable {dim}; give the model that the variable "
            "was exported from."
        )


def flow_log_prob(model: LaTF, temperature: float, nodes: list[np.ndarray]) -> np.ndarray:
    """ln of the flow's density at all nodes of a grid along each dimension, of the components that are used."""
    check_dimension(model, len(nodes))
    used = model.used_components
    points = mesh([nodes[k] for k in used])
    values = model.marginal_log_prob(points.reshape(-1, len(used)).astype(np.float32), temperature)
    # The same whatever those components are that are functions of these.
    shape = [len(axis) if k in used else 1 for k, axis in enumerate(nodes)]
    return np.broadcast_to(values.astype(np.float64).reshape(shape), [len(axis) for axis in nodes])


class GridBias(Bias, ABC):
    """A bias in the latent space that `Metadynamics`, `OPES` and `FlowBias` fill.

    Attributes
    ----------
    low, high : numpy.ndarray (d,)
        Where the walls stand.
    ends : tuple of numpy.ndarray (d,)
        Lowest and highest point of the grid that is not on its flat faces, five hill widths behind the walls.
    axes : list of numpy.ndarray
        Positions of the nodes along each dimension, between the walls.
    coefficients : numpy.ndarray
        Of the spline, on the nodes of `axes` and those behind the walls.
    frequency : int
        Steps between looks at where the walker is.
    outside : int
        How many of the frames that `watch` was given lay behind a wall.
    group : int
        The force group of the bias in the system.
    """

    temperature: float
    frequency: int
    is_adaptive = False
    """Whether it changes as walkers go on."""

    def __init__(self, cv: LatentCV, width: np.ndarray, *, walls: bool = True, spacing: float = SPACING) -> None:
        if cv.dim > 3:
            raise SimulationError(
                f"bias: a grid in {cv.dim} dimensions does not fit in memory; use a latent space of 1 to 3."
            )
        self.cv, self.width, self.walls = cv, np.asarray(width, dtype=np.float64), walls
        self._walls = walls_around(cv, self.width)
        self.low, self.high = self._walls.low.numpy(), self._walls.high.numpy()
        cells = np.ceil((self.high - self.low) / (spacing * self.width)).astype(int)
        self._step = (self.high - self.low) / cells
        self._behind = np.ceil(BEHIND * self.width / self._step).astype(int) + FLAT
        counts = cells + 1 + 2 * self._behind
        if np.prod(counts.astype(float)) > MAX_NODES:
            raise SimulationError(
                f"bias: hills of width {self.width} on a box of {self.high - self.low} need "
                f"{np.prod(counts.astype(float)):.3g} grid nodes, more than {MAX_NODES}; use wider hills "
                "or fewer dimensions."
            )
        self.axes = [self.low[k] + self._step[k] * np.arange(cells[k] + 1) for k in range(cv.dim)]
        self._first = self.low - self._behind * self._step
        last = self._first + (np.array(counts) - 1) * self._step
        self.ends = self._first + FLAT * self._step, last - FLAT * self._step
        self.outside = self._frames = 0
        self.coefficients = np.zeros(tuple(counts))

    def _shape(self) -> Shape:
        """The bias as the force evaluates it."""
        spline = Spline(self._first, self._step, self.coefficients.shape)
        return Sum(spline, self._walls) if self.walls else spline

    def _attach(self, system: openmm.System, fixed: bool = False) -> None:
        """Add the force to a system; from then on `coefficients` are what it reads, and change only if not fixed."""
        self._force = BiasForce(system, self.cv, self._shape(), self.coefficients.ravel(), fixed)
        self.group = self._force.group
        self.coefficients = self._force.table.reshape(self.coefficients.shape)

    def energy(self, u: np.ndarray) -> np.ndarray:
        """Bias at latent points (n, d), walls included, kJ/mol; returns (n,)."""
        return self._total(latent_points(type(self).__name__, u, self.cv.dim), self.coefficients)

    def _total(self, u: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Spline of some coefficients and walls at latent points (n, d), kJ/mol; returns (n,)."""
        total = self._interpolated(u, coefficients)
        return total + self._walls.energies(u) if self.walls else total

    def past_energy(self, u: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """What `energy` at latent points (n, d) was when walkers were at each of some steps, kJ/mol; (steps, n)."""
        return np.tile(self.energy(u), (len(steps), 1))

    def weights(self, u: np.ndarray) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the bias as it is now, on frames at latent points (n, d)."""
        return boltzmann_weights(self.energy(u), self.temperature)

    def step(self, simulation: openmm.app.Simulation, steps: int) -> None:
        """Simulate so many steps; at whole multiples of `frequency` it is looked where the walker is, and added there.

        Raises
        ------
        SimulationError
            The simulation exploded, was made before the bias, or goes on from before the end of the walker's history.
        LeftTrustRegion
            The walker left a trust region that says to stop.
        """
        step_together(simulation, steps, self)

    def _ready(self, simulation: openmm.app.Simulation) -> None:
        """What is done before the first step."""
        self._force.refresh(simulation.context)

    @abstractmethod
    def _look(self, simulation: openmm.app.Simulation) -> None:
        """What is done where the walker is, every `frequency` steps."""

    def applied_bias(self, u: np.ndarray, step: int) -> float:
        """Bias at a point (d,) that a walker has reached at a step, kJ/mol, as it was on the way there."""
        return float(self.energy(u)[0])

    def _interpolated(self, u: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Spline at latent points (n, d); returns (n,)."""
        t = (u - self._first) / self._step
        t = np.fmin(np.fmax(t, 1), np.array(self.coefficients.shape) - 3)  # not NaN, which is no index
        cell = np.floor(t).astype(int)
        weights = (t - cell)[:, :, None] ** np.arange(4) @ BASIS  # (n, d, 4)
        total = np.zeros(len(u))
        for corner in np.ndindex(*(4,) * self.cv.dim):
            product = np.ones(len(u))
            for k, offset in enumerate(corner):
                product = product * weights[:, k, offset]
            total += product * coefficients[tuple(cell[:, k] + offset - 1 for k, offset in enumerate(corner))]
        return total

    def on_grid(self) -> np.ndarray:
        """Bias at the nodes of `axes`, without walls, kJ/mol."""
        return self._at_nodes(self.coefficients)

    def _at_nodes(self, coefficients: np.ndarray) -> np.ndarray:
        values = np.asarray(coefficients[self._between(1)])
        for k in range(self.cv.dim):
            values = convolve1d(values, BASIS[0, :3], axis=k)
        return values[(slice(1, -1),) * self.cv.dim]

    def flow_surface(self, model: LaTF, temperature: float, share: float) -> np.ndarray:
        """Coefficients of -share * F(u), with F the flow's free energy, cut off where it is above all of its samples.

        Zero where it is cut off, positive elsewhere, and smoothed by half a hill width: a flow may fall from what it
        has seen to nothing within one node, which no time step could follow.
        """
        samples = model.sample(SAMPLES, temperature, seed=0)[:, model.used_components]
        lowest = float(model.marginal_log_prob(samples, temperature).min())
        seen = np.maximum(flow_log_prob(model, temperature, self._nodes()) - lowest, 0)
        values = share * model.boltzmann * temperature * seen
        return self._spline_through(gaussian_filter(values, SMOOTHING * self.width / self._step, mode="nearest"))

    def watch(self, u: np.ndarray) -> None:
        """Count a frame (d,), and say once when more than a few lie behind a wall.

        Raises
        ------
        SimulationError
            It is not finite.
        """
        if not np.isfinite(u).all():
            raise SimulationError(f"bias: the collective variable is {u}; the simulation exploded.")
        self._frames += 1
        if ((u < self.low) | (u > self.high)).any():
            self.outside += 1
            if self.outside in (10, 100, 1000):
                what = "the walls push it back" if self.walls else "there are no walls, and the bias is flat there"
                warnings.warn(
                    f"bias: {self.outside} of {self._frames} looked-at frames lay outside the box "
                    f"{self.low} to {self.high}, now at {u}; {what}. What is there was never in the training data.",
                    OutsideWarning,
                    stacklevel=3,
                )

    def _between(self, margin: int = 0) -> tuple[slice, ...]:
        """The part of the coefficients that lies between the walls, with so many more on each side."""
        return tuple(slice(b - margin, n - b + margin) for b, n in zip(self._behind, self.coefficients.shape))

    def _nodes(self) -> list[np.ndarray]:
        """Positions of all coefficients along each dimension."""
        return [self._first[k] + self._step[k] * np.arange(count) for k, count in enumerate(self.coefficients.shape)]

    def _spline_through(self, values: np.ndarray) -> np.ndarray:
        """Coefficients of the spline through values at all of `_nodes`, but flat at the faces."""
        for k in range(self.cv.dim):
            values = spline_filter1d(values, order=3, axis=k, mode="mirror")
        inner = values[(slice(FLAT, -FLAT),) * self.cv.dim]
        return np.pad(inner, FLAT, mode="edge")

    def _add_hill(self, coefficients: np.ndarray, center: np.ndarray, width: np.ndarray, height: float) -> None:
        """Add a Gaussian hill to coefficients, as far as it lies on the grid and off its flat faces."""
        product, places = np.array(height), []
        for k, count in enumerate(coefficients.shape):
            middle, reach = (center[k] - self._first[k]) / self._step[k], REACH * width[k] / self._step[k]
            first, last = int(np.ceil(middle - reach)), int(np.floor(middle + reach))
            nodes = np.arange(first - FADE, last + FADE + 1)
            hill = np.exp(-0.5 * ((nodes - middle) * (self._step[k] / width[k])) ** 2)
            hill = spline_filter1d(hill, order=3, mode="mirror")
            start, stop = max(first, FLAT), min(last + 1, count - FLAT)
            places.append(slice(start, max(start, stop)))
            product = np.multiply.outer(product, hill[start - nodes[0] : max(start, stop) - nodes[0]])
        coefficients[tuple(places)] += product


def step_together(simulation: openmm.app.Simulation, steps: int, *biases: GridBias) -> None:
    """Simulate so many steps with several biases of one system, each of which adds at its own multiples.

    Raises
    ------
    SettingsError
        There is no bias.
    SimulationError, LeftTrustRegion
        As of `GridBias.step`.

    Examples
    --------
    >>> backbone = Metadynamics(system, cv, 300.0, 10, 1.0, 500)  # doctest: +SKIP
    >>> contacts = Metadynamics(system, other_cv, 300.0, 10, 1.0, 400)  # doctest: +SKIP
    >>> step_together(simulation, 100_000, backbone, contacts)  # doctest: +SKIP
    """
    if not biases:
        raise SettingsError("step_together: give the biases to step with, step_together(simulation, steps, bias, ...).")
    for bias in biases:
        bias._ready(simulation)
    while steps > 0:
        part = min(steps, *(bias.frequency - simulation.currentStep % bias.frequency for bias in biases))
        biases[0]._advance(simulation, part)
        steps -= part
        for bias in biases:
            if simulation.currentStep % bias.frequency == 0:
                bias._look(simulation)
