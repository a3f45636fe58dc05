"""Restraints, constant pressure, conformations, and a molecule that is built once for all of a campaign."""

from __future__ import annotations

import builtins
import sys
from functools import cache
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from helpers.molecules import STRUCTURE, alanine, context, energy, forces, gradient, positions
from openmm import app, unit

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli import main as cli
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.settings import Protocol, SystemSettings
from latf_sampling.simulation.segment import load_molecule
from latf_sampling.simulation.walker import WalkerJob, run_walker
from latf_sampling.systems import Molecule, build
from latf_sampling.units import BAR

FIELD, WATER = "amber14/protein.ff14SB.xml", "amber14/tip3p.xml"
TRICLINIC = np.array([[2.0, 0.0, 0.0], [0.5, 1.9, 0.0], [-0.4, 0.6, 1.8]])


@cache
def water() -> tuple[app.Topology, np.ndarray]:
    """A box of water, 1.4 nm wide."""
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(app.ForceField(WATER), boxSize=openmm.Vec3(1.4, 1.4, 1.4) * unit.nanometer)
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer))


def protocol(folder: Path, system: dict, **changes) -> Path:
    """A protocol of one round; its system finds alanine dipeptide and a box of water beside it."""
    folder.mkdir(exist_ok=True)
    (folder / STRUCTURE.name).write_bytes(STRUCTURE.read_bytes())
    with open(folder / "water.pdb", "w") as handle:
        app.PDBFile.writeFile(water()[0], water()[1] * unit.nanometer, handle)
    content = {
        "name": "test",
        "system": system,
        "integrator": {"timestep": "2 fs"},
        "frame_interval": "0.2 ps",
        "segment": "0.6 ps",
        "features": [{"distances": {"between": "index 0 1 2"}}],
        "learning": {"lag": "0.2 ps"},
        "rounds": [{"walkers": ["300 K", "330 K"], "length": "1.2 ps"}],
        **changes,
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(content))
    return folder / "protocol.yaml"


def restrained(tmp_path: Path, periodic: bool, atoms: str = "element != H", stiffness: float = 900.0) -> Molecule:
    """Alanine dipeptide, held by some of its atoms."""
    structure = tmp_path / "alanine.pdb"
    topology = app.PDBFile(str(STRUCTURE)).topology
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in TRICLINIC] * unit.nanometer)
    with open(structure, "w") as handle:
        app.PDBFile.writeFile(topology, alanine().positions, handle)
    box = {"nonbonded": "PME", "cutoff": 0.6} if periodic else {"nonbonded": "no cutoff"}
    held = [{"atoms": atoms, "stiffness": stiffness}]
    return build(SystemSettings(structure=structure, force_field=(FIELD,), restraints=held, constraints="none", **box))


# ----------------------------------------------------------------------------------------------------------- restraints


@pytest.mark.parametrize("periodic", [False, True])
def test_restraints_are_harmonic_and_their_forces_are_their_gradient(tmp_path, periodic):
    molecule = restrained(tmp_path, periodic)
    force = next(force for force in molecule.system.getForces() if force.getName() == "restraints")
    force.setForceGroup(7)
    simulated = context(molecule.system, molecule.positions)
    assert energy(simulated, 7) == 0.0
    assert np.abs(forces(simulated, 7)).max() == 0.0  # and not NaN, where the distance has no gradient
    moved = molecule.positions + np.random.default_rng(0).normal(scale=0.05, size=molecule.positions.shape)
    heavy = [atom.index for atom in molecule.topology.atoms() if atom.element.symbol != "H"]
    assert force.getNumParticles() == len(heavy) == 10
    expected = 450.0 * ((moved - molecule.positions)[heavy] ** 2).sum()

    def energies(frames: np.ndarray) -> np.ndarray:
        values = []
        for frame in frames:
            simulated.setPositions(frame)
            values.append(energy(simulated, 7))
        return np.array(values)

    assert energies(moved[None])[0] == pytest.approx(expected, rel=1e-6)
    slopes = gradient(energies, moved)
    simulated.setPositions(moved)
    assert np.abs(forces(simulated, 7) + slopes).max() < 1e-4 * np.abs(slopes).max()
    if periodic:  # an atom that leaves through a face is held where it was
        images, box = moved.copy(), [vector._value for vector in molecule.system.getDefaultPeriodicBoxVectors()]
        images[heavy[3]] += np.array(box[2]) - np.array(box[0])
        assert energies(images[None])[0] == pytest.approx(expected, rel=1e-6)
    assert not any(isinstance(force, openmm.CMMotionRemover) for force in molecule.system.getForces())


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        ("name XX", r"system\.restraints\[0\]\.atoms: 'name XX' selects no atoms"),
        ("name CA and", r"system\.restraints\[0\]\.atoms: 'name CA and' is not a selection"),
    ],
)
def test_a_selection_that_selects_nothing(tmp_path, atoms, words):
    with pytest.raises(SettingsError, match=words):
        restrained(tmp_path, False, atoms)


def test_an_atom_is_restrained_once(tmp_path):
    twice = [{"atoms": "name CA", "stiffness": 1.0}, {"atoms": "resname ALA", "stiffness": 2.0}]
    with pytest.raises(SettingsError, match=r"restraints\[1\]\.atoms: 'resname ALA' selects atom 8, which"):
        build(SystemSettings(name="alanine-dipeptide", restraints=twice))


# ------------------------------------------------------------------------------------------------------------- pressure


@pytest.fixture(scope="module")
def compressed(tmp_path_factory) -> list[WalkerJob]:
    """Water at 4 kbar and two temperatures."""
    folder = tmp_path_factory.mktemp("pressure")
    system = {"structure": "water.pdb", "force_field": [WATER], "nonbonded": "PME", "cutoff": "0.6 nm"}
    system |= {"barostat": {"pressure": "4000 bar", "interval": 5}, "platform": "CPU"}
    settings = Protocol.load(protocol(folder / "input", system))
    jobs = [WalkerJob(settings, 0, walker, folder / f"walker-{walker}") for walker in range(2)]
    for job in jobs:
        run_walker(job)
    return jobs


def test_constant_pressure_at_the_temperature_of_each_walker(compressed):
    topology = mdtraj.Topology.from_openmm(water()[0])
    for job in compressed:
        frames = WalkerFrames.load(job.directory, topology, 0, job.walker)
        volumes = frames.trajectory.unitcell_volumes
        assert len(set(np.round(volumes, 5))) > 3
        assert volumes[-1] < 0.99 * 1.4**3  # 4 kbar take some 12 % off, and 1.2 ps are not enough for all of it
        assert volumes[-1] > 0.8 * 1.4**3
        molecule = load_molecule(job)
        (barostat,) = (force for force in molecule.system.getForces() if isinstance(force, openmm.MonteCarloBarostat))
        assert barostat.getDefaultPressure()._value == 4000.0
        assert barostat.getDefaultTemperature()._value == job.temperature
        assert barostat.getFrequency() == 5


def test_energies_at_constant_pressure_are_enthalpies(compressed):
    """U + pV: the Boltzmann factor of a frame at any temperature and this pressure."""
    job = compressed[0]
    frames = WalkerFrames.load(job.directory, mdtraj.Topology.from_openmm(water()[0]), 0, 0)
    simulated = context(build(job.protocol.system).system, water()[1], "CPU")
    for index in (1, 4):
        simulated.setPeriodicBoxVectors(*frames.trajectory.unitcell_vectors[index].astype(float))
        simulated.setPositions(frames.trajectory.xyz[index].astype(float))
        potential = simulated.getState(getEnergy=True).getPotentialEnergy()._value
        volume = frames.trajectory.unitcell_volumes[index] * unit.nanometer**3
        work = (4000.0 * unit.bar * volume * unit.AVOGADRO_CONSTANT_NA).value_in_unit(unit.kilojoule_per_mole)
        assert work > 500
        assert frames.energies[index] == pytest.approx(potential + work, abs=1.0)
    assert (1.0 * unit.bar * unit.nanometer**3 * unit.AVOGADRO_CONSTANT_NA).value_in_unit(
        unit.kilojoule_per_mole
    ) == pytest.approx(BAR, rel=1e-9)


def test_no_volume_no_pressure(tmp_path):
    with pytest.raises(SettingsError, match=r"system\.barostat: there is no volume to change"):
        Protocol.load(protocol(tmp_path, {"name": "alanine-dipeptide", "barostat": {}}))
    (tmp_path / "a.xml").write_text(
        openmm.XmlSerializer.serialize(build(SystemSettings(name="alanine-dipeptide")).system)
    )
    system = {"openmm": {"system": "a.xml", "topology": STRUCTURE.name}, "barostat": {}}
    with pytest.raises(SettingsError, match=r"system\.barostat: the system has no periodic boundaries"):
        build(Protocol.load(protocol(tmp_path, system)).system)


# -------------------------------------------------------------------------------------------------------- conformations


def turned(folder: Path) -> np.ndarray:
    """Alanine dipeptide with phi turned by 130 degrees, as a file; its positions."""
    atoms = {(atom.residue.name, atom.name): atom.index for atom in alanine().topology.atoms()}
    first, second = (positions()[atoms["ALA", name]] for name in ("N", "CA"))
    axis = (second - first) / np.linalg.norm(second - first)
    angle, moved = np.deg2rad(130.0), positions()
    for atom in alanine().topology.atoms():
        if atom.residue.name == "NME" or (atom.residue.name == "ALA" and atom.name not in ("N", "H", "CA")):
            arm = moved[atom.index] - second
            moved[atom.index] = second + (
                arm * np.cos(angle) + np.cross(axis, arm) * np.sin(angle) + axis * (axis @ arm) * (1 - np.cos(angle))
            )
    with open(folder / "turned.pdb", "w") as handle:
        app.PDBFile.writeFile(alanine().topology, moved * unit.nanometer, handle)
    return moved


def test_walkers_take_conformations_in_turn(tmp_path):
    (tmp_path / "input").mkdir()
    turned(tmp_path / "input")
    system = {"name": "alanine-dipeptide"}
    file = {"structure": STRUCTURE.name, "force_field": [FIELD], "platform": "Reference"}
    rounds = [{"walkers": ["20 K"] * 3, "length": "0.4 ps"}]
    changes = {"rounds": rounds, "segment": "0.2 ps", "learning": {"lag": "0.2 ps"}}
    settings = Protocol.load(
        protocol(tmp_path / "input", {**file, "conformations": [STRUCTURE.name, "turned.pdb"]}, **changes)
    )
    angles = []
    for walker in range(3):
        job = WalkerJob(settings, 0, walker, tmp_path / f"walker-{walker}")
        run_walker(job)
        frames = WalkerFrames.load(job.directory, mdtraj.Topology.from_openmm(alanine().topology), 0, walker)
        angles.append(np.rad2deg(mdtraj.compute_phi(frames.trajectory)[1].ravel()))
    assert np.abs(angles[0] + 75).max() < 30
    assert np.abs(angles[1] - 60).max() < 30
    assert np.abs(angles[2] + 75).max() < 30
    assert build(SystemSettings(**system)).start(5).positions.shape == (22, 3)


def test_a_conformation_has_the_same_atoms_and_is_checked_too(tmp_path):
    system = {"structure": STRUCTURE.name, "force_field": [FIELD], "conformations": ["water.pdb"]}
    with pytest.raises(SettingsError, match=r"system\.conformations\[0\]: .*water\.pdb has \d+ atoms, the molecule 22"):
        build(Protocol.load(protocol(tmp_path, system)).system)
    clash = turned(tmp_path)
    clash[6] = clash[1] + 0.01
    with open(tmp_path / "turned.pdb", "w") as handle:
        app.PDBFile.writeFile(alanine().topology, clash * unit.nanometer, handle)
    with pytest.raises(SettingsError, match=r"system\.conformations\[0\]: the bond of"):
        build(Protocol.load(protocol(tmp_path, {**system, "conformations": ["turned.pdb"]})).system)


@pytest.mark.parametrize(
    "factor, words",
    [
        (10, "all bonds are ten times too long: are these ångströms"),
        (0.1, "all bonds are ten times too short: are these"),
    ],
)
def test_a_structure_in_another_unit(tmp_path, factor, words):
    with open(tmp_path / "scaled.pdb", "w") as handle:
        app.PDBFile.writeFile(alanine().topology, factor * positions() * unit.nanometer, handle)
    with pytest.raises(SettingsError, match=rf"^system\.structure: {words}"):
        build(SystemSettings(structure=tmp_path / "scaled.pdb", force_field=[FIELD]))


def test_a_mirrored_structure_is_warned_of_and_a_mirrored_conformation_refused(tmp_path):
    with open(tmp_path / "mirrored.pdb", "w") as handle:
        app.PDBFile.writeFile(alanine().topology, -positions() * unit.nanometer, handle)
    mirrored = {"structure": tmp_path / "mirrored.pdb", "force_field": [FIELD]}
    with pytest.warns(UserWarning, match=r"^system\.structure: all amino acids are of the form D; are the coordinates"):
        build(SystemSettings(**mirrored))
    with pytest.raises(SettingsError, match=r"conformations\[0\]: CA of ALA 2 \(chain A\) has the other handedness"):
        build(SystemSettings(**{**mirrored, "structure": STRUCTURE, "conformations": [tmp_path / "mirrored.pdb"]}))


# -------------------------------------------------------------------------------------------------- once for a campaign

PREPARED = {
    "structure": "bare.pdb",
    "force_field": [FIELD, WATER],
    "nonbonded": "PME",
    "cutoff": "0.5 nm",
    "prepare": {"solvent": {"padding": "0.3 nm", "ionic_strength": "1 mol/l"}},
}


def bare(folder: Path) -> None:
    """Alanine dipeptide without hydrogens."""
    folder.mkdir(exist_ok=True)
    lines = STRUCTURE.read_text().splitlines(True)
    heavy = [line for line in lines if not (line[:4] in ("ATOM", "HETA") and line[76:78].strip() == "H")]
    (folder / "bare.pdb").write_text("".join(line for line in heavy if not line.startswith("CONECT")))


def test_a_molecule_is_built_once_and_stored(tmp_path, monkeypatch):
    pytest.importorskip("pdbfixer")
    bare(tmp_path / "input")
    directory = tmp_path / "run"
    campaign = Campaign(protocol(tmp_path / "input", PREPARED), directory)
    assert not directory.exists()
    with campaign.directory.acquire(campaign.protocol):
        campaign._store_molecule()
    assert sorted(file.name for file in (directory / "system").iterdir()) == [
        "molecule.json",
        "structure.cif",
        "system.xml",
    ]
    stored = Molecule.load(directory / "system")
    built = campaign.molecule
    assert openmm.XmlSerializer.serialize(stored.system) == openmm.XmlSerializer.serialize(built.system)
    assert np.array_equal(stored.positions, built.positions)
    described = [
        [(a.name, a.element, a.id, a.residue.name, a.residue.id, a.residue.chain.id) for a in m.topology.atoms()]
        for m in (stored, built)
    ]
    assert described[0] == described[1]
    bonds = [[(b.atom1.index, b.atom2.index) for b in m.topology.bonds()] for m in (stored, built)]
    assert bonds[0] == bonds[1]
    assert len(app.PDBxFile(str(directory / "system" / "structure.cif")).positions) == len(built.positions)

    def refuse(*arguments):
        raise AssertionError("the molecule was made once more")

    monkeypatch.setattr("latf_sampling.systems.build", refuse)
    monkeypatch.setattr("latf_sampling.simulation.segment.build", refuse)
    again = Campaign.load(directory)
    assert np.array_equal(again.molecule.positions, built.positions)
    jobs = [WalkerJob(again.protocol, 0, 0, tmp_path / "walker", system=directory / "system")]
    run_walker(jobs[0])
    assert WalkerFrames.load(tmp_path / "walker", again.topology, 0, 0).trajectory.n_atoms == len(built.positions)
    with open(directory / "system" / "system.xml", "a") as handle:
        handle.write("\n")
    with pytest.raises(StoreError, match=r"system\.xml: was changed after it was finished"):
        Molecule.load(directory / "system")


def test_another_seed_is_another_molecule(tmp_path):
    pytest.importorskip("pdbfixer")
    bare(tmp_path / "input")
    first = Campaign(protocol(tmp_path / "input", PREPARED), tmp_path / "run")
    with first.directory.acquire(first.protocol):
        first._store_molecule()
    (tmp_path / "run" / "rounds" / "00" / "walker-00").mkdir(parents=True)
    (tmp_path / "run" / "rounds" / "00" / "walker-00" / "segment-000.json").write_text("{}")  # something depends on it
    other = Campaign(protocol(tmp_path / "input", PREPARED, seed=3), tmp_path / "run")
    assert not np.array_equal(other.molecule.positions, first.molecule.positions)
    with pytest.raises(StoreError, match=r"other settings \(seed\)"), other.directory.acquire(other.protocol):
        pytest.fail("two seeds in one directory")


@pytest.mark.parametrize("missing", [None, "pdbfixer"])
def test_the_command_line_refuses_in_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys, missing):
    given = PREPARED if missing else {**PREPARED, "prepare": None, "nonbonded": "no cutoff", "cutoff": None}
    bare(tmp_path / "input")
    path = protocol(tmp_path / "input", given)
    if missing:
        true_import = builtins.__import__

        def refuse(name, *arguments, **named):
            if name.partition(".")[0] == missing:
                raise ImportError(name)
            return true_import(name, *arguments, **named)

        monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(sys, "argv", ["latf", "run", str(path), "-o", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    words = capsys.readouterr().err.strip()
    assert ("pip install" if missing else "ACE 1 (chain A) lacks hydrogens, 3 of 3; set 'prepare: {}'") in words
    assert words.count("\n") == 0
    assert not (tmp_path / "run").exists()
