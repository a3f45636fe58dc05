"""The free-energy difference by three ways of weighing frames."""

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

TITLE = "Three ways to weigh frames"
ALONE = "All temperatures together"
"""The title where there is no bias, and so one way."""


def section(records: Records, estimates: Estimates) -> str:
    """Empty where there is nothing to observe, or neither bias nor several temperatures."""
    biased = any(walker.frames.biased for walker in records.walkers)
    temperatures = {walker.frames.temperature for walker in records.walkers if not walker.frames.uneven}
    if estimates.observed is None or estimates.one_sided or not (biased or len(temperatures) > 1):
        return ""
    title = TITLE if biased else ALONE
    rng = streams.stream(records.protocol.seed, "report", "weights")
    frames = [walker.frames for walker in records.walkers]
    try:
        ways = weightings(records.campaign, frames, estimates.temperature, rng)
    except SimulationError as error:
        return page.section(title, page.missing(f"Not while walkers run: {error}"))
    head = ["weights", "difference", "95 % interval", "frames", "independent frames"]
    counted = {(walker.round_index, walker.walker) for walker in ways[-1].walkers}
    trapped = [w for w in frames if not (w.uneven or (w.round_index, w.walker) in counted)]
    return page.section(
        title,
        page.paragraph(
            "Frames under a bias that changes in time can be weighed by the bias as it was then, put on one scale by "
            "c(t); by the last bias, as if all had been sampled under it; and by MBAR, which joins all rounds, "
            f"temperatures and plain dynamics, with each round in {analysis.STAGES} stages under the bias as it was "
            "in the middle of each. Where the three agree, the bias has settled; where they do not, simulate longer. "
            "In runs on wells with known answers, 95 % intervals by c(t) and by MBAR held the truth about as often as "
            "they say; those by the last bias are too narrow as long as it changes."
            if biased
            else "MBAR weighs the frames of all temperatures by their energies, as if all were simulated at "
            f"{estimates.temperature:g} K. It should agree with plain dynamics there; where walkers at higher "
            "temperatures cross more often, its error is smaller."
        ),
        page.table(head, [_row(records, estimates, way, rng) for way in ways]),
        page.paragraph(
            f"Not in MBAR: {words.listed([walker.label for walker in trapped])}. Plain dynamics that never reached a "
            "state that biased walkers were in says nothing about how probable that state is, but MBAR would take it "
            "to say that the state is empty.",
            "soft",
        )
        if trapped
        else "",
    )


def _row(records: Records, estimates: Estimates, way: Weighting, rng: np.random.Generator) -> list[str]:
    observed = estimates.observed
    values = {walker.place: walker.values[observed.name] for walker in records.walkers}
    inside = [
        values[walker.round_index, walker.walker][part] > observed.above for walker, part in zip(way.walkers, way.kept)
    ]
    found = analysis.free_energy_difference(inside, way.log_weights, estimates.temperature, rng, way.states)
    bounded = math.isfinite(found.error)
    return [
        way.name,
        words.value(found.value, found.error),
        "{:.2f} to {:.2f}".format(*found.interval) if bounded else "not bounded",
        f"{found.frames:,}",
        f"{found.independent_frames:,.0f}",
    ]
