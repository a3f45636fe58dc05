"""Paths in latent space for windows and steering: along waypoints, or where the flow's free energy is lowest."""

from __future__ import annotations

from itertools import product
from math import gcd

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from latf_sampling.bias.arguments import check_model, check_parts, numbers
from latf_sampling.bias.grid import mesh
from latf_sampling.core.arguments import describe
from latf_sampling.cv.variable import Variable
from latf_sampling.errors import SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.units import KB, TemperatureLike, to_kelvin

SPACING = 0.25
"""Distance of grid nodes in units of `cv.sigma`, if these are not too many."""
NODES = 40_000
"""Number of nodes that is enough in any dimension."""
HIGHEST = 35.0
"""Free energies, kT above the lowest, are cut off here: no flow resolves more, and sums keep their last digits."""
NEIGHBORHOOD = 2
"""A step of the path on the grid goes to any node so many nodes away, so that its directions are many."""


def even_path(waypoints: ArrayLike, n: int, sigma: ArrayLike) -> np.ndarray:
    """n points (n, d) along straight lines from waypoint to waypoint (m, d), the first and the last among them.

    Neighbours are equally far from each other along the line, in units of `sigma` (d,), such as `cv.sigma`.

    Raises
    ------
    SettingsError
        There are fewer than two different waypoints or fewer than two points, or a value is not a finite number.

    Examples
    --------
    >>> even_path([[0, 0], [1, 0], [1, 2]], 4, [1, 1])
    array([[0., 0.],
           [1., 0.],
           [1., 1.],
           [1., 2.]])
    """
    positive = "sigma must be a positive number for each dimension"
    sigma = numbers("path", positive, sigma)
    if sigma.ndim != 1 or not len(sigma) or not (np.isfinite(sigma) & (sigma > 0)).all():
        raise SettingsError(f"path: {positive}; got {describe(sigma)}.")
    finite = f"waypoints must be finite numbers (m, {len(sigma)})"
    points = numbers("path", finite, waypoints)
    if points.ndim != 2 or points.shape[1:] != sigma.shape or not np.isfinite(points).all():
        raise SettingsError(f"path: {finite}; got {describe(waypoints)}.")
    if isinstance(n, bool) or not hasattr(n, "__index__") or np.ndim(n) or n < 2:
        raise SettingsError(f"path: n must be 2 points or more, a whole number; got {describe(n)}.")
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0) / sigma, axis=1))])
    if not lengths[-1] > 0:
        raise SettingsError(f"path: at least two different waypoints are needed; got {describe(waypoints)}.")
    even = np.linspace(0.0, lengths[-1], n)
    return np.stack([np.interp(even, lengths, column) for column in points.T], axis=1)


def free_energy_path(
    model: LaTF,
    cv: Variable,
    start: ArrayLike,
    end: ArrayLike,
    n: int,
    temperature: TemperatureLike | None = None,
) -> np.ndarray:
    """n evenly spaced points (n, d) from `start` to `end` (d,) along the path of the largest flux.

    Of all paths on a grid, the one of least integral of exp(F / kT) along it, in units of `cv.sigma`, with F the flow's
    free energy: where the variable diffuses evenly, that is the path of the largest flux. It takes the lowest pass, as
    the path of minimum free energy does, but cuts what costs less than kT; being the best of all paths, it needs no
    first guess. Bends shorter than `cv.sigma` are smoothed. Sources: Berkowitz et al., doi:10.1063/1.445756; Zhao,
    Shen, Skeel, doi:10.1021/ct900689m; shortest path: Dijkstra, doi:10.1007/BF01386390.

    Parameters
    ----------
    model, cv
        The trained model and its variable.
    start, end
        (d,) values, not necessarily minima.
    n
        Number of points.
    temperature
        K, or a quantity; by default the model's reference temperature.

    Raises
    ------
    SettingsError
        `start` and `end` are the same or not d finite numbers, or n is less than 2.

    Examples
    --------
    >>> path = free_energy_path(model, cv, start=[-1.0, 0.0], end=[1.5, 0.2], n=24)  # doctest: +SKIP
    """
    check_parts("free_energy_path", None, cv, needs_system=False)
    if isinstance(model, LaTF) or not hasattr(model, "free_energy"):  # whatever gives free energies will do
        check_model("free_energy_path", model, cv)
    requirement = f"start and end must be {cv.dim} numbers each"
    ends = np.full((2, cv.dim), np.nan)
    for row, point in zip(ends, (start, end)):
        vector = numbers("path", requirement, point).reshape(-1)
        if vector.shape != row.shape:
            raise SettingsError(f"path: {requirement}; got {point}.")
        row[:] = vector
    even_path(ends, n, cv.sigma)  # refuses what cannot be a path
    temperature = model.settings.reference_temperature if temperature is None else to_kelvin(temperature)
    low = np.minimum(cv.bounds[:, 0], ends.min(0)) - cv.sigma
    high = np.maximum(cv.bounds[:, 1], ends.max(0)) + cv.sigma
    lengths = (high - low) / cv.sigma
    counts = np.ceil(lengths / max(SPACING, (np.prod(lengths) / NODES) ** (1 / cv.dim))).astype(int) + 1
    axes = [np.linspace(first, last, int(count)) for first, last, count in zip(low, high, counts)]
    points = mesh(axes).reshape(-1, cv.dim)
    free_energy = model.free_energy(points.astype(np.float32), temperature).astype(np.float64)
    reduced = np.minimum((free_energy - free_energy.min()) / (KB * temperature), HIGHEST)
    step = lengths / (counts - 1)
    nodes = [int(np.ravel_multi_index(np.rint((u - low) / cv.sigma / step).astype(int), counts)) for u in ends]
    cheapest = points[_cheapest(np.exp(reduced).reshape(counts), step, *nodes)]
    return even_path(_smooth(np.concatenate([ends[:1], cheapest[1:-1], ends[1:]]), cv.sigma), n, cv.sigma)


def _cheapest(cost: np.ndarray, step: np.ndarray, first: int, last: int) -> np.ndarray:
    """Nodes of the path of least integral of the cost over a grid of spacing `step` (d,), as flat indices."""
    nodes = np.arange(cost.size).reshape(cost.shape)
    rows, columns, lengths = [], [], []
    for move in product(range(-NEIGHBORHOOD, NEIGHBORHOOD + 1), repeat=cost.ndim):
        # One of each pair of opposite directions, and no multiple of a shorter move.
        if move <= (0,) * cost.ndim or gcd(*move) > 1:
            continue
        starts = nodes[tuple(slice(max(0, -k), size - max(0, k)) for k, size in zip(move, cost.shape))].ravel()
        ends = nodes[tuple(slice(max(0, k), size - max(0, -k)) for k, size in zip(move, cost.shape))].ravel()
        rows.append(starts)
        columns.append(ends)
        lengths.append(np.linalg.norm(move * step) * (cost.flat[starts] + cost.flat[ends]) / 2)
    edges = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.concatenate(lengths), edges), (cost.size, cost.size)).tocsr()
    before = dijkstra(graph, directed=False, indices=first, return_predecessors=True)[1]
    path = [last]
    while path[-1] != first:
        path.append(before[path[-1]])
    return np.array(path[::-1])


def _smooth(path: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """A path (m, d) averaged over a Gaussian of half a `sigma` along itself; its ends remain."""
    length = np.linalg.norm(np.diff(path, axis=0) / sigma, axis=1).sum()
    fine = even_path(path, max(2, int(np.ceil(10 * length)) + 1), sigma)
    width = 5  # points of 0.1 sigma
    margin = 4 * width
    # Beyond the ends the path continues as its mirror image through them, so that the average at an end is the end.
    padded = np.pad(fine, ((margin, margin), (0, 0)), mode="reflect", reflect_type="odd")
    return gaussian_filter1d(padded, width, axis=0)[margin:-margin]
