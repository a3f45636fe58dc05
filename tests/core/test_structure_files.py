"""A structure that is made again is the same file."""

import datetime
from unittest.mock import Mock

import numpy as np
import pytest
from openmm import app

from latf_sampling.core.structure_files import write_structure


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_files_do_not_depend_on_the_date(tmp_path, monkeypatch, suffix):
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain("B"), "52", "A")
    for name, element in (("O", app.element.oxygen), ("H1", app.element.hydrogen)):
        topology.addAtom(name, element, residue)
    topology.setUnitCellDimensions((2.0, 2.0, 2.0))
    positions, files = np.array([[0.1, 0.2, 0.3], [0.15, 0.2, 0.3]]), []
    for day in (30, 31):
        today = Mock(today=lambda day=day: datetime.date(2026, 12, day))
        monkeypatch.setattr("openmm.app.pdbfile.date", today)
        monkeypatch.setattr("openmm.app.pdbxfile.date", today)
        files.append(tmp_path / f"{day}{suffix}")
        write_structure(files[-1], topology, positions)
    assert files[0].read_bytes() == files[1].read_bytes()
    reader = app.PDBFile if suffix == ".pdb" else app.PDBxFile
    read = reader(str(files[0]))
    assert read.getPositions(asNumpy=True)._value == pytest.approx(positions)
    (found,) = read.topology.residues()
    assert (found.name, found.chain.id, found.id, found.insertionCode.strip()) == ("HOH", "B", "52", "A")
