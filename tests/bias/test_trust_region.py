"""The region of latent space that a model knows: what is inside, and what happens to a walker that leaves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.molecules import (
    PROVENANCE,
    SMALL_FLOW,
    alanine_cv,
    alanine_model,
    alanine_simulation,
    alanine_system,
    context,
    energy,
    forces,
    frames,
    gradient,
    line_model,
    pairs,
    random_model,
    simulation,
)
from openmm import unit
from scipy.spatial import cKDTree

from latf_sampling.bias import OPES, Metadynamics, TrustRegion
from latf_sampling.bias.grid import BEHIND, WALL
from latf_sampling.errors import LeftTrustRegion, SettingsError, SimulationError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.units import KB

THRESHOLD = {1: 6.0, 2: 20.0}
"""kT; a good part of the box is inside, and a good part outside."""
NARROW = {1: 0.5, 2: 6.0}
"""kT; most structures of alanine dipeptide with some noise are outside."""


def region(dim: int = 2, threshold: float | None = None, **settings) -> TrustRegion:
    return TrustRegion(alanine_model(dim)[0], 300.0, threshold or THRESHOLD[dim], **settings)


def pair_model() -> LaTF:
    """A model of one distance, with its region somewhere in the middle of the box."""
    model = LaTF(latent_dim=1, **SMALL_FLOW)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.networks = Networks(model.settings, 1, 2)
        model.trained = True
    model.provenance = {**PROVENANCE}
    u = torch.from_numpy(np.random.default_rng(0).normal(1.0, 0.1, (2000, 1)).astype(np.float32))
    model.latent_bounds.copy_(torch.stack([u.amin(0), u.amax(0)], dim=1))
    model.networks.flow.fit(u, torch.ones(len(u)), torch.tensor(0.01))
    return model


def held(dim: int, **settings):
    """A system with a bias that has a trust region and nothing else yet."""
    system, trust = alanine_system(), region(dim, **settings)
    return Metadynamics(system, alanine_cv(dim), 300.0, 5.0, 1.0, 5, trust=trust), system, trust


def rising(distance: np.ndarray) -> np.ndarray:
    """Energy of the wall so many hill widths outside."""
    return np.where(distance < BEHIND, 0.5 * WALL * distance**2, WALL * BEHIND * (distance - 0.5 * BEHIND))


def scattered(bias: Metadynamics, count: int = 4000, seed: int = 0) -> np.ndarray:
    """Points between the walls."""
    return np.random.default_rng(seed).uniform(bias.low, bias.high, (count, bias.cv.dim))


@pytest.mark.parametrize("dim", [1, 2])
def test_height_is_the_flows_free_energy_above_its_lowest(dim):
    trust, model = region(dim), alanine_model(dim)[0]
    u = model.sample(500, 300.0, seed=3)
    height = trust.height(u)
    rise = (model.free_energy(u, 300.0) - model.free_energy(u[:1], 300.0)) / (KB * 300.0)
    assert height == pytest.approx(trust.height(u[:1])[0] + rise, abs=1e-3)
    assert -0.5 < height.min() < 1 and height.max() > 3
    assert (height <= 15).all()  # a sample in millions is beyond
    far = model.latent_bounds[:, 1].numpy()[None] + 50.0
    assert trust.height(far)[0] > 100


def test_a_model_in_reduced_units_has_the_same_region():
    model, features = alanine_model(2)
    other = random_model(features, features(frames(200)), 2, seed=2)
    other.boltzmann = 1.0
    u = model.sample(100, 300.0, seed=1)
    assert np.array_equal(TrustRegion(other, 300.0).height(u), TrustRegion(model, 300.0).height(u))


@pytest.mark.parametrize("dim", [1, 2])
def test_wall_is_zero_inside_and_grows_with_the_distance_outside(dim):
    bias, _, trust = held(dim)
    u = scattered(bias)
    inside = trust.height(u) <= THRESHOLD[dim]
    assert 50 < inside.sum() < len(u) - 50
    wall = bias.energy(u)
    # Distance in hill widths from the closest of many points inside. The region is known on the grid alone, at nodes a
    # quarter of a width apart, and a point lies on a line between nodes.
    dense = scattered(bias, 200_000, seed=1)
    tree = cKDTree(dense[trust.height(dense) <= THRESHOLD[dim]] / bias.hill_width)
    distance = np.where(inside, 0.0, tree.query(u / bias.hill_width)[0])
    blur = 0.25 * np.sqrt(dim) + 0.1
    low, high = (rising(np.maximum(distance + off, 0)) for off in (-blur, blur))
    assert (wall > low - 1.0).all() and (wall < high + 3.0).all()
    outside = cKDTree(dense[trust.height(dense) > THRESHOLD[dim]] / bias.hill_width)
    deep = inside & (outside.query(u / bias.hill_width)[0] > 4 * blur)
    assert deep.sum() > 20 and np.abs(wall[deep]).max() < 0.02
    assert wall.max() > 50


def test_wall_pushes_back_from_anywhere_in_the_box():
    """A walker that starts far outside feels the wall too, as steep as five widths outside."""
    trust, width = region(1), alanine_cv(1).sigma
    low, high = alanine_cv(1).bounds[0]
    nodes = np.arange(low - 15 * width[0], high + 15 * width[0], 0.1 * width[0])
    inside = trust.height(nodes[:, None]) <= THRESHOLD[1]
    distance = np.abs(nodes[:, None] - nodes[inside]).min(1) / width[0]
    assert distance.max() > BEHIND + 5
    wall = trust._wall([nodes], width)
    assert wall == pytest.approx(rising(distance))
    assert np.abs(np.gradient(wall, nodes / width[0]))[distance > BEHIND + 0.5] == pytest.approx(WALL * BEHIND)


@pytest.mark.parametrize("dim", [1, 2])
def test_force_is_minus_the_gradient(dim):
    """Of the wall in OpenMM, on structures outside the region."""
    bias, system, trust = held(dim, threshold=NARROW[dim])
    pushed = 0
    for x in frames(6, seed=5, noise=0.02):
        made = context(system, x)
        u = bias.cv(x)
        assert energy(made, bias.group) == pytest.approx(float(bias.energy(u)[0]), abs=1e-6)
        expected = -gradient(lambda many: bias.energy(bias.cv(many)), x, h=1e-5)
        found = forces(made, bias.group)
        assert np.abs(found - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
        pushed += bool(trust.height(u[None])[0] > NARROW[dim] and np.abs(found).max() > 10)
    assert pushed >= 2


@pytest.mark.parametrize("kind", [Metadynamics, OPES])
def test_wall_is_no_part_of_what_was_learned(kind):
    """Neither of the free energy nor of the offset, and hills do not get lower by it."""
    narrow, found = region(2, threshold=NARROW[2]), []
    x = max(frames(100, seed=5, noise=0.02), key=lambda x: narrow.height(alanine_cv(2)(x)[None])[0])
    for trust in (None, narrow):
        system = alanine_system()
        settings = {"bias_factor": 5.0, "height": 4.0} if kind is Metadynamics else {"barrier": 30.0}
        bias = kind(system, alanine_cv(2), 300.0, frequency=5, trust=trust, **settings)
        made = alanine_simulation(system)
        made.context.setPositions(x)
        wall = float(bias.energy(bias.values(made.context))[0])
        bias.update(made)
        found.append((wall, bias.own_kernels.copy(), bias.free_energy(), bias.offset()))
    assert found[0][0] == 0 and found[1][0] > 5
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-9)
    assert np.array_equal(np.isfinite(found[1][2]), np.isfinite(found[0][2]))
    there = np.isfinite(found[0][2])
    assert np.abs(found[1][2][there] - found[0][2][there]).max() < 1e-6
    assert found[1][3] == pytest.approx(found[0][3], abs=1e-6)


# -------------------------------------------------------------------------------------------------------- walkers


def test_hold_brings_a_walker_back():
    """A pair of particles without any force but that of the wall, far apart."""
    topology, system, cv = pairs(1, "0*r")
    model = pair_model()
    cv.metadata["encoder"] = model.encoder_fingerprint()  # as if the variable were that of this model
    trust = TrustRegion(model, 300.0, 4.0)
    bias = Metadynamics(system, cv, 300.0, 5.0, 1e-6, 10, trust=trust)
    inside = bias.axes[0][bias.energy(bias.axes[0][:, None]) < 1e-3]
    assert 0.15 < np.ptp(inside) < 1.0
    edge = inside.max()
    start = edge + 3.5 * bias.hill_width[0]
    assert bias.low[0] < start < bias.high[0]
    made = simulation(topology, system, np.array([[0.0, 0, 0], [start, 0, 0]]), timestep=0.01, friction=5.0)
    assert trust.height(np.array([[start]]))[0] > 4
    seen = []
    for _ in range(300):
        bias.step(made, 10)
        seen.append(bias.values(made.context)[0])
    assert max(seen[20:]) < edge + 2 * bias.hill_width[0]  # 16 kT up the wall
    assert np.mean(np.array(seen[20:]) <= edge) > 0.5


def test_stop_ends_the_simulation_and_names_the_step():
    cv, system = alanine_cv(2), alanine_system()
    trust = region(2, threshold=14.0, on_leaving="stop")
    bias = Metadynamics(system, cv, 300.0, 5.0, 1.0, 2, trust=trust)
    assert not bias.coefficients.any()  # no wall
    made = alanine_simulation(system)
    with pytest.raises(LeftTrustRegion, match=r"at step (\d+) the walker left .* the threshold is 14 kT") as caught:
        bias.step(made, 4000)
    assert isinstance(caught.value, SimulationError)
    assert 0 < made.currentStep < 4000 and made.currentStep % 2 == 0
    assert f"at step {made.currentStep} " in str(caught.value)
    assert trust.height(bias.values(made.context)[None])[0] > 14
    assert bias.hills[-1, 0] == made.currentStep and np.isfinite(bias.coefficients).all()
    earlier = bias.hills[:-1, 1:3]
    assert len(earlier) and (trust.height(earlier) <= 14 + 1e-3).all()


def test_stop_lets_a_walker_inside_go_on():
    bias, system, _ = held(2, threshold=1000.0, on_leaving="stop")
    made = alanine_simulation(system)
    bias.step(made, 50)
    assert len(bias.hills) == 10


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan"), float("inf"), None, "high", [1.0]])
def test_thresholds_that_make_no_sense_are_refused(threshold):
    with pytest.raises(SettingsError, match=r"TrustRegion: threshold \(kT\) must be a number above 0; got"):
        TrustRegion(alanine_model(2)[0], 300.0, threshold)


def test_other_nonsense_is_refused():
    model = alanine_model(2)[0]
    with pytest.raises(SettingsError, match="on_leaving must be 'hold' or 'stop'; got 'jump'"):
        TrustRegion(model, 300.0, on_leaving="jump")
    for temperature in (0, -5.0, 2 * unit.nanometer, "warm", float("nan")):
        with pytest.raises(SettingsError, match="temperature"):
            TrustRegion(model, temperature)
    assert TrustRegion(model, 350 * unit.kelvin).temperature == 350.0


def test_a_region_outside_the_box_is_refused():
    cv = alanine_cv(2)
    cv.bounds = cv.bounds + 1000
    with pytest.raises(SettingsError, match="contains no point of the region; raise threshold"):
        Metadynamics(alanine_system(), cv, 300.0, 5.0, 1.0, 5, trust=region(2))


def test_of_a_latent_line_the_component_along_it_counts():
    trust, model = TrustRegion(line_model(), 300.0, threshold=NARROW[2]), line_model()
    u = model.sample(200, 300.0, seed=4)
    height = trust.height(u)
    assert -0.5 < height.min() < 1 and height.max() < 15
    assert np.array_equal(trust.height(u + [0.0, 3.0]), height)
    assert (trust.height(u + [100.0, 0.0]) > 100).all()
    cv = alanine_cv(2)
    nodes = [np.linspace(*(side + 2 * np.ptp(side) * np.array([-1, 1])), 61) for side in cv.bounds]
    wall = trust._wall(nodes, cv.sigma)
    assert wall.shape == (61, 61) and np.ptp(wall, axis=1).max() == 0
    inside = trust.height(np.stack([nodes[0], nodes[1]], 1)) <= NARROW[2]
    assert 5 < inside.sum() < 56
    assert np.array_equal(wall[:, 0] == 0, inside)
