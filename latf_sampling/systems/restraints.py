"""Harmonic restraints of atoms to their positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.features import as_mdtraj
from latf_sampling.features.topology import select
from latf_sampling.settings.system import RestraintSettings


def add_restraints(
    system: openmm.System, topology: app.Topology, positions: np.ndarray, restraints: Sequence[RestraintSettings]
) -> None:
    """Add a force that restrains atoms: stiffness / 2 times the squared distance from their positions.

    In a box the distance is that to the nearest image. The force is part of the system and its energy. Forces that
    remove the motion of the center of mass are removed from the system.

    Raises
    ------
    SettingsError
        A selection cannot be read, selects nothing, or an atom twice; names it.
    """
    distance = "periodicdistance(x, y, z, x0, y0, z0)" if system.usesPeriodicBoundaryConditions() else None
    squared = f"{distance}^2" if distance else "((x-x0)^2 + (y-y0)^2 + (z-z0)^2)"
    force = openmm.CustomExternalForce(f"0.5*stiffness*{squared}")
    for name in ("stiffness", "x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    force.setName("restraints")
    restrained: set[int] = set()
    for number, entry in enumerate(restraints):
        key = f"system.restraints[{number}].atoms"
        try:
            atoms = select(as_mdtraj(topology), entry.atoms)
        except Exception as error:  # MDTraj raises many types for what it cannot read
            reason = " ".join(str(error).split())
            raise SettingsError(f"{key}: '{entry.atoms}' is not a selection ({reason}).") from error
        atoms = [int(atom) for atom in atoms]
        if not atoms:
            raise SettingsError(f"{key}: '{entry.atoms}' selects no atoms.")
        if repeated := restrained & set(atoms):
            raise SettingsError(f"{key}: '{entry.atoms}' selects atom {min(repeated)}, which is already restrained.")
        restrained |= set(atoms)
        for atom in atoms:
            force.addParticle(atom, [entry.stiffness, *positions[atom]])
    system.addForce(force)
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)  # it would fix the center of mass where the initial velocities left it
