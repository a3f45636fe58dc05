"""Accuracy of each kind of bias on wells whose free energy is known: one long run, and a hundred short ones.

    python benchmarks/wells.py -o runs/wells            # everything, an hour or two of one core
    python benchmarks/wells.py -o runs/wells --quick    # less than a minute, to check that it runs

The wells are harmonic or double, with one or two components biased. The variable is curved, u = 10 tanh(x / 10) +
tanh(2x) / 2, twice as steep on the barrier as in the wells, so that widths can adapt. The exact value is the integral
of exp(-V / kT) over each bin. The measure of a long run is its largest and its root mean square deviation from that,
over bins below 25 kJ/mol, aligned by their mean. The measure of short runs is how often the 95 % intervals of
`latf_sampling.analysis` contain the exact value.

Finished runs are kept in the output directory, so that an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app
from scipy.special import logsumexp

from latf_sampling import KB, Features, LatentCV, LaTF, systems
from latf_sampling.analysis import (
    FILLING,
    free_energy_difference,
    free_energy_profile,
    last_bias_weights,
    offset_weights,
    stages,
)
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.bias import OPES, FlowBias, Metadynamics, Umbrella, UmbrellaWindows
from latf_sampling.core import storage
from latf_sampling.learning.networks import Networks

TEMPERATURE = 300.0
KT = KB * TEMPERATURE
LIMIT = 25.0
"""kJ/mol; bins above are left out."""
TIMESTEP, FRICTION = 0.03, 2.0
STRIDE, HILLS, KERNELS = 10, 20, 50
"""Steps between frames, between hills, and between the kernels of OPES."""
BIAS_FACTOR, HEIGHT, BARRIER = 10.0, 1.0, 35.0
WINDOWS, BEYOND = {1: (20,), 2: (14, 8)}, 0.2
"""Umbrella windows along each component, and how far they extend beyond the evaluated range, as a fraction of it."""
EQUILIBRATE = 200
SAMPLES = 100_000
WELLS = ("harmonic, 1-D", "double, 1-D", "harmonic, 2-D", "double, 2-D")
KINDS = ("metadynamics", "adaptive widths", "OPES", "flow bias", "windows")
ADAPTIVE = KINDS[:3]
AXES = ("first axis", "second axis")
LONG, SHORT = {1: 2_000_000, 2: 6_000_000}, {1: 15_000, 2: 20_000}
BINS, PROFILE_BINS = {1: 24, 2: 8}, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/wells"))
    parser.add_argument("--wells", nargs="+", default=WELLS, choices=WELLS, metavar="WELL")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, metavar="KIND")
    parser.add_argument("--runs", type=int, default=100, help="short runs of each kind")
    parser.add_argument("--quick", action="store_true", help="the double well in 1-D, short and twice")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.quick:
        options.wells, options.runs = WELLS[1:2], 2
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.wells:
        for kind in options.kinds:
            run_all(name, kind, options)
    text = accuracy(options.output) + "\n\n" + coverage(options.output)
    (options.output / "table.md").write_text(text + "\n")
    print(text)


def run_all(name: str, kind: str, options: argparse.Namespace) -> None:
    """The long run of a kind of bias in a well and, where there are two states, the short ones, unless finished."""
    long = file_of(options.output, name, kind)
    short = long.with_suffix(".jsonl")
    done = {json.loads(line)["seed"] for line in short.read_text().splitlines()} if short.exists() else set()
    seeds = [seed for seed in range(options.runs) if seed not in done] if "double" in name else []
    if long.exists() and not seeds:
        return
    well = Well.build(name, options.output)
    trial = Trial(well, kind)
    if not long.exists():
        steps = (SHORT if options.quick else LONG)[well.dim]
        estimates = trial.run(steps, seed=1000)
        with storage.atomic_write(long) as temporary:
            arrays = {
                how: np.column_stack([*map(np.concatenate, (e.u, e.log_weights))]) for how, e in estimates.items()
            }
            if kind in ADAPTIVE:
                arrays |= {"bias itself": trial.bias.free_energy(), **dict(zip(AXES, trial.bias.axes))}
            np.savez(temporary, steps=steps, **arrays)
        print(name, kind, *deviations(well, long), sep="\n", file=sys.stderr, flush=True)
    for seed in seeds:
        intervals = {how: well.intervals(estimate, seed) for how, estimate in trial.run(SHORT[well.dim], seed).items()}
        with short.open("a") as file:
            file.write(json.dumps({"seed": seed, "estimators": intervals}) + "\n")


def file_of(output: Path, name: str, kind: str) -> Path:
    return output / f"{name}, {kind}.npz".replace(" ", "_")


# Wells


def curve(x: np.ndarray) -> np.ndarray:
    """The variable u of a coordinate x, nm."""
    return 10 * np.tanh(x / 10) + 0.5 * np.tanh(2 * x)


@dataclass
class Estimate:
    """Frames of one or more trajectories, and ln of their weights."""

    u: list[np.ndarray]
    log_weights: list[np.ndarray]
    states: Multistate | None = None


@dataclass
class Well:
    """A well with its variable and its exact free energy.

    Attributes
    ----------
    points, energies : numpy.ndarray (dim, m)
        Of each component u: points, evenly in x, and -kT ln p(x) there. Components are independent of each other.
    extent : numpy.ndarray (dim, 2)
        Range of each component where -kT ln p(u) is below `LIMIT`.
    """

    name: str
    potential: systems.ModelSystem
    cv: LatentCV
    model: LaTF
    points: np.ndarray
    energies: np.ndarray
    extent: np.ndarray

    @property
    def dim(self) -> int:
        return self.cv.dim

    @classmethod
    def build(cls, name: str, folder: Path, barrier: float = 20.0) -> Well:
        """A well with a flow that is fitted to exact samples and saved in a folder."""
        double = "double" in name
        potential = systems.double_well(barrier, 4.0, 100.0) if double else systems.harmonic_well((10.0, 40.0))
        dim = int(name[-3])
        features = Features(potential.topology, [{"coordinates": {"of": "all", "axes": "xy"[:dim]}}])
        plane = potential.exact_samples(SAMPLES, TEMPERATURE, np.random.default_rng(0))
        u = torch.from_numpy(curve(plane[:, :dim])).float()
        file = folder / f"{name}, {barrier:g}.pt".replace(" ", "_")
        if not file.exists():
            model_of(u, [u[:, 0] > 0, u[:, 0] <= 0] if double else [slice(None)]).save(file)
        model = LaTF.load(file)
        positions = np.concatenate([plane, np.zeros((len(plane), 1))], 1)[:2000, None]
        cv = LatentCV.from_model(model, features, positions)
        x = np.linspace(-3, 3, 60_001)
        along = [np.stack([x, 0 * x], 1), np.stack([0 * x, x], 1)][:dim]
        energies = np.stack([potential.potential(line[:, None]) for line in along])
        density = energies + KT * np.log(np.gradient(curve(x), x))  # -kT ln of that of u
        low = density - density.min(1, keepdims=True) < LIMIT
        extent = np.array([[curve(x[row])[0], curve(x[row])[-1]] for row in low])
        return cls(name, potential, cv, model, np.tile(curve(x), (dim, 1)), energies, extent)

    def system(self) -> openmm.System:
        """A new system, to which a bias may add its force."""
        return openmm.XmlSerializer.clone(self.potential.system)

    def exact(self, component: int, edges: np.ndarray) -> np.ndarray:
        """-kT ln of the integral over each bin of a component."""
        middle = (self.points[component][1:] + self.points[component][:-1]) / 2
        inside = np.exp(-(self.energies[component][1:] + self.energies[component][:-1]) / (2 * KT))
        with np.errstate(divide="ignore"):
            return -KT * np.log(np.histogram(middle, edges, weights=inside)[0])

    def deviation(self, u: np.ndarray, log_weights: np.ndarray) -> tuple[float, float]:
        """Largest and root mean square deviation over the bins below the limit, kJ/mol."""
        edges = [np.linspace(*side, BINS[self.dim] + 1) for side in self.extent]
        weights = np.exp(log_weights - log_weights.max())
        with np.errstate(divide="ignore"):
            estimate = -KT * np.log(np.histogramdd(u, edges, weights=weights)[0])
        return _deviation(estimate, _outer_sum([self.exact(k, each) for k, each in enumerate(edges)]))

    def deviation_of_surface(self, surface: np.ndarray, axes: list[np.ndarray]) -> tuple[float, float]:
        """The same for the free energy that a bias itself gives at its nodes."""
        exact = []
        for points, energies, axis in zip(self.points, self.energies, axes):
            steps = np.diff(points, append=2 * points[-1] - points[-2])  # proportional to du/dx
            exact.append(np.interp(axis, points, energies + KT * np.log(steps)))
        return _deviation(surface, _outer_sum(exact))

    def intervals(self, estimate: Estimate, seed: int) -> dict:
        """Errors of the difference of the two states and of the profile of the first component, with half widths."""
        first = [u[:, 0] for u in estimate.u]
        rng = np.random.default_rng(seed)
        inside = [u > 0 for u in first]
        difference = free_energy_difference(inside, estimate.log_weights, TEMPERATURE, rng, estimate.states)
        truth = self.exact(0, np.array([0.0, self.points[0, -1]])) - self.exact(0, np.array([self.points[0, 0], 0.0]))
        profile = free_energy_profile(
            first, estimate.log_weights, TEMPERATURE, rng, PROFILE_BINS, tuple(self.extent[0]), estimate.states
        )
        # Both sides are compared as -kT ln p with p relative to all bins, which is what the error refers to.
        exact = self.exact(0, profile.edges)
        error = (profile.values - _normal(profile.values)) - (exact - _normal(exact))
        return {
            "error": difference.value - float(truth[0]),
            "half": difference.half_width,
            "bins": error.tolist(),
            "halves": ((profile.interval[1] - profile.interval[0]) / 2).tolist(),
        }


def model_of(u: torch.Tensor, states: list) -> LaTF:
    """A model whose encoder is `curve`, its flow fitted to exact samples u (n, d)."""
    dim, one = u.shape[1], torch.eye(u.shape[1])
    generator = torch.Generator().manual_seed(0)
    model = LaTF(latent_dim=dim, encoder_hidden=(2 * dim,), reference_temperature=TEMPERATURE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.networks = Networks(model.settings, dim, len(states))
        model.trained = True
    model.provenance = {"temperatures": [TEMPERATURE, TEMPERATURE], "density": True}
    with torch.no_grad():
        model.networks.encoder[0].weight.copy_(torch.cat([one / 10, 2 * one]))
        model.networks.encoder[2].weight.copy_(torch.cat([10 * one, one / 2], 1))
        model.networks.encoder[0].bias.zero_()
        model.networks.encoder[2].bias.zero_()
        model.latent_bounds.copy_(torch.stack([u.amin(0), u.amax(0)], 1))
        model.latent_spread.copy_(torch.stack([u[state].var(0) for state in states]).mean(0).sqrt())
        model.networks.log_variance.fill_(-12.0)
    flow, steps = model.networks.flow, 1500
    flow.fit(u, torch.ones(len(u)), torch.zeros(()))
    optimiser = torch.optim.Adam(flow.parameters(), 2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = u[torch.randint(len(u), (4096,), generator=generator)]
        loss = -flow.log_prob(flow.blurred(batch, torch.randn(batch.shape, generator=generator)), torch.ones(())).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    flow.enclose(u)
    return model


def _outer_sum(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.add.outer(*parts)


def _deviation(estimate: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    away = (estimate - exact)[exact - exact.min() < LIMIT]
    away = away - away[np.isfinite(away)].mean()  # infinite where there is no frame
    return float(np.abs(away).max()), float(np.sqrt((away**2).mean()))


def _normal(free_energy: np.ndarray) -> float:
    """Free energy of all bins together."""
    return float(-KT * logsumexp(-free_energy / KT))


# Runs


class Trial:
    """A kind of bias in a well, to be run repeatedly, each time from an empty bias."""

    def __init__(self, well: Well, kind: str) -> None:
        self.well, self.kind, cv = well, kind, well.cv
        self.system = well.system()
        if kind == "windows":
            axes = [np.linspace(*side, n) for side, n in zip(widened(well.extent, BEYOND), WINDOWS[well.dim])]
            self.path = lattice(axes)
            self.bias = Umbrella(self.system, cv, self.path[0], 2 * KT / np.array([x[1] - x[0] for x in axes]) ** 2)
        elif kind == "OPES":
            self.bias = OPES(self.system, cv, TEMPERATURE, BARRIER, KERNELS)
        elif kind == "flow bias":
            self.bias = FlowBias(self.system, cv, well.model, TEMPERATURE, BIAS_FACTOR)
        else:
            width = "adaptive" if kind == "adaptive widths" else 1.0
            self.bias = Metadynamics(self.system, cv, TEMPERATURE, BIAS_FACTOR, HEIGHT, HILLS, width=width)

    def run(self, steps: int, seed: int) -> dict[str, Estimate]:
        """Simulate so many steps; returns the estimates from them by the method that weights frames."""
        simulation = simulate(self.well, self.system, seed)
        if self.kind == "windows":
            return {"MBAR": self._windows(simulation, steps)}
        count, bias = steps // STRIDE, self.bias
        bias.rewind(0)
        if self.kind == "flow bias":
            u = np.array([u for u, _, _ in frames(bias, simulation, count)])
            return {"static": Estimate([u], [last_bias_weights(bias.energy(u), TEMPERATURE)])}
        trajectory = list(frames(bias, simulation, count // 2))
        half = simulation.context.getState(getPositions=True, getVelocities=True)
        still = np.array([u for u, _, _ in frames(bias, simulation, count - count // 2, adaptive=False)])
        frozen = Estimate([still], [last_bias_weights(bias.energy(still), TEMPERATURE)])
        simulation.context.setState(half)
        simulation.currentStep = count // 2 * STRIDE
        trajectory += frames(bias, simulation, count - count // 2)
        u, applied, offset = (np.array(column) for column in zip(*trajectory))
        offset_log = offset_weights(applied, offset, TEMPERATURE)
        last_log = last_bias_weights(bias.energy(u), TEMPERATURE)
        estimates = {}
        for left_out in (FILLING, 0.5):
            frames_used = slice(round(left_out * count), None)
            estimates[f"c(t), without {left_out:.0%}"] = Estimate([u[frames_used]], [offset_log[frames_used]])
            estimates[f"last bias, without {left_out:.0%}"] = Estimate([u[frames_used]], [last_log[frames_used]])
        frames_used = slice(round(FILLING * count), None)
        which, middles = stages(STRIDE * np.arange(1, count + 1)[frames_used])
        states = self._states(bias.past_energy(u[frames_used], middles), which)
        estimates[f"MBAR, {len(middles)} stages"] = Estimate(
            [u[frames_used]], [states.log_weights(TEMPERATURE)], states
        )
        return {**estimates, "frozen half-way": frozen}

    def _states(self, bias: np.ndarray, which: np.ndarray) -> Multistate:
        """MBAR of states of one temperature, from the bias of each at all frames, and the state of each frame."""
        temperatures = np.full(len(bias), TEMPERATURE)
        return Multistate(np.zeros(len(which)), bias, temperatures, which, np.random.default_rng(0))

    def _windows(self, simulation: app.Simulation, steps: int) -> Estimate:
        each = steps // len(self.path) // STRIDE * STRIDE
        with tempfile.TemporaryDirectory() as folder:
            windows = UmbrellaWindows(self.bias, self.path, TEMPERATURE, folder)
            windows.run(simulation, equilibrate=EQUILIBRATE, steps=each, interval=STRIDE)
            series = windows.series()
        u, which = np.concatenate(series), np.repeat(np.arange(len(series)), each // STRIDE)
        energies = np.stack([self.bias.energy(u, center) for center in self.path])
        states = self._states(energies, which)
        return Estimate(series, np.split(states.log_weights(TEMPERATURE), len(series)), states)


def simulate(well: Well, system: openmm.System, seed: int) -> app.Simulation:
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIMESTEP)
    integrator.setRandomNumberSeed(seed + 1)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(well.potential.topology, system, integrator, platform)
    simulation.context.setPositions(well.potential.positions)
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, seed + 1)
    return simulation


def frames(bias, simulation: app.Simulation, count: int, adaptive: bool = True) -> Iterator[tuple]:
    """So many frames: the variable and, for an adaptive bias, the bias at it and its offset."""
    applied = offset = None
    for _ in range(count):
        if adaptive:
            bias.step(simulation, STRIDE)
        else:
            simulation.step(STRIDE)
        u = bias.values(simulation.context)
        if adaptive and not isinstance(bias, FlowBias):
            applied = bias.applied_bias(u, simulation.currentStep)
            if offset is None or simulation.currentStep % bias.frequency == 0:
                offset = bias.offset()
        yield u, applied, offset


def widened(extent: np.ndarray, fraction: float) -> np.ndarray:
    """Ranges (d, 2) that are longer by a fraction, half of it at either end."""
    return extent + 0.5 * fraction * (extent[:, 1] - extent[:, 0])[:, None] * np.array([-1, 1])


def lattice(axes: list[np.ndarray]) -> np.ndarray:
    """Points (K, d) of a lattice, neighbors one after the other."""
    if len(axes) == 1:
        return axes[0][:, None]
    return np.concatenate(
        [np.stack([np.full(len(axes[1]), x), axes[1][:: 1 - 2 * (k % 2)]], 1) for k, x in enumerate(axes[0])]
    )


# Tables


def accuracy(output: Path) -> str:
    """Largest and root mean square deviations of the long runs."""
    lines = ["| well | bias | steps | weights | largest | RMS |", "|---|---|---|---|---|---|"]
    for name in WELLS:
        files = {kind: file_of(output, name, kind) for kind in KINDS}
        if not any(file.exists() for file in files.values()):
            continue
        well = Well.build(name, output)
        for kind, file in files.items():
            if file.exists():
                steps = int(np.load(file)["steps"])
                for how, (largest, rms) in deviations(well, file):
                    lines.append(f"| {name} | {kind} | {steps:,} | {how} | {largest:.2f} | {rms:.2f} |")
    return "\n".join(lines)


def deviations(well: Well, file: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each estimate of a long run, and its deviations from the exact free energy."""
    with np.load(file) as content:
        for how in content.files:
            if how == "bias itself":
                yield how, well.deviation_of_surface(content[how], [content[axis] for axis in AXES[: well.dim]])
            elif how not in (*AXES, "steps"):
                yield how, well.deviation(content[how][:, :-1], content[how][:, -1])


def coverage(output: Path) -> str:
    """How often intervals of the short runs contain the exact value."""
    head = ["well", "bias", "weights", "runs", "difference held", "error, RMS", "half width, median", "unbounded"]
    head += ["bins held", "worst bin", "error of bins, RMS"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in WELLS:
        for kind in KINDS:
            file = file_of(output, name, kind).with_suffix(".jsonl")
            if not file.exists():
                continue
            runs = defaultdict(list)
            for line in file.read_text().splitlines():
                for how, intervals in json.loads(line)["estimators"].items():
                    runs[how].append(intervals)
            for how, short_runs in runs.items():
                error, half = (np.array([each[key] for each in short_runs]) for key in ("error", "half"))
                bins, halves = (np.array([each[key] for each in short_runs]) for key in ("bins", "halves"))
                held, known = np.abs(bins) <= halves, np.isfinite(bins)
                cells = [name, kind, how, f"{len(short_runs)}", f"{np.mean(np.abs(error) <= half):.0%}"]
                cells += [f"{np.sqrt(np.mean(error**2)):.2f}", f"{np.median(half):.2f}", f"{np.isinf(half).sum()}"]
                cells += [f"{held.mean():.0%}", f"{held.mean(0).min():.0%}"]
                cells.append(f"{np.sqrt(np.mean(bins[known] ** 2)):.2f}")
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
