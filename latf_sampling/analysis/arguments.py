"""Checks of arguments: values by trajectory, whole numbers and ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from latf_sampling.errors import DataError, SettingsError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FrameValues: TypeAlias = "np.ndarray | Sequence[np.ndarray] | Sequence[Sequence[float]] | Sequence[float]"
"""One value for each frame, per trajectory, (frames,) each; an array (frames,) alone is one trajectory."""


def unitless(value: ArrayLike, name: str) -> np.ndarray:
    """Numbers without a unit as an array of floats; truth values stay what they are.

    Raises
    ------
    DataError
        The values have a unit, or are not numbers.
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(hasattr(part, "value_in_unit") for part in parts):
        raise DataError(f"{name}: the values have a unit; give plain numbers, as value_in_unit(...) makes them.")
    detach = getattr(value, "detach", None)  # of a tensor
    try:
        array = np.asarray(value if detach is None else detach())
        return array if array.dtype == bool else array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {type(value).__name__} in place of numbers; give an array.") from error


def column(value: ArrayLike, name: str) -> np.ndarray:
    """One value for each frame of a trajectory as an array (frames,); (frames, 1) is accepted too.

    Raises
    ------
    DataError
        The array has another shape, has a unit, or does not hold numbers.
    """
    array = unitless(value, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: an array of the shape {array.shape}; give one value for each frame, (frames,).")
    return array


def by_trajectory(values: FrameValues, name: str) -> list[np.ndarray]:
    """Values at the frames of each trajectory, (frames,) each; an array or list of numbers is one trajectory.

    Raises
    ------
    DataError
        These are not arrays of numbers, or there is not one value for each frame.
    """
    if not hasattr(values, "__len__") or isinstance(values, (str, dict)) or hasattr(values, "value_in_unit"):
        raise DataError(f"{name}: give a list with an array (frames,) for each trajectory.")
    shape = getattr(values, "shape", ())
    if shape[1:] == (1,) or (
        len(values) and all(np.isscalar(part) or getattr(part, "ndim", 1) == 0 for part in values)
    ):
        return [column(values, name)]
    return [column(part, name) for part in values]


def as_masks(inside: FrameValues, name: str) -> list[np.ndarray]:
    """Per trajectory, whether each frame is inside: truth values, or numbers 1 and 0; bool (frames,) each.

    Raises
    ------
    DataError
        A value is neither true (1) nor false (0), or as in `by_trajectory`.
    """
    parts = by_trajectory(inside, name)
    for part in parts:
        wrong = (part != 0) & (part != 1)
        if wrong.any():
            raise DataError(
                f"{name}: {part[np.argmax(wrong)]:g} at frame {np.argmax(wrong)} is neither inside (True or 1) nor "
                "outside (False or 0)."
            )
    return [part.astype(bool) for part in parts]


def whole_number(value: object, name: str, least: int) -> int:
    """A whole number that is not below `least`.

    Raises
    ------
    SettingsError
        The value is not a whole number, or is smaller.
    """
    number = float(value) if isinstance(value, Real) else math.nan
    if not number >= least or number % 1:
        raise SettingsError(f"{name}: {value!r} in place of a whole number of {least} or more.")
    return int(number)


def ranges(extent: ArrayLike, name: str, count: int) -> list[tuple[float, float]]:
    """The low and the high end for each of `count` variables.

    Raises
    ------
    SettingsError
        The extent does not have these ends, or a low one is not below its high one.
    """
    low_high = "(low, high)" if count == 1 else "((x low, x high), (y low, y high))"
    array = unitless(extent, f"{name}, extent")
    if array.size != 2 * count or not np.isfinite(array).all() or (np.diff(array.reshape(count, 2)) <= 0).any():
        raise SettingsError(f"{name}: the extent {extent} is not {low_high} with low below high.")
    return [(low, high) for low, high in array.reshape(count, 2).tolist()]
