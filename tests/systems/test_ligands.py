"""Ligands whose parameters are made, against Amber's own files; what is another molecule is refused."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit

from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.settings import Protocol, SystemSettings
from latf_sampling.settings.yaml_file import read_yaml
from latf_sampling.systems import build, gaff, ligands
from latf_sampling.systems.named import peptide
from latf_sampling.systems.structure import Structure

FIELD = "amber14/protein.ff14SB.xml"
LACTATE = "C[C@H](O)C(=O)[O-]"
rdkit_needed = pytest.mark.skipif(
    importlib.util.find_spec("rdkit") is None, reason="RDKit is missing: latf_sampling[ligands]"
)
amber_needed = pytest.mark.skipif(
    not (shutil.which("antechamber", path=str(Path(sys.executable).parent)) or shutil.which("antechamber")),
    reason="AmberTools is missing: latf_sampling[ligands]",
)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def embedded(smiles: str):
    """A molecule of RDKit with a conformation."""
    return ligands.read("LIG", smiles).molecule


def residue(molecule, hydrogens: bool = True, step: int = -1) -> Structure:
    """A molecule as a residue LIG without bonds, with its atoms in the opposite order."""
    topology = app.Topology()
    place = topology.addResidue("LIG", topology.addChain("B"), "7")
    atoms = [atom for atom in list(molecule.GetAtoms())[::step] if hydrogens or atom.GetSymbol() != "H"]
    for atom in atoms:
        topology.addAtom(f"{atom.GetSymbol()}{atom.GetIdx()}", app.Element.getBySymbol(atom.GetSymbol()), place)
    x = molecule.GetConformer().GetPositions()[[atom.GetIdx() for atom in atoms]]
    return Structure(topology, 0.1 * x)


def complex_file(folder: Path, hydrogens: bool) -> Path:
    """A peptide and lactate beside it."""
    structure = peptide("GAG", ((-120, 140),) * 3)
    lactate = residue(embedded(LACTATE), hydrogens)
    modeller = app.Modeller(structure.topology, structure.positions)
    modeller.add(lactate.topology, (lactate.positions + [0, 0, 2]) * unit.nanometer)
    with open(folder / "complex.pdb", "w") as handle:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, handle, keepIds=True)
    return folder / "complex.pdb"


def energies(system: openmm.System, x: np.ndarray) -> dict[str, float]:
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    context = openmm.Context(system, openmm.VerletIntegrator(1e-3), openmm.Platform.getPlatform("Reference"))
    context.setPositions(x)
    return {
        force.getName(): context.getState(getEnergy=True, groups=1 << group).getPotentialEnergy()._value
        for group, force in enumerate(system.getForces())
        if force.getName() != "CMMotionRemover"
    }


@rdkit_needed
@amber_needed
def test_template_has_the_energies_of_the_prmtop(tmp_path):
    """Acetamide: tleap writes its improper torsions both ways round, with the methyl group, atom 0, at one end."""
    from rdkit import Chem

    molecule = embedded("CC(N)=O")
    prmtop = gaff.parameters(Chem.MolToMolBlock(molecule), 0, "key")
    (tmp_path / "lig.prmtop").write_text(prmtop)
    names = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in molecule.GetAtoms()]
    field = app.ForceField(io.StringIO(gaff.template(prmtop, "LIG", names)))
    # OpenMM matches templates by bonds, and may exchange equivalent atoms where their order is another one.
    structure = ligands.with_hydrogens_of_ligands(residue(molecule, step=1), [ligands.read("LIG", "CC(N)=O")])
    system = field.createSystem(structure.topology)
    x = 0.1 * molecule.GetConformer().GetPositions() + 0.01 * np.random.default_rng(1).normal(size=(len(names), 3))
    ours = energies(system, x)
    theirs = energies(app.AmberPrmtopFile(str(tmp_path / "lig.prmtop")).createSystem(), x)
    assert ours.keys() == theirs.keys()
    for name, energy in theirs.items():
        assert abs(energy) > 0.1
        assert ours[name] == pytest.approx(energy, abs=0.3 if name == "NonbondedForce" else 1e-4), name


@rdkit_needed
@amber_needed
@pytest.mark.parametrize("hydrogens", [True, False])
def test_ligand_gets_parameters_and_hydrogens(tmp_path, monkeypatch, hydrogens):
    pytest.importorskip("pdbfixer")
    keys = {"structure": complex_file(tmp_path, hydrogens), "force_field": (FIELD,)}
    molecule = build(SystemSettings(**keys, prepare={"ligands": {"LIG": LACTATE}}))
    place = next(entry for entry in molecule.topology.residues() if entry.name == "LIG")
    atoms = list(place.atoms())
    assert sorted(atom.element.symbol for atom in atoms) == ["C"] * 3 + ["H"] * 5 + ["O"] * 3
    nonbonded = next(force for force in molecule.system.getForces() if isinstance(force, openmm.NonbondedForce))
    charges = {atom.name: nonbonded.getParticleParameters(atom.index)[0]._value for atom in atoms}
    assert sum(charges.values()) == pytest.approx(-1, abs=1e-9)
    assert charges["O4"] == pytest.approx(charges["O5"], abs=1e-3)  # the two ends of the carboxylate
    assert charges["O4"] < -0.7 < charges["O2"]
    bonds = [bond for bond in molecule.topology.bonds() if bond[0].residue is place]
    assert len(bonds) == 10
    for first, second, *_ in bonds:
        length = np.linalg.norm(molecule.positions[first.index] - molecule.positions[second.index])
        assert 0.095 < length < 0.16
    monkeypatch.setattr(gaff, "_run", None)  # what was made once is not made again
    again = build(SystemSettings(**keys, prepare={"ligands": {"LIG": LACTATE}}))
    assert again.system.getNumParticles() == molecule.system.getNumParticles()


@rdkit_needed
@pytest.mark.parametrize(
    "smiles, hydrogens, words",
    [
        ("C[C@@H](O)C(=O)[O-]", True, r"C1 of LIG 7 \(chain B\) is S, and in .* R: is it another stereoisomer"),
        ("C[C@@H](O)C(=O)[O-]", False, r"C1 of LIG 7 \(chain B\) is S"),
        ("CC(O)C(=O)O", True, r"LIG 7 \(chain B\) has 5 hydrogens, and .* 6; give all, or remove them"),
        ("OCC(O)C=O", False, r"is another molecule than OCC\(O\)C=O: [CO]\d has the neighbors [CO]\d"),
        ("CCCCO", False, r"LIG 7 \(chain B\) has C3 O3, and CCCCO C4 O1"),
    ],
)
def test_other_molecules_are_refused(smiles, hydrogens, words):
    structure = residue(embedded(LACTATE), hydrogens)
    with pytest.raises(SettingsError, match=rf"^system\.prepare\.ligands\.LIG: .*{words}"):
        ligands.with_hydrogens_of_ligands(structure, [ligands.read("LIG", smiles)])


@rdkit_needed
def test_centers_that_smiles_leave_open_are_those_of_the_structure():
    structure = residue(embedded(LACTATE), hydrogens=False)
    result = ligands.with_hydrogens_of_ligands(structure, [ligands.read("LIG", "CC(O)C(=O)[O-]")])
    x = {atom.name: result.positions[atom.index] for atom in result.topology.atoms()}
    neighbors = {
        other.name for bond in result.topology.bonds() for other in bond if "C1" in (bond[0].name, bond[1].name)
    }
    hydrogen = next(name for name in neighbors if name.startswith("H"))
    volume = np.dot(np.cross(x["O2"] - x["C1"], x["C3"] - x["C1"]), x["C0"] - x["C1"])
    assert np.sign(np.dot(x[hydrogen] - x["C1"], x["O2"] + x["C3"] + x["C0"] - 3 * x["C1"])) == -1
    expected = embedded(LACTATE).GetConformer().GetPositions()
    assert np.sign(volume) == np.sign(
        np.dot(np.cross(expected[2] - expected[1], expected[3] - expected[1]), expected[0] - expected[1])
    )


@rdkit_needed
def test_ligands_that_are_bonded_to_others_are_refused():
    structure = residue(embedded(LACTATE))
    other = structure.topology.addResidue("CYS", structure.topology.addChain("A"), "3")
    sulfur = structure.topology.addAtom("SG", app.element.sulfur, other)
    structure.topology.addBond(next(structure.topology.atoms()), sulfur)
    structure = Structure(structure.topology, np.vstack([structure.positions, [[9, 9, 9]]]))
    with pytest.raises(SettingsError, match=r"LIG 7 \(chain B\) is bonded to CYS 3 \(chain A\); parameters are made"):
        ligands.with_hydrogens_of_ligands(structure, [ligands.read("LIG", LACTATE)])


@rdkit_needed
@pytest.mark.parametrize(
    "name, content, words",
    [
        ("lig.sdf", "nonsense", r"RDKit cannot read .*lig\.sdf as an SDF file"),
        ("C1CC", None, r"RDKit cannot read C1CC as SMILES"),
        ("[Zn]", None, r"GAFF has no parameters for Zn; give a force field file with a template of LIG"),
        ("C[CH]C", None, r"has an atom with a free valence"),
    ],
)
def test_what_is_no_molecule_is_refused(tmp_path, name, content, words):
    source = name
    if content is not None:
        source = tmp_path / name
        source.write_text(content)
    with pytest.raises(SettingsError, match=rf"^system\.prepare\.ligands\.LIG: .*{words}"):
        ligands.read("LIG", source)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(InstallationError, match=r"needs RDKit; install it with pip install 'latf_sampling\[ligands\]'"):
        ligands.read("LIG", LACTATE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InstallationError, match=r"^key: needs antechamber of AmberTools; .*latf_sampling\[ligands\]'"):
        gaff.parameters("", 0, "key")


def test_files_of_ligands_are_copied_with_a_campaign(tmp_path):
    for name in ("a.pdb", "lig.sdf"):
        (tmp_path / name).write_text(name)
    prepare = {"ligands": {"LIG": "lig.sdf", "L2": "CCO"}}
    content = read_yaml(Path(__file__).parents[2] / "protocols" / "alanine-dipeptide.yaml")
    del content["observe"]  # whose reference is another file
    content["system"] = {"structure": "a.pdb", "force_field": [FIELD], "prepare": prepare}
    protocol = Protocol.model_validate(content, context={"directory": tmp_path})
    assert protocol.system.prepare is not None
    assert protocol.system.prepare.ligands == {"LIG": tmp_path / "lig.sdf", "L2": "CCO"}
    assert protocol.inputs() == {"a.pdb": b"a.pdb", "lig.sdf": b"lig.sdf"}
    copies = tmp_path / "campaign" / "inputs"
    copies.mkdir(parents=True)
    for name, data in protocol.inputs().items():
        (copies / name).write_bytes(data)
    restored = Protocol.restore(json.loads(protocol.canonical()), copies)
    assert restored.system.prepare is not None
    assert restored.system.prepare.ligands == {"LIG": copies / "lig.sdf", "L2": "CCO"}


@rdkit_needed
@amber_needed
def test_force_fields_of_others_are_refused():
    field = app.ForceField(io.StringIO('<ForceField><NonbondedForce coulomb14scale="1" lj14scale="1"/></ForceField>'))
    with pytest.raises(SettingsError, match=r"ligands\.LIG: GAFF goes with force fields of Amber"):
        ligands.add_templates(field, residue(embedded(LACTATE)), [ligands.read("LIG", LACTATE)])


@rdkit_needed
@pytest.mark.parametrize("name, words", [("XYZ", "the structure has no residue XYZ"), ("LIG", "knows LIG already")])
def test_ligands_without_a_place_are_refused(name, words):
    template = '<ForceField><AtomTypes/><Residues><Residue name="LIG"/></Residues></ForceField>'
    with pytest.raises(SettingsError, match=words):
        ligands.add_templates(
            app.ForceField(io.StringIO(template)), residue(embedded(LACTATE)), [ligands.read(name, LACTATE)]
        )
