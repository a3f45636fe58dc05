"""The page of an evaluation: tables, then the figures that explain them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latf_sampling.analysis.bootstrap import population_interval
from latf_sampling.analysis.kinetics import Kinetics
from latf_sampling.analysis.thermodynamics import GibbsHelmholtz
from latf_sampling.core import storage
from latf_sampling.core.words import plural
from latf_sampling.learning.evaluation import Evaluation
from latf_sampling.learning.evaluation.comparison import EvaluationRow
from latf_sampling.report import charts, page, words
from latf_sampling.units import KB

CEILING = 10.0
"""Latent free energies are drawn up to this value, kT."""
MISMATCH = 2.0
"""Free-energy errors are drawn up to this value, kT."""


def write_evaluation(evaluation: Evaluation, path: str | Path) -> None:
    """Write an evaluation as one HTML file that needs no other file.

    Its numbers are repeated as JSON in the element with the id "numbers".
    """
    sections = [
        _head(evaluation),
        _densities(evaluation),
        _populations(evaluation),
        _kinetics(evaluation),
        _latent(evaluation),
        _free_energies(evaluation),
        _melting(evaluation),
        _thermodynamics(evaluation),
        _timescales(evaluation),
        _chapman_kolmogorov(evaluation),
    ]
    storage.write_text(path, page.document("Evaluation of a model", sections, evaluation.as_dict()))


def _head(evaluation: Evaluation) -> str:
    about = (
        f"A latent space of {plural(evaluation.dim, 'dimension')} with {plural(evaluation.n_states, 'state')}, "
        f"learned at a lag of {plural(evaluation.lag, 'frame')}, compared with data that were not fitted in training: "
        f"{evaluation.samples:,} generated samples per temperature, {evaluation.bins} bins per dimension."
    )
    title = '<p class="eyebrow">latf_sampling evaluation</p>\n<h1>How good is this model?</h1>'
    expected = [] if evaluation.crossings is None else [page.paragraph(evaluation.crossings.sentence)]
    notes = (page.missing(note) for note in evaluation.notes)
    return "\n".join([title, page.paragraph(about, "soft"), *expected, *notes])


# Tables


def _densities(evaluation: Evaluation) -> str:
    title = "Densities"
    if not evaluation.rows:
        return page.section(title, page.missing("There are no data to evaluate the model on."))
    explained = (
        "KL: Kullback-Leibler divergence of the collective variable in the data from generated samples. A bin with "
        "data but no sample is treated as if it held half a sample.",
        "Of halves: half of the data against as many generated samples; in brackets the noise floor, which is the "
        "divergence of one half of the data, in the order of time, from the other. A perfect model reaches it.",
        "With noise: the same with noise added to the data, with the amplitude used in training the flow.",
        "JS: Jensen-Shannon distance, from 0 to 0.83.",
        "Free energy off: root mean square, weighted by the data, and largest difference over bins with more than four "
        "effective counts, after their mean difference is removed.",
        "Populations off: largest difference between a state's population in the data and by the model.",
        "Samples outside: samples that lie neither in nor next to a bin with data at any temperature.",
        "Held-out blocks determine when training stops, and states were assigned on all frames; references are the "
        "stricter test.",
    )
    return page.section(
        title,
        page.table(*evaluation.cells()),
        page.details("Definitions of the columns", *(page.paragraph(line) for line in explained)),
        page.heading("Free energies"),
        _energies(evaluation),
    )


def _energies(evaluation: Evaluation) -> str:
    unit, rows = evaluation.energy_unit, []
    for row in evaluation.rows:
        for label, error in (("", row.free_energy), (", with noise", row.noisy_free_energy)):
            if error is not None:
                numbers = (error.rms, error.noise, error.largest)
                cells = (*(f"{number:.3f}" for number in numbers), f"{100 * error.coverage:.1f} %")
                rows.append((_title(evaluation, row) + label, *cells))
    if not rows:
        return page.missing(
            "Free energies are not compared: no bin is populated, or the latent space has more than two dimensions."
        )
    head = ("data", f"root mean square, {unit}", "counting noise in it", "largest", "share of data covered")
    return page.table(head, rows)


def _populations(evaluation: Evaluation) -> str:
    rows = []
    for row in evaluation.rows:
        title = _title(evaluation, row)
        rows.append((f"{title}: data", *_with_errors(row.populations, row.errors)))
        rows.append((f"{title}: model", *_with_errors(row.model_populations, row.model_errors)))
    if not rows:
        return ""
    head = ("populations in %", *(f"state {state}" for state in range(evaluation.n_states)))
    return page.section("Populations of the states", page.table(head, rows))


def _kinetics(evaluation: Evaluation) -> str:
    title = "Kinetics of the states"
    if not evaluation.kinetics:
        return page.section(title, page.missing("No temperature was simulated without a bias."))
    rows = []
    for entry in evaluation.kinetics:
        slowest, deviation = "–", "–"
        if entry.slowest is not None:
            value, low, high = (_time(entry, frames) for frames in entry.slowest)
            slowest = f"{value} ({low} to {high})"
        if entry.deviation is not None:
            deviation = f"{entry.deviation:.3f}, {entry.deviation_in_errors:.1f} standard errors"
        rows.append((evaluation.at(entry.temperature), slowest, deviation))
    head = ("temperature", "slowest time scale (95 %)", "largest deviation from Chapman-Kolmogorov")
    notes = [
        page.missing(f"{evaluation.at(entry.temperature)}: {note}")
        for entry in evaluation.kinetics
        for note in entry.notes
    ]
    return page.section(title, page.table(head, rows), *notes)


def _with_errors(values: np.ndarray, errors: np.ndarray | None) -> list[str]:
    if errors is None:
        return [f"{100 * value:.1f}" for value in values]
    return [f"{100 * value:.1f} ± {100 * error:.1f}" for value, error in zip(values, errors)]


def _title(evaluation: Evaluation, row: EvaluationRow) -> str:
    return f"{row.kind}, {evaluation.at(row.temperature)}"


def _time(entry: Kinetics, frames: float) -> str:
    return f"{frames:.3g} frames" if entry.interval is None else words.span(frames * entry.interval)


# Figures


def _latent(evaluation: Evaluation) -> str:
    figures = []
    for row in evaluation.rows:
        title = _title(evaluation, row)
        if evaluation.dim == 1:
            svg = charts.chart(lambda axes, row=row: _draw_shares(axes, evaluation, row))
            figures.append(
                page.figure(svg, f"{title}: distributions of data and generated samples, which should agree.")
            )
            continue
        for number, (first, second) in enumerate(combinations(range(evaluation.dim), 2)):
            for label, shares in (("data", row.histogram), ("generated samples", row.generated)):
                svg = charts.chart(
                    lambda axes, shares=shares[number], pair=(first, second): _draw_map(axes, evaluation, shares, pair),
                    height=3.5,
                )
                others = charts.others((first, second), evaluation.dim)
                what = f"{label}, summed over {others}" if others else label
                figures.append(
                    page.figure(svg, f"{title}: {what}. The maps of data and of generated samples should agree.")
                )
    return _section("Latent densities", figures)


def _draw_shares(axes: Axes, evaluation: Evaluation, row: EvaluationRow) -> None:
    for index, (label, shares) in enumerate((("data", row.histogram), ("generated", row.generated))):
        axes.stairs(shares[0], evaluation.edges[0], color=charts.color(index), lw=1.6, label=label)
    axes.set_xlabel("latent u₁")
    axes.set_ylabel("share per bin")
    charts.legend(axes)


def _draw_map(axes: Axes, evaluation: Evaluation, shares: np.ndarray, pair: tuple[int, int]) -> None:
    with np.errstate(divide="ignore"):
        energy = -np.log(shares)
    x, y = (evaluation.edges[component] for component in pair)
    charts.surface(axes, x, y, energy - energy.min(), CEILING, "-ln p")
    axes.set_xlabel(f"latent {charts.component(pair[0])}")
    axes.set_ylabel(f"latent {charts.component(pair[1])}")


def _free_energies(evaluation: Evaluation) -> str:
    figures = []
    for row in evaluation.rows:
        if row.free_energy is None:
            continue
        title = _title(evaluation, row)
        if evaluation.dim == 1:
            svg = charts.chart(lambda axes, row=row: _draw_profiles(axes, evaluation, row))
            caption = f"{title}: free energies of the data and of the flow, which should agree where there are data."
        else:
            svg = charts.chart(lambda axes, row=row: _draw_mismatch(axes, evaluation, row), height=3.5)
            caption = (
                f"{title}: free energy of the flow minus that of the data, in bins with data. White is agreement; look "
                "for large areas of one color, which are errors of the model."
            )
        figures.append(page.figure(svg, caption))
    return _section("Free-energy errors", figures)


def _draw_profiles(axes: Axes, evaluation: Evaluation, row: EvaluationRow) -> None:
    assert row.free_energy is not None  # the figure exists for such rows alone
    edges, kT = evaluation.edges[0], evaluation.boltzmann * row.temperature
    axes.stairs(row.free_energy.data, edges, baseline=None, color=charts.color(0), lw=1.6, label="data")
    axes.stairs(row.free_energy.model, edges, baseline=None, color=charts.color(1), lw=1.2, label="flow")
    axes.set_ylim(-kT, CEILING * kT)
    axes.set_xlabel("latent u₁")
    axes.set_ylabel(f"free energy, {evaluation.energy_unit}")
    charts.legend(axes)


def _draw_mismatch(axes: Axes, evaluation: Evaluation, row: EvaluationRow) -> None:
    assert row.free_energy is not None  # the figure exists for such rows alone
    bound = MISMATCH * evaluation.boltzmann * row.temperature
    difference = np.ma.masked_invalid(row.free_energy.model - row.free_energy.data)
    mesh = axes.pcolormesh(*evaluation.edges, difference.T, cmap="RdBu_r", vmin=-bound, vmax=bound, rasterized=True)
    charts.colorbar(axes, mesh, evaluation.energy_unit, extend="both")
    axes.set_xlabel("latent u₁")
    axes.set_ylabel("latent u₂")


def _melting(evaluation: Evaluation) -> str:
    curve = evaluation.melting
    caption = (
        "Populations of the states against temperature: the model (lines, dotted where it extrapolates, with bands of "
        "95 % by the ensemble, where there is one) and the data (points: held out; squares: references; bars: 95 %). "
        "The lines should pass through the data within their errors."
    )
    if curve.reweighted is not None:
        caption += (
            f" Dashed, with a band: the training frames alone, by {curve.method}, where they have "
            f"{evaluation.minimum_effective_size:.0f} effective frames or more."
        )
    svg = charts.chart(lambda axes: _draw_melting(axes, evaluation), height=4.0)
    return page.section(
        "Melting curve",
        page.paragraph(words.temperature(evaluation.temperature_mode, evaluation.overlaps)),
        page.figures(page.figure(svg, caption)),
    )


def _draw_melting(axes: Axes, evaluation: Evaluation) -> None:
    curve = evaluation.melting
    for state in range(evaluation.n_states):
        style: dict[str, Any] = {"color": charts.color(state)}
        values = 100 * curve.model[:, state]
        axes.plot(curve.temperatures, values, ":", **style)
        known = np.where(curve.extrapolated, np.nan, values)
        axes.plot(curve.temperatures, known, label=f"state {state}", **style)
        if curve.errors is not None:
            charts.population_band(axes, curve.temperatures, curve.model[:, state], curve.errors[:, state], style)
        if curve.reweighted is not None and curve.reweighted_errors is not None and curve.effective_sizes is not None:
            enough = curve.effective_sizes >= evaluation.minimum_effective_size
            reweighted = np.where(enough, curve.reweighted[:, state], np.nan)
            axes.plot(curve.temperatures, 100 * reweighted, "--", lw=1.1, **style)
            charts.population_band(axes, curve.temperatures, reweighted, curve.reweighted_errors[:, state], style)
        for row in evaluation.rows:
            value, error = row.populations[state], None
            if row.errors is not None and 0 < value < 1:
                low, high = population_interval(value, row.errors[state])
                error = [[100 * (value - low)], [100 * (high - value)]]
            marker = "o" if row.kind == "held out" else "s"
            axes.errorbar(row.temperature, 100 * value, error, fmt=marker, ms=4.5, capsize=2, lw=1, **style)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("temperature, K" if evaluation.boltzmann == KB else "temperature")
    axes.set_ylabel("population, %")
    charts.legend(axes, ncols=4)


def _thermodynamics(evaluation: Evaluation) -> str:
    solution = evaluation.thermodynamics
    if solution is None or evaluation.n_states < 2:
        return ""
    found = solution.at(solution.reference)
    per = "J/mol/K" if evaluation.boltzmann == KB else "reduced"
    scale = 1000.0 if evaluation.boltzmann == KB else 1.0
    rows = []
    for state in range(1, evaluation.n_states):
        melting = [
            f"{value:.4g} ± {error:.2g}"
            for value, error in (
                (found.melting_temperatures[state], found.melting_errors[state]),
                (found.second_melting_temperatures[state], found.second_melting_errors[state]),
            )
            if np.isfinite(value)
        ]
        rows.append(
            (
                f"state {state} less state 0",
                f"{found.free_energies[state]:.2f} ± {found.free_energy_errors[state]:.2f}",
                f"{found.energies[state]:.2f} ± {found.energy_errors[state]:.2f}",
                f"{found.entropies[state]:.2f} ± {found.entropy_errors[state]:.2f}",
                f"{scale * found.heat_capacities[state]:.1f} ± {scale * found.heat_capacity_errors[state]:.1f}",
                " and ".join(melting) or "–",
            )
        )
    unit = evaluation.energy_unit
    head = ("", f"dF, {unit}", f"dU, {unit}", f"T dS, {unit}", f"dCp, {per}", "equally populated at")
    about = (
        f"At {evaluation.at(found.temperature)}, from the states and energies of the training frames at all simulated "
        "temperatures by the Gibbs-Helmholtz equation; with standard errors from blocks of time. At constant pressure "
        "these are dG and dH."
    )
    svg = charts.chart(lambda axes: _draw_van_t_hoff(axes, evaluation, solution), height=3.6)
    caption = (
        "Van 't Hoff plot: logarithm of the population of each state relative to state 0 against the inverse "
        "temperature, with bands of two standard errors; points are the frames at the simulated temperatures and "
        "references. A straight line has a constant dU, and a curved one a difference in heat capacity."
    )
    title = "Thermodynamics of the states"
    return page.section(title, page.paragraph(about), page.table(head, rows), page.figures(page.figure(svg, caption)))


def _draw_van_t_hoff(axes: Axes, evaluation: Evaluation, solution: GibbsHelmholtz) -> None:
    grid = evaluation.melting.temperatures
    values = -np.array([solution.reduced(temperature) for temperature in grid])
    factor = 1000.0 if evaluation.boltzmann == KB else 1.0
    for state in range(1, evaluation.n_states):
        style: dict[str, Any] = {"color": charts.color(state)}
        line, errors = values[:, 0, state], values[:, 1:, state].std(1, ddof=1)
        axes.plot(factor / grid, line, label=f"state {state}", **style)
        _band(axes, factor / grid, line, errors, style)
        for row in evaluation.rows:
            if row.populations[0] > 0 and row.populations[state] > 0:
                ratio = np.log(row.populations[state] / row.populations[0])
                axes.plot(factor / row.temperature, ratio, "o" if row.kind == "held out" else "s", ms=4.5, **style)
    axes.set_xlabel("1000 / T, 1/K" if evaluation.boltzmann == KB else "1 / T")
    axes.set_ylabel("ln of population ratio")
    charts.legend(axes, ncols=4)


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, errors: np.ndarray, style: dict) -> None:
    axes.fill_between(x, values - 2 * errors, values + 2 * errors, alpha=0.18, lw=0, **style)


def _timescales(evaluation: Evaluation) -> str:
    figures = [
        page.figure(
            charts.chart(lambda axes, entry=entry: _draw_timescales(axes, entry), height=3.4),
            f"Implied time scales at {evaluation.at(entry.temperature)} against the lag time, with 95 % intervals; the "
            "lag time of training is dashed. Where the lines are constant, the states are Markovian. In the shaded "
            "part a time scale is shorter than the lag time and not resolved.",
        )
        for entry in evaluation.kinetics
        if len(entry.lags)
    ]
    return _section("Implied time scales", figures)


def _draw_timescales(axes: Axes, entry: Kinetics) -> None:
    unit = 1.0 if entry.interval is None else entry.interval
    lags = unit * entry.lags
    for process in range(entry.timescales.shape[1]):
        style: dict[str, Any] = {"color": charts.color(process)}
        axes.plot(lags, unit * entry.timescales[:, process], "o-", ms=3, **style)
        axes.fill_between(
            lags, unit * entry.lower[:, process], unit * entry.upper[:, process], alpha=0.18, lw=0, **style
        )
    axes.fill_between(lags, 0, lags, color=charts.LINE, alpha=0.45, lw=0, zorder=0)
    axes.axvline(unit * entry.lag, color=charts.INK, lw=0.7, ls=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.5 * unit, None)
    name = "frames" if entry.interval is None else "ps"
    axes.set_xlabel(f"lag time, {name}")
    axes.set_ylabel(f"time scale, {name}")


def _chapman_kolmogorov(evaluation: Evaluation) -> str:
    figures = [
        page.figure(
            charts.chart(lambda axes, entry=entry: _draw_test(axes, entry), height=3.4),
            f"Chapman-Kolmogorov test at {evaluation.at(entry.temperature)}: probability of being in the same state "
            "again, predicted by powers of the transition matrix at the training lag (lines) and counted (points; bars "
            "are two standard errors of the difference). Points off their line indicate memory that the states do not "
            "describe.",
        )
        for entry in evaluation.kinetics
        if len(entry.multiples) > 1
    ]
    return _section("Chapman-Kolmogorov test", figures)


def _draw_test(axes: Axes, entry: Kinetics) -> None:
    unit = 1.0 if entry.interval is None else entry.interval
    times = unit * entry.lag * entry.multiples
    for index, state in enumerate(entry.states):
        style: dict[str, Any] = {"color": charts.color(state)}
        axes.plot(times, entry.predicted[:, index], label=f"state {state}", **style)
        errors = 2 * entry.errors[:, index]
        axes.errorbar(times, entry.estimated[:, index], errors, fmt="o", ms=4, capsize=2, lw=1, **style)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(f"time, {'frames' if entry.interval is None else 'ps'}")
    axes.set_ylabel("probability of return")
    charts.legend(axes, ncols=4)


def _section(title: str, figures: list[str]) -> str:
    """A section of figures; empty where there are none, for which the tables give the reason."""
    return page.section(title, page.figures(*figures)) if figures else ""
