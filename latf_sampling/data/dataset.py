"""Time-lagged pairs that never cross a trajectory's end."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latf_sampling.analysis.blocks import BLOCKS
from latf_sampling.analysis.mbar import TemperatureReweighting
from latf_sampling.analysis.weights import kish
from latf_sampling.core import arguments
from latf_sampling.core.notebook import ShownInNotebooks, some
from latf_sampling.core.words import plural
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import (
    BAR,
    KB,
    PressureLike,
    QuantityArrayLike,
    TemperatureLike,
    TimeLike,
    parse,
    to_array,
    to_float,
    to_kelvin,
)

CHUNK = 65536
"""Frames that are processed at a time where all of them would not fit into memory."""
HIGHEST_ENERGY = 1e12
"""Energies beyond this are those of overlapping atoms or of a wrong unit; molecules of 1e9 atoms do not reach it."""
FARTHEST_ENERGY = 1e4
"""Distance of an energy from the median of its series, in standard deviations as the quartiles give them, beyond which
the frame is damaged: an energy of heating or of falling into place is some hundred of them away."""


class Series:
    """One trajectory of descriptors, continuous but where walkers exchanged configurations.

    Parameters
    ----------
    x
        Descriptors (frames, F), evenly spaced in time. A float32 `numpy.memmap` stays on the disk and is read when it
        is needed.
    temperature
        Temperature of the simulation: K, an `openmm.unit.Quantity`, or in reduced units with `Dataset(boltzmann=1.0)`.
    weights
        Weight of each frame (frames,) where the simulation was biased; None gives all frames the weight 1.
    labels
        State index of each frame (frames,); None lets training start from many small clusters.
    energies
        Potential energy of each frame without bias, kJ/mol (frames,) or a quantity, for reweighting in temperature. For
        a simulation at constant pressure it is the enthalpy (see `enthalpy`).
    interval
        Time between frames, ps, or a quantity; series with different intervals do not fit in one data set.
    in_density
        Whether the frames count in the density, and not in the prediction of future states alone. False for plain
        dynamics that never left a part of what other simulations visited: it says nothing about the population of this
        part, and its many frames would outweigh the others.
    breaks
        Frames that do not go on from the frame before, such as those after a replica exchange; indices (n,). No
        time-lagged pair spans one.

    Raises
    ------
    DataError
        A shape is wrong, or a value is no number, not finite, or an energy far from all others; the message names the
        frame and the column.
    SettingsError
        The temperature is not above 0, or it is no temperature; or `in_density` is neither True nor False.

    Attributes
    ----------
    breaks : numpy.ndarray (n,) int64
        In ascending order.

    Examples
    --------
    >>> series = Series(np.random.default_rng(0).normal(size=(100, 3)), temperature=300.0)
    >>> len(series)
    100
    """

    def __init__(
        self,
        x: ArrayLike | Tensor,
        temperature: TemperatureLike = 300.0,
        weights: ArrayLike | Tensor | None = None,
        labels: ArrayLike | Tensor | None = None,
        energies: QuantityArrayLike | Tensor | None = None,
        interval: TimeLike | None = None,
        in_density: bool = True,
        breaks: ArrayLike | None = None,
    ) -> None:
        self.mapped = isinstance(x, np.memmap)
        with np.errstate(over="ignore"):  # what single precision does not hold is refused below, by frame and column
            self.x = np.ascontiguousarray(arguments.real_numbers("Series", "x", x), dtype=np.float32)
        if self.x.ndim != 2 or 0 in self.x.shape:
            remedy = {1: "; a single descriptor is one column, x[:, None]", 3: "; Features measures positions"}
            raise DataError(
                f"Series: x must have the shape (frames, descriptors); got {self.x.shape}{remedy.get(self.x.ndim, '')}."
            )
        for first in range(0, len(self.x), CHUNK):
            bad = np.argwhere(~np.isfinite(self.x[first : first + CHUNK]))
            if len(bad):
                frame, column = first + bad[0][0], bad[0][1]
                given = arguments.real_numbers("Series", "x", x)[frame, column]
                remedy = (
                    "which is beyond single precision; look at the unit of this column"
                    if np.isfinite(given)
                    else "which is no finite number; leave the frame out, or mend the descriptor"
                )
                raise DataError(f"Series: x is {given:g} in frame {frame}, column {column}, {remedy}.")
        self.temperature = to_kelvin(temperature, "Series: temperature")
        # In double precision, since exp(V / kT) of a high bias exceeds single precision before it is normalized.
        self.weights = self._per_frame(weights, "weights", np.float64, 1.0)
        if (self.weights < 0).any():
            frame = int(self.weights.argmin())
            raise DataError(
                f"Series: weights must not be negative; frame {frame} has {self.weights[frame]:g}. Frames of a "
                "simulation with the bias V weigh exp(V / kT), as bias.weights gives them."
            )
        if not self.weights.any():
            raise DataError(
                "Series: all weights are 0, and some must be positive; leave the series out, or let it count in the "
                "prediction alone, Series(..., in_density=False)."
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(self.weights.sum()):
                raise DataError("Series: the sum of the weights is infinite; divide them by the largest.")
        self.labels = None if labels is None else self._per_frame(labels, "labels", np.int64, 0)
        if self.labels is not None and self.labels.min() < 0:
            raise DataError(
                f"Series: labels must be state indices from 0; frame {self.labels.argmin()} has {self.labels.min()}."
            )
        self.energies = None if energies is None else self._energies(energies)
        self.interval = None if interval is None else to_float(interval, "time", "Series: interval")
        if self.interval is not None and self.interval <= 0:
            raise SettingsError(
                f"Series: interval must be positive, the time between frames in ps; got {arguments.describe(interval)}."
            )
        self.in_density = arguments.truth("Series", "in_density", in_density)
        self.breaks = np.empty(0, np.int64) if breaks is None else self._breaks(breaks)

    @property
    def density_weights(self) -> np.ndarray:
        """Weight of each frame in the density, 0 for all frames of a series that does not count there; (frames,)."""
        return self.weights * self.in_density

    @property
    def is_weighted(self) -> bool:
        """Whether frames differ in weight, those without weight aside: the simulation was biased."""
        return bool(np.ptp(self.weights[self.weights > 0]) > 0)

    def __repr__(self) -> str:
        has = {"labels": self.labels is not None, "energies": self.energies is not None, "weights": self.is_weighted}
        return (
            f"<Series: {plural(len(self), 'frame')} of {plural(self.x.shape[1], 'descriptor')} at "
            f"{self.temperature:g} K{''.join(f', {name}' for name, there in has.items() if there)}>"
        )

    def __len__(self) -> int:
        return len(self.x)

    def continuous(self, values: np.ndarray) -> list[np.ndarray]:
        """Values of the frames (frames, ...) in pieces that are continuous in time.

        Examples
        --------
        >>> series = Series(np.zeros((5, 1)), breaks=[3])
        >>> [piece.tolist() for piece in series.continuous(np.arange(5))]
        [[0, 1, 2], [3, 4]]
        """
        return np.split(values, self.breaks)

    def subset(self, columns: Sequence[int] | np.ndarray) -> Series:
        """The same frames with a part of their columns, by index.

        Raises
        ------
        DataError
            There is no such column.
        """
        other = copy.copy(self)
        try:
            other.x, other.mapped = np.ascontiguousarray(self.x[:, columns]), False
        except IndexError as error:
            raise DataError(
                f"Series: columns must be indices from 0 to {self.x.shape[1] - 1}; got {arguments.describe(columns)}."
            ) from error
        return other

    def _per_frame(self, given: ArrayLike | Tensor | None, name: str, dtype: type, default: float) -> np.ndarray:
        if given is None:
            return np.full(len(self.x), default, dtype)
        values = arguments.real_numbers("Series", name, given)
        if values.shape != (len(self.x),):
            raise DataError(
                f"Series: {name} must have one value for each of the {len(self.x)} frames, ({len(self.x)},); got "
                f"{values.shape}."
            )
        if not np.isfinite(values).all():
            frame = np.argmin(np.isfinite(values))
            raise DataError(f"Series: {name} are not finite in frame {frame} ({values[frame]}); leave the frame out.")
        converted = values.astype(dtype)
        if dtype is np.int64 and (converted != values).any():
            frame = np.argmax(converted != values)
            raise DataError(f"Series: {name} must be whole numbers from 0; frame {frame} has {values[frame]:g}.")
        return converted

    def _breaks(self, given: ArrayLike) -> np.ndarray:
        values = arguments.real_numbers("Series", "breaks", given).reshape(-1)
        for value in values:
            if not (value % 1 == 0 and 0 < value < len(self.x)):
                raise DataError(
                    f"Series: breaks must be indices of frames after the first, 1 to {len(self.x) - 1}; got {value:g}."
                )
        return np.unique(values.astype(np.int64))

    def _energies(self, given: QuantityArrayLike | Tensor) -> np.ndarray:
        """Energies (frames,) in kJ/mol, without a frame whose energy is beyond all others."""
        plain: Any = to_array(given, "energy", "Series: energies") if hasattr(given, "value_in_unit") else given
        energies = self._per_frame(plain, "energies", np.float64, 0.0)
        low, median, high = np.quantile(energies, [0.25, 0.5, 0.75])
        distance = np.abs(energies - median)
        # Half the distance of the quartiles of a normal distribution is 0.674 standard deviations.
        limit = FARTHEST_ENERGY * (high - low) / (2 * 0.674) if high > low else np.inf
        if abs(median) > HIGHEST_ENERGY:
            raise DataError(
                f"Series: the median of the energies is {median:g} kJ/mol, which no molecule has; give them in kJ/mol, "
                "or with their unit."
            )
        bad = (distance > limit) | (np.abs(energies) > HIGHEST_ENERGY)
        if bad.any():
            frame = int(np.argmax(np.where(bad, distance, -1.0)))
            raise DataError(
                f"Series: the energy of frame {frame} is {energies[frame]:g}, where the median is {median:g}"
                f"{f' ({bad.sum()} frames are as far off)' if bad.sum() > 1 else ''}; atoms overlap there, or the "
                "frame is damaged. Leave such frames out."
            )
        return energies


def enthalpy(energies: ArrayLike, volumes: ArrayLike, pressure: PressureLike) -> np.ndarray:
    """Enthalpy E + pV, which replaces the potential energy in simulations with a barostat.

    Parameters
    ----------
    energies, volumes
        Potential energy, kJ/mol, and volume, nm^3, of each frame (frames,).
    pressure
        bar, or a quantity.

    Returns
    -------
    numpy.ndarray (frames,)
        kJ/mol.

    Examples
    --------
    >>> enthalpy([0.0], [30.0], 1.0).round(3)
    array([1.807])

    Raises
    ------
    DataError
        Energies and volumes are no numbers, or not one of each for each frame.
    """
    energy, volume = (
        arguments.real_numbers("enthalpy", name, values)
        for name, values in (("energies", energies), ("volumes", volumes))
    )
    if energy.shape != volume.shape:
        raise DataError(f"enthalpy: {energy.size} energies and {volume.size} volumes do not belong together.")
    return energy + to_float(pressure, "pressure", "pressure") * BAR * volume


class Dataset(ShownInNotebooks):
    """All series of a training, with the pairs (t, t + lag) inside each of them that span no break.

    Parameters
    ----------
    series
        Trajectories with the same descriptors.
    lag
        Lag in frames; or a time, as text like "2 ps" or a quantity, where series have an interval.
    boltzmann
        Boltzmann constant in the unit of energies per unit of temperature: `KB`, or 1.0 for reduced units.
    names
        Names of the descriptors (F,), for messages; without them columns are numbered.

    Attributes
    ----------
    frames, n_features : int
        Number of frames of all series, and of descriptors.
    weights, temperatures : Tensor (frames,) float64
        Weight in the density, of mean 1, and temperature of each frame, one series after the other.
    counted : Tensor (frames,) bool
        Whether a frame counts at all; one without weight in the density alone is still a frame to predict from.
    biased : numpy.ndarray (frames,) bool
        Whether a frame comes from a biased simulation.
    energies : numpy.ndarray (frames,), or None
        None where series carry none.
    labels : Tensor (frames,) int64, or None
        State index of each frame.
    blocks : numpy.ndarray (frames,)
        Block of time of each frame, see `time_blocks`.
    first : Tensor (pairs,)
        Frame index t of each pair; its partner is t + lag.

    Raises
    ------
    DataError
        Series do not fit together (descriptors, labels, energies, sampling intervals), none counts in the density, or
        all are too short for the lag, which must be a whole number of frames.
    SettingsError
        What was passed are not series.

    Examples
    --------
    >>> dataset = Dataset([Series(np.zeros((10, 2)))], lag=3)
    >>> len(dataset)
    7
    """

    def __repr__(self) -> str:
        temperatures = ", ".join(f"{value:g}" for value in sorted({entry.temperature for entry in self.series}))
        return (
            f"<Dataset: {plural(self.frames, 'frame')} of {plural(self.n_features, 'descriptor')} in "
            f"{len(self.series)} series at {temperatures} K, lag of {plural(self.lag, 'frame')}>"
        )

    def _overview(self) -> list[tuple[str, Any]]:
        carried = {"energies": self.energies is not None, "labels": self.labels is not None}
        return [
            ("series", some(self.series)),
            ("pairs", f"{len(self):,}"),
            ("with", ", ".join(name for name, there in carried.items() if there) or "descriptors alone"),
        ]

    def __init__(
        self,
        series: Sequence[Series],
        lag: TimeLike | str,
        boltzmann: float = KB,
        names: Sequence[str] | None = None,
    ) -> None:
        series = series_list("Dataset", series)
        boltzmann = arguments.number("Dataset", "boltzmann", boltzmann, above=0)
        check_widths("Dataset", series)
        _check_all_or_none(series, "labels")
        if not any(entry.in_density for entry in series):
            raise DataError("Dataset: no series counts in the density; give one of them in_density=True.")
        _check_temperatures(series)
        _check_all_or_none(series, "energies")
        check_intervals("Dataset", series)
        lag = lag_in_frames("Dataset", lag, series)
        longest = max(len(entry) for entry in series)
        if longest <= lag:
            raise DataError(
                f"Dataset: the longest series has {plural(longest, 'frame')}; a lag of {lag} leaves no pair. Give a "
                "shorter lag, or longer series."
            )
        self.series, self.lag, self.boltzmann = series, lag, boltzmann
        lengths = np.array([len(entry) for entry in series])
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.frames, self.n_features = int(lengths.sum()), series[0].x.shape[1]
        self.names = [f"column {k}" for k in range(self.n_features)]
        if names is not None:
            self.names = arguments.names("Dataset", names, self.n_features, "descriptors")
        self._parts = self._share_memory()
        weights = np.concatenate([entry.density_weights for entry in series])
        self.weights = torch.from_numpy(weights / weights.mean())
        self.counted = torch.from_numpy(np.concatenate([entry.weights > 0 for entry in series]))
        self.biased = np.repeat([entry.is_weighted for entry in series], lengths)
        self.temperatures = torch.from_numpy(np.repeat([entry.temperature for entry in series], lengths))
        energies = [entry.energies for entry in series if entry.energies is not None]
        self.energies = np.concatenate(energies) if energies else None
        labels = [entry.labels for entry in series if entry.labels is not None]
        self.labels = torch.from_numpy(np.concatenate(labels)) if labels else None
        starts = [first + _pair_starts(entry, self.lag) for first, entry in zip(self._offsets, series)]
        self.first = torch.from_numpy(np.concatenate(starts))
        if not len(self.first):
            raise DataError(
                f"Dataset: walkers exchanged their configurations at least once in each lag of {lag} frames, and no "
                "pair is left; take a shorter lag, or a longer time between exchanges."
            )
        self.blocks = time_blocks(lengths.tolist())

    def _share_memory(self) -> list[Tensor]:
        """Descriptors as one tensor, of which the series become views; mapped series stay on the disk, one by one."""
        if len(self.series) > 1 and not any(entry.mapped for entry in self.series):
            joined = np.concatenate([entry.x for entry in self.series])
            for entry, first in zip(self.series, self._offsets):
                entry.x = joined[first : first + len(entry)]
            return [torch.from_numpy(joined)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only memory
            return [torch.from_numpy(entry.x) for entry in self.series]

    @property
    def x(self) -> Tensor:
        """All descriptors (frames, F); a copy in memory where they are on the disk in several pieces."""
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)

    def rows(self, frames: Tensor | slice) -> Tensor:
        """Descriptors of frames (n,), in the order of the indices; returns (n, F)."""
        if isinstance(frames, slice):
            frames = torch.arange(self.frames)[frames]
        if len(self._parts) == 1:
            return self._parts[0][frames]
        which = torch.from_numpy(np.searchsorted(self._offsets, frames.numpy(), side="right") - 1)
        gathered = torch.empty(len(frames), self.n_features)
        for part in torch.unique(which).tolist():
            of_part = which == part
            gathered[of_part] = self._parts[part][frames[of_part] - int(self._offsets[part])]
        return gathered

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.first)

    def reweighting(self, rng: np.random.Generator, weights: np.ndarray | None = None) -> TemperatureReweighting:
        """MBAR over the temperatures, where all series carry energies.

        Parameters
        ----------
        rng
            Chooses the frames that the free energies are computed from.
        weights
            Weight of each frame (frames,); None takes those of the data set. A series whose weights differ counts by
            its effective number of frames.

        Raises
        ------
        DataError
            A series carries no energies.
        """
        if self.energies is None:
            raise DataError("Dataset: frames carry no energies; give Series(energies=...) to reweight in temperature.")
        effective = self.effective_weights(self.weights.numpy() if weights is None else weights)
        return TemperatureReweighting(self.energies, self.temperatures.numpy(), effective, self.boltzmann, rng)

    def effective_weights(self, weights: np.ndarray) -> np.ndarray:
        """Weights (frames,) of which each series has as large a sum as the number of frames that it is worth."""
        parts = np.split(weights, self._offsets[1:-1])
        return np.concatenate([part * kish(part) / part.sum() if part.any() else part for part in parts])

    def split(self, fraction: float, rng: np.random.Generator, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Split the pairs into training and validation by complete blocks of consecutive frames.

        Pairs with one frame in a held-out block and one outside belong to neither part. A block with more than a
        quarter of a state's frames is never held out, so that a state that is visited once is still learned.

        Parameters
        ----------
        fraction
            Share of the blocks to hold out.
        rng
            Chooses them.
        labels
            State index of each frame (frames,); None treats all blocks alike.

        Returns
        -------
        tuple of Tensor
            Frame indices t of the training and of the validation pairs.
        """
        blocks = np.unique(self.blocks)
        wanted = max(1, round(fraction * len(blocks)))
        if labels is not None:
            states = labels.cpu().numpy()
            counts = np.zeros((len(blocks), states.max() + 1))
            np.add.at(counts, (np.searchsorted(blocks, self.blocks), states), 1)
            blocks = blocks[(counts <= 0.25 * counts.sum(0)).all(1)]
        chosen = rng.choice(blocks, size=min(wanted, len(blocks)), replace=False)
        held = torch.from_numpy(np.isin(self.blocks, chosen))
        now, later = held[self.first], held[self.first + self.lag]
        return self.first[~now & ~later], self.first[now & later]


def _pair_starts(series: Series, lag: int) -> np.ndarray:
    """Frames t of the pairs (t, t + lag) of a series that no break lies between; (pairs,)."""
    frames = np.arange(max(len(series) - lag, 0))
    before = np.searchsorted(series.breaks, frames, side="right")
    return frames[np.searchsorted(series.breaks, frames + lag, side="right") == before]


def time_blocks(lengths: Sequence[int]) -> np.ndarray:
    """Index of the block of time of each frame, for series of these lengths, one series after the other; (frames,)."""
    return np.concatenate([k * BLOCKS + np.arange(length) * BLOCKS // length for k, length in enumerate(lengths)])


def series_list(owner: str, series: object, name: str = "series") -> list[Series]:
    """What was passed as series, as a list with at least one.

    Raises
    ------
    SettingsError
        It is no list of `Series`.
    DataError
        It is empty.
    """
    if isinstance(series, (Series, str, dict)) or not isinstance(series, Iterable) or hasattr(series, "value_in_unit"):
        raise SettingsError(
            f"{owner}: {name} must be a list of Series, [Series(x, temperature), ...]; got "
            f"{arguments.describe(series)}."
        )
    entries = list(series)
    for number, entry in enumerate(entries):
        if not isinstance(entry, Series):
            raise SettingsError(
                f"{owner}: {name}[{number}] must be a Series, Series(x, temperature); got {arguments.describe(entry)}."
            )
    if not entries:
        raise DataError(f"{owner}: no series was passed in {name}; give one or more, [Series(x, temperature), ...].")
    return entries


def lag_in_frames(owner: str, lag: TimeLike | str, series: Sequence[Series]) -> int:
    """A lag as a whole number of frames, from one, or from a time with a unit and the interval of the series.

    Raises
    ------
    DataError
        It is neither, is no multiple of the interval, or the series have no interval.

    Examples
    --------
    >>> lag_in_frames("Dataset", "2 ps", [Series(np.zeros((100, 1)), interval=0.5)])
    4
    """
    name = f"{owner}: lag"
    if not isinstance(lag, str) and not hasattr(lag, "value_in_unit"):
        number = float(lag) if isinstance(lag, (int, float, np.integer, np.floating)) else math.nan
        if not isinstance(lag, bool) and number >= 1 and number % 1 == 0:
            return int(number)
        raise DataError(f"{name} must be a whole number of frames, at least 1; got {arguments.describe(lag)}.")
    time = parse(lag, "time", name)
    interval = next((entry.interval for entry in series if entry.interval is not None), None)
    if interval is None:
        raise DataError(
            f"{name}: {arguments.describe(lag)} is a time, and the series have no interval; give a number of frames, "
            "or Series(..., interval=...)."
        )
    frames = time / interval
    if frames < 0.5 or abs(frames - round(frames)) > 1e-6 * max(1.0, frames):
        nearest = max(1, round(frames)) * interval
        raise DataError(
            f"{name}: {arguments.describe(lag)} is no multiple of the {interval:g} ps between frames; the nearest is "
            f"{nearest:g} ps."
        )
    return round(frames)


def _check_temperatures(series: list[Series]) -> None:
    """Refuse temperatures that differ by rounding: frames of one temperature would count as those of two."""
    distinct = np.unique([entry.temperature for entry in series])
    same = np.flatnonzero(np.diff(distinct) < 1e-6 * distinct[1:])
    if len(same):
        one, other = distinct[same[0]], distinct[same[0] + 1]
        raise DataError(
            f"Dataset: temperatures {one!r} and {other!r} differ by rounding alone; give these series the same one."
        )


def _check_all_or_none(series: list[Series], name: str) -> None:
    """Refuse energies or labels of some series alone, which would be of no use."""
    without = [str(number) for number, entry in enumerate(series) if getattr(entry, name) is None]
    if 0 < len(without) < len(series):
        some = [str(number) for number, entry in enumerate(series) if getattr(entry, name) is not None]
        raise DataError(
            f"Dataset: series {', '.join(some)} carry {name}, and series {', '.join(without)} carry no {name}; "
            "give them with all series, or with none."
        )


def check_widths(owner: str, series: Sequence[Series]) -> None:
    """Refuse series with different numbers of descriptors.

    Raises
    ------
    DataError
        Names two series that differ.
    """
    for number, entry in enumerate(series):
        if entry.x.shape[1] != series[0].x.shape[1]:
            raise DataError(
                f"{owner}: series have different numbers of descriptors, {series[0].x.shape[1]} in series 0 and "
                f"{entry.x.shape[1]} in series {number}; measure all with the same Features."
            )


def check_intervals(owner: str, series: Sequence[Series]) -> None:
    """Refuse series with different times between frames: a lag in frames would mean different times.

    Raises
    ------
    DataError
        Names two series that differ.
    """
    known = {number: entry.interval for number, entry in enumerate(series) if entry.interval is not None}
    if not known:
        return
    longest = max(known, key=lambda number: known[number])
    for number, interval in known.items():
        ratio = known[longest] / interval
        if abs(ratio - 1) < 1e-6:
            continue
        remedy = (
            f"take one frame in {round(ratio)} of series {number}"
            if abs(ratio - round(ratio)) < 1e-6
            else "bring them to a common interval"
        )
        raise DataError(
            f"{owner}: series {number} has a frame every {interval:g} ps, series {longest} every {known[longest]:g} "
            f"ps; a lag in frames would mean different times. Please {remedy}."
        )
