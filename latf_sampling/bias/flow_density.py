"""The density of a trained flow on the grid of a bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, generate_binary_structure, label

from latf_sampling.bias.grid import Grid, mesh
from latf_sampling.core.words import plural
from latf_sampling.errors import SettingsError

if TYPE_CHECKING:
    from latf_sampling.learning.model import LaTF

SAMPLES = 20_000
"""Samples of the flow among which the highest free energy is sought."""
SMOOTHING = 0.5
"""Width of the Gaussian that a flow's surface is smoothed by, in hill widths."""
JOINED = 0.999
"""The bias of a flow that has learned barriers rises until this share of the samples is in one connected region."""


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


def joining_level(log_p: np.ndarray, nodes: list[np.ndarray], samples: np.ndarray) -> float:
    """Highest value of ln p at which a connected region of higher values holds nearly all samples.

    Parameters
    ----------
    log_p
        ln p at all nodes of a grid.
    nodes
        Nodes along each dimension, evenly spaced.
    samples
        Points (n, d).

    Examples
    --------
    Two wells with a pass between them:

    >>> x = np.linspace(-1, 1, 201)
    >>> joining_level(-20 * (x**2 - 1) ** 2, [x], np.array([[-1.0], [1.0]]))
    -20.0
    """
    cells = tuple(
        np.clip(np.rint((u - axis[0]) / (axis[1] - axis[0])).astype(int), 0, len(axis) - 1)
        for u, axis in zip(samples.T, nodes)
    )
    levels, neighbors = np.unique(log_p), generate_binary_structure(log_p.ndim, log_p.ndim)
    joined, apart = 0, len(levels)  # at the lowest level, all nodes are one region
    while apart - joined > 1:
        middle = (joined + apart) // 2
        regions = np.empty(log_p.shape, np.int32)
        label(log_p >= levels[middle], neighbors, output=regions)
        regions = regions[cells]
        largest = np.bincount(regions[regions > 0], minlength=1).max()
        joined, apart = (middle, apart) if largest >= JOINED * len(samples) else (joined, middle)
    return float(levels[joined])


def flow_surface(grid: Grid, model: LaTF, temperature: float, share: float) -> np.ndarray:
    """Coefficients of -share * F(u), with F the flow's free energy, cut off where F is higher than at all samples.

    There, a flow that was trained without a bias has had no data. One that was trained on biased frames knows the
    passes, too, and is cut off at the lowest one that has to be crossed to get everywhere, if that is higher.

    Zero where it is cut off, positive elsewhere, and smoothed by half a hill width: a flow may fall from the data to
    nothing within one node, which no time step could follow.
    """
    nodes, samples = grid.nodes(), model.sample(SAMPLES, temperature, seed=0)
    log_p = flow_log_prob(model, temperature, nodes)
    lowest = float(model.marginal_log_prob(samples[:, model.used_components], temperature).min())
    if model.provenance.get("biased_temperatures"):
        lowest = min(lowest, joining_level(log_p, nodes, samples))
    above = np.maximum(log_p - lowest, 0)
    values = share * model.boltzmann * temperature * above
    return grid.spline_through(gaussian_filter(values, SMOOTHING * grid.hill_width / grid.step, mode="nearest"))
