"""The spline on a grid against the Gaussians that are put on it, and the shape that OpenMM evaluates against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.landscape import Landscape
from helpers.molecules import alanine_cv

from latf_sampling.bias.grid import WALL
from latf_sampling.errors import OutsideWarning, SimulationError

DIMENSIONS = [1, 2, 3]


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_spline_passes_through_its_nodes(dim):
    bias = Landscape(None, alanine_cv(dim))
    assert np.abs(bias.on_grid() - bias.nodes).max() < 1e-9
    nodes = np.stack(np.meshgrid(*bias.axes, indexing="ij"), axis=-1).reshape(-1, dim)
    picked = np.random.default_rng(0).choice(len(nodes), min(len(nodes), 2000), replace=False)
    assert np.abs(bias.energy(nodes[picked]) - bias.nodes.ravel()[picked]).max() < 1e-9
    for axis, low, high in zip(bias.axes, bias.low, bias.high):
        assert axis[0] == low and axis[-1] == pytest.approx(high)
    assert (bias.low <= bias.cv.bounds[:, 0] - 3 * bias.hill_width + 1e-12).all()
    assert (bias.high >= bias.cv.bounds[:, 1] + 3 * bias.hill_width - 1e-12).all()


def gaussians(u: np.ndarray, centers: np.ndarray, heights: np.ndarray, width: np.ndarray) -> np.ndarray:
    square = (((u[:, None] - centers) / width) ** 2).sum(-1)
    return np.exp(-0.5 * square) @ heights


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_hills_are_gaussians(dim):
    """Anywhere in the box, for hills anywhere in it and on its faces, edges and corners."""
    bias = Landscape(None, alanine_cv(dim))
    rng = np.random.default_rng(1)
    size = bias.high - bias.low
    centers = rng.uniform(bias.low, bias.high, (12, dim))
    for k in range(dim):
        centers[4 * k, k], centers[4 * k + 1, k] = bias.low[k], bias.high[k]
    centers[-1] = bias.high
    for center in centers:
        bias.coefficients[...] = 0
        bias.grid.add_hill(bias.coefficients, center, bias.hill_width, 2.0)
        near = np.clip(center + rng.normal(size=(400, dim)) * bias.hill_width, bias.low, bias.high)
        u = np.concatenate([near, rng.uniform(bias.low, bias.high, (400, dim)), center[None]])
        error = bias.energy(u) - gaussians(u, center[None], np.array([2.0]), bias.hill_width)
        assert np.abs(error).max() < 2.0 * 1e-3
    # many at once: each within a thousandth of its height
    heights = rng.uniform(0.1, 3.0, len(centers))
    bias.coefficients[...] = 0
    for center, height in zip(centers, heights):
        bias.grid.add_hill(bias.coefficients, center, bias.hill_width, height)
    u = bias.low + size * rng.uniform(size=(1000, dim))
    assert np.abs(bias.energy(u) - gaussians(u, centers, heights, bias.hill_width)).max() < 1e-3 * heights.sum()
    nodes = np.stack(np.meshgrid(*bias.axes, indexing="ij"), axis=-1).reshape(-1, dim)
    assert np.abs(bias.on_grid().ravel() - bias.energy(nodes)).max() < 1e-9


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_shape_is_energy_and_its_gradient(dim):
    """What runs inside OpenMM against the numpy formula, inside, outside, and on nodes, faces and corners."""
    bias = Landscape(None, alanine_cv(dim))
    shape, table = bias._shape(), torch.from_numpy(bias.coefficients.ravel())
    rng = np.random.default_rng(2)
    nodes = np.array([[axis[k] for axis, k in zip(bias.axes, rng.integers(1, 40, dim))] for _ in range(20)])
    everywhere = rng.uniform(bias.low - 2 * bias.hill_width, bias.high + 2 * bias.hill_width, (60, dim))
    for u in np.concatenate([nodes, everywhere]):
        value, slope = shape(torch.from_numpy(u), table)
        assert float(value) == pytest.approx(float(bias.energy(u)[0]), abs=1e-9)
        h = 1e-3 * bias.hill_width
        for k in range(dim):
            step = h * (np.arange(dim) == k)
            around = bias.energy(u + np.array([[-2], [-1], [1], [2]]) * step)
            numerical = (around @ [1, -8, 8, -1]) / (12 * h[k])
            assert float(slope[k]) == pytest.approx(-numerical, abs=1e-4 / bias.hill_width[k])
    for u in (bias.low, bias.high):
        assert float(shape(torch.from_numpy(u), table)[0]) == pytest.approx(float(bias.energy(u)[0]), abs=1e-9)


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("where", ["inside", "at the walls", "at the end of the grid"])
def test_force_has_no_jump(dim, where):
    bias = Landscape(None, alanine_cv(dim))
    shape, table = bias._shape(), torch.from_numpy(bias.coefficients.ravel())
    rng = np.random.default_rng(3)
    last = bias.grid.first + (np.array(bias.coefficients.shape) - 3) * bias.grid.step
    for _ in range(20):
        place = np.array([axis[k] for axis, k in zip(bias.axes, rng.integers(1, 40, dim))])
        face = rng.integers(dim)
        if where == "at the walls":
            place[face] = rng.choice([bias.low[face], bias.high[face]])
        elif where == "at the end of the grid":
            place[face] = rng.choice([bias.grid.first[face] + bias.grid.step[face], last[face]])
        tiny = 1e-9 * bias.hill_width * rng.choice([-1, 1], dim)
        (low, force_low), (high, force_high) = (shape(torch.from_numpy(u), table) for u in (place - tiny, place + tiny))
        assert abs(float(high - low)) < 1e-5
        assert float((force_high - force_low).abs().max()) < 1e-5 / bias.hill_width.min()


def test_walls_are_harmonic_and_add_to_the_bias():
    walled, bare = Landscape(None, alanine_cv(2)), Landscape(None, alanine_cv(2))
    bare.walls = False
    face = np.array([walled.high[0], 0.5 * (walled.low[1] + walled.high[1])])
    for away in (0.0, 1e-9, 0.5, 3.0, 30.0):
        out = face + away * walled.hill_width * [1, 0]
        assert float(walled.energy(out)[0] - bare.energy(out)[0]) == pytest.approx(0.5 * WALL * away**2, abs=1e-6)
    both = walled.low - walled.hill_width
    assert float(walled.energy(both)[0] - bare.energy(both)[0]) == pytest.approx(WALL)
    # behind the walls the grid goes on, and where it ends the bias keeps its value
    far = walled.high + np.array([[20.0], [40.0]]) * walled.hill_width
    assert bare.energy(far)[0] == bare.energy(far)[1]


def test_frames_outside_are_counted_and_said():
    bias = Landscape(None, alanine_cv(2))
    outside, inside = bias.high + bias.hill_width, 0.5 * (bias.low + bias.high)
    for _ in range(9):
        bias._check_value(outside)
        bias._check_value(inside)
    with pytest.warns(OutsideWarning, match="10 of 19 checked frames lay outside the box .* the walls push it back"):
        bias._check_value(outside)
    assert bias.outside == 10
    with pytest.raises(SimulationError, match="exploded"):
        bias._check_value(np.array([np.nan, 0.0]))


def test_no_number_is_no_index():
    """On a GPU an index out of range ends the process."""
    bias = Landscape(None, alanine_cv(2))
    shape, table = bias._shape(), torch.from_numpy(bias.coefficients.ravel())
    for u in ([np.nan, 0.0], [0.0, np.nan], [np.inf, 0.0]):
        value, slope = shape(torch.tensor(u, dtype=torch.float64), table)
        assert not torch.isfinite(value) and not torch.isfinite(slope).all()
        assert not np.isfinite(bias.energy(u)[0])


@pytest.mark.parametrize("kind", ["four dimensions", "too many nodes"])
def test_a_grid_that_does_not_fit_is_refused(kind):
    cv = alanine_cv(3)
    if kind == "four dimensions":
        cv.sigma = np.ones(4)
        with pytest.raises(SimulationError, match="grid in 4 dimensions"):
            Landscape(None, cv)
    else:
        cv.sigma = cv.sigma / 10
        with pytest.raises(SimulationError, match="use wider hills"):
            Landscape(None, cv)
