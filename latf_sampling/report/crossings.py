"""Who crossed, how often and in which direction."""

from __future__ import annotations

import math

import numpy as np

from latf_sampling.report import page, words
from latf_sampling.report.estimates import MARGIN, Estimates
from latf_sampling.report.records import Records


def section(records: Records, estimates: Estimates) -> str:
    if not records.walkers:
        return page.section("Walkers", page.missing("No walker has finished a segment yet."))
    parts = []
    if estimates.torsion is not None:
        margin, above = math.degrees(MARGIN), math.degrees(estimates.above)
        parts.append(
            page.paragraph(
                f"A walker crosses when {estimates.torsion} goes from the core of one state to that of the other. "
                f"The core of the observed state reaches from {above + margin:.0f}° to {180 - margin:.0f}°, that of "
                f"the rest from {-180 + margin:.0f}° to {above - margin:.0f}°; whatever happens between them counts "
                "for neither. Passing through ±180° and back is thus no crossing, going round that way into the "
                "other core is one."
            )
        )
    head = ["walker", "dynamics", "temperature", "simulated", "in", "out", "share of frames inside", "speed"]
    if estimates.torsion is None:
        head = [title for title in head if title not in ("in", "out", "share of frames inside")]
    parts.append(page.table(head, [_row(records, estimates, walker) for walker in records.walkers]))
    if estimates.torsion is not None:
        parts.append(
            page.paragraph(
                f"In: into {estimates.state}. Shares are of the frames as they are, without weights: a bias that "
                "works brings the share of a rare state up.",
                "soft",
            )
        )
    return page.section("Walkers and crossings" if estimates.torsion is not None else "Walkers", *parts)


def _row(records: Records, estimates: Estimates, walker) -> list[str]:
    frames = walker.frames
    row = [
        frames.label,
        records.rounds[frames.round_index].kind,
        f"{frames.temperature:g} K",
        words.span(walker.simulated),
    ]
    if estimates.torsion is not None:
        into, out = estimates.crossings[walker.place]
        inside = float(np.mean(walker.angles[estimates.torsion] > estimates.above))
        row += [str(into), str(out), f"{100 * inside:.2f} %"]
    return [*row, walker.speed]
