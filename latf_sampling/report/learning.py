"""How each model was learned: its loss, the states it found, and their populations at every temperature."""

from __future__ import annotations

import warnings

import numpy as np

from latf_sampling.errors import ExtrapolationWarning
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import LearnedModel
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates


def section(records: Records, estimates: Estimates) -> str:
    if not records.learned:
        return page.section("Learning", page.missing("No model is learned yet."))
    made = []
    for index, learned in records.learned:
        curves = charts.chart(lambda *axes, learned=learned: _draw_curves(axes, learned.history["history"]), 4, 5.0)
        made.append(page.figure(curves, _caption(index, learned)))
        populations = charts.chart(lambda axes, learned=learned: _draw_populations(axes, records, learned), height=4.0)
        made.append(
            page.figure(
                populations,
                f"Populations of the states after round {index}: weighted training frames (points) and samples of "
                "the flow (lines) against temperature. Lines should pass through the points at simulated "
                "temperatures; elsewhere they are the flow's prediction. Weights of biased frames are balanced over "
                "the whole training set, so that a population that differs from the reweighted one hints at a bias "
                "that has not settled.",
            )
        )
    return page.section("Learning", page.figures(*made))


def _caption(index: int, learned: LearnedModel) -> str:
    end = "Training ended by itself." if learned.history["converged"] else "Training ended at its longest allowed time."
    return (
        f"Learning after round {index}, {words.wall(learned.history['seconds'])}. Prediction of the future state and "
        "regularization of the latent while the variable is learned, the flow's -ln p afterwards (all in nats), and "
        "number of states, per epoch, on training data and on held-out blocks; shaded: the flow is learned too. "
        f"Training and held-out curves should stay together, and the last one level off. {end}"
    )


def _draw_curves(axes, history: list[dict]) -> None:
    history = [entry for entry in history if entry["stage"] != "ensemble"]
    epochs = np.arange(1, len(history) + 1)
    alone = np.array([entry["stage"] == "flow" for entry in history])
    for axis, term in zip(axes, ("prediction", "regularization", "loss")):
        for shade, (prefix, label) in enumerate((("", "training"), ("validation_", "held out"))):
            values = np.array([entry.get(prefix + term, np.nan) for entry in history], dtype=float)
            if term == "loss":
                values[~alone] = np.nan
            if np.isfinite(values).any():
                axis.plot(epochs, values, color=charts.colour(shade), label=label)
        axis.set_ylabel("-ln p(u)" if term == "loss" else term)
    if all(entry.get("prediction", 1.0) > 0 for entry in history):
        axes[0].set_yscale("log")
    axes[3].step(epochs, [entry["states"] for entry in history], where="mid", color=charts.colour(2))
    axes[3].set_ylabel("states")
    axes[3].set_ylim(0, None)
    axes[3].set_xlabel("epoch")
    first = next((k for k, entry in enumerate(history, 1) if entry["stage"] != "states"), None)
    if first is not None:
        for axis in axes:
            axis.axvspan(first - 0.5, len(history) + 0.5, color=charts.LINE, alpha=0.45, lw=0, zorder=0)
    charts.legend(axes[2] if alone.any() else axes[0])


def _draw_populations(axes, records: Records, learned: LearnedModel) -> None:
    model, states = learned.model, learned.history["states"]
    measured = sorted(float(key.removeprefix("population at ")) for key in states[0] if key.startswith("population"))
    wanted = [*measured, *([records.protocol.starts.temperature] if records.protocol.starts is not None else [])]
    low, high = min(wanted), max(wanted)
    grid = np.linspace(low, high, 9) if high > low else np.array([low])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the points show where there are data
        predicted = np.array([model.populations(temperature) for temperature in grid])
    for entry in states:
        shade = charts.colour(entry["state"] + 1)
        points = [100 * entry[f"population at {temperature:g}"] for temperature in measured]
        axes.plot(grid, 100 * predicted[:, entry["state"]], color=shade, label=f"state {entry['state']}")
        axes.plot(measured, points, "o", color=shade, ms=6)
    if records.protocol.starts is not None and records.protocol.starts.temperature not in measured:
        axes.axvline(records.protocol.starts.temperature, color=charts.LINE, lw=1, zorder=0)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("temperature, K")
    axes.set_ylabel("population, %")
    charts.legend(axes, ncols=4)
