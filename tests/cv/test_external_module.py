"""Modules that other programs trained: exports of mlcolvar as they are, and what is refused of anybody's module."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from helpers.mlcolvar_models import DATA, NAMES, features, file, walk
from helpers.molecules import (
    SPECS,
    TRICLINIC,
    alanine_model,
    alanine_simulation,
    alanine_system,
    alanine_topology,
    energy,
    forces,
    frames,
    gradient,
)
from torch import nn

from latf_sampling.bias import OPES, FlowBias, Metadynamics, Umbrella
from latf_sampling.core import backends
from latf_sampling.cv.latent_cv import FORCE_LIMIT, LatentCV
from latf_sampling.errors import CVError, SettingsError
from latf_sampling.features import Features

BACKENDS = [
    pytest.param(
        "torchforce", marks=pytest.mark.skipif(bool(backends.torchforce_trouble()), reason="TorchForce does not work")
    ),
    "pythonforce",
]
MLCOLVAR = json.loads((DATA / "mlcolvar.json").read_text())
ANY_FORCE = 1e5


@cache
def cv(name: str) -> LatentCV:
    return LatentCV.from_torchscript(file(name), features(), walk(), force_limit=1e4)


def linear(dim: int = 1, columns: int = 45, seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, dim)


def export(module, spec: Features | None = None, x: np.ndarray | None = None) -> LatentCV:
    return LatentCV.from_torchscript(module, spec or features(), walk(50) if x is None else x, force_limit=ANY_FORCE)


@pytest.mark.parametrize("name", NAMES)
def test_exports_of_mlcolvar(tmp_path, name):
    """Values that mlcolvar gives; bounds, widths and steepness of the frames; the file is like any other."""
    made = cv(name)
    assert np.abs(made(walk()[::50]) - MLCOLVAR[name]).max() < 1e-6
    u = made(walk())
    assert np.abs(made.bounds.T - [u.min(0), u.max(0)]).max() < 1e-6
    assert (made.sigma >= np.diff(made.bounds)[:, 0] / 16 - 1e-9).all()
    slopes = made.gradients(walk())
    assert made.steepness == pytest.approx(np.sqrt((slopes**2).sum((2, 3)).mean(0)))
    made.save(tmp_path / "cv.pt")
    again = LatentCV.load(tmp_path / "cv.pt", alanine_topology())
    assert np.array_equal(again(walk(3)), made(walk(3))) and again.fingerprint() == made.fingerprint()
    assert again.metadata["names"] == features().names and again.metadata["precision"] == "double"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "kind"), [("deeptica", "metadynamics"), ("autoencoder", "opes"), ("deeptda", "umbrella")]
)
def test_biased_by_every_kind_on_both_backends(name, kind, backend):
    made, system = cv(name), alanine_system()
    if kind == "metadynamics":
        bias = Metadynamics(system, made, 300.0, bias_factor=5, height=4.0, frequency=5, backend=backend)
    elif kind == "opes":
        bias = OPES(system, made, 300.0, barrier=40.0, frequency=5, backend=backend)
    else:
        center = made(frames(1, noise=0.0)[0]) + made.sigma
        bias = Umbrella(system, made, center, 3.0 / made.sigma**2, backend=backend)
    simulation = alanine_simulation(system)
    bias.step(simulation, 20)
    x = simulation.context.getState(getPositions=True).getPositions(asNumpy=True)._value
    assert energy(simulation.context, bias.group) == pytest.approx(float(bias.energy(made(x))[0]), rel=1e-6, abs=1e-6)
    slope = gradient(lambda many: bias.energy(made(many)), x, h=2e-5, atoms=made.atoms)
    assert np.abs(slope).max() > 1
    assert np.abs(forces(simulation.context, bias.group) + slope).max() < 1e-5 * np.abs(slope).max() + 1e-4


def test_a_bias_that_needs_the_density_refuses_it():
    with pytest.raises(SettingsError, match="exported from no model"):
        FlowBias(alanine_system(), cv("deeptica"), alanine_model(2)[0], 300.0, bias_factor=5)


def test_in_a_periodic_box():
    boxes = np.broadcast_to(TRICLINIC, (30, 3, 3))
    made = LatentCV.from_torchscript(file("deeptica"), features(periodic=True), walk(30), boxes, force_limit=1e4)
    far = walk(2) + np.random.default_rng(0).integers(-2, 3, (2, 22, 3)) @ TRICLINIC
    assert np.abs(made(far, TRICLINIC) - cv("deeptica")(walk(2))).max() < 1e-6
    with pytest.raises(CVError, match="give the box vectors of the frames"):
        LatentCV.from_torchscript(file("deeptica"), features(periodic=True), walk(30))


def test_modules_of_plain_torch():
    """Compiled, or traced where TorchScript cannot read them; one number a row; the caller's module stays as it is."""
    net = nn.Sequential(linear(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    made = export(net)
    assert net.training and all(value.dtype == torch.float32 for value in net.state_dict().values())
    x = torch.from_numpy(features()(walk(3))).float()
    assert np.abs(made(walk(3)) - net.eval()(x).detach().numpy()).max() < 1e-6

    class OneNumber(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x, *rest, **options):  # no TorchScript
            return self.inner(x).squeeze(-1)

    assert export(OneNumber()).dim == 1
    assert export(linear().double()).dim == 1


def test_numbers_in_the_code_are_evaluated_in_single_precision():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tanh(torch.matmul(x, weight))

    weight = torch.randn(45, 2)
    made = export(torch.jit.trace(Constant(), torch.randn(3, 45)))
    assert made.metadata["precision"] == "single"
    bias = Metadynamics(alanine_system(), made, 300.0, bias_factor=5, height=4.0, frequency=5)
    assert np.isfinite(bias.energy(made(walk(3)))).all()


class Scaled(nn.Module):
    """A module that scales its columns as mlcolvar does."""

    def __init__(self, factor: float):
        super().__init__()
        x = torch.from_numpy(features()(walk(50))).float() * factor
        self.norm, self.inner = nn.Module(), linear()
        self.norm.register_buffer("mean", x.mean(0))
        self.norm.register_buffer("range", x.std(0))

    def forward(self, x):
        return self.inner((x - self.norm.mean) / self.norm.range)


class Noisy(nn.Module):
    def forward(self, x):
        return x[:, :1] + torch.rand_like(x[:, :1])


class Together(nn.Module):
    def forward(self, x):
        return (x - x.mean(0))[:, :1]


class Pair(nn.Module):
    def forward(self, x):
        return x[:, :1], x[:, 1:2]


class Broken(nn.Module):
    def forward(self, x):
        return torch.log(x[:, :1] - 0.15)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (linear(2, 44), r"Linear: cannot be evaluated on the 45 columns .*it takes 44 columns"),
        (Pair(), r"Pair: of 50 rows of descriptors it must be \(50, d\); it is a tuple"),
        (Together(), "Together: the value of a frame depends on the frames beside it"),
        (Broken(), "Broken: component 0 is not finite in frame 0"),
        (nn.Sequential(linear(), nn.Tanh(), nn.Threshold(2.0, 0.5)), "component 0 is 0.5 in all 50 frames"),
        (Noisy(), r"Noisy: cannot be a collective variable: it uses the operator aten::rand_like"),
        (Scaled(10.0), r"trained on a column \d+ around .*, and 'distance .*' is .* on average; .*order and the units"),
        (nn.Sequential(nn.Linear(45, 3), nn.Flatten(0)), r"must be \(50, d\); it is a tensor \(150,\)"),
    ],
)
def test_what_is_refused(module, message):
    with pytest.raises(CVError, match=message) as caught:
        export(module)
    assert "\n" not in str(caught.value)


def test_the_units_that_it_was_trained_on_pass():
    assert export(Scaled(1.0)).dim == 1


def test_files_that_are_no_program(tmp_path):
    torch.save(linear(), tmp_path / "pickled.pt")
    (tmp_path / "text.pt").write_text("no")
    for name, reason in {"pickled": "export it by torch.jit", "text": "no file that torch", "gone": "no such"}.items():
        with pytest.raises(CVError, match=rf"{name}.pt: cannot be read as TorchScript \(.*{reason}"):
            export(tmp_path / f"{name}.pt")
    for wrong in (3, None):
        with pytest.raises(SettingsError, match="from_torchscript: file must be"):
            export(wrong)
    with pytest.raises(SettingsError, match="features must be the Features"):
        LatentCV.from_torchscript(linear(), "features", walk(3))


def test_the_force_check():
    """A step of the first distance, at its mean."""
    step = nn.Sequential(linear(), nn.Tanh())
    with torch.no_grad():
        step[0].weight.zero_()[0, 0] = 1000.0
        step[0].bias.fill_(-1000.0 * float(features()(walk(50))[:, 0].mean()))
    with pytest.raises(CVError, match="component 0 is too steep to bias: .* Train it with more regularization"):
        LatentCV.from_torchscript(step, features(), walk(50), force_limit=FORCE_LIMIT)


def test_other_descriptors_of_the_same_number_are_the_users_to_order():
    """Only a module that states its scaling can be compared with the columns."""
    assert export(linear(1, 4), Features(alanine_topology(), SPECS["torsions"])).dim == 1
