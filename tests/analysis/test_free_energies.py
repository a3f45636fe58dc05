"""Free energies against analytic values, and how often their intervals hold the exact value.

The coverage of 95 % intervals over n repeats scatters by sqrt(0.05 * 0.95 / n): with 400 repeats a correct program that
covers 0.95 leaves [0.90, 0.99] less than once in a thousand runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal
from scipy.stats import norm

from latf_sampling import analysis
from latf_sampling.analysis.blocks import BLOCK_LENGTH, MAX_BLOCKS, Blocks
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

TEMPERATURE = 300.0
KT = KB * TEMPERATURE
LOW, HIGH = 0.90, 0.99


def telegraph(rng, repeats: int, frames: int, rate_in: float, rate_out: float) -> np.ndarray:
    """Two-state Markov chains in equilibrium: inside with probability rate_in / (rate_in + rate_out); (repeats, n)."""
    uniform = rng.random((frames, repeats))
    inside = np.empty((frames, repeats), dtype=bool)
    inside[0] = uniform[0] < rate_in / (rate_in + rate_out)
    for t in range(1, frames):
        inside[t] = np.where(inside[t - 1], uniform[t] >= rate_out, uniform[t] < rate_in)
    return inside.T


def walk(rng, shape, tau: float, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    """Gaussian processes in equilibrium whose correlation decays as exp(-t / tau); time is the last axis."""
    stay = np.exp(-1 / tau)
    kicks = rng.normal(size=shape) * np.sqrt(1 - stay**2)
    kicks[..., 0] = rng.normal(size=shape[:-1])
    return mean + deviation * signal.lfilter([1.0], [1.0, -stay], kicks, axis=-1)


def gaussian_difference(threshold: float) -> float:
    """Free energy of x above a threshold less the rest, for a standard Gaussian."""
    return -KT * (norm.logsf(threshold) - norm.logcdf(threshold))


def covered(estimate, truth: float) -> bool:
    return estimate.interval[0] <= truth <= estimate.interval[1]


# --------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(
    ("frames", "walkers", "rate_in", "rate_out"),
    [
        (4000, 2, 0.02, 0.06),  # 120 visits
        (500, 2, 0.02, 0.06),  # 15 visits, 40 statistical inefficiencies
        (2000, 2, 0.002, 0.05),  # 8 visits to a rare state
        (1000, 4, 0.003, 0.003),  # 12 statistical inefficiencies
    ],
)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_intervals_of_jumping_walkers_hold_the_exact_value(frames, walkers, rate_in, rate_out, noise):
    # Frames inside weigh more, and weights differ from frame to frame as metadynamics makes them.
    rng, repeats = np.random.default_rng([1, frames]), 400
    truth = -KT * (np.log(rate_in / rate_out) + 2.5 * (noise > 0))
    chains = np.stack([telegraph(rng, repeats, frames, rate_in, rate_out) for _ in range(walkers)], axis=1)
    log_weights = np.where(chains, 2.5 * (noise > 0), 0.0) + noise * rng.normal(size=chains.shape)
    estimates = [
        analysis.free_energy_difference(list(inside), list(log_weight), TEMPERATURE, rng)
        for inside, log_weight in zip(chains, log_weights)
    ]
    assert LOW <= np.mean([covered(estimate, truth) for estimate in estimates]) <= HIGH
    assert np.mean([np.isinf(estimate.error) for estimate in estimates]) < 0.1


@pytest.mark.parametrize(("frames", "shift", "threshold"), [(2000, 0.0, 1.0), (2000, 1.0, 0.5), (600, 1.0, 0.5)])
def test_intervals_of_a_biased_walk_hold_the_exact_value(frames, shift, threshold):
    # A linear bias shifts a Gaussian; the weights exp(-shift x) shift it back.
    rng = np.random.default_rng([2, frames])
    estimates = [
        analysis.free_energy_difference(list(x > threshold), list(-shift * x), TEMPERATURE, rng)
        for x in walk(rng, (400, 2, frames), 20.0, shift)
    ]
    truth = gaussian_difference(threshold)
    assert LOW <= np.mean([covered(estimate, truth) for estimate in estimates]) <= HIGH
    scatter = np.std([estimate.value for estimate in estimates])
    assert 0.75 * scatter < np.median([estimate.error for estimate in estimates]) < 1.2 * scatter


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_of_a_profile_hold_the_exact_value_in_every_bin(shift):
    rng, edges = np.random.default_rng(3), np.linspace(-2, 2, 9)
    truth = -KT * np.log(np.diff(norm.cdf(edges)) / np.diff(norm.cdf(edges)).sum())
    held = []
    for x in walk(rng, (400, 2, 2000), 20.0, shift):
        profile = analysis.free_energy_profile(list(x), list(-shift * x), TEMPERATURE, rng, 8, (-2, 2))
        zero = KT * np.log(np.exp(-profile.values / KT).sum())  # from heights to -kT ln p
        held.append((profile.interval[0] + zero <= truth) & (truth <= profile.interval[1] + zero))
    assert (np.mean(held, axis=0) >= LOW).all()
    assert (np.mean(held, axis=0) <= HIGH).all()


def umbrellas(rng, frames: int, centers, tau: float, stiffness: float = 4.0):
    """Windows of a harmonic energy x^2 / 2 in kT with umbrellas: x per window, and MBAR over them."""
    variance = 1 / (1 + stiffness)
    x = [walk(rng, (frames,), tau, stiffness * c * variance, np.sqrt(variance)) for c in centers]
    joined = np.concatenate(x)
    bias = KT * np.array([stiffness / 2 * (joined - c) ** 2 for c in centers])
    states = np.repeat(np.arange(len(centers)), frames)
    return x, Multistate(KT * joined**2 / 2, bias, np.full(len(centers), TEMPERATURE), states, rng)


def test_intervals_include_the_error_of_free_energies_from_mbar():
    rng, truth, estimates, profiles = np.random.default_rng(4), gaussian_difference(1.5), [], []
    for _ in range(250):
        x, states = umbrellas(rng, 1000, [-1, 0, 1, 2, 3], 15.0)
        log_weights = np.split(states.log_weights(TEMPERATURE), 5)
        inside = [part > 1.5 for part in x]
        estimates.append(analysis.free_energy_difference(inside, log_weights, TEMPERATURE, rng, states))
        profiles.append(analysis.free_energy_profile(x, log_weights, TEMPERATURE, rng, 4, (-1.5, 2.5), states))
    assert LOW <= np.mean([covered(estimate, truth) for estimate in estimates]) <= HIGH
    scatter = np.std([estimate.value for estimate in estimates])
    assert 0.75 * scatter < np.median([estimate.error for estimate in estimates]) < 1.2 * scatter
    p = np.diff(norm.cdf(np.linspace(-1.5, 2.5, 5)))
    exact = -KT * np.log(p / p.sum())
    zeros = np.array([KT * np.log(np.exp(-profile.values / KT).sum()) for profile in profiles])[:, None, None]
    low, high = np.moveaxis(np.array([profile.interval for profile in profiles]) + zeros, 1, 0)
    assert (np.mean((low <= exact) & (exact <= high), axis=0) >= 0.88).all()


def test_intervals_hold_where_one_state_is_slow():
    # A slow state has a few long blocks of its own, a fast one has many short ones.
    rng, truth, estimates = np.random.default_rng(20), gaussian_difference(1.0), []
    for _ in range(100):
        x = [walk(rng, (4000,), 200.0), walk(rng, (4000,), 5.0, 0.0, np.sqrt(2))]
        energies = KT * np.concatenate(x) ** 2 / 2
        states = Multistate(energies, None, [TEMPERATURE, 2 * TEMPERATURE], np.repeat([0, 1], 4000), rng)
        log_weights = np.split(states.log_weights(TEMPERATURE), 2)
        estimates.append(analysis.free_energy_difference([p > 1.0 for p in x], log_weights, TEMPERATURE, rng, states))
    assert np.mean([covered(estimate, truth) for estimate in estimates]) >= 0.8


def test_each_state_has_blocks_of_its_own_length():
    rng = np.random.default_rng(21)
    x = [walk(rng, (2000,), tau) for tau in (100.0, 2.0, 100.0)]
    which = np.repeat([0, 1, 0], 2000)
    states = Multistate(np.zeros(6000), None, [TEMPERATURE] * 2, which, rng)
    blocks = Blocks([2000, 2000, 2000], [np.concatenate(x)], states)
    kinds = [np.unique(blocks.kinds[part]).tolist() for part in np.split(blocks.index, 3)]
    assert kinds == [[0], [1], [0]]
    assert np.bincount(blocks.kinds)[1] == MAX_BLOCKS > np.bincount(blocks.kinds)[0] >= 2
    assert 100 < blocks.inefficiency[0] < 800 and 2 < blocks.inefficiency[1] < 8
    assert (blocks.lost_variance < [0.4, 0.1]).all()


def test_states_that_do_not_overlap_bound_nothing():
    rng = np.random.default_rng(5)
    x, states = umbrellas(rng, 300, [-40, 40], 1.0)
    log_weights = np.split(states.log_weights(TEMPERATURE), 2)
    estimate = analysis.free_energy_difference([part > 0 for part in x], log_weights, TEMPERATURE, rng, states)
    assert estimate.error == np.inf
    with pytest.raises(DataError, match="300 frames, but MBAR was solved with 600"):
        analysis.free_energy_difference([x[0] > 0], log_weights[:1], TEMPERATURE, rng, states)


# ------------------------------------------------------------------------------------------------- differences


def test_difference_of_independent_frames():
    rng = np.random.default_rng(6)
    n, p = 400_000, 0.03
    estimate = analysis.free_energy_difference([rng.random(n) < p], [np.zeros(n)], TEMPERATURE, rng)
    exact_error = KT / np.sqrt(n * p * (1 - p))
    assert estimate.value == pytest.approx(-KT * np.log(p / (1 - p)), abs=4 * exact_error)
    assert estimate.frames == n
    assert estimate.blocks == MAX_BLOCKS
    assert estimate.effective_frames == pytest.approx(n)
    # A standard deviation from sixteen blocks is known to a fifth.
    assert 0.4 * exact_error < estimate.error < 1.8 * exact_error
    assert 0.8 * n < estimate.independent_frames <= n
    assert estimate.half_width > 2.1 * estimate.error
    assert sum(estimate.interval) / 2 == pytest.approx(estimate.value)


def test_frames_repeated_in_time_are_not_independent():
    rng = np.random.default_rng(7)
    inside = rng.random(4000) < 0.4
    once = analysis.free_energy_difference([inside], [np.zeros(4000)], TEMPERATURE, rng)
    often = analysis.free_energy_difference([np.repeat(inside, 25)], [np.zeros(100_000)], TEMPERATURE, rng)
    assert often.value == pytest.approx(once.value)
    assert 0.6 < often.error / once.error < 1.7
    assert often.effective_frames == pytest.approx(100_000)
    assert 2500 < often.independent_frames < 6000


def test_few_independent_frames_are_left_where_weights_are_uneven_and_frames_alike():
    # Of n / g independent frames uneven weights exp(s x) leave exp(-s^2) at most.
    rng, tau = np.random.default_rng(8), 20.0
    for slope in (0.0, 1.0):
        x = walk(rng, (200_000,), tau)
        estimate = analysis.free_energy_difference([x > slope], [slope * x], TEMPERATURE, rng)
        assert estimate.effective_frames == pytest.approx(200_000 * np.exp(-(slope**2)), rel=0.2)
        assert 0.6 < estimate.independent_frames / (200_000 / (2 * tau) * np.exp(-(slope**2))) < 2


def test_weights_undo_a_bias():
    # Flat sampling of a harmonic energy: weights exp(-E/kT); the answer is the ratio of two Gaussian integrals.
    rng = np.random.default_rng(8)
    x = rng.uniform(-6, 6, 300_000)
    estimate = analysis.free_energy_difference([x > 1], [-(x**2) / 2], TEMPERATURE, rng)
    assert estimate.value == pytest.approx(gaussian_difference(1.0), abs=5 * estimate.error)
    weight = np.exp(-(x**2) / 2)
    assert estimate.effective_frames == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_only_differences_of_log_weights_matter():
    rng = np.random.default_rng(9)
    inside, log_weights = rng.random(5000) < 0.4, rng.normal(size=5000)
    estimates = [
        analysis.free_energy_difference([inside], [log_weights + shift], TEMPERATURE, np.random.default_rng(0))
        for shift in (0.0, 5000.0, -5000.0)
    ]
    assert estimates[1].value == pytest.approx(estimates[0].value)
    assert estimates[2].error == pytest.approx(estimates[0].error)


def test_the_error_is_infinite_where_one_block_alone_has_a_state():
    inside = np.zeros(16_000, dtype=bool)
    inside[5500:5520] = True  # in one of sixteen blocks
    rng = np.random.default_rng(10)
    estimate = analysis.free_energy_difference([inside], [np.zeros(16_000)], TEMPERATURE, rng)
    assert estimate.value == pytest.approx(-KT * np.log(20 / 15_980))
    assert estimate.error == estimate.half_width == np.inf
    assert estimate.interval == (-np.inf, np.inf)


@pytest.mark.parametrize(("inside", "sign"), [(False, 1), (True, -1)])
def test_one_state_alone_bounds_nothing(inside, sign):
    rng = np.random.default_rng(11)
    estimate = analysis.free_energy_difference([np.full(100, inside)], [np.zeros(100)], TEMPERATURE, rng)
    assert estimate.value == sign * np.inf
    assert estimate.error == np.inf


def test_walkers_that_never_leave_bound_nothing():
    # One walker in each state: two blocks, each of which has frames in one state only.
    rng = np.random.default_rng(12)
    inside = [np.full(500, True), np.full(500, False)]
    estimate = analysis.free_energy_difference(inside, [np.zeros(500)] * 2, TEMPERATURE, rng)
    assert estimate.value == pytest.approx(0.0)
    assert estimate.error == np.inf


def test_short_and_empty_trajectories():
    rng = np.random.default_rng(13)
    inside = [np.array([], dtype=bool), np.array([True, False, True])]
    estimate = analysis.free_energy_difference(inside, [np.zeros(0), np.zeros(3)], TEMPERATURE, rng)
    assert estimate.value == pytest.approx(-KT * np.log(2))
    assert estimate.frames == 3
    with pytest.raises(DataError, match="there is no frame"):
        analysis.free_energy_difference([np.array([], dtype=bool)], [np.zeros(0)], TEMPERATURE, rng)


# ------------------------------------------------------------------------------------------------------ blocks


def test_statistical_inefficiency_of_a_walk():
    rng, tau = np.random.default_rng(14), 15.0
    inefficiency = analysis.statistical_inefficiency(list(walk(rng, (3, 60_000), tau)))
    assert inefficiency == pytest.approx((1 + np.exp(-1 / tau)) / (1 - np.exp(-1 / tau)), rel=0.2)
    assert analysis.statistical_inefficiency([np.ones(50), np.zeros(0)]) == 1.0
    assert analysis.statistical_inefficiency([]) == 1.0


def test_blocks_are_long_in_order_and_within_trajectories():
    rng = np.random.default_rng(15)
    lengths, series = [3000, 40, 1500], walk(rng, (4540,), 10.0)
    blocks = Blocks(lengths, [series])
    assert (np.diff(blocks.index) >= 0).all()
    assert np.unique(blocks.index).tolist() == list(range(blocks.count))
    sizes = np.bincount(blocks.index)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    assert {0, 3000, 3040, 4540} <= set(starts.tolist())
    assert sorted(sizes)[0] == 40
    assert sorted(sizes)[1] >= BLOCK_LENGTH * 0.6 * 20
    assert 0 < blocks.lost_variance <= 0.1


# ---------------------------------------------------------------------------------------- profiles and surfaces


def test_surface_and_profile_of_a_gaussian():
    rng = np.random.default_rng(16)
    x, y = rng.normal(size=(2, 2_000_000)) * [[1.0], [0.5]]
    extent = ((-2, 2), (-1, 1))
    zero = [np.zeros(len(x))]
    surface = analysis.free_energy_surface([x], [y], zero, TEMPERATURE, rng, 20, extent)
    across = np.diff(norm.cdf(surface.x_edges))
    exact = -KT * np.log(np.multiply.outer(across, np.diff(norm.cdf(surface.y_edges / 0.5))))
    assert surface.values.min() == 0
    assert surface.interval.shape == (2, 20, 20)
    # Counts of independent frames: relative errors 1 / sqrt(n), known to a fifth from sixteen blocks.
    counts = np.histogram2d(x, y, bins=20, range=extent)[0]
    deviation = KT * np.sqrt(1 / counts - 1 / counts.sum())
    assert (np.abs(surface.values - exact + exact.min()) < 5 * deviation + 5 * deviation.min()).all()
    ratio = surface.error / deviation
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)
    assert ((ratio > 0.3) & (ratio < 2)).all()
    profile = analysis.free_energy_profile([x], zero, TEMPERATURE, rng, 20, (-2, 2))
    np.testing.assert_allclose(profile.edges, surface.x_edges)
    np.testing.assert_allclose(profile.values, -KT * np.log(across / across.max()), atol=0.06)


def test_histograms_are_those_of_numpy():
    rng = np.random.default_rng(17)
    x, y = np.round(rng.normal(size=(2, 5000)), 1)  # many values on the edges of bins
    log_weights = rng.normal(size=5000)
    parts = [np.split(each, [2000]) for each in (x, y, log_weights)]
    surface = analysis.free_energy_surface(*parts, TEMPERATURE, rng, 8, ((-2, 2), (-1, 1)))
    counts = np.histogram2d(x, y, bins=8, range=((-2, 2), (-1, 1)), weights=np.exp(log_weights))[0]
    np.testing.assert_allclose(surface.values, -KT * np.log(counts / counts.max()), atol=1e-9)
    profile = analysis.free_energy_profile(parts[0], parts[2], TEMPERATURE, rng, 8)
    counts, edges = np.histogram(x, bins=8, weights=np.exp(log_weights))
    np.testing.assert_allclose(profile.edges, edges)
    np.testing.assert_allclose(profile.values, -KT * np.log(counts / counts.max()), atol=1e-9)


def test_surfaces_are_weighted_and_infinite_without_frames():
    rng = np.random.default_rng(18)
    x, log_weights = [np.array([0.25, 0.75, 0.75])], [np.log([1.0, 1.0, 2.0])]
    surface = analysis.free_energy_surface(x, x, log_weights, TEMPERATURE, rng, 2, ((0, 1), (0, 1)))
    np.testing.assert_allclose(surface.values, [[KT * np.log(3), np.inf], [np.inf, 0]], atol=1e-12)
    profile = analysis.free_energy_profile(x, log_weights, TEMPERATURE, rng, 4, (0, 1))
    np.testing.assert_allclose(profile.values, [np.inf, KT * np.log(3), np.inf, 0], atol=1e-12)
    assert np.isinf(profile.error[[0, 2]]).all()
    assert (profile.interval[0, [0, 2]] == -np.inf).all()
    assert (profile.interval[1, [0, 2]] == np.inf).all()


def test_invalid_values_are_refused():
    rng = np.random.default_rng(19)
    with pytest.raises(DataError, match="value of frame 1 is not a number"):
        analysis.free_energy_profile([np.array([0.0, np.nan])], [np.zeros(2)], TEMPERATURE, rng)
    with pytest.raises(DataError, match="lies within the extent"):
        analysis.free_energy_profile([np.zeros(3)], [np.zeros(3)], TEMPERATURE, rng, 4, (1, 2))
    with pytest.raises(DataError, match="differ in number"):
        analysis.free_energy_surface([np.zeros(3)], [np.zeros(2)], [np.zeros(3)], TEMPERATURE, rng)


def test_extents_and_numbers_of_bins():
    x = [np.random.default_rng(22).normal(size=500)]
    zero = [np.zeros(500)]
    profiles = [analysis.free_energy_profile(x, zero, 300.0, 0, 4, e) for e in ((-2, 2), [-2, 2], np.array([-2.0, 2]))]
    assert all((profile.edges == [-2, -1, 0, 1, 2]).all() for profile in profiles)
    surface = analysis.free_energy_surface(x, x, zero, 300.0, 0, (5, 6))
    assert surface.values.shape == (5, 6)
    for extent in ((2, -2), (np.nan, 1), (1, 2, 3), (0, 0), 5):
        with pytest.raises(SettingsError, match=r"free_energy_profile: the extent .* is not \(low, high\)"):
            analysis.free_energy_profile(x, zero, 300.0, 0, 4, extent)
    with pytest.raises(SettingsError, match="y low, y high"):
        analysis.free_energy_surface(x, x, zero, 300.0, 0, 4, (-1, 1))
    for bins in (0, -4, 2.5, None):
        with pytest.raises(SettingsError, match="in place of a whole number of 1 or more"):
            analysis.free_energy_profile(x, zero, 300.0, 0, bins)
    with pytest.raises(SettingsError, match="2 numbers of bins for 1"):
        analysis.free_energy_profile(x, zero, 300.0, 0, (5, 6))
