"""The thermodynamics of states: exact values of states with known energies, entropies and heat capacities."""

import numpy as np
import pytest

from latf_sampling.analysis.thermodynamics import gibbs_helmholtz

ENERGY, CAPACITY = np.array([0.0, 4.0, 2.0]), np.array([0.0, 1.0, -0.5])
ENTROPY = np.array([0.0, 3.0, 0.5])
T0 = 1.0
BLOCK = 500


def reduced(kT: float) -> np.ndarray:
    """DF / kT of three states with dU(T) = dU + dC (T - T0), S(T) = S + dC ln(T / T0)."""
    return (ENERGY + CAPACITY * (kT - T0)) / kT - ENTROPY - CAPACITY * np.log(kT / T0)


def populations(kT: float) -> np.ndarray:
    weights = np.exp(-reduced(kT))
    return weights / weights.sum()


def frames(temperatures, n=20_000, noise=5.0, seed=0):
    rng = np.random.default_rng(seed)
    states, energies, kelvin = [], [], []
    for kT in temperatures:
        drawn = rng.choice(3, n, p=populations(kT))
        # Fluctuations within a state belong to its heat capacity, beside that of a bath that all have.
        spread = kT * np.sqrt(CAPACITY[drawn] + noise**2)
        states.append(drawn)
        energies.append((ENERGY + CAPACITY * (kT - T0))[drawn] + 1000.0 * kT + spread * rng.normal(size=n))
        kelvin.append(np.full(n, kT))
    return np.concatenate(states), np.concatenate(energies), np.concatenate(kelvin)


def solve(temperatures, weights=None, **options):
    states, energies, kelvin = frames(temperatures, **options)
    weights = np.ones(len(states)) if weights is None else weights
    blocks = np.arange(len(states)) // BLOCK
    rng = np.random.default_rng(1)
    return gibbs_helmholtz(states, energies, kelvin, weights, blocks, 3, T0, 1.0, (0.5, 3.0), rng)


@pytest.mark.parametrize("temperatures", [(0.8, 1.5), (0.7, 1.0, 1.6)])
def test_differences_are_exact_within_their_errors(temperatures):
    solution = solve(temperatures)
    for kT in (0.7, 1.0, 1.2, 2.0):
        found, exact = solution.at(kT), reduced(kT) * kT
        energies = ENERGY + CAPACITY * (kT - T0)
        for values, errors, truth, largest in (
            (found.free_energies, found.free_energy_errors, exact, 0.3),
            (found.energies, found.energy_errors, energies, 0.8),
            (found.entropies, found.entropy_errors, energies - exact, 0.9),
            (found.heat_capacities, found.heat_capacity_errors, CAPACITY, 1.0),
            (found.populations, found.population_errors, populations(kT), 0.05),
        ):
            assert (np.abs(values - truth)[1:] < 4.5 * errors[1:]).all()
            assert (errors[1:] < largest).all() and (errors[1:] > 0).all()
        assert found.free_energies[0] == found.energies[0] == found.heat_capacities[0] == 0
    truth = next(kT for kT in np.linspace(0.5, 3, 100_000) if reduced(kT)[1] < 0)
    assert found.melting_temperatures[1] == pytest.approx(truth, abs=4.5 * found.melting_errors[1])
    assert found.melting_errors[1] < 0.1 and np.isnan(found.melting_temperatures[0])


def test_one_temperature_takes_heat_capacities_from_fluctuations():
    solution = solve((1.2,), n=200_000, noise=1.0)
    found = solution.at(1.0)
    assert found.heat_capacities[1:] == pytest.approx(CAPACITY[1:], abs=0.05)
    assert solution.populations(1.4)[0] == pytest.approx(populations(1.4), abs=0.01)


def test_errors_cover():
    """Of 30 data sets, 95 % intervals of dF in between hold the truth; fewer than 23 do so once in a thousand runs."""
    inside = 0
    for seed in range(30):
        found = solve((0.8, 1.5), n=4000, seed=seed).at(1.1)
        inside += abs(found.free_energies[1] - 1.1 * reduced(1.1)[1]) < 1.96 * found.free_energy_errors[1]
    assert inside >= 23


def test_a_state_that_is_missing_at_one_temperature_and_frames_without_weight():
    states, energies, kelvin = frames((0.8, 1.5), n=5000)
    weights = np.where((kelvin == 0.8) & (states == 2), 0.0, 1.0)
    weights[:100], energies[:100] = 0.0, 1e9
    rng, blocks = np.random.default_rng(0), np.arange(len(states)) // BLOCK
    solution = gibbs_helmholtz(states, energies, kelvin, weights, blocks, 3, T0, 1.0, (0.5, 3.0), rng)
    assert np.isfinite(solution.parameters).all()
    assert solution.populations(1.0)[0].sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("temperatures", "absent", "state"),
    [((0.8, 1.5), (1.5,), 0), ((0.8, 1.5), (0.8, 1.5), 2), ((0.8,), (0.8,), 0), ((0.8,), (0.8,), 2)],
)
def test_a_state_that_was_not_seen_is_not_known_to_be_empty(temperatures, absent, state):
    """Its free energy there is at least about kT ln of twice the frames, and uncertain by kT or more."""
    states, energies, kelvin = frames(temperatures, n=1000)
    weights = np.where(np.isin(kelvin, absent) & (states == state), 0.0, 1.0)
    rng, blocks = np.random.default_rng(0), np.arange(len(states)) // 50
    solution = gibbs_helmholtz(states, energies, kelvin, weights, blocks, 3, T0, 1.0, (0.5, 3.0), rng)
    found = solution.at(absent[0])
    other = 1 if state == 0 else 0
    difference = solution.reduced(absent[0])[:, state] - solution.reduced(absent[0])[:, other]
    assert 3 < difference[0] < 12 and difference[1:].std() > 0.9
    assert np.isfinite(solution.parameters).all() and (np.abs(found.free_energies) < 20).all()


def test_one_block_at_each_temperature_has_no_error():
    states, energies, kelvin = frames((0.8, 1.5), n=500)
    rng = np.random.default_rng(0)
    blocks = (kelvin > 1).astype(int)
    found = gibbs_helmholtz(states, energies, kelvin, np.ones(1000), blocks, 3, T0, 1.0, (0.5, 3.0), rng).at(1.1)
    assert np.isfinite(found.free_energies).all() and np.isfinite(found.melting_temperatures[1])
    assert np.isnan(found.free_energy_errors).all() and np.isnan(found.melting_errors).all()


def test_errors_of_correlated_frames_count_what_blocks_lose():
    """A state that stays for 60 frames, in blocks of 100: independent blocks would have errors a third too small."""
    rng = np.random.default_rng(0)
    states = np.concatenate([(np.cumsum(rng.random(1000) < 1 / 60) + start) % 2 for start in (0, 1, 0, 1)])
    kelvin, energies = np.repeat([0.8, 1.5], 2000), states + rng.normal(size=4000)
    given = states, energies, kelvin, np.ones(4000), np.arange(4000) // 100, 2, T0, 1.0, (0.5, 3.0)
    alone = gibbs_helmholtz(*given, np.random.default_rng(1)).at(1.0)
    corrected = gibbs_helmholtz(*given, np.random.default_rng(1), [1000] * 4).at(1.0)
    assert corrected.free_energies[1] == alone.free_energies[1]
    assert 1.1 < corrected.free_energy_errors[1] / alone.free_energy_errors[1] < 2.0


def test_cold_and_hot_melting_are_told_apart():
    """Both at about the same distance from T0: the scatter of one is not the way to the other."""
    rng, temperatures = np.random.default_rng(0), (0.7, 1.0, 1.5)
    states, energies = [], []
    for kT in temperatures:
        folded = 1 / (1 + np.exp(-((0.3 + 4 * (kT - 1)) / kT - 4 * np.log(kT))))
        state = (rng.random(4000) > folded).astype(int)
        states.append(state)
        energies.append((0.3 + 4 * (kT - 1)) * state + kT * np.sqrt(1 + 4 * state) * rng.normal(size=4000))
    blocks, kelvin = np.arange(12_000) // 400, np.repeat(temperatures, 4000)
    given = np.concatenate(states), np.concatenate(energies), kelvin, np.ones(12_000), blocks, 2
    found = gibbs_helmholtz(*given, 1.0, 1.0, (0.4, 3.0), np.random.default_rng(1)).at(1.0)
    both = {found.melting_temperatures[1]: found.melting_errors[1]}
    both |= {found.second_melting_temperatures[1]: found.second_melting_errors[1]}
    for truth, (value, error) in zip((0.639, 1.411), sorted(both.items())):
        assert abs(value - truth) < 4 * error and 0.005 < error < 0.1
    hot = solve((0.8, 1.5)).at(T0)
    assert np.isnan(hot.second_melting_temperatures).all() and np.isnan(hot.second_melting_errors).all()


def test_a_slow_state_may_be_populated_where_it_was_not_seen():
    """Of 2000 frames ten are independent: none in a state does not exclude that it has 2 %."""
    rng, n, life = np.random.default_rng(0), 2000, 200
    hot = np.repeat(rng.integers(2, size=n // life), life)
    states, kelvin = np.concatenate([np.zeros(n, int), hot]), np.repeat([0.7, 1.4], n)
    energies, blocks = 3.0 * states + kelvin * rng.normal(size=2 * n), np.arange(2 * n) // 200
    given = states, energies, kelvin, np.ones(2 * n), blocks, 2, 1.0, 1.0, (0.5, 2.0)
    solution = gibbs_helmholtz(*given, np.random.default_rng(1), [n, n])
    difference = solution.reduced(0.7)[:, 1]
    assert abs(difference[0] - np.log(0.98 / 0.02)) < 1.96 * difference[1:].std()
    independent = gibbs_helmholtz(*given, np.random.default_rng(1)).reduced(0.7)[0, 1]
    assert independent - difference[0] > 2
