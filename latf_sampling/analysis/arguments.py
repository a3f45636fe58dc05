"""What comes in: frames by trajectory, whole numbers and ranges, each checked once."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

from latf_sampling.errors import DataError, SettingsError


def plain(value, name: str) -> np.ndarray:
    """Numbers that have no unit as an array of floats, or of truth values if these are what is given.

    Raises
    ------
    DataError
        They have a unit, or are no numbers.
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(hasattr(part, "value_in_unit") for part in parts):
        raise DataError(f"{name}: the values have a unit; give plain numbers, as value_in_unit(...) makes them.")
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        return array if array.dtype == bool else array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {type(value).__name__} in place of numbers; give an array.") from error


def column(value, name: str) -> np.ndarray:
    """One value for each frame of a trajectory; (frames,), also where (frames, 1) is given."""
    array = plain(value, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: an array of the shape {array.shape}; give one value for each frame, (frames,).")
    return array


def by_trajectory(values, name: str) -> list[np.ndarray]:
    """Values at the frames of each trajectory, (frames,) each; an array or list of numbers is one trajectory.

    Raises
    ------
    DataError
        These are no arrays of numbers, or there is not one value a frame.
    """
    if not hasattr(values, "__len__") or isinstance(values, (str, dict)) or hasattr(values, "value_in_unit"):
        raise DataError(f"{name}: give a list with an array (frames,) for each trajectory.")
    shape = np.shape(values) if hasattr(values, "shape") else ()
    if shape[1:] == (1,) or (
        len(values) and all(np.isscalar(part) or getattr(part, "ndim", 1) == 0 for part in values)
    ):
        values = [values]
    return [column(part, name) for part in values]


def sides(inside, name: str) -> list[np.ndarray]:
    """Per trajectory, whether each frame is inside: truth values, or numbers 1 and 0."""
    parts = by_trajectory(inside, name)
    for part in parts:
        wrong = (part != 0) & (part != 1)
        if wrong.any():
            raise DataError(
                f"{name}: {part[np.argmax(wrong)]:g} at frame {np.argmax(wrong)} is neither inside (True or 1) nor "
                "outside (False or 0)."
            )
    return [part.astype(bool) for part in parts]


def whole(value, name: str, least: int) -> int:
    """A whole number of at least so much."""
    if not isinstance(value, Real) or not value >= least or value % 1:
        raise SettingsError(f"{name}: {value!r} in place of a whole number of {least} or more.")
    return int(value)


def ranges(extent, name: str, count: int) -> Sequence[tuple[float, float]]:
    """Low and high end for each of so many variables."""
    low_high = "(low, high)" if count == 1 else "((x low, x high), (y low, y high))"
    array = plain(extent, f"{name}, extent")
    if array.size != 2 * count or not np.isfinite(array).all() or (np.diff(array.reshape(count, 2)) <= 0).any():
        raise SettingsError(f"{name}: the extent {extent} is not {low_high} with low below high.")
    return [tuple(pair) for pair in array.reshape(count, 2).tolist()]
