"""OBC2 without salt becomes OpenMM's own force, with the same energies and forces; everything else stays as it is."""

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmm.app.internal import customgbforces

from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import build
from latf_sampling.systems.implicit_solvent import use_native_obc2
from latf_sampling.systems.named import named_structure

STRUCTURE = named_structure("alanine-dipeptide", None, 0)


def system(*files, **options) -> openmm.System:
    return app.ForceField("amber14/protein.ff14SB.xml", *files).createSystem(STRUCTURE.topology, **options)


def solvent(of: openmm.System) -> list[str]:
    return [type(force).__name__ for force in of.getForces() if "GB" in type(force).__name__]


def evaluate(of: openmm.System, positions) -> tuple[float, np.ndarray]:
    context = openmm.Context(of, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


@pytest.mark.parametrize(
    "options", [{}, {"solventDielectric": 40.0, "soluteDielectric": 2.0}, {"implicitSolventKappa": 0.0}], ids=str
)
def test_energies_and_forces_stay_the_same(options):
    custom, native = (system("implicit/obc2.xml", **options) for _ in range(2))
    use_native_obc2(native)
    assert solvent(custom) == ["CustomGBForce"] and solvent(native) == ["GBSAOBCForce"]
    assert custom.getNumForces() == native.getNumForces()
    positions = STRUCTURE.positions + np.random.default_rng(0).normal(scale=0.01, size=STRUCTURE.positions.shape)
    (energy, forces), (other, others) = evaluate(custom, positions), evaluate(native, positions)
    assert other == pytest.approx(energy, abs=1e-3)  # the constant of Coulomb's law has two digits more
    np.testing.assert_allclose(others, forces, atol=1e-2)


@pytest.mark.parametrize("model", ["HCT", "OBC1", "OBC2", "GBn", "GBn2"])
@pytest.mark.parametrize("surface", ["ACE", None])
def test_of_the_models_of_amber_only_obc2_without_salt(model, surface):
    for kappa in (0.0, 0.7):
        made = system()
        force = getattr(customgbforces, f"GBSA{model}Force")(SA=surface, kappa=kappa)
        charges = next(f for f in made.getForces() if isinstance(f, openmm.NonbondedForce))
        for index, parameters in enumerate(force.getStandardParameters(STRUCTURE.topology)):
            force.addParticle([charges.getParticleParameters(index)[0], *parameters])
        force.finalize()
        made.addForce(force)
        before = evaluate(made, STRUCTURE.positions)
        use_native_obc2(made)
        assert solvent(made) == ["GBSAOBCForce" if (model, kappa) == ("OBC2", 0.0) else "CustomGBForce"]
        after = evaluate(made, STRUCTURE.positions)
        assert after[0] == pytest.approx(before[0], abs=1e-3)


def test_a_cutoff_stays_with_the_general_force():
    made = system("implicit/obc2.xml", nonbondedMethod=app.CutoffNonPeriodic, nonbondedCutoff=1 * unit.nanometer)
    use_native_obc2(made)
    assert solvent(made) == ["CustomGBForce"]


@pytest.mark.parametrize(
    ("settings", "force"),
    [
        ({"name": "alanine-dipeptide", "force_field": ("amber14/protein.ff14SB.xml", "implicit/obc2.xml")}, "GBSAOBC"),
        ({"name": "alanine-dipeptide", "force_field": ("amber14/protein.ff14SB.xml", "implicit/gbn2.xml")}, "CustomGB"),
        ({"name": "chignolin"}, "GBSAOBC"),
    ],
)
def test_systems_of_protocols_have_it(settings, force):
    if settings["name"] == "chignolin":
        pytest.importorskip("PeptideBuilder")
    assert solvent(build(SystemSettings(**settings)).system) == [f"{force}Force"]
