"""Metastable states of known jump processes: their number, their frames, rare ones, and none where nothing is slow."""

import numpy as np
import pytest

from latf_sampling.errors import SingleStateError
from latf_sampling.learning.training.states import metastable_states


def jumps(populations, stay, n, rng):
    """State at each step: it stays with a probability of its own, or is drawn so that populations are as given."""
    entered = np.array(populations) * (1 - np.array(stay))
    drawn, leaves = rng.choice(len(populations), size=n, p=entered / entered.sum()), rng.random(n)
    states = np.empty(n, int)
    state = 0
    for t in range(n):
        state = drawn[t] if leaves[t] > stay[state] else state
        states[t] = state
    return states


def clusters_of(states, rng, each=4):
    """Clusters of fast exchange inside each state."""
    return each * states + rng.integers(each, size=len(states))


def share_of_agreement(found, states):
    return sum(np.bincount(states[found == k]).max() for k in np.unique(found)) / len(states)


@pytest.mark.parametrize(
    ("populations", "stay", "lag"),
    [
        ([0.5, 0.5], [0.99, 0.99], 20),
        ([0.5, 0.3, 0.2], [0.95, 0.95, 0.95], 3),
        ([0.45, 0.45, 0.1], [0.99, 0.99, 0.98], 20),
        ([0.6, 0.3, 0.09, 0.01], [0.99, 0.98, 0.97, 0.95], 5),  # a rare one whose frames leave first
        ([0.97, 0.03], [0.999, 0.99], 10),
    ],
)
def test_the_states_of_a_jump_process(populations, stay, lag):
    rng = np.random.default_rng(0)
    states = jumps(populations, stay, 40_000, rng)
    found = metastable_states(clusters_of(states, rng), np.arange(len(states) - lag), lag)
    assert found.max() + 1 == len(populations)
    assert share_of_agreement(found, states) > 0.999
    counts = np.bincount(found)
    assert (np.diff(counts) <= 0).all()


def test_other_clusters_of_the_same_frames_give_the_same_states():
    """Whatever the clusters are called, and however finely they divide a state."""
    rng = np.random.default_rng(1)
    states = jumps([0.5, 0.3, 0.2], [0.97, 0.97, 0.97], 20_000, rng)
    first, found = np.arange(len(states) - 5), []
    for each in (1, 3, 12):
        clusters = clusters_of(states, rng, each)
        found.append(metastable_states(rng.permutation(clusters.max() + 1)[clusters], first, 5))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("clusters", [np.zeros(1000, int), np.random.default_rng(0).integers(10, size=1000)])
def test_nothing_slow_is_a_single_state(clusters):
    with pytest.raises(SingleStateError, match="no slow transition at a lag of 5 frames"):
        metastable_states(clusters, np.arange(995), 5)


@pytest.mark.parametrize("frames", [12, 40, 100])
def test_few_frames_are_called_few(frames):
    with pytest.raises(
        SingleStateError, match=rf"^train: {frames - 5} pairs of frames at a lag of 5 frames are too few"
    ):
        metastable_states(np.zeros(frames, int), np.arange(frames - 5), 5)


def test_a_process_that_is_faster_than_the_lag_gives_no_states():
    rng = np.random.default_rng(2)
    states = jumps([0.5, 0.5], [0.95, 0.95], 20_000, rng)
    for lag, count in ((5, 2), (50, 1)):
        first = np.arange(len(states) - lag)
        if count == 1:
            with pytest.raises(SingleStateError):
                metastable_states(states, first, lag)
        else:
            assert metastable_states(states, first, lag).max() + 1 == count


def test_parts_without_transitions_are_states():
    """Two series that were never in the same cluster, one of which moves once and stays."""
    clusters = np.concatenate([np.zeros(500, int), np.repeat([1, 2], 250)])
    first = np.concatenate([np.arange(495), 500 + np.arange(495)])
    assert np.array_equal(np.bincount(metastable_states(clusters, first, 5)), [500, 250, 250])


def test_a_state_with_too_few_frames_is_merged():
    rng = np.random.default_rng(3)
    states = jumps([0.5, 0.5], [0.99, 0.99], 10_000, rng)
    states[5000:5020] = 2
    first = np.arange(len(states) - 5)
    assert metastable_states(states, first, 5).max() + 1 == 3
    merged = metastable_states(states, first, 5, minimum_population=0.01)
    assert merged.max() + 1 == 2
    with pytest.raises(SingleStateError):
        metastable_states(states, first, 5, minimum_population=0.9)


def test_transitions_that_a_bias_drives_hardly_count():
    """Two states between which plain dynamics hardly ever crosses exchange fast under a bias, and there is a third."""
    rng = np.random.default_rng(4)
    plain = jumps([0.5, 0.5], [0.999, 0.999], 10_000, rng)
    driven = rng.integers(2, size=20_000)
    third = np.full(20_000, 2)
    states = np.concatenate([plain, driven, third])
    first = np.concatenate([begin + np.arange(n - 5) for begin, n in ((0, 10_000), (10_000, 20_000), (30_000, 20_000))])
    biased = np.arange(len(states)) >= 10_000
    found = metastable_states(states, first, 5, biased=biased)
    assert found.max() == 2
    assert share_of_agreement(found, states) == 1.0
    assert metastable_states(states, first, 5).max() == 1
