"""A system that still holds a bias: ours are left out, others refused, and what is part of the energy stays."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import alanine_cv, alanine_model, alanine_system, alanine_topology, context, frames, positions
from openmm import app

from latf_sampling import OPES, FlowBias, Metadynamics, TrustRegion, Umbrella
from latf_sampling.core import backends
from latf_sampling.cv.force import bias_groups, without_biases
from latf_sampling.errors import SettingsError

BACKENDS = [
    "pythonforce",
    pytest.param("torchforce", marks=pytest.mark.skipif(bool(backends.torchforce_trouble()), reason="no TorchForce")),
]
KINDS = {
    "metadynamics": lambda system, cv, model, **o: Metadynamics(system, cv, 300.0, 10, 1.0, 10, model=model, **o),
    "opes": lambda system, cv, model, **o: OPES(
        system, cv, 300.0, 30.0, 10, trust=TrustRegion(model, 300.0, on_leaving="stop"), **o
    ),
    "flow bias": lambda system, cv, model, **o: FlowBias(system, cv, model, 300.0, 8, **o),
    "umbrella": lambda system, cv, model, **o: Umbrella(system, cv, [5.0, 5.0], 100.0, walls=True, **o),
}


def energy(system: openmm.System) -> float:
    return context(system, positions()).getState(getEnergy=True).getPotentialEnergy()._value


class Quadratic(torch.nn.Module):
    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return positions.square().sum()


def zero(state: openmm.State) -> tuple[float, np.ndarray]:
    return 0.0, np.zeros((22, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kind_is_left_out_of_a_copy(backend):
    plain = alanine_system()
    system = copy.deepcopy(plain)
    made = [make(system, alanine_cv(), alanine_model()[0], backend=backend) for make in KINDS.values()]
    restraint = openmm.CustomExternalForce("x^2")  # after them, so that indices shift
    restraint.addParticle(0)
    system.addForce(restraint)
    plain.addForce(copy.deepcopy(restraint))
    assert sorted(bias_groups(system)) == sorted(bias.group for bias in made)
    bare = without_biases(system)
    assert bare.getNumForces() == plain.getNumForces() == system.getNumForces() - len(made)
    assert openmm.XmlSerializer.serialize(bare) == openmm.XmlSerializer.serialize(plain)
    assert without_biases(plain) is plain
    assert energy(bare) == pytest.approx(energy(plain), abs=1e-9)
    assert abs(energy(system) - energy(plain)) > 10


def test_structures_are_made_in_the_system_without_the_bias():
    import mdtraj

    from latf_sampling.starts.options import StartOptions, no_progress
    from latf_sampling.starts.pipeline import StartPipeline

    options = StartOptions.from_quantities(
        temperature=300.0, timestep=0.002, friction=1.0, thermalise=0.1, release=0.0, tolerance=4.0, attempts=1, seed=0,
        allow_cis=False, allow_inversion=False, platform="Reference", processes=1, directory=None, structures=None,
        progress=no_progress,
    )  # fmt: skip
    cv, plain = alanine_cv(), alanine_system()
    system = copy.deepcopy(plain)
    KINDS["umbrella"](system, cv, None)
    archive = mdtraj.Trajectory(frames(3), mdtraj.Topology.from_openmm(alanine_topology()))
    ours, theirs = (
        StartPipeline.from_options(cv, archive, None, each, alanine_topology(), options).settings.system
        for each in (system, plain)
    )
    assert ours == theirs
    assert len(bias_groups(system)) == 1  # the argument is not changed


@pytest.mark.parametrize("backend", BACKENDS)
def test_stock_metadynamics_is_refused(backend):
    system = alanine_system()
    app.Metadynamics(system, alanine_cv().bias_variables(backend), 300.0, 10.0, 1.0, 100)
    with pytest.raises(SettingsError, match=r"system: force \d, a CustomCVForce, is a bias"):
        without_biases(system)
    system = alanine_system()
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(4, 6, 8, 14)
    app.Metadynamics(system, [app.BiasVariable(torsion, -3.14, 3.14, 0.3, True)], 300.0, 10.0, 1.0, 100)
    with pytest.raises(SettingsError, match=r"system: force \d, a CustomCVForce, is a bias"):
        without_biases(system)


def test_a_restraint_by_rmsd_is_part_of_the_system():
    system, force = alanine_system(), openmm.CustomCVForce("100 * r^2")
    force.addCollectiveVariable("r", openmm.RMSDForce([openmm.Vec3(*row) for row in positions()]))
    system.addForce(force)
    assert without_biases(system) is system


def python_force() -> openmm.Force:
    return openmm.PythonForce(zero)


def torch_force() -> openmm.Force:
    return backends.torchforce()(torch.jit.script(Quadratic()))


@pytest.mark.parametrize(
    "make",
    [
        python_force,
        pytest.param(
            torch_force, marks=pytest.mark.skipif(bool(backends.torchforce_trouble()), reason="no TorchForce")
        ),
    ],
)
def test_what_may_be_a_bias_or_a_potential_needs_a_name(make):
    system, force = alanine_system(), make()
    system.addForce(force)
    with pytest.raises(SettingsError, match=r"may be a bias; .* force.setName\(\"potential\"\)"):
        without_biases(system)
    system = alanine_system()
    force = make()
    force.setName("potential")
    system.addForce(force)
    assert without_biases(system) is system
