"""The number of crossings between two states under a bias, from the transitions between cells in plain dynamics."""

from __future__ import annotations

import numpy as np

from latf_sampling.analysis.crossing_cells import RELIABLE, Line

LABELS = 3
"""The two states, and what is between them."""


class Flux:
    """Transitions between nodes: the groups of a line, each divided by what state its frames are in.

    A transition from one frame to the next passes all groups between the two. Along the line, the flux is therefore
    inversely proportional to the integral of 1 / p over these groups, as in a diffusion, where p is the density of the
    frames, and under the bias that of the walker. What the variable does not tell, in which state a frame is, has the
    same conditional probability under the bias, except that it depends on the temperature.

    Examples
    --------
    >>> from latf_sampling.analysis.crossing_cells import Hills, LatentSeries
    >>> states = np.arange(8000) // 100 % 2
    >>> u = (states + 0.1 * np.random.default_rng(0).normal(size=8000))[:, None]
    >>> line = Line([LatentSeries(u, states, 300.0)], Hills(np.array([0.1])), (0, 1), 300.0)
    >>> int(Flux(line, 300.0).counted().sum())
    79
    """

    def __init__(self, line: Line, temperature: float) -> None:
        self.line, self.temperature = line, temperature
        nodes, index = np.unique(line.group * LABELS + line.label, return_inverse=True)
        self.groups, self.labels = nodes // LABELS, nodes % LABELS
        self.core = np.full(len(nodes), -1)
        for side in (0, 1):
            self.core[(self.labels == side) & line.beyond[side][self.groups]] = side
        self.node, self.n = index, len(nodes)
        self.jump = index[line.pairs] * self.n + index[line.pairs + 1]
        self.block = line.block[line.pairs]
        self.hotness = [max(own / temperature, 1.0) for own in line.temperatures]

    def counted(self) -> np.ndarray:
        """Crossings from core to core in each block of plain dynamics; (blocks,)."""
        line, core = self.line, self.core[self.node]
        stretch = np.cumsum(~line.continues)  # a third state in between: no direct transition
        known = np.flatnonzero(core >= 0)
        one, other = known[:-1], known[1:]
        crossed = (core[one] != core[other]) & (stretch[one] == stretch[other])
        return np.bincount(line.block[other[crossed]], minlength=len(line.plain)) * line.plain

    def plain(self, draw: np.ndarray) -> float:
        """Crossings in plain dynamics by the same cells, without the bias and at its own temperatures."""
        total = 0.0
        for index in range(len(self.hotness)):
            chosen = self.line.plain & (self.line.of_temperature == index)
            total += self._through(self._transitions(draw * chosen))
        return total

    def biased(self, draw: np.ndarray, energy: np.ndarray, bias: np.ndarray, kt: float) -> float:
        """Crossings in one interval between frames, in equilibrium under a bias.

        Parameters
        ----------
        draw
            Weight of each block (blocks,).
        energy, bias
            Free energy and bias in each cell (cells,), kJ/mol.
        kt
            kJ/mol, at the temperature of the biased simulation.
        """
        line = self.line
        every = np.ones(len(draw), bool)
        frames = np.exp(line.log_density(draw[None], every, line.moves)[0]) * (draw @ line.moves.sum(1)) / 2
        walker = np.exp(-(energy + bias - (energy + bias).min()) / kt)
        walker /= (walker * line.size).sum()
        factor = self._between(1 / frames) / self._between(1 / walker)
        conditional, shares = self._conditional(draw)
        ratio = conditional / np.maximum(shares, 1e-300)  # (groups, labels)
        flux = np.zeros((self.n, self.n))
        for index, hotness in enumerate(self.hotness):
            jumps = self._transitions(draw * (line.of_temperature == index))
            flux += jumps * self._hindrance(jumps, hotness) / hotness
        return self._through(flux * factor[np.ix_(self.groups, self.groups)] * self._hidden(ratio))

    def _transitions(self, draw: np.ndarray) -> np.ndarray:
        """Transitions from node to node, the same in both directions; (nodes, nodes)."""
        counts = np.bincount(self.jump, draw[self.block], self.n**2).reshape(self.n, self.n)
        return 0.5 * (counts + counts.T)

    def _between(self, resistance: np.ndarray) -> np.ndarray:
        """Mean of a function of the cells (cells,) between each two groups; (groups, groups)."""
        line = self.line
        steps = np.sqrt(resistance[1:] * resistance[:-1]) * np.diff(line.x)
        place = line.groups.place
        upto = np.interp(place, line.x, np.concatenate([[0.0], np.cumsum(steps)]))
        length = np.abs(place[:, None] - place)
        integral = np.abs(upto[:, None] - upto)
        same = length < 1e-9
        return np.where(same, np.interp(place, line.x, resistance), integral / np.where(same, 1.0, length))

    def _conditional(self, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each label in a group at the temperature of the bias, and its share of all frames."""
        line, conditional = self.line, np.zeros(0)
        size = len(line.groups.first)
        flat = line.group * LABELS + line.label
        trusted, every = np.zeros((size, 1)), np.zeros((size, LABELS))
        for index, own in enumerate(line.temperatures):
            weights = (draw * (line.of_temperature == index))[line.block]
            every += np.bincount(flat, weights, size * LABELS).reshape(size, LABELS)
            counts, squares = (
                np.bincount(flat, weights * line.frame_weights**power, size * LABELS).reshape(size, LABELS)
                for power in (1, 2)
            )
            local = _normalized(_normalized(counts) ** (own / self.temperature))
            frames = (counts.sum(1) ** 2 / np.maximum(squares.sum(1), 1e-300))[:, None]
            share = np.where(frames == 0, 1.0, trusted / (trusted + RELIABLE))
            conditional = local if not conditional.size else share * conditional + (1 - share) * local
            trusted = trusted + frames
        return conditional, _normalized(every)

    def _hindrance(self, jumps: np.ndarray, hotness: float) -> np.ndarray:
        """By what factor transitions between labels are rarer than in proportion to hotness; (nodes, nodes).

        Where the variable does not tell states apart, fewer transitions are seen than if the label were drawn anew in
        each frame: there is a barrier, exp(-B / kT), which is the higher in kT the lower the temperature.
        """
        size = len(self.line.groups.first)
        member = np.eye(LABELS)[self.labels]
        observed = member.T @ jumps @ member
        local = np.zeros((size, LABELS))
        np.add.at(local, (self.groups, self.labels), jumps.sum(1))
        arrivals = np.zeros((LABELS, size))
        np.add.at(arrivals.T, self.groups, jumps.T @ member)
        expected = arrivals @ _normalized(local)
        ratio = np.minimum(1.0, (observed + 0.5) / (0.5 * (expected + expected.T) + 0.5))
        np.fill_diagonal(ratio, 1.0)
        return (ratio ** (hotness - 1))[np.ix_(self.labels, self.labels)]

    def _hidden(self, ratio: np.ndarray) -> np.ndarray:
        """Change of the flux between nodes with the conditional probabilities of their labels; (nodes, nodes)."""
        own = ratio[self.groups, self.labels]
        product = own[:, None] * own
        return np.where(self.labels[:, None] == self.labels, np.sqrt(product), product)

    def _through(self, flux: np.ndarray) -> float:
        """Crossings from core to core, in both directions, by the committor (Metzner, Schütte, Vanden-Eijnden,
        doi:10.1137/070699500)."""
        flux = flux - np.diag(flux.diagonal())
        laplacian = np.diag(flux.sum(1)) - flux
        free = (laplacian.diagonal() > 0) & (self.core < 0)
        committor = (self.core == 1).astype(float)
        if free.any():
            inner = laplacian[np.ix_(free, free)]
            inner[np.diag_indices_from(inner)] *= 1 + 1e-12  # nodes that are connected with neither core
            committor[free] = np.linalg.solve(inner, -laplacian[free] @ committor)
        return max(0.0, float(2 * committor @ laplacian @ committor))  # rounding may leave -1e-17 of no flux


def _normalized(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)
