"""Molecules made whole, and centers, radii and deviations of them, against numpy and MDTraj."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm.app
import pytest
import torch

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features, Unwrap, bonded_tree

PEPTIDE = Path(openmm.app.__file__).parent / "data" / "test.pdb"
BOXES = {
    "rectangular": np.diag([1.5, 1.6, 1.7]),
    "triclinic": np.array([[1.6, 0, 0], [0.5, 1.6, 0], [-0.6, 0.7, 1.5]]),
}


@pytest.fixture(scope="module")
def protein() -> mdtraj.Trajectory:
    """Frames of all of villin; boxes of 1.5 nm are much smaller than it."""
    whole = mdtraj.load(str(PEPTIDE))
    part = whole.atom_slice(whole.topology.select("protein"))
    noise = np.random.default_rng(4).normal(scale=0.01, size=(5, part.n_atoms, 3))
    return mdtraj.Trajectory(part.xyz[:1] + noise, part.topology)


def scattered(x: np.ndarray, box: np.ndarray) -> np.ndarray:
    return x + np.random.default_rng(1).integers(-2, 3, x.shape) @ box


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("selection", ["all", "name CA", "resid 0 35 and name CA CB", "name CA and resid 20 3 30"])
@pytest.mark.parametrize("single", [True, False])
def test_molecules_are_whole_however_they_were_broken(protein, box, selection, single):
    chosen = protein.topology.select(selection).tolist()
    atoms, tree = bonded_tree(protein.topology, chosen)
    assert atoms[: len(chosen)] == chosen and len(set(atoms)) == len(atoms) == len(tree) + 1
    whole = Unwrap(atoms, tree, protein.n_atoms, range(len(chosen))).double()
    x = protein.xyz.astype(np.float64)
    found = torch.jit.script(whole)(
        *(torch.from_numpy(a[0] if single else a) for a in (scattered(x, box), box + 0 * x[:, :3]))
    )
    expected = x[0, chosen] if single else x[:, chosen]
    moved = found.numpy() - expected  # all of a frame by the same box vectors
    np.testing.assert_allclose(moved, moved[..., :1, :] + np.zeros_like(moved), atol=1e-9)
    counts = moved[..., 0, :] @ np.linalg.inv(box)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)


def test_trees_join_neighbors_and_molecules():
    topology = mdtraj.Topology()
    for k in range(2):
        residue = topology.add_residue("CHN", topology.add_chain(), resSeq=k)
        chain = [topology.add_atom(f"A{n}", mdtraj.element.carbon, residue) for n in range(9)]
        for pair in zip(chain, chain[1:]):
            topology.add_bond(*pair)
    atoms, tree = bonded_tree(topology, [0, 8, 12, 9])
    assert atoms[:4] == [0, 8, 12, 9]
    joined = {tuple(sorted((atoms[i], atoms[j]))) for i, j in tree}
    assert joined == {(0, 3), (3, 6), (6, 8), (0, 12), (9, 12)}  # 8 bonds are walked in steps; molecules by their first
    assert bonded_tree(topology, [5])[1].shape == (0, 2)


def test_the_gradient_by_the_box_is_right(protein):
    atoms, tree = bonded_tree(protein.topology, protein.topology.select("resid 3 and name CA CB CG N").tolist())
    whole = Unwrap(atoms, tree, protein.n_atoms).double()
    box = torch.tensor(BOXES["triclinic"], requires_grad=True)
    x = torch.tensor(scattered(protein.xyz[:1].astype(np.float64), BOXES["triclinic"]))
    assert torch.autograd.gradcheck(lambda b: whole(x, b), (box,))


# ----------------------------------------------------------------------------------------------- groups, gyration


def in_numpy(x: np.ndarray, masses: np.ndarray, atoms) -> np.ndarray:
    return np.average(x[:, atoms], axis=1, weights=masses[atoms])


@pytest.mark.parametrize("center", ["mass", "geometry"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_between_centres_equal_numpy(protein, center, dtype):
    top = protein.topology
    masses = np.array([a.element.mass if center == "mass" else 1.0 for a in top.atoms])
    selections = ["resid 0 to 5", "resid 10 to 15 and name CA", "resid 30"]
    centers = [in_numpy(protein.xyz.astype(float), masses, top.select(s)) for s in selections]
    expected = np.stack([np.linalg.norm(centers[i] - centers[j], axis=1) for i, j in ((0, 1), (0, 2), (1, 2))], 1)
    features = Features(top, [{"groups": {"groups": selections, "center": center}}])
    np.testing.assert_allclose(features(protein.xyz.astype(dtype)), expected, atol=1e-5)
    np.testing.assert_allclose(features.transform(protein), expected, atol=1e-5)
    some = Features(top, [{"groups": {"groups": selections, "center": center, "pairs": [[2, 0]]}}])
    assert some.names == [features.names[1]] and some.units == ["nm"]
    np.testing.assert_allclose(some(protein.xyz)[:, 0], expected[:, 1], atol=1e-5)


def test_distances_between_centres_in_a_box_are_those_of_whole_groups(protein):
    top, box = protein.topology, BOXES["triclinic"]
    x = protein.xyz.astype(float)
    masses = np.array([a.element.mass for a in top.atoms])
    groups = ["resid 0 to 5", "resid 30"]
    vectors = in_numpy(x, masses, top.select(groups[0])) - in_numpy(x, masses, top.select(groups[1]))
    images = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3) @ box
    expected = np.linalg.norm(vectors[:, None] + images, axis=-1).min(1)
    features = Features(top, [{"groups": {"groups": groups}}])
    np.testing.assert_allclose(features(scattered(x, box), box)[:, 0], expected, atol=1e-9)


def test_radius_of_gyration_equals_mdtraj_and_numpy(protein):
    x, masses = protein.xyz.astype(float), np.array([a.element.mass for a in protein.topology.atoms])
    centered = x - np.average(x, axis=1, weights=masses)[:, None]  # MDTraj's center is never that of mass
    by_mass = np.sqrt(np.average((centered**2).sum(-1), axis=1, weights=masses))
    expected = np.stack([by_mass, mdtraj.compute_rg(protein)], 1)
    spec = [{"gyration": "all"}, {"gyration": {"of": "all", "weights": "equal"}}]
    features = Features(protein.topology, spec)
    assert features.names == ["radius of gyration of all", "radius of gyration of all (equal weights)"]
    np.testing.assert_allclose(features.transform(protein), expected, atol=1e-5)
    box = BOXES["rectangular"]
    np.testing.assert_allclose(features(scattered(x, box), box), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("groups", {"groups": ["resid 0"]}, r"\.groups: "),
        ("groups", {"groups": ["resid 0", "name XX"]}, r"\.groups\[1\]: 'name XX' selects no atom"),
        ("groups", {"groups": ["resid 0", {"atoms": [3, 3]}]}, r"\.groups\[1\]\.atoms: \[3, 3\] names an atom twice"),
        (
            "groups",
            {"groups": ["resid 0", "resid 1"], "pairs": [[0, 2]]},
            r"\.pairs\[0\]: \[0, 2\] are not two of the groups 0 to 1",
        ),
        ("groups", {"groups": ["resid 0", "resid 1"], "pairs": []}, r"\.pairs: need one or more"),
        ("groups", {"groups": ["resid 0", "resid 1"], "center": "charge"}, r"\.center: "),
        ("gyration", "name XX", r": 'name XX' selects no atom"),
        ("gyration", {"of": "all", "weights": "charge"}, r"\.weights: "),
    ],
)
def test_wrong_specifications_name_their_key(protein, kind, value, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.{kind}{words}"):
        Features(protein.topology, [{kind: value}])


def test_atoms_without_elements_have_no_centre_of_mass():
    topology = mdtraj.Topology()
    residue = topology.add_residue("BEA", topology.add_chain())
    for name in "AB":
        topology.add_atom(name, mdtraj.element.virtual, residue)
    with pytest.raises(SettingsError, match=r"^features\[0\]\.gyration: the atoms have no masses"):
        Features(topology, [{"gyration": "all"}])
    assert Features(topology, [{"gyration": {"of": "all", "weights": "equal"}}]).atoms.tolist() == [0, 1]
