"""Systems from a structure, of a file or by name, and a force field."""

from __future__ import annotations

from pathlib import Path

from openmm import app

from latf_sampling.core import streams
from latf_sampling.core.words import plural
from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import PERIODIC, SystemSettings
from latf_sampling.systems import ligands, potentials
from latf_sampling.systems.contents import WATERS
from latf_sampling.systems.force_field import (
    add_template_bonds,
    apply_force_field,
    load_force_field,
    refuse_unknown_residues,
)
from latf_sampling.systems.models import MODELS
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.named import named_structure
from latf_sampling.systems.preparation import complete, embed, solvate, with_virtual_sites
from latf_sampling.systems.replacement import edited
from latf_sampling.systems.structure import (
    Structure,
    parse,
    read_text,
    refuse_breaks,
    refuse_damage,
    refuse_missing,
    refuse_other_units,
)
from latf_sampling.systems.structure_text import StructureText


def from_name(name: str, settings: SystemSettings, seed: int) -> Molecule:
    """A model system, or a molecule that the package knows with a force field."""
    if settings.is_potential:
        model = potentials.by_name(name)
        return Molecule(model.system, model.topology, model.positions)
    if settings.is_model:
        return MODELS[name].molecule()
    field = load_force_field(settings.force_field)
    return _parametrized(named_structure(name, seed=streams.stream_seed(seed, "prepare", 0)), field, settings, seed)


def from_structure(file: Path, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a PDB or PDBx/mmCIF file and a force field, completed where the settings say so."""
    field, prepare, key = load_force_field(settings.force_field), settings.prepare, "system.structure"
    source = read_text(file, key, settings.model, None if prepare is None else prepare.alternate_locations)
    if prepare is not None:
        source = edited(source, prepare)
    structure = parse(source, settings.nonbonded in PERIODIC)
    refuse_other_units(structure, key)
    small = [] if prepare is None else [ligands.read(name, entry) for name, entry in prepare.ligands.items()]
    ligands.add_templates(field, structure, small)
    refuse_unknown_residues(field, structure.topology, settings)
    add_template_bonds(field, structure.topology, structure.positions)
    if prepare is None or prepare.missing_residues is None:
        refuse_missing(source, structure.topology)
        refuse_breaks(structure, key)
    _refuse_vacuum(source, structure, settings)
    if prepare is not None:
        refuse_damage(structure, source)
        structure = complete(source, prepare, field, small, streams.stream_seed(seed, "prepare", 0))
        refuse_breaks(structure, "system.prepare")
    return _parametrized(structure, field, settings, seed)


def _refuse_vacuum(source: StructureText, structure: Structure, settings: SystemSettings) -> None:
    """Refuse a unit cell, or water, that would be simulated without periodic boundaries by default."""
    if "nonbonded" in settings.model_fields_set or settings.nonbonded in PERIODIC:
        return
    waters = sum(residue.name in WATERS for residue in structure.topology.residues())
    has_cell = structure.topology.getPeriodicBoxVectors() is not None
    if has_cell or waters:
        content = " and ".join(["a unit cell"] * has_cell + [plural(waters, "water")] * bool(waters))
        raise source.fault(
            f"has {content}; say nonbonded: PME with a cutoff, or nonbonded: no cutoff for a vacuum or implicit solvent"
            f"{' around them' if waters else ''}."
        )


def _parametrized(structure: Structure, field: app.ForceField, settings: SystemSettings, seed: int) -> Molecule:
    """Add virtual sites that the structure lacks, solvent where the settings say so, and apply the force field."""
    structure = with_virtual_sites(structure, field)
    if settings.prepare is not None and settings.prepare.solvent is not None:
        structure = solvate(structure, field, settings.prepare.solvent, streams.stream_seed(seed, "prepare", 1))
    if settings.prepare is not None and settings.prepare.membrane is not None:
        structure = embed(structure, field, settings.prepare.membrane, streams.stream_seed(seed, "prepare", 1))
    if settings.nonbonded in PERIODIC and structure.topology.getPeriodicBoxVectors() is None:
        raise SettingsError(
            f"system.nonbonded: {settings.nonbonded} needs a unit cell, and the structure has none; add one to the "
            "file (CRYST1 in PDB), or a box of water with prepare.solvent."
        )
    return Molecule(apply_force_field(field, structure.topology, settings), structure.topology, structure.positions)
