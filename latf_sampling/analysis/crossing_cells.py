"""The line between two states in latent space, cut into cells, and what the frames in each cell tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from latf_sampling.analysis.blocks import BLOCKS
from latf_sampling.errors import DataError

PER_WIDTH, PER_STATE, FEWEST_CELLS, MOST = 4, 15, 40, 400
"""Cells along the line: so many for each hill width, of equal length; as many more in each state, of equal numbers of
frames, since a state may be narrower than a hill; and at least and at most so many of the former."""
CORE_SHARE = 0.25
"""The core of a state begins so far on the way from the border to the median of its frames. That is nearer than in the
report, whose crossings are fewer: with cores as far as there a fast variable was ranked above one that is half slow."""
RELIABLE = 10.0
"""Effective frames in a cell from which on hotter frames count less than those of the temperature itself."""
FEWEST = 5
"""Neighboring cells are joined until there are so many frames, for their density and transitions."""
BETWEEN = 2
"""Label of frames that are in neither of the two states."""


@dataclass(frozen=True)
class Hills:
    """The hills of a metadynamics.

    Attributes
    ----------
    width : numpy.ndarray (d,)
        Standard deviation along each component, in the unit of the variable.
    height : float
        Height of the first ones, kJ/mol, or a quantity.
    bias_factor : float
        gamma, above 1.
    interval : float
        Time between hills, ps, or a quantity.

    Examples
    --------
    >>> Hills(np.array([0.1]), height=2.0).bias_factor
    10.0
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
        Index of the state of each frame; -1 where it is between states, which are only their cores then.
    temperature : float
        K, or a quantity.
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


class Groups(NamedTuple):
    """Groups of neighboring cells: index of the first cell, length, and mean place of the frames of each; (groups,)."""

    first: np.ndarray
    size: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, frames: np.ndarray, x: np.ndarray, size: np.ndarray) -> Groups:
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


class Line:
    """The line between two states, in hill widths, cut into cells.

    Attributes
    ----------
    x, size : numpy.ndarray (cells,)
        Middle and length of each cell.
    groups : Groups
        Neighboring cells joined until each has a few frames.
    group, label, block, frame_weights : numpy.ndarray (frames,)
        Of the frames of the two states and between them, of all series: their group, 0 or 1 for the state or `BETWEEN`,
        block of time, and weight in the free energy.
    pairs : numpy.ndarray (pairs,)
        Index among these frames of the earlier one of each two that follow each other in a series.
    continues : numpy.ndarray (frames,)
        Whether the frame is the later one of such a pair.
    beyond : numpy.ndarray (2, groups)
        Which groups are not on the border, on the side of each state.
    weights, squares, moves : numpy.ndarray (blocks, cells)
        Weights of frames, their squares, and ends of pairs of frames.
    """

    def __init__(self, series: Sequence[LatentSeries], hills: Hills, pair: tuple[int, int], temperature: float) -> None:
        self.pair = pair
        labels = [_labels(entry.states, pair) for entry in series]
        inside = [of_frames >= 0 for of_frames in labels]
        points = [entry.u / np.asarray(hills.width, float) for entry in series]
        within, every = np.concatenate(inside), np.concatenate(labels)
        u, self.label = np.concatenate(points)[within], every[within]
        ends = [np.median(u[self.label == side], axis=0) for side in (0, 1)]
        direction = ends[1] - ends[0]
        length = np.linalg.norm(direction)
        direction = direction / length if length > 0 else np.eye(u.shape[1])[0]
        self.sharing = _sharing(u, direction)
        self.s = u @ direction
        known = self.label != BETWEEN
        s, second = self.s[known], self.label[known] == 1
        self.medians = [float(np.median(s[second == side])) for side in (False, True)]
        border = _border(s, second)
        self.cores = [border + CORE_SHARE * (median - border) for median in self.medians]
        self.edges = _edges(self.s, self.label == 1, self.label == 0)
        self.x, self.size = 0.5 * (self.edges[1:] + self.edges[:-1]), np.diff(self.edges)
        self.temperatures = sorted(
            {entry.temperature for entry in series}, key=lambda value: abs(1 / value - 1 / temperature)
        )
        self._count(series, inside)
        self.groups = self.groups_of(np.ones(len(self.moves), bool))
        self.group = np.searchsorted(self.groups.first, self.cell, side="right") - 1
        place = self.x[self.groups.first]
        anywhere = not known.all()  # cores are given
        self.beyond = np.array([anywhere | (place < self.cores[0]), anywhere | (place > self.cores[1])])

    def _count(self, series: Sequence[LatentSeries], inside: list[np.ndarray]) -> None:
        n, blocks = len(self.x), BLOCKS * len(series)
        self.of_temperature = np.repeat([self.temperatures.index(entry.temperature) for entry in series], BLOCKS)
        self.plain = np.repeat([not entry.biased for entry in series], BLOCKS)
        self.cell = np.clip(np.searchsorted(self.edges, self.s, side="right") - 1, 0, n - 1)
        block, weights = [], []
        for number, (entry, within) in enumerate(zip(series, inside)):
            time = np.flatnonzero(within)
            block.append(number * BLOCKS + time * BLOCKS // max(1, len(within)))
            weights.append(np.ones(len(time)) if entry.weights is None else entry.weights[within])
        self.block, self.frame_weights = np.concatenate(block), np.concatenate(weights)
        highest = self.frame_weights.max()
        # Squares shall be what a float can be. Without any weight, only trapped dynamics was in these states.
        self.frame_weights = self.frame_weights / highest if highest > 0 else np.ones_like(self.frame_weights)
        time = np.flatnonzero(np.concatenate(inside))  # of all series, one after the other
        of_series = np.repeat(np.arange(len(series)), [len(within) for within in inside])[time]
        self.pairs = np.flatnonzero((np.diff(time) == 1) & (np.diff(of_series) == 0))
        self.continues = np.zeros(len(time), bool)
        self.continues[self.pairs + 1] = True
        flat = self.block * n + self.cell
        ends = np.concatenate([flat[self.pairs], flat[self.pairs + 1]])
        self.weights, self.squares, self.moves = (
            np.bincount(index, values, blocks * n).reshape(blocks, n)
            for index, values in ((flat, self.frame_weights), (flat, self.frame_weights**2), (ends, np.ones(len(ends))))
        )

    def between(self, one: float, other: float) -> slice:
        """Cells from one point to another, at least two."""
        low, high = np.clip(np.searchsorted(self.edges, sorted((one, other)), side="right") - 1, 0, len(self.x) - 1)
        return slice(min(low, len(self.x) - 2), max(high, low + 1) + 1)

    def energy(self, draws: np.ndarray, temperature: float, boltzmann: float) -> np.ndarray:
        """Free energy, kJ/mol, at the temperature of the bias, by weights of blocks (draws, blocks); (draws, cells)."""
        energy, weights = None, self.weights
        if not (weights.any(1) & self.moves.any(1)).any():
            weights = self.moves  # the frames with weights do not follow each other
        trusted = np.zeros(len(self.x))
        for index, own in enumerate(self.temperatures):
            blocks = self.of_temperature == index
            if not (weights[blocks].any(1) & self.moves[blocks].any(1)).any():
                continue
            local = -boltzmann * own * self.log_density(draws, blocks, weights)
            frames = weights[blocks].sum(0) ** 2 / np.maximum(self.squares[blocks].sum(0), 1e-300)
            if energy is None:
                energy, trusted = local, frames
                continue
            common = np.minimum(frames, trusted)
            shift = ((energy - local) @ common / max(common.sum(), 1e-12))[:, None]
            share = np.where((frames == 0) & (trusted > RELIABLE), 1.0, trusted / (trusted + RELIABLE))
            energy = share * energy + (1 - share) * (local + shift)
            trusted = trusted + frames
        assert energy is not None  # some frames follow each other
        return energy

    def log_density(self, draws: np.ndarray, blocks: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """ln p of the frames of some blocks, by their weights in each cell (all blocks, cells); (draws, cells)."""
        groups = self.groups_of(blocks)
        sums = np.add.reduceat(draws[:, blocks] @ weights[blocks], groups.first, axis=1)
        with np.errstate(divide="ignore"):  # frames without weight
            log_density = np.log(sums / sums.sum(1, keepdims=True) / groups.size)
        return groups.interpolated(log_density, self.x)

    def groups_of(self, blocks: np.ndarray) -> Groups:
        """Neighboring cells joined until each group has a few frames of some blocks, so that there are no gaps."""
        frames, first, counted = self.moves[blocks].sum(0) / 2, [0], 0.0  # each interval has two ends
        for cell, number in enumerate(frames):
            if counted >= FEWEST:
                first.append(cell)
                counted = 0.0
            counted += number
        if counted < FEWEST and len(first) > 1:
            first.pop()
        return Groups.of(np.array(first), frames, self.x, self.size)


def _labels(states: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    """0 and 1 for the frames of the two states, `BETWEEN` for those from one of them to one of them, -1 for others."""
    labels = np.full(len(states), -1)
    labels[states == pair[0]], labels[states == pair[1]] = 0, 1
    known = np.flatnonzero(states >= 0)
    if len(known) and len(known) < len(states):
        open_ = np.flatnonzero(states < 0)
        after = np.searchsorted(known, open_)
        before, after = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
        labels[open_[(labels[before] >= 0) & (labels[after] >= 0)]] = BETWEEN
    return labels


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


def _edges(s: np.ndarray, *states: np.ndarray) -> np.ndarray:
    """Edges of the cells."""
    low, high = s.min(), s.max()
    number = int(np.clip(math.ceil(PER_WIDTH * (high - low)), FEWEST_CELLS, MOST))
    levels = np.linspace(0, 1, PER_STATE + 1)[1:-1]
    inner = [np.quantile(s[state], levels) for state in states]
    edges = np.unique(np.concatenate([np.linspace(low, high, number + 1), *inner]))
    # Cells that are narrower would hold next to no frame; the line may be much shorter than a hill is wide.
    least = 0.02 * max(min(1.0, 0.1 * (high - low)), (high - low) / 16)
    apart = [edges[0]]
    for edge in edges[1:-1]:
        if edge - apart[-1] > least and high - edge > least:
            apart.append(edge)
    return np.array([*apart, high])
