"""Checks of arguments: what is refused, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from openmm import unit

from latf_sampling.core.arguments import describe, instance, real_numbers, whole
from latf_sampling.errors import DataError, SettingsError


@pytest.mark.parametrize(
    "value, words",
    [
        ("cv.pt", "'cv.pt'"),
        (Path("cv.pt"), "'cv.pt'"),
        (1.5, "1.5"),
        (None, "None"),
        (2 * unit.picosecond, "2 ps"),
        (np.zeros((3, 2)), "an array of the shape (3, 2)"),
        (np.zeros(100) * unit.nanometer, "a quantity in nanometer"),
        (torch.zeros(3), "an array of the shape (3,)"),
        (torch.nn.Linear, "the class Linear"),
        (object(), "an object"),
        ("x" * 100, "a str"),
        ([object()], "a list"),
        (np.float32(2.0), "2.0"),
    ],
)
def test_values_are_described_in_a_few_words(value, words):
    assert words in describe(value)
    assert "\n" not in describe(value) and " at 0x" not in describe(value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_any_library(value):
    assert whole("f", "n", value, 1) == 3 and type(whole("f", "n", value, 1)) is int


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, True, np.True_, "3", None, [3], np.array([3]), 3 * unit.picosecond, np.nan]
)
def test_no_whole_numbers(value):
    with pytest.raises(SettingsError, match=r"f: n must be at least 1(, and a whole number of frames)?; got "):
        whole("f", "n", value, 1, "frames")


def test_a_path_is_answered_with_the_function_that_loads_it():
    with pytest.raises(SettingsError, match=r"f: cv must be a CV; got 'a.pt'. Load the file first: CV.load\('a.pt'\)"):
        instance("f", "cv", Path("a.pt"), int, "a CV", "CV.load")
    instance("f", "cv", 3, (int, float), "a number")


def test_real_numbers_keep_their_type():
    assert real_numbers("f", "x", np.zeros(3, np.float32)).dtype == np.float32
    assert real_numbers("f", "x", torch.zeros(3, requires_grad=True)).shape == (3,)
    for wrong in (1j, "a", [[1], [1, 2]], {"a": 1}, None, [1.0] * unit.nanometer):
        with pytest.raises(DataError, match="f: x must be an array of real numbers; got "):
            real_numbers("f", "x", wrong)
