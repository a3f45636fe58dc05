"""Multiple time steps: the bias now and then, the rest at every step."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from helpers.molecules import alanine_cv, alanine_system, pairs, positions
from openmm import app, unit

from latf_sampling.bias import Umbrella, respa_integrator
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB

KT = KB * 300.0


def pair(stride: int, timestep: float, stiffness: float = 400.0):
    """A pair of particles in a harmonic well of the distance, and an umbrella that shifts it."""
    topology, system, cv = pairs(1, "100*(r-1)^2", mass=20.0)
    umbrella = Umbrella(system, cv, [1.1], stiffness)
    integrator = respa_integrator(system, umbrella, 300.0, 2.0, timestep, stride, seed=1)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(np.array([[0.0, 0, 0], [1.05, 0, 0]]))
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    return simulation, umbrella


@pytest.mark.usefixtures("machine_code")
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_sampled_distribution_is_that_of_all_forces(stride):
    """Mean and spread of the distance, against an integral, within four standard errors."""
    simulation, umbrella = pair(stride, 0.005)
    found = []
    for _ in range(3000):
        umbrella.step(simulation, 40 // stride)
        found.append(umbrella.values(simulation.context)[0])
    found = np.array(found[100:])
    r = np.linspace(0.5, 1.6, 20_001)
    density = r**2 * np.exp(-(100 * (r - 1) ** 2 + 200 * (r - 1.1) ** 2) / KT)
    density /= density.sum()
    mean = r @ density
    spread = np.sqrt((r - mean) ** 2 @ density)
    blocks = found.reshape(29, 100)
    assert found.mean() == pytest.approx(mean, abs=4 * blocks.mean(1).std() / np.sqrt(29))
    assert found.std() == pytest.approx(spread, abs=4 * blocks.std(1).std() / np.sqrt(29) + 2e-3 * spread)
    assert abs(mean - 1.1) > 0.02 and abs(mean - 1.0) > 0.02  # both wells count


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_energy_does_not_drift_without_friction(stride):
    """With constraints, over 20 ps: the drift of the total energy stays below 0.05 kT per picosecond."""
    system, cv = alanine_system(), alanine_cv(2)
    start = cv(positions())
    umbrella = Umbrella(system, cv, start, 1.0 / cv.sigma**2)
    integrator = respa_integrator(system, umbrella, 300.0, 0.0, 0.0005, stride)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions())
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    context.setVelocitiesToTemperature(150.0, 1)
    totals, bias = [], []
    for _ in range(200):
        integrator.step(200 // stride)
        state = context.getState(getEnergy=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
        bias.append(context.getState(getEnergy=True, groups={umbrella.group}).getPotentialEnergy()._value)
    slope = np.polyfit(0.1 * np.arange(200), totals, 1)[0]
    assert abs(slope) < 0.05 * KT
    assert np.std(totals) < 0.5 * KT
    assert np.std(bias) > 0.05  # the bias takes part


@pytest.mark.parametrize("stride", [1, 4])
def test_reported_temperature_is_that_of_the_bath(stride):
    """With constraints, whose forces are no part of a kick: as reporters compute it, within four standard errors."""
    system, cv = alanine_system(), alanine_cv(1)
    umbrella = Umbrella(system, cv, cv(positions()), 0.0)
    integrator = respa_integrator(system, umbrella, 300.0, 20.0, 0.001, stride, seed=1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions())
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    context.setVelocitiesToTemperature(300.0, 1)
    found = []
    for _ in range(1000):
        integrator.step(40 // stride)
        found.append(context.getState(getEnergy=True).getKineticEnergy()._value)
    degrees = 3 * system.getNumParticles() - system.getNumConstraints() - 3  # the system removes its drift
    blocks = (2 * np.array(found[100:]) / (degrees * KB)).reshape(30, 30).mean(1)
    assert blocks.mean() == pytest.approx(300, abs=4 * blocks.std() / np.sqrt(29) + 3)


def test_a_stride_of_one_is_the_bias_at_every_step():
    simulation, umbrella = pair(1, 0.005)
    umbrella.step(simulation, 10)
    assert simulation.integrator.getStepSize()._value == pytest.approx(0.005)
    assert simulation.currentStep == 10


def test_units_and_seed():
    _, system, cv = pairs(1, "100*(r-1)^2")
    umbrella = Umbrella(system, cv, [1.0], 10.0)
    made = respa_integrator(system, umbrella, 300 * unit.kelvin, 2 / unit.picosecond, 2 * unit.femtosecond, 4, seed=7)
    assert made.getStepSize()._value == pytest.approx(0.008)
    assert made.getRandomNumberSeed() == 7


@pytest.mark.parametrize("stride", [0, -1, 1.5, True, "often"])
def test_other_strides_are_refused(stride):
    _, system, cv = pairs(1, "100*(r-1)^2")
    umbrella = Umbrella(system, cv, [1.0], 10.0)
    with pytest.raises(SettingsError, match="stride must be a whole number of steps"):
        respa_integrator(system, umbrella, 300.0, 1.0, 0.002, stride)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-300.0, 1.0, 0.002), "temperature: must be more than 0"),
        ((300.0, -1.0, 0.002), "friction must not be negative"),
        ((300.0, 1.0, 0.0), "timestep must be more than 0"),
    ],
)
def test_other_numbers_are_refused(arguments, message):
    _, system, cv = pairs(1, "100*(r-1)^2")
    umbrella = Umbrella(system, cv, [1.0], 10.0)
    with pytest.raises(SettingsError, match=message):
        respa_integrator(system, umbrella, *arguments, stride=2)
    with pytest.raises(SettingsError, match="does not contain the bias"):
        respa_integrator(pairs(1, "r")[1], umbrella, 300.0, 1.0, 0.002, stride=2)
