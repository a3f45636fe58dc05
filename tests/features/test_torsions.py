"""Torsions of nucleic acids and of chosen residues, against MDTraj and literature values."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm.app
import pytest
from helpers.nucleic import BOXES, DNA, RNA, boxed, perturbed, renamed

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.testing import check_descriptors

NAMES = "alpha beta gamma delta epsilon zeta chi"
ATOMS = {  # residue before (-), own, after (+)
    "alpha": "-O3' P O5' C5'",
    "beta": "P O5' C5' C4'",
    "gamma": "O5' C5' C4' C3'",
    "delta": "C5' C4' C3' O3'",
    "epsilon": "C4' C3' O3' +P",
    "zeta": "C3' O3' +P +O5'",
}


@pytest.fixture(scope="module")
def peptide() -> mdtraj.Trajectory:
    villin = mdtraj.load(str(Path(openmm.app.__file__).parent / "data" / "test.pdb"))
    return villin.atom_slice(villin.topology.select("protein"))


def quadruples(topology: mdtraj.Topology, name: str) -> list[list[int]]:
    """Atoms of the torsion in every residue that has it, chain by chain, by the names of the PDB."""
    found = []
    for chain in topology.chains:
        residues = [{atom.name: atom.index for atom in residue.atoms} for residue in chain.residues]
        for number, own in enumerate(residues):
            names = ATOMS.get(name, "O4' C1' N9 C4" if "N9" in own else "O4' C1' N1 C2").split()
            places = [number + {"-": -1, "+": 1}.get(atom[0], 0) for atom in names]
            if min(places) >= 0 and max(places) < len(residues):
                atoms = [residues[place].get(atom.lstrip("-+")) for place, atom in zip(places, names)]
                found += [atoms] if None not in atoms else []
    return found


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("file", [DNA, RNA], ids=["dna", "rna"])
def test_nucleic_torsions_equal_mdtraj(file, box):
    traj = boxed(perturbed(file), box, side=1.2)
    features = Features(traj.topology, [{"torsions": NAMES}], periodic=box != "none")
    atoms = [four for name in NAMES.split() for four in quadruples(traj.topology, name)]
    angles = mdtraj.compute_dihedrals(traj, atoms, periodic=box != "none")
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    assert len(features.names) == 2 * len(atoms) == (2 * 146 if file == DNA else 2 * 39)
    cells = None if box == "none" else traj.unitcell_vectors
    np.testing.assert_allclose(features(traj.xyz.astype(float), cells), expected, atol=1e-5)
    # in single precision, coordinates of nm and bonds of 0.15 nm
    np.testing.assert_allclose(features.transform(traj), expected, atol=5e-5)


def test_terminal_residues_lack_what_they_lack():
    names = Features(mdtraj.load(str(DNA)).topology, [{"torsions": NAMES}]).names
    having = {name: {n.split(" ", 2)[2] for n in names if n.startswith(f"cos {name} ")} for name in NAMES.split()}
    assert {name: len(residues) for name, residues in having.items()} == {
        "alpha": 20,
        "beta": 20,
        "gamma": 22,
        "delta": 22,
        "epsilon": 20,
        "zeta": 20,
        "chi": 22,
    }
    assert "DA 1" not in having["alpha"] and "DG 11" not in having["epsilon"] and "DT 11" not in having["zeta"]


def test_backbone_of_a_tetraloop_is_where_helices_have_it():
    """Canonical A-form: beta and epsilon trans, gamma gauche+, delta of a C3'-endo sugar, chi anti."""
    rna = mdtraj.load(str(RNA))
    features = Features(rna.topology, [{"torsions": {"names": NAMES, "residues": "resid 3"}}])
    values = dict(zip(features.names, features(rna.xyz[0])))
    angle = {
        name: np.degrees(np.arctan2(values[f"sin {name} A 4"], values[f"cos {name} A 4"])) % 360
        for name in NAMES.split()
    }
    canonical = {"alpha": 290, "beta": 175, "gamma": 55, "delta": 82, "epsilon": 210, "zeta": 290, "chi": 200}
    assert max(abs((angle[name] - value + 180) % 360 - 180) for name, value in canonical.items()) < 30


@pytest.mark.parametrize(
    ("residue", "atom"),
    [
        (lambda name, place: name + "5"[place:] if place != 2 else name + "3", lambda name: name),
        (lambda name, place: "R" + name[-1] + ("5", "", "3")[place], lambda name: name.replace("'", "*")),
        (
            lambda name, place: {"A": "ADE", "G": "GUA", "C": "CYT", "T": "THY"}[name[-1]],
            lambda name: {"OP1": "O1P", "OP2": "O2P"}.get(name, name),
        ),
    ],
    ids=["DA5", "RA3-asterisks", "ADE-O1P"],
)
def test_names_of_force_fields_find_the_same(residue, atom):
    dna = mdtraj.load(str(DNA))
    other = renamed(dna.topology, residue, atom)
    spec = [{"torsions": NAMES}]
    found, expected = Features(other, spec), Features(dna.topology, spec)
    assert len(found.names) == len(set(found.names))
    np.testing.assert_array_equal(found(dna.xyz), expected(dna.xyz))


def test_pseudouridine_hangs_on_its_carbon():
    rna = mdtraj.load(str(RNA))
    other = renamed(rna.topology, lambda name, place: "PSU" if name == "U" else name)
    index = {atom.name: atom.index for atom in rna.topology.residue(0).atoms}
    expected = Features(rna.topology, [{"torsions": {"atoms": [[index[n] for n in ("O4'", "C1'", "C5", "C4")]]}}])
    found = Features(other, [{"torsions": {"names": "chi", "residues": "resid 0"}}])
    assert found.names == ["sin chi PSU 1", "cos chi PSU 1"]
    np.testing.assert_array_equal(found(rna.xyz), expected(rna.xyz))


def test_missing_residues_break_the_backbone():
    rna = mdtraj.load(str(RNA))
    gap = rna.atom_slice([atom.index for atom in rna.topology.atoms if atom.residue.index != 2])
    names = Features(gap.topology, [{"torsions": "alpha zeta"}]).names
    assert [name for name in names if name.startswith("cos")] == [
        "cos alpha G 2",
        "cos alpha A 5",
        "cos alpha A 6",
        "cos zeta U 1",
        "cos zeta A 4",
        "cos zeta A 5",
    ]


def test_chi5_equals_mdtraj(peptide):
    features = Features(peptide.topology, [{"torsions": "chi5"}])
    angle = mdtraj.compute_chi5(peptide)[1]
    assert features.names == ["sin chi5 ARG 14", "cos chi5 ARG 14"]
    np.testing.assert_allclose(
        features.transform(peptide), np.concatenate([np.sin(angle), np.cos(angle)], 1), atol=2e-5
    )


def test_residues_may_be_chosen(peptide):
    every = Features(peptide.topology, [{"torsions": "phi psi"}])
    entry = {"torsions": {"names": "phi  psi", "residues": "resid 2 to 4 and name CA"}}
    some = Features(peptide.topology, [entry])
    wanted = [
        f"{part} {name} {r}" for part in ("sin", "cos") for name in ("phi", "psi") for r in ("ASP 3", "GLU 4", "ASP 5")
    ]
    assert some.names == wanted and set(wanted) < set(every.names)
    assert some.spec == [{"torsions": {"names": "phi psi", "residues": "resid 2 to 4 and name CA"}}]
    assert Features(peptide.topology, some.spec).names == wanted
    columns = [every.names.index(name) for name in wanted]
    np.testing.assert_array_equal(some.transform(peptide), every.transform(peptide)[:, columns])


def test_what_all_descriptors_keep():
    check_descriptors(perturbed(RNA), [{"torsions": NAMES}])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("alpha", r": 'alpha' finds no torsion in this topology; it needs nucleotides with -O3', P, O5', C5'\."),
        ("phi chi", r": 'chi' finds no torsion in this topology; it needs nucleotides with O4', C1', N9 or N1, C4 or"),
        ({"names": "phi", "residues": "resid 0"}, r"\.names: 'phi' finds no torsion in 'resid 0'\."),
        ({"names": "phi psy"}, r"\.names: 'psy' is not a torsion; known are phi, .*, chi5, alpha"),
        ({"names": ""}, r"\.names: names no torsion"),
        ({"names": "phi", "residues": "resid 90"}, r"\.residues: 'resid 90' selects no atom"),
        ({"names": "phi", "residues": ["resid 2"]}, r"\.residues: "),
        ({"names": "phi", "atoms": [[0, 1, 2, 3]]}, r"\.atoms: no such key"),
        ({"residues": "resid 2"}, r"\.atoms: this key is missing; write names like"),
    ],
)
def test_wrong_specifications_name_their_key(peptide, value, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.torsions{words}"):
        Features(peptide.topology, [{"torsions": value}])
