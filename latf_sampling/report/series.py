"""What the walkers did in time: the observed variable and the collective one."""

from __future__ import annotations

from latf_sampling.records.records import Learned, Records, Round
from latf_sampling.report import charts, page

POINTS = 2000


def section(records: Records) -> str:
    title = "Time series"
    begun = [entry for entry in records.rounds if entry.begun]
    if not begun:
        return page.section(title, page.missing("There are no frames yet."))
    index, learned = records.learned[-1] if records.learned else (None, None)
    parts = []
    if learned is None:
        parts.append(page.missing("No model is learned yet, so that only what is observed can be shown."))
    if learned is None and records.observed is None:
        return page.section(title, *parts)
    made = []
    for entry in begun:
        rows = (records.observed is not None) + (learned.cv.dim if learned is not None else 0)
        svg = charts.chart(
            lambda *axes, entry=entry: _draw(axes, records, entry, learned), rows=rows, height=0.5 + 1.25 * rows
        )
        made.append(page.figure(svg, _caption(entry, records, index)))
    return page.section(title, *parts, page.figures(*made))


def _caption(entry: Round, records: Records, index: int | None) -> str:
    shown = []
    if records.observed is not None:
        shown.append(records.observed.name)
    if index is not None:
        shown.append(f"the latent variables by the model learned after round {index}")
    expected = (
        "a biased walker should wander over the whole range, to and fro"
        if entry.biased
        else "plain dynamics stays in one state, or crosses now and then at high temperature"
    )
    unfinished = "" if entry.simulated else " This round is not finished."
    return f"{entry.title}. {' and '.join(shown)}; {expected}.{unfinished}"


def _draw(axes, records: Records, entry: Round, learned: Learned | None) -> None:
    observed = records.observed
    for number, walker in enumerate(entry.begun):
        kept = charts.thin(len(walker.frames), POINTS)
        rows = [observed.shown(walker.values[observed.name][kept])] if observed is not None else []
        if learned is not None:
            features = records.campaign.features_of(learned.cv)
            rows += list(learned.model.encode(features.transform(walker.frames.take(kept))).T)
        label = f"{walker.frames.label.partition(', ')[2]}, {walker.frames.temperature:g} K"
        for axis, values in zip(axes, rows):
            style = {"ms": 1.4, "mew": 0, "alpha": 0.8, "rasterized": True}
            axis.plot(walker.time[kept], values, "o", color=charts.colour(number), label=label, **style)
    latent = list(axes)
    if observed is not None:
        if observed.circular:
            charts.degrees(axes[0], "y")
        axes[0].set_ylabel(f"{observed.name}, {observed.unit}" if observed.unit else observed.name)
        axes[0].axhline(observed.shown(observed.above), color=charts.LINE, lw=1, zorder=0)
        latent = latent[1:]
    for component, axis in enumerate(latent):
        axis.set_ylabel(charts.component(component))
    axes[-1].set_xlabel("time since the round began, ns")
    charts.legend(axes[0], markerscale=4, ncols=2)
