"""The one module that converts quantities, and the home of physical constants.

Inside the package every number is a plain float in nanometer, picosecond, kJ/mol, kelvin, radian and
atomic mass unit. Quantities enter here, as text ("300 K"), as ``openmm.unit.Quantity`` or as floats
that are already in these units. OpenMM takes plain floats in the same units; `to_quantity` serves the
few functions of it that insist on a ``Quantity``.

The constants follow from the Avogadro and the Boltzmann constant, which the SI of 2019 fixes exactly
(CODATA 2018, doi:10.1103/RevModPhys.93.025010).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pint

from latf_sampling.errors import SettingsError

if TYPE_CHECKING:  # importing this module does not load OpenMM
    from numpy.typing import ArrayLike
    from openmm.unit import Quantity, Unit

AVOGADRO = 6.02214076e23
"""Avogadro constant N_A, 1/mol (exact)."""

KB = 1.380649e-23 * AVOGADRO / 1000
"""Boltzmann constant times N_A, the molar gas constant, kJ/mol/K (exact: 1.380649e-23 J/K times N_A)."""

BAR = 1e5 * 1e-27 * AVOGADRO / 1000
"""One bar as an energy per volume, kJ/mol/nm^3: 1e5 Pa times 1e-27 m^3/nm^3 times N_A."""
SECOND = 1e12
"""ps; for times on the clock."""

QuantityLike: TypeAlias = "float | str | Quantity"
"""A number in the internal unit, text with a unit, or an ``openmm.unit.Quantity``; the aliases below name its
dimension."""
TemperatureLike: TypeAlias = "float | str | Quantity"
TimeLike: TypeAlias = "float | str | Quantity"
LengthLike: TypeAlias = "float | str | Quantity"
EnergyLike: TypeAlias = "float | str | Quantity"
FrictionLike: TypeAlias = "float | str | Quantity"
PressureLike: TypeAlias = "float | str | Quantity"
StiffnessLike: TypeAlias = "float | str | Quantity"
QuantityArrayLike: TypeAlias = "ArrayLike | Quantity"
"""Numbers in the internal unit, texts with a unit, or an ``openmm.unit.Quantity`` of an array."""

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
"""The internal unit of each dimension, as pint spells it."""

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
"""An example of each dimension, for error messages and the JSON schema."""


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
        An ``openmm.unit.Quantity``, text with a unit as in a protocol, or a number already in the internal unit.
    dimension
        A key of `UNITS`, like "length".
    name
        What to call the value in an error.

    Raises
    ------
    SettingsError
        The quantity has another dimension, the text no unit, or it is no finite number.

    Examples
    --------
    >>> import openmm.unit as unit
    >>> to_float(2 * unit.femtosecond, "time"), to_float("2 fs", "time")
    (0.002, 0.002)
    >>> to_float(300, "temperature")
    300.0
    """
    if hasattr(value, "value_in_unit"):
        value = _converted(value, dimension, name)
    if isinstance(value, str):
        return parse(value, dimension, name)
    return _finite(value, dimension, name)


def to_array(value: Any, dimension: str, name: str = "values") -> np.ndarray:
    """Convert a Quantity of an array, texts with units, or plain numbers in the internal unit, to an array of floats.

    Floats keep their precision, and need not be finite.

    Raises
    ------
    SettingsError
        The quantity has another dimension, a text no unit, or the values are not numbers.

    Examples
    --------
    >>> import openmm.unit as unit
    >>> to_array([0.0, 10.0] * unit.kilocalorie_per_mole, "energy").tolist()
    [0.0, 41.84]
    >>> to_array(["300 K", 450], "temperature").tolist()
    [300.0, 450.0]
    """
    if hasattr(value, "value_in_unit"):
        plain = _converted(value, dimension, name)
    elif isinstance(value, str):
        plain = parse(value, dimension, name)
    elif isinstance(value, (list, tuple)) and any(map(has_unit, value)):
        plain = [to_array(part, dimension, name) for part in value]
    else:
        detach = getattr(value, "detach", None)  # of a tensor
        plain = value if detach is None else detach().cpu()
    try:
        array = np.asarray(plain)
        if array.dtype.kind in "cSU":  # which numpy would convert, without the imaginary part or from text
            raise TypeError(array.dtype)
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name}: got {type(value).__name__} in place of numbers; give an array, with a unit or in "
            f"{UNITS[dimension]}."
        ) from error


def to_kelvin(temperature: Any, name: str = "temperature") -> float:
    """Convert a temperature to kelvin; every temperature that a script passes goes through this function.

    Parameters
    ----------
    temperature
        An ``openmm.unit.Quantity``, text with a unit, or a number in kelvin.
    name
        What to call the value in an error.

    Raises
    ------
    SettingsError
        It is not a temperature, or is not above 0.

    Examples
    --------
    >>> to_kelvin(300), to_kelvin("300 K")
    (300.0, 300.0)
    >>> to_kelvin(-1.0)
    Traceback (most recent call last):
        ...
    latf_sampling.errors.SettingsError: temperature: must be more than 0 K; got -1 K.
    """
    kelvin = to_float(temperature, "temperature", name)
    if not kelvin > 0:
        raise SettingsError(f"{name}: must be more than 0 K; got {kelvin:g} K.")
    return kelvin


def has_unit(value: Any) -> bool:
    """Whether a value is a quantity of OpenMM, or text, which has to have a unit.

    >>> has_unit("1 ps"), has_unit(1.0)
    (True, False)
    """
    return isinstance(value, str) or hasattr(value, "value_in_unit")


def to_quantity(value: Any, dimension: str) -> Quantity:
    """A number or an array in the internal unit as an ``openmm.unit.Quantity``.

    Examples
    --------
    >>> print(to_quantity(0.5, "length"))
    0.5 nm
    """
    from openmm import unit

    return unit.Quantity(value, _openmm_unit(dimension))


def _openmm_unit(dimension: str) -> Unit:
    """OpenMM's unit that is the internal one of a dimension."""
    from openmm import unit

    # OpenMM defines its prefixed units when it is imported, where no type checker sees them.
    nanometer: unit.Unit = getattr(unit, "nanometer")  # noqa: B009
    picosecond: unit.Unit = getattr(unit, "picosecond")  # noqa: B009
    return {
        "length": nanometer,
        "inverse length": nanometer**-1,
        "time": picosecond,
        "energy": unit.kilojoule_per_mole,
        "temperature": unit.kelvin,
        "angle": unit.radian,
        "mass": unit.dalton,
        "friction": picosecond**-1,
        "pressure": unit.bar,
        "stiffness": unit.kilojoule_per_mole / nanometer**2,
        "concentration": unit.molar,
    }[dimension]


def _converted(quantity: Any, dimension: str, name: str) -> Any:
    """The value of a quantity in the internal unit of a dimension."""
    target = _openmm_unit(dimension)
    if not quantity.unit.is_compatible(target):
        scalar = np.ndim(quantity.value_in_unit(quantity.unit)) == 0
        received = quantity if scalar else f"an array in {quantity.unit}"
        raise SettingsError(
            f"{name}: {received} is not {with_article(dimension)}; give one, like '{EXAMPLES[dimension]}'."
        )
    return quantity.value_in_unit(target)


def parse(text: Any, dimension: str, name: str = "value") -> float:
    """Convert text with a unit, as it stands in a protocol, to a float in the internal unit.

    Examples
    --------
    >>> parse("2 fs", "time")
    0.002
    >>> parse("1 kcal/mol", "energy")
    4.184
    >>> round(parse("1 kJ/mol", "temperature"), 2)  # kT, the form of reduced temperatures
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
        raise SettingsError(
            f"{name}: {text!r} has no unit; write {with_article(dimension)} with its unit, like '{example}'."
        )
    if "," in text:  # pint drops commas, and would read 1,5 nm as 15 nm
        raise SettingsError(f"{name}: '{text}' has a comma; write the decimal point as '.', like '{example}'.")
    try:
        quantity = _registry().Quantity(text)
    except Exception as error:  # pint raises many types for what it cannot read
        raise SettingsError(f"{name}: '{text}' is not a quantity ({error}); write it like '{example}'.") from error
    if quantity.unitless:
        raise SettingsError(
            f"{name}: '{text}' has no unit; write {with_article(dimension)} with its unit, like '{example}'."
        )
    if dimension == "temperature" and quantity.check("[energy] / [substance]"):
        quantity = quantity.to(UNITS["energy"]).magnitude / KB * _registry().kelvin
    try:
        value = quantity.to(UNITS[dimension]).magnitude
    except pint.DimensionalityError as error:
        where = "in kelvin, " if dimension == "temperature" else ""  # of the units, C is the coulomb
        raise SettingsError(
            f"{name}: '{text}' is not {with_article(dimension)}; write it {where}like '{example}'."
        ) from error
    # Powers of ten in a conversion leave a stray last digit (2 fs -> 0.0020000000000000005 ps).
    return float(f"{_finite(value, dimension, name):.12g}")


def symbol(dimension: str) -> str:
    """The internal unit of a dimension in short: ``ps``."""
    return f"{_registry().Unit(UNITS[dimension]):~}"


def to_text(value: float, dimension: str) -> str:
    """A number in the internal unit as text that `parse` reads.

    Examples
    --------
    >>> to_text(0.25, "energy"), to_text(1.0, "friction")
    ('0.25 kJ / mol', '1 / ps')
    """
    return f"{value:.12g} {symbol(dimension)}".replace(" 1 / ", " / ")


def with_article(dimension: str) -> str:
    """The name of a dimension in a sentence.

    Examples
    --------
    >>> with_article("energy")
    'an energy'
    """
    return f"an {dimension}" if dimension[0] in "aei" else f"a {dimension}"


def _quoted(value: Any) -> str:
    """A value as it is written, if that is short."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text and " at 0x" not in text else f"a {type(value).__name__}"


def _finite(value: Any, dimension: str, name: str) -> float:
    try:
        if isinstance(value, (bool, np.bool_)) or np.ndim(value):
            raise TypeError(type(value))
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name}: {_quoted(value)} is not a number; give {with_article(dimension)} like '{EXAMPLES[dimension]}'."
        ) from error
    if number != number or number in (float("inf"), float("-inf")):
        raise SettingsError(
            f"{name}: {value!r} is not finite; give {with_article(dimension)} like '{EXAMPLES[dimension]}'."
        )
    return number
