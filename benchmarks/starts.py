"""How well generated structures start simulations at a temperature, compared with archived frames.

    python benchmarks/starts.py runs/demo -o runs/starts       # a finished campaign; half an hour or so of two cores
    python benchmarks/starts.py runs/demo --quick              # a minute, to see that it runs

Alanine dipeptide in vacuum at temperatures between and above the simulated ones. Sets of 64 structures are made in four
ways: by `generate_starts`; as archived frames at random; as the archived frame nearest, in latent space, to each
sample of the flow (the targets of the generated structures); and as frames of the reference itself, whose error is
that of chance for a set of this size. From each structure plain dynamics runs for 20 ps; structures without velocities
get those of the temperature. In windows of that time the frames of a set are compared with the reference: total
variation of phi and psi on 18 x 18 bins, population of phi > 0, mean potential energy. With weights, each run has the
weight of its start. The reference is weighted dynamics in a frozen bias, which metadynamics in phi and psi made before.

Finished parts are files in the output directory, and the same command reads them from there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.units import KB

TEMPERATURES = (450.0, 700.0)
COUNT, REPEATS = 64, 6
RUN, INTERVAL, TIMESTEP = 20.0, 0.1, 0.004  # ps
WINDOWS = ((0.0, 0.1), (0.1, 0.5), (0.5, 2.0), (2.0, 8.0), (8.0, 20.0))  # ps
BINS = 18
FILL, WALKERS, LENGTH = 6.0, 6, 6.0  # of the reference: ns of filling, independent walkers, ns of each
PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)
WAYS = ("starts", "starts, weighted", "nearest", "nearest, weighted", "random", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", type=Path, help="directory of a finished campaign of alanine dipeptide")
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "latf-starts")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="two sets of 8 for 2 ps, a poor reference, thrown away")
    options = parser.parse_args()
    options.count, options.run, options.reference = COUNT, RUN, (FILL, WALKERS, LENGTH)
    if options.quick:
        options.count, options.run, options.reference, options.repeats = 8, 2.0, (0.05, 2, 0.05), 2
        with tempfile.TemporaryDirectory() as folder:
            options.output = Path(folder)
            print(run_all(options))
    else:
        print(run_all(options))


def run_all(options: argparse.Namespace) -> str:
    import torch

    from latf_sampling.campaign.campaign import Campaign

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    campaign = Campaign.load(options.campaign)
    names = [atom.name for atom in campaign.topology.atoms]
    assert [names[k] for k in (*PHI, *PSI)] == ["C", "N", "CA", "C", "N", "CA", "C", "N"], "another molecule"
    learned = campaign.last_learned()
    model, cv = campaign.model(learned)
    archive = mdtraj.join([walker.trajectory for walker in campaign.frames(learned)], check_topology=False)
    latent = cv(archive.xyz.astype(float))
    lines = []
    for temperature in TEMPERATURES:
        folder = options.output / f"{temperature:g}K"
        folder.mkdir(parents=True, exist_ok=True)
        reference = find_reference(campaign, temperature, folder / "reference.npz", *options.reference)
        rng = np.random.default_rng(0)
        courses: dict[str, list] = {way: [] for way in WAYS}
        sets = []
        for repeat in range(options.repeats):
            began = time.perf_counter()
            starts = campaign.generate_starts(temperature, options.count, repeat, directory=folder / f"set-{repeat}")
            clock = folder / f"set-{repeat}" / "seconds.json"
            if not clock.exists():
                clock.write_text(json.dumps(time.perf_counter() - began))
            sets.append((len(starts), json.loads(clock.read_text()), starts.coverage))
            targets = np.array([*starts.targets.tolist(), *(entry["target"] for entry in starts.rejected)])
            nearest = np.array([((latent - target) ** 2).sum(1).argmin() for target in targets])
            frames = {
                "starts": (starts.positions, starts.velocities, starts.weights),
                "nearest": (archive.xyz[nearest], None, flow_weights(model, cv, latent[nearest], temperature)),
                "random": (archive.xyz[rng.choice(len(archive), options.count)], None, None),
                "reference": (drawn(reference, options.count, rng), None, None),
            }
            for way, (positions, velocities, weights) in frames.items():
                file = folder / f"{way}-{repeat}.npz"
                runs = run_from(campaign, temperature, positions, velocities, repeat, file, options.run)
                courses[way].append(compare(runs, np.ones(len(positions)), reference))
                if weights is not None:
                    courses[f"{way}, weighted"].append(compare(runs, weights, reference))
        lines += report(temperature, reference, sets, courses, model, options)
    return "\n".join(lines)


def flow_weights(model, cv, latent: np.ndarray, temperature: float) -> np.ndarray:
    from latf_sampling.starts.coverage import weights

    return weights(latent, model.sample(4000, temperature, seed=1).astype(float), cv.noise)


# ------------------------------------------------------------------------------------------------------- simulations


def simulation(campaign, temperature: float, seed: int, system=None) -> app.Simulation:
    dynamics = openmm.LangevinMiddleIntegrator(temperature, 1.0, TIMESTEP)
    dynamics.setRandomNumberSeed(seed)
    system = campaign.molecule.system if system is None else system
    platform = openmm.Platform.getPlatformByName("Reference")
    return app.Simulation(campaign.molecule.topology, openmm.XmlSerializer.clone(system), dynamics, platform)


def find_reference(campaign, temperature: float, file: Path, fill: float, walkers: int, length: float) -> dict:
    """Frames of dynamics in a frozen bias with their weights: positions, phi, psi, energy, weight, walker."""
    if file.exists():
        with np.load(file) as content:
            return dict(content)
    system = openmm.XmlSerializer.clone(campaign.molecule.system)
    variables = []
    for atoms in (PHI, PSI):
        force = openmm.CustomTorsionForce("theta")
        force.addTorsion(*atoms, [])
        variables.append(app.BiasVariable(force, -np.pi, np.pi, 0.35, True))
    bias = app.Metadynamics(system, variables, temperature, 10.0, 1.0, 250)
    dynamics = openmm.LangevinMiddleIntegrator(temperature, 1.0, TIMESTEP)
    dynamics.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    filling = app.Simulation(campaign.molecule.topology, system, dynamics, platform)
    filling.context.setPositions(campaign.molecule.positions)
    filling.context.setVelocitiesToTemperature(temperature, 1)
    bias.step(filling, round(1000 * fill / TIMESTEP))
    surface = bias.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole)
    frozen = frozen_bias(campaign, -surface * (1 - 1 / 10.0))
    group = frozen.getNumForces() - 1
    table: dict[str, list] = {name: [] for name in ("positions", "phi", "psi", "energy", "bias", "walker")}
    for walker in range(walkers):
        run = simulation(campaign, temperature, 100 + walker, frozen)
        run.context.setPositions(filling.context.getState(getPositions=True).getPositions())
        run.context.setVelocitiesToTemperature(temperature, 100 + walker)
        run.step(25_000)
        for _ in range(round(1000 * length / 0.2)):
            run.step(round(0.2 / TIMESTEP))
            x = run.context.getState(getPositions=True).getPositions(asNumpy=True)._value
            table["positions"].append(x.astype(np.float32))
            for name, groups in (("energy", ~(1 << group) & 0xFFFFFFFF), ("bias", 1 << group)):
                state = run.context.getState(getEnergy=True, groups=groups)
                table[name].append(state.getPotentialEnergy()._value)
            table["walker"].append(walker)
    frames = {name: np.array(values) for name, values in table.items() if values}
    frames["phi"], frames["psi"] = torsions(campaign, frames["positions"]).T
    exponent = frames["bias"] / (KB * temperature)
    frames["weight"] = np.exp(exponent - exponent.max())
    np.savez(file, **frames)
    return frames


def frozen_bias(campaign, values: np.ndarray) -> openmm.System:
    """The system with a bias of phi and psi on a grid, in a force group of its own, the last."""
    system = openmm.XmlSerializer.clone(campaign.molecule.system)
    force = openmm.CustomCompoundBondForce(8, "table(dihedral(p1, p2, p3, p4), dihedral(p5, p6, p7, p8))")
    size = values.shape[0]
    # The surface is periodic; its last row and column repeat the first.
    wrapped = values.copy()
    wrapped[-1, :], wrapped[:, -1] = wrapped[0, :], wrapped[:, 0]
    wrapped[-1, -1] = wrapped[0, 0]
    # rows are psi, columns phi, and OpenMM's table runs over its first argument fastest
    function = openmm.Continuous2DFunction(size, size, wrapped.flatten(), -np.pi, np.pi, -np.pi, np.pi, True)
    force.addTabulatedFunction("table", function)
    force.addBond([*PHI, *PSI], [])
    force.setForceGroup(system.getNumForces())
    system.addForce(force)
    return system


def run_from(campaign, temperature: float, positions, velocities, repeat: int, file: Path, length: float) -> np.ndarray:
    """Plain runs: phi, psi and potential energy at each interval from the start on, (runs, times, 3)."""
    if file.exists():
        with np.load(file) as content:
            return content["runs"]
    run, runs = simulation(campaign, temperature, 7 + repeat), []
    for k, x in enumerate(positions):
        run.context.setPositions(np.asarray(x, float))
        run.context.applyConstraints(1e-6)
        if velocities is None:
            run.context.setVelocitiesToTemperature(temperature, 1000 * repeat + k)
        else:
            run.context.setVelocities(velocities[k])
        positions_of_run, energies = [], []
        for step in range(round(length / INTERVAL) + 1):
            if step:
                run.step(round(INTERVAL / TIMESTEP))
            state = run.context.getState(getPositions=True, getEnergy=True)
            positions_of_run.append(state.getPositions(asNumpy=True)._value)
            energies.append(state.getPotentialEnergy()._value)
        runs.append(np.column_stack([torsions(campaign, np.array(positions_of_run)), energies]))
    np.savez(file, runs=np.array(runs))
    return np.array(runs)


def torsions(campaign, x: np.ndarray) -> np.ndarray:
    return mdtraj.compute_dihedrals(mdtraj.Trajectory(x, campaign.topology), [PHI, PSI])


def drawn(reference: dict, count: int, rng: np.random.Generator) -> np.ndarray:
    """Frames of the reference, by their weights."""
    p = reference["weight"] / reference["weight"].sum()
    return reference["positions"][rng.choice(len(p), count, p=p)]


# ------------------------------------------------------------------------------------------------------- comparison


def grid(phi, psi, weights) -> np.ndarray:
    counts = np.histogram2d(phi, psi, bins=BINS, range=[[-np.pi, np.pi]] * 2, weights=weights)[0]
    return counts / counts.sum()


def compare(runs: np.ndarray, weights: np.ndarray, reference: dict) -> np.ndarray:
    """Total variation, population of phi > 0 and mean energy less the reference's; (windows, 3)."""
    w = reference["weight"] / reference["weight"].sum()
    expected = grid(reference["phi"], reference["psi"], w)
    right, energy = w @ (reference["phi"] > 0), w @ reference["energy"]
    rows = []
    for low, high in WINDOWS:
        times = np.arange(runs.shape[1]) * INTERVAL
        part = runs[:, (times >= low - 1e-9) & (times < high - 1e-9)]
        each = np.repeat(weights / weights.sum(), part.shape[1])
        each /= each.sum() or 1.0
        phi, psi, energies = part.reshape(-1, 3).T
        if not len(phi):
            rows.append([np.nan] * 3)
            continue
        variation = 0.5 * np.abs(grid(phi, psi, each) - expected).sum()
        rows.append([variation, each @ (phi > 0) - right, each @ energies - energy])
    return np.array(rows)


def report(temperature: float, reference: dict, sets: list, courses: dict, model, options) -> list[str]:
    w, walkers = reference["weight"], reference["walker"]
    shares = [
        w[walkers == k] @ (reference["phi"][walkers == k] > 0) / w[walkers == k].sum() for k in np.unique(walkers)
    ]
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    valid, seconds = sum(entry[0] for entry in sets), [entry[1] for entry in sets]
    flow = np.array(model.populations(temperature))
    effective = np.mean([entry[2].effective for entry in sets])
    kt = KB * temperature
    lines = [
        f"## {temperature:g} K",
        "",
        f"{valid} of {options.repeats * options.count} targets met, {np.mean(seconds):.0f} s a set; "
        f"{sum(entry[2].covers for entry in sets)} of {len(sets)} sets cover the flow; the weighted structures of a "
        f"set are worth {effective:.0f}. Reference: phi > 0 {100 * np.mean(shares):.2f} +- {100 * error:.2f} %. The "
        f"flow's populations of states: {', '.join(f'{100 * share:.1f} %' for share in flow)}.",
        "",
    ]
    labels = [f"{low:g} to {high:g} ps" for low, high in WINDOWS]
    kinds = (
        ("Total variation of phi and psi", 0, 1, "{:.3f} +- {:.3f}"),
        ("Error of the population of phi > 0, percentage points (root of the mean square)", 1, 100, "{:.1f} +- {:.1f}"),
        ("Mean potential energy less the reference's, kT", 2, 1 / kt, "{:+.2f} +- {:.2f}"),
    )
    for title, column, factor, form in kinds:
        lines += [f"{title}:", "", "| | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
        for way in WAYS:
            values = factor * np.array(courses[way])[:, :, column]
            if column == 1:
                square = values**2
                middle = np.sqrt(square.mean(0))
                spread = square.std(0, ddof=1) / np.sqrt(len(values)) / (2 * np.maximum(middle, 1e-12))
            else:
                middle, spread = values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))
            lines.append(f"| {way} | " + " | ".join(form.format(*pair) for pair in zip(middle, spread)) + " |")
        lines.append("")
    return lines


if __name__ == "__main__":
    main()
