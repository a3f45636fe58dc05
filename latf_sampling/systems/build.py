"""From the system of a protocol to a molecule, which all walkers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from latf_sampling.core import streams
from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems.amber import from_amber
from latf_sampling.systems.atom_names import check_names
from latf_sampling.systems.charmm import from_charmm
from latf_sampling.systems.checks import check_box, check_handedness, check_masses, check_start, warn_of_mirrored
from latf_sampling.systems.engine_files import read_coordinates
from latf_sampling.systems.gromacs import from_gromacs
from latf_sampling.systems.implicit_solvent import use_native_obc2
from latf_sampling.systems.models import MODELS
from latf_sampling.systems.molecule import Conformation, Molecule
from latf_sampling.systems.named import DEFAULT_CONFORMATION, named_structure
from latf_sampling.systems.parametrized import from_name, from_structure
from latf_sampling.systems.restraints import add_restraints
from latf_sampling.systems.serialized import from_openmm
from latf_sampling.systems.whole_molecules import make_whole

SOURCES: dict[str, Callable[[Any, SystemSettings, int], Molecule]] = {
    "name": from_name,
    "structure": from_structure,
    "amber": from_amber,
    "gromacs": from_gromacs,
    "charmm": from_charmm,
    "openmm": from_openmm,
}
"""The function of each source of a system: it takes the value of the source's key, all settings of the system, and a
seed. A new source is a file with such a function, a line here, and a field of `SystemSettings` marked as a source."""


def build(settings: SystemSettings, seed: int = 0) -> Molecule:
    """The molecule of a protocol, checked as far as that is possible without a simulation.

    Parameters
    ----------
    settings
        The system of a protocol.
    seed
        Seed of atoms that are placed at random: those that the structure lacks, and ions.

    Raises
    ------
    SettingsError
        A file cannot be read or does not fit another, the force field has no parameters for a residue, something is
        ambiguous, or no simulation could start from the positions; names the key, and the residue or atom.
    InstallationError
        Preparing or building the structure needs a package that is missing.

    Examples
    --------
    >>> molecule = build(SystemSettings(name="alanine-dipeptide"))
    >>> molecule.positions.shape
    (22, 3)
    """
    source = settings.source
    molecule = SOURCES[source](getattr(settings, source), settings, seed)
    if settings.is_potential:
        return molecule
    if source != "openmm":
        use_native_obc2(molecule.system)
    key = f"system.{source}"
    if settings.barostat is not None and not molecule.system.usesPeriodicBoundaryConditions():
        raise SettingsError("system.barostat: the system has no periodic boundaries, and no volume to change.")
    check_box(molecule, settings.barostat is not None, "system.cutoff" if source != "openmm" else key)
    if settings.hydrogen_mass is not None:
        check_masses(molecule, settings.hydrogen_mass)
    check_start(molecule, Conformation(molecule.positions), key)
    warn_of_mirrored(molecule, key)
    if settings.restraints:
        add_restraints(molecule.system, molecule.topology, molecule.positions, settings.restraints)
    if settings.conformations is None:
        return molecule
    conformations = []
    for number, entry in enumerate(settings.conformations):
        conformations.append(_conformation(entry, f"system.conformations[{number}]", settings, molecule, seed))
    for number, conformation in enumerate(conformations):
        check_start(molecule, conformation, f"system.conformations[{number}]")
        check_handedness(molecule, conformation, f"system.conformations[{number}]")
    return Molecule(molecule.system, molecule.topology, molecule.positions, tuple(conformations))


def _conformation(entry: str | Path, key: str, settings: SystemSettings, molecule: Molecule, seed: int) -> Conformation:
    """A conformation by the name of a molecule's, or from a file."""
    if settings.name is not None:
        if entry == DEFAULT_CONFORMATION:
            return Conformation(molecule.positions)
        if settings.is_model:
            return Conformation(MODELS[settings.name].conformations[str(entry)]())
        structure = named_structure(settings.name, str(entry), streams.stream_seed(seed, "prepare", 0))
        return Conformation(structure.positions)
    positions, box, names = read_coordinates(Path(entry), key, molecule.system.usesPeriodicBoundaryConditions())
    if len(positions) != len(molecule.positions):
        raise SettingsError(
            f"{key}: {entry} has {len(positions)} atoms, the molecule {len(molecule.positions)}; a conformation has "
            "the same atoms in the same order."
        )
    if names is not None:
        own = [atom.name for atom in molecule.topology.atoms()]
        check_names(key, "the molecule", molecule.topology, own, Path(entry), names, strict=False)
    return Conformation(make_whole(molecule.topology, positions, box), box)
