"""Weights of biased frames by hand, on a harmonic well and in other units; systematic resampling."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from helpers import molecules
from openmm import unit

from latf_sampling import analysis
from latf_sampling.analysis.weights import kish, relative_weights, systematic
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB


def walker(temperature: float, bias: np.ndarray, offset: np.ndarray) -> WalkerFrames:
    topology = mdtraj.Topology.from_openmm(molecules.alanine().topology)
    trajectory = mdtraj.Trajectory(molecules.frames(1, noise=0.03), topology)
    return WalkerFrames(trajectory, temperature, np.zeros(len(bias)), bias, offset, 1, 0)


def test_offset_weights_are_those_of_a_walker():
    rng = np.random.default_rng(0)
    bias, offset = rng.normal(20, 5, 50), rng.normal(10, 1, 50)
    log_weights = analysis.offset_weights(bias, offset, 310.0)
    np.testing.assert_allclose(log_weights, (bias - offset) / (KB * 310.0), rtol=1e-14)
    np.testing.assert_allclose(log_weights, walker(310.0, bias, offset).log_weights, rtol=1e-14)


def test_last_bias_weights_recover_a_harmonic_well():
    # Sampled flat under V = -E: the weights exp(V / kT) give the Boltzmann distribution back.
    x = np.random.default_rng(1).uniform(-6, 6, 200_000)
    weights = np.exp(analysis.last_bias_weights(-(x**2) / 2 * KB * 300.0, 300.0))
    assert np.average(x**2, weights=weights) == pytest.approx(1.0, abs=0.02)
    shifted = np.exp(analysis.offset_weights(-(x**2) / 2 * KB * 300.0, np.full(len(x), 7.0), 300.0))
    assert np.average(x**2, weights=shifted) == pytest.approx(np.average(x**2, weights=weights))


def test_invalid_biases_are_refused():
    with pytest.raises(DataError, match="3 values of the bias and 2 offsets"):
        analysis.offset_weights(np.zeros(3), np.zeros(2), 300.0)
    for bias, offset in (([5.0, np.nan], [1.0, 1.0]), ([5.0, 6.0], [np.inf, 1.0])):
        with pytest.raises(DataError, match="the value of frame . is not a number"):
            analysis.offset_weights(bias, offset, 300.0)
    with pytest.raises(DataError, match=r"shape \(3, 2\); give one value for each frame"):
        analysis.last_bias_weights(np.zeros((3, 2)), 300.0)


KCAL = unit.kilocalorie_per_mole


def test_biases_may_have_a_unit():
    expected = np.array([0.0, 41.84]) / (KB * 300.0)
    for bias in (np.array([0.0, 10.0]) * KCAL, [0.0 * KCAL, 10.0 * KCAL]):
        np.testing.assert_allclose(analysis.last_bias_weights(bias, 300.0 * unit.kelvin), expected)
    np.testing.assert_allclose(analysis.offset_weights([1.0, 11.0] * KCAL, 1.0 * KCAL, 300.0), expected)
    with pytest.raises(SettingsError, match="bias: an array in nanometer is not an energy"):
        analysis.last_bias_weights([0.0, 1.0] * unit.nanometer, 300.0)


def test_relative_weights_stay_in_range():
    np.testing.assert_allclose(
        relative_weights([np.array([5000.0, -np.inf]), np.array([4999.0])], [np.zeros(2), np.zeros(1)], "here"),
        [1.0, 0.0, np.exp(-1)],
    )
    for bad in ([np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]):
        with pytest.raises(DataError, match="are not numbers"):
            relative_weights([np.array(bad)], [np.zeros(2)], "here")
    with pytest.raises(DataError, match=r"here: .* differ in number: \[2\] and \[3\]"):
        relative_weights([np.zeros(2)], [np.zeros(3)], "here")
    with pytest.raises(DataError, match="here: there is no frame"):
        relative_weights([np.zeros(0)], [np.zeros(0)], "here")


def test_weights_normalized_together_have_mean_one_and_keep_their_ratios():
    parts = [np.array([800.0, 801.0]), np.array([803.0]), np.zeros(0)]
    normalized = analysis.normalized_together(parts)
    assert np.exp(np.concatenate(normalized)).mean() == pytest.approx(1)
    np.testing.assert_allclose(normalized[0] - normalized[1], [-3, -2])
    assert [len(part) for part in analysis.normalized_together([np.zeros(0)])] == [0]
    assert analysis.normalized_together([]) == []
    with pytest.raises(DataError, match="one at least must be finite"):
        analysis.normalized_together([np.full(3, -np.inf)])


@pytest.mark.parametrize(("bias", "first"), [(0.0, 0), (1.0, 20)])
def test_the_filling_of_a_biased_walker_is_left_out(bias, first):
    frames = walker(300.0, np.full(100, bias), np.zeros(100))
    assert list(range(100))[analysis.after_filling(len(frames), frames.biased)] == list(range(first, 100))


def test_kish_by_hand():
    assert kish(np.array([3.0, 1.0]) * 1e-200) == pytest.approx(1.6)
    assert kish(np.ones(7)) == pytest.approx(7)
    assert kish(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert kish(np.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert kish(1e3 * np.array([3.0, 1.0])) == pytest.approx(16 / 10)


# ---------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("n", [1, 7, 100, 5000])
def test_systematic_draws_differ_from_expectation_by_less_than_one(n):
    rng = np.random.default_rng(n)
    for weights in (rng.random(50), rng.gamma(0.1, size=300), np.ones(n), np.array([0, 0, 3.0, 0, 1, 0])):
        drawn = systematic(weights, n, rng)
        assert drawn.shape == (n,)
        assert (np.diff(drawn) >= 0).all()
        counts, expected = np.bincount(drawn, minlength=len(weights)), n * weights / weights.sum()
        assert np.abs(counts - expected).max() < 1 + 1e-9
        assert (counts[weights == 0] == 0).all()
        if (weights == 1).all():
            assert (counts == 1).all()  # equal weights: every frame once


def test_systematic_draws_are_unbiased():
    rng, repeats, n = np.random.default_rng(13), 4000, 13
    weights = rng.random(20)
    counts = np.array([np.bincount(systematic(weights, n, rng), minlength=20) for _ in range(repeats)])
    expected = n * weights / weights.sum()
    rest = expected % 1  # each count is one of the two whole numbers beside its expectation
    assert (np.abs(counts.mean(0) - expected) < 4.5 * np.sqrt(rest * (1 - rest) / repeats)).all()
