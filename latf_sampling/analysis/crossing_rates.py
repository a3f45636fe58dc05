"""How often a walker is expected to cross between states under metadynamics, from frames alone, before any is run.

Along the line s from state to state, the frames give the free energy F(s). Hills of width sigma fill it as far as they
can: V(s, t) follows from

    dV(s)/dt = integral ds' exp(-(s - s')^2 / (2 sigma^2)) (h / t_h) exp(-V(s') / (kT (gamma - 1))) p(s'),
    p ~ exp(-(F + V) / kT),

for hills of height h at intervals t_h with the bias factor gamma (Barducci, Bussi, Parrinello,
doi:10.1103/PhysRevLett.100.020603) while the walker is in equilibrium under the bias so far. Frames of plain dynamics
that follow each other, hot ones too, are the transitions of a Markov state model, whose cells are those of s times the
states: a variable that does not tell states apart leaves a barrier between them that no bias along it lowers. Their
fluxes under the bias give the number of crossings from core to core (`crossing_flux.py`).

Between the same cores as in the count, which began 20 degrees from the border, on 25 variables of alanine dipeptide and
of a model with three wells in 31 noisy dimensions, of which 8 ns each at 300 and 600 K hold 18 and 46 transitions, the
rank correlation with the crossings in 1 or 2 ns of metadynamics was 0.93 (benchmarks/variables.md). For 21 of them the
expected rates were 0.5 to 2 times those counted; for four, along which two of the three wells look alike, five to ten
times: the walker is probably not in equilibrium between these two within a nanosecond, and the frames at 600 K rush
over the barrier between them. Between the states that training finds, of which one is these two wells, expected rates
were up to seven times too high.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from latf_sampling.analysis.crossing_cells import Hills, LatentSeries, Line
from latf_sampling.analysis.crossing_flux import Flux
from latf_sampling.core import arguments
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB, TemperatureLike, TimeLike, has_unit, to_float, to_kelvin

NAME = "expected_crossings"
MOST_STATES = 2**31
RESAMPLES = 20
STEP = 0.2
"""Largest change of the bias, kT, in one step of its history."""
FILLED = 0.5
"""The bias has filled once crossings reach this share of their final rate."""


@dataclass(frozen=True)
class PairRate:
    """Crossings between two states; see `CrossingRate`.

    Attributes
    ----------
    states : tuple of int
    crossings, error : float
        In both directions together, per ns, after filling, and their standard error.
    filling : float
        Time until crossings reach half that rate, ns.
    barrier, residual : float
        Highest minus lowest free energy between the medians of both states, and what is left of it under the bias,
        kJ/mol.
    transmission : float
        Transitions from core to core in plain dynamics relative to those expected of the Markov state model without a
        bias; 1 at most, and where nothing is known. Crossings are multiplied by it.
    transitions : int
        Their number.
    """

    states: tuple[int, int]
    crossings: float
    error: float
    filling: float
    barrier: float
    residual: float
    transmission: float
    transitions: int


@dataclass(frozen=True)
class CrossingRate:
    """Result of `expected_crossings`.

    Attributes
    ----------
    crossings, error : float
        Crossings per ns after filling, and their standard error, of the slowest step that is needed to reach every
        state: the smallest rate in the tree of pairs with the largest ones.
    filling : float
        Time that the bias takes to fill, ns, for this step.
    slowest : PairRate
        That step.
    pairs : tuple of PairRate
        All pairs of states of which two frames follow each other.
    temperature : float
        K.
    unit : str
        Time that crossings and filling are in: "ns", or "1000 frames".
    note : str
        Why crossings are 0 where this does not follow from the frames.
    """

    crossings: float
    error: float
    filling: float
    slowest: PairRate
    pairs: tuple[PairRate, ...] = field(repr=False)
    temperature: float
    unit: str = "ns"
    note: str = ""

    @property
    def text(self) -> str:
        """Number and error, without their unit."""
        if self.note:
            return f"{self.crossings:g} ({self.note})"
        digits = int(np.clip(1 - math.floor(math.log10(self.error)), 0, 3)) if self.error > 0 else 1
        return f"{self.crossings:,.{digits}f} ± {self.error:,.{digits}f}"

    def as_dict(self) -> dict[str, Any]:
        """Number, error and filling, ready for JSON: null for what is not finite."""
        numbers = {name: getattr(self, name) for name in ("crossings", "error", "filling", "temperature")}
        finite = {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}
        return {**finite, "unit": self.unit, "note": self.note}

    @property
    def sentence(self) -> str:
        """What is expected, as one sentence."""
        if self.note:
            return f"No bias along this variable is expected to work: it is {self.note}."
        one, other = self.slowest.states
        return (
            f"Under metadynamics along this variable {self.text} crossings per {self.unit} are expected between states "
            f"{one} and {other}, once the bias has filled, after about {self.filling:.2g} {self.unit}."
        )


def expected_crossings(
    series: Sequence[LatentSeries],
    hills: Hills,
    temperature: TemperatureLike,
    interval: TimeLike,
    rng: np.random.Generator | int = 0,
    time: float = 10.0,
    boltzmann: float = KB,
) -> CrossingRate:
    """Crossings between metastable states per ns that well-tempered metadynamics will show.

    The number is meant for comparing variables on the same frames. Frames at other temperatures take part where those
    at `temperature` are few: as if the free energy along the line and of the states at a point of it, in kJ/mol, did
    not depend on temperature, and transitions without a barrier were proportional to it. In several dimensions each
    pair of states is looked at along the line between their medians, in units of hill widths, with the frames of these
    two states; hills are shared among the hill widths that these extend over across the line.

    Parameters
    ----------
    series
        Frames with their states. Crossings are those between cores of states: where the states of all frames are known,
        of a core all frames but those on the border to the other state; otherwise the frames whose state is not -1.
    hills
        The hills.
    temperature
        Temperature of the biased simulation: K, or a quantity.
    interval
        Time between frames: ps, or a quantity.
    rng
        Draws the weights of blocks of time for the error (Bayesian bootstrap: Rubin, doi:10.1214/aos/1176345338).
    time
        Length of the biased simulation, ns, or a quantity; the rate is that at its end.
    boltzmann
        `KB`, or 1 in reduced units.

    Returns
    -------
    CrossingRate

    Raises
    ------
    DataError
        There are fewer than two states, arrays do not belong together, or a value in them is none that it could have.
    SettingsError
        Something else was passed, a number is not above 0, or the bias factor not above 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = np.cumsum(rng.random(20_000) < 0.01) % 2
    >>> u = np.stack([states + 0.1 * rng.normal(size=20_000)], 1)
    >>> rate = expected_crossings([LatentSeries(u, states, 300.0)], Hills(np.array([0.1])), 300.0, interval=1.0)
    >>> rate.slowest.states, bool(rate.crossings > 10)
    ((0, 1), True)
    """
    temperature, interval = (
        to_kelvin(temperature, f"{NAME}: temperature"),
        to_float(interval, "time", f"{NAME}: interval"),
    )
    series, hills, time = _checked(series, hills, interval, time, boltzmann)
    rng = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(arguments.whole(NAME, "rng", rng))
    present = [state for state in np.unique(np.concatenate([entry.states for entry in series])).tolist() if state >= 0]
    if len(present) < 2:
        raise DataError("expected_crossings: all frames are in one state; crossings need two.")
    every = [(i, j) for i in present for j in present if i < j]
    lines = [Line(series, hills, pair, temperature) for pair in every]
    pairs = [
        _PairCrossings(line, hills, temperature, interval, boltzmann).rate(rng, 1000 * time)
        for line in lines
        if line.moves.any()
    ]
    if not pairs:
        raise DataError("expected_crossings: no two frames of the same two states follow each other.")
    slowest = _bottleneck(pairs)
    return CrossingRate(
        slowest.crossings, slowest.error, slowest.filling, slowest, tuple(pairs), temperature=float(temperature)
    )


def _checked(
    series: Sequence[LatentSeries], hills: Hills, interval: float, time: float, boltzmann: float
) -> tuple[list[LatentSeries], Hills, float]:
    """Series, hills and time with their values as arrays and floats, of which all are what they must be."""
    arguments.instance(NAME, "series", series, Sequence, "a list of LatentSeries")
    arguments.instance(NAME, "hills", hills, Hills, "Hills")
    if not len(series):
        raise DataError(f"{NAME}: there is no series.")
    width = arguments.real_numbers(NAME, "width of hills", hills.width)
    if width.ndim != 1 or not len(width):
        raise DataError(f"{NAME}: width of hills must have one number for each component, (d,); got {hills.width}.")
    _above("interval", interval, 0)
    _above("boltzmann", boltzmann, 0)
    _above("width of hills", width[np.argmin(width)], 0)  # NaN if there is one
    if not np.isfinite(width).all():
        raise SettingsError(f"{NAME}: width of hills must be finite; got {hills.width}.")
    length = 1e-3 * to_float(time, "time", f"{NAME}: time") if has_unit(time) else time
    hills = Hills(
        width,
        _above("height of hills", hills.height, 0, "energy"),
        _above("bias_factor", hills.bias_factor, 1, most=math.inf),
        _above("interval of hills", hills.interval, 0, "time"),
    )
    checked = [_checked_series(number, entry, len(width)) for number, entry in enumerate(series)]
    return checked, hills, _above("time", length, 0)


def _above(
    name: str, value: Any, limit: float, dimension: str | None = None, most: float = sys.float_info.max
) -> float:
    """A number above a limit, or a quantity where it has a dimension."""
    if dimension is not None and has_unit(value):
        value = to_float(value, dimension, f"{NAME}: {name}")
    number = float(value) if isinstance(value, (Real, np.number)) and not isinstance(value, bool) else math.nan
    if not limit < number <= most:
        finite = ", and finite" if math.isfinite(most) else ""
        raise SettingsError(f"{NAME}: {name} must be above {limit}{finite}; got {arguments.describe(value)}.")
    return number


def _checked_series(number: int, entry: LatentSeries, dim: int) -> LatentSeries:
    arguments.instance(NAME, f"series[{number}]", entry, LatentSeries, "a LatentSeries")
    arguments.instance(NAME, f"biased of series {number}", entry.biased, (bool, np.bool_), "True or False")
    temperature = to_kelvin(entry.temperature, f"{NAME}: temperature of series {number}")
    values = {"u": entry.u, "states": entry.states, "weights": entry.weights}
    if entry.weights is None:
        values["weights"] = np.ones(len(entry.u))
    u, states, weights = (
        arguments.real_numbers(NAME, f"{name} of series {number}", each) for name, each in values.items()
    )
    if u.ndim != 2 or u.shape[1] != dim:
        raise DataError(f"{NAME}: u of series {number} is {u.shape}; it must be (frames, {dim}).")
    if states.shape != u.shape[:1] or weights.shape != u.shape[:1]:
        raise DataError(f"{NAME}: series {number} needs one state and weight for each frame.")
    if not np.isfinite(u).all():
        raise DataError(f"{NAME}: u of series {number} is not finite.")
    if (states != np.round(states)).any() or (np.abs(states) > MOST_STATES).any():
        raise DataError(f"{NAME}: states of series {number} must be state indices, or -1 for a frame between states.")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise DataError(f"{NAME}: weights of series {number} must be finite and not negative.")
    return LatentSeries(u, states.astype(np.int64), temperature, weights, bool(entry.biased))


def _bottleneck(pairs: list[PairRate]) -> PairRate:
    """The slowest of the fastest pairs that connect all states: the last one that Kruskal's algorithm takes."""
    group = {state: state for pair in pairs for state in pair.states}
    last = pairs[0]
    for pair in sorted(pairs, key=lambda pair: -pair.crossings):
        one, other = (group[state] for state in pair.states)
        if one != other:
            group = {state: one if root == other else root for state, root in group.items()}
            last = pair
    return last


class _PairCrossings:
    """Crossings between two states, while the bias along the line between them grows."""

    def __init__(self, line: Line, hills: Hills, temperature: float, interval: float, boltzmann: float) -> None:
        if not line.size.sum() > 0:
            raise DataError("expected_crossings: the variable does not change from frame to frame.")
        self.line, self.hills, self.interval = line, hills, interval
        self.temperature, self.boltzmann = temperature, boltzmann
        self.kt = boltzmann * temperature
        self.flux = Flux(line, temperature)

    def rate(self, rng: np.random.Generator, time: float) -> PairRate:
        """Crossings under the bias after a time in ps."""
        line = self.line
        draws = np.ones((1 + RESAMPLES, len(line.moves)))
        draws[1:] = rng.dirichlet(np.ones(draws.shape[1]), RESAMPLES) * draws.shape[1]
        energy = line.energy(draws, self.temperature, self.boltzmann)
        history = self._filled(energy, time)
        counted = self.flux.counted()
        # More than 1 would mean that cells hide what makes transitions more frequent, also under the bias.
        transmission = [min(1.0, float(draw @ counted + 0.5) / (self.flux.plain(draw) + 0.5)) for draw in draws]
        rates = [
            self._crossings(draw, *surfaces) * factor
            for draw, factor, *surfaces in zip(draws, transmission, energy, history[-1][1])
        ]
        first, last = 0, len(history) - 1
        enough = FILLED * rates[0] / transmission[0]
        while first < last:  # crossings become more frequent from step to step
            middle = (first + last) // 2
            filled = self._crossings(draws[0], energy[0], history[middle][1][0]) >= enough
            first, last = (first, middle) if filled else (middle + 1, last)
        between = line.between(*line.medians)
        return PairRate(
            states=line.pair,
            crossings=rates[0],
            error=float(np.std(rates[1:], ddof=1)),
            filling=float(history[first][0] / 1000),
            barrier=float(np.ptp(energy[0][between])),
            residual=float(np.ptp((energy + history[-1][1])[0][between])),
            transmission=transmission[0],
            transitions=int(counted.sum()),
        )

    def _crossings(self, draw: np.ndarray, energy: np.ndarray, bias: np.ndarray) -> float:
        """Per ns, if the cells were all that matters."""
        return 1000 * self.flux.biased(draw, energy, bias, self.kt) / self.interval

    def _filled(self, energy: np.ndarray, time: float) -> list[tuple[float, np.ndarray]]:
        """The bias (draws, cells) at several times until the last one, ps."""
        hills, x = self.hills, self.line.x
        kernel = np.exp(-0.5 * (x - x[:, None]) ** 2)
        bias, now, history = np.zeros_like(energy), 0.0, []
        tempering = self.kt * (hills.bias_factor - 1)
        while now < time:
            history.append((now, bias))
            total = energy + bias
            share = self.line.size * np.exp(-(total - total.min(1, keepdims=True)) / self.kt)
            share *= hills.height / (self.line.sharing * hills.interval) / share.sum(1, keepdims=True)
            growth = (share * np.exp(-bias / tempering)) @ kernel
            step = min(STEP * self.kt / growth.max(), time - now)
            bias, now = bias + step * growth, now + step
        history.append((now, bias))
        return history
