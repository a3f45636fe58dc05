"""Free-energy differences between two sets of frames, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.arguments import FrameValues, as_masks, by_trajectory
from latf_sampling.analysis.blocks import Blocks, half_width
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.analysis.weights import kish, relative_weights
from latf_sampling.units import KB, TemperatureLike, to_kelvin

SMALLEST_WEIGHT = 1e-30
"""Relative weights below this are treated as equal."""


@dataclass(frozen=True)
class Difference:
    """Free-energy difference between two sets of frames, kJ/mol.

    Attributes
    ----------
    value, error
        Estimate, and its standard error from the bootstrap over blocks; infinite where the data do not bound it.
    interval
        Low and high end of the 95 % interval, by Student's t, since blocks may be few.
    frames, effective_frames
        Number of frames, and their effective number by the weights alone, (sum w)^2 / sum w^2.
    independent_frames
        Effective number of pieces of time, each one statistical inefficiency long, with the weights of their frames:
        what correlation in time leaves of the effective frames.
    blocks
        Number of blocks.
    dof
        Degrees of freedom of Student's t.
    """

    value: float
    error: float
    interval: tuple[float, float]
    frames: int
    effective_frames: float
    independent_frames: float
    blocks: int
    dof: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return float(half_width(self.error, self.dof))


def free_energy_difference(
    inside: FrameValues,
    log_weights: FrameValues,
    temperature: TemperatureLike,
    rng: np.random.Generator | int,
    states: Multistate | None = None,
) -> Difference:
    """Free energy of the frames inside a region less that of the frames outside, -kT ln(p / (1 - p)).

    Parameters
    ----------
    inside, log_weights
        Per trajectory, whether each frame is inside (frames,), and ln of its weight (frames,). One array is one
        trajectory.
    temperature
        K.
    rng
        Draws the weights of the blocks; a generator or a seed.
    states
        Where the weights are from MBAR: its solution, for frames in the same order. The error then includes that of
        the states' free energies.

    Raises
    ------
    DataError
        There is no frame, lengths differ, a weight is not a number, or a frame is neither inside nor outside.
    SettingsError
        The temperature is not above 0.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> inside = [rng.random(100_000) < 0.25]
    >>> estimate = free_energy_difference(inside, [np.zeros(100_000)], 300.0, rng)
    >>> low, high = estimate.interval
    >>> bool(low < KB * 300 * np.log(3) < high)
    True
    """
    rng, kt = np.random.default_rng(rng), KB * to_kelvin(temperature)
    masks = as_masks(inside, "free_energy_difference, inside")
    log_weights = by_trajectory(log_weights, "free_energy_difference, log weights")
    weights = relative_weights(log_weights, masks, "free_energy_difference")
    joined = np.concatenate(masks)
    totals = np.bincount(~joined, weights, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(kt * (np.log(totals[1]) - np.log(totals[0])))
        influence = weights * np.where(joined, 1 / totals[0], -1 / totals[1])
    error, dof = float("inf"), 1.0
    # Where weights differ much from frame to frame, changes between the two sets may be slower than the influence;
    # where a few frames have all the weight, the weights seem to change faster than what causes them.
    series = [joined.astype(float), np.log(np.maximum(weights, SMALLEST_WEIGHT))]
    if totals.all():
        series.append(influence if states is None else states.total_influence(influence))
    blocks = Blocks([len(mask) for mask in masks], series, states)
    if totals.all():
        sets = (~joined).astype(int)
        sums, response = blocks.sums(weights, sets, 2), blocks.response(weights, sets, 2)
        with np.errstate(invalid="ignore"):  # infinite where states do not overlap
            response = response[:, :1] - response[:, 1:]
        errors, dofs = blocks.log_ratio_errors(sums[:, :1], sums[:, 1:], response, rng)
        error, dof = kt * float(errors[0]), float(dofs[0])
    half = float(half_width(error, dof))
    interval = (value - half, value + half) if np.isfinite(half) else (-np.inf, np.inf)
    return Difference(
        value, error, interval, len(weights), kish(weights), blocks.independent(weights), blocks.count, dof
    )
