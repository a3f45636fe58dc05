"""The free-energy difference by three weightings of the frames."""

from __future__ import annotations

import math

import numpy as np

from latf_sampling import analysis
from latf_sampling.core import streams
from latf_sampling.errors import SimulationError
from latf_sampling.records.records import Records
from latf_sampling.records.weighting import Weighting, weightings
from latf_sampling.report import page, words
from latf_sampling.report.estimates import Estimates

TITLE = "Three ways to weight frames"
WITHOUT_BIAS = "All temperatures together"
"""The title where there is no bias, and MBAR is the only weighting."""


def section(records: Records, estimates: Estimates) -> str:
    """Empty where no variable is observed, or there is neither a bias nor several temperatures."""
    biased = any(walker.frames.biased for walker in records.walkers)
    temperatures = {walker.frames.temperature for walker in records.walkers if not walker.frames.externally_weighted}
    if estimates.observed is None or estimates.one_sided or not (biased or len(temperatures) > 1):
        return ""
    title = TITLE if biased else WITHOUT_BIAS
    rng = streams.stream(records.protocol.seed, "report", "weights")
    frames = [walker.frames for walker in records.walkers]
    try:
        all_weightings = weightings(records, frames, estimates.temperature, rng)
    except SimulationError as error:
        return page.section(title, page.missing(f"The biases could not be read: {error}"))
    head = ["weights", "difference", "95 % interval", "frames", "independent frames"]
    counted = {(walker.round_index, walker.walker) for walker in all_weightings[-1].walkers}
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
        page.table(head, [_row(records, estimates, weighting, rng) for weighting in all_weightings]),
        page.paragraph(
            f"Not in MBAR: {words.listed([walker.label for walker in trapped])}. Plain dynamics that never reached a "
            "state that biased walkers visited has no information about the probability of this state, but MBAR would "
            "conclude that the state is empty.",
            "soft",
        )
        if trapped
        else "",
    )


def _row(records: Records, estimates: Estimates, weighting: Weighting, rng: np.random.Generator) -> list[str]:
    observed = estimates.variable
    if not sum(estimates.selected_crossings[walker.round_index, walker.walker] for walker in weighting.walkers):
        # Populations of states that no walker went between are not related, whatever the weights.
        return [
            weighting.name,
            "no estimate, since nothing crossed",
            "",
            f"{sum(map(len, weighting.log_weights)):,}",
            "",
        ]
    values = {walker.key: walker.values[observed.name] for walker in records.walkers}
    inside = [
        values[walker.round_index, walker.walker][part] > observed.above
        for walker, part in zip(weighting.walkers, weighting.selected)
    ]
    difference = analysis.free_energy_difference(
        inside, weighting.log_weights, estimates.temperature, rng, weighting.states
    )
    bounded = math.isfinite(difference.error)
    return [
        weighting.name,
        words.value(difference.value, difference.error),
        "{:.2f} to {:.2f}".format(*difference.interval) if bounded else "not bounded",
        f"{difference.frames:,}",
        f"{difference.independent_frames:,.0f}",
    ]
