"""Any differentiable function of the positions as a collective variable."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import PLATFORMS, context, energy, forces, gradient
from openmm import unit
from torch import nn

from latf_sampling.bias import Umbrella
from latf_sampling.core.backends import BACKENDS
from latf_sampling.cv.variable import Variable
from latf_sampling.errors import CVError, SettingsError


class Uneven(nn.Module):
    """A function in which no two coordinates take part in the same way."""

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        return 2 * positions[..., 0, :1] + positions[..., 1, 1:2] ** 2


class Wide(nn.Module):
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        return positions[..., 0, :2]


class Scalar(nn.Module):
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        return positions[..., 0, 0]


class Constant(nn.Module):
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        return positions[..., 0, :1].detach()


class Numpy(nn.Module):
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        return torch.from_numpy(np.sin(positions.numpy()))


Uneven.__module__ = Wide.__module__ = Scalar.__module__ = Constant.__module__ = Numpy.__module__ = __name__
GOOD = {"atoms": [0, 1], "n_atoms": 3, "bounds": [[0.0, 1.0]], "sigma": [0.02]}
X = np.array([[0.31, -0.12, 0.05], [-0.22, 0.27, 0.41], [0.08, 0.19, -0.33]])


def particles(count: int) -> openmm.System:
    system = openmm.System()
    for _ in range(count):
        system.addParticle(1.0)
    return system


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compiled", ["0", "1"])
@pytest.mark.parametrize("atoms", [[0, 1, 2], [1, 0, 2], [2, 0], [1, 2]])
def test_atoms_may_come_in_any_order(atoms, compiled, backend, platform, monkeypatch):
    monkeypatch.setenv("LATF_COMPILE", compiled)
    variable = Variable(Uneven(), **{**GOOD, "atoms": atoms})
    assert variable(X) == pytest.approx(2 * X[atoms[0], 0] + X[atoms[1], 1] ** 2)
    system = particles(3)
    bias = Umbrella(system, variable, [0.3], [100.0], backend=backend)
    here = context(system, X, platform)
    assert energy(here, bias.group) == pytest.approx(50 * (variable(X)[0] - 0.3) ** 2, rel=1e-9)
    slope = gradient(lambda many: bias.energy(variable(many)), X)
    assert forces(here, bias.group) == pytest.approx(-slope, rel=1e-6, abs=1e-6)


def test_positions_with_units_single_and_many_tensors_and_arrays():
    variable = Variable(Uneven(), **GOOD)
    expected = 2 * X[0, 0] + X[1, 1] ** 2
    assert variable(X * unit.nanometer)[0] == pytest.approx(expected)
    assert variable(10 * X * unit.angstrom)[0] == pytest.approx(expected)
    assert variable(np.stack([X, X])).shape == (2, 1)
    assert isinstance(variable(torch.from_numpy(X)), torch.Tensor)
    with pytest.raises(SettingsError, match="positions"):
        variable(X * unit.kelvin)
    with pytest.raises(CVError, match=r"expected positions \(..., 3, 3\); got \(2, 3\)"):
        variable(X[:2])


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda variable: pickle.loads(pickle.dumps(variable))])
def test_copies_are_the_same_function(twin):
    variable = Variable(Uneven(), **GOOD)
    assert twin(variable)(X) == variable(X)
    assert twin(variable).fingerprint() == variable.fingerprint()


@pytest.mark.parametrize(
    ("function", "changes", "words"),
    [
        (Uneven, {"atoms": [1, 1]}, "different indices from 0 to 2"),
        (Uneven, {"atoms": [-1, 0]}, "different indices from 0 to 2"),
        (Uneven, {"atoms": [0, 7]}, "different indices from 0 to 2"),
        (Uneven, {"atoms": []}, "at least one"),
        (Uneven, {"atoms": [0.0, 1.7]}, "must be indices of atoms"),
        (Uneven, {"bounds": [[1.0, 0.1]]}, "the lower one first"),
        (Uneven, {"bounds": [[0.0, np.nan]]}, "must be finite"),
        (Uneven, {"bounds": [0.0, 1.0]}, r"bounds must be \(d, 2\)"),
        (Uneven, {"sigma": [-0.02]}, "sigma must be above 0"),
        (Uneven, {"sigma": [np.nan]}, "sigma must be above 0"),
        (Uneven, {"steepness": [1.0, 2.0, 3.0]}, "steepness must be"),
        (Wide, {}, r"must be \(1,\); it is \(2,\)"),
        (Uneven, {"bounds": [[0, 1], [0, 1]], "sigma": [1, 1]}, r"must be \(2,\); it is \(1,\)"),
        (Scalar, {}, r"must be \(1,\); it is \(\)"),
        (Constant, {}, "cannot be evaluated and differentiated"),
        (Numpy, {}, "TorchScript cannot compile"),
    ],
)
def test_impossible_variables_are_refused_at_once(function, changes, words):
    with pytest.raises(CVError, match=words):
        Variable(function(), **{**GOOD, **changes})


class OfBox(nn.Module):
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        return positions[..., 0, :1] + (torch.zeros(1) if box is None else box[..., 0, :1])


OfBox.__module__ = __name__


def test_empty_frames_give_empty_values():
    cv = Variable(Uneven(), [0, 1], 2, [[0.0, 1.0]], [0.1])
    assert cv(np.zeros((0, 2, 3))).shape == cv(torch.zeros(0, 2, 3)).shape == (0, 1)
    assert cv.gradients(np.zeros((0, 2, 3))).shape == (0, 1, 2, 3)
    assert cv.mobility(np.zeros((0, 2, 3)), np.ones(2)).shape == (0, 1)


def test_boxes_belong_to_frames():
    cv = Variable(OfBox(), [0], 1, [[0.0, 1.0]], [0.1], periodic=True)
    x, box = np.zeros((3, 1, 3)), 2 * np.eye(3)
    one, each = cv(x, box), cv(x, np.tile(box, (3, 1, 1)))
    assert one.tolist() == each.tolist() == cv(x, box[None]).tolist() == [[2.0]] * 3
    for evaluate in (cv, cv.gradients):
        with pytest.raises(CVError, match=r"boxes \(2,\) do not belong to frames \(3,\)"):
            evaluate(x, np.tile(box, (2, 1, 1)))
        for wrong in (np.eye(2), [1.0, 1.0, 1.0], np.full((3, 3), np.nan)):
            with pytest.raises(CVError, match=r"the box must be finite vectors \(..., 3, 3\)"):
                evaluate(x, wrong)


def test_an_exploded_simulation_has_a_value_that_is_not_finite():
    cv = Variable(Uneven(), [0, 1], 2, [[0.0, 1.0]], [0.1])
    exploded = context(particles(2), np.zeros((2, 3)))
    exploded.setPositions(np.full((2, 3), np.nan))
    assert np.isnan(cv.of_context(exploded)).all()
