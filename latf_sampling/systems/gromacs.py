"""Systems from files of GROMACS."""

from __future__ import annotations

from contextlib import suppress
from itertools import groupby
from pathlib import Path

import openmm
from openmm import app
from openmm.app.internal import customgbforces

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import GromacsSettings, SystemSettings
from latf_sampling.systems.atom_names import check_names
from latf_sampling.systems.engine_files import assemble, check_count, read_file
from latf_sampling.systems.force_field import options, salt
from latf_sampling.systems.gro import GroFile
from latf_sampling.systems.molecule import Molecule

_KNOWN = frozenset("""
    angles angletypes atoms atomtypes bonds bondtypes cmap cmaptypes constraints constrainttypes defaults dihedrals
    dihedraltypes dummies2 dummies3 exclusions implicit_genborn_params implicit_surface_params molecules moleculetype
    nonbond_params pairs pairtypes settles system virtual_sites2 virtual_sites3
""".split())  # fmt: skip # noqa: SIM905
"""Sections of a top file that OpenMM reads, and four without an effect here: a title, the implicit solvent of GROMACS
before 2019, and lengths of constraints, without which OpenMM refuses a constraint. It passes over all others."""


class _Top(app.GromacsTopFile):
    """OpenMM's reader, with the sections that it passes over."""

    def __init__(self, file: str, **options) -> None:
        self.unread: dict[str, set[str]] = {}
        """Their names, and those of the molecules that they belong to; "" for none."""
        super().__init__(file, **options)

    def _processLine(self, line: str, file: str) -> None:
        super()._processLine(line, file)
        section = self._currentCategory
        if section is not None and section not in _KNOWN and all(self._ifStack):
            molecule, name = self._currentMoleculeType, ""
            if molecule is not None:
                molecule.has_virtual_sites = False  # for which OpenMM says that it reads none at all
                if section != "intermolecular_interactions":
                    name = molecule.name
            self.unread.setdefault(section, set()).add(name)


def _read_top(file: str, **options) -> _Top:
    """A topology, with an error in words where atoms have a type that is not defined."""
    try:
        return _Top(file, **options)
    except KeyError as error:
        raise ValueError(
            f"{error.args[0]!r} is not defined; is the file of a force field not included, or one of another?"
        ) from error


def from_gromacs(files: GromacsSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a top file and its coordinates."""
    coordinates = read_file("system.gromacs.coordinates", files.coordinates, GroFile.load)
    macros = {*files.defines, *_macros(files.topology)}
    if posres := sorted(name for name in macros if name.upper().startswith("POSRES")):
        raise SettingsError(
            f"system.gromacs.topology: {files.topology} defines {posres[0]}, and position restraints are not read from "
            "files of GROMACS; remove the line, and use system.restraints."
        )
    flexible = "FLEXIBLE" in macros
    if flexible and settings.constraints != "none":
        raise SettingsError(f"system.constraints: FLEXIBLE is defined for {files.topology}; set constraints: none.")
    include = {} if files.include is None else {"includeDir": str(files.include)}
    top = read_file(
        "system.gromacs.topology",
        files.topology,
        lambda file: _read_top(file, periodicBoxVectors=coordinates.box, defines=dict(files.defines), **include),
    )
    _refuse_unread(files.topology, top)
    _number_residues(top)
    own = [
        fields[4] for name, count in top._molecules for _ in range(count) for fields in top._moleculeTypes[name].atoms
    ]  # those of the topology are OpenMM's
    key = "system.gromacs"
    check_count(key, files.topology, len(own), files.coordinates, len(coordinates.names))
    check_names(f"{key}.coordinates", files.topology, top.topology, own, files.coordinates, coordinates.names)

    def create() -> openmm.System:
        system = top.createSystem(**options(settings), rigidWater=not flexible)
        if settings.implicit_solvent is not None:
            system.addForce(generalized_born(settings, top.topology, system))
        return system

    return assemble(key, files, settings, top.topology, coordinates.positions, coordinates.box, create)


def _number_residues(top: _Top) -> None:
    """Give residues their numbers in the topology, which OpenMM replaces; ions and molecules of solvent keep its."""
    residues = top.topology.residues()
    for name, count in top._molecules:
        numbers = [number for number, _ in groupby(fields[2] for fields in top._moleculeTypes[name].atoms)]
        for _ in range(count):
            for number, residue in zip(numbers, residues):
                if count == 1 or len(numbers) > 1:
                    residue.id = number


def _refuse_unread(topology: Path, top: _Top) -> None:
    """Refuse sections that OpenMM passes over, of molecules that the system has."""
    present = {"", *(name for name, count in top._molecules if count)}
    for section, molecules in top.unread.items():
        if not molecules & present:
            continue
        instead = "remove the section, or build the system by another program"
        if "restraints" in section:
            instead = "remove the section or its #include, and use system.restraints"
        elif section.startswith(("virtual_sites", "dummies")):
            instead = "only virtual_sites2 and virtual_sites3 are"
        names = " of " + ", ".join(sorted(molecules & present)) if "" not in molecules else ""
        raise SettingsError(
            f"system.gromacs.topology: {topology} has a section [ {section} ]{names}, which is not read; {instead}."
        )


def _macros(topology: Path) -> list[str]:
    """Names that a topology itself defines."""
    with suppress(OSError):
        lines = topology.read_text(encoding="utf-8", errors="replace").splitlines()
        return [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "#define"]
    return []


def generalized_born(settings: SystemSettings, topology: app.Topology, system: openmm.System) -> openmm.Force:
    """Implicit solvent as OpenMM's force field files define it, since its GROMACS reader has none."""
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    nonbonded.setReactionFieldDielectric(1)
    kind = getattr(customgbforces, f"GBSA{settings.implicit_solvent}Force")
    force = kind(SA="ACE", cutoff=settings.cutoff, kappa=salt(settings).get("implicitSolventKappa", 0.0))
    for index, parameters in enumerate(kind.getStandardParameters(topology)):
        force.addParticle([nonbonded.getParticleParameters(index)[0], *map(float, parameters)])
    force.finalize()
    if settings.cutoff is not None:
        force.setNonbondedMethod(openmm.CustomGBForce.CutoffNonPeriodic)
        force.setCutoffDistance(settings.cutoff)
    return force
