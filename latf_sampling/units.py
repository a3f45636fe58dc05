"""The one place that converts quantities.

Inside the package every number is a plain float in nanometre, picosecond, kJ/mol, kelvin, radian and
atomic mass unit. Quantities enter here, as text ("300 K"), as ``openmm.unit.Quantity`` or as floats
that are already in these units, and leave towards OpenMM as plain floats, since these are OpenMM's own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pint

from latf_sampling.errors import SettingsError

KB = 8.31446261815324e-3
"""Boltzmann constant, kJ/mol/K (CODATA 2018: the product of two exact constants, k and N_A)."""

BAR = 0.0602214076
"""One bar as an energy per volume, kJ/mol/nm^3."""

UNITS = {
    "length": "nanometer",
    "inverse length": "1 / nanometer",
    "time": "picosecond",
    "energy": "kilojoule / mole",
    "temperature": "kelvin",
    "angle": "radian",
    "mass": "dalton",
    "friction": "1 / picosecond",
    "pressure": "bar",
    "stiffness": "kilojoule / mole / nanometer ** 2",
    "concentration": "mole / liter",
}
"""The internal unit of each dimension, in pint's words."""

EXAMPLES = {
    "length": "0.5 nm",
    "inverse length": "50 / nm",
    "time": "2 fs",
    "energy": "1.2 kJ/mol",
    "temperature": "300 K",
    "angle": "30 degree",
    "mass": "3 amu",
    "friction": "1 / ps",
    "pressure": "1 bar",
    "stiffness": "1000 kJ/mol/nm^2",
    "concentration": "0.15 mol/l",
}


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry:
    registry = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    registry.define("kilocalorie = 4.184 kilojoule = kcal")
    return registry


def to_float(value: Any, dimension: str, name: str = "value") -> float:
    """Convert a quantity to a float in the package's unit of its dimension.

    Parameters
    ----------
    value
        An ``openmm.unit.Quantity``, or a number already in the internal unit.
    dimension
        A key of `UNITS`, like "length".
    name
        What to call the value in an error.

    Raises
    ------
    SettingsError
        The quantity has another dimension, or is no finite number.

    Examples
    --------
    >>> import openmm.unit as unit
    >>> to_float(2 * unit.femtosecond, "time")
    0.002
    >>> to_float(300, "temperature")
    300.0
    """
    if hasattr(value, "value_in_unit"):
        value = _converted(value, dimension, name)
    if isinstance(value, str):
        raise SettingsError(
            f"{name}: '{value}' is text; give a number, in {UNITS[dimension]}, or a quantity of openmm.unit."
        )
    return _finite(value, dimension, name)


def to_array(value: Any, dimension: str, name: str = "values") -> np.ndarray:
    """Convert a Quantity of an array, or plain numbers in the internal unit, to an array of floats.

    Floats keep their precision, and need not be finite.

    Raises
    ------
    SettingsError
        The quantity has another dimension, or these are no numbers.

    Examples
    --------
    >>> import openmm.unit as unit
    >>> to_array([0.0, 10.0] * unit.kilocalorie_per_mole, "energy").tolist()
    [0.0, 41.84]
    """
    if hasattr(value, "value_in_unit"):
        value = _converted(value, dimension, name)
    elif isinstance(value, (list, tuple)) and any(hasattr(part, "value_in_unit") for part in value):
        value = [to_array(part, dimension, name) for part in value]
    elif hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name}: {type(value).__name__} in place of numbers; give an array, with a unit or in {UNITS[dimension]}."
        ) from error


def to_kelvin(value: Any, name: str = "temperature") -> float:
    """Convert a temperature, which has to be above 0, to kelvin.

    Raises
    ------
    SettingsError
        It is no temperature, or is not above 0.
    """
    kelvin = to_float(value, "temperature", name)
    if not kelvin > 0:
        raise SettingsError(f"{name}: {kelvin:g} K is not above 0 K.")
    return kelvin


def _converted(quantity: Any, dimension: str, name: str) -> Any:
    """The value of a quantity in the internal unit of a dimension."""
    from openmm import unit

    target = {
        "length": unit.nanometer,
        "inverse length": unit.nanometer**-1,
        "time": unit.picosecond,
        "energy": unit.kilojoule_per_mole,
        "temperature": unit.kelvin,
        "angle": unit.radian,
        "mass": unit.dalton,
        "friction": unit.picosecond**-1,
        "pressure": unit.bar,
        "stiffness": unit.kilojoule_per_mole / unit.nanometer**2,
        "concentration": unit.molar,
    }[dimension]
    if not quantity.unit.is_compatible(target):
        given = quantity if np.ndim(quantity.value_in_unit(quantity.unit)) == 0 else f"an array in {quantity.unit}"
        raise SettingsError(f"{name}: {given} is not {_a(dimension)}; give one, like '{EXAMPLES[dimension]}'.")
    return quantity.value_in_unit(target)


def parse(text: Any, dimension: str, name: str = "value") -> float:
    """Convert text with a unit, as it stands in a protocol, to a float in the internal unit.

    Examples
    --------
    >>> parse("2 fs", "time")
    0.002
    >>> parse("1 kcal/mol", "energy")
    4.184
    >>> round(parse("1 kJ/mol", "temperature"), 2)  # kT, as reduced temperatures are given
    120.27

    Raises
    ------
    SettingsError
        The unit is missing, unknown or of another dimension.
    """
    if hasattr(text, "value_in_unit"):
        return to_float(text, dimension, name)
    example = EXAMPLES[dimension]
    if not isinstance(text, str):
        raise SettingsError(f"{name}: {text!r} has no unit; write {_a(dimension)} with its unit, like '{example}'.")
    if "," in text:  # pint drops commas, and would read 1,5 nm as 15 nm
        raise SettingsError(f"{name}: '{text}' has a comma; write the decimal point as '.', like '{example}'.")
    try:
        quantity = _registry().Quantity(text)
    except Exception as error:  # pint raises many types for what it cannot read
        raise SettingsError(f"{name}: '{text}' is not a quantity ({error}); write it like '{example}'.") from error
    if quantity.unitless:
        raise SettingsError(f"{name}: '{text}' has no unit; write {_a(dimension)} with its unit, like '{example}'.")
    if dimension == "temperature" and quantity.check("[energy] / [substance]"):
        quantity = quantity.to(UNITS["energy"]).magnitude / KB * _registry().kelvin
    try:
        value = quantity.to(UNITS[dimension]).magnitude
    except pint.DimensionalityError as error:
        raise SettingsError(f"{name}: '{text}' is not {_a(dimension)}; write it like '{example}'.") from error
    # Powers of ten in a conversion leave a stray last digit (2 fs -> 0.0020000000000000005 ps).
    return float(f"{_finite(value, dimension, name):.12g}")


def _a(dimension: str) -> str:
    return f"an {dimension}" if dimension[0] in "aei" else f"a {dimension}"


def _finite(value: Any, dimension: str, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name}: {value!r} is not a number; give {_a(dimension)} like '{EXAMPLES[dimension]}'."
        ) from error
    if number != number or number in (float("inf"), float("-inf")):
        raise SettingsError(f"{name}: {value!r} is not finite; give {_a(dimension)} like '{EXAMPLES[dimension]}'.")
    return number
