"""The page of a scan of lags: the recommendation, a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latf_sampling.core import storage
from latf_sampling.core.words import plural
from latf_sampling.learning.lag_scan import CONDITIONS, LagScan
from latf_sampling.report import charts, page


def write_lags(scan: LagScan, path: str | Path) -> None:
    """Write a scan as one HTML file that needs no other file.

    Its numbers are repeated as JSON in the element with the id "numbers".

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    sections = [_head(scan), _table(scan), _figure(scan)]
    storage.write_text(path, page.document("Choice of the lag time", sections, scan.as_dict()))


def _head(scan: LagScan) -> str:
    about = (
        f"The first stage of training at {plural(len(scan.results), 'lag time')}, on "
        f"{plural(scan.frames, 'frame')}. Time scales and scores are for a temperature of "
        f"{scan.temperature:g}."
    )
    title = '<p class="eyebrow">latf_sampling lags</p>\n<h1>Choice of the lag time</h1>'
    return "\n".join([title, page.paragraph(scan.reason, "verdict"), page.paragraph(about, "soft")])


def _table(scan: LagScan) -> str:
    unmet = (f"{name}: {sentence}." for name, sentence in CONDITIONS.items())
    return page.section(
        "Results",
        page.table(*scan.cells()),
        page.paragraph(
            "Expected crossings: between states, under metadynamics along the variable that was learned at this lag, "
            "estimated from the frames alone; for comparison between lags, with the same hills for all of them.",
            "soft",
        ),
        page.details(
            "Conditions that may not be met, the most important first", *(page.paragraph(line) for line in unmet)
        ),
    )


def _figure(scan: LagScan) -> str:
    caption = (
        "Implied time scales with two standard errors, number of metastable states for each seed, and VAMP-2 score "
        "with its standard error, against the lag time of training; the recommended lag time is dashed. Time scales "
        "should be constant to the right of it. In the shaded part they are shorter than the lag time and not "
        f"resolved. All scores are for a lag time of {scan.lag(scan.scoring_lag)}."
    )
    return page.figure(charts.chart(lambda *axes: _draw(axes, scan), rows=3, height=5.6, width=5.6), caption)


def _draw(axes: Sequence[Axes], scan: LagScan) -> None:
    unit, name = (1.0, "frames") if scan.interval is None else (scan.interval, "ps")
    lags = unit * np.array([result.lag for result in scan.results])
    times, states, scores = axes
    _draw_times(times, scan, lags, unit)
    times.set_ylabel(f"time scale, {name}")
    for attempt, counts in enumerate(zip(*(result.states for result in scan.results))):
        states.plot(lags, counts, "o-", ms=3, color=charts.color(attempt))
    states.set_ylabel("states")
    states.set_ylim(0, None)
    scored = np.array(
        [(unit * entry.lag, entry.vamp2, entry.vamp2_error) for entry in scan.results if entry.vamp2 is not None], float
    ).reshape(-1, 3)
    scores.errorbar(
        *scored.T,
        fmt="o-",
        ms=3,
        capsize=2,
        color=charts.color(0),
    )
    scores.set_ylabel("VAMP-2")
    scores.set_xlabel(f"lag time, {name}")
    scores.set_xscale("log")
    if scan.recommended is not None:
        for axis in axes:
            axis.axvline(unit * scan.recommended, color=charts.INK, lw=0.7, ls=(0, (4, 3)))


def _draw_times(axes: Axes, scan: LagScan, lags: np.ndarray, unit: float) -> None:
    most = max(len(result.timescales) for result in scan.results)
    values, errors = (np.full((most, len(lags)), np.nan) for _ in range(2))
    for index, result in enumerate(scan.results):
        values[: len(result.timescales), index] = unit * np.array(result.timescales)
        errors[: len(result.errors), index] = unit * np.array(result.errors)
    for process, (value, error) in enumerate(zip(values, errors)):
        style: dict[str, Any] = {"color": charts.color(process)}
        axes.plot(lags, value, "o-", ms=3, **style)
        # On a logarithmic axis a band down to zero has no end.
        lower = np.maximum(value - 2 * error, 0.1 * value)
        axes.fill_between(lags, lower, value + 2 * error, alpha=0.18, lw=0, **style)
    axes.fill_between(lags, 0, lags, color=charts.LINE, alpha=0.45, lw=0, zorder=0)
    axes.plot(lags, lags, color=charts.INK, lw=0.7)
    axes.set_yscale("log")
    axes.set_ylim(0.5 * lags[0], None)
