"""What to say about a simulation that exploded: the likely cause, from its settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.settings import AnyBiasSettings
from latf_sampling.units import KB

HEAVY_HYDROGEN = 2.5
"""amu; from here on hydrogens count as made heavier, which allows twice the time step."""


def has_exploded(context: openmm.Context) -> bool:
    """Whether a position is not finite, or cannot even be told."""
    try:
        positions = context.getState(getPositions=True).getPositions(asNumpy=True)._value
    except openmm.OpenMMException:
        return True
    return not np.isfinite(positions).all()


def usual_timestep(system: openmm.System, topology: app.Topology) -> tuple[float, str] | None:
    """The longest time step that is usual for the lightest hydrogens, fs, and what these are; `None` without hydrogens.

    1 fs where their bonds vibrate, 2 fs where they are constrained, and twice that where hydrogens are made heavier.
    """
    hydrogens = [atom.index for atom in topology.atoms() if atom.element is app.element.hydrogen]
    masses: dict[int, Any] = {index: system.getParticleMass(index)._value for index in hydrogens}  # dalton
    moving = {index: mass for index, mass in masses.items() if mass > 0}
    if not moving:
        return None
    constraints = map(system.getConstraintParameters, range(system.getNumConstraints()))
    rigid = {particle for first, second, _ in constraints for particle in (first, second)}.issuperset(moving)
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
