"""Nucleic acids for tests: the DNA of 1LCD, two strands of eleven, and a GAAA tetraloop of RNA."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np

DNA = Path(__file__).parents[1] / "data" / "dna-1lcd.pdb"
RNA = Path(__file__).parents[1] / "data" / "rna-gnra.pdb"
BOXES = ["none", "orthorhombic", "triclinic", "changing"]


def perturbed(file: Path, frames: int = 8, noise: float = 0.01, seed: int = 1) -> mdtraj.Trajectory:
    """Frames of the first model, each atom displaced at random, nm."""
    structure = mdtraj.load(str(file))
    moves = np.random.default_rng(seed).normal(scale=noise, size=(frames, structure.n_atoms, 3))
    return mdtraj.Trajectory((structure.xyz[:1] + moves).astype(np.float32), structure.topology)


def boxed(traj: mdtraj.Trajectory, kind: str, side: float, seed: int = 2) -> mdtraj.Trajectory:
    """A copy in boxes about as wide as `side`, nm, with atoms scattered over images."""
    made = mdtraj.Trajectory(traj.xyz.copy(), traj.topology)
    if kind == "none":
        return made
    rng = np.random.default_rng(seed)
    made.unitcell_lengths = np.tile([side, 1.1 * side, 1.2 * side], (len(made), 1))
    made.unitcell_angles = np.tile([90.0] * 3 if kind == "orthorhombic" else [75.0, 70.0, 80.0], (len(made), 1))
    if kind == "changing":
        made.unitcell_lengths = made.unitcell_lengths * rng.uniform(1.0, 1.1, (len(made), 3))
        made.unitcell_angles = made.unitcell_angles + rng.uniform(-5.0, 15.0, (len(made), 3))
    counts = rng.integers(-1, 2, made.xyz.shape).astype(np.float32)
    made.xyz = made.xyz + counts @ made.unitcell_vectors
    return made


def renamed(topology: mdtraj.Topology, residue=lambda name, place: name, atom=lambda name: name) -> mdtraj.Topology:
    """A copy with other names of residues (from name and place in the chain: 0, 1 for inner ones, 2) and of atoms."""
    made = topology.copy()
    for chain in made.chains:
        residues = list(chain.residues)
        for number, one in enumerate(residues):
            one.name = residue(one.name, 0 if number == 0 else 2 if one is residues[-1] else 1)
            for each in one.atoms:
                each.name = atom(each.name)
    return made
