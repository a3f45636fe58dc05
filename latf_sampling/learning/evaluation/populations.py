"""Populations of metastable states: of weighted frames, with errors, and against temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.bootstrap import Bootstrap
from latf_sampling.data.dataset import Dataset
from latf_sampling.learning.model import LaTF

RESAMPLES = 1000
TEMPERATURES = 25
MARGIN = 0.05
"""A melting curve extends this share below the lowest and above the highest temperature of the data."""


def populations(
    states: np.ndarray,
    weights: np.ndarray,
    blocks: np.ndarray,
    n_states: int,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weighted populations, and their standard errors from the Bayesian bootstrap over blocks of time.

    Parameters
    ----------
    states, weights, blocks
        State index, weight and index of the block of each frame; (frames,) each.
    n_states
        Number of states.
    rng
        Draws the weights of the blocks.
    groups
        Group of each frame (frames,): the total weight of a group of blocks is the same in every resample. None puts
        all blocks into one group.

    Returns
    -------
    tuple
        Populations (n_states,), and their errors (n_states,), or None where every group is a single block.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = (rng.random(10_000) < 0.3).astype(int)
    >>> values, errors = populations(states, np.ones(10_000), np.arange(10_000) // 500, 2, rng)
    >>> bool(abs(values[1] - 0.3) < 4 * errors[1] < 0.04)
    True
    """
    bootstrap = Bootstrap(blocks, groups)
    count = int(bootstrap.index.max()) + 1
    sums = np.bincount(bootstrap.index * n_states + states, weights, count * n_states).reshape(count, n_states)
    values = sums.sum(0) / sums.sum()
    if not bootstrap.known:
        return values, None
    resampled = bootstrap.draw(rng, RESAMPLES) @ sums
    return values, (resampled / resampled.sum(1, keepdims=True)).std(0)


@dataclass(frozen=True)
class MeltingCurve:
    """Populations of the states against temperature.

    Attributes
    ----------
    temperatures : numpy.ndarray (k,)
    model : numpy.ndarray (k, states)
        Populations by the model.
    errors : numpy.ndarray (k, states), or None
        Their standard errors; None without an ensemble.
    extrapolated : numpy.ndarray (k,) of bool
        Whether too few training frames are informative for more than a guess.
    reweighted, reweighted_errors : numpy.ndarray (k, states), or None
        Populations of the training frames without the flow; None where frames carry no energies. By MBAR the errors
        come from blocks within each simulated temperature, and those of the temperatures' free energies are not in
        them; where energies of temperatures do not overlap, by the Gibbs-Helmholtz equation (`LaTF.thermodynamics`).
    effective_sizes : numpy.ndarray (k,), or None
        Effective number of frames that these populations rest on.
    method : str
        "MBAR" or "the Gibbs-Helmholtz equation".
    """

    temperatures: np.ndarray
    model: np.ndarray
    errors: np.ndarray | None
    extrapolated: np.ndarray
    reweighted: np.ndarray | None
    reweighted_errors: np.ndarray | None
    effective_sizes: np.ndarray | None
    method: str = "MBAR"


def melting_curve(
    model: LaTF,
    dataset: Dataset,
    states: np.ndarray,
    temperatures: Sequence[float],
    rng: np.random.Generator,
    progress: Callable[[float], None] = lambda fraction: None,
) -> MeltingCurve:
    """Populations against temperature, by the model and without it, over the range of some temperatures and a margin.

    Parameters
    ----------
    model
        Trained, with a density.
    dataset, states
        The training data, and the state of each of its frames (frames,).
    temperatures
        K, or in reduced units.
    rng
        Generator for MBAR and for the bootstrap.
    progress
        Called with the fraction done.

    Warns
    -----
    ExtrapolationWarning
        A temperature is beyond the range of the model.
    """
    grid = np.linspace((1 - MARGIN) * min(temperatures), (1 + MARGIN) * max(temperatures), TEMPERATURES)
    values, errors = [], []
    for done, temperature in enumerate(grid, 1):
        value, error = model_populations(model, temperature)
        values.append(value)
        errors.append(error)
        progress(done / len(grid))
    curve = {
        "temperatures": grid,
        "model": np.array(values),
        "errors": None if errors[0] is None else np.array(errors),
        "extrapolated": np.array([model.extrapolates(temperature) for temperature in grid]),
    }
    if dataset.energies is None:
        return MeltingCurve(**curve, reweighted=None, reweighted_errors=None, effective_sizes=None)
    if model.temperature_mode == "thermodynamic":
        states_alone = [model.gibbs_helmholtz().populations(temperature) for temperature in grid]
        return MeltingCurve(
            **curve,
            reweighted=np.array([value for value, _ in states_alone]),
            reweighted_errors=np.array([error for _, error in states_alone]),
            effective_sizes=np.array([model.effective_sample_size(temperature) for temperature in grid]),
            method="the Gibbs-Helmholtz equation",
        )
    reweighting, groups = dataset.reweighting(rng), dataset.temperatures.numpy()
    frames = [
        populations(states, np.exp(reweighting.log_weights(temperature)), dataset.blocks, model.n_states, rng, groups)
        for temperature in grid
    ]
    return MeltingCurve(
        **curve,
        reweighted=np.array([value for value, _ in frames]),
        reweighted_errors=np.array([error for _, error in frames]),
        effective_sizes=np.array([reweighting.effective_sample_size(temperature) for temperature in grid]),
    )


def model_populations(model: LaTF, temperature: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Populations of a model (states,), and their errors (states,), or None without an ensemble."""
    if len(model.networks.ensemble) < 2:
        return model.populations(temperature), None
    return model.populations(temperature, return_std=True)
