"""Checks of the arguments that several biases have in common."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import openmm

from latf_sampling.core import arguments
from latf_sampling.core.backends import BACKENDS
from latf_sampling.core.words import plural
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.errors import DataError, SettingsError


def check_parts(owner: str, system: Any, cv: Any, *, needs_system: bool = True) -> None:
    """Refuse anything else in the places of the system and of the variable.

    Raises
    ------
    SettingsError
        Names the argument.
    """
    if needs_system or system is not None:
        arguments.instance(owner, "system", system, openmm.System, "an openmm.System")
    arguments.instance(
        owner, "cv", cv, CollectiveVariable, "a collective variable, a LatentCV or a Variable", "LatentCV.load"
    )


def check_backend(owner: str, backend: Any) -> None:
    """Refuse a backend that does not exist, also where none will be needed.

    Raises
    ------
    SettingsError
        There is no such backend.
    """
    if backend not in ("auto", *BACKENDS):
        raise SettingsError(
            f"{owner}: backend must be 'auto', 'torchforce' or 'pythonforce'; got {arguments.describe(backend)}."
        )


def check_model(owner: str, model: Any, cv: CollectiveVariable | None = None) -> None:
    """Refuse what is no model, and a model that the variable was not exported from.

    Raises
    ------
    SettingsError
        It is no `LaTF`, has another dimension, or the variable was exported from another one. Of files that are older
        than the fingerprints in them, this is not known.
    TrainingError
        It is not trained.

    Examples
    --------
    >>> check_model("FlowBias", "model.pt")
    Traceback (most recent call last):
        ...
    latf_sampling.errors.SettingsError: FlowBias: model must be a LaTF; got 'model.pt'. Load the file first: \
LaTF.load('model.pt').
    """
    from latf_sampling.cv.latent_cv import LatentCV  # here, since most biases need no model, and no torch
    from latf_sampling.learning.model import LaTF

    arguments.instance(owner, "model", model, LaTF, "a LaTF", "LaTF.load")
    if isinstance(cv, CollectiveVariable) and model.latent_dim != cv.dim:
        raise SettingsError(
            f"{owner}: the model has {plural(model.latent_dim, 'latent dimension')}, the variable {cv.dim}; give the "
            "model that the variable was exported from."
        )
    if isinstance(cv, LatentCV) and cv.metadata.get("model", "") is None:
        raise SettingsError(
            f"{owner}: the variable was exported from no model but from {cv.metadata['provenance']['module']}; a bias "
            "that needs a model takes the variable of that model."
        )
    encoder = cv.metadata.get("encoder") if isinstance(cv, LatentCV) else None
    if encoder is not None and encoder != model.encoder_fingerprint():
        raise SettingsError(
            f"{owner}: the variable was exported from another model (encoder {encoder}) than this one (encoder "
            f"{model.encoder_fingerprint()}); give the model and the variable of one training."
        )


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
        number = math.nan if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > limit):
        raise SettingsError(f"{owner}: {name} must be more than {limit}, and finite; got {arguments.describe(value)}.")
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
        if np.asarray(values).dtype != bool:  # True is no number of anything
            return np.array(values, np.float64)
        cause = None
    except (TypeError, ValueError) as error:
        cause = error
    raise SettingsError(f"{owner}: {requirement}; got {arguments.describe(values)}.") from cause


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
    if hasattr(value, "value_in_unit") or isinstance(value, str):
        raise SettingsError(
            f"{owner}: {name} must be a whole number of steps, 1 or more; got {arguments.describe(value)}. Divide a "
            "time by the time step of the integrator."
        )
    if isinstance(value, bool) or not hasattr(value, "__index__") or np.ndim(value) or value < 1:
        raise SettingsError(
            f"{owner}: {name} must be a whole number of steps, 1 or more; got {arguments.describe(value)}."
        )
    return operator.index(value)


def hill_widths(owner: str, width: Any, cv: CollectiveVariable) -> np.ndarray:
    """Hill widths (d,) in the unit of a variable, from one number or (d,) in units of `cv.sigma`."""
    requirement = f"width must be one number or {cv.dim}, in units of cv.sigma"
    relative = numbers(owner, requirement, width)
    relative = np.full(cv.dim, relative) if relative.ndim == 0 else relative
    if relative.shape != (cv.dim,):
        raise SettingsError(f"{owner}: {requirement}; got {width}.")
    return np.array([number_above(owner, "width", value, 0) for value in relative.tolist()]) * cv.sigma


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
    points = arguments.real_numbers(owner, "u", u).astype(np.float64, copy=False)
    if points.ndim < 2 and (dim == 1 or points.shape == (dim,)):
        return points.reshape(-1, dim)
    if points.ndim != 2 or points.shape[1] != dim:
        raise DataError(f"{owner}: latent points must be (n, {dim}); got {points.shape}.")
    return points
