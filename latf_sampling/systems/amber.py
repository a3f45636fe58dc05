"""Systems from files of Amber."""

from __future__ import annotations

from contextlib import suppress

from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import AmberSettings, SystemSettings
from latf_sampling.systems.engine_files import assemble, implicit_solvent, read_file
from latf_sampling.systems.force_field import options
from latf_sampling.systems.molecule import Molecule, positions_array
from latf_sampling.systems.structure_text import packed_by


def from_amber(files: AmberSettings, settings: SystemSettings, seed: int) -> Molecule:
    """A molecule from a prmtop file and its coordinates."""
    coordinates = read_file("system.amber.coordinates", files.coordinates, app.AmberInpcrdFile)
    box = coordinates.boxVectors
    with suppress(OSError), open(files.topology, "rb") as file:  # which the reader reports
        head = file.read(10_000)
        if b"%FLAG" not in head and packed_by(head) is None and head.strip():
            raise SettingsError(
                f"system.amber.topology: {files.topology} has no %FLAG; it is no prmtop, or one from before Amber 7, "
                "which ParmEd reads and writes in the present format."
            )
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
