"""Free-energy differences between two sets of frames, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.arguments import by_trajectory, sides
from latf_sampling.analysis.blocks import Blocks, reach
from latf_sampling.analysis.mbar import Multistate, kish
from latf_sampling.analysis.weights import relative
from latf_sampling.units import KB, to_kelvin

LEAST = 1e-30
"""Relative weights below this are alike."""


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
        Number of frames, and their effective number by the weights alone (sum w)^2 / sum w^2.
    independent_frames
        What correlation in time leaves of these: the same of pieces of time, each one statistical inefficiency long,
        with the weights of their frames.
    blocks
        Number of blocks.
    freedom
        Degrees of freedom of Student's t.
    """

    value: float
    error: float
    interval: tuple[float, float]
    frames: int
    effective_frames: float
    independent_frames: float
    blocks: int
    freedom: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return float(reach(self.error, self.freedom))


def free_energy_difference(
    inside: Sequence[np.ndarray],
    log_weights: Sequence[np.ndarray],
    temperature: float,
    rng: np.random.Generator,
    states: Multistate | None = None,
) -> Difference:
    """Free energy of the frames inside a region less that of the frames outside.

    Parameters
    ----------
    inside, log_weights
        Per trajectory, whether each frame is inside (frames,), and ln of its weight (frames,). One array is one
        trajectory.
    temperature
        K.
    rng
        Weighs the blocks; a generator or a seed.
    states
        Where the weights are from MBAR: what they come from, its frames in the same order. The error then holds that of
        the states' free energies too.

    Raises
    ------
    DataError
        There is no frame, lengths differ, a weight is not a number, or a frame neither inside nor outside.
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
    inside = sides(inside, "free_energy_difference, inside")
    log_weights = by_trajectory(log_weights, "free_energy_difference, log weights")
    weights = relative(log_weights, inside, "free_energy_difference")
    joined = np.concatenate(inside)
    lengths = [len(part) for part in inside]
    totals = np.bincount(~joined, weights, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(kt * (np.log(totals[1]) - np.log(totals[0])))
        pull = weights * np.where(joined, 1 / totals[0], -1 / totals[1])
    error, freedom = float("inf"), 1.0
    # Where weights differ much from frame to frame, who goes where may be slower than what the estimate feels; where a
    # few frames have all the weight, weights seem faster than what makes them.
    series = [joined.astype(float), np.log(np.maximum(weights, LEAST))]
    if totals.all():
        series.append(pull if states is None else states.influence(pull))
    blocks = Blocks(lengths, series, states)
    if totals.all():
        sets = (~joined).astype(int)
        sums, response = blocks.sums(weights, sets, 2), blocks.response(weights, sets, 2)
        with np.errstate(invalid="ignore"):  # infinite where states do not overlap
            response = response[:, :1] - response[:, 1:]
        found = blocks.log_ratio_errors(sums[:, :1], sums[:, 1:], response, rng)
        error, freedom = kt * float(found[0][0]), float(found[1][0])
    half = float(reach(error, freedom))
    interval = (value - half, value + half) if np.isfinite(half) else (-np.inf, np.inf)
    return Difference(
        value, error, interval, len(weights), kish(weights), blocks.independent(weights), blocks.count, freedom
    )
