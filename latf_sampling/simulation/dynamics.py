"""Langevin dynamics of walkers, also with steps that are divided into shorter ones."""

from __future__ import annotations

import math

import openmm

from latf_sampling.settings import IntegratorSettings
from latf_sampling.units import KB


def integrator(settings: IntegratorSettings, temperature: float, seed: int) -> openmm.LangevinMiddleIntegrator:
    """Langevin dynamics at a temperature, with a seed."""
    dynamics = openmm.LangevinMiddleIntegrator(temperature, settings.friction, settings.timestep)
    dynamics.setRandomNumberSeed(seed)
    return dynamics


def divided_integrator(
    timestep: float, parts: int, friction: float, temperature: float, seed: int
) -> openmm.CustomIntegrator:
    """`openmm.LangevinMiddleIntegrator` whose every step consists of several shorter ones.

    Steps are counted as without the division, so that frames and hills come at the same times.

    Parameters
    ----------
    timestep
        Time of a whole step, ps.
    parts
        Number of shorter steps in it, each with all forces.
    friction
        1/ps.
    temperature
        K.
    seed
        Of the random forces.

    Examples
    --------
    >>> divided_integrator(0.004, 2, 1.0, 300.0, seed=1).getStepSize()._value
    0.004
    """
    short, kT = timestep / parts, KB * temperature
    decay = math.exp(-friction * short)
    dynamics = openmm.CustomIntegrator(timestep)
    dynamics.addGlobalVariable("h", short)
    dynamics.addGlobalVariable("decay", decay)
    dynamics.addGlobalVariable("kT", kT)  # read by `latf_sampling.bias.thermostat.check_temperature`
    dynamics.addGlobalVariable("noise", math.sqrt((1 - decay**2) * kT))
    dynamics.addPerDofVariable("free", 0)
    dynamics.addUpdateContextState()
    for _ in range(parts):
        dynamics.addComputePerDof("v", "v + h*f/m")
        dynamics.addConstrainVelocities()
        dynamics.addComputePerDof("x", "x + 0.5*h*v")
        dynamics.addComputePerDof("v", "decay*v + noise/sqrt(m)*gaussian")
        dynamics.addComputePerDof("x", "x + 0.5*h*v")
        dynamics.addComputePerDof("free", "x")
        dynamics.addConstrainPositions()
        dynamics.addComputePerDof("v", "v + (x - free)/h")
    dynamics.setRandomNumberSeed(seed)
    return dynamics
