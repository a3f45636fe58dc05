"""Verdicts on walkers that converge, and on each way in which they do not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import signal

from latf_sampling.analysis import Convergence
from latf_sampling.analysis.convergence import FRACTIONS, MIN_INDEPENDENT_FRAMES
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

TEMPERATURE = 300.0
KT = KB * TEMPERATURE


def hopping(rng, frames: int = 6000, walkers: int = 2, share: float = 0.25, dwell: int = 20) -> list[np.ndarray]:
    """Walkers that draw one of two states every `dwell` frames."""
    return [np.repeat(rng.random(frames // dwell) < share, dwell) for _ in range(walkers)]


def walk(rng, frames: int, tau: float) -> np.ndarray:
    """A standard Gaussian process whose correlation decays as exp(-t / tau)."""
    stay = np.exp(-1 / tau)
    kicks = rng.normal(size=frames) * np.sqrt(1 - stay**2)
    kicks[0] = rng.normal()
    return signal.lfilter([1.0], [1.0, -stay], kicks)


def crossed(inside) -> int:
    return int(sum(np.abs(np.diff(part.astype(int))).sum() for part in inside))


def assess(inside, rng, log_weights=None, crossings=None, **options) -> Convergence:
    log_weights = [np.zeros(len(part)) for part in inside] if log_weights is None else log_weights
    crossings = crossed(inside) if crossings is None else crossings
    return Convergence.from_frames(inside, log_weights, TEMPERATURE, crossings, rng, **options)


def test_walkers_that_hop_converge():
    # Halves and walkers contradict each other by chance in less than one run of a hundred.
    rng = np.random.default_rng(0)
    assessments = [assess(hopping(rng), rng) for _ in range(100)]
    assert np.mean([each.converged for each in assessments]) > 0.9
    result = next(each for each in assessments if each.converged)
    assert result.verdict.startswith(f"Converged to {result.estimate.value:.1f} kJ/mol")
    assert f"crossed {result.crossings} times" in result.verdict
    assert "2 groups of walkers agree" in result.verdict
    assert result.reasons == []
    assert list(result.groups) == ["walker 0", "walker 1"]


def test_the_history_is_what_each_fraction_alone_gives():
    rng = np.random.default_rng(1)
    inside = hopping(rng)
    result = assess(inside, rng)
    np.testing.assert_allclose(result.fractions, FRACTIONS)
    for fraction, earlier in zip(result.fractions, result.history):
        p = np.mean([part[: round(fraction * 6000)].mean() for part in inside])
        assert earlier.value == pytest.approx(-KT * np.log(p / (1 - p)))
    assert result.history[-1].value == result.estimate.value
    for half, frames in zip(result.halves, (slice(3000), slice(3000, None))):
        p = np.mean([part[frames].mean() for part in inside])
        assert half.value == pytest.approx(-KT * np.log(p / (1 - p)))
    assert result.groups["walker 1"].value == pytest.approx(-KT * np.log(inside[1].mean() / (1 - inside[1].mean())))


def test_few_crossings_are_a_reason():
    rng = np.random.default_rng(2)
    result = assess(hopping(rng), rng, crossings=1)
    assert not result.converged
    assert result.verdict == "Not converged: walkers crossed 1 time, and at least 10 crossings are needed."


def test_a_drift_is_a_reason():
    rng = np.random.default_rng(3)
    early, late = hopping(rng, share=0.1), hopping(rng, share=0.6)
    result = assess([np.concatenate(pair) for pair in zip(early, late)], rng)
    gap = abs(result.halves[0].value - result.halves[1].value)
    assert f"first and second half of the data differ by {gap:.1f} kJ/mol" in result.verdict


def test_groups_that_contradict_each_other_are_a_reason():
    rng = np.random.default_rng(4)
    inside = [*hopping(rng, share=0.1), *hopping(rng, share=0.6)]
    names = ["round 1", "round 1", "round 2", "round 2"]
    result = assess(inside, rng, groups=names)
    assert "round 2 and round 1 differ by" in result.verdict
    assert list(result.groups) == ["round 1", "round 2"]


def test_few_effective_frames_are_a_reason():
    rng = np.random.default_rng(5)
    inside = hopping(rng)
    result = assess(inside, rng, [rng.normal(scale=3.5, size=len(part)) for part in inside])
    assert f"count as {result.estimate.effective_frames:.0f} frames" in result.verdict
    assert f"leaves {result.estimate.independent_frames:.0f} independent ones" in result.verdict
    # Hundreds of effective frames, but next to each other in time.
    for _ in range(3):
        x = walk(rng, 10_000, 20.0)
        result = assess([x > 2.5], rng, [2.5 * x], crossings=100)
        assert result.estimate.independent_frames < MIN_INDEPENDENT_FRAMES
        assert "independent ones" in result.verdict


def test_healthy_walkers_agree_however_many_they_are():
    rng, assessments = np.random.default_rng(8), []
    for walkers in (16, 64):
        assessments += [assess([walk(rng, 1000, 3.0) > 0.5 for _ in range(walkers)], rng) for _ in range(8)]
    assert sum("differ by" in each.verdict and not each.converged for each in assessments) <= 1


def test_an_imprecise_walker_does_not_hide_a_contradiction():
    rng = np.random.default_rng(9)
    for _ in range(3):
        precise = hopping(rng, share=0.25, walkers=1) + hopping(rng, share=0.5, walkers=1)
        vague = [np.repeat(rng.random(40) < share, 10) for share in (0.1, 0.9, 0.9)]
        result = assess([*precise, *vague], rng)
        assert re.search(r"walker [01] and the other groups together differ by", result.verdict)


# ------------------------------------------------------------------------------------------------------- MBAR

CENTERS = np.linspace(-2, 2, 5)


def windows(rng, frames: int = 800, late: float = 0.0) -> tuple[list[np.ndarray], Multistate]:
    """Umbrella windows of x^2 / 2 in kT; in the second half of each, x is shifted by `late`."""
    x = [walk(rng, frames, 3.0) * 0.5**0.5 + c / 2 + late * (np.arange(frames) >= frames // 2) for c in CENTERS]
    joined = np.concatenate(x)
    bias = KT * (joined - CENTERS[:, None]) ** 2 / 2
    return x, Multistate(KT * joined**2 / 2, bias, TEMPERATURE, np.repeat(np.arange(5), frames), rng)


def of_windows(rng, late: float = 0.0, **options) -> Convergence:
    x, states = windows(rng, late=late)
    log_weights = np.split(states.log_weights(TEMPERATURE), len(x))
    return assess([part > 0.5 for part in x], rng, log_weights, crossings=100, states=states, **options)


def test_windows_are_no_groups_and_their_halves_are_solved_anew():
    rng = np.random.default_rng(10)
    result = of_windows(rng)
    assert result.converged, result.verdict
    assert result.groups == {}
    assert max(half.half_width for half in result.halves) < 2.5 * result.estimate.half_width
    assert abs(result.history[5].value - result.estimate.value) < 2 * result.estimate.half_width
    drifted = of_windows(rng, late=0.8)
    assert "first and second half of the data differ by" in drifted.verdict


def test_groups_of_windows_are_solved_by_themselves():
    rng = np.random.default_rng(11)
    pairs = [windows(rng), windows(rng)]
    x = [part for each, _ in pairs for part in each]
    joined = np.concatenate(x)
    states = Multistate(
        KT * joined**2 / 2,
        KT * (joined - CENTERS[:, None]) ** 2 / 2,
        TEMPERATURE,
        np.tile(np.repeat(np.arange(5), 800), 2),
        rng,
    )
    inside, log_weights = [part > 0.5 for part in x], np.split(states.log_weights(TEMPERATURE), 10)
    names = ["first"] * 5 + ["second"] * 5
    result = assess(inside, rng, log_weights, crossings=100, states=states, groups=names)
    assert result.converged, result.verdict
    for (part, alone), name in zip(pairs, ("first", "second")):
        weights = np.exp(alone.log_weights(TEMPERATURE))
        inside = np.concatenate(part) > 0.5
        assert result.groups[name].value == pytest.approx(
            -KT * np.log(weights[inside].sum() / weights[~inside].sum()), abs=0.01
        )


@pytest.mark.parametrize("crossings", [np.nan, -1, 2.5, (3, 4), None])
def test_crossings_are_a_whole_number(crossings):
    with pytest.raises(SettingsError, match="crossings: .* in place of a whole number of 0 or more"):
        Convergence.from_frames([np.array([True, False])], [np.zeros(2)], TEMPERATURE, crossings, 0)


def test_wide_and_unbounded_errors_are_reasons():
    rng = np.random.default_rng(6)
    inside = hopping(rng)
    wide = assess(inside, rng, tolerance=0.01)
    assert f"reaches {wide.estimate.half_width:.1f} kJ/mol to either side" in wide.verdict
    stuck = [np.full(500, True), np.full(500, False)]
    unbounded = assess(stuck, rng)
    assert "do not bound the error" in unbounded.verdict
    assert "crossed 0 times" in unbounded.verdict
    late = [np.concatenate([np.zeros(6000, bool), part]) for part in inside]
    assert "one half of the data alone does not bound the error" in assess(late, rng).verdict


def test_short_and_empty_walkers():
    rng = np.random.default_rng(7)
    result = assess([np.array([True, False]), np.zeros(0, bool)], rng)
    assert not result.converged
    assert len(result.history) == len(result.fractions) <= len(FRACTIONS)
    assert list(result.groups) == ["walker 0"]
    with pytest.raises(DataError, match="there is no frame"):
        assess([np.zeros(0, bool)], rng)
    with pytest.raises(DataError, match="1 names of groups, but 2 trajectories"):
        assess(hopping(rng), rng, groups=["a"])
