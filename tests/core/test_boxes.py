"""Box vectors that OpenMM accepts, from those that trajectories have."""

from __future__ import annotations

import mdtraj
import numpy as np
import openmm
import pytest
import torch

from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.features import reduced_box

SHAPES = {
    "cube": np.eye(3),
    "dodecahedron": np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5**0.5]]),
    "octahedron": np.array([[1, 0, 0], [1 / 3, 2 * 2**0.5 / 3, 0], [-1 / 3, 2**0.5 / 3, 6**0.5 / 3]]),
}


def accepted(context: openmm.Context, box: np.ndarray) -> bool:
    try:
        context.setPeriodicBoxVectors(*box.tolist())
    except openmm.OpenMMException as error:
        assert "reduced form" in str(error)
        return False
    return True


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_of_trajectories_are_accepted(shape):
    system = openmm.System()
    system.addParticle(1.0)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    widths = np.linspace(2.0, 7.0, 200)
    of_file = mdtraj.Trajectory(np.zeros((200, 1, 3)), None)
    of_file.unitcell_vectors = (widths[:, None, None] * SHAPES[shape]).astype(np.float32)
    boxes = np.asarray(of_file.unitcell_vectors)
    reduced = reduced_boxes(boxes)
    assert all(accepted(context, box) for box in reduced)
    assert all(accepted(context, box.astype(float)) for box in boxes) == (shape == "cube")
    np.testing.assert_allclose(np.linalg.det(reduced), np.linalg.det(boxes.astype(float)), rtol=1e-5)
    np.testing.assert_array_equal(reduced, reduced_box(torch.from_numpy(np.tril(boxes).astype(float))).numpy())
