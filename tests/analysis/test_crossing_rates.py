"""Expected crossings against overdamped walkers with hills, in potentials of one and two dimensions (kT = 1, D = 1)."""

from dataclasses import replace

import numpy as np
import pytest
from openmm import unit

from latf_sampling.analysis import crossing_rates
from latf_sampling.analysis.crossing_cells import CORE_SHARE, Hills, LatentSeries
from latf_sampling.analysis.crossing_rates import expected_crossings
from latf_sampling.errors import DataError, SettingsError

STEP, FRAME = 1e-3, 10
INTERVAL = STEP * FRAME
BARRIER = 8.0


def double_well_force(x):
    """Minus the slope of BARRIER (x^2 - 1)^2."""
    return -4 * BARRIER * x * (x**2 - 1)


def dynamics(temperature, walkers, frames, rng, force=double_well_force):
    """Overdamped trajectories (frames, walkers) with D = temperature, which start in both wells."""
    x = np.where(np.arange(walkers) % 2, 1.0, -1.0)
    out = np.empty((frames, walkers))
    for frame in range(frames):
        for _ in range(FRAME):
            x = x + STEP * force(x) + np.sqrt(2 * temperature * STEP) * rng.normal(size=walkers)
        out[frame] = x
    return out


def metadynamics(hills, walkers, steps, rng):
    """Number of crossings between the cores of each walker in each half of the simulation, (2,)."""
    grid = np.linspace(-2.2, 2.2, 221)
    spacing, bias = grid[1] - grid[0], np.zeros((walkers, 221))
    x, side, counts = np.full(walkers, -1.0), np.full(walkers, -1), np.zeros(2)
    every, rows = round(hills.interval / STEP), np.arange(walkers)
    for step in range(steps):
        cell = np.clip(((x - grid[0]) / spacing).astype(int), 0, len(grid) - 2)
        slope = (bias[rows, cell + 1] - bias[rows, cell]) / spacing
        x = x + STEP * (double_well_force(x) - slope) + np.sqrt(2 * STEP) * rng.normal(size=walkers)
        now = np.where(np.abs(x) > CORE_SHARE, np.sign(x), side).astype(int)
        counts[2 * step // steps] += np.sum(now != side)
        side = now
        if step % every == 0:
            height = hills.height * np.exp(-bias[rows, cell] / (hills.bias_factor - 1))
            bias += height[:, None] * np.exp(-0.5 * ((grid - x[:, None]) / hills.width[0]) ** 2)
    return counts / walkers


def series_of(trajectories, temperature, transform=lambda x: x):
    """One series for each walker, with the sign as the state."""
    return [LatentSeries(transform(x)[:, None], (x > 0).astype(int), temperature) for x in trajectories.T]


def chain_of_wells(rng, frames=20_000):
    """States 0 and 1 at x = 0 and 2, and a well at x = 1 between them, which is in neither core."""
    place, path = 0, np.empty(frames, int)
    for frame in range(frames):
        if rng.random() < 0.02:
            place = min(max(place + rng.choice([-1, 1]), 0), 2)
        path[frame] = place
    return np.array([0, -1, 1])[path], path.astype(float)


@pytest.fixture(scope="module")
def series():
    """Plain dynamics at kT = 1, which never crosses, and at kT = 3, which does."""
    rng = np.random.default_rng(0)
    cold, hot = dynamics(1.0, 8, 2000, rng), dynamics(3.0, 8, 2000, rng)
    return series_of(cold, 1.0) + series_of(hot, 3.0)


def rate_of(series, hills, time=0.05, **options):
    return expected_crossings(series, hills, 1.0, INTERVAL, time=time, boltzmann=1.0, **options)


HILLS = Hills(np.array([0.2]), height=0.3, bias_factor=8.0, interval=0.05)


@pytest.mark.parametrize("width", [0.1, 0.4])
def test_metadynamics_crosses_as_often_as_expected(series, width):
    hills = replace(HILLS, width=np.array([width]))
    steps = 20_000
    time = steps * STEP / 1000
    counted = metadynamics(hills, 40, steps, np.random.default_rng(1))[1] / (0.5 * time)
    expected = rate_of(series, hills, time=time)
    assert 0.5 < expected.crossings / counted < 1.6  # frames miss those there and back between two of them
    assert 0 < expected.filling < 0.7 * time
    assert abs(expected.slowest.barrier - BARRIER) < 1.5
    assert 0 < expected.error < 0.3 * expected.crossings


def test_hills_that_are_wider_than_the_wells_leave_a_barrier(series):
    narrow, wide = (rate_of(series, replace(HILLS, width=np.array([width]))) for width in (0.2, 1.5))
    assert wide.slowest.residual > narrow.slowest.residual + 1
    assert wide.crossings < 0.5 * narrow.crossings


def test_free_diffusion():
    """In a box of length L there are 2 D / (L l) crossings between points that are l apart, whatever the hills."""
    rng = np.random.default_rng(2)
    steps = np.sqrt(2 * INTERVAL) * rng.normal(size=(4000, 20))
    x = np.abs((np.cumsum(steps, axis=0) + rng.uniform(0, 8, 20) + 4) % 8 - 4)  # reflected at 0 and 4
    series = [LatentSeries(walker[:, None], (walker > 2).astype(int), 1.0) for walker in x.T]
    rate = rate_of(series, replace(HILLS, width=np.array([0.5])))
    # Cores begin at a quarter of the way from 2 to the medians 1 and 3.
    exact = 1000 * 2 / (4 * 0.5)
    assert 0.5 < rate.crossings / exact < 1.1  # crossings there and back between two frames are not seen


def test_a_coordinate_that_misses_the_transition_gets_next_to_nothing(series):
    """The states of the hidden coordinate, and a variable that moves as if nothing were there."""
    rng = np.random.default_rng(3)
    blind = [replace(entry, u=rng.normal(size=entry.u.shape) + 0.1 * entry.states[:, None]) for entry in series]
    seen, unseen = rate_of(series, HILLS), rate_of(blind, HILLS)
    assert unseen.crossings < 0.02 * seen.crossings


def test_noise_of_fast_motions_costs_crossings(series):
    rng = np.random.default_rng(4)
    noisy = [replace(entry, u=entry.u + 0.6 * rng.normal(size=entry.u.shape)) for entry in series]
    clean, blurred = rate_of(series, HILLS), rate_of(noisy, HILLS)
    assert blurred.crossings < 0.1 * clean.crossings  # the wells are as wide as the noise


def test_a_hidden_barrier_after_the_first_one_limits_crossings():
    """Three wells in a row, of which the variable does not tell the last two apart."""
    rng = np.random.default_rng(7)
    states, u = chain_of_wells(rng)
    apart, together = ([LatentSeries(values[:, None], states, 2.0)] for values in (u, np.minimum(u, 1.0)))
    noise = 0.05 * rng.normal(size=(len(u), 1))
    apart, together = ([replace(entry, u=entry.u + noise) for entry in entries] for entries in (apart, together))
    assert rate_of(together, HILLS).crossings < 0.5 * rate_of(apart, HILLS).crossings


def test_cores_are_the_frames_with_a_state(series):
    """Cores that are farther apart are reached less often."""
    near, far = (
        [replace(entry, states=np.where(np.abs(entry.u[:, 0]) < edge, -1, entry.states)) for entry in series]
        for edge in (0.25, 0.8)
    )
    rates = [rate_of(entries, HILLS).crossings for entries in (series, near, far)]
    assert rates[0] == pytest.approx(rates[1], rel=0.2)
    assert rates[2] < 0.9 * rates[1]


def test_components_that_are_functions_of_each_other_count_once(series):
    double = [replace(entry, u=entry.u @ np.array([[1.0, -2.0]])) for entry in series]
    width = 0.2 * np.sqrt(2) * np.array([1.0, 2.0])
    assert rate_of(double, replace(HILLS, width=width)).crossings == pytest.approx(
        rate_of(series, HILLS).crossings, rel=1e-6
    )


def test_hills_across_the_line_take_longer(series):
    rng = np.random.default_rng(5)
    plane = [replace(entry, u=np.hstack([entry.u, rng.uniform(-2, 2, entry.u.shape)])) for entry in series]
    flat = rate_of(series, HILLS)
    assert rate_of(plane, replace(HILLS, width=np.array([0.2, 0.2]))).filling > 3 * flat.filling


def test_transitions_of_biased_simulations_are_not_those_of_plain_dynamics(series):
    biased = [replace(entry, biased=True) for entry in series]
    rate = rate_of(biased, HILLS).slowest
    assert (rate.transmission, rate.transitions) == (1.0, 0)


def test_frames_without_weight_do_not_count_in_the_free_energy(series):
    hot = [entry for entry in series if entry.temperature == 3.0]
    cold = [replace(entry, weights=np.zeros(len(entry.u))) for entry in series if entry.temperature == 1.0]
    barriers = [rate_of(entries, HILLS).slowest.barrier for entries in (hot, hot + cold)]
    assert barriers[0] == pytest.approx(barriers[1], rel=0.02)


def test_the_slowest_needed_step_counts():
    def pair(one, other, crossings):
        return crossing_rates.PairRate((one, other), crossings, 0.0, 0.0, 0.0, 0.0, 1.0, 1)

    pairs = [pair(0, 1, 50.0), pair(0, 2, 1.0), pair(1, 2, 10.0)]  # from 0 to 2 through 1
    assert crossing_rates._bottleneck(pairs).states == (1, 2)


def test_three_states_in_a_row():
    rng = np.random.default_rng(6)
    states = np.abs((np.cumsum(rng.random(20_000) < 0.02) + 2) % 4 - 2)
    u = states[:, None] + 0.1 * rng.normal(size=(20_000, 1))
    rate = expected_crossings([LatentSeries(u, states, 300.0)], Hills(np.array([0.1])), 300.0, 1.0)
    assert len(rate.pairs) == 3
    assert rate.slowest.states in {(0, 1), (1, 2)}
    assert next(pair for pair in rate.pairs if pair.states == (0, 2)).transitions == 0


def test_quantities_and_any_scale_of_weights(series):
    mixed = [entry for entry in series if entry.temperature == 3.0][:3]
    mixed += [replace(entry, temperature=1.0) for entry in mixed[:2]]  # two temperatures that both cross
    plain = rate_of(mixed, HILLS)
    assert plain.crossings > 0
    hills = replace(HILLS, height=HILLS.height * unit.kilojoule_per_mole, interval=50 * unit.femtosecond)
    for weight in (1e-3, 1e300):
        weighted = [replace(entry, weights=np.full(len(entry.u), weight)) for entry in mixed]
        rate = rate_of(weighted, hills, time=50 * unit.picosecond)
        assert rate.crossings == pytest.approx(plain.crossings) and rate.error == pytest.approx(plain.error)
    trapped = [replace(entry, weights=np.zeros(len(entry.u))) for entry in mixed]
    assert rate_of(trapped, HILLS).crossings == pytest.approx(plain.crossings)


def test_hills_without_effect_leave_plain_dynamics(series):
    """As low ones do, and ones that are much wider than all that was visited."""
    one = [replace(entry, temperature=1.0) for entry in series if entry.temperature == 3.0][:4]
    low = rate_of(one, replace(HILLS, height=1e-9))
    counted = low.slowest.transitions / (1e-3 * INTERVAL * sum(len(entry.u) for entry in one))
    assert 0.5 < low.crossings / counted < 2
    for width in (30.0, 1e6):
        assert rate_of(one, replace(HILLS, width=np.array([width]))).crossings == pytest.approx(low.crossings, rel=0.1)
    apart = [LatentSeries(entry.u[:50], np.full(50, number % 2), 1.0) for number, entry in enumerate(one)]
    rate = rate_of(apart, HILLS)
    assert not np.signbit(rate.crossings) and rate.crossings < 1e-9  # rounding left -1e-17 of nothing


def test_texts():
    one = crossing_rates.PairRate((0, 2), 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1)
    rate = crossing_rates.CrossingRate(52.3, 23.1, 0.21, one, (one,), 300.0)
    assert rate.text == "52 ± 23"
    assert "52 ± 23 crossings per ns are expected between states 0 and 2" in rate.sentence
    assert "too steep" in replace(rate, crossings=0.0, note="too steep").sentence


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"series": []}, DataError, "no series"),
        ({"series": [np.zeros((9, 1))]}, SettingsError, r"series\[0\] must be a LatentSeries"),
        ({"temperature": 0.0}, SettingsError, "temperature: must be more than 0"),
        ({"temperature": float("inf")}, SettingsError, "temperature: inf is not finite"),
        ({"interval": -1.0}, SettingsError, "interval must be above 0"),
        ({"time": float("inf")}, SettingsError, "time must be above 0, and finite"),
        ({"hills": Hills(np.array(0.1))}, DataError, "one number for each component"),
        ({"hills": 0.1}, SettingsError, "must be Hills"),
        ({"rng": "x"}, SettingsError, "rng"),
        ({"series": [LatentSeries(np.zeros((2, 1)), np.array([0, 0.5]), 300.0)]}, DataError, "state indices"),
        ({"series": [LatentSeries(np.zeros((2, 1)), np.arange(2), 300.0, -np.ones(2))]}, DataError, "not negative"),
        ({"time": float("nan")}, SettingsError, "time must be above 0"),
        ({"hills": Hills(np.array([0.1]), bias_factor=1.0)}, SettingsError, "bias_factor"),
        ({"hills": Hills(np.array([0.0]))}, SettingsError, "width of hills"),
        ({"hills": Hills(np.array([0.1, 0.1]))}, DataError, r"it must be \(frames, 2\)"),
        ({"series": [LatentSeries(np.zeros((5, 1)), np.zeros(4), 300.0)]}, DataError, "one state and weight"),
        ({"series": [LatentSeries(np.full((5, 1), np.nan), np.arange(5), 300.0)]}, DataError, "not finite"),
        ({"series": [LatentSeries(np.zeros((5, 1)), np.zeros(5, int), 300.0)]}, DataError, "one state"),
        ({"series": [LatentSeries(np.ones((1, 1)), np.array([k]), 300.0) for k in (0, 1)]}, DataError, "no two frames"),
        ({"series": [LatentSeries(np.zeros((9, 1)), np.arange(9) // 5, 300.0)]}, DataError, "does not change"),
        ({"series": [LatentSeries(np.eye(2)[:, 1:], np.arange(2), np.nan)]}, SettingsError, "temperature of series 0"),
        ({"series": [LatentSeries(np.eye(2)[:, 1:], np.arange(2), "300 ps")]}, SettingsError, "not a temperature"),
        ({"series": [LatentSeries(np.eye(2)[:, 1:], np.arange(2), 300.0, biased=None)]}, SettingsError, "biased of"),
        ({"hills": Hills(np.array([0.1]), height="1 nm")}, SettingsError, "height of hills: '1 nm' is not an energy"),
        ({"hills": Hills(np.array([0.1]), bias_factor=None)}, SettingsError, "bias_factor must be above 1; got None"),
        ({"hills": Hills(np.array([0.1]), interval=1 * unit.kelvin)}, SettingsError, "interval of hills"),
        ({"hills": Hills(np.array([0.1, np.inf]))}, SettingsError, "width of hills must be finite"),
        ({"time": None}, SettingsError, "time must be above 0"),
        ({"boltzmann": "R"}, SettingsError, "boltzmann must be above 0"),
    ],
)
def test_wrong_arguments(changes, error, words):
    u = np.linspace(0, 1, 100)[:, None]
    right = {
        "series": [LatentSeries(u, (u[:, 0] > 0.5).astype(int), 300.0)],
        "hills": Hills(np.array([0.1])),
        "temperature": 300.0,
        "interval": 1.0,
    }
    with pytest.raises(error, match=words):
        expected_crossings(**{**right, **changes})
