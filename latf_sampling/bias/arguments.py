"""What biases are given, checked once for all of them."""

from __future__ import annotations

import math
import operator

import numpy as np

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import DataError, SettingsError


def checked(owner: str, name: str, value, least: float) -> float:
    """A finite number above a limit, and no text.

    Raises
    ------
    SettingsError
        It is not; names it.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):  # no number
        number = math.nan
    if not (math.isfinite(number) and number > least):
        raise SettingsError(f"{owner}: {name} must be more than {least}, and finite; got {value!r}.")
    return number


def numbers(values) -> np.ndarray:
    """Values as an array; an empty one where they are no numbers."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def whole_steps(owner: str, name: str, value) -> int:
    """A positive whole number of steps.

    Raises
    ------
    SettingsError
        It is none; names it.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise SettingsError(f"{owner}: {name} must be a whole number of steps, 1 or more; got {value!r}.")
    return operator.index(value)


def hill_widths(owner: str, width, cv: LatentCV) -> np.ndarray:
    """Widths (d,) in the latent space, from one number or (d,) in units of `cv.sigma`."""
    given = numbers(width)
    given = np.full(cv.dim, given) if given.ndim == 0 else given
    if given.shape != (cv.dim,):
        raise SettingsError(f"{owner}: width must be one number or {cv.dim}; got {width}.")
    return np.array([checked(owner, "width", one, 0) for one in given]) * cv.sigma


def latent_points(owner: str, u, dim: int) -> np.ndarray:
    """Points (n, d) of a latent space, from such or from one point (d,); of one dimension also from values (n,).

    Raises
    ------
    DataError
        The shape is another one.
    """
    points = np.asarray(u, np.float64)
    if points.ndim < 2 and (dim == 1 or points.shape == (dim,)):
        return points.reshape(-1, dim)
    if points.ndim != 2 or points.shape[1] != dim:
        raise DataError(f"{owner}: latent points must be (n, {dim}); got {points.shape}.")
    return points
