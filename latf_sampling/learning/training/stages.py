"""Training a `LaTF` in stages.

1. "states": metastable states are those of a Markov state model of the data (`states.py`), whatever the seed. Encoder
   and decoder are trained to predict the state one lag later, with the mixture prior of the state predictive
   information bottleneck, and new representatives of the states are chosen; this is iterated until the prediction
   hardly improves, and the most likely state of hardly any frame changes. A network that does not learn to tell the
   states apart starts anew with other initial weights. If there shall be several, the best one goes on (`restarts.py`).
2. "joint": encoder, decoder and flow together, with fixed labels.
3. "flow": the flow alone, with fixed encoder, until its score on held-out blocks no longer improves.
4. "refit": the same flow on all frames for a few more epochs, since a held-out block may hold what is rare. The flow
   before the refit stays as `Networks.validation_flow`, for comparison with held-out blocks.
5. "ensemble": further flows on the finished encoder, each on a bootstrap sample of the blocks, whose spread
   is the standard error of the model's results.

The encoder is also asked to be slow, and to rise evenly from state to state (`shape.py`). Pairs of frames count in the
slowness by their Boltzmann weights, since a bias drives motions that are slow without it, and in the prediction by the
square root of the weights: with equal ones, frames of a biased barrier, whose next state is that of the biased
dynamics, shape the variable, and the next round crosses less often along it; in proportion to the weights, rare states
and barriers would hardly count. Frames that do not count in the density are predicted from like any other.

The density counts frames by their Boltzmann weights: each epoch draws them anew, at their own temperature ("steered")
or at temperatures within reach of MBAR ("reweighted") or of the mean energy along the finished variable
("thermodynamic"; `latf_sampling.analysis.mean_energy`), more of them where the distribution changes faster. Where
frames are biased, the flow alone is also trained on their own ensemble, which has barriers in it (`tilted.py`).

Sources: Wang and Tiwary, doi:10.1063/5.0038198 (stage 1); Qiu, John, Herron, Tiwary, arXiv:2507.03174 (stage 2);
Shirts and Chodera, doi:10.1063/1.2978177 (weights); Efron, doi:10.1214/aos/1176344552 (bootstrap).
"""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latf_sampling.analysis.bootstrap import inflation, populations
from latf_sampling.analysis.crossing_rates import CrossingRate
from latf_sampling.analysis.mean_energy import reach
from latf_sampling.analysis.thermodynamics import gibbs_helmholtz
from latf_sampling.core import arguments, platforms, streams
from latf_sampling.core.notebook import ShownInNotebooks, shown_progress
from latf_sampling.core.words import duration, percent, plural, with_error
from latf_sampling.data.columns import column_statistics
from latf_sampling.data.dataset import CHUNK, Dataset
from latf_sampling.errors import ColumnWarning, SettingsError, StatesWarning, TrainingError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.learning.training.alignment import EarlierModel, take_weights
from latf_sampling.learning.training.checkpoint import Checkpoint
from latf_sampling.learning.training.clusters import cluster
from latf_sampling.learning.training.fit import Fit, is_finite
from latf_sampling.learning.training.restarts import first_frames, model_crossings
from latf_sampling.learning.training.states import metastable_states
from latf_sampling.learning.training.training_frames import TrainingFrames
from latf_sampling.learning.training.training_progress import TrainingProgress
from latf_sampling.settings import TrainingSettings

Progress = Callable[[float, str], None]

MOST_LABELS = 5000
"""Between more labels transitions are not counted: the matrix would not fit into memory."""
SPARE = 2
"""The first stage starts anew so many times more than asked for if the network does not tell states apart."""
COLLAPSED = 2
"""From this iteration on a network that assigns all frames to one state is given up: it stays as it is."""
POPULATION = "population at "
"""Key of a state's population, before the temperature."""
ERROR = "error at "
"""Key of its standard error, which is `None` where all frames are one block of time."""
CROSSING_FRAMES = 20_000
"""At most so many frames, the first ones of each series, show which crossings are expected."""
FEWEST = 10
"""The spread of the variable within a state is determined from those with more frames than this."""


@dataclass(frozen=True, repr=False)
class TrainingResult(ShownInNotebooks):
    """Course and outcome of a training.

    Attributes
    ----------
    history
        One entry per epoch: stage ("states", "joint", "flow", "refit" or "ensemble"), iteration (refinement, or member
        of the ensemble), epoch, states, learning rate, and the terms of the loss in training and, as "validation_...",
        on held-out blocks.
    states
        One entry per state: its population (weighted) among the frames of each temperature, and its standard error.
    seconds
        Wall time.
    converged
        Whether the most likely states of the frames no longer changed, and the flow alone stopped because its score on
        held-out blocks no longer improved at any learning rate.
    crossings
        Crossings that metadynamics along the variable is expected to show at the lowest temperature, by the first
        frames of each series, with hills of a sixteenth of its range, 0.4 kT high, one in each lag; None where all
        frames are in one state. `latf_sampling.expected_crossings` takes other hills.
    remarks
        Sentences without their period: why it is not converged, and whether no series crosses between states.
    """

    history: list[dict]
    states: list[dict]
    seconds: float
    converged: bool
    crossings: CrossingRate | None = None
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<TrainingResult: {self.summary}, in {self.seconds:.0f} s>"

    def _overview(self) -> list[tuple[str, Any]]:
        keys = [key for key in self.states[0] if key.startswith(POPULATION)]
        shares = [
            f"{number}: " + ", ".join(f"{percent(entry[key])} % at {key.removeprefix(POPULATION)} K" for key in keys)
            for number, entry in enumerate(self.states)
        ]
        rows = [("states", shares), ("converged", "yes" if self.converged else "no")]
        rows.append(("epochs", f"{len(self.history):,} in {duration(self.seconds)}"))
        return [*rows, ("remarks", list(self.remarks))] if self.remarks else rows

    @property
    def summary(self) -> str:
        """States with their populations, the crossings that are expected, and remarks, in one line."""
        keys = [key for key in self.states[0] if key.startswith(POPULATION)]
        lowest = min(keys, key=lambda key: float(key.removeprefix(POPULATION)))
        kelvin = lowest.removeprefix(POPULATION)
        shares = ", ".join(_share(entry[lowest], entry.get(f"{ERROR}{kelvin}")) for entry in self.states)
        parts = [f"{plural(len(self.states), 'state')} ({shares} % at {kelvin} K)"]
        if self.crossings is None:
            parts.append("crossings cannot be expected of one state")
        elif self.crossings.note:
            parts.append(f"no bias along the variable is expected to work, since it is {self.crossings.note}")
        else:
            parts.append(f"{self.crossings.text} crossings per {self.crossings.unit} expected under metadynamics")
        return "; ".join([*parts, *self.remarks])


def _share(population: float, error: float | None) -> str:
    """A population in percent, with its error if that is known."""
    return with_error(100 * population, 100 * error) if error else percent(population)


def train(
    model: LaTF,
    dataset: Dataset,
    seed: int = 0,
    *,
    settings: TrainingSettings | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    align: ArrayLike | None = None,
    align_states: ArrayLike | None = None,
    start: LaTF | None = None,
    **kwargs: Any,
) -> TrainingResult:
    """Train a model on a data set; the same seed gives the same model on one machine.

    Parameters
    ----------
    model
        A new `LaTF`, which is trained in place.
    dataset
        Lagged pairs.
    seed
        Master seed of initial weights, noise, order and split.
    settings
        A `TrainingSettings`; or its fields as further keyword arguments.
    device
        Where to train; None picks a GPU where there is one. The model is returned to the CPU.
    checkpoint
        File that the state of the training is written to after every epoch. Where it exists the training continues from
        it, to the same result as without the interruption; delete it when done.
    progress
        Called with the fraction done and a short message; None shows a bar in a notebook or on a terminal.
    align
        An earlier variable at the frames of the data set (frames, k), NaN where it is not known. If the new one has as
        many components, it is rotated, reflected, scaled and shifted so that it comes closest to the earlier one.
    align_states
        States of an earlier model at the frames (frames,), -1 where they are not known. If there are as many new ones,
        each has the index of the earlier state that it shares most frames with.
    start
        An earlier model of the same descriptors. If the new one has as many states, components and hidden units, its
        encoder and decoder begin with the weights of the earlier ones instead of random ones.

    Raises
    ------
    SettingsError
        Model, data set, seed or settings are something else; names the argument.
    TrainingError
        The loss became NaN or infinite, all frames carry the same label, the model is trained already, or the
        checkpoint belongs to another training.
    SingleStateError
        The data hold no slow transition at this lag. It is a `TrainingError`.
    DataError
        `align` or `align_states` does not fit the frames.

    Examples
    --------
    >>> from latf_sampling import Series
    >>> x = np.sign(np.sin(np.arange(2000) / 100))[:, None] + 0.1 * np.random.default_rng(0).normal(size=(2000, 2))
    >>> model = LaTF(latent_dim=1, temperature_mode="steered")
    >>> quick = {"initial_states": 4, "refinements": 2, "joint_epochs": 1, "flow_epochs": 1, "ensemble": 0}
    >>> result = train(model, Dataset([Series(x)], lag=5), **quick)
    >>> model.encode(x).shape
    (2000, 1)
    """
    arguments.instance("train", "model", model, LaTF, "a LaTF", "LaTF.load")
    seed = arguments.whole("train", "seed", seed)
    arguments.instance("train", "dataset", dataset, Dataset, "a Dataset, such as Dataset([series, ...], lag=10)")
    if settings is not None:
        arguments.instance("train", "settings", settings, TrainingSettings, "a TrainingSettings")
    if progress is not None:
        arguments.function("train", "progress", progress)
    if checkpoint is not None:
        arguments.path("train", "checkpoint", checkpoint)
    if dataset.frames <= FEWEST:
        raise TrainingError(
            f"train: {plural(dataset.frames, 'frame')} are too few to learn from; give longer series, of more than "
            f"{FEWEST} frames in all, and of hundreds for each state."
        )
    if model.trained:
        raise TrainingError("train: this model is trained already; make a new LaTF.")
    if settings is not None and kwargs:
        raise SettingsError(f"train: give settings or their fields ({', '.join(kwargs)}), not both.")
    if start is not None:
        arguments.instance("train", "start", start, LaTF, "a LaTF", "LaTF.load")
        if not start.trained or start.n_features != dataset.n_features:
            raise SettingsError(
                "train: start must be a trained model of the same descriptors; "
                + (
                    "it is not trained."
                    if not start.trained
                    else f"it has {start.n_features}, not {dataset.n_features}."
                )
            )
    training = settings if settings is not None else TrainingSettings(**kwargs)
    _warn_of_columns(dataset)
    earlier = EarlierModel.from_arguments(align, align_states, dataset.frames)
    depends = [*earlier.arrays, *([] if start is None else [np.frombuffer(start.fingerprint().encode(), np.uint8)])]
    saved = Checkpoint(checkpoint, dataset, seed, model.settings, training, depends)
    with shown_progress() if progress is None else nullcontext(lambda step, *told: progress(*told)) as bars:
        told = partial(bars, "train")
        run = _Run(model, dataset, seed, training, platforms.pick_device(device), saved, told, earlier, start)
        result = run.run()
    model.trained = True
    crossings = model_crossings(
        model, first_frames(dataset.series, CROSSING_FRAMES), dataset.lag, boltzmann=dataset.boltzmann, seed=seed
    )
    return dataclasses.replace(result, crossings=crossings)


def _warn_of_columns(dataset: Dataset) -> None:
    """Warn of constant and duplicate columns: they cost time in every step, and obscure what matters."""
    parts = (dataset.rows(slice(first, first + CHUNK)).numpy() for first in range(0, dataset.frames, CHUNK))
    remarks = column_statistics(parts, dataset.names).remarks()
    if remarks:
        message = f"train: {' '.join(remarks)} They are learned from all the same; leave them out, or select columns."
        warnings.warn(message, ColumnWarning, stacklevel=3)


class _Run:
    """A training: its present state, and the stages from there to the end."""

    def __init__(
        self,
        model: LaTF,
        dataset: Dataset,
        seed: int,
        settings: TrainingSettings,
        device: torch.device,
        checkpoint: Checkpoint,
        progress: Progress,
        earlier: EarlierModel,
        start: LaTF | None = None,
    ) -> None:
        self.done = TrainingProgress(settings)  # first, so that it knows what comes before the first epoch
        self.start = start
        self.model, self.dataset, self.seed, self.settings = model, dataset, seed, settings
        self.device, self.checkpoint, self.progress, self.earlier = device, checkpoint, progress, earlier
        self.frames = TrainingFrames(dataset, model.settings, settings, seed, device)
        self.scaling = self.frames.scaling()  # first, because it names values that would break the clustering
        self.training = self.frames.with_weight(dataset.first)
        self.held = self.training[:0]
        if not len(self.training):
            raise TrainingError("train: no pair of frames is left for training; the series are too short for the lag.")
        self.stage, self.iteration = "states", 0
        self.candidates: list[dict] = []
        """Finished encoders of the first stage, among which one is chosen in its end."""
        self.fit_state: dict | None = None
        """State of the fit that an interruption ended."""
        self.history: list[dict] = []
        self.consistent = self.converged = False
        self.began = time.perf_counter()

    def run(self) -> TrainingResult:
        saved = self.checkpoint.load()
        if saved is None:
            self.labels = self.assigned = self.states = self._metastable_states()
            self._build(int(self.labels.max()) + 1)
        else:
            self._resume(saved)
        if self.stage == "states":
            self._choose_encoder()
            self._next("joint")
        self._hold_out()
        if self.stage == "joint":
            self._learn_jointly()
            self._drop_lost_states()
            self._next("flow")
        if self.stage == "flow":
            self._learn_flow()
            self._next("refit")
        self.training, self.held = self.frames.with_weight(self.dataset.first), self.held[:0]
        if self.model.provenance["density"]:
            self._reweight_along_latent_space()
            if self.stage == "refit":
                self._optimize(self.settings.ensemble_epochs)
                self._next("ensemble")
            self._learn_ensemble()
        states = self._describe()
        self.model.networks.to("cpu").requires_grad_(False)
        seconds = time.perf_counter() - self.began
        return TrainingResult(
            self.history, states, seconds, self.consistent and self.converged, remarks=self._remarks()
        )

    def _remarks(self) -> tuple[str, ...]:
        s, remarks = self.settings, []
        if not self.consistent:
            remarks.append(
                f"not converged: the states of frames still changed in the last of {s.refinements} refinements"
            )
        if not self.converged and s.flow_epochs > 0:
            remarks.append(f"not converged: the flow still improved in the last of {s.flow_epochs} flow_epochs")
        elif not self.converged:
            remarks.append("not converged: the flow was not trained alone (flow_epochs is 0)")
        if not self.model.provenance["state_changes"]:
            remarks.append("no series crosses from state to state, so that populations are those of the starts")
        return tuple(remarks)

    def _next(self, stage: str) -> None:
        self.stage, self.iteration, self.fit_state = stage, 0, None

    def _save(self, fit: Fit) -> None:
        if self.checkpoint.path is None:
            return  # before everything is copied in vain
        self.checkpoint.save(
            {
                "stage": self.stage,
                "iteration": self.iteration,
                "fit": fit.state_dict(),
                "members": len(self.model.networks.ensemble),
                "converged": self.converged,
                "seconds": time.perf_counter() - self.began,
                "states": self.states.cpu() if self.stage == "states" else None,
                "candidates": self.candidates,
                **self._encoder(),
            }
        )

    def _encoder(self) -> dict:
        """The model with what belongs to it."""
        return {
            "model": self.model.networks.state_dict(),
            "n_states": self.model.n_states,
            "latent_dim": self.model.latent_dim,
            "labels": self.labels.cpu(),
            "assigned": self.assigned.cpu(),
            "history": self.history,
            "consistent": self.consistent,
        }

    def _resume(self, saved: dict) -> None:
        self._restore(saved)
        self.stage, self.iteration, self.fit_state = saved["stage"], saved["iteration"], saved["fit"]
        self.candidates, self.converged = saved["candidates"], saved["converged"]
        if saved["states"] is not None:
            self.states = saved["states"].to(self.device)
        self.began -= saved["seconds"]

    def _restore(self, saved: dict) -> None:
        self._build(saved["n_states"], saved["latent_dim"])
        networks = self.model.networks
        networks.ensemble.extend(copy.deepcopy(networks.flow) for _ in range(saved.get("members", 0)))
        networks.load_state_dict(saved["model"])
        self.labels, self.assigned = (saved[name].to(self.device) for name in ("labels", "assigned"))
        self.history, self.consistent = saved["history"], saved["consistent"]

    # Stages

    def _metastable_states(self) -> Tensor:
        """State of each frame, which the decoder predicts; merged from small clusters, or from the labels given."""
        dataset, s = self.dataset, self.settings
        if dataset.labels is not None:
            _, clusters = torch.unique(dataset.labels, return_inverse=True)
            if int(clusters.max()) == 0:
                raise TrainingError("train: all frames carry the same label; there is no transition to learn from.")
            count = int(clusters.max()) + 1
            if count > MOST_LABELS:
                raise TrainingError(
                    f"train: frames carry {count} different labels, and a label stands for a state or a small cluster "
                    f"of frames; give at most {MOST_LABELS}, or none."
                )
        else:
            clusters = cluster(dataset, s.initial_states, self.scaling[1].double().cpu().numpy())
        pairs = dataset.first.numpy(), dataset.lag
        states = metastable_states(clusters.numpy(), *pairs, s.minimum_population, dataset.biased)
        if dataset.labels is not None and states.max() == clusters.max():
            states = clusters.numpy()  # the states that were given, in their order
        return torch.from_numpy(self.earlier.in_order(states)).to(self.device)

    def _build(self, n_states: int, latent_dim: int | None = None) -> None:
        model, frames = self.model, self.frames
        reweighted = frames.mode != "steered"
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn from torch's global generator
            anew = ("restart", len(self.candidates)) if self.candidates else ()
            torch.default_generator.manual_seed(streams.stream_seed(self.seed, "weights", *anew))
            networks = Networks(model.settings, self.dataset.n_features, n_states, reweighted, latent_dim)
        model.networks = networks
        model.boltzmann = self.dataset.boltzmann
        model.provenance = {
            "seed": self.seed,
            "lag": self.dataset.lag,
            "frames": self.dataset.frames,
            "series": len(self.dataset.series),
            "temperatures": sorted({series.temperature for series in self.dataset.series if series.in_density}),
            "biased_temperatures": np.unique(frames.temperatures[frames.biased]).tolist(),
            "not_in_density": [k for k, series in enumerate(self.dataset.series) if not series.in_density],
            "temperature_mode": frames.mode,
            "overlaps": frames.overlaps,
            "well_sampled": frames.well_sampled,
            "minimum_effective_size": frames.minimum_effective_size,
            "density": self.settings.joint_epochs + self.settings.flow_epochs > 0,
            "training": self.settings.model_dump(mode="json"),
        }
        mean, scale = self.scaling
        networks.feature_mean.copy_(mean)
        networks.feature_scale.copy_(scale)
        self._set_temperatures()
        if self.start is not None and not self.candidates:  # a candidate after the first begins with other weights
            model.provenance["warm_start"] = take_weights(networks, self.start.networks)
        networks.to(self.device)

    def _set_temperatures(self) -> None:
        """Tell the model which temperatures there are how many frames for."""
        networks, frames = self.model.networks, self.frames
        inverse, sizes = frames.effective_sizes()
        networks.inverse_temperatures = torch.from_numpy(inverse).to(self.device)
        networks.effective_sizes = torch.from_numpy(sizes).to(self.device)
        self.model.provenance["minimum_effective_size"] = frames.minimum_effective_size
        if frames.mode != "steered":
            networks.flow.range.copy_(torch.tensor([frames.reachable.min(), frames.reachable.max()]) / frames.reference)

    def _reweight_along_latent_space(self) -> None:
        """Weigh frames at other temperatures by their mean energy along the variable, which is finished now."""
        frames, flow = self.frames, self.model.networks.flow
        if frames.mode != "thermodynamic" or frames.reweighting is not None:
            return
        with torch.no_grad():
            whitened = flow.whiten(frames.evaluate(self.model.networks.mean))
            points = flow.marginals(whitened)[0][:, flow.used]
        frames.reweight_along(points.double().cpu().numpy())
        self._set_temperatures()

    def _choose_encoder(self) -> None:
        """Train encoders with different initial weights to the end of the first stage, and go on with the best one."""
        wanted = self.settings.restarts
        while True:
            self._learn_states()
            score = self._score()
            if wanted == 1 and not self.candidates and score >= 0:
                return
            self.candidates.append({**copy.deepcopy(self._encoder()), "score": score})
            enough = sum(entry["score"] >= 0 for entry in self.candidates) >= wanted
            if enough or len(self.candidates) == wanted + SPARE:
                break
            self._next("states")
            self.labels = self.assigned = self.states
            self.history, self.consistent = [], False
            self._build(int(self.labels.max()) + 1)
        best = max(self.candidates, key=lambda entry: entry["score"])  # the first of equals
        if best["score"] < 0:
            warnings.warn(
                f"train: none of {len(self.candidates)} encoders tells the {int(self.states.max()) + 1} states of the "
                "frames apart, and a bias along this variable will not drive from one to the other. Train with "
                "descriptors that differ between the states, a longer lag, or less encoder_decay.",
                StatesWarning,
                stacklevel=2,
            )
        self._restore(best)
        self.candidates = []

    def _score(self) -> float:
        """Crossings that a bias along the variable is expected to show; -1 if it does not tell states apart."""
        if len(self._populated(self.assigned)) < 2:
            return -1.0
        if self.settings.restarts == 1:
            return 0.0
        series, lengths = self.dataset.series, [len(entry) for entry in self.dataset.series]
        states = [part.numpy() for part in self.states.cpu().split(lengths)]
        self.model.trained = True  # as far as its variable goes
        try:
            rate = model_crossings(self.model, series, self.dataset.lag, states=states, seed=self.seed)
        finally:
            self.model.trained = False
        return -1.0 if rate is None else rate.crossings

    def _learn_states(self) -> None:
        s = self.settings
        for iteration in range(self.iteration, s.refinements):
            self.iteration = iteration
            if self.fit_state is None:
                self._choose_representatives()
            self._optimize(s.refinement_epochs)
            before, self.assigned = self.assigned, self._most_likely_states()
            changed = float((self.assigned != before).float().mean())
            complete = len(self._populated(self.assigned)) == self.model.n_states
            if complete and max(changed, self._gain_of_last_iteration()) < s.label_change:
                self.consistent = True
                return
            if iteration >= COLLAPSED and len(self._populated(self.assigned)) == 1:
                return
        self._drop_lost_states()

    def _gain_of_last_iteration(self) -> float:
        """Share of the loss of prediction that the last iteration has removed; infinite if it was the first."""
        losses = {entry["iteration"]: entry["prediction"] for entry in self.history if entry["stage"] == "states"}
        if self.iteration == 0:
            return float("inf")
        return 1 - losses[self.iteration] / max(losses[self.iteration - 1], 1e-9)

    def _drop_lost_states(self) -> None:
        """Drop states that the model assigns no frames to; their labels become those of the likeliest other state."""
        networks, populated = self.model.networks, self._populated(self._most_likely_states())
        if not 2 <= len(populated) < networks.n_states:
            return
        kept = torch.full((networks.n_states,), -1, device=self.device).scatter_(
            0, populated, torch.arange(len(populated), device=self.device)
        )
        networks.keep_states(populated)
        self.assigned = self._most_likely_states()
        self.labels = torch.where(kept[self.labels] < 0, self.assigned, kept[self.labels])
        if networks.settings.latent_dim is None and networks.latent_dim > networks.n_states - 1:
            self._reduce_dimension()

    def _reduce_dimension(self) -> None:
        """Keep the directions of the latent space in which the means of the states differ."""
        u = self.frames.evaluate(self.model.networks.mean)
        means = torch.stack([u[self.labels == state].mean(0) for state in range(self.model.n_states)])
        center = means.mean(0)
        directions = torch.linalg.svd(means - center)[2][: self.model.n_states - 1]
        with torch.random.fork_rng(devices=[]):  # the flow has other weights then
            torch.default_generator.manual_seed(streams.stream_seed(self.seed, "weights", len(directions)))
            self.model.networks.map_latent(directions, center, torch.zeros(len(directions), device=self.device))

    def _populated(self, labels: Tensor) -> Tensor:
        """Indices of the states with enough frames."""
        populations = torch.bincount(labels, minlength=self.model.n_states) / len(labels)
        return torch.nonzero(populations >= self.settings.minimum_population).flatten()

    def _most_likely_states(self) -> Tensor:
        networks = self.model.networks
        return self.frames.evaluate(lambda x: networks.decoder(networks.mean(x)).argmax(-1))

    def _choose_representatives(self) -> None:
        """Choose as representative of a state the frame whose mu is closest to the mean mu of the state's frames."""
        u = self.frames.evaluate(self.model.networks.mean)
        for state in range(self.model.n_states):
            members = torch.nonzero(self.labels == state).flatten()
            if len(members):
                latent = u[members]
                closest = (latent - latent.mean(0)).square().sum(-1).argmin()
                self.model.networks.representatives[state] = self.frames.rows(members[closest : closest + 1])[0]

    def _hold_out(self) -> None:
        split = self.dataset.split(self.settings.validation_fraction, streams.stream(self.seed, "split"), self.labels)
        self.training, self.held = (self.frames.with_weight(part) for part in split)
        self.model.provenance["held_blocks"] = np.unique(self.dataset.blocks[self.held.cpu()]).tolist()
        if not len(self.training):
            raise TrainingError("train: no pair of frames is left besides the held-out blocks; give longer series.")

    def _learn_jointly(self) -> None:
        if self.fit_state is None:
            self._whiten(torch.exp(self.model.networks.log_variance))
        self._optimize(self.settings.joint_epochs)

    def _learn_flow(self) -> None:
        networks = self.model.networks
        if self.fit_state is None:
            if self.earlier.variable is not None:
                self.earlier.align(networks, self.frames.evaluate(networks.mean))
            self._whiten(torch.zeros(()))
        self._reweight_along_latent_space()
        self.converged = self._optimize(self.settings.flow_epochs)
        networks.flow.enclose(self.frames.evaluate(networks.mean))
        networks.validation_flow.load_state_dict(networks.flow.state_dict())

    def _whiten(self, variance: Tensor) -> None:
        networks = self.model.networks
        u = self.frames.evaluate(networks.mean)
        networks.flow.fit(u, torch.from_numpy(self.frames.spread_weights).to(u), variance)

    def _learn_ensemble(self) -> None:
        """Train the members of the ensemble, each from the model's flow on."""
        networks = self.model.networks
        for iteration in range(self.iteration, self.settings.ensemble):
            self.iteration = iteration
            if len(networks.ensemble) == iteration:
                networks.ensemble.append(copy.deepcopy(networks.flow))
            self._optimize(self.settings.ensemble_epochs)

    def _optimize(self, epochs: int) -> bool:
        """Train for at most so many epochs; returns whether the fit finished by itself before."""
        fit = Fit(
            self.model.networks, self.frames, self.labels, self.training, self.held, self.stage, self.iteration,
            self.seed, self.settings,
        )  # fmt: skip
        if self.fit_state is not None:
            fit.load_state_dict(self.fit_state)
            self.fit_state = None
        self.done.begin()
        while fit.epoch < epochs and not fit.finished:
            entry = fit.run_epoch()
            if not is_finite(entry):
                raise TrainingError(
                    f"train: the loss became {entry['loss']} in epoch {entry['epoch']} of stage '{self.stage}'. Look "
                    f"for outliers in the descriptors, or lower learning_rate ({self.settings.learning_rate:g})."
                )
            self.history.append(entry)
            before = len(self.candidates) * self.settings.refinements if self.stage == "states" else 0
            share = self.done.note(self.stage, before + self.iteration, fit.epoch)
            self.progress(share, f"{self.stage}: {entry['states']} states, loss {entry['loss']:.3f}")
            self._save(fit)
        fit.take_best()
        return fit.finished

    def _describe(self) -> list[dict]:
        """Set range and spread of the collective variable; return the states with their populations."""
        model = self.model
        u, labels = self.frames.evaluate(model.networks.mean), self._most_likely_states()
        model.latent_bounds.copy_(torch.stack([u.amin(0), u.amax(0)], dim=1))
        counts = torch.bincount(labels, minlength=model.n_states).tolist()
        variances = [u[labels == state].var(0) for state, count in enumerate(counts) if count > FEWEST]
        if not variances:
            raise TrainingError(
                f"train: the largest of {model.n_states} states has {max(counts)} frames, and the spread of the "
                f"variable within a state needs more than {FEWEST}; give longer series."
            )
        model.latent_spread.copy_(torch.stack(variances).mean(0).sqrt().clamp(min=1e-6))
        numbers, lengths = labels.cpu().numpy(), [len(entry) for entry in self.dataset.series]
        self._describe_thermodynamics(numbers)
        parts = np.split(numbers, np.cumsum(lengths)[:-1])
        pieces = [piece for entry, part in zip(self.dataset.series, parts) for piece in entry.continuous(part)]
        model.provenance["state_changes"] = int(sum(np.count_nonzero(np.diff(piece)) for piece in pieces))
        weights, kelvin, blocks = self.frames.weights, self.frames.temperatures, self.dataset.blocks
        factors = dict(zip(np.unique(kelvin[weights > 0]), inflation(numbers, kelvin, weights, blocks, lengths)))
        rng = streams.stream(self.seed, "populations")
        states: list[dict] = [{"state": state} for state in range(model.n_states)]
        for temperature in model.provenance["temperatures"]:
            here = (kelvin == temperature) & (weights > 0)
            of_frames = numbers[here], weights[here], blocks[here]
            values, errors = populations(*of_frames, model.n_states, rng, inflation=factors[temperature])
            for state, row in enumerate(states):
                row[f"{POPULATION}{temperature:g}"] = float(values[state])
                row[f"{ERROR}{temperature:g}"] = None if errors is None else float(errors[state])
        return states

    def _describe_thermodynamics(self, states: np.ndarray) -> None:
        """Determine what `LaTF.thermodynamics` answers from."""
        dataset, frames = self.dataset, self.frames
        if dataset.energies is None:
            return
        result = gibbs_helmholtz(
            states,
            dataset.energies,
            frames.temperatures,
            dataset.effective_weights(frames.weights),
            dataset.blocks,
            self.model.n_states,
            frames.reference,
            dataset.boltzmann,
            reach(frames.temperatures[frames.weights > 0]),
            streams.stream(self.seed, "thermodynamics"),
            [len(series) for series in dataset.series],
        )
        stored = {"parameters": result.parameters.tolist(), "reach": list(result.reach)}
        self.model.provenance["thermodynamics"] = stored
