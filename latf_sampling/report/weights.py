"""The free-energy difference by three weightings of the frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from latf_sampling import analysis
from latf_sampling.analysis import Difference, agreement
from latf_sampling.core import streams
from latf_sampling.errors import SimulationError
from latf_sampling.records.records import Records
from latf_sampling.records.weight_table import WAYS
from latf_sampling.records.weighting import Weighting, weightings
from latf_sampling.report import page, words
from latf_sampling.report.estimates import Estimates

TITLE = "Three ways to weight frames"
WITHOUT_BIAS = "All temperatures together"
"""The title where there is no bias, and MBAR is the only weighting."""


def section(records: Records, estimates: Estimates) -> str:
    """Empty where no variable is observed, or there is neither a bias nor several temperatures."""
    if not applies(records, estimates):
        return ""
    biased = any(walker.frames.biased for walker in records.walkers)
    title = TITLE if biased else WITHOUT_BIAS
    try:
        differences = differences_by_weights(records, estimates)
    except SimulationError as error:
        return page.section(title, page.missing(f"The biases could not be read: {error}"))
    frames = [walker.frames for walker in records.walkers]
    if records.protocol.system.temperature_dependent:
        frames = [walker for walker in frames if walker.temperature == estimates.temperature]
    head = ["weights", "difference", "95 % interval", "frames", "independent frames"]
    counted = {(walker.round_index, walker.walker) for walker in differences[-1][0].walkers}
    trapped = [w for w in frames if not (w.externally_weighted or (w.round_index, w.walker) in counted)]
    return page.section(
        title,
        page.paragraph(
            "Frames sampled under a changing bias can be weighted by the bias at their time, put on one scale by c(t); "
            "by the last bias, as if all frames had been sampled under it; and by MBAR, which joins all rounds, "
            f"temperatures and plain dynamics, with each round in {analysis.STAGES} stages under the bias in the "
            "middle of each, and frames weighted for what it grew by within the stage. Where the three agree, the bias "
            "has converged; where they differ, simulate longer. In tests on wells with known free energies, 95 % "
            "intervals by c(t) and by MBAR contained the exact value about as often as they should; those by the last "
            "bias are too narrow as long as the bias changes."
            if biased
            else "MBAR weights the frames of all temperatures by their energies, as if all were simulated at "
            f"{estimates.temperature:g} K. The result should agree with plain dynamics at this temperature; its error "
            "is smaller where walkers at higher temperatures cross more often."
        ),
        page.table(head, [_row(weighting, difference) for weighting, difference in differences]),
        "" if (apart := disagreement(differences)) is None else page.paragraph(apart, "warning"),
        page.paragraph(
            f"Not in MBAR: {words.listed([walker.label for walker in trapped])}. Plain dynamics that never reached "
            "the core of a state that biased walkers visited has no information about the probability of this state, "
            "but MBAR would conclude that the state is empty. States are those of the model that the last biased "
            f"round was biased along.{_lost(differences[-1][0].lost_states)}",
            "soft",
        )
        if trapped
        else "",
    )


def _lost(states: Sequence[int]) -> str:
    """What leaving walkers out costs, in a sentence with a space before it; empty where it costs nothing."""
    if not states:
        return ""
    names, one = words.listed([str(state) for state in states]), len(states) == 1
    return (
        f" No walker in MBAR reached the core of {'state' if one else 'states'} {names}, about whose "
        f"{'population' if one else 'populations'} it therefore says nothing; let a biased round begin there."
    )


def applies(records: Records, estimates: Estimates) -> bool:
    """Whether there is a difference to estimate, and more than one way to weight frames or temperature."""
    biased = any(walker.frames.biased for walker in records.walkers)
    temperatures = {walker.frames.temperature for walker in records.walkers if not walker.frames.externally_weighted}
    return estimates.observed is not None and not estimates.one_sided and (biased or len(temperatures) > 1)


def differences_by_weights(records: Records, estimates: Estimates) -> list[tuple[Weighting, Difference | None]]:
    """The free-energy difference by each way to weight frames, MBAR last; `None` where nothing crossed.

    Raises
    ------
    SimulationError
        The hills of a biased round cannot be read.
    """
    rng = streams.stream(records.protocol.seed, "report", "weights")
    all_weightings = weightings(records, [walker.frames for walker in records.walkers], estimates.temperature, rng)
    return [(weighting, _difference(records, estimates, weighting, rng)) for weighting in all_weightings]


def _difference(
    records: Records, estimates: Estimates, weighting: Weighting, rng: np.random.Generator
) -> Difference | None:
    observed = estimates.variable
    if not sum(estimates.selected_crossings[walker.round_index, walker.walker] for walker in weighting.walkers):
        return None  # populations of states that no walker went between are not related, whatever the weights
    values = {walker.key: walker.values[observed.name] for walker in records.walkers}
    inside = [
        values[walker.round_index, walker.walker][part] > observed.above
        for walker, part in zip(weighting.walkers, weighting.selected)
    ]
    return analysis.free_energy_difference(inside, weighting.log_weights, estimates.temperature, rng, weighting.states)


def disagreement(differences: list[tuple[Weighting, Difference | None]]) -> str | None:
    """A sentence where c(t) and MBAR differ by more than their errors say; `None` where they agree.

    Errors by the last bias are too small as long as the bias changes, and say nothing about that.
    """
    estimates = {w.name: (d.value, d.error) for w, d in differences if d is not None and w.name != WAYS["last-bias"]}
    pair = agreement.disagreement(estimates)
    if pair is None:
        return None
    one, other = (f"{name} {words.value(*estimates[name])}" for name in pair)
    return (
        f"Weightings of the frames disagree by more than their errors say: by {one}, by {other}. The bias has not "
        "converged, or walkers have crossed too rarely; simulate longer until they agree."
    )


def _row(weighting: Weighting, difference: Difference | None) -> list[str]:
    if difference is None:
        frames = sum(map(len, weighting.log_weights))
        return [weighting.name, "no estimate, since nothing crossed", "", f"{frames:,}", ""]
    bounded = math.isfinite(difference.error)
    return [
        weighting.name,
        words.value(difference.value, difference.error),
        "{:.2f} to {:.2f}".format(*difference.interval) if bounded else "not bounded",
        f"{difference.frames:,}",
        f"{difference.independent_frames:,.0f}",
    ]
