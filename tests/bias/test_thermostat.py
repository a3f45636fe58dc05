"""The temperature of a bias against that of integrator, thermostat and barostat, with real simulations."""

from __future__ import annotations

import openmm
import pytest
from helpers.molecules import alanine_cv, alanine_model, pairs
from openmm import app, unit

from latf_sampling import FlowBias, Metadynamics, Umbrella, UmbrellaWindows, respa_integrator
from latf_sampling.bias.base import Bias
from latf_sampling.bias.thermostat import check_temperature
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB

REFERENCE = openmm.Platform.getPlatformByName("Reference")


def custom(temperature: float) -> openmm.CustomIntegrator:
    integrator = openmm.CustomIntegrator(0.002)
    integrator.addGlobalVariable("kT", KB * temperature)
    return integrator


def compound(*temperatures: float) -> openmm.CompoundIntegrator:
    integrator = openmm.CompoundIntegrator()
    for temperature in temperatures:
        integrator.addIntegrator(openmm.LangevinIntegrator(temperature, 1.0, 0.002))
    integrator.setCurrentIntegrator(len(temperatures) - 1)
    return integrator


INTEGRATORS = {
    "Langevin": lambda T: openmm.LangevinIntegrator(T, 1.0, 0.002),
    "middle": lambda T: openmm.LangevinMiddleIntegrator(T * unit.kelvin, 1.0 / unit.picosecond, 0.002),
    "variable": lambda T: openmm.VariableLangevinIntegrator(T, 1.0, 0.001),
    "Brownian": lambda T: openmm.BrownianIntegrator(T, 1.0, 0.002),
    "Nose-Hoover": lambda T: openmm.NoseHooverIntegrator(T, 1.0, 0.002),
    "MTS": lambda T: openmm.MTSLangevinIntegrator(
        T * unit.kelvin, 1.0 / unit.picosecond, 0.002 * unit.picosecond, [(0, 1)]
    ),
    "custom": custom,
    "compound": lambda T: compound(900.0, T),
}
KEEP_NONE = {
    "Verlet": lambda: openmm.VerletIntegrator(0.002),
    "variable Verlet": lambda: openmm.VariableVerletIntegrator(0.001),
    "friction 0": lambda: openmm.LangevinMiddleIntegrator(300.0, 0.0, 0.002),
    "Nose-Hoover without thermostat": lambda: openmm.NoseHooverIntegrator(0.002),
}


def periodic() -> openmm.Force:
    """A force by which a system is periodic, as barostats need it."""
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.5)
    force.addParticle(0, 1, 0)
    return force


def simulation(integrator: openmm.Integrator, *forces: openmm.Force) -> app.Simulation:
    """A particle in a box."""
    system, topology = openmm.System(), app.Topology()
    system.addParticle(10.0)
    topology.addAtom("A", app.element.argon, topology.addResidue("A", topology.addChain()))
    for force in forces:
        system.addForce(force)
    return app.Simulation(topology, system, integrator, REFERENCE)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_every_integrator_is_compared(name):
    check_temperature("OPES", 300.0, simulation(INTEGRATORS[name](300.0)))
    with pytest.raises(
        SettingsError, match=r"OPES: the bias is for 300 K, and the \w+ of the simulation keeps 600 K; g"
    ):
        check_temperature("OPES", 300.0, simulation(INTEGRATORS[name](600.0)))


@pytest.mark.parametrize("name", KEEP_NONE)
def test_a_simulation_without_a_thermostat_is_refused(name):
    with pytest.raises(SettingsError, match=r"\w+ of the simulation .*no temperature; take a LangevinMiddleIntegrator"):
        check_temperature("OPES", 300.0, simulation(KEEP_NONE[name]()))
    check_temperature("OPES", 300.0, simulation(KEEP_NONE[name](), openmm.AndersenThermostat(300.0, 1.0)))
    with pytest.raises(SettingsError, match="the AndersenThermostat of the simulation keeps 310 K"):
        check_temperature("OPES", 300.0, simulation(KEEP_NONE[name](), openmm.AndersenThermostat(310.0, 1.0)))
    with pytest.raises(SettingsError, match="no temperature"):  # without collisions
        check_temperature("OPES", 300.0, simulation(KEEP_NONE[name](), openmm.AndersenThermostat(300.0, 0.0)))


@pytest.mark.parametrize(
    "barostat",
    [
        lambda T: openmm.MonteCarloBarostat(1.0, T),
        lambda T: openmm.MonteCarloAnisotropicBarostat(openmm.Vec3(1, 1, 1), T),
        lambda T: openmm.MonteCarloMembraneBarostat(1.0, 0.0, T, 0, 0),
        lambda T: openmm.MonteCarloFlexibleBarostat(1.0, T),
    ],
)
def test_barostats_are_compared_with_their_present_temperature(barostat):
    force = barostat(600.0)
    made = simulation(openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002), periodic(), force)
    with pytest.raises(SettingsError, match=r"the MonteCarlo\w*Barostat of the simulation keeps 600 K"):
        check_temperature("OPES", 300.0, made)
    made.context.setParameter(force.Temperature(), 300.0)
    check_temperature("OPES", 300.0, made)
    middle = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
    check_temperature("OPES", 300.0, simulation(middle, periodic(), barostat(300.0)))
    off = barostat(600.0)
    off.setFrequency(0)
    middle = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
    check_temperature("OPES", 300.0, simulation(middle, periodic(), off))


def test_an_integrator_of_which_nothing_is_known_is_taken_as_it_is():
    check_temperature("OPES", 300.0, simulation(openmm.CustomIntegrator(0.002)))


def biased(integrator, make) -> tuple[app.Simulation, Bias]:
    topology, system, cv = pairs(1, "100 * (r - 1)^2")
    bias = make(system, cv)
    made = app.Simulation(topology, system, integrator(system, bias), REFERENCE)
    made.context.setPositions([[0, 0, 0], [1, 0, 0]])
    return made, bias


def hot(system, bias) -> openmm.Integrator:
    return openmm.LangevinMiddleIntegrator(600.0, 1.0, 0.002)


def test_a_bias_is_compared_at_its_first_step(tmp_path):
    made, bias = biased(hot, lambda system, cv: Metadynamics(system, cv, 300.0, 10, 1.0, 10))
    with pytest.raises(
        SettingsError, match="Metadynamics: the bias is for 300 K, and the LangevinMiddle.* keeps 600 K"
    ):
        bias.step(made, 10)
    assert made.currentStep == 0 and not len(bias.hills)
    made.integrator.setTemperature(300.0)
    bias.step(made, 10)
    assert len(bias.hills) == 1
    made, umbrella = biased(hot, lambda system, cv: Umbrella(system, cv, [1.0], 10.0))
    umbrella.step(made, 10)  # has no temperature
    windows = UmbrellaWindows(umbrella, [[0.9], [1.1]], 300.0, tmp_path)
    with pytest.raises(SettingsError, match="UmbrellaWindows: the bias is for 300 K, and .* keeps 600 K"):
        windows.run(made, equilibrate=2, steps=2, interval=1)


@pytest.mark.parametrize("temperature", [300.0, 310.0])
def test_respa_is_compared(temperature):
    made, bias = biased(
        lambda system, bias: respa_integrator(system, bias, temperature, 1.0, 0.002, 2),
        lambda system, cv: Metadynamics(system, cv, 300.0, 10, 1.0, 10),
    )
    if temperature == 300.0:
        bias.step(made, 1)
    else:
        with pytest.raises(SettingsError, match="the CustomIntegrator of the simulation keeps 310 K"):
            bias.step(made, 1)


def test_windows_refuse_a_second_bias(tmp_path):
    topology, system, cv = pairs(1, "100 * (r - 1)^2")
    umbrella = Umbrella(system, cv, [1.0], 10.0)
    Metadynamics(system, cv, 300.0, 10, 1.0, 10)
    made = app.Simulation(topology, system, openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002), REFERENCE)
    made.context.setPositions([[0, 0, 0], [1, 0, 0]])
    with pytest.raises(SettingsError, match="another bias acts in the system"):
        UmbrellaWindows(umbrella, [[0.9], [1.1]], 300.0, tmp_path).run(made, equilibrate=2, steps=2, interval=1)


def test_a_fixed_bias_that_is_not_in_the_simulation_is_noticed():
    from helpers.molecules import alanine_simulation, alanine_system

    model, _ = alanine_model()
    system = alanine_system()
    made = alanine_simulation(system)
    bias = FlowBias(system, alanine_cv(), model, 300.0, 8)
    assert bias.energy(bias.values(made.context)[None])[0] > 1
    with pytest.raises(SimulationError, match="make the bias first, and then the Simulation"):
        bias.step(made, 1)
    bias.step(alanine_simulation(system), 1)


def test_two_biases_of_one_kind_have_groups_of_their_own():
    _, system, cv = pairs(1, "100 * (r - 1)^2")
    first, second = (Metadynamics(system, cv, 300.0, 10, 1.0, 10) for _ in range(2))
    assert first.group != second.group
