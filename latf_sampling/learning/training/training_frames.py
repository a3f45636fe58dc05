"""Frames of a data set on a device, drawn with their Boltzmann weights at any temperature within reach."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from latf_sampling.analysis.blocks import statistical_inefficiency
from latf_sampling.analysis.bootstrap import Bootstrap, inflation
from latf_sampling.analysis.mbar import Multistate, TemperatureReweighting
from latf_sampling.analysis.mean_energy import MeanEnergyReweighting, reach
from latf_sampling.analysis.weights import kish, systematic
from latf_sampling.core import streams
from latf_sampling.data.dataset import CHUNK, Dataset
from latf_sampling.errors import ExtrapolationWarning, TrainingError
from latf_sampling.settings import ModelSettings, TrainingSettings

MINIMUM_SHARE, MINIMUM_SIZE = 0.03, 200.0
"""A temperature is within reach if the effective sample there is this share of all frames and so many frames; where
frames are few, if it is half as large as at the worst of the simulated temperatures."""
FARTHEST = 2.5
"""Temperatures beyond the simulated ones are within reach at most up to this factor."""
TABLE = 200
"""Temperatures that the effective sample size is computed at, evenly spaced in their logarithm."""
COARSE = 0.5
"""Where the thermodynamic length from one of them to the next is longer than this, as with large energies, others are
added around each simulated temperature,"""
NEAR = np.linspace(-3, 3, 25)
"""at these distances from it in thermodynamic length: the effective sample size is exp(-distance^2) of all frames if
energies are Gaussian."""
RELIABLE_OVERLAP, INDEPENDENT = 0.03, 10.0
"""Energies of neighboring temperatures overlap if the element of the overlap matrix is that large, and so many frames
that are independent of each other are left halfway between them. Without overlap, a temperature with fewer independent
frames than these counts as not simulated: it says next to nothing about mean energies or populations."""
NEXT_TEMPERATURE = 1.1
"""Where one temperature was simulated, its energies have to reach this much higher."""


class TrainingFrames:
    """The frames of a training on its device: their descriptors, and draws by Boltzmann weight.

    Attributes
    ----------
    weights : numpy.ndarray (frames,)
        Weight of each frame in the density at its own temperature, which removes the bias of its simulation.
    biased : numpy.ndarray (frames,)
        Whether a frame comes from a biased simulation, and counts in the density.
    mode : str
        How the flow depends on temperature: "reweighted", "thermodynamic" or "steered".
    overlaps : list of float
        Of the energies at each simulated temperature with those at the next one.
    well_sampled : list of float
        The simulated temperatures, from the lowest, in "thermodynamic" mode those with `INDEPENDENT` frames or more.
    reweighting : Multistate, or None
        Weights at other temperatures; None where temperature enters through the prior alone, and where it is the mean
        energy along a latent space that is not known yet (`reweight_along`).
    reachable : numpy.ndarray (TABLE,)
        Temperatures with enough effective frames, in ascending order and evenly spaced in thermodynamic length, that
        is in how much the distribution changes (Crooks, doi:10.1103/PhysRevLett.99.100602); empty without reweighting.
    """

    def __init__(
        self, dataset: Dataset, model: ModelSettings, training: TrainingSettings, seed: int, device: torch.device
    ) -> None:
        self.dataset, self.device, self.seed = dataset, device, seed
        self._x = dataset.x.to(device) if self._fits() else None
        self.weights = dataset.weights.numpy()
        self.temperatures = dataset.temperatures.numpy()
        self.biased = dataset.biased & (self.weights > 0)
        if training.balance_temperatures:
            self.weights = self._balanced_weights()
        self.reference = model.reference_temperature
        self._scale = (dataset.temperatures / self.reference).float().to(device)
        self.reweighting: Multistate | None = None
        self.reachable = np.empty(0)
        self.overlaps: list[float] = []
        self.well_sampled: list[float] = np.unique(self.temperatures[self.weights > 0]).tolist()
        self.minimum_effective_size = max(MINIMUM_SHARE * dataset.frames, MINIMUM_SIZE)
        self.mode = "steered"
        if model.temperature_mode != "steered":
            self._choose_mode(model.temperature_mode)

    def _fits(self) -> bool:
        """Whether all descriptors fit on the device; otherwise every batch is read from the data set."""
        if any(series.mapped for series in self.dataset.series):
            return False
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        return 4 * self.dataset.frames * self.dataset.n_features < free // 2

    def rows(self, frames: Tensor) -> Tensor:
        """Descriptors of some frames (n,); (n, F)."""
        if self._x is not None:
            return self._x[frames]
        return self.dataset.rows(frames.cpu()).to(self.device)

    @torch.no_grad()
    def evaluate(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the descriptors of all frames, evaluated piece by piece."""
        frames = torch.arange(self.dataset.frames, device=self.device)
        return torch.cat([function(self.rows(part)) for part in frames.split(CHUNK)])

    def with_weight(self, pairs: Tensor) -> Tensor:
        """The pairs whose first frame counts; a weight of zero excludes a frame."""
        return pairs[self.dataset.counted[pairs]].to(self.device)

    @property
    def spread_weights(self) -> np.ndarray:
        """Weight of each frame in the spread of the latent space; (frames,).

        Half of it is in the biased frames, if there are any, all alike. They reach far beyond those of high weight, and
        the flow has to act where they are.
        """
        weights = self.weights / self.weights.sum()
        return 0.5 * (weights + self.biased / self.biased.sum()) if self.biased.any() else self.weights

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Weighted mean of each descriptor, and the inverse of its standard deviation; (F,) each.

        Raises
        ------
        TrainingError
            Values are so large that their squares overflow; names the column.
        """
        share = torch.from_numpy(self.weights / self.weights.sum()).to(self.device)
        zero = self.rows(torch.zeros(1, dtype=torch.int64, device=self.device))[0].double()
        first, second = torch.zeros_like(zero), torch.zeros_like(zero)
        for part in torch.arange(self.dataset.frames, device=self.device).split(CHUNK):
            x = self.rows(part).double() - zero  # relative to the first frame, so that a large mean cancels no variance
            first, second = first + share[part] @ x, second + share[part] @ x.square()
        deviation = torch.sqrt(torch.clamp(second - first.square(), min=0.0))
        fine = deviation < torch.finfo(torch.float32).max ** 0.5
        if not fine.all():
            raise TrainingError(
                f"train: values in column {int(fine.int().argmin())} of the descriptors are too large; look for "
                "outliers."
            )
        mean = first + zero
        # The scale of a constant column stays 1, so that rounding noise is not amplified.
        varies = deviation > 1e-5 * (1 + mean.abs())
        return mean, torch.where(varies, 1 / torch.where(varies, deviation, 1.0), 1.0)

    # Temperatures

    def draw(
        self,
        frames: Tensor,
        weights: np.ndarray,
        rng: np.random.Generator,
        spread: int,
        reweighting: Multistate | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw frames by their Boltzmann weights, as many as there are to draw from.

        Parameters
        ----------
        frames
            Indices to draw from (n,).
        weights
            Weight of each frame of the data set at its own temperature (frames,).
        rng
            Generator of the draws.
        spread
            Number of temperatures to draw at, among those within reach; without reweighting each frame keeps its own.
        reweighting
            Weights at other temperatures; None takes those of all frames.

        Returns
        -------
        tuple of Tensor
            Indices (n,) in random order, and s = T / T0 of each (n,).
        """
        allowed = frames.cpu().numpy()
        order = rng.permutation(len(allowed))
        reweighting = self.reweighting if reweighting is None else reweighting
        if reweighting is None:
            sample = allowed[systematic(weights[allowed], len(allowed), rng)][order]
            drawn = torch.from_numpy(sample).to(self.device)
            return drawn, self._scale[drawn]
        spread = min(spread, max(1, len(allowed) // 8))
        edges = np.linspace(0, len(self.reachable) - 1, spread + 1)
        places = edges[:-1] + rng.random(spread) * np.diff(edges)
        temperatures = np.interp(places, np.arange(len(self.reachable)), self.reachable)
        counts = np.diff(np.linspace(0, len(allowed), spread + 1).astype(int))
        relative = weights[allowed] / np.where(self.weights[allowed] > 0, self.weights[allowed], 1.0)
        parts = []
        for temperature, count in zip(temperatures, counts):
            log = reweighting.log_weights(temperature)[allowed]
            parts.append(systematic(relative * np.exp(log - log.max()), count, rng))
        drawn = torch.from_numpy(allowed[np.concatenate(parts)][order]).to(self.device)
        scale = np.repeat(temperatures, counts)[order] / self.reference
        return drawn, torch.from_numpy(scale).float().to(self.device)

    def log_weights(self, temperature: float, weights: np.ndarray, reweighting: Multistate | None = None) -> np.ndarray:
        """ln of each frame's weight at a temperature, from its weight at its own; -inf where it has none; (frames,)."""
        with np.errstate(divide="ignore"):
            log = np.log(weights)
        reweighting = self.reweighting if reweighting is None else reweighting
        if reweighting is None:
            return np.where(self.temperatures == temperature, log, -np.inf)
        counted = self.weights > 0
        relative = log[counted] - np.log(self.weights[counted])
        log[counted] = relative + reweighting.log_weights(temperature)[counted]
        return log

    def effective_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Inverse temperatures in ascending order, and the effective sample size at each."""
        if self.mode == "steered":
            # Frames count at their own temperature and nowhere else: the table has a narrow peak at each.
            simulated = np.unique(self.temperatures[self.weights > 0])[::-1]
            sizes = [kish(self.weights[self.temperatures == temperature]) for temperature in simulated]
            peaks = np.multiply.outer(1 / simulated, 1 + 1e-4 * np.array([-2, -1, 1, 2]))
            return peaks.ravel(), np.multiply.outer(sizes, [0.0, 1.0, 1.0, 0.0]).ravel()
        simulated = np.unique(self.temperatures[self.weights > 0])
        low, high = 1 / (FARTHEST * simulated[-1]), FARTHEST / simulated[0]
        points = [np.geomspace(low, high, TABLE)]
        step = np.log(high / low) / (TABLE - 1)
        if isinstance(self.reweighting, TemperatureReweighting):
            for temperature in simulated:
                speed = np.sqrt(self.reweighting.heat_capacity(temperature))  # thermodynamic length by ln T
                if speed * step > COARSE:
                    near = (1 + NEAR / speed) / temperature
                    points.append(near[(low <= near) & (near <= high)])
        apart = self.reweighting is not None and self.reweighting.groups.any()
        if apart:  # there may be frames at the simulated temperatures and nowhere else
            points.append(1 / simulated)
        inverse = np.unique(np.concatenate(points))
        if self.reweighting is None:
            return inverse, np.zeros(len(inverse))
        temperatures = 1 / inverse
        if apart:
            temperatures[np.searchsorted(inverse, 1 / simulated)] = simulated  # without the rounding of 1 / (1 / T)
        return inverse, np.array([self.reweighting.effective_sample_size(value) for value in temperatures])

    def resampled(self, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Weights of the frames in a bootstrap sample of the data set's blocks; (frames,).

        Parameters
        ----------
        states
            State of each frame (frames,), by which it is known how far correlation reaches over the blocks.
        rng
            Draws the weights of the blocks.
        """
        blocks, used = self.dataset.blocks, self.weights > 0
        factors = inflation(states, self.temperatures, self.weights, blocks, [len(s) for s in self.dataset.series])
        bootstrap = Bootstrap(blocks[used], self.temperatures[used], factors)
        weights = np.zeros(len(self.weights))
        weights[used] = self.weights[used] * bootstrap.draw(rng, 1)[0][bootstrap.index]
        return weights

    def reweight_along(self, points: np.ndarray) -> None:
        """Set up the weights at other temperatures by the mean energy at points (frames, d) of the latent space."""
        rng = streams.stream(self.seed, "reweighting")
        self.reweighting = self._mean_energies(points, self.weights, rng)
        self._points = points
        self._set_reach(self.reweighting)

    def resampled_reweighting(self, weights: np.ndarray, rng: np.random.Generator) -> MeanEnergyReweighting:
        """The same from frames of other weights (frames,), as those of a bootstrap sample."""
        first = self.reweighting
        assert isinstance(first, MeanEnergyReweighting), "only mean energies are determined anew"
        return self._mean_energies(self._points, weights, rng, first)

    def _mean_energies(
        self,
        points: np.ndarray,
        weights: np.ndarray,
        rng: np.random.Generator,
        first: MeanEnergyReweighting | None = None,
    ) -> MeanEnergyReweighting:
        assert self.dataset.energies is not None, "there is no such mode without energies"
        return MeanEnergyReweighting(
            points,
            self.dataset.energies,
            self.temperatures,
            self.dataset.effective_weights(weights),
            self.dataset.boltzmann,
            rng,
            self.dataset.blocks,
            None if first is None else first.basis,
            None if first is None else first.amplitude,
        )

    def _choose_mode(self, wanted: str) -> None:
        if self.dataset.energies is None:
            warnings.warn(
                "train: frames carry no energies, so that temperature enters through the prior alone, as with "
                "temperature_mode='steered', which misplaces populations. Give Series(energies=...) to reweight frames "
                "in temperature.",
                stacklevel=5,
            )
            return
        if wanted != "thermodynamic":
            reweighting = self.dataset.reweighting(streams.stream(self.seed, "reweighting"), self.weights)
            used = reweighting.counts > 0
            self.overlaps = [float(value) for value in reweighting.overlaps[np.flatnonzero(used)[:-1]]]
            if wanted == "reweighted":
                self._warn_of_gaps(reweighting.temperatures[used])
            if wanted == "reweighted" or self._energies_overlap(reweighting):
                self.mode, self.reweighting = "reweighted", reweighting
                self._set_reach(reweighting)
                return
        self.mode = "thermodynamic"
        self.reachable = np.array(reach(self.temperatures[self.weights > 0]))
        self._require_independent_frames()

    def _require_independent_frames(self) -> None:
        """Keep the temperatures with enough independent frames as `well_sampled`, and warn of others."""
        series = [entry for entry in self.dataset.series if entry.in_density and entry.energies is not None]
        few = []
        for temperature in self.well_sampled:
            parts = [entry.energies for entry in series if entry.temperature == temperature]
            size = kish(self.weights[self.temperatures == temperature])
            size /= statistical_inefficiency([part - part.mean() for part in parts if part is not None])
            if size < INDEPENDENT:
                few.append((temperature, size))
        self.well_sampled = [value for value in self.well_sampled if value not in dict(few)]
        if few:
            named = " and ".join(f"{value:g} has {size:.0f}" for value, size in few)
            warnings.warn(
                f"train: a temperature needs {INDEPENDENT:g} independent frames or more to say what happens between it "
                f"and the others; {named}, so that the model extrapolates beyond the others. Simulate longer there.",
                ExtrapolationWarning,
                stacklevel=6,
            )

    def _warn_of_gaps(self, simulated: np.ndarray) -> None:
        """Warn of neighboring temperatures between which there are no frames by their energies."""
        gaps = [
            f"{low:g} and {high:g} ({overlap:.2g})"
            for low, high, overlap in zip(simulated[:-1], simulated[1:], self.overlaps)
            if overlap < RELIABLE_OVERLAP
        ]
        if gaps:
            warnings.warn(
                f"train: energies of frames at {', '.join(gaps)} hardly overlap, where {RELIABLE_OVERLAP:g} is "
                "reliable, and populations between these temperatures will be guesses; "
                "temperature_mode='thermodynamic' needs no overlap.",
                ExtrapolationWarning,
                stacklevel=6,
            )

    def _energies_overlap(self, reweighting: TemperatureReweighting) -> bool:
        """Whether the energies of neighboring temperatures have enough in common to weigh frames by them."""
        simulated = reweighting.temperatures[reweighting.counts > 0]
        if len(simulated) == 1:
            share = reweighting.effective_sample_size(NEXT_TEMPERATURE * simulated[0]) / reweighting.counts.sum()
            return share >= MINIMUM_SHARE
        if min(self.overlaps) < RELIABLE_OVERLAP:
            return False
        energies, series = self.dataset.energies, self.dataset.series
        assert energies is not None, "weights come from them"
        parts = np.split(energies, np.cumsum([len(entry) for entry in series])[:-1])
        between = np.sqrt(simulated[1:] * simulated[:-1])
        fewest = min(reweighting.effective_sample_size(temperature) for temperature in between)
        return fewest / statistical_inefficiency([part - part.mean() for part in parts]) >= INDEPENDENT

    def _set_reach(self, reweighting: Multistate) -> None:
        """Find the temperatures with enough effective frames."""
        simulated = reweighting.temperatures[reweighting.counts > 0]
        worst = min(reweighting.effective_sample_size(value) for value in simulated)
        self.minimum_effective_size = min(self.minimum_effective_size, 0.5 * worst)
        inverse, sizes = self.effective_sizes()
        enough = np.flatnonzero(sizes >= self.minimum_effective_size)[::-1]
        reachable = 1 / inverse[enough]
        speed = np.sqrt([reweighting.heat_capacity(temperature) for temperature in reachable])
        steps = 0.5 * (speed[1:] + speed[:-1]) * np.diff(np.log(reachable))
        steps[np.diff(enough) < -1] = 0.0  # there are no draws in a gap between temperatures within reach
        length = np.concatenate([[0.0], np.cumsum(steps)])
        if not length[-1] > 0:
            reachable = length = simulated  # energies that overlap nowhere leave the simulated temperatures
        self.reachable = np.interp(np.linspace(length[0], length[-1], TABLE), length, reachable)

    def _balanced_weights(self) -> np.ndarray:
        """Weights with the same sum at each temperature."""
        _, which = np.unique(self.temperatures, return_inverse=True)
        sums = np.bincount(which, self.weights)
        return self.weights / np.where(sums > 0, sums, 1.0)[which] * len(self.weights) / np.count_nonzero(sums)
