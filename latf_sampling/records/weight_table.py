"""The weight of every frame of a campaign at one temperature, with what frames are told apart by, as a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

from latf_sampling.analysis.weights import kish
from latf_sampling.core import installation, storage, streams
from latf_sampling.core.outputs import output_file
from latf_sampling.core.words import plural
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.records.observables import Observed
from latf_sampling.records.records import Records
from latf_sampling.records.trapped import latent
from latf_sampling.records.weighting import Weighting, weightings
from latf_sampling.units import TemperatureLike, to_kelvin

SUFFIXES = (".csv", ".npz", ".npy")
WAYS = {"mbar": "MBAR", "c(t)": "c(t)", "last-bias": "last bias"}
"""Weightings by the names that a user writes, the default first."""


@dataclass(frozen=True)
class WeightTable:
    """The weights of all frames, one row for each.

    Attributes
    ----------
    temperature : float
        Of the ensemble that the weights are for, K.
    way : str
        The weighting: "MBAR", "c(t)" or "last bias".
    columns : dict of numpy.ndarray
        "round", "walker", "frame" (from 0), "time_ps" (of the walker, or since the first frame of an external
        trajectory), "temperature_K" (at which it was simulated), "log_weight" (ln of a weight, all of which sum to 1;
        -inf for a frame that does not count) and, where a model was learned, "u1", "u2", ... and "state", and the
        observed variable by its name and unit, as in "phi_rad"; (frames,) each.
    left_out : list of str
        Walkers none of whose frames counts.
    """

    temperature: float
    way: str
    columns: dict[str, np.ndarray]
    left_out: list[str]

    @classmethod
    def from_records(
        cls,
        records: Records,
        temperature: TemperatureLike,
        way: str = "mbar",
        progress: Callable[[float, str], None] = lambda fraction, words: None,
    ) -> WeightTable:
        """Weights of all frames that a campaign has so far.

        Parameters
        ----------
        records
            The campaign. Its files are only read.
        temperature
            K, or a quantity.
        way
            "mbar", which reaches every temperature; "c(t)" or "last-bias", for biased walkers at the temperature alone.
            See `latf_sampling.records.weighting.weightings`.
        progress
            Called with the fraction done and a few words.

        Raises
        ------
        SettingsError
            There is no such weighting, or it has no frame at the temperature.
        DataError
            No frame's weight can be computed.
        """
        kelvin = to_kelvin(temperature)
        if way not in WAYS:
            raise SettingsError(f"weights: there is no weighting {way!r}; there are {', '.join(WAYS)}.")
        walkers = records.frames()
        progress(0.1, "weights")
        rng = streams.stream(records.protocol.seed, "report", "weights")  # the report's, for the same numbers
        known = {weighting.name: weighting for weighting in weightings(records, walkers, kelvin, rng)}
        if WAYS[way] not in known:
            biased = sorted({walker.temperature for walker in walkers if walker.biased})
            there = f"biased walkers are at {', '.join(f'{each:g} K' for each in biased)}" if biased else "no walker is"
            raise SettingsError(
                f"weights: {WAYS[way]} weights frames of biased walkers at the temperature itself, and {there}; mbar "
                f"reaches {kelvin:g} K from every temperature."
            )
        chosen = known[WAYS[way]]
        counted = {(walker.round_index, walker.walker) for walker in chosen.walkers}
        left_out = [walker.label for walker in walkers if (walker.round_index, walker.walker) not in counted]
        columns = _identity(records, walkers) | {"log_weight": _log_weights(walkers, chosen)}
        return cls(kelvin, chosen.name, columns | _variables(records, walkers, progress), left_out)

    def __len__(self) -> int:
        return len(self.columns["log_weight"])

    def write(self, path: str | Path) -> None:
        """Write the table, completely or not at all, in the format of the suffix.

        A CSV file has a line of names and one line for each frame; an NPZ file an array for each column, and ``about``,
        a JSON text with temperature, weighting and versions; an NPY file one structured array with a field for each
        column.

        Raises
        ------
        SettingsError
            The suffix is none of these.
        StoreError
            The file cannot be written.
        """
        target = weight_file(path)
        with storage.atomic_write(target) as temporary:
            if target.suffix == ".csv":
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(self.columns)
                    rows = zip(*(column.tolist() for column in self.columns.values()))
                    writer.writerows([_shown(value) for value in row] for row in rows)
            elif target.suffix == ".npz":
                with temporary.open("wb") as file:
                    np.savez(file, allow_pickle=False, **self.columns, about=np.array(json.dumps(self._about())))
            else:
                types = np.dtype([(name, column.dtype.str) for name, column in self.columns.items()])
                table = np.empty(len(self), types)
                for name, column in self.columns.items():
                    table[name] = column
                with temporary.open("wb") as file:
                    np.save(file, table, allow_pickle=False)

    def _about(self) -> dict[str, Any]:
        return {
            "temperature_K": self.temperature,
            "weighting": self.way,
            "left_out": self.left_out,
            "versions": {name: version for name, version in installation.installed().items() if version},
        }

    @property
    def summary(self) -> str:
        """What the weights are of, in a sentence or two."""
        weights = np.exp(self.columns["log_weight"])
        count, effective = int((weights > 0).sum()), kish(weights)
        words = [
            f"{plural(len(self), 'frame')}, weights at {self.temperature:g} K by {self.way}: {count:,} count, as much "
            f"as {effective:,.0f} of the same weight."
        ]
        if count < len(self):
            words.append("The others are of the time in which a bias was filled, or of walkers that are left out.")
        if self.left_out:
            words.append(f"Left out: {', '.join(self.left_out)}.")
        return " ".join(words)


def weight_file(path: str | Path) -> Path:
    """The file for a table of weights, after a try to write there.

    Raises
    ------
    SettingsError
        The suffix is none of `SUFFIXES`.
    StoreError
        The file cannot be written, or its folder does not exist.
    """
    if Path(path).suffix not in SUFFIXES:
        raise SettingsError(f"{path}: weights are written as {', '.join(SUFFIXES)}; the suffix selects the format.")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise StoreError(f"{path}: there is no folder {folder}.")
    return output_file(path)


def _identity(records: Records, walkers: Sequence[Frames]) -> dict[str, np.ndarray]:
    """By what frames are told apart."""
    interval, lengths = records.protocol.frame_interval, list(map(len, walkers))
    external = bool(records.protocol.from_trajectories)
    times = [
        interval * (np.arange(length) + (not (external and walker.round_index == 0)))
        for walker, length in zip(walkers, lengths)
    ]
    return {
        "round": np.repeat([walker.round_index for walker in walkers], lengths),
        "walker": np.repeat([walker.walker for walker in walkers], lengths),
        "frame": np.concatenate([np.arange(length) for length in lengths]),
        "time_ps": np.round(np.concatenate(times), 9),
        "temperature_K": np.repeat([float(walker.temperature) for walker in walkers], lengths),
    }


def _log_weights(walkers: Sequence[Frames], chosen: Weighting) -> np.ndarray:
    """ln of weights that sum to 1, of all frames; (frames,)."""
    parts = {(walker.round_index, walker.walker): np.full(len(walker), -np.inf) for walker in walkers}
    for walker, part, log_weights in zip(chosen.walkers, chosen.selected, chosen.log_weights):
        parts[walker.round_index, walker.walker][part] = log_weights
    joined = np.concatenate(list(parts.values()))
    return joined - logsumexp(joined)


def _variables(
    records: Records, walkers: Sequence[Frames], progress: Callable[[float, str], None]
) -> dict[str, np.ndarray]:
    """Latent coordinates and states of the last model, if there is one, and the observed variable, if there is one."""
    try:
        model, cv = records.model(records.last_learned())
    except StoreError:
        if any(records.directory.round(index).learning.finished for index in range(records.n_rounds)):
            raise
        model = cv = None
    latents, observed = [], []
    for number, walker in enumerate(walkers):
        progress(0.4 + 0.6 * number / len(walkers), walker.label)
        if cv is not None:
            latents.append(latent(cv, walker))
        if records.observed is not None:
            observed += [records.observed.values(piece) for piece in walker.pieces()]
    columns: dict[str, np.ndarray] = {}
    if model is not None:
        u = np.concatenate(latents)
        columns = {f"u{k + 1}": u[:, k] for k in range(u.shape[1])}  # as figures name them
        columns["state"] = model.state_probabilities(u).argmax(1)
    if records.observed is not None:
        columns[observed_column(records.observed)] = np.concatenate(observed)
    return columns


def observed_column(observed: Observed) -> str:
    """Name of the column of the observed variable, which ends with its unit if it has one."""
    unit = observed.column_unit.replace("/", "_per_")
    return f"{observed.name}_{unit}" if unit else observed.name


def _shown(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value
