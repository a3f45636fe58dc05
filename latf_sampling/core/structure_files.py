"""Structures as PDB and PDBx/mmCIF files, whose bytes follow from what they hold."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from openmm import app

from latf_sampling.core import storage
from latf_sampling.units import to_quantity

_DATE = re.compile(r"(OpenMM \S+), \d{4}-\d\d-\d\d$", re.MULTILINE | re.IGNORECASE)


def write_structure(path: Path, topology: app.Topology, positions: np.ndarray) -> None:
    """Write a PDB or PDBx/mmCIF file, by its suffix.

    OpenMM writes the date into it, which is left out: a structure that is made again another day is the same file.

    Parameters
    ----------
    path
        It ends in .pdb or .cif.
    topology
        Residues and chains keep their identifiers.
    positions
        nm; (N, 3).
    """
    text, kind = io.StringIO(), app.PDBFile if path.suffix == ".pdb" else app.PDBxFile
    kind.writeFile(topology, to_quantity(positions, "length"), text, keepIds=True)
    storage.write_text(path, _DATE.sub(r"\1", text.getvalue(), count=1))
