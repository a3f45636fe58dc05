"""Descriptors against MDTraj, finite differences and brute force."""

from __future__ import annotations

import json
import pickle
from itertools import product
from pathlib import Path

import mdtraj
import numpy as np
import openmm.app
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features import Features, as_mdtraj, fingerprint, minimum_image, reduced_box
from latf_sampling.features.modules.distances import Distances
from latf_sampling.features.modules.torsions import Torsions

ROOT = Path(__file__).resolve().parents[2]
ALANINE = ROOT / "protocols" / "alanine-dipeptide.pdb"
PEPTIDE = Path(openmm.app.__file__).parent / "data" / "test.pdb"

HEAVY = [{"distances": "element != H"}]
BACKBONE = [{"torsions": "phi psi"}]
BOTH = [{"torsions": "phi psi"}, {"distances": "element != H"}]
COORDINATION = [{"coordination": {"of": "element != H", "r0": "0.3 nm", "moments": [2, 3]}}]
COORDINATES = [{"coordinates": {"of": "element != H", "axes": "xz"}}]
PERIODIC = BOTH + COORDINATION
ALL = PERIODIC + COORDINATES
FLOATING = {"distances": HEAVY, "torsions": BACKBONE, "both": BOTH, "coordination": COORDINATION}
SPECS = {**FLOATING, "coordinates": COORDINATES, "all": ALL}
BOXES = ["none", "orthorhombic", "triclinic", "changing"]


@pytest.fixture(scope="module")
def alanine() -> mdtraj.Trajectory:
    return perturbed(mdtraj.load(str(ALANINE)), frames=20, seed=1)


@pytest.fixture(scope="module")
def peptide() -> mdtraj.Trajectory:
    """All protein atoms of OpenMM's test.pdb."""
    whole = mdtraj.load(str(PEPTIDE))
    return perturbed(whole.atom_slice(whole.topology.select("protein")), frames=6, seed=2)


def perturbed(traj: mdtraj.Trajectory, frames: int, seed: int) -> mdtraj.Trajectory:
    noise = np.random.default_rng(seed).normal(scale=0.03, size=(frames, traj.n_atoms, 3))
    return mdtraj.Trajectory((traj.xyz[:1] + noise).astype(np.float32), traj.topology)


def boxed(traj: mdtraj.Trajectory, kind: str, seed: int = 3) -> mdtraj.Trajectory:
    """A copy with boxes smaller than the molecule, so that images matter, and atoms scattered over images."""
    traj = mdtraj.Trajectory(traj.xyz.copy(), traj.topology)
    if kind == "none":
        return traj
    rng = np.random.default_rng(seed)
    n = traj.n_frames
    lengths, angles = np.tile([0.9, 1.0, 1.1], (n, 1)), np.full((n, 3), 90.0)
    if kind == "triclinic":
        angles[:] = [70.0, 65.0, 75.0]
    if kind == "changing":
        lengths, angles = rng.uniform(0.8, 1.1, (n, 3)), rng.uniform(60.0, 120.0, (n, 3))
        angles[:, 2] = rng.uniform(60.0, 90.0, n)
        angles = np.where(angles.sum(-1, keepdims=True) > 330.0, angles - 25.0, angles)
    traj.unitcell_lengths, traj.unitcell_angles = lengths, angles
    assert np.isfinite(traj.unitcell_vectors).all()
    counts = rng.integers(-1, 2, (n, traj.n_atoms, 3)).astype(np.float32)
    traj.xyz = traj.xyz + counts @ traj.unitcell_vectors
    return traj


def local(features: Features, traj: mdtraj.Trajectory, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(traj.xyz[:, features.atoms]).to(dtype)


def box_of(traj: mdtraj.Trajectory, dtype: torch.dtype = torch.float64) -> torch.Tensor | None:
    return None if traj.unitcell_vectors is None else reduced_box(torch.tensor(traj.unitcell_vectors)).to(dtype)


# -------------------------------------------------------------------------------------------- values against MDTraj


@pytest.mark.parametrize("opt", [True, False])
@pytest.mark.parametrize("box", BOXES)
def test_distances_equal_mdtraj(alanine, box, opt):
    traj = boxed(alanine, box)
    features = Features(traj.topology, HEAVY, periodic=box != "none")
    heavy = traj.topology.select("element != H")
    pairs = [(i, j) for a, i in enumerate(heavy) for j in heavy[a + 1 :]]
    expected = mdtraj.compute_distances(traj, pairs, periodic=box != "none", opt=opt)
    assert features.transform(traj).shape == (20, 45)
    np.testing.assert_allclose(features.transform(traj), expected, atol=1e-5)


@pytest.mark.parametrize("opt", [True, False])
@pytest.mark.parametrize("box", BOXES)
def test_torsions_equal_mdtraj(alanine, box, opt):
    traj = boxed(alanine, box)
    periodic = box != "none"
    features = Features(traj.topology, BACKBONE, periodic=periodic)
    phi = mdtraj.compute_phi(traj, periodic=periodic, opt=opt)[1]
    psi = mdtraj.compute_psi(traj, periodic=periodic, opt=opt)[1]
    assert features.names == ["sin phi ALA 2", "sin psi ALA 2", "cos phi ALA 2", "cos psi ALA 2"]
    expected = np.concatenate([np.sin(phi), np.sin(psi), np.cos(phi), np.cos(psi)], axis=1)
    np.testing.assert_allclose(features.transform(traj), expected, atol=1e-5)


@pytest.mark.parametrize("box", BOXES)
def test_peptide_equals_mdtraj(peptide, box):
    traj = boxed(peptide, box)
    periodic = box != "none"
    names = ["phi", "psi", "omega", "chi1", "chi2"]
    spec = [{"torsions": " ".join(names)}, {"distances": {"between": "name CA", "skip": 3}}]
    features = Features(traj.topology, spec, periodic=periodic)
    angles = np.concatenate([getattr(mdtraj, f"compute_{n}")(traj, periodic=periodic)[1] for n in names], axis=1)
    ca = [traj.topology.atom(i) for i in traj.topology.select("name CA")]
    pairs = [(a.index, b.index) for k, a in enumerate(ca) for b in ca[k:] if b.residue.index - a.residue.index >= 3]
    distances = mdtraj.compute_distances(traj, pairs, periodic=periodic)
    expected = np.concatenate([np.sin(angles), np.cos(angles), distances], axis=1)
    cells = None if not periodic else traj.unitcell_vectors
    np.testing.assert_allclose(features(traj.xyz.astype(np.float64), cells), expected, atol=1e-5)
    out = features.transform(traj)
    assert out.shape == (6, len(features.names)) and out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=2e-5)  # coordinates of some nm, bonds of 0.1 nm, in single precision


def test_custom_torsion_equals_named(alanine):
    named = Features(alanine.topology, [{"torsions": "phi"}])
    custom = Features(alanine.topology, [{"torsions": {"atoms": [[4, 6, 8, 14], [14, 8, 6, 4]]}}])
    assert custom.names[0] == "sin torsion ACE1-C ALA2-N ALA2-CA ALA2-C" and len(custom.names) == 2
    np.testing.assert_array_equal(named(alanine.xyz), custom(alanine.xyz))


def test_one_box_serves_all_frames_and_need_not_be_reduced(alanine):
    traj = boxed(alanine, "triclinic")
    features = Features(traj.topology, BOTH, periodic=True)
    box = traj.unitcell_vectors[0].astype(np.float64)
    skewed = box.copy()
    skewed[2] += 2 * box[1] - 3 * box[0]
    skewed[1] -= 2 * box[0]
    expected = features.transform(traj)
    np.testing.assert_allclose(features(traj.xyz, box), expected, atol=1e-5)
    np.testing.assert_allclose(features(traj.xyz, skewed), expected, atol=1e-5)
    np.testing.assert_allclose(features(traj.xyz[3], skewed), expected[3], atol=1e-5)


@pytest.mark.parametrize("limit", ["cutoff", "brick"])
def test_minimum_image_is_the_shortest_of_all_images(limit):
    """Against 7^3 images, in random boxes, under either condition that the docstring promises."""
    rng = np.random.default_rng(4)
    many = torch.tensor(list(product(range(-3, 4), repeat=3)), dtype=torch.float64)
    images = Features(mdtraj.load(str(ALANINE)).topology, HEAVY).module.differences.images.double()
    checked = 0
    for _ in range(40):
        low = 0.15 if limit == "cutoff" else 0.5
        a, b, c = rng.uniform(low, 1.0, 3)
        bx, cx, cy = rng.uniform(-0.5, 0.5, 3) * [a, a, b]
        if limit == "brick" and not (8 * c**2 >= a**2 + b**2 and 3 * b**2 >= a**2):
            continue
        box = torch.tensor([[a, 0, 0], [bx, b, 0], [cx, cy, c]], dtype=torch.float64)
        vectors = torch.tensor(rng.uniform(-2, 2, (40, 3)))
        found = torch.linalg.norm(minimum_image(vectors, box, images), dim=-1)
        # wrapped first, the shortest image of all is well within three boxes
        start = minimum_image(vectors, box, images)
        shortest = torch.linalg.norm(start[:, None] + many @ box, dim=-1).amin(-1)
        near = shortest <= (min(a, b, c) / 2 if limit == "cutoff" else 9.0)
        torch.testing.assert_close(found[near], shortest[near])
        checked += int(near.sum())
    assert checked > 150


def test_rhombic_dodecahedron_is_exact():
    box = torch.tensor([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 2**-0.5]], dtype=torch.float64)
    images = torch.tensor(sorted(product((-1.0, 0.0, 1.0), repeat=3), key=lambda n: sum(map(abs, n)))).double()
    vectors = torch.tensor(np.random.default_rng(5).uniform(-3, 3, (500, 3)))
    found = minimum_image(vectors, box, images)
    many = torch.tensor(list(product(range(-3, 4), repeat=3)), dtype=torch.float64)
    shortest = torch.linalg.norm(found[:, None] + many @ box, dim=-1).amin(-1)
    torch.testing.assert_close(torch.linalg.norm(found, dim=-1), shortest)
    counts = (vectors - found) @ torch.linalg.inv(box)  # and it is an image
    torch.testing.assert_close(counts, counts.round(), atol=1e-9, rtol=0)


# ------------------------------------------------------------------------------------------- invariance, gradients


@pytest.mark.parametrize("spec", FLOATING.values(), ids=FLOATING)
def test_rotation_and_translation_change_nothing(alanine, spec):
    features = Features(alanine.topology, spec)
    x = alanine.xyz.astype(np.float64)
    rotation, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    np.testing.assert_allclose(features(x @ rotation.T + [1.0, -2.0, 3.0]), features(x), atol=1e-10)


def test_mirror_turns_the_sign_of_sines_only(alanine):
    out = Features(alanine.topology, BACKBONE)(alanine.xyz * np.float32([-1, 1, 1]))
    np.testing.assert_allclose(out, Features(alanine.topology, BACKBONE)(alanine.xyz) * [-1, -1, 1, 1], atol=1e-5)


@pytest.mark.parametrize("spec", FLOATING.values(), ids=FLOATING)
@pytest.mark.parametrize("box", ["triclinic", "changing"])
def test_images_change_nothing(alanine, spec, box):
    traj = boxed(alanine, box)
    features = Features(traj.topology, spec)
    x, vectors = traj.xyz.astype(np.float64), traj.unitcell_vectors.astype(np.float64)
    counts = np.random.default_rng(7).integers(-2, 3, x.shape)
    np.testing.assert_allclose(features(x + counts @ vectors, vectors), features(x, vectors), atol=1e-9)


@pytest.mark.parametrize("box", ["none", "triclinic", "changing"])
def test_gradients_equal_finite_differences(alanine, box):
    traj = boxed(alanine, box)[:3]
    features = Features(traj.topology, [{"torsions": "phi psi"}, {"distances": "name CB O"}])
    module, cell = features.module.to(torch.float64), box_of(traj)
    x = local(features, traj).requires_grad_()
    # where the shortest image changes a distance has a kink; none of these is within 1e-7 nm of one
    assert torch.autograd.gradcheck(lambda y: module(y, cell), (x,), eps=1e-7, atol=1e-5)


def test_gradient_of_shortest_images_with_respect_to_the_box():
    module = Features(mdtraj.load(str(ALANINE)).topology, [{"distances": {"pairs": [[0, 5]]}}]).module.double()
    x = torch.tensor([[0.1, 0.2, 0.3], [1.0, 1.7, -0.9]], dtype=torch.float64)
    box = torch.tensor([[1.0, 0, 0], [0.2, 1.1, 0], [0.3, 0.1, 1.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: module(x, b), (box,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bend", [0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("both_ends", [True, False])
def test_straight_torsions_have_finite_values_and_gradients(dtype, bend, both_ends):
    module = Torsions(np.array([[0, 1, 2, 3]]), 4).to(dtype)
    last = [0.3, 0.0, bend] if both_ends else [0.2, 0.1, 0.0]
    x = torch.tensor([[0.0, bend, 0.0], [0.1, 0.0, 0.0], [0.2, 0.0, 0.0], last], dtype=dtype, requires_grad=True)
    out = module(x, None)
    for column in out:
        (gradient,) = torch.autograd.grad(column, x, retain_graph=True)
        assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e7
    assert torch.isfinite(out).all() and (out.abs() <= 1 + 1e-6).all()


@pytest.mark.parametrize("kind", [(Torsions, [[0, 1, 2, 3]]), (Distances, [[0, 1]])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [None, torch.eye(3)])
def test_coincident_atoms_have_finite_values_and_gradients(kind, dtype, box):
    module = kind[0](np.array(kind[1]), 4).to(dtype)
    two = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0]])
    for x in (torch.zeros(4, 3), two, two.expand(3, 4, 3).clone()):
        x = x.to(dtype).requires_grad_()
        out = module(x, None if box is None else box.to(dtype))
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(out, torch.zeros_like(out))
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sine_and_cosine_lie_on_the_circle(peptide, dtype):
    out = Features(peptide.topology, BACKBONE)(peptide.xyz.astype(dtype))
    sine, cosine = np.split(out, 2, axis=-1)
    np.testing.assert_allclose(sine**2 + cosine**2, 1.0, atol=1e-6)


# ----------------------------------------------------------------------------------------- scripted, frozen, traced


@pytest.mark.parametrize(
    ("name", "box", "dtype"),
    [
        ("distances", "none", torch.float32),
        ("torsions", "none", torch.float32),
        ("torsions", "changing", torch.float64),
        ("both", "none", torch.float64),
        ("both", "triclinic", torch.float32),
        ("both", "changing", torch.float64),
        ("coordinates", "none", torch.float32),
        ("coordination", "none", torch.float32),
        ("coordination", "triclinic", torch.float64),
        ("coordination", "changing", torch.float32),
        ("all", "none", torch.float64),
    ],
)
def test_scripted_frozen_and_traced_equal_eager(alanine, name, box, dtype, tmp_path):
    traj = boxed(alanine, box)[:4]
    features = Features(traj.topology, SPECS[name])
    module = features.module.to(dtype).eval()
    x, cell = local(features, traj, dtype), box_of(traj, dtype)
    scripted = torch.jit.script(module)
    scripted.save(str(tmp_path / "module.pt"))
    frozen = torch.jit.freeze(torch.jit.load(str(tmp_path / "module.pt")).eval())

    def value_and_gradient(positions):
        out = module(positions, cell)
        return out, torch.autograd.grad(out, positions, torch.ones_like(out))[0]

    for frame in (x, x[0]):
        if frame.ndim == 2 and cell is not None:
            cell = cell[0]
        frame = frame.clone().requires_grad_()
        value, _ = value_and_gradient(frame)
        assert value.dtype == dtype and value.shape == (*frame.shape[:-2], len(features.names))
        for compiled in (scripted, frozen):
            for _ in range(3):  # the profiling executor compiles on the second call
                torch.testing.assert_close(compiled(frame, cell), value, rtol=0, atol=0)
        traced = make_fx(value_and_gradient)(frame)
        other = (frame.detach() + 0.01 * torch.ones_like(frame).cumsum(-2)).requires_grad_()
        for positions in (frame, other):
            for have, need in zip(traced(positions), value_and_gradient(positions), strict=True):
                torch.testing.assert_close(have, need)


@pytest.mark.parametrize(
    ("spec", "forward", "both"), [(HEAVY, 2, 11), (BACKBONE, 16, 53), (COORDINATES, 2, 6), (COORDINATION, 20, 67)]
)
def test_graphs_stay_small(alanine, spec, forward, both):
    """Every operation is paid for in every step of a simulation."""
    features = Features(alanine.topology, spec)
    x = local(features, alanine, torch.float32)[0].contiguous().requires_grad_()

    def value(positions):
        return features.module(positions, None)

    def value_and_gradient(positions):
        out = value(positions)
        return out, torch.autograd.grad(out, positions, torch.ones_like(out))[0]

    for function, most in ((value, forward), (value_and_gradient, both)):
        nodes = [str(n.target) for n in make_fx(function)(x).graph.nodes if n.op == "call_function"]
        assert len([n for n in nodes if "getitem" not in n and "detach" not in n]) <= most, nodes


def test_gathering_equals_multiplying(peptide, monkeypatch):
    spec = [{"torsions": "phi psi chi1"}, {"distances": {"between": "name CA", "and": "name CB"}}]
    dense = Features(peptide.topology, spec)
    monkeypatch.setattr("latf_sampling.features.periodic.DENSE_ENTRIES", 0)
    sparse = Features(peptide.topology, spec)
    np.testing.assert_array_equal(dense(peptide.xyz), sparse(peptide.xyz))
    x = local(sparse, peptide, torch.float32)
    torch.testing.assert_close(torch.jit.script(sparse.module)(x, None), dense.module(x, None), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ calls, transform


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_torch_go_out_as_they_came_in(alanine, dtype):
    features = Features(alanine.topology, ALL)
    array = alanine.xyz.astype(dtype)
    array.setflags(write=False)
    out = features(array)
    assert isinstance(out, np.ndarray) and out.dtype == dtype and out.shape == (20, len(features.names))
    tensor = torch.tensor(array, requires_grad=True)
    result = features(tensor)
    assert isinstance(result, torch.Tensor) and result.dtype == tensor.dtype
    np.testing.assert_array_equal(result.detach().numpy(), out)
    result.sum().backward()
    moved = np.flatnonzero(np.abs(tensor.grad.numpy()).sum((0, 2)))
    np.testing.assert_array_equal(moved, features.atoms)
    np.testing.assert_allclose(features(array.reshape(4, 5, 22, 3)).reshape(20, -1), out, atol=1e-6)
    assert features.module(torch.zeros(len(features.atoms), 3), None).dtype == torch.float32


def test_positions_and_boxes_may_carry_a_unit(alanine):
    traj = boxed(alanine, "triclinic")
    features = Features(traj.topology, BOTH)
    x, box = traj.xyz[0].astype(np.float64), traj.unitcell_vectors[0].astype(np.float64)
    out = features(10 * x * openmm.unit.angstrom, 10 * box * openmm.unit.angstrom)
    np.testing.assert_allclose(out, features(x, box), atol=1e-12)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("chunk_bytes", [1, 40_000, 2**26])
def test_transform_equals_call(alanine, box, chunk_bytes, monkeypatch):
    monkeypatch.setattr("latf_sampling.features.features.CHUNK_BYTES", chunk_bytes)
    traj = boxed(alanine, box)
    features = Features(traj.topology, ALL if box == "none" else PERIODIC, periodic=box != "none")
    out = features.transform(traj)
    # moments are third powers of numbers up to 6, in single precision and summed in another order
    np.testing.assert_allclose(out, features(traj.xyz, traj.unitcell_vectors), rtol=1e-6, atol=1e-5)


def test_transform_ignores_boxes_unless_periodic(alanine):
    traj = boxed(alanine, "triclinic")
    features = Features(traj.topology, HEAVY)
    np.testing.assert_allclose(features.transform(traj), features(traj.xyz), atol=1e-6)


def test_transform_of_no_frames(alanine):
    empty = mdtraj.Trajectory(np.empty((0, 22, 3), np.float32), alanine.topology)
    assert Features(alanine.topology, HEAVY).transform(empty).shape == (0, 45)


def test_features_survive_pickling(alanine):
    features = Features(alanine.topology, ALL)
    features(alanine.xyz.astype(np.float64))
    copy = pickle.loads(pickle.dumps(features))
    assert copy.names == features.names
    np.testing.assert_array_equal(copy.transform(alanine), features.transform(alanine))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[..., :2], r"positions: need the shape \(\.\.\., 22, 3\), got \(20, 22, 2\)"),
        (lambda x: x[0, 0], r"positions: need the shape"),
        (lambda x: x[:, :21], "positions: the topology has 22 atoms, the array has 21"),
        (lambda x: x.astype(np.float16), "positions: need float32 or float64, got float16"),
        (lambda x: torch.tensor(x).half(), "positions: need float32 or float64, got torch.float16"),
        (lambda x: with_nan(x), "positions: frame 7, atom 3 is not finite"),
        (lambda x: with_nan(x)[7], "positions: atom 3 is not finite"),
        (lambda x: with_nan(x).reshape(4, 5, 22, 3), r"positions: frame \(1, 2\), atom 3 is not finite"),
        (lambda x: torch.tensor(with_nan(x)), "positions: frame 7, atom 3 is not finite"),
        (lambda x: x[0] * openmm.unit.kelvin, "positions: "),
        (lambda x: [[1.0], [1.0, 2.0]], "positions: are not an array of numbers"),
    ],
)
def test_wrong_positions_are_refused(alanine, change, words):
    with pytest.raises(DataError, match=words):
        Features(alanine.topology, HEAVY)(change(alanine.xyz))


def with_nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[7, 3, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (np.eye(2), r"box: need the shape \(3, 3\) or \(20, 3, 3\), got \(2, 2\)"),
        (np.tile(np.eye(3), (5, 1, 1)), r"box: need the shape"),
        (-np.eye(3), "box: a_x, b_y and c_z have to be positive"),
        (np.eye(3) + np.eye(3, k=1), "box: vector a has to lie along x"),
        (np.full((3, 3), np.inf), "box: vector 0 is not finite"),
        (np.array([["a"] * 3] * 3), "box: need numbers"),
    ],
)
def test_wrong_boxes_are_refused(alanine, box, words):
    with pytest.raises(DataError, match=words):
        Features(alanine.topology, HEAVY)(alanine.xyz, box)


@pytest.mark.parametrize(
    "entry", [COORDINATES[0], {"coordination": {"of": "all", "r0": 0.3, "axes": "xy"}}], ids=["coordinates", "plane"]
)
def test_what_has_no_images_refuses_boxes(alanine, entry):
    words = rf"features\[1\]\.{next(iter(entry))}: cannot be measured in a periodic box; "
    with pytest.raises(SettingsError, match=f"^{words}"):
        Features(alanine.topology, [*HEAVY, entry], periodic=True)
    with pytest.raises(DataError, match=f"^box: {words}"):
        Features(alanine.topology, [*HEAVY, entry])(alanine.xyz, np.eye(3))


def test_wrong_trajectories_are_refused(alanine, peptide, monkeypatch):
    features = Features(alanine.topology, HEAVY)
    with pytest.raises(DataError, match="trajectory must be an mdtraj.Trajectory; got an array"):
        features.transform(alanine.xyz)
    with pytest.raises(DataError, match=f"has {peptide.n_atoms} atoms, the features were made for 22"):
        features.transform(peptide)
    renamed = mdtraj.Trajectory(alanine.xyz, alanine.topology.copy())
    renamed.topology.atom(5).name = "OX"
    with pytest.raises(DataError, match="atom 5 is 'OX O ACE 0'"):
        features.transform(renamed)
    with pytest.raises(DataError, match="has no unit cell"):
        Features(alanine.topology, HEAVY, periodic=True).transform(alanine)
    monkeypatch.setattr("latf_sampling.features.features.CHUNK_BYTES", 1)
    with pytest.raises(DataError, match="trajectory: frame 7, atom 3 is not finite"):
        features.transform(mdtraj.Trajectory(with_nan(alanine.xyz), alanine.topology))


# ------------------------------------------------------------------------------------------ specification and names


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "features: need a list"),
        ("phi", "features: need a list"),
        ({"torsions": "phi"}, "features: need a list"),
        (["phi"], r"features\[0\]: need one kind"),
        ([{"torsions": "phi", "distances": "all"}], r"features\[0\]: need one kind"),
        ([{"angels": "all"}], r"features\[0\]\.angels: is not a kind of descriptor; known are torsions, distances"),
        ([{"torsions": "phi"}, {"torsions": "psy"}], r"features\[1\]\.torsions: 'psy' is not a torsion; known are phi"),
        ([{"torsions": "phi omega"}], r"features\[0\]\.torsions: 'omega' finds no torsion"),
        ([{"torsions": " "}], r"features\[0\]\.torsions: names no torsion"),
        ([{"torsions": 3}], r"features\[0\]\.torsions: 3 cannot be read"),
        ([{"torsions": {"atom": [[0, 1, 2, 3]]}}], r"features\[0\]\.torsions\.atoms: this key is missing"),
        ([{"torsions": {"atoms": [[0, 1, 2]]}}], r"features\[0\]\.torsions\.atoms\[0\]\[3\]: this key is missing"),
        ([{"torsions": {"atoms": []}}], r"features\[0\]\.torsions\.atoms: "),
        ([{"torsions": {"atoms": [[0, 1, 2, 22]]}}], r"features\[0\]\.torsions\.atoms\[0\]: there is no atom 22"),
        (
            [{"torsions": {"atoms": [[0, 1, 2, 0]]}}],
            r"features\[0\]\.torsions\.atoms\[0\]: \[0, 1, 2, 0\] names an atom",
        ),
        ([{"torsions": {"atoms": [[0, 1, 2, -3]]}}], r"features\[0\]\.torsions\.atoms\[0\]\[3\]: "),
        ([{"distances": None}], r"features\[0\]\.distances: None cannot be read"),
        ([{"distances": "nmae CA"}], r"features\[0\]\.distances: 'nmae CA' is not an MDTraj selection"),
        ([{"distances": "name XX"}], r"features\[0\]\.distances: 'name XX' selects no atom"),
        ([{"distances": "name CA"}], r"features\[0\]\.distances: 'name CA' selects one atom only"),
        (
            [{"torsions": "phi"}, {"distances": {"between": "nmae CA"}}],
            r"features\[1\]\.distances\.between: 'nmae CA' is not an MDTraj selection",
        ),
        ([{"distances": {"between": "all", "and": "name XX"}}], r"features\[0\]\.distances\.and: 'name XX' selects no"),
        (
            [{"distances": {"between": "name CA", "and": "name CA"}}],
            r"features\[0\]\.distances\.between: 'name CA' s",
        ),
        ([{"distances": {"between": "all", "skip": 9}}], r"features\[0\]\.distances\.skip: no two selected atoms"),
        ([{"distances": {"between": "all", "skip": -1}}], r"features\[0\]\.distances\.skip: "),
        ([{"distances": {"between": "all", "skip": "1"}}], r"features\[0\]\.distances\.skip: "),
        ([{"distances": {"between": "all", "stride": 2}}], r"features\[0\]\.distances\.stride: no such key"),
        ([{"distances": {"between": "all", "and_": "all"}}], r"features\[0\]\.distances\.and_: no such key"),
        ([{"distances": {"skip": 2}}], r"features\[0\]\.distances\.between: this key is missing"),
        ([{"distances": {"pairs": [[0, 1]], "skip": 2}}], r"features\[0\]\.distances\.skip: no such key"),
        ([{"distances": {"pairs": [[0, 1], [4, 99]]}}], r"features\[0\]\.distances\.pairs\[1\]: there is no atom 99"),
        ([{"distances": {"pairs": [[4, 4]]}}], r"features\[0\]\.distances\.pairs\[0\]: \[4, 4\] names an atom twice"),
        (
            [{"distances": "element != H"}, {"distances": {"pairs": [[4, 0]]}}],
            r"features\[1\]\.distances: makes 'distance ACE1-CH3 ACE1-C', which features\[0\]\.distances makes already",
        ),
    ],
)
def test_wrong_specifications_name_their_key(alanine, spec, words):
    with pytest.raises(SettingsError, match=f"^{words}"):
        Features(alanine.topology, spec)


@pytest.mark.parametrize(
    ("spec", "normal", "columns"),
    [
        ([{"torsions": "  phi   psi phi"}], [{"torsions": "phi psi"}], 4),
        ([{"torsions": {"atoms": ((0, 4, 6, 8),)}}], [{"torsions": {"atoms": [[0, 4, 6, 8]]}}], 2),
        ([{"distances": "name CA CB C"}], [{"distances": {"between": "name CA CB C", "skip": 0}}], 10),
        (
            [{"distances": {"between": "name C", "and": "name C O", "skip": 1}}],
            [{"distances": {"between": "name C", "and": "name C O", "skip": 1}}],
            7,
        ),
        ([{"distances": {"pairs": np.array([[5, 0], [0, 5]])}}], [{"distances": {"pairs": [[5, 0], [0, 5]]}}], 1),
        ([{"coordinates": "name CB"}], [{"coordinates": {"of": "name CB", "axes": "xyz"}}], 3),
        (
            [{"coordinates": {"of": {"atoms": np.array([5, 0])}, "axes": "z"}}],
            [{"coordinates": {"of": {"atoms": [5, 0]}, "axes": "z"}}],
            2,
        ),
        (
            [{"coordination": {"of": "name C", "r0": "3 angstrom"}}],
            [{"coordination": {"of": "name C", "r0": 0.3, "n": 6, "m": 12, "moments": [], "axes": "xyz"}}],
            3,
        ),
        (
            [{"torsions": "phi"}, {"distances": {"pairs": [[0, 5]]}}, {"torsions": "psi"}],
            [{"torsions": "phi"}, {"distances": {"pairs": [[0, 5]]}}, {"torsions": "psi"}],
            5,
        ),
    ],
)
def test_specifications_have_one_normal_form(alanine, spec, normal, columns):
    features = Features(alanine.topology, spec)
    assert features.spec == normal == json.loads(json.dumps(features.spec))
    assert Features(alanine.topology, features.spec).names == features.names
    assert len(features.names) == len(set(features.names)) == columns == features(alanine.xyz[0]).shape[-1]
    assert features.atoms.dtype == np.int64 and (np.diff(features.atoms) > 0).all()


def test_entries_of_one_kind_are_measured_together(alanine):
    spec = [{"torsions": "psi"}, {"distances": {"pairs": [[0, 5]]}}, {"torsions": "phi"}]
    features = Features(alanine.topology, spec)
    assert features.names == [
        "sin psi ALA 2",
        "sin phi ALA 2",
        "cos psi ALA 2",
        "cos phi ALA 2",
        "distance ACE1-CH3 ACE1-O",
    ]
    phi, psi = (compute(alanine)[1][:, 0] for compute in (mdtraj.compute_phi, mdtraj.compute_psi))
    np.testing.assert_allclose(features(alanine.xyz)[:, 0], np.sin(psi), atol=1e-5)
    np.testing.assert_allclose(features(alanine.xyz)[:, 3], np.cos(phi), atol=1e-5)


def test_names_stay_unique_when_chains_repeat(alanine):
    twice = alanine.topology.join(alanine.topology)
    names = Features(twice, BOTH).names
    assert "sin phi ALA 2:0" in names and "sin phi ALA 2:1" in names
    assert "distance ALA2:0-CB ALA2:1-CB" in names
    assert len(names) == len(set(names)) == 8 + 190
    ligand = mdtraj.Topology()
    residue = ligand.add_residue("LIG", ligand.add_chain(), resSeq=1)
    for _ in range(3):
        ligand.add_atom("C", mdtraj.element.carbon, residue)
    assert Features(ligand, [{"distances": "all"}]).names[0] == "distance LIG1-C[0] LIG1-C[1]"


# ------------------------------------------------------------------------------------------------------ topologies


def test_fingerprint_is_the_same_in_mdtraj_and_openmm(alanine, peptide):
    from_openmm = openmm.app.PDBFile(str(ALANINE)).topology
    assert fingerprint(from_openmm) == fingerprint(mdtraj.Topology.from_openmm(from_openmm))
    for topology in (alanine.topology, peptide.topology):
        assert as_mdtraj(topology) is topology
        assert fingerprint(topology) == fingerprint(topology.to_openmm())
    assert fingerprint(alanine.topology) != fingerprint(peptide.topology)


def test_fingerprint_tells_what_matters_from_what_does_not(alanine):
    topology = alanine.topology
    original = fingerprint(topology)
    renumbered = topology.copy()
    renumbered._bonds = []
    for residue in renumbered.residues:
        residue.resSeq += 40
    assert fingerprint(renumbered) == original

    def changed(**what):
        other = topology.copy()
        atom = other.atom(6)
        if "atom" in what:
            atom.name = what["atom"]
        if "element" in what:
            atom.element = what["element"]
        if "residue" in what:
            atom.residue.name = what["residue"]
        return fingerprint(other)

    others = [changed(atom="N1"), changed(element=mdtraj.element.carbon), changed(residue="GLY")]
    others.append(fingerprint(topology.join(topology)))
    assert len({original, *others}) == 5


def test_openmm_topology_gives_the_same_features(alanine):
    pdb = openmm.app.PDBFile(str(ALANINE))
    features, same = Features(pdb.topology, BOTH), Features(alanine.topology, BOTH)
    assert features.topology_fingerprint == same.topology_fingerprint == fingerprint(pdb.topology)
    assert features.names == same.names
    np.testing.assert_array_equal(features.transform(alanine), same.transform(alanine))


def test_virtual_sites_survive_the_way_through_openmm():
    topology = openmm.app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for name, symbol in (("O", "O"), ("H1", "H"), ("M", None)):
        topology.addAtom(name, symbol and openmm.app.Element.getBySymbol(symbol), residue)
    assert fingerprint(topology) == fingerprint(as_mdtraj(topology)) == fingerprint(as_mdtraj(topology).to_openmm())


def test_what_is_no_topology_is_refused(alanine):
    with pytest.raises(SettingsError, match=r"topology: need an mdtraj.Topology or an openmm.app.Topology, got a Traj"):
        Features(alanine, HEAVY)
