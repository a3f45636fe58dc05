"""Generated structures: their targets, the points that they reached, and the targets that failed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import mdtraj
import numpy as np
from matplotlib.axes import Axes

from latf_sampling import analysis
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates
from latf_sampling.report.landscapes import components, draw_density, summed
from latf_sampling.starts.files import StartFiles
from latf_sampling.units import KB

DRAWN = 5000
"""Number of samples that represent the flow's distribution."""


def section(records: Records, estimates: Estimates) -> str:
    settings, parts = records.protocol.starts, []
    if settings is not None:
        parts.append(page.heading(f"At {settings.temperature:g} K, at the end of the campaign"))
        structures = records.starts(records.directory.starts)
        if records.learned and structures is not None:
            index, learned = records.learned[-1]
            parts += _set(records, index, learned, *structures, open_table=True)
        else:
            parts.append(page.missing("These structures are not generated yet."))
    for before, entry in zip(records.rounds, records.rounds[1:]):
        files = records.directory.round(entry.index)
        for first in files.start_sets():
            structures = records.starts(files.start_set(first))
            if before.learned is not None and structures is not None:
                later = f", from walker {first} on" if first else ""
                parts += [
                    page.heading(f"For round {entry.index}{later}"),
                    *_set(records, before.index, before.learned, *structures),
                ]
    return page.section("Generated structures", *(parts or [page.missing("No structures are generated yet.")]))


def _set(
    records: Records,
    index: int,
    learned: LearnedModel,
    table: dict,
    structures: mdtraj.Trajectory,
    open_table: bool = False,
) -> list[str]:
    temperature = table["temperature"]
    simulated = {walker.frames.temperature for entry in records.rounds[: index + 1] for walker in entry.begun}
    text = f"{table['valid']} of {table['requested']} structures at {temperature:g} K are valid."
    if temperature not in simulated:
        text += " No training frame of the model was simulated at this temperature."
    if table.get("coverage") is not None:
        text += " " + _coverage(table["coverage"])
    policy, reason = (table.get("settings", {}).get(key) for key in ("restart", "reason"))
    archived = policy is not None
    if archived:
        # Before 0.3 there was one such policy, and no reason.
        text += f" They are archived frames, {reason or 'drawn at random with their weights at this temperature'}."
    parts = [page.paragraph(text)]
    figures = [
        page.figure(
            charts.chart(lambda axes: draw_latent(axes, learned, table), height=3.5),
            f"{_drawn(archived)}, over the flow's free energy at {temperature:g} K, by the model "
            f"learned after round {index}. {_expected(learned, table, policy)}{summed(learned)}",
        ),
        page.figure(
            charts.chart(
                lambda *axes: _draw_distributions(axes, learned, table),
                rows=learned.cv.dim,
                height=1 + 1.6 * learned.cv.dim,
            ),
            "Cumulative distributions of the latent variables: of targets, of structures without and with their "
            f"weights, and of the flow at {temperature:g} K. The structures should follow the flow's line as closely "
            "as the targets, which are samples of it.",
        ),
    ]
    if records.observed is not None and records.partner is not None and len(structures):
        first, second = sorted([records.observed.name, records.partner])
        figures.append(_torsions(records, (first, second), temperature, structures))
    parts.append(page.figures(*figures))
    head = ("structure", "target", "reached", "distance", "source frame", "potential energy", "weight")
    rows = page.table(head, _rows(records, index, learned, table))
    parts.append(rows if open_table else page.details("Table of these structures", rows))
    if table["rejected"]:
        lines = [f"Target ({_point(entry['target'])}): {'; '.join(entry['reasons'])}." for entry in table["rejected"]]
        where = page.paragraph(_rejected_targets(learned, table))
        parts += [page.heading("Rejected targets"), where, *(page.paragraph(line) for line in lines)]
    return parts


def _drawn(archived: bool) -> str:
    """What the map of structures shows."""
    if archived:
        return "Frames drawn from the archive (dots)"
    return (
        "Targets drawn from the flow (rings), the structures made for them (dots, connected by lines) and targets "
        "without a structure (crosses)"
    )


def _expected(learned: LearnedModel, table: dict, policy: str | None) -> str:
    """What to look for in it."""
    if policy == "archive":
        return "They should lie where the free energy is low."
    if policy is not None:
        return "They lie where the next walkers were to go, and are no sample of the free energy."
    return (
        f"Dots should lie close to their rings: restrained, each structure was at most {table['tolerance']:g} σ from "
        f"its target, where σ = {learned.cv.noise:.2f} is the encoder's uncertainty; after its release it may have "
        "moved as far as plain dynamics moves in this time."
    )


def _point(values) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _rows(records: Records, index: int, learned: LearnedModel, table: dict) -> list[tuple]:
    rows = []
    weights = table.get("weights", [1.0] * table["valid"])
    columns = zip(*(table[name] for name in ("targets", "reached", "sources", "energies")), weights)
    for number, (target, reached, source, energy, weight) in enumerate(columns):
        distance = f"{np.linalg.norm(np.subtract(reached, target)) / learned.cv.noise:.1f} σ"
        origin = _origin(records, index, source)
        values = (_point(target), _point(reached), distance, origin, f"{energy:.1f} kJ/mol", f"{weight:.2f}")
        rows.append((StartFiles.name(number), *values))
    return rows


def _coverage(content: dict) -> str:
    """Comparison of the set with the flow."""
    verdict = "cover" if content["covers"] else "do not cover"
    return (
        f"They {verdict} the flow's distribution: their energy distance to samples of the flow, in units of the hill "
        f"widths, is {content['reached']:.2g}, with weights {content['weighted']:.2g}, and below "
        f"{content['expected']:.2g} for 99 % of samples of this size. {100 * content['rejected']:.0f} % of the targets "
        f"gave no structure. The weighted structures are equivalent to {content['effective']:.0f} unweighted ones."
    )


def _rejected_targets(learned: LearnedModel, table: dict) -> str:
    """States and free energies of the rejected targets."""
    model, temperature = learned.model, table["temperature"]
    points = np.array([entry["target"] for entry in table["rejected"]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about extrapolation, which the section of landscapes states
        drawn = model.sample(DRAWN, temperature, seed=0)
        low = model.free_energy(drawn, temperature).min()
        high = (model.free_energy(points, temperature) - low) / (KB * temperature)
    states = model.state_probabilities(points).argmax(1)
    counts = ", ".join(f"{(states == state).sum()} in state {state}" for state in np.unique(states))
    return f"Targets: {counts}; {high.min():.0f} to {high.max():.0f} kT above the flow's lowest free energy."


def _draw_distributions(axes: Sequence[Axes], learned: LearnedModel, table: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = learned.model.sample(DRAWN, table["temperature"], seed=0)
    dim = learned.cv.dim
    failed = [entry["target"] for entry in table["rejected"]]
    targets = np.array([*table["targets"], *failed], float).reshape(-1, dim)
    reached, weights = np.array(table["reached"], float).reshape(-1, dim), np.array(table["weights"], float)
    lines = (
        ("flow", flow, np.ones(len(flow)), charts.color(0), "-"),
        ("targets", targets, np.ones(len(targets)), charts.color(1), "-"),
        ("structures", reached, np.ones(len(reached)), charts.color(6), "-"),
        ("by weight", reached, weights, charts.color(6), (0, (2, 2))),
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
    """The walker and time of a frame, by its index in the joined archive."""
    for entry in records.rounds[: index + 1]:
        for walker in entry.begun:
            if source < len(walker.frames):
                time = words.span((source + 1) * walker.interval)
                return f"{walker.frames.label}, {time}"
            source -= len(walker.frames)
    return "unknown"


def draw_latent(axes: Axes, learned: LearnedModel, table: dict) -> None:
    draw_density(axes, learned, table["temperature"])
    shown = components(learned)

    def points(values) -> tuple[np.ndarray, np.ndarray]:
        array = np.array(values, dtype=float).reshape(-1, learned.cv.dim)[:, shown]
        return array[:, 0], array[:, 1] if len(shown) > 1 else np.zeros(len(array))

    for target, reached in zip(np.transpose(points(table["targets"])), np.transpose(points(table["reached"]))):
        axes.plot(*zip(target, reached), color=charts.color(1), lw=0.9)
    ring = {"s": 52, "facecolors": "none", "lw": 1.3}
    axes.scatter(*points(table["targets"]), edgecolors=charts.color(1), label="target", **ring)
    axes.scatter(*points(table["reached"]), s=14, color=charts.color(6), lw=0, label="reached")
    failed = [entry["target"] for entry in table["rejected"]]
    if failed:
        axes.scatter(*points(failed), s=40, marker="x", color=charts.color(6), label="no structure")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=3)


def _torsions(records: Records, names: tuple[str, str], temperature: float, structures: mdtraj.Trajectory) -> str:
    generated = [np.degrees(analysis.torsion_values(structures, name)) for name in names]
    archive = [walker for walker in records.walkers if not walker.frames.biased]

    def draw(axes: Axes) -> None:
        for walker in archive:
            selected = charts.thin(len(walker.frames), 1500)
            angles = [np.degrees(walker.values[name][selected]) for name in names]
            axes.scatter(*angles, s=2, lw=0, alpha=0.5, color=charts.PALETTE[-1], rasterized=True)
        axes.scatter(*generated, s=26, color=charts.color(6), lw=0, label="generated")
        charts.degrees(axes, "xy")
        axes.set_xlabel(f"{names[0]}, degrees")
        axes.set_ylabel(f"{names[1]}, degrees")

    caption = (
        f"{names[0]} and {names[1]} of the structures at {temperature:g} K (large points), over frames of plain "
        "dynamics at all temperatures (small points). Structures should lie where such frames are, including rare "
        "states."
    )
    return page.figure(charts.chart(draw, height=3.5), caption)
