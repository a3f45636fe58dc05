"""The density of a trained flow on the grid of a bias."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from latf_sampling.bias.grid import Grid, mesh
from latf_sampling.core.words import plural
from latf_sampling.errors import SettingsError
from latf_sampling.learning.model import LaTF

SAMPLES = 20_000
"""Samples of the flow among which the highest free energy is sought."""
SMOOTHING = 0.5
"""Width of the Gaussian that a flow's surface is smoothed by, in hill widths."""


def check_dimension(model: LaTF, dim: int) -> None:
    """Refuse a model whose dimension is not that of a variable.

    Raises
    ------
    SettingsError
        The dimensions differ.
    """
    if model.latent_dim != dim:
        raise SettingsError(
            f"the model has {plural(model.latent_dim, 'latent dimension')}, the variable {dim}; give the model that "
            "the variable was exported from."
        )


def flow_log_prob(model: LaTF, temperature: float, nodes: list[np.ndarray]) -> np.ndarray:
    """ln of the flow's density at all nodes of a grid along each dimension, of the components that are used."""
    check_dimension(model, len(nodes))
    used = model.used_components
    points = mesh([nodes[k] for k in used])
    values = model.marginal_log_prob(points.reshape(-1, len(used)).astype(np.float32), temperature)
    # The same whatever the values are of those components that are functions of the used ones.
    shape = [len(axis) if k in used else 1 for k, axis in enumerate(nodes)]
    return np.broadcast_to(values.astype(np.float64).reshape(shape), [len(axis) for axis in nodes])


def flow_surface(grid: Grid, model: LaTF, temperature: float, share: float) -> np.ndarray:
    """Coefficients of -share * F(u), with F the flow's free energy, cut off where F is higher than at all samples.

    Zero where it is cut off, positive elsewhere, and smoothed by half a hill width: a flow may fall from the data to
    nothing within one node, which no time step could follow.
    """
    samples = model.sample(SAMPLES, temperature, seed=0)[:, model.used_components]
    lowest = float(model.marginal_log_prob(samples, temperature).min())
    above = np.maximum(flow_log_prob(model, temperature, grid.nodes()) - lowest, 0)
    values = share * model.boltzmann * temperature * above
    return grid.spline_through(gaussian_filter(values, SMOOTHING * grid.hill_width / grid.step, mode="nearest"))
