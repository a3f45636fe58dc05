"""Molecular models by name: their energies against numpy, their minima, and protocols that name them."""

import numpy as np
import openmm
import pytest
from helpers.molecules import context, energy, forces, gradient

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import MODELS as KEYS
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import build, chignolin_go
from latf_sampling.systems.models import MODELS
from latf_sampling.systems.structure_based import angles, distances, torsions


def chignolin_energy(x):
    """The energy of the Go model of chignolin in numpy, kJ/mol, for positions (10, 3)."""
    native, epsilon = chignolin_go.NATIVE, chignolin_go.EPSILON
    bonds, triples, quartets = ([range(i, i + n) for i in range(11 - n)] for n in (2, 3, 4))
    turned = torsions(x, quartets) - torsions(native, quartets)
    repelled = [(a, b) for a in range(10) for b in range(a + 4, 10) if (a, b) not in chignolin_go.CONTACTS]
    s = distances(native, chignolin_go.CONTACTS) / distances(x, chignolin_go.CONTACTS)
    return epsilon * (
        100 * np.sum((10 * (distances(x, bonds) - distances(native, bonds))) ** 2)
        + 20 * np.sum((angles(x, triples) - angles(native, triples)) ** 2)
        + np.sum(1 - np.cos(turned) + 0.5 * (1 - np.cos(3 * turned)))
        + np.sum(5 * s**12 - 6 * s**10)
        + np.sum((0.4 / distances(x, repelled)) ** 12)
    )


def test_the_energy_of_the_go_model_is_that_of_the_paper():
    system, _, native = chignolin_go.chignolin_go()
    simulated, rng = context(system, native), np.random.default_rng(0)
    for x in (native, chignolin_go.extended(), *(native + rng.normal(scale=0.02, size=(5, 10, 3)))):
        simulated.setPositions(x)
        assert energy(simulated, 0) == pytest.approx(chignolin_energy(x), rel=1e-9)
    np.testing.assert_allclose(forces(simulated, 0), -gradient(chignolin_energy_of, x, h=1e-5), rtol=1e-5, atol=1e-3)


def chignolin_energy_of(frames):
    return np.array([chignolin_energy(x) for x in frames])


@pytest.mark.parametrize("name", MODELS)
def test_the_native_structure_is_next_to_the_minimum(name):
    molecule = build(SystemSettings(name=name))
    simulated = context(molecule.system, molecule.positions)
    openmm.LocalEnergyMinimizer.minimize(simulated, 0.01)
    relaxed = simulated.getState(positions=True).getPositions(asNumpy=True)._value
    pairs = [(a, b) for a in range(len(relaxed)) for b in range(a)]
    assert np.abs(distances(relaxed, pairs) - distances(molecule.positions, pairs)).max() < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_conformations_have_the_same_bonds(name):
    names = ("hairpin", *MODELS[name].conformations)
    molecule = build(SystemSettings(name=name, conformations=names))
    bonds = [(bond.atom1.index, bond.atom2.index) for bond in molecule.topology.bonds()]
    first, second = (distances(start.positions, bonds) for start in molecule.conformations)
    np.testing.assert_allclose(first, second, atol=1e-3)
    ends = [np.linalg.norm(start.positions[0] - start.positions[-1]) for start in molecule.conformations]
    assert ends[1] > 3 * ends[0]


def test_each_model_has_its_keys():
    assert set(MODELS) == set(KEYS)


@pytest.mark.parametrize("name", MODELS)
def test_keys_of_a_force_field_are_refused(name):
    with pytest.raises(ValueError, match="hydrogen_mass: does not go with a model system by name"):
        SystemSettings(name=name, hydrogen_mass="2 amu")
    with pytest.raises((SettingsError, ValueError), match="has no conformation 'coil'; there are hairpin, extended"):
        SystemSettings(name=name, conformations=("coil",))
