"""Systems from a structure, of a file or by name, and a force field."""

from __future__ import annotations

from pathlib import Path

from openmm import app

from latf_sampling.core import streams
from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import potentials
from latf_sampling.systems.force_field import apply_force_field, load_force_field
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.named import named_structure
from latf_sampling.systems.preparation import complete, solvate
from latf_sampling.systems.structure import Structure, read_structure, refuse_breaks, refuse_missing


def from_name(name: str, settings: SystemSettings, seed: int) -> Molecule:
    """A model system, or a molecule that the package knows with a force field."""
    if settings.is_potential:
        model = potentials.by_name(name)
        return Molecule(model.system, model.topology, model.positions)
    field = load_force_field(settings.force_field)
    return _parametrized(named_structure(name, seed=streams.stream_seed(seed, "prepare", 0)), field, settings, seed)


def from_structure(file: Path, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a PDB or PDBx/mmCIF file and a force field, completed where the settings say so."""
    field, prepare, key = load_force_field(settings.force_field), settings.prepare, "system.structure"
    structure = read_structure(file, key, settings.nonbonded == "PME")
    if prepare is None or prepare.missing_residues is None:
        refuse_missing(file, structure.topology, key)
        refuse_breaks(structure, key)
    if prepare is not None:
        structure = complete(file, prepare, streams.stream_seed(seed, "prepare", 0))
        refuse_breaks(structure, "system.prepare")
    return _parametrized(structure, field, settings, seed)


def _parametrized(structure: Structure, field: app.ForceField, settings: SystemSettings, seed: int) -> Molecule:
    """Add solvent where the settings say so, and apply the force field."""
    if settings.prepare is not None and settings.prepare.solvent is not None:
        structure = solvate(structure, field, settings.prepare.solvent, streams.stream_seed(seed, "prepare", 1))
    if settings.nonbonded == "PME" and structure.topology.getPeriodicBoxVectors() is None:
        raise SettingsError(
            "system.nonbonded: PME needs a unit cell, and the structure has none; add one to the file (CRYST1 in PDB), "
            "or a box of water with prepare.solvent."
        )
    return Molecule(apply_force_field(field, structure.topology, settings), structure.topology, structure.positions)
