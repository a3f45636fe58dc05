"""How a simulation that exploded is recognized, and what to say about it: the likely cause, from its settings."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.data.failures import Failure
from latf_sampling.errors import LatfError, SimulationError
from latf_sampling.settings import AnyBiasSettings
from latf_sampling.units import KB

if TYPE_CHECKING:  # `latf check` needs no torch
    from latf_sampling.bias import Bias

HEAVY_HYDROGEN = 2.5
"""amu; from here on hydrogens count as made heavier, which allows twice the time step."""


KINETIC_LIMIT = 10.0
"""A kinetic energy so many times its mean, and `KINETIC_MARGIN` more, is no fluctuation: one particle exceeds it less
than once in 10^26 frames. A structure that relaxes from a bad start hardly ever doubles the mean."""
KINETIC_MARGIN = 50.0
"""kT."""


class Explosion(SimulationError):
    """A simulation exploded; the walker can be rolled back.

    Attributes
    ----------
    failure : Failure
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class KineticLimit:
    """The kinetic energy above which a simulation has diverged, although all numbers are still finite.

    Parameters
    ----------
    system
        Its particles with mass, less its constraints, are the degrees of freedom.
    temperature
        K.

    Attributes
    ----------
    energy : float
        kJ/mol.
    """

    def __init__(self, system: openmm.System, temperature: float) -> None:
        masses: list[Any] = [system.getParticleMass(index)._value for index in range(system.getNumParticles())]
        self._masses = np.array(masses)
        freedom = 3 * int((self._masses > 0).sum()) - system.getNumConstraints()
        self.temperature, self._mean = temperature, 0.5 * freedom * KB * temperature
        self.energy = KINETIC_LIMIT * self._mean + KINETIC_MARGIN * KB * temperature

    def kinetic_energy(self, velocities: np.ndarray) -> float:
        """Kinetic energy of velocities (N, 3) in nm/ps, kJ/mol."""
        return 0.5 * float(self._masses @ (velocities**2).sum(axis=1))

    def excess(self, kinetic: float) -> str | None:
        """What to say about a kinetic energy, kJ/mol, above the limit; `None` below it."""
        if kinetic <= self.energy:
            return None
        return f"the kinetic energy is {kinetic:.3g} kJ/mol, where {self._mean:.3g} belong to {self.temperature:g} K"


def has_exploded(context: openmm.Context, bias: Bias | None = None) -> bool:
    """Whether a position or the variable of the bias is not finite, or cannot even be told."""
    try:
        positions = context.getState(getPositions=True).getPositions(asNumpy=True)._value
        return not np.isfinite(positions).all() or (bias is not None and not np.isfinite(bias.values(context)).all())
    except (openmm.OpenMMException, LatfError):
        return True


def usual_timestep(system: openmm.System, topology: app.Topology) -> tuple[float, str] | None:
    """The longest time step that is usual for the lightest hydrogens, fs, and what these are; `None` without hydrogens.

    1 fs where their bonds vibrate, 2 fs where they are constrained, and twice that where hydrogens are made heavier.
    Hydrogens of rigid water count only where there are no others: OpenMM leaves their mass as it is, and 4 fs are usual
    with them.
    """
    hydrogens = [atom.index for atom in topology.atoms() if atom.element is app.element.hydrogen]
    masses: dict[int, Any] = {index: system.getParticleMass(index)._value for index in hydrogens}  # dalton
    moving = {index: mass for index, mass in masses.items() if mass > 0}
    if not moving:
        return None
    times: Counter[int] = Counter()
    for index in range(system.getNumConstraints()):
        times.update(system.getConstraintParameters(index)[:2])
    if all(times[index] > 1 for index in moving):
        return 4.0, "rigid water"
    moving = {index: mass for index, mass in moving.items() if times[index] < 2}
    rigid = all(index in times for index in moving)
    lightest = min(moving.values())
    longest = (2.0 if rigid else 1.0) * (2.0 if lightest >= HEAVY_HYDROGEN else 1.0)
    return longest, f"hydrogens of {lightest:.3g} amu {'in constrained bonds' if rigid else 'whose bonds vibrate'}"


def likely_cause(
    system: openmm.System, topology: app.Topology, timestep: float, bias: AnyBiasSettings | None, temperature: float
) -> str:
    """Why a simulation exploded, most likely, and what to change; a sentence without a period.

    Parameters
    ----------
    system, topology
        What was simulated.
    timestep
        ps.
    bias
        Its settings; `None` for plain dynamics.
    temperature
        K.
    """
    causes = []
    usual, height = usual_timestep(system, topology), getattr(bias, "height", None)
    if usual is not None and 1000 * timestep > 1.001 * usual[0]:
        causes.append(
            f"integrator.timestep is {1000 * timestep:g} fs, where {usual[0]:g} fs is the longest that is usual with "
            f"{usual[1]}"
        )
    if height is not None and height > 2 * KB * temperature:
        times = height / (KB * temperature)
        causes.append(f"bias.height is {height:,.6g} kJ/mol, {times:,.3g} kT, where less than 1 kT is usual")
    if causes:
        return f"the likely cause: {'; and '.join(causes)}"
    return f"a shorter integrator.timestep{'' if bias is None else ' or a weaker bias'} usually helps"
