"""Harmonic restraints of atoms to their places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.features import as_mdtraj
from latf_sampling.settings.system import RestraintSettings


def add_restraints(
    system: openmm.System, topology: app.Topology, positions: np.ndarray, restraints: Sequence[RestraintSettings]
) -> None:
    """Hold atoms where they are: stiffness / 2 times the distance squared, to the nearest image in a box.

    The force is part of the system and its energy; with it, the centre of mass moves freely.

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
    held: set[int] = set()
    for number, entry in enumerate(restraints):
        key = f"system.restraints[{number}].atoms"
        try:
            atoms = as_mdtraj(topology).select(entry.atoms)
        except Exception as error:  # MDTraj raises many types for what it cannot read
            words = " ".join(str(error).split())
            raise SettingsError(f"{key}: '{entry.atoms}' is not a selection ({words}).") from error
        atoms = [int(atom) for atom in atoms]
        if not atoms:
            raise SettingsError(f"{key}: '{entry.atoms}' selects no atoms.")
        if again := held & set(atoms):
            raise SettingsError(f"{key}: '{entry.atoms}' selects atom {min(again)}, which is restrained before.")
        held |= set(atoms)
        for atom in atoms:
            force.addParticle(atom, [entry.stiffness, *positions[atom]])
    system.addForce(force)
    for index in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(index), openmm.CMMotionRemover):
            system.removeForce(index)  # it would hold the centre of mass where the first velocities left it
