"""The descriptors that the collective variable depends on, and those that were not selected."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latf_sampling.errors import ExtrapolationWarning
from latf_sampling.learning.evaluation.populations import model_populations
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.sensitivity import Sensitivity, rank_descriptors
from latf_sampling.records.records import Records
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates
from latf_sampling.report.landscapes import training_rows

MOST = 15
"""Largest number of descriptors in the figure."""
TELLING = 5
"""Largest number of descriptors that the states are told by."""


def section(records: Records, estimates: Estimates) -> str:
    title = "Descriptors"
    if not records.learned:
        return page.section(title, page.missing("No model is learned yet."))
    index, learned = records.learned[-1]
    names = learned.cv.metadata["names"]
    x = training_rows(records, index, learned)
    ranked = rank_descriptors(learned.model, x, names)
    shown = min(MOST, len(names))
    caption = (
        f"Sensitivity of the collective variable learned after round {index} to its descriptors; the largest {shown} "
        f"of {len(names)}. Bars: all components together; points: each component. The sensitivity is the root mean "
        "square of the derivative over training frames, times the descriptor's standard deviation, as a share of the "
        "sum over all descriptors. Look for the few descriptors that dominate; correlated descriptors share their "
        "sensitivity."
    )
    chart = charts.chart(lambda axes: draw(axes, ranked, shown), height=0.8 + 0.22 * shown)
    parts = [page.figures(page.figure(chart, caption)), *_states(learned.model, x, ranked, estimates.temperature)]
    selection = learned.cv.metadata.get("selection")
    if selection is not None:
        parts += _selection(selection)
    return page.section(title, *parts)


def _states(model: LaTF, x: np.ndarray, ranked: Sensitivity, temperature: float) -> list[str]:
    """What each state is in terms of descriptors, and how much of it there is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the figures of populations show where there are data
        populations, errors = model_populations(model, temperature)
    columns, states = ranked.order[:TELLING], np.asarray(model.assign(x))
    rows = []
    for state, population in enumerate(populations):
        error = None if errors is None else 100 * float(errors[state])
        inside = x[states == state][:, columns].astype(float)
        spread = zip(inside.mean(0), inside.std(0)) if len(inside) else ()
        told = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in spread] or ["no frame"] * len(columns)
        rows.append((f"{state}", words.value(100 * float(population), error, "%"), *told))
    return [
        page.heading("States"),
        page.table(("state", f"population at {temperature:g} K", *(ranked.names[k] for k in columns)), rows),
        page.paragraph(
            "Populations by the flow, with standard errors of its ensemble. Of the descriptors that the variable "
            "depends on most, the mean over the frames in each state and their standard deviation; angles by sine and "
            "cosine, lengths in nm.",
            "soft",
        ),
    ]


def draw(axes: Axes, ranked: Sensitivity, shown: int) -> None:
    order = ranked.order[:shown]
    heights = range(len(order))
    axes.barh(heights, 100 * ranked.total[order], color=charts.color(0), alpha=0.85, label="all together")
    for k, component in enumerate(ranked.components.T):
        style: dict[str, Any] = {"s": 14, "lw": 0, "color": charts.color(k + 1), "zorder": 3}
        axes.scatter(100 * component[order], heights, label=f"u{k + 1}", **style)
    axes.set_yticks(heights, [ranked.names[k] for k in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, None)
    axes.set_xlabel("share, %")
    charts.legend(axes, ncols=5)


def _selection(selection: dict) -> list[str]:
    candidates = selection["candidates"]
    head = ("descriptor", "score", "gain", "reason for exclusion")
    rows = [
        (
            entry["name"],
            f"{entry['score']:.3f}",
            "" if entry["gain"] is None else f"{entry['gain']:.3f}",
            "" if entry["kept"] else entry["reason"],
        )
        for entry in candidates
    ]
    return [
        page.paragraph(
            f"{len(selection['kept'])} of {len(candidates)} columns were selected before learning. The score is the "
            f"square of a column's correlation with itself {selection['lag']} frames later; the gain is the increase "
            "of the VAMP-2 score when the column was added to those selected before it. The final VAMP-2 score is "
            f"{selection['vamp2']:.2f}."
        ),
        page.details("Table of all candidates", page.table(head, rows)),
    ]
