"""Residues that the force field does not know, other states of protonation, disulfides and chains."""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from latf_sampling.errors import SettingsError
from latf_sampling.settings import SystemSettings
from latf_sampling.systems import Molecule, build
from latf_sampling.systems.contents import chemistry
from latf_sampling.systems.force_field import ResidueBonds
from latf_sampling.systems.molecule import positions_array
from latf_sampling.systems.named import peptide

FIELD = "amber14/protein.ff14SB.xml"
pytest.importorskip("pdbfixer")


@cache
def heavy(sequence: str) -> tuple[app.Topology, np.ndarray]:
    """A peptide without hydrogens."""
    structure = peptide(sequence, ((-120, 140),) * len(sequence))
    return structure.topology, positions_array(structure.positions)


def text(sequence: str, mmcif: bool = False, second: bool = False) -> str:
    """A peptide as chain A, and the same one as chain B beside it."""
    topology, x = heavy(sequence)
    modeller = app.Modeller(topology, x * unit.nanometer)
    if second:
        modeller.add(topology, (x + [0, 0, 3]) * unit.nanometer)
    for letter, chain in zip("AB", modeller.topology.chains()):
        chain.id = letter
    handle = io.StringIO()
    (app.PDBxFile if mmcif else app.PDBFile).writeFile(modeller.topology, modeller.positions, handle, keepIds=True)
    return "".join(line for line in handle.getvalue().splitlines(True) if not line.startswith("CONECT"))


def modified(content: str, number: int, name: str, atoms: dict[str, tuple[str, str]]) -> str:
    """A residue under another name, with atoms of other names and elements; all of it as HETATM."""
    lines = []
    for line in content.splitlines(True):
        words = line.split()
        if line.startswith("ATOM") and "." not in words[4] and line[17:20].strip().isalpha() and len(words[0]) == 4:
            if line[22:26].strip() == str(number) and line[20:22].strip() == "A":
                atom, element = atoms.get(line[12:16].strip(), (line[12:16].strip(), line[76:78].strip()))
                padded = f"{atom:<4}" if len(element) == 2 else f" {atom:<3}"
                line = f"HETATM{line[6:12]}{padded} {name:>3}{line[20:76]}{element:>2}\n"
        lines.append(line)
    return "".join(lines)


def modified_mmcif(content: str, number: int, name: str, atoms: dict[str, tuple[str, str]]) -> str:
    lines = []
    for line in content.splitlines(True):
        words = line.split()
        if words[:1] == ["ATOM"] and words[8] == str(number):
            old = words[3]
            new, element = atoms.get(old, (old, words[2]))
            words[0], words[2] = "HETATM", element
            words = [new if word == old else name if k in (5, 22) else word for k, word in enumerate(words)]
            line = " ".join(words) + "\n"
        lines.append(line)
    return "".join(lines)


MSE = {"SD": ("SE", "Se")}
CHANGES = {
    "MSE": ("GAMVG", 3, "MSE", MSE, "MET"),
    "SEP": ("GASVG", 3, "SEP", {}, "SER"),
    "PTR": ("YAVG", 1, "PTR", {}, "TYR"),
    "end": ("GAM", 3, "MSE", MSE, "MET"),
}


def settings(folder: Path, content: str, name: str = "peptide.pdb", **changes) -> SystemSettings:
    (folder / name).write_text(content)
    return SystemSettings(structure=folder / name, **{"force_field": (FIELD,), **changes})


def names(molecule: Molecule) -> list[str]:
    return [residue.name for residue in molecule.topology.residues()]


@pytest.mark.parametrize("mmcif", [False, True], ids=["pdb", "mmcif"])
@pytest.mark.parametrize("kind", list(CHANGES))
def test_a_modified_residue_is_named_first_and_can_be_replaced(tmp_path, kind, mmcif):
    sequence, number, name, atoms, standard = CHANGES[kind]
    change, file = (modified_mmcif, "a.cif") if mmcif else (modified, "a.pdb")
    content = change(text(sequence, mmcif), number, name, atoms)
    words = (
        rf"^system\.force_field: {FIELD}: {name} {number} \(chain A\) is not in the force field\. .* replace it with "
    )
    for prepare in (None, {}, {"replace": {}}):
        with pytest.raises(SettingsError, match=words + re.escape(f"prepare: {{replace: {{{name}: {standard}}}}}")):
            build(settings(tmp_path, content, file, prepare=prepare))
    place = f"A {number}"
    plain = build(settings(tmp_path, text(sequence, mmcif), file, prepare={}))
    for key in (name, place):
        molecule = build(settings(tmp_path, content, file, prepare={"replace": {key: standard}}))
        assert names(molecule) == names(plain)
        assert molecule.positions.shape == plain.positions.shape
        assert [atom.name for atom in molecule.topology.atoms()] == [atom.name for atom in plain.topology.atoms()]
        kept = [atom.index for atom in plain.topology.atoms() if atom.element.symbol != "H"]
        np.testing.assert_allclose(molecule.positions[kept], plain.positions[kept], atol=2e-3)


def test_a_force_field_file_that_knows_the_residue_is_enough(tmp_path):
    """Its template says which bonds the residue has, also to its neighbors; the file names none of them."""
    whole = build(settings(tmp_path, text("GASVG"), prepare={}))
    handle = io.StringIO()
    app.PDBFile.writeFile(whole.topology, whole.positions * unit.nanometer, handle, keepIds=True)
    content = "".join(line for line in handle.getvalue().splitlines(True) if not line.startswith("CONECT"))
    field = (Path(app.forcefield.__file__).parent / "data" / FIELD).read_text()
    template = field[field.index('<Residue name="SER"') :]
    types = template[: template.index("</Residue>")].replace("SER", "SRX").replace("protein-SRX", "protein-SER")
    (tmp_path / "own.xml").write_text(f"<ForceField><Residues>{types}</Residue></Residues></ForceField>")
    changed = modified(content, 3, "SRX", {})
    for prepare in (None, {}):
        molecule = build(settings(tmp_path, changed, force_field=(FIELD, tmp_path / "own.xml"), prepare=prepare))
        assert names(molecule) == ["GLY", "ALA", "SRX", "VAL", "GLY"]
        assert molecule.topology.getNumBonds() == whole.topology.getNumBonds()
        energies = [
            context(entry.system, entry.positions).getState(getEnergy=True).getPotentialEnergy()._value
            for entry in (molecule, whole)
        ]
        assert energies[0] == pytest.approx(energies[1], rel=1e-3, abs=0.5)


def context(system: openmm.System, x: np.ndarray) -> openmm.Context:
    made = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(x)
    return made


def test_a_residue_at_one_place_is_replaced(tmp_path):
    molecule = build(settings(tmp_path, text("GSKSG"), prepare={"replace": {"A 4": "ALA"}}))
    assert names(molecule) == ["GLY", "SER", "LYS", "ALA", "GLY"]
    for key in ("MSE", "A 9", "B 4"):
        with pytest.raises(
            SettingsError, match=rf"^system\.structure: .* has no residue {key}, as prepare\.replace says"
        ):
            build(settings(tmp_path, text("GSKSG"), prepare={"replace": {key: "ALA"}}))


@pytest.mark.parametrize("mmcif", [False, True], ids=["pdb", "mmcif"])
def test_some_of_the_chains_are_taken(tmp_path, mmcif):
    file = "a.cif" if mmcif else "a.pdb"
    content = text("GAVG", mmcif, second=True)
    both = build(settings(tmp_path, content, file, prepare={}))
    for letter in "AB":
        one = build(settings(tmp_path, content, file, prepare={"chains": [letter]}))
        assert names(one) == ["GLY", "ALA", "VAL", "GLY"]
        first = 0 if letter == "A" else len(both.positions) // 2
        kept = [atom.index for atom in one.topology.atoms() if atom.element.symbol != "H"]
        np.testing.assert_allclose(one.positions[kept], both.positions[[first + k for k in kept]], atol=2e-3)
    with pytest.raises(SettingsError, match=r"has no chain C, as prepare\.chains says; it has A, B\."):
        build(settings(tmp_path, content, file, prepare={"chains": ["A", "C"]}))


def hydrogens(molecule: Molecule, number: int) -> set[str]:
    residue = list(molecule.topology.residues())[number - 1]
    return {atom.name for atom in residue.atoms() if atom.element.symbol == "H"}


def test_states_of_protonation(tmp_path):
    content = text("GHDEKHG")
    states = {"A 2": "HIP", "A 3": "ASH", "A 4": "GLH", "A 5": "LYN", "A 6": "HID"}
    molecule = build(settings(tmp_path, content, prepare={"protonation": states}))
    assert {"HD1", "HE2"} <= hydrogens(molecule, 2) and "HD2" in hydrogens(molecule, 3)
    assert "HE2" in hydrogens(molecule, 4) and len(hydrogens(molecule, 5) & {"HZ1", "HZ2", "HZ3"}) == 2
    assert "HD1" in hydrogens(molecule, 6) and "HE2" not in hydrogens(molecule, 6)
    handle = io.StringIO()  # hydrogens that the file has do not count
    app.PDBFile.writeFile(molecule.topology, molecule.positions * unit.nanometer, handle, keepIds=True)
    again = build(settings(tmp_path, handle.getvalue(), prepare={"protonation": {"A 2": "HIE", "A 3": "ASP"}}))
    assert "HD1" not in hydrogens(again, 2) and "HD2" not in hydrogens(again, 3) and "HE2" in hydrogens(again, 4)
    for states, words in (
        ({"A 9": "HIE"}, "the structure has no residue A 9"),
        ({"A 2": "ASH"}, "HIS 2 .* no state ASH"),
    ):
        with pytest.raises(SettingsError, match=rf"^system\.prepare\.protonation: {words}"):
            build(settings(tmp_path, content, prepare={"protonation": states}))


def test_ends_of_chains_stay_charged(tmp_path):
    content = text("GDAD")
    with pytest.warns(
        UserWarning, match=r"prepare\.pH: ASP 4 \(chain A\) stays charged, since the force field has no ASH"
    ):
        molecule = build(settings(tmp_path, content, prepare={"pH": 2}))
    assert "HD2" in hydrogens(molecule, 2) and "HD2" not in hydrogens(molecule, 4)
    with pytest.raises(
        SettingsError, match=r"prepare\.protonation: the force field has no ASH where ASP 4 .*; use ASP\."
    ):
        build(settings(tmp_path, content, prepare={"protonation": {"A 4": "ASH"}}))


def cysteines(distance: float) -> str:
    """Two chains whose cysteines face each other, the sulfurs at a distance."""
    topology, x = heavy("GCG")
    sulfur, beta = (next(atom.index for atom in topology.atoms() if atom.name == name) for name in ("SG", "CB"))
    axis = (x[sulfur] - x[beta]) / np.linalg.norm(x[sulfur] - x[beta])
    turned = x[sulfur] + distance * axis + (x - x[sulfur]) @ _half_turn(axis).T
    modeller = app.Modeller(topology, x * unit.nanometer)
    modeller.add(topology, turned * unit.nanometer)
    for letter, chain in zip("AB", modeller.topology.chains()):
        chain.id = letter
    handle = io.StringIO()
    app.PDBFile.writeFile(modeller.topology, modeller.positions, handle, keepIds=True)
    return "".join(line for line in handle.getvalue().splitlines(True) if not line.startswith("CONECT"))


def _half_turn(axis: np.ndarray) -> np.ndarray:
    """The rotation by 180 degrees about a direction across an axis."""
    across = np.cross(axis, [1.0, 0.2, 0.3])
    across /= np.linalg.norm(across)
    return 2 * np.outer(across, across) - np.eye(3)


def bridges(molecule: Molecule) -> list[tuple[str, ...]]:
    return [
        tuple(sorted((bond.atom1.residue.chain.id, bond.atom2.residue.chain.id)))
        for bond in molecule.topology.bonds()
        if bond.atom1.name == bond.atom2.name == "SG"
    ]


@pytest.mark.parametrize(
    "wanted, expected", [("auto", [("A", "B")]), ("none", []), ([["A 2", "B 2"]], [("A", "B")])], ids=str
)
def test_disulfides(tmp_path, wanted, expected):
    molecule = build(settings(tmp_path, cysteines(0.205 if expected else 0.29), prepare={"disulfides": wanted}))
    assert bridges(molecule) == expected
    assert ("HG" in hydrogens(molecule, 2)) == (not expected)


@pytest.mark.parametrize(
    "pair, words",
    [
        (["A 2", "B 3"], r"GLY 3 \(chain B\) is no cysteine"),
        (["A 2", "B 7"], "the structure has no residue B 7"),
        (["A 2", "B 2"], r"the sulfurs of CYS 2 \(chain A\) and CYS 2 \(chain B\) are 0\.60 nm apart"),
    ],
)
def test_pairs_that_make_no_disulfide(tmp_path, pair, words):
    with pytest.raises(SettingsError, match=rf"^system\.prepare\.disulfides: {words}"):
        build(settings(tmp_path, cysteines(0.6), prepare={"disulfides": [pair]}))


@pytest.mark.parametrize(
    "prepare, words",
    [
        ({"protonation": {"57": "HIE"}}, r"'57' is no place of a residue; write its chain and number, like 'A 57'"),
        ({"protonation": {"A 57": "HIX"}}, r"must be 'ASP'"),
        ({"disulfides": [["A5", "A 20"]]}, r"'A5' is no place of a residue"),
        ({"disulfides": "some"}, r"must be 'auto' or 'none' or a list"),
        ({"replace": {"MSE": "XXX"}}, r"must be 'ALA'"),
        ({"chains": []}, r"must have at least 1 item"),
        ({"ligands": {"LIG": "lig.pdb"}}, r"'lig.pdb' is neither a file .sdf, .mol or .mol2 nor SMILES"),
        ({"alternate_locations": "first"}, r"'first' is no alternate location; write a label, like A, or highest"),
    ],
)
def test_keys_that_are_refused(prepare, words):
    with pytest.raises(SettingsError, match=words):
        SystemSettings(structure=Path("a.pdb"), force_field=(FIELD,), prepare=prepare)


@pytest.mark.parametrize("prepare", [None, {}])
def test_virtual_sites_of_crystal_water_are_added(tmp_path, prepare):
    """Water of four sites from a file has its three atoms alone."""
    topology, x = app.Topology(), []
    chain = topology.addChain("A")
    for number in range(2):
        residue = topology.addResidue("HOH", chain, str(number + 1))
        atoms = [topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")]
        for atom in atoms[1:]:
            topology.addBond(atoms[0], atom)
        x += [[0.4 * number, 0, 0], [0.4 * number + 0.09572, 0, 0], [0.4 * number - 0.02400, 0.09266, 0]]
    handle = io.StringIO()
    app.PDBFile.writeFile(topology, np.array(x) * unit.nanometer, handle, keepIds=True)
    water = settings(
        tmp_path, handle.getvalue(), force_field=("amber14/tip4pew.xml",), prepare=prepare, nonbonded="no cutoff"
    )
    molecule = build(water)
    assert [atom.name for atom in molecule.topology.atoms()] == ["O", "H1", "H2", "M"] * 2
    assert [molecule.system.isVirtualSite(index) for index in range(8)] == [False, False, False, True] * 2
    np.testing.assert_allclose(molecule.positions[[0, 4]], [x[0], x[3]], atol=1e-3)
    assert np.linalg.norm(molecule.positions[3] - molecule.positions[0]) == pytest.approx(0.0125, abs=2e-3)


def two_locations(occupancies: tuple[float, float], second: str = "SER", mmcif: bool = False) -> str:
    """GASVG with two locations of residue 3, the second one 0.05 nm away along z, and maybe another amino acid."""
    lines = []
    for line in text("GASVG", mmcif).splitlines(True):
        words = line.split()
        if not line.startswith("ATOM") or words[8 if mmcif else 5] != "3":
            lines.append(line)
            continue
        for label, shift, occupancy, name in zip("AB", (0, 0.5), occupancies, ("SER", second)):
            if second != "SER" and label == "B" and words[3 if mmcif else 2] == "OG":
                continue
            if mmcif:
                row = words.copy()
                row[4], row[12], row[13] = label, f"{float(row[12]) + shift:.3f}", f"{occupancy:.2f}"
                row = [name if word == "SER" else word for word in row]
                lines.append(" ".join(row) + "\n")
            else:
                z = f"{float(line[46:54]) + shift:8.3f}"
                lines.append(f"{line[:16]}{label}{name}{line[20:46]}{z}{occupancy:6.2f}{line[60:]}")
    return "".join(lines)


@pytest.mark.parametrize("mmcif", [False, True], ids=["pdb", "mmcif"])
@pytest.mark.parametrize(
    ("wanted", "occupancies", "second", "label"),
    [
        ("highest", (0.4, 0.6), "SER", "B"),
        ("highest", (0.5, 0.5), "SER", "A"),
        ("A", (0.4, 0.6), "SER", "A"),
        ("C", (0.4, 0.6), "SER", "B"),
        ("highest", (0.4, 0.6), "ALA", "B"),
    ],
)
def test_one_of_alternate_locations_is_taken(tmp_path, mmcif, wanted, occupancies, second, label):
    file, content = ("a.cif" if mmcif else "a.pdb"), two_locations(occupancies, second, mmcif)
    with pytest.raises(SettingsError, match=r"alternate locations of .* 3 \(chain A\): A, B\. .*alternate_locations"):
        build(settings(tmp_path, content, file, prepare={}))
    with pytest.warns(UserWarning, match=rf"of 1 residues .* is taken: \w+ 3 \(chain A\) {label}\."):
        molecule = build(settings(tmp_path, content, file, prepare={"alternate_locations": wanted}))
    assert names(molecule) == ["GLY", "ALA", second if label == "B" else "SER", "VAL", "GLY"]
    topology, x = heavy("GASVG")
    places = {(a.residue.index, a.name): x[a.index] for a in topology.atoms()}
    for atom in molecule.topology.atoms():
        if (atom.residue.index, atom.name) in places:
            shift = [0, 0, 0.05 * (label == "B" and atom.residue.index == 2)]
            expected = places[atom.residue.index, atom.name] + shift
            np.testing.assert_allclose(molecule.positions[atom.index], expected, atol=2e-3)


@pytest.mark.parametrize("mmcif", [False, True], ids=["pdb", "mmcif"])
def test_residues_are_left_out(tmp_path, mmcif):
    """By name and by place; all that the force field lacks are named at once."""
    topology, x = heavy("GAVG")
    modeller = app.Modeller(topology, x * unit.nanometer)
    others = app.Topology()
    chain = others.addChain("B")
    for number, name in enumerate(("PO4", "DMS", "DMS"), 101):
        others.addAtom("P", app.element.phosphorus, others.addResidue(name, chain, str(number)))
    modeller.add(others, np.array([[0, 0, 3.0], [0, 0, 4.0], [0, 0, 5.0]]) * unit.nanometer)
    handle = io.StringIO()
    for letter, chain in zip("AB", modeller.topology.chains()):
        chain.id = letter
    (app.PDBxFile if mmcif else app.PDBFile).writeFile(modeller.topology, modeller.positions, handle, keepIds=True)
    file = "a.cif" if mmcif else "a.pdb"
    with pytest.raises(SettingsError, match=r"PO4 101 \(chain B\) is not .*remove: \[PO4\]\}\. Nor is DMS\."):
        build(settings(tmp_path, handle.getvalue(), file, prepare={}))
    with pytest.raises(SettingsError, match=r"DMS 103 \(chain B\) is not in the force field"):
        build(settings(tmp_path, handle.getvalue(), file, prepare={"remove": ["PO4", "B 102"]}))
    with pytest.raises(SettingsError, match=r"has no residue XYZ, as prepare\.remove says"):
        build(settings(tmp_path, handle.getvalue(), file, prepare={"remove": ["XYZ"]}))
    molecule = build(settings(tmp_path, handle.getvalue(), file, prepare={"remove": ["PO4", "DMS"]}))
    assert names(molecule) == ["GLY", "ALA", "VAL", "GLY"]


@pytest.mark.parametrize("mmcif", [False, True], ids=["pdb", "mmcif"])
def test_deuterium_becomes_hydrogen(tmp_path, mmcif):
    complete = build(settings(tmp_path, text("GAVG"), prepare={}))
    for atom in complete.topology.atoms():
        if atom.element is app.element.hydrogen and atom.name.startswith("H"):
            atom.element = app.element.deuterium
    handle = io.StringIO()
    writer = app.PDBxFile if mmcif else app.PDBFile
    writer.writeFile(complete.topology, complete.positions * unit.nanometer, handle)
    molecule = build(settings(tmp_path, handle.getvalue(), "b.cif" if mmcif else "b.pdb", prepare={}))
    assert molecule.positions.shape == complete.positions.shape
    assert not [atom for atom in molecule.topology.atoms() if atom.element is app.element.deuterium]


def test_sites_that_the_force_field_has_not(tmp_path):
    """Water of four sites becomes one of three, where it is prepared."""
    water = app.Modeller(app.Topology(), [])
    water.addSolvent(
        app.ForceField("amber14/tip4pew.xml"), model="tip4pew", boxSize=openmm.Vec3(1, 1, 1) * unit.nanometer
    )
    handle = io.StringIO()
    app.PDBFile.writeFile(water.topology, water.positions, handle)
    three = {"force_field": ("amber14/tip3p.xml",), "nonbonded": "PME", "cutoff": 0.4}
    with pytest.raises(SettingsError, match=r"has virtual sites \(M\) .*tip4pew\.xml.* or set 'prepare: \{\}'"):
        build(settings(tmp_path, handle.getvalue(), **three))
    molecule = build(settings(tmp_path, handle.getvalue(), prepare={}, **three))
    kept = [atom.index for atom in water.topology.atoms() if atom.element is not None]
    np.testing.assert_allclose(molecule.positions, positions_array(water.positions)[kept], atol=1e-3)
    four = {**three, "force_field": ("amber14/tip4pew.xml",)}
    assert build(settings(tmp_path, handle.getvalue(), prepare={}, **four)).positions.shape == (4 * len(kept) // 3, 3)


def test_ions_of_charmm_beside_a_prepared_molecule(tmp_path):
    content = text("GAVG").replace("END\n", "") + "".join(
        f"HETATM {k:4d} {name:<4} {name} B{k:4d}       0.000   0.000{30 + 5 * k - 450:8.3f}  1.00  0.00\n"
        for k, name in enumerate(("POT", "CLA", "SOD"), 90)
    )
    molecule = build(settings(tmp_path, content + "END\n", force_field=(FIELD, "amber14/tip3p.xml"), prepare={}))
    symbols = [atom.element.symbol for atom in molecule.topology.atoms() if atom.residue.name in ("POT", "CLA", "SOD")]
    assert symbols == ["K", "Cl", "Na"]


def test_a_residue_is_compared_with_bonds_that_were_found_once(monkeypatch, tmp_path):
    """OpenMM's methods of a residue pass through all bonds of the topology, which takes minutes for 15,000 residues."""
    whole = build(settings(tmp_path, text("GASVG"), prepare={}))
    bonds = ResidueBonds(whole.topology)
    for residue in whole.topology.residues():
        assert (residue in bonds.within) == any(residue.internal_bonds())
        outward = {atom for bond in residue.external_bonds() for atom in bond if atom.residue is residue}
        assert set(bonds.outward.get(residue, ())) == outward
    handle, calls = io.StringIO(), []
    app.PDBFile.writeFile(whole.topology, whole.positions * unit.nanometer, handle)
    for name in ("bonds", "internal_bonds", "external_bonds"):
        monkeypatch.setattr(app.topology.Residue, name, lambda self: calls.append(self) or iter(()))
    build(settings(tmp_path, handle.getvalue()))
    assert not calls


def test_disulfides_and_protonation_in_words(tmp_path):
    """A line each, for the report."""
    prepare = {"protonation": {"A 2": "HIE", "A 3": "HIP", "A 4": "ASH", "A 5": "LYN"}}
    molecule = build(settings(tmp_path, text("GHHDKHECYG"), prepare=prepare))
    lines = chemistry(molecule.topology)
    assert len(lines) == 2
    assert re.fullmatch(r"histidines: HIS 2 \(chain A\) HIE, HIS 3 \(chain A\) HIP, HIS 6 \(chain A\) HI[DE]", lines[0])
    assert lines[1] == "unusual protonation: ASP 4 (chain A) neutral, LYS 5 (chain A) neutral"
    topology = molecule.topology
    atoms = [next(atom for atom in residue.atoms() if atom.name == "CA") for residue in topology.residues()]
    for atom in (atoms[7], atoms[8]):
        atom.name = "SG"
    topology.addBond(atoms[7], atoms[8])
    assert chemistry(topology)[0] == "disulfide bonds: CYS 8 (chain A) and TYR 9 (chain A)"


def test_heavy_water_becomes_water(tmp_path):
    names = (("O", "O", 0.0, 0.0), ("D1", "D", 0.957, 0.0), ("D2", "D", -0.24, 0.927))
    content = "".join(
        f"HETATM{place:>5}  {name:<3} DOD A   1    {x:8.3f}{y:8.3f}{0:8.3f}  1.00  0.00          {element:>2}\n"
        for place, (name, element, x, y) in enumerate(names, 1)
    )
    water = settings(tmp_path, content + "END\n", force_field=("amber14/tip3p.xml",), prepare={}, nonbonded="no cutoff")
    molecule = build(water)
    assert [(atom.residue.name, atom.name) for atom in molecule.topology.atoms()] == [
        ("HOH", name) for name in ("O", "H1", "H2")
    ]


def test_hydrogens_of_any_name_stay_bonded_in_a_prepared_molecule(tmp_path):
    complete = build(settings(tmp_path, text("GAVG"), prepare={}))
    handle = io.StringIO()
    app.PDBFile.writeFile(complete.topology, complete.positions * unit.nanometer, handle, keepIds=True)
    content = re.sub(r" HB (?= VAL)", " HX9", "".join(
        line for line in handle.getvalue().splitlines(True) if not line.startswith("CONECT")
    ))  # fmt: skip
    assert "HX9 VAL" in content
    molecule = build(settings(tmp_path, content, "b.pdb", prepare={}))
    assert molecule.positions.shape == complete.positions.shape
