"""Charts in one style, as inline SVG; they are drawn without matplotlib's global state of open figures."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from latf_sampling.analysis.bootstrap import population_interval

PALETTE = ("#3a86c8", "#e07b39", "#2e9e6b", "#b85fa8", "#c9a227", "#6c78d6", "#d1495b", "#3aa6a6", "#8a6d4b", "#7f8c99")
"""Colors that can be distinguished on a white and on a black page; used in turn."""
INK, LINE = "#010203", "#040506"
"""Placeholders for the page's colors of text and lines, which replace them in the SVG."""
FIGURE = "\x01"
"""Prefix of each id until the page gives every figure a number."""
MAP = "viridis"
WIDTH = 4.7
"""Inches; text of 9 points is then legible on a phone too."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "latf_sampling",
    "font.size": 9.0,
    "font.family": "sans-serif",
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "image.interpolation": "nearest",
}


def style() -> dict[Any, Any]:
    """Settings of matplotlib for figures in files, as on the page."""
    return {**_STYLE, "pdf.fonttype": 42}


def color(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def component(index: int) -> str:
    """Name of a latent component, counted from 0, on an axis."""
    return "u" + "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(index + 1))


def others(shown: Sequence[int], count: int) -> str:
    """Names of the latent components, of so many, that are not shown; empty where all are.

    >>> others([0, 1], 3), others([0, 1], 2)
    ('u₃', '')
    """
    return " and ".join(component(k) for k in range(count) if k not in shown)


def chart(draw: Callable[..., None], rows: int = 1, height: float = 3.0, width: float = WIDTH) -> str:
    """A figure of rows that share their x axis, as SVG; `draw` is called with the axes, one argument each."""
    return _drawn(draw, rows, height, width)[0]


def placed_chart(
    draw: Callable[[Axes], None], height: float = 3.0, width: float = WIDTH
) -> tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """A chart, and a function from data (n,), (n,) to places (n, 2) in the SVG's own units; places outside the axes
    are moved to their edge."""
    svg, (axes,) = _drawn(draw, 1, height, width)

    def to_view(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        inside = np.stack([np.clip(x, left, right), np.clip(y, low, high)], axis=1)
        fractions = axes.figure.transFigure.inverted().transform(axes.transData.transform(inside))
        return 72 * np.array([width, height]) * np.stack([fractions[:, 0], 1 - fractions[:, 1]], axis=1)

    return svg, to_view


def _drawn(draw: Callable[..., None], rows: int, height: float, width: float) -> tuple[str, Sequence[Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = np.atleast_1d(figure.subplots(rows, 1, sharex=True)).tolist()
        draw(*axes)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata=no_metadata)
    return _inline(buffer.getvalue()), axes


def _inline(svg: str) -> str:
    """The SVG element alone, without namespaces, in the page's colors, with ids that no other chart uses."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    used, seen = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)), set()

    def identity(match: re.Match) -> str:
        """Remove ids that are not referred to, and those of elements that matplotlib writes twice."""
        if match[1] not in used or match[1] in seen:
            return ""
        seen.add(match[1])
        return f' id="{FIGURE}{match[1]}"'

    svg = re.sub(r' id="([^"]+)"', identity, svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', rf"\g<1>{FIGURE}\g<2>", svg)
    return svg.replace(INK, "currentColor").replace(LINE, "var(--line)").strip()


def legend(axes: Axes, **options) -> None:
    """A legend above the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        options = {"ncols": 3, "handlelength": 1.4, "columnspacing": 1.2, **options}
        box = axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, **options)
        for handle in box.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
            if isinstance(handle, PathCollection):
                handle.set_sizes([22])


def population_band(axes: Axes, x: np.ndarray, populations: np.ndarray, errors: np.ndarray, style: dict) -> None:
    """The 95 % interval of populations (n,) with standard errors (n,) against x (n,), in percent."""
    low, high = population_interval(populations, errors)
    axes.fill_between(x, 100 * low, 100 * high, alpha=0.18, lw=0, **style)


def surface(
    axes: Axes, x_edges: np.ndarray, y_edges: np.ndarray, values: np.ndarray, ceiling: float, label: str = "kJ/mol"
) -> None:
    """A map of free energies (x, y), without those above the ceiling."""
    values = np.ma.masked_where(~(values <= ceiling), values)
    mesh = axes.pcolormesh(x_edges, y_edges, values.T, cmap=MAP, vmin=0, vmax=ceiling, rasterized=True)
    colorbar(axes, mesh, label)


def colorbar(axes: Axes, mesh: ScalarMappable, label: str, extend: str = "neither") -> None:
    """A scale beside the axes."""
    bar = axes.figure.colorbar(mesh, ax=axes, label=label, pad=0.02, fraction=0.06, extend=extend)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)


def degrees(axes: Axes, which: str) -> None:
    """An axis for a torsion, from -180 to 180 degrees."""
    for name in which:
        getattr(axes, f"set_{name}lim")(-180, 180)
        getattr(axes, f"set_{name}ticks")([-180, -90, 0, 90, 180])


def thin(count: int, most: int) -> slice:
    """A slice that keeps at most so many of a number of points, evenly."""
    return slice(None, None, max(1, -(-count // most)))
