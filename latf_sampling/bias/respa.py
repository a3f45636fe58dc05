"""The bias every few steps: multiple time steps by RESPA."""

from __future__ import annotations

import math

import openmm

from latf_sampling.bias.arguments import number_above, whole_steps
from latf_sampling.bias.base import Bias
from latf_sampling.core import arguments
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB, FrictionLike, TemperatureLike, TimeLike, to_float, to_kelvin


def respa_integrator(
    system: openmm.System,
    bias: Bias,
    temperature: TemperatureLike,
    friction: FrictionLike,
    timestep: TimeLike,
    stride: int,
    seed: int = 0,
) -> openmm.CustomIntegrator:
    """Langevin dynamics that evaluates a bias every `stride` steps, and all other forces at every step.

    `openmm.LangevinMiddleIntegrator`, with a kick by the bias, `stride` times as long, before every `stride`-th of its
    own steps. Each force is evaluated once where it is needed; `openmm.MTSLangevinIntegrator` evaluates the others once
    more in every step of the bias, which costs more than it saves where these are expensive. One step of this
    integrator is `stride` steps of `timestep`; ``simulation.currentStep`` and the numbers of steps that a bias is given
    count these longer steps. Stable as long as `stride * timestep` is well below the period of the fastest motion along
    the collective variable; 2 or 4 are usual. Sources: Tuckerman, Berne, Martyna, doi:10.1063/1.463137; for biases
    Ferrarotti, Bottaro, Perez-Villa, Bussi, doi:10.1021/ct5007086; middle scheme: Zhang et al.,
    doi:10.1021/acs.jpca.9b02771.

    Parameters
    ----------
    system
        The system that the bias was made with.
    bias
        The bias that is evaluated less often.
    temperature, friction, timestep
        K, 1/ps and ps, or quantities; `timestep` is that of the other forces.
    stride
        Steps from one evaluation of the bias to the next.
    seed
        Of the random forces; 0 lets OpenMM choose.

    Raises
    ------
    SettingsError
        A number is out of range; the message names it. Or the system does not contain the bias.

    Examples
    --------
    >>> integrator = respa_integrator(system, bias, 300.0, 1.0, 0.002, stride=4)  # doctest: +SKIP
    """
    arguments.instance("respa_integrator", "system", system, openmm.System, "an openmm.System")
    arguments.instance("respa_integrator", "bias", bias, Bias, "a bias, such as a Metadynamics")
    stride = whole_steps("respa_integrator", "stride", stride)
    step = number_above("respa_integrator", "timestep", to_float(timestep, "time", "respa_integrator: timestep"), 0)
    kT = KB * to_kelvin(temperature, "respa_integrator: temperature")
    rate = to_float(friction, "friction", "respa_integrator: friction")
    if rate < 0:
        raise SettingsError(f"respa_integrator: friction must not be negative; got {friction}.")
    seed = arguments.whole("respa_integrator", "seed", seed)
    decay = math.exp(-rate * step)
    groups = {force.getForceGroup() for force in system.getForces()}
    if bias.group not in groups:
        raise SettingsError("respa_integrator: the system does not contain the bias; make the bias with this system.")
    others = sorted(groups - {bias.group})
    integrator = openmm.CustomIntegrator(stride * step)
    integrator.addGlobalVariable("h", step)
    integrator.addGlobalVariable("decay", decay)
    integrator.addGlobalVariable("kT", kT)  # read by `check_temperature`
    integrator.addGlobalVariable("noise", math.sqrt((1 - decay**2) * kT))
    integrator.addPerDofVariable("free", 0)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", f"v + dt*f{bias.group}/m")
    for _ in range(stride):
        for group in others:
            integrator.addComputePerDof("v", f"v + h*f{group}/m")
        integrator.addConstrainVelocities()
        integrator.addComputePerDof("x", "x + 0.5*h*v")
        integrator.addComputePerDof("v", "decay*v + noise/sqrt(m)*gaussian")
        integrator.addComputePerDof("x", "x + 0.5*h*v")
        integrator.addComputePerDof("free", "x")
        integrator.addConstrainPositions()
        integrator.addComputePerDof("v", "v + (x - free)/h")
    integrator.setRandomNumberSeed(seed)
    return integrator
