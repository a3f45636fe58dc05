"""Time-lagged pairs that never cross a trajectory's end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from latf_sampling.errors import DataError
from latf_sampling.units import KB, to_float

BLOCKS = 10
"""Each series is cut into so many blocks; whole blocks are held out for validation."""


class Series:
    """One continuous trajectory of descriptors.

    Parameters
    ----------
    x
        Descriptors (frames, F), evenly spaced in time.
    temperature
        Temperature of the simulation: K, an `openmm.unit.Quantity`, or in reduced units with `Dataset(boltzmann=1.0)`.
    weights
        Weight of each frame (frames,) where the simulation was biased; none is 1 for all.
    labels
        State index of each frame (frames,); none lets training make many small clusters.
    energies
        Potential energy of each frame without bias, kJ/mol (frames,), for reweighting in temperature.

    Raises
    ------
    DataError
        Wrong shapes, or a value that is not finite; names the frame and the column.

    Examples
    --------
    >>> series = Series(np.random.default_rng(0).normal(size=(100, 3)), temperature=300.0)
    >>> len(series)
    100
    """

    def __init__(self, x, temperature: float = 300.0, weights=None, labels=None, energies=None) -> None:
        self.x = np.ascontiguousarray(_array(x), dtype=np.float32)
        if self.x.ndim != 2 or 0 in self.x.shape:
            raise DataError(f"Series: x must have the shape (frames, descriptors); got {self.x.shape}.")
        bad = np.argwhere(~np.isfinite(self.x))
        if len(bad):
            raise DataError(
                f"Series: x is not finite in frame {bad[0][0]}, column {bad[0][1]} ({len(bad)} such values)."
            )
        self.temperature = to_float(temperature, "temperature", "Series: temperature")
        if self.temperature <= 0:
            raise DataError(f"Series: temperature must be positive; got {temperature}.")
        # Double, since exp(V / kT) of a high bias is beyond single precision before the mean is divided out.
        self.weights = self._per_frame(weights, "weights", np.float64, 1.0)
        if (self.weights < 0).any() or self.weights.sum() <= 0:
            raise DataError("Series: weights must not be negative, and some must be positive.")
        self.labels = None if labels is None else self._per_frame(labels, "labels", np.int64, 0)
        if self.labels is not None and self.labels.min() < 0:
            raise DataError(
                f"Series: labels must be state indices from 0; frame {self.labels.argmin()} has {self.labels.min()}."
            )
        self.energies = None if energies is None else self._per_frame(energies, "energies", np.float64, 0.0)

    def __len__(self) -> int:
        return len(self.x)

    def _per_frame(self, values, name: str, dtype: type, default: float) -> np.ndarray:
        if values is None:
            return np.full(len(self.x), default, dtype)
        values = _array(values)
        if values.shape != (len(self.x),):
            raise DataError(
                f"Series: {name} must have one value for each of the {len(self.x)} frames; got {values.shape}."
            )
        if not np.isfinite(values).all():
            raise DataError(f"Series: {name} is not finite in frame {np.argmin(np.isfinite(values))}.")
        converted = values.astype(dtype)
        if dtype is np.int64 and (converted != values).any():
            raise DataError(f"Series: {name} must be whole numbers; frame {np.argmax(converted != values)} has others.")
        return converted


class Dataset:
    """All series of a training, with the pairs (t, t + lag) inside each of them.

    Parameters
    ----------
    series
        Trajectories with the same descriptors.
    lag
        Lag in frames.
    boltzmann
        Boltzmann constant in the unit of energies per unit of temperature: `KB`, or 1.0 for reduced units.

    Attributes
    ----------
    x : Tensor (frames, F) float32; weights : Tensor (frames,) of mean 1; temperatures : Tensor (frames,)
        All series one after the other.
    first : Tensor (pairs,)
        Frame index t of each pair; its partner is t + lag.
    labels : Tensor (frames,) int64, or None

    Raises
    ------
    DataError
        Series that do not fit together, or all too short for the lag.

    Examples
    --------
    >>> dataset = Dataset([Series(np.zeros((10, 2)))], lag=3)
    >>> len(dataset)
    7
    """

    def __init__(self, series: Sequence[Series], lag: int, boltzmann: float = KB) -> None:
        series = list(series)
        if not series:
            raise DataError("Dataset: no series given.")
        if lag < 1 or int(lag) != lag:
            raise DataError(f"Dataset: lag must be a whole number of frames, at least 1; got {lag}.")
        widths = {entry.x.shape[1] for entry in series}
        if len(widths) > 1:
            raise DataError(f"Dataset: series have different numbers of descriptors: {sorted(widths)}.")
        if len({entry.labels is None for entry in series}) > 1:
            raise DataError("Dataset: either all series carry labels or none.")
        longest = max(len(entry) for entry in series)
        if longest <= lag:
            raise DataError(f"Dataset: the longest series has {longest} frames; a lag of {lag} leaves no pair.")
        self.series, self.lag, self.boltzmann = series, int(lag), float(boltzmann)
        lengths = np.array([len(entry) for entry in series])
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self.x = torch.from_numpy(np.concatenate([entry.x for entry in series]))
        weights = np.concatenate([entry.weights for entry in series])
        self.weights = torch.from_numpy((weights / weights.mean()).astype(np.float32))
        self.temperatures = torch.from_numpy(
            np.repeat([entry.temperature for entry in series], lengths).astype(np.float32)
        )
        labelled = series[0].labels is not None
        self.labels = torch.from_numpy(np.concatenate([entry.labels for entry in series])) if labelled else None
        starts = [
            offset + np.arange(max(length - self.lag, 0)) for offset, length in zip(offsets, lengths, strict=True)
        ]
        self.first = torch.from_numpy(np.concatenate(starts))
        within = np.concatenate([np.arange(length) * BLOCKS // length for length in lengths])
        self._block = np.repeat(np.arange(len(series)) * BLOCKS, lengths) + within

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.first)

    def split(
        self, fraction: float, rng: np.random.Generator, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Split the pairs into training and validation by whole blocks of consecutive frames.

        Pairs with one foot in a held-out block and one outside belong to neither part. A block that carries more
        than a quarter of a state's frames is never held out, so that a state visited once is still learned.

        Parameters
        ----------
        fraction
            Share of the blocks to hold out.
        rng
            Chooses them.
        labels
            State index of each frame (frames,); none treats all blocks alike.

        Returns
        -------
        tuple of Tensor
            Frame indices t of the training and of the validation pairs.
        """
        blocks = np.unique(self._block)
        wanted = max(1, round(fraction * len(blocks)))
        if labels is not None:
            labels = labels.cpu().numpy()
            counts = np.zeros((len(blocks), labels.max() + 1))
            np.add.at(counts, (np.searchsorted(blocks, self._block), labels), 1)
            blocks = blocks[(counts <= 0.25 * counts.sum(0)).all(1)]
        chosen = rng.choice(blocks, size=min(wanted, len(blocks)), replace=False)
        held = torch.from_numpy(np.isin(self._block, chosen))
        now, later = held[self.first], held[self.first + self.lag]
        return self.first[~now & ~later], self.first[now & later]


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
