"""Systems from files of Amber."""

from __future__ import annotations

from openmm import app

from latf_sampling.settings.system import AmberSettings, SystemSettings
from latf_sampling.systems.engine_files import assemble, implicit_solvent, read_file
from latf_sampling.systems.force_field import options
from latf_sampling.systems.molecule import Molecule, positions_array


def from_amber(files: AmberSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a prmtop file and its coordinates."""
    coordinates = read_file("system.amber.coordinates", files.coordinates, app.AmberInpcrdFile)
    box = coordinates.boxVectors
    prmtop = read_file(
        "system.amber.topology", files.topology, lambda file: app.AmberPrmtopFile(file, periodicBoxVectors=box)
    )
    return assemble(
        "system.amber",
        files,
        settings,
        prmtop.topology,
        positions_array(coordinates.getPositions(asNumpy=True)),
        box,
        lambda: prmtop.createSystem(**options(settings), **implicit_solvent(settings)),
    )
