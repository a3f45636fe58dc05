"""Weights by mean energies: exact densities at other temperatures, with and without the noise of a solvent."""

import numpy as np
import pytest

from latf_sampling.analysis.mbar import Multistate, TemperatureReweighting, energy_overlap
from latf_sampling.analysis.mean_energy import KernelBasis, MeanEnergyReweighting, reach
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

GRID = np.linspace(-3, 3, 4001)
N = 20_000


def potential(x):
    """Two wells, the right one higher and narrower."""
    return 2.0 * (x * x - 1) ** 2 + 0.8 * x + 0.6 * np.maximum(x, 0) ** 2


def exact(kT: float) -> np.ndarray:
    """Density on the grid, of sum 1."""
    density = np.exp(-potential(GRID) / kT)
    return density / density.sum()


def right(kT: float) -> float:
    return float(exact(kT)[GRID > 0].sum())


def frames(temperatures, n=N, noise=0.0, seed=0):
    """Samples, energies with the noise of a bath whose mean energy is noise^2 kT, and the kT of each frame."""
    rng = np.random.default_rng(seed)
    x, energies, kelvin = [], [], []
    for kT in temperatures:
        drawn = rng.choice(GRID, n, p=exact(kT))
        x.append(drawn)
        energies.append(potential(drawn) + noise**2 * kT + noise * kT * rng.normal(size=n))
        kelvin.append(np.full(n, kT))
    return np.concatenate(x), np.concatenate(energies), np.concatenate(kelvin)


def reweighting(x, energies, kelvin, seed=0, **options) -> MeanEnergyReweighting:
    return MeanEnergyReweighting(x[:, None], energies, kelvin, None, 1.0, seed, **options)


@pytest.mark.parametrize("noise", [0.0, 15.0])
@pytest.mark.parametrize("temperatures", [(0.5, 1.0), (0.4, 0.7, 1.2)])
def test_populations_between_temperatures(temperatures, noise):
    x, energies, kelvin = frames(temperatures, noise=noise)
    solution = reweighting(x, energies, kelvin)
    for kT in (0.5, 0.6, 0.7, 0.85, 1.0):
        population = float(np.exp(solution.log_weights(kT)) @ (x > 0))
        # Counting alone has an error of 0.002; with noise, mean energies of the wells have one of 0.15.
        assert population == pytest.approx(right(kT), abs=0.01 if noise == 0 else 0.02)
    density = np.histogram(x, 30, (-1.8, 1.8), weights=np.exp(solution.log_weights(0.7)))[0]
    truth = np.histogram(GRID, 30, (-1.8, 1.8), weights=exact(0.7))[0]
    assert np.abs(density - truth).sum() < 0.05


def test_with_noise_energies_do_not_overlap_and_mbar_has_no_frames():
    x, energies, kelvin = frames((0.5, 1.0), n=5000, noise=15.0)
    by_energy = TemperatureReweighting(energies, kelvin, None, 1.0, 0)
    assert by_energy.overlaps[0] < 1e-6 and by_energy.effective_sample_size(0.7) < 10
    assert reweighting(x, energies, kelvin).effective_sample_size(0.7) > 5000


def test_mean_energies_are_those_of_the_potential():
    solution = reweighting(*frames((0.5, 1.0), noise=5.0))
    points = np.linspace(-1.4, 1.2, 30)
    for kT in (0.5, 0.7, 1.0):
        found = solution.mean_energy(points[:, None], kT) - potential(points)
        assert np.std(found) < 0.3  # kT is 0.5 to 1, and the noise of a frame 2.5 to 5


def test_a_heat_capacity_that_depends_on_the_point():
    """Eight hidden degrees of freedom that one state has alone: they add 4 kT to its energy, and their entropy."""
    rng, kelvin = np.random.default_rng(1), np.repeat([0.5, 1.0], N)

    def population(kT):  # of stiffness 20, and a factor
        weight = np.exp(-1.0 / kT) * (2 * np.pi * kT / 20) ** 4 * 30
        return weight / (1 + weight)

    state = rng.random(2 * N) < np.vectorize(population)(kelvin)
    hidden = 0.5 * kelvin * rng.chisquare(8, 2 * N) * state
    solution = reweighting(state + 0.1 * rng.normal(size=2 * N), state + hidden + 8 * rng.normal(size=2 * N), kelvin)
    for kT in (0.45, 0.6, 0.75, 1.2):
        assert np.exp(solution.log_weights(kT)) @ state == pytest.approx(population(kT), abs=0.03)


def test_one_temperature_reaches_a_little_beyond_by_fluctuations():
    x, energies, kelvin = frames((0.8,), n=50_000, noise=3.0)
    solution = reweighting(x, energies, kelvin)
    assert solution.reach == reach([0.8])
    assert solution.reach == pytest.approx((0.8 / 1.1618, 0.8 * 1.1618), rel=1e-3)
    for kT in (0.72, 0.8, 0.9):
        assert np.exp(solution.log_weights(kT)) @ (x > 0) == pytest.approx(right(kT), abs=0.015)
    assert solution.effective_sample_size(1.0) == 0.0


def test_frames_without_weight_do_not_count():
    x, energies, kelvin = frames((0.5, 1.0), n=3000)
    weights = np.ones(len(x))
    energies[:300], weights[:300] = 1e6, 0.0
    solution = MeanEnergyReweighting(x[:, None], energies, kelvin, weights, 1.0, 0)
    assert not np.exp(solution.log_weights(0.7))[:300].any()
    assert np.exp(solution.log_weights(0.7)) @ (x > 0) == pytest.approx(right(0.7), abs=0.03)


def test_resampled_frames_keep_basis_and_amplitude():
    x, energies, kelvin = frames((0.5, 1.0), n=2000, noise=3.0)
    first = reweighting(x, energies, kelvin)
    weights = np.random.default_rng(0).poisson(1.0, len(x)).astype(float)
    second = MeanEnergyReweighting(
        x[:, None], energies, kelvin, weights, 1.0, 0, basis=first.basis, amplitude=first.amplitude
    )
    assert second.basis is first.basis and second.amplitude == first.amplitude
    assert not np.array_equal(second.mean_energies, first.mean_energies)


def test_basis_is_orthonormal_under_its_prior():
    points = np.random.default_rng(0).normal(size=(500, 2))
    basis = KernelBasis(points, np.random.default_rng(1))
    values = basis(basis.centers)
    square = ((basis.centers[:, None] - basis.centers) ** 2).sum(-1)
    np.testing.assert_allclose(values @ values.T, np.exp(-0.5 * square / basis.width**2), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"energies": [np.nan, 1.0]}, DataError, "energy of frame 0 is not finite"),
        ({"points": [[0.0], [np.inf]]}, DataError, "point of frame 1 is not finite"),
        ({"points": [0.0, 1.0]}, DataError, "do not belong together"),
        ({"temperatures": [1.0]}, DataError, "do not belong together"),
        ({"weights": [0.0, 0.0]}, DataError, "weights must be"),
        ({"weights": [1.0]}, DataError, "2 energies and 1 weights"),
        ({"temperatures": [0.0, 1.0]}, SettingsError, "temperatures must be finite and above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, words):
    given = {"points": [[0.0], [1.0]], "energies": [0.0, 1.0], "temperatures": [1.0, 2.0], "weights": None} | change
    with pytest.raises(error, match=words):
        MeanEnergyReweighting(**given, boltzmann=1.0, rng=0)


# Energies that do not overlap, by MBAR


@pytest.mark.parametrize("n", [2, 8, 200, 5000])
def test_frames_that_contradict_each_other_are_no_frames_in_between(n):
    """Narrow energies far apart: frames of either side seem to be good at 450 K, where the truth is in between."""
    rng = np.random.default_rng(0)
    energies = np.concatenate([rng.normal(-100, 5, n), rng.normal(5000, 5, n)])
    solution = TemperatureReweighting(energies, np.repeat([300.0, 900.0], n), None, KB, 0)
    assert solution.overlaps[0] < 1e-6
    for kelvin in (301.0, 350.0, 450.0, 600.0, 800.0, 899.0):
        assert solution.effective_sample_size(kelvin) == 0.0
    for kelvin in (300.0, 900.0):
        assert solution.effective_sample_size(kelvin) == pytest.approx(n)
    assert np.isfinite(solution.free_energies).all() and np.isfinite(solution.log_weights(450.0)).all()


def test_sides_that_do_not_overlap_are_solved_each_by_itself():
    """Three temperatures of which two overlap: their free energies are those that they have without the third."""
    rng, capacity = np.random.default_rng(0), 500.0
    kelvin = np.repeat([300.0, 320.0, 500.0], 3000)
    energies = capacity * KB * kelvin + np.sqrt(capacity) * KB * kelvin * rng.normal(size=len(kelvin))
    solution = TemperatureReweighting(energies, kelvin, None, KB, 0)
    assert solution.overlaps[0] > 0.1 and solution.overlaps[1] < 1e-4
    pair = TemperatureReweighting(energies[:6000], kelvin[:6000], None, KB, 0)
    assert solution.free_energies[:2] == pytest.approx(pair.free_energies, abs=1e-6)
    assert solution.effective_sample_size(310.0) == pytest.approx(pair.effective_sample_size(310.0), rel=0.01)
    assert solution.effective_sample_size(400.0) < 20


def test_overlap_is_that_of_the_matrix_of_mbar():
    from latf_sampling.analysis.mbar import solve_mbar

    rng, ones = np.random.default_rng(0), np.ones(1000)
    cold, hot = rng.normal(0, 1, 1000), rng.normal(1.5, 1.2, 1000)
    reduced = np.stack([2.0 * np.concatenate([cold, hot]), 1.2 * np.concatenate([cold, hot])])
    matrix = solve_mbar(reduced, [1000, 1000]).compute_overlap()["matrix"]
    assert energy_overlap(cold, hot, (ones, ones), -0.8) == pytest.approx(min(matrix[0, 1], matrix[1, 0]), rel=1e-3)


@pytest.mark.parametrize("counts", [(4000, 8), (8, 4000), (500, 1)])
def test_few_frames_at_one_temperature_overlap_with_many_at_another(counts):
    """How much energies have in common does not depend on how many of each there are."""
    energies = np.random.default_rng(0).normal(0, 5, sum(counts))
    solution = TemperatureReweighting(energies, np.repeat([300.0, 310.0], counts), None, KB, 0)
    assert solution.overlaps[0] > 0.45
    assert solution.effective_sample_size(305.0) > 0.9 * sum(counts)


def test_a_single_frame_of_the_other_side_hides_no_contradiction():
    rng = np.random.default_rng(0)
    energies = np.concatenate([rng.normal(-100, 5, 200), [5000.0], rng.normal(5000, 5, 200), [-100.0]])
    solution = TemperatureReweighting(energies, np.repeat([300.0, 900.0], 201), None, KB, 0)
    assert solution.effective_sample_size(450.0) == solution.effective_sample_size(600.0) == 0


def test_states_of_any_kind_that_do_not_overlap_are_solved_in_groups():
    """Temperatures with biases, and umbrellas: no effective frames where several groups would have some."""
    rng = np.random.default_rng(0)
    energies, states = np.concatenate([rng.normal(-100, 5, 200), rng.normal(5000, 5, 200)]), np.repeat([0, 1], 200)
    mixture = Multistate(energies, np.zeros((2, 400)), np.array([300.0, 900.0]), states, 0)
    assert mixture.groups.tolist() == [0, 1]
    assert [mixture.effective_sample_size(kelvin) for kelvin in (450.0, 600.0)] == [0, 0]
    assert mixture.effective_sample_size(300.0) == pytest.approx(200)
    by_temperature = TemperatureReweighting(energies, np.repeat([300.0, 900.0], 200), None, KB, 0)
    assert mixture.free_energies == pytest.approx(by_temperature.free_energies)

    centers = np.array([0.0, 3.0, 0.1, 3.1])  # kT / stiffness = 0.01
    x, states = np.concatenate([rng.normal(center, 0.1, 300) for center in centers]), np.repeat(np.arange(4), 300)
    bias = 50.0 * (x - centers[:, None]) ** 2
    windows = Multistate(np.zeros(1200), bias, 1.0, states, 0, boltzmann=1.0)
    assert windows.groups.tolist() == [0, 1, 0, 1]
    assert windows.effective_sample_size(1.0) == 0
    first = np.isin(states, [0, 2])
    alone = Multistate(np.zeros(600), bias[[0, 2]][:, first], 1.0, states[first] // 2, 0, boltzmann=1.0)
    assert windows.free_energies[2] == pytest.approx(alone.free_energies[1])


def test_one_frame_and_points_that_are_all_the_same():
    kelvin = np.repeat([300.0, 400.0], 50)
    energies = np.random.default_rng(0).normal(0, 3, 100) + kelvin
    same = MeanEnergyReweighting(np.zeros((100, 1)), energies, kelvin, None, KB, 0)
    assert np.exp(same.log_weights(350.0)) == pytest.approx(0.01)
    for n in (1, 20):
        constant = MeanEnergyReweighting(np.linspace(0, 1, n)[:, None], np.full(n, 5.0), np.full(n, 300.0), None, KB, 0)
        assert constant.effective_sample_size(310.0) == pytest.approx(n)
