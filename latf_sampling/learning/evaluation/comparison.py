"""A trained model against data of one temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from latf_sampling.analysis.bootstrap import populations
from latf_sampling.analysis.weights import kish
from latf_sampling.core import streams
from latf_sampling.data.dataset import CHUNK, Series, time_blocks
from latf_sampling.learning.evaluation.histograms import FreeEnergyError, Grid, Histogram, distance, divergence
from latf_sampling.learning.evaluation.populations import model_populations
from latf_sampling.learning.model import LaTF


@dataclass(frozen=True)
class Comparison:
    """A measure of the difference between data and generated samples, with its noise floor.

    Attributes
    ----------
    full : float
        All data against all generated samples.
    half : float
        Half of the data against as many generated samples as that half has effective frames; mean over the halves.
    floor : float
        The two halves of the data, in the order of time, against each other; mean over both directions. It is what
        `half` would be if the model were as good as more of the same data. Both halves have at most as many frames as
        samples were generated.
    """

    full: float
    half: float
    floor: float


@dataclass(frozen=True)
class EvaluationRow:
    """A model against one kind of data at one temperature.

    Held-out blocks are compared with the model before its refit (`LaTF.for_validation`), references with the finished
    model.

    Attributes
    ----------
    kind : str
        "held out" or "reference".
    temperature : float
    frames : int
        Frames with weight.
    effective_frames : float
        Effective number of these frames (Kish). Frames that follow each other closely count in full.
    divergence : Comparison
        Kullback-Leibler divergence of the data's u = mu(x), the collective variable, from generated samples, nats.
    noisy_divergence : Comparison
        The same for mu(x) plus the noise that the flow was trained with (see `blurred`).
    distance : Comparison
        Jensen-Shannon distance of mu(x) and generated samples.
    free_energy, noisy_free_energy : FreeEnergyError or None
        Free energy of the flow minus that of the data's histogram, for mu(x) and with noise; None for d >= 3, where a
        histogram would need more bins than there are frames, and None where no bin is populated.
    populations, model_populations : numpy.ndarray (states,)
        Populations of the data, each frame in the state of its mu(x), and of generated samples.
    errors, model_errors : numpy.ndarray (states,), or None
        Their standard errors: of the data from blocks of time, None with a single block; of the model from the
        ensemble, None without one.
    outside : int
        Number of generated samples that lie neither in nor next to a bin that holds data at any temperature.
    effective_sample_size : float
        Effective number of training frames at this temperature.
    extrapolated : bool
        Whether these are too few for more than a guess.
    histogram, generated : numpy.ndarray (projections,) + (bins,) * min(d, 2)
        Shares of the data's mu(x) and of generated samples in each bin of `Evaluation.edges`.
    """

    kind: str
    temperature: float
    frames: int
    effective_frames: float
    divergence: Comparison
    noisy_divergence: Comparison
    distance: Comparison
    free_energy: FreeEnergyError | None
    noisy_free_energy: FreeEnergyError | None
    populations: np.ndarray
    errors: np.ndarray | None
    model_populations: np.ndarray
    model_errors: np.ndarray | None
    outside: int
    effective_sample_size: float
    extrapolated: bool
    histogram: np.ndarray = field(repr=False, metadata={"picture": True})
    generated: np.ndarray = field(repr=False, metadata={"picture": True})

    @property
    def population_difference(self) -> float:
        """Largest difference between a population of the model and of the data."""
        return float(np.abs(self.populations - self.model_populations).max())


@dataclass(frozen=True)
class LatentFrames:
    """Latent points of frames, in the order of time, series after series.

    Attributes
    ----------
    u, noisy : numpy.ndarray (n, d)
        mu(x), and mu(x) plus the noise that the flow was trained with.
    states : numpy.ndarray (n,)
        Metastable state of each frame.
    weights, temperatures, blocks : numpy.ndarray (n,)
        Weight and temperature of each frame, and the block of time it belongs to.
    """

    u: np.ndarray
    noisy: np.ndarray
    states: np.ndarray
    weights: np.ndarray
    temperatures: np.ndarray
    blocks: np.ndarray

    @classmethod
    def from_series(cls, model: LaTF, series: Sequence[Series], rng: np.random.Generator) -> LatentFrames:
        """Encode series piece by piece; `rng` draws the noise."""
        pieces = [entry.x[first : first + CHUNK] for entry in series for first in range(0, len(entry), CHUNK)]
        u = np.concatenate([model.encode(piece) for piece in pieces])
        return cls(
            u=u,
            noisy=blurred(model, u, rng),
            states=np.concatenate([model.assign(piece) for piece in pieces]),
            weights=np.concatenate([entry.density_weights for entry in series]),
            temperatures=np.repeat([entry.temperature for entry in series], [len(entry) for entry in series]),
            blocks=time_blocks([len(entry) for entry in series]),
        )

    def select(self, frames: np.ndarray) -> LatentFrames:
        """The frames that a mask (n,) or indices name."""
        return LatentFrames(*(getattr(self, name)[frames] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.u)


def blurred(model: LaTF, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """mu(x) (n, d) plus the noise of the last stage that trained the flow.

    It is that of the encoder where the flow was trained only jointly with it, and the flow's blur where then alone.
    """
    noise = rng.standard_normal(u.shape).astype(np.float32)
    with torch.no_grad():
        if model.provenance["training"]["flow_epochs"] > 0:
            return model.networks.flow.blurred(torch.from_numpy(u).float(), torch.from_numpy(noise)).numpy()
        return u + torch.exp(0.5 * model.networks.log_variance).item() * noise


class Comparer:
    """Compares a model with frames, on one grid for all temperatures.

    Parameters
    ----------
    model
        Trained, with a density.
    parts
        All frames at all temperatures, which determine the range of the grid and its occupied bins.
    samples, bins, seed
        As in `latf_sampling.learning.evaluation.evaluate`.
    """

    def __init__(self, model: LaTF, parts: Sequence[LatentFrames], samples: int, bins: int, seed: int) -> None:
        self.model, self.samples, self.seed = model, samples, seed
        self.grid = Grid.around([frames.u for frames in parts], bins)
        self.occupied = np.any([self.grid.occupied(u) for frames in parts for u in (frames.u, frames.noisy)], axis=0)

    def compare(self, kind: str, temperature: float, frames: LatentFrames) -> EvaluationRow:
        """Compare the model at a temperature with at least two frames that all carry weight.

        Warns
        -----
        ExtrapolationWarning
            The temperature is beyond the range of the model.
        """
        model, grid = self.model if kind == "reference" else self.model.for_validation(), self.grid
        generated = model.sample(self.samples, temperature, seed=streams.stream_seed(self.seed, "evaluation"))
        free_energy = noisy_free_energy = None
        if grid.dim <= 2:
            log_shares = grid.log_shares(lambda u: model.log_prob(u, temperature))
            kT = model.boltzmann * temperature
            free_energy, noisy_free_energy = (
                grid.free_energy_error(log_shares, u, frames.weights, kT) for u in (frames.u, frames.noisy)
            )
        rng = streams.stream(self.seed, "evaluation", kind)
        values, errors = populations(frames.states, frames.weights, frames.blocks, model.n_states, rng)
        model_values, model_errors = model_populations(model, temperature)
        return EvaluationRow(
            kind=kind,
            temperature=temperature,
            frames=len(frames),
            effective_frames=kish(frames.weights),
            divergence=self._measure(divergence, frames.u, frames.weights, generated),
            noisy_divergence=self._measure(divergence, frames.noisy, frames.weights, generated),
            distance=self._measure(distance, frames.u, frames.weights, generated),
            free_energy=free_energy,
            noisy_free_energy=noisy_free_energy,
            populations=values,
            errors=errors,
            model_populations=model_values,
            model_errors=model_errors,
            outside=grid.outside(generated, self.occupied),
            effective_sample_size=model.effective_sample_size(temperature),
            extrapolated=model.extrapolates(temperature),
            histogram=self._shares(grid.histogram(frames.u, frames.weights)),
            generated=self._shares(grid.histogram(generated)),
        )

    def _measure(
        self,
        measure: Callable[[Histogram, Histogram], float],
        u: np.ndarray,
        weights: np.ndarray,
        generated: np.ndarray,
    ) -> Comparison:
        histogram, middle = self.grid.histogram, len(u) // 2
        stride = -(-middle // self.samples)  # so that no half has more frames than there are samples
        parts = slice(0, middle, stride), slice(middle, 2 * middle, stride)
        halves = [histogram(u[part], weights[part]) for part in parts]
        sizes = [max(1, min(round(half.size), len(generated))) for half in halves]
        model = [histogram(generated[: sizes[0]]), histogram(generated[len(generated) - sizes[1] :])]
        return Comparison(
            full=measure(histogram(u, weights), histogram(generated)),
            half=float(np.mean([measure(half, other) for half, other in zip(halves, model)])),
            floor=float(np.mean([measure(*halves), measure(*halves[::-1])])),
        )

    def _shares(self, histogram: Histogram) -> np.ndarray:
        """Shares of the bins, without the one for points outside the grid; (projections,) + (bins,) * min(d, 2)."""
        shape = (self.grid.bins,) * len(self.grid.projections[0])
        return histogram.shares[:, :-1].reshape(-1, *shape)
