"""Free energies and their error bars against analytic values, torsions against MDTraj, and states on a circle."""

from __future__ import annotations

import mdtraj
import molecules
import numpy as np
import pytest

from latf_sampling import analysis
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.trajectories import WalkerFrames
from latf_sampling.units import KB

TEMPERATURE = 300.0
KT = KB * TEMPERATURE


def telegraph(rng, frames: int, rate_in: float, rate_out: float) -> np.ndarray:
    """A two-state Markov chain in equilibrium: inside with probability rate_in / (rate_in + rate_out)."""
    uniform = rng.random(frames)
    inside = np.empty(frames, dtype=bool)
    inside[0] = uniform[0] < rate_in / (rate_in + rate_out)
    for t in range(1, frames):
        inside[t] = uniform[t] >= rate_out if inside[t - 1] else uniform[t] < rate_in
    return inside


def coverage(rng, series: int, log_weight: float) -> float:
    """Share of 95 % bars that hold the known answer, for correlated series whose inside frames carry a weight."""
    rate_in, rate_out = 0.02, 0.06
    truth = -KT * (np.log(rate_in / rate_out) + log_weight)
    held = 0
    for _ in range(series):
        inside = [telegraph(rng, 4000, rate_in, rate_out) for _ in range(2)]
        weights = [np.where(part, log_weight, 0.0) for part in inside]
        estimate = analysis.free_energy_difference(inside, weights, TEMPERATURE, rng)
        held += abs(estimate.value - truth) < 1.96 * estimate.error
    return held / series


def test_error_bars_hold_the_answer_about_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(analysis, "RESAMPLES", 300)
    rng = np.random.default_rng(1)
    assert 0.86 <= coverage(rng, 200, 0.0) <= 0.99
    assert 0.86 <= coverage(rng, 200, 2.5) <= 0.99


def test_difference_of_independent_frames():
    rng = np.random.default_rng(2)
    n, p = 400_000, 0.03
    estimate = analysis.free_energy_difference([rng.random(n) < p], [np.zeros(n)], TEMPERATURE, rng)
    exact_error = KT / np.sqrt(n * p * (1 - p))
    assert estimate.value == pytest.approx(-KT * np.log(p / (1 - p)), abs=4 * exact_error)
    assert estimate.frames == n
    assert estimate.effective_frames == pytest.approx(n)
    # Ten blocks know a standard deviation to a quarter.
    assert 0.4 * exact_error < estimate.error < 1.8 * exact_error


def test_weights_undo_a_bias():
    # Flat sampling of a harmonic energy: weights exp(-E/kT); the answer is the ratio of two Gaussian integrals.
    from scipy.stats import norm

    rng = np.random.default_rng(3)
    x = rng.uniform(-6, 6, 300_000)
    estimate = analysis.free_energy_difference([x > 1], [-(x**2) / 2], TEMPERATURE, rng)
    assert estimate.value == pytest.approx(-KT * np.log(norm.sf(1) / norm.cdf(1)), abs=5 * estimate.error)
    weight = np.exp(-(x**2) / 2)
    assert estimate.effective_frames == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_only_differences_of_log_weights_matter():
    rng = np.random.default_rng(4)
    inside, log_weights = rng.random(5000) < 0.4, rng.normal(size=5000)
    made = [
        analysis.free_energy_difference([inside], [log_weights + shift], TEMPERATURE, np.random.default_rng(0))
        for shift in (0.0, 5000.0, -5000.0)
    ]
    assert made[1].value == pytest.approx(made[0].value)
    assert made[2].error == pytest.approx(made[0].error)


def test_the_error_is_infinite_where_resamples_lack_a_side():
    inside = np.zeros(1000, dtype=bool)
    inside[500:510] = True  # in one of ten blocks
    rng = np.random.default_rng(5)
    estimate = analysis.free_energy_difference([inside], [np.zeros(1000)], TEMPERATURE, rng)
    assert estimate.value == pytest.approx(-KT * np.log(10 / 990))
    assert estimate.error == np.inf


@pytest.mark.parametrize(("inside", "sign"), [(False, 1), (True, -1)])
def test_one_side_alone_bounds_nothing(inside, sign):
    rng = np.random.default_rng(6)
    estimate = analysis.free_energy_difference([np.full(100, inside)], [np.zeros(100)], TEMPERATURE, rng)
    assert estimate.value == sign * np.inf
    assert estimate.error == np.inf


def test_short_and_empty_trajectories():
    rng = np.random.default_rng(7)
    inside = [np.array([], dtype=bool), np.array([True, False, True])]
    estimate = analysis.free_energy_difference(inside, [np.zeros(0), np.zeros(3)], TEMPERATURE, rng)
    assert estimate.value == pytest.approx(-KT * np.log(2))
    assert estimate.frames == 3
    with pytest.raises(DataError, match="there is no frame"):
        analysis.free_energy_difference([np.array([], dtype=bool)], [np.zeros(0)], TEMPERATURE, rng)


def test_surface_and_profile_of_a_gaussian():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, 2_000_000)) * [[1.0], [0.5]]
    extent = ((-2, 2), (-1, 1))
    x_edges, y_edges, surface = analysis.free_energy_surface(x, y, np.ones(len(x)), TEMPERATURE, 20, extent)
    u, v = (edges[:-1] + np.diff(edges) / 2 for edges in (x_edges, y_edges))
    exact = KT * (u[:, None] ** 2 / 2 + v[None, :] ** 2 / 2 / 0.25)
    np.testing.assert_allclose(surface, exact - exact.min(), atol=0.25)
    assert surface.min() == 0
    edges, profile = analysis.free_energy_profile(x, np.ones(len(x)), TEMPERATURE, 20, (-2, 2))
    np.testing.assert_allclose(edges, x_edges)
    np.testing.assert_allclose(profile, KT * (u**2 - np.abs(u).min() ** 2) / 2, atol=0.06)


def test_surfaces_are_weighted_and_infinite_where_nothing_is():
    x, weights = np.array([0.25, 0.75, 0.75]), np.array([1.0, 1.0, 2.0])
    _, _, surface = analysis.free_energy_surface(x, x, weights, TEMPERATURE, 2, ((0, 1), (0, 1)))
    np.testing.assert_allclose(surface, [[KT * np.log(3), np.inf], [np.inf, 0]])
    _, profile = analysis.free_energy_profile(x, weights, TEMPERATURE, 4, (0, 1))
    np.testing.assert_allclose(profile, [np.inf, KT * np.log(3), np.inf, 0])


def test_balanced_weights_have_mean_one_and_keep_their_ratios():
    parts = [np.array([800.0, 801.0]), np.array([803.0]), np.zeros(0)]
    made = analysis.balanced(parts)
    assert np.exp(np.concatenate(made)).mean() == pytest.approx(1)
    np.testing.assert_allclose(made[0] - made[1], [-3, -2])
    assert [len(part) for part in analysis.balanced([np.zeros(0)])] == [0]


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


@pytest.mark.parametrize(("bias", "first"), [(0.0, 0), (1.0, 20)])
def test_settled_leaves_the_filling_out(bias, first):
    walker = WalkerFrames(alanine(1), 300.0, np.zeros(100), np.full(100, bias), np.zeros(100), 1, 0)
    assert list(range(100))[analysis.settled(walker)] == list(range(first, 100))
