"""Serialized systems of OpenMM."""

from __future__ import annotations

import openmm

from latf_sampling.core.openmm_xml import read_openmm_xml
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.settings.system import OpenmmSettings, SystemSettings
from latf_sampling.systems.engine_files import check_count, in_box, refuse_drude
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.structure import read_structure

ENSEMBLE_FORCES = (openmm.MonteCarloBarostat, openmm.MonteCarloAnisotropicBarostat, openmm.MonteCarloFlexibleBarostat,
                   openmm.MonteCarloMembraneBarostat, openmm.AndersenThermostat)  # fmt: skip
"""Forces that a campaign adds itself, for the temperature of each walker."""


def from_openmm(files: OpenmmSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a serialized system and a structure of the same atoms."""
    key = "system.openmm.system"
    try:
        system = read_openmm_xml(files.system, openmm.System)
    except DataError as error:
        raise SettingsError(f"{key}: {error}") from error
    for force in system.getForces():
        if isinstance(force, ENSEMBLE_FORCES):
            instead = "barostat" if "Barostat" in type(force).__name__ else "the walkers' temperatures"
            raise SettingsError(
                f"{key}: {files.system} holds a {type(force).__name__} of its own; write the system without it and "
                f"set {instead} in the protocol."
            )
    refuse_drude(f"{key}: {files.system}", system)
    periodic = system.usesPeriodicBoundaryConditions()
    structure = read_structure(files.topology, "system.openmm.topology", periodic)
    check_count("system.openmm", files.system, system.getNumParticles(), files.topology, len(structure.positions))
    box = structure.topology.getPeriodicBoxVectors() if periodic else None
    if periodic and box is None:
        box = system.getDefaultPeriodicBoxVectors()
    return in_box(system, structure.topology, structure.positions, box)
