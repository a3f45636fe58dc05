"""Free energies along any variables, -kT ln p on histograms, with an error and an interval in every bin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from latf_sampling.analysis.arguments import FrameValues, by_trajectory, ranges, whole_number
from latf_sampling.analysis.blocks import Blocks, half_width
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.analysis.weights import relative_weights
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB, TemperatureLike, to_kelvin


@dataclass(frozen=True)
class Profile:
    """Free energy along one variable.

    Attributes
    ----------
    edges : numpy.ndarray (bins + 1,)
    values : numpy.ndarray (bins,)
        kJ/mol, the lowest 0; infinite where there is no frame.
    error : numpy.ndarray (bins,)
        Standard error of -kT ln p, kJ/mol, with p relative to all bins, so that the lowest bin has an error too.
        Infinite where the data do not bound it.
    interval : numpy.ndarray (2, bins)
        Low and high ends of the 95 % intervals about the values, by Student's t.
    """

    edges: np.ndarray
    values: np.ndarray
    error: np.ndarray
    interval: np.ndarray


@dataclass(frozen=True)
class Surface:
    """Free energy of two variables.

    Attributes
    ----------
    x_edges, y_edges : numpy.ndarray (bins + 1,)
    values, error : numpy.ndarray (bins, bins)
    interval : numpy.ndarray (2, bins, bins)
        As in `Profile`.
    """

    x_edges: np.ndarray
    y_edges: np.ndarray
    values: np.ndarray
    error: np.ndarray
    interval: np.ndarray


def free_energy_profile(
    x: FrameValues,
    log_weights: FrameValues,
    temperature: TemperatureLike,
    rng: np.random.Generator | int,
    bins: int = 60,
    extent: tuple[float, float] | None = None,
    states: Multistate | None = None,
) -> Profile:
    """Free energy -kT ln p on a histogram of one variable.

    Parameters
    ----------
    x, log_weights
        Per trajectory, the variable at each frame (frames,), and ln of its weight (frames,). One array is one
        trajectory.
    temperature
        K.
    rng
        Draws the weights of the blocks; a generator or a seed.
    bins, extent
        Number of bins, and (low, high); `None` takes the range of the data. Frames outside are left out.
    states
        As in `free_energy_difference`.

    Raises
    ------
    DataError
        There is no frame within the extent, lengths differ, or a weight or value is not a number.
    SettingsError
        The temperature is not above 0, there is no bin, or the extent is not (low, high).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = [rng.normal(size=50_000) for _ in range(2)]
    >>> profile = free_energy_profile(x, [np.zeros(50_000)] * 2, 1 / KB, rng, bins=6, extent=(-3, 3))
    >>> profile.values.round(1).tolist()  # -ln of the integrals of a Gaussian
    [2.8, 0.9, 0.0, 0.0, 0.9, 2.8]
    >>> bool((profile.error < 0.1).all())
    True
    """
    result = _histogram([x], log_weights, temperature, rng, bins, extent, states, "free_energy_profile")
    return Profile(result.edges[0], result.values, result.error, result.interval)


def free_energy_surface(
    x: FrameValues,
    y: FrameValues,
    log_weights: FrameValues,
    temperature: TemperatureLike,
    rng: np.random.Generator | int,
    bins: int | tuple[int, int] = 60,
    extent: tuple[tuple[float, float], tuple[float, float]] | None = None,
    states: Multistate | None = None,
) -> Surface:
    """Free energy -kT ln p on a histogram of two variables; everything as in `free_energy_profile`.

    Parameters
    ----------
    x, y, log_weights
        Per trajectory, the variables at each frame (frames,), and ln of its weight (frames,).
    bins, extent
        Number of bins of each variable, or (of x, of y), and ((x low, x high), (y low, y high)).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = ([rng.normal(size=50_000)] for _ in range(2))
    >>> surface = free_energy_surface(x, y, [np.zeros(50_000)], 1 / KB, rng, bins=2, extent=((-1, 1), (-1, 1)))
    >>> bool((surface.values < 4 * surface.error.max()).all())
    True
    """
    result = _histogram([x, y], log_weights, temperature, rng, bins, extent, states, "free_energy_surface")
    x_edges, y_edges = result.edges
    return Surface(x_edges, y_edges, result.values, result.error, result.interval)


class _Histogram(NamedTuple):
    """Edges of each variable, and free energy of the bins with its error and interval, as in `Profile`."""

    edges: list[np.ndarray]
    values: np.ndarray
    error: np.ndarray
    interval: np.ndarray


def _histogram(
    variables: Sequence[FrameValues],
    log_weights: FrameValues,
    temperature: TemperatureLike,
    rng: np.random.Generator | int,
    bins: int | tuple[int, int],
    extent: tuple[float, float] | tuple[tuple[float, float], tuple[float, float]] | None,
    states: Multistate | None,
    name: str,
) -> _Histogram:
    rng, kt = np.random.default_rng(rng), KB * to_kelvin(temperature)
    by_variable = [by_trajectory(parts, f"{name}, variable") for parts in variables]
    log_weights = by_trajectory(log_weights, f"{name}, log weights")
    weights = np.empty(0)
    for parts in by_variable:  # checks each variable; the weights are the same
        weights = relative_weights(log_weights, parts, name)
    columns = np.stack([np.concatenate(parts) for parts in by_variable])
    if not np.isfinite(columns).all():
        raise DataError(f"{name}: the value of frame {np.argmin(np.isfinite(columns).all(0))} is not a number.")
    edges = _edges(columns, bins, extent, name)
    shape = tuple(len(each) - 1 for each in edges)
    # The last bin includes its upper edge, as in numpy's histograms.
    places = [
        np.where(column == each[-1], len(each) - 2, np.searchsorted(each, column, side="right") - 1)
        for column, each in zip(columns, edges)
    ]
    within = np.all([(place >= 0) & (place < size) for place, size in zip(places, shape)], axis=0)
    if not weights[within].any():
        raise DataError(f"{name}: no frame of any weight lies within the extent.")
    sets = np.where(within, np.ravel_multi_index(places, shape, mode="clip"), -1)
    count = int(np.prod(shape))
    series = []
    for column in columns:
        influence = weights * within * (column - np.average(column, weights=weights * within))
        series += [column, influence if states is None else states.total_influence(influence)]
    blocks = Blocks([len(part) for part in log_weights], series, states)
    sums = blocks.sums(weights, sets, count)
    total = sums.sum(0)
    response = blocks.response(weights, sets, count)
    with np.errstate(invalid="ignore"):  # infinite where states do not overlap
        response = response - response @ (total / total.sum())[:, None]
    error, dof = blocks.log_ratio_errors(sums, sums.sum(1, keepdims=True), response, rng)
    with np.errstate(divide="ignore"):
        values = -kt * np.log(total / total.sum())
    values -= values.min()
    half = np.where(np.isfinite(values), kt * half_width(error, dof), np.inf)
    bounded = np.isfinite(half)
    interval = [np.where(bounded, values + sign * np.where(bounded, half, 0.0), sign * np.inf) for sign in (-1, 1)]
    return _Histogram(edges, values.reshape(shape), kt * error.reshape(shape), np.reshape(interval, (2, *shape)))


def _edges(
    columns: np.ndarray,
    bins: int | tuple[int, int],
    extent: tuple[float, float] | tuple[tuple[float, float], tuple[float, float]] | None,
    name: str,
) -> list[np.ndarray]:
    """Edges of the bins of each variable."""
    numbers = list(bins) if isinstance(bins, Iterable) else [bins] * len(columns)
    if len(numbers) != len(columns):
        raise SettingsError(f"{name}: {len(numbers)} numbers of bins for {len(columns)} variables.")
    numbers = [whole_number(number, f"{name}, bins", 1) for number in numbers]
    extents = [None] * len(columns) if extent is None else ranges(extent, name, len(columns))
    return [np.histogram_bin_edges(*options) for options in zip(columns, numbers, extents)]
