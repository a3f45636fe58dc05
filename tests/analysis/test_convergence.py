"""The verdict: of walkers that converge, and of each way in which they do not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import signal

from latf_sampling.analysis import Convergence
from latf_sampling.analysis.convergence import FEW_FRAMES, SHARES
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

TEMPERATURE = 300.0
KT = KB * TEMPERATURE


def hopping(rng, frames: int = 6000, walkers: int = 2, share: float = 0.25, dwell: int = 20) -> list[np.ndarray]:
    """Walkers that choose their side anew every so many frames."""
    return [np.repeat(rng.random(frames // dwell) < share, dwell) for _ in range(walkers)]


def walk(rng, frames: int, tau: float) -> np.ndarray:
    """A standard Gaussian process whose correlation decays as exp(-t / tau)."""
    stay = np.exp(-1 / tau)
    kicks = rng.normal(size=frames) * np.sqrt(1 - stay**2)
    kicks[0] = rng.normal()
    return signal.lfilter([1.0], [1.0, -stay], kicks)


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
    assert f"leaves {found.estimate.independent_frames:.0f} independent ones" in found.verdict
    # Hundreds of effective frames, but next to each other in time.
    for _ in range(3):
        x = walk(rng, 10_000, 20.0)
        found = judged([x > 2.5], rng, [2.5 * x], crossings=100)
        assert found.estimate.independent_frames < FEW_FRAMES
        assert "independent ones" in found.verdict


def test_healthy_walkers_agree_however_many_they_are():
    rng, made = np.random.default_rng(8), []
    for walkers in (16, 64):
        made += [judged([walk(rng, 1000, 3.0) > 0.5 for _ in range(walkers)], rng) for _ in range(8)]
    assert sum("differ by" in each.verdict and not each.converged for each in made) <= 1


def test_an_imprecise_walker_hides_no_contradiction():
    rng = np.random.default_rng(9)
    for _ in range(3):
        precise = hopping(rng, share=0.25, walkers=1) + hopping(rng, share=0.5, walkers=1)
        vague = [np.repeat(rng.random(40) < share, 10) for share in (0.1, 0.9, 0.9)]
        found = judged([*precise, *vague], rng)
        assert re.search(r"walker [01] and the other groups together differ by", found.verdict)


# ------------------------------------------------------------------------------------------------------- MBAR

CENTRES = np.linspace(-2, 2, 5)


def windows(rng, frames: int = 800, late: float = 0.0) -> tuple[list[np.ndarray], Multistate]:
    """Umbrella windows of x^2 / 2 in kT; in the second half of each, x is off by so much."""
    x = [walk(rng, frames, 3.0) * 0.5**0.5 + c / 2 + late * (np.arange(frames) >= frames // 2) for c in CENTRES]
    joined = np.concatenate(x)
    bias = KT * (joined - CENTRES[:, None]) ** 2 / 2
    return x, Multistate(KT * joined**2 / 2, bias, TEMPERATURE, np.repeat(np.arange(5), frames), rng)


def of_windows(rng, late: float = 0.0, **options) -> Convergence:
    x, states = windows(rng, late=late)
    log_weights = np.split(states.log_weights(TEMPERATURE), len(x))
    return judged([part > 0.5 for part in x], rng, log_weights, crossings=100, states=states, **options)


def test_windows_are_no_groups_and_their_halves_are_solved_anew():
    rng = np.random.default_rng(10)
    found = of_windows(rng)
    assert found.converged, found.verdict
    assert found.groups == {}
    assert max(half.half_width for half in found.halves) < 2.5 * found.estimate.half_width
    assert abs(found.course[5].value - found.estimate.value) < 2 * found.estimate.half_width
    drifted = of_windows(rng, late=0.8)
    assert "first and second half of the data differ by" in drifted.verdict


def test_groups_of_windows_are_solved_by_themselves():
    rng = np.random.default_rng(11)
    pairs = [windows(rng), windows(rng)]
    x = [part for each, _ in pairs for part in each]
    joined = np.concatenate(x)
    states = Multistate(
        KT * joined**2 / 2,
        KT * (joined - CENTRES[:, None]) ** 2 / 2,
        TEMPERATURE,
        np.tile(np.repeat(np.arange(5), 800), 2),
        rng,
    )
    inside, log_weights = [part > 0.5 for part in x], np.split(states.log_weights(TEMPERATURE), 10)
    names = ["first"] * 5 + ["second"] * 5
    found = judged(inside, rng, log_weights, crossings=100, states=states, groups=names)
    assert found.converged, found.verdict
    for (part, alone), name in zip(pairs, ("first", "second")):
        weights = np.exp(alone.log_weights(TEMPERATURE))
        kept = np.concatenate(part) > 0.5
        assert found.groups[name].value == pytest.approx(
            -KT * np.log(weights[kept].sum() / weights[~kept].sum()), abs=0.01
        )


@pytest.mark.parametrize("crossings", [np.nan, -1, 2.5, (3, 4), None])
def test_crossings_are_a_whole_number(crossings):
    with pytest.raises(SettingsError, match="crossings: .* in place of a whole number of 0 or more"):
        Convergence.of([np.array([True, False])], [np.zeros(2)], TEMPERATURE, crossings, 0)


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
