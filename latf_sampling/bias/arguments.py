"""What biases are given, checked once for all of them."""

from __future__ import annotations

import math
import operator

import numpy as np

from latf_sampling.cv import LatentCV
from latf_sampling.errors import SettingsError


def checked(owner: str, name: str, value, least: float) -> float:
    """A finite number above a limit.

    Raises
    ------
    SettingsError
        It is not; names it.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):  # no number
        number = math.nan
    if not (math.isfinite(number) and number > least):
        raise SettingsError(f"{owner}: {name} must be more than {least}; got {value}.")
    return number


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
    try:
        given = np.asarray(width, np.float64)
    except (TypeError, ValueError):  # not numbers
        given = np.empty(0)
    given = np.full(cv.dim, given) if given.ndim == 0 else given
    if given.shape != (cv.dim,):
        raise SettingsError(f"{owner}: width must be one number or {cv.dim}; got {width}.")
    return np.array([checked(owner, "width", one, 0) for one in given]) * cv.sigma
