"""Estimates that disagree by more than their errors say."""

from __future__ import annotations

import math

import pytest

from latf_sampling.analysis.agreement import disagreement


@pytest.mark.parametrize(
    ("estimates", "pair"),
    [
        ({}, None),
        ({"a": (1.0, 0.1)}, None),
        ({"a": (1.0, 0.3), "b": (2.0, 0.4)}, None),  # two combined errors
        ({"a": (1.0, 0.3), "b": (2.1, 0.4)}, ("a", "b")),
        ({"a": (1.0, 0.3), "b": (2.1, 0.4), "c": (9.0, 8.0)}, ("a", "b")),  # c is farther, but knows little
        ({"a": (1.0, 0.3), "b": (9.0, math.inf), "c": (math.nan, 0.1), "d": (9.0, 0.0)}, None),
    ],
)
def test_the_pair_farthest_apart_in_errors_is_named(estimates, pair):
    assert disagreement(estimates) == pair


def test_the_limit_can_be_wider():
    estimates = {"flow": (3.0, 0.4), "frames": (4.2, 0.3)}
    assert disagreement(estimates) == ("flow", "frames") and disagreement(estimates, 3.0) is None
