"""How much simulation a free energy needs along a learned variable, along phi and psi, and without a bias.

    python benchmarks/alanine.py runs/demo -o runs/alanine           # an hour or so of one core
    python benchmarks/alanine.py --cv cv.pt --model model.pt --methods metadynamics phi-psi
    python benchmarks/alanine.py runs/demo --quick                   # less than a minute, to check that it runs

Alanine dipeptide in vacuum at 300 K, phi > 0 against the rest, with the system, the integrator, and the hills' height,
bias factor and interval of the protocol. Every run starts at phi = -75 degrees without any hill. Its estimate after a
time t is made of the frames between 0.2 t and t, weighted by exp((V - c) / kT), as in the report of a campaign; stock
metadynamics on phi and psi is evaluated in the same way, by its own bias and c(t). The error after t is the root mean
square of (estimate - reference) over the seeds, infinite while one of them has not crossed in these frames. The time
after which the error stays below 1 kJ/mol is compared.

Finished runs are files in the output directory, which the same command uses again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PROTOCOLS = Path(__file__).parent.parent / "protocols"
TEMPERATURE = 300.0
TOLERANCE = 1.0  # kJ/mol
TORSION_WIDTH = 0.35  # of hills on phi and psi, radians
BARRIER = 40.0  # parameter of OPES, kJ/mol; the lowest barrier from phi < 0 to phi > 0 is 38.9
POINTS = 200  # times at which estimates are made
RESAMPLES = 2000


@dataclass(frozen=True)
class Method:
    """A way of sampling: its kind and options, and the fraction of the seeds and the time that it gets."""

    kind: str
    options: dict = field(default_factory=dict)
    seeds: float = 1.0
    length: float = 1.0

    @property
    def learned(self) -> bool:
        return self.kind in ("metadynamics", "opes", "flow")

    @property
    def needs_model(self) -> bool:
        return self.kind == "flow" or self.options.get("start") == "flow"


METHODS = {
    "metadynamics": Method("metadynamics"),
    "opes": Method("opes"),
    "phi-psi": Method("phi-psi"),
    "plain": Method("plain", seeds=1 / 3, length=4.0),
    # What a user may change
    "metadynamics, half width": Method("metadynamics", {"width": 0.5}),
    "metadynamics, double width": Method("metadynamics", {"width": 2.0}),
    "metadynamics, adaptive widths": Method("metadynamics", {"width": "adaptive"}),
    "metadynamics, from the flow": Method("metadynamics", {"start": "flow"}),
    "metadynamics, double height": Method("metadynamics", {"height": 2.0}),
    "metadynamics, half interval": Method("metadynamics", {"interval": 0.5}),
    "flow": Method("flow"),
    "opes, half width": Method("opes", {"width": 0.5}),
    "opes, barrier 50": Method("opes", {"barrier": 50.0}),
    "phi-psi, half interval": Method("phi-psi", {"interval": 0.5}),
}
STANDARD = ("metadynamics", "opes", "phi-psi", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", nargs="?", type=Path, help="directory of a finished campaign; its last variable")
    parser.add_argument("--cv", type=Path, help="file of a variable, in place of a campaign")
    parser.add_argument("--model", type=Path, help="its model, for methods that need the flow")
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "latf-alanine")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--ns", type=float, default=5.0, help="length of a run; plain dynamics is four times as long")
    parser.add_argument("--methods", nargs="+", default=STANDARD, choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--quick", action="store_true", help="two seeds of 20 ps, in a temporary directory")
    options = parser.parse_args()
    if (options.campaign is None) == (options.cv is None):
        parser.error("give the directory of a campaign, or --cv")
    if options.campaign is not None:
        options.cv, options.model = files_of(options.campaign)
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            options.output, options.seeds, options.ns = Path(folder), 2, 0.02
            print(run_all(options))
    else:
        print(run_all(options))


def files_of(directory: Path) -> tuple[Path, Path]:
    """The last variable of a campaign, and its model."""
    from latf_sampling.records.records import Records

    records = Records.load(directory)
    learned = records.directory.round(records.last_learned()).learning
    return learned.cv, learned.model


def run_all(options: argparse.Namespace) -> str:
    import torch

    from latf_sampling.settings import Protocol

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    protocol = Protocol.load(PROTOCOLS / "alanine-dipeptide.yaml")
    options.output.mkdir(parents=True, exist_ok=True)
    runs = {name: [] for name in options.methods}
    # Seed by seed, so that an interrupted benchmark has some of everything.
    for seed in range(options.seeds):
        for name in options.methods:
            method = METHODS[name]
            if seed >= max(1, round(method.seeds * options.seeds)):
                continue
            file = file_of(options, name, seed)
            if not file.exists():
                print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
                simulate(method, options, protocol, seed, file)
            with np.load(file) as content:
                runs[name].append({key: content[key] for key in content.files})
    reference = json.loads((PROTOCOLS / "reference_alanine.json").read_text())["difference_kJ_per_mol"]
    results = {name: evaluate(of_method, reference) for name, of_method in runs.items()}
    text = table(results)
    (options.output / "table.md").write_text(text + "\n")
    return text


def file_of(options: argparse.Namespace, name: str, seed: int) -> Path:
    """File of a run; another variable, protocol or length has another file."""
    method = METHODS[name]
    digest = hashlib.sha256((PROTOCOLS / "alanine-dipeptide.yaml").read_bytes())
    digest.update(json.dumps([method.kind, method.options, options.ns * method.length]).encode())
    if method.learned:
        digest.update(options.cv.read_bytes())
    if method.needs_model:
        digest.update(options.model.read_bytes())
    return options.output / f"{name.replace(', ', '-').replace(' ', '-')}-{digest.hexdigest()[:8]}-{seed}.npz"


# Simulations


def simulate(method: Method, options: argparse.Namespace, protocol, seed: int, file: Path) -> None:
    """Run, and save phi, the bias and its offset every `frame_interval` of the protocol."""
    import mdtraj
    from openmm import app

    from latf_sampling.analysis import torsion_values
    from latf_sampling.core import platforms, storage, streams
    from latf_sampling.features import as_mdtraj
    from latf_sampling.settings import steps
    from latf_sampling.simulation.dynamics import integrator
    from latf_sampling.systems import build

    molecule = build(protocol.system)
    advance, applied = sampler(method, options, protocol, molecule)
    simulation = app.Simulation(
        molecule.topology,
        molecule.system,
        integrator(protocol.integrator, TEMPERATURE, streams.stream_seed(seed, method.kind)),
        platforms.pick_platform(protocol.system.platform, molecule.system.getNumParticles()),
    )
    simulation.context.setPositions(molecule.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, streams.stream_seed(seed, method.kind, "velocities"))
    stride = steps(protocol.frame_interval, protocol.integrator.timestep)
    count = round(1000 * options.ns * method.length / protocol.frame_interval)
    positions, biases = np.empty((count, len(molecule.positions), 3), np.float32), np.empty((count, 2))
    began, before = time.perf_counter(), time.process_time()
    for frame in range(count):
        advance(simulation, stride)
        exact = simulation.context.getState(getPositions=True).getPositions(asNumpy=True)._value
        positions[frame], biases[frame] = exact, applied(simulation, exact)
    seconds, cpu = time.perf_counter() - began, time.process_time() - before
    phi = torsion_values(mdtraj.Trajectory(positions, as_mdtraj(molecule.topology)), protocol.observe.torsion)
    with storage.atomic_write(file) as temporary:
        np.savez(
            temporary,
            phi=phi,
            bias=biases[:, 0],
            offset=biases[:, 1],
            interval=protocol.frame_interval,
            seconds=seconds,
            cpu=cpu,
        )


def sampler(method: Method, options: argparse.Namespace, protocol, molecule):
    """A function that simulates some steps, and one that returns bias and offset at the current positions, kJ/mol."""
    from latf_sampling.bias import OPES, FlowBias, Metadynamics
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.learning.model import LaTF
    from latf_sampling.settings import steps

    if method.kind == "plain":
        return lambda simulation, count: simulation.step(count), lambda simulation, positions: (0.0, 0.0)
    hills = protocol.rounds[-1].bias
    settings = {"height": hills.height, "interval": hills.interval, "width": 1.0, "barrier": BARRIER, "start": None}
    settings |= method.options
    frequency = steps(settings["interval"], protocol.integrator.timestep)
    if method.kind == "phi-psi":
        return stock(molecule, hills.bias_factor, settings["height"], frequency)
    cv = LatentCV.load(options.cv, molecule.topology)
    common = {"frequency": frequency, "width": settings["width"]}
    model = LaTF.load(options.model) if method.needs_model else None
    if method.kind == "flow":
        bias = FlowBias(molecule.system, cv, model, TEMPERATURE, hills.bias_factor, frequency=frequency)
    elif method.kind == "opes":
        bias = OPES(molecule.system, cv, TEMPERATURE, settings["barrier"], **common)
    else:
        height, factor = settings["height"], hills.bias_factor
        bias = Metadynamics(molecule.system, cv, TEMPERATURE, factor, height, model=model, **common)
    return bias.step, lambda simulation, positions: (
        bias.applied_bias(cv(positions), simulation.currentStep),
        bias.offset(),
    )


def stock(molecule, factor: float, height: float, frequency: int):
    """OpenMM's metadynamics on phi and psi."""
    import mdtraj
    import openmm
    from openmm import app
    from scipy.special import logsumexp

    from latf_sampling.features import as_mdtraj
    from latf_sampling.units import KB

    structure, variables = mdtraj.Trajectory(molecule.positions, as_mdtraj(molecule.topology)), []
    for compute in (mdtraj.compute_phi, mdtraj.compute_psi):
        torsion = openmm.CustomTorsionForce("theta")
        torsion.addTorsion(*map(int, compute(structure)[0][0]), [])
        variables.append(app.BiasVariable(torsion, -np.pi, np.pi, TORSION_WIDTH, periodic=True))
    bias = app.Metadynamics(molecule.system, variables, TEMPERATURE, factor, height, frequency)
    group = 1 << bias._force.getForceGroup()

    def applied(simulation: app.Simulation, positions: np.ndarray) -> tuple[float, float]:
        energy = simulation.context.getState(getEnergy=True, groups=group).getPotentialEnergy()._value
        surface = -bias.getFreeEnergy()._value / (KB * TEMPERATURE)  # V gamma / (gamma - 1)
        return energy, KB * TEMPERATURE * float(logsumexp(surface) - logsumexp(surface / factor))

    return bias.step, applied


# Evaluation


def evaluate(runs: list[dict], reference: float) -> dict:
    """Errors over time, the time after which they stay small, and the cost of a run."""
    from latf_sampling.analysis import crossings, signed_distance
    from latf_sampling.records.observables import MARGIN

    histories = np.array([free_energy_history(run) for run in runs])
    length = len(runs[0]["phi"]) * float(runs[0]["interval"]) / 1000
    times = length * np.arange(1, POINTS + 1) / POINTS
    squares = (histories - reference) ** 2
    draws = np.random.default_rng(0).integers(len(runs), size=(RESAMPLES, len(runs)))
    resampled = [convergence_time(times, np.sqrt(squares[draw].mean(0))) for draw in draws]
    distances = [signed_distance(run["phi"], 0.0) for run in runs]
    arrived = [np.append(np.flatnonzero(each > MARGIN), len(each))[0] / len(each) * length for each in distances]
    return {
        "seeds": len(runs),
        "ns": length,
        "converged_ns": convergence_time(times, np.sqrt(squares.mean(0))),
        "converged_interval_ns": np.quantile(resampled, [0.05, 0.95], method="nearest").tolist(),
        "times_ns": times.tolist(),
        "error_kJ_per_mol": np.sqrt(squares.mean(0)).tolist(),
        "mean_kJ_per_mol": float(histories[:, -1].mean()),
        "arrived_ns": arrived,
        "crossings": [sum(crossings(each, -MARGIN, MARGIN)) for each in distances],
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "cpu": float(np.mean([run["cpu"] for run in runs])),
    }


def free_energy_history(run: dict) -> np.ndarray:
    """The estimate after equal parts of a run, without its filling, kJ/mol; infinite without crossings."""
    from latf_sampling.analysis import FILLING, crossings, offset_weights, signed_distance
    from latf_sampling.records.observables import MARGIN
    from latf_sampling.units import KB

    log_weights = offset_weights(run["bias"], run["offset"], TEMPERATURE)
    weights = np.exp(log_weights - log_weights.max())
    ends = np.arange(1, POINTS + 1) * len(weights) // POINTS
    begins = np.round(FILLING * ends).astype(int) * bool(run["bias"].any())
    distance = signed_distance(run["phi"], 0.0)
    crossed = [sum(crossings(distance[begin:end], -MARGIN, MARGIN)) > 0 for begin, end in zip(begins, ends)]
    totals = [np.append(0.0, np.cumsum(weights * side)) for side in (run["phi"] > 0, run["phi"] <= 0)]
    inside, outside = (np.where(crossed, total[ends] - total[begins], 1.0) for total in totals)
    return np.where(crossed, -KB * TEMPERATURE * np.log(inside / outside), np.inf)


def convergence_time(times: np.ndarray, errors: np.ndarray) -> float:
    """The time after which errors stay below the tolerance; infinite if they do not."""
    late = np.flatnonzero(~(errors < TOLERANCE))
    after = late[-1] + 1 if len(late) else 0
    return float(times[after]) if after < len(times) else float("inf")


# The table


def table(results: dict) -> str:
    head = ["", "seeds x ns", "ns to 1 kJ/mol", "90 % interval", "of phi-psi"]
    head += ["error after 1 ns", "2 ns", "all", "mean", "first crossing, ns", "crossings per ns", "s per ns", "of CPU"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    longest = results.get("phi-psi", {}).get("converged_ns", float("inf"))
    for name, result in results.items():
        times, errors = np.array(result["times_ns"]), result["error_kJ_per_mol"]
        selected = [errors[min(np.searchsorted(times, t - 1e-9), POINTS - 1)] for t in (1.0, 2.0, times[-1])]
        cells = [name, f"{result['seeds']} x {result['ns']:g}", span(result["converged_ns"], result["ns"])]
        cells += [" to ".join(span(t, result["ns"]) for t in result["converged_interval_ns"])]
        cells += [f"{result['converged_ns'] / longest:.2f}" if np.isfinite(longest + result["converged_ns"]) else ""]
        cells += [f"{error:.2f}" for error in selected] + [f"{result['mean_kJ_per_mol']:.2f}"]
        first = np.mean(result["arrived_ns"])
        cells += [span(first if first < result["ns"] else np.inf, result["ns"])]
        cells += [f"{np.mean(result['crossings']) / result['ns']:.1f}"]
        cells += [f"{result[key] / result['ns']:.0f}" for key in ("seconds", "cpu")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def span(time_ns: float, length: float) -> str:
    return f"{time_ns:.2f}" if np.isfinite(time_ns) else f"> {length:g}"


if __name__ == "__main__":
    main()
