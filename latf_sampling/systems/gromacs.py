"""Systems from files of GROMACS."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import openmm
from openmm import app
from openmm.app.internal import customgbforces

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import GromacsSettings, SystemSettings
from latf_sampling.systems.atom_names import check_names
from latf_sampling.systems.engine_files import assemble, check_count, read_file
from latf_sampling.systems.force_field import options, salt
from latf_sampling.systems.molecule import Molecule, box_vectors, positions_array


def from_gromacs(files: GromacsSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a top file and its coordinates."""
    coordinates = read_file("system.gromacs.coordinates", files.coordinates, app.GromacsGroFile)
    box = coordinates.getPeriodicBoxVectors()
    if box is not None and not np.any(box_vectors(box)):
        box = None  # a line of zeros means that there is no box
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
        lambda file: app.GromacsTopFile(file, periodicBoxVectors=box, defines=dict(files.defines), **include),
    )

    own = [
        fields[4] for name, count in top._molecules for _ in range(count) for fields in top._moleculeTypes[name].atoms
    ]  # those of the topology are OpenMM's
    key = "system.gromacs"
    check_count(key, files.topology, len(own), files.coordinates, len(coordinates.atomNames))
    check_names(f"{key}.coordinates", files.topology, top.topology, own, files.coordinates, coordinates.atomNames)

    def create() -> openmm.System:
        system = top.createSystem(**options(settings), rigidWater=not flexible)
        if settings.implicit_solvent is not None:
            system.addForce(generalized_born(settings, top.topology, system))
        return system

    positions = positions_array(coordinates.getPositions(asNumpy=True))
    return assemble(key, files, settings, top.topology, positions, box, create)


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
