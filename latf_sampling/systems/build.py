"""From the system of a protocol to a molecule, once and for all walkers."""

from __future__ import annotations

from collections.abc import Callable

from latf_sampling.core import streams
from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems import named, potentials
from latf_sampling.systems.checks import check_box, check_start
from latf_sampling.systems.engine_files import (
    from_amber,
    from_charmm,
    from_gromacs,
    from_openmm,
    read_coordinates,
)
from latf_sampling.systems.force_field import apply_force_field, load_force_field
from latf_sampling.systems.molecule import Conformation, Molecule
from latf_sampling.systems.preparation import complete, solvated
from latf_sampling.systems.restraints import add_restraints
from latf_sampling.systems.structure import read_structure, refuse_breaks, refuse_missing
from latf_sampling.systems.whole_molecules import made_whole

_PROGRAMS: dict[str, Callable[[SystemSettings], Molecule]] = {
    "amber": from_amber,
    "gromacs": from_gromacs,
    "charmm": from_charmm,
    "openmm": from_openmm,
}


def build(settings: SystemSettings, seed: int = 0) -> Molecule:
    """The molecule of a protocol, checked as far as that is possible without a simulation.

    Parameters
    ----------
    settings
        Where it comes from.
    seed
        Of what is placed at random: atoms that the structure lacks, ions.

    Raises
    ------
    SettingsError
        A file cannot be read or does not fit another, the force field does not know a residue, something is ambiguous,
        or no simulation could start from the positions; names the key, and the residue or atom.
    InstallationError
        Preparing or building the structure needs a package that is missing.

    Examples
    --------
    >>> molecule = build(SystemSettings(name="alanine-dipeptide"))
    >>> molecule.positions.shape
    (22, 3)
    """
    if settings.is_potential:
        model = potentials.by_name(settings.name)
        return Molecule(model.system, model.topology, model.positions)
    source = next((key for key in _PROGRAMS if getattr(settings, key) is not None), None)
    molecule = _from_structure(settings, seed) if source is None else _PROGRAMS[source](settings)
    key = f"system.{source or ('name' if settings.name is not None else 'structure')}"
    if settings.barostat is not None and not molecule.system.usesPeriodicBoundaryConditions():
        raise SettingsError("system.barostat: the system has no periodic boundaries, and no volume to change.")
    check_box(molecule, settings.barostat is not None, "system.cutoff" if source != "openmm" else key)
    check_start(molecule, Conformation(molecule.positions), key)
    if settings.restraints:
        add_restraints(molecule.system, molecule.topology, molecule.positions, settings.restraints)
    if settings.conformations is None:
        return molecule
    conformations = tuple(_conformations(settings, molecule, seed))
    for number, entry in enumerate(conformations):
        check_start(molecule, entry, f"system.conformations[{number}]")
    return Molecule(molecule.system, molecule.topology, molecule.positions, conformations)


def _from_structure(settings: SystemSettings, seed: int) -> Molecule:
    field, periodic = load_force_field(settings.force_field), settings.nonbonded == "PME"
    prepare, seeds = settings.prepare, [streams.stream_seed(seed, "prepare", number) for number in range(2)]
    if settings.name is not None:
        structure = named.by_name(settings.name, seed=seeds[0])
    else:
        key, file = "system.structure", settings.structure
        structure = read_structure(file, key, periodic)
        if prepare is None or prepare.missing_residues is None:
            refuse_missing(file, structure.topology, key)
            refuse_breaks(structure, key)
        if prepare is not None:
            structure = complete(file, prepare, seeds[0])
            refuse_breaks(structure, "system.prepare")
    if prepare is not None and prepare.solvent is not None:
        structure = solvated(structure, field, prepare.solvent, seeds[1])
    if periodic and structure.topology.getPeriodicBoxVectors() is None:
        raise SettingsError(
            "system.nonbonded: PME needs a unit cell, and the structure has none; give it one (CRYST1 in PDB), or put "
            "it into water with prepare.solvent."
        )
    return Molecule(apply_force_field(field, structure.topology, settings), structure.topology, structure.positions)


def _conformations(settings: SystemSettings, molecule: Molecule, seed: int):
    periodic = molecule.system.usesPeriodicBoundaryConditions()
    for number, entry in enumerate(settings.conformations):
        key = f"system.conformations[{number}]"
        if settings.name is not None:
            made = named.by_name(settings.name, entry, streams.stream_seed(seed, "prepare", 0))
            yield Conformation(made.positions)
            continue
        positions, box = read_coordinates(entry, key, periodic)
        if len(positions) != len(molecule.positions):
            raise SettingsError(
                f"{key}: {entry} has {len(positions)} atoms, the molecule {len(molecule.positions)}; a conformation "
                "has the same atoms in the same order."
            )
        yield Conformation(made_whole(molecule.topology, positions, box), box)
