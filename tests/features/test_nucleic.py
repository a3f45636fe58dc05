"""Descriptors of nucleic acids in a simulation: forces in OpenMM, across the faces of a triclinic box."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from helpers.molecules import context, forces, gradient, random_model
from helpers.nucleic import RNA, perturbed

from latf_sampling.cv.force import component_force
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.features import Features

BOX = np.array([[4.0, 0, 0], [1.0, 3.8, 0], [-1.2, 0.9, 3.5]])
KINDS = {
    "torsions": {"names": "alpha gamma zeta chi", "residues": "resid 2 3"},
    "angles": {"of": "resid 4", "as": "angle"},
    "pucker": "resid 1 2",
    "nucleobases": {"pairs": [[0, 5], [2, 3]]},
    "ermsd": {"of": "resid 1 to 4", "reference": str(RNA)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_forces_are_minus_the_gradient(kind):
    rna = perturbed(RNA, frames=12)
    features = Features(rna.topology, [{kind: KINDS[kind]}], periodic=True)
    boxes = np.tile(BOX, (12, 1, 1))
    model = random_model(features, features(rna.xyz, boxes), 1)
    cv = LatentCV.from_model(model, features, rna.xyz[:4], boxes[:4], np.inf)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in BOX))
    for _ in range(rna.n_atoms):
        system.addParticle(1.0)
    system.addForce(component_force(cv, 0))
    x = rna.xyz[5].astype(np.float64)
    broken = x + np.random.default_rng(0).integers(-1, 2, x.shape) @ BOX
    atoms = cv.atoms[:6]
    expected = -gradient(lambda moved: cv(moved, BOX)[:, 0], x, atoms=atoms)[atoms]
    found = forces(context(system, broken, box=BOX), 0)
    np.testing.assert_allclose(found[atoms], expected, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 0 and np.abs(found.sum(0)).max() < 1e-8 * np.abs(found).max()
