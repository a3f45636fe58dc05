"""The temperature that a simulation keeps, compared with that of a bias.

A bias is undone by weights exp(V / kT), and a history-dependent one grows by them too: at another temperature than the
simulation's all of them are wrong, and nothing shows it.
"""

from __future__ import annotations

from collections.abc import Iterator

import openmm
from openmm import app

from latf_sampling.core import arguments
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB, to_float

TOLERANCE = 1e-4
"""Temperatures that differ by less, relatively, are the same: constants of nature have been rounded in many ways."""
BAROSTATS = (
    openmm.MonteCarloBarostat,
    openmm.MonteCarloAnisotropicBarostat,
    openmm.MonteCarloMembraneBarostat,
    openmm.MonteCarloFlexibleBarostat,
)


def check_simulation(owner: str, simulation: app.Simulation) -> None:
    """Refuse anything else in the place of a simulation.

    Raises
    ------
    SettingsError
        It is no `openmm.app.Simulation`.
    """
    arguments.instance(owner, "simulation", simulation, app.Simulation, "an openmm.app.Simulation")


def check_temperature(owner: str, temperature: float, simulation: app.Simulation) -> None:
    """Compare the temperature of a bias with that of integrator, thermostat and barostat.

    Integrators of which it is not known whether they keep a temperature, such as a `CustomIntegrator` without a global
    variable kT, are taken as they are.

    Raises
    ------
    SettingsError
        One of them keeps another temperature, or the simulation keeps none.

    Examples
    --------
    >>> check_temperature("OPES", 300.0, simulation)  # doctest: +SKIP
    """
    integrator = _active(simulation.integrator)
    kept = dict(_of_forces(simulation))
    thermostat = "AndersenThermostat" in kept
    of_integrator = _of_integrator(integrator)
    if of_integrator is not None:
        kept[type(integrator).__name__] = of_integrator
    for name, kelvin in kept.items():
        if abs(kelvin - temperature) > TOLERANCE * temperature:
            raise SettingsError(
                f"{owner}: the bias is for {temperature:g} K, and the {name} of the simulation keeps {kelvin:g} K; "
                "give both the same temperature."
            )
    if of_integrator is None and not thermostat and not isinstance(integrator, openmm.CustomIntegrator):
        raise SettingsError(
            f"{owner}: the bias is for {temperature:g} K, and {_reason(integrator)}; take a LangevinMiddleIntegrator "
            "with a friction of 1/ps, or add an AndersenThermostat to the system."
        )


def _active(integrator: openmm.Integrator) -> openmm.Integrator:
    """The integrator that makes the steps: of a `CompoundIntegrator` the current one of its parts."""
    if isinstance(integrator, openmm.CompoundIntegrator):
        return integrator.getIntegrator(integrator.getCurrentIntegrator())
    return integrator


def _of_integrator(integrator: openmm.Integrator) -> float | None:
    """The temperature, K, that an integrator keeps by itself, or `None` if it keeps none or that is not known."""
    if isinstance(integrator, openmm.CustomIntegrator):
        names = [integrator.getGlobalVariableName(k) for k in range(integrator.getNumGlobalVariables())]
        return integrator.getGlobalVariableByName("kT") / KB if "kT" in names else None
    if isinstance(integrator, openmm.NoseHooverIntegrator) and not integrator.getNumThermostats():
        return None
    get_friction = getattr(integrator, "getFriction", None)
    if get_friction is not None and not to_float(get_friction(), "friction") > 0:
        return None
    get_temperature = getattr(integrator, "getTemperature", None)
    return None if get_temperature is None else to_float(get_temperature(), "temperature")


def _of_forces(simulation: app.Simulation) -> Iterator[tuple[str, float]]:
    """Thermostats and barostats of the system with their present temperatures, K."""
    for force in simulation.system.getForces():
        if isinstance(force, openmm.AndersenThermostat):
            acts = simulation.context.getParameter(force.CollisionFrequency()) > 0
        else:
            acts = isinstance(force, BAROSTATS) and force.getFrequency() > 0
        if acts:
            yield type(force).__name__, simulation.context.getParameter(force.Temperature())


def _reason(integrator: openmm.Integrator) -> str:
    name = type(integrator).__name__
    if hasattr(integrator, "getFriction"):
        return f"the {name} of the simulation has no friction, so that it keeps no temperature"
    return f"the {name} of the simulation keeps no temperature"
