"""Training a `LaTF` in two stages.

1. State predictive information bottleneck: encoder and decoder with the mixture prior, then every frame is given its
   most likely future state, states that have lost their frames are dropped, representatives are seated anew, and so on
   until the labels hardly change.
2. Encoder, decoder and flow together, labels fixed, until the validation loss no longer improves.

Sources: Wang and Tiwary, doi:10.1063/5.0038198 (stage 1); Qiu, John, Herron, Tiwary, arXiv:2507.03174 (stage 2).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from latf_sampling import runtime
from latf_sampling.dataset import Dataset
from latf_sampling.errors import SettingsError, TrainingError
from latf_sampling.model import LaTF
from latf_sampling.settings import TrainingSettings

CHUNK = 65536
CLUSTERING_FRAMES = 50_000
"""Initial clusters are found on at most so many frames; all frames are then assigned to them."""
CLUSTERING_TRIES = 5
"""Of so many clusterings the one with the least inertia is taken."""
BATCHES, SMALLEST_BATCH = 50, 32
"""An epoch of little data is cut into so many batches, of at least so many pairs, or it would hardly train anything."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class TrainingResult:
    """What training found.

    Attributes
    ----------
    history
        One entry per epoch: stage ("states" or "flow"), refinement, epoch, states, and the terms of the loss on the
        training and, as "validation_...", on the held-out blocks.
    states
        One entry per state: its population (weighted) at each temperature.
    seconds
        Wall time.
    converged
        Whether the labels became self-consistent and the second stage stopped by itself.
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
    progress
        Called with the fraction done and a few words.

    Raises
    ------
    TrainingError
        The loss became NaN or infinite, the data hold a single state, or the model is trained already.

    Examples
    --------
    >>> from latf_sampling import Series
    >>> x = np.sign(np.sin(np.arange(2000) / 100))[:, None] + 0.1 * np.random.default_rng(0).normal(size=(2000, 2))
    >>> model = LaTF(latent_dim=1)
    >>> result = train(model, Dataset([Series(x)], lag=5), initial_states=4, refinements=2, flow_epochs=1)
    >>> model.encode(x).shape
    (2000, 1)
    """
    if model.trained:
        raise TrainingError("train: this model is trained already; make a new LaTF.")
    if settings is not None and kwargs:
        raise SettingsError(f"train: give settings or their fields ({', '.join(kwargs)}), not both.")
    settings = settings if settings is not None else TrainingSettings(**kwargs)
    try:
        return _Run(
            model, dataset, seed, settings, runtime.pick_device(device), progress or (lambda fraction, words: None)
        ).run()
    except BaseException:
        model.n_features = 0  # what is left of a training that failed or was interrupted is no model
        raise


class _Run:
    def __init__(
        self,
        model: LaTF,
        dataset: Dataset,
        seed: int,
        settings: TrainingSettings,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.model, self.dataset, self.seed, self.settings = model, dataset, seed, settings
        self.device, self.progress = device, progress
        self.x = dataset.x.to(device)
        self.weights = dataset.weights.to(device)
        self.scale = (dataset.temperatures / model.settings.reference_temperature).to(device)
        self.training = self._weighted(dataset.first)
        self.validation = self.training[:0]
        if not len(self.training):
            raise TrainingError("train: no pair of frames is left for training; the series are too short for the lag.")
        self.generator = torch.Generator(device=device).manual_seed(runtime.stream_seed(seed, "noise"))
        self.history: list[dict] = []

    def run(self) -> TrainingResult:
        began = time.perf_counter()
        labels = self._initial_labels()
        with torch.random.fork_rng(devices=[]):  # networks take their first weights from torch's global generator
            torch.random.default_generator.manual_seed(runtime.stream_seed(self.seed, "weights"))
            self.model.build(self.x.shape[1], int(labels.max()) + 1)
        self.model.boltzmann = self.dataset.boltzmann
        self.model.to(self.device)
        share = (self.weights / self.weights.sum()).unsqueeze(-1)
        mean = (share * self.x).sum(0)
        deviation = torch.sqrt((share * (self.x - mean).square()).sum(0))
        if not torch.isfinite(deviation).all():
            column = int(torch.isfinite(deviation).int().argmin())
            raise TrainingError(
                f"train: values in column {column} of the descriptors are too large; look for outliers."
            )
        self.model.feature_mean.copy_(mean)
        # A column that never changes says nothing; its scale stays 1 so that rounding noise is not blown up.
        self.model.feature_scale.copy_(
            torch.where(deviation > 1e-5 * (1 + mean.abs()), 1 / deviation, torch.ones_like(deviation))
        )
        labels, consistent = self._find_states(labels)
        stopped = self._learn_flow(labels)
        labels = self._describe()
        self.model.to("cpu")
        self.model.requires_grad_(False)
        return TrainingResult(self.history, self._states(labels), time.perf_counter() - began, consistent and stopped)

    def _weighted(self, pairs: Tensor) -> Tensor:
        """The pairs that count: without weight, a pair says nothing and a batch of them is 0 / 0."""
        return pairs[self.dataset.weights[pairs] > 0].to(self.device)

    # Stage 1

    def _initial_labels(self) -> Tensor:
        if self.dataset.labels is not None:
            _, labels = torch.unique(self.dataset.labels, return_inverse=True)
        else:
            labels = _cluster(self.dataset, self.settings.initial_states, runtime.stream_seed(self.seed, "clusters"))
        if int(labels.max()) == 0:
            raise TrainingError("train: all frames carry the same label; there is no transition to learn from.")
        return labels.to(self.device)

    def _find_states(self, labels: Tensor) -> tuple[Tensor, bool]:
        s = self.settings
        for refinement in range(s.refinements):
            self._seat_representatives(labels)
            self._fit("states", labels, s.refinement_epochs, s.refinement_epochs, refinement)
            refined = self._batched(lambda x: self.model.decoder(self.model.mean(x)).argmax(-1))
            populations = torch.bincount(refined, minlength=self.model.n_states) / len(refined)
            kept = torch.nonzero(populations >= s.minimum_population).flatten()
            if len(kept) < 2:
                raise TrainingError(
                    "train: the refinement of labels left a single state; the data hold no slow transition at "
                    f"a lag of {self.dataset.lag} frames. Use a shorter lag, or data that cross between states."
                )
            dropped = len(kept) < self.model.n_states
            if dropped:
                self.model.keep_states(kept)
                refined = self._batched(lambda x: self.model.decoder(self.model.mean(x)).argmax(-1))
            changed = float((refined != labels).float().mean())
            labels = refined
            if not dropped and changed < s.label_change:
                return labels, True
        return labels, False

    def _seat_representatives(self, labels: Tensor) -> None:
        """Per state, the frame whose mu is closest to the mean mu of the state's frames."""
        u = self._batched(self.model.mean)
        for state in range(self.model.n_states):
            members = torch.nonzero(labels == state).flatten()
            if len(members):
                latent = u[members]
                closest = (latent - latent.mean(0)).square().sum(-1).argmin()
                self.model.representatives[state] = self.x[members[closest]]

    # Stage 2

    def _learn_flow(self, labels: Tensor) -> bool:
        split = self.dataset.split(self.settings.validation_fraction, runtime.stream(self.seed, "split"), labels)
        self.training, self.validation = (self._weighted(part) for part in split)
        if not len(self.training):
            raise TrainingError("train: no pair of frames is left beside the held-out blocks; give longer series.")
        u = self._batched(self.model.mean)
        self.model.flow.fit(u, self.weights, torch.exp(self.model.log_variance))
        return self._fit("flow", labels, self.settings.flow_epochs, self.settings.patience, None)

    # Both

    def _fit(self, stage: str, labels: Tensor, epochs: int, patience: int, refinement: int | None) -> bool:
        """Train for some epochs and keep the best by validation; returns whether it stopped before the last one."""
        s, model = self.settings, self.model
        prior = "mixture" if stage == "states" else "flow"
        parts = [model.encoder, model.decoder, model.mixture if prior == "mixture" else model.flow]
        parameters = [model.log_variance, *(p for part in parts for p in part.parameters())]
        encoder = set(model.encoder.parameters())
        groups = [
            {"params": [p for p in parameters if p in encoder], "weight_decay": s.encoder_decay},
            {"params": [p for p in parameters if p not in encoder], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=s.learning_rate)
        batch_size = min(s.batch_size, max(SMALLEST_BATCH, len(self.training) // BATCHES))
        batches = -(-len(self.training) // batch_size)
        if stage == "flow":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimiser, epochs * batches, eta_min=0.02 * s.learning_rate
            )
        best, best_state, since = float("inf"), None, 0
        for epoch in range(epochs):
            order = self.training[torch.randperm(len(self.training), generator=self.generator, device=self.device)]
            sums: dict[str, Tensor] = {}
            for batch in order.split(batch_size):
                terms = self._terms(batch, labels, prior)
                optimiser.zero_grad(set_to_none=True)
                terms["loss"].backward()
                torch.nn.utils.clip_grad_norm_(parameters, 10.0)
                optimiser.step()
                if stage == "flow":
                    schedule.step()
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value.detach() * (len(batch) / len(order))
            entry = {"stage": stage, "refinement": refinement, "epoch": epoch, "states": model.n_states}
            entry |= {name: float(value) for name, value in sums.items()}
            entry |= {f"validation_{name}": value for name, value in self._validate(labels, prior).items()}
            loss = entry["loss"] + entry.get("validation_loss", 0.0)
            if not np.isfinite(loss):
                raise TrainingError(
                    f"train: the loss became {loss} in epoch {epoch} of stage '{stage}'. Look for outliers in the "
                    f"descriptors, or lower learning_rate ({s.learning_rate:g})."
                )
            self.history.append(entry)
            self._report(stage, epoch, epochs, refinement, entry)
            # The regularisation carries the flow, the prediction the encoder; each on its own scale.
            score = entry.get("validation_regularisation", entry["regularisation"]) + entry.get(
                "validation_prediction", entry["prediction"]
            )
            if score < best - 1e-4:
                best, best_state, since = score, copy.deepcopy(model.state_dict()), 0
            else:
                since += 1
            if stage == "flow" and since >= patience:
                break
        stopped = since >= patience
        if stage == "flow" and best_state is not None:
            model.load_state_dict(best_state)
        return stopped

    def _terms(self, frames: Tensor, labels: Tensor, prior: str) -> dict[str, Tensor]:
        noise = torch.randn(len(frames), self.model.latent_dim, generator=self.generator, device=self.device)
        return self.model.loss_terms(
            self.x[frames], labels[frames + self.dataset.lag], self.weights[frames], self.scale[frames], noise, prior
        )

    @torch.no_grad()
    def _validate(self, labels: Tensor, prior: str) -> dict[str, float]:
        if not len(self.validation):
            return {}
        sums: dict[str, float] = {}
        total = float(self.weights[self.validation].sum())
        for frames in self.validation.split(CHUNK):
            part = float(self.weights[frames].sum()) / total
            for name, value in self._terms(frames, labels, prior).items():
                sums[name] = sums.get(name, 0.0) + part * float(value)
        return sums

    @torch.no_grad()
    def _batched(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([function(part) for part in self.x.split(CHUNK)])

    def _report(self, stage: str, epoch: int, epochs: int, refinement: int | None, entry: dict) -> None:
        half = self.settings.refinements * self.settings.refinement_epochs
        done = refinement * epochs + epoch + 1 if stage == "states" else half + 2 * (epoch + 1)
        self.progress(
            done / (half + 2 * self.settings.flow_epochs),
            f"{stage}: {entry['states']} states, loss {entry['loss']:.3f}",
        )

    def _describe(self) -> Tensor:
        """Range of the collective variable, and its spread within a state; returns the final state of each frame."""
        u = self._batched(self.model.mean)
        labels = self._batched(lambda x: self.model.decoder(self.model.mean(x)).argmax(-1))
        self.model.latent_bounds.copy_(torch.stack([u.amin(0), u.amax(0)], dim=1))
        variances = [
            u[labels == state].var(0) for state in range(self.model.n_states) if int((labels == state).sum()) > 10
        ]
        self.model.latent_spread.copy_(torch.stack(variances).mean(0).sqrt().clamp(min=1e-6))
        self.model.provenance = {
            "seed": self.seed,
            "lag": self.dataset.lag,
            "frames": len(self.dataset.x),
            "series": len(self.dataset.series),
            "temperatures": sorted({series.temperature for series in self.dataset.series}),
            "training": self.settings.model_dump(mode="json"),
        }
        return labels

    def _states(self, labels: Tensor) -> list[dict]:
        temperatures = self.dataset.temperatures.to(labels.device)
        populations = []
        for state in range(self.model.n_states):
            row = {"state": state}
            for temperature in self.model.provenance["temperatures"]:
                here = self.weights * (temperatures == temperature)
                row[f"population at {temperature:g}"] = float(here[labels == state].sum() / here.sum())
            populations.append(row)
        return populations


def _cluster(dataset: Dataset, count: int, seed: int) -> Tensor:
    """Small clusters: k-means (deeptime) on the slow coordinates that TICA finds."""
    from deeptime.clustering import KMeans
    from deeptime.decomposition import TICA
    from deeptime.numeric import ZeroRankError

    long_enough = [series.x.astype(np.float64) for series in dataset.series if len(series) > dataset.lag]
    tica = TICA(lagtime=dataset.lag, var_cutoff=0.95, scaling="kinetic_map")
    for x in long_enough:
        tica.partial_fit(x)
    try:
        slow = tica.fetch_model().transform(dataset.x.numpy().astype(np.float64))
    except ZeroRankError as error:
        raise TrainingError("train: no descriptor ever changes; there is nothing to learn from.") from error
    stride = max(1, len(slow) // CLUSTERING_FRAMES)
    # A rare state is easily missed by one choice of initial centres, and costs much inertia where it is.
    tries = [
        KMeans(
            min(count, len(slow)),
            max_iter=100,
            fixed_seed=seed + attempt,
            n_jobs=1,
            init_strategy="kmeans++",
            tolerance=1e-3,
        )
        .fit(slow[::stride])
        .fetch_model()
        for attempt in range(CLUSTERING_TRIES)
    ]
    clusters = min(tries, key=lambda model: model.inertia)
    labels = torch.from_numpy(clusters.transform(slow).astype(np.int64))
    return torch.unique(labels, return_inverse=True)[1]
