"""MBAR over umbrella windows against analytic Gaussians, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from latf_sampling.analysis.windows import OVERLAP, combine_windows
from latf_sampling.errors import DataError
from latf_sampling.units import KB

KT = KB * 300.0


def gaussian_windows(centers: np.ndarray, memory: float, frames: int, rng: np.random.Generator):
    """Frames with a memory of a harmonic energy (stiffness 100) under umbrellas (stiffness 300), kJ/mol, and truth."""
    width = (KT / 400.0) ** 0.5
    noise = rng.normal(size=(frames, len(centers)))
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(memory * rows[-1] + (1 - memory**2) ** 0.5 * row)
    x = 0.75 * centers + width * np.array(rows)
    u = x.T.ravel()
    truth = 0.5 * 75.0 * centers**2
    return list(x.T[:, :, None]), 150.0 * (u - centers[:, None]) ** 2, truth - truth[0]


@pytest.mark.parametrize(("memory", "inefficiency"), [(0.0, 1.0), (0.8, 9.0)])
def test_errors_are_those_of_repeats(memory, inefficiency):
    """60 repeats of five windows; frames count once, or nine times too often by (1 + m) / (1 - m).

    The scatter of z over 60 independent repeats is within 30 % of 1 but once in 2,000 (chi squared); the estimate of
    correlation itself scatters, for which 10 % more is allowed.
    """
    rng = np.random.default_rng(1)
    centers = 0.1 * np.arange(5)
    z = []
    for _ in range(60):
        series, bias, truth = gaussian_windows(centers, memory, 800, rng)
        estimate = combine_windows(series, bias, 300.0, OVERLAP)
        z.append((estimate.free_energies[-1] - truth[-1]) / estimate.errors[-1])
        assert 0.4 * inefficiency < np.median(estimate.inefficiency) < 2 * inefficiency
    assert abs(np.mean(z)) < 4 / 60**0.5
    assert 0.6 < np.std(z) < 1.4
    assert estimate.free_energies[0] == estimate.errors[0] == 0


def test_windows_that_do_not_overlap_are_named():
    series, bias, _ = gaussian_windows(np.array([0.0, 0.1, 0.6, 0.7]), 0.0, 500, np.random.default_rng(0))
    with pytest.raises(DataError, match="windows 1 and 2 overlap by .*less than 0.03"):
        combine_windows(series, bias, 300.0, OVERLAP)
    estimate = combine_windows(series, bias, 300.0, 0.0)
    assert estimate.overlap[1, 2] < 0.03 < estimate.overlap[0, 1]
    assert estimate.overlap.sum(1) == pytest.approx(np.ones(4))


def test_windows_that_nothing_relates_have_no_error_bar():
    centers, rng = np.array([0.0, 100.0, 200.0]), np.random.default_rng(0)
    estimate = combine_windows(*gaussian_windows(centers, 0.0, 100, rng)[:2], 300.0, overlap=0)
    assert estimate.errors[0] == 0 and (estimate.errors[1:] > 1000).all()


def test_a_window_without_a_frame_is_named():
    with pytest.raises(DataError, match=r"windows \[1\] have no frame"):
        combine_windows([np.zeros((5, 1)), np.empty((0, 1))], np.ones((2, 5)), 300.0, OVERLAP)


def test_one_window_and_frames_that_never_change():
    estimate = combine_windows([np.full((5, 2), 0.3)], np.ones((1, 5)), 300.0, OVERLAP)
    assert estimate.free_energies == estimate.errors == [0.0]
    assert estimate.weights == pytest.approx(np.ones(5)) and estimate.inefficiency == [1.0]
