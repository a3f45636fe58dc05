"""Settings of the equilibration before the first round."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from latf_sampling.settings.execution import Shorthand
from latf_sampling.settings.fields import Pressure, Settings, Stiffness, Time

STAGES_OF_RELEASE = (1.0, 0.25, 0.0625, 0.015625, 0.0)
"""Stiffness of the restraints while they are let go, relative to that while heating."""


class EquilibrationSettings(Settings):
    """Heating and relaxation between building the system and the first round; none of its frames counts.

    It is done once for each temperature and conformation that walkers of the first round, or of `evaluate`, begin with.
    """

    heating: Time = 50.0
    """Time over which the system is heated from a tenth of its temperature in ten steps, with the solute's heavy atoms
    restrained."""
    release: Time = 100.0
    """Time over which the restraints are let go in five steps, at constant pressure where there is one."""
    length: Time = 200.0
    """Time without restraints after that, whose last half tells whether energy and density still drift. Where a
    constant volume is to be found, as much again follows at that volume."""
    stiffness: Stiffness = 1000.0
    """Force constant of the restraints."""
    pressure: Pressure | None = None
    """Of a periodic system that is simulated at constant volume: the box of all walkers is the mean one at this
    pressure and the first walker's temperature, as for a box that was just filled with water. None keeps the box."""


def _switched_on(value: Any) -> Any:
    return {} if value is True else None if value is False else value


Equilibrate = Annotated[EquilibrationSettings | None, BeforeValidator(_switched_on), Shorthand(({"type": "boolean"},))]
"""Settings, or true for those by default."""
