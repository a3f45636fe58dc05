"""The verdict: of walkers that converge, and of each way in which they do not."""

from __future__ import annotations

import numpy as np
import pytest

from latf_sampling.analysis import Convergence
from latf_sampling.analysis.convergence import SHARES
from latf_sampling.errors import DataError
from latf_sampling.units import KB

TEMPERATURE = 300.0
KT = KB * TEMPERATURE


def hopping(rng, frames: int = 6000, walkers: int = 2, share: float = 0.25, dwell: int = 20) -> list[np.ndarray]:
    """Walkers that choose their side anew every so many frames."""
    return [np.repeat(rng.random(frames // dwell) < share, dwell) for _ in range(walkers)]


def crossed(inside) -> int:
    return int(sum(np.abs(np.diff(part.astype(int))).sum() for part in inside))


def judged(inside, rng, log_weights=None, crossings=None, **options) -> Convergence:
    log_weights = [np.zeros(len(part)) for part in inside] if log_weights is None else log_weights
    crossings = crossed(inside) if crossings is None else crossings
    return Convergence.of(inside, log_weights, TEMPERATURE, crossings, rng, **options)


def test_walkers_that_hop_converge():
    # Halves and walkers contradict each other by chance in less than one run of a hundred.
    rng = np.random.default_rng(0)
    made = [judged(hopping(rng), rng) for _ in range(100)]
    assert np.mean([each.converged for each in made]) > 0.9
    found = next(each for each in made if each.converged)
    assert found.verdict.startswith(f"Converged to {found.estimate.value:.1f} kJ/mol")
    assert f"crossed {found.crossings} times" in found.verdict
    assert "2 groups of walkers agree" in found.verdict
    assert found.reasons == []
    assert list(found.groups) == ["walker 0", "walker 1"]


def test_the_course_is_what_each_share_alone_gives():
    rng = np.random.default_rng(1)
    inside = hopping(rng)
    found = judged(inside, rng)
    np.testing.assert_allclose(found.shares, SHARES)
    for share, step in zip(found.shares, found.course):
        p = np.mean([part[: round(share * 6000)].mean() for part in inside])
        assert step.value == pytest.approx(-KT * np.log(p / (1 - p)))
    assert found.course[-1].value == found.estimate.value
    for half, kept in zip(found.halves, (slice(3000), slice(3000, None))):
        p = np.mean([part[kept].mean() for part in inside])
        assert half.value == pytest.approx(-KT * np.log(p / (1 - p)))
    assert found.groups["walker 1"].value == pytest.approx(-KT * np.log(inside[1].mean() / (1 - inside[1].mean())))


def test_few_crossings_are_a_reason():
    rng = np.random.default_rng(2)
    found = judged(hopping(rng), rng, crossings=1)
    assert not found.converged
    assert found.verdict == "Not converged: walkers crossed 1 time, and at least 10 crossings are needed."


def test_a_drift_is_a_reason():
    rng = np.random.default_rng(3)
    early, late = hopping(rng, share=0.1), hopping(rng, share=0.6)
    found = judged([np.concatenate(pair) for pair in zip(early, late)], rng)
    gap = abs(found.halves[0].value - found.halves[1].value)
    assert f"first and second half of the data differ by {gap:.1f} kJ/mol" in found.verdict


def test_groups_that_contradict_each_other_are_a_reason():
    rng = np.random.default_rng(4)
    inside = [*hopping(rng, share=0.1), *hopping(rng, share=0.6)]
    names = ["round 1", "round 1", "round 2", "round 2"]
    found = judged(inside, rng, groups=names)
    assert "round 2 and round 1 differ by" in found.verdict
    assert list(found.groups) == ["round 1", "round 2"]


def test_few_effective_frames_are_a_reason():
    rng = np.random.default_rng(5)
    inside = hopping(rng)
    found = judged(inside, rng, [rng.normal(scale=3.5, size=len(part)) for part in inside])
    assert f"count as {found.estimate.effective_frames:.0f} frames" in found.verdict


def test_wide_and_unbounded_errors_are_reasons():
    rng = np.random.default_rng(6)
    inside = hopping(rng)
    wide = judged(inside, rng, tolerance=0.01)
    assert f"reaches {wide.estimate.half_width:.1f} kJ/mol to either side" in wide.verdict
    stuck = [np.full(500, True), np.full(500, False)]
    unbounded = judged(stuck, rng)
    assert "do not bound the error" in unbounded.verdict
    assert "crossed 0 times" in unbounded.verdict
    late = [np.concatenate([np.zeros(6000, bool), part]) for part in inside]
    assert "one half of the data alone does not bound the error" in judged(late, rng).verdict


def test_short_and_empty_walkers():
    rng = np.random.default_rng(7)
    found = judged([np.array([True, False]), np.zeros(0, bool)], rng)
    assert not found.converged
    assert len(found.course) == len(found.shares) <= len(SHARES)
    assert list(found.groups) == ["walker 0"]
    with pytest.raises(DataError, match="there is no frame"):
        judged([np.zeros(0, bool)], rng)
    with pytest.raises(DataError, match="1 names of groups, but 2 trajectories"):
        judged(hopping(rng), rng, groups=["a"])
