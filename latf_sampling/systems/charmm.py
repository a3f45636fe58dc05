"""Systems from files of CHARMM."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import CharmmSettings, SystemSettings
from latf_sampling.systems.engine_files import assemble, implicit_solvent, read_crd, read_file
from latf_sampling.systems.force_field import options
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.structure import read_structure
from latf_sampling.units import to_quantity


def from_charmm(files: CharmmSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a psf file, its coordinates and its parameters."""
    parameters = read_file("system.charmm.parameters", files.parameters, lambda names: app.CharmmParameterSet(*names))
    psf = read_file("system.charmm.topology", files.topology, app.CharmmPsfFile)
    positions, box = _coordinates(files)
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


def _coordinates(files: CharmmSettings) -> tuple[np.ndarray, Any]:
    key, file = "system.charmm.coordinates", files.coordinates
    if file.suffix.lower() in (".pdb", ".ent", ".cif", ".mmcif", ".pdbx"):
        structure = read_structure(file, key)
        positions, box = structure.positions, structure.topology.getPeriodicBoxVectors()
    else:
        positions, box = read_crd(file, key), None
    if files.box is not None:
        if box is not None:
            raise SettingsError(f"system.charmm.box: {file} has a unit cell; remove the key.")
        box = to_quantity([openmm.Vec3(*row) for row in np.diag(files.box)], "length")
    return positions, box
