"""A page about several campaigns, side by side: their answers, weights, crossings, states and cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latf_sampling.analysis import Difference
from latf_sampling.core import storage
from latf_sampling.core.outputs import output_file
from latf_sampling.errors import ExtrapolationWarning, SettingsError, SimulationError
from latf_sampling.records.records import Records
from latf_sampling.report import charts, costs, headline, landscapes, page, weights, words
from latf_sampling.report.estimates import Estimates, history_times


def write_comparison(campaigns: Sequence[Records], path: str | Path) -> Path:
    """Write campaigns side by side, as one HTML file that needs no other file.

    Its numbers are repeated as JSON in the element with the id "numbers".

    Parameters
    ----------
    campaigns
        At least two, finished or not.
    path
        File to write.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    SettingsError
        There are fewer than two campaigns.
    StoreError, DataError
        A finished file of one is missing or damaged; names it. Or the page cannot be written.
    """
    if len(campaigns) < 2:
        raise SettingsError(f"compare: give the directories of two campaigns or more, not {len(campaigns)}.")
    target = output_file(path)
    for records in campaigns:
        records.verify()
    columns = [_Column(f"{chr(ord('A') + k)}", records) for k, records in enumerate(campaigns)]
    sections = [_head(columns), _table(columns), _figures(columns), _weightings(columns)]
    numbers = {column.letter: {"directory": column.directory, **column.numbers} for column in columns}
    storage.write_text(target, page.document("Campaigns compared", sections, numbers))
    return target


class _Column:
    """One of the campaigns."""

    def __init__(self, letter: str, records: Records) -> None:
        self.letter, self.records = letter, records
        self.directory = str(records.directory.path)
        self.estimates = Estimates.from_records(records)

    @property
    def title(self) -> str:
        return f"{self.letter}: {self.records.protocol.name}"

    @property
    def answer(self) -> Difference | None:
        return self.estimates.pooled

    @cached_property
    def crossings(self) -> _Crossings | None:
        """Crossings in all frames of the walkers that the answer comes from."""
        if self.estimates.observed is None:
            return None
        walkers = [walker for group in self.estimates.sampled.values() for walker in group]
        crossed = sum(sum(self.estimates.crossings[walker.key]) for walker in walkers)
        return _Crossings(crossed, sum(walker.simulated for walker in walkers) / 1000)

    @cached_property
    def populations(self) -> tuple[float, np.ndarray] | None:
        """Reference temperature, K, and populations of the states by the last model."""
        if not self.records.learned:
            return None
        model = self.records.learned[-1][1].model
        temperature = model.settings.reference_temperature
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)  # which the report of each campaign states
            return temperature, model.populations(temperature)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        crossings, populations = self.crossings, self.populations
        return {
            **headline.numbers(self.records, self.estimates),
            "seconds": costs.numbers(self.records),
            "crossings_per_ns": crossings and crossings.per_ns,
            "populations": populations and populations[1].tolist(),
        }


@dataclass(frozen=True)
class _Crossings:
    count: int
    time: float

    @property
    def per_ns(self) -> float | None:
        return self.count / self.time if self.time > 0 else None


def _head(columns: Sequence[_Column]) -> str:
    paragraphs = [page.paragraph(_difference(*pair), "verdict") for pair in combinations(columns, 2)]
    names = "".join(f"<li>{page.escape(column.title)}, in {page.escape(column.directory)}</li>" for column in columns)
    title = '<p class="eyebrow">latf_sampling comparison</p>\n<h1>Campaigns compared</h1>'
    return "\n".join(["<header>", title, f"<ul>{names}</ul>", *paragraphs, "</header>"])


def _difference(first: _Column, second: _Column) -> str:
    """By how much two answers differ, or why they cannot be compared."""
    pair = f"{first.letter} and {second.letter}"
    one, other = first.estimates, second.estimates
    if one.observed is None or other.observed is None:
        lacking = " and ".join(c.letter for c in (first, second) if c.estimates.observed is None)
        return f"{pair} have no answers to compare: the protocol of {lacking} names no variable to observe."
    if one.state != other.state:
        return f"{pair} answer different questions: the populations of {one.state}, and of {other.state}."
    if one.temperature != other.temperature:
        return f"{pair} are at different temperatures, {one.temperature:g} K and {other.temperature:g} K."
    if first.answer is None or second.answer is None:
        lacking = " and ".join(c.letter for c in (first, second) if c.answer is None)
        return f"{pair} cannot be compared: there is no estimate of {lacking}, in which no walker crossed."
    difference = second.answer.value - first.answer.value
    if not (math.isfinite(first.answer.error) and math.isfinite(second.answer.error)):
        return f"{second.letter} minus {first.letter}: {difference:.1f} kJ/mol; an error is not bounded."
    error = math.hypot(first.answer.error, second.answer.error)
    text = f"{second.letter} minus {first.letter}: {words.value(difference, error)}"
    if error == 0:
        return f"{text}."
    deviation = abs(difference) / error
    if deviation > 2:
        return f"{text}, {deviation:.1f} combined errors: they do not agree. One of them, or both, is not converged."
    text = f"{text}, {deviation:.1f} combined errors: they agree within their errors"
    unfinished = [c.letter for c in (first, second) if _converged(c.estimates) == "no"]
    if unfinished:
        text += f", but {words.listed(unfinished)} {'has' if len(unfinished) == 1 else 'have'} not converged"
    return f"{text}."


def _table(columns: Sequence[_Column]) -> str:
    rows = [
        ("system", [column.records.protocol.system.title for column in columns]),
        ("simulated", [words.span(column.records.simulated) for column in columns]),
        ("rounds finished", [_rounds(column.records) for column in columns]),
        ("free-energy difference", [_answer(column) for column in columns]),
        ("95 % interval", [_interval(column.answer) for column in columns]),
        ("at", [f"{column.estimates.temperature:g} K" for column in columns]),
        ("converged", [_converged(column.estimates) for column in columns]),
        ("reference", [_reference(column.estimates) for column in columns]),
        ("independent frames", [_frames(column.answer) for column in columns]),
        ("crossings", ["–" if (c := column.crossings) is None else str(c.count) for column in columns]),
        ("crossings per ns", [_per_ns(column) for column in columns]),
        ("states", ["–" if (p := column.populations) is None else str(len(p[1])) for column in columns]),
        ("their populations", [_populations(column) for column in columns]),
        *_cost(columns),
    ]
    note = page.paragraph(
        "Crossings: in both directions, in all frames of the walkers that the answer comes from. Wall times are summed "
        "over processes, and depend on the machine. A smaller error in the same wall time is the better campaign, if "
        "both have converged.",
        "soft",
    )
    head = ("", *(column.title for column in columns))
    return page.section("Side by side", page.table(head, [(name, *cells) for name, cells in rows]), note)


def _rounds(records: Records) -> str:
    return f"{sum(entry.finished for entry in records.rounds)} of {len(records.rounds)}"


def _answer(column: _Column) -> str:
    return "no estimate" if column.answer is None else words.value(column.answer.value, column.answer.error)


def _interval(answer: Difference | None) -> str:
    if answer is None:
        return "–"
    return "{:.1f} to {:.1f}".format(*answer.interval) if math.isfinite(answer.error) else "not bounded"


def _converged(estimates: Estimates) -> str:
    return "–" if estimates.convergence is None else "yes" if estimates.convergence.converged else "no"


def _reference(estimates: Estimates) -> str:
    reference = estimates.reference
    return "–" if reference is None else words.value(reference.value, reference.error or None)


def _frames(answer: Difference | None) -> str:
    return "–" if answer is None else f"{answer.independent_frames:,.0f}"


def _per_ns(column: _Column) -> str:
    rate = None if column.crossings is None else column.crossings.per_ns
    return "–" if rate is None else f"{rate:.3g}"


def _populations(column: _Column) -> str:
    if column.populations is None:
        return "–"
    temperature, values = column.populations
    return f"{', '.join(f'{100 * value:.1f}' for value in values)} % at {temperature:g} K"


def _cost(columns: Sequence[_Column]) -> list[tuple[str, list[str]]]:
    spent = [costs.numbers(column.records) for column in columns]
    rows = []
    for key, label in (("plain", "plain dynamics"), ("biased", "biased dynamics"), ("learning", "learning")):
        rows.append((f"wall time, {label}", [words.wall(entry[key]) for entry in spent]))
    totals = [entry["plain"] + entry["biased"] + entry["learning"] for entry in spent]
    return [*rows, ("wall time, together", [words.wall(total) for total in totals])]


def _figures(columns: Sequence[_Column]) -> str:
    known = [column for column in columns if column.answer is not None]
    if not known:
        return page.section("Answers", page.missing("No campaign has an estimate of its free-energy difference yet."))
    figures = [
        page.figure(
            charts.chart(lambda axes: _draw_answers(axes, known), height=1.2 + 0.45 * len(known)),
            "Free-energy difference of each campaign with its 95 % interval (thin) and one standard deviation (thick); "
            "the band is the reference with its error. The intervals should overlap.",
        ),
        page.figure(
            charts.chart(lambda axes: _draw_histories(axes, known), height=2.8),
            "The same from the frames of all rounds up to a share of each round. Lines should level off at one value.",
        ),
    ]
    variables = {(column.estimates.variable.label, column.estimates.temperature) for column in known}
    if len(variables) == 1:
        figures.append(
            page.figure(
                charts.chart(lambda axes: _draw_profiles(axes, known), height=3.2),
                f"Free energy along {known[0].estimates.variable.name}, with 95 % intervals (shaded). The curves "
                "should coincide within them.",
            )
        )
    return page.section("Answers", page.figures(*figures))


def _draw_answers(axes: Axes, columns: Sequence[_Column]) -> None:
    for height, column in enumerate(columns):
        answer, shade = column.answer, charts.color(height)
        assert answer is not None  # of those that are drawn
        if math.isfinite(answer.error):
            axes.plot(answer.interval, [height, height], color=shade, lw=1)
            axes.plot(answer.value + answer.error * np.array([-1, 1]), [height, height], color=shade, lw=4, alpha=0.6)
        axes.plot(answer.value, height, "o", color=shade, ms=7)
    headline.draw_reference(axes, columns[0].estimates, vertical=True)
    axes.set_yticks(range(len(columns)), [column.letter for column in columns])
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.set_xlabel("free-energy difference, kJ/mol")
    charts.legend(axes)


def _draw_histories(axes: Axes, columns: Sequence[_Column]) -> None:
    for place, column in enumerate(columns):
        for index, history in column.estimates.histories.items():
            if history is None:
                continue
            times = history_times(column.estimates.sampled[index][0], history)
            values = [step.value if math.isfinite(step.value) else np.nan for step in history.history]
            label = column.letter if index == next(k for k, h in column.estimates.histories.items() if h) else None
            axes.plot(times, values, "o-", ms=3, color=charts.color(place), label=label)
    headline.draw_reference(axes, columns[0].estimates, vertical=False)
    axes.set_xlabel("simulated time of each walker, ns")
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylabel("difference, kJ/mol")
    charts.legend(axes)


def _draw_profiles(axes: Axes, columns: Sequence[_Column]) -> None:
    for place, column in enumerate(columns):
        _, profile = landscapes.surface_and_profile(column.records, column.estimates)
        known, shade = np.where(np.isfinite(profile.values), profile.values, np.nan), charts.color(place)
        low, high = np.where(np.isfinite(known) & np.isfinite(profile.interval), profile.interval, np.nan)
        axes.stairs(high, profile.edges, baseline=low, fill=True, color=shade, alpha=0.15, lw=0)
        axes.stairs(known, profile.edges, baseline=None, color=shade, lw=1.5, label=column.letter)
    landscapes.label_profiles(axes, columns[0].estimates.variable, None)


def _weightings(columns: Sequence[_Column]) -> str:
    rows: dict[str, dict[str, str]] = {}
    notes = []
    for column in columns:
        if not weights.applies(column.records, column.estimates):
            continue
        try:
            differences = weights.differences_by_weights(column.records, column.estimates)
        except SimulationError as error:
            notes.append(page.missing(f"The biases of {column.letter} could not be read: {error}"))
            continue
        for weighting, difference in differences:
            text = "no estimate" if difference is None else words.value(difference.value, difference.error)
            rows.setdefault(weighting.name, {})[column.letter] = text
    if not rows:
        return page.section("Weights", *notes) if notes else ""
    cells = [(name, *(found.get(column.letter, "–") for column in columns)) for name, found in rows.items()]
    about = page.paragraph(
        "The free-energy difference by each way to weight frames. Where they agree within a campaign, its bias has "
        "converged.",
        "soft",
    )
    return page.section("Weights", page.table(("weights", *(c.title for c in columns)), cells), about, *notes)
