"""Checks of the arguments that several biases have in common."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from latf_sampling.cv.variable import Variable
from latf_sampling.errors import DataError, SettingsError


def number_above(owner: str, name: str, value: Any, limit: float) -> float:
    """A finite number above a limit.

    Raises
    ------
    SettingsError
        The value is not such a number; the message names it.

    Examples
    --------
    >>> number_above("OPES", "barrier", 40, 0)
    40.0
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > limit):
        raise SettingsError(f"{owner}: {name} must be more than {limit}, and finite; got {value!r}.")
    return number


def numbers(owner: str, requirement: str, values: Any) -> np.ndarray:
    """Values as an array of floats.

    Raises
    ------
    SettingsError
        The values are not numbers; the message states the requirement.

    Examples
    --------
    >>> numbers("Umbrella", "centers must be 2 finite numbers", [1, 2])
    array([1., 2.])
    """
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{owner}: {requirement}; got {values}.") from error


def whole_steps(owner: str, name: str, value: Any) -> int:
    """A positive whole number of steps.

    Raises
    ------
    SettingsError
        The value is not such a number; the message names it.

    Examples
    --------
    >>> whole_steps("OPES", "frequency", 500)
    500
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise SettingsError(f"{owner}: {name} must be a whole number of steps, 1 or more; got {value!r}.")
    return operator.index(value)


def hill_widths(owner: str, width: Any, cv: Variable) -> np.ndarray:
    """Hill widths (d,) in the unit of a variable, from one number or (d,) in units of `cv.sigma`."""
    requirement = f"width must be one number or {cv.dim}"
    relative = numbers(owner, requirement, width)
    relative = np.full(cv.dim, relative) if relative.ndim == 0 else relative
    if relative.shape != (cv.dim,):
        raise SettingsError(f"{owner}: {requirement}; got {width}.")
    return np.array([number_above(owner, "width", value, 0) for value in relative]) * cv.sigma


def latent_points(owner: str, u: Any, dim: int) -> np.ndarray:
    """Points (n, d) of a latent space, from (n, d), from one point (d,), or in one dimension from values (n,).

    Raises
    ------
    DataError
        The array has another shape.

    Examples
    --------
    >>> latent_points("OPES", [0.5, 1.5], 2)
    array([[0.5, 1.5]])
    """
    points = np.asarray(u, np.float64)
    if points.ndim < 2 and (dim == 1 or points.shape == (dim,)):
        return points.reshape(-1, dim)
    if points.ndim != 2 or points.shape[1] != dim:
        raise DataError(f"{owner}: latent points must be (n, {dim}); got {points.shape}.")
    return points
