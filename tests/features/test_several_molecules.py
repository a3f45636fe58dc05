"""RMSD, radius and centers of several molecules in a box, however they were wrapped: nothing jumps at half a box."""

from __future__ import annotations

from itertools import product

import mdtraj
import numpy as np
import pytest
import torch
from helpers.molecules import alanine_topology, positions

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.testing import _Check

BOX = 4.0 * np.eye(3)
ATOMS = {"atoms": list(range(44))}


def pair() -> tuple[mdtraj.Topology, np.ndarray]:
    """Two molecules, the second shifted by nearly half the box (issue 16)."""
    one = mdtraj.Topology.from_openmm(alanine_topology())
    x = positions() - positions().mean(0)
    return one.join(one), np.concatenate([x, x + [0, 1.99, 0.6]])


def rmsd(reference: np.ndarray, **changes) -> dict:
    return {
        "rmsd": {
            "of": ATOMS,
            "reference": {"positions": np.atleast_3d(reference).reshape(-1, 44, 3).tolist()},
            **changes,
        }
    }


def moved(x: np.ndarray, way) -> np.ndarray:
    """The second molecule shifted, and every atom in an image of its own."""
    y = x.copy()
    y[22:] += way
    return y + np.random.default_rng(0).integers(-2, 3, y.shape) @ BOX


def test_rmsd_where_a_molecule_crosses_half_the_box():
    """As without a box, near the reference: 0.0024 nm for a shift of 0.005 nm, and not 0.4963."""
    topology, x = pair()
    other = x + np.r_[np.zeros((22, 3)), np.full((22, 3), 0.1)]
    periodic = Features(topology, [rmsd(np.stack([x, other]))], periodic=True)
    free = Features(topology, [rmsd(np.stack([x, other]))])
    ways = [[0, dy, 0] for dy in (0, 0.005, 0.01, 0.02, 0.05)] + [[0.3, -0.2, 0.1]]
    expected = np.array([free(x + np.r_[np.zeros((22, 3)), np.tile(way, (22, 1))]) for way in ways])
    assert expected[:5, 0] == pytest.approx([0, 0.0024, 0.0048, 0.0096, 0.024], abs=1e-4)
    one_by_one = np.array([periodic(moved(x, way), BOX) for way in ways])
    assert np.abs(one_by_one - expected).max() < 1e-6
    assert np.abs(periodic(np.stack([moved(x, way) for way in ways]), BOX) - expected).max() < 1e-6
    boxes = np.broadcast_to(BOX, (len(ways), 3, 3))
    assert np.abs(periodic(np.stack([moved(x, way) for way in ways]), boxes) - expected).max() < 1e-6


@pytest.mark.parametrize(
    "entry",
    [
        {"rmsd": {}},
        {"rmsd": {"superpose": {"atoms": list(range(30))}}},
        {"rmsd": {"weights": "mass"}},
        {"gyration": "all"},
        {"gyration": {"of": "element != H", "weights": "equal"}},
    ],
    ids=str,
)
def test_a_molecule_that_goes_round_the_box(entry):
    """Steps of 0.01 nm change no value by more than 0.01 nm, and a whole period by nothing."""
    topology, x = pair()
    if "rmsd" in entry:
        entry = rmsd(x, **entry["rmsd"])
    features = Features(topology, [entry], periodic=True)
    way = np.linspace(0, 1, 401)[:, None] * [0, 4.0, 0]
    values = features(np.stack([moved(x, step) for step in way]), BOX)[:, 0]
    assert np.abs(np.diff(values)).max() < 0.0101 and values[-1] == pytest.approx(values[0], abs=1e-7)
    assert np.ptp(values) > 0.1


def test_a_center_of_two_molecules_stays_where_they_are():
    """The group does not depend on which atoms come first, nor on images."""
    topology, x = pair()
    x[22:, 1] -= 1.2
    entry = {"groups": {"groups": [ATOMS, {"atoms": [0, 1, 2]}], "center": "geometry"}}
    expected = Features(topology, [entry])(x)
    assert Features(topology, [entry], periodic=True)(moved(x, [0, 0, 0]), BOX) == pytest.approx(expected, abs=1e-9)


def test_the_contract_moves_molecules_across_the_box():
    topology, x = pair()
    frames, box = torch.from_numpy(x[None]), torch.from_numpy(BOX)
    labels = np.repeat([0, 1], 22)

    def check(entry: dict) -> None:
        features = Features(topology, [entry], periodic=True)
        _Check(features, 1e-5, np.random.default_rng(0)).molecules(frames, box, labels)

    check(rmsd(x))
    check({"gyration": "all"})
    with pytest.raises(AssertionError, match=r"jumps by .* where a molecule crosses half a box"):
        check({"groups": {"groups": [ATOMS, {"atoms": [0, 1, 2]}], "center": "geometry"}})


SKEWED = np.array([[3.0, 0, 0], [0.4, 3.2, 0], [-0.5, 0.6, 2.8]])


def several(count: int, seed: int = 0) -> tuple[mdtraj.Topology, np.ndarray]:
    """Molecules of four atoms at random places."""
    topology, rng = mdtraj.Topology(), np.random.default_rng(seed)
    for k in range(count):
        residue = topology.add_residue("CHN", topology.add_chain(), resSeq=k)
        atoms = [topology.add_atom(f"A{n}", mdtraj.element.carbon, residue) for n in range(4)]
        for pair in zip(atoms, atoms[1:]):
            topology.add_bond(*pair)
    shape = np.array([[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.33, 0.2, 0.1]])
    return topology, np.concatenate([shape @ _rotation(rng) + rng.uniform(0, 2.5, 3) for _ in range(count)])


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diagonal(r))
    return q * np.linalg.det(q)


def deviation(x: np.ndarray, y: np.ndarray, center: np.ndarray, weights: np.ndarray) -> float:
    """RMSD by singular values (Kabsch, doi:10.1107/S0567739476001873), numpy alone."""
    x, y = x - center @ x, y - center @ y
    u, _, v = np.linalg.svd((center[:, None] * x).T @ y)
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v
    return float(np.sqrt(weights @ ((x @ rotation - y) ** 2).sum(1)))


@pytest.mark.parametrize(
    ("count", "superpose"), [(3, range(12)), (3, range(4)), (3, range(4, 12)), (2, [0, 1, 2, 4])], ids=str
)
def test_images_of_several_molecules_are_the_best_of_all(count, superpose):
    """All combinations of 27 images each, one by one."""
    topology, reference = several(count)
    entry = {"rmsd": {"of": "all", "reference": {"positions": [reference.tolist()]}}}
    if len(superpose) < 4 * count:
        entry["rmsd"]["superpose"] = {"atoms": list(superpose)}
    features = Features(topology, [entry], periodic=True)
    center, weights = np.isin(np.arange(4 * count), superpose).astype(float), np.full(4 * count, 1 / (4 * count))
    center /= center.sum()
    rng, frames, expected = np.random.default_rng(1), [], []
    for _ in range(3):
        x = reference + np.repeat(rng.uniform(-0.7, 0.7, (count, 3)), 4, axis=0)
        images = product(product((-1, 0, 1), repeat=3), repeat=count - 1)
        shifts = (np.repeat([(0, 0, 0), *image], 4, axis=0) @ SKEWED for image in images)
        expected.append(min(deviation(x + shift, reference, center, weights) for shift in shifts))
        frames.append(x + rng.integers(-2, 3, x.shape) @ SKEWED)
    assert features(np.stack(frames), SKEWED)[:, 0] == pytest.approx(expected, abs=1e-6)
    assert features(frames[0], SKEWED)[0] == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize(
    ("count", "entry"),
    [
        (3, {"rmsd": {}}),
        (4, {"rmsd": {"superpose": {"atoms": [4, 5, 6, 7]}}}),
        (4, {"rmsd": {"superpose": {"atoms": list(range(8))}}}),
        (5, {"gyration": {"of": "all", "weights": "equal"}}),
    ],
    ids=str,
)
def test_nothing_jumps_where_one_of_several_molecules_crosses_the_box(count, entry):
    topology, x = several(count)
    if "rmsd" in entry:
        entry = {"rmsd": {"of": "all", "reference": {"positions": [x.tolist()]}, **entry["rmsd"]}}
    features, box = Features(topology, [entry], periodic=True), torch.from_numpy(SKEWED)
    check = _Check(features, 1e-5, np.random.default_rng(0))
    for seed in range(2):
        check.molecules(torch.from_numpy(several(count, seed)[1][None]), box, np.repeat(np.arange(count), 4))


def test_the_radius_of_molecules_that_are_together_is_that_of_all():
    """Within half a box of each other, however they are wrapped; images are then those of one aggregate."""
    topology, x = several(5)
    x = 0.4 * x
    expected = np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    entry = {"gyration": {"of": "all", "weights": "equal"}}
    wrapped = x + np.random.default_rng(0).integers(-2, 3, x.shape) @ SKEWED
    assert Features(topology, [entry], periodic=True)(wrapped, SKEWED)[0] == pytest.approx(expected, abs=1e-9)
    assert Features(topology, [entry])(x)[0] == pytest.approx(expected, abs=1e-9)


def test_four_molecules_are_not_superposed_together():
    topology, x = several(4)
    entry = {"rmsd": {"of": "all", "reference": {"positions": [x.tolist()]}}}
    assert np.isfinite(Features(topology, [entry])(x)).all()
    with pytest.raises(SettingsError, match=r"rmsd: cannot be measured in a periodic box; images of 4 molecules .*sup"):
        Features(topology, [entry], periodic=True)


def test_a_reference_of_a_run_that_was_never_wrapped(tmp_path):
    """A molecule two boxes away in the file is the one that is near."""
    topology, x = several(2)
    far = x + np.repeat([[0, 0, 0], [2, -2, 1]], 4, axis=0) @ SKEWED
    frame = mdtraj.Trajectory(far[None], topology)
    frame.unitcell_vectors = SKEWED[None]
    frame.save_pdb(str(tmp_path / "far.pdb"))
    features = Features(topology, [{"rmsd": {"of": "all", "reference": str(tmp_path / "far.pdb")}}], periodic=True)
    assert features(x, SKEWED)[0] == pytest.approx(0, abs=2e-4)


def test_one_of_two_molecules_goes_anywhere_without_a_jump():
    """Also where the reference has the two half a box apart, along a diagonal, or in another cell."""
    topology, x = pair()
    for offset in ([0, 2.0, 2.0], [2.0, 2.0, 2.0], [0, -3.1, 0.3]):
        reference = x.copy()
        reference[22:] += np.array(offset) - [0, 1.99, 0.6]
        features = Features(topology, [rmsd(reference)], periodic=True)
        for axis in range(3):
            way = np.linspace(0, 1, 201)[:, None] * 4.0 * np.eye(3)[axis]
            values = features(np.stack([moved(reference, step) for step in way]), BOX)[:, 0]
            assert np.abs(np.diff(values)).max() < 0.0201
