"""Which of several trained models gives the better variable to bias, from the frames alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch

from latf_sampling.analysis.arguments import by_trajectory
from latf_sampling.analysis.crossing_cells import Hills, LatentSeries
from latf_sampling.analysis.crossing_rates import CrossingRate, expected_crossings
from latf_sampling.core import arguments
from latf_sampling.data.dataset import CHUNK, Dataset, Series, check_intervals, lag_in_frames, series_list
from latf_sampling.errors import DataError
from latf_sampling.learning.model import HILLS_PER_RANGE, LaTF
from latf_sampling.learning.training.alignment import LARGEST_STATE
from latf_sampling.learning.training.shape import StatePairs, lines_between, unevenness
from latf_sampling.units import TemperatureLike, to_kelvin

HEIGHT, BIAS_FACTOR = 0.4, 10.0
"""Height, kT, and bias factor of the hills that variables are compared with."""
LINES = 256
STEEP = 2.0
"""A variable that rises more unevenly than this from state to state is a step, along which simulations explode. On
alanine dipeptide one that made them explode had 2.2, and good ones 1.0 to 1.2."""


def model_crossings(
    model: LaTF,
    series: Sequence[Series],
    lag: int,
    *,
    hills: Hills | None = None,
    temperature: TemperatureLike | None = None,
    boltzmann: float | None = None,
    states: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> CrossingRate | None:
    """Crossings that a bias along a model's variable will show; see `latf_sampling.analysis.crossing_rates`.

    Parameters
    ----------
    model
        Trained; it needs no density.
    series
        Frames, with their weights where they were biased.
    lag
        Time between hills in frames, where none are given.
    hills
        Hills of the bias; None takes a height of 0.4 kT, a bias factor of 10, a width of a sixteenth of the range, and
        one hill in each lag.
    temperature
        Temperature of the biased simulation, K, or a quantity; None takes the lowest of the series.
    boltzmann
        As in `Dataset`; None takes the model's.
    states
        State of each frame of each series, -1 between states; None takes the model's own.
    seed
        Draws the blocks for the error.

    Returns
    -------
    CrossingRate or None
        Per ns, or per 1000 frames where series have no interval; None where all frames are in one state. No crossings
        for a variable that is a step between the states, which no simulation can follow.

    Raises
    ------
    DataError
        States are not whole numbers, or not one for each frame, or series differ in the time between their frames.
    SettingsError
        Another argument is not what it must be.
    """
    arguments.instance("model_crossings", "model", model, LaTF, "a LaTF", "LaTF.load")
    series = series_list("model_crossings", series)
    check_intervals("model_crossings", series)
    lag = lag_in_frames("model_crossings", lag, series)
    boltzmann = model.boltzmann if boltzmann is None else boltzmann
    temperature = min(entry.temperature for entry in series) if temperature is None else temperature
    temperature = to_kelvin(temperature, "model_crossings: temperature")
    interval = next((entry.interval for entry in series if entry.interval is not None), 1.0)
    states = [_piecewise(model.assign, entry) for entry in series] if states is None else _checked(states, series)
    present = np.unique(np.concatenate(states))
    if (present >= 0).sum() < 2:
        return None
    latent = [
        LatentSeries(u, of_frames, entry.temperature, weights=weights, biased=entry.is_weighted)
        for entry, all_states in zip(series, states)
        for u, of_frames, weights in zip(
            entry.continuous(_piecewise(model.encode, entry).astype(np.float64)),
            entry.continuous(all_states),
            entry.continuous(entry.density_weights),
        )
    ]
    if hills is None:
        extent = np.ptp(np.concatenate([entry.u for entry in latent]), axis=0) / HILLS_PER_RANGE
        width = np.where(extent > 0, extent, 1.0)
        hills = Hills(width, HEIGHT * boltzmann * temperature, BIAS_FACTOR, lag * interval)
    rate = expected_crossings(latent, hills, temperature, interval, seed, boltzmann=boltzmann)
    if not any(entry.interval for entry in series):
        rate = dataclasses.replace(rate, unit="1000 frames")
    if _unevenness(model, series, states, seed) > STEEP:
        return dataclasses.replace(rate, crossings=0.0, error=0.0, note="too steep")
    return rate


def first_frames(series: Sequence[Series], most: int) -> list[Series]:
    """The same share of each series from its beginning, so that all have at most so many frames, without labels.

    Series all of whose frames have no weight then are left out.
    """
    share = min(1.0, most / sum(len(entry) for entry in series))
    if share == 1.0:
        return list(series)
    parts = []
    for entry in series:
        end = math.ceil(share * len(entry))
        weights = entry.weights[:end]
        if weights.any():
            parts.append(
                Series(
                    entry.x[:end],
                    entry.temperature,
                    weights,
                    interval=entry.interval,
                    in_density=entry.in_density,
                    breaks=entry.breaks[entry.breaks < end],
                )
            )
    return parts


def rank_models(
    models: Sequence[LaTF],
    dataset: Dataset,
    *,
    states: Sequence[np.ndarray] | None = None,
    temperature: TemperatureLike | None = None,
    seed: int = 0,
) -> list[tuple[int, CrossingRate | None]]:
    """Models in the order of the crossings that a bias along their variables is expected to show, the most first.

    Parameters
    ----------
    models
        Trained on the same descriptors, for instance with different seeds; none of them needs a density.
    dataset
        The frames, to which models are compared.
    states
        State of each frame of each series, -1 between states, the same for all models; None takes each model's own, so
        that a model that misses a state is not asked to cross to it.
    temperature
        Temperature of the biased simulation, K, or a quantity; None takes the lowest of the data set.
    seed
        Draws the blocks for the errors.

    Returns
    -------
    list of tuple
        Index of each model, and its `CrossingRate`; None, at the end, for a model with a single state.

    Raises
    ------
    DataError
        There is no model, or states are not whole numbers, or not one for each frame.
    TrainingError
        A model is not trained yet.
    SettingsError
        Another argument is not what it must be.

    Examples
    --------
    Which slowness suits these data, before anything is biased:

    >>> from latf_sampling import Series, train
    >>> rng = np.random.default_rng(0)
    >>> hidden = np.cumsum(rng.random(3000) < 0.02) % 2
    >>> dataset = Dataset([Series(hidden[:, None] + 0.1 * rng.normal(size=(3000, 2)))], lag=2)
    >>> choices, models = [0.0, 1.0], []
    >>> for slowness in choices:
    ...     models.append(LaTF(latent_dim=1, temperature_mode="steered"))
    ...     options = {"slowness": slowness, "initial_states": 4, "refinements": 2, "joint_epochs": 0, "flow_epochs": 0}
    ...     _ = train(models[-1], dataset, seed=0, **options)
    >>> best, rate = rank_models(models, dataset)[0]
    >>> choices[best] in choices and rate.crossings > 0
    True
    """
    arguments.instance("rank_models", "models", models, Sequence, "a list of LaTF")
    if not len(models):
        raise DataError("rank_models: there is no model.")
    for number, model in enumerate(models):
        arguments.instance("rank_models", f"models[{number}]", model, LaTF, "a LaTF", "LaTF.load")
    arguments.instance("rank_models", "dataset", dataset, Dataset, "a Dataset, such as Dataset([series, ...], lag=10)")
    seed = arguments.whole("rank_models", "seed", seed)
    rates = [
        model_crossings(
            model,
            dataset.series,
            dataset.lag,
            temperature=temperature,
            boltzmann=dataset.boltzmann,
            states=states,
            seed=seed,
        )
        for model in models
    ]
    order = sorted(range(len(models)), key=lambda index: _crossings(rates[index]), reverse=True)
    return [(index, rates[index]) for index in order]


def _crossings(rate: CrossingRate | None) -> float:
    return -1.0 if rate is None else rate.crossings


def _checked(states: Sequence[np.ndarray], series: Sequence[Series]) -> list[np.ndarray]:
    """States as an array of whole numbers for each series."""
    parts = by_trajectory(states, "model_crossings: states")
    for number, (part, entry) in enumerate(zip_longest(parts, series)):
        if part is None or entry is None or len(part) != len(entry):
            raise DataError(
                f"model_crossings: states must be one for each frame: of {len(series)} series with "
                f"{', '.join(str(len(entry)) for entry in series[:5])}{', ...' * (len(series) > 5)} frames, those of "
                f"series {number} do not fit."
            )
        if not (part == np.round(part)).all() or part.min() < -1 or part.max() > LARGEST_STATE:
            raise DataError(
                f"model_crossings: states of series {number} must be state indices, or -1 for a frame between states."
            )
    return [part.astype(np.int64) for part in parts]


def _piecewise(function, series: Series) -> np.ndarray:
    """A function of descriptors at all frames of a series, which may lie on the disk."""
    return np.concatenate([function(series.x[first : first + CHUNK]) for first in range(0, len(series), CHUNK)])


def _unevenness(model: LaTF, series: Sequence[Series], states: Sequence[np.ndarray], seed: int) -> float:
    """`unevenness` on straight lines in the space of descriptors between frames of different states."""
    labels = torch.from_numpy(np.concatenate(states).astype(np.int64))
    pairs = StatePairs(torch.nonzero(labels >= 0).flatten(), labels)
    drawn = pairs.draw(LINES, torch.Generator().manual_seed(seed))
    lines = lines_between(*(torch.from_numpy(_rows(series, frames.numpy())) for frames in drawn))
    u = torch.from_numpy(model.encode(lines.flatten(0, 1).numpy()))
    return float(unevenness(u.unflatten(0, lines.shape[:2])))


def _rows(series: Sequence[Series], frames: np.ndarray) -> np.ndarray:
    """Descriptors (n, F) of frames by their index in all series, one after the other."""
    first = np.cumsum([0, *(len(entry) for entry in series)])
    which = np.searchsorted(first, frames, side="right") - 1
    return np.stack([series[number].x[frame - first[number]] for number, frame in zip(which, frames)])
