"""Training a `LaTF` in stages.

1. "states", the state predictive information bottleneck: encoder and decoder with the mixture prior, then every frame
   is given its most likely future state, states that have lost their frames are dropped, representatives are seated
   anew, and so on until the labels hardly change.
2. "joint": encoder, decoder and flow together, labels fixed.
3. "flow": the flow alone, encoder fixed, until held-out blocks gain nothing more.
4. "whole": the same flow on all frames for a few epochs more, since a held-out block may hold what is rare. The flow
   from before is kept as `LaTF.trial`, which held-out blocks can judge.
5. "ensemble": further flows on the finished encoder, each on a bootstrap sample of the blocks, whose spread
   is the standard error of what the model says.

The prediction of the future state hears all frames alike: p(y|u) is a conditional probability, right whatever the
density of u, and frames on barriers, which a bias has paid for, are to have a say in it. The density hears frames with
their Boltzmann weights: each epoch draws them anew, at their own temperature ("steered") or at temperatures within the
range that MBAR reaches, more of them where the distribution changes faster ("reweighted").

Sources: Wang and Tiwary, doi:10.1063/5.0038198 (stage 1); Qiu, John, Herron, Tiwary, arXiv:2507.03174 (stage 2);
Shirts and Chodera, doi:10.1063/1.2978177 (weights); Efron, doi:10.1214/aos/1176344552 (bootstrap).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latf_sampling.core import platforms, streams
from latf_sampling.data.columns import column_statistics
from latf_sampling.data.dataset import CHUNK, Dataset
from latf_sampling.errors import ColumnWarning, SettingsError, TrainingError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training.checkpoint import Checkpoint
from latf_sampling.learning.training.clusters import cluster
from latf_sampling.learning.training.fit import Fit, is_finite
from latf_sampling.learning.training.frames import Frames
from latf_sampling.settings import TrainingSettings

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class TrainingResult:
    """What training found.

    Attributes
    ----------
    history
        One entry per epoch: stage ("states", "joint", "flow", "whole" or "ensemble"), turn (refinement, or member of
        the ensemble), epoch, states, learning rate, and the terms of the loss in training and, as "validation_...", on
        held-out blocks.
    states
        One entry per state: its population (weighted) among the frames of each temperature.
    seconds
        Wall time.
    converged
        Whether the labels became self-consistent, and the flow alone stopped because held-out blocks gained nothing
        more at any learning rate.
    """

    history: list[dict] = field(repr=False)
    states: list[dict]
    seconds: float
    converged: bool


def train(
    model: LaTF,
    dataset: Dataset,
    seed: int = 0,
    *,
    settings: TrainingSettings | None = None,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    **kwargs,
) -> TrainingResult:
    """Train a model on a data set; the same seed gives the same model on one machine.

    Parameters
    ----------
    model
        A new `LaTF`; trained in place.
    dataset
        Lagged pairs.
    seed
        Master seed of initial weights, noise, order and split.
    settings
        A `TrainingSettings`; or its fields as further keyword arguments.
    device
        Where to train; none picks a GPU where there is one. The model comes back to the CPU.
    checkpoint
        File that the training is kept in after every epoch. Where it exists the training goes on from it, to the same
        result as without the interruption; delete it when done.
    progress
        Called with the fraction done and a few words.

    Raises
    ------
    TrainingError
        The loss became NaN or infinite, the data hold a single state, the model is trained already, or the checkpoint
        is of another training.

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
    if model.trained:
        raise TrainingError("train: this model is trained already; make a new LaTF.")
    if settings is not None and kwargs:
        raise SettingsError(f"train: give settings or their fields ({', '.join(kwargs)}), not both.")
    settings = settings if settings is not None else TrainingSettings(**kwargs)
    _mention_columns(dataset)
    try:
        kept = Checkpoint(checkpoint, dataset, seed, model.settings, settings)
        run = _Run(model, dataset, seed, settings, platforms.pick_device(device), kept, progress or _silent)
        return run.run()
    except BaseException:
        model.n_features = 0  # what is left of a training that failed or was interrupted is no model
        raise


def _mention_columns(dataset: Dataset) -> None:
    """Warn of columns that hardly change or say the same: they cost time in every step, and blur what matters."""
    parts = (dataset.rows(slice(first, first + CHUNK)).numpy() for first in range(0, dataset.frames, CHUNK))
    remarks = column_statistics(parts, dataset.names).remarks()
    if remarks:
        words = f"train: {' '.join(remarks)} They are learned from all the same; leave them out, or select columns."
        warnings.warn(words, ColumnWarning, stacklevel=3)


def _silent(fraction: float, words: str) -> None:
    pass


class _Run:
    """A training: where it stands, and the way from there to the end."""

    def __init__(
        self,
        model: LaTF,
        dataset: Dataset,
        seed: int,
        settings: TrainingSettings,
        device: torch.device,
        checkpoint: Checkpoint,
        progress: Progress,
    ) -> None:
        self.model, self.dataset, self.seed, self.settings = model, dataset, seed, settings
        self.device, self.checkpoint, self.progress = device, checkpoint, progress
        self.frames = Frames(dataset, model.settings, settings, seed, device)
        self.scaling = self.frames.scaling()  # first of all: it names values that would break the clustering
        self.training = self.frames.counting(dataset.first)
        self.held = self.training[:0]
        if not len(self.training):
            raise TrainingError("train: no pair of frames is left for training; the series are too short for the lag.")
        self.stage, self.turn = "states", 0
        self.fit: dict | None = None
        """Of the fit that an interruption cut short."""
        self.history: list[dict] = []
        self.consistent = self.converged = False
        self.began = time.perf_counter()

    def run(self) -> TrainingResult:
        kept = self.checkpoint.read()
        if kept is None:
            self.labels = self._initial_labels()
            self._build(int(self.labels.max()) + 1)
        else:
            self._resume(kept)
        if self.stage == "states":
            self._find_states()
            self._next("joint")
        self._hold_out()
        if self.stage == "joint":
            self._learn_jointly()
            self._drop_lost_states()
            self._next("flow")
        if self.stage == "flow":
            self._learn_flow()
            self._next("whole")
        self.training, self.held = self.frames.counting(self.dataset.first), self.held[:0]
        if self.model.provenance["density"]:
            if self.stage == "whole":
                self._optimise(self.settings.ensemble_epochs)
                self._next("ensemble")
            self._learn_ensemble()
        states = self._describe()
        self.model.to("cpu")
        self.model.requires_grad_(False)
        seconds = time.perf_counter() - self.began
        return TrainingResult(self.history, states, seconds, self.consistent and self.converged)

    def _next(self, stage: str) -> None:
        self.stage, self.turn, self.fit = stage, 0, None

    def _keep(self, fit: Fit) -> None:
        if self.checkpoint.path is None:
            return  # before everything is copied for nothing
        self.checkpoint.write(
            {
                "stage": self.stage,
                "turn": self.turn,
                "fit": fit.state_dict(),
                "labels": self.labels.cpu(),
                "model": self.model.state_dict(),
                "n_states": self.model.n_states,
                "members": len(self.model.ensemble),
                "history": self.history,
                "consistent": self.consistent,
                "converged": self.converged,
                "seconds": time.perf_counter() - self.began,
            }
        )

    def _resume(self, kept: dict) -> None:
        self._build(kept["n_states"])
        self.model.ensemble.extend(copy.deepcopy(self.model.flow) for _ in range(kept["members"]))
        self.model.load_state_dict(kept["model"])
        self.labels = kept["labels"].to(self.device)
        self.stage, self.turn, self.fit = kept["stage"], kept["turn"], kept["fit"]
        self.history, self.consistent, self.converged = kept["history"], kept["consistent"], kept["converged"]
        self.began -= kept["seconds"]

    # Stages

    def _initial_labels(self) -> Tensor:
        if self.dataset.labels is not None:
            _, labels = torch.unique(self.dataset.labels, return_inverse=True)
        else:
            labels = cluster(self.dataset, self.settings.initial_states, streams.stream_seed(self.seed, "clusters"))
        if int(labels.max()) == 0:
            raise TrainingError("train: all frames carry the same label; there is no transition to learn from.")
        return labels.to(self.device)

    def _build(self, n_states: int) -> None:
        model, frames = self.model, self.frames
        reweighted = frames.reweighting is not None
        with torch.random.fork_rng(devices=[]):  # networks take their first weights from torch's global generator
            torch.random.default_generator.manual_seed(streams.stream_seed(self.seed, "weights"))
            model.build(self.dataset.n_features, n_states, reweighted)
        model.boltzmann = self.dataset.boltzmann
        model.provenance = {
            "seed": self.seed,
            "lag": self.dataset.lag,
            "frames": self.dataset.frames,
            "series": len(self.dataset.series),
            "temperatures": sorted({series.temperature for series in self.dataset.series}),
            "minimum_effective_size": frames.minimum_effective_size,
            "density": self.settings.joint_epochs + self.settings.flow_epochs > 0,
            "training": self.settings.model_dump(mode="json"),
        }
        mean, scale = self.scaling
        inverse, sizes = frames.effective_sizes()
        model.feature_mean.copy_(mean)
        model.feature_scale.copy_(scale)
        model.inverse_temperatures = torch.from_numpy(inverse)
        model.effective_sizes = torch.from_numpy(sizes)
        if reweighted:
            model.flow.range.copy_(torch.tensor([frames.reach.min(), frames.reach.max()]) / frames.reference)
        model.to(self.device)

    def _find_states(self) -> None:
        s, model = self.settings, self.model
        for turn in range(self.turn, s.refinements):
            self.turn = turn
            if self.fit is None:
                self._seat_representatives()
            self._optimise(s.refinement_epochs)
            refined = self._most_likely_states()
            kept = self._populated(refined)
            if len(kept) < 2:
                raise TrainingError(
                    "train: the refinement of labels left a single state; the data hold no slow transition at "
                    f"a lag of {self.dataset.lag} frames. Use a shorter lag, or data that cross between states."
                )
            dropped = len(kept) < model.n_states
            if dropped:
                model.keep_states(kept)
                refined = self._most_likely_states()
            changed = float((refined != self.labels).float().mean())
            self.labels = refined
            if not dropped and changed < s.label_change:
                self.consistent = True
                return

    def _drop_lost_states(self) -> None:
        """Joint training may leave a state without frames, and what no frame is in is no state."""
        kept = self._populated(self._most_likely_states())
        if 2 <= len(kept) < self.model.n_states:
            self.model.keep_states(kept)

    def _populated(self, labels: Tensor) -> Tensor:
        """States that enough frames are in."""
        populations = torch.bincount(labels, minlength=self.model.n_states) / len(labels)
        return torch.nonzero(populations >= self.settings.minimum_population).flatten()

    def _most_likely_states(self) -> Tensor:
        return self.frames.batched(lambda x: self.model.decoder(self.model.mean(x)).argmax(-1))

    def _seat_representatives(self) -> None:
        """Per state, the frame whose mu is closest to the mean mu of the state's frames."""
        u = self.frames.batched(self.model.mean)
        for state in range(self.model.n_states):
            members = torch.nonzero(self.labels == state).flatten()
            if len(members):
                latent = u[members]
                closest = (latent - latent.mean(0)).square().sum(-1).argmin()
                self.model.representatives[state] = self.frames.rows(members[closest : closest + 1])[0]

    def _hold_out(self) -> None:
        split = self.dataset.split(self.settings.validation_fraction, streams.stream(self.seed, "split"), self.labels)
        self.training, self.held = (self.frames.counting(part) for part in split)
        self.model.provenance["held_blocks"] = np.unique(self.dataset.blocks[self.held.cpu()]).tolist()
        if not len(self.training):
            raise TrainingError("train: no pair of frames is left beside the held-out blocks; give longer series.")

    def _learn_jointly(self) -> None:
        if self.fit is None:
            self._whiten(torch.exp(self.model.log_variance))
        self._optimise(self.settings.joint_epochs)

    def _learn_flow(self) -> None:
        model = self.model
        if self.fit is None:
            self._whiten(torch.zeros(()))
        self.converged = self._optimise(self.settings.flow_epochs)
        model.flow.enclose(self.frames.batched(model.mean))
        model.trial.load_state_dict(model.flow.state_dict())

    def _whiten(self, variance: Tensor) -> None:
        u = self.frames.batched(self.model.mean)
        self.model.flow.fit(u, torch.from_numpy(self.frames.weights).to(u), variance)

    def _learn_ensemble(self) -> None:
        """Each member goes on from the model's flow."""
        model = self.model
        for turn in range(self.turn, self.settings.ensemble):
            self.turn = turn
            if len(model.ensemble) == turn:
                model.ensemble.append(copy.deepcopy(model.flow))
            self._optimise(self.settings.ensemble_epochs)

    def _optimise(self, epochs: int) -> bool:
        """Train for at most so many epochs; returns whether it ended because nothing more was to be gained."""
        fit = Fit(
            self.model, self.frames, self.labels, self.training, self.held, self.stage, self.turn, self.seed,
            self.settings,
        )  # fmt: skip
        if self.fit is not None:
            fit.load_state_dict(self.fit)
            self.fit = None
        while fit.epoch < epochs and not fit.finished:
            entry = fit.run_epoch()
            if not is_finite(entry):
                raise TrainingError(
                    f"train: the loss became {entry['loss']} in epoch {entry['epoch']} of stage '{self.stage}'. Look "
                    f"for outliers in the descriptors, or lower learning_rate ({self.settings.learning_rate:g})."
                )
            self.history.append(entry)
            self._report(fit.epoch / epochs, entry)
            self._keep(fit)
        fit.take_best()
        return fit.finished

    def _report(self, share: float, entry: dict) -> None:
        s = self.settings
        # An epoch with a flow costs about four of those without.
        costs = {
            "states": s.refinements * s.refinement_epochs,
            "joint": 4 * s.joint_epochs,
            "flow": 4 * s.flow_epochs,
            "whole": 4 * s.ensemble_epochs,
            "ensemble": 4 * s.ensemble * s.ensemble_epochs,
        }
        turns = {"states": s.refinements, "joint": 1, "flow": 1, "whole": 1, "ensemble": max(1, s.ensemble)}
        stages = list(costs)
        before = sum(costs[stage] for stage in stages[: stages.index(self.stage)])
        done = before + costs[self.stage] * (self.turn + share) / turns[self.stage]
        self.progress(done / sum(costs.values()), f"{self.stage}: {entry['states']} states, loss {entry['loss']:.3f}")

    def _describe(self) -> list[dict]:
        """Range of the collective variable and its spread within a state; returns the states with their populations."""
        model = self.model
        u, labels = self.frames.batched(model.mean), self._most_likely_states()
        model.latent_bounds.copy_(torch.stack([u.amin(0), u.amax(0)], dim=1))
        variances = [u[labels == state].var(0) for state in range(model.n_states) if int((labels == state).sum()) > 10]
        model.latent_spread.copy_(torch.stack(variances).mean(0).sqrt().clamp(min=1e-6))
        weights, labels = torch.from_numpy(self.frames.weights), labels.cpu()
        states = []
        for state in range(model.n_states):
            row: dict = {"state": state}
            for temperature in model.provenance["temperatures"]:
                here = weights * torch.from_numpy(self.frames.temperatures == temperature)
                row[f"population at {temperature:g}"] = float(here[labels == state].sum() / here.sum())
            states.append(row)
        return states
