"""The headline: what was simulated, and the free-energy difference next to its reference."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from latf_sampling import analysis
from latf_sampling.analysis import Difference
from latf_sampling.analysis.blocks import BLOCK_LENGTH, RESAMPLES
from latf_sampling.analysis.convergence import MIN_CROSSINGS
from latf_sampling.core.words import plural
from latf_sampling.records.records import Records
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates, history_times
from latf_sampling.report.reference import Reference
from latf_sampling.starts.files import StartFiles


def section(records: Records, estimates: Estimates) -> str:
    parts = [
        _title(records),
        page.cards(_cards(records, estimates)),
        *_unfinished(records),
        *_verdict(records, estimates),
    ]
    if estimates.rounds:
        parts += [_estimates_table(estimates), _error_bar(estimates)]
    if estimates.pooled is not None:
        parts.append(_figures(estimates))
    if records.protocol.system.temperature_dependent:
        parts.append(page.paragraph(words.TEMPERATURE_DEPENDENT, "soft"))
    return "<header>\n" + "\n".join(parts) + "\n</header>"


def numbers(records: Records, estimates: Estimates) -> dict:
    """The numbers of the headline, for the JSON of the page."""
    difference, reference = None, estimates.reference
    if estimates.observed is not None:
        difference = {
            "observed": estimates.observed.name,
            "above": float(estimates.observed.shown(estimates.observed.above)),
            "unit": estimates.observed.unit,
            "temperature_K": estimates.temperature,
            "pooled": _as_json(estimates.pooled),
            "converged": estimates.convergence.converged if estimates.convergence is not None else None,
            "verdict": estimates.convergence.verdict if estimates.convergence is not None else None,
            "rounds": {str(index): _as_json(entry) for index, entry in estimates.rounds.items()},
            "plain": _as_json(estimates.plain_estimate),
            "reference_kJ_per_mol": reference and reference.value,
            "reference_error_kJ_per_mol": reference and reference.error,
            "deviation_in_combined_errors": estimates.deviation,
        }
    return {
        "protocol": records.protocol.name,
        "simulated_ns": records.simulated / 1000,
        "rounds_planned": len(records.rounds),
        "rounds_finished": sum(entry.finished for entry in records.rounds),
        "difference": difference,
        "crossings": [
            {"round": index, "walker": walker, "in": into, "out": out}
            for (index, walker), (into, out) in sorted(estimates.crossings.items())
        ],
    }


def _as_json(entry: Difference | None) -> dict | None:
    if entry is None:
        return None
    return {
        "value_kJ_per_mol": entry.value if math.isfinite(entry.value) else None,
        "error_kJ_per_mol": entry.error if math.isfinite(entry.error) else None,
        "interval_kJ_per_mol": list(entry.interval) if math.isfinite(entry.error) else None,
        "frames": entry.frames,
        "effective_frames": entry.effective_frames,
        "independent_frames": entry.independent_frames,
    }


def _title(records: Records) -> str:
    protocol, system = records.protocol, records.molecule.system
    temperatures = [t for entry in records.rounds for t in entry.settings.walkers]
    settings, atoms = protocol.system, plural(system.getNumParticles(), "atom")
    what = f"{settings.title}, {atoms}"
    if not settings.is_model and settings.openmm is None:
        what += "".join(f", {name}" for name in settings.force_field_names) + f", {settings.nonbonded}"
    about = f"{what}; simulated at {words.kelvin(temperatures)}."
    return f'<p class="eyebrow">latf_sampling campaign</p>\n<h1>{page.escape(protocol.name)}</h1>\n' + page.paragraph(
        about, "soft"
    )


def _cards(records: Records, estimates: Estimates) -> list[tuple[str, str, str]]:
    finished = sum(entry.finished for entry in records.rounds)
    walkers = [walker for entry in records.rounds for walker in entry.begun if entry.external]
    count, external = len(walkers), sum(walker.simulated for walker in walkers)
    begun = len(records.walkers) - count
    simulated = "Simulated time", words.span(records.simulated), f"sum over {plural(begun, 'walker')}"
    cards = [
        *([simulated] if begun or not count else []),
        *([("External trajectories", words.span(external), plural(count, "file"))] if count else []),
        ("Rounds finished", f"{finished} of {len(records.rounds)}", "simulated, and a model learned"),
    ]
    pooled = estimates.pooled
    if pooled is not None:
        value, _, note = words.value(pooled.value, pooled.error).partition(",")
        note = note.strip() + "; " if note else ""
        cards.append(("Free-energy difference", value, f"{note}{estimates.state} at {estimates.temperature:g} K"))
    if estimates.reference is not None:
        note = _distance(estimates) or "no estimate with an error to compare with"
        cards.append(("Reference", _reference(estimates.reference), note))
    return cards


def _reference(reference: Reference) -> str:
    """The reference with its error, if it has one."""
    return words.value(reference.value, reference.error or None)


def _distance(estimates: Estimates) -> str:
    """The deviation from the reference; empty where it is not known."""
    if estimates.deviation is None:
        return ""
    side = "above" if estimates.deviation > 0 else "below"
    return f"the estimate is {abs(estimates.deviation):.1f} combined errors {side} it"


def _unfinished(records: Records) -> list[str]:
    """A paragraph about the steps that are not finished yet."""
    waiting = []
    for entry in records.rounds:
        if entry.external and not entry.simulated:
            waiting.append("the external trajectories are not read yet")
        elif not entry.begun:
            waiting.append(f"round {entry.index} has no finished segment yet")
        elif not entry.simulated:
            waiting.append(f"round {entry.index} is still being simulated")
        elif entry.learned is None:
            waiting.append(f"no model is learned after round {entry.index} yet")
    if records.protocol.starts is not None and not StartFiles(records.directory.starts).complete:
        waiting.append("structures at the new temperature are not generated yet")
    return [page.missing(f"This campaign is not finished: {words.listed(waiting)}.")] if waiting else []


def _verdict(records: Records, estimates: Estimates) -> list[str]:
    if estimates.observed is None:
        return [
            page.paragraph("The protocol names no variable to observe; no free-energy difference is reported.", "soft")
        ]
    plain = [page.paragraph(_plain(estimates))] if estimates.biased else []
    if estimates.convergence is None and estimates.rounds:
        if estimates.biased:
            text = "No biased walker has crossed between the two states after the filling of the bias"
        else:
            text = f"No walker at {estimates.temperature:g} K has crossed between the two states"
        text += ". Their populations are therefore not related: there is no estimate of the free-energy difference."
        after = page.paragraph(_next_step(0))
        return [page.missing(f"{text} {estimates.one_sided}".strip()), after, *plain]
    if estimates.convergence is None or estimates.pooled is None:
        frames = "biased frames" if estimates.biased else f"frames of plain dynamics at {estimates.temperature:g} K"
        text = f"There are no {frames} yet; the free-energy difference cannot be estimated."
        return [page.missing(text), *plain]
    text = (
        f"Free energy of {estimates.state} minus that of the rest, at {estimates.temperature:g} K, from "
        f"{estimates.source}{' by reweighting' if estimates.biased else ''}: "
        f"{words.value(estimates.pooled.value, estimates.pooled.error)}."
    )
    if estimates.reference is not None:
        source = estimates.reference.source
        text += f" {source[0].upper()}{source[1:]} {_reference(estimates.reference)}"
        text += f"; {_distance(estimates)}." if _distance(estimates) else "."
    elif records.reference is not None:
        text += f" The reference file holds no value for {estimates.temperature:g} K to compare with."
    convergence = estimates.convergence
    if convergence.converged:
        return [page.paragraph(text, "verdict"), page.paragraph(convergence.verdict), *plain]
    after = page.paragraph(_next_step(estimates.pooled_crossings))
    return [page.paragraph(text, "verdict"), page.paragraph(convergence.verdict, "warning"), after, *plain]


def _next_step(crossings: int) -> str:
    """What to do about an estimate that has not converged."""
    if crossings < MIN_CROSSINGS:
        return (
            "What to do next: where walkers hardly cross, more of the same helps little; the documentation says what "
            "does, under Troubleshooting, Walkers do not cross."
        )
    return (
        'What to do next: simulate on. "latf run" with the same protocol and folder and --until "1 kJ/mol" adds rounds '
        "until the error is that small; a longer last round goes on where it ended."
    )


def _plain(estimates: Estimates) -> str:
    """The estimate from plain dynamics at the temperature."""
    if not estimates.plain:
        return f"There is no plain dynamics at {estimates.temperature:g} K to compare with."
    simulated = words.span(sum(walker.simulated for walker in estimates.plain))
    crossed = sum(sum(estimates.crossings[walker.key]) for walker in estimates.plain)
    text = f"Plain dynamics at {estimates.temperature:g} K, {simulated}: {plural(crossed, 'crossing')}"
    if estimates.plain_estimate is None:
        return text + ". Without crossings plain dynamics gives no estimate."
    return text + f", {words.value(estimates.plain_estimate.value, estimates.plain_estimate.error)}."


def _estimates_table(estimates: Estimates) -> str:
    rows = [_row(f"round {i}", entry, estimates.round_crossings(i)) for i, entry in estimates.rounds.items()]
    rows.append(_row(f"all of {estimates.source}", estimates.pooled, estimates.pooled_crossings))
    if estimates.plain:
        crossed = sum(estimates.selected_crossings[walker.key] for walker in estimates.plain)
        rows.append(_row("plain dynamics", estimates.plain_estimate, crossed))
    if estimates.reference is not None:
        rows.append(("reference", _reference(estimates.reference), "", "", "", "", ""))
    head = ("from", "difference", "95 % interval", "frames used", "effective frames", "independent", "crossings")
    return page.table(head, rows)


def _row(name: str, entry: Difference | None, crossed: int) -> tuple:
    if entry is None:
        return name, "no estimate", "", "", "", "", crossed
    bounds = "{:.1f} to {:.1f}".format(*entry.interval) if math.isfinite(entry.error) else "not bounded"
    frames = (f"{number:,.0f}" for number in (entry.frames, entry.effective_frames, entry.independent_frames))
    return name, words.value(entry.value, entry.error), bounds, *frames, crossed


def _error_bar(estimates: Estimates) -> str:
    frames = (
        (
            f"Frames used: the first {100 * analysis.FILLING:.0f} % of each biased walker are left out, since the bias "
            "changes quickly there. Each remaining frame has the weight exp((V - c)/kT), with the bias V and its "
            "offset c at its time; rounds are weighted by their number of frames."
        )
        if estimates.biased
        else "All frames at this temperature are used, with equal weights."
    )
    return page.paragraph(
        f"{frames} The error is one standard deviation of a bootstrap over blocks of time with {RESAMPLES} resamples; "
        f"each block is at least {BLOCK_LENGTH:g} statistical inefficiencies long where there are enough frames. The "
        "95 % interval uses Student's t distribution, and is wider where there are few blocks. Both cover the scatter "
        "between blocks, which comes from the number of crossings and from uneven weights. They do not cover errors "
        "that all blocks share: a state that no walker has found, a bias that has not converged, the time step, the "
        "force field. Effective frames: the number of frames reduced by uneven weights. Independent frames: this "
        "number reduced by correlation in time.",
        "soft",
    )


def _figures(estimates: Estimates) -> str:
    band = ""
    if estimates.reference is not None:
        band = "; the band is the reference with its error, which about two of three bars should reach"
    return page.figures(
        page.figure(
            charts.chart(lambda axes: draw_estimates(axes, estimates), height=2.6),
            "Free-energy difference from each round and from all rounds together, with error bars of one standard "
            f"deviation{band}. The rounds should agree with each other.",
        ),
        page.figure(
            charts.chart(lambda axes: draw_history(axes, estimates), height=2.6),
            "Convergence of the free-energy difference: the estimate of each round from its frames up to a time, with "
            "its 95 % interval. The lines should level off, within their intervals, well before their end.",
        ),
    )


def draw_reference(axes: Axes, estimates: Estimates, vertical: bool) -> None:
    if estimates.reference is None:
        return
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    value, error = estimates.reference.value, estimates.reference.error
    span(value - error, value + error, color=charts.color(2), alpha=0.3, lw=0)
    line(value, color=charts.color(2), lw=1.2, label="reference")


def draw_estimates(axes: Axes, estimates: Estimates) -> None:
    entries = [(f"round {index}", entry) for index, entry in estimates.rounds.items()]
    entries = [(name, entry) for name, entry in [*entries, ("together", estimates.pooled)] if entry is not None]
    for height, (name, entry) in enumerate(entries):
        error = entry.error if math.isfinite(entry.error) else None
        shade = charts.INK if name == "together" else charts.color(height)
        axes.errorbar(entry.value, height, xerr=error, fmt="o", color=shade, capsize=4, ms=6)
        if error is None:
            axes.annotate("error not bounded", (entry.value, height), (8, 0), textcoords="offset points", va="center")
    draw_reference(axes, estimates, vertical=True)
    axes.set_yticks(range(len(entries)), [name for name, _ in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlabel("free-energy difference, kJ/mol")
    charts.legend(axes)


def draw_history(axes: Axes, estimates: Estimates) -> None:
    levels, half_width = [], 1.0
    for number, (index, convergence) in enumerate(estimates.histories.items()):
        if convergence is None:
            continue
        time = history_times(estimates.sampled[index][0], convergence)
        value = np.array([step.value if math.isfinite(step.value) else np.nan for step in convergence.history])
        half = np.array([step.half_width if math.isfinite(step.error) else 0.0 for step in convergence.history])
        shade = charts.color(number)
        axes.fill_between(time, value - half, value + half, color=shade, alpha=0.2, lw=0)
        axes.plot(time, value, "o-", color=shade, ms=3, label=f"round {index}")
        levels, half_width = [*levels, *value[np.isfinite(value)]], max(half_width, half[-1])
    draw_reference(axes, estimates, vertical=False)
    if levels:  # the intervals of the first few blocks may be much wider than the others
        axes.set_ylim(min(levels) - 2 * half_width, max(levels) + 2 * half_width)
    axes.set_xlabel("simulated time of each walker, ns")
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylabel("difference, kJ/mol")
    charts.legend(axes)
