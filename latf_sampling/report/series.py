"""Time series of the walkers: the observed variable and the collective variable."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel, Round
from latf_sampling.report import charts, page
from latf_sampling.report.estimates import Estimates

POINTS = 2000
"""Largest number of frames of a walker in a figure."""
LABEL = 20
"""Characters of a label beside an axis, in a line."""


def section(records: Records, estimates: Estimates) -> str:
    title = "Time series"
    begun = [entry for entry in records.rounds if entry.begun]
    if not begun:
        return page.section(title, page.missing("There are no frames yet."))
    index, learned = records.learned[-1] if records.learned else (None, None)
    parts = []
    if learned is None:
        parts.append(page.missing("No model is learned yet; only the observed variable can be shown."))
    if learned is None and records.observed is None:
        return page.section(title, *parts)
    figures = []
    for entry in begun:
        rows = (records.observed is not None) + (learned.cv.dim if learned is not None else 0)
        svg = charts.chart(
            lambda *axes, entry=entry: draw(axes, records, entry, learned), rows=rows, height=0.5 + 1.25 * rows
        )
        figures.append(page.figure(svg, _caption(entry, records, index)))
    return page.section(title, *parts, page.figures(*figures))


def _caption(entry: Round, records: Records, index: int | None) -> str:
    shown = []
    if records.observed is not None:
        shown.append(records.observed.name)
    if index is not None:
        shown.append(f"the latent variables of the model learned after round {index}")
    expected = (
        "A biased walker should cross the whole range in both directions."
        if entry.biased
        else "Plain dynamics may stay in one state, and crosses sooner at high temperature."
    )
    unfinished = "" if entry.simulated else " This round is not finished."
    return f"{entry.title}. {' and '.join(shown)} against time. {expected}{unfinished}"


def draw(axes: Sequence[Axes], records: Records, entry: Round, learned: LearnedModel | None) -> None:
    observed = records.observed
    for number, walker in enumerate(entry.begun):
        selected = charts.thin(len(walker.frames), POINTS)
        rows = [observed.shown(walker.values[observed.name][selected])] if observed is not None else []
        if learned is not None:
            features = records.features_of(learned.cv)
            rows += list(learned.model.encode(features.transform(walker.frames.take(selected))).T)
        label = f"{walker.frames.label.partition(', ')[2]}, {walker.frames.temperature:g} K"
        for axis, values in zip(axes, rows):
            style: dict[str, Any] = {"ms": 1.4, "mew": 0, "alpha": 0.8, "rasterized": True}
            axis.plot(walker.time[selected], values, "o", color=charts.color(number), label=label, **style)
    latent = list(axes)
    if observed is not None:
        if observed.circular:
            charts.degrees(axes[0], "y")
        label = f"{observed.name}, {observed.unit}" if observed.unit else observed.name
        axes[0].set_ylabel(textwrap.fill(label, LABEL))
        axes[0].axhline(observed.shown(observed.above), color=charts.LINE, lw=1, zorder=0)
        latent = latent[1:]
    for component, axis in enumerate(latent):
        axis.set_ylabel(charts.component(component))
    axes[-1].set_xlabel("time since the round began, ns")
    axes[-1].locator_params(axis="x", nbins=6)  # labels of a round of a few ps are long
    charts.legend(axes[0], markerscale=4, ncols=2)
