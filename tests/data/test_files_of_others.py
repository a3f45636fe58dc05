"""Files as other programs write them: DCD files of runs that stopped early, CHARMM's names of hydrogens and ions."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from helpers.molecules import STRUCTURE
from openmm import app

from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import DataError
from latf_sampling.systems import structure
from latf_sampling.systems.structure import read_structure

RNA = Path(__file__).parent / "rna-gnra.pdb"


def dcd(folder: Path, cell: bool, frames: int = 5) -> tuple[Path, mdtraj.Topology]:
    trajectory = mdtraj.load(str(STRUCTURE))
    trajectory = mdtraj.join([trajectory] * frames)
    trajectory.unitcell_lengths = np.full((frames, 3), 3.0) if cell else None
    trajectory.unitcell_angles = np.full((frames, 3), 90.0) if cell else None
    trajectory.save(str(folder / "a.dcd"))
    return folder / "a.dcd", trajectory.topology


@pytest.mark.parametrize("cell", [False, True])
def test_a_run_that_stopped_early_left_complete_frames(tmp_path, cell):
    file, topology = dcd(tmp_path, cell)
    content = bytearray(file.read_bytes())
    content[8:12] = struct.pack("<i", 500)  # frames that were planned
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="promises 500 frames, and it has 5; it is taken to be of a run that stopped"):
        assert sum(map(len, read_pieces(file, topology, cell))) == 5
    for cut in (1, 4, 100):
        file.write_bytes(content[:-cut])
        with pytest.raises(DataError, match="is truncated; its header promises 500 frames, and it has 4"):
            list(read_pieces(file, topology, cell))


def charmm_names(text: str) -> str:
    """The hydrogens of nucleotides as CHARMM names them, without elements."""
    new = {"HO2'": "H2'", "H2'": "H2''", "OP1": "O1P", "OP2": "O2P"}
    lines = []
    for line in text.splitlines(True):
        if line.startswith(("ATOM", "HETATM")):
            name = new.get(line[12:16].strip(), line[12:16].strip())
            line = f"{line[:12]}{name:<4}{line[16:76]}\n" if len(name) > 3 else f"{line[:12]} {name:<3}{line[16:76]}\n"
        lines.append(line)
    return "".join(lines)


@pytest.fixture(scope="module")
def nucleotides() -> tuple[app.Modeller, str]:
    """RNA with hydrogens, and its text without bonds."""
    content = app.PDBFile(str(RNA))
    modeller = app.Modeller(content.topology, content.positions)
    modeller.addHydrogens(platform=openmm.Platform.getPlatform("Reference"))
    handle = io.StringIO()
    app.PDBFile.writeFile(modeller.topology, modeller.positions, handle, keepIds=True)
    return modeller, "".join(line for line in handle.getvalue().splitlines(True) if not line.startswith("CONECT"))


def bonds(topology: app.Topology) -> set[tuple[int, int]]:
    return {tuple(sorted((bond[0].index, bond[1].index))) for bond in topology.bonds()}


def test_hydrogens_are_bonded_to_the_atom_that_they_are_at(tmp_path, nucleotides):
    modeller, text = nucleotides
    for name, content in (("pdb.pdb", text), ("charmm.pdb", charmm_names(text))):
        (tmp_path / name).write_text(content)
        assert bonds(read_structure(tmp_path / name, "system.structure").topology) == bonds(modeller.topology)


def test_hydrogens_at_two_atoms_or_at_none_keep_their_bonds():
    """What is damaged is refused later, by its bonds, and not mended by a guess."""
    content = app.PDBFile(str(STRUCTURE))
    x = np.array(content.positions._value)
    before = bonds(content.topology)
    structure.bond_hydrogens(content.topology, x)
    assert bonds(content.topology) == before
    x[1] += 10  # a hydrogen of the cap
    structure.bond_hydrogens(content.topology, x)
    assert bonds(content.topology) == before


def test_ions_of_charmm_without_elements(tmp_path):
    names = {"POT": "K", "SOD": "Na", "CLA": "Cl", "CES": "Cs", "LIT": "Li", "RUB": "Rb", "CAL": "Ca"}
    lines = [
        f"ATOM  {k:5d} {name:>3}  {name:>3}  {k:4d}    {8 * k:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00            \n"
        for k, name in enumerate(names, 1)
    ]
    (tmp_path / "a.pdb").write_text("".join(lines) + "END\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_structure(tmp_path / "a.pdb", "system.structure")
    assert [atom.element.symbol for atom in read.topology.atoms()] == list(names.values())


@pytest.mark.parametrize("suffix", ["pdb", "gro", "cif"])
def test_ions_whose_elements_a_reader_guesses(tmp_path, suffix):
    """MDTraj takes the lithium of a GRO file for a virtual site, and its sodium for nitrogen."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for symbol in ("Li", "Na", "K", "Cl", "Rb", "Cs", "Mg", "Zn", "Ca", "Br"):
        topology.add_atom(symbol.upper(), mdtraj.element.get_by_symbol(symbol), topology.add_residue(symbol, chain))
    frames = mdtraj.Trajectory(0.5 * np.arange(30).reshape(1, 10, 3), topology)
    frames.save(str(tmp_path / f"a.{suffix}"))
    read = next(read_pieces(tmp_path / f"a.{suffix}", topology, False))
    assert read.topology is topology
    moved = topology.copy()
    moved.atom(0).name, moved.atom(1).name = "NA", "LI"
    with pytest.raises(DataError, match="atom 0 is 'LI"):
        next(read_pieces(tmp_path / f"a.{suffix}", moved, False))


@pytest.mark.parametrize("kind, suffix", [("XTC", "xtc"), ("TRR", "trr"), ("DCD", "dcd"), ("NetCDF", "nc")])
def test_files_of_another_format_than_their_names_say(tmp_path, kind, suffix):
    topology = mdtraj.load(str(STRUCTURE)).topology
    mdtraj.load(str(STRUCTURE)).save(str(tmp_path / f"run.{suffix}"))
    content = (tmp_path / f"run.{suffix}").read_bytes()
    assert sum(map(len, read_pieces(tmp_path / f"run.{suffix}", topology, False))) == 1
    for name in ("run", f"run.{'dcd' if suffix == 'xtc' else 'xtc'}"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: begins as a file of {kind}; let its name end in \.{suffix}"):
            list(read_pieces(tmp_path / name, topology, False))
    for name, pack, program in (("a.xtc.gz", gzip, "gzip"), ("a.nc", bz2, "bzip2"), ("a.dcd", lzma, "xz")):
        (tmp_path / name).write_bytes(pack.compress(content))
        with pytest.raises(DataError, match=rf"{name}: it is compressed by {program}; unpack it first"):
            list(read_pieces(tmp_path / name, topology, False))


@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd", "nc", "pdb"])
def test_trajectories_without_some_of_the_atoms(tmp_path, suffix):
    whole = mdtraj.load(str(STRUCTURE))
    whole.atom_slice(whole.topology.select("element != H")).save(str(tmp_path / f"heavy.{suffix}"))
    with pytest.raises(DataError, match=r"has 10 atoms, the system 22; a trajectory of the whole system is needed"):
        list(read_pieces(tmp_path / f"heavy.{suffix}", whole.topology, False))
