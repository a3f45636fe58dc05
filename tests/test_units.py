"""Quantities become floats in the internal units, or are refused with the key and an example."""

import numpy as np
import openmm
import pytest
from openmm import unit

from latf_sampling import units
from latf_sampling.errors import LatfError, SettingsError


def test_kb_is_openmm_s_gas_constant():
    gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
    assert abs(units.KB / gas_constant - 1) < 1e-5
    assert units.KB == 1.380649e-23 * 6.02214076e23 / 1000  # the two exact constants of the SI


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("0.5 nm", "length", 0.5),
        ("10 angstrom", "length", 1.0),
        ("1e-9 m", "length", 1.0),
        ("2 fs", "time", 0.002),
        ("2fs", "time", 0.002),
        ("1 ns", "time", 1000.0),
        ("0.5 us", "time", 500_000.0),
        ("1.2 kJ/mol", "energy", 1.2),
        ("1 kcal/mol", "energy", 4.184),
        ("0.5 kilocalories / mole", "energy", 2.092),
        ("300 K", "temperature", 300.0),
        ("300 kelvin", "temperature", 300.0),
        ("27 degC", "temperature", 300.15),
        ("90 degree", "angle", np.pi / 2),
        ("-1 rad", "angle", -1.0),
        ("3 amu", "mass", 3.0),
        ("3 dalton", "mass", 3.0),
        ("1 / ps", "friction", 1.0),
        ("5 ps^-1", "friction", 5.0),
        ("2 / ns", "friction", 0.002),
        ("1 bar", "pressure", 1.0),
        ("1 atm", "pressure", 1.01325),
    ],
)
def test_text(text, dimension, value):
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize(("text", "value"), [("2 fs", 0.002), ("0.3 fs", 0.0003), ("4 fs", 0.004)])
def test_text_leaves_no_stray_digit(text, value):
    assert units.parse(text, "time") == value


@pytest.mark.parametrize(
    ("quantity", "dimension", "value"),
    [
        (5 * unit.angstrom, "length", 0.5),
        (2 * unit.femtosecond, "time", 0.002),
        (1 * unit.kilocalorie_per_mole, "energy", 4.184),
        (300 * unit.kelvin, "temperature", 300.0),
        (180 * unit.degree, "angle", np.pi),
        (3 * unit.amu, "mass", 3.0),
        (2 / unit.nanosecond, "friction", 0.002),
        (1 * unit.atmosphere, "pressure", 1.01325),
        (310, "temperature", 310.0),
        (0.004, "time", 0.004),
        (np.float32(0.5), "length", 0.5),
        (np.int64(3), "mass", 3.0),
    ],
)
def test_openmm_quantities_and_numbers(quantity, dimension, value):
    number = units.to_float(quantity, dimension)
    assert type(number) is float
    assert number == pytest.approx(value, rel=1e-12)


def test_text_may_stand_where_python_takes_a_quantity():
    """Every argument with a unit goes through these functions."""
    for text, dimension, value in (
        ("450 K", "temperature", 450.0),
        ("2 fs", "time", 0.002),
        ("1 kcal/mol", "energy", 4.184),
    ):
        assert units.to_float(text, dimension) == units.parse(text, dimension) == value
        assert (
            units.to_array([text, text], dimension).tolist() == [value] * 2 and units.to_array(text, dimension) == value
        )
    assert units.to_kelvin("27 degC") == pytest.approx(300.15)
    assert units.to_array(["300 K", 300 * unit.kelvin, 4], "temperature").tolist() == [300.0, 300.0, 4.0]
    with pytest.raises(SettingsError, match="T: must be more than 0 K; got -1 K"):
        units.to_kelvin("-1 K", "T")


def test_a_quantity_from_python_may_stand_where_text_is_read():
    assert units.parse(2 * unit.femtosecond, "time") == pytest.approx(0.002, rel=1e-12)


def test_internal_units_are_openmm_s_own():
    # OpenMM interprets a plain float in the same unit.
    integrator = openmm.LangevinMiddleIntegrator(
        units.parse("310 K", "temperature"), units.parse("2 / ps", "friction"), units.parse("4 fs", "time")
    )
    assert integrator.getTemperature() == 310 * unit.kelvin
    assert integrator.getFriction() == 2 / unit.picosecond
    assert integrator.getStepSize() == 4 * unit.femtosecond


@pytest.mark.parametrize("dimension", units.UNITS)
def test_examples_are_themselves_quantities(dimension):
    assert np.isfinite(units.parse(units.EXAMPLES[dimension], dimension))


@pytest.mark.parametrize(
    ("read", "value", "dimension", "why"),
    [
        (units.parse, 300, "temperature", "has no unit"),
        (units.parse, 2.0, "time", "has no unit"),
        (units.parse, None, "time", "has no unit"),
        (units.parse, "300", "temperature", "has no unit"),
        (units.parse, "1 ps/fs", "time", "has no unit"),
        (units.parse, "300 K", "energy", "is not an energy"),
        (units.parse, "1 kJ", "energy", "is not an energy"),
        (units.parse, "1 g/mol", "mass", "is not a mass"),
        (units.parse, "10 nm", "time", "is not a time"),
        (units.parse, "3 parsnips", "length", "is not a quantity"),
        (units.parse, "two fs", "time", "is not a quantity"),
        (units.parse, "", "time", "is not a quantity"),
        (units.parse, "1,5 nm", "length", "has a comma"),
        (units.parse, "nan K", "temperature", "is not finite"),
        (units.parse, "-inf nm", "length", "is not finite"),
        (units.parse, "1e400 K", "temperature", "is not finite"),
        (units.to_float, float("nan"), "time", "is not finite"),
        (units.to_float, float("inf"), "energy", "is not finite"),
        (units.to_float, float("nan") * unit.kelvin, "temperature", "is not finite"),
        (units.to_float, 300 * unit.kelvin, "energy", "is not an energy"),
        (units.to_float, 1 * unit.kilojoule, "energy", "is not an energy"),
        (units.to_float, 1 * unit.nanometer, "angle", "is not an angle"),
        (units.to_float, "300", "temperature", "has no unit"),
        (units.to_float, "300 K", "energy", "is not an energy"),
        (units.to_array, ["300 K", "1 ps"], "temperature", "is not a temperature"),
        (units.to_float, None, "time", "is not a number"),
        (units.to_float, [1.0, 2.0] * unit.nanometer, "length", "is not a number"),
    ],
)
def test_refused_with_key_and_example(read, value, dimension, why):
    with pytest.raises(SettingsError) as refused:
        read(value, dimension, "the.key")
    message = str(refused.value)
    assert message.startswith("the.key: ")
    assert why in message
    assert units.EXAMPLES[dimension] in message
    assert isinstance(refused.value, LatfError)
    assert isinstance(refused.value, ValueError)
