"""The umbrella's energy and what is sampled under it, against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from molecules import alanine_cv, alanine_system, context, energy, frames, pairs, simulation
from openmm import unit

from latf_sampling.bias import Umbrella
from latf_sampling.bias.umbrella import boltzmann_weights
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB

KT = KB * 300.0
SPRING = 400.0  # kJ/mol/nm^2
REST = 0.9  # nm
START = np.array([[0.0, 0, 0], [0.9, 0, 0], [5.0, 0, 0], [5.9, 0, 0]])


def expected(center: float, stiffness: float) -> tuple[float, float]:
    """Mean and variance of a distance in the well and under the umbrella; r^2 counts its directions."""
    r = np.linspace(0.3, 1.8, 20_001)
    energy = 0.5 * SPRING * (r - REST) ** 2 + 0.5 * stiffness * (r - center) ** 2
    density = r**2 * np.exp(-(energy - energy.min()) / KT)
    density /= density.sum()
    mean = (density * r).sum()
    return mean, (density * (r - mean) ** 2).sum()


def standard_errors(samples: np.ndarray, blocks: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean and of the variance, (d,) each, from the scatter of blocks."""
    square = (samples - samples.mean(0)) ** 2
    return tuple(
        np.std([part.mean(0) for part in np.array_split(values, blocks)], axis=0, ddof=1) / blocks**0.5
        for values in (samples, square)
    )


def test_sampled_distribution_is_the_exact_one():
    """Two independent distances under umbrellas of different stiffness; then again after a move.

    Four means and four variances, each within five of its standard errors from 25 blocks: a right program fails about
    once in 3,000. The bounds on the errors themselves see to it that they are worth something.
    """
    topology, system, cv = pairs(2, "0.5*spring*(r-rest)^2", spring=SPRING, rest=REST)
    stiffness = np.array([100.0, 800.0])
    umbrella = Umbrella(system, cv, [0.7, 1.1], stiffness)
    made = simulation(topology, system, START, timestep=0.008, friction=10.0)
    for centers in ([0.7, 1.1], [1.2, 0.8]):
        umbrella.move_to(made.context, centers)
        umbrella.step(made, 200)
        samples = []
        for _ in range(1250):
            umbrella.step(made, 10)
            samples.append(umbrella.values(made.context))
        samples = np.array(samples)
        means, variances = np.transpose([expected(*pair) for pair in zip(centers, stiffness)])
        of_mean, of_variance = standard_errors(samples)
        assert (of_mean < 0.1 * np.sqrt(variances)).all() and (of_variance < 0.15 * variances).all()
        assert (np.abs(samples.mean(0) - means) < 5 * of_mean).all()
        assert (np.abs(samples.var(0) - variances) < 5 * of_variance).all()


def test_weights_undo_the_umbrella():
    """Frames drawn exactly from the biased density, so that nothing but the weights is tested."""
    _, system, cv = pairs(1, "0.5*spring*(r-rest)^2", spring=SPRING, rest=REST)
    umbrella = Umbrella(system, cv, [1.0], 200.0)
    r = np.linspace(0.5, 1.3, 4001)
    free = 0.5 * SPRING * (r - REST) ** 2 - 2 * KT * np.log(r)
    biased = np.exp(-(free + 0.5 * 200.0 * (r - 1.0) ** 2) / KT)
    u = np.random.default_rng(0).choice(r, 40_000, p=biased / biased.sum())[:, None]
    weights = umbrella.weights(u, 300.0)
    assert weights.shape == (40_000,) and weights.mean() == pytest.approx(1.0)
    assert np.array_equal(weights, umbrella.weights(u, 300 * unit.kelvin))
    assert (weights * u[:, 0]).mean() == pytest.approx(expected(0.0, 0.0)[0], abs=5e-3)
    assert u.mean() > expected(0.0, 0.0)[0] + 0.02


def test_weights_do_not_overflow():
    weights = boltzmann_weights(np.array([0.0, 1e5, 1e5]), 300.0)
    assert weights == pytest.approx([0.0, 1.5, 1.5])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_energy_by_hand(dim):
    cv, system = alanine_cv(dim), alanine_system()
    centers, stiffness = np.linspace(-1, 1, dim), np.linspace(5, 9, dim)
    umbrella = Umbrella(system, cv, centers, stiffness)
    x = frames(3)
    u = cv(x)
    by_hand = np.array([sum(0.5 * k * (a - c) ** 2 for k, a, c in zip(stiffness, row, centers)) for row in u])
    assert umbrella.energy(u) == pytest.approx(by_hand)
    assert umbrella.energy(u[0]).shape == (1,)
    made = context(system, x[0])
    assert energy(made, umbrella.group) == pytest.approx(by_hand[0])
    umbrella.move_to(made, centers + 0.5)
    shifted = 0.5 * (stiffness * (u - centers - 0.5) ** 2).sum(1)
    assert energy(made, umbrella.group) == pytest.approx(shifted[0])
    assert umbrella.energy(u) == pytest.approx(shifted)
    later = context(system, x[1])
    assert energy(later, umbrella.group) == pytest.approx(shifted[1])
    centers += 100  # what was passed is not kept by reference
    assert umbrella.energy(u) == pytest.approx(shifted)


@pytest.mark.parametrize(
    "stiffness",
    [
        8.368,
        [8.368, 8.368],
        np.array([8.368, 8.368]),
        2 * unit.kilocalorie_per_mole,
        [2.0, 2.0] * unit.kilocalorie_per_mole,
        np.array([2.0, 2.0]) * unit.kilocalorie_per_mole,
    ],
)
def test_stiffness_is_an_energy(stiffness):
    umbrella = Umbrella(alanine_system(), alanine_cv(2), [0.0, 0.0], stiffness)
    assert umbrella.energy([[1.0, 0.0], [0.0, 2.0]]) == pytest.approx([4.184, 16.736])


@pytest.mark.parametrize(
    ("centers", "stiffness", "message"),
    [
        ([0.0], 1.0, "centers must be 2 finite numbers"),
        ([0.0, 1.0, 2.0], 1.0, "centers must be 2 finite numbers"),
        ([0.0, np.nan], 1.0, "centers must be 2 finite numbers"),
        (["left", "right"], 1.0, "centers must be 2 finite numbers"),
        ([0.0, 0.0], [1.0, 2.0, 3.0], "stiffness must be 2 finite numbers"),
        ([0.0, 0.0], np.inf, "stiffness must be 2 finite numbers"),
        ([0.0, 0.0], None, "stiffness must be 2 finite numbers"),
        ([0.0, 0.0], [1.0, -1.0], "stiffness must not be negative"),
        ([0.0, 0.0], 1.0 * unit.kilojoule_per_mole / unit.nanometer**2, "stiffness is an energy"),
    ],
)
def test_invalid_arguments(centers, stiffness, message):
    system = alanine_system()
    count = system.getNumForces()
    with pytest.raises(SettingsError, match=message):
        Umbrella(system, alanine_cv(2), centers, stiffness)
    assert system.getNumForces() == count


def test_an_invalid_move_leaves_it_where_it_was():
    system, cv = alanine_system(), alanine_cv(2)
    umbrella = Umbrella(system, cv, [0.0, 0.0], 10.0)
    made = context(system, frames(1)[0])
    before = energy(made, umbrella.group)
    with pytest.raises(SettingsError, match="centers must be 2 finite numbers"):
        umbrella.move_to(made, [np.nan, 0.0])
    assert energy(made, umbrella.group) == before
    assert umbrella.energy([[0.0, 0.0]]) == pytest.approx([0.0])
