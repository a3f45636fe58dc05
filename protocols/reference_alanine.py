"""The reference free energy of alanine dipeptide in vacuum, made without anything of latf_sampling.

Stock OpenMM metadynamics on phi and psi fills the landscape; then the bias is frozen and every frame of a
long run under it is weighted by exp(V/kT), which is exact since V no longer changes. Independent replicas,
each from its own random numbers, and blocks within them give the error bar.

    python protocols/reference_alanine.py -o protocols/reference_alanine.json

takes about half an hour of one core per replica. The campaign's report reads the file and puts its own
number next to this one.
"""

import argparse
import json
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

HERE = Path(__file__).parent
KB = 8.31446261815324e-3
TEMPERATURE = 300.0
BINS = 60


def replica(seed: int, filling_ns: float, static_ns: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the phi/psi angles (frames, 2) in radians and the static bias (frames,) in kJ/mol."""
    pdb = app.PDBFile(str(HERE / "alanine-dipeptide.pdb"))
    system = app.ForceField("amber14/protein.ff14SB.xml").createSystem(pdb.topology, constraints=app.HBonds)
    topology = mdtraj.Topology.from_openmm(pdb.topology)
    quartets = [
        indices(mdtraj.Trajectory(np.zeros((1, 22, 3)), topology))[0][0]
        for indices in (mdtraj.compute_phi, mdtraj.compute_psi)
    ]
    variables = []
    for atoms in quartets:
        torsion = openmm.CustomTorsionForce("theta")
        torsion.addTorsion(*(int(atom) for atom in atoms), [])
        variables.append(app.BiasVariable(torsion, -np.pi, np.pi, 0.25, periodic=True))
    bias = app.Metadynamics(system, variables, TEMPERATURE, 12.0, 1.0, 500)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.002)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(pdb.topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, seed)
    bias.step(simulation, int(filling_ns * 500_000))
    group = 1 << bias._force.getForceGroup()
    frames, energies = [], []
    for _ in range(int(static_ns * 5_000)):
        simulation.step(100)
        frames.append(bias.getCollectiveVariables(simulation))
        state = simulation.context.getState(getEnergy=True, groups=group)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    return np.array(frames), np.array(energies)


def difference(phi: np.ndarray, bias: np.ndarray, low: float = 0.0, high: float = np.pi) -> float:
    """Free energy of low < phi < high less that of the rest, kJ/mol."""
    weight = np.exp((bias - bias.max()) / (KB * TEMPERATURE))
    inside = (phi > low) & (phi < high)
    return float(-KB * TEMPERATURE * np.log(weight[inside].sum() / weight[~inside].sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--filling-ns", type=float, default=15.0)
    parser.add_argument("--static-ns", type=float, default=35.0)
    parser.add_argument("--blocks", type=int, default=5, help="blocks per replica for the error bar")
    arguments = parser.parse_args()
    angles, biases, values = [], [], []
    for seed in range(1, arguments.replicas + 1):
        angle, bias = replica(seed, arguments.filling_ns, arguments.static_ns)
        angles.append(angle)
        # Each replica's bias has its own constant; weights are put on one scale by their sum.
        bias = bias - KB * TEMPERATURE * np.log(np.mean(np.exp((bias - bias.max()) / (KB * TEMPERATURE)))) - bias.max()
        biases.append(bias)
        values += [
            difference(a, b)
            for a, b in zip(np.array_split(angle[:, 0], arguments.blocks), np.array_split(bias, arguments.blocks))
        ]
    angle, bias = np.concatenate(angles), np.concatenate(biases)
    edges = np.linspace(-np.pi, np.pi, BINS + 1)
    weight = np.exp(bias / (KB * TEMPERATURE))
    histogram, _, _ = np.histogram2d(angle[:, 0], angle[:, 1], bins=(edges, edges), weights=weight / weight.sum())
    with np.errstate(divide="ignore"):
        surface = -KB * TEMPERATURE * np.log(histogram)
    surface -= surface.min()
    result = {
        "what": "alanine dipeptide, amber14 ff14SB, vacuum, hydrogen bonds constrained, 2 fs, 300 K",
        "method": "static-bias reweighting after stock OpenMM well-tempered metadynamics in phi and psi",
        "openmm": openmm.version.version,
        "replicas": arguments.replicas,
        "filling_ns": arguments.filling_ns,
        "static_ns": arguments.static_ns,
        "temperature_K": TEMPERATURE,
        "difference_kJ_per_mol": difference(angle[:, 0], bias),
        "error_kJ_per_mol": float(np.std(values, ddof=1) / np.sqrt(len(values))),
        "blocks_kJ_per_mol": values,
        "difference_0_to_120_degree_kJ_per_mol": difference(angle[:, 0], bias, 0.0, 2 * np.pi / 3),
        "edges_rad": edges.tolist(),
        "free_energy_kJ_per_mol": [
            [None if not np.isfinite(v) else round(float(v), 3) for v in row] for row in surface
        ],
    }
    temporary = arguments.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=None))
    temporary.replace(arguments.output)
    print({k: v for k, v in result.items() if k not in ("edges_rad", "free_energy_kJ_per_mol")})


if __name__ == "__main__":
    main()
