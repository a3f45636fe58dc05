"""Labels and selections of residues with insertion codes, negative and large numbers, chains, water and sites."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from openmm import app

from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import ColumnWarning, SettingsError
from latf_sampling.features import Features, as_mdtraj
from latf_sampling.features.descriptor import select_atoms
from latf_sampling.features.topology import Labels, insertion_code

RESIDUES = (
    ("A", -3, ""),
    ("A", 52, ""),
    ("A", 52, "A"),
    ("A", 52, "B"),
    ("A", 53, ""),
    ("A", 12345, ""),
    ("B", 52, ""),
)


def topology(residues=RESIDUES, name: str = "GLY") -> app.Topology:
    made, chains = app.Topology(), {}
    for letter, number, code in residues:
        chain = chains.setdefault(letter, None) or made.addChain(letter)
        chains[letter] = chain
        residue = made.addResidue(name, chain, str(number), code)
        for atom, element in (("N", app.element.nitrogen), ("CA", app.element.carbon)):
            made.addAtom(atom, element, residue)
    return made


def test_labels_tell_residues_apart():
    labels = Labels(as_mdtraj(topology()))
    names = [labels.residue(2 * k) for k in range(7)]
    assert names == ["GLY -3", "GLY 52:A", "GLY 52A", "GLY 52B", "GLY 53", "GLY 12345", "GLY 52:B"]
    assert labels.atom(5) == "GLY52A-CA" and labels.atom(0) == "GLY-3-N" and labels.atom(13) == "GLY52:B-CA"
    assert [insertion_code(residue) for residue in as_mdtraj(topology()).residues][2:4] == ["A", "B"]


@pytest.mark.parametrize(
    "chains, expected",
    [
        ("AB", ["GLY 1:A", "GLY 1:B"]),
        ("12", ["GLY 1:0", "GLY 1:1"]),
        (("", ""), ["GLY 1:0", "GLY 1:1"]),
        (("PRO", "WAT"), ["GLY 1:PRO", "GLY 1:WAT"]),
    ],
)
def test_chains_in_labels(chains, expected):
    made = mdtraj.Topology()
    for letter in chains:
        made.add_atom("CA", mdtraj.element.carbon, made.add_residue("GLY", made.add_chain(letter), resSeq=1))
    assert [Labels(made).residue(k) for k in range(2)] == expected
    same = mdtraj.Topology()
    for _ in range(2):
        same.add_atom("CA", mdtraj.element.carbon, same.add_residue("GLY", same.add_chain("A"), resSeq=1))
    assert [Labels(same).residue(k) for k in range(2)] == ["GLY 1:0", "GLY 1:1"]


@pytest.mark.parametrize(
    "selection, residues",
    [
        ("resSeq 52A", [2]),
        ("resSeq 52b", [3]),
        ("resSeq 52", [1, 6]),
        ("residue 52 and chainid 0", [1]),
        ("resSeq == 52B", [3]),
        ("resSeq 52 to 52A", [1, 2, 6]),
        ("resSeq 52A to 53", [2, 3, 4]),
        ("resSeq 52 53", [1, 4, 6]),
        ("resSeq -3", [0]),
        ("resSeq -3 to 52", [0, 1, 6]),
        ("resSeq -3 52B and name CA", [0, 3]),
        ("resSeq 12345", [5]),
        ("resSeq < 0", [0]),
        ("not resSeq 52A", [0, 1, 3, 4, 5, 6]),
        ("resSeq 53 or (resSeq 52A and name CA)", [2, 4]),
    ],
)
def test_selections_of_residues(selection, residues):
    made = as_mdtraj(topology())
    atoms = select_atoms(made, selection, "atoms")
    assert sorted({made.atom(atom).residue.index for atom in atoms}) == residues


def test_a_number_that_no_residue_has_selects_nothing():
    for selection in ("resSeq 52C", "resSeq -4"):
        with pytest.raises(SettingsError, match=f"'{selection}' selects no atom"):
            select_atoms(as_mdtraj(topology()), selection, "atoms")


def solvated(waters: int = 2) -> mdtraj.Topology:
    made = mdtraj.Topology()
    residue = made.add_residue("GLY", made.add_chain("A"), resSeq=1)
    for name, element in (("N", "N"), ("H", "H"), ("CA", "C"), ("O", "O")):
        made.add_atom(name, mdtraj.element.get_by_symbol(element), residue)
    chain = made.add_chain("W")
    for number in range(waters):
        residue = made.add_residue("HOH", chain, resSeq=number + 2)
        for name, element in (("O", "O"), ("H1", "H"), ("H2", "H"), ("M", "VS")):
            made.add_atom(name, mdtraj.element.get_by_symbol(element), residue)
    return made


@pytest.mark.parametrize(
    "selection, atoms",
    [
        ("element != H", [0, 2, 3]),
        ("element O", [3]),
        ("element O or name N", [0, 3]),
        ("not element H", [0, 2, 3]),
        ("water and element O", [4, 8]),
        ("resname HOH and element != H", [4, 8]),
        ("resSeq 2 and element != H", [4]),
        ("element VS and water", [7, 11]),
        ("name O", [3, 4, 8]),
        ("all", list(range(12))),
    ],
)
def test_elements_take_neither_water_nor_sites_unless_they_are_named(selection, atoms):
    assert select_atoms(solvated(), selection, "atoms") == atoms


def test_only_water_by_element_says_so():
    made = solvated(2).subset(np.arange(4, 12))
    with pytest.raises(
        SettingsError, match=r"'element O' selects no atom of this topology but water and virtual sites"
    ):
        select_atoms(made, "element O", "distances")


def test_many_columns_are_warned_of():
    with pytest.warns(ColumnWarning, match=r"features\[0\]\.distances: makes 11,\d* columns, which take long to learn"):
        Features(solvated(150), [{"distances": "name O"}])


def test_molecules_that_a_cell_breaks_are_made_whole_or_said(tmp_path):
    made = mdtraj.Topology()
    residue = made.add_residue("GLY", made.add_chain("A"), resSeq=1)
    atoms = [made.add_atom(name, mdtraj.element.carbon, residue) for name in ("CA", "CB", "CG")]
    for first, second in zip(atoms, atoms[1:]):
        made.add_bond(first, second)
    broken = mdtraj.Trajectory(np.array([[[0.1, 0, 0], [1.96, 0, 0], [1.82, 0, 0]]], np.float32), made)
    broken.unitcell_vectors = 2 * np.eye(3, dtype=np.float32)[None]
    features = Features(made, [{"distances": "name CA CG"}])
    with pytest.warns(UserWarning, match=r"^trajectory: molecules are broken over its unit cell, which is ignored"):
        features.transform(broken)
    broken.save(str(tmp_path / "broken.xtc"))
    (whole,) = read_pieces(tmp_path / "broken.xtc", made, False)
    assert whole.unitcell_vectors is None
    np.testing.assert_allclose(features.transform(whole), [[0.28]], atol=2e-3)
