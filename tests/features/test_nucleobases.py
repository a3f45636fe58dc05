"""G-vectors and eRMSD against plain numpy, written base by base and pair by pair from the paper's formulas."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
import torch
from helpers.nucleic import BOXES, DNA, RNA, boxed, perturbed, renamed

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.features.modules.nucleobases import Ermsd, GVectors
from latf_sampling.testing import check_descriptors

IMAGES = np.array(np.meshgrid(*[range(-4, 5)] * 3)).reshape(3, -1).T


def nearest(vector: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    if box is None:
        return vector
    images = vector + IMAGES @ box
    return images[np.linalg.norm(images, axis=1).argmin()]


def frame_of(residue, x: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Centre of a base, and its axes as rows."""
    c2, c4, c6 = (x[residue.atom(name).index] for name in ("C2", "C4", "C6"))
    c4, c6 = c2 + nearest(c4 - c2, box), c2 + nearest(c6 - c2, box)
    center = (c2 + c4 + c6) / 3
    purine = residue.name[-1] in "AG"
    first = (c2 - center) / np.linalg.norm(c2 - center)
    third = np.cross(first, (c6 if purine else c4) - center)
    third /= np.linalg.norm(third)
    return center, np.stack([first, np.cross(third, first), third])


def gvector(i, j, x: np.ndarray, box: np.ndarray | None = None, cutoff: float = 2.4) -> np.ndarray:
    (center, axes), (other, _) = frame_of(i, x, box), frame_of(j, x, box)
    scaled = axes @ nearest(other - center, box) / [0.5, 0.5, 0.3]
    r, gamma = np.linalg.norm(scaled), np.pi / cutoff
    if r >= cutoff:
        return np.zeros(4)
    return np.array([*(np.sin(gamma * r) / r * scaled), 1 + np.cos(gamma * r)]) / gamma


def gvectors(traj: mdtraj.Trajectory, pairs, cutoff: float = 2.4) -> np.ndarray:
    """(frames, 4, pairs)"""
    residues = list(traj.topology.residues)
    cells = [None] * len(traj) if traj.unitcell_vectors is None else traj.unitcell_vectors.astype(float)
    return np.array(
        [
            np.transpose([gvector(residues[i], residues[j], x, cell, cutoff) for i, j in pairs])
            for x, cell in zip(traj.xyz.astype(float), cells)
        ]
    )


def ordered(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(count) if i != j]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("file", [DNA, RNA], ids=["dna", "rna"])
def test_gvectors_equal_numpy(file, box):
    traj = boxed(perturbed(file, frames=2), box, side=2.6)
    pairs = ordered(6) if file == RNA else [(0, 1), (1, 0), (0, 21), (10, 11), (11, 10), (5, 16), (3, 20)]
    expected = gvectors(traj, pairs).reshape(2, -1)
    features = Features(traj.topology, [{"nucleobases": {"pairs": pairs}}], periodic=box != "none")
    out = features(traj.xyz.astype(float), traj.unitcell_vectors)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(features.transform(traj), expected, atol=1e-4)
    assert (expected != 0).mean() > 0.5


def test_strands_of_a_helix_have_bases_stacked_and_paired():
    """In B-DNA the next base of a strand lies 0.34 nm up, to z > 0 in 5'-3' direction, the partner in the plane."""
    dna = mdtraj.load(str(DNA))
    x = dna.xyz[0].astype(float)
    residues = list(dna.topology.residues)
    for i in range(10):
        center, axes = frame_of(residues[i], x, None)
        up = axes @ (frame_of(residues[i + 1], x, None)[0] - center)
        across = axes @ (frame_of(residues[21 - i], x, None)[0] - center)
        assert 0.2 < up[2] < 0.5 and abs(across[2]) < 0.2 and 0.45 < np.linalg.norm(across) < 0.65
    stacked = Features(dna.topology, [{"nucleobases": {"pairs": [(i, i + 1) for i in range(10)]}}])
    assert (stacked(x).reshape(4, 10)[2:] > 0).all()


def test_names_selections_and_normal_forms():
    topology = mdtraj.load(str(RNA)).topology
    every = Features(topology, [{"nucleobases": "resid 0 1 2"}])
    pairs = ["U1 G2", "U1 A3", "G2 U1", "G2 A3", "A3 U1", "A3 G2"]
    assert every.names == [f"gvector {part} {pair}" for part in "xyzw" for pair in pairs]
    assert every.units == [""] * 24
    assert every.spec == [{"nucleobases": {"between": "resid 0 1 2", "skip": 0, "cutoff": 2.4}}]
    two = Features(topology, [{"nucleobases": {"between": "resid 0 1", "and": "resid 1 5"}}])
    assert two.names[:6] == [f"gvector x {pair}" for pair in ["U1 G2", "U1 A6", "G2 A6", "G2 U1", "A6 U1", "A6 G2"]]
    far = Features(topology, [{"nucleobases": {"between": "all", "skip": 5}}])
    assert far.names[:2] == ["gvector x U1 A6", "gvector x A6 U1"] and len(far.names) == 8
    both = [{"nucleobases": {"pairs": [[0, 5]]}}, {"nucleobases": {"pairs": [[0, 5], [5, 0]], "cutoff": 3.2}}]
    with_two = Features(topology, both)
    assert with_two.names == [
        *(f"gvector {part} U1 A6" for part in "xyzw"),
        *(f"gvector {part} {pair} within 3.2" for part in "xyzw" for pair in ("U1 A6", "A6 U1")),
    ]
    traj = perturbed(RNA, frames=2)
    parts = [gvectors(traj, [(0, 5)]), gvectors(traj, [(0, 5), (5, 0)], 3.2)]
    np.testing.assert_allclose(with_two(traj.xyz), np.concatenate([p.reshape(2, -1) for p in parts], 1), atol=1e-4)
    assert Features(topology, with_two.spec).names == with_two.names


# ---------------------------------------------------------------------------------------------------------- eRMSD


def ermsd(
    traj: mdtraj.Trajectory, reference: mdtraj.Trajectory, residues: list[int], cutoff: float = 2.4
) -> np.ndarray:
    pairs = [(i, j) for i in residues for j in residues if i != j]
    apart = gvectors(traj, pairs, cutoff) - gvectors(reference, pairs, cutoff)
    return np.sqrt((apart**2).sum((1, 2)) / len(residues))


@pytest.mark.parametrize("cutoff", [2.4, 3.2])
@pytest.mark.parametrize("box", BOXES)
def test_ermsd_equals_numpy(box, cutoff):
    traj = boxed(perturbed(RNA, frames=3, noise=0.03), box, side=3.4)
    entry = {"ermsd": {"of": "resid 0 to 4", "reference": str(RNA), "cutoff": cutoff}}
    features = Features(traj.topology, [entry], periodic=box != "none")
    expected = ermsd(traj, mdtraj.load(str(RNA)), list(range(5)), cutoff)
    assert features.units == [""] and features.names == ["ermsd rna-gnra.pdb"]
    np.testing.assert_allclose(features(traj.xyz.astype(float), traj.unitcell_vectors)[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(features.transform(traj)[:, 0], expected, atol=1e-4)
    assert expected.min() > 0.1


def test_several_references_and_what_belongs_to_none():
    models = mdtraj.load(str(DNA))
    features = Features(models.topology, [{"ermsd": {"of": "all", "reference": str(DNA)}}])
    assert len(features.names) == len(set(features.names)) == 2
    out = features(models.xyz.astype(float))
    apart = ermsd(models[0], models[1], list(range(22)))[0]
    np.testing.assert_allclose(out, [[0, apart], [apart, 0]], atol=2e-5)  # references are rounded to 1e-6 nm
    again = Features(models.topology, features.spec)
    assert again.names == features.names
    np.testing.assert_array_equal(again(models.xyz), features(models.xyz))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [None, 3])
def test_gradients_are_finite_at_the_reference_itself(dtype, frames):
    bases = np.arange(6).reshape(2, 3)
    x = np.random.default_rng(3).normal(scale=0.3, size=(6, 3))
    module = Ermsd(bases, x.reshape(1, 2, 3, 3), 6).to(dtype)
    moving = torch.tensor(x if frames is None else np.tile(x, (frames, 1, 1)), dtype=dtype, requires_grad=True)
    out = module(moving)
    (gradient,) = torch.autograd.grad(out.sum(), moving)
    assert out.abs().max() < 1e-5 and torch.isfinite(gradient).all() and gradient.abs().max() < 100


# -------------------------------------------------------------------------------------------------- special places


def two_bases(distance: float) -> np.ndarray:
    """A base in the xy plane, and one so far away along x, in the units of its frame."""
    around = 2 * np.pi * np.arange(3) / 3
    base = 0.12 * np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    return np.concatenate([base, base + [0.5 * distance, 0, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.0, 1e-30, 1e-12, 1e-7, 1e-3, 1.0, 2.4 - 1e-6, 2.4, 2.4 + 1e-6, 1e3, 1e9])
def test_values_and_gradients_are_right_at_every_distance(dtype, distance):
    module = GVectors(np.arange(6).reshape(2, 3), np.array([[0, 1]]), 6).to(dtype)
    x = torch.tensor(two_bases(0.0), dtype=dtype)
    move = torch.tensor(distance, dtype=dtype, requires_grad=True)
    moved = x + torch.cat([torch.zeros(3, 3, dtype=dtype), torch.tensor([[0.5, 0.0, 0.0]] * 3, dtype=dtype)]) * move
    out = module(moved)
    slopes = torch.stack([torch.autograd.grad(column, move, retain_graph=True)[0] for column in out])
    gamma, inside = np.pi / 2.4, distance < 2.4
    expected = [np.sin(gamma * distance) / gamma, 0, 0, (1 + np.cos(gamma * distance)) / gamma]
    expected_slopes = [np.cos(gamma * distance), 0, 0, -np.sin(gamma * distance)]
    exact = 1e-6 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(out.detach(), np.array(expected) * inside, atol=exact)
    if distance > 2.4:
        assert torch.equal(out, torch.zeros_like(out)) or distance < 2.5
    if distance != 2.4 and (distance < 2.4 or float(move.detach()) > 2.4):  # at 2.4 the slope of x jumps from -1 to 0
        np.testing.assert_allclose(slopes, np.array(expected_slopes) * inside, atol=1e-4)
    assert torch.isfinite(slopes).all() and slopes.abs().max() < 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bend", [0.0, 1e-15, 1e-9, 1e-6])
def test_collapsed_bases_have_finite_values_and_gradients(dtype, bend):
    x = two_bases(1.0)
    x[:3] = [[0, 0, 0], [0.1, bend, 0], [0.2, 0, 0]]
    moving = torch.tensor(x, dtype=dtype, requires_grad=True)
    out = GVectors(np.arange(6).reshape(2, 3), np.array([[0, 1], [1, 0]]), 6).to(dtype)(moving)
    for column in out:
        (gradient,) = torch.autograd.grad(column, moving, retain_graph=True)
        assert torch.isfinite(column) and torch.isfinite(gradient).all() and gradient.abs().max() < 1e8


@pytest.mark.parametrize("entry", [{"nucleobases": "resid 0 to 3"}, {"ermsd": {"of": "all", "reference": str(RNA)}}])
def test_what_all_descriptors_keep(entry):
    check_descriptors(perturbed(RNA, noise=0.02), [entry])


# ------------------------------------------------------------------------------------------ specification and names


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("nucleobases", "name XX", r": 'name XX' selects no atom"),
        ("nucleobases", "resid 0", r": 'resid 0' selects one nucleotide only; a pair needs two"),
        ("nucleobases", {"between": "all", "skip": 6}, r"\.skip: no two nucleotides are 6 or more residues apart"),
        ("nucleobases", {"between": "all", "cutoff": 0}, r"\.cutoff: "),
        ("nucleobases", {"between": "all", "and": "name XX"}, r"\.and: 'name XX' selects no atom"),
        ("nucleobases", {"pairs": [[0, 6]]}, r"\.pairs\[0\]: residue 6 is not a nucleotide"),
        ("nucleobases", {"pairs": [[0, 1], [2, 2]]}, r"\.pairs\[1\]: \[2, 2\] names a residue twice"),
        ("nucleobases", {"pairs": [[0, 1]], "skip": 1}, r"\.skip: no such key"),
        ("nucleobases", None, r": None cannot be read; write a selection"),
        ("ermsd", "all", r": 'all' cannot be read; write \{of: selection"),
        ("ermsd", {"of": "all"}, r"\.reference: this key is missing"),
        ("ermsd", {"of": "resid 0", "reference": str(RNA)}, r"\.of: 'resid 0' selects one nucleotide only"),
        ("ermsd", {"of": "all", "reference": str(DNA)}, r"\.reference: .*dna-1lcd.pdb has no atom U1-C2"),
    ],
)
def test_wrong_specifications_name_their_key(kind, value, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.{kind}{words}"):
        Features(mdtraj.load(str(RNA)).topology, [{kind: value}])


def test_what_has_no_base_is_named():
    rna = mdtraj.load(str(RNA))
    abasic = rna.atom_slice([a.index for a in rna.topology.atoms if (a.residue.index, a.name) != (2, "C4")])
    with pytest.raises(SettingsError, match="nucleotide A 3 lacks C2, C4 or C6 of its base"):
        Features(abasic.topology, [{"nucleobases": "all"}])
    protein = renamed(rna.topology, atom=lambda name: name.replace("C1'", "CA"))
    with pytest.raises(SettingsError, match="'all' selects no nucleotide"):
        Features(protein, [{"nucleobases": "all"}])
