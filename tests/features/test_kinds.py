"""The contract of descriptors, for every registered kind: `check_descriptors`, forces in OpenMM, compiled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import context, forces, gradient, random_model
from helpers.nucleic import RNA, perturbed

from latf_sampling.cv.force import component_force
from latf_sampling.cv.graph import example, trace
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Harmonic
from latf_sampling.features import Features
from latf_sampling.features.registry import DESCRIPTORS
from latf_sampling.testing import check_descriptors

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_descriptor.py"
PEPTIDE = Path(openmm.app.__file__).parent / "data" / "test.pdb"
BOX = np.array([[4.0, 0, 0], [1.0, 3.8, 0], [-1.2, 0.9, 3.5]])


class Case(NamedTuple):
    """An entry of a specification, and what it promises. A number as reference stands for that frame of the peptide."""

    kind: str
    value: Any
    molecule: str = "peptide"
    floating: bool = True
    periodic: bool = True


CASES = {  # a new kind needs at least one case
    "torsions": Case("torsions", "phi psi chi1"),
    "torsions nucleic": Case("torsions", {"names": "alpha gamma zeta chi", "residues": "resid 2 3"}, "rna"),
    "distances": Case("distances", {"between": "name CA CB", "skip": 2}),
    "coordinates": Case("coordinates", {"of": "name CA", "axes": "xz"}, floating=False, periodic=False),
    "angles": Case("angles", {"of": "backbone", "at": "name CA"}),
    "angles nucleic": Case("angles", {"of": "resid 4", "as": "angle"}, "rna"),
    "contacts": Case("contacts", {"between": "name CA", "skip": 2, "r0": "0.6 nm", "n": 8, "m": 14}),
    "contacts sum": Case(
        "contacts", {"between": "name CA", "and": "name CB", "r0": "0.6 nm", "fermi": "0.05 nm", "sum": True}
    ),
    "coordination": Case("coordination", {"of": "name CA", "with": "name CB", "r0": "0.6 nm", "fermi": "0.05 nm"}),
    "coordination sorted": Case("coordination", {"of": "name CA", "r0": "0.6 nm", "moments": [2, 3]}),
    "residue_contacts": Case("residue_contacts", {"between": "resid 0 1 4 5"}),
    "residue_contacts ca": Case("residue_contacts", {"between": "resid 0 4", "scheme": "ca"}),
    "native_contacts": Case("native_contacts", {"of": "element != H", "reference": 0, "skip": 3, "cutoff": "0.6 nm"}),
    "native_contacts each": Case(
        "native_contacts",
        {"of": "name CA", "reference": 0, "cutoff": "0.8 nm", "beta": "20 /nm", "lambda": 1.0, "each": True},
    ),
    "hydrogen_bonds": Case("hydrogen_bonds", "backbone"),
    "groups": Case(
        "groups", {"groups": ["resid 0", "resid 5 and name CA CB", {"atoms": [30]}], "pairs": [[0, 1], [1, 2]]}
    ),
    "groups far": Case("groups", {"groups": ["resid 0 5", "resid 3"], "center": "geometry"}),
    "gyration": Case("gyration", "name CA and resid 0 5"),
    "gyration equal": Case("gyration", {"of": "element != H", "weights": "equal"}),
    "rmsd": Case("rmsd", {"of": "name CA", "reference": [0, 1]}),
    "rmsd mass": Case("rmsd", {"of": "element != H", "reference": 0, "weights": "mass"}),
    "rmsd superpose": Case("rmsd", {"of": "sidechain and resid 4", "reference": 0, "superpose": "name CA C N"}),
    "pucker": Case("pucker", "resid 1 2", "rna"),
    "nucleobases": Case("nucleobases", {"pairs": [[0, 5], [2, 3]]}, "rna"),
    "ermsd": Case("ermsd", {"of": "resid 1 to 4", "reference": str(RNA)}, "rna"),
    "custom": Case("custom", {"file": str(EXAMPLE), "class": "ShapeAnisotropy", "settings": {"atoms": "name CA CB"}}),
}
PERIODIC = [name for name, case in CASES.items() if case.periodic]


@pytest.fixture(scope="module")
def peptide() -> mdtraj.Trajectory:
    """Frames of six residues of villin, from the twenty-first on."""
    structure = mdtraj.load(str(PEPTIDE))
    part = structure.atom_slice(structure.topology.select("protein and resid 20 to 25"))
    noise = np.random.default_rng(4).normal(scale=0.02, size=(12, part.n_atoms, 3))
    return mdtraj.Trajectory(part.xyz[:1] + noise, part.topology)


@pytest.fixture(scope="module")
def molecules(peptide) -> dict[str, mdtraj.Trajectory]:
    return {"peptide": peptide, "rna": perturbed(RNA, frames=12)}


@pytest.fixture(scope="module")
def references(peptide, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("references")
    files = [str(folder / name) for name in ("first.pdb", "second.pdb")]
    for frame, file in enumerate(files):
        peptide[frame].save_pdb(file)
    return files


def specification(case: Case, references: list[str]) -> list[dict]:
    value = case.value
    if isinstance(value, dict) and isinstance(value.get("reference"), (int, list)):
        of = value["reference"]
        value = {**value, "reference": [references[k] for k in of] if isinstance(of, list) else references[of]}
    return [{case.kind: value}]


def test_every_kind_has_a_case():
    assert {case.kind for case in CASES.values()} == set(DESCRIPTORS)


@pytest.mark.parametrize("name", CASES)
def test_kinds_keep_the_contract_of_descriptors(molecules, references, name):
    case = CASES[name]
    frames, spec = molecules[case.molecule], specification(case, references)
    features = Features(frames.topology, spec)
    again = Features(frames.topology, features.spec)
    assert (again.spec, again.names, again.units) == (features.spec, features.names, features.units)
    np.testing.assert_array_equal(again.transform(frames), features.transform(frames))
    check_descriptors(frames[2:5], spec, floating=case.floating, periodic=case.periodic)


def variable(frames: mdtraj.Trajectory, spec: list[dict]) -> LatentCV:
    features = Features(frames.topology, spec, periodic=True)
    boxes = np.tile(BOX, (len(frames), 1, 1))
    model = random_model(features, features(frames.xyz, boxes), 1)
    return LatentCV.from_model(model, features, frames.xyz[:4], boxes[:4], np.inf)


@pytest.mark.parametrize("name", PERIODIC)
def test_forces_are_minus_the_gradient(molecules, references, name):
    """In a box across whose faces the molecule is broken, as in a simulation."""
    frames = molecules[CASES[name].molecule]
    cv = variable(frames, specification(CASES[name], references))
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in BOX))
    for _ in range(frames.n_atoms):
        system.addParticle(1.0)
    system.addForce(component_force(cv, 0))
    x = frames.xyz[5].astype(np.float64)
    broken = x - x[20] + np.random.default_rng(0).integers(-1, 2, x.shape) @ BOX
    slopes = cv.gradients(x[None], BOX)[0, 0]
    atoms = cv.atoms[np.argsort(-np.abs(slopes).sum(-1))[:6]]  # those with the largest gradients
    expected = -gradient(lambda moved: cv(moved, BOX)[:, 0], x, atoms=atoms)[atoms]
    running = context(system, broken, box=BOX)
    actual = forces(running, 0)
    np.testing.assert_allclose(actual[atoms], expected, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 0 and np.abs(actual.sum(0)).max() < 1e-8 * np.abs(expected).max()
    running.getIntegrator().step(2)
    assert np.isfinite(forces(running, 0)).all()


@pytest.mark.parametrize("name", ["residue_contacts", "rmsd superpose"])
def test_kinds_have_compiled_code(peptide, references, name, tmp_path, monkeypatch):
    """Two kinds that together have the operations of all."""
    pytest.importorskip("numba")
    from latf_sampling.cv.compiler.lowering import compile_graph

    monkeypatch.setenv("LATF_CACHE", str(tmp_path))
    cv, shape = variable(peptide, specification(CASES[name], references)), Harmonic(1)
    graph, inputs = trace(cv, shape), example(cv, shape)
    kernel = compile_graph(graph, inputs)
    for x in (peptide.xyz[6, cv.atoms].astype(np.float64), np.zeros((len(cv.atoms), 3))):
        values = [x, BOX, np.array([0.3, 1.2])]
        energy, force = (t.numpy() for t in graph(*(torch.from_numpy(value) for value in values)))
        results = kernel(*values)
        np.testing.assert_allclose(results[0], energy, rtol=1e-9)
        np.testing.assert_allclose(results[1], force, atol=1e-9 * np.abs(force).max())
