"""Systems from the files of other programs: Amber, GROMACS, CHARMM, and OpenMM's own serialized ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from openmm.app.internal import customgbforces

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import CharmmSettings, SystemSettings
from latf_sampling.systems.force_field import options
from latf_sampling.systems.molecule import Molecule, box_vectors
from latf_sampling.systems.structure import read_structure
from latf_sampling.systems.whole_molecules import made_whole

OWN_FORCES = (openmm.MonteCarloBarostat, openmm.MonteCarloAnisotropicBarostat, openmm.MonteCarloFlexibleBarostat,
              openmm.MonteCarloMembraneBarostat, openmm.AndersenThermostat)  # fmt: skip
"""What a campaign brings itself, at the temperature of each walker."""


def from_amber(settings: SystemSettings) -> Molecule:
    """A prmtop file with its coordinates."""
    files = settings.amber
    coordinates = _read("system.amber.coordinates", files.coordinates, app.AmberInpcrdFile)
    box = coordinates.boxVectors
    topology = _read(
        "system.amber.topology", files.topology, lambda file: app.AmberPrmtopFile(file, periodicBoxVectors=box)
    )
    positions = _array(coordinates.getPositions(asNumpy=True))
    return _finished(
        settings,
        "amber",
        topology.topology,
        positions,
        box,
        lambda: topology.createSystem(**options(settings), **_implicit(settings)),
    )


def from_gromacs(settings: SystemSettings) -> Molecule:
    """A top file with its coordinates."""
    files = settings.gromacs
    coordinates = _read("system.gromacs.coordinates", files.coordinates, app.GromacsGroFile)
    box = coordinates.getPeriodicBoxVectors()
    if box is not None and not np.any(box_vectors(box)):
        box = None  # a line of zeros stands for none
    given = {} if files.include is None else {"includeDir": str(files.include)}
    topology = _read(
        "system.gromacs.topology",
        files.topology,
        lambda file: app.GromacsTopFile(file, periodicBoxVectors=box, **given),
    )

    def create() -> openmm.System:
        system = topology.createSystem(**options(settings))
        if settings.implicit_solvent is not None:
            system.addForce(generalized_born(settings, topology.topology, system))
        return system

    positions = _array(coordinates.getPositions(asNumpy=True))
    return _finished(settings, "gromacs", topology.topology, positions, box, create)


def from_charmm(settings: SystemSettings) -> Molecule:
    """A psf file with its coordinates and parameters."""
    files = settings.charmm
    parameters = _read("system.charmm.parameters", files.parameters, lambda names: app.CharmmParameterSet(*names))
    topology = _read("system.charmm.topology", files.topology, app.CharmmPsfFile)
    positions, box = _charmm_coordinates(files)
    if box is not None:
        topology.topology.setPeriodicBoxVectors(box)
        topology.box_vectors = box
    return _finished(
        settings,
        "charmm",
        topology.topology,
        positions,
        box,
        lambda: topology.createSystem(parameters, **options(settings), **_implicit(settings)),
    )


def from_openmm(settings: SystemSettings) -> Molecule:
    """A serialized system with a structure of the same atoms."""
    files = settings.openmm
    system = _read(
        "system.openmm.system", files.system, lambda file: openmm.XmlSerializer.deserialize(Path(file).read_text())
    )
    if not isinstance(system, openmm.System):
        raise SettingsError(f"system.openmm.system: {files.system} holds {type(system).__name__}, not a System.")
    for force in system.getForces():
        if isinstance(force, OWN_FORCES):
            instead = "barostat" if "Barostat" in type(force).__name__ else "the walkers' temperatures"
            raise SettingsError(
                f"system.openmm.system: {files.system} holds a {type(force).__name__} of its own; write the system "
                f"without it and set {instead} in the protocol."
            )
    periodic = system.usesPeriodicBoundaryConditions()
    structure = read_structure(files.topology, "system.openmm.topology", periodic)
    box = structure.topology.getPeriodicBoxVectors() if periodic else None
    box = system.getDefaultPeriodicBoxVectors() if periodic and box is None else box
    return _finished(settings, "openmm", structure.topology, structure.positions, box, lambda: system)


def generalized_born(settings: SystemSettings, topology: app.Topology, system: openmm.System) -> openmm.Force:
    """Implicit solvent as OpenMM's force field files add it, for readers that do not."""
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    nonbonded.setReactionFieldDielectric(1)
    kind = getattr(customgbforces, f"GBSA{settings.implicit_solvent}Force")
    force = kind(SA="ACE", cutoff=settings.cutoff)
    for index, parameters in enumerate(kind.getStandardParameters(topology)):
        force.addParticle([nonbonded.getParticleParameters(index)[0], *map(float, parameters)])
    force.finalize()
    if settings.cutoff is not None:
        force.setNonbondedMethod(openmm.CustomGBForce.CutoffNonPeriodic)
        force.setCutoffDistance(settings.cutoff)
    return force


def _implicit(settings: SystemSettings) -> dict:
    """Words for OpenMM's readers, with the same surface term in all of them."""
    if settings.implicit_solvent is None:
        return {}
    return {"implicitSolvent": getattr(app, settings.implicit_solvent), "gbsaModel": "ACE"}


def _finished(
    settings: SystemSettings,
    source: str,
    topology: app.Topology,
    positions: np.ndarray,
    box: Any,
    create: Callable[[], openmm.System],
) -> Molecule:
    """Check that topology and coordinates belong together, and make the system."""
    files = getattr(settings, source)
    other = "topology" if source != "openmm" else "system"
    if source != "openmm":
        _check_count(source, files, topology.getNumAtoms(), len(positions), other)
        if box is not None and "nonbonded" not in settings.model_fields_set:
            raise SettingsError(
                f"system.{source}: the files have a unit cell; say nonbonded: PME with a cutoff, or nonbonded: "
                "no cutoff to leave the cell away."
            )
        if box is None and settings.nonbonded == "PME":
            raise SettingsError(
                f"system.nonbonded: PME needs a unit cell, and {files.coordinates} has none; give coordinates that "
                "have one."
            )
    try:
        system = create()
    except Exception as error:  # missing parameters and the like, of many types
        raise SettingsError(f"system.{source}: {getattr(files, other)}: {' '.join(str(error).split())}") from error
    if source == "openmm":
        _check_count(source, files, system.getNumParticles(), len(positions), other)
    if system.usesPeriodicBoundaryConditions():
        topology.setPeriodicBoxVectors(box)
        system.setDefaultPeriodicBoxVectors(*box)
        positions = made_whole(topology, positions)
    return Molecule(system, topology, positions)


def _check_count(source: str, files: Any, wanted: int, there: int, other: str) -> None:
    if wanted != there:
        coordinates = files.coordinates if source != "openmm" else files.topology
        raise SettingsError(
            f"system.{source}: {getattr(files, other)} has {wanted} atoms, {coordinates} has {there}; they are not of "
            "one system."
        )


def _charmm_coordinates(files: CharmmSettings) -> tuple[np.ndarray, Any]:
    key, file = "system.charmm.coordinates", files.coordinates
    if file.suffix.lower() in (".pdb", ".ent", ".cif", ".mmcif", ".pdbx"):
        structure = read_structure(file, key)
        positions, box = structure.positions, structure.topology.getPeriodicBoxVectors()
    else:
        positions, box = _array(_read(key, file, app.CharmmCrdFile).positions), None
    if files.box is not None:
        if box is not None:
            raise SettingsError(f"system.charmm.box: {file} has a unit cell; remove the key.")
        box = [openmm.Vec3(*row) for row in np.diag(files.box)] * unit.nanometer
    return positions, box


def read_coordinates(file: Path, key: str, periodic: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions (N, 3) and box vectors (3, 3), nm, of any of these programs' files of coordinates."""
    suffix = file.suffix.lower()
    if suffix == ".gro":
        read = _read(key, file, app.GromacsGroFile)
        positions, box = _array(read.getPositions(asNumpy=True)), box_vectors(read.getPeriodicBoxVectors())
    elif suffix in (".inpcrd", ".rst7", ".rst", ".ncrst", ".crd", ".cor"):
        amber = suffix not in (".crd", ".cor") or file.read_bytes()[:1] != b"*"  # CHARMM's begin with a title
        read = _read(key, file, app.AmberInpcrdFile if amber else app.CharmmCrdFile)
        positions = _array(read.positions)
        box = box_vectors(read.boxVectors) if amber else None
    else:
        structure = read_structure(file, key, periodic)
        positions, box = structure.positions, box_vectors(structure.topology.getPeriodicBoxVectors())
    return positions, box if periodic and box is not None and box.any() else None


def _read(key: str, file: Any, reader: Callable) -> Any:
    """What a reader of OpenMM's makes of a file; a damaged one becomes one sentence."""
    paths = file if isinstance(file, tuple) else (file,)
    try:
        return reader([str(path) for path in paths] if isinstance(file, tuple) else str(file))
    except Exception as error:  # OpenMM's readers raise many types for a damaged file
        words = " ".join(str(error).split()) or type(error).__name__
        shown = ", ".join(str(path) for path in paths)
        raise SettingsError(f"{key}: {shown} cannot be read ({words}).") from error


def _array(positions: Any) -> np.ndarray:
    return np.array(positions.value_in_unit(unit.nanometer), dtype=float).reshape(-1, 3)
