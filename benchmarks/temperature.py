"""Equilibrium at temperatures that nobody simulated: each way that temperature can enter, against independent truth.

    python benchmarks/temperature.py -o runs/temperature                        # everything, some hours of one core
    python benchmarks/temperature.py -o runs/temperature --cases lj7 wells --seeds 1
    python benchmarks/temperature.py -o runs/temperature --coverage 100   # do intervals hold as often as they say?

Each model is trained at two temperatures and judged at others. Data are simulated with stock OpenMM once and stay in
the output directory, as does every finished training, so that an interrupted run continues. References are exact
samples, or long plain runs at the temperature. Columns show the Kullback-Leibler divergence of reference from generated
samples (50 x 50 bins of the latent space, or 50 where it is a line), in parentheses the noise floor, which is that of
one half of the reference from the other; then the worst error of a population, and in parentheses that of the states
alone by the Gibbs-Helmholtz equation; and seconds of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from latf_sampling.units import KB

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "protocols")]

MODES = ("reweighted", "thermodynamic", "steered")
EXACT = 200_000
Data = tuple[np.ndarray, np.ndarray | None]
"""Descriptors (frames, F) and energies (frames,)."""


@dataclass(frozen=True)
class Case:
    """A system, the temperatures that models are trained and judged at, and the lag in frames."""

    trained: tuple[float, ...]
    judged: tuple[float, ...]
    lag: int
    data: Callable[[float, Path], Data]
    reference: Callable[[float, Path], Data]
    unit: float = 1.0  # K for one unit of the temperatures
    boltzmann: float = KB
    model: dict = field(default_factory=dict)


# Model potentials


def lennard_jones(noise: float) -> Case:
    from learning import CASES, KJ
    from learning import data as simulated
    from learning import reference as long_run

    case = CASES["lj7, T = 0.2 and 0.5"]

    def data(temperature: float, output: Path) -> Data:
        x, energies = simulated(case, temperature, output)
        rng = np.random.default_rng(round(100 * temperature))
        return x, energies + noise * rng.normal(size=len(energies))

    judged = (0.3, 0.4, 0.6, 0.7)
    return Case((0.2, 0.5), judged, case.lag, data, lambda t, output: long_run("lj7", t, output), KJ)


def three_hole() -> Case:
    from learning import CASES, KJ
    from learning import data as simulated
    from learning import reference as exact

    case = CASES["three-hole, T = 1 and 2"]
    return Case(
        (1.0, 2.0), (0.8, 1.3, 1.6, 2.5), case.lag, lambda t, output: simulated(case, t, output),
        lambda t, output: exact("three-hole", t, output), KJ,
    )  # fmt: skip


BARRIER, TILT, BATH = 2.0, 0.5, 1000.0
"""Of two wells in one dimension, and the heat capacity of a bath, by which energies do not overlap."""


def well_energy(x: np.ndarray) -> np.ndarray:
    return BARRIER * (x * x - 1) ** 2 + TILT * x


def wells_trajectory(temperature: float, frames: int, seed: int, walkers: int = 4) -> np.ndarray:
    """Overdamped dynamics with D = 1, a frame every 20 steps of 0.01; (walkers, frames / walkers)."""
    rng, step = np.random.default_rng(seed), 0.01
    x, kept = wells_samples(temperature, walkers, rng), np.empty((frames // walkers, walkers))
    for frame in range(-50, len(kept)):
        for _ in range(20):
            force = -4 * BARRIER * x * (x * x - 1) - TILT
            x = x + step * force + np.sqrt(2 * temperature * step) * rng.normal(size=walkers)
        if frame >= 0:
            kept[frame] = x
    return kept.T


def wells_descriptors(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(size=(*x.shape, 3)) * [0.05, 0.1, 0.1]
    return (np.stack([x, np.tanh(2 * x), x * x], -1) + noise).astype(np.float32)


def wells_data(temperature: float, frames: int, seed: int) -> list[Data]:
    """One entry for each walker."""
    rng, parts = np.random.default_rng(1000 + seed), []
    for x in wells_trajectory(temperature, frames, seed):
        bath = BATH * temperature + np.sqrt(BATH) * temperature * rng.normal(size=len(x))
        parts.append((wells_descriptors(x, rng), well_energy(x) + bath))
    return parts


def wells_exact(temperature: float, n: int, seed: int) -> Data:
    rng = np.random.default_rng(seed)
    return wells_descriptors(wells_samples(temperature, n, rng), rng), None


def wells_samples(temperature: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Exact samples (n,)."""
    grid = np.linspace(-2.5, 2.5, 20_001)
    density = np.exp(-well_energy(grid) / temperature)
    return rng.choice(grid, n, p=density / density.sum())


def wells() -> Case:
    def data(temperature: float, output: Path) -> Data:
        x, energies = zip(*wells_data(temperature, 80_000, round(10 * temperature)))
        return np.concatenate(x), np.concatenate(energies)

    def reference(temperature: float, output: Path) -> Data:
        return wells_exact(temperature, EXACT, round(1000 * temperature))

    return Case((0.5, 1.0), (0.4, 0.6, 0.8, 1.2), 2, data, reference, boltzmann=1.0, model={"latent_dim": 1})


# Molecules


def dimer(pressure: bool) -> Case:
    import mdtraj
    import reference_wca_dimer as script

    from latf_sampling import Features
    from latf_sampling.settings.system import SystemSettings
    from latf_sampling.systems import build

    ensemble = "constant_pressure" if pressure else "constant_volume"
    topology = build(SystemSettings(name="wca-dimer")).topology
    features = Features(topology, [{"distances": {"pairs": [[0, 1]]}}])

    def run(temperature: float, output: Path) -> Data:
        file = output / f"wca-dimer-{ensemble}-{temperature:g}K.npz"
        if not file.exists():
            number = script.TEMPERATURES.index(temperature)
            bar = script.PRESSURE if pressure else None
            save(file, **script.plain_run(temperature, bar, 10_000, 1 + number))
        with np.load(file) as content:
            edges = np.repeat(content["box"][:, None], 3, 1)
            trajectory = mdtraj.Trajectory(
                content["positions"], mdtraj.Topology.from_openmm(topology), None, edges, np.full_like(edges, 90.0)
            )
            return features.transform(trajectory), content["energies"]

    return Case((120.0, 300.0), (160.0, 200.0, 250.0), 2, run, run, model={"latent_dim": 1})


def go_model(name: str, trained: tuple[float, ...], judged: tuple[float, ...], spec: list, lag: int) -> Case:
    import mdtraj
    import reference_melting as script

    from latf_sampling import Features
    from latf_sampling.settings.system import SystemSettings
    from latf_sampling.systems import build

    molecule = build(SystemSettings(name=name, conformations=("hairpin", "extended")))
    features = Features(molecule.topology, spec)
    topology = mdtraj.Topology.from_openmm(molecule.topology)

    def run(temperature: float, output: Path, frames: int, seed: int, label: str) -> Data:
        file = output / f"{label}{name}-{temperature:g}K.npz"
        if not file.exists():
            x, energies = script.plain_run(molecule, script.CASES[name](), temperature, frames, seed)
            save(file, positions=x, energies=energies)
        with np.load(file) as content:
            return features.transform(mdtraj.Trajectory(content["positions"], topology)), content["energies"]

    return Case(
        trained,
        judged,
        lag,
        lambda t, output: run(t, output, 16_000, 1000 + round(t), "train-"),
        lambda t, output: run(t, output, 60_000, 101 + round(t), ""),
    )


WATER_FRAME, WATER_PIECE = 50, 500
"""Steps from frame to frame, 0.2 ps, and frames that are stored together, in the case of water."""


def water() -> Case:
    import mdtraj
    import openmm
    from openmm import app, unit

    from latf_sampling import Features
    from latf_sampling.settings import Protocol
    from latf_sampling.systems import build

    protocol = Protocol.load(Path(__file__).parents[1] / "protocols" / "alanine-water.yaml")
    molecule = build(protocol.system)
    topology = mdtraj.Topology.from_openmm(molecule.topology)
    features = Features(molecule.topology, list(protocol.features))
    bar = openmm.unit.bar * unit.AVOGADRO_CONSTANT_NA

    def simulated(temperature: float) -> app.Simulation:
        system = openmm.XmlSerializer.clone(molecule.system)
        system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, temperature * unit.kelvin))
        system.getForce(system.getNumForces() - 1).setRandomNumberSeed(round(temperature))
        integrator = openmm.LangevinMiddleIntegrator(temperature * unit.kelvin, 1 / unit.picosecond, 0.004)
        integrator.setRandomNumberSeed(round(temperature))
        platform = openmm.Platform.getPlatformByName("CPU")
        simulation = app.Simulation(molecule.topology, system, integrator, platform, {"Threads": "1"})
        simulation.context.setPositions(molecule.positions)
        return simulation

    def run(temperature: float, output: Path, pieces: int) -> Data:
        parts, simulation = [], None
        for piece in range(pieces):
            file = output / f"water-{temperature:g}K-{piece}.npz"
            end = file.with_suffix(".xml")
            if not file.exists():
                if simulation is None:
                    simulation = simulated(temperature)
                    if piece:
                        simulation.loadState(str(output / f"water-{temperature:g}K-{piece - 1}.xml"))
                    else:
                        simulation.minimizeEnergy(maxIterations=200)
                        simulation.context.setVelocitiesToTemperature(temperature * unit.kelvin, round(temperature))
                        simulation.step(12_500)  # 50 ps to the density at 1 bar
                x, cells, enthalpies = [], [], []
                for _ in range(WATER_PIECE):
                    simulation.step(WATER_FRAME)
                    state = simulation.context.getState(positions=True, energy=True)
                    x.append(state.getPositions(asNumpy=True)._value)
                    cells.append(np.diag(state.getPeriodicBoxVectors(asNumpy=True)._value))
                    volume = state.getPeriodicBoxVolume() * bar
                    enthalpies.append((state.getPotentialEnergy() + volume).value_in_unit(unit.kilojoule_per_mole))
                trajectory = mdtraj.Trajectory(
                    np.array(x, np.float32), topology, None, np.array(cells), np.full((len(x), 3), 90.0)
                )
                simulation.saveState(str(end))
                save(file, x=features.transform(trajectory), energies=np.array(enthalpies))
            with np.load(file) as content:
                parts.append((content["x"], content["energies"]))
        x, energies = zip(*parts, strict=True)
        return np.concatenate(x), np.concatenate(energies)

    return Case((300.0, 370.0), (335.0,), 5, lambda t, output: run(t, output, 4), lambda t, output: run(t, output, 6))


def save(file: Path, **arrays) -> None:
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)
    temporary.rename(file)


CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "lj7": ("Lennard-Jones cluster, T = 0.2 and 0.5", lambda: lennard_jones(0.0)),
    "lj7-noise": ("the same, Gaussian noise of 10 (20 to 50 kT) added to every energy", lambda: lennard_jones(10.0)),
    "three-hole": ("three-hole potential, T = 1 and 2", three_hole),
    "wells": ("two wells with a bath, T = 0.5 and 1", wells),
    "dimer": ("dimer in a WCA fluid at constant volume, 120 and 300 K", lambda: dimer(False)),
    "dimer-pressure": ("the same at constant pressure, by enthalpies", lambda: dimer(True)),
    "water": ("alanine dipeptide in 570 waters at 1 bar, 300 and 370 K", water),
    "chignolin-go": (
        "Go model of chignolin, 306 and 374 K",
        lambda: go_model(
            "chignolin-go",
            (306.0, 374.0),
            (320.0, 333.0, 347.0, 360.0, 400.0),
            [{"distances": {"between": "name CA", "skip": 2}}],
            5,
        ),
    ),
}


def training_data(case: Case, output: Path):
    from latf_sampling import Dataset, Series

    series = [
        Series(x, t * case.unit, energies=energies)
        for t, (x, energies) in ((t, case.data(t, output)) for t in case.trained)
    ]
    return Dataset(series, lag=case.lag, boltzmann=case.boltzmann)


def automatic(case: Case, output: Path) -> str:
    """What temperature_mode "auto" comes to, and why."""
    import torch

    from latf_sampling import ModelSettings, TrainingSettings
    from latf_sampling.learning.training.training_frames import TrainingFrames

    settings = ModelSettings(reference_temperature=case.trained[0] * case.unit)
    frames = TrainingFrames(training_data(case, output), settings, TrainingSettings(), 0, torch.device("cpu"))
    return f"`auto` is {frames.mode} here (overlap of the energies {', '.join(f'{v:.2g}' for v in frames.overlaps)})."


def train_and_judge(case: Case, mode: str, seed: int, file: Path) -> dict:
    import torch

    from latf_sampling import LaTF, Series, train
    from latf_sampling.learning.evaluation import evaluate

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    output = file.parent
    dataset = training_data(case, output)
    model = LaTF(reference_temperature=case.trained[0] * case.unit, temperature_mode=mode, **case.model)
    before = time.process_time()
    train(model, dataset, seed, device="cpu")
    cpu = time.process_time() - before
    model.save(file)
    references = [Series(case.reference(t, output)[0], t * case.unit) for t in case.judged]
    rows = evaluate(model, dataset, references, samples=len(references[0])).as_dict()["rows"]
    found = [row for row in rows if row["kind"] == "reference"]
    states = model.gibbs_helmholtz()
    return {
        "states": model.n_states,
        "cpu": cpu,
        "rows": [
            {
                "temperature": row["temperature"] / case.unit,
                "kl": row["divergence"]["full"],
                "floor": row["divergence"]["floor"],
                "populations": row["populations"],
                "model": row["model_populations"],
                "errors": row["model_errors"],
                "states": states.populations(row["temperature"])[0].tolist(),
            }
            for row in found
        ],
    }


# Coverage


def covered(seed: int) -> list[list[float]]:
    """Populations of the first state of a short training at unseen temperatures: true, by the model, its error."""
    import torch

    from latf_sampling import Dataset, LaTF, Series, train

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts = [
        Series(x, t, energies=energies)
        for k, t in enumerate((0.5, 1.0))
        for x, energies in wells_data(t, 4000, 2 * seed + k)
    ]
    model = LaTF(reference_temperature=0.5, latent_dim=1, flow_transforms=2, flow_hidden=(24, 24), flow_bins=8)
    short = {"refinements": 4, "joint_epochs": 0, "flow_epochs": 12}
    train(model, Dataset(parts, lag=2, boltzmann=1.0), seed, device="cpu", **short)
    rows = []
    for temperature in (0.4, 0.6, 0.7, 0.85, 1.2):
        states = model.assign(wells_exact(temperature, EXACT, seed)[0])
        flow, alone = model.populations(temperature, return_std=True), model.gibbs_helmholtz().populations(temperature)
        rows.append([temperature, float(np.mean(states == 0)), *(float(v[0]) for v in (*flow, *alone))])
    return rows


def coverage(output: Path, count: int) -> str:
    file = output / "coverage.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in range(len(done), count):
        done.append(covered(seed))
        with file.open("a") as stream:
            stream.write(json.dumps(done[-1]) + "\n")
    from latf_sampling.analysis.bootstrap import population_interval

    rows = np.array(done)
    lines = ["| T | by the flow and its ensemble | by the Gibbs-Helmholtz equation |", "|---|---|---|"]
    for k, temperature in enumerate(rows[0, :, 0]):
        truth, flow, error, alone, other = rows[:, k, 1:].T
        intervals = population_interval(flow, error), population_interval(alone, other)
        inside = [(low < truth) & (truth < high) for low, high in intervals]
        cells = [
            f"{part.sum()} of {len(rows)}, ± {1.96 * 100 * np.median(size):.1f} %"
            for part, size in zip(inside, (error, other))
        ]
        lines.append(f"| {temperature:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


# The table


def table(name: str, output: Path, seeds: int) -> str:
    title, make = CASES[name]
    case = make()
    judged = case.judged
    head = ["", "seeds", *(f"KL at {t:g}" for t in judged), "populations off", "CPU seconds"]
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for mode in MODES:
        files = [output / f"{name}-{mode}-{seed}.json" for seed in range(seeds)]
        results = [json.loads(file.read_text()) for file in files if file.exists()]
        if not results:
            continue
        cells = [mode, str(len(results))]
        for k in range(len(judged)):
            kl = [result["rows"][k]["kl"] for result in results]
            floor = np.mean([result["rows"][k]["floor"] for result in results])
            cells.append(f"{spread(kl)} ({floor:.3f})")
        worst = [
            max(np.abs(np.subtract(row["populations"], row[by])).max() for result in results for row in result["rows"])
            for by in ("model", "states")
        ]
        cells += [f"{100 * worst[0]:.1f} % ({100 * worst[1]:.1f} %)", f"{np.mean([r['cpu'] for r in results]):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", automatic(case, output)])


def spread(values: list[float]) -> str:
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/temperature"))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES), metavar="MODE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--coverage", type=int, default=0, metavar="N", help="only: N short trainings of the wells")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "MODE", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.coverage:
        print(coverage(options.output, options.coverage))
        return
    if options.one:
        name, mode, seed = options.one
        file = options.output / f"{name}-{mode}-{seed}.json"
        result = train_and_judge(CASES[name][1](), mode, int(seed), file.with_suffix(".pt"))
        file.write_text(json.dumps(result))
        return
    runs = [(c, m, str(s)) for s in range(options.seeds) for c in options.cases for m in options.modes]
    waiting = [run for run in runs if not (options.output / f"{'-'.join(run)}.json").exists()]

    def one(number: int) -> None:
        print(f"{number + 1} of {len(waiting)}: {', '.join(waiting[number])}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "-o", str(options.output), "--one", *waiting[number]]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(one, range(len(waiting))))
    text = "\n\n".join(table(name, options.output, options.seeds) for name in options.cases)
    (options.output / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
