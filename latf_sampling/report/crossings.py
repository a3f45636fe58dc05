"""Numbers of crossings of each walker, in each direction."""

from __future__ import annotations

import numpy as np

from latf_sampling.records.observables import CORE_SHARE
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import Walker
from latf_sampling.report import page, words
from latf_sampling.report.estimates import Estimates


def section(records: Records, estimates: Estimates) -> str:
    if not records.walkers:
        return page.section("Walkers", page.missing("No walker has finished a segment yet."))
    parts = []
    if estimates.observed is not None:
        parts.append(page.paragraph(_cores(estimates)))
    head = ["walker", "dynamics", "temperature", "simulated", "in", "out", "share of frames inside", "speed"]
    if estimates.observed is None:
        head = [title for title in head if title not in ("in", "out", "share of frames inside")]
    parts.append(page.table(head, [_row(records, estimates, walker) for walker in records.walkers]))
    if estimates.observed is not None:
        parts.append(
            page.paragraph(
                f"In: crossings into {estimates.state}; out: crossings out of it. Shares are shares of frames without "
                "weights; an efficient bias increases the share of a rare state.",
                "soft",
            )
        )
    return page.section("Walkers and crossings" if estimates.observed is not None else "Walkers", *parts)


def _cores(estimates: Estimates) -> str:
    """The definition of a crossing."""
    observed, (low, high) = estimates.variable, estimates.cores
    text = f"A walker crosses when {observed.name} goes from the core of one state to that of the other. "
    if observed.circular:
        below, margin, above = -np.degrees(low), np.degrees(high), np.degrees(observed.above)
        return text + (
            f"The core of the observed state reaches from {above + margin:.0f}° to {180 - margin:.0f}°, that of "
            f"the rest from {-180 + below:.0f}° to {above - below:.0f}°; values between the cores belong to "
            "neither. Passing ±180° and returning is therefore not a crossing; continuing in that direction into the "
            "other core is one."
        )
    if estimates.one_sided:
        return text + f"{estimates.one_sided} There is only one state."
    return text + (
        f"The core of the observed state is above {observed.words(observed.above + high, 3)}, that of the rest below "
        f"{observed.words(observed.above + low, 3)}: each begins {100 * CORE_SHARE:.0f} % of the way from the border "
        f"at {observed.words(observed.above)} to the median of all frames on its side. Values between the cores "
        "belong to neither."
    )


def _row(records: Records, estimates: Estimates, walker: Walker) -> list[str]:
    frames = walker.frames
    row = [
        frames.label,
        records.rounds[frames.round_index].kind,
        f"{frames.temperature:g} K",
        words.span(walker.simulated),
    ]
    if estimates.observed is not None:
        into, out = estimates.crossings[walker.key]
        inside = float(np.mean(walker.values[estimates.observed.name] > estimates.observed.above))
        row += [str(into), str(out), f"{100 * inside:.2f} %"]
    return [*row, walker.speed]
