"""How often the dimer in the WCA fluid is extended, by plain dynamics with stock OpenMM at five temperatures.

    python protocols/reference_wca_dimer.py -o protocols/reference_wca-dimer.json

At constant volume, and at constant pressure by OpenMM's MonteCarloBarostat. The package only builds the system. Errors
are standard errors over ten blocks in time. With --frames DIRECTORY the frames are kept, one file for each temperature
with positions and box edges (nm), energies (kJ/mol; U, and U + pV at constant pressure) and lengths of the dimer (nm).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import openmm

from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import build, wca_dimer

KB = 8.31446261815324e-3
BAR = 0.0602214076
"""kJ/mol/nm^3."""
BLOCKS = 10
TEMPERATURES = (120.0, 160.0, 200.0, 250.0, 300.0)
PRESSURE = 2000.0
TIMESTEP, FRICTION, INTERVAL = 0.02, 1.0, 50
EDGES = np.linspace(0.30, 0.68, 39)


def plain_run(temperature: float, pressure: float | None, frames: int, seed: int) -> dict[str, np.ndarray]:
    """Positions, box edges, energies and lengths of the dimer of plain dynamics; the first tenth is left out."""
    molecule = build(SystemSettings(name="wca-dimer"))
    if pressure is not None:
        barostat = openmm.MonteCarloBarostat(pressure, temperature, 25)
        barostat.setRandomNumberSeed(seed)
        molecule.system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(temperature, FRICTION, TIMESTEP)
    integrator.setRandomNumberSeed(seed)
    cpu = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(molecule.system, integrator, cpu, {"Threads": "1"})
    context.setPositions(molecule.positions)
    context.setVelocitiesToTemperature(temperature, seed)
    integrator.step(frames // 10 * INTERVAL)
    positions, edges, energies = [], [], []
    for _ in range(frames):
        integrator.step(INTERVAL)
        state = context.getState(positions=True, energy=True)
        positions.append(np.array(state.getPositions(asNumpy=True)._value, np.float32))
        edges.append(state.getPeriodicBoxVectors(asNumpy=True)._value[0, 0])
        energies.append(state.getPotentialEnergy()._value)
    x, edge = np.array(positions), np.array(edges)
    bond = x[:, 1] - x[:, 0]
    bond -= edge[:, None] * np.round(bond / edge[:, None])
    work = 0.0 if pressure is None else pressure * BAR * edge**3
    return {
        "positions": x,
        "box": edge,
        "energies": np.array(energies) + work,
        "lengths": np.linalg.norm(bond, axis=-1),
    }


def transitions(lengths: np.ndarray) -> int:
    """Changes between the quarters of the way from compact to extended."""
    x = (lengths - wca_dimer.COMPACT) / (wca_dimer.EXTENDED - wca_dimer.COMPACT)
    states = np.where(x < 0.25, 0, np.where(x > 0.75, 1, -1))
    return int(np.abs(np.diff(states[states >= 0])).sum())


def summary(run: dict[str, np.ndarray], temperature: float, seconds: float) -> dict:
    """What is stored of a run."""
    lengths, edge, steps = run["lengths"], run["box"], len(run["lengths"]) * INTERVAL
    extended = lengths > 0.5 * (wca_dimer.COMPACT + wca_dimer.EXTENDED)
    histograms = [np.histogram(part, EDGES)[0] / len(part) for part in np.array_split(lengths, BLOCKS)]
    mean = np.mean(histograms, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        surface = -KB * temperature * np.log(mean)
        spread = KB * temperature * np.std(histograms, axis=0, ddof=1) / np.sqrt(BLOCKS) / mean
    surface -= surface.min()
    blocks = [part.mean() for part in np.array_split(extended, BLOCKS)]
    changes = transitions(lengths)
    return {
        "temperature_K": temperature,
        "extended": round(float(extended.mean()), 5),
        "error": round(float(np.std(blocks, ddof=1) / np.sqrt(BLOCKS)), 5),
        "energy_kJ_per_mol": round(float(run["energies"].mean()), 2),
        "energy_deviation_kJ_per_mol": round(float(run["energies"].std()), 2),
        "density_sigma3": round(float(len(run["positions"][0]) * wca_dimer.SIGMA**3 / np.mean(edge**3)), 4),
        "transitions": changes,
        "microseconds_per_step": round(seconds / (1.1 * steps) * 1e6, 1),
        "transitions_per_minute_of_CPU": round(changes / (seconds / 1.1) * 60, 1),
        "free_energy_kJ_per_mol": [round(float(v), 3) if np.isfinite(v) else None for v in surface],
        "free_energy_error_kJ_per_mol": [round(float(v), 3) if np.isfinite(v) else None for v in spread],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--frames", type=Path, help="directory for the frames")
    parser.add_argument("--number", type=int, default=20_000, help="frames for each temperature and ensemble")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = {
        "what": f"wca-dimer, Langevin dynamics, friction {FRICTION:g}/ps, {1000 * TIMESTEP:g} fs, CPU platform",
        "openmm": openmm.version.version,
        "frames_each": arguments.number,
        "frame_interval_ps": INTERVAL * TIMESTEP,
        "pressure_bar": PRESSURE,
        "edges_nm": np.round(EDGES, 4).tolist(),
        "constant_volume": [],
        "constant_pressure": [],
    }
    for ensemble, pressure in (("constant_volume", None), ("constant_pressure", PRESSURE)):
        for number, temperature in enumerate(TEMPERATURES):
            begun = time.process_time()
            run = plain_run(temperature, pressure, arguments.number, arguments.seed + number)
            entry = summary(run, temperature, time.process_time() - begun)
            result[ensemble].append(entry)
            print(ensemble, {k: v for k, v in entry.items() if not k.startswith("free")}, flush=True)
            if arguments.frames is not None:
                arguments.frames.mkdir(parents=True, exist_ok=True)
                file = arguments.frames / f"wca-dimer-{ensemble}-{temperature:g}K.npz"
                np.savez(file, **run, temperature=temperature, interval_ps=INTERVAL * TIMESTEP, pressure=pressure or 0)
    temporary = arguments.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result) + "\n")
    temporary.replace(arguments.output)


if __name__ == "__main__":
    main()
