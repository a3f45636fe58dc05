"""The flow's density as a bias."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import (
    alanine_cv,
    alanine_model,
    alanine_simulation,
    alanine_system,
    energy,
    fit_flow,
    line_model,
)
from scipy.ndimage import gaussian_filter1d

from latf_sampling.bias import FlowBias, flow_density
from latf_sampling.bias.flow_density import joining_level
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB

KT = KB * 300.0
GAMMA = 5.0


def made(dim: int, temperature=300.0, bias_factor: float = GAMMA) -> tuple[FlowBias, openmm.System]:
    system = alanine_system()
    model = alanine_model(dim)[0]
    return FlowBias(system, alanine_cv(dim), model, temperature, bias_factor), system


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_bias_is_the_share_of_the_free_energy(dim):
    """V = (1 - 1/gamma) (F_max - F) where the flow has seen data, and zero where F is higher, smoothed."""
    bias, _ = made(dim)
    model = alanine_model(dim)[0]
    points = np.stack(np.meshgrid(*bias.grid.nodes(), indexing="ij"), axis=-1)
    free = model.free_energy(points.reshape(-1, dim), 300.0).astype(np.float64).reshape(points.shape[:-1])
    highest = float(model.free_energy(model.sample(20_000, 300.0, seed=0), 300.0).max())
    expected = (1 - 1 / GAMMA) * np.maximum(highest - free, 0)
    # a Gaussian of half a hill width, along one dimension after the other
    for axis, count in enumerate(expected.shape):
        apart = (np.arange(count)[:, None] - np.arange(count)) * bias.grid.step[axis] / bias.hill_width[axis]
        matrix = np.exp(-0.5 * (apart / 0.5) ** 2)
        expected = np.moveaxis(np.tensordot(matrix / matrix.sum(1), expected, (1, axis)), 0, axis)
    values = bias.on_grid()
    inside = expected[bias.grid.between_walls()]
    assert np.abs(values - inside).max() < 1e-2 * inside.max()
    seen = free < highest
    assert 0.001 < seen.mean() < 1
    assert values.min() > -1e-6
    # what the flow draws lies in the seen part, but for a sample or two in many thousands
    drawn = model.free_energy(model.sample(5000, 300.0, seed=1), 300.0)
    assert (drawn > highest).mean() < 1e-3
    surface = bias.free_energy()
    assert surface.min() == 0
    assert surface == pytest.approx((values.max() - values) / (1 - 1 / GAMMA))
    assert np.ptp(free[seen]) > 2 * KT  # there is something to see


def test_a_flow_that_was_trained_on_biased_frames_fills_wells_up_to_the_pass(monkeypatch):
    """Between two wells without a sample between them, V ends at the level of the pass, and without a bias before."""
    monkeypatch.setattr(flow_density, "SAMPLES", 100)
    model = copy.deepcopy(alanine_model(1)[0])
    u = torch.tensor([[-1.0], [1.0]]).repeat(2000, 1)
    u = u + 0.1 * torch.randn(u.shape, generator=torch.Generator().manual_seed(5))
    fit_flow(model.networks.flow, u * 3 * float(model.latent_spread[0]), steps=150)
    cv, system = alanine_cv(1), alanine_system()
    before = FlowBias(system, cv, model, 300.0, GAMMA)
    model.provenance = {**model.provenance, "biased_temperatures": [300.0]}
    after = FlowBias(alanine_system(), cv, model, 300.0, GAMMA)
    log_p = flow_density.flow_log_prob(model, 300.0, after.grid.nodes())
    center = len(log_p) // 2
    left, right = log_p[:center].argmax(), center + log_p[center:].argmax()
    level = log_p.max() - log_p[left:right].min()
    assert after.on_grid().max() == pytest.approx((1 - 1 / GAMMA) * KT * level, rel=0.15)  # it is smoothed
    assert before.on_grid().max() < after.on_grid().max() - KT


def test_the_level_at_which_regions_are_joined():
    """The highest level is sought that joins nearly all samples, over corners, too; a stray one does not count."""
    surface = np.full((5, 5), -9.0)
    surface[0, 0], surface[1, 1], surface[2, 2], surface[4, 4], surface[3, 3] = 0.0, -2.0, -1.0, -0.5, -3.0
    nodes = [np.arange(5.0), np.arange(5.0)]
    one, other, stray = np.zeros((500, 2)), np.full((500, 2), 2.2), np.array([[4.0, 4.0]])
    assert joining_level(surface, nodes, np.concatenate([one, other])) == -2.0
    assert joining_level(surface, nodes, np.concatenate([one, other, stray])) == -2.0
    assert joining_level(surface, nodes, np.concatenate([one, other, stray, stray])) == -3.0
    assert joining_level(surface, nodes, one) == 0.0
    assert joining_level(surface, nodes, np.array([[0.0, 0.0], [9.0, -9.0]])) == -9.0


def test_temperature_and_bias_factor_count():
    (warm, _), (hot, _), (weak, _) = made(2), made(2, temperature=450.0), made(2, bias_factor=2.0)
    assert weak.on_grid() == pytest.approx((1 - 1 / 2) / (1 - 1 / GAMMA) * warm.on_grid(), abs=1e-9)
    assert np.abs(warm.on_grid() - hot.on_grid()).max() > 1


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


@pytest.mark.parametrize("temperature", ["warm", 0.0, -300.0])
def test_invalid_temperatures(temperature):
    with pytest.raises(SettingsError, match="temperature"):
        made(2, temperature=temperature)


@pytest.mark.parametrize("frequency", [0, -5, 2.5, True])
def test_invalid_frequencies(frequency):
    with pytest.raises(SettingsError, match="FlowBias: frequency must be a whole number of steps"):
        FlowBias(alanine_system(), alanine_cv(2), alanine_model(2)[0], 300.0, 5.0, frequency=frequency)


def test_a_model_of_another_dimension_is_refused():
    system = alanine_system()
    count = system.getNumForces()
    with pytest.raises(SettingsError, match="the model has 3 latent dimensions, the variable 2"):
        FlowBias(system, alanine_cv(2), alanine_model(3)[0], 300.0, GAMMA)
    assert system.getNumForces() == count


def test_of_a_latent_line_the_bias_is_that_of_the_component_along_it():
    """Two states are told apart by one number. In two dimensions their density is a needle that no grid holds."""
    model = line_model()
    assert model.used_components == [0]
    bias = FlowBias(alanine_system(), alanine_cv(2), model, 300.0, GAMMA)
    values = bias.on_grid()
    assert np.ptp(values, axis=1).max() < 1e-6 * np.ptp(values)
    along = model.marginal_log_prob(bias.grid.nodes()[0][:, None].astype(np.float32), 300.0)
    lowest = model.marginal_log_prob(model.sample(20_000, 300.0, seed=0)[:, :1], 300.0).min()
    seen = (1 - 1 / GAMMA) * KT * np.maximum(along.astype(float) - lowest, 0)
    expected = gaussian_filter1d(seen, 0.5 * bias.hill_width[0] / bias.grid.step[0], mode="nearest")[
        bias.grid.between_walls()[0]
    ]
    assert np.ptp(expected) > 2 * KT
    assert np.abs(values[:, 0] - expected).max() < 1e-3 * np.ptp(expected)


def test_a_simulation_with_the_bias_of_a_latent_line():
    system = alanine_system()
    bias = FlowBias(system, alanine_cv(2), line_model(), 300.0, GAMMA)
    made = alanine_simulation(system)
    bias.step(made, 500)
    u = bias.values(made.context)
    assert np.isfinite(u).all()
    assert energy(made.context, bias.group) == pytest.approx(bias.energy(u)[0], abs=1e-4)
