"""Three weightings of a campaign's frames, against explicit sums of its hills and against pymbar."""

from __future__ import annotations

from dataclasses import replace

import mdtraj
import numpy as np
import pytest
from helpers.molecules import finished_campaign

from latf_sampling.analysis import STAGES, after_filling
from latf_sampling.records.records import Records
from latf_sampling.records.weighting import weightings
from latf_sampling.units import KB


@pytest.fixture(scope="module")
def records() -> Records:
    return Records.load(finished_campaign())


@pytest.fixture(scope="module")
def walkers(records):
    """The walkers of the campaign, with the frames of the biased ones appended to the plain one."""
    plain, *biased = records.frames()
    trajectory = mdtraj.join([walker.trajectory for walker in (plain, *biased)], check_topology=False)
    energies = np.concatenate([walker.energies for walker in (plain, *biased)])
    none = np.zeros(len(energies))
    return [replace(plain, source=trajectory, energies=energies, bias=none, offset=none), *biased]


@pytest.fixture(scope="module")
def ways(records, walkers):
    return {way.name: way for way in weightings(records, walkers, 300.0, np.random.default_rng(0))}


def last_bias(records: Records, index: int, walker, until: float = np.inf) -> np.ndarray:
    """All hills of a round up to a time of its clock on a walker's selected frames, with the walls, kJ/mol."""
    folder = records.directory.round(index).hills
    hills = np.concatenate([np.loadtxt(path) for path in sorted(folder.glob("*.hills"))])
    hills = hills[hills[:, -1] <= until]
    _, cv = records.model(index - 1)
    u = cv(walker.trajectory.xyz[after_filling(len(walker), walker.biased)].astype(float))
    square = (((u[:, None] - hills[:, 1:3]) / hills[:, 3:5]) ** 2).sum(-1)
    low, high = cv.bounds[:, 0] - 3 * cv.sigma, cv.bounds[:, 1] + 3 * cv.sigma
    walls = 10.0 * (((u - np.clip(u, low, high)) / cv.sigma) ** 2).sum(1)
    return np.exp(-0.5 * square) @ hills[:, -2] + walls


def clock(records: Records, walker, steps: np.ndarray) -> np.ndarray:
    """Steps of a walker on the clock of its round."""
    hills = np.loadtxt(records.directory.round(walker.round_index).hills / f"walker-{walker.walker:02d}.hills")
    before = [max(0, np.count_nonzero(hills[:, 0] <= step) - 1) for step in steps]
    return steps + (hills[:, -1] - hills[:, 0])[before]


def test_walkers_of_each_weighting(ways):
    places = {name: [(w.round_index, w.walker) for w in way.walkers] for name, way in ways.items()}
    biased = [(1, 0), (1, 1), (2, 0)]
    assert places == {"c(t)": biased, "last bias": biased, "MBAR": [(0, 0), *biased]}
    for way in ways.values():
        for walker, kept, weights in zip(way.walkers, way.selected, way.log_weights):
            assert kept == after_filling(len(walker), walker.biased)
            assert len(weights) == len(walker.energies[kept]) and np.isfinite(weights).all()
    assert ways["MBAR"].states is not None and ways["c(t)"].states is None


def test_weights_of_the_bias_at_the_time_and_of_the_last_bias(records, ways):
    for name, expected in (
        ("c(t)", lambda w: w.log_weights[after_filling(len(w), w.biased)]),
        ("last bias", lambda w: last_bias(records, w.round_index, w) / (KB * 300.0)),
    ):
        found = ways[name]
        for index in (1, 2):  # each round is normalized by itself, and has its own constant
            own = [k for k, walker in enumerate(found.walkers) if walker.round_index == index]
            weights = np.concatenate([found.log_weights[k] for k in own])
            wanted = np.concatenate([expected(found.walkers[k]) for k in own])
            assert np.std(weights - wanted) < 0.01
            assert np.exp(weights).mean() == pytest.approx(1.0)
    assert np.ptp(np.concatenate(ways["last bias"].log_weights)) > 0.3


def test_mbar_takes_each_round_in_stages(records, ways):
    """Against MBAR's equations solved by iteration, frames with weights for the growth of the bias in their stage."""
    found = ways["MBAR"]
    energies = np.concatenate([w.energies[kept] for w, kept in zip(found.walkers, found.selected)])
    order, counts, reduced = [], [len(found.log_weights[0])], [energies / (KB * 600.0)]
    stride = round(records.protocol.frame_interval / records.protocol.integrator.timestep)
    numbers = [np.zeros(counts[0], int)]
    for index, places in ((1, (1, 2)), (2, (3,))):
        steps = {k: stride * np.arange(1, len(found.walkers[k]) + 1)[found.selected[k]] for k in places}
        steps = {k: clock(records, found.walkers[k], of_walker) for k, of_walker in steps.items()}
        first, last = min(part[0] for part in steps.values()), max(part[-1] for part in steps.values())
        numbers += [np.minimum((steps[k] - first) * STAGES // (last - first), STAGES - 1) for k in places]
        for stage in range(STAGES):
            middle = first + (stage + 0.5) / STAGES * (last - first)
            bias = np.concatenate([last_bias(records, index, walker, round(middle)) for walker in found.walkers])
            reduced.append((energies + bias) / (KB * 300.0))
            counts.append(sum(int((numbers[k] == stage).sum()) for k in places))
            order.append((places, stage))
    # pymbar wants the frames of a state together
    joined, walker = np.concatenate(numbers), np.repeat(np.arange(4), list(map(len, numbers)))
    sorting = [np.flatnonzero(walker == 0)]
    sorting += [np.flatnonzero(np.isin(walker, places) & (joined == stage)) for places, stage in order]
    sorting = np.concatenate(sorting)
    reduced = np.array(reduced)[:, sorting]
    of_state = np.repeat(np.arange(len(counts)), counts)
    at_the_time = [(w.bias - w.offset)[kept] for w, kept in zip(found.walkers, found.selected)]
    growth = (np.concatenate(at_the_time) / (KB * 300.0))[sorting] - reduced[of_state, np.arange(len(of_state))]
    growth += energies[sorting] / (KB * 300.0)
    growth[of_state == 0] = 0.0
    base = np.empty(len(growth))
    for state in range(len(counts)):
        here = of_state == state
        own = np.exp(growth[here]) / np.exp(growth[here]).mean()
        base[here] = np.log(own / np.square(own).mean())  # of a sum of their effective number
    totals, free = np.bincount(of_state, np.exp(base)), solve_by_iteration(reduced, base, of_state)
    expected = base - energies[sorting] / (KB * 300.0)
    expected -= np.logaddexp.reduce(np.log(totals)[:, None] + free[:, None] - reduced, axis=0)
    weights = np.concatenate(found.log_weights)[sorting]
    assert np.ptp(weights) > 3
    assert 0.02 < np.std(base) < 1
    # The program solves on frames drawn by their weights.
    assert np.std(weights - expected) < 0.1 < np.std(weights - (expected - base))
    assert len(found.states.temperatures) == 1 + 2 * STAGES


def solve_by_iteration(reduced: np.ndarray, base: np.ndarray, of_state: np.ndarray) -> np.ndarray:
    """Free energies (K,) of states from weighted frames: MBAR's equations, inserted into themselves."""
    log_totals, free = np.log(np.bincount(of_state, np.exp(base))), np.zeros(len(reduced))
    while True:
        density = np.logaddexp.reduce((log_totals + free)[:, None] - reduced, axis=0)
        new = -np.logaddexp.reduce(base - reduced - density, axis=1)
        new -= new[0]
        if np.abs(new - free).max() < 1e-7:
            return new
        free = new


def test_plain_dynamics_that_missed_a_state_is_left_out_of_mbar(records, walkers, ways):
    model, cv = records.model(1)
    plain, *biased = walkers
    states = [model.state_probabilities(cv(w.trajectory.xyz.astype(float))).argmax(1) for w in walkers]
    assert len(set(states[0])) > 1
    # the state with most frames of biased walkers
    here = np.flatnonzero(states[0] != np.bincount(np.concatenate(states[1:])).argmax())
    trapped = replace(
        plain,
        walker=7,
        source=plain.trajectory[here],
        **{name: getattr(plain, name)[here] for name in ("energies", "bias", "offset")},
    )
    found = weightings(records, [trapped, plain, *biased], 300.0, np.random.default_rng(0))[-1]
    assert [w.walker for w in found.walkers if not w.biased] == [0]
    for weights, expected in zip(found.log_weights, ways["MBAR"].log_weights):
        assert np.array_equal(weights, expected)
    # Nor does it count in the density of a training.
    assert records.trapped([trapped, plain, *biased]) == [True] + [False] * (1 + len(biased))
    series = records.training_series([trapped, plain, *biased])
    assert [entry.in_density for entry in series] == [False] + [True] * (1 + len(biased))
    # Without biased walkers it is used.
    assert records.trapped([trapped, plain]) == [False, False]
    (alone,) = weightings(records, [trapped], 300.0, np.random.default_rng(0))
    assert alone.walkers == [trapped]


def test_where_energies_depend_on_temperature_each_temperature_stands_alone(records, walkers):
    hot = replace(walkers[0], temperature=450.0)
    system = records.protocol.system.model_copy(update={"temperature_dependent": True})
    protocol = records.protocol.model_copy(update={"system": system})
    alone = Records(protocol, records.directory)
    ways = [weightings(r, [hot, *walkers[1:]], 300.0, np.random.default_rng(0)) for r in (records, alone)]
    assert [any(w.temperature == 450.0 for w in way[-1].walkers) for way in ways] == [True, False]
    fewer = weightings(records, walkers[1:], 300.0, np.random.default_rng(0))
    for one, other in zip(ways[1], fewer, strict=True):
        np.testing.assert_array_equal(np.concatenate(one.log_weights), np.concatenate(other.log_weights))
    assert all(series.energies is None for series in alone.series(walkers[1:2]))


def test_without_a_bias_there_is_mbar_alone(records):
    plain = [walker for walker in records.frames() if not walker.biased]
    (only,) = weightings(records, plain, 450.0, np.random.default_rng(0))
    assert only.name == "MBAR"
    weights, energies = only.log_weights[0], plain[0].energies
    slope = np.polyfit(energies, weights, 1)[0]
    assert slope == pytest.approx(1 / (KB * 600.0) - 1 / (KB * 450.0), rel=1e-6)
