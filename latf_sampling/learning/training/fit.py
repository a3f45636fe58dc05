"""One optimization: a stage of training, epoch by epoch."""

from __future__ import annotations

import copy
import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.analysis.mbar import Multistate
from latf_sampling.core import streams
from latf_sampling.data.dataset import CHUNK
from latf_sampling.learning.flow import LatentFlow
from latf_sampling.learning.networks import Networks
from latf_sampling.learning.training.shape import PAIRS, StatePairs, lines_between, slowness, unevenness
from latf_sampling.learning.training.tilted import POOL, Sample, TiltedEnsemble
from latf_sampling.learning.training.training_frames import TrainingFrames
from latf_sampling.settings import TrainingSettings

BATCHES, SMALLEST_BATCH = 100, 32
"""An epoch of few pairs is cut into so many batches, of at least so many pairs; with fewer it would hardly train."""
TEMPERATURES, HELD_TEMPERATURES = 64, 8
"""Temperatures that frames are drawn at: new ones in each epoch for training, always the same ones for validation."""
AVERAGING = 0.998
"""Memory of the running average of the weights, which the model takes: it gains much of what a lower rate would."""
IMPROVEMENT = 1e-3
"""Nats that the score on held-out blocks must gain to count as better."""
FLOW_RATE = 2.5
"""Learning rate of the flow alone, on a fixed encoder, relative to that of the other stages."""
RATE_DROP, RATE_DROPS = 0.2, 1
"""Where the score no longer improves, the learning rate falls by this factor, so many times, before the fit ends."""
TILTED_SHARE = 0.5
"""Points of the tilted ensemble in a batch, relative to its frames; each costs as much, and another for Z does too."""
TILTED_WEIGHT = 0.25
"""Weight of the likelihood in the tilted ensemble: smaller than that of the density itself, to which it adds noise in
the wells."""
STREAMS = {"refit": "whole"}
"""Streams of random numbers whose name is not that of their stage: a stream that is renamed gives other numbers."""

Tilted = tuple[TiltedEnsemble, Sample]
"""An ensemble, and what was drawn for the likelihood in it."""


class Fit:
    """Trains the parts of a model that belong to a stage.

    "states" trains encoder and decoder with the mixture prior, "joint" both with the flow, each for a fixed number of
    epochs. "flow" trains the flow alone on the finished encoder, takes the weights with the best score on held-out
    blocks, and is `finished` when this score no longer improves. "refit" continues with all frames at the lower rate,
    and "ensemble" trains one member of the ensemble on a bootstrap sample.

    Where there are frames of biased simulations, the loss of the flow alone has a second term: the likelihood in the
    ensemble of `TiltedEnsemble` at each of their temperatures, in which barriers have as many frames as wells.

    Attributes
    ----------
    epoch : int
        Number of epochs done.
    finished : bool
    """

    def __init__(
        self,
        networks: Networks,
        frames: TrainingFrames,
        labels: Tensor,
        training: Tensor,
        held: Tensor,
        stage: str,
        iteration: int,
        seed: int,
        settings: TrainingSettings,
    ) -> None:
        self.networks, self.frames, self.labels, self.training = networks, frames, labels, training
        self.stage, self.iteration, self.seed, self.settings = stage, iteration, seed, settings
        self.epoch, self.finished = 0, False
        self.batch = min(settings.batch_size, max(SMALLEST_BATCH, len(training) // BATCHES))
        self.density: LatentFlow | None = None  # the flow that is trained alone, on the finished encoder
        if stage in ("flow", "refit", "ensemble"):
            self.density = cast(LatentFlow, networks.ensemble[iteration]) if stage == "ensemble" else networks.flow
            self._mu = frames.evaluate(networks.mean)
        else:
            temperatures = np.unique(frames.temperatures, return_inverse=True)[1]
            self._temperatures = torch.from_numpy(temperatures).to(frames.device)
            predicted = np.where(frames.weights > 0, np.sqrt(frames.weights), 1.0)
            self._slow_weights, self._predicted_weights = (
                torch.from_numpy(weights).float().to(frames.device) for weights in (frames.weights, predicted)
            )
            self._state_pairs = StatePairs(training, labels)
        self.parameters = self._parameters()
        encoder = set(networks.encoder.parameters())
        groups = [
            {"params": [p for p in self.parameters if p in encoder], "weight_decay": settings.encoder_decay},
            {"params": [p for p in self.parameters if p not in encoder], "weight_decay": 0.0},
        ]
        rate = settings.learning_rate * {"flow": FLOW_RATE, "refit": RATE_DROP * FLOW_RATE}.get(stage, 1.0)
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)
        self._weights = frames.weights
        self._reweighting = frames.reweighting
        if stage == "ensemble":
            self._weights = frames.resampled(labels.cpu().numpy(), streams.stream(seed, "bootstrap", iteration))
            if frames.mode == "thermodynamic":  # the energies are part of what the error comes from
                rng = streams.stream(seed, "mean energies", iteration)
                self._reweighting = frames.resampled_reweighting(self._weights, rng)
                self._weights = frames.weights
        self._tilted = [] if self.density is None else self._tilted_ensembles(self.density)
        self._averaged = [p.detach().clone() for p in self.parameters]
        self._best: list[Tensor] | None = None
        self._score, self._since, self._drops, self._steps = float("inf"), 0, 0, 0
        self._held = held
        self._held_drawn: tuple[Tensor, Tensor] | None = None
        self._held_tilted: list[Tilted] = []
        if stage == "flow" and frames.weights[held.cpu().numpy()].any():
            rng = streams.stream(seed, "held")
            self._held_drawn = frames.draw(held, frames.weights, rng, HELD_TEMPERATURES)
            generator, size = self._generator("held tilted"), max(1, round(TILTED_SHARE * len(held)))
            for each in self._tilted:  # independent of the present flow, so that scores differ by the weights alone
                for points in self._draw(each, held, size, rng, generator):
                    self._held_tilted.append((each, Sample(points, *each.propose(min(POOL, 4 * size), generator))))

    def _parameters(self) -> list[nn.Parameter]:
        networks = self.networks
        if self.density is not None:
            return list(self.density.parameters())
        parts = (networks.encoder, networks.decoder, networks.mixture if self.stage == "states" else networks.flow)
        return [networks.log_variance, *(p for part in parts for p in part.parameters())]

    def _generator(self, *names: str | int) -> torch.Generator:
        generator = torch.Generator(device=self.frames.device)
        generator.manual_seed(streams.stream_seed(self.seed, *names))
        return generator

    def _tilted_ensembles(self, flow: LatentFlow) -> list[TiltedEnsemble]:
        """One for each temperature of biased simulations."""
        frames, ensembles = self.frames, []
        training = self.training.cpu().numpy()
        for number, temperature in enumerate(np.unique(frames.temperatures[training][frames.biased[training]])):
            # The ensemble is that of all frames, also where some are drawn that do not have all of them.
            biased, log_weights = self._biased(self.training, temperature, frames.weights, frames.reweighting)
            rng = streams.stream(self.seed, "tilted", number)
            ensembles.append(TiltedEnsemble(flow, self._mu[biased], log_weights, temperature, frames.reference, rng))
        return ensembles

    def _biased(
        self, frames: Tensor, temperature: float, weights: np.ndarray, reweighting: Multistate | None
    ) -> tuple[Tensor, np.ndarray]:
        """Those of some frames that come from biased simulations at a temperature, and ln of their weights there.

        Others would add noise: where a bias has brought many frames of little weight, a frame of another simulation has
        a weight as large as theirs together.
        """
        indices = frames.cpu().numpy()
        indices = indices[self.frames.biased[indices] & (self.frames.temperatures[indices] == temperature)]
        log_weights = self.frames.log_weights(temperature, weights, reweighting)
        return torch.from_numpy(indices).to(frames.device), log_weights[indices]

    def _draw(
        self, ensemble: TiltedEnsemble, frames: Tensor, n: int, rng: np.random.Generator, generator: torch.Generator
    ) -> list[Tensor]:
        """Points (n, d) of an ensemble, drawn from frames of some indices; nothing where none has a weight."""
        biased, log_weights = self._biased(frames, ensemble.temperature, self._weights, self._reweighting)
        if n == 0 or not np.isfinite(log_weights).any():
            return []
        return [ensemble.draw(self._mu[biased], log_weights, n, rng, generator)]

    def _tilted_batches(self, count: int, rng: np.random.Generator, generator: torch.Generator) -> list[Tilted | None]:
        """So many batches of tilted ensembles, of one after the other; None where nothing was biased."""
        batches: list[Tilted | None] = [None] * count
        size = max(1, round(TILTED_SHARE * self.batch))
        for number, ensemble in enumerate(self._tilted):
            places = range(number, count, len(self._tilted))
            for points in self._draw(ensemble, self.training, size * len(places), rng, generator):
                sample = Sample(points, *ensemble.propose_for(len(points), rng, generator))
                for place, part in zip(places, sample.split(len(places))):
                    batches[place] = ensemble, part
        return batches

    def run_epoch(self) -> dict:
        """Train for one epoch; returns its entry in the history."""
        names = (STREAMS.get(self.stage, self.stage), self.iteration, self.epoch)
        rng, generator = streams.stream(self.seed, *names), self._generator(*names, "noise")
        pairs = self.training[torch.from_numpy(rng.permutation(len(self.training))).to(self.training.device)]
        drawn, scale = self.frames.draw(self.training, self._weights, rng, TEMPERATURES, self._reweighting)
        sums: dict[str, Tensor] = {}
        pieces = (pairs.split(self.batch), drawn.split(self.batch), scale.split(self.batch))
        batches = self._tilted_batches(len(pieces[0]), rng, generator)
        for now, weighted, s, tilted in zip(*pieces, batches):
            terms = self._terms(now, weighted, s, generator, tilted)
            self.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 10.0)
            self.optimizer.step()
            self._average()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * (len(now) / len(pairs))
        entry = {"stage": self.stage, "iteration": self.iteration, "epoch": self.epoch}
        entry |= {"states": self.networks.n_states, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        entry |= {name: float(value) for name, value in sums.items()}
        if self.stage == "flow":
            self._validate(entry)
        self.epoch += 1
        return entry

    def take_best(self) -> None:
        """Put the best weights, or without validation the averaged ones, into the model."""
        self._load(self._averaged if self._best is None else self._best)

    def _terms(
        self, now: Tensor, weighted: Tensor, scale: Tensor, generator: torch.Generator, tilted: Tilted | None = None
    ) -> dict[str, Tensor]:
        """Terms of the loss: prediction and shape from lagged pairs, regularization from Boltzmann-weighted frames.

        Of the flow alone: its -ln p, which is the loss, and where there is one its -ln p in a tilted ensemble.
        """
        networks, d = self.networks, self.networks.latent_dim

        def noise(frames: Tensor) -> Tensor:
            return torch.randn(len(frames), d, generator=generator, device=frames.device)

        if self.density is not None:
            u = self.density.blurred(self._mu[weighted], noise(weighted))
            loss = -self.density.log_prob(u, scale).mean()
            if tilted is None:
                return {"loss": loss}
            ensemble, sample = tilted
            term = ensemble.loss(sample)
            return {"loss": loss + TILTED_WEIGHT * term, "tilted": term}
        mu = networks.mean(self.frames.rows(now))
        y, weights = self.labels[now + self.frames.dataset.lag], self._predicted_weights[now]
        prediction = networks.prediction(networks.noisy(mu, noise(now)), y, weights)
        blur = noise(weighted)
        u = networks.noisy(networks.mean(self.frames.rows(weighted)), blur)
        prior = "mixture" if self.stage == "states" else "flow"
        terms = {"prediction": prediction, "regularization": networks.regularization(u, blur, scale, prior)}
        terms |= self._shape_terms(now, mu, generator)
        # The more states there are to predict, the less would the shape count: with seven of the alanine tetrapeptide
        # walkers crossed a third as often.
        pairs_of_states = math.comb(networks.n_states, 2)
        weights = {
            "prediction": 1.0 / pairs_of_states,
            "regularization": networks.settings.beta / pairs_of_states,
            "slowness": -self.settings.slowness,
            "unevenness": self.settings.evenness,
        }
        return {"loss": torch.stack([weights[name] * value for name, value in terms.items()]).sum(), **terms}

    def _shape_terms(self, now: Tensor, mu: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Terms of the loss that shape the encoder, whose values at the frames `now` are mu (n, d)."""
        terms: dict[str, Tensor] = {}
        if self.settings.slowness > 0:
            if len(now) >= SMALLEST_BATCH:
                later = self.networks.mean(self.frames.rows(now + self.frames.dataset.lag))
                terms["slowness"] = slowness(mu, later, self._temperatures[now], self._slow_weights[now])
            else:  # the rest of the frames, of which correlations would be those of chance
                terms["slowness"] = torch.zeros_like(mu[0, 0])
        if self.settings.evenness > 0:
            terms["unevenness"] = torch.ones_like(mu[0, 0])
            if len(self._state_pairs) > 1:
                one, other = (self.frames.rows(side) for side in self._state_pairs.draw(PAIRS, generator))
                terms["unevenness"] = unevenness(self.networks.mean(lines_between(one, other)))
        return terms

    @torch.no_grad()
    def _average(self) -> None:
        self._steps += 1
        memory = min(AVERAGING, (1 + self._steps) / (10 + self._steps))
        present = [p.detach() for p in self.parameters]
        torch._foreach_lerp_(self._averaged, present, 1 - memory)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def _load(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values):
            parameter.copy_(value)

    @torch.no_grad()
    def _validate(self, entry: dict) -> None:
        """Score the averaged weights on held-out blocks; lower the rate, or finish, where they do not improve."""
        current = [p.detach().clone() for p in self.parameters]
        self._load(self._averaged)
        if self._held_drawn is not None:
            terms = self._held_out_terms(*self._held_drawn)
            entry |= {f"validation_{name}": value for name, value in terms.items()}
        score = entry.get("validation_loss", entry["loss"])
        if score < self._score - IMPROVEMENT:
            self._score, self._since, self._best = score, 0, [p.clone() for p in self._averaged]
        else:
            self._since += 1
        self._load(current)
        if self._since >= self.settings.patience:
            if self._drops == RATE_DROPS:
                self.finished = True
                return
            self._drops, self._since = self._drops + 1, 0
            for group in self.optimizer.param_groups:
                group["lr"] *= RATE_DROP

    def _held_out_terms(self, drawn: Tensor, scale: Tensor) -> dict[str, float]:
        # The noise is the same in every epoch, so that scores differ by the weights alone.
        generator = self._generator("held noise")
        sums: dict[str, float] = {}
        pieces = (self._held.split(CHUNK), drawn.split(CHUNK), scale.split(CHUNK))
        for now, weighted, s in zip(*pieces):
            for name, value in self._terms(now, weighted, s, generator).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(now) / len(self._held)
        for ensemble, sample in self._held_tilted:
            sums["tilted"] = sums.get("tilted", 0.0) + float(ensemble.loss(sample)) / len(self._held_tilted)
        if self._held_tilted:
            sums["loss"] += TILTED_WEIGHT * sums["tilted"]
        return sums

    def state_dict(self) -> dict:
        """Everything that a new `Fit` of the same stage needs to continue."""
        return copy.deepcopy(
            {
                "optimizer": self.optimizer.state_dict(),
                "averaged": self._averaged,
                "best": self._best,
                "counters": (self._score, self._since, self._drops, self._steps, self.epoch, self.finished),
            }
        )

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.frames.device
        self._averaged = [value.to(device) for value in state["averaged"]]
        self._best = None if state["best"] is None else [value.to(device) for value in state["best"]]
        self._score, self._since, self._drops, self._steps, self.epoch, self.finished = state["counters"]


def is_finite(entry: dict) -> bool:
    """Whether the losses of an epoch are numbers."""
    return bool(np.isfinite(entry["loss"] + entry.get("validation_loss", 0.0)))
