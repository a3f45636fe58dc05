"""Structures and trajectories that are compressed, or whose unit cell stands for none."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from helpers.molecules import STRUCTURE
from openmm import app, unit

from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features import Features, as_mdtraj
from latf_sampling.settings import Protocol, SystemSettings
from latf_sampling.systems import build

FIELD = ("amber14/protein.ff14SB.xml",)
PDB = Path(STRUCTURE).read_bytes()
CELL = "CRYST1{:9.3f}{:9.3f}{:9.3f}  90.00  90.00  90.00 P 1           1\n"


def mmcif() -> bytes:
    structure, handle = app.PDBFile(io.StringIO(PDB.decode())), io.StringIO()
    app.PDBxFile.writeFile(structure.topology, structure.positions, handle, keepIds=True)
    return handle.getvalue().encode()


CONTENT = {".pdb": PDB, ".ent": PDB, ".cif": mmcif(), ".mmcif": mmcif()}


@pytest.fixture(scope="module")
def molecule():
    return build(SystemSettings(name="alanine-dipeptide"))


@pytest.mark.parametrize("suffix", list(CONTENT))
def test_structures_compressed_by_gzip_are_read(tmp_path, molecule, suffix):
    """As a structure and as a conformation; and as a copy that a campaign has numbered."""
    for name in (f"1abc{suffix}.gz", f"1abc{suffix}-1.gz"):
        (tmp_path / name).write_bytes(gzip.compress(CONTENT[suffix], mtime=0))
        read = build(SystemSettings(structure=tmp_path / name, force_field=FIELD, conformations=(tmp_path / name,)))
        np.testing.assert_allclose(read.positions, molecule.positions, atol=2e-3)
        assert [a.name for a in read.topology.atoms()] == [a.name for a in molecule.topology.atoms()]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdb", gzip.compress(PDB, mtime=0), "compressed by gzip; unpack it first"),
        ("a.pdb.bz2", bz2.compress(PDB), "compressed by bzip2; unpack it first"),
        ("a.pdb.gz", gzip.compress(PDB, mtime=0)[:-200], "cannot be unpacked .*; is it cut off"),
        ("a.pdb.gz", gzip.compress(mmcif()), "let its name end in .cif"),
        ("a.cif.gz", gzip.compress(PDB, mtime=0), "let its name end in .pdb"),
        ("a.pdb.gz", gzip.compress(b"\0\1", mtime=0), "no text file"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^system\.structure: .*{words}"):
        build(SystemSettings(structure=tmp_path / name, force_field=FIELD))


def test_files_of_programs_have_to_be_unpacked(tmp_path):
    for name in ("a.prmtop", "a.inpcrd", "a.gro", "a.psf"):
        (tmp_path / name).write_bytes(gzip.compress(b"text", mtime=0))
    (tmp_path / "a.prm").write_text("* title\n")
    a, b = {"topology": tmp_path / "a.prmtop", "coordinates": tmp_path / "a.inpcrd"}, tmp_path / "a.gro"
    sources = (
        {"amber": a},
        {"gromacs": {"topology": tmp_path / "a.prmtop", "coordinates": b}},
        {"charmm": {"topology": tmp_path / "a.psf", "coordinates": b, "parameters": (tmp_path / "a.prm",)}},
    )
    for source in sources:
        with pytest.raises(SettingsError, match="it is compressed by gzip; unpack it first"):
            build(SystemSettings(**source))


def test_a_campaign_keeps_a_compressed_structure(tmp_path):
    (tmp_path / "a.pdb.gz").write_bytes(gzip.compress(PDB, mtime=0))
    protocol = Protocol(
        name="a",
        frame_interval="0.2 ps",
        segment="10 ps",
        system={"structure": tmp_path / "a.pdb.gz", "force_field": FIELD},
        features=[{"torsions": "phi psi"}],
        rounds=[{"walkers": ["300 K"], "length": "100 ps"}],
        learning={"lag": "10 ps"},
    )
    assert "a.pdb.gz" in protocol.inputs()
    (tmp_path / "copies").mkdir()
    for name, content in protocol.inputs().items():
        (tmp_path / "copies" / name).write_bytes(content)
    copied = SystemSettings(structure=tmp_path / "copies" / "a.pdb.gz", force_field=FIELD)
    assert build(copied).positions.shape == (22, 3)


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".mmcif"])
def test_structures_are_trajectories_and_references_too(tmp_path, molecule, suffix):
    topology = as_mdtraj(molecule.topology)
    for name, content in ((f"a{suffix}", CONTENT[suffix]), (f"a{suffix}.gz", gzip.compress(CONTENT[suffix], mtime=0))):
        (tmp_path / name).write_bytes(content)
        frames = list(read_pieces(tmp_path / name, topology, False))
        np.testing.assert_allclose(frames[0].xyz[0], molecule.positions, atol=2e-3)
        features = Features(topology, [{"rmsd": {"of": "element != H", "reference": str(tmp_path / name)}}])
        assert features(molecule.positions)[0] < 2e-3


@pytest.mark.parametrize("edges", [(1, 1, 1), (1, 50, 50), (2, 2, 2)], ids=str)
def test_a_cell_that_cannot_hold_the_atoms_stands_for_none(tmp_path, molecule, edges):
    (tmp_path / "a.pdb").write_bytes(CELL.format(*map(float, edges)).encode() + PDB)
    with pytest.warns(UserWarning, match=r"system\.structure: the unit cell of .*a\.pdb, .* nm, is too small"):
        read = build(SystemSettings(structure=tmp_path / "a.pdb", force_field=FIELD))
    assert read.topology.getPeriodicBoxVectors() is None
    np.testing.assert_allclose(read.positions, molecule.positions, atol=2e-3)
    with pytest.raises(SettingsError, match="PME needs a unit cell"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(SystemSettings(structure=tmp_path / "a.pdb", force_field=FIELD, nonbonded="PME", cutoff="0.9 nm"))


@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".nc"])
def test_a_dummy_cell_of_frames_stands_for_none(tmp_path, molecule, suffix):
    frames = mdtraj.Trajectory(np.repeat(molecule.positions[None], 3, 0), as_mdtraj(molecule.topology))
    frames.unitcell_lengths, frames.unitcell_angles = np.full((3, 3), 0.1), np.full((3, 3), 90.0)
    frames.save(str(tmp_path / f"a{suffix}"))
    read = next(read_pieces(tmp_path / f"a{suffix}", frames.topology, False))
    np.testing.assert_allclose(read.xyz, frames.xyz, atol=1e-3)
    with pytest.raises(DataError, match="frame 0 has no periodic box"):
        next(read_pieces(tmp_path / f"a{suffix}", frames.topology, True))


def test_readers_print_nothing(tmp_path, molecule, capfd):
    frames = mdtraj.Trajectory(np.repeat(molecule.positions[None], 3, 0), as_mdtraj(molecule.topology))
    for name in ("a.dcd", "a.xtc", "a.nc", "a.trr"):
        frames.save(str(tmp_path / name))
        capfd.readouterr()
        list(read_pieces(tmp_path / name, frames.topology, False))
        assert capfd.readouterr() == ("", "")


def box_of(settings: dict) -> SystemSettings:
    return SystemSettings(force_field=(*FIELD, "amber14/tip3p.xml"), cutoff="0.6 nm", **settings)


@pytest.fixture(scope="module")
def boxed(tmp_path_factory) -> Path:
    """The peptide in a cell without water."""
    file = tmp_path_factory.mktemp("boxed") / "a.pdb"
    file.write_bytes(CELL.format(30.0, 30.0, 30.0).encode() + PDB)
    return file


def nonbonded(settings: SystemSettings):
    system = build(settings).system
    force = next(force for force in system.getForces() if force.getName() == "NonbondedForce")
    return copy.copy(force)  # which outlives the system


def test_dispersion_by_particle_mesh_and_switching(boxed):
    force = nonbonded(box_of({"structure": boxed, "nonbonded": "LJPME"}))
    assert (force.getNonbondedMethod(), force.getUseSwitchingFunction()) == (force.LJPME, False)
    for method in ("PME", "cutoff"):
        force = nonbonded(box_of({"structure": boxed, "nonbonded": method, "switching_distance": "0.5 nm"}))
        assert force.getUseSwitchingFunction()
        assert force.getSwitchingDistance() == 0.5 * unit.nanometer
    assert not nonbonded(box_of({"structure": boxed, "nonbonded": "PME"})).getUseSwitchingFunction()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"nonbonded": "LJPME"}, "cutoff: nonbonded 'LJPME' needs one"),
        ({"nonbonded": "PME", "cutoff": "0.6 nm", "switching_distance": "0.6 nm"}, "has to be below the cutoff, 0.6"),
        ({"switching_distance": "0.6 nm"}, "switching_distance: there is no cutoff"),
        ({"nonbonded": "LJPME", "cutoff": "0.6 nm", "force_field": (*FIELD, "implicit/obc2.xml")}, "Illegal nonbonded"),
        ({"implicit_salt": "0.1 M"}, r"system\.implicit_salt: .* no implicit solvent that knows salt"),
        ({"implicit_salt": "0.1 M", "force_field": ("amber99sbildn.xml", "amber99_obc.xml")}, "knows salt"),
    ],
)  # fmt: skip
def test_nonbonded_keys_that_do_not_fit(boxed, keys, words):
    with pytest.raises(SettingsError, match=words):
        build(SystemSettings(**{"structure": boxed, "force_field": FIELD, "nonbonded": "no cutoff", **keys}))


def test_salt_screens_charges_in_implicit_solvent(molecule):
    """The energy of two far charges falls by exp(-kappa r), with Amber's kappa; without salt the force is native."""
    field = (*FIELD, "implicit/obc2.xml")
    plain = build(SystemSettings(name="alanine-dipeptide", force_field=field))
    salted = build(SystemSettings(name="alanine-dipeptide", force_field=field, implicit_salt="0.15 mol/l"))
    kinds = [[f.getName() for f in m.system.getForces() if "GB" in f.getName()] for m in (plain, salted)]
    assert kinds == [["GBSAOBCForce"], ["CustomGBForce"]]
    force = next(f for f in salted.system.getForces() if f.getName() == "CustomGBForce")
    kappa = 0.73 * 10 * 50.33355 * (0.15 / 78.5 / 298.15) ** 0.5  # OpenMM's readers of Amber's and CHARMM's files
    assert f"kappa={kappa:.6f}"[:12] in "".join(force.getEnergyTermParameters(k)[0] for k in range(3)).replace(" ", "")


def test_a_prmtop_from_before_amber_7_is_told(tmp_path):
    (tmp_path / "old.prmtop").write_text(" " * 80 + "\n 11034    15 10917\nN   H1  H2  H3  CA  HA\n")
    (tmp_path / "a.inpcrd").write_text("title\n    1\n   0.0000000   0.0000000   0.0000000\n")
    with pytest.raises(SettingsError, match=r"old\.prmtop has no %FLAG; it is no prmtop, or one from before Amber 7"):
        build(SystemSettings(amber={"topology": tmp_path / "old.prmtop", "coordinates": tmp_path / "a.inpcrd"}))
