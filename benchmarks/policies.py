"""Which restart policy finds all states and their populations in the fewest simulated steps, on potentials with known
populations.

Rounds of four walkers in the plane: the policies of `latf_sampling.campaign.choices` choose where the walkers of the
next round start, as in a campaign, against plain dynamics, where walkers go on, and restarts from frames at random. The
variable is the position in the plane with noise, and the states are known, so that the table is about the policies
alone and not about learning. Populations come from a Markov state model of all pairs of frames in the same trajectory,
which needs no equilibrium. Dynamics are Langevin dynamics in numpy, all seeds at once.

"disagreement" trains three of the package's flows after every eighth round, each on trajectories that are drawn with
replacement, and starts where their free energies differ most. Samples of a flow at the temperature of plain dynamics
("flow"), and archived frames with their weights ("archive"), have the density of the frames: both policies are
"uniform" here, but for the blur of the flow.

    python benchmarks/policies.py -o runs/policies.md      # benchmarks/policies.md is one run
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from latf_sampling.campaign import choices
from latf_sampling.core import streams
from latf_sampling.learning.flow import LatentFlow
from latf_sampling.systems.potentials import three_hole

WALKERS, STEPS, STRIDE = 4, 2000, 10
"""Walkers and steps of a round, and steps between frames."""
TIMESTEP, FRICTION = 0.02, 1.0
"""ps and 1/ps; the mass is 1 amu."""
NOISE, WIDTH = 0.1, 0.1
"""Standard deviation of the noise of the variable, and its hill width, nm."""
LAG = 20
"""Frames from one end of a pair to the other."""
GOAL = 0.05
"""Populations are right when none is farther off than this, in this round and all later ones."""
EVERY = 8
"""Populations are estimated after every eighth round."""
FLOWS, BATCHES, BATCH, RETRAIN = 3, 60, 512, 8
"""Flows of the ensemble, how long each is trained, and after how many rounds."""
CELL = 0.25
"""Side of the cells of the Markov state model, nm."""


@dataclass(frozen=True)
class System:
    """A potential in the plane, kJ/mol and nm, with its temperature as kT, kJ/mol, and the centers of its states."""

    name: str
    potential: Callable[[np.ndarray], np.ndarray]
    forces: Callable[[np.ndarray], np.ndarray]
    kt: float
    centers: np.ndarray
    radius: float
    low: float
    high: float

    def state(self, x: np.ndarray) -> np.ndarray:
        """The nearest center of each point (n, 2)."""
        return ((x[:, None] - self.centers) ** 2).sum(-1).argmin(1)

    def reached(self, x: np.ndarray) -> np.ndarray:
        """Which states are reached: a point is within their radius; (states,)."""
        return np.array([(((x - center) ** 2).sum(-1) < self.radius**2).any() for center in self.centers])

    def populations(self) -> np.ndarray:
        """Exact populations of the states."""
        axis = np.linspace(self.low, self.high, 600)
        x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        energy = self.potential(x)
        weights = np.exp(-(energy - energy.min()) / self.kt)
        return np.bincount(self.state(x), weights, len(self.centers)) / weights.sum()


def three_holes() -> System:
    potential = three_hole().potential
    heights = np.array([3.0, -3.0, -5.0, -5.0])
    places = np.array([[0.0, 1 / 3], [0.0, 5 / 3], [1.0, 0.0], [-1.0, 0.0]])

    def forces(x: np.ndarray) -> np.ndarray:
        apart = x[:, None] - places
        terms = heights * np.exp(-(apart**2).sum(-1))
        return 2 * (terms[..., None] * apart).sum(1) - 0.8 * (x - [0, 1 / 3]) ** 3

    centers = np.array([[-1.05, 0.0], [1.05, 0.0], [0.0, 1.54]])
    name = "Three holes, kT = 0.4 kJ/mol"
    return System(name, lambda x: potential(x[..., None, :]), forces, 0.4, centers, 0.4, -3.0, 3.5)


def sixteen_wells() -> System:
    """Wells on a square grid of 4 x 4 with depths that differ by up to 2 kT, and barriers of 5.5 kT and more."""
    depth = 2.0 * np.random.default_rng(1).random(16)
    centers = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij"), -1).reshape(-1, 2)

    def potential(x: np.ndarray) -> np.ndarray:
        outside = np.maximum(0, -0.5 - x) + np.maximum(0, x - 3.5)
        waves = 2.75 * (2 - np.cos(2 * np.pi * x).sum(-1))
        wells = np.exp(-((x[..., None, :] - centers) ** 2).sum(-1) / 0.02) @ depth
        return waves - wells + 200 * (outside**2).sum(-1)

    def forces(x: np.ndarray) -> np.ndarray:
        nearest = np.clip(np.round(x), 0, 3)
        apart = x - nearest  # other wells are too far away to be felt
        well = depth[(nearest @ [4, 1]).astype(int)] * np.exp(-(apart**2).sum(-1) / 0.02)
        outside = np.maximum(0, -0.5 - x) - np.maximum(0, x - 3.5)
        return 400 * outside - 5.5 * np.pi * np.sin(2 * np.pi * x) - well[:, None] * apart / 0.01

    name = "Sixteen wells, barriers of 5.5 kT and more"
    return System(name, potential, forces, 1.0, centers, 0.25, -1.0, 4.0)


def simulate(system: System, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A round of all walkers (n, 2) of all seeds with new velocities; returns frames (frames, n, 2)."""
    v = rng.normal(size=x.shape) * np.sqrt(system.kt)
    decay = np.exp(-FRICTION * TIMESTEP)
    kick = np.sqrt((1 - decay**2) * system.kt)
    frames = []
    for step in range(STEPS):
        v = v + TIMESTEP * system.forces(x)
        x = x + 0.5 * TIMESTEP * v
        v = decay * v + kick * rng.normal(size=x.shape)
        x = x + 0.5 * TIMESTEP * v
        if (step + 1) % STRIDE == 0:
            frames.append(x)
    return np.array(frames)


def markov_populations(system: System, cells: list[np.ndarray], n_cells: int, of_cell: np.ndarray) -> np.ndarray:
    """Populations of the states by a Markov state model of the cells that trajectories visited in both directions."""
    ends = [np.stack([part[:-LAG], part[LAG:]]) for part in cells]
    begin, end = np.concatenate(ends, 1)
    counts = coo_array((np.ones(len(begin)), (begin, end)), (n_cells, n_cells)).tocsr()
    _, labels = connected_components(counts, directed=True, connection="strong")
    sizes = np.bincount(labels, np.asarray(counts.sum(1)).ravel())
    inside = np.flatnonzero(labels == sizes.argmax())
    matrix = counts[inside][:, inside].toarray()
    matrix = matrix / matrix.sum(1, keepdims=True)
    system_matrix = np.vstack([matrix.T - np.eye(len(inside)), np.ones(len(inside))])
    stationary = np.linalg.lstsq(system_matrix, np.append(np.zeros(len(inside)), 1.0), rcond=None)[0]
    return np.bincount(of_cell[inside], np.maximum(stationary, 0), len(system.centers))


def choose(policy: str, system: System, frames: np.ndarray, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames (walkers,) that a policy chooses, by index; the last four are those where the walkers ended."""
    noisy = frames + NOISE * rng.normal(size=frames.shape)
    if policy == "uniform":
        return choices.uniform(len(frames), WALKERS, rng)[0]
    if policy == "counts":
        found, compact = np.unique(states, return_inverse=True)
        return choices.least_counts(compact, len(found), WALKERS, STEPS // STRIDE, rng)[0]
    if policy == "frontier":
        return choices.frontier(noisy, np.full(2, WIDTH), WALKERS, rng)[0]
    if policy == "disagreement":
        some = rng.choice(len(noisy), min(len(noisy), choices.MOST), replace=False)
        spread = disagreement(noisy, some, rng)
        return some[choices.most_uncertain(spread, noisy[some], np.full(2, WIDTH), WALKERS)[0]]
    return np.arange(len(frames) - WALKERS, len(frames))


def disagreement(points: np.ndarray, some: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standard deviation of -ln p at some of the points (n, 2), by flows of trajectories drawn with replacement."""
    u, length = torch.from_numpy(points.astype(np.float32)), STEPS // STRIDE
    rows = np.arange(len(points)).reshape(-1, length, WALKERS).transpose(0, 2, 1).reshape(-1, length)
    one, logs = torch.ones(()), []
    for _ in range(FLOWS):
        torch.manual_seed(int(rng.integers(2**31)))
        drawn = torch.from_numpy(rows[rng.integers(len(rows), size=len(rows))].ravel())
        flow = LatentFlow(2, 1.0, "spline", 2, (32,), 8)
        flow.fit(u[drawn], torch.ones(len(drawn)), torch.tensor(1e-4))
        flow.enclose(u)
        optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
        for _ in range(BATCHES):
            batch = u[drawn[torch.randint(len(drawn), (min(BATCH, len(drawn)),))]]
            loss = -flow.log_prob(flow.blurred(batch, torch.randn(batch.shape)), one).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logs.append(flow.log_prob(u[some], one).numpy())
    return np.std(logs, axis=0)


def run(system: System, policy: str, seeds: int, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounds after which all states were found, and after which the populations stay right, NaN where never; and the
    largest error of a population in the end. (seeds,) each.
    """
    exact = system.populations()
    edge = np.arange(system.low, system.high + CELL, CELL)
    middle = np.stack(np.meshgrid(edge + CELL / 2, edge + CELL / 2, indexing="ij"), -1).reshape(-1, 2)
    of_cell, side = system.state(middle), len(edge)
    rng = streams.stream(0, "policies", system.name, policy)
    x = np.repeat(system.centers[:1], seeds * WALKERS, axis=0)
    frames: list[list[np.ndarray]] = [[] for _ in range(seeds)]
    cells: list[list[np.ndarray]] = [[] for _ in range(seeds)]
    reached = np.zeros((seeds, len(system.centers)), bool)
    found, errors = np.full(seeds, np.nan), np.full((seeds, rounds // EVERY), np.nan)
    for index in range(rounds):
        made = simulate(system, x, rng)
        starts = []
        for seed in range(seeds):
            own = made[:, seed * WALKERS : (seed + 1) * WALKERS]
            for walker in range(WALKERS):
                place = np.clip(((own[:, walker] - system.low) / CELL).astype(int), 0, side - 1)
                flat = place @ [side, 1]
                if policy == "plain" and index:  # the same trajectory goes on
                    cells[seed][walker] = np.append(cells[seed][walker], flat)
                else:
                    cells[seed].append(flat)
            frames[seed].append(own.reshape(-1, 2))
            reached[seed] |= system.reached(frames[seed][-1])
            if reached[seed].all() and np.isnan(found[seed]):
                found[seed] = index + 1
            if index % EVERY == EVERY - 1:
                populations = markov_populations(system, cells[seed], side**2, of_cell)
                errors[seed, index // EVERY] = np.abs(populations - exact).max()
            joined = np.concatenate(frames[seed])
            if policy == "disagreement" and index % RETRAIN:  # go on in between
                starts.append(joined[-WALKERS:])
            else:
                starts.append(joined[choose(policy, system, joined, system.state(joined), rng)])
        x = np.concatenate(starts)
    right = np.full(seeds, np.nan)
    for seed, error in enumerate(errors):
        wrong = np.flatnonzero(~(error <= GOAL))
        first = wrong[-1] + 1 if len(wrong) else 0
        if first < len(error):
            right[seed] = (first + 1) * EVERY
    return found, right, errors[:, -1]


def row(name: str, found: np.ndarray, right: np.ndarray, error: np.ndarray) -> str:
    def words(values: np.ndarray) -> str:
        steps = np.sort(np.where(np.isnan(values), np.inf, values)) * WALKERS * STEPS / 1000
        known = [f"{value:,.0f}" if np.isfinite(value) else "more" for value in (np.median(steps), steps[0], steps[-1])]
        return f"{known[0]} ({known[1]} to {known[2]}) | {np.isfinite(values).sum()} of {len(values)}"

    return f"| {name} | {words(found)} | {words(right)} | {np.median(error):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Which restart policy finds all states and their populations soonest.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=160)
    options = parser.parse_args()
    began, parts = time.process_time(), []
    for system in (three_holes(), sixteen_wells()):
        head = (
            "| restart | thousands of steps until all states are found: median (range) | seeds "
            "| until populations stay right | seeds | largest error of a population in the end, median |"
        )
        lines = [f"## {system.name}", "", head, "|---|---|---|---|---|---|"]
        for policy in ("plain", "uniform", "counts", "frontier", "disagreement"):
            lines.append(row(policy, *run(system, policy, options.seeds, options.rounds)))
            print(lines[-1], flush=True)
        parts.append("\n".join(lines))
    most = options.rounds * WALKERS * STEPS // 1000
    text = [
        "# Where walkers restart",
        f"`benchmarks/policies.py`: {options.seeds} seeds, rounds of {WALKERS} walkers with {STEPS:,} steps "
        f"each, {most:,} thousand steps at most, {(time.process_time() - began) / 60:.0f} minutes of one core (load of "
        f"the machine in the end: {os.getloadavg()[0]:.0f}). Walkers begin in the first state. A state is found when a "
        "frame is near its minimum; populations are right when none differs from the exact one by more than "
        f"{GOAL:g}, in this round and all later ones, by a Markov state model of all pairs of frames.",
        *parts,
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
