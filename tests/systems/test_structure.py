"""Structures: ambiguous and missing atoms are errors that name the residue; preparation adds them on demand."""

from __future__ import annotations

import builtins
import io
import random
from functools import cache
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from helpers.molecules import STRUCTURE
from openmm import app, unit

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.settings import SystemSettings, system
from latf_sampling.starts import handedness, stereocenters
from latf_sampling.systems import Molecule, build
from latf_sampling.systems.build import SOURCES
from latf_sampling.systems.checks import d_amino_acids
from latf_sampling.systems.named import BACKBONES, CHIGNOLIN, peptide
from latf_sampling.systems.preparation import with_hydrogens
from latf_sampling.systems.structure import parse, read_text

FIELD = "amber14/protein.ff14SB.xml"
WATER = "amber14/tip3p.xml"
SEQUENCE = "GAVSKEFG"
EXTENDED = ((-120, 140),) * len(SEQUENCE)


@cache
def peptide_with_all_atoms() -> tuple[app.Topology, np.ndarray]:
    """A peptide with all of its atoms."""
    heavy = peptide(SEQUENCE, EXTENDED)
    structure = with_hydrogens(app.Modeller(heavy.topology, heavy.positions), 7.0, 1)
    return structure.topology, structure.positions


def text(topology: app.Topology, positions: np.ndarray, mmcif: bool = False) -> str:
    handle = io.StringIO()
    (app.PDBxFile if mmcif else app.PDBFile).writeFile(topology, positions * unit.nanometer, handle, keepIds=True)
    return handle.getvalue()


def without(*unwanted: str, heavy: bool = False) -> str:
    """The peptide as PDB without some atoms ("A 3 CB") or residues ("A 3"), or without hydrogens."""
    lines = []
    for line in text(*peptide_with_all_atoms()).splitlines(True):
        if line.startswith(("ATOM", "HETATM")):
            residue = f"{line[21]} {line[22:26].strip()}"
            if residue in unwanted or f"{residue} {line[12:16].strip()}" in unwanted:
                continue
            if heavy and line[76:78].strip() == "H":
                continue
        if not line.startswith("CONECT"):
            lines.append(line)
    return "".join(lines)


def file(folder: Path, content: str, name: str = "peptide.pdb") -> Path:
    (folder / name).write_text(content)
    return folder / name


def settings(structure: Path, **changes) -> SystemSettings:
    return SystemSettings(structure=structure, **{"force_field": (FIELD,), **changes})


SEQRES = "SEQRES   1 A    {}  {}\n"
THREE = "GLY ALA VAL SER LYS GLU PHE GLY"


def two_places(content: str, atoms: tuple[str, ...] = ("CB", "OG"), residue: str = " 4") -> str:
    """Some atoms in places A and B."""
    lines = []
    for line in content.splitlines(True):
        if line[:4] == "ATOM" and line[24:26] == residue and line[12:16].strip() in atoms:
            lines.append(line[:16] + "A" + line[17:])
            lines.append(line[:16] + "B" + line[17:30] + f"{float(line[30:38]) + 1:8.3f}" + line[38:])
        else:
            lines.append(line)
    return "".join(lines)


def two_places_mmcif() -> str:
    lines = []
    for line in text(*peptide_with_all_atoms(), mmcif=True).splitlines(True):
        words = line.split()
        if words[:1] == ["ATOM"] and words[3] == "OG":
            for label in "AB":
                lines.append(" ".join([*words[:4], label, *words[5:]]) + "\n")
        else:
            lines.append(line)
    return "".join(lines)


def unseen_mmcif() -> str:
    """A sequence of which the coordinates lack residue 3."""
    columns = "loop_\n_entity_poly_seq.entity_id\n_entity_poly_seq.num\n_entity_poly_seq.mon_id\n"
    rows = "".join(f"{{}} {number} {name}\n" for number, name in enumerate(THREE.split(), 1))
    lines, names, entity = [], [], ""
    for line in text(*peptide_with_all_atoms(), mmcif=True).splitlines(True):
        words = line.split()
        if line.startswith("_atom_site."):
            names.append(words[0].removeprefix("_atom_site."))
        if words[:1] == ["ATOM"]:
            entity = words[names.index("label_entity_id")]
            if words[names.index("label_seq_id")] == "3":
                continue
        lines.append(line)
    return "".join(lines) + "#\n" + columns + rows.format(*[entity] * 8) + "#\n"


def ligand(content: str) -> str:
    line = "HETATM  900  C1  LIG B  77      30.000  30.000  30.000  1.00  0.00           C  \n"
    return content.replace("TER", "TER", 1).rsplit("END", 1)[0] + line + "END\n"


def overlapping() -> str:
    """Two peptides through each other."""
    topology, positions = peptide_with_all_atoms()
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.add(topology, (positions + [0.05, 0.0, 0.0]) * unit.nanometer)
    return text(modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)))


WRONG = {
    "alternates": (lambda: two_places(without()), r"structure: .* alternate locations of SER 4 \(chain A\): A, B\."),
    "alternates, mmCIF": (two_places_mmcif, r"structure: .* alternate locations of SER 4 \(chain A\): A, B\."),
    "sequence": (
        lambda: SEQRES.format(8, THREE) + without("A 3"),
        r"structure: .* lacks residues of its sequence: VAL after ALA 2 \(chain A\)\. Set prepare\.missing_residues",
    ),
    "sequence, mmCIF": (unseen_mmcif, r"structure: .* its sequence: VAL at 3 of the sequence of chain A"),
    "gap": (lambda: without("A 3", "A 4"), r"structure: ALA 2 \(chain A\) and LYS 5 \(chain A\) are \d\.\d+ nm apart"),
    "heavy atom": (
        lambda: without("A 4 OG", "A 4 HG"),
        r"force_field: .*ff14SB\.xml: SER 4 \(chain A\) lacks the heavy atoms OG; set 'prepare: \{\}'",
    ),
    "end": (lambda: without("A 8 OXT"), r"force_field: .*: GLY 8 \(chain A\) lacks the heavy atoms OXT; set"),
    "hydrogens": (
        lambda: without(heavy=True),
        r"force_field: .*: GLY 1 \(chain A\) lacks hydrogens, 5 of 5; set 'prepare: \{\}'.* So do 7 other residues",
    ),
    "ligand": (lambda: ligand(without()), r"force_field: .*: LIG 77 \(chain B\) is not in the force field\. Add a"),
    "overlap": (overlapping, r"system\.structure: \w+ of \w+ \d \(chain \w\) and .* overlap, they are 0\.0"),
    "nothing": (lambda: "END\n", r"structure: .* (holds no atoms|cannot be read)"),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["pqr", "pdbqt", "mol2", "gro"])
def test_formats_that_are_not_read_are_named(tmp_path, ending):
    with pytest.raises(SettingsError, match=rf"its name says \.{ending}\); give the structure as PDB or PDBx/mmCIF"):
        build(settings(file(tmp_path, without(), f"peptide.{ending}")))


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path, case):
    make, words = WRONG[case]
    name = "peptide.cif" if "mmCIF" in case else "peptide.pdb"
    with pytest.raises(SettingsError, match=words) as refused:
        build(settings(file(tmp_path, make(), name)))
    assert "\n" not in str(refused.value)


def test_what_only_looks_wrong_is_read(tmp_path):
    """One location with a label, residues whose numbers jump, a second model, a complete sequence."""
    content = SEQRES.format(8, THREE) + without().replace("   8      ", "  18      ")
    content = "".join(
        line[:16] + "A" + line[17:] if line[:4] == "ATOM" and line[12:16].strip() == "OG" else line
        for line in content.splitlines(True)
    )
    molecule = build(settings(file(tmp_path, content)))
    assert molecule.topology.getNumResidues() == 8
    assert [residue.id for residue in molecule.topology.residues()][-1] == "18"


# ----------------------------------------------------------------------------------------------------------- preparing


def test_what_is_missing_is_added(tmp_path):
    """Heavy atoms by PDBFixer and hydrogens: the same atoms as before, and unchanged positions of those in the file."""
    pytest.importorskip("pdbfixer")
    lacking = file(tmp_path, without("A 4 OG", "A 7 CZ", heavy=True))
    molecule = build(settings(lacking, prepare={}))
    topology, positions = peptide_with_all_atoms()
    assert sorted(atom_names(molecule.topology)) == sorted(atom_names(topology))
    before = {name: position for name, position in zip(atom_names(topology), positions)}
    for name, position in zip(atom_names(molecule.topology), molecule.positions):
        if name[-1][0] != "H" and name not in {("4", "OG"), ("7", "CZ")}:
            assert np.abs(position - before[name]).max() < 1e-3, name
    assert lengths_are_right(molecule)
    with pytest.raises(SettingsError, match=r"structure: .*ALA 2 .* are .* apart"):
        build(settings(file(tmp_path, without("A 3", "A 4", heavy=True)), prepare={}))


def test_missing_residues_are_built_on_demand(tmp_path):
    pytest.importorskip("pdbfixer")
    lacking = file(tmp_path, SEQRES.format(8, THREE) + without("A 1", "A 4", heavy=True))
    with pytest.raises(SettingsError, match=r"lacks residues of its sequence: GLY before ALA 2 .*; SER after VAL 3"):
        build(settings(lacking, prepare={}))
    inside = build(settings(lacking, prepare={"missing_residues": "inside"}))
    assert [residue.name for residue in inside.topology.residues()] == THREE.split()[1:]
    everything = build(settings(lacking, prepare={"missing_residues": "all"}))
    assert [residue.name for residue in everything.topology.residues()] == THREE.split()
    for molecule in (inside, everything):  # PDBFixer builds a serine of the form D
        assert d_amino_acids(molecule.topology, molecule.positions) == ([], len(THREE.split()) - 2)
        assert lengths_are_right(molecule)


def test_acidity_decides_protonation(tmp_path):
    pytest.importorskip("pdbfixer")
    bare = file(tmp_path, without(heavy=True))
    neutral, acid = (build(settings(bare, prepare={"pH": ph})) for ph in (7.0, 2.0))
    assert acid.positions.shape[0] == neutral.positions.shape[0] + 1  # GLU takes one up


def test_a_box_of_water_with_ions(tmp_path):
    pytest.importorskip("pdbfixer")
    bare = file(tmp_path, without("A 5", "A 6", "A 7", "A 8", heavy=True))
    solvent = {"padding": 0.6, "shape": "dodecahedron", "ionic_strength": 0.5, "positive_ion": "K+"}
    prepared = settings(
        bare, force_field=(FIELD, WATER), nonbonded="PME", cutoff=0.5, prepare={"solvent": solvent}, hydrogen_mass=3.0
    )
    state = random.getstate()
    molecule = build(prepared, 4)
    assert random.getstate() == state  # OpenMM draws from Python's numbers
    names = [residue.name for residue in molecule.topology.residues()]
    assert names[:4] == THREE.split()[:4]
    waters, potassium, chloride = (names.count(name) for name in ("HOH", "K", "CL"))
    assert waters > 100
    assert potassium == chloride >= 1  # the peptide is neutral
    assert potassium == pytest.approx(0.5 * waters / 55.4, abs=1)
    box = np.array([vector._value for vector in molecule.system.getDefaultPeriodicBoxVectors()])
    assert box[2, 0] == pytest.approx(box[0, 0] / 2, abs=0.02)  # of a rhombic dodecahedron
    assert 20 < waters / np.linalg.det(box) < 33.5  # per nm^3, less the volume of the peptide
    again, other = build(prepared, 4), build(prepared, 5)
    ions = [[r.index for r in entry.topology.residues() if r.name == "K"] for entry in (molecule, again, other)]
    assert np.array_equal(again.positions, molecule.positions)
    assert len(other.positions) != len(molecule.positions) or not np.array_equal(other.positions, molecule.positions)
    assert ions[0] == ions[1]
    edges = {**solvent, "padding": None, "shape": "cube", "box": (1.9, 2.0, 2.1)}
    boxed = build(prepared.model_copy(update={"prepare": type(prepared.prepare)(solvent=edges)}), 4)
    assert [vector._value[k] for k, vector in enumerate(boxed.system.getDefaultPeriodicBoxVectors())] == [1.9, 2.0, 2.1]
    with pytest.raises(SettingsError, match=r"system\.prepare\.solvent: .*force field"):
        build(settings(bare, nonbonded="PME", cutoff=0.5, prepare={"solvent": {"padding": 0.6}}))


def test_without_pdbfixer_the_error_names_the_fix(tmp_path, monkeypatch):
    forbid(monkeypatch, "pdbfixer")
    with pytest.raises(InstallationError, match=r"pip install 'latf_sampling\[prepare\]'"):
        build(settings(file(tmp_path, without()), prepare={}))
    forbid(monkeypatch, "PeptideBuilder")
    with pytest.raises(InstallationError, match=r"pip install 'latf_sampling\[prepare\]'"):
        build(SystemSettings(name="chignolin"))


def forbid(monkeypatch, package: str) -> None:
    true_import = builtins.__import__

    def refuse(name, *arguments, **named):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return true_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


def atom_names(topology: app.Topology) -> list[tuple[str, str]]:
    return [(atom.residue.id, atom.name) for atom in topology.atoms()]


def lengths_are_right(molecule: Molecule) -> bool:
    """Whether bonds are within 15 % of their lengths at rest; those to hydrogens, which nothing has relaxed, 30 %."""
    rows = [molecule.system.getConstraintParameters(index) for index in range(molecule.system.getNumConstraints())]
    for force in molecule.system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            rows += [force.getBondParameters(index)[:3] for index in range(force.getNumBonds())]
    light = [atom.element.symbol == "H" for atom in molecule.topology.atoms()]
    return all(
        abs(np.linalg.norm(molecule.positions[first] - molecule.positions[second]) / rest._value - 1)
        < (0.3 if light[first] or light[second] else 0.15)
        for first, second, rest in rows
    )


# ------------------------------------------------------------------------------------------------------------- by name


def test_alanine_dipeptide_by_name_is_the_one_of_the_protocol():
    by_name, from_file = build(SystemSettings(name="alanine-dipeptide")), build(settings(STRUCTURE))
    assert np.array_equal(by_name.positions, from_file.positions)
    assert openmm.XmlSerializer.serialize(by_name.system) == openmm.XmlSerializer.serialize(from_file.system)
    heavy = build(SystemSettings(name="alanine-dipeptide", hydrogen_mass=3.0, constraints="all-bonds")).system
    assert heavy.getNumConstraints() == 21
    assert max(heavy.getParticleMass(index)._value for index in (1, 2, 3)) == 3.0


@cache
def chignolin() -> Molecule:
    return build(SystemSettings(name="chignolin", conformations=("hairpin", "extended")), 1)


def test_chignolin_is_the_sequence_with_charged_ends():
    molecule = chignolin()
    residues = list(molecule.topology.residues())
    assert "".join(mdtraj.Topology.from_openmm(molecule.topology).to_fasta()) == CHIGNOLIN == "YYDPETGTWY"
    assert molecule.positions.shape == (166, 3)
    names = [{atom.name for atom in residue.atoms()} for residue in residues]
    assert {"H", "H2", "H3"} <= names[0]
    assert "OXT" in names[-1]
    forces = {type(force): force for force in molecule.system.getForces()}
    charges = [forces[openmm.NonbondedForce].getParticleParameters(index)[0]._value for index in range(166)]
    assert sum(charges) == pytest.approx(-2.0, abs=1e-6)  # Asp and Glu; the ends are opposite
    assert openmm.GBSAOBCForce in forces and openmm.CustomGBForce not in forces
    masses = [molecule.system.getParticleMass(atom.index)._value for atom in molecule.topology.atoms()]
    hydrogens = [atom.index for atom in molecule.topology.atoms() if atom.element.symbol == "H"]
    assert {masses[index] for index in hydrogens} == {3.0}
    assert molecule.system.getNumConstraints() == len(hydrogens)
    free = build(SystemSettings(name="chignolin", hydrogen_mass=None, constraints="none")).system
    assert free.getNumConstraints() == 0
    assert min(free.getParticleMass(index)._value for index in hydrogens) < 1.1


@pytest.mark.parametrize("number", [0, 1])
def test_chignolin_is_made_of_l_amino_acids_with_bonds_of_the_right_length(number):
    molecule = chignolin()
    positions = molecule.start(number).positions
    assert lengths_are_right(Molecule(molecule.system, molecule.topology, positions))
    for residue in molecule.topology.residues():
        by_name = {atom.name: positions[atom.index] for atom in residue.atoms()}
        if residue.name != "GLY":  # S: from opposite H, N, C, CB are arranged counterclockwise
            n, c, cb = (by_name[name] - by_name["CA"] for name in ("N", "C", "CB"))
            volume = np.dot(np.cross(n, c), cb)
            assert volume > 0, residue
        if residue.name == "THR":  # R at CB: from opposite H, OG1, CA, CG2 are arranged clockwise
            around = np.cross(by_name["OG1"] - by_name["CB"], by_name["CG2"] - by_name["CB"])
            assert np.dot(around, by_name["CA"] - by_name["CB"]) > 0
    omega = mdtraj.compute_omega(mdtraj.Trajectory(positions, mdtraj.Topology.from_openmm(molecule.topology)))[1]
    assert np.abs(np.abs(omega) - np.pi).max() < 0.3


def test_chignolins_conformations_are_a_hairpin_and_a_chain():
    molecule = chignolin()
    atoms = {(atom.residue.index + 1, atom.name): atom.index for atom in molecule.topology.atoms()}

    def apart(number: int, *ends: tuple[int, str]) -> float:
        first, second = (molecule.start(number).positions[atoms[end]] for end in ends)
        return float(np.linalg.norm(first - second))

    assert apart(0, (1, "CA"), (10, "CA")) < 0.6
    assert apart(1, (1, "CA"), (10, "CA")) > 2.5
    for bond in ([(3, "N"), (8, "O")], [(3, "O"), (7, "N")]):
        assert apart(0, *bond) < 0.4
        assert apart(1, *bond) > 0.8
    topology = mdtraj.Topology.from_openmm(molecule.topology)
    assert np.array_equal(
        handedness(molecule.start(0).positions, stereocenters(topology)),
        handedness(molecule.start(1).positions, stereocenters(topology)),
    )
    assert molecule.start(2) is molecule.start(0)
    assert set(BACKBONES) == {"hairpin", "extended"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "chignolina"}, r"name: there is no model system or molecule 'chignolina'; there are three-hole, "),
        ({"name": "chignolin", "conformations": ["bent"]}, r"conformations: chignolin has no conformation 'bent'"),
        ({"name": "alanine-dipeptide", "conformations": ["bent"]}, r"conformations: .* there is only the default one"),
        ({"name": "lj7", "hydrogen_mass": 3.0}, r"hydrogen_mass: does not go with a model system by name"),
        ({"name": "chignolin", "implicit_solvent": "GBn2"}, r"implicit_solvent: does not go with a molecule by name"),
        ({"name": "chignolin", "barostat": {}}, r"barostat: there is no volume to change without periodic boundaries"),
        ({"structure": "a.pdb"}, r"force_field: this key is missing"),
        ({}, r"structure: this key is missing, or one of 'name', 'amber', 'gromacs', 'charmm', 'openmm'"),
        ({"name": "chignolin", "prepare": {"solvent": {"padding": 1.0}}}, r"prepare\.solvent: .* needs nonbonded: PME"),
        ({"name": "chignolin", "prepare": {"solvent": {}}}, r"padding: give either this or box"),
        (
            {"name": "chignolin", "restraints": [{"atoms": "name CA", "stiffness": 1.0}], "conformations": ["hairpin"]},
            r"conformations: restraints hold a single structure",
        ),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(keys, words):
    with pytest.raises(SettingsError, match=words):
        SystemSettings(**keys)


def test_every_source_of_the_settings_has_a_function():
    assert set(SOURCES) == set(system.SOURCES)
    for key, source in system.SOURCES.items():
        assert source.keys <= set(SystemSettings.model_fields) - set(system.SOURCES), key


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "protocols").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_protocols_that_come_with_the_package_are_right(tmp_path, file):
    campaign = Campaign(file, tmp_path / "run")
    assert len(campaign.features.names) >= 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("models", [1, 2])
def test_bonds_after_the_last_model_are_read(tmp_path, models):
    """CONECT records follow the last ENDMDL; the number of a model may stand in any columns."""
    topology, positions = peptide_with_all_atoms()
    content = without()
    first, *atoms, last = [line for line in content.splitlines(True) if line.startswith(("ATOM", "TER"))]
    ligand = "".join(
        f"HETATM{9001 + k:>5}  C{k + 1}  LIG B   1    {30 + 1.5 * k:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           C\n"
        for k in range(2)
    )
    model = "".join([first, *atoms, last, ligand])
    parts = [f"MODEL{number + 1:>10}\n{model}ENDMDL\n" for number in range(models)]
    source = file(tmp_path, "".join(parts) + "CONECT 9001 9002\nEND\n")
    structure = parse(read_text(source, "key", models))
    assert structure.topology.getNumAtoms() == topology.getNumAtoms() + 2
    assert any({bond[0].name, bond[1].name} == {"C1", "C2"} for bond in structure.topology.bonds())
    np.testing.assert_allclose(structure.positions[: len(positions)], positions, atol=1e-3)


def test_hints_for_residues_that_are_unknown(tmp_path):
    """A residue in a chain is no ligand that parameters could be made for; one by itself is."""
    inside = without().replace("SER A   4", "XYZ A   4")
    with pytest.raises(SettingsError) as error:
        build(settings(file(tmp_path, inside)))
    assert "XYZ 4 (chain A) is not in the force field" in str(error.value)
    assert "prepare: {ligands" not in str(error.value)
    ligand = "".join(
        f"HETATM{9001 + k:>5}  C{k + 1}  LIG B   1    {30 + 1.5 * k:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           C\n"
        for k in range(2)
    )
    beside = without().replace("END\n", f"{ligand}END\n")
    with pytest.raises(
        SettingsError, match=r"LIG 1 \(chain B\) is not .* with prepare: \{ligands: \{LIG: lig\.sdf\}\}"
    ):
        build(settings(file(tmp_path, beside)))


def test_an_amino_acid_by_itself_is_named(tmp_path):
    pytest.importorskip("pdbfixer")
    heavy = peptide("GG", ((-120, 140),) * 2)
    modeller = app.Modeller(heavy.topology, heavy.positions)
    modeller.delete([next(modeller.topology.residues())])
    content = text(modeller.topology, np.array(modeller.positions._value))
    words = r"GLY 2 \(chain A\) is an amino acid by itself, .*; cap it with ACE and NME"
    with pytest.raises(SettingsError, match=words):
        build(settings(file(tmp_path, content), prepare={}))
