"""Populations of metastable states by a model, and against temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.bootstrap import populations
from latf_sampling.data.dataset import Dataset
from latf_sampling.learning.model import LaTF

TEMPERATURES = 25
MARGIN = 0.05
"""A melting curve extends this share below the lowest and above the highest temperature of the data."""


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
