"""How long descriptors of a trajectory take, beside the same columns by MDTraj or, where it has none, plain numpy.

    OMP_NUM_THREADS=1 python benchmarks/descriptors.py --markdown benchmarks/descriptors.md

measures each kind with `Features.transform` and the other way alternately, on one thread, and prints a table: medians,
without and with a box (rectangular, and changing and triclinic). The columns are compared first. What both ways share,
reading a trajectory, is omitted; what a user has to do besides to get the same columns, such as sine and cosine of the
torsions that MDTraj gives as angles, counts.

A case is a specification and a function of a trajectory that gives the same columns; a further kind is one more entry
in `CASES`.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import mdtraj
import numpy as np
import openmm.app
import torch

from latf_sampling import Features

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
PROTEIN = str(Path(openmm.app.__file__).parent / "data" / "test.pdb")
BOXES = ("none", "rectangular", "changing")


class Case(NamedTuple):
    """One kind of descriptor."""

    spec: list[dict]
    other: Callable[[mdtraj.Trajectory, bool], np.ndarray]
    """The same columns another way, from a trajectory and whether images count."""
    molecule: str = "peptide"
    way: str = "MDTraj"
    """What the other way uses."""
    whole: bool = False
    """Whether the other way knows no images, so that there is nothing to compare in a box."""


@cache
def protein() -> mdtraj.Trajectory:
    structure = mdtraj.load(PROTEIN)
    return structure.atom_slice(structure.topology.select("protein and resid 0 to 9"))


def frames(molecule: str, count: int, box: str, seed: int = 0) -> mdtraj.Trajectory:
    """Frames of a molecule, every atom displaced at random, whole, in boxes somewhat larger than it."""
    if molecule == "peptide":  # ten residues of villin, as in OpenMM's own example
        structure = protein()
    else:
        structure = mdtraj.load(str(ROOT / "tests" / "data" / "rna-gnra.pdb"))
    rng = np.random.default_rng(seed)
    xyz = rng.standard_normal((count, structure.n_atoms, 3), dtype=np.float32) * 0.01 + structure.xyz[:1]
    traj = mdtraj.Trajectory(xyz, structure.topology)
    if box != "none":
        traj.unitcell_lengths = np.tile([4.0, 4.5, 5.0], (count, 1))
        traj.unitcell_angles = np.full((count, 3), 90.0)
    if box == "changing":
        traj.unitcell_lengths = traj.unitcell_lengths * rng.uniform(0.98, 1.02, (count, 1))
        traj.unitcell_angles = np.tile([80.0, 75.0, 70.0], (count, 1))
    return traj


# ------------------------------------------------------------------------------------------- the same another way


def torsions(*names: str) -> Callable[[mdtraj.Trajectory, bool], np.ndarray]:
    def by_mdtraj(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
        angles = np.concatenate([getattr(mdtraj, f"compute_{name}")(traj, periodic)[1] for name in names], 1)
        return np.concatenate([np.sin(angles), np.cos(angles)], 1)

    return by_mdtraj


def distances(selection: str) -> Callable[[mdtraj.Trajectory, bool], np.ndarray]:
    def by_mdtraj(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
        atoms = traj.topology.select(selection)
        return mdtraj.compute_distances(
            traj,
            np.stack([a[np.triu_indices(len(atoms), 1)] for a in np.meshgrid(atoms, atoms, indexing="ij")], 1),
            periodic,
        )

    return by_mdtraj


def chi(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    quadruples = []
    for residue in traj.topology.residues:
        atoms = {atom.name: atom.index for atom in residue.atoms}
        last = ("N9", "C4") if "N9" in atoms else ("N1", "C2")
        quadruples.append([atoms[name] for name in ("O4'", "C1'", *last)])
    angles = mdtraj.compute_dihedrals(traj, quadruples, periodic)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def bonded_angles(convert: Callable[[np.ndarray], np.ndarray]) -> Callable[[mdtraj.Trajectory, bool], np.ndarray]:
    def by_mdtraj(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
        bonded = {atom.index: [] for atom in traj.topology.atoms}
        chosen = set(traj.topology.select("backbone").tolist())
        for a, b in traj.topology.bonds:
            if {a.index, b.index} <= chosen:
                bonded[a.index].append(b.index)
                bonded[b.index].append(a.index)
        triples = [(i, j, k) for j in sorted(chosen) for i in sorted(bonded[j]) for k in sorted(bonded[j]) if i < k]
        return convert(mdtraj.compute_angles(traj, triples, periodic))

    return by_mdtraj


def pucker(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    """Heights over the mean plane, with a loop over the atoms of the ring; rings are whole in the benchmark."""
    atoms = np.array([[residue.atom(name).index for name in RING] for residue in traj.topology.residues])
    ring = traj.xyz[:, atoms] - traj.xyz[:, atoms].mean(2, keepdims=True)
    around = np.radians(72 * np.arange(5)).astype(np.float32)
    normal = np.cross(
        np.einsum("j,frjk->frk", np.sin(around), ring, optimize=True),
        np.einsum("j,frjk->frk", np.cos(around), ring, optimize=True),
    )
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    heights = np.matmul(ring, normal[..., None])[..., 0] * np.sqrt(np.float32(0.4))
    phase = np.radians(126 + 144 * np.arange(5)).astype(np.float32)
    cosine, sine = heights @ np.cos(phase), -heights @ np.sin(phase)
    amplitude = np.hypot(cosine, sine)
    return np.concatenate([sine / amplitude, cosine / amplitude, amplitude], 1)


def gvectors(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    """All at once, with the frames outermost; the molecule is whole in the benchmark."""
    orders = [
        ("C2", "C6", "C4") if "N9" in {a.name for a in r.atoms} else ("C2", "C4", "C6") for r in traj.topology.residues
    ]
    atoms = np.array([[r.atom(name).index for name in order] for r, order in zip(traj.topology.residues, orders)])
    base = traj.xyz[:, atoms]
    center = base.mean(2)
    x = base[:, :, 0] - center
    z = np.cross(x, base[:, :, 1] - center)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    frame = np.stack([x, np.cross(z, x), z], -2)
    i, j = np.nonzero(~np.eye(len(atoms), dtype=bool))
    scaled = np.matmul(frame[:, i], (center[:, j] - center[:, i])[..., None])[..., 0]
    scaled /= np.array([0.5, 0.5, 0.3], np.float32)
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    gamma = np.float32(np.pi / 2.4)
    found = np.concatenate([scaled * np.sin(gamma * length) / length, 1 + np.cos(gamma * length)], -1) / gamma
    return np.where(length < 2.4, found, 0).swapaxes(1, 2).reshape(len(found), -1)


def ermsd(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    reference = gvectors(mdtraj.load(RNA), False)
    difference = gvectors(traj, periodic) - reference
    return np.sqrt((difference**2).sum(-1, keepdims=True) / traj.n_residues)


def within(selection: str, skip: int) -> Callable[[mdtraj.Topology], np.ndarray]:
    """Pairs of atoms in a selection whose residues are so many apart."""

    def pairs(topology: mdtraj.Topology) -> np.ndarray:
        atoms = topology.select(selection)
        residue = np.array([topology.atom(i).residue.index for i in atoms])
        i, j = np.triu_indices(len(atoms), 1)
        return np.stack([atoms[i], atoms[j]], 1)[np.abs(residue[i] - residue[j]) >= skip]

    return pairs


def amides(topology: mdtraj.Topology) -> np.ndarray:
    donors = [a.index for a in topology.atoms if a.name == "H" and a.residue.index]
    residue = [a.residue.index for a in topology.atoms]
    return np.array([(i, j) for i in donors for j in topology.select("name O") if abs(residue[i] - residue[j]) >= 3])


def switched(pairs: Callable[[mdtraj.Topology], np.ndarray], r0: float):
    def by_mdtraj(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
        return 1 / (1 + (mdtraj.compute_distances(traj, pairs(traj.topology), periodic) / np.float32(r0)) ** 6)

    return by_mdtraj


def native_contacts(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    native, pairs = protein(), within("element != H", 4)(traj.topology)
    r0 = mdtraj.compute_distances(native, pairs, False)[0]
    pairs, r0 = pairs[r0 < 0.45], r0[r0 < 0.45]
    r = mdtraj.compute_distances(traj, pairs, periodic)
    return np.mean(1 / (1 + np.exp(50 * (r - 1.8 * r0))), 1, keepdims=True)


def rmsd(selection: str):
    def by_mdtraj(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
        atoms = traj.topology.select(selection)
        return mdtraj.rmsd(traj, protein(), 0, atoms, atoms, parallel=False)[:, None]

    return by_mdtraj


def centers(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    found = [mdtraj.compute_center_of_mass(traj, selection) for selection in GROUPS]
    return np.stack([np.linalg.norm(found[i] - found[j], axis=1) for i, j in ((0, 1), (0, 2), (1, 2))], 1)


def smallest(traj: mdtraj.Trajectory, periodic: bool) -> np.ndarray:
    pairs = [(i, j) for i in range(10) for j in range(i + 3, 10)]
    return mdtraj.compute_contacts(traj, pairs, periodic=periodic, soft_min=True, soft_min_beta=8)[0]


GROUPS = ["resid 0 to 2", "resid 4 5", "resid 7 to 9"]
RING = ("C4'", "O4'", "C1'", "C2'", "C3'")
RNA = str(ROOT / "tests" / "data" / "rna-gnra.pdb")
CASES = {
    "torsions of a protein": Case([{"torsions": "phi psi omega chi1"}], torsions("phi", "psi", "omega", "chi1")),
    "torsions of a nucleic acid": Case([{"torsions": "chi"}], chi, "rna"),
    "cosines of angles": Case([{"angles": "backbone"}], bonded_angles(np.cos)),
    "angles": Case([{"angles": {"of": "backbone", "as": "angle"}}], bonded_angles(np.asarray)),
    "distances": Case([{"distances": "name CA"}], distances("name CA")),
    "distances, large table": Case([{"distances": "element != H"}], distances("element != H")),
    "distances of centers": Case([{"groups": {"groups": GROUPS}}], centers, whole=True),
    "residue contacts": Case([{"residue_contacts": {"between": "all", "beta": "8 /nm"}}], smallest),
    "contacts": Case(
        [{"contacts": {"between": "name CA CB", "skip": 3, "r0": 0.6}}], switched(within("name CA CB", 3), 0.6)
    ),
    "hydrogen bonds": Case([{"hydrogen_bonds": "backbone"}], switched(amides, 0.25)),
    "native contacts": Case([{"native_contacts": {"of": "element != H", "reference": PROTEIN}}], native_contacts),
    "RMSD of ten atoms": Case([{"rmsd": {"of": "name CA", "reference": PROTEIN}}], rmsd("name CA"), whole=True),
    "RMSD of all heavy atoms": Case(
        [{"rmsd": {"of": "element != H", "reference": PROTEIN}}], rmsd("element != H"), whole=True
    ),
    "radius of gyration": Case(
        [{"gyration": {"of": "all", "weights": "equal"}}], lambda t, p: mdtraj.compute_rg(t)[:, None], whole=True
    ),
    "pucker": Case([{"pucker": "all"}], pucker, "rna", "numpy"),
    "G-vectors": Case([{"nucleobases": "all"}], gvectors, "rna", "numpy"),
    "eRMSD": Case([{"ermsd": {"of": "all", "reference": RNA}}], ermsd, "rna", "numpy"),
}


# ----------------------------------------------------------------------------------------------------- measuring


def compared(case: Case, count: int, box: str) -> tuple[int, float, float]:
    """Columns, and the seconds that either way takes."""
    traj = frames(case.molecule, count, box)
    features = Features(traj.topology, case.spec, periodic=box != "none")
    few = traj[:100]
    np.testing.assert_allclose(features.transform(few), case.other(few, box != "none"), atol=1e-3)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for times, run in zip(seconds, (features.transform, lambda t: case.other(t, box != "none"))):
            start = time.perf_counter()
            run(traj)
            times.append(time.perf_counter() - start)
    ours, theirs = (float(np.median(times)) for times in seconds)
    return len(features.names), ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", default=list(CASES), help="some of the cases, by a part of their names")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: MDTraj takes as many threads as there are, and so does torch.")
    chosen = [name for name in CASES if any(part in name for part in arguments.only)]
    lines = ["| kind | columns | box | here | other way | | ratio |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for name in chosen:
        for box in BOXES if CASES[name].way == "MDTraj" and not CASES[name].whole else BOXES[:1]:
            columns, ours, theirs = compared(CASES[name], arguments.frames, box)
            line = f"| {name} | {columns} | {box} | {ours:.2f} s | {theirs:.2f} s | {CASES[name].way} "
            lines.append(f"{line}| {theirs / ours:.1f} |")
            print(lines[-1], flush=True)
    if arguments.markdown:
        arguments.markdown.write_text(HEAD.format(frames=arguments.frames, **versions()) + "\n".join(lines) + "\n")


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "mdtraj": mdtraj.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


HEAD = """# Descriptors of a trajectory beside MDTraj

Seconds for {frames:,} frames, one thread, median of three alternating runs; `ratio` is how many times faster
`Features.transform` is. torch {torch}, MDTraj {mdtraj}, numpy {numpy}, {machine}.

    OMP_NUM_THREADS=1 python benchmarks/descriptors.py --markdown benchmarks/descriptors.md

Proteins are ten residues of villin, nucleic acids a tetraloop of six nucleotides. Where MDTraj has no such kind, the
other way is plain numpy, which knows no images.

"""


if __name__ == "__main__":
    main()
