"""The bias every few steps: multiple time steps by RESPA."""

from __future__ import annotations

import openmm

from latf_sampling.bias.force import Bias
from latf_sampling.errors import SettingsError
from latf_sampling.units import to_float


def respa_integrator(
    system: openmm.System, bias: Bias, temperature, friction, timestep, stride: int, seed: int = 0
) -> openmm.MTSLangevinIntegrator:
    """Langevin dynamics that evaluates a bias every `stride` steps, and all other forces at every step.

    One step of this integrator is `stride` steps of `timestep`, so that ``simulation.currentStep`` and the numbers of
    steps that a bias is given count these. The bias acts as `stride` times its force, once. That is exact in the limit
    of small steps, and stable as long as `stride * timestep` is well below the period of the fastest motion along the
    collective variable; 2 or 4 is what one tries. Sources: Tuckerman, Berne, Martyna, doi:10.1063/1.463137; for biases
    Ferrarotti, Bottaro, Perez-Villa, Bussi, doi:10.1021/ct5007086.

    Parameters
    ----------
    system
        With the bias in it.
    bias
        What is evaluated less often.
    temperature, friction, timestep
        K, 1/ps and ps, or quantities; `timestep` is that of the other forces.
    stride
        Steps from one evaluation of the bias to the next.
    seed
        Of the random forces; 0 lets OpenMM choose.

    Raises
    ------
    SettingsError
        `stride` is no positive whole number.

    Examples
    --------
    >>> integrator = respa_integrator(system, bias, 300.0, 1.0, 0.002, stride=4)  # doctest: +SKIP
    """
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise SettingsError(f"stride must be a positive whole number of steps; got {stride!r}.")
    others = sorted({force.getForceGroup() for force in system.getForces()} - {bias.group})
    integrator = openmm.MTSLangevinIntegrator(
        to_float(temperature, "temperature", "temperature"),
        to_float(friction, "friction", "friction"),
        stride * to_float(timestep, "time", "timestep"),
        [(bias.group, 1), *((group, stride) for group in others)],
    )
    integrator.setRandomNumberSeed(seed)
    return integrator
