"""Free energies of the latent variables, by each model, and of the observed variable."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from latf_sampling import analysis
from latf_sampling.core import streams
from latf_sampling.core.words import plural
from latf_sampling.records.observables import Observed
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel
from latf_sampling.report import charts, page
from latf_sampling.report.estimates import Estimates, log_weights, selected_frames
from latf_sampling.units import KB

GRID = 90
"""Points of a latent grid in each dimension."""
SAMPLES = 100_000
"""Samples of the flow for a map of more than two dimensions."""
POINTS = 3000
"""Largest number of training frames in a figure."""
BINS = 60
"""Bins of the observed variable where the reference has none."""
CEILING = 12.0
"""Latent free energies are drawn up to this value, kT; those of two torsions up to 18 kT."""
SUMMED = "Of more than two latent variables the first two are drawn, and the density is summed over {}."
HIGHEST = 40.0
"""The line of a single component is drawn up to its barrier, if that is higher, but no further than this value, kT:
where no frame is between two wells the flow says nothing about their barrier."""


def section(records: Records, estimates: Estimates) -> str:
    return page.section("Free-energy landscapes", *_latent(records), *_observed(records, estimates))


# Latent


def _latent(records: Records) -> list[str]:
    if not records.learned:
        return [page.missing("No model is learned yet; there is no latent free energy.")]
    figures = [
        page.figure(
            charts.chart(
                lambda axes, index=index, learned=learned: draw_learned(axes, records, index, learned), height=3.5
            ),
            f"Latent free energy by the flow learned after round {index}, at "
            f"{learned.model.settings.reference_temperature:g} K, with training frames of all temperatures colored by "
            f"their state ({plural(learned.model.n_states, 'state')}) and the range of the training data (dashed). "
            f"Each state should lie in its own well, and there should be no well without frames.{summed(learned)}",
        )
        for index, learned in records.learned
    ]
    return [page.heading("Latent space"), page.figures(*figures)]


def draw_learned(axes: Axes, records: Records, index: int, learned: LearnedModel) -> None:
    """The flow's free energy at its reference temperature, with training frames by their states."""
    draw_density(axes, learned, learned.model.settings.reference_temperature)
    latent, states = training_points(records, index, learned)
    shown = components(learned)
    for state in range(learned.model.n_states):
        points = latent[states == state][:, shown]
        row = -(0.3 + 0.25 * state) * axes.get_ylim()[1] / CEILING
        height = points[:, 1] if len(shown) > 1 else np.full(len(points), row)
        style: dict[str, Any] = {"s": 2.5, "alpha": 0.45, "lw": 0, "rasterized": True}
        axes.scatter(points[:, 0], height, color=charts.color(state + 1), label=f"state {state}", **style)
    for k, draw in zip(shown, (axes.axvline, axes.axhline)):
        for edge in learned.cv.bounds[k]:
            draw(edge, color=charts.INK, lw=0.7, ls=(0, (4, 3)))
    charts.legend(axes, ncols=4)


def components(learned: LearnedModel) -> list[int]:
    """The components that are drawn: the only one that is used, or the first two."""
    used = learned.model.used_components
    return used if len(used) == 1 else [0, 1]


def summed(learned: LearnedModel) -> str:
    """A sentence about the components that a map of two leaves out, with a space before it; empty without such."""
    others = charts.others(components(learned), learned.model.latent_dim)
    return f" {SUMMED.format(others)}" if others and len(components(learned)) > 1 else ""


def draw_density(axes: Axes, learned: LearnedModel, temperature: float) -> None:
    """The flow's free energy at a temperature: a line where one component is used, otherwise a map of the first two."""
    model, kt, shown = learned.model, KB * temperature, components(learned)
    low, high = learned.cv.bounds.T
    margin = 0.25 * (high - low)
    low, high = low - margin, high + margin
    grids = [np.linspace(a, b, GRID) for a, b in zip(low, high)]
    axes.set_xlabel(f"latent {charts.component(shown[0])}")
    if len(shown) == 1:
        log_p = model.marginal_log_prob(grids[shown[0]][:, None].astype(np.float32), temperature)
        energy = log_p.max() - log_p
        top = min(max(CEILING, 1.1 * barrier(energy)), HIGHEST)
        below = (0.6 + 0.25 * model.n_states) * top / CEILING  # space for the frames of each state
        axes.plot(grids[shown[0]], kt * energy, color=charts.color(0))
        axes.set_ylim(-kt * below, kt * top)
        axes.set_ylabel("free energy, kJ/mol")
        return
    others = charts.others(shown, model.latent_dim)
    axes.set_ylabel(f"latent {charts.component(1)}" + (f" (summed over {others})" if others else ""))
    if model.latent_dim == 2:
        points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1)
        energy = model.free_energy(points.reshape(-1, 2), temperature).reshape(GRID, GRID)
        charts.surface(axes, _edges(grids[0]), _edges(grids[1]), energy - energy.min(), CEILING * kt)
        return
    samples = model.sample(SAMPLES, temperature, seed=0)
    extent = tuple(zip(low[:2], high[:2]))
    histogram, x_edges, y_edges = np.histogram2d(samples[:, 0], samples[:, 1], bins=GRID // 2, range=extent)
    with np.errstate(divide="ignore"):
        charts.surface(axes, x_edges, y_edges, -kt * np.log(histogram / histogram.max()), CEILING * kt)


def barrier(energy: np.ndarray) -> float:
    """The highest value between the outermost wells of a free energy along a line (n,), kT; 0 where there is one well.

    >>> barrier(np.array([30.0, 0.0, 5.0, 16.0, 4.0, 2.0, 30.0]))
    16.0
    """
    inside = energy[1:-1]
    wells = np.flatnonzero((inside < energy[:-2]) & (inside <= energy[2:]) & (inside < CEILING)) + 1
    return float(energy[wells[0] : wells[-1] + 1].max()) if len(wells) > 1 else 0.0


def _edges(grid: np.ndarray) -> np.ndarray:
    half = (grid[1] - grid[0]) / 2
    return np.append(grid - half, grid[-1] + half)


def training_rows(records: Records, index: int, learned: LearnedModel) -> np.ndarray:
    """Descriptors (n, F) of some of the frames that a model was trained on."""
    walkers = [walker for entry in records.rounds[: index + 1] for walker in entry.begun]
    selected = charts.thin(sum(len(walker.frames) for walker in walkers), POINTS)
    features = records.features_of(learned.cv)
    return np.concatenate([features.transform(w.frames.take(selected)) for w in walkers])


def training_points(records: Records, index: int, learned: LearnedModel) -> tuple[np.ndarray, np.ndarray]:
    """Latent points (n, d) of such frames, and their states (n,)."""
    x = training_rows(records, index, learned)
    latent = learned.model.encode(x)
    return latent, learned.model.state_probabilities(latent).argmax(1)


# Observed


def _observed(records: Records, estimates: Estimates) -> list[str]:
    observed = estimates.observed
    if observed is None:
        return []
    title = page.heading(f"{'Torsions' if observed.circular else observed.name} at {estimates.temperature:g} K")
    if not estimates.sampled:
        what = "biased frames" if estimates.biased else f"frames of plain dynamics at {estimates.temperature:g} K"
        return [title, page.missing(f"There are no {what} yet.")]
    surface, profile = surface_and_profile(records, estimates)
    figures = [] if surface is None else _maps(records, estimates, surface)
    return [title, page.figures(*figures, _profile(estimates, profile))]


def surface_and_profile(records: Records, estimates: Estimates) -> tuple[analysis.Surface | None, analysis.Profile]:
    """Free energy of the observed torsion and its partner, where there is one, and along the observed variable."""
    observed = estimates.variable
    walkers = [walker for group in estimates.sampled.values() for walker in group]
    selected = selected_frames(walkers)
    weights, rng = log_weights(estimates.sampled), streams.stream(records.protocol.seed, "report", "landscapes")

    def shown(name: str) -> list[np.ndarray]:
        return [observed.shown(walker.values[name][part]) for walker, part in zip(walkers, selected)]

    surface, bins = None, _bins(estimates)
    if (names := torsions(records)) is not None:
        x, y = map(shown, names)
        extent = ((-180, 180), (-180, 180))
        surface = analysis.free_energy_surface(x, y, weights, estimates.temperature, rng, bins, extent)
    extent = (-180, 180) if observed.circular else None
    values = shown(observed.name)
    return surface, analysis.free_energy_profile(values, weights, estimates.temperature, rng, bins, extent)


def torsions(records: Records) -> tuple[str, str] | None:
    """Names of the observed torsion and its partner, in the order of the axes of their map."""
    if records.observed is None or records.partner is None:
        return None
    first, second = sorted([records.observed.name, records.partner])
    return first, second


def _bins(estimates: Estimates) -> int:
    """The number of bins of the reference surface, or the usual one."""
    reference = estimates.reference
    return BINS if reference is None or reference.surface is None else len(reference.surface[0]) - 1


def reference_profile(estimates: Estimates, profile: analysis.Profile) -> tuple[np.ndarray, np.ndarray] | None:
    """Edges and free energies of the reference along the observed variable; `None` where they are not known."""
    reference = estimates.reference
    return reference and reference.profile(estimates.variable, profile.edges, estimates.temperature)


def draw_profile(axes: Axes, estimates: Estimates, profile: analysis.Profile) -> None:
    """Free energy along the observed variable with its interval, and the reference."""
    observed, reference = estimates.variable, reference_profile(estimates, profile)
    known = np.where(np.isfinite(profile.values), profile.values, np.nan)
    top = 1.1 * np.nanmax(known) + 1
    low, high = np.clip(np.where(np.isfinite(known), profile.interval, np.nan), 0, top)
    axes.stairs(high, profile.edges, baseline=low, fill=True, color=charts.color(0), alpha=0.2, lw=0)
    axes.stairs(known, profile.edges, baseline=None, color=charts.color(0), lw=1.6, label="campaign")
    if reference is not None:
        edges, energies = reference
        energies = np.where(np.isfinite(energies), energies, np.nan)
        axes.stairs(energies, edges, baseline=None, label="reference", color=charts.color(2), lw=1.2)
    label_profiles(axes, observed, top)


def label_profiles(axes: Axes, observed: Observed, top: float | None) -> None:
    """Axes of free energies along the observed variable, up to `top`, and the value that divides it in two."""
    axes.axvline(observed.shown(observed.above), color=charts.LINE, lw=1, zorder=0)
    if observed.circular:
        charts.degrees(axes, "x")
    axes.set_ylim(0, top)
    axes.set_xlabel(observed.label)
    axes.set_ylabel("free energy, kJ/mol")
    charts.legend(axes)


def _profile(estimates: Estimates, profile: analysis.Profile) -> str:
    known = reference_profile(estimates, profile) is not None
    expected = " The two curves should coincide, except at the highest free energies." if known else ""
    how = "by reweighting the biased rounds" if estimates.biased else "in plain dynamics"
    caption = f"Free energy along {estimates.variable.name} {how}, with its 95 % interval (shaded).{expected}"
    return page.figure(charts.chart(lambda axes: draw_profile(axes, estimates, profile), height=3.2), caption)


def _maps(records: Records, estimates: Estimates, surface: analysis.Surface) -> list[str]:
    names = torsions(records)
    assert names is not None  # there is a surface of these two
    ceiling = torsion_ceiling(estimates)
    how = "by reweighting the biased rounds" if estimates.biased else "in plain dynamics"
    figures = [
        page.figure(
            charts.chart(
                lambda axes: draw_map(axes, names, surface.x_edges, surface.y_edges, surface.values, ceiling),
                height=3.6,
            ),
            f"Free energy of {names[0]} and {names[1]} {how}; bins without frames are empty.",
        )
    ]
    if estimates.reference is not None and estimates.reference.surface is not None:
        edges, values = estimates.reference.surface
        caption = (
            "The reference surface on the same scale. Positions and depths of the wells should agree with those above."
        )
        svg = charts.chart(lambda axes: draw_map(axes, names, edges, edges, values, ceiling), height=3.6)
        figures.append(page.figure(svg, caption))
    return figures


def torsion_ceiling(estimates: Estimates) -> float:
    """Free energies of two torsions are drawn up to this value, kJ/mol."""
    return 18 * KB * estimates.temperature


def draw_map(axes: Axes, names: tuple[str, str], x_edges, y_edges, surface, ceiling: float) -> None:
    """Free energy of two torsions."""
    charts.surface(axes, x_edges, y_edges, surface, ceiling)
    charts.degrees(axes, "xy")
    axes.set_xlabel(f"{names[0]}, degrees")
    axes.set_ylabel(f"{names[1]}, degrees")
