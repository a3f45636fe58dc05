"""Pictures that are drawn when the documentation is built, from the small tables in docs/figures.

A table is a CSV file whose first lines begin with "#" and say which command made it. To add a picture, put its table
there, write a function from a `Table` to a figure, and enter it in `FIGURES`; a page shows it by
``![words](../_figures/NAME.svg)``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latf_sampling.report import charts

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
TABLES, PICTURES = DOCS / "figures", DOCS / "_figures"
PROTOCOLS = DOCS.parent / "protocols"
WIDTH, HEIGHT = 6.0, 2.9
"""Inches."""
REFERENCE = "#333333"


class Table:
    """A stored table: the command that made it, and its columns.

    Attributes
    ----------
    command : str
        The lines before the head.
    """

    def __init__(self, name: str) -> None:
        lines = (TABLES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        self.command = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
        self._rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))

    def where(self, **values: str) -> Table:
        """The rows in which columns have these values."""
        part = object.__new__(Table)
        part.command = self.command
        part._rows = [row for row in self._rows if all(row[name] == value for name, value in values.items())]
        return part

    def values(self, name: str) -> list[str]:
        """The different values of a column, in their order."""
        return list(dict.fromkeys(row[name] for row in self._rows))

    def __getitem__(self, name: str) -> np.ndarray:
        """A column of numbers; NaN where a cell is empty."""
        return np.array([float(row[name] or "nan") for row in self._rows])

    def starting_with(self, begin: str) -> np.ndarray:
        """The one column whose head begins so."""
        (name,) = [name for name in self._rows[0] if name.startswith(begin)]
        return self[name]


FIGURES: dict[str, Callable[[], Figure]] = {}
"""Functions that draw, by the name of the file."""


def _figure(draw: Callable[..., None]) -> Callable[..., None]:
    """Enter a picture, which is drawn from its table on as many axes as `draw` takes."""
    name, panels = draw.__name__.replace("_", "-"), draw.__code__.co_argcount - 1

    def make() -> Figure:
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(Table(name), *np.atleast_1d(figure.subplots(1, panels)))
        return figure

    FIGURES[name] = make
    return draw


def _style() -> dict[Any, Any]:
    """That of the report, in black on white: the SVG is an image, which does not know the colors of the page."""
    inks = (charts.INK, charts.LINE)
    plain = {key: "black" if value in inks else value for key, value in charts.style().items()}
    return {**plain, "svg.fonttype": "path"}


def make(folder: Path) -> None:
    """Draw all pictures into a folder."""
    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(_style()):
        for name, draw in FIGURES.items():
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})


def _make(app: Sphinx) -> None:
    make(PICTURES)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# ------------------------------------------------------------------------------------------------------- pictures


@_figure
def temperatures(table: Table, axes: Axes) -> None:
    """How far generated densities are from references at temperatures that were not trained at."""
    places = np.arange(len(table.values("temperature")))
    for shift, mode in zip((-0.27, 0.0, 0.27), ("reweighted", "thermodynamic", "steered"), strict=True):
        axes.bar(places + shift, table[mode], 0.25, label=mode, color=charts.color(round(shift / 0.27) + 1))
    for place, floor in zip(places, table["floor"], strict=True):
        axes.plot([place - 0.4, place + 0.4], [floor, floor], color=REFERENCE, label="noise floor" if not place else "")
    axes.set_yscale("log")
    axes.set_xticks(places, [f"T = {value}" for value in table.values("temperature")])
    axes.set_ylabel("divergence, nats")
    axes.legend(ncols=2)


@_figure
def chignolin_melting(table: Table, axes: Axes) -> None:
    """Population of the open state: by the flow, by frames that were weighted with MBAR, and of plain runs."""
    for index, (kind, label) in enumerate({"model": "flow", "frames": "training frames by MBAR"}.items()):
        rows = table.where(by=kind)
        _curve(axes, index, rows["temperature"], rows["population"], rows["error"], label)
    runs = table.where(by="plain runs")
    _points(axes, runs["temperature"], runs["population"], runs["error"], "plain runs")
    _finish(axes, (306, 374), "open, %")


@_figure
def chignolin_night(table: Table, plain: Axes, biased: Axes) -> None:
    """Distance of all-atom chignolin from its hairpin: walkers one after the other, of plain and of biased rounds."""
    for axes, rounds, title in ((plain, "0", "plain, 310 and 400 K"), (biased, "12", "biased, 340 K")):
        begin = 0.0
        for index in rounds:
            for walker in table.where(round=index).values("walker"):
                rows = table.where(round=index, walker=walker)
                axes.plot(begin + rows["time"], rows["rmsd"], "o", ms=2, mew=0, color=charts.color(int(index)))
                begin += rows["time"].max()
                axes.axvline(begin, color=REFERENCE, lw=0.7, ls=":")
        axes.axhline(0.2, color=REFERENCE, lw=0.7)
        axes.set_title(title)
        axes.set_xlabel("time, ns, walker after walker")
        axes.set_ylim(0, 0.8)
    plain.set_ylabel("RMSD of CA from the hairpin, nm")


@_figure
def gcaa_melting(table: Table, axes: Axes) -> None:
    """Fraction of folded hairpins: by a flow of all frames, by one of folded frames only, and by replica exchange."""
    for index, (name, label) in enumerate({"": "flow", "-folded-only": "flow of folded frames"}.items()):
        column = f"reweighted{name}"
        _curve(axes, index, table["temperature"], table[column], table[f"{column} error"], label)
    exchange = json.loads((PROTOCOLS / "reference_gcaa-go.json").read_text(encoding="utf-8"))["replica_exchange_MBAR"]
    grid, folded, error = (np.array(exchange[key])[::4] for key in ("grid_K", "folded", "folded_error"))
    _points(axes, grid, folded, error, "replica exchange")
    _finish(axes, (325, 350), "folded, %")


@_figure
def ci2_melting(table: Table, axes: Axes) -> None:
    """Fraction of folded CI2: by flows of all three modes, and by replica exchange."""
    for index, mode in enumerate(("reweighted", "thermodynamic", "steered")):
        _curve(axes, index, table["temperature"], table[mode], table[f"{mode} error"], f"flow, {mode}")
    exchange = json.loads((PROTOCOLS / "reference_ci2.json").read_text(encoding="utf-8"))["replica_exchange_MBAR"]
    grid, folded, error = (np.array(exchange[key])[::4] for key in ("grid_K", "folded", "folded_error"))
    _points(axes, grid, folded, error, "replica exchange")
    _finish(axes, (135.8, 141.9), "folded, %")


@_figure
def rapa_melting(table: Table, axes: Axes) -> None:
    """Fraction of stacked r(ApA): by flows of two modes, and by replica exchange."""
    for index, mode in enumerate(("reweighted", "thermodynamic")):
        _curve(axes, index, table["temperature"], table[mode], table[f"{mode} error"], f"flow, {mode}")
    exchange = json.loads((PROTOCOLS / "reference_rapa.json").read_text(encoding="utf-8"))["replica_exchange_MBAR"]
    grid, stacked, error = (np.array(exchange[key])[::4] for key in ("grid_K", "folded", "folded_error"))
    _points(axes, grid, stacked, error, "replica exchange")
    _finish(axes, (300, 400), "stacked, %")


@_figure
def alanine(table: Table, plain: Axes, biased: Axes) -> None:
    """Phi against time: plain dynamics, and metadynamics along the learned variable."""
    for axes, kind, title in ((plain, "plain", "plain dynamics"), (biased, "biased", "along the learned variable")):
        rows = table.where(dynamics=kind)
        axes.plot(rows["time"], rows["phi"], "o", ms=2, mew=0, color=charts.color(0))
        _phi(axes, title)
    plain.set_ylabel("phi, degrees")


@_figure
def trajectories(table: Table, given: Axes, biased: Axes) -> None:
    """Phi against time: external trajectories at two temperatures, and a walker along what was learned from them."""
    for index, temperature in ((1, "600"), (0, "300")):
        rows = table.where(dynamics=temperature)
        label = f"{temperature} K"
        given.plot(rows["time"], rows["phi"], "o", ms=2, mew=0, color=charts.color(index), label=label)
    rows = table.where(dynamics="biased")
    biased.plot(rows["time"], rows["phi"], "o", ms=2, mew=0, color=charts.color(0))
    for axes, title in ((given, "external trajectories"), (biased, "first simulated round, 300 K")):
        _phi(axes, title)
    given.set_ylabel("phi, degrees")
    given.legend(loc="upper right", markerscale=3, framealpha=1)


@_figure
def own_script(table: Table, axes: Axes) -> None:
    """The variable of a walker under metadynamics against time."""
    axes.plot(table["time"], table["u"], "o-", ms=3, lw=0.8, color=charts.color(0))
    axes.set_xlabel("time, ps")
    axes.set_ylabel("u")


def _phi(axes: Axes, title: str) -> None:
    """Axes of phi against time."""
    axes.axhline(0.0, color=REFERENCE, lw=0.7, ls=":")
    axes.set_title(title)
    axes.set_xlabel("time, ns")
    axes.set_ylim(-180, 180)
    axes.set_yticks(range(-180, 181, 90))


def _curve(axes: Axes, index: int, temperatures: np.ndarray, share: np.ndarray, error: np.ndarray, label: str) -> None:
    """A population against temperature, with the 95 % band of its standard errors."""
    low, high = (np.clip(100 * (share + sign * 1.96 * error), 0, 100) for sign in (-1, 1))
    axes.fill_between(temperatures, low, high, color=charts.color(index), alpha=0.2, lw=0)
    axes.plot(temperatures, 100 * share, color=charts.color(index), label=label)


def _points(axes: Axes, temperatures: np.ndarray, share: np.ndarray, error: np.ndarray, label: str) -> None:
    """A reference, with 95 % intervals."""
    axes.errorbar(temperatures, 100 * share, 196 * error, fmt="o", color=REFERENCE, capsize=3, ms=5, label=label)


def _finish(axes: Axes, simulated: tuple[float, ...], label: str) -> None:
    """Axes of a melting curve, with the temperatures that were trained at."""
    for temperature in simulated:
        axes.axvline(temperature, color=REFERENCE, lw=0.7, ls=":")
    axes.set_xlabel("temperature, K")
    axes.set_ylabel(label)
    axes.legend()
