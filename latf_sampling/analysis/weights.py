"""ln of the weights that undo a bias.

From the bias as it was (`offset_weights`), from the bias as it ended (`last_bias_weights`), or from all rounds, walkers
and temperatures together: `latf_sampling.analysis.mbar.Multistate`, which needs every bias at every frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latf_sampling.analysis.arguments import by_trajectory, column
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import DataError
from latf_sampling.units import KB, to_array, to_kelvin

FILLING = 0.2
"""This first share of a biased trajectory is left out: there the bias and its offset still change quickly."""

STAGES = 6
"""Parts of the time of a growing bias, each of which MBAR takes as sampled under one bias. More would follow the bias
more closely, but each takes one more free energy from the same frames."""


def stages(steps: np.ndarray, number: int = STAGES) -> tuple[np.ndarray, list[int]]:
    """Cut the time in which a bias grew into equal parts, each of which is taken as sampled under one bias.

    MBAR (`Multistate`) wants states that do not change in time. With the bias as it was in the middle of each part
    (`past_energy` of metadynamics and OPES) the parts are such states, nearly: of their bias only what it grew within
    a part is neglected, and not, as with the weights of the last bias, all of it.

    Parameters
    ----------
    steps
        Step at which each frame was saved, (n,), of all walkers that share the bias.
    number
        Of parts.

    Returns
    -------
    tuple
        Part that each frame is in, from 0, (n,); and the step in the middle of each part.

    Examples
    --------
    >>> stages(np.array([100, 200, 300, 400, 500]), 2)
    (array([0, 0, 1, 1, 1]), [200, 400])
    """
    borders = np.linspace(steps.min(), steps.max(), number + 1)
    which = np.searchsorted(borders[1:-1], steps, side="right")
    return which, [round(middle) for middle in (borders[1:] + borders[:-1]) / 2]


def offset_weights(bias: np.ndarray, offset: np.ndarray, temperature: float) -> np.ndarray:
    """ln of each frame's weight from the bias it felt, (V - c) / kT; (frames,).

    Source: Tiwary and Parrinello, doi:10.1021/jp504920s.

    Parameters
    ----------
    bias, offset
        Bias V(u, t) and its offset c(t) when the frame was saved, kJ/mol or with a unit; (frames,) each. One offset
        may stand for all frames.
    temperature
        K.

    Raises
    ------
    DataError
        The arrays differ in length, or a value is not finite.
    SettingsError
        The temperature is not above 0, or a unit is another one.

    Examples
    --------
    >>> offset_weights(np.array([5.0, 7.0]), np.array([3.0, 5.0]), 1 / KB).tolist()
    [2.0, 2.0]
    """
    bias, offset = _energies(bias, "bias"), to_array(offset, "energy", "offset")
    offset = np.full(len(bias), offset) if offset.ndim == 0 else _energies(offset, "offset")
    if len(bias) != len(offset):
        raise DataError(f"offset_weights: {len(bias)} values of the bias and {len(offset)} offsets differ in number.")
    return last_bias_weights(bias - offset, temperature)


def last_bias_weights(bias: np.ndarray, temperature: float) -> np.ndarray:
    """ln of each frame's weight from the final bias at it, V / kT; (frames,).

    Right where the bias no longer changed while the frames were saved, up to a factor that they all share. Source:
    Branduardi, Bussi and Parrinello, doi:10.1021/ct3002464.

    Parameters
    ----------
    bias
        Final bias at each frame, kJ/mol or with a unit, also of the frames that were saved under earlier ones;
        (frames,).
    temperature
        K.

    Raises
    ------
    DataError
        A value is not finite.
    SettingsError
        The temperature is not above 0, or a unit is another one.

    Examples
    --------
    >>> last_bias_weights(np.array([0.0, 3.0]), 1 / KB).tolist()
    [0.0, 3.0]
    """
    return _energies(bias, "bias") / (KB * to_kelvin(temperature))


def _energies(values, name: str) -> np.ndarray:
    """Energies of frames, kJ/mol; (frames,)."""
    array = column(to_array(values, "energy", name), name)
    if not np.isfinite(array).all():
        raise DataError(f"{name}: the value of frame {np.argmin(np.isfinite(array))} is not a number.")
    return array


def balanced(log_weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log weights of trajectories that share one bias, shifted together so that the mean weight of all frames is 1.

    Weights under different biases are known up to a constant each; balanced, every bias counts by its number of frames.
    """
    log_weights = by_trajectory(log_weights, "balanced")
    joined = np.concatenate([np.empty(0), *log_weights])
    if not len(joined):
        return log_weights
    largest = _largest(joined, "balanced")
    shift = largest + np.log(np.exp(joined - largest).mean())
    return [part - shift for part in log_weights]


def relative(log_weights: Sequence[np.ndarray], columns: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Weights of the frames of all trajectories together, the largest 1; (n,).

    Parameters
    ----------
    log_weights, columns
        Per trajectory, ln of each frame's weight, and something else with one value a frame; (frames,) each.
    name
        Of the function that wants them, for messages.

    Raises
    ------
    DataError
        There is no frame, lengths differ, or a weight is not a number.
    """
    lengths = [len(part) for part in log_weights]
    if lengths != [len(part) for part in columns]:
        raise DataError(f"{name}: log weights and values differ in number: {lengths} and {[len(c) for c in columns]}.")
    if not sum(lengths):
        raise DataError(f"{name}: there is no frame.")
    joined = np.concatenate(log_weights)
    return np.exp(joined - _largest(joined, name))


def _largest(joined: np.ndarray, name: str) -> float:
    largest = joined.max()
    if not np.isfinite(largest):  # NaN is the largest of all to numpy
        raise DataError(f"{name}: the log weights of the frames are not numbers; one at least must be finite.")
    return largest


def settled(walker: WalkerFrames) -> slice:
    """The frames of a walker that count for free energies: all of plain dynamics, all but the filling under a bias."""
    return slice(round(FILLING * len(walker)) if walker.biased else 0, None)
