"""Model systems: numpy against OpenMM, forces against differences, samples against integrals, positions of minima."""

import math

import numpy as np
import openmm
import pytest
from helpers.molecules import PLATFORMS, context, energy, forces, gradient, simulation
from openmm import unit
from pymbar.timeseries import statistical_inefficiency
from scipy import integrate, optimize, stats

from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features import Features
from latf_sampling.systems import SYSTEMS, by_name, double_well, harmonic_well, lj7, potentials, three_hole
from latf_sampling.units import KB

MADE = {
    **SYSTEMS,
    "low double-well": lambda: double_well(barrier=3.0, tilt=-1.5, stiffness=7.0),
    "slack harmonic-well": lambda: harmonic_well((3.0, 0.5)),
}
SINGLE = [name for name in MADE if name != "lj7"]
every_system = pytest.mark.parametrize("name", MADE)


def places(system, n=20, seed=0):
    """Random positions (n, N, 3), some of them on high slopes; z is anything."""
    rng = np.random.default_rng(seed)
    count = system.system.getNumParticles()
    if count == 1:
        plane = rng.uniform(*(0.6 * system.extent.T), size=(n, 1, 2))
    else:
        plane = 1.1 * system.positions[:, :2] + rng.normal(scale=0.1, size=(n, count, 2))
        plane[::2, 1] *= 2.5  # out of the container
    return np.concatenate([plane, rng.normal(size=(n, count, 1))], axis=-1)


@pytest.mark.parametrize("platform", PLATFORMS)
@every_system
def test_numpy_s_potential_is_openmm_s(name, platform):
    system = MADE[name]()
    simulated = context(system.system, system.positions, platform)
    for x in places(system):
        simulated.setPositions(x)
        assert energy(simulated, 0) == pytest.approx(system.potential(x[:, :2]), rel=2e-5, abs=1e-4)


@every_system
def test_one_call_takes_many_frames(name):
    system, x = MADE[name](), places(MADE[name]())[..., :2]
    values = system.potential(x.reshape(4, 5, *x.shape[1:]))
    assert values.shape == (4, 5)
    np.testing.assert_allclose(values.ravel(), [system.potential(frame) for frame in x], rtol=1e-9)


@pytest.mark.parametrize("platform", PLATFORMS)
@every_system
def test_forces_are_minus_the_slope_of_the_energy(name, platform):
    system = MADE[name]()
    simulated = context(system.system, system.positions, platform)
    for x in places(system, n=5, seed=1):
        simulated.setPositions(x)
        exact = -gradient(lambda frames: system.potential(frames[..., :2]), x, h=1e-4)
        np.testing.assert_allclose(forces(simulated, 0), exact, rtol=1e-4, atol=1e-3 * (1 + np.abs(exact).max()))
        assert np.abs(exact[:, 2]).max() < 1e-6
        assert np.abs(forces(simulated, 0)[:, 2]).max() < 1e-6  # nothing pulls along z


@every_system
def test_topology_and_descriptors_fit(name):
    system = MADE[name]()
    count = system.system.getNumParticles()
    assert system.topology.getNumAtoms() == len(system.positions) == count
    assert all(system.system.getParticleMass(k)._value == 1.0 for k in range(count))
    features = Features(system.topology, system.features)
    values = np.asarray(features(places(system)))
    assert values.shape == (20, len(features.names))
    assert np.isfinite(values).all()
    moved = places(system)
    moved[..., 2] += 3.0 * np.random.default_rng(2).normal(size=moved[..., 2].shape)
    np.testing.assert_allclose(features(moved), values, atol=1e-5)  # z means nothing
    if count == 1:
        np.testing.assert_allclose(values, places(system)[:, 0, :2], atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_by_name(name):
    assert by_name(name).name == name


@pytest.mark.parametrize("name", ["", "lj8", "Three-Hole", "three_hole"])
def test_an_unknown_name_is_refused_and_the_known_ones_named(name):
    with pytest.raises(SettingsError) as refused:
        by_name(name)
    for word in (f"'{name}'", "system.name", *SYSTEMS):
        assert word in str(refused.value)


# ------------------------------------------------------------------------------------------------ minima


def minima(system):
    """Positions in the plane (n, 2) and energies of the minima, searched from a grid of points off the axes."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.9, 1.7, 8),) * 2), -1).reshape(-1, 2)
    options = {"xatol": 1e-7, "fatol": 1e-10}
    ends = [
        optimize.minimize(lambda p: system.potential(p[None]), start, method="Nelder-Mead", options=options)
        for start in grid
    ]
    minima = []
    for end in sorted(ends, key=lambda end: end.fun):
        if all(np.linalg.norm(end.x - x) > 0.3 for x, _ in minima):
            minima.append((end.x, end.fun))
    return np.array([x for x, _ in minima]), np.array([value for _, value in minima])


def test_three_holes():
    places, values = minima(three_hole())
    assert len(places) == 3
    # Metzner et al.: two deep minima near (-1, 0) and (1, 0), and a shallow one near (0, 1.5).
    left, right = sorted(places[:2].tolist())
    np.testing.assert_allclose(left, [-1.05, -0.04], atol=0.01)
    np.testing.assert_allclose(right, [1.05, -0.04], atol=0.01)
    np.testing.assert_allclose(places[2], [0, 1.54], atol=0.01)
    np.testing.assert_allclose(values, [-3.99, -3.99, -2.17], atol=0.01)


def test_double_well_has_the_barrier_and_the_tilt_it_was_asked_for():
    places, values = minima(double_well(barrier=8.0))
    np.testing.assert_allclose(sorted(places[:, 0]), [-1, 1], atol=1e-4)
    np.testing.assert_allclose(values, 0, atol=1e-6)
    assert double_well(barrier=8.0).potential(np.zeros((1, 2))) == 8.0
    _, values = minima(double_well(barrier=8.0, tilt=2.0))
    assert np.diff(values)[0] == pytest.approx(2.0, abs=0.01)
    x = np.array([[[-1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.5]]])
    np.testing.assert_allclose(double_well(8.0, 2.0, 40.0).potential(x), [-1.0, 1.0, 6.0])


# ------------------------------------------------------------------------------------------------ exact samples


def integral(system, kT, weight, region=None):
    """Integral of exp(-V / kT) weight(x, y) over a region, by quadrature with other points than the package's grid."""
    region = system.extent if region is None else region

    def integrand(y, x):
        return np.exp(-system.potential(np.stack([x, y], -1)[..., None, :]) / kT) * weight(x, y)

    nodes, weights = np.polynomial.legendre.leggauss(400 if region is system.extent else 24)
    sides = [low + 0.5 * (high - low) * (nodes + 1) for low, high in region]
    x, y = np.meshgrid(*sides, indexing="ij")
    area = 0.25 * np.prod(region[:, 1] - region[:, 0])
    return area * np.einsum("i,j,ij", weights, weights, integrand(y, x))


@pytest.mark.parametrize("kT", [0.7, 1.5, 3.0])
@pytest.mark.parametrize("name", SINGLE)
def test_exact_samples_have_the_moments_of_the_boltzmann_distribution(name, kT):
    system, n = MADE[name](), 40_000
    samples = system.exact_samples(n, kT / KB, np.random.default_rng(1))
    assert samples.shape == (n, 2)
    x, y = samples.T
    z = integral(system, kT, lambda x, y: 1.0)
    # Next to nothing is outside of the box.
    wider = np.stack([1.6 * system.extent[:, 0], 1.6 * system.extent[:, 1]], 1)
    assert sum(integral(system, kT, lambda x, y: 1.0, piece) for piece in pieces(wider, 20)) == pytest.approx(
        z, rel=1e-5
    )
    for f in (lambda x, y: x, lambda x, y: y, lambda x, y: x * x, lambda x, y: y * y, lambda x, y: x * y):
        mean = integral(system, kT, f) / z
        deviation = math.sqrt(max(integral(system, kT, lambda x, y, f=f: f(x, y) ** 2) / z - mean**2, 0))
        # The width of a cell adds width^2 / 12 to the variance: nothing beside the error.
        assert abs(f(x, y).mean() - mean) < 4.5 * deviation / math.sqrt(n) + 1e-4
    if name == "slack harmonic-well":
        assert y.var() == pytest.approx(kT / 0.5, rel=4.5 * math.sqrt(2 / n))


def pieces(region, n):
    """A box cut into n by n boxes."""
    edges = [np.linspace(*side, n + 1) for side in region]
    return [np.array([edges[0][i : i + 2], edges[1][j : j + 2]]) for i in range(n) for j in range(n)]


@pytest.mark.parametrize(("name", "kT"), [("three-hole", 1.67), ("low double-well", 1.0), ("harmonic-well", 2.5)])
def test_exact_samples_fill_bins_as_they_should(name, kT):
    system, n = MADE[name](), 40_000
    boxes = pieces(system.extent, 24)
    expected = n * np.array([integral(system, kT, lambda x, y: 1.0, box) for box in boxes])
    expected /= integral(system, kT, lambda x, y: 1.0)
    samples = system.exact_samples(n, kT / KB, np.random.default_rng(2))
    edges = [np.linspace(*side, 25) for side in system.extent]
    counts = np.histogram2d(*samples.T, bins=edges)[0].ravel()
    full = expected >= 10
    counts, expected = [np.append(v[full], v[~full].sum()) for v in (counts, expected)]
    assert len(counts) > 20
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def test_exact_samples_take_quantities_repeat_and_refuse_more_than_one_particle():
    system = three_hole()
    first, again, other = (
        system.exact_samples(5, T, np.random.default_rng(seed))
        for T, seed in ((300.0, 3), (300 * unit.kelvin, 3), (300.0, 4))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(DataError, match="lj7: exact samples are for one particle"):
        lj7().exact_samples(5, 300.0, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ dynamics


def trajectory(system, frames, every, timestep, seed=1):
    """Positions in the plane (frames, 2) of Langevin dynamics at 300 K."""
    simulated = simulation(system.topology, system.system, system.positions, timestep=timestep, friction=2.0, seed=seed)
    simulated.step(1000)
    x = np.empty((frames, 2))
    for frame in x:
        simulated.integrator.step(every)
        state = simulated.context.getState(getPositions=True)
        frame[:] = state.getPositions(asNumpy=True)._value[0, :2]
    return x


def within_error(values, exact, sigmas=4.5):
    """Whether the mean of a correlated series is its exact value, within its error."""
    g = statistical_inefficiency(values)
    assert len(values) / g > 200  # enough independent ones for the error to be one
    return abs(values.mean() - exact) < sigmas * values.std() * math.sqrt(g / len(values))


def test_dynamics_in_the_harmonic_well_have_the_exact_variance():
    x = trajectory(harmonic_well((10.0, 40.0)), frames=10_000, every=20, timestep=0.02)
    for values, stiffness in zip(x.T, (10.0, 40.0)):
        assert within_error(values, 0.0)
        assert within_error(values**2, KB * 300 / stiffness)
        assert not within_error(values**2, 1.2 * KB * 300 / stiffness)  # sharp enough to say something


def test_dynamics_in_the_double_well_have_the_exact_populations():
    system, kT = double_well(barrier=4.0, tilt=2.0), KB * 300
    x = trajectory(system, frames=10_000, every=25, timestep=0.02)

    def density(x):
        return math.exp(-(4.0 * (x**2 - 1) ** 2 + x) / kT)

    left, right = integrate.quad(density, -3, 0)[0], integrate.quad(density, 0, 3)[0]
    population = left / (left + right)
    assert within_error((x[:, 0] < 0).astype(float), population)
    assert not within_error((x[:, 0] < 0).astype(float), 0.5)
    assert within_error(x[:, 1] ** 2, kT / 20)


# ------------------------------------------------------------------------------------------------ seven particles


def test_the_hexagon_is_next_to_the_minimum():
    system = lj7()
    plane = system.positions[:, :2]
    # Outside the reach of the container, what counts are 12 pairs at contact and those farther apart.
    distances = [np.linalg.norm(plane[i] - plane[j]) for i in range(7) for j in range(i)]
    assert np.sum(np.isclose(distances, 2 ** (1 / 6))) == 12
    assert system.potential(plane) == pytest.approx(sum(4 * (r**-12 - r**-6) for r in distances))
    end = optimize.minimize(lambda x: system.potential(x.reshape(7, 2)), plane.ravel(), tol=1e-12)
    assert end.fun == pytest.approx(-12.53, abs=0.01)
    assert np.abs(end.x.reshape(7, 2) - plane).max() < 0.05
    simulated = context(system.system, system.positions)
    openmm.LocalEnergyMinimizer.minimize(simulated, 1e-3)
    assert energy(simulated, 0) == pytest.approx(end.fun, abs=1e-3)


def test_the_container_holds_particles_and_leaves_the_cluster_alone():
    system, far = lj7(), np.zeros((7, 2))
    far[:, 0] = 1000.0 * np.arange(7)  # nothing but the container is left
    outside = 1000.0 * np.arange(1, 7) - potentials.LJ7_CONTAINER
    assert system.potential(far) == pytest.approx(0.5 * potentials.LJ7_STIFFNESS * np.sum(outside**2), rel=1e-9)
    stiffer = np.array(system.positions[:, :2])
    assert np.linalg.norm(stiffer, axis=1).max() < potentials.LJ7_CONTAINER


def test_descriptors_of_seven_particles_do_not_tell_them_apart():
    system, rng = lj7(), np.random.default_rng(3)
    features = Features(system.topology, system.features)
    x = system.positions + rng.normal(scale=0.2, size=(7, 3))
    values = np.asarray(features(x))
    angle = 0.7
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    for same in (x[rng.permutation(7)], x @ turn.T, x * [-1, 1, 1], x + [0.3, -0.2, 5.0]):
        np.testing.assert_allclose(np.asarray(features(same)), values, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(features(1.1 * x)) - values).max() > 0.1
    # Sorted coordination numbers by hand.
    r = np.linalg.norm(x[:, None, :2] - x[None, :, :2], axis=-1)
    with np.errstate(invalid="ignore"):
        contact = np.where(np.eye(7) > 0, 0.0, (1 - (r / 1.5) ** 8) / (1 - (r / 1.5) ** 16))
    numbers = contact.sum(1)
    ordered = np.sort(values)
    for number in numbers:
        assert np.abs(ordered - number).min() < 1e-3
