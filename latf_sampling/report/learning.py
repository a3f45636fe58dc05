"""Training of each model: losses, number of states, and populations of the states at every temperature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from latf_sampling.analysis.crossing_cells import Hills
from latf_sampling.data.dataset import Series
from latf_sampling.errors import ExtrapolationWarning
from latf_sampling.learning.evaluation.populations import model_populations
from latf_sampling.learning.training.restarts import model_crossings
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates, target_temperature
from latf_sampling.settings import MetadynamicsSettings

FRAMES = 20_000
"""At most so many frames, the first ones of each walker, show what a variable is worth."""


def section(records: Records, estimates: Estimates) -> str:
    if not records.learned:
        return page.section("Learning", page.missing("No model is learned yet."))
    figures = []
    for index, learned in records.learned:
        curves = charts.chart(lambda *axes, learned=learned: draw_curves(axes, learned.history["history"]), 4, 5.0)
        figures.append(page.figure(curves, _caption(index, learned)))
        populations = charts.chart(lambda axes, learned=learned: draw_populations(axes, records, learned), height=4.0)
        figures.append(
            page.figure(
                populations,
                f"Populations of the states after round {index} against temperature: weighted training frames "
                "(points) and samples of the flow (lines, and 95 % bands of its ensemble). At simulated temperatures "
                "the lines should pass through the points; elsewhere they are the flow's prediction. "
                f"{words.temperature(learned.model.temperature_mode, learned.model.provenance.get('overlaps', ()))} "
                "Weights of biased frames are normalized over the whole training set; a population that differs from "
                "the reweighted one indicates a bias that has not converged.",
            )
        )
    return page.section("Learning", _expected(records), page.figures(*figures), *_trapped(records))


def _expected(records: Records) -> str:
    """What the last variable is worth: crossings that its bias is expected to show, from the frames alone."""
    index, learned = records.learned[-1]
    walkers = [walker for entry in records.rounds[: index + 1] for walker in entry.begun]
    share = min(1.0, FRAMES / sum(len(walker.frames) for walker in walkers))
    features, trapped = records.features_of(learned.cv), learned.history.get("not_in_density") or []
    series = []
    for walker in walkers:
        leading = slice(math.ceil(share * len(walker.frames)))
        weights = walker.frames.weights[leading]
        if weights.any():
            series.append(
                Series(
                    features.transform(walker.frames.take(leading)),
                    walker.frames.temperature,
                    weights=weights,
                    interval=walker.interval,
                    in_density=walker.frames.label not in trapped,
                    breaks=walker.frames.breaks[walker.frames.breaks < leading.stop],
                )
            )
    hills, described = None, "with hills of a sixteenth of the variable's range, 0.4 kT high, one in each lag time"
    biases = [entry.settings.bias for entry in records.rounds if isinstance(entry.settings.bias, MetadynamicsSettings)]
    if biases:
        bias = biases[-1]
        width = learned.cv.sigma * (1.0 if isinstance(bias.width, str) else bias.width)
        hills = Hills(width, bias.height, bias.bias_factor, bias.interval)
        described = "with the hills of the last metadynamics in the protocol"
    temperature = target_temperature(records)
    rate = model_crossings(
        learned.model, series, records.lag, hills=hills, temperature=temperature, seed=records.protocol.seed
    )
    if rate is None:
        return page.paragraph(
            f"What the variable learned after round {index} is worth cannot be estimated: all frames are in one state."
        )
    return page.paragraph(
        f"The variable learned after round {index}, by the frames so far, at {temperature:g} K, {described}: "
        f"{rate.sentence}"
    )


def _trapped(records: Records) -> list[str]:
    """Which simulations each density leaves out, and why."""
    left_out = [(index, learned.history.get("not_in_density")) for index, learned in records.learned]
    models = [f"after round {index}: {words.listed(labels)}" for index, labels in left_out if labels]
    if not models:
        return []
    return [
        page.paragraph(
            f"Not in the density of the model {'; '.join(models)}. Plain dynamics that never reached the core of a "
            "state that biased walkers visited has no information about the probability of this state, but its frames "
            "would make the state emptier. They count in the prediction of future states. States are those of the "
            "model that the last biased round was biased along.",
            "soft",
        )
    ]


def _caption(index: int, learned: LearnedModel) -> str:
    end = "Training converged." if learned.history["converged"] else "Training reached its largest number of epochs."
    return (
        f"Training after round {index}, {words.wall(learned.history['seconds'])}: the prediction and regularization "
        "terms of the loss while the variable is learned, the flow's -ln p afterwards (all in nats; where there are "
        "biased frames with a share of -ln p under their bias), and the number of states, per epoch, on training data "
        "and on held-out blocks. In the shaded part the flow is trained as well. "
        f"Training and held-out curves should stay together, and the last one should level off. {end}"
    )


def draw_curves(axes: Sequence[Axes], history: list[dict]) -> None:
    history = [entry for entry in history if entry["stage"] != "ensemble"]
    epochs = np.arange(1, len(history) + 1)
    alone = np.array([entry["stage"] == "flow" for entry in history])
    for axis, term in zip(axes, ("prediction", "regularization", "loss")):
        for shade, (prefix, label) in enumerate((("", "training"), ("validation_", "held out"))):
            values = np.array([entry.get(prefix + term, np.nan) for entry in history], dtype=float)
            if term == "loss":
                values[~alone] = np.nan
            if np.isfinite(values).any():
                axis.plot(epochs, values, color=charts.color(shade), label=label)
        axis.set_ylabel("-ln p(u)" if term == "loss" else term)
    if all(entry.get("prediction", 1.0) > 0 for entry in history):
        axes[0].set_yscale("log")
    axes[3].step(epochs, [entry["states"] for entry in history], where="mid", color=charts.color(2))
    axes[3].set_ylabel("states")
    axes[3].set_ylim(0, None)
    axes[3].set_xlabel("epoch")
    first = next((k for k, entry in enumerate(history, 1) if entry["stage"] != "states"), None)
    if first is not None:
        for axis in axes:
            axis.axvspan(first - 0.5, len(history) + 0.5, color=charts.LINE, alpha=0.45, lw=0, zorder=0)
    charts.legend(axes[2] if alone.any() else axes[0])


def draw_populations(axes: Axes, records: Records, learned: LearnedModel) -> None:
    model, states = learned.model, learned.history["states"]
    measured = sorted(float(key.removeprefix("population at ")) for key in states[0] if key.startswith("population"))
    wanted = [*measured, *([records.protocol.starts.temperature] if records.protocol.starts is not None else [])]
    low, high = min(wanted), max(wanted)
    grid = np.linspace(low, high, 9) if high > low else np.array([low])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the points show where there are data
        curve = [model_populations(model, temperature) for temperature in grid]
    predicted, errors = np.array([values for values, _ in curve]), [error for _, error in curve if error is not None]
    for entry in states:
        shade = charts.color(entry["state"] + 1)
        points = [100 * entry[f"population at {temperature:g}"] for temperature in measured]
        here = predicted[:, entry["state"]]
        axes.plot(grid, 100 * here, color=shade, label=f"state {entry['state']}")
        if errors:
            charts.population_band(axes, grid, here, np.array(errors)[:, entry["state"]], {"color": shade})
        axes.plot(measured, points, "o", color=shade, ms=6)
    if records.protocol.starts is not None and records.protocol.starts.temperature not in measured:
        axes.axvline(records.protocol.starts.temperature, color=charts.LINE, lw=1, zorder=0)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("temperature, K")
    axes.set_ylabel("population, %")
    charts.legend(axes, ncols=4)
