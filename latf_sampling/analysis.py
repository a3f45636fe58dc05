"""Reweighting and free energies with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mdtraj
import numpy as np

from latf_sampling.errors import DataError
from latf_sampling.features import Features
from latf_sampling.trajectories import WalkerFrames
from latf_sampling.units import KB

FILLING = 0.2
"""This first share of a biased trajectory is left out: there the bias and its offset still change quickly."""
BLOCKS = 10
"""Each trajectory is cut into so many blocks, which the bootstrap draws from."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """Free-energy difference between two sets of frames, kJ/mol.

    Attributes
    ----------
    value, error
        Estimate, and its standard error from the bootstrap over blocks.
    frames, effective_frames
        Number of frames, and their effective number (sum w)^2 / sum w^2.
    """

    value: float
    error: float
    frames: int
    effective_frames: float


def free_energy_difference(
    inside: Sequence[np.ndarray],
    log_weights: Sequence[np.ndarray],
    temperature: float,
    rng: np.random.Generator,
) -> Difference:
    """Free energy of the frames inside a region less that of the frames outside.

    Parameters
    ----------
    inside, log_weights
        Per trajectory, whether each frame is inside (frames,), and ln of its weight (frames,).
    temperature
        K.
    rng
        Draws the blocks.

    Raises
    ------
    DataError
        There is no frame.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> inside = [rng.random(100_000) < 0.25]
    >>> estimate = free_energy_difference(inside, [np.zeros(100_000)], 300.0, rng)
    >>> bool(abs(estimate.value - KB * 300 * np.log(3)) < 5 * estimate.error)
    True
    """
    if not sum(len(part) for part in inside):
        raise DataError("free_energy_difference: there is no frame.")
    largest = max(part.max() for part in log_weights if len(part))
    sums = []
    square = total = 0.0
    for mask, log_weight in zip(inside, log_weights):
        if not len(mask):
            continue
        weight = np.exp(log_weight - largest)
        total, square = total + weight.sum(), square + (weight**2).sum()
        for block in np.array_split(np.arange(len(weight)), min(BLOCKS, len(weight))):
            sums.append([weight[block][mask[block]].sum(), weight[block][~mask[block]].sum()])
    sums = np.array(sums)
    draws = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    resampled = sums[draws].sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = -KB * temperature * np.log(sums[:, 0].sum() / sums[:, 1].sum())
        spread = -KB * temperature * np.log(resampled[:, 0] / resampled[:, 1])
    # A resample without a single frame on one side says that the error is not bounded by these data.
    error = float(np.std(spread)) if np.isfinite(spread).all() else float("inf")
    return Difference(float(value), error, sum(len(part) for part in inside), float(total**2 / square))


def free_energy_surface(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, temperature: float, bins: int = 60, extent=None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Free energy -kT ln p on a histogram of two variables.

    Parameters
    ----------
    x, y, weights
        (frames,) each.
    temperature
        K.
    bins, extent
        Bins per variable, and ((x low, x high), (y low, y high)); none takes the range of the data.

    Returns
    -------
    tuple
        Edges in x and in y (bins + 1,), and the free energy (bins, bins), kJ/mol, lowest value 0,
        infinite where no frame is.
    """
    histogram, x_edges, y_edges = np.histogram2d(x, y, bins=bins, range=extent, weights=weights)
    with np.errstate(divide="ignore"):
        surface = -KB * temperature * np.log(histogram / histogram.sum())
    return x_edges, y_edges, surface - surface.min()


def free_energy_profile(
    x: np.ndarray, weights: np.ndarray, temperature: float, bins: int = 60, extent=None
) -> tuple[np.ndarray, np.ndarray]:
    """Free energy -kT ln p on a histogram of one variable; the counterpart of `free_energy_surface`.

    Returns
    -------
    tuple
        Edges (bins + 1,), and the free energy (bins,), kJ/mol, lowest value 0,
        infinite where no frame is.
    """
    histogram, edges = np.histogram(x, bins=bins, range=extent, weights=weights)
    with np.errstate(divide="ignore"):
        profile = -KB * temperature * np.log(histogram / histogram.sum())
    return edges, profile - profile.min()


def balanced(log_weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log weights of trajectories that share one bias, shifted together so that the mean weight of all frames is 1.

    Weights under different biases are known up to a constant each; balanced, every bias counts by its number of frames.
    """
    joined = np.concatenate(log_weights)
    if not len(joined):
        return list(log_weights)
    largest = joined.max()
    shift = largest + np.log(np.exp(joined - largest).mean())
    return [part - shift for part in log_weights]


def torsion_values(trajectory: mdtraj.Trajectory, name: str) -> np.ndarray:
    """A torsion by its name, like "phi ALA 2", in radians in (-pi, pi]; returns (frames,).

    Raises
    ------
    SettingsError
        The topology has no torsion of this kind.
    DataError
        It has, but none of this name.
    """
    if not name.split():
        raise DataError("there is no torsion without a name; give one like 'phi ALA 2'.")
    features = Features(trajectory.topology, [{"torsions": name.split()[0]}])
    wanted = [f"sin {name}", f"cos {name}"]
    if not set(wanted) <= set(features.names):
        known = ", ".join(column.removeprefix("sin ") for column in features.names if column.startswith("sin "))
        raise DataError(f"there is no torsion '{name}'; there are: {known}.")
    sine, cosine = (features.transform(trajectory)[:, features.names.index(column)] for column in wanted)
    return np.arctan2(sine, cosine)


def depth(values: np.ndarray, above: float) -> np.ndarray:
    """How far each angle lies inside the arc from `above` to pi, radians, along the circle; (frames,).

    Positive inside, negative outside, zero at both ends of the arc: at `above` and at pi, which is -pi. The two states
    of a torsion that is periodic thus have two borders, and both are seen.

    Examples
    --------
    >>> depth(np.radians([60.0, 170.0, -170.0, -60.0]), 0.0).round(2).tolist()
    [1.05, 0.17, -0.17, -1.05]
    """
    inside = np.minimum(values - above, np.pi - values)
    outside = np.minimum(above - values, values + np.pi)
    return np.where(values > above, inside, -outside)


def settled(walker: WalkerFrames) -> slice:
    """The frames of a walker that count for free energies: all of plain dynamics, all but the filling under a bias."""
    return slice(round(FILLING * len(walker)) if walker.biased else 0, None)


def crossings(values: np.ndarray, low: float, high: float) -> tuple[int, int]:
    """How often a series goes from below `low` to above `high`, and back; what lies between counts as neither."""
    sides = np.where(values > high, 1, np.where(values < low, -1, 0))
    sides = sides[sides != 0]
    changes = np.diff(sides)
    return int((changes > 0).sum()), int((changes < 0).sum())
