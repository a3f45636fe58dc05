"""Nucleic acids for tests: DNA of PDB 1LCD, two strands of eleven nucleotides, a GAAA tetraloop, an RNA hairpin."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np

DNA = Path(__file__).parents[1] / "data" / "dna-1lcd.pdb"
RNA = Path(__file__).parents[1] / "data" / "rna-gnra.pdb"
HAIRPIN = Path(__file__).parents[2] / "protocols" / "gcaa-hairpin.pdb"
BOXES = ["none", "orthorhombic", "triclinic", "changing"]


def perturbed(file: Path, frames: int = 8, noise: float = 0.01, seed: int = 1) -> mdtraj.Trajectory:
    """Frames of the first model, each atom displaced at random, nm."""
    structure = mdtraj.load(str(file))
    moves = np.random.default_rng(seed).normal(scale=noise, size=(frames, structure.n_atoms, 3))
    return mdtraj.Trajectory((structure.xyz[:1] + moves).astype(np.float32), structure.topology)


def boxed(traj: mdtraj.Trajectory, kind: str, side: float, seed: int = 2) -> mdtraj.Trajectory:
    """A copy in boxes about as wide as `side`, nm, with atoms scattered over images."""
    copy = mdtraj.Trajectory(traj.xyz.copy(), traj.topology)
    if kind == "none":
        return copy
    rng = np.random.default_rng(seed)
    copy.unitcell_lengths = np.tile([side, 1.1 * side, 1.2 * side], (len(copy), 1))
    copy.unitcell_angles = np.tile([90.0] * 3 if kind == "orthorhombic" else [75.0, 70.0, 80.0], (len(copy), 1))
    if kind == "changing":
        copy.unitcell_lengths = copy.unitcell_lengths * rng.uniform(1.0, 1.1, (len(copy), 3))
        copy.unitcell_angles = copy.unitcell_angles + rng.uniform(-5.0, 15.0, (len(copy), 3))
    counts = rng.integers(-1, 2, copy.xyz.shape).astype(np.float32)
    copy.xyz = copy.xyz + counts @ copy.unitcell_vectors
    return copy


def renamed(topology: mdtraj.Topology, residue=lambda name, place: name, atom=lambda name: name) -> mdtraj.Topology:
    """A copy with other names of atoms and residues; place is 0 for the first residue of a chain, 2 for the last."""
    copy = topology.copy()
    for chain in copy.chains:
        residues = list(chain.residues)
        for number, member in enumerate(residues):
            member.name = residue(member.name, 0 if number == 0 else 2 if member is residues[-1] else 1)
            for member_atom in member.atoms:
                member_atom.name = atom(member_atom.name)
    return copy
