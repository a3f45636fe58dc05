"""The pictures of the report for a paper or a talk: functions from a campaign's directory to matplotlib's axes.

`latf plot WHAT DIR -o FILE` writes the same pictures, and what they show as CSV. To add one, write a function from a
`Source` to a `Picture` and put `@_picture` above it.
"""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from latf_sampling.analysis import Difference
from latf_sampling.core import storage
from latf_sampling.errors import DataError, ExtrapolationWarning, SettingsError
from latf_sampling.learning.sensitivity import rank_descriptors
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel
from latf_sampling.report import charts, costs, headline, landscapes, learning, series
from latf_sampling.report import descriptors as ranking
from latf_sampling.report import starts as start_sets
from latf_sampling.report import weights as weighting
from latf_sampling.report.estimates import Estimates, history_times

GRID = 9
"""Temperatures of a melting curve."""
PALE = "#c3ccd5"
"""Color of auxiliary lines on paper."""
Row = Sequence[object]


@dataclass(frozen=True)
class Picture:
    """What is drawn, and the same as a table.

    Attributes
    ----------
    draw : callable
        Called with the axes, one for each row.
    table : callable
        Called with the axes after they are drawn; the heads of columns, with their units, and the rows.
    rows : int
    height : float
        Inches.
    """

    draw: Callable[..., None]
    table: Callable[..., tuple[Sequence[str], Sequence[Row]]]
    rows: int = 1
    height: float = 3.2


class Source:
    """A campaign, with what several pictures need of it, computed when it is first needed.

    Parameters
    ----------
    campaign
        Its directory, or its records.
    """

    def __init__(self, campaign: str | Path | Records) -> None:
        self.records = campaign if isinstance(campaign, Records) else Records.load(campaign)

    @cached_property
    def estimates(self) -> Estimates:
        return Estimates.from_records(self.records)

    def missing(self, what: str) -> DataError:
        """The error of a picture that cannot be drawn."""
        return DataError(f"plot: {self.records.directory.path} {what}.")

    def learned(self) -> tuple[int, LearnedModel]:
        """The last model and its round."""
        if not self.records.learned:
            raise self.missing("has no learned model yet, which this picture shows")
        return self.records.learned[-1]

    def observed(self) -> Estimates:
        """Estimates, where the protocol observes a variable and there are frames to estimate from."""
        if self.records.observed is None:
            raise self.missing("observes no variable (key `observe` of its protocol), which this picture shows")
        if not self.estimates.sampled:
            raise self.missing("has no frames yet that the free energy is estimated from")
        return self.estimates


PICTURES: dict[str, Callable[[Source], Picture]] = {}
"""The pictures by their names on the command line."""


def _picture(make: Callable[[Source], Picture]) -> Callable[..., Axes]:
    """Enter a picture, and make its function one that draws."""
    PICTURES[make.__name__.replace("_", "-")] = make

    @wraps(make)
    def drawn(campaign: str | Path | Records, axes: Axes | None = None) -> Axes:
        picture = make(Source(campaign))
        if axes is None:
            return _figure(picture)[1][0]
        picture.draw(axes)
        _recolor(axes.figure)
        return axes

    return drawn


def _panels(make: Callable[[Source], Picture]) -> Callable[..., list[Axes]]:
    """The same for a picture of several panels, which share the x axis."""
    PICTURES[make.__name__.replace("_", "-")] = make

    @wraps(make)
    def drawn(campaign: str | Path | Records) -> list[Axes]:
        return _figure(make(Source(campaign)))[1]

    return drawn


def _figure(picture: Picture) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context(charts.style()):
        figure = Figure(figsize=(charts.WIDTH, picture.height), layout="constrained")
        axes = np.atleast_1d(figure.subplots(picture.rows, 1, sharex=True)).tolist()
        picture.draw(*axes)
        _recolor(figure)
    return figure, axes


def _recolor(figure: Any) -> None:
    """Give auxiliary lines and areas, which have a placeholder on the page, their color on paper."""
    for artist in figure.findobj(lambda artist: isinstance(artist, (Line2D, Patch))):
        color = artist.get_color() if isinstance(artist, Line2D) else artist.get_facecolor()
        if is_color_like(color) and to_hex(color) == charts.LINE:
            artist.set_color(to_rgba(PALE, artist.get_alpha()))


def write_plot(what: str, campaign: str | Path | Records, path: str | Path, table: str | Path | None = None) -> None:
    """Write a picture as PDF, SVG or PNG, by the ending of its file, and what it shows as CSV.

    Parameters
    ----------
    what
        A name of `PICTURES`.
    campaign
        Its directory, or its records.
    path
        File of the picture.
    table
        File of its numbers; by default they are not written.

    Raises
    ------
    SettingsError
        There is no such picture, or files cannot have this ending.
    DataError
        The campaign does not have yet, or never will, what the picture shows; says what.
    StoreError
        There is no campaign, or a file of it is damaged; or a file cannot be written.
    """
    check(what, path)
    picture = PICTURES[what](Source(campaign))
    figure, axes = _figure(picture)
    with matplotlib.rc_context(charts.style()), storage.atomic_write(path) as temporary:
        kind = Path(path).suffix[1:].lower()
        figure.savefig(temporary, format=kind, dpi=300, metadata={"Date": None} if kind == "svg" else None)
    if table is not None:
        storage.write_text(table, _csv(*picture.table(*axes)))


def check(what: str, path: str | Path) -> None:
    """Refuse a picture that does not exist, and files that it cannot be written to.

    Raises
    ------
    SettingsError
        Names what there is.

    Examples
    --------
    >>> check("landscape", "figure.gif")
    Traceback (most recent call last):
    latf_sampling.errors.SettingsError: figure.gif: pictures are written as .pdf, .svg or .png.
    """
    if what not in PICTURES:
        raise SettingsError(f"plot: there is no picture '{what}'; there are {', '.join(sorted(PICTURES))}.")
    if Path(path).suffix.lower() not in (".pdf", ".svg", ".png"):
        raise SettingsError(f"{path}: pictures are written as .pdf, .svg or .png.")


def _csv(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Rows with numbers of ten digits; empty where there is no finite number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_column(name) for name in head])
    for row in rows:
        writer.writerow(
            [
                ("" if not math.isfinite(cell) else f"{cell:.10g}")
                if isinstance(cell, (float, np.floating))
                else ""
                if cell is None or cell is np.ma.masked
                else cell
                for cell in row
            ]
        )
    return text.getvalue()


def _column(label: str) -> str:
    """Name of a column, for programs: that of an axis in ASCII without spaces, its unit last.

    >>> _column("free energy, kJ/mol"), _column("95 % from, kJ/mol"), _column("latent u₁")
    ('free_energy_kJ_per_mol', '95_percent_from_kJ_per_mol', 'u1')
    """
    text = label.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")).removeprefix("latent ")
    for sign, word in (("/", " per "), ("%", " percent "), ("°", " degrees "), ("^", "")):
        text = text.replace(sign, word)
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


# The pictures


@_picture
def landscape(source: Source) -> Picture:
    """Latent free energy by the last model, with training frames by their states."""
    index, learned = source.learned()
    shown = landscapes.components(learned)

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        names = [f"latent {charts.component(k)}" for k in shown]
        if len(shown) == 1:
            return [*names, "free energy, kJ/mol"], np.asarray(axes.lines[0].get_xydata()).tolist()
        mesh: Any = axes.collections[0]
        corners = mesh.get_coordinates()
        centers = (corners[1:, 1:] + corners[:-1, :-1]) / 2
        energies = np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(centers.shape[:2])
        return [*names, "free energy, kJ/mol"], np.dstack([centers, energies]).reshape(-1, 3).tolist()

    return Picture(lambda axes: landscapes.draw_learned(axes, source.records, index, learned), table, height=3.5)


@_picture
def free_energy(source: Source) -> Picture:
    """Free energy along the observed variable, with its 95 % interval and the reference."""
    estimates = source.observed()
    _, profile = landscapes.surface_and_profile(source.records, estimates)
    observed, reference = estimates.variable, landscapes.reference_profile(estimates, profile)
    known = None if reference is None else np.interp(_middle(profile.edges), _middle(reference[0]), reference[1])

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        unit = observed.label.removeprefix(observed.name)  # with its comma; empty for a pure number
        head = [f"{observed.name} from{unit}", f"{observed.name} to{unit}", "free energy, kJ/mol"]
        head += ["95 % from, kJ/mol", "95 % to, kJ/mol", "reference, kJ/mol"]
        columns = [profile.edges[:-1], profile.edges[1:], profile.values, *profile.interval]
        return head, list(zip(*columns, [None] * len(profile.values) if known is None else known))

    return Picture(lambda axes: landscapes.draw_profile(axes, estimates, profile), table)


def _middle(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2


@_picture
def torsions(source: Source) -> Picture:
    """Free energy of the observed torsion and its partner."""
    estimates, names = source.observed(), landscapes.torsions(source.records)
    if names is None:
        raise source.missing("observes no torsion phi or psi, which this picture shows with its partner")
    surface, _ = landscapes.surface_and_profile(source.records, estimates)
    assert surface is not None  # there are two torsions
    ceiling = landscapes.torsion_ceiling(estimates)

    def draw(axes: Axes) -> None:
        landscapes.draw_map(axes, names, surface.x_edges, surface.y_edges, surface.values, ceiling)

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        x, y = np.meshgrid(_middle(surface.x_edges), _middle(surface.y_edges), indexing="ij")
        head = [f"{names[0]}, degrees", f"{names[1]}, degrees", "free energy, kJ/mol", "error, kJ/mol"]
        return head, np.stack([x, y, surface.values, surface.error], axis=-1).reshape(-1, 4).tolist()

    return Picture(draw, table, height=3.6)


_DIFFERENCE = (
    *("difference, kJ/mol", "error, kJ/mol", "95 % from, kJ/mol", "95 % to, kJ/mol"),
    *("frames", "independent frames"),
)


def _difference(entry: Difference | None) -> Row:
    if entry is None:
        return [None] * len(_DIFFERENCE)
    return [entry.value, entry.error, *entry.interval, entry.frames, entry.independent_frames]


@_picture
def estimates(source: Source) -> Picture:
    """The free-energy difference from each round and from all, with the reference."""
    found = source.observed()
    if found.pooled is None:
        raise source.missing("has no estimate of the free-energy difference, since no walker crossed yet")

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        rows = [[f"round {index}", *_difference(entry)] for index, entry in found.rounds.items()]
        rows.append(["pooled", *_difference(found.pooled)])
        if found.reference is not None:
            rows.append(["reference", found.reference.value, found.reference.error, None, None, None, None])
        return ["from", *_DIFFERENCE], rows

    return Picture(lambda axes: headline.draw_estimates(axes, found), table, height=2.6)


@_picture
def convergence(source: Source) -> Picture:
    """The free-energy difference of each round from its frames up to a time, with its 95 % interval."""
    found = source.observed()
    if not any(found.histories.values()):
        raise source.missing("has no estimate of the free-energy difference, since no walker crossed yet")

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        rows: list[Row] = []
        for index, history in found.histories.items():
            if history is None:
                continue
            times = history_times(found.sampled[index][0], history)
            rows += [[index, time, *_difference(step)] for time, step in zip(times, history.history)]
        return ["round", "time of each walker, ns", *_DIFFERENCE], rows

    return Picture(lambda axes: headline.draw_history(axes, found), table, height=2.8)


@_picture
def weights(source: Source) -> Picture:
    """The free-energy difference by each way to weight the frames."""
    found = source.observed()
    if not weighting.applies(source.records, found):
        raise source.missing("has one way alone to weight its frames: no bias, and one temperature or one state")
    differences = weighting.differences_by_weights(source.records, found)

    def draw(axes: Axes) -> None:
        for height, (_, entry) in enumerate(differences):
            if entry is not None:
                error = entry.error if math.isfinite(entry.error) else None
                axes.errorbar(entry.value, height, xerr=error, fmt="o", color=charts.color(height), capsize=4, ms=6)
        headline.draw_reference(axes, found, vertical=True)
        axes.set_yticks(range(len(differences)), [entry.name for entry, _ in differences])
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.set_xlabel("free-energy difference, kJ/mol")
        charts.legend(axes)

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        return ["weights", *_DIFFERENCE], [[entry.name, *_difference(value)] for entry, value in differences]

    return Picture(draw, table, height=2.2)


@_picture
def crossings(source: Source) -> Picture:
    """Crossings of each walker into the observed state and out of it."""
    found = source.observed()
    walkers = source.records.walkers

    def draw(axes: Axes) -> None:
        places = np.arange(len(walkers))
        for shift, which, label in ((-0.2, 0, "into the state"), (0.2, 1, "out of it")):
            counts = [found.crossings[walker.key][which] for walker in walkers]
            axes.barh(places + shift, counts, 0.38, color=charts.color(which), label=label)
        names = [f"{walker.frames.label}, {walker.frames.temperature:g} K" for walker in walkers]
        axes.set_yticks(places, names)
        axes.set_ylim(len(walkers) - 0.4, -0.6)
        axes.set_xlabel("crossings")
        charts.legend(axes)

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        rows = [[w.frames.label, w.frames.temperature, w.simulated / 1000, *found.crossings[w.key]] for w in walkers]
        return ["walker", "temperature, K", "simulated, ns", "in", "out"], rows

    return Picture(draw, table, height=1.0 + 0.28 * len(walkers))


@_panels
def time_series(source: Source) -> Picture:
    """The observed variable and the latent variables against time."""
    records = source.records
    if not records.walkers:
        raise source.missing("has no frames yet")
    learned = records.learned[-1][1] if records.learned else None
    rows = (records.observed is not None) + (0 if learned is None else learned.cv.dim)
    if rows == 0:
        raise source.missing("has neither an observed variable nor a learned model yet, which this picture shows")
    entry = [entry for entry in records.rounds if entry.begun][-1]

    def table(*axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        columns: list[Row] = []
        for walker, *lines in zip(
            entry.begun, *([line for line in a.lines if np.size(line.get_xdata()) > 2] for a in axes)
        ):
            for values in zip(lines[0].get_xdata(), *(line.get_ydata() for line in lines)):
                columns.append([walker.frames.label, *map(float, values)])
        return ["walker", "time since the round began, ns", *(axis.get_ylabel() for axis in axes)], columns

    return Picture(lambda *axes: series.draw(axes, records, entry, learned), table, rows=rows, height=0.5 + 1.25 * rows)


def _measured(learned: LearnedModel) -> dict[float, np.ndarray]:
    """Populations of the states in the weighted training frames, by temperature."""
    states = learned.history["states"]
    names = [key for key in states[0] if key.startswith("population at ")]
    return {
        float(name.removeprefix("population at ")): np.array([entry[name] for entry in states])
        for name in sorted(names, key=lambda name: float(name.removeprefix("population at ")))
    }


@_picture
def populations(source: Source) -> Picture:
    """Populations of the states at the model's reference temperature: by the flow, and of the training frames."""
    _, learned = source.learned()
    temperature = learned.model.settings.reference_temperature
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # frames stand beside the flow where there are some
        values, errors = learned.model.populations(temperature, return_std=True)
    frames = _measured(learned).get(temperature)
    states = np.arange(len(values))

    def draw(axes: Axes) -> None:
        axes.bar(states, 100 * values, 0.6, yerr=100 * errors, capsize=4, color=charts.color(0), label="flow")
        if frames is not None:
            axes.plot(states, 100 * frames, "D", color=charts.color(1), label="training frames")
        axes.set_xticks(states, [f"state {state}" for state in states])
        axes.set_ylabel(f"population at {temperature:g} K, %")
        charts.legend(axes)

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        head = ["state", f"population at {temperature:g} K", "error", "of training frames"]
        return head, list(zip(states, values, errors, [None] * len(values) if frames is None else frames))

    return Picture(draw, table)


@_picture
def melting(source: Source) -> Picture:
    """Populations of the states against temperature: by the flow with 95 % bands, and of the training frames."""
    _, learned = source.learned()
    model, frames, asked = learned.model, _measured(learned), source.records.protocol.starts
    wanted = [*frames, *([] if asked is None else [asked.temperature])]
    grid = np.linspace(min(wanted), max(wanted), GRID) if max(wanted) > min(wanted) else np.array(wanted[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # drawn as dotted lines
        curves = np.array([model.populations(temperature, return_std=True) for temperature in grid])
    values, errors = curves[:, 0], curves[:, 1]
    outside = np.array([model.extrapolates(temperature) for temperature in grid])

    def draw(axes: Axes) -> None:
        for state in range(values.shape[1]):
            shade = charts.color(state + 1)
            low, high = (np.clip(values[:, state] + k * 1.96 * errors[:, state], 0, 1) for k in (-1, 1))
            axes.fill_between(grid, 100 * low, 100 * high, color=shade, alpha=0.2, lw=0)
            axes.plot(grid, 100 * values[:, state], ":", color=shade)
            known = np.where(outside, np.nan, values[:, state])
            axes.plot(grid, 100 * known, color=shade, label=f"state {state}")
            axes.plot(list(frames), [100 * entry[state] for entry in frames.values()], "o", color=shade, ms=5)
        axes.set_ylim(-3, 103)
        axes.set_xlabel("temperature, K")
        axes.set_ylabel("population, %")
        charts.legend(axes, ncols=4)

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        rows: list[Row] = [
            [temperature, state, value, error, "extrapolated" if far else "flow"]
            for temperature, far, of_states, their in zip(grid, outside, values, errors)
            for state, (value, error) in enumerate(zip(of_states, their))
        ]
        for temperature, entry in frames.items():
            rows += [[temperature, state, value, None, "training frames"] for state, value in enumerate(entry)]
        return ["temperature, K", "state", "population", "error", "by"], rows

    return Picture(draw, table, height=3.6)


@_panels
def training(source: Source) -> Picture:
    """Losses and number of states in the course of the last training."""
    history = source.learned()[1].history["history"]

    def table(*axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        names = ["stage", *dict.fromkeys(name for entry in history for name in entry if name != "stage")]
        return names, [[entry.get(name) for name in names] for entry in history]

    return Picture(lambda *axes: learning.draw_curves(axes, history), table, rows=4, height=5.0)


@_picture
def descriptors(source: Source) -> Picture:
    """The descriptors that the last collective variable depends on most."""
    index, learned = source.learned()
    names = learned.cv.metadata["names"]
    ranked = rank_descriptors(learned.model, landscapes.training_rows(source.records, index, learned), names)
    shown = min(ranking.MOST, len(names))

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        head = ["descriptor", "share", *(f"share in {charts.component(k)}" for k in range(ranked.components.shape[1]))]
        return head, [[ranked.names[k], ranked.total[k], *ranked.components[k]] for k in ranked.order]

    return Picture(lambda axes: ranking.draw(axes, ranked, shown), table, height=0.8 + 0.22 * shown)


@_picture
def starts(source: Source) -> Picture:
    """Targets of the generated structures and the points that they reached, over the latent free energy."""
    found = source.records.starts(source.records.directory.starts)
    if found is None:
        raise source.missing("has no generated structures (key `starts` of its protocol) yet")
    content, learned = found[0], source.learned()[1]

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        names = [charts.component(k) for k in range(learned.cv.dim)]
        rows = [[*target, *reached, "valid"] for target, reached in zip(content["targets"], content["reached"])]
        rows += [[*entry["target"], *[None] * learned.cv.dim, "rejected"] for entry in content["rejected"]]
        return [*(f"target {name}" for name in names), *(f"reached {name}" for name in names), "structure"], rows

    return Picture(lambda axes: start_sets.draw_latent(axes, learned, content), table, height=3.5)


@_picture
def cost(source: Source) -> Picture:
    """Wall time of each stage."""
    spent = costs.numbers(source.records)
    names = {"plain": "plain dynamics", "biased": "biased dynamics", "learning": "learning"}
    entries = {label: spent[key] for key, label in names.items()}
    if not sum(entries.values()):
        raise source.missing("has not run any step yet")

    def draw(axes: Axes) -> None:
        axes.barh(list(entries), [seconds / 3600 for seconds in entries.values()], color=charts.color(0))
        axes.invert_yaxis()
        axes.set_xlabel("wall time, h")

    def table(axes: Axes) -> tuple[Sequence[str], Sequence[Row]]:
        return ["stage", "wall time, s"], list(entries.items())

    return Picture(draw, table, height=1.8)
