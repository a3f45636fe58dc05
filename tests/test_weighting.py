"""Three ways to weigh a campaign's frames, against sums of its hills by hand and against pymbar."""

from __future__ import annotations

import numpy as np
import pymbar
import pytest
from molecules import finished_campaign

from latf_sampling.analysis import settled
from latf_sampling.campaign import Campaign
from latf_sampling.units import KB
from latf_sampling.weighting import weightings


@pytest.fixture(scope="module")
def campaign() -> Campaign:
    return Campaign.of(finished_campaign())


@pytest.fixture(scope="module")
def ways(campaign):
    return {way.name: way for way in weightings(campaign, campaign.frames(), 300.0, np.random.default_rng(0))}


def last_bias(campaign: Campaign, index: int, walker) -> np.ndarray:
    """All hills of a round on a walker's settled frames, with the walls, kJ/mol."""
    folder = campaign.store.walker(index, 0).parent / "hills"
    hills = np.concatenate([np.loadtxt(path) for path in sorted(folder.glob("*.hills"))])
    _, cv = campaign.model(index - 1)
    u = cv(walker.trajectory.xyz[settled(walker)].astype(float))
    square = (((u[:, None] - hills[:, 1:3]) / hills[:, 3:5]) ** 2).sum(-1)
    low, high = cv.bounds[:, 0] - 3 * cv.sigma, cv.bounds[:, 1] + 3 * cv.sigma
    walls = 10.0 * (((u - np.clip(u, low, high)) / cv.sigma) ** 2).sum(1)
    return np.exp(-0.5 * square) @ hills[:, -1] + walls


def test_each_way_has_the_walkers_it_can_weigh(ways):
    places = {name: [(w.round_index, w.walker) for w in way.walkers] for name, way in ways.items()}
    biased = [(1, 0), (1, 1), (2, 0)]
    assert places == {"c(t)": biased, "last bias": biased, "MBAR": [(0, 0), *biased]}
    for way in ways.values():
        for walker, kept, weights in zip(way.walkers, way.kept, way.log_weights):
            assert kept == settled(walker)
            assert len(weights) == len(walker.energies[kept]) and np.isfinite(weights).all()
    assert ways["MBAR"].states is not None and ways["c(t)"].states is None


def test_weights_of_the_bias_at_the_time_and_of_the_last_bias(campaign, ways):
    for name, expected in (
        ("c(t)", lambda w: w.log_weights[settled(w)]),
        ("last bias", lambda w: last_bias(campaign, w.round_index, w) / (KB * 300.0)),
    ):
        found = ways[name]
        for index in (1, 2):  # rounds are balanced among themselves, so that each has a constant of its own
            own = [k for k, walker in enumerate(found.walkers) if walker.round_index == index]
            weights = np.concatenate([found.log_weights[k] for k in own])
            wanted = np.concatenate([expected(found.walkers[k]) for k in own])
            assert np.std(weights - wanted) < 0.01
            assert np.exp(weights).mean() == pytest.approx(1.0)
    assert np.ptp(np.concatenate(ways["last bias"].log_weights)) > 0.3


def test_mbar_is_that_of_pymbar(campaign, ways):
    found = ways["MBAR"]
    energies = np.concatenate([w.energies[kept] for w, kept in zip(found.walkers, found.kept)])
    counts = {0: len(found.log_weights[0]), 1: sum(map(len, found.log_weights[1:3])), 2: len(found.log_weights[3])}
    reduced = [energies / (KB * 600.0)]
    for index in (1, 2):
        bias = np.concatenate([last_bias(campaign, index, walker) for walker in found.walkers])
        reduced.append((energies + bias) / (KB * 300.0))
    solved = pymbar.MBAR(np.array(reduced), list(counts.values()), solver_protocol="robust")
    terms = np.log(list(counts.values()))[:, None] + solved.f_k[:, None] - np.array(reduced)
    expected = -energies / (KB * 300.0) - np.logaddexp.reduce(terms, axis=0)
    weights = np.concatenate(found.log_weights)
    assert np.ptp(weights) > 3
    assert np.std(weights - expected) < 0.02


def test_without_a_bias_there_is_mbar_alone(campaign):
    plain = [walker for walker in campaign.frames() if not walker.biased]
    (only,) = weightings(campaign, plain, 450.0, np.random.default_rng(0))
    assert only.name == "MBAR"
    weights, energies = only.log_weights[0], plain[0].energies
    slope = np.polyfit(energies, weights, 1)[0]
    assert slope == pytest.approx(1 / (KB * 600.0) - 1 / (KB * 450.0), rel=1e-6)
