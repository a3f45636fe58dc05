"""Weights by hand, torsions against MDTraj, states on a circle, and the examples in docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module

import mdtraj
import numpy as np
import pytest
import torch
from helpers import molecules
from openmm import unit

from latf_sampling import analysis
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.analysis.weights import relative
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

ROOMS = ["blocks", "convergence", "differences", "surfaces", "torsions", "weights"]


# ---------------------------------------------------------------------------------------------------- weights


def test_offset_weights_are_those_of_a_walker():
    rng = np.random.default_rng(0)
    bias, offset = rng.normal(20, 5, 50), rng.normal(10, 1, 50)
    walker = WalkerFrames(alanine(1), 310.0, np.zeros(50), bias, offset, 1, 0)
    np.testing.assert_allclose(analysis.offset_weights(bias, offset, 310.0), walker.log_weights, rtol=1e-14)


def test_last_bias_weights_recover_a_harmonic_well():
    # Sampled flat under V = -E: the weights exp(V / kT) give the Boltzmann distribution back.
    x = np.random.default_rng(1).uniform(-6, 6, 200_000)
    weights = np.exp(analysis.last_bias_weights(-(x**2) / 2 * KB * 300.0, 300.0))
    assert np.average(x**2, weights=weights) == pytest.approx(1.0, abs=0.02)
    kept = np.exp(analysis.offset_weights(-(x**2) / 2 * KB * 300.0, np.full(len(x), 7.0), 300.0))
    assert np.average(x**2, weights=kept) == pytest.approx(np.average(x**2, weights=weights))


def test_weights_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match="3 values of the bias and 2 offsets"):
        analysis.offset_weights(np.zeros(3), np.zeros(2), 300.0)
    for bias, offset in (([5.0, np.nan], [1.0, 1.0]), ([5.0, 6.0], [np.inf, 1.0])):
        with pytest.raises(DataError, match="the value of frame . is not a number"):
            analysis.offset_weights(bias, offset, 300.0)
    with pytest.raises(DataError, match=r"shape \(3, 2\); give one value for each frame"):
        analysis.last_bias_weights(np.zeros((3, 2)), 300.0)


KCAL = unit.kilocalorie_per_mole


def test_biases_may_have_a_unit():
    wanted = np.array([0.0, 41.84]) / (KB * 300.0)
    for bias in (np.array([0.0, 10.0]) * KCAL, [0.0 * KCAL, 10.0 * KCAL]):
        np.testing.assert_allclose(analysis.last_bias_weights(bias, 300.0 * unit.kelvin), wanted)
    np.testing.assert_allclose(analysis.offset_weights([1.0, 11.0] * KCAL, 1.0 * KCAL, 300.0), wanted)
    with pytest.raises(SettingsError, match="bias: an array in nanometer is not an energy"):
        analysis.last_bias_weights([0.0, 1.0] * unit.nanometer, 300.0)


@pytest.mark.parametrize("temperature", [0.0, -300.0, np.nan, None, "300 K", 300.0 * unit.nanometer])
def test_temperatures_that_are_none_are_refused_everywhere(temperature):
    inside, zero, x = [np.arange(20) % 3 == 0], [np.zeros(20)], [np.arange(20.0)]
    states = Multistate(np.arange(20.0), None, 300.0, np.zeros(20, int), 0)
    for call in (
        lambda: analysis.last_bias_weights(np.zeros(3), temperature),
        lambda: analysis.free_energy_difference(inside, zero, temperature, 0),
        lambda: analysis.free_energy_profile(x, zero, temperature, 0),
        lambda: analysis.Convergence.of(inside, zero, temperature, 12, 0),
        lambda: states.log_weights(temperature),
        lambda: states.effective_sample_size(temperature),
        lambda: states.heat_capacity(temperature),
    ):
        with pytest.raises(SettingsError, match="^temperature: "):
            call()


def test_one_array_is_one_trajectory():
    rng = np.random.default_rng(2)
    inside, log_weights = rng.random(300) < 0.4, rng.normal(size=300)
    wanted = analysis.free_energy_difference([inside], [log_weights], 300.0, 0)
    for shape in (lambda a: a, lambda a: a[:, None], lambda a: [a[:, None]], list, lambda a: torch.tensor(a)[None]):
        assert analysis.free_energy_difference(shape(inside), shape(log_weights), 300.0 * unit.kelvin, 0) == wanted
    two = analysis.free_energy_difference(inside.reshape(2, 150), log_weights.reshape(2, 150), 300.0, 0)
    assert two.value == pytest.approx(wanted.value)
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


def test_relative_weights_stay_in_range():
    np.testing.assert_allclose(
        relative([np.array([5000.0, -np.inf]), np.array([4999.0])], [np.zeros(2), np.zeros(1)], "here"),
        [1.0, 0.0, np.exp(-1)],
    )
    for bad in ([np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]):
        with pytest.raises(DataError, match="are not numbers"):
            relative([np.array(bad)], [np.zeros(2)], "here")
    with pytest.raises(DataError, match=r"here: .* differ in number: \[2\] and \[3\]"):
        relative([np.zeros(2)], [np.zeros(3)], "here")
    with pytest.raises(DataError, match="here: there is no frame"):
        relative([np.zeros(0)], [np.zeros(0)], "here")


def test_balanced_weights_have_mean_one_and_keep_their_ratios():
    parts = [np.array([800.0, 801.0]), np.array([803.0]), np.zeros(0)]
    made = analysis.balanced(parts)
    assert np.exp(np.concatenate(made)).mean() == pytest.approx(1)
    np.testing.assert_allclose(made[0] - made[1], [-3, -2])
    assert [len(part) for part in analysis.balanced([np.zeros(0)])] == [0]
    assert analysis.balanced([]) == []
    with pytest.raises(DataError, match="one at least must be finite"):
        analysis.balanced([np.full(3, -np.inf)])


@pytest.mark.parametrize(("bias", "first"), [(0.0, 0), (1.0, 20)])
def test_settled_leaves_the_filling_out(bias, first):
    walker = WalkerFrames(alanine(1), 300.0, np.zeros(100), np.full(100, bias), np.zeros(100), 1, 0)
    assert list(range(100))[analysis.settled(walker)] == list(range(first, 100))


# ---------------------------------------------------------------------------------------------------- torsions


def alanine(count: int = 40) -> mdtraj.Trajectory:
    topology = mdtraj.Topology.from_openmm(molecules.alanine().topology)
    return mdtraj.Trajectory(molecules.frames(count, noise=0.03), topology)


@pytest.mark.parametrize(("kind", "compute"), [("phi", mdtraj.compute_phi), ("psi", mdtraj.compute_psi)])
def test_torsions_are_those_of_mdtraj(kind, compute):
    trajectory = alanine()
    values = analysis.torsion_values(trajectory, f"{kind} ALA 2")
    assert values.shape == (40,)
    np.testing.assert_allclose(np.exp(1j * values), np.exp(1j * compute(trajectory)[1][:, 0]), atol=2e-5)


def test_torsions_that_are_not_there():
    with pytest.raises(DataError, match="no torsion 'phi ALA 7'; there are: phi ALA 2"):
        analysis.torsion_values(alanine(), "phi ALA 7")
    with pytest.raises(SettingsError, match="chi"):
        analysis.torsion_values(alanine(), "chi1 ALA 2")
    with pytest.raises(DataError, match="like 'phi ALA 2'"):
        analysis.torsion_values(alanine(), " ")


def test_crossings_need_both_thresholds():
    low, high = -0.5, 0.5
    assert analysis.crossings(np.array([-1.0, 0.0, 1.0, 0.0, -1.0]), low, high) == (1, 1)
    assert analysis.crossings(np.array([-1.0, 0.4, -0.4, 0.4, -1.0]), low, high) == (0, 0)
    assert analysis.crossings(np.array([0.0, 0.1, 1.0, 0.1, 0.9]), low, high) == (0, 0)
    assert analysis.crossings(np.array([-1.0, 1.0, -1.0, 1.0]), low, high) == (2, 1)
    assert analysis.crossings(np.zeros(0), low, high) == (0, 0)
    assert analysis.crossings([-1, 1, -1], low, high) == (1, 1)
    with pytest.raises(DataError, match="frame 1 is not a number"):
        analysis.crossings([0.0, np.nan], low, high)


def test_depth_is_the_distance_to_the_nearer_border():
    angles = np.linspace(-np.pi, np.pi, 721)[1:-1]
    for above in (0.0, 1.0, -2.0):
        depth = analysis.depth(angles, above)
        np.testing.assert_array_equal(depth > 0, angles > above)
        borders = np.array([above, np.pi])
        gaps = np.abs(np.angle(np.exp(1j * (angles[:, None] - borders))))
        np.testing.assert_allclose(np.abs(depth), gaps.min(1), atol=1e-12)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        ([-150, -175, 175, 170, -170, -150], (0, 0)),  # an extended basin that reaches over 180 degrees
        ([-80, -10, 10, 60], (1, 0)),  # over the barrier at 0
        ([-150, -175, 175, 130, 60], (1, 0)),  # into the other state by way of 180 degrees
        ([60, 175, -175, -120, -10, 5, 60], (1, 1)),  # once round
        ([-80, -10, 10, -80], (0, 0)),  # over the barrier and straight back
    ],
)
def test_crossings_of_a_torsion(degrees, expected):
    assert analysis.crossings(analysis.depth(np.radians(degrees), 0.0), -0.35, 0.35) == expected


@pytest.mark.parametrize("room", ROOMS)
def test_examples_in_docstrings(room):
    found = doctest.testmod(import_module(f"latf_sampling.analysis.{room}"))
    assert found.attempted > 0
    assert found.failed == 0
