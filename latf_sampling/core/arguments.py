"""Checks of what a script passes: the class of an argument, whole numbers, and arrays of numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from latf_sampling.core.words import plural
from latf_sampling.errors import DataError, SettingsError

LONGEST = 60
"""Values are quoted in a message if their text has at most so many characters."""


def describe(value: Any) -> str:
    """A value that was passed, in a few words for a message.

    Examples
    --------
    >>> describe("cv.pt"), describe(np.zeros((3, 2))), describe(None)
    ("'cv.pt'", 'an array of the shape (3, 2)', 'None')
    """
    if hasattr(value, "value_in_unit"):
        text = " ".join(str(value).split())
        return text if len(text) <= LONGEST else f"a quantity in {value.unit}"
    if hasattr(value, "shape") and getattr(value, "ndim", 0):
        return f"an array of the shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, bytes, int, float, complex, np.generic, list, tuple, dict, set, Path)):
        text = repr(str(value) if isinstance(value, Path) else value)
        if len(text) <= LONGEST and "\n" not in text and " object at 0x" not in text and ";" not in text:
            return text
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def instance(owner: str, name: str, value: Any, kind: type | tuple[type, ...], expected: str, load: str = "") -> None:
    """Refuse a value of another class, such as an argument in the place of its neighbor.

    Parameters
    ----------
    owner, name
        What was called, and its parameter.
    value
        What was passed.
    kind, expected
        The class or classes that it must have, and what to call them.
    load
        The function that makes such an object of a file, which is named where a path was passed.

    Raises
    ------
    SettingsError
        It is no instance of them.

    Examples
    --------
    >>> instance("train", "dataset", [1, 2], np.ndarray, "a Dataset")
    Traceback (most recent call last):
        ...
    latf_sampling.errors.SettingsError: train: dataset must be a Dataset; got [1, 2].
    """
    if isinstance(value, kind):
        return
    remedy = f" Load the file first: {load}({str(value)!r})." if load and isinstance(value, (str, Path)) else ""
    raise SettingsError(f"{owner}: {name} must be {expected}; got {describe(value)}.{remedy}")


def path(owner: str, name: str, value: Any, of: str = "a file") -> Path:
    """A path, from text or a path.

    Raises
    ------
    SettingsError
        It is neither.
    """
    instance(owner, name, value, (str, Path), f"the path of {of}")
    return Path(value)


def names(owner: str, values: Any, count: int, of: str) -> list[str]:
    """Names of columns, one for each.

    Raises
    ------
    SettingsError
        They are no list of texts.
    DataError
        There is another number of them.
    """
    listed = None if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if listed is None or not all(isinstance(entry, str) for entry in listed):
        raise SettingsError(f"{owner}: names must be a list of texts; got {describe(values)}.")
    if len(listed) != count:
        raise DataError(f"{owner}: {plural(len(listed), 'name')} for {count} {of}; give one for each, in their order.")
    return listed


def function(owner: str, name: str, value: Any) -> None:
    """Refuse what cannot be called, in the place of a function.

    Raises
    ------
    SettingsError
        It cannot be called.
    """
    if not callable(value):
        raise SettingsError(f"{owner}: {name} must be a function; got {describe(value)}.")


def number(owner: str, name: str, value: Any, above: float, most: float = math.inf) -> float:
    """A finite number above a limit, and not above another; a truth value is none.

    Raises
    ------
    SettingsError
        The value is another one.

    Examples
    --------
    >>> number("Dataset", "boltzmann", 1, above=0)
    1.0
    >>> number("TrustRegion", "threshold", True, above=0)
    Traceback (most recent call last):
        ...
    latf_sampling.errors.SettingsError: TrustRegion: threshold must be a number above 0; got True.
    """
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        converted = float(value)
        if math.isfinite(converted) and above < converted <= most:
            return converted
    limit = f" and at most {most:g}" if most < math.inf else ""
    raise SettingsError(f"{owner}: {name} must be a number above {above:g}{limit}; got {describe(value)}.")


def truth(owner: str, name: str, value: Any) -> bool:
    """True or False, Python's or numpy's: a text like "no" would count as true.

    Raises
    ------
    SettingsError
        The value is another one.
    """
    instance(owner, name, value, (bool, np.bool_), "True or False")
    return bool(value)


def whole(owner: str, name: str, value: Any, least: int = 0, of: str = "", most: int = 2**53) -> int:
    """A whole number, Python's or numpy's, from `least` to `most`.

    Parameters
    ----------
    owner, name
        What was called, and its parameter.
    value
        What was passed.
    least
        The smallest number that is allowed.
    of
        What is counted, in the plural, for the message.
    most
        The largest number that is allowed.

    Raises
    ------
    SettingsError
        The value is another one.

    Examples
    --------
    >>> whole("LaTF.sample", "n", 10, 1)
    10
    >>> whole("LaTF.sample", "n", 1.5, 1, "samples")
    Traceback (most recent call last):
        ...
    latf_sampling.errors.SettingsError: LaTF.sample: n must be at least 1, and a whole number of samples; got 1.5.
    """
    if not isinstance(value, (bool, np.bool_)) and not hasattr(value, "value_in_unit") and np.ndim(value) == 0:
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is not None and least <= number <= most:
            return number
        if number is not None and number > most:
            raise SettingsError(f"{owner}: {name} must be at most {most:,}; got {number:,}.")
        if number is not None:
            raise SettingsError(f"{owner}: {name} must be at least {least}; got {number}.")
    counted = f" of {of}" if of else ""
    raise SettingsError(
        f"{owner}: {name} must be at least {least}, and a whole number{counted}; got {describe(value)}."
    )


def real_numbers(owner: str, name: str, values: Any) -> np.ndarray:
    """An array, tensor or nested list of real numbers as an array; numbers keep their type.

    Raises
    ------
    DataError
        The values are text, complex numbers, objects, or lists of different lengths, or have a unit.

    Examples
    --------
    >>> real_numbers("Series", "x", [[1, 2], [3, 4]]).shape
    (2, 2)
    >>> real_numbers("Series", "x", [["a"]])
    Traceback (most recent call last):
        ...
    latf_sampling.errors.DataError: Series: x must be an array of real numbers; got [['a']].
    """
    array, remedy = None, ""
    if hasattr(values, "value_in_unit"):
        remedy = " Take the numbers from the quantity, values.value_in_unit(unit)."
    else:
        detach = getattr(values, "detach", None)  # of a tensor
        try:
            array = np.asarray(values if detach is None else detach().cpu())
        except (TypeError, ValueError):  # lists of different lengths
            array = None
    if array is None or array.dtype.kind not in "fiub":
        of = "" if array is None or not hasattr(values, "dtype") else f" of type {array.dtype}"
        if isinstance(values, (str, Path)):
            remedy = f" Load the file first, as with numpy.load({str(values)!r})."
        elif array is None and not remedy and isinstance(values, (list, tuple)):
            of = ", whose rows differ in length"
        raise DataError(f"{owner}: {name} must be an array of real numbers; got {describe(values)}{of}.{remedy}")
    return array
