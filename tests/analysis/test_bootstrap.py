"""Random weights of blocks: averages scatter as those of independent simulations do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta

from latf_sampling.analysis.bootstrap import Bootstrap, inflation, population_interval


@pytest.mark.parametrize("count", [3, 10, 100])
def test_an_average_scatters_as_the_unbiased_variance_of_independent_blocks(count):
    values = np.random.default_rng(count).normal(size=count)
    bootstrap = Bootstrap(np.arange(count))
    drawn = bootstrap.draw(np.random.default_rng(0), 200_000)
    assert drawn.sum(1) == pytest.approx(np.full(200_000, count))
    assert drawn.mean(0) == pytest.approx(np.ones(count), abs=0.05)
    assert (drawn @ values / count).std() == pytest.approx(values.std(ddof=1) / count**0.5, rel=0.02)


def test_weight_stays_within_groups_and_inflation_acts_within_its_own():
    blocks, groups = np.repeat(np.arange(50), 10), np.repeat([300.0, 400.0], [200, 300])
    plain, inflated = (Bootstrap(blocks, groups, factor) for factor in (1.0, np.array([1.0, 2.5])))
    assert np.array_equal(plain.index, blocks) and plain.known
    variances = []
    for bootstrap in (plain, inflated):
        drawn = bootstrap.draw(np.random.default_rng(1), 50_000)
        assert drawn[:, :20].sum(1) == pytest.approx(np.full(50_000, 20))
        assert drawn[:, 20:].sum(1) == pytest.approx(np.full(50_000, 30))
        variances.append(drawn.var(0))
    ratio = variances[1] / variances[0]
    assert ratio[:20].mean() == pytest.approx(1.0, abs=0.03) and ratio[20:].mean() == pytest.approx(2.5, abs=0.1)


def test_one_block_in_each_group_is_not_known_and_has_its_own_weight():
    bootstrap = Bootstrap(np.array([7, 7, 9]), np.array([1.0, 1.0, 2.0]))
    assert not bootstrap.known
    assert np.array_equal(bootstrap.draw(np.random.default_rng(0), 3), np.ones((3, 2)))


def two_states(rng, frames, rate):
    """Independent jumps between two states of the same population; correlation decays as (1 - rate)^t."""
    return (np.cumsum(rng.random(frames) < rate / 2) + rng.integers(2)) % 2


def test_inflation_makes_up_for_what_blocks_lose():
    """The variance of the mean of many trajectories, by blocks of 2.5 correlation times."""
    rng, rate, frames, runs = np.random.default_rng(2), 0.04, 1000, 60
    states = np.concatenate([two_states(rng, frames, rate) for _ in range(runs)])
    blocks = np.arange(runs * frames) // 62.5
    ones = np.ones(runs * frames)
    factors = inflation(states, 300 * ones, ones, blocks, [frames] * runs)
    tau, length = -1 / np.log(1 - rate), 62.5
    lost = tau / length * (1 - np.exp(-length / tau))
    assert factors == pytest.approx([1 / (1 - lost)], rel=0.15)
    bootstrap = Bootstrap(blocks, None, factors)
    means = bootstrap.draw(rng, 2000) @ np.bincount(bootstrap.index, states) / (runs * frames)
    exact = 0.5 * np.sqrt((1 + (1 - rate)) / rate / (runs * frames))
    assert means.std() == pytest.approx(exact, rel=0.2)
    assert (Bootstrap(blocks).draw(rng, 2000) @ np.bincount(blocks.astype(int), states)).std() / (
        runs * frames
    ) < 0.85 * exact


def test_inflation_is_by_temperature_and_leaves_out_frames_without_weight():
    rng = np.random.default_rng(3)
    slow, fast = two_states(rng, 4000, 0.01), two_states(rng, 4000, 1.0)
    states, kelvin = np.concatenate([slow, fast, slow]), np.repeat([300.0, 400.0, 300.0], 4000)
    weights, blocks = np.repeat([1.0, 1.0, 0.0], 4000), np.arange(12_000) // 400
    factors = inflation(states, kelvin, weights, blocks, [4000] * 3)
    assert factors[0] > 1.15 and factors[1] == pytest.approx(1.0, abs=0.02)
    assert inflation(states, kelvin, np.repeat([0.0, 1.0, 0.0], 4000), blocks, [4000] * 3) == pytest.approx(factors[1:])


def test_intervals_of_populations_hold_where_the_estimate_is_skewed():
    """Counts of 60 independent frames at 93 %: Wald's interval holds too seldom, that of the log odds does not."""
    rng, truth, n = np.random.default_rng(4), 0.93, 60
    found = rng.binomial(n, truth, 20_000) / n
    found = found[found < 1]
    low, high = population_interval(found, np.sqrt(found * (1 - found) / n))
    assert ((low < truth) & (truth < high)).mean() > 0.94
    assert (low > 0).all() and (high < 1).all()
    # Near the middle it is the same as the exact interval of Clopper and Pearson, a little narrower.
    low, high = population_interval(np.array(0.4), np.array(np.sqrt(0.24 / 1000)))
    assert (low, high) == pytest.approx((beta.ppf(0.025, 400, 601), beta.ppf(0.975, 401, 600)), abs=0.002)
    assert high == pytest.approx(expit(np.log(2 / 3) + 1.96 / np.sqrt(240)))
    assert np.isnan(population_interval(np.array([0.0, 1.0]), np.zeros(2))).all()
