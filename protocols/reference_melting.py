"""Melting curves of small systems, made with stock OpenMM and pymbar in two independent ways.

    python protocols/reference_melting.py chignolin-go -o protocols/reference_chignolin-go.json

The first way is replica exchange at six to ten temperatures, all frames weighted by MBAR; the second is plain dynamics
at temperatures of its own, each counted by itself. The package only builds the system. Errors are standard errors over
ten blocks in time, by which the whole analysis is repeated.

Replica exchange is simulated in pieces, which stay in the directory of --frames: the same command continues after the
last of them, a greater --pieces makes the reference longer, and --plain-frames 0 leaves plain runs out. Frames of plain
runs lie in the same directory, one file for each temperature with positions (nm), potential energies (kJ/mol) and the
order parameter.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from pymbar import MBAR

from latf_sampling.settings.protocol import Protocol
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import Molecule, build, chignolin_go, gcaa_go

KB = 8.31446261815324e-3
BLOCKS = 10


@dataclass(frozen=True)
class Case:
    """A system, what counts as folded in it, and how it is simulated."""

    system: SystemSettings
    folded_means: str
    observed: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    """From positions (frames, N, 3) to an order parameter between 0 and 1 (frames,), and whether a frame is folded."""
    exchange: tuple[float, ...]  # K
    plain: tuple[float, ...]  # K
    timestep: float  # ps
    interval: int  # steps between frames and between exchanges
    platform: str = "Reference"


def ladder(lowest: float, highest: float, count: int) -> tuple[float, ...]:
    return tuple(np.round(np.geomspace(lowest, highest, count), 1).tolist())


def chignolin() -> Case:
    settings = SystemSettings(name="chignolin-go", conformations=("hairpin", "extended"))
    formed = contacts_formed(build(settings).positions, chignolin_go.CONTACTS)

    def observed(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fraction = formed(positions).mean(axis=1)
        return fraction, fraction > 0.5

    plain = (306.0, 320.0, 333.0, 340.0, 347.0, 360.0, 374.0, 400.0)
    return Case(settings, "more than half of the native contacts", observed, ladder(260.0, 440.0, 10), plain, 0.01, 200)


def gcaa() -> Case:
    settings = SystemSettings(name="gcaa-go", conformations=("hairpin", "extended"))
    molecule = build(settings)
    residue = [atom.residue.index for atom in molecule.topology.atoms()]
    contacts = gcaa_go.contacts()[1]
    pairs = [(residue[a], residue[b]) for a, b in contacts]
    groups = np.array([gcaa_go.PAIRS.index(pair) if pair in gcaa_go.PAIRS else -1 for pair in pairs])
    formed = contacts_formed(molecule.positions, contacts)

    def observed(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        here = formed(positions)
        paired = [here[:, groups == k].mean(axis=1) >= 0.5 for k in range(len(gcaa_go.PAIRS))]
        return here.mean(axis=1), np.all(paired, axis=0)

    means = "three base pairs with half of their contacts"
    return Case(settings, means, observed, ladder(295.0, 365.0, 8), (305.0, 315.0, 325.0, 335.0, 350.0), 0.02, 100)


def rapa() -> Case:
    settings = Protocol.load(protocol("rapa")).system
    atoms = [{atom.name: atom.index for atom in residue.atoms()} for residue in build(settings).topology.residues()]
    bases = np.array([[names[name] for name in ("C2", "C6", "C4")] for names in atoms])

    def observed(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        folded = stacked(positions, *bases)
        return folded.astype(float), folded

    means = "bases stacked, by the criteria of barnaba (Bottaro et al., doi:10.1261/rna.067678.118)"
    return Case(settings, means, observed, ladder(280.0, 450.0, 6), (300.0, 330.0, 360.0, 400.0), 0.004, 250)


def ci2() -> Case:
    settings = Protocol.load(protocol("ci2")).system
    molecule = build(settings)
    pairs = [force for force in molecule.system.getForces() if isinstance(force, openmm.CustomBondForce)]
    native = max(pairs, key=lambda force: force.getNumBonds())
    contacts = [native.getBondParameters(k)[:2] for k in range(native.getNumBonds())]
    formed = contacts_formed(molecule.positions, contacts)

    def observed(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fraction = formed(positions).mean(axis=1)
        return fraction, fraction > 0.5

    exchange, plain = (tuple(np.round(np.array(kt) / KB, 2).tolist()) for kt in CI2_KT)
    return Case(settings, "more than half of the native contacts", observed, exchange, plain, 0.002, 500, "CPU")


def protocol(name: str) -> Path:
    """The protocol of a system; that of CI2 is made by a script."""
    if name != "ci2":
        return Path(__file__).parent / f"{name}.yaml"
    made = Path("runs/ci2/protocol.yaml")
    if not made.exists():
        raise SystemExit(f"{made} is missing: run 'python protocols/ci2_opensmog.py -o {made.parent}'")
    return made


CI2_KT = (1.12, 1.137, 1.154, 1.171, 1.188, 1.205), (1.13, 1.142, 1.154, 1.166, 1.178)
"""kT of the replica exchange and of plain runs, kJ/mol."""
CASES = {"chignolin-go": chignolin, "gcaa-go": gcaa, "rapa": rapa, "ci2": ci2}
CONTACT = 1.2
"""A contact is formed within this many times its native distance."""


def contacts_formed(native: np.ndarray, contacts: Sequence[tuple[int, int]]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from positions (frames, N, 3) to which contacts are formed (frames, contacts)."""
    first, second = np.array(contacts).T
    length = np.linalg.norm(native[first] - native[second], axis=-1)
    return lambda x: np.linalg.norm(x[:, first] - x[:, second], axis=-1) < CONTACT * length


def stacked(positions: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether two bases are stacked (frames,), each given by the three atoms that define its axes, as barnaba has it.

    The center of each is more than 0.2 nm above or below the plane of the other, one of them is within 0.25 nm of the
    other's normal, the normals are within 40 degrees of each other, and each center lies in the other's ellipsoid with
    radii of 0.85, 0.85 and 0.51 nm.
    """
    centers, normals = [], []
    for atoms in (first, second):
        corners = positions[:, atoms].astype(float)
        center = corners.mean(axis=1)
        normal = np.cross(corners[:, 0] - center, corners[:, 1] - center)
        centers.append(center)
        normals.append(normal / np.linalg.norm(normal, axis=1, keepdims=True))
    between = centers[1] - centers[0]
    heights = np.abs([(between * normal).sum(axis=1) for normal in normals])
    beside = np.sqrt(np.maximum((between**2).sum(axis=1) - heights**2, 0.0))
    parallel = np.abs((normals[0] * normals[1]).sum(axis=1)) > np.cos(np.radians(40.0))
    near = ((beside / 0.5) ** 2 + (heights / 0.3) ** 2 < 1.7**2).all(axis=0)
    return (heights > 0.2).all(axis=0) & (beside < 0.25).any(axis=0) & parallel & near


class Replica:
    """A simulation at one temperature, K."""

    def __init__(self, molecule: Molecule, case: Case, temperature: float, walker: int, seed: int) -> None:
        integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0, case.timestep)
        integrator.setRandomNumberSeed(seed)
        self.temperature, self.integrator = temperature, integrator
        platform = openmm.Platform.getPlatformByName(case.platform)
        threads = {"Threads": "1"} if case.platform == "CPU" else {}
        self.context = openmm.Context(molecule.system, integrator, platform, threads)
        self.context.setPositions(molecule.start(walker).positions)
        openmm.LocalEnergyMinimizer.minimize(self.context, 10.0)
        self.context.setVelocitiesToTemperature(temperature, seed)

    def frame(self, steps: int) -> tuple[np.ndarray, float]:
        self.integrator.step(steps)
        state = self.context.getState(positions=True, energy=True)
        return np.array(state.getPositions(asNumpy=True)._value), state.getPotentialEnergy()._value

    def positions(self) -> np.ndarray:
        return np.array(self.context.getState(positions=True).getPositions(asNumpy=True)._value)

    def velocities(self) -> np.ndarray:
        return np.array(self.context.getState(velocities=True).getVelocities(asNumpy=True)._value)


def plain_run(molecule: Molecule, case: Case, temperature: float, frames: int, seed: int):
    """Positions (frames, N, 3) and energies (frames,) of plain dynamics; the first tenth is left out."""
    replica = Replica(molecule, case, temperature, seed, seed)
    replica.integrator.step(frames // 10 * case.interval)
    positions, energies = zip(*(replica.frame(case.interval) for _ in range(frames)), strict=True)
    return np.array(positions, np.float32), np.array(energies)


def exchange_piece(molecule: Molecule, case: Case, frames: int, seed: int, piece: int, before: dict | None) -> dict:
    """Replica exchange from where the piece before ended: positions (temperatures, frames, N, 3) and so on."""
    seeds = [seed + 1000 * piece + k for k in range(len(case.exchange))]
    replicas = [Replica(molecule, case, t, k, seeds[k]) for k, t in enumerate(case.exchange)]
    if before is not None:
        for replica, x, v in zip(replicas, before["last"], before["velocities"], strict=True):
            replica.context.setPositions(x)
            replica.context.setVelocities(v)
    rng, betas, accepted, tried = np.random.default_rng([seed, piece]), 1 / (KB * np.array(case.exchange)), 0, 0
    positions, energies = [], []
    for number in range(frames):
        states = [replica.frame(case.interval) for replica in replicas]
        positions.append(np.array([state[0] for state in states], np.float32))
        energies.append([state[1] for state in states])
        for low in range(number % 2, len(replicas) - 1, 2):
            tried += 1
            if np.log(rng.random()) < (betas[low] - betas[low + 1]) * (states[low][1] - states[low + 1][1]):
                accepted += 1
                velocities = [replica.velocities() for replica in replicas[low : low + 2]]
                scale = np.sqrt(case.exchange[low] / case.exchange[low + 1])
                replicas[low].context.setPositions(states[low + 1][0])
                replicas[low].context.setVelocities(velocities[1] * scale)
                replicas[low + 1].context.setPositions(states[low][0])
                replicas[low + 1].context.setVelocities(velocities[0] / scale)
    return {
        "positions": np.array(positions).swapaxes(0, 1),
        "energies": np.array(energies).T,
        "last": np.array([replica.positions() for replica in replicas]),
        "velocities": np.array([replica.velocities() for replica in replicas]),
        "accepted": np.array([accepted, tried]),
    }


def replica_exchange(name: str, case: Case, molecule: Molecule, directory: Path, pieces: int, frames: int, seed: int):
    """Energies and folded (temperatures, frames), and the fraction of exchanges that was accepted.

    Pieces that the directory holds are read, those that are missing are simulated. The first tenth is left out.
    """
    energies, folded, accepted, before = [], [], np.zeros(2), None
    for piece in range(pieces):
        file = directory / f"{name}-exchange-{piece:03d}.npz"
        if file.exists():
            with np.load(file) as content:
                here = dict(content)
        else:
            here = exchange_piece(molecule, case, frames, seed, piece, before)
            save(file, here)
            print(f"piece {piece + 1} of {pieces} of the replica exchange", flush=True)
        energies.append(here["energies"])
        folded.append([case.observed(x)[1] for x in here["positions"]])
        accepted += here["accepted"]
        before = here
    arrays = [np.concatenate(parts, axis=1) for parts in (energies, folded)]
    return *(array[:, array.shape[1] // 10 :] for array in arrays), accepted[0] / accepted[1]


def save(file: Path, arrays: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)
    temporary.replace(file)


def transitions(fraction: np.ndarray, low: float = 0.2, high: float = 0.8) -> int:
    """Changes between less than a low and more than a high fraction of native contacts."""
    states = np.where(fraction < low, 0, np.where(fraction > high, 1, -1))
    return int(np.abs(np.diff(states[states >= 0])).sum())


def by_mbar(case: Case, energies: np.ndarray, folded: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fraction folded and heat capacity (kJ/mol/K) at temperatures (grid,), from (temperatures, frames) energies."""
    betas = 1 / (KB * np.array(case.exchange))
    flat = energies.ravel()
    mbar = MBAR(betas[:, None] * flat, np.full(len(betas), energies.shape[1]), solver_protocol="robust")
    logs = np.log(energies.shape[1]) + mbar.f_k[:, None] - betas[:, None] * flat
    denominator = np.logaddexp.reduce(logs, axis=0)
    fractions, capacities = [], []
    for temperature in grid:
        log_weight = -flat / (KB * temperature) - denominator
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        mean = weight @ flat
        fractions.append(weight @ folded.ravel())
        capacities.append(weight @ (flat - mean) ** 2 / (KB * temperature**2))
    return np.array(fractions), np.array(capacities)


def melting(temperatures: np.ndarray, fractions: np.ndarray) -> float:
    """The temperature at which half is folded, K: the middle root of a parabola for ln(f / (1 - f)) in 1/T.

    The parabola is fitted to the points between 10 and 90 %, with the weights of their binomial errors.
    """
    near = (fractions > 0.1) & (fractions < 0.9)
    x, f = 1000 / temperatures[near], fractions[near]
    if len(x) < 3:
        return float("nan")
    roots = np.polynomial.Polynomial.fit(x, np.log(f / (1 - f)), 2, w=np.sqrt(f * (1 - f))).roots()
    real = np.real(roots[np.abs(np.imag(roots)) < 1e-9])
    return float(1000 / real[np.argmin(np.abs(real - x.mean()))]) if len(real) else float("nan")


def peak(grid: np.ndarray, capacities: np.ndarray) -> float:
    """The temperature of the largest heat capacity, by a parabola through the points around it."""
    k = int(np.clip(np.argmax(capacities), 2, len(grid) - 3))
    a, b, _ = np.polyfit(grid[k - 2 : k + 3] - grid[k], capacities[k - 2 : k + 3], 2)
    return float(grid[k] - b / (2 * a)) if a < 0 else float(grid[k])


def error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean of values (blocks, ...)."""
    return np.nanstd(values, axis=0, ddof=1) / np.sqrt(len(values))


def known(value: float) -> float | None:
    """A number for JSON; None where the curve does not cross one half."""
    return round(value, 2) if np.isfinite(value) else None


def rounded(values: np.ndarray, digits: int = 4) -> list:
    return np.round(values, digits).tolist()


def exchange_summary(case: Case, energies: np.ndarray, folded: np.ndarray, accepted: float) -> dict:
    """Melting curve and heat capacity by replica exchange and MBAR."""
    grid = np.linspace(case.exchange[0], case.exchange[-1], 37)
    fractions, capacities = by_mbar(case, energies, folded, grid)
    parts = zip(np.array_split(energies, BLOCKS, 1), np.array_split(folded, BLOCKS, 1), strict=True)
    blocks = [by_mbar(case, e, f, grid) for e, f in parts]
    midpoint, midpoints = melting(grid, fractions), np.array([melting(grid, f) for f, _ in blocks])
    peaks = np.array([peak(grid, c) for _, c in blocks])
    return {
        "temperatures_K": list(case.exchange),
        "frames_each": energies.shape[1],
        "frame_interval_ps": case.interval * case.timestep,
        "accepted": round(accepted, 3),
        "folded_counted_at_ladder": rounded(folded.mean(axis=1)),
        "melting_temperature_K": known(midpoint),
        "melting_temperature_error_K": known(float(error(midpoints)) if np.isfinite(midpoint) else midpoint),
        "heat_capacity_peak_K": round(peak(grid, capacities), 2),
        "heat_capacity_peak_error_K": round(float(error(peaks)), 2),
        "grid_K": rounded(grid, 2),
        "folded": rounded(fractions),
        "folded_error": rounded(error(np.array([f for f, _ in blocks])), 5),
        "heat_capacity_kJ_per_mol_K": rounded(capacities),
        "heat_capacity_error_kJ_per_mol_K": rounded(error(np.array([c for _, c in blocks])), 5),
    }


def plain_summary(case: Case, x: np.ndarray, e: np.ndarray, temperature: float, us: float) -> dict:
    """What is stored of a plain run: its positions, its energies, and its microseconds of CPU time a step."""
    fraction, is_folded = case.observed(x)
    blocks = np.array([part.mean() for part in np.array_split(is_folded, BLOCKS)])
    steps, changes = len(x) * case.interval, transitions(fraction)
    return {
        "temperature_K": temperature,
        "frames": len(x),
        "folded": round(float(is_folded.mean()), 5),
        "error": round(float(error(blocks)), 5),
        "blocks": rounded(blocks),
        "energy_kJ_per_mol": round(float(e.mean()), 3),
        "energy_deviation_kJ_per_mol": round(float(e.std()), 3),
        "heat_capacity_kJ_per_mol_K": round(float(e.var() / (KB * temperature**2)), 5),
        "transitions": changes,
        "transitions_per_ns": round(changes / (steps * case.timestep * 1e-3), 3),
        "microseconds_per_step": round(us, 2),
        "transitions_per_minute_of_CPU": round(changes / (steps * us) * 6e7, 1),
    }


def compare(result: dict) -> None:
    """Add the melting temperature of the plain runs, and how far both ways are from each other."""
    runs, exchange = result["plain_runs"]["runs"], result["replica_exchange_MBAR"]
    temperatures = np.array([run["temperature_K"] for run in runs])
    folded, blocks = np.array([run["folded"] for run in runs]), np.array([run["blocks"] for run in runs]).T
    midpoints = np.array([melting(temperatures, block) for block in blocks])
    result["plain_runs"]["melting_temperature_K"] = round(melting(temperatures, folded), 2)
    result["plain_runs"]["melting_temperature_error_K"] = round(float(error(midpoints)), 2)
    expected, spread = (
        np.interp(temperatures, exchange["grid_K"], exchange[key]) for key in ("folded", "folded_error")
    )
    spread = np.hypot(spread, [run["error"] for run in runs])
    result["deviations_in_standard_errors"] = rounded((folded - expected) / spread, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=CASES)
    parser.add_argument("-o", "--output", type=Path, required=True, help="what it holds already is kept")
    parser.add_argument("--frames", type=Path, default=Path("runs/reference"), help="directory for frames of all runs")
    parser.add_argument("--pieces", type=int, default=20, help="pieces of the replica exchange in all")
    parser.add_argument("--piece-frames", type=int, default=1000, help="frames for each temperature in a piece")
    parser.add_argument("--plain-frames", type=int, default=60_000, help="frames for each plain run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    name, case = arguments.name, CASES[arguments.name]()
    molecule, interval = build(case.system), case.interval * case.timestep
    result = {
        "what": f"{name}, Langevin dynamics, friction 1/ps, {1000 * case.timestep:g} fs, {case.platform} platform",
        "openmm": openmm.version.version,
        "folded_means": case.folded_means,
        "plain_runs": {"frame_interval_ps": interval, "runs": []},
    }
    if arguments.output.exists():
        result = json.loads(arguments.output.read_text())

    def write() -> None:
        temporary = arguments.output.with_suffix(".tmp")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        temporary.replace(arguments.output)

    simulated = replica_exchange(
        name, case, molecule, arguments.frames, arguments.pieces, arguments.piece_frames, arguments.seed
    )
    exchange = exchange_summary(case, *simulated)
    result["replica_exchange_MBAR"] = exchange
    write()
    print({key: exchange[key] for key in exchange if key.endswith("_K") and key != "grid_K"}, flush=True)
    runs = result["plain_runs"]["runs"]
    for number, temperature in enumerate(case.plain if arguments.plain_frames else ()):
        if any(run["temperature_K"] == temperature for run in runs):
            continue
        begun = time.process_time()
        x, e = plain_run(molecule, case, temperature, arguments.plain_frames, arguments.seed + 100 + number)
        us = (time.process_time() - begun) / (1.1 * len(x) * case.interval) * 1e6
        runs.append(plain_summary(case, x, e, temperature, us))
        print(runs[-1], flush=True)
        content = {"positions": x, "energies": e, "contacts": case.observed(x)[0]}
        file = arguments.frames / f"{name}-{temperature:g}K.npz"
        save(file, {**content, "temperature": temperature, "interval_ps": interval})
        write()
    if len(runs) >= 3:
        compare(result)
        write()
        print(result["plain_runs"]["melting_temperature_K"], result["plain_runs"]["melting_temperature_error_K"])
        print("deviations, standard errors:", result["deviations_in_standard_errors"])


if __name__ == "__main__":
    main()
