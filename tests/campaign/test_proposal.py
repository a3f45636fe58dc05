"""`latf init`: a protocol that passes `latf check`, from the files of a molecule alone, or what the check would say."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import openmm
import parmed
import pytest
import yaml
from openmm import app, unit

from latf_sampling.campaign import speed
from latf_sampling.campaign.check import check
from latf_sampling.campaign.proposal import observed_key, propose
from latf_sampling.campaign.proposed_features import proposed_features
from latf_sampling.campaign.proposed_system import ProposedSystem, propose_system
from latf_sampling.campaign.proposed_yaml import Key, as_dict, flow
from latf_sampling.errors import LatfError, SettingsError, StoreError
from latf_sampling.records.setup import Setup
from latf_sampling.settings import Protocol
from latf_sampling.settings.yaml_file import read_yaml
from latf_sampling.simulation.dynamics import integrator
from latf_sampling.systems import Molecule
from latf_sampling.systems.contents import Contents

PROTOCOLS = Path(__file__).parents[2] / "protocols"
ALANINE = PROTOCOLS / "alanine-dipeptide.pdb"
HAIRPIN = PROTOCOLS / "gcaa-hairpin.pdb"


@pytest.fixture
def alanine(tmp_path) -> Path:
    path = tmp_path / "my molecule.pdb"
    path.write_bytes(ALANINE.read_bytes())
    return path


def residue(name: str, atoms: str) -> app.Topology:
    topology = app.Topology()
    added = topology.addResidue(name, topology.addChain("A"), "1")
    for atom in atoms.split():
        topology.addAtom(atom, app.Element.getBySymbol("Ca" if name == "CAL" else atom[0]), added)
    return topology


def without_hydrogens(file: Path) -> str:
    atoms = [line for line in file.read_text().splitlines() if line.startswith(("ATOM", "HETATM"))]
    return "\n".join(line for line in atoms if line[76:78].strip() != "H")


def test_a_protocol_that_passes_the_check_and_gives_a_reason_for_each_value(alanine, tmp_path):
    proposal = propose([alanine], tmp_path / "new.yaml", seconds=0.0)
    text = proposal.path.read_text()
    protocol = Protocol.load(proposal.path)
    setup = Setup(protocol)
    check(setup)
    assert protocol == proposal.setup.protocol and protocol.system.structure == alanine
    assert setup.molecule.positions.shape == (22, 3) and len(setup.features.names) == 4 + 45
    assert protocol.observe is not None and protocol.observe.torsion == "phi ALA 2"
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert not [path.name for path in tmp_path.iterdir() if path.name not in ("new.yaml", alanine.name)]
    for number, line in enumerate(lines):
        words = line.split(":")[0].strip(" -")
        if re.match(r" *-? ?\w", line) and not line.endswith(":") and words not in ("name", "structure"):
            assert "  # " in line or lines[number - 1].lstrip().startswith("#"), line


def test_nothing_is_replaced_without_being_asked(alanine, tmp_path):
    path = tmp_path / "protocol.yaml"
    path.write_text("mine")
    with pytest.raises(StoreError, match="exists already; give --force"):
        propose([alanine], path, seconds=0.0)
    assert path.read_text() == "mine"
    propose([alanine], path, force=True, seconds=0.0)
    assert path.read_text() != "mine"
    before = alanine.read_bytes()
    with pytest.raises(StoreError, match="is a file of the molecule"):
        propose([alanine], alanine, force=True, seconds=0.0)
    assert alanine.read_bytes() == before


def test_missing_hydrogens_are_added_and_the_first_model_is_taken(tmp_path):
    path = tmp_path / "bare.pdb"
    models = [f"MODEL {number:8d}\n{without_hydrogens(ALANINE)}\nENDMDL\n" for number in (1, 2)]
    path.write_text("".join(models) + "END\n")
    system = propose([path], tmp_path / "p.yaml", seconds=0.0).setup.protocol.system
    assert system.model == 1 and system.prepare is not None and system.prepare.missing_residues == "inside"


def test_crystals_are_prepared_with_a_reason_for_each_change(tmp_path):
    """Alternate locations and glycerol; what may be a ligand is not left out."""
    *atoms, last = without_hydrogens(ALANINE).splitlines()
    moved = f"{last[:16]}B{last[17:30]}{float(last[30:38]) + 0.1:8.3f}{last[38:54]}  0.40{last[60:]}"
    other = "HETATM   90 {:<4}{:>4} B{:4d}      30.000  30.000  30.000  1.00  0.00          {:>2}"
    lines = [
        *atoms,
        f"{last[:16]}A{last[17:54]}  0.60{last[60:]}",
        moved,
        other.format(" C1", "GOL", 1, "C"),
    ]
    path = tmp_path / "crystal.pdb"
    path.write_text("\n".join([*lines, "END\n"]))
    with pytest.warns(UserWarning, match=r"of 1 residues with alternate locations one is taken: .* A\."):
        proposal = propose([path], tmp_path / "p.yaml", seconds=0.0)
    prepare = proposal.setup.protocol.system.prepare
    assert prepare is not None and prepare.alternate_locations == "highest" and prepare.remove == ("GOL",)
    assert proposal.setup.molecule.positions.shape == (22, 3)
    assert "  # of atoms with several locations the most occupied one" in proposal.path.read_text()
    path.write_text("\n".join([*lines, other.format(" C1", "LIG", 3, "C"), "END\n"]))
    with (
        pytest.warns(UserWarning, match="alternate locations"),
        pytest.raises(SettingsError, match=r"LIG 3 \(chain B\) is not in the force field"),
    ):
        propose([path], tmp_path / "other.yaml", seconds=0.0)


def without_forces(path: Path) -> ProposedSystem:
    """Without hydrogens too, since both take seconds."""
    file = app.PDBFile(str(path))
    system = openmm.System()
    for _ in file.topology.atoms():
        system.addParticle(1.0)
    molecule = Molecule(system, file.topology, file.getPositions(asNumpy=True)._value)
    return ProposedSystem([], "x.pdb", Contents.from_topology(file.topology), molecule, False)


@pytest.mark.parametrize("begins", ["hairpin", "extended"])
def test_the_observed_radius_can_be_reached(begins):
    """A chain that is stretched in the file can only become smaller."""
    proposed = without_forces(HAIRPIN.with_name(f"gcaa-rna-{begins}.pdb"))
    chain = proposed.molecule.positions[[atom.name == "C1'" for atom in proposed.molecule.topology.atoms()]]
    radius = np.sqrt(((chain - chain.mean(0)) ** 2).sum(1).mean())
    key = observed_key(proposed)
    above = float(key.value["above"].removesuffix(" nm"))
    assert above == pytest.approx(radius * (1.2 if begins == "hairpin" else 0.8), rel=0.05)
    assert ("expansion" if begins == "hairpin" else "compaction") in key.why


def test_descriptors_of_a_nucleic_acid_are_those_that_it_has():
    proposed = without_forces(HAIRPIN)
    keys, columns = proposed_features(proposed)
    assert [key.name for key in keys] == ["- torsions", "- pucker", "- distances"] and columns > 100
    assert keys[-1].value == {"between": 'name "C1\'"', "skip": 3}
    assert str(proposed.contents) == "10 nucleotides"


def test_a_refused_molecule_leaves_a_protocol_to_be_edited(alanine, tmp_path):
    """Selenocysteine in the place of alanine; the sentence stands in the file, and its remedy makes it pass."""
    alanine.write_text(alanine.read_text().replace("ALA", "SEC"))
    path = tmp_path / "p.yaml"
    with pytest.raises(SettingsError, match=r"SEC 2 .* is not in the force field.*p\.yaml: written all the same; edit"):
        propose([alanine], path, seconds=0.0)
    text = path.read_text()
    comments = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    assert "REFUSED" in comments and "SEC 2" in comments
    with pytest.raises(SettingsError, match="SEC 2"):
        check(Setup(Protocol.load(path)))
    path.write_text(
        text.replace("\n  prepare:\n", "\n  prepare:\n    replace: {SEC: ALA}\n").replace("phi SEC 2", "phi ALA 2")
    )
    check(Setup(Protocol.load(path)))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda text: "", "holds no atoms|no PDB file"),
        (lambda text: text.replace("END", ""), "may be cut off"),
    ],
)
def test_what_the_check_refuses_is_refused_with_its_sentence(alanine, tmp_path, change, sentence):
    alanine.write_text(change(alanine.read_text()))
    with pytest.raises(SettingsError, match=sentence) as refused:
        propose([alanine], tmp_path / "p.yaml", seconds=0.0)
    assert not (tmp_path / "p.yaml").exists() and len(list(tmp_path.iterdir())) == 1
    protocol = tmp_path / "by_hand.yaml"
    protocol.write_text(
        f"name: x\nsystem: {{structure: {flow(alanine.name)}, nonbonded: no cutoff, force_field: "
        "[amber14/protein.ff14SB.xml, implicit/obc2.xml]}\nframe_interval: 1 ps\nsegment: 1 ps\n"
        "features: [{torsions: phi}]\nlearning: {lag: 1 ps}\nrounds: [{walkers: [300 K], length: 10 ps}]\n"
    )
    with pytest.raises(SettingsError) as by_check:
        check(Setup(Protocol.load(protocol)))
    assert str(refused.value) == str(by_check.value)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["absent.pdb"], "there is no file absent.pdb"),
        (["notes.txt"], r"notes.txt: give one structure \(.pdb, .cif\), or the topology"),
        (["a.prmtop"], "a.prmtop: is a topology; give one file of coordinates with it"),
        (["a.psf", "a.crd"], "CHARMM's parameters are missing"),
        (["a.prmtop", "b.top"], "b.top: is a second topology beside a.prmtop"),
        (["b.top", "c.gro", "d.gro"], "d.gro: is a second file of coordinates beside c.gro"),
    ],
)
def test_files_that_are_no_molecule_are_named(tmp_path, monkeypatch, names, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "a.prmtop", "a.psf", "a.crd", "b.top", "c.gro", "d.gro"):
        Path(name).write_text("x\n")
    if names == ["a.prmtop"]:
        Path("a.crd").unlink()
    with pytest.raises(LatfError, match=sentence):
        propose(names, "p.yaml", seconds=0.0)


def test_residues_by_what_they_are():
    kinds = {
        "SOL": "waters", "NA": "ions", "CAL": "ions", "HID": "amino_acids", "DA": "nucleotides", "ACE": "caps",
        "BNZ": "others",
    }  # fmt: skip
    atoms = {"HID": "N CA C O", "DA": "C1* C3* O4*", "ACE": "CH3 C O", "BNZ": "C1 C2 C3", "CAL": "CA"}
    for name, kind in kinds.items():
        contents = Contents.from_topology(residue(name, atoms.get(name, "O")))
        assert [entry.name for entry in getattr(contents, kind)] == [name]


def test_the_speed_follows_from_steps_and_seconds(alanine, tmp_path):
    setup = propose([alanine], tmp_path / "p.yaml", seconds=0.0).setup
    found = speed.measure_speed(setup, 0.2)
    assert found.platform == "Reference" and 1 <= found.at_once <= 4
    rounds = -(-4 // found.at_once) + -(-2 // found.at_once)
    assert found.seconds(setup.protocol) == pytest.approx(rounds * 5000.0 / found.per_walker)
    assert 0 < found.per_walker < 1e6


def test_a_minimization_that_takes_too_long_is_ended_before_the_speed_is_measured(alanine, tmp_path, monkeypatch):
    """What is not relaxed would explode with the step of the protocol."""
    made = []
    monkeypatch.setattr(speed, "integrator", lambda *settings: made.append(integrator(*settings)) or made[0])
    setup = propose([alanine], tmp_path / "p.yaml", seconds=0.0).setup
    assert 0 < speed.measure_speed(setup, 1e-6).per_walker < 1e6
    assert made[0].getStepSize().value_in_unit(unit.femtosecond) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "value", ["a: b #c.pdb", "no", "1e5", "{x}", 'it\'s "x"', "- y", "é", " a ", "300 K", "./a b", "~"]
)
def test_any_text_is_read_back_as_it_is(tmp_path, value):
    path = tmp_path / "x.yaml"
    lines = Key(
        "system", inner=[Key("structure", value, "why: # {not} a key"), Key("all", [value, {"of": value}])]
    ).lines()
    path.write_text("\n".join(lines))
    assert read_yaml(path) == {"system": {"structure": value, "all": [value, {"of": value}]}}
    assert yaml.safe_load(flow([value])) == [value]


def test_a_compressed_structure_is_read(tmp_path):
    (tmp_path / "a.pdb.gz").write_bytes(gzip.compress(ALANINE.read_bytes()))
    assert as_dict(propose_system([tmp_path / "a.pdb.gz"], tmp_path).keys)["structure"] == "a.pdb.gz"


@pytest.mark.filterwarnings("ignore::parmed.exceptions.ParmedWarning")
def test_a_molecule_in_an_empty_cell_gets_no_barostat(tmp_path):
    """Files of GROMACS always have a unit cell, also in a vacuum, where a barostat would let it collapse."""
    pdb = app.PDBFile(str(ALANINE))
    system = app.ForceField("amber14/protein.ff14SB.xml").createSystem(pdb.topology, rigidWater=False)
    structure = parmed.openmm.load_topology(pdb.topology, system, pdb.positions)
    keys = {}
    for width in (40.0, 5.0):  # Angstrom; 22 atoms
        structure.box = [width, width, width, 90, 90, 90]
        for name in ("a.top", "a.gro"):
            structure.save(str(tmp_path / name), overwrite=True)
        keys[width] = as_dict(propose_system([tmp_path / "a.top", tmp_path / "a.gro"], tmp_path).keys)
    assert keys[40.0]["nonbonded"] == "no cutoff" and keys[40.0]["implicit_solvent"] == "OBC2"
    assert keys[5.0]["nonbonded"] == "PME" and "barostat" in keys[5.0]
