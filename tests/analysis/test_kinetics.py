"""Implied time scales and the Chapman-Kolmogorov test of Markov chains whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from deeptime.markov.msm import MaximumLikelihoodMSM

from latf_sampling.analysis.kinetics import estimate_kinetics

TWO_STATES = np.array([[0.98, 0.02], [0.05, 0.95]])
SLOW = -1 / np.log(1 - 0.07)


def chain(n: int, matrix, rng) -> np.ndarray:
    """A Markov chain with a transition matrix."""
    cumulative, uniform = np.cumsum(matrix, axis=1), rng.random(n)
    states = np.zeros(n, int)
    for t in range(1, n):
        states[t] = np.searchsorted(cumulative[states[t - 1]], uniform[t])
    return states


def test_time_scales_of_a_markov_chain():
    rng = np.random.default_rng(5)
    states = [chain(20_000, TWO_STATES, rng) for _ in range(2)]
    kinetics = estimate_kinetics(states, 2, 4, 300.0, rng)
    resolved = kinetics.lags < 20
    assert resolved.sum() >= 4
    widths = kinetics.upper[resolved, 0] - kinetics.lower[resolved, 0]
    assert (np.abs(kinetics.timescales[resolved, 0] - SLOW) < widths).all()
    assert abs(kinetics.slowest[0] - SLOW) < kinetics.slowest[2] - kinetics.slowest[1]  # about four standard errors
    for lag, value in zip(kinetics.lags[resolved], kinetics.timescales[resolved, 0]):
        model = MaximumLikelihoodMSM(reversible=False, lagtime=int(lag)).fit_fetch(states)
        assert value == pytest.approx(model.timescales()[0], rel=1e-6)
    np.testing.assert_array_equal(kinetics.multiples, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(kinetics.predicted[0], kinetics.estimated[0])
    matrix = MaximumLikelihoodMSM(reversible=False, lagtime=4).fit_fetch(states).transition_matrix
    np.testing.assert_allclose(kinetics.predicted[2], np.diag(matrix @ matrix @ matrix), rtol=1e-6)
    assert kinetics.deviation < 0.04
    assert kinetics.deviation_in_errors < 6
    assert kinetics.notes == ()


def test_intervals_of_time_scales_hold_the_exact_value():
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(60):
        kinetics = estimate_kinetics([chain(6000, TWO_STATES, rng)], 2, 3, 300.0, rng)
        held += kinetics.slowest[1] < SLOW < kinetics.slowest[2]
    assert held >= 45  # 95 % intervals from ten blocks hold it about nine times out of ten


def test_memory_fails_the_chapman_kolmogorov_test():
    # One visible state is two hidden ones, which are left at rates that differ tenfold.
    rng = np.random.default_rng(7)
    hidden = chain(60_000, [[0.8, 0.0, 0.2], [0.0, 0.99, 0.01], [0.05, 0.05, 0.9]], rng)
    visible = (hidden == 2).astype(int)
    kinetics = estimate_kinetics([visible], 2, 2, 300.0, rng)
    assert kinetics.deviation > 0.05
    assert kinetics.deviation_in_errors > 8
    assert kinetics.timescales[0, 0] < 0.75 * kinetics.timescales[kinetics.lags > 20, 0][0]  # it depends on the lag


def test_states_that_are_missing_or_not_connected():
    rng = np.random.default_rng(8)
    states = chain(5000, TWO_STATES, rng)
    kinetics = estimate_kinetics([states], 4, 3, 300.0, rng)
    assert kinetics.states == (0, 1)
    assert kinetics.notes == ("Never visited: state 2, 3.",)
    assert np.isnan(kinetics.timescales[:, 1:]).all()
    assert abs(kinetics.slowest[0] - SLOW) < kinetics.slowest[2] - kinetics.slowest[1]  # about four standard errors
    ends = estimate_kinetics([np.append(states, np.full(10, 2))], 3, 3, 300.0, rng)  # never left again
    assert ends.states == (0, 1)
    assert "Left out" in ends.notes[0]
    for part, words in (([np.zeros(500, int)], "No two states"), ([states[:50]], "too few for kinetics")):
        empty = estimate_kinetics(part, 2, 3, 300.0, rng)
        assert empty.slowest is None and empty.deviation is None and len(empty.lags) == len(empty.multiples) == 0
        assert any(words in note for note in empty.notes)
    long = estimate_kinetics([states[:200]], 2, 80, 300.0, rng)
    assert long.deviation is None
    assert any("No Chapman-Kolmogorov test" in note or "No two states" in note for note in long.notes)
