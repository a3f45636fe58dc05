"""The Go model of the GCAA hairpin: its native structure is a minimum, and its vibrations allow the protocol's step."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest

from latf_sampling.features import Features
from latf_sampling.settings.protocol import Protocol
from latf_sampling.systems.gcaa_go import EPSILON, RIGID, extended, gcaa_go
from latf_sampling.systems.structure_based import angles

PROTOCOL = Path(__file__).parents[2] / "protocols" / "gcaa-go.yaml"


@pytest.fixture(scope="module")
def model():
    system, topology, native = gcaa_go()
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    return context, mdtraj.Topology.from_openmm(topology), native


def relaxed(context: openmm.Context, positions: np.ndarray) -> tuple[np.ndarray, float]:
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 1, 200)
    state = context.getState(positions=True, energy=True)
    return np.array(state.getPositions(asNumpy=True)._value), state.getPotentialEnergy()._value


def test_native_structure_is_the_minimum(model):
    context, topology, native = model
    features = Features(topology, [{"ermsd": {"of": "all", "reference": str(PROTOCOL.parent / "gcaa-hairpin.pdb")}}])
    folded, energy = relaxed(context, native)
    stretched, unfolded_energy = relaxed(context, extended())
    assert features(folded)[0] < 0.2
    assert features(stretched)[0] > 1.5
    assert unfolded_energy - energy > 200.0


def test_stiff_torsions_are_defined_in_every_thermal_structure(model):
    """The force of a torsion has no limit where three of its atoms are in line, and angles spread by 9 degrees."""
    context, _, native = model
    stiff = [
        force.getTorsionParameters(k)[:4]
        for force in context.getSystem().getForces()
        if isinstance(force, openmm.PeriodicTorsionForce)
        for k in range(force.getNumTorsions())
        if force.getTorsionParameters(k)[6]._value == pytest.approx(RIGID * EPSILON)
    ]
    assert len(stiff) == 4 * 10
    for triples in ([quartet[:3] for quartet in stiff], [quartet[1:] for quartet in stiff]):
        degrees = np.degrees(angles(native, triples))
        assert np.minimum(degrees, 180 - degrees).min() > 5 * 9


def test_vibrations_are_slow_enough_for_the_step_of_the_protocol(model):
    """A step of 2 / omega is unstable; below half of it the fastest vibration has the right spread."""
    context, _, native = model
    positions, _ = relaxed(context, native)
    system = context.getSystem()
    masses = np.array([system.getParticleMass(k)._value for k in range(system.getNumParticles())])
    real, step, columns = np.flatnonzero(masses), 1e-4, []
    for particle in real:
        for axis in range(3):
            forces = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[particle, axis] += sign * step
                context.setPositions(moved)
                context.computeVirtualSites()
                forces.append(context.getState(forces=True).getForces(asNumpy=True)._value[real].ravel())
            columns.append((forces[1] - forces[0]) / (2 * step))
    weights = np.sqrt(np.repeat(masses[real], 3))
    squares = np.linalg.eigvalsh(np.array(columns) / np.outer(weights, weights), UPLO="L")
    assert squares.min() > -1.0  # a minimum, but for translation and rotation
    assert np.sqrt(squares.max()) * Protocol.load(PROTOCOL).integrator.timestep < 1.0
