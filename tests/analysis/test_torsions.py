"""Torsions against MDTraj, states on a circle, and crossings."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from helpers import molecules

from latf_sampling import analysis
from latf_sampling.errors import DataError, SettingsError


def alanine(count: int = 40) -> mdtraj.Trajectory:
    topology = mdtraj.Topology.from_openmm(molecules.alanine().topology)
    return mdtraj.Trajectory(molecules.frames(count, noise=0.03), topology)


@pytest.mark.parametrize(("kind", "compute"), [("phi", mdtraj.compute_phi), ("psi", mdtraj.compute_psi)])
def test_torsions_are_those_of_mdtraj(kind, compute):
    trajectory = alanine()
    values = analysis.torsion_values(trajectory, f"{kind} ALA 2")
    assert values.shape == (40,)
    np.testing.assert_allclose(np.exp(1j * values), np.exp(1j * compute(trajectory)[1][:, 0]), atol=2e-5)


def test_torsions_that_do_not_exist_are_refused():
    with pytest.raises(DataError, match="no torsion 'phi ALA 7'; there are: phi ALA 2"):
        analysis.torsion_values(alanine(), "phi ALA 7")
    with pytest.raises(SettingsError, match="chi"):
        analysis.torsion_values(alanine(), "chi1 ALA 2")
    with pytest.raises(DataError, match="like 'phi ALA 2'"):
        analysis.torsion_values(alanine(), " ")


def test_crossings_need_both_thresholds():
    low, high = -0.5, 0.5
    assert analysis.crossings(np.array([-1.0, 0.0, 1.0, 0.0, -1.0]), low, high) == (1, 1)
    assert analysis.crossings(np.array([-1.0, 0.4, -0.4, 0.4, -1.0]), low, high) == (0, 0)
    assert analysis.crossings(np.array([0.0, 0.1, 1.0, 0.1, 0.9]), low, high) == (0, 0)
    assert analysis.crossings(np.array([-1.0, 1.0, -1.0, 1.0]), low, high) == (2, 1)
    assert analysis.crossings(np.zeros(0), low, high) == (0, 0)
    assert analysis.crossings([-1, 1, -1], low, high) == (1, 1)
    with pytest.raises(DataError, match="frame 1 is not a number"):
        analysis.crossings([0.0, np.nan], low, high)


def test_signed_distance_is_that_to_the_nearer_border():
    angles = np.linspace(-np.pi, np.pi, 721)[1:-1]
    for above in (0.0, 1.0, -2.0):
        distance = analysis.signed_distance(angles, above)
        np.testing.assert_array_equal(distance > 0, angles > above)
        borders = np.array([above, np.pi])
        distances = np.abs(np.angle(np.exp(1j * (angles[:, None] - borders))))
        np.testing.assert_allclose(np.abs(distance), distances.min(1), atol=1e-12)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        ([-150, -175, 175, 170, -170, -150], (0, 0)),  # an extended basin that continues beyond 180 degrees
        ([-80, -10, 10, 60], (1, 0)),  # over the barrier at 0
        ([-150, -175, 175, 130, 60], (1, 0)),  # into the other state by way of 180 degrees
        ([60, 175, -175, -120, -10, 5, 60], (1, 1)),  # once around
        ([-80, -10, 10, -80], (0, 0)),  # over the barrier and straight back
    ],
)
def test_crossings_of_a_torsion(degrees, expected):
    assert analysis.crossings(analysis.signed_distance(np.radians(degrees), 0.0), -0.35, 0.35) == expected
