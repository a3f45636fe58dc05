"""Clusters of frames: whatever the units of descriptors are."""

import numpy as np
import pytest

from latf_sampling import Dataset, Series
from latf_sampling.learning.training.clusters import cluster
from latf_sampling.learning.training.states import metastable_states

LAG = 5


def data(unit_of_slow, unit_of_fast):
    """A state, and descriptors in any units: two that tell it, and three of noise."""
    rng = np.random.default_rng(0)
    states = np.cumsum(rng.random(3000) < 0.01) % 2
    slow = states[:, None] + 0.1 * rng.normal(size=(3000, 2))
    x = np.concatenate([unit_of_slow * slow, unit_of_fast * rng.normal(size=(3000, 3))], 1)
    return states, Dataset([Series(x)], lag=LAG)


def found(dataset):
    scale = 1 / dataset.x.double().std(0).numpy()
    return metastable_states(cluster(dataset, 20, scale).numpy(), dataset.first.numpy(), LAG)


@pytest.mark.parametrize("units", [(1, 1), (1e-4, 1), (1, 1e-4), (1e-4, 1e-4), (1e10, 1), (1, 1e10), (1e-4, 1e10)])
def test_units_of_descriptors_change_no_state(units):
    """TICA alone left out directions with a variance below 1e-6, and failed beside huge columns."""
    states, dataset = data(*units)
    labels = found(dataset)
    assert labels.max() == 1
    agreement = np.mean(labels == states)
    assert max(agreement, 1 - agreement) > 0.99


def test_columns_in_ordinary_units_are_taken_as_they_are():
    _, dataset = data(1.0, 0.01)
    scale = 1 / dataset.x.double().std(0).numpy()
    assert np.array_equal(cluster(dataset, 20, scale), cluster(dataset, 20))
