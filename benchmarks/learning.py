"""How well, how fast and in how much memory models are learned: one run, one table a system.

    python benchmarks/learning.py -o runs/learning             # everything, some hours of one core
    python benchmarks/learning.py -o runs/learning --seeds 1 --systems three-hole

Data are simulated with OpenMM once and stay in the output directory, as does every finished training, so that an
interrupted run continues. Each training has its own process with one thread, for its time and its peak memory.
References are exact samples of the three-hole potential and long independent simulations of the cluster, at the
temperatures of training and at others. Columns show the Kullback-Leibler divergence of reference from generated
samples (50 x 50 bins, as many samples as frames), and in parentheses the noise floor, which is the divergence between
the halves of the reference. In three dimensions it is the mean over pairs of components.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latf_sampling.units import KB

KJ = 1 / KB  # 1 kJ/mol as a temperature, K


@dataclass(frozen=True)
class Case:
    """A system with its training data: reduced temperatures, frames of each, steps between frames, step, lag."""

    system: str
    trained: tuple[float, ...]
    evaluated: tuple[float, ...]
    frames: int
    stride: int
    timestep: float
    lag: int


CASES = {
    "three-hole, T = 1": Case("three-hole", (1.0,), (0.5, 1.0, 1.5, 2.0, 3.0), 200_000, 5, 0.01, 10),
    "three-hole, T = 1 and 2": Case("three-hole", (1.0, 2.0), (0.5, 1.0, 1.5, 2.0, 3.0), 200_000, 5, 0.01, 10),
    "lj7, T = 0.2 and 0.5": Case("lj7", (0.2, 0.5), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), 100_000, 100, 0.005, 1),
    "lj7, T = 0.3 and 0.6": Case("lj7", (0.3, 0.6), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), 100_000, 100, 0.005, 1),
}
VARIANTS = {
    "as it comes": {},
    "flow fitted afterwards": {"joint_epochs": 0},
    "steered": {"temperature_mode": "steered"},
    "RealNVP": {"flow": "realnvp", "flow_transforms": 8},
    "1 dimension": {"latent_dim": 1},
    "3 dimensions": {"latent_dim": 3},
}
EXACT_SAMPLES, REFERENCE_FRAMES, REFERENCE_STRIDE = 400_000, 100_000, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time; times then include that")
    parser.add_argument("--large", action="store_true", help="only: peak memory with 1,000,000 frames of 200 columns")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.large:
        print(json.dumps(large()))
    elif options.one:
        case, variant, seed = options.one
        file = file_of(options.output, case, variant, seed)
        result = train_and_evaluate(CASES[case], VARIANTS[variant], int(seed), file.with_suffix(".pt"))
        file.write_text(json.dumps(result))
    else:
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    wanted = {(case, temperature) for case in options.cases for temperature in CASES[case].trained}
    jobs = [(data, CASES[case], temperature, options.output) for case, temperature in sorted(wanted)]
    evaluated = {(CASES[case].system, temperature) for case in options.cases for temperature in CASES[case].evaluated}
    jobs += [(reference, system, temperature, options.output) for system, temperature in sorted(evaluated)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenMM lets go of the interpreter while it steps
        list(pool.map(lambda job: job[0](*job[1:]), jobs))
    runs = [(c, v, s) for s in range(options.seeds) for c in options.cases for v in options.variants]
    waiting = [run for run in runs if not file_of(options.output, *run).exists()]

    def one(number: int) -> None:
        case, variant, seed = waiting[number]
        print(f"{number + 1} of {len(waiting)}: {case}, {variant}, seed {seed}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "-o", str(options.output), "--one", case, variant, str(seed)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(one, range(len(waiting))))
    text = "\n\n".join(table(case, options.output) for case in CASES)
    (options.output / "table.md").write_text(text + "\n")
    print(text)


def file_of(output: Path, case: str, variant: str, seed) -> Path:
    return output / f"{case}, {variant}, seed {seed}.json".replace(" ", "_")


# Data


def simulate(system: str, temperature: float, frames: int, stride: int, timestep: float, seed: int, file: Path):
    """Descriptors and energies of a Langevin simulation, from the file or anew."""
    if not file.exists():
        import mdtraj
        import openmm

        from latf_sampling import Features, systems

        model = systems.by_name(system)
        integrator = openmm.LangevinMiddleIntegrator(temperature * KJ, 1.0, timestep)
        integrator.setRandomNumberSeed(seed)
        context = openmm.Context(model.system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(model.positions)
        context.setVelocitiesToTemperature(temperature * KJ, seed)
        integrator.step(10_000)
        positions, energies = np.empty((frames, *model.positions.shape), np.float32), np.empty(frames)
        for frame in range(frames):
            integrator.step(stride)
            state = context.getState(getPositions=True, getEnergy=True)
            positions[frame] = state.getPositions(asNumpy=True)._value
            energies[frame] = state.getPotentialEnergy()._value
        trajectory = mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(model.topology))
        x = Features(model.topology, model.features).transform(trajectory)
        np.savez(file.with_suffix(".tmp.npz"), x=x, energies=energies)
        file.with_suffix(".tmp.npz").rename(file)
    with np.load(file) as content:
        return content["x"], content["energies"]


def data(case: Case, temperature: float, output: Path):
    seed = round(1000 * temperature) + 1
    file = output / f"{case.system}-{temperature:g}.npz"
    return simulate(case.system, temperature, case.frames, case.stride, case.timestep, seed, file)


def reference(system: str, temperature: float, output: Path):
    if system == "three-hole":
        from latf_sampling import systems

        rng = np.random.default_rng(round(1000 * temperature))
        return systems.by_name(system).exact_samples(EXACT_SAMPLES, temperature * KJ, rng), None
    seed = round(1000 * temperature) + 2
    file = output / f"{system}-{temperature:g}-reference.npz"
    return simulate(system, temperature, REFERENCE_FRAMES, REFERENCE_STRIDE, 0.005, seed, file)


# Trainings


def train_and_evaluate(case: Case, variant: dict, seed: int, file: Path) -> dict:
    import torch

    from latf_sampling import Dataset, LaTF, ModelSettings, Series, TrainingSettings, train
    from latf_sampling.learning.evaluation import evaluate

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    output = file.parent
    series = [
        Series(x, temperature * KJ, energies=energies)
        for temperature, (x, energies) in ((t, data(case, t, output)) for t in case.trained)
    ]
    dataset = Dataset(series, lag=case.lag)
    shape = {key: value for key, value in variant.items() if key in ModelSettings.model_fields}
    how = {key: value for key, value in variant.items() if key in TrainingSettings.model_fields}
    model = LaTF(reference_temperature=case.trained[0] * KJ, **shape)
    before, began = time.process_time(), time.perf_counter()
    result = train(model, dataset, seed, device="cpu", **how)
    seconds, cpu = time.perf_counter() - began, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.save(file)
    references = [Series(reference(case.system, t, output)[0], t * KJ) for t in case.evaluated]
    evaluation = evaluate(model, dataset, references, samples=len(references[0]))
    return {
        "states": model.n_states,
        "converged": result.converged,
        "seconds": seconds,
        "cpu": cpu,
        "peak_MiB": peak,
        "rows": [row for row in evaluation.as_dict()["rows"] if row["kind"] == "reference"],
    }


def large(frames: int = 1_000_000, columns: int = 200) -> dict:
    """Peak memory of a training on many frames of many descriptors: a slow two-state process under noise."""
    import torch

    from latf_sampling import Dataset, LaTF, Series, train

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.random(frames) < 1e-3) % 2
    x = np.empty((frames, columns), np.float32)
    for first in range(0, frames, 10_000):
        here = slice(first, first + 10_000)
        x[here] = rng.normal(size=(10_000, columns)) + state[here, None] * (np.arange(columns) < 20)
    energies = rng.gamma(10.0, size=frames)
    began = time.perf_counter()
    model = LaTF()
    dataset = Dataset([Series(x, energies=energies, temperature=300.0)], lag=10, boltzmann=1 / 300.0)
    train(model, dataset, refinements=3, refinement_epochs=1, joint_epochs=1, flow_epochs=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"GiB": round(peak, 2), "seconds": round(time.perf_counter() - began), "states": model.n_states}


# The table


def table(case: str, output: Path) -> str:
    evaluated = CASES[case].evaluated
    head = [
        "",
        "seeds",
        "states",
        *(f"KL at {t:g}" for t in evaluated),
        "populations off",
        "outside",
        "seconds",
        "CPU seconds",
        "MiB",
    ]
    lines = [f"## {case}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in VARIANTS:
        files = sorted(output.glob(file_of(output, case, variant, "*").name))
        if not files:
            continue
        results = [json.loads(file.read_text()) for file in files]
        rows = np.array([[row["divergence"]["full"] for row in result["rows"]] for result in results])
        floor = np.array([[row["divergence"]["floor"] for row in result["rows"]] for result in results]).mean(0)
        off = [max(map(population_error, result["rows"])) for result in results]
        outside = [max(row["outside"] for row in result["rows"]) for result in results]
        cells = [variant, str(len(results)), "/".join(str(n) for n in sorted({result["states"] for result in results}))]
        cells += [f"{spread(rows[:, k])} ({floor[k]:.3f})" for k in range(len(evaluated))]
        cells += [spread(100 * np.array(off), "{:.1f}") + " %", f"{max(outside)}"]
        cells += [spread([result[key] for result in results], "{:.0f}") for key in ("seconds", "cpu", "peak_MiB")]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Mean ± standard deviation over the seeds; populations and samples outside: worst of all T.",
    ]
    return "\n".join(lines)


def population_error(row: dict) -> float:
    return float(np.abs(np.subtract(row["populations"], row["model_populations"])).max())


def spread(values, style: str = "{:.3f}") -> str:
    mean = style.format(np.mean(values))
    return mean if len(values) < 2 else f"{mean} ± {style.format(np.std(values, ddof=1))}"


if __name__ == "__main__":
    main()
