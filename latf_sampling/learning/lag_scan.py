"""Choice of the lag time: the first stage of training at several lags, and the quality of the states found there.

A lag that is too short resolves motions that are of no interest, and time scales come out wrong; one that is too long
loses states that live shorter than it, and leaves little to predict. Three results at each lag tell them apart:

- The metastable states that training finds. A state whose life time is shorter than the lag is no state at this lag.
- The implied time scales of these states, -lag / ln|eigenvalue| of their transition matrix, which level off where the
  model is Markovian: Swope, Pitera, Suits, doi:10.1021/jp037421y.
- The VAMP-2 score of the latent space, which is the larger the more of the slow motion it holds: Wu and Noé,
  doi:10.1007/s00332-019-09567-y. Scores at different lags cannot be compared, since every process has decayed further
  at a longer one; all models are therefore scored at one lag, the middle one of the list. At the shortest, motions too
  fast for any state would count like slow ones; at the longest, little but noise would be scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latf_sampling.analysis.kinetics import estimate_kinetics
from latf_sampling.analysis.vamp import cross_validated_vamp2
from latf_sampling.core import arguments, storage, streams
from latf_sampling.core.words import plural
from latf_sampling.data.dataset import Dataset, Series, check_widths, lag_in_frames, series_list
from latf_sampling.errors import DataError, SettingsError, SingleStateError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import train
from latf_sampling.learning.training.restarts import model_crossings
from latf_sampling.settings import ModelSettings, TrainingSettings
from latf_sampling.units import TimeLike

FRAMES = 50_000
"""At most so many frames are used, the first ones of each series: enough to distinguish lags, and quick."""
TRAINING = TrainingSettings(refinements=24, refinement_epochs=2)
"""Shorter iterations than for a final model, and more of them: relabeling determines the number of states."""
SHARE, TIMES = 10, 100
"""Lags are at most a tenth of the longest series. Default lags are also at most a hundredth of all frames: a process
that lasts three lags then occurs about thirty times."""
RESOLVED = 3
"""A lag resolves a process that lasts so many lags."""
TOLERANCE = 0.1
"""Time scales that differ by less than this share agree, however small their errors, as they never quite level off."""

CONDITIONS = {
    "resolved": "the lag is more than a third of the slowest time scale",
    "level": "a longer lag finds a longer slowest time scale",
    "states": "the number of states does not stay the same with every seed and at the next longer lag",
    "score": "the VAMP-2 score is more than one standard error below the best",
}
"""Conditions of a good lag, the most important first, each with the message where it is not met."""


@dataclass(frozen=True)
class LagResult:
    """Results at one lag; times are in frames.

    Attributes
    ----------
    lag : int
    states : tuple of int
        Number of metastable states that training with each seed found; 1 where it ended in a single one.
    timescales, errors : tuple of float
        Implied time scales of the first seed's states, the slowest first, and their standard errors. They are one fewer
        than states that lead to each other.
    vamp2, vamp2_error : float or None
        Cross-validated score of the first seed's latent space at the scan's `scoring_lag`, and its standard error; None
        where there is a single state, or where series are too short to be cut into parts.
    crossings, crossings_error : float or None
        Crossings between states that metadynamics along the first seed's variable is expected to show, per ns, or per
        1000 frames where the interval is unknown, and their standard error; see
        `latf_sampling.learning.training.restarts.model_crossings`. Hills are the same at all lags, one in each
        `scoring_lag`. None where there is a single state.
    """

    lag: int
    states: tuple[int, ...]
    timescales: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    vamp2: float | None = None
    vamp2_error: float | None = None
    crossings: float | None = None
    crossings_error: float | None = None

    @property
    def resolved(self) -> bool:
        """Whether the lag is at most a third of the slowest time scale."""
        return bool(self.timescales) and RESOLVED * self.lag <= self.timescales[0]

    def falls_short_of(self, other: LagResult) -> bool:
        """Whether the slowest time scale is shorter, by more than the joint standard error and a tenth."""
        missing = other.timescales[0] - self.timescales[0]
        return missing > max(math.hypot(self.errors[0], other.errors[0]), TOLERANCE * other.timescales[0])


@dataclass(frozen=True)
class LagScan:
    """Results of `scan_lags`, and the lag that follows from them.

    A good lag meets four conditions, the most important first:

    1. It is at most a third of the slowest time scale.
    2. The slowest time scale has leveled off: no longer lag that meets the first condition gives a longer one, beyond
       the joint standard error and a tenth. States that are not Markovian give too short time scales.
    3. The number of states is the same with every seed, and at the next longer lag.
    4. The VAMP-2 score is within one standard error of the best: nothing slow is lost.

    The shortest good lag is recommended, which resolves the most and leaves the most pairs to learn from. Where there
    is no good lag, conditions that cannot be met together with more important ones are ignored; where the third one is
    ignored, the lag with the fewest states is recommended, since a lag that is too short gives too many of them.

    Attributes
    ----------
    results : tuple of LagResult
        One per lag, the shortest first.
    scoring_lag : int
        Lag of all VAMP-2 scores, frames.
    temperature : float
        K; time scales and scores are those of the simulations at this temperature.
    frames : int
        Number of frames in use, at all temperatures.
    interval : float or None
        Time between frames, ps.
    """

    results: tuple[LagResult, ...]
    scoring_lag: int
    temperature: float
    frames: int
    interval: float | None = None

    @property
    def recommended(self) -> int | None:
        """The recommended lag, in frames; None where every training ended in a single state."""
        candidates = [result for result in self.results if result.states[0] > 1]
        if not candidates:
            return None
        for condition in CONDITIONS:
            candidates = [result for result in candidates if self.meets(result)[condition]] or candidates
        # The first of equals is the one with the shortest lag.
        return min(candidates, key=lambda result: 0 if self.meets(result)["states"] else result.states[0]).lag

    @property
    def reason(self) -> str:
        """The reason for this lag, as text."""
        if self.recommended is None:
            return (
                "No lag can be recommended: at each of them training ended in a single state. The data hold no "
                "transition that is slow at these lags; take shorter lags, or simulate longer."
            )
        chosen = next(result for result in self.results if result.lag == self.recommended)
        unmet = [CONDITIONS[name] for name, met in self.meets(chosen).items() if not met]
        if unmet:
            return f"No lag meets all conditions. {self.lag(chosen.lag)} comes closest, yet {', and '.join(unmet)}."
        slowest = self.time(chosen.timescales[0], chosen.errors[0])
        return (
            f"{self.lag(chosen.lag)} is the shortest lag at which the slowest time scale, {slowest}, is resolved and "
            f"has leveled off, the number of states, {chosen.states[0]}, stays the same at the next longer lag, and "
            "the VAMP-2 score is within one standard error of the best."
        )

    def meets(self, result: LagResult) -> dict[str, bool]:
        """Which of the `CONDITIONS` one of the results meets."""
        longer = [other for other in self.results if other.lag > result.lag]
        scores = [(other.vamp2, other.vamp2_error or 0.0) for other in self.results if other.vamp2 is not None]
        best, error = max(scores, key=lambda score: score[0], default=(0.0, 0.0))
        return {
            "resolved": result.resolved,
            "level": bool(result.timescales)
            and not any(other.resolved and result.falls_short_of(other) for other in longer),
            "states": len({*result.states, *(other.states[0] for other in longer[:1])}) == 1 and bool(longer),
            "score": result.vamp2 is not None and result.vamp2 >= best - error,
        }

    def lag(self, frames: int) -> str:
        """A lag as text: in frames, and in ps where the interval is known."""
        text = f"{frames} frame{'' if frames == 1 else 's'}"
        return text if self.interval is None else f"{text} ({frames * self.interval:g} ps)"

    def time(self, frames: float, error: float) -> str:
        """A time with its error as text: in ps where the interval is known, else in frames."""
        unit = self.interval or 1.0
        return f"{_with_error(frames * unit, error * unit)} {'frames' if self.interval is None else 'ps'}"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table, as text."""
        per = "1000 frames" if self.interval is None else "ns"
        head = ["lag", "states", "slowest time scale", "next one", "VAMP-2", f"expected crossings / {per}", "not met"]
        rows = []
        for result in self.results:
            times = [self.time(*pair) for pair in zip(result.timescales, result.errors)]
            unmet = [name for name, met in self.meets(result).items() if not met]
            rows.append(
                [
                    self.lag(result.lag) + (" *" if result.lag == self.recommended else ""),
                    " or ".join(map(str, sorted(set(result.states)))),
                    *(times + ["-", "-"])[:2],
                    "-" if result.vamp2 is None else f"{result.vamp2:.3f} ± {result.vamp2_error:.3f}",
                    "-" if result.crossings is None else _with_error(result.crossings, result.crossings_error or 0.0),
                    ", ".join(unmet) if result.timescales else "-",
                ]
            )
        return head, rows

    def table(self) -> str:
        """The results as a table of text, the recommended lag with a star."""
        head, rows = self.cells()
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [head, *rows])

    def as_dict(self) -> dict:
        """All numbers with the recommendation, for JSON; lags and time scales in frames."""
        return {
            "recommended": self.recommended,
            "reason": self.reason,
            "scoring_lag": self.scoring_lag,
            "temperature_K": self.temperature,
            "frames": self.frames,
            "interval_ps": self.interval,
            "results": [{**asdict(result), "meets": self.meets(result)} for result in self.results],
        }

    def save(self, path: str | Path) -> None:
        """Write `as_dict` as a JSON file."""
        storage.write_json(path, self.as_dict())


def scan_lags(
    series: Sequence[Series],
    lags: Sequence[TimeLike | str] | None = None,
    *,
    model: ModelSettings | None = None,
    training: TrainingSettings | None = None,
    seeds: int = 1,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> LagScan:
    """Train the first stage at several lags, and recommend one of them.

    Only the first 50,000 frames are used, shared among the series in proportion to their lengths; no stride is applied,
    since pairs would be lost. Series whose frames differ in weight are left out: they were biased, and a bias changes
    the life times of states. Training uses all temperatures. Time scales and scores are those of the lowest temperature
    with transitions between the states of every model that has several states; where there is none, of the highest.

    Parameters
    ----------
    series
        Trajectories, as for `Dataset`.
    lags
        Frames, or times as in `Dataset`, in ascending order; None takes 1, 2, 4, ... up to a tenth of the longest
        series and a hundredth of all frames in use.
    model
        Settings of the model to be trained in the end; those of the density have no effect here.
    training
        None takes 24 refinements with 2 epochs each. Stages after the first are left out.
    seeds
        Number of trainings per lag, which show whether the number of states is reproducible. Time scales and scores are
        those of the first.
    seed
        Master seed; the same seed gives the same scan on one machine.
    device
        Where to train; None picks a GPU where there is one.
    progress
        Called with the fraction done and a short message.

    Returns
    -------
    LagScan
        A training that ends in a single state is a result, not an error. The VAMP-2 score is that of the slowest d
        processes, d being the latent dimension, or the smallest one where it follows from the number of states, so that
        many states are no advantage by themselves, in linear combinations of mu(x) and of the decoder's probabilities
        p(y|mu(x)). These are fitted to four fifths of each series and scored on the rest, in turn; encoder and decoder
        were trained on all of it.

    Raises
    ------
    SettingsError
        The lags are not whole, positive and ascending, there is no seed, or an argument is something else.
    DataError
        All series are biased, or too short for the lags, or they do not fit together.
    TrainingError
        Training failed for another reason than a single state.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = np.cumsum(rng.random(3000) < 0.02) % 2
    >>> x = states[:, None] + 0.1 * rng.normal(size=(3000, 2))
    >>> quick = TrainingSettings(initial_states=4, refinements=2, learning_rate=1e-2)
    >>> scan = scan_lags([Series(x)], lags=[2, 4], training=quick)
    >>> scan.recommended, [result.states for result in scan.results]
    (2, [(2,), (2,)])
    """
    series = series_list("scan_lags", series)
    check_widths("scan_lags", series)
    seeds = arguments.whole("scan_lags", "seeds", seeds, 1)
    if progress is not None:
        arguments.function("scan_lags", "progress", progress)
    for name, value, kind in (("model", model, ModelSettings), ("training", training, TrainingSettings)):
        if value is not None:
            arguments.instance("scan_lags", name, value, kind, f"a {kind.__name__}")
    used = _leading([entry for entry in series if np.ptp(entry.weights) == 0])
    longest = max(len(entry) for entry in used)
    lags = _checked(None if lags is None else _in_frames(lags, used), longest, sum(len(entry) for entry in used))
    settings = (model or ModelSettings()).model_copy(update={"temperature_mode": "steered"})
    first_stage = {"joint_epochs": 0, "flow_epochs": 0, "ensemble": 0}
    training = (training or TRAINING).model_copy(update=first_stage)
    counts: list[tuple[int, ...]] = []
    models: list[LaTF | None] = []
    for index, lag in enumerate(lags):
        trained = []
        for attempt in range(seeds):

            def report(fraction: float, message: str, done: int = index * seeds + attempt, lag: int = lag) -> None:
                if progress is not None:
                    progress((done + fraction) / (len(lags) * seeds), f"lag {lag}: {message}")

            training_seed = seed if attempt == 0 else streams.stream_seed(seed, "lags", attempt)
            trained.append(_train(settings, Dataset(used, lag), training_seed, training, device, report))
        counts.append(tuple(1 if entry is None else entry.n_states for entry in trained))
        models.append(trained[0])
    scoring_lag = lags[len(lags) // 2]
    dim = min((model.latent_dim for model in models if model is not None), default=1)
    temperatures = sorted({entry.temperature for entry in used})
    temperature, results = temperatures[0], ()
    for temperature in temperatures:
        at_temperature = [entry for entry in used if entry.temperature == temperature]
        results = tuple(
            _examine(model, states, at_temperature, lag, scoring_lag, dim, streams.stream(seed, "lags", lag))
            for lag, states, model in zip(lags, counts, models)
        )
        if all(result.timescales or result.states[0] == 1 for result in results):
            break
    results = tuple(_with_crossings(result, model, used, scoring_lag) for result, model in zip(results, models))
    interval = next((entry.interval for entry in used if entry.interval is not None), None)
    return LagScan(results, scoring_lag, temperature, sum(len(entry) for entry in used), interval)


def _leading(series: list[Series]) -> list[Series]:
    """The first frames of each series, in all at most `FRAMES`."""
    if not series:
        raise DataError("scan_lags: there is no series whose frames weigh the same; give one of plain dynamics.")
    share = min(1.0, FRAMES / sum(len(entry) for entry in series))
    used = []
    for entry in series:
        frames = max(1, int(share * len(entry)))
        labels = None if entry.labels is None else entry.labels[:frames]
        breaks = entry.breaks[entry.breaks < frames]
        used.append(Series(entry.x[:frames], entry.temperature, labels=labels, interval=entry.interval, breaks=breaks))
    return used


def _in_frames(lags: Sequence[TimeLike | str], series: list[Series]) -> list[Any]:
    """Lags with times among them converted to frames."""
    if isinstance(lags, str) or not isinstance(lags, Iterable) or hasattr(lags, "value_in_unit"):
        raise SettingsError(f"scan_lags: lags must be a list, such as [1, 2, 5]; got {arguments.describe(lags)}.")
    return [
        lag_in_frames("scan_lags", lag, series) if isinstance(lag, str) or hasattr(lag, "value_in_unit") else lag
        for lag in lags
    ]


def _checked(lags: Sequence[Any] | None, longest: int, frames: int) -> list[int]:
    """The lags to scan; by default powers of two."""
    most = longest // SHARE
    if most < 1:
        raise DataError(
            f"scan_lags: the longest series has {plural(longest, 'frame')} in use, too few for any lag; a lag of one "
            f"frame needs {SHARE}."
        )
    if lags is None:
        return [2**power for power in range(max(1, min(most, frames // TIMES)).bit_length())]
    lags = list(lags)
    whole = all(isinstance(lag, (int, np.integer)) and not isinstance(lag, bool) and lag >= 1 for lag in lags)
    if not (lags and whole and sorted(set(lags)) == lags):
        raise SettingsError(f"scan_lags: lags must be whole numbers of frames in ascending order, from 1; got {lags}.")
    if lags[-1] > most:
        raise DataError(
            f"scan_lags: a lag of {lags[-1]} is more than a tenth of the longest series, which has {longest} frames in "
            f"use; give lags up to {most}, or longer series."
        )
    return [int(lag) for lag in lags]


def _train(
    settings: ModelSettings,
    dataset: Dataset,
    seed: int,
    training: TrainingSettings,
    device: torch.device | str | None,
    progress: Callable[[float, str], None],
) -> LaTF | None:
    """A model after the first stage; None where a single state was left."""
    model = LaTF(settings)
    try:
        train(model, dataset, seed, settings=training, device=device, progress=progress)
    except SingleStateError:
        return None
    return model


def _examine(
    model: LaTF | None,
    counts: tuple[int, ...],
    series: list[Series],
    lag: int,
    scoring_lag: int,
    dim: int,
    rng: np.random.Generator,
) -> LagResult:
    """Time scales of a model and VAMP-2 score of its `dim` slowest processes, by series of one temperature.

    `counts` are the numbers of states.
    """
    if model is None:
        return LagResult(lag, counts)
    states = [piece for entry in series for piece in entry.continuous(model.assign(entry.x))]
    kinetics = estimate_kinetics(states, model.n_states, lag, series[0].temperature, rng)
    at_lag = kinetics.lags == lag
    timescales = kinetics.timescales[at_lag].ravel()
    # Half of a 95 % interval is 1.96 standard errors.
    errors = (kinetics.upper - kinetics.lower)[at_lag].ravel() / (2 * 1.96)
    finite = np.isfinite(timescales)
    latent = [piece for entry in series for piece in entry.continuous(_latent(model, entry.x))]
    score = cross_validated_vamp2(latent, scoring_lag, dim)
    return LagResult(
        lag, counts, tuple(timescales[finite].tolist()), tuple(errors[finite].tolist()), *(score or (None, None))
    )


def _with_crossings(result: LagResult, model: LaTF | None, series: list[Series], hill_interval: int) -> LagResult:
    """The result with the crossings that are expected along the variable, from series of all temperatures."""
    rate = None if model is None else model_crossings(model, series, hill_interval)
    return result if rate is None else replace(result, crossings=rate.crossings, crossings_error=rate.error)


def _with_error(value: float, error: float) -> str:
    """A number with its error, of which two digits are significant."""
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _latent(model: LaTF, x: np.ndarray) -> np.ndarray:
    """mu(x), and the probability of each state but one a lag later, which adds functions that are not linear in mu(x).

    The states themselves would add step functions, and many steps approximate a slow process better than few.
    """
    mu = model.encode(x)
    return np.concatenate([mu, model.state_probabilities(mu)[:, 1:]], axis=1).astype(np.float64)
