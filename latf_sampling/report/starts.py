"""Structures that were generated from the flow: where they were asked for, where they came to lie, and what failed."""

from __future__ import annotations

import warnings
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling import analysis
from latf_sampling.records.records import Learned, Records
from latf_sampling.report import charts, page, words
from latf_sampling.report.landscapes import components, draw_density
from latf_sampling.units import KB

DRAWN = 5000
"""Samples of the flow that stand for its distribution."""


def section(records: Records) -> str:
    title, settings = "Generated structures", records.protocol.starts
    parts = []
    if settings is not None:
        found = records.learned and records.starts(records.campaign.store.starts)
        heading = page.heading(f"At {settings.temperature:g} K, at the campaign's end")
        if found:
            index, learned = records.learned[-1]
            parts += [heading, *_set(records, index, learned, *found, open_table=True)]
        else:
            parts += [heading, page.missing("They are not made yet.")]
    for entry in records.rounds[1:]:
        found = _round_starts(records, entry.index)
        if found is not None:
            learned = records.rounds[entry.index - 1].learned
            parts += [page.heading(f"For round {entry.index}"), *_set(records, entry.index - 1, learned, *found)]
    if not parts:
        parts = [page.missing("No structures are generated yet.")]
    return page.section(title, *parts)


def _round_starts(records: Records, index: int) -> tuple[dict, mdtraj.Trajectory] | None:
    folder: Path = records.campaign.store.round_starts(index)
    return records.starts(folder) if records.rounds[index - 1].learned is not None else None


def _set(
    records: Records, index: int, learned: Learned, table: dict, structures: mdtraj.Trajectory, open_table: bool = False
) -> list[str]:
    temperature = table["temperature"]
    simulated = {walker.frames.temperature for entry in records.rounds[: index + 1] for walker in entry.begun}
    text = f"{table['valid']} of {table['requested']} structures at {temperature:g} K are valid."
    if temperature not in simulated:
        text += " No frame the model was trained on was simulated at this temperature."
    if table.get("coverage") is not None:
        text += " " + _coverage(table["coverage"])
    parts = [page.paragraph(text)]
    made = [
        page.figure(
            charts.chart(lambda axes: _draw_latent(axes, learned, table), height=3.5),
            f"Targets drawn from the flow at {temperature:g} K (rings), the structures that reached them (dots) and "
            "targets that gave none (crosses), over the flow's free energy at that temperature, by the model "
            f"learned after round {index}. Lines join the two. While held, each was at most {table['tolerance']:g} σ "
            f"from its ring, where σ = {learned.cv.noise:.2f} is the encoder's uncertainty; released, it may move as "
            "far as plain dynamics does in that time.",
        ),
        page.figure(
            charts.chart(
                lambda *axes: _draw_distributions(axes, learned, table),
                rows=learned.cv.dim,
                height=1 + 1.6 * learned.cv.dim,
            ),
            "Share of targets, and of structures as they are and by their weights, below each value of the latent "
            f"variables, beside the flow's own at {temperature:g} K. All should lie on the flow's line as closely as "
            "the targets, which are samples of it.",
        ),
    ]
    if records.partner is not None and len(structures):
        made.append(_torsions(records, temperature, structures))
    parts.append(page.figures(*made))
    head = ("structure", "target", "reached", "apart", "from", "potential energy", "weight")
    rows = page.table(head, _rows(records, index, learned, table))
    parts.append(rows if open_table else page.details("Table of these structures", rows))
    if table["rejected"]:
        lines = [f"Target ({_point(entry['target'])}): {'; '.join(entry['reasons'])}." for entry in table["rejected"]]
        where = page.paragraph(_whereabouts(learned, table))
        parts += [page.heading("Rejected"), where, *(page.paragraph(line) for line in lines)]
    return parts


def _point(values) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _rows(records: Records, index: int, learned: Learned, table: dict) -> list[tuple]:
    rows = []
    weights = table.get("weights", [1.0] * table["valid"])
    columns = zip(*(table[name] for name in ("targets", "reached", "sources", "energies")), weights)
    for number, (target, reached, source, energy, weight) in enumerate(columns):
        apart = f"{np.linalg.norm(np.subtract(reached, target)) / learned.cv.noise:.1f} σ"
        origin = _origin(records, index, source)
        values = (_point(target), _point(reached), apart, origin, f"{energy:.1f} kJ/mol", f"{weight:.2f}")
        rows.append((f"start-{number:03d}", *values))
    return rows


def _coverage(content: dict) -> str:
    """The set beside the flow, in words."""
    verdict = "cover" if content["covers"] else "do not cover"
    return (
        f"They {verdict} what the flow asked for: their energy distance to its samples, in units of the widths "
        f"of hills, is {content['reached']:.2g}, by weights {content['weighted']:.2g}, and below "
        f"{content['expected']:.2g} for 99 % of samples of this size. {100 * content['rejected']:.0f} % of the targets "
        f"gave no structure. By their weights the structures are worth {content['effective']:.0f} equal ones."
    )


def _whereabouts(learned: Learned, table: dict) -> str:
    """In which states rejected targets lie, and how high."""
    model, temperature = learned.model, table["temperature"]
    points = np.array([entry["target"] for entry in table["rejected"]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extrapolation, which the landscapes' section states
        drawn = model.sample(DRAWN, temperature, seed=0)
        low = model.free_energy(drawn, temperature).min()
        high = (model.free_energy(points, temperature) - low) / (KB * temperature)
    states = model.state_probabilities(points).argmax(1)
    counts = ", ".join(f"{(states == state).sum()} in state {state}" for state in np.unique(states))
    return f"Targets: {counts}; {high.min():.0f} to {high.max():.0f} kT above the flow's lowest free energy."


def _draw_distributions(axes, learned: Learned, table: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = learned.model.sample(DRAWN, table["temperature"], seed=0)
    dim = learned.cv.dim
    failed = [entry["target"] for entry in table["rejected"]]
    targets = np.array([*table["targets"], *failed], float).reshape(-1, dim)
    reached, weights = np.array(table["reached"], float).reshape(-1, dim), np.array(table["weights"], float)
    lines = (
        ("flow", flow, np.ones(len(flow)), charts.colour(0), "-"),
        ("targets", targets, np.ones(len(targets)), charts.colour(1), "-"),
        ("structures", reached, np.ones(len(reached)), charts.colour(6), "-"),
        ("by weight", reached, weights, charts.colour(6), (0, (2, 2))),
    )
    for k, part in enumerate(axes):
        for label, values, weight, colour, style in lines:
            if len(values):
                order = np.argsort(values[:, k])
                share = np.cumsum(weight[order]) / weight.sum()
                part.step(values[order, k], share, where="post", label=label, color=colour, lw=1.2, ls=style)
        part.set_ylabel(f"share below {charts.component(k)}")
    axes[-1].set_xlabel("latent variable")
    charts.legend(axes[0], ncols=4)


def _origin(records: Records, index: int, source: int) -> str:
    """Where the frame of a joined archive comes from."""
    for entry in records.rounds[: index + 1]:
        for walker in entry.begun:
            if source < len(walker.frames):
                time = words.span((source + 1) * walker.interval)
                return f"{walker.frames.label}, {time}"
            source -= len(walker.frames)
    return "unknown"


def _draw_latent(axes, learned: Learned, table: dict) -> None:
    draw_density(axes, learned, table["temperature"])
    shown = components(learned)

    def points(values) -> tuple[np.ndarray, np.ndarray]:
        array = np.array(values, dtype=float).reshape(-1, learned.cv.dim)[:, shown]
        return array[:, 0], array[:, 1] if len(shown) > 1 else np.zeros(len(array))

    for target, reached in zip(np.transpose(points(table["targets"])), np.transpose(points(table["reached"]))):
        axes.plot(*zip(target, reached), color=charts.colour(1), lw=0.9)
    ring = {"s": 52, "facecolors": "none", "lw": 1.3}
    axes.scatter(*points(table["targets"]), edgecolors=charts.colour(1), label="target", **ring)
    axes.scatter(*points(table["reached"]), s=14, color=charts.colour(6), lw=0, label="reached")
    failed = [entry["target"] for entry in table["rejected"]]
    if failed:
        axes.scatter(*points(failed), s=40, marker="x", color=charts.colour(6), label="no structure")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=3)


def _torsions(records: Records, temperature: float, structures: mdtraj.Trajectory) -> str:
    names = sorted([records.observed.name, records.partner])
    made = [np.degrees(analysis.torsion_values(structures, name)) for name in names]
    archive = [walker for walker in records.walkers if not walker.frames.biased]

    def draw(axes) -> None:
        for walker in archive:
            kept = charts.thin(len(walker.frames), 1500)
            angles = [np.degrees(walker.values[name][kept]) for name in names]
            axes.scatter(*angles, s=2, lw=0, alpha=0.5, color=charts.PALETTE[-1], rasterized=True)
        axes.scatter(*made, s=26, color=charts.colour(6), lw=0, label="generated")
        charts.degrees(axes, "xy")
        axes.set_xlabel(f"{names[0]}, degrees")
        axes.set_ylabel(f"{names[1]}, degrees")

    caption = (
        f"{names[0]} and {names[1]} of the structures at {temperature:g} K (large), over frames of plain dynamics at "
        "all temperatures (small). Structures should lie where such frames are, rare states included."
    )
    return page.figure(charts.chart(draw, height=3.5), caption)
