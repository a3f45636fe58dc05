"""The flow's density as a bias."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from molecules import alanine_cv, alanine_model, alanine_simulation, alanine_system, energy

from latf_sampling.bias import FlowBias
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB

KT = KB * 300.0
GAMMA = 5.0


def made(dim: int, temperature=300.0, bias_factor: float = GAMMA) -> tuple[FlowBias, openmm.System]:
    system = alanine_system()
    model = alanine_model(dim)[0]
    return FlowBias(system, alanine_cv(dim), model, temperature, bias_factor), system


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_bias_is_the_share_of_the_free_energy(dim):
    """V = (1 - 1/gamma) (F_max - F) at every node where the flow has seen data, and zero where F is higher."""
    bias, _ = made(dim)
    model = alanine_model(dim)[0]
    nodes = np.stack(np.meshgrid(*bias.axes, indexing="ij"), axis=-1).reshape(-1, dim)
    free = model.free_energy(nodes, 300.0).astype(np.float64)
    values = bias.on_grid().ravel()
    seen = values > 1e-6
    highest = float(np.median((values / (1 - 1 / GAMMA) + free)[seen]))
    seen = free < highest
    assert 0.001 < seen.mean() < 1
    assert np.abs(values[seen] - (1 - 1 / GAMMA) * (highest - free[seen])).max() < 1e-4
    assert np.abs(values[~seen]).max() < 1e-4
    # what the flow draws lies in the seen part, but for a sample or two in many thousands
    drawn = model.free_energy(model.sample(5000, 300.0, seed=1), 300.0)
    assert (drawn > highest).mean() < 1e-3
    surface = bias.free_energy()
    assert surface.min() == 0
    assert np.abs(surface.ravel()[seen] - (free[seen] - free.min())).max() < 2e-4
    assert np.ptp(free[seen]) > 2 * KT  # there is something to see


def test_temperature_and_bias_factor_count():
    (warm, _), (hot, _), (weak, _) = made(2), made(2, temperature=450.0), made(2, bias_factor=2.0)
    model = alanine_model(2)[0]
    values = warm.on_grid().ravel()
    nodes = np.stack(np.meshgrid(*warm.axes, indexing="ij"), axis=-1).reshape(-1, 2)
    u = nodes[np.argsort(values)[-50:]]  # where all three have seen data
    slopes = {}
    for name, bias, temperature, gamma in (
        ("warm", warm, 300.0, GAMMA),
        ("hot", hot, 450.0, GAMMA),
        ("weak", weak, 300.0, 2.0),
    ):
        free = model.free_energy(u, temperature)
        slopes[name] = np.diff(bias.energy(u))
        assert slopes[name] == pytest.approx(-(1 - 1 / gamma) * np.diff(free), abs=1e-4)
    assert np.abs(slopes["warm"] - slopes["hot"]).max() > 0.1
    assert np.abs(slopes["warm"] - slopes["weak"]).max() > 0.1


def test_weights():
    bias, _ = made(2)
    u = np.random.default_rng(0).uniform(bias.cv.bounds[:, 0], bias.cv.bounds[:, 1], (100, 2))
    weights = bias.weights(u)
    assert weights.mean() == pytest.approx(1.0)
    assert np.log(weights) - np.log(weights[0]) == pytest.approx((bias.energy(u) - bias.energy(u[:1])) / KT)
    assert weights.max() > 2 * weights.min()


def test_it_does_not_change_in_time():
    bias, system = made(2)
    simulation = alanine_simulation(system)
    before = bias.coefficients.copy()
    bias.step(simulation, 20)
    assert simulation.currentStep == 20
    assert np.array_equal(bias.coefficients, before)
    u = bias.values(simulation.context)
    assert energy(simulation.context, bias.group) == pytest.approx(float(bias.energy(u)[0]), abs=1e-5)


@pytest.mark.parametrize("bias_factor", [1.0, 0.5, -3.0, float("nan")])
def test_invalid_bias_factors(bias_factor):
    with pytest.raises(SettingsError, match="bias_factor must be more than 1"):
        made(2, bias_factor=bias_factor)


@pytest.mark.parametrize(("temperature", "error"), [("warm", SettingsError), (0.0, DataError), (-300.0, DataError)])
def test_invalid_temperatures(temperature, error):
    with pytest.raises(error, match="temperature"):
        made(2, temperature=temperature)


def test_a_model_of_another_dimension_is_refused():
    system = alanine_system()
    count = system.getNumForces()
    with pytest.raises(DataError, match="latent dimensions"):
        FlowBias(system, alanine_cv(2), alanine_model(3)[0], 300.0, GAMMA)
    assert system.getNumForces() == count
