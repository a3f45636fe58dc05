"""Evaluation of a trained model, at temperatures it was trained on and at others.

Its densities and populations are compared with data that training has not fitted: blocks that were held out, and
independent simulations. Every number that would not be zero even for a perfect model comes with its noise floor, from
parts of the same data. The stricter test are the references: held-out blocks decide when training stops, and states
were learned from all frames.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from latf_sampling.analysis.crossing_rates import CrossingRate
from latf_sampling.analysis.kinetics import Kinetics, estimate_kinetics
from latf_sampling.analysis.thermodynamics import GibbsHelmholtz
from latf_sampling.core import arguments, streams
from latf_sampling.data.dataset import Dataset, Series, series_list
from latf_sampling.errors import DataError, ExtrapolationWarning, SettingsError, TrainingError
from latf_sampling.learning.evaluation.comparison import Comparer, EvaluationRow, LatentFrames
from latf_sampling.learning.evaluation.populations import MeltingCurve, melting_curve
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training.restarts import model_crossings
from latf_sampling.units import KB

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate`; `latf_sampling.report.write_evaluation` makes a page of them.

    Attributes
    ----------
    rows : tuple of EvaluationRow
        In the order of temperature; empty without held-out blocks and references.
    melting : MeltingCurve
    kinetics : tuple of Kinetics
        One for each simulated temperature with unbiased series.
    thermodynamics : GibbsHelmholtz or None
        Free energies of the states at all temperatures; None where frames carry no energies.
    temperature_mode : str
        How the model depends on temperature, see `LaTF.temperature_mode`.
    overlaps : tuple of float
        Overlap of the energies at each simulated temperature with those at the next one, where it was determined.
    crossings : CrossingRate or None
        Crossings that metadynamics along the variable is expected to show at the lowest temperature, with hills of a
        sixteenth of its range and one hill in each lag; None where all frames are in one state.
    samples, bins, dim, n_states : int
        Generated samples per temperature, bins per dimension, latent dimensions and metastable states.
    lag : int
        Lag of the training, frames.
    boltzmann : float
        `KB`, or 1 in reduced units, where temperatures and energies carry no unit.
    edges : numpy.ndarray (d, bins + 1)
        Edges of the bins.
    minimum_effective_size : float
        Effective frames below which a temperature counts as extrapolation.
    notes : tuple of str
        What is missing, and why.
    """

    rows: tuple[EvaluationRow, ...]
    melting: MeltingCurve
    kinetics: tuple[Kinetics, ...]
    thermodynamics: GibbsHelmholtz | None = field(repr=False, metadata={"picture": True})
    temperature_mode: str
    overlaps: tuple[float, ...]
    crossings: CrossingRate | None
    samples: int
    bins: int
    dim: int
    n_states: int
    lag: int
    boltzmann: float
    edges: np.ndarray = field(repr=False, metadata={"picture": True})
    minimum_effective_size: float
    notes: tuple[str, ...]

    @property
    def energy_unit(self) -> str:
        """Unit of the energies, as text."""
        return "kJ/mol" if self.boltzmann == KB else "reduced"

    def at(self, temperature: float) -> str:
        """A temperature with its unit."""
        return f"{temperature:g} K" if self.boltzmann == KB else f"T = {temperature:g}"

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows of the table of densities, as text."""
        head = (
            "data",
            "effective frames",
            "KL, nats",
            "KL of halves (floor)",
            "KL with noise (floor)",
            "JS of halves (floor)",
            f"free-energy error, {self.energy_unit}",
            "population error",
            "samples outside",
            "effective training frames",
        )
        return head, [self._cells(row) for row in self.rows]

    def _cells(self, row: EvaluationRow) -> tuple[str, ...]:
        energy = row.free_energy
        return (
            f"{row.kind}, {self.at(row.temperature)}",
            f"{row.effective_frames:,.0f}",
            f"{row.divergence.full:.3f}",
            *(f"{part.half:.3f} ({part.floor:.3f})" for part in (row.divergence, row.noisy_divergence, row.distance)),
            "–" if energy is None else f"{energy.rms:.2f}, at most {energy.largest:.2f}",
            f"{100 * row.population_difference:.1f} %",
            f"{row.outside:,}",
            f"{row.effective_sample_size:,.0f}{', extrapolated' if row.extrapolated else ''}",
        )

    def table(self) -> Table:
        """The rows as a table for the terminal."""
        head, rows = self.cells()
        table = Table(title=f"{self.samples:,} generated samples, {self.bins} bins per dimension", title_justify="left")
        for number, title in enumerate(head):
            table.add_column(Text(title), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # no markup: a name may hold brackets
        return table

    def as_dict(self) -> dict:
        """All numbers, ready for JSON: null for what is not finite or not known; without the arrays of the pictures."""
        numbers = {entry.name: _plain(getattr(self, entry.name)) for entry in _numbers_of(self)}
        if self.thermodynamics is not None:
            numbers["thermodynamics"] = _plain(self.thermodynamics.at(self.thermodynamics.reference))
        return numbers


def evaluate(
    model: LaTF,
    dataset: Dataset,
    references: Sequence[Series] = (),
    *,
    samples: int = 100_000,
    bins: int = 50,
    seed: int = 0,
    progress: Progress = lambda fraction, message: None,
) -> Evaluation:
    """Evaluate a trained model on held-out blocks and independent simulations.

    Histograms have the same bins for all temperatures, over the joint range of the data; one additional bin counts
    samples outside this range. A bin with data and without generated samples counts as half a sample.

    Parameters
    ----------
    model
        Trained, with a density.
    dataset
        What the model was trained on; kinetics and the melting curve by MBAR are computed from it, too.
    references
        Independent simulations at any temperatures, with weights where they were biased; simulations at the same
        temperature are combined.
    samples
        Samples to generate at each temperature.
    bins
        Bins per latent dimension.
    seed
        The same seed gives the same numbers.
    progress
        Called with the fraction done and a short message.

    Raises
    ------
    TrainingError
        The model is not trained, or was trained without a density.
    DataError
        The number of descriptors is not the model's, or the data set is not the one that it was trained on.
    SettingsError
        Fewer than one sample or two bins, or an argument is something else.

    Examples
    --------
    >>> from latf_sampling import train
    >>> rng = np.random.default_rng(0)
    >>> x = [np.sign(np.sin(np.arange(2000) / 100))[:, None] + 0.1 * rng.normal(size=(2000, 2)) for _ in range(2)]
    >>> model, dataset = LaTF(latent_dim=1, temperature_mode="steered"), Dataset([Series(x[0])], lag=5)
    >>> _ = train(model, dataset, initial_states=4, refinements=2, joint_epochs=1, flow_epochs=1)
    >>> evaluation = evaluate(model, dataset, [Series(x[1])], samples=1000)
    >>> [row.kind for row in evaluation.rows]
    ['held out', 'reference']
    """
    if not isinstance(references, (list, tuple)) or references:
        references = series_list("evaluate", references, "references")
    _check(model, dataset, references, samples, bins, progress)
    rng = streams.stream(seed, "evaluation")
    progress(0.0, "encoding frames")
    training = LatentFrames.from_series(model, dataset.series, rng)
    weighted = [training.select(training.weights > 0)]
    held_out = np.isin(training.blocks, model.provenance["held_blocks"]) & (training.weights > 0)
    parts = _by_temperature("held out", training.select(held_out))
    if references:
        independent = LatentFrames.from_series(model, references, rng)
        weighted.append(independent.select(independent.weights > 0))
        parts += _by_temperature("reference", weighted[1])
    comparer = Comparer(model, weighted, samples, bins, seed)
    parts.sort(key=lambda part: (part[1], part[0]))
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # rows and melting curve mark it instead
        for kind, temperature, frames in parts:
            progress(0.05 + 0.45 * len(rows) / len(parts), f"{kind} at {temperature:g}")
            rows.append(comparer.compare(kind, temperature, frames))
        melting = melting_curve(
            model,
            dataset,
            training.states,
            [series.temperature for series in (*dataset.series, *references)],
            rng,
            lambda fraction: progress(0.5 + 0.4 * fraction, "melting curve"),
        )
    progress(0.9, "kinetics and crossings")
    result = Evaluation(
        rows=tuple(rows),
        melting=melting,
        kinetics=_kinetics(model, dataset, training.states, rng),
        thermodynamics=None if "thermodynamics" not in model.provenance else model.gibbs_helmholtz(),
        temperature_mode=model.temperature_mode,
        overlaps=tuple(model.provenance.get("overlaps", ())),
        crossings=model_crossings(model, dataset.series, dataset.lag, boltzmann=dataset.boltzmann, seed=seed),
        samples=samples,
        bins=bins,
        dim=model.latent_dim,
        n_states=model.n_states,
        lag=dataset.lag,
        boltzmann=model.boltzmann,
        edges=comparer.grid.edges,
        minimum_effective_size=model.provenance["minimum_effective_size"],
        notes=_notes(model, dataset, parts),
    )
    progress(1.0, "done")
    return result


def _check(
    model: LaTF, dataset: Dataset, references: Sequence[Series], samples: int, bins: int, progress: Progress
) -> None:
    arguments.instance("evaluate", "model", model, LaTF, "a LaTF", "LaTF.load")
    arguments.instance("evaluate", "dataset", dataset, Dataset, "the Dataset of the training")
    arguments.function("evaluate", "progress", progress)
    if not model.trained:
        raise TrainingError("evaluate: the model is not trained yet; call latf_sampling.train first.")
    if not model.provenance["density"]:
        raise TrainingError("evaluate: the model was trained without a density; train with flow_epochs of 1 or more.")
    widths = {"the data set has": dataset.n_features}
    widths |= {f"reference {number} has": series.x.shape[1] for number, series in enumerate(references)}
    for subject, width in widths.items():
        if width != model.n_features:
            raise DataError(f"evaluate: {subject} {width} descriptors; the model was trained on {model.n_features}.")
    if dataset.frames != model.provenance["frames"]:
        raise DataError(
            f"evaluate: the data set has {dataset.frames} frames; the model was trained on another one, of "
            f"{model.provenance['frames']}."
        )
    if not (isinstance(samples, Integral) and samples >= 1 and isinstance(bins, Integral) and bins >= 2):
        raise SettingsError(
            "evaluate: at least 1 sample and 2 bins are needed, whole numbers; got "
            f"{arguments.describe(samples)} and {arguments.describe(bins)}."
        )


def _by_temperature(kind: str, frames: LatentFrames) -> list[tuple[str, float, LatentFrames]]:
    """The frames of each temperature that has at least two."""
    parts = [
        (kind, float(value), frames.select(frames.temperatures == value)) for value in np.unique(frames.temperatures)
    ]
    return [part for part in parts if len(part[2]) > 1]


def _kinetics(model: LaTF, dataset: Dataset, states: np.ndarray, rng: np.random.Generator) -> tuple[Kinetics, ...]:
    """Kinetics at each temperature, from unbiased series: those whose weights are all equal."""
    ends = np.cumsum([len(series) for series in dataset.series])
    unbiased: dict[float, list[np.ndarray]] = {}
    for series, part in zip(dataset.series, np.split(states, ends[:-1])):
        if np.ptp(series.weights) == 0:
            unbiased.setdefault(series.temperature, []).extend(series.continuous(part))
    interval = next((series.interval for series in dataset.series if series.interval is not None), None)
    return tuple(
        estimate_kinetics(unbiased[temperature], model.n_states, dataset.lag, temperature, rng, interval)
        for temperature in sorted(unbiased)
    )


def _notes(model: LaTF, dataset: Dataset, parts: list[tuple[str, float, LatentFrames]]) -> tuple[str, ...]:
    notes = []
    held_out = {temperature for kind, temperature, _ in parts if kind == "held out"}
    missing = [value for value in model.provenance["temperatures"] if value not in held_out]
    if missing:
        listed = ", ".join(f"{value:g}" for value in missing)
        notes.append(f"No block was held out from training at {listed}, so that only references test the model there.")
    if model.latent_dim > 2:
        notes.append(
            f"With {model.latent_dim} latent dimensions, divergences and distances are means over histograms of all "
            "pairs of components, and free energies are not compared."
        )
    if len(model.networks.ensemble) < 2:
        notes.append("The model has no ensemble, and therefore its populations have no errors.")
    if dataset.energies is None:
        notes.append("Frames carry no energies, so that there is no melting curve by MBAR.")
    return tuple(notes)


def _numbers_of(value: Any) -> list[dataclasses.Field]:
    """Fields of a dataclass without the arrays of the pictures."""
    return [entry for entry in dataclasses.fields(value) if not entry.metadata.get("picture")]


def _plain(value: Any) -> Any:
    """Dataclasses and arrays as lists and dictionaries for JSON."""
    if dataclasses.is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in _numbers_of(value)}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
