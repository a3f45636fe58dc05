"""Whether a training finds the same metastable states whatever its seed.

    python benchmarks/states.py -o runs/states                  # ten seeds of each system
    python benchmarks/states.py -o runs/states --systems lj7 --seeds 3
    python benchmarks/states.py --relabeling                    # why labels are not refined to the likeliest future

Data are simulated once and stay in the output directory, as does the result of every training, so that an interrupted
run continues. A training ends after its first stage, "states"; with `--joint` the encoder is also trained together with
the flow, which must not lose a state. For each system the table has the number of states of each seed, the largest
difference of a population between two seeds with the same number of states, the smallest share of the frames in which
two seeds agree, and how many trainings ended with self-consistent labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np

from latf_sampling.units import KB

SYSTEMS = {
    "three-hole, lag 30": ("three-hole", 30),
    "three-hole, lag 10": ("three-hole", 10),
    "lj7": ("lj7", 1),
    "alanine dipeptide": ("alanine", 5),
}
"""Data and lag, in frames, of each system."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/states"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--relabeling", action="store_true", help="only: refinement of labels, exactly")
    parser.add_argument("--joint", action="store_true", help="train encoder and flow together as well")
    options = parser.parse_args()
    if options.relabeling:
        return print(relabeling())
    options.output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for seed in range(options.seeds):
        for system in options.systems:
            file = file_of(options, system, seed)
            if not file.exists():
                print(f"{system}, seed {seed}", file=sys.stderr, flush=True)
                learn(system, seed, options, file)
    text = table(options)
    print(text)
    (options.output / "table.md").write_text(text + "\n")


def file_of(options: argparse.Namespace, system: str, seed: int) -> Path:
    kind = "-joint" if options.joint else ""
    return options.output / f"{system.replace(', ', '-').replace(' ', '-')}{kind}-{seed}.npz"


# Data


def dataset_of(system: str, output: Path):
    from latf_sampling import Dataset

    name, lag = SYSTEMS[system]
    return Dataset({"three-hole": three_hole, "lj7": lj7, "alanine": alanine}[name](output), lag)


def three_hole(output: Path, frames: int = 200_000, stride: int = 10, step: float = 1e-3) -> list:
    """Overdamped dynamics at kT = 1 with a diffusion coefficient of 1; a frame every 0.01."""
    from latf_sampling import Series

    file = output / "three-hole.npy"
    if not file.exists():
        import numba

        @numba.njit
        def simulate(noise, stride, step):
            x, y = -1.0, 0.0
            path = np.empty((len(noise) // stride, 2))
            for k in range(len(noise)):
                hill = 3 * np.exp(-(x**2) - (y - 1 / 3) ** 2)
                hole = -3 * np.exp(-(x**2) - (y - 5 / 3) ** 2)
                right, left = -5 * np.exp(-((x - 1) ** 2) - y**2), -5 * np.exp(-((x + 1) ** 2) - y**2)
                slope_x = -2 * x * (hill + hole) - 2 * (x - 1) * right - 2 * (x + 1) * left + 0.8 * x**3
                slope_y = -2 * (y - 1 / 3) * hill - 2 * (y - 5 / 3) * hole - 2 * y * (right + left)
                slope_y += 0.8 * (y - 1 / 3) ** 3
                x += -slope_x * step + np.sqrt(2 * step) * noise[k, 0]
                y += -slope_y * step + np.sqrt(2 * step) * noise[k, 1]
                if k % stride == stride - 1:
                    path[k // stride, 0], path[k // stride, 1] = x, y
            return path

        noise = np.random.default_rng(1).standard_normal((frames * stride, 2))
        np.save(file, simulate(noise, stride, step).astype(np.float32))
    return [Series(np.load(file), temperature=1 / KB)]


def lj7(output: Path) -> list:
    """As in `benchmarks/learning.py`: 100,000 frames at kT = 0.2 and at 0.5."""
    from learning import CASES, KJ, data

    from latf_sampling import Series

    case = CASES["lj7, T = 0.2 and 0.5"]
    simulated = [(t, *data(case, t, output)) for t in case.trained]
    return [Series(x, t * KJ, energies=energies) for t, x, energies in simulated]


def alanine(output: Path) -> list:
    """As round 0 of `protocols/alanine-dipeptide.yaml`: 20,000 frames of 45 distances at 300 and at 600 K."""
    from latf_sampling import Features, Series
    from latf_sampling.settings import Protocol, steps

    protocol = Protocol.load(Path(__file__).parent.parent / "protocols" / "alanine-dipeptide.yaml")
    series = []
    for temperature in protocol.rounds[0].walkers:
        file = output / f"alanine-{temperature:g}.npz"
        if not file.exists():
            import mdtraj
            from openmm import app

            from latf_sampling.core import platforms
            from latf_sampling.features import as_mdtraj
            from latf_sampling.simulation.dynamics import integrator
            from latf_sampling.systems import build

            molecule = build(protocol.system)
            seed = round(temperature)
            simulation = app.Simulation(
                molecule.topology,
                molecule.system,
                integrator(protocol.integrator, temperature, seed),
                platforms.pick_platform(protocol.system.platform, molecule.system.getNumParticles()),
            )
            simulation.context.setPositions(molecule.positions)
            simulation.minimizeEnergy()
            simulation.context.setVelocitiesToTemperature(temperature, seed)
            count = round(protocol.rounds[0].length / protocol.frame_interval)
            positions, energies = np.empty((count, len(molecule.positions), 3), np.float32), np.empty(count)
            for frame in range(count):
                simulation.step(steps(protocol.frame_interval, protocol.integrator.timestep))
                state = simulation.context.getState(getPositions=True, getEnergy=True)
                positions[frame] = state.getPositions(asNumpy=True)._value
                energies[frame] = state.getPotentialEnergy()._value
            features = Features(molecule.topology, protocol.features)
            trajectory = mdtraj.Trajectory(positions, as_mdtraj(molecule.topology))
            phi = mdtraj.compute_phi(trajectory)[1][:, 0]
            np.savez(file, x=features.transform(trajectory), energies=energies, phi=phi, positions=positions)
        with np.load(file) as content:
            series.append(Series(content["x"], temperature, energies=content["energies"]))
    return series


# Trainings


def learn(system: str, seed: int, options: argparse.Namespace, file: Path) -> None:
    import torch

    from latf_sampling import LaTF, TrainingSettings, train

    torch.set_num_threads(1)
    dataset = dataset_of(system, options.output)
    model = LaTF(reference_temperature=float(dataset.temperatures.min()))
    settings = TrainingSettings(flow_epochs=0, ensemble=0, **({} if options.joint else {"joint_epochs": 0}))
    began = time.process_time()
    result = train(model, dataset, seed, settings=settings, device="cpu")
    seconds = time.process_time() - began
    entries = [entry for entry in result.history if entry["stage"] == "states"]
    labels = np.concatenate([model.assign(series.x) for series in dataset.series]).astype(np.uint8)
    summary = {
        "seconds": seconds,
        "iterations": entries[-1]["iteration"] + 1,
        "consistent": entries[-1]["iteration"] + 1 < settings.refinements,
    }
    np.savez_compressed(file, labels=labels, summary=json.dumps(summary))


# Refinement of labels


def relabeling(cells: int = 56) -> str:
    """Population of the third hole while each point takes the label of its most likely state one lag later.

    The propagator is that of overdamped dynamics on a grid, so that nothing is learned and no data are lacking.
    """
    from latf_sampling import systems

    axes = np.linspace(-2.4, 2.4, cells), np.linspace(-1.8, 2.8, cells)
    x, y = np.meshgrid(*axes, indexing="ij")
    energy = systems.by_name("three-hole").potential(np.stack([x, y], -1).reshape(-1, 1, 2))
    populations = np.exp(-energy) / np.exp(-energy).sum()
    index, rates = np.arange(cells**2).reshape(cells, cells), np.zeros((cells**2, cells**2))
    for here, there, axis in ((index[:-1], index[1:], axes[0]), (index[:, :-1], index[:, 1:], axes[1])):
        i, j, step = here.ravel(), there.ravel(), axis[1] - axis[0]
        rates[i, j] = np.sqrt(populations[j] / populations[i]) / step**2
        rates[j, i] = np.sqrt(populations[i] / populations[j]) / step**2
    rates -= np.diag(rates.sum(1))
    scale = np.sqrt(populations)
    values, vectors = np.linalg.eigh(scale[:, None] * rates / scale)
    lines = ["| lag | " + " | ".join(f"round {k}" for k in range(0, 16, 3)) + " |", "|" + "---|" * 7]
    for lag in (0.1, 0.2, 0.3):
        labels = np.where((y > 0.8) & (np.abs(x) < 0.9), 2, x > 0).ravel()
        history = []
        for _ in range(16):
            history.append(populations[labels == 2].sum())
            later = vectors @ (np.exp(values * lag)[:, None] * (vectors.T @ (np.eye(3)[labels] * scale[:, None])))
            labels = (later / scale[:, None]).argmax(1)
        lines.append(f"| {lag} | " + " | ".join(f"{value:.3f}" for value in history[::3]) + " |")
    return "\n".join(lines)


# The table


def matched(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Labels (frames,) with the indices of the states of the reference that they share most frames with."""
    from scipy.optimize import linear_sum_assignment

    size = 1 + max(labels.max(), reference.max())
    overlap = np.zeros((size, size), int)
    np.add.at(overlap, (labels, reference), 1)
    return linear_sum_assignment(-overlap)[1][labels]


def table(options: argparse.Namespace) -> str:
    head = ["", "states: seeds", "populations", "populations differ by", "same state in", "self-consistent"]
    head += ["iterations", "CPU seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for system in options.systems:
        files = [file_of(options, system, seed) for seed in range(options.seeds)]
        contents = [np.load(file) for file in files if file.exists()]
        if not contents:
            continue
        labels = [content["labels"].astype(int) for content in contents]
        results = [json.loads(str(content["summary"])) for content in contents]
        counts = Counter(int(each.max()) + 1 for each in labels)
        most = counts.most_common(1)[0][0]
        same = [each for each in labels if each.max() + 1 == most]
        order = np.argsort(-np.bincount(same[0]))
        same = [matched(each, np.argsort(order)[same[0]]) for each in same]
        populations = np.array([np.bincount(each, minlength=most) / len(each) for each in same])
        agreement = [float((matched(a, b) == b).mean()) for a, b in combinations(same, 2)]
        cells = [system, ", ".join(f"{n}: {count}" for n, count in sorted(counts.items()))]
        cells += [", ".join(f"{p:.3f}" for p in populations.mean(0)), f"{np.ptp(populations, axis=0).max():.3f}"]
        cells += [f"{min(agreement, default=1.0):.3f}"]
        cells += [f"{sum(result['consistent'] for result in results)} of {len(results)}"]
        cells += [f"{np.mean([result[key] for result in results]):.0f}" for key in ("iterations", "seconds")]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Populations of the most frequent number of states; agreement is that of the worst two seeds."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
