"""The umbrella's energy and what is sampled under it, against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.molecules import alanine_cv, alanine_system, context, energy, frames, pairs, simulation
from openmm import unit

from latf_sampling.analysis.weights import boltzmann_weights
from latf_sampling.bias import Umbrella
from latf_sampling.errors import SettingsError, SimulationError
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


# ------------------------------------------------------------------------------------------------ steering


def well(platform: str = "Reference", seed: int = 1, centers: float = 0.8, stiffness: float = 300.0, **settings):
    """One distance in a harmonic well under an umbrella, at its centre, and the simulation."""
    topology, system, cv = pairs(1, "0.5*spring*(r-rest)^2", spring=SPRING, rest=REST)
    umbrella = Umbrella(system, cv, [centers], stiffness)
    start = np.array([[0.0, 0, 0], [centers, 0, 0]])
    settings = {"timestep": 0.008, "friction": 10.0, **settings}
    return umbrella, simulation(topology, system, start, platform, seed=seed, **settings)


def test_work_of_fast_pulls_gives_the_free_energy():
    """250 pulls to and fro, each from equilibrium, in three moves; exact free energies by quadrature.

    The estimates are within four of their standard errors: a right program fails about once in 8,000. The mean work is
    far above the free energy, so that the pulls are fast ones.
    """
    r = np.linspace(0.3, 1.8, 20_001)
    exact = [
        -KT * np.log((r**2 * np.exp(-(0.5 * SPRING * (r - REST) ** 2 + 0.5 * 300.0 * (r - c) ** 2) / KT)).sum())
        for c in (0.8, 1.1)
    ]
    umbrella, made = well()
    works = np.empty((250, 2))
    for row in works:
        for k, end in enumerate((1.1, 0.8)):
            umbrella.step(made, 150)
            row[k] = umbrella.steer(made, [end], 45, interval=15)
    for work, difference in zip(works.T, (exact[1] - exact[0], exact[0] - exact[1])):
        share = np.exp(-work / KT)
        error = KT * share.std() / share.mean() / len(share) ** 0.5
        assert error < 0.1 * KT
        assert abs(-KT * np.log(share.mean()) - difference) < 4 * error
        assert work.mean() - difference > 0.3 * KT


def test_work_is_the_change_of_energy_in_each_move():
    """A frozen molecule: moves in any number of steps add up to the difference of the bias energies."""
    umbrella, made = well()
    made.system.setParticleMass(0, 0.0)
    made.system.setParticleMass(1, 0.0)
    made.context.reinitialize(preserveState=True)
    u = umbrella.values(made.context)
    before = umbrella.energy(u)[0]
    work = umbrella.steer(made, [1.3], 25, interval=10)
    assert work == pytest.approx(umbrella.energy(u)[0] - before)
    assert work == pytest.approx(0.5 * 300.0 * 0.5**2)
    assert umbrella.centers == pytest.approx([1.3]) and made.currentStep == 25
    assert umbrella.energy(u, [0.9]) == pytest.approx([0.5 * 300.0 * 0.1**2])


def test_a_pull_in_pieces_is_the_same_pull():
    umbrella, made = well()
    whole = umbrella.steer(made, [1.2], 80)
    end = umbrella.values(made.context)
    umbrella, made = well()
    pieces = [umbrella.steer(made, [1.0], 40), umbrella.steer(made, [1.2], 40)]
    assert sum(pieces) == pytest.approx(whole, rel=1e-9)
    assert umbrella.values(made.context) == pytest.approx(end, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], 10), "centers must be 1 finite numbers"),
        (([1.0], 0), "steps must be a whole number"),
        (([1.0], 10.5), "steps must be a whole number"),
        (([1.0], 10, -1), "interval must be a whole number"),
    ],
)
def test_steering_refuses_what_cannot_be(arguments, message):
    umbrella, made = well()
    with pytest.raises(SettingsError, match=message):
        umbrella.steer(made, *arguments)
    assert umbrella.centers == pytest.approx([0.8]) and made.currentStep == 0


def test_steering_says_that_the_simulation_exploded():
    umbrella, made = well(timestep=5.0, friction=0.1)
    with pytest.raises(SimulationError, match="Umbrella: the"):
        umbrella.steer(made, [3.0], 2000)


# ------------------------------------------------------------------------------------------------ walls


def test_walls_are_part_of_the_energy_and_do_not_move():
    """Bounds are 0.5 and 1.5, hill widths 0.05: the walls stand at 0.35 and 1.65, of 20 kJ/mol per squared width."""
    _, system, cv = pairs(2, "0")
    umbrella = Umbrella(system, cv, [1.0, 1.0], [0.0, 40.0], walls=True)
    u = np.array([[0.9, 1.2], [1.75, 1.0], [0.25, 1.65]])
    assert umbrella.energy(u) == pytest.approx([0.8, 40.0, 40.0 + 0.5 * 40 * 0.65**2])
    for centers in ([1.0, 1.0], [0.7, 1.3]):
        for row in u:
            x = np.array([[0.0, 0, 0], [row[0], 0, 0], [5.0, 0, 0], [5.0 + row[1], 0, 0]])
            made = context(system, x)
            umbrella.move_to(made, centers)
            assert energy(made, umbrella.group) == pytest.approx(umbrella.energy(row)[0])
