"""What the readers of Amber, GROMACS and CHARMM files have in common, and coordinates in any of their formats."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openmm
from openmm import app

from latf_sampling.core.readers import quiet
from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import PERIODIC, AmberSettings, CharmmSettings, GromacsSettings, SystemSettings
from latf_sampling.systems.force_field import refuse_unnamed_nucleotides, salt
from latf_sampling.systems.gro import GroFile
from latf_sampling.systems.molecule import Molecule, box_vectors, positions_array
from latf_sampling.systems.reader_errors import reason
from latf_sampling.systems.structure import read_structure
from latf_sampling.systems.structure_text import packed_by
from latf_sampling.systems.whole_molecules import make_whole

Content = TypeVar("Content")


def assemble(
    key: str,
    files: AmberSettings | GromacsSettings | CharmmSettings,
    settings: SystemSettings,
    topology: app.Topology,
    positions: np.ndarray,
    box: Any,
    create: Callable[[], openmm.System],
) -> Molecule:
    """Check that topology and coordinates belong together, and create the system.

    Parameters
    ----------
    key
        The key of the files in a protocol, for errors.
    files
        The files that everything was read from.
    settings
        All settings of the system.
    topology, positions, box
        From the files; the box is OpenMM's, or None.
    create
        Creates OpenMM's system.

    Raises
    ------
    SettingsError
        The numbers of atoms differ, the files and the nonbonded method disagree about the unit cell, or OpenMM cannot
        create the system.
    """
    check_count(key, files.topology, topology.getNumAtoms(), files.coordinates, len(positions))
    if box is not None and "nonbonded" not in settings.model_fields_set:
        raise SettingsError(
            f"{key}: the files have a unit cell; say nonbonded: PME with a cutoff, or nonbonded: no cutoff to ignore "
            "the cell."
        )
    if box is None and settings.nonbonded in PERIODIC:
        raise SettingsError(
            f"system.nonbonded: {settings.nonbonded} needs a unit cell, and {files.coordinates} has none; give "
            f"coordinates that have one{', or box: with its lengths' if isinstance(files, CharmmSettings) else ''}."
        )
    if settings.implicit_solvent == "GBn2":
        refuse_unnamed_nucleotides(topology, "system.implicit_solvent", "GBn2")
    try:
        system = create()
    except Exception as error:  # missing parameters and other faults, of many types
        raise SettingsError(f"{key}: {files.topology}: {reason(error)}.") from error
    refuse_drude(key, system)
    return in_box(system, topology, positions, box)


def in_box(system: openmm.System, topology: app.Topology, positions: np.ndarray, box: Any) -> Molecule:
    """A molecule; that of a periodic system gets the box, and molecules that the box cuts are made whole."""
    if system.usesPeriodicBoundaryConditions():
        topology.setPeriodicBoxVectors(box)
        system.setDefaultPeriodicBoxVectors(*box)
        positions = make_whole(topology, positions)
    return Molecule(system, topology, positions)


def refuse_drude(key: str, system: openmm.System) -> None:
    """Refuse a polarizable system, whose Drude particles would get the temperature of the atoms."""
    if any(isinstance(force, openmm.DrudeForce) for force in system.getForces()):
        raise SettingsError(
            f"{key}: has Drude particles, which need an integrator of their own; take a force field without them."
        )


def check_count(key: str, topology: Path, expected: int, coordinates: Path, count: int) -> None:
    """Refuse two files with different numbers of atoms."""
    if expected != count:
        raise SettingsError(
            f"{key}: {topology} has {expected} atoms, {coordinates} has {count}; they are not of one system."
        )


def implicit_solvent(settings: SystemSettings) -> dict[str, Any]:
    """Options of `createSystem` for implicit solvent, with the same surface term for all programs."""
    if settings.implicit_solvent is None:
        return {}
    return {"implicitSolvent": getattr(app, settings.implicit_solvent), "gbsaModel": "ACE", **salt(settings)}


def read_coordinates(file: Path, key: str, periodic: bool) -> tuple[np.ndarray, np.ndarray | None, list[str] | None]:
    """Positions (N, 3) and box vectors (3, 3), nm, from a file of coordinates of any of these programs, and the names
    of its atoms where it has any."""
    suffix, names = file.suffix.lower(), None
    if suffix == ".gro":
        content = read_file(key, file, GroFile.load)
        vectors: Any = content.box  # OpenMM does not annotate it
        positions, box, names = content.positions, box_vectors(vectors), content.names
    elif suffix in (".crd", ".cor") and file.read_bytes()[:1] == b"*":  # CHARMM's files begin with a title
        (positions, names), box = read_crd(file, key), None
    elif suffix in (".inpcrd", ".rst7", ".rst", ".ncrst", ".crd", ".cor"):
        content = read_file(key, file, app.AmberInpcrdFile)
        vectors = content.boxVectors
        positions, box = positions_array(content.positions), box_vectors(vectors)
    else:
        structure = read_structure(file, key, periodic)
        positions, box = structure.positions, box_vectors(structure.topology.getPeriodicBoxVectors())
        names = [atom.name for atom in structure.topology.atoms()]
    return positions, box if periodic and box is not None and box.any() else None, names


def read_crd(file: Path, key: str) -> tuple[np.ndarray, list[str]]:
    """Positions (N, 3), nm, and names of atoms, from a file of CHARMM; some damaged ones have a title only."""
    with suppress(OSError):  # which the reader reports
        if all(line.startswith(b"*") or not line.strip() for line in file.read_bytes().splitlines()):
            raise SettingsError(f"{key}: {file} cannot be read (it holds no atoms).")  # OpenMM would read it for ever
    content = read_file(key, file, app.CharmmCrdFile)
    return positions_array(content.positions), content.attype


def read_file(key: str, file: Path | tuple[Path, ...], reader: Callable[[Any], Content]) -> Content:
    """The content of one or more files from a reader of OpenMM.

    Raises
    ------
    SettingsError
        The reader fails; names the key and the file.
    """
    paths = [str(path) for path in (file if isinstance(file, tuple) else (file,))]
    for path in paths:
        with suppress(OSError), open(path, "rb") as handle:  # the reader reports it
            if program := packed_by(handle.read(8)):
                raise SettingsError(f"{key}: {path} cannot be read (it is compressed by {program}; unpack it first).")
    try:
        with quiet():  # some print what they cannot read
            return reader(paths if isinstance(file, tuple) else paths[0])
    except Exception as error:  # OpenMM's readers raise many types for a damaged file
        raise SettingsError(f"{key}: {', '.join(paths)} cannot be read ({reason(error)}).") from error
