"""Shapes of a bias in latent space: spline on a grid, harmonic well, walls, one component, and sums of them.

A shape is a function of one point u (d,) and its table (size,), both double, that returns the energy, kJ/mol, and the
force in latent space, -dE/du (d,). It uses as few torch operations as possible, since on a small molecule the cost of a
biased step is proportional to their number. Only a call needs torch: a shape is handed to a process that has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from latf_sampling.errors import CVError

if TYPE_CHECKING:
    from torch import Tensor

# Cubic B-spline on four neighboring nodes: row = power of the position in the cell, column = node.
BASIS = np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6.0
SLOPE = np.vstack([BASIS[1:] * np.array([[1], [2], [3]]), np.zeros((1, 4))])


class Shape(Protocol):
    """A function that `BiasForce` can apply to a collective variable."""

    size: int
    """Length of the table."""

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]: ...


class Harmonic:
    """A harmonic well, 1/2 sum_k stiffness_k (u_k - center_k)^2; the table holds centers (d,), then stiffnesses (d,).

    Examples
    --------
    >>> import torch
    >>> center, stiffness, u = 0.5, 10.0, torch.tensor([0.7], dtype=torch.float64)
    >>> energy, force = Harmonic(1)(u, torch.tensor([center, stiffness], dtype=torch.float64))
    >>> round(float(energy), 6), round(float(force), 6)
    (0.2, -2.0)
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.size, self.arguments = dim, 2 * dim, (dim,)

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        away = table[: self.dim] - u
        force = table[self.dim :] * away
        return 0.5 * force.dot(away), force


class Walls:
    """Zero between low and high (d,), and 1/2 sum_k stiffness_k distance_k^2 outside."""

    size = 0

    def __init__(self, low: np.ndarray, high: np.ndarray, stiffness: np.ndarray) -> None:
        self.low, self.high, self.stiffness = (np.array(v, np.float64) for v in (low, high, stiffness))
        self.arguments = self.low, self.high, self.stiffness

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        low, high, stiffness = _tensors(self.low, self.high, self.stiffness)
        away = u.clamp(low, high) - u
        force = stiffness * away
        return 0.5 * force.dot(away), force

    def energies(self, u: np.ndarray) -> np.ndarray:
        """Energy at points (n, d); returns (n,)."""
        return 0.5 * (u - np.clip(u, self.low, self.high)) ** 2 @ self.stiffness


class Spline:
    """Cubic B-spline, with continuous second derivatives; the table holds its coefficients, row by row.

    Outside the grid it has the value of the closest point of the grid. Where the four outermost coefficients across a
    face are equal, energy and force are continuous there.

    Parameters
    ----------
    first
        Position (d,) of the first coefficient.
    step
        Distance (d,) between neighboring coefficients.
    counts
        Number (d,) of coefficients along each dimension.
    """

    def __init__(self, first: np.ndarray, step: np.ndarray, counts: tuple[int, ...]) -> None:
        d, self.arguments = len(counts), (first, step, counts)
        first, step = np.asarray(first, np.float64), np.asarray(step, np.float64)
        self.size = int(np.prod(counts))
        self._scale, self._shift = 1 / step, -first / step
        self._low, self._high = np.ones(d), np.array(counts, np.float64) - 3
        strides = np.array([int(np.prod(counts[k + 1 :])) for k in range(d)], dtype=np.float64)
        corners = np.array(list(np.ndindex(*(4,) * d)))
        self._corners = (corners - 1) @ strides
        self._strides = np.tile(strides, (len(corners), 1))
        # Factor of dimension k, as a polynomial in the position in its cell, for the value and for each component of
        # the force, at each corner. The value is the product of values, a force has one slope among its factors.
        factors = np.empty((d, 4, 1 + d, len(corners)))
        for k in range(d):
            factors[k] = BASIS[:, None, corners[:, k]]
            factors[k, :, 1 + k] = -SLOPE[:, corners[:, k]] / step[k]
        self._factors, self._powers = factors.reshape(d, 4, -1), np.arange(4.0)
        self._shape = (1 + d, len(corners))

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift, low, high = _tensors(self._scale, self._shift, self._low, self._high)
        corners, strides, factors, powers = _tensors(self._corners, self._strides, self._factors, self._powers)
        t = shift.addcmul(u, scale)
        t = t.fmax(low).fmin(high)  # the index of NaN is undefined; these replace it
        cell = t.floor()
        weights = ((t - cell).view(-1, 1, 1) ** powers).bmm(factors).prod(0)
        block = table.index_select(0, corners.addmv(strides, cell).long())
        value = weights.view(self._shape).mv(block)
        return value[0], value[1:]


class Component:
    """One component of u itself, without a table."""

    size = 0

    def __init__(self, dim: int, component: int) -> None:
        self.component, self._force, self.arguments = component, -np.eye(dim)[component], (dim, component)

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        (force,) = _tensors(self._force)
        return u[self.component], force


class Sum:
    """A sum of shapes in one pass through the network; its table consists of theirs, one after the other."""

    def __init__(self, *shapes: Shape) -> None:
        self.shapes, self.size, self.arguments = shapes, sum(shape.size for shape in shapes), shapes

    def __call__(self, u: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        terms = (shape(u, part) for shape, part in zip(self.shapes, self._tables(table)))
        energy, force = next(terms)
        for another_energy, another_force in terms:
            energy, force = energy + another_energy, force + another_force
        return energy, force

    def _tables(self, table: Tensor) -> Iterator[Tensor]:
        start = 0
        for shape in self.shapes:
            yield table if shape.size in (0, self.size) else table[start : start + shape.size]
            start += shape.size


_KINDS = {kind.__name__: kind for kind in (Harmonic, Walls, Spline, Component, Sum)}


def to_json(shape: Shape) -> str:
    """A shape of this file as text, from which another process makes the same one by `from_json`.

    Raises
    ------
    CVError
        It is a shape of another kind.

    Examples
    --------
    >>> to_json(Harmonic(2))
    '["Harmonic", 2]'
    """

    def written(part: Any) -> Any:
        if isinstance(part, tuple(_KINDS.values())):
            return [type(part).__name__, *map(written, part.arguments)]
        return np.asarray(part).tolist()

    if not isinstance(shape, tuple(_KINDS.values())):
        raise CVError(f"bias: a shape of the kind {type(shape).__name__} cannot be handed to another process.")
    return json.dumps(written(shape))


def from_json(text: str) -> Shape:
    """The shape that `to_json` wrote, with the same numbers."""

    def read(part: Any) -> Any:
        is_shape = isinstance(part, list) and part and isinstance(part[0], str)
        return _KINDS[part[0]](*map(read, part[1:])) if is_shape else part

    return read(json.loads(text))


def _tensors(*arrays: np.ndarray) -> list[Tensor]:
    """Arrays as constants of a graph."""
    import torch

    return [torch.from_numpy(array) for array in arrays]
