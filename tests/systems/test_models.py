"""Molecular models by name: their energies against numpy, their minima, and protocols that name them."""

import numpy as np
import openmm
import pytest
from helpers.molecules import PLATFORMS, context, energy, forces, gradient

from latf_sampling.settings.system import MODELS as KEYS
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import build, chignolin_go, wca_dimer
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
    x = native
    for x in (native, chignolin_go.extended(), *(native + rng.normal(scale=0.02, size=(5, 10, 3)))):
        simulated.setPositions(x)
        assert energy(simulated, 0) == pytest.approx(chignolin_energy(x), rel=1e-9)
    np.testing.assert_allclose(forces(simulated, 0), -gradient(chignolin_energy_of, x, h=1e-5), rtol=1e-5, atol=1e-3)


def chignolin_energy_of(frames):
    return np.array([chignolin_energy(x) for x in frames])


GO_MODELS = [name for name in MODELS if name.endswith("-go")]


@pytest.mark.parametrize("name", GO_MODELS)
def test_the_native_structure_is_next_to_the_minimum(name):
    molecule = build(SystemSettings(name=name))
    simulated = context(molecule.system, molecule.positions)
    openmm.LocalEnergyMinimizer.minimize(simulated, 1)
    relaxed = simulated.getState(positions=True).getPositions(asNumpy=True)._value
    pairs = [(a, b) for a in range(len(relaxed)) for b in range(a)]
    assert np.abs(distances(relaxed, pairs) - distances(molecule.positions, pairs)).max() < 0.02


@pytest.mark.parametrize("name", GO_MODELS)
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


@pytest.mark.parametrize("name", GO_MODELS)
def test_unknown_conformations_and_a_barostat_without_a_box_are_refused(name):
    with pytest.raises(ValueError, match="has no conformation 'coil'; there are hairpin, extended"):
        SystemSettings(name=name, conformations=("coil",))
    with pytest.raises(ValueError, match="barostat: does not go with a model system by name"):
        SystemSettings(name=name, barostat={"pressure": "1 bar"})


# ------------------------------------------------------------------------------------------------ dimer in a fluid


def dimer_energy(x, edge):
    """The energy of the dimer and its fluid in numpy, kJ/mol, for positions (125, 3) in a cube."""
    first, second = np.triu_indices(len(x), 1)
    vectors = x[first] - x[second]
    r = np.linalg.norm(vectors - edge * np.round(vectors / edge), axis=-1)
    s = (wca_dimer.SIGMA / r[1:]) ** 6  # the first pair is the dimer
    length = (r[0] - 1.25 * wca_dimer.COMPACT) / (0.25 * wca_dimer.COMPACT)
    return (
        wca_dimer.EPSILON * np.sum(np.where(s > 0.5, 4 * s * (s - 1) + 1, 0))
        + wca_dimer.BARRIER * (length**2 - 1) ** 2
        + 0.5 * wca_dimer.TILT * (length + 1)
    )


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_dimer_feels_its_bond_and_its_fluid(platform):
    molecule = build(SystemSettings(name="wca-dimer"))
    edge = molecule.system.getDefaultPeriodicBoxVectors()[0][0]._value
    simulated, rng = context(molecule.system, molecule.positions, platform), np.random.default_rng(0)
    for _ in range(3):
        x = molecule.positions + rng.normal(scale=0.03, size=molecule.positions.shape)
        x[1, 2] += 0.1
        simulated.setPositions(x + edge * rng.integers(-1, 2, size=(len(x), 1)))
        assert energy(simulated, 0) == pytest.approx(dimer_energy(x, edge), rel=1e-4)


def test_the_dimer_may_have_constant_pressure_and_no_conformations():
    settings = SystemSettings(name="wca-dimer", barostat={"pressure": "2000 bar"})
    assert build(settings).system.usesPeriodicBoundaryConditions()
    with pytest.raises(ValueError, match="there is only the default one"):
        SystemSettings(name="wca-dimer", conformations=("hairpin",))
