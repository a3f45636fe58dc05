"""How often a walker is expected to cross between states under metadynamics, from frames alone, before any is run.

Along the line s from state to state, the frames give the free energy F(s) and the diffusion coefficient D(s), half the
mean square displacement in one interval. Hills of width sigma fill F(s) as far as they can: V(s, t) follows from

    dV(s)/dt = integral ds' exp(-(s - s')^2 / (2 sigma^2)) (h / t_h) exp(-V(s') / (kT (gamma - 1))) p(s'),
    p ~ exp(-(F + V) / kT),

for hills of height h at intervals t_h with the bias factor gamma (Barducci, Bussi, Parrinello,
doi:10.1103/PhysRevLett.100.020603) while the walker is in equilibrium under the bias so far. In one dimension the mean
time from a to b and back is then, exactly,

    t = integral ds exp(-(F + V) / kT) * integral from a to b ds exp((F + V) / kT) / D,

from the mean first-passage times of a diffusion (Zwanzig, Nonequilibrium Statistical Mechanics, 2001, ch. 4; Szabo,
Schulten, Schulten, doi:10.1063/1.439715), so that there are 2 / t crossings. What is not diffusion along s, hidden
barriers above all, is known from the same formula without a bias: series of plain dynamics, hot ones too, had so many
transitions between the states, and the formula says how many there should have been. The ratio is the transmission
coefficient, which the result is multiplied by; as far as it is due to a hidden barrier, exp(-B / kT_hot), it is taken
to the power T_hot / T.

On 20 variables of alanine dipeptide, good and bad, networks and functions of torsions, of which 8 ns each at 300 and
600 K hold four transitions, the rank correlation with the crossings in 2 ns of metadynamics was 0.96; the expected
rates were 0.4 of those counted, up to a factor of 1.6. Two more variables, the sine of phi and that with psi, fold two
regions onto each other: walkers crossed 30 to 40 times per ns, around the other side, where next to none is expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from latf_sampling.analysis.blocks import BLOCKS
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

RESAMPLES = 30
PER_WIDTH, PER_STATE, MOST = 4, 15, 400
"""Cells along the line: so many for each hill width, of equal length; as many more in each state, of equal numbers of
frames, since a state may be narrower than a hill; and at most so many of the former."""
CORE_SHARE = 0.25
"""The core of a state begins so far on the way from the border to the median of its frames, as in the report."""
RELIABLE = 10.0
"""Effective frames in a cell from which on hotter frames count less than those of the temperature itself."""
FEWEST = 5
"""Neighboring cells are joined until there are so many frames, for their density and diffusion."""
UNHINDERED = 0.5
"""Transitions that are counted, relative to the formula, where nothing hidden hinders them: in one-dimensional models
half of them are seen, since frames miss those there and back, and displacements at the top of a barrier are longer than
by diffusion alone. Less means a hidden barrier, which is the higher in kT the lower the temperature."""
STEP = 0.2
"""Largest change of the bias, kT, in one step of its history."""
FILLED = 0.5
"""The bias has filled once crossings reach this share of their final rate."""


@dataclass(frozen=True)
class Hills:
    """The hills of a metadynamics.

    Attributes
    ----------
    width : numpy.ndarray (d,)
        Standard deviation along each component, in the unit of the variable.
    height : float
        Height of the first ones, kJ/mol.
    bias_factor : float
        gamma, above 1.
    interval : float
        Time between hills, ps.
    """

    width: np.ndarray
    height: float = 1.0
    bias_factor: float = 10.0
    interval: float = 1.0


@dataclass(frozen=True)
class LatentSeries:
    """One continuous trajectory in latent space.

    Attributes
    ----------
    u : numpy.ndarray (frames, d)
    states : numpy.ndarray (frames,)
        Index of the state of each frame.
    temperature : float
        K.
    weights : numpy.ndarray (frames,), or None
        Weights in the free energy, on one scale with those of other series at this temperature; None for 1.
    biased : bool
        Whether the simulation was biased: transitions between states are counted in plain dynamics alone.
    """

    u: np.ndarray
    states: np.ndarray
    temperature: float
    weights: np.ndarray | None = None
    biased: bool = False


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
        Highest minus lowest free energy between the medians of both states, and of what is left of it between their
        cores under the bias, kJ/mol.
    transmission : float
        Transitions in plain dynamics relative to those expected of diffusion along the line, extrapolated to the
        temperature of the bias; 1 at most, and where nothing is known.
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
    temperature: float,
    interval: float,
    rng: np.random.Generator | int = 0,
    time: float = 10.0,
    boltzmann: float = KB,
) -> CrossingRate:
    """Crossings between metastable states per ns that well-tempered metadynamics will show.

    The number is meant for comparing variables on the same frames. Frames at other temperatures take part where those
    at `temperature` are few: as if the free energy along the line, in kJ/mol, did not depend on temperature, and
    diffusion were proportional to it. In several dimensions each pair of states is looked at along the line between
    their medians, in units of hill widths, with the frames of these two states; hills are shared among the hill widths
    that these extend over across the line.

    Parameters
    ----------
    series
        Frames with their states; unbiased ones show how often states really change.
    hills
        The hills.
    temperature
        Temperature of the biased simulation, K.
    interval
        Time between frames, ps.
    rng
        Draws the weights of blocks of time for the error (Bayesian bootstrap: Rubin, doi:10.1214/aos/1176345338).
    time
        Length of the biased simulation, ns; the rate is that at its end.
    boltzmann
        `KB`, or 1 in reduced units.

    Returns
    -------
    CrossingRate

    Raises
    ------
    DataError
        There are fewer than two states, or arrays do not belong together.
    SettingsError
        A number is not above 0, or the bias factor not above 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = np.cumsum(rng.random(20_000) < 0.01) % 2
    >>> u = np.stack([states + 0.1 * rng.normal(size=20_000)], 1)
    >>> rate = expected_crossings([LatentSeries(u, states, 300.0)], Hills(np.array([0.1])), 300.0, interval=1.0)
    >>> rate.slowest.states, bool(rate.crossings > 10)
    ((0, 1), True)
    """
    _check(series, hills, temperature, interval, time, boltzmann)
    rng = np.random.default_rng(rng)
    present = np.unique(np.concatenate([entry.states for entry in series])).tolist()
    if len(present) < 2:
        raise DataError("expected_crossings: all frames are in one state; crossings need two.")
    lines = [
        _Line(series, hills, pair, temperature, interval, boltzmann)
        for pair in [(i, j) for i in present for j in present if i < j]
    ]
    pairs = [line.rate(rng, 1000 * time) for line in lines if line.moves.any()]
    if not pairs:
        raise DataError("expected_crossings: no two frames of the same two states follow each other.")
    slowest = _bottleneck(pairs)
    return CrossingRate(
        slowest.crossings, slowest.error, slowest.filling, slowest, tuple(pairs), temperature=float(temperature)
    )


def _check(
    series: Sequence[LatentSeries], hills: Hills, temperature: float, interval: float, time: float, boltzmann: float
) -> None:
    if not len(series):
        raise DataError("expected_crossings: there is no series.")
    width = np.asarray(hills.width, float)
    for number, entry in enumerate(series):
        shape = np.shape(entry.u)
        if len(shape) != 2 or shape[1] != len(width):
            raise DataError(f"expected_crossings: u of series {number} is {shape}; it must be (frames, {len(width)}).")
        of_frames = [entry.states] if entry.weights is None else [entry.states, entry.weights]
        if any(np.shape(values) != shape[:1] for values in of_frames):
            raise DataError(f"expected_crossings: series {number} needs one state and weight for each frame.")
        if not np.isfinite(entry.u).all():
            raise DataError(f"expected_crossings: u of series {number} is not finite.")
    numbers = {
        "temperature": temperature,
        "interval": interval,
        "time": time,
        "boltzmann": boltzmann,
        "height of hills": hills.height,
        "interval of hills": hills.interval,
        "width of hills": width.min(),
        "bias_factor minus 1": hills.bias_factor - 1,
    }
    for name, number in numbers.items():
        if not number > 0:
            raise SettingsError(f"expected_crossings: {name} must be above 0; got {number}.")


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


class _Line:
    """The line between two states, in hill widths, cut into cells."""

    def __init__(
        self,
        series: Sequence[LatentSeries],
        hills: Hills,
        pair: tuple[int, int],
        temperature: float,
        interval: float,
        boltzmann: float,
    ) -> None:
        self.pair, self.hills, self.interval = pair, hills, interval
        self.temperature, self.boltzmann = temperature, boltzmann
        inside = [np.isin(entry.states, pair) for entry in series]
        points = [entry.u / np.asarray(hills.width, float) for entry in series]
        u, states = (np.concatenate(parts) for parts in (points, [entry.states for entry in series]))
        ends = [np.median(u[states == state], axis=0) for state in pair]
        direction = ends[1] - ends[0]
        length = np.linalg.norm(direction)
        direction = direction / length if length > 0 else np.eye(u.shape[1])[0]
        self.sharing = _sharing(u[np.concatenate(inside)], direction)
        along = [part @ direction for part in points]
        s, of_pair = np.concatenate(along), np.concatenate(inside)
        s, second = s[of_pair], states[of_pair] == pair[1]
        self.medians = [float(np.median(s[second == which])) for which in (False, True)]
        border = _border(s, second)
        self.cores = [border + CORE_SHARE * (median - border) for median in self.medians]
        self.edges = _edges(s, second)
        self.x, self.size = 0.5 * (self.edges[1:] + self.edges[:-1]), np.diff(self.edges)
        self.temperatures = sorted(
            {entry.temperature for entry in series}, key=lambda value: abs(1 / value - 1 / temperature)
        )
        self._count(series, along, inside)

    def _count(self, series: Sequence[LatentSeries], along: list[np.ndarray], inside: list[np.ndarray]) -> None:
        """What is counted in each block of time: frames, weights, displacements and transitions."""
        n, blocks = len(self.x), BLOCKS * len(series)
        shape = (blocks, n)
        self.of_temperature = np.repeat([self.temperatures.index(entry.temperature) for entry in series], BLOCKS)
        self.plain = np.repeat([not entry.biased for entry in series], BLOCKS)
        self.weights, self.squares, self.moves, self.displacements = (np.zeros(shape) for _ in range(4))
        self.transitions = np.zeros(blocks)
        for number, (entry, s, within) in enumerate(zip(series, along, inside)):
            cell = np.clip(np.searchsorted(self.edges, s, side="right") - 1, 0, n - 1)
            block = number * BLOCKS + np.arange(len(s)) * BLOCKS // max(1, len(s))
            flat = block * n + cell
            weights = np.ones(len(s)) if entry.weights is None else entry.weights
            for total, values in ((self.weights, weights), (self.squares, weights**2)):
                total += np.bincount(flat[within], values[within], blocks * n).reshape(shape)
            both = within[1:] & within[:-1]
            moved = (np.diff(s) ** 2)[both]
            for end in (flat[1:][both], flat[:-1][both]):
                self.moves += np.bincount(end, minlength=blocks * n).reshape(shape)
                self.displacements += np.bincount(end, moved, blocks * n).reshape(shape)
            side = np.where(entry.states == self.pair[0], -1, 1) * within
            core = np.where(side < 0, s < self.cores[0], s > self.cores[1]) & within
            side = np.where(within, side * core, 2)  # a third state in between: no direct transition
            known = np.flatnonzero(side)
            crossed = side[known][1:] * side[known][:-1] == -1
            self.transitions += np.bincount(block[known[1:]][crossed], minlength=blocks)

    def rate(self, rng: np.random.Generator, time: float) -> PairRate:
        """Crossings under the bias after a time in ps."""
        draws = np.ones((1 + RESAMPLES, len(self.transitions)))
        draws[1:] = rng.dirichlet(np.ones(draws.shape[1]), RESAMPLES) * draws.shape[1]
        energy, diffusion = self._landscape(draws)
        transmission = self._transmission(draws)
        kt = self.boltzmann * self.temperature
        bias, history = self._filled(energy, diffusion, kt, time)
        rates = history[-1][1] * transmission
        times, rising = (np.array([entry[which] for entry in history]) for which in (0, 1))
        first = int(np.argmax(rising[:, 0] >= FILLED * rising[-1, 0]))
        profile, left = energy[0], (energy + bias)[0]
        between, cores = (self._between(*ends) for ends in (self.medians, self.cores))
        return PairRate(
            states=self.pair,
            crossings=float(1000 * rates[0]),
            error=float(1000 * rates[1:].std(ddof=1)),
            filling=float(times[first] / 1000),
            barrier=float(np.ptp(profile[between])),
            residual=float(np.ptp(left[cores])),
            transmission=float(transmission[0]),
            transitions=int(self.transitions[self.plain].sum()),
        )

    def _between(self, one: float, other: float) -> slice:
        """Cells from one point to another, at least two."""
        low, high = np.clip(np.searchsorted(self.edges, sorted((one, other)), side="right") - 1, 0, len(self.x) - 1)
        return slice(min(low, len(self.x) - 2), max(high, low + 1) + 1)

    def _landscape(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Free energy, kJ/mol, and diffusion, widths^2 / ps, at the temperature of the bias; (draws, cells) each."""
        energy = diffusion = None
        weighted = (self.weights.any(1) & self.moves.any(1)).any()
        weights = self.weights if weighted else self.moves  # only trapped dynamics was in these states
        trusted = np.zeros(len(self.x))
        for index, temperature in enumerate(self.temperatures):
            blocks = self.of_temperature == index
            if not (weights[blocks].any(1) & self.moves[blocks].any(1)).any():
                continue
            local = self._energy(draws, blocks, weights, temperature)
            mobile = self._diffusion(draws, blocks) * self.temperature / temperature
            frames = weights[blocks].sum(0) ** 2 / np.maximum(self.squares[blocks].sum(0), 1e-300)
            if energy is None or diffusion is None:
                energy, diffusion, trusted = local, mobile, frames
                continue
            common = np.minimum(frames, trusted)
            shift = ((energy - local) @ common / max(common.sum(), 1e-12))[:, None]
            share = np.where((frames == 0) & (trusted > RELIABLE), 1.0, trusted / (trusted + RELIABLE))
            energy = share * energy + (1 - share) * (local + shift)
            diffusion = np.exp(share * np.log(diffusion) + (1 - share) * np.log(mobile))
            trusted = trusted + frames
        assert energy is not None and diffusion is not None  # some frames move
        return energy, diffusion

    def _energy(self, draws: np.ndarray, blocks: np.ndarray, weights: np.ndarray, temperature: float) -> np.ndarray:
        """-kT ln p of the frames of some blocks, by their weights in each cell (all blocks, cells)."""
        groups = self._groups(blocks)
        sums = np.add.reduceat(draws[:, blocks] @ weights[blocks], groups.first, axis=1)
        with np.errstate(divide="ignore"):  # frames without weight
            log_density = np.log(sums / sums.sum(1, keepdims=True) / groups.size)
        return -self.boltzmann * temperature * groups.interpolated(log_density, self.x)

    def _diffusion(self, draws: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Half the mean square displacement in one interval over its length."""
        groups = self._groups(blocks)
        moves, squares = (
            np.add.reduceat(draws[:, blocks] @ counted[blocks], groups.first, axis=1)
            for counted in (self.moves, self.displacements)
        )
        with np.errstate(divide="ignore", invalid="ignore"):  # frames that did not move at all
            return np.exp(groups.interpolated(np.log(squares / moves / (2 * self.interval)), self.x))

    def _groups(self, blocks: np.ndarray) -> _Groups:
        """Neighboring cells joined until each group has a few frames, so that there are no gaps in between."""
        frames, first, counted = self.moves[blocks].sum(0) / 2, [0], 0.0  # each interval has two ends
        for cell, number in enumerate(frames):
            if counted >= FEWEST:
                first.append(cell)
                counted = 0.0
            counted += number
        if counted < FEWEST and len(first) > 1:
            first.pop()
        return _Groups.of(np.array(first), frames, self.x, self.size)

    def _transmission(self, draws: np.ndarray) -> np.ndarray:
        """Transitions in plain dynamics relative to those of diffusion along the line; (draws,)."""
        expected, counted, hotness = np.zeros((3, len(draws)))
        for index, temperature in enumerate(self.temperatures):
            blocks = (self.of_temperature == index) & self.plain
            if not self.moves[blocks].any():
                continue
            energy = self._energy(draws, blocks, self.moves, temperature)
            diffusion = self._diffusion(draws, blocks)
            spent = 0.5 * (draws[:, blocks] @ self.moves[blocks].sum(1)) * self.interval  # two ends of each interval
            crossings = spent * self._crossings(energy, diffusion, self.boltzmann * temperature)
            expected += crossings
            hotness += crossings * temperature / self.temperature
            counted += draws[:, blocks] @ self.transitions[blocks]
        # 1 where nothing is known. More than 1 would mean jumps, which the bias does not make more frequent.
        ratio = np.minimum((counted + 0.5) / (expected + 0.5), 1)
        hidden = np.minimum(ratio / UNHINDERED, 1)
        return ratio * hidden ** (hotness / np.maximum(expected, 1e-300) - 1)

    def _crossings(self, energy: np.ndarray, diffusion: np.ndarray, kt: float) -> np.ndarray:
        """Crossings between the cores per ps of a diffusion; (..., cells) -> (...,)."""
        reduced = (energy - energy.min(-1, keepdims=True)) / kt
        between = self._between(*self.cores)
        weight = (self.size * np.exp(-reduced)).sum(-1)
        resistance = np.exp(0.5 * (reduced[..., 1:] + reduced[..., :-1])) * np.diff(self.x)
        resistance = resistance / np.sqrt(diffusion[..., 1:] * diffusion[..., :-1])
        return 2 / (weight * resistance[..., between.start : between.stop - 1].sum(-1))

    def _filled(
        self, energy: np.ndarray, diffusion: np.ndarray, kt: float, time: float
    ) -> tuple[np.ndarray, list[tuple[float, np.ndarray]]]:
        """The bias (draws, cells) after a time in ps, and crossings per ps (draws,) at the times before."""
        hills, kernel = self.hills, np.exp(-0.5 * (self.x - self.x[:, None]) ** 2)
        bias, now, history = np.zeros_like(energy), 0.0, []
        tempering = kt * (hills.bias_factor - 1)
        while now < time:
            total = energy + bias
            share = self.size * np.exp(-(total - total.min(1, keepdims=True)) / kt)
            share *= hills.height / (self.sharing * hills.interval) / share.sum(1, keepdims=True)
            growth = (share * np.exp(-bias / tempering)) @ kernel
            history.append((now, self._crossings(total, diffusion, kt)))
            step = min(STEP * kt / growth.max(), time - now)
            bias, now = bias + step * growth, now + step
        history.append((now, self._crossings(energy + bias, diffusion, kt)))
        return bias, history


def _sharing(u: np.ndarray, direction: np.ndarray) -> float:
    """By how many hills side by side the frames (n, d) extend across the line."""
    across = u - np.median(u, axis=0)
    across = across - (across @ direction)[:, None] * direction
    axes = np.linalg.svd(across.T @ across)[0][:, : u.shape[1] - 1]
    if not axes.shape[1]:
        return 1.0
    low, high = np.quantile(across @ axes, [0.005, 0.995], axis=0)
    return float(np.prod(np.maximum(1, (high - low) / math.sqrt(2 * math.pi))))


def _border(s: np.ndarray, second: np.ndarray) -> float:
    """The point on the line that tells the two states apart best, each with the same weight."""
    order = np.argsort(s, kind="stable")
    gain = np.where(second[order], 1 / second.sum(), -1 / (~second).sum())
    last = int(np.argmin(np.cumsum(gain)))
    return float(s[order][last : last + 2].mean())


def _edges(s: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Edges of the cells."""
    low, high = s.min(), s.max()
    number = int(np.clip(math.ceil(PER_WIDTH * (high - low)), 2, MOST))
    levels = np.linspace(0, 1, PER_STATE + 1)[1:-1]
    inner = [np.quantile(s[second == which], levels) for which in (False, True)]
    edges = np.unique(np.concatenate([np.linspace(low, high, number + 1), *inner]))
    least = 0.02 * max(1.0, (high - low) / 16)  # cells that are narrower would hold next to no frame
    apart = [edges[0]]
    for edge in edges[1:-1]:
        if edge - apart[-1] > least and high - edge > least:
            apart.append(edge)
    return np.array([*apart, high])


class _Groups(NamedTuple):
    """Groups of neighboring cells: index of the first cell, length, and mean place of the frames of each; (groups,)."""

    first: np.ndarray
    size: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, frames: np.ndarray, x: np.ndarray, size: np.ndarray) -> _Groups:
        weights = frames + 1e-9  # a group without frames is as long as the line
        place = np.add.reduceat(weights * x, first) / np.add.reduceat(weights, first)
        return cls(first, np.add.reduceat(size, first), place)

    def interpolated(self, values: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values (draws, groups) at other places, linear between groups; those that are not finite are left out."""
        rows = []
        for row in values:
            known = np.isfinite(row)
            if not known.any():
                raise DataError("expected_crossings: the variable does not change from frame to frame.")
            rows.append(np.interp(x, self.place[known], row[known]))
        return np.array(rows)
