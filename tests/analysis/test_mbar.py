"""Weights in temperature and from biases against analytic values, integrals, pymbar, and Kish's formula."""

import math

import numpy as np
import pymbar
import pytest
from openmm import unit
from scipy.special import logsumexp

from latf_sampling.analysis import mbar
from latf_sampling.analysis.mbar import Multistate, TemperatureReweighting
from latf_sampling.analysis.weights import kish, systematic
from latf_sampling.errors import DataError, SettingsError

TEMPERATURES = np.array([1.0, 1.4, 2.0])
UNSEEN = [0.9, 1.2, 1.7, 2.2]
DIM = 6
"""A harmonic oscillator in so many dimensions: E is gamma distributed, <E> = DIM kT / 2 and Z ~ (kT)^(DIM / 2)."""


def oscillator(counts, seed=0, temperatures=TEMPERATURES):
    """Energies of an oscillator at several kT, and the kT of each frame."""
    rng = np.random.default_rng(seed)
    energies = [rng.gamma(DIM / 2, kT, n) for kT, n in zip(temperatures, counts)]
    return np.concatenate(energies), np.repeat(temperatures, counts)


def reweighting_of(energies, temperatures, weights=None, boltzmann=1.0, seed=1):
    return TemperatureReweighting(energies, temperatures, weights, boltzmann, np.random.default_rng(seed))


def error(weights, values):
    """Standard error of a weighted mean of independent values."""
    return math.sqrt(np.sum(weights**2 * (values - weights @ values) ** 2))


# ---------------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize("counts", [[4000, 4000, 4000], [8000, 500, 2000]])
@pytest.mark.parametrize("solved", [1000, mbar.SOLVED_FRAMES])
def test_free_energies_of_an_oscillator(monkeypatch, counts, solved):
    monkeypatch.setattr(mbar, "SOLVED_FRAMES", solved)
    energies, temperatures = oscillator(counts)
    exact = -0.5 * DIM * np.log(TEMPERATURES / TEMPERATURES[0])
    used = np.minimum(counts, solved)
    reduced = np.multiply.outer(1 / TEMPERATURES, oscillator(used, seed=5)[0])
    deviation = pymbar.MBAR(reduced, used).compute_free_energy_differences()["dDelta_f"][0]
    free_energies = reweighting_of(energies, temperatures).free_energies
    assert free_energies[0] == 0
    assert (np.abs(free_energies - exact)[1:] < 4.5 * deviation[1:]).all()
    assert deviation.max() < 0.2  # small enough that the comparison says something


@pytest.mark.parametrize("kT", UNSEEN)
def test_mean_energy_and_heat_capacity_at_unseen_temperatures(kT):
    energies, temperatures = oscillator([4000, 3000, 5000], seed=2)
    reweighting = reweighting_of(energies, temperatures)
    weights = np.exp(reweighting.log_weights(kT))
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert abs(weights @ energies - 0.5 * DIM * kT) < 4.5 * error(weights, energies)
    squares = (energies - 0.5 * DIM * kT) ** 2 / kT**2
    assert abs(reweighting.heat_capacity(kT) - 0.5 * DIM) < 5 * error(weights, squares)
    plain = np.ones(len(energies)) / len(energies)
    assert abs(plain @ energies - 0.5 * DIM * kT) > 4.5 * error(plain, energies)  # weights are needed for it


def test_weights_and_expectations_are_those_of_pymbar():
    counts, unseen = [1500, 1000, 500], 1.6
    energies, temperatures = oscillator(counts, seed=3)
    # The unseen temperature as one more state, without frames.
    states = np.array([*TEMPERATURES, unseen])
    solution = pymbar.MBAR(np.multiply.outer(1 / states, energies), [*counts, 0], solver_protocol="robust")
    reweighting = reweighting_of(energies, temperatures)
    np.testing.assert_allclose(reweighting.free_energies, solution.f_k[:3], atol=1e-6)
    for k, kT in enumerate(states):
        np.testing.assert_allclose(np.exp(reweighting.log_weights(kT)), solution.weights()[:, k], rtol=1e-5, atol=1e-12)
    expected = solution.compute_expectations(energies)
    for kT, mean, deviation in zip(states, expected["mu"], expected["sigma"]):
        weights = np.exp(reweighting.log_weights(kT))
        assert weights @ energies == pytest.approx(mean, rel=1e-5)
        assert error(weights, energies) == pytest.approx(deviation, rel=0.3)


def test_one_temperature_is_plain_reweighting():
    energies, temperatures = oscillator([500], temperatures=[1.3])
    reweighting = reweighting_of(energies, temperatures)
    assert reweighting.free_energies.tolist() == [0.0]
    np.testing.assert_allclose(np.exp(reweighting.log_weights(1.3)), np.full(500, 1 / 500), rtol=1e-12)
    by_hand = np.exp(-energies * (1 / 1.5 - 1 / 1.3))
    np.testing.assert_allclose(np.exp(reweighting.log_weights(1.5)), by_hand / by_hand.sum(), rtol=1e-10)


def test_order_of_frames_and_unit_of_energy_do_not_matter():
    energies, temperatures = oscillator([800, 800, 800], seed=4)
    order = np.random.default_rng(0).permutation(len(energies))
    first = reweighting_of(energies, temperatures)
    shuffled = reweighting_of(energies[order], temperatures[order])
    kB = 0.00831446
    scaled = reweighting_of(energies * 2.5, temperatures * 2.5 / kB, boltzmann=kB)
    assert scaled.temperatures == pytest.approx(TEMPERATURES * 2.5 / kB)
    for kT in UNSEEN:
        np.testing.assert_allclose(shuffled.log_weights(kT), first.log_weights(kT)[order], atol=1e-5)
        np.testing.assert_allclose(scaled.log_weights(kT * 2.5 / kB), first.log_weights(kT), atol=1e-5)


# ---------------------------------------------------------------------------------------- effective sample size


def test_effective_sample_size_is_that_of_kish():
    energies, temperatures = oscillator([2000, 1000, 500], seed=6)
    reweighting = reweighting_of(energies, temperatures)
    for kT in [*UNSEEN, *TEMPERATURES]:
        assert reweighting.effective_sample_size(kT) == pytest.approx(kish(np.exp(reweighting.log_weights(kT))))
    sizes = [reweighting.effective_sample_size(kT) for kT in (0.1, 0.5, 1.4, 8.0, 50.0)]
    assert np.argmax(sizes) == 2
    assert sizes[0] < 50
    assert sizes[2] <= 3500


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0])
def test_effective_sample_size_of_a_gaussian_energy(spread):
    # <w>^2 / <w^2> = exp(-(change of 1/kT)^2 variance) of a normally distributed energy.
    n, change = 50_000, 0.1
    energies = np.random.default_rng(7).normal(1000.0, spread / change, n)
    fraction = reweighting_of(energies, np.ones(n)).effective_sample_size(1 / (1 + change)) / n
    assert fraction == pytest.approx(math.exp(-(spread**2)), rel=0.1)


# ---------------------------------------------------------------------------------------- bias


def test_biased_frames_are_right_with_their_weights_and_wrong_without():
    # Frames at kT = 2 under the bias V = E: they are those of kT = 1. Their weights exp(V / kT) undo it.
    rng = np.random.default_rng(8)
    plain, biased = rng.gamma(DIM / 2, 1.2, 4000), rng.gamma(DIM / 2, 1.0, 8000)
    undo = np.exp(biased / 2.0)
    undo *= kish(undo) / undo.sum()
    energies, temperatures = np.concatenate([plain, biased]), np.repeat([1.2, 2.0], [4000, 8000])
    weighted = reweighting_of(energies, temperatures, np.concatenate([np.ones(4000), undo]))
    ignored = reweighting_of(energies, temperatures)
    exact = 0.5 * DIM * math.log(1.2 / 2.0)
    assert weighted.free_energies[1] == pytest.approx(exact, abs=0.1)
    assert abs(ignored.free_energies[1] - exact) > 0.3
    for kT in (1.0, 1.5):
        right, wrong = (np.exp(each.log_weights(kT)) for each in (weighted, ignored))
        assert abs(right @ energies - 0.5 * DIM * kT) < 5 * error(right, energies)
        assert abs(wrong @ energies - 0.5 * DIM * kT) > 10 * error(wrong, energies)
        drawn = energies[systematic(right, 20_000, rng)]
        assert abs(drawn.mean() - 0.5 * DIM * kT) < 6 * error(right, energies)
    assert (right[4000:] > 0).all()


def test_a_frame_of_weight_two_is_two_frames():
    energies, temperatures = oscillator([300, 300], seed=9, temperatures=[1.0, 1.5])
    weights = np.random.default_rng(0).integers(1, 4, 600).astype(float)
    twice = np.repeat(np.arange(600), weights.astype(int))
    reduced = np.multiply.outer([1, 1 / 1.5, 1 / 1.2], energies[twice])
    solution = pymbar.MBAR(reduced, [weights[:300].sum(), weights[300:].sum(), 0], solver_protocol="robust")
    reweighting = reweighting_of(energies, temperatures, weights)
    # Free energies are solved on frames drawn by weight, hence the tolerance.
    assert reweighting.free_energies[1] == pytest.approx(solution.f_k[1], abs=0.1)
    by_hand = np.bincount(twice, solution.weights()[:, 2])
    assert np.abs(np.exp(reweighting.log_weights(1.2)) / by_hand - 1).max() < 0.1


def test_a_frame_without_weight_does_not_count():
    energies, temperatures = oscillator([300, 300, 300], seed=10)
    weights = np.ones(900)
    weights[::3] = 0
    energies[::3] = 123.0  # whatever it is
    reweighting = reweighting_of(energies, temperatures, weights)
    others = reweighting_of(energies[weights > 0], temperatures[weights > 0])
    all_weights = np.exp(reweighting.log_weights(1.2))
    assert (all_weights[::3] == 0).all()
    np.testing.assert_allclose(all_weights[weights > 0], np.exp(others.log_weights(1.2)), rtol=1e-5)


# ---------------------------------------------------------------------------------------- extreme numbers


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_a_constant_changes_no_weight_however_large(offset):
    energies, temperatures = oscillator([500, 500, 500], seed=11)
    plain, moved = reweighting_of(energies, temperatures), reweighting_of(energies + offset, temperatures)
    shift = offset * (1 / TEMPERATURES - 1 / TEMPERATURES[0])
    np.testing.assert_allclose(moved.free_energies, plain.free_energies + shift, atol=1e-6)
    for kT in UNSEEN:
        np.testing.assert_allclose(moved.log_weights(kT), plain.log_weights(kT), atol=1e-6)


def test_energies_far_apart_overflow_nothing():
    # Frames that cannot overlap, as of a large system at room temperature, and one exploded frame.
    rng = np.random.default_rng(12)
    energies = np.concatenate([rng.normal(-1e6, 50, 500), rng.normal(-9.9e5, 50, 500), [1e6]])
    reweighting = reweighting_of(energies, np.repeat([300.0, 400.0], [500, 501]), boltzmann=0.0083)
    assert np.isfinite(reweighting.free_energies).all()
    for kelvin in (250.0, 300.0, 350.0, 400.0, 500.0):
        log = reweighting.log_weights(kelvin)
        assert not np.isnan(log).any()
        assert logsumexp(log) == pytest.approx(0.0, abs=1e-9)
        assert 1 - 1e-9 <= reweighting.effective_sample_size(kelvin) <= 1001
    np.testing.assert_allclose(np.exp(reweighting.log_weights(300.0)), np.repeat([1 / 500, 0], [500, 501]), atol=1e-12)


@pytest.mark.parametrize(
    ("energies", "temperatures", "weights", "words"),
    [
        (np.zeros(4), np.ones(5), None, ["4 energies", "5 temperatures"]),
        (np.zeros(4), np.ones(4), np.ones(3), ["3 weights"]),
        (np.array([0, 1, np.nan]), np.ones(3), None, ["frame 2", "not finite"]),
        (np.array([0, np.inf, 1]), np.ones(3), None, ["frame 1"]),
    ],
)
def test_inconsistent_arguments_are_refused(energies, temperatures, weights, words):
    with pytest.raises(DataError) as refused:
        reweighting_of(energies, temperatures, weights)
    for word in words:
        assert word in str(refused.value)


# ---------------------------------------------------------------------------------------- temperatures and biases

KTS = np.array([1.0, 1.0, 1.5, 2.0, 1.0])
STIFFNESS = np.array([0.0, 3.0, 2.0, 0.0, 6.0])
CENTERS = np.array([0.0, 1.0, -1.5, 0.0, 2.0])
"""States of the energy x^2 / 2: kT, and the umbrella's stiffness and center; two are unbiased."""


def umbrella_frames(counts, seed=0):
    """Exact samples of all states: x, the bias of each state at each frame (K, n), and the states of the frames."""
    rng = np.random.default_rng(seed)
    total = 1 + STIFFNESS
    mean, deviation = STIFFNESS * CENTERS / total, np.sqrt(KTS / total)
    x = np.concatenate([rng.normal(m, d, n) for m, d, n in zip(mean, deviation, counts)])
    bias = STIFFNESS[:, None] / 2 * (x - CENTERS[:, None]) ** 2
    return x, bias, np.repeat(np.arange(len(counts)), counts)


def mixture(counts, seed=0):
    x, bias, states = umbrella_frames(counts, seed)
    return x, Multistate(x**2 / 2, bias, KTS, states, np.random.default_rng(1), boltzmann=1.0)


def exact_free_energies():
    """-ln Z of the states, the first one's 0: Gaussian integrals."""
    total = 1 + STIFFNESS
    free_energies = STIFFNESS * CENTERS**2 / (2 * KTS * total) - np.log(2 * np.pi * KTS / total) / 2
    return free_energies - free_energies[0]


@pytest.mark.parametrize("counts", [[2000] * 5, [4000, 500, 1000, 300, 2000]])
@pytest.mark.parametrize("solved", [500, mbar.SOLVED_FRAMES])
def test_states_of_several_biases_and_temperatures(monkeypatch, counts, solved):
    monkeypatch.setattr(mbar, "SOLVED_FRAMES", solved)
    x, states = mixture(counts)
    again, bias, _ = umbrella_frames(np.minimum(counts, solved), seed=5)
    reduced = (again**2 / 2 + bias) / KTS[:, None]
    deviation = pymbar.MBAR(reduced, np.minimum(counts, solved)).compute_free_energy_differences()["dDelta_f"][0]
    assert states.free_energies[0] == 0
    assert (np.abs(states.free_energies - exact_free_energies())[1:] < 4.5 * deviation[1:]).all()
    assert deviation.max() < 0.2
    for kT in (0.9, 1.0, 1.3, 2.0):
        weights = np.exp(states.log_weights(kT))
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        # The error of the free energies adds to that of the frames, hence the factor.
        assert abs(weights @ x) < 4.5 * (error(weights, x) + deviation.max() * 0.5)
        assert abs(weights @ x**2 - kT) < 4.5 * (error(weights, x**2) + deviation.max() * 0.5)
        assert states.effective_sample_size(kT) == pytest.approx(kish(weights))


def test_weights_of_biased_states_are_those_of_pymbar():
    counts = [400, 300, 200, 500, 100]
    x, bias, _ = umbrella_frames(counts, seed=2)
    reduced = np.vstack([(x**2 / 2 + bias) / KTS[:, None], x**2 / 2 / 1.2])
    solution = pymbar.MBAR(reduced, [*counts, 0], solver_protocol="robust")
    _, states = mixture(counts, seed=2)
    np.testing.assert_allclose(states.free_energies, solution.f_k[:5], atol=1e-6)
    np.testing.assert_allclose(np.exp(states.log_weights(1.2)), solution.weights()[:, 5], rtol=1e-5, atol=1e-12)


def test_a_double_well_under_umbrellas_against_integrals():
    # Exact samples of exp(-(E + V) / kT) by inverting its cumulative sum on a fine grid.
    rng, grid = np.random.default_rng(3), np.linspace(-3, 3, 20_001)
    kts = np.array([1.0, 1.0, 1.0, 1.6])
    centers = np.array([-1.2, 0.0, 1.2, 0.0])
    stiffness = np.array([4.0, 4.0, 4.0, 0.0])

    def energy(x):
        return 5 * (x**2 - 1) ** 2 + 0.7 * x

    def draw(kT, center, k, n):
        p = np.exp(-(energy(grid) + k / 2 * (grid - center) ** 2) / kT)
        return np.interp(rng.random(n), np.cumsum(p) / p.sum(), grid)

    x = np.concatenate([draw(*each, 4000) for each in zip(kts, centers, stiffness)])
    bias = stiffness[:, None] / 2 * (x - centers[:, None]) ** 2
    states = Multistate(energy(x), bias, kts, np.repeat(np.arange(4), 4000), rng, boltzmann=1.0)
    for kT in (0.9, 1.0, 1.4):
        p = np.exp(-energy(grid) / kT)
        truth = p[grid > 0].sum() / p.sum()
        assert np.exp(states.log_weights(kT)) @ (x > 0) == pytest.approx(truth, abs=0.03)
        assert abs((x > 0).mean() - truth) > 0.05  # weights are needed for it


def test_unbiased_states_are_temperature_reweighting():
    energies, temperatures = oscillator([700, 300, 500], seed=14)
    which = np.repeat([0, 1, 2], [700, 300, 500])
    by_temperature = reweighting_of(energies, temperatures)
    for bias in (None, np.zeros((3, 1500))):
        states = Multistate(energies, bias, TEMPERATURES, which, np.random.default_rng(1), boltzmann=1.0)
        np.testing.assert_allclose(states.log_weights(1.6), by_temperature.log_weights(1.6), rtol=1e-12)
        assert states.heat_capacity(1.6) == pytest.approx(by_temperature.heat_capacity(1.6))
    assert len(states) == 1500


def test_a_constant_in_a_bias_shifts_its_free_energy_alone():
    x, bias, which = umbrella_frames([300] * 5, seed=4)
    shift = np.array([0.0, 300.0, -2000.0, 5.0, 1.0])
    plain, shifted = [
        Multistate(x**2 / 2, each, KTS, which, np.random.default_rng(1), boltzmann=1.0)
        for each in (bias, bias + shift[:, None])
    ]
    np.testing.assert_allclose(shifted.free_energies, plain.free_energies + shift / KTS, atol=1e-5)
    np.testing.assert_allclose(shifted.log_weights(1.1), plain.log_weights(1.1), atol=1e-5)


def test_states_without_frames_change_nothing():
    x, bias, which = umbrella_frames([500, 0, 400, 0, 600], seed=6)
    with_empty = Multistate(x**2 / 2, bias, KTS, which, np.random.default_rng(1), boltzmann=1.0)
    used = np.array([0, 2, 4])
    renumbered = np.searchsorted(used, which)
    without = Multistate(x**2 / 2, bias[used], KTS[used], renumbered, np.random.default_rng(1), boltzmann=1.0)
    np.testing.assert_allclose(with_empty.free_energies[used], without.free_energies, atol=1e-5)
    np.testing.assert_allclose(with_empty.log_weights(1.2), without.log_weights(1.2), atol=1e-5)
    assert np.isfinite(with_empty.free_energies).all()


def test_chunks_change_nothing(monkeypatch):
    x, at_once = mixture([300] * 5, seed=7)
    sets, blocks = (x > 0.5).astype(int), np.arange(1500) // 75
    monkeypatch.setattr(mbar, "CHUNK", 333)
    _, chunked = mixture([300] * 5, seed=7)
    np.testing.assert_allclose(chunked.log_weights(1.1), at_once.log_weights(1.1), rtol=1e-12)
    weights = np.exp(at_once.log_weights(1.1))
    responses = [each.response(blocks, 20, sets, 2, weights) for each in (at_once, chunked)]
    np.testing.assert_allclose(*responses, atol=1e-10)
    monkeypatch.setattr(mbar, "SOLVED_ENTRIES", 25 * 100)  # 100 frames a state
    _, fewer = mixture([300] * 5, seed=7)
    assert np.abs(fewer.free_energies - at_once.free_energies).max() > 1e-4
    np.testing.assert_allclose(fewer.free_energies, at_once.free_energies, atol=0.5)


def test_the_response_to_a_block_is_that_of_solving_again():
    counts = [400, 300, 200, 500, 600]
    x, bias, which = umbrella_frames(counts, seed=8)
    _, states = mixture(counts, seed=8)
    weights, sets = np.exp(states.log_weights(1.0)), (x > 1.0).astype(int)
    blocks = np.arange(len(x)) // 20
    response = states.response(blocks, 100, sets, 2, weights)

    def ratio(selected):
        again = Multistate(
            x[selected] ** 2 / 2, bias[:, selected], KTS, which[selected], np.random.default_rng(0), boltzmann=1.0
        )
        sums = np.bincount(sets[selected], np.exp(again.log_weights(1.0)))
        return np.log(sums[1] / sums[0])

    before, first, solved = ratio(np.arange(len(x))), [], []
    for block in range(0, 100, 7):
        frames = np.flatnonzero(blocks == block)
        own = np.bincount(sets[frames], weights[frames], 2) / np.bincount(sets, weights)
        first.append(np.diff(own + response[block])[0])
        solved.append(ratio(np.sort(np.append(np.arange(len(x)), frames))) - before)
    np.testing.assert_allclose(first, solved, atol=0.1 * np.std(solved))
    assert np.std(np.diff(response, axis=1)) > 0.1 * np.std(solved)  # there is something to solve for
    outside = states.response(blocks, 100, np.where(x > 1.0, sets, -1), 2, weights)
    np.testing.assert_allclose(outside[:, 1], response[:, 1])
    assert (outside[:, 0] == 0).all()


def test_a_subset_is_what_its_frames_alone_give():
    counts = [400, 300, 200, 500, 600]
    x, bias, which = umbrella_frames(counts, seed=8)
    states = Multistate(x**2 / 2 + 70, bias, KTS, which, 1, boltzmann=1.0)
    selected = np.arange(0, len(x), 3)
    alone = Multistate(x[selected] ** 2 / 2 + 70, bias[:, selected], KTS, which[selected], 1, boltzmann=1.0)
    subset = states.subset(selected, np.random.default_rng(1))
    np.testing.assert_allclose(subset.free_energies, alone.free_energies, atol=1e-5)
    np.testing.assert_allclose(subset.log_weights(1.2), alone.log_weights(1.2), atol=1e-5)


def test_the_influence_of_a_frame_is_that_of_a_block_of_it():
    x, states = mixture([60, 50, 40, 50, 60], seed=3)
    weights, sets = np.exp(states.log_weights(1.0)), (x < 1.0).astype(int)
    totals = np.bincount(sets, weights)
    influence = weights * np.where(sets == 0, 1 / totals[0], -1 / totals[1])
    response = states.response(np.arange(len(x)), len(x), sets, 2, weights)
    total = states.total_influence(influence)
    np.testing.assert_allclose(total, influence + response[:, 0] - response[:, 1], atol=1e-10)
    assert np.std(total - influence) > 0.1 * np.std(influence)


def test_energies_biases_and_temperatures_may_have_units():
    x, bias, which = umbrella_frames([50] * 5, seed=9)
    kj = Multistate(4.184 * x**2, 4.184 * bias, np.full(5, 300.0), which, 1)
    for energies, biases in (
        (x**2 * unit.kilocalorie_per_mole, bias * unit.kilocalorie_per_mole),
        (x**2 * 4.184 * unit.kilojoule_per_mole, [row * unit.kilocalorie_per_mole for row in bias]),
    ):
        states = Multistate(energies, biases, 300.0 * unit.kelvin, which.astype(float), 1)
        np.testing.assert_allclose(states.free_energies, kj.free_energies, atol=1e-9)
    with pytest.raises(SettingsError, match="energies: an array in nanometer is not an energy"):
        Multistate(x * unit.nanometer, bias, np.full(5, 300.0), which, 1)


def test_values_are_centered_in_their_own_state():
    _, states = mixture([3, 0, 2, 0, 1])
    centered = states.centered(np.array([1.0, 2.0, 3.0, 10.0, 20.0, 7.0]))
    np.testing.assert_allclose(centered, [-1, 0, 1, -5, 5, 0])


@pytest.mark.parametrize(
    ("bias", "temperatures", "states", "weights", "words"),
    [
        (np.zeros((2, 3)), [1.0, 1.0], [0, 0, 1, 1], None, ["(2, 3)", "(2, 4)"]),
        (np.zeros((3, 4)), [1.0, 1.0], [0, 0, 1, 1], None, ["(3, 4)", "(2, 4)"]),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), [1.0, 1.0], [0, 0, 1, 1], None, ["state 1 at frame 1"]),
        (None, [1.0, 1.0], [0, 0, 1, 2], None, ["states 0 to 2", "2 only"]),
        (None, [1.0, 1.0], [0, 0, -1, 1], None, ["states -1 to 1"]),
        (None, [1.0, 0.0], [0, 0, 1, 1], None, ["above 0"]),
        (None, [1.0, 1.0], [0, 0, 1], None, ["4 energies", "3 states"]),
        (None, [1.0, np.nan], [0, 0, 1, 1], None, ["finite and above 0"]),
        (None, [[1.0, 1.0]], [0, 0, 1, 1], None, ["temperatures have the shape (1, 2)"]),
        (None, [1.0, 1.0], [0, 0, 0.5, 1], None, ["states are whole numbers"]),
        (None, [1.0, 1.0], 0, None, ["states have the shape ()"]),
        (None, [1.0, 1.0], [0, 0, 1, 1], np.zeros(4), ["weights"]),
        (None, [1.0, 1.0], [0, 0, 1, 1], np.array([1, -1, 1, 1.0]), ["weights"]),
    ],
)
def test_inconsistent_states_are_refused(bias, temperatures, states, weights, words):
    rng = np.random.default_rng(0)
    with pytest.raises(SettingsError if "above 0" in words[0] else DataError) as refused:
        Multistate(np.zeros(4), bias, np.array(temperatures), np.array(states), rng, weights, 1.0)
    for word in words:
        assert word in str(refused.value)
    with pytest.raises(DataError, match="there is no frame"):
        Multistate([], None, [1.0], [], rng)
