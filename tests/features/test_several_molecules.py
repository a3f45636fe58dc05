"""RMSD, radius and centers of several molecules in a box, however they were wrapped: nothing jumps at half a box."""

from __future__ import annotations

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


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", ["rmsd", "gyration"])
def test_three_molecules_have_no_joint_images(count, kind):
    """With three, the measure jumped by 0.25 nm and more where one crossed half the box; without a box nothing does."""
    topology, x = mdtraj.Topology.from_openmm(alanine_topology()), positions()
    for _ in range(count - 1):
        topology = topology.join(mdtraj.Topology.from_openmm(alanine_topology()))
    x = np.concatenate([x + [0, k, 0] for k in range(count)])
    entry = {
        "rmsd": {"rmsd": {"of": "all", "reference": {"positions": [x.tolist()]}}},
        "gyration": {"gyration": "all"},
    }[kind]
    assert np.isfinite(Features(topology, [entry])(x)).all()
    if count == 2:
        assert np.isfinite(Features(topology, [entry], periodic=True)(x, BOX)).all()
        return
    with pytest.raises(
        SettingsError, match=rf"{kind}: cannot be measured in a periodic box; images of {count} molecules"
    ):
        Features(topology, [entry], periodic=True)


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
