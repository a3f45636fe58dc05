"""Weights of biased frames in the unbiased ensemble, and what weighted frames have in common.

ln of the weights comes from the bias at the time of each frame (`offset_weights`), from the final bias
(`last_bias_weights`), or from all rounds, walkers and temperatures together (`latf_sampling.analysis.mbar.Multistate`,
which needs every bias at every frame).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latf_sampling.analysis.arguments import FrameValues, by_trajectory, column
from latf_sampling.errors import DataError
from latf_sampling.units import KB, QuantityArrayLike, TemperatureLike, to_array, to_kelvin

FILLING = 0.2
"""Fraction of a biased trajectory, from its beginning, that is left out: there the bias and its offset still change
quickly."""

STAGES = 6
"""Parts of the time of an adaptive bias, each of which MBAR takes as sampled under one bias. More parts would follow
the bias more closely, but each adds one free energy that has to be estimated from the same frames."""


def stages(steps: np.ndarray, number: int = STAGES) -> tuple[np.ndarray, list[int]]:
    """Cut the time of an adaptive bias into equal parts, each of which is taken as sampled under one bias.

    MBAR (`Multistate`) requires states that do not change in time. With the bias as it was in the middle of each part
    (`past_energy` of metadynamics and OPES) the parts are such states, nearly, whereas the weights of the last bias
    neglect all of its growth. What the bias grows by within a part, beyond c(t), goes into a weight of each frame in
    its state (`Multistate`): left out, it put the free energy of alanine dipeptide 0.8 kJ/mol too high in the mean of
    five campaigns, and 0.3 with it.

    Parameters
    ----------
    steps
        Step at which each frame was saved, of all walkers that share the bias; (n,).
    number
        Number of parts.

    Returns
    -------
    tuple
        The part of each frame, from 0, (n,); and the step in the middle of each part.

    Examples
    --------
    >>> stages(np.array([100, 200, 300, 400, 500]), 2)
    (array([0, 0, 1, 1, 1]), [200, 400])
    """
    borders = np.linspace(steps.min(), steps.max(), number + 1)
    parts = np.searchsorted(borders[1:-1], steps, side="right")
    return parts, [round(middle) for middle in (borders[1:] + borders[:-1]) / 2]


def after_filling(frames: int, biased: bool) -> slice:
    """The frames of a trajectory that are used for free energies: all of plain dynamics, those after `FILLING` else.

    Parameters
    ----------
    frames
        Number of frames of the trajectory.
    biased
        Whether a bias acted on it.

    Examples
    --------
    >>> after_filling(100, biased=True)
    slice(20, None, None)
    """
    return slice(round(FILLING * frames) if biased else 0, None)


def offset_weights(bias: QuantityArrayLike, offset: QuantityArrayLike, temperature: TemperatureLike) -> np.ndarray:
    """ln of each frame's weight from the bias that acted on it, (V - c) / kT; (frames,).

    Source: Tiwary and Parrinello, doi:10.1021/jp504920s.

    Parameters
    ----------
    bias, offset
        Bias V(u, t) and its offset c(t) when the frame was saved, kJ/mol or with a unit; (frames,) each. One offset
        may be given for all frames.
    temperature
        K.

    Raises
    ------
    DataError
        The arrays differ in length, or a value is not finite.
    SettingsError
        The temperature is not above 0, or a unit is not one of energy.

    Examples
    --------
    >>> offset_weights(np.array([5.0, 7.0]), np.array([3.0, 5.0]), 1 / KB).tolist()
    [2.0, 2.0]
    """
    energies, offsets = _energies(bias, "bias"), to_array(offset, "energy", "offset")
    offsets = np.full(len(energies), offsets) if offsets.ndim == 0 else _energies(offsets, "offset")
    if len(energies) != len(offsets):
        raise DataError(
            f"offset_weights: {len(energies)} values of the bias and {len(offsets)} offsets differ in number."
        )
    return last_bias_weights(energies - offsets, temperature)


def last_bias_weights(bias: QuantityArrayLike, temperature: TemperatureLike) -> np.ndarray:
    """ln of each frame's weight from the final bias at it, V / kT; (frames,).

    These weights are right, up to a factor that all frames share, if the bias did not change while the frames were
    saved. Source: Branduardi, Bussi and Parrinello, doi:10.1021/ct3002464.

    Parameters
    ----------
    bias
        Final bias at each frame, also at those that were saved under an earlier bias, kJ/mol or with a unit; (frames,).
    temperature
        K.

    Raises
    ------
    DataError
        A value is not finite.
    SettingsError
        The temperature is not above 0, or a unit is not one of energy.

    Examples
    --------
    >>> last_bias_weights(np.array([0.0, 3.0]), 1 / KB).tolist()
    [0.0, 3.0]
    """
    return _energies(bias, "bias") / (KB * to_kelvin(temperature))


def boltzmann_weights(bias: np.ndarray, temperature: TemperatureLike) -> np.ndarray:
    """Weights exp(V / kT) of frames from the bias V at them, kJ/mol, with mean 1 and without overflow; (n,).

    Source: Torrie and Valleau, doi:10.1016/0021-9991(77)90121-8.

    Raises
    ------
    DataError
        There is no frame, or the bias of one is not finite.

    Examples
    --------
    >>> boltzmann_weights(np.array([5000.0, 5000.0]), 300.0).tolist()
    [1.0, 1.0]
    """
    if not len(bias):
        raise DataError("weights: there is no frame.")
    if not np.isfinite(bias).all():
        raise DataError(f"weights: the bias of frame {np.flatnonzero(~np.isfinite(bias))[0]} is not finite.")
    weights = np.exp(last_bias_weights(bias - np.max(bias), temperature))
    return weights / weights.mean()


def _energies(values: QuantityArrayLike, name: str) -> np.ndarray:
    """Energies of frames, kJ/mol; (frames,)."""
    array = column(to_array(values, "energy", name), name)
    if not np.isfinite(array).all():
        raise DataError(f"{name}: the value of frame {np.argmin(np.isfinite(array))} is not a number.")
    return array


def normalized_together(log_weights: FrameValues) -> list[np.ndarray]:
    """Log weights of trajectories that share one bias, shifted together so that the mean weight of all frames is 1.

    Weights under different biases are known up to one constant for each bias; after this shift, every bias contributes
    in proportion to its number of frames.

    Raises
    ------
    DataError
        No log weight is finite, or one is not a number.

    Examples
    --------
    >>> [part.tolist() for part in normalized_together([np.array([7.0, 7.0]), np.array([7.0])])]
    [[0.0, 0.0], [0.0]]
    """
    log_weights = by_trajectory(log_weights, "normalized_together")
    joined = np.concatenate([np.empty(0), *log_weights])
    if not len(joined):
        return log_weights
    largest = _largest(joined, "normalized_together")
    shift = largest + np.log(np.exp(joined - largest).mean())
    return [part - shift for part in log_weights]


def relative_weights(log_weights: Sequence[np.ndarray], columns: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Weights of the frames of all trajectories together, the largest 1; (n,).

    Parameters
    ----------
    log_weights, columns
        Per trajectory, ln of each frame's weight, and another quantity with one value for each frame; (frames,) each.
    name
        Name of the calling function, for messages.

    Raises
    ------
    DataError
        There is no frame, lengths differ, or a weight is not a number.

    Examples
    --------
    >>> relative_weights([np.array([5000.0, -np.inf])], [np.zeros(2)], "example").tolist()
    [1.0, 0.0]
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
    if not np.isfinite(largest):  # to numpy, NaN is the largest of all numbers
        raise DataError(f"{name}: the log weights of the frames are not numbers; one at least must be finite.")
    return largest


def kish(weights: np.ndarray) -> float:
    """Effective number of weighted frames, (sum w)^2 / sum w^2.

    Source: Kish, Survey Sampling (Wiley, 1965).

    Examples
    --------
    >>> round(kish(np.array([3.0, 1.0])), 6)
    1.6
    """
    relative = weights / weights.max()  # squares of tiny weights would vanish
    return float(relative.sum() ** 2 / (relative**2).sum())


def systematic(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n indices in proportion to weights by systematic resampling, which adds the least noise; (n,) sorted.

    The cumulative weights are read at n evenly spaced points with one random offset. Source: Kitagawa,
    doi:10.1080/10618600.1996.10474692.

    Examples
    --------
    >>> systematic(np.array([1.0, 0.0, 2.0]), 3, np.random.default_rng(0)).tolist()
    [0, 2, 2]
    """
    total = np.cumsum(weights)
    points = (rng.random() + np.arange(n)) * (total[-1] / n)
    return np.minimum(np.searchsorted(total, points, side="right"), len(weights) - 1)
