"""Close pairs by all distances and by trees are the same."""

import numpy as np

from latf_sampling.systems import neighbors


def test_small_and_large_systems_find_the_same_pairs(monkeypatch):
    positions = np.random.default_rng(0).uniform(0, 1, (250, 3))
    pairs = neighbors.close_pairs(positions, 0.15)
    assert len(pairs) > 100
    assert (pairs[:, 0] < pairs[:, 1]).all()
    monkeypatch.setattr(neighbors, "SMALL", 0)
    np.testing.assert_array_equal(neighbors.close_pairs(positions, 0.15), pairs)
    for few in (positions[:0], positions[:1]):
        assert neighbors.close_pairs(few, 0.15).shape == (0, 2)
        monkeypatch.setattr(neighbors, "SMALL", 1000)
