"""Systems from files of CHARMM."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import CharmmSettings, SystemSettings
from latf_sampling.systems import mmcif, pdb
from latf_sampling.systems.atom_names import check_names
from latf_sampling.systems.engine_files import assemble, check_count, implicit_solvent, read_crd, read_file
from latf_sampling.systems.force_field import options
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.structure import parse, read_text
from latf_sampling.systems.structure_text import format_of
from latf_sampling.units import to_quantity


def from_charmm(files: CharmmSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a psf file, its coordinates and its parameters."""
    parameters = read_file("system.charmm.parameters", files.parameters, _read_parameters)
    psf = read_file("system.charmm.topology", files.topology, app.CharmmPsfFile)
    positions, names, box = _coordinates(files)
    own = [atom.name for atom in psf.atom_list]
    check_count("system.charmm", files.topology, len(own), files.coordinates, len(positions))
    check_names("system.charmm.coordinates", files.topology, psf.topology, own, files.coordinates, names)
    if box is not None:
        psf.topology.setPeriodicBoxVectors(box)
        psf.box_vectors = box
    return assemble(
        "system.charmm",
        files,
        settings,
        psf.topology,
        positions,
        box,
        lambda: psf.createSystem(parameters, **options(settings), **implicit_solvent(settings)),
    )


def _read_parameters(names: list[str]) -> app.CharmmParameterSet:
    """The force field in some files, with an error that says what to give where types of atoms are missing."""
    try:
        return app.CharmmParameterSet(*names)
    except Exception as error:  # OpenMM raises many types
        if "not present in AtomType list" in str(error):
            raise ValueError(f"{error}; name the rtf file that defines it before") from error
        raise


def _coordinates(files: CharmmSettings) -> tuple[np.ndarray, list[str], Any]:
    """Positions (N, 3), nm, names of atoms as the file has them, and the box."""
    key, file = "system.charmm.coordinates", files.coordinates
    if format_of(file) in (".pdb", ".ent", ".cif", ".mmcif", ".pdbx"):
        source = read_text(file, key)
        structure = parse(source)
        names = [atom for *_, atom, _ in mmcif.atoms(source)] if source.is_mmcif else [
            atom.name.strip() for atom in pdb.atoms(source)
        ]  # fmt: skip
        positions, box = structure.positions, structure.topology.getPeriodicBoxVectors()
    else:
        positions, names = read_crd(file, key)
        box = None
    if files.box is not None:
        if box is not None:
            raise SettingsError(f"system.charmm.box: {file} has a unit cell; remove the key.")
        box = to_quantity([openmm.Vec3(*row) for row in np.diag(files.box)], "length")
    return positions, names, box
