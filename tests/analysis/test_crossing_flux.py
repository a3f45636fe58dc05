"""The flux between two cores, against networks whose conductance is known."""

from __future__ import annotations

import numpy as np
import pytest

from latf_sampling.analysis.crossing_flux import Flux


def through(core: list[int], links: dict[tuple[int, int], float]) -> float:
    flux = object.__new__(Flux)
    flux.core = np.array(core)
    matrix = np.zeros((len(core), len(core)))
    for (one, other), value in links.items():
        matrix[one, other] = matrix[other, one] = value
    return flux._through(matrix)


def test_nodes_in_a_row_resist_one_after_the_other():
    assert through([0, -1, -1, 1], {(0, 1): 2.0, (1, 2): 4.0, (2, 3): 2.0}) == pytest.approx(2 / (0.5 + 0.25 + 0.5))


@pytest.mark.parametrize(
    "more",
    [
        {(3, 3): 5.0},  # visited once, by frames that follow each other
        {(3, 4): 5.0},  # nodes that are connected with each other alone
        {(3, 4): 1e-12, (3, 3): 1e3},
        {(0, 0): 7.0, (1, 1): 7.0},
        {(0, 3): 5.0},  # a dead end
        {},
    ],
)
def test_nodes_that_lead_nowhere_change_nothing(more):
    assert through([0, -1, 1, -1, -1], {(0, 1): 1.0, (1, 2): 1.0, **more}) == pytest.approx(1.0)


def test_cores_without_a_connection_have_no_flux():
    assert through([0, 1, -1], {(0, 2): 3.0, (1, 1): 3.0}) == 0.0
    assert through([0, 1], {(0, 1): 1.5}) == pytest.approx(3.0)
