"""Random streams stay what they are, and every name has its own."""

import numpy as np
import openmm
import pytest

from latf_sampling.core import streams
from latf_sampling.errors import SettingsError


def test_streams_never_change():
    """Were one of these to change, no campaign could be repeated with the seed it was run with."""
    assert streams.stream_seed(0) == 2091804249
    assert streams.stream_seed(0, "simulate", "round", 1) == 1272719149
    assert streams.stream_seed(2026, "walker", 3) == 1584271183
    np.testing.assert_allclose(streams.stream(7, "a", 1).random(3), [0.59096112, 0.21437882, 0.03480084], atol=1e-8)


def test_every_seed_and_every_name_has_its_own_stream():
    keys = [(0,), (1,), (-1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "ab"), (0, "b", "a"), (0, 3), (0, "3"), (3, 0)]
    keys += [(2**70,), (0, "é"), (0, ""), (0, "a\x00b"), (0, '"a", "b"')]
    first = {streams.stream(*key).bytes(16) for key in keys}
    assert len(first) == len(keys)
    assert len({streams.stream_seed(*key) for key in keys}) == len(keys)


def test_streams_look_independent():
    many = np.array([streams.stream(0, "walker", index).standard_normal(2000) for index in range(30)])
    correlation = np.corrcoef(many) - np.eye(30)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_a_stream_can_be_drawn_again_and_numpy_integers_are_integers():
    assert streams.stream(5, "x").random() == streams.stream(np.int64(5), "x").random()
    assert streams.stream_seed(5, 1) == streams.stream_seed(5, np.uint8(1))


def test_seeds_suit_openmm():
    seeds = np.array([streams.stream_seed(0, index) for index in range(3000)])
    assert seeds.min() >= 1
    assert seeds.max() <= 2**31 - 1
    assert abs(seeds.mean() / 2**30 - 1) < 0.05
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
    integrator.setRandomNumberSeed(int(seeds.max()))
    assert integrator.getRandomNumberSeed() == seeds.max()


@pytest.mark.parametrize("key", [(1.5,), ("1",), (None,), (True,), (0, 1.5), (0, None), (0, ("a",))])
def test_what_is_no_seed_is_refused(key):
    for make in (streams.stream, streams.stream_seed):
        with pytest.raises(SettingsError, match="is not an integer"):
            make(*key)
