"""Angles against MDTraj, and where they are special: straight, folded back, coincident."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from helpers.nucleic import BOXES, RNA, boxed, perturbed

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.features.modules.angles import Angles, Cosines
from latf_sampling.testing import check_descriptors

ALANINE = Path(__file__).resolve().parents[2] / "protocols" / "alanine-dipeptide.pdb"
TRIPLES = [[4, 6, 8], [14, 8, 6], [0, 8, 21]]


@pytest.fixture(scope="module")
def alanine() -> mdtraj.Trajectory:
    return perturbed(ALANINE, frames=20, noise=0.03)


@pytest.mark.parametrize("box", BOXES)
def test_angles_equal_mdtraj(alanine, box):
    traj, periodic = boxed(alanine, box, side=1.3), box != "none"
    expected = mdtraj.compute_angles(traj, TRIPLES, periodic=periodic)
    cells = traj.unitcell_vectors if periodic else None
    for kind, values in (("cosine", np.cos(expected)), ("angle", expected)):
        features = Features(traj.topology, [{"angles": {"atoms": TRIPLES, "as": kind}}], periodic=periodic)
        np.testing.assert_allclose(features(traj.xyz.astype(float), cells), values, atol=1e-5)
        np.testing.assert_allclose(features.transform(traj), values, atol=5e-5)


def test_bonded_angles_are_all_those_of_the_molecule(alanine):
    """Sum over atoms of the pairs of neighbors; of an atom, those in the middle of which it is."""
    topology = alanine.topology
    neighbors = [sum(atom in bond for bond in topology.bonds) for atom in topology.atoms]
    every = Features(topology, [{"angles": "all"}])
    assert len(every.names) == sum(n * (n - 1) // 2 for n in neighbors) == 36
    middle = Features(topology, [{"angles": {"of": "name N CA C", "at": "name CA", "as": "angle"}}])
    assert middle.names == ["angle ALA2-N ALA2-CA ALA2-C"] and middle.units == ["rad"]
    expected = mdtraj.compute_angles(alanine, [[6, 8, 14]])
    np.testing.assert_allclose(middle.transform(alanine), expected, atol=2e-5)


def test_cosines_come_before_angles(alanine):
    spec = [
        {"angles": {"atoms": [[4, 6, 8]], "as": "angle"}},
        {"angles": {"atoms": [[4, 6, 8], [8, 6, 4], [6, 8, 14]]}},
    ]
    features = Features(alanine.topology, spec)
    assert features.names == [
        "cos angle ACE1-C ALA2-N ALA2-CA",
        "cos angle ALA2-N ALA2-CA ALA2-C",
        "angle ACE1-C ALA2-N ALA2-CA",
    ]
    assert features.units == ["", "", "rad"]
    out = features(alanine.xyz.astype(float))
    np.testing.assert_allclose(out[:, 0], np.cos(out[:, 2]), atol=1e-9)
    assert Features(alanine.topology, features.spec).names == features.names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [Cosines, Angles])
@pytest.mark.parametrize("bend", [0.0, 1e-12, 1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("end", [-0.1, 0.0, 1e-9, 0.2])
def test_values_and_gradients_are_finite_everywhere(kind, dtype, bend, end):
    """Straight (180 degrees), folded back (0), one atom on another, and nearly so."""
    module = kind(np.array([[0, 1, 2]]), 3).to(dtype)
    x = torch.tensor([[0.1, bend, 0.0], [0.0, 0.0, 0.0], [end, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    out = module(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.isfinite(out).all() and torch.isfinite(gradient).all() and gradient.abs().max() < 1e8
    if abs(end) > 1e-3:
        angle = np.arctan2(bend, 0.1 * np.sign(end))
        torch.testing.assert_close(
            out, torch.tensor([np.cos(angle) if kind is Cosines else angle], dtype=dtype), atol=1e-5, rtol=0
        )


def test_angle_is_exact_where_arccosine_is_not():
    module = Angles(np.array([[0, 1, 2]]), 3)
    for bend in (1e-3, 1e-4, 1e-5):
        x = torch.tensor([[1.0, bend, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], requires_grad=True)
        out = module(x)
        torch.testing.assert_close(np.pi - out, torch.tensor([bend]), rtol=0.03, atol=0)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        torch.testing.assert_close(gradient[0, 1], torch.tensor(-1.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["cosine", "angle"])
def test_what_all_descriptors_keep(kind):
    check_descriptors(perturbed(RNA), [{"angles": {"of": "resid 1", "as": kind}}])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, r": 3 cannot be read; write a selection"),
        ("name XX", r": 'name XX' selects no atom"),
        ("name CA CB", r": 'name CA CB' selects no three atoms bonded in a row\."),
        ({"of": "all", "at": "name H"}, r"\.of: 'all' selects no three atoms bonded in a row\."),
        ({"of": "all", "at": "nmae H"}, r"\.at: 'nmae H' is not an MDTraj selection"),
        ({"of": "all", "as": "degree"}, r"\.as: .*'cosine' or 'angle', got 'degree'"),
        ({"of": "all", "as_": "angle"}, r"\.as_: no such key"),
        ({"at": "all"}, r"\.of: this key is missing"),
        ({"atoms": []}, r"\.atoms: "),
        ({"atoms": [[0, 1]]}, r"\.atoms\[0\]\[2\]: this key is missing"),
        ({"atoms": [[0, 1, 2], [3, 4, 99]]}, r"\.atoms\[1\]: there is no atom 99"),
        ({"atoms": [[0, 1, 0]]}, r"\.atoms\[0\]: \[0, 1, 0\] names an atom twice"),
        ({"atoms": [[0, 1, 2]], "at": "all"}, r"\.at: no such key"),
    ],
)
def test_wrong_specifications_name_their_key(alanine, value, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.angles{words}"):
        Features(alanine.topology, [{"angles": value}])


def test_topology_without_bonds_is_named():
    topology = mdtraj.Topology()
    residue = topology.add_residue("ARG", topology.add_chain())
    for name in "ABC":
        topology.add_atom(name, mdtraj.element.argon, residue)
    with pytest.raises(SettingsError, match="selects no three atoms bonded in a row; the topology has no bonds at all"):
        Features(topology, [{"angles": "all"}])
