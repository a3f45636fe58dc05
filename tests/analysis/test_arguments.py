"""Arguments that all functions of the analysis share: temperatures, and values by trajectory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from openmm import unit

from latf_sampling import analysis
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.errors import DataError, SettingsError

KCAL = unit.kilocalorie_per_mole


@pytest.mark.parametrize("temperature", [0.0, -300.0, np.nan, None, "300", 300.0 * unit.nanometer])
def test_invalid_temperatures_are_refused_everywhere(temperature):
    inside, zero, x = [np.arange(20) % 3 == 0], [np.zeros(20)], [np.arange(20.0)]
    states = Multistate(np.arange(20.0), None, 300.0, np.zeros(20, int), 0)
    for call in (
        lambda: analysis.last_bias_weights(np.zeros(3), temperature),
        lambda: analysis.free_energy_difference(inside, zero, temperature, 0),
        lambda: analysis.free_energy_profile(x, zero, temperature, 0),
        lambda: analysis.Convergence.from_frames(inside, zero, temperature, 12, 0),
        lambda: states.log_weights(temperature),
        lambda: states.effective_sample_size(temperature),
        lambda: states.heat_capacity(temperature),
    ):
        with pytest.raises(SettingsError, match="^temperature: "):
            call()


def test_one_array_is_one_trajectory():
    rng = np.random.default_rng(2)
    inside, log_weights = rng.random(300) < 0.4, rng.normal(size=300)
    expected = analysis.free_energy_difference([inside], [log_weights], 300.0, 0)
    for shape in (lambda a: a, lambda a: a[:, None], lambda a: [a[:, None]], list, lambda a: torch.tensor(a)[None]):
        assert analysis.free_energy_difference(shape(inside), shape(log_weights), 300.0 * unit.kelvin, 0) == expected
    two = analysis.free_energy_difference(inside.reshape(2, 150), log_weights.reshape(2, 150), 300.0, 0)
    assert two.value == pytest.approx(expected.value)
    profiles = [analysis.free_energy_profile(x, log_weights, 300.0, 0, 5) for x in (log_weights, [log_weights])]
    np.testing.assert_array_equal(profiles[0].interval, profiles[1].interval)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ([np.array([1.0, np.nan, 0.0])], "nan at frame 1 is neither inside"),
        ([np.array([0.3, 1.0, 0.0])], "0.3 at frame 0 is neither inside"),
        ([np.zeros((3, 2))], r"shape \(3, 2\)"),
        ([[True, [False], True]], "list in place of numbers"),
        (None, "give a list with an array"),
        ([np.zeros(3) * KCAL], "have a unit"),
        ([], "there is no frame|differ in number"),
    ],
)
def test_what_is_neither_inside_nor_outside_is_refused(inside, words):
    with pytest.raises(DataError, match=words):
        analysis.free_energy_difference(inside, [np.zeros(3)], 300.0, 0)
