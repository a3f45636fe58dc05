"""Fractions folded or stacked at temperatures that nobody simulated, against replica exchange: small RNA and CI2.

    python protocols/reference_melting.py gcaa-go -o protocols/reference_gcaa-go.json --plain-frames 0
    python benchmarks/melting.py gcaa-go --reference runs/reference -o runs/melting

A model is trained on plain dynamics at two temperatures, half of it from each starting structure, and judged by frames
of replica exchange at temperatures between and beyond, which the first command leaves in runs/reference. Rows have the
Kullback-Leibler divergence of reference from generated samples (50 x 50 bins of the latent space, or 50 where it is a
line), that of one half of the reference from the other, and the fraction that is folded (bases stacked, for r(ApA)) by
the model and by the reference. The model's is the mean over its samples of the fraction folded among the nearest
training frames; its error is that of the populations of its states alone. With --folded-only it is given only frames in
which the hairpin is folded. The melting curves of all modes that are done go to melting-NAME.csv, from which the
documentation draws its picture. Simulations and models stay in the output directory: the same command continues, and
trainings in several processes (--modes) share it once the simulations are there.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import mdtraj
import numpy as np
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).parents[1] / "protocols"))
MODES = ("reweighted", "thermodynamic", "steered")
SEEDS = (2, 1)
"""Of the two walkers at a temperature. Even ones begin with the first structure; 0 would be a random seed to OpenMM."""


@dataclass(frozen=True)
class Case:
    """Two temperatures of training, those of judging (K), the lag in frames, and frames a walker."""

    trained: tuple[float, float]
    judged: tuple[float, ...]
    lag: int
    frames: int


CASES = {
    "gcaa-go": Case((315.0, 345.0), (304.1, 323.2, 333.2, 354.1), 10, 5000),
    "rapa": Case((300.0, 400.0), (280.0, 338.5, 372.2, 450.0), 20, 1000),
    "ci2": Case((135.8, 141.9), (134.71, 136.75, 138.79, 140.84, 142.88), 10, 6000),
}


def features_of(name: str, melting, molecule):
    from latf_sampling import Features
    from latf_sampling.settings.protocol import Protocol

    return Features(molecule.topology, list(Protocol.load(melting.protocol(name)).features))


def walker(name: str, melting, molecule, temperature: float, number: int, output: Path):
    """Positions, energies, order parameter and folded of one plain run, which is simulated once."""
    case, file = melting.CASES[name](), output / f"train-{name}-{temperature:g}K-{number}.npz"
    if not file.exists():
        x, energies = melting.plain_run(molecule, case, temperature, CASES[name].frames, SEEDS[number])
        melting.save(file, {"positions": x, "energies": energies})
    with np.load(file) as content:
        return content["positions"], content["energies"], *case.observed(content["positions"])


def reference(name: str, melting, directory: Path, temperature: float):
    """Positions and folded of replica exchange at a temperature of its ladder, without the first tenth."""
    case = melting.CASES[name]()
    index = case.exchange.index(temperature)
    x = np.concatenate([np.load(file)["positions"][index] for file in sorted(directory.glob(f"{name}-exchange-*.npz"))])
    x = x[len(x) // 10 :]
    return x, case.observed(x)[1]


def block_error(values: np.ndarray, blocks: int = 10) -> float:
    return float(np.std([part.mean() for part in np.array_split(values, blocks)], ddof=1) / np.sqrt(blocks))


def fractions(model, dataset, folded: np.ndarray, temperatures, neighbors: int = 30) -> np.ndarray:
    """Fraction folded by the model, and its standard error, at temperatures; (temperatures, 2).

    How many of the frames near a sample are folded depends on temperature as well as on the place: it is counted at
    both temperatures of training, and linear in 1/T between and beyond.
    """
    x, of_frames = (
        np.concatenate(parts)
        for parts in zip(*((np.asarray(s.x), np.full(len(s), s.temperature)) for s in dataset.series), strict=True)
    )
    u, states, trained = np.asarray(model.encode(x)), np.asarray(model.assign(x)), np.unique(of_frames)
    of_states = np.array([folded[states == k].mean() if (states == k).any() else 0.0 for k in range(model.n_states)])
    there = [(cKDTree(u[of_frames == t]), folded[of_frames == t]) for t in trained]
    rows = []
    for temperature in temperatures:
        samples = np.asarray(model.sample(5000, temperature=temperature))
        low, high = (values[tree.query(samples, neighbors)[1]].mean(axis=1) for tree, values in there)
        share = (1 / temperature - 1 / trained[0]) / (1 / trained[1] - 1 / trained[0])
        errors = np.asarray(model.populations(temperature, return_std=True)[1])
        here = np.clip(low + share * (high - low), 0.0, 1.0)
        rows.append((here.mean(), np.abs(of_states - of_states.mean()) @ errors))
    return np.array(rows)


def melting_temperature(melting, temperatures: np.ndarray, curve: np.ndarray) -> list[float | None]:
    """Where half is folded, K, and half the distance between where it is with one standard error more and less."""
    middle, more, less = (melting.melting(temperatures, curve[:, 0] + k * curve[:, 1]) for k in (0, 1, -1))
    return [melting.known(middle), melting.known(abs(more - less) / 2)]


def run(name: str, mode: str, case: Case, folded_only: bool, directory: Path, output: Path, seed: int) -> dict:
    import reference_melting as melting
    import torch

    from latf_sampling import Dataset, LaTF, Series, train
    from latf_sampling.learning.evaluation import evaluate
    from latf_sampling.systems import build

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case_of_reference = melting.CASES[name]()
    molecule = build(case_of_reference.system)
    features, topology = features_of(name, melting, molecule), mdtraj.Topology.from_openmm(molecule.topology)

    def columns(x: np.ndarray) -> np.ndarray:
        return features.transform(mdtraj.Trajectory(x, topology))

    series, folded, transitions = [], [], []
    for temperature in case.trained:
        for number in (0,) if folded_only else (0, 1):
            x, energies, order, here = walker(name, melting, molecule, temperature, number, output)
            transitions.append(melting.transitions(order))
            keep = here if folded_only else np.ones(len(x), bool)
            series.append(Series(columns(x[keep]), temperature, energies=energies[keep]))
            folded.append(here[keep])
    together = np.concatenate(folded)
    dataset = Dataset(series, lag=case.lag)
    model = LaTF(reference_temperature=case.trained[0], temperature_mode=mode)
    file = output / f"{name}{'-folded-only' if folded_only else ''}-{mode}-{seed}.pt"
    begun = time.process_time()
    if file.exists():
        model = LaTF.load(file)
    else:
        train(model, dataset, seed, device="cpu")
        model.save(file)
    cpu = time.process_time() - begun
    references = {t: reference(name, melting, directory, t) for t in case.judged}
    judged = [Series(columns(x), t) for t, (x, _) in references.items()]
    rows = [
        row
        for row in evaluate(model, dataset, judged, samples=max(len(s) for s in judged)).as_dict()["rows"]
        if row["kind"] == "reference"
    ]
    exchange = case_of_reference.exchange
    grid = np.linspace(exchange[0], exchange[-1], 15)
    curve = fractions(model, dataset, together, grid)
    of_judged = fractions(model, dataset, together, [row["temperature"] for row in rows])
    return {
        "mode": mode,
        "states": model.n_states,
        "frames": len(together),
        "transitions_in_training": transitions,
        "cpu": cpu,
        "melting_temperature": melting_temperature(melting, grid, curve),
        "curve": {"temperature": grid.tolist(), "folded": curve.tolist()},
        "rows": [
            {
                "temperature": row["temperature"],
                "kl": row["divergence"]["full"],
                "floor": row["divergence"]["floor"],
                "model_populations": row["model_populations"],
                "model_errors": row["model_errors"],
                "populations": row["populations"],
                "model_folded": here.tolist(),
                "folded": float(references[row["temperature"]][1].mean()),
                "folded_error": block_error(references[row["temperature"]][1]),
            }
            for row, here in zip(rows, of_judged, strict=True)
        ],
    }


def write_curves(name: str, seed: int, output: Path) -> None:
    """The melting curves of all results in the directory as a table, one row a temperature."""
    columns, temperatures = {}, []
    for variant in ("", "-folded-only"):
        for mode in MODES:
            file = output / f"{name}{variant}-{mode}-{seed}.json"
            if file.exists():
                curve = json.loads(file.read_text())["curve"]
                temperatures = curve["temperature"]
                columns[f"{mode}{variant}"], columns[f"{mode}{variant} error"] = zip(*curve["folded"], strict=True)
    with (output / f"melting-{name}.csv").open("w", newline="") as stream:
        stream.write(f"# python benchmarks/melting.py {name} --seed {seed}, and the same with --folded-only; ")
        stream.write("benchmarks/melting.md has the load\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["temperature", *columns])
        for k, temperature in enumerate(temperatures):
            writer.writerow([f"{value:.4g}" for value in (temperature, *(column[k] for column in columns.values()))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=CASES)
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"), help="frames of the replica exchange")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument(
        "--trained", nargs=2, type=float, metavar="T", help="temperatures of training; its own directory"
    )
    parser.add_argument("--folded-only", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    case = CASES[arguments.name]
    if arguments.trained:
        case = replace(case, trained=tuple(sorted(arguments.trained)))
    for mode in arguments.modes:
        result = run(
            arguments.name, mode, case, arguments.folded_only, arguments.reference, arguments.output, arguments.seed
        )
        stem = f"{arguments.name}{'-folded-only' if arguments.folded_only else ''}-{mode}-{arguments.seed}"
        (arguments.output / f"{stem}.json").write_text(json.dumps(result, indent=1))
        print(json.dumps(result), flush=True)
        write_curves(arguments.name, arguments.seed, arguments.output)


if __name__ == "__main__":
    main()
