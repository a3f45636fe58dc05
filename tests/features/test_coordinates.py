"""Cartesian coordinates as descriptors."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
import torch

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features


@pytest.fixture(scope="module")
def topology() -> mdtraj.Topology:
    topology = mdtraj.Topology()
    residue = topology.add_residue("AR", topology.add_chain(), resSeq=1)
    for name in "ABC":
        topology.add_atom(name, mdtraj.element.argon, residue)
    return topology


@pytest.mark.parametrize(
    ("value", "names", "columns"),
    [
        ("name B", ["x AR1-B", "y AR1-B", "z AR1-B"], [3, 4, 5]),
        ({"of": "name A C", "axes": "xy"}, ["x AR1-A", "y AR1-A", "x AR1-C", "y AR1-C"], [0, 1, 6, 7]),
        ({"of": {"atoms": [2, 0]}, "axes": "z"}, ["z AR1-C", "z AR1-A"], [8, 2]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coordinates_are_the_positions(topology, value, names, columns, dtype):
    features = Features(topology, [{"coordinates": value}])
    x = np.random.default_rng(1).normal(size=(2, 5, 3, 3)).astype(dtype)
    assert features.names == names
    assert features.atoms.tolist() == sorted({column // 3 for column in columns})
    np.testing.assert_array_equal(features(x), x.reshape(2, 5, 9)[..., columns])
    traj = mdtraj.Trajectory(x[0].astype(np.float32), topology)
    np.testing.assert_array_equal(features.transform(traj), traj.xyz.reshape(5, 9)[:, columns])


def test_gradient_is_one(topology):
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    Features(topology, [{"coordinates": {"of": "name C", "axes": "yz"}}])(x).sum().backward()
    assert x.grad.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([{"coordinates": 3}], r"features\[0\]\.coordinates: 3 cannot be read"),
        ([{"coordinates": "name X"}], r"features\[0\]\.coordinates: 'name X' selects no atom"),
        ([{"coordinates": {"of": "name X"}}], r"features\[0\]\.coordinates\.of: 'name X' selects no atom"),
        ([{"coordinates": {"of": 3}}], r"features\[0\]\.coordinates\.of: 3 cannot be read"),
        ([{"coordinates": {"of": {"atoms": []}}}], r"features\[0\]\.coordinates\.of\.atoms: "),
        ([{"coordinates": {"of": {"atoms": [0, 3]}}}], r"features\[0\]\.coordinates\.of\.atoms: there is no atom 3"),
        (
            [{"coordinates": {"of": {"atoms": [0, 0]}}}],
            r"features\[0\]\.coordinates\.of\.atoms: \[0, 0\] names an atom",
        ),
        ([{"coordinates": {"axes": "x"}}], r"features\[0\]\.coordinates\.of: this key is missing"),
        ([{"coordinates": {"of": "all", "axes": "yx"}}], r"features\[0\]\.coordinates\.axes: .*'xyz', got 'yx'"),
        ([{"coordinates": {"of": "all", "axes": ""}}], r"features\[0\]\.coordinates\.axes: "),
        ([{"coordinates": {"of": "all", "atoms": [0]}}], r"features\[0\]\.coordinates\.atoms: no such key"),
        (
            [{"coordinates": {"of": "all", "axes": "x"}}, {"coordinates": "name B"}],
            r"features\[1\]\.coordinates: makes 'x AR1-B', which features\[0\]\.coordinates makes already",
        ),
    ],
)
def test_wrong_specifications_name_their_key(topology, spec, words):
    with pytest.raises(SettingsError, match=f"^{words}"):
        Features(topology, spec)
