"""Weights in temperature against harmonic oscillators, pymbar's own answers, Kish's formula, and what bias must do."""

import doctest
import math

import numpy as np
import pymbar
import pytest
from scipy.special import logsumexp

from latf_sampling import reweighting as room
from latf_sampling.errors import DataError
from latf_sampling.reweighting import TemperatureReweighting, kish, systematic

TEMPERATURES = np.array([1.0, 1.4, 2.0])
UNSEEN = [0.9, 1.2, 1.7, 2.2]
DIM = 6
"""A harmonic oscillator in so many dimensions: E is gamma distributed, <E> = DIM kT / 2 and Z ~ (kT)^(DIM / 2)."""


def oscillator(counts, seed=0, temperatures=TEMPERATURES):
    """Energies of an oscillator at several kT, and the kT of each frame."""
    rng = np.random.default_rng(seed)
    energies = [rng.gamma(DIM / 2, kT, n) for kT, n in zip(temperatures, counts)]
    return np.concatenate(energies), np.repeat(temperatures, counts)


def made(energies, temperatures, weights=None, boltzmann=1.0, seed=1):
    return TemperatureReweighting(energies, temperatures, weights, boltzmann, np.random.default_rng(seed))


def error(weights, values):
    """Standard error of a weighted mean of independent values."""
    return math.sqrt(np.sum(weights**2 * (values - weights @ values) ** 2))


# ---------------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize("counts", [[4000, 4000, 4000], [8000, 500, 2000]])
@pytest.mark.parametrize("solved", [1000, room.SOLVED_FRAMES])
def test_free_energies_of_an_oscillator(monkeypatch, counts, solved):
    monkeypatch.setattr(room, "SOLVED_FRAMES", solved)
    energies, temperatures = oscillator(counts)
    exact = -0.5 * DIM * np.log(TEMPERATURES / TEMPERATURES[0])
    used = np.minimum(counts, solved)
    reduced = np.multiply.outer(1 / TEMPERATURES, oscillator(used, seed=5)[0])
    deviation = pymbar.MBAR(reduced, used).compute_free_energy_differences()["dDelta_f"][0]
    found = made(energies, temperatures).free_energies
    assert found[0] == 0
    assert (np.abs(found - exact)[1:] < 4.5 * deviation[1:]).all()
    assert deviation.max() < 0.2  # small enough that the comparison says something


@pytest.mark.parametrize("kT", UNSEEN)
def test_mean_energy_and_heat_capacity_at_unseen_temperatures(kT):
    energies, temperatures = oscillator([4000, 3000, 5000], seed=2)
    reweighting = made(energies, temperatures)
    weights = np.exp(reweighting.log_weights(kT))
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert abs(weights @ energies - 0.5 * DIM * kT) < 4.5 * error(weights, energies)
    squares = (energies - 0.5 * DIM * kT) ** 2 / kT**2
    assert abs(reweighting.heat_capacity(kT) - 0.5 * DIM) < 5 * error(weights, squares)
    plain = np.ones(len(energies)) / len(energies)
    assert abs(plain @ energies - 0.5 * DIM * kT) > 4.5 * error(plain, energies)  # weights are needed for it


def test_weights_and_expectations_are_pymbar_s_own():
    counts, unseen = [1500, 1000, 500], 1.6
    energies, temperatures = oscillator(counts, seed=3)
    # The unseen temperature as one more state, without frames.
    states = np.array([*TEMPERATURES, unseen])
    mbar = pymbar.MBAR(np.multiply.outer(1 / states, energies), [*counts, 0], solver_protocol="robust")
    reweighting = made(energies, temperatures)
    np.testing.assert_allclose(reweighting.free_energies, mbar.f_k[:3], atol=1e-6)
    for k, kT in enumerate(states):
        np.testing.assert_allclose(np.exp(reweighting.log_weights(kT)), mbar.weights()[:, k], rtol=1e-5, atol=1e-12)
    expected = mbar.compute_expectations(energies)
    for kT, mean, deviation in zip(states, expected["mu"], expected["sigma"]):
        weights = np.exp(reweighting.log_weights(kT))
        assert weights @ energies == pytest.approx(mean, rel=1e-5)
        assert error(weights, energies) == pytest.approx(deviation, rel=0.3)


def test_one_temperature_is_plain_reweighting():
    energies, temperatures = oscillator([500], temperatures=[1.3])
    reweighting = made(energies, temperatures)
    assert reweighting.free_energies.tolist() == [0.0]
    np.testing.assert_allclose(np.exp(reweighting.log_weights(1.3)), np.full(500, 1 / 500), rtol=1e-12)
    by_hand = np.exp(-energies * (1 / 1.5 - 1 / 1.3))
    np.testing.assert_allclose(np.exp(reweighting.log_weights(1.5)), by_hand / by_hand.sum(), rtol=1e-10)


def test_order_of_frames_and_unit_of_energy_do_not_matter():
    energies, temperatures = oscillator([800, 800, 800], seed=4)
    order = np.random.default_rng(0).permutation(len(energies))
    first = made(energies, temperatures)
    shuffled = made(energies[order], temperatures[order])
    kB = 0.00831446
    scaled = made(energies * 2.5, temperatures * 2.5 / kB, boltzmann=kB)
    assert scaled.temperatures == pytest.approx(TEMPERATURES * 2.5 / kB)
    for kT in UNSEEN:
        np.testing.assert_allclose(shuffled.log_weights(kT), first.log_weights(kT)[order], atol=1e-5)
        np.testing.assert_allclose(scaled.log_weights(kT * 2.5 / kB), first.log_weights(kT), atol=1e-5)


# ---------------------------------------------------------------------------------------- effective sample size


def test_kish_by_hand():
    assert kish(np.ones(7)) == pytest.approx(7)
    assert kish(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert kish(np.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert kish(1e3 * np.array([3.0, 1.0])) == pytest.approx(16 / 10)


def test_effective_sample_size_is_kish_s():
    energies, temperatures = oscillator([2000, 1000, 500], seed=6)
    reweighting = made(energies, temperatures)
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
    found = made(energies, np.ones(n)).effective_sample_size(1 / (1 + change)) / n
    assert found == pytest.approx(math.exp(-(spread**2)), rel=0.1)


# ---------------------------------------------------------------------------------------- bias


def test_biased_frames_are_right_with_their_weights_and_wrong_without():
    # Frames at kT = 2 under the bias V = E: they are those of kT = 1. Their weights exp(V / kT) undo it.
    rng = np.random.default_rng(8)
    plain, biased = rng.gamma(DIM / 2, 1.2, 4000), rng.gamma(DIM / 2, 1.0, 8000)
    undo = np.exp(biased / 2.0)
    undo *= kish(undo) / undo.sum()
    energies, temperatures = np.concatenate([plain, biased]), np.repeat([1.2, 2.0], [4000, 8000])
    weighted = made(energies, temperatures, np.concatenate([np.ones(4000), undo]))
    ignored = made(energies, temperatures)
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
    mbar = pymbar.MBAR(reduced, [weights[:300].sum(), weights[300:].sum(), 0], solver_protocol="robust")
    reweighting = made(energies, temperatures, weights)
    # Free energies are solved on frames drawn by weight, hence the tolerance.
    assert reweighting.free_energies[1] == pytest.approx(mbar.f_k[1], abs=0.1)
    by_hand = np.bincount(twice, mbar.weights()[:, 2])
    assert np.abs(np.exp(reweighting.log_weights(1.2)) / by_hand - 1).max() < 0.1


def test_a_frame_without_weight_does_not_count():
    energies, temperatures = oscillator([300, 300, 300], seed=10)
    weights = np.ones(900)
    weights[::3] = 0
    energies[::3] = 123.0  # whatever it is
    reweighting = made(energies, temperatures, weights)
    kept = made(energies[weights > 0], temperatures[weights > 0])
    found = np.exp(reweighting.log_weights(1.2))
    assert (found[::3] == 0).all()
    np.testing.assert_allclose(found[weights > 0], np.exp(kept.log_weights(1.2)), rtol=1e-5)


# ---------------------------------------------------------------------------------------- numbers out of reach


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_a_constant_changes_no_weight_however_large(offset):
    energies, temperatures = oscillator([500, 500, 500], seed=11)
    plain, moved = made(energies, temperatures), made(energies + offset, temperatures)
    shift = offset * (1 / TEMPERATURES - 1 / TEMPERATURES[0])
    np.testing.assert_allclose(moved.free_energies, plain.free_energies + shift, atol=1e-6)
    for kT in UNSEEN:
        np.testing.assert_allclose(moved.log_weights(kT), plain.log_weights(kT), atol=1e-6)


def test_energies_far_apart_overflow_nothing():
    # Frames that cannot overlap, as of a large system at room temperature, and one exploded frame.
    rng = np.random.default_rng(12)
    energies = np.concatenate([rng.normal(-1e6, 50, 500), rng.normal(-9.9e5, 50, 500), [1e6]])
    reweighting = made(energies, np.repeat([300.0, 400.0], [500, 501]), boltzmann=0.0083)
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
def test_what_does_not_fit_is_refused(energies, temperatures, weights, words):
    with pytest.raises(DataError) as refused:
        made(energies, temperatures, weights)
    for word in words:
        assert word in str(refused.value)


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


def test_examples_in_docstrings():
    results = doctest.testmod(room)
    assert results.attempted >= 4
    assert results.failed == 0
