"""What every kind of descriptor keeps: the package's own checks, forces in OpenMM, machine code."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import context, forces, gradient, random_model

from latf_sampling.cv.force import component_force
from latf_sampling.cv.graph import example, trace
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Harmonic
from latf_sampling.features import Features
from latf_sampling.testing import check_descriptors

PEPTIDE = Path(openmm.app.__file__).parent / "data" / "test.pdb"
BOX = np.array([[4.0, 0, 0], [1.0, 3.8, 0], [-1.2, 0.9, 3.5]])


@pytest.fixture(scope="module")
def peptide() -> mdtraj.Trajectory:
    """Frames of six residues of villin, 30 residues after its start."""
    whole = mdtraj.load(str(PEPTIDE))
    part = whole.atom_slice(whole.topology.select("protein and resid 20 to 25"))
    noise = np.random.default_rng(4).normal(scale=0.02, size=(12, part.n_atoms, 3))
    return mdtraj.Trajectory(part.xyz[:1] + noise, part.topology)


@pytest.fixture(scope="module")
def references(peptide, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("references")
    files = [str(folder / name) for name in ("first.pdb", "second.pdb")]
    for frame, file in enumerate(files):
        peptide[frame].save_pdb(file)
    return files


KINDS = {
    "contacts": {"between": "name CA", "skip": 2, "r0": "0.6 nm", "n": 8, "m": 14},
    "contacts sum": {"between": "name CA", "and": "name CB", "r0": "0.6 nm", "fermi": "0.05 nm", "sum": True},
    "coordination": {"of": "name CA", "with": "name CB", "r0": "0.6 nm", "fermi": "0.05 nm"},
    "residue_contacts": {"between": "resid 0 1 4 5"},
    "residue_contacts ca": {"between": "resid 0 4", "scheme": "ca"},
    "native_contacts": {"of": "element != H", "reference": 0, "skip": 3, "cutoff": "0.6 nm"},
    "native_contacts each": {
        "of": "name CA",
        "reference": 0,
        "cutoff": "0.8 nm",
        "beta": "20 /nm",
        "lambda": 1.0,
        "each": True,
    },
    "hydrogen_bonds": "backbone",
    "groups": {"groups": ["resid 0", "resid 5 and name CA CB", {"atoms": [30]}], "pairs": [[0, 1], [1, 2]]},
    "groups far": {"groups": ["resid 0 5", "resid 3"], "center": "geometry"},
    "gyration": "name CA and resid 0 5",
    "gyration equal": {"of": "element != H", "weights": "equal"},
    "rmsd": {"of": "name CA", "reference": [0, 1]},
    "rmsd mass": {"of": "element != H", "reference": 0, "weights": "mass"},
    "rmsd superpose": {"of": "sidechain and resid 4", "reference": 0, "superpose": "name CA C N"},
}


def entry(name: str, references: list[str]) -> list[dict]:
    value = KINDS[name]
    if isinstance(value, dict) and "reference" in value:
        of = value["reference"]
        value = {**value, "reference": [references[k] for k in of] if isinstance(of, list) else references[of]}
    return [{name.split()[0]: value}]


@pytest.mark.parametrize("name", KINDS)
def test_kinds_keep_what_descriptors_promise(peptide, references, name):
    spec = entry(name, references)
    features = Features(peptide.topology, spec)
    again = Features(peptide.topology, features.spec)
    assert (again.spec, again.names, again.units) == (features.spec, features.names, features.units)
    np.testing.assert_array_equal(again.transform(peptide), features.transform(peptide))
    check_descriptors(peptide[2:5], spec)


def variable(peptide, spec, periodic: bool) -> LatentCV:
    features = Features(peptide.topology, spec, periodic=periodic)
    boxes = np.tile(BOX, (len(peptide), 1, 1)) if periodic else None
    model = random_model(features, features(peptide.xyz, boxes), 1)
    return LatentCV.from_model(model, features, peptide.xyz[:4], None if boxes is None else boxes[:4], np.inf)


@pytest.mark.parametrize("name", KINDS)
def test_forces_are_minus_the_gradient(peptide, references, name):
    """In a box whose faces the molecule lies across, as a simulation has it: by `TorchForce` or `PythonForce`."""
    cv = variable(peptide, entry(name, references), True)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in BOX))
    for _ in range(peptide.n_atoms):
        system.addParticle(1.0)
    system.addForce(component_force(cv, 0))
    x = peptide.xyz[5].astype(np.float64)
    broken = x - x[20] + np.random.default_rng(0).integers(-1, 2, x.shape) @ BOX
    slopes = cv.gradients(x[None], BOX)[0, 0]
    atoms = cv.atoms[np.argsort(-np.abs(slopes).sum(-1))[:6]]  # those that matter most
    expected = -gradient(lambda moved: cv(moved, BOX)[:, 0], x, atoms=atoms)[atoms]
    made = context(system, broken, box=BOX)
    found = forces(made, 0)
    np.testing.assert_allclose(found[atoms], expected, atol=1e-6 * np.abs(expected).max())
    assert np.abs(found.sum(0)).max() < 1e-8 * np.abs(expected).max()
    made.getIntegrator().step(2)
    assert np.isfinite(forces(made, 0)).all()


@pytest.mark.parametrize("name", ["residue_contacts", "rmsd superpose"])
def test_kinds_have_machine_code(peptide, references, name, tmp_path, monkeypatch):
    """Those that together have the operations of all."""
    pytest.importorskip("numba")
    from latf_sampling.cv.compiler import compile_graph

    monkeypatch.setenv("LATF_CACHE", str(tmp_path))
    cv, shape = variable(peptide, entry(name, references), True), Harmonic(1)
    graph, inputs = trace(cv, shape), example(cv, shape)
    made = compile_graph(graph, inputs)
    for x in (peptide.xyz[6, cv.atoms].astype(np.float64), np.zeros((len(cv.atoms), 3))):
        values = [x, BOX, np.array([0.3, 1.2])]
        energy, force = (t.numpy() for t in graph(*(torch.from_numpy(value) for value in values)))
        found = made(*values)
        np.testing.assert_allclose(found[0], energy, rtol=1e-9)
        np.testing.assert_allclose(found[1], force, atol=1e-9 * np.abs(force).max())
