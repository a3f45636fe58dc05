"""One optimisation: a stage of training, epoch by epoch."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.core import streams
from latf_sampling.data.dataset import CHUNK
from latf_sampling.learning.flow import LatentFlow
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training.frames import Frames
from latf_sampling.settings import TrainingSettings

BATCHES, SMALLEST_BATCH = 100, 32
"""An epoch of little data is cut into so many batches, of at least so many pairs, or it would hardly train anything."""
TEMPERATURES, HELD_TEMPERATURES = 64, 8
"""Temperatures that frames are drawn at: others in each epoch for training, the same always for judging."""
AVERAGING = 0.998
"""The weights that are kept are a running average with this memory: much of what a falling rate would gain."""
IMPROVEMENT = 1e-3
"""Nats that the score on held-out blocks must gain to count as better."""
RATE_DROP, RATE_DROPS = 0.2, 1
"""Where nothing is gained the learning rate falls by this factor, so often, before the fit is finished."""


class Fit:
    """Trains the parts of a model that a stage is about.

    "states" trains encoder and decoder with the mixture prior, "joint" both with the flow, each for a fixed number of
    epochs. "flow" trains the flow alone on the finished encoder, keeps the weights that did best on held-out blocks,
    and is `finished` when these gain nothing more. "whole" goes on with all frames at the lower rate, and "ensemble"
    trains one member of the ensemble on a bootstrap sample.

    Attributes
    ----------
    epoch : int
        Number of epochs done.
    finished : bool
    """

    def __init__(
        self,
        model: LaTF,
        frames: Frames,
        labels: Tensor,
        training: Tensor,
        held: Tensor,
        stage: str,
        turn: int,
        seed: int,
        settings: TrainingSettings,
    ) -> None:
        self.model, self.frames, self.labels, self.training = model, frames, labels, training
        self.stage, self.turn, self.seed, self.settings = stage, turn, seed, settings
        self.epoch, self.finished = 0, False
        self.batch = min(settings.batch_size, max(SMALLEST_BATCH, len(training) // BATCHES))
        self.density: LatentFlow | None = None  # trained alone, on an encoder that stays
        if stage in ("flow", "whole", "ensemble"):
            self.density = model.ensemble[turn] if stage == "ensemble" else model.flow
            self._mu = frames.batched(model.mean)
        self.trained = self._trained()
        encoder = set(model.encoder.parameters())
        groups = [
            {"params": [p for p in self.trained if p in encoder], "weight_decay": settings.encoder_decay},
            {"params": [p for p in self.trained if p not in encoder], "weight_decay": 0.0},
        ]
        rate = settings.learning_rate * (RATE_DROP if stage == "whole" else 1.0)
        self.optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)
        self._weights = frames.weights
        if stage == "ensemble":
            self._weights = frames.resampled(streams.stream(seed, "bootstrap", turn))
        self._averaged = [p.detach().clone() for p in self.trained]
        self._best, self._score, self._since, self._drops, self._steps = None, float("inf"), 0, 0, 0
        self._held, self._held_drawn = held, None
        if stage == "flow" and len(held):
            self._held_drawn = frames.draw(held, frames.weights, streams.stream(seed, "held"), HELD_TEMPERATURES)

    def _trained(self) -> list[nn.Parameter]:
        model = self.model
        if self.density is not None:
            return list(self.density.parameters())
        parts = (model.encoder, model.decoder, model.mixture if self.stage == "states" else model.flow)
        return [model.log_variance, *(p for part in parts for p in part.parameters())]

    def run_epoch(self) -> dict:
        """Train for one epoch; returns its entry in the history."""
        names = (self.stage, self.turn, self.epoch)
        rng = streams.stream(self.seed, *names)
        generator = torch.Generator(device=self.frames.device)
        generator.manual_seed(streams.stream_seed(self.seed, *names, "noise"))
        pairs = self.training[torch.from_numpy(rng.permutation(len(self.training))).to(self.training.device)]
        drawn, scale = self.frames.draw(self.training, self._weights, rng, TEMPERATURES)
        sums: dict[str, Tensor] = {}
        pieces = (pairs.split(self.batch), drawn.split(self.batch), scale.split(self.batch))
        for now, weighted, s in zip(*pieces):
            terms = self._terms(now, weighted, s, generator)
            self.optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 10.0)
            self.optimiser.step()
            self._average()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * (len(now) / len(pairs))
        entry = {"stage": self.stage, "turn": self.turn, "epoch": self.epoch, "states": self.model.n_states}
        entry |= {"learning_rate": self.optimiser.param_groups[0]["lr"]}
        entry |= {name: float(value) for name, value in sums.items()}
        if self.stage == "flow":
            self._judge(entry)
        self.epoch += 1
        return entry

    def take_best(self) -> None:
        """Put the weights that are to be kept into the model."""
        self._load(self._averaged if self._best is None else self._best)

    def _terms(self, now: Tensor, weighted: Tensor, scale: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms of the loss: prediction from pairs as they are, regularisation from Boltzmann-weighted frames."""
        model, d = self.model, self.model.latent_dim

        def noise(frames: Tensor) -> Tensor:
            return torch.randn(len(frames), d, generator=generator, device=frames.device)

        if self.density is not None:
            u = self.density.blurred(self._mu[weighted], noise(weighted))
            return {"loss": -self.density.log_prob(u, scale).mean()}
        u = model.noisy(model.mean(self.frames.rows(now)), noise(now))
        prediction = model.prediction(u, self.labels[now + self.frames.dataset.lag])
        blur = noise(weighted)
        u = model.noisy(model.mean(self.frames.rows(weighted)), blur)
        prior = "mixture" if self.stage == "states" else "flow"
        regularisation = model.regularisation(u, blur, scale, prior)
        loss = prediction + model.settings.beta * regularisation
        return {"loss": loss, "prediction": prediction, "regularisation": regularisation}

    @torch.no_grad()
    def _average(self) -> None:
        self._steps += 1
        memory = min(AVERAGING, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averaged, [p.detach() for p in self.trained], 1 - memory)

    @torch.no_grad()
    def _load(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.trained, values):
            parameter.copy_(value)

    @torch.no_grad()
    def _judge(self, entry: dict) -> None:
        """Score the averaged weights on held-out blocks; lower the rate, or finish, where they gain nothing."""
        present = [p.detach().clone() for p in self.trained]
        self._load(self._averaged)
        if self._held_drawn is not None:
            entry |= {f"validation_{name}": value for name, value in self._on_held().items()}
        score = entry.get("validation_loss", entry["loss"])
        if score < self._score - IMPROVEMENT:
            self._score, self._since, self._best = score, 0, [p.clone() for p in self._averaged]
        else:
            self._since += 1
        self._load(present)
        if self._since >= self.settings.patience:
            if self._drops == RATE_DROPS:
                self.finished = True
                return
            self._drops, self._since = self._drops + 1, 0
            for group in self.optimiser.param_groups:
                group["lr"] *= RATE_DROP

    def _on_held(self) -> dict[str, float]:
        # The same noise in every epoch, so that scores differ by the weights alone.
        generator = torch.Generator(device=self.frames.device)
        generator.manual_seed(streams.stream_seed(self.seed, "held noise"))
        sums: dict[str, float] = {}
        pieces = (self._held.split(CHUNK), *(part.split(CHUNK) for part in self._held_drawn))
        for now, weighted, scale in zip(*pieces):
            for name, value in self._terms(now, weighted, scale, generator).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(now) / len(self._held)
        return sums

    def state_dict(self) -> dict:
        """Everything that a new `Fit` of the same stage needs to go on."""
        return copy.deepcopy(
            {
                "optimiser": self.optimiser.state_dict(),
                "averaged": self._averaged,
                "best": self._best,
                "plain": (self._score, self._since, self._drops, self._steps, self.epoch, self.finished),
            }
        )

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self.optimiser.load_state_dict(state["optimiser"])
        device = self.frames.device
        self._averaged = [value.to(device) for value in state["averaged"]]
        self._best = None if state["best"] is None else [value.to(device) for value in state["best"]]
        self._score, self._since, self._drops, self._steps, self.epoch, self.finished = state["plain"]


def is_finite(entry: dict) -> bool:
    """Whether the losses of an epoch are numbers."""
    return bool(np.isfinite(entry["loss"] + entry.get("validation_loss", 0.0)))
