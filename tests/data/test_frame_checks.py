"""Frames of other programs that no molecule can have are refused at the first one, and real ones are not."""

from __future__ import annotations

import mdtraj
import numpy as np
import openmm
import pytest
from helpers import molecules
from openmm import app

from latf_sampling.data.external import ExternalTrajectory, examine, stride_of
from latf_sampling.data.frame_checks import CheckedFrames, FrameChecks, check_energies
from latf_sampling.data.layout import ExternalFiles
from latf_sampling.errors import DataError
from latf_sampling.systems.geometry import distinct_stereocenters

TOPOLOGY = mdtraj.Topology.from_openmm(molecules.alanine().topology)
REFERENCE = openmm.Platform.getPlatformByName("Reference")
FRAMES = 30


@pytest.fixture(scope="module")
def simulated() -> np.ndarray:
    """Positions (FRAMES, 22, 3) of plain dynamics at 600 K without constraints, in which bonds vary the most."""
    system = app.ForceField("amber14/protein.ff14SB.xml").createSystem(TOPOLOGY.to_openmm(), constraints=None)
    run = molecules.simulation(TOPOLOGY.to_openmm(), system, molecules.positions(), seed=1)
    run.integrator.setTemperature(600.0)
    run.integrator.setStepSize(0.0005)
    run.step(1000)
    frames = []
    for _ in range(FRAMES):
        run.step(40)
        frames.append(run.context.getState(getPositions=True).getPositions(asNumpy=True)._value)
    return np.array(frames, np.float32)


@pytest.fixture(scope="module")
def checks() -> FrameChecks:
    return FrameChecks.from_system(TOPOLOGY, molecules.alanine_system(), molecules.positions())


def exchanged(x: np.ndarray, first: range, second: range) -> np.ndarray:
    order = np.arange(x.shape[1])
    order[list(first)], order[list(second)] = list(second), list(first)
    return x[:, order]


def placed(x: np.ndarray, atom: int, other: int, distance: float) -> np.ndarray:
    x = x.copy()
    x[:, atom] = x[:, other] + [distance, 0, 0]
    return x


ORDER = "is the order of atoms that of the topology"
BAD = {
    "atoms 1-4 and 6-9": (lambda x: exchanged(x, range(1, 5), range(6, 10)), ORDER),
    "atoms 0-5 and 6-11": (lambda x: exchanged(x, range(6), range(6, 12)), ORDER),
    "reversed": (lambda x: x[:, ::-1], ORDER),
    "angstroms": (lambda x: 10 * x, r"all ten times too long: are these ångströms, read as nanometers\?"),
    "nanometers": (lambda x: x / 10, r"all ten times too short: are these nanometers, read as ångströms\?"),
    "bohrs": (lambda x: x / 0.529177, r"1\.9 times too long: are these bohrs"),
    "thrice": (lambda x: 3 * x, r"all [23](\.\d*)? times as long as they should be"),
    "scaled": (lambda x: 1.1 * x, r"all 1\.\d+ times as long as they should be"),
    "mirrored": (lambda x: x * [-1, 1, 1], r"handedness at CA 8 of ALA 2 .*: are its coordinates mirrored\?"),
    "inverted": (lambda x: -x, "mirrored"),
    "one atom away": (lambda x: placed(x, 15, 0, 3.0), r"a bond of .*3\.\d* nm|a bond of .* nm long"),
    "an atom at the origin": (lambda x: np.where(np.arange(22)[:, None] == 8, -5.0, x), "a bond of CA 8 of ALA 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(BAD))
@pytest.mark.parametrize("frame", [0, 17])
def test_the_first_bad_frame_is_named(simulated, checks, kind, frame):
    change, words = BAD[kind]
    x = simulated.copy()
    x[frame] = change(x[frame : frame + 1].astype(np.float64))[0]
    x[-1] = 10 * x[-1]
    pieces = [mdtraj.Trajectory(x[start : start + 7], TOPOLOGY) for start in range(0, FRAMES, 7)]
    with pytest.raises(DataError, match=rf"^run\.dcd: frame {frame} .*{words}") as refused:
        list(CheckedFrames(checks, "run.dcd", 600.0)(pieces))
    assert "\n" not in str(refused.value)


def test_frames_of_a_simulation_are_physical(simulated, checks):
    """Also rounded as XTC rounds them, turned, moved, at 600 K, and where nothing is known of the force field."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    for x in (simulated, np.round(simulated, 3), simulated @ turn.astype(np.float32) + 7):
        for tested in (checks, FrameChecks.from_system(TOPOLOGY, openmm.System(), molecules.positions())):
            assert tested.fault(mdtraj.Trajectory(x, TOPOLOGY), 600.0) is None
    assert checks.hands.tolist() and checks.fault(mdtraj.Trajectory(-simulated, TOPOLOGY), None)[0] == 0
    anyhand = FrameChecks.from_system(TOPOLOGY, molecules.alanine_system())
    assert anyhand.fault(mdtraj.Trajectory(-simulated, TOPOLOGY), None) is None


def test_frames_that_were_there_before(simulated, checks):
    for order, words in (
        ([0, 1, 2, 2, 3], "frame 3 is a copy of frame 2"),
        ([4, 5, 6, 4], "frame 3 is a copy of frame 0"),
    ):
        pieces = [mdtraj.Trajectory(simulated[[k]], TOPOLOGY) for k in order]
        with pytest.raises(DataError, match=words):
            list(CheckedFrames(checks, "run.dcd")(pieces))
    with pytest.raises(DataError, match="frame 30 is a copy of frame 10"):
        list(CheckedFrames(checks, "run.dcd", None, 10)([mdtraj.Trajectory(simulated[[1, 2, 3, 2]], TOPOLOGY)]))


def two_molecules(distance: float, box: np.ndarray | None) -> tuple[mdtraj.Trajectory, openmm.System]:
    """Two methanes with their carbons at a distance, across the face of the box if there is one."""
    topology, x = app.Topology(), []
    chain = topology.addChain()
    corners = 0.063 * np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    for number in range(2):
        residue = topology.addResidue("MET", chain)
        carbon = topology.addAtom("C", app.element.carbon, residue)
        shift = np.array([number * distance - (number * box[0, 0] if box is not None else 0), 0, 0])
        x.append(shift)
        for corner in corners:
            topology.addBond(carbon, topology.addAtom("H", app.element.hydrogen, residue))
            x.append(shift + corner)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    frames = mdtraj.Trajectory(np.array([x], np.float32), mdtraj.Topology.from_openmm(topology))
    if box is not None:
        force = openmm.NonbondedForce()
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        for _ in range(10):
            force.addParticle(0, 0.1, 0)
        system.addForce(force)
        system.setDefaultPeriodicBoxVectors(*box)
        frames.unitcell_vectors = box[None].astype(np.float32)
    return frames, system


@pytest.mark.parametrize("few", [0, 2000])
@pytest.mark.parametrize("box", [None, 2 * np.eye(3), molecules.TRICLINIC])
def test_molecules_that_overlap(box, few, monkeypatch):
    monkeypatch.setattr("latf_sampling.data.frame_checks.FEW_PAIRS", few)
    for distance in (0.1, 0.2, 0.35):
        frames, system = two_molecules(distance, box)
        fault = FrameChecks.from_system(frames.topology, system).fault(frames, None)
        assert (fault is None) == (distance > 0.17)
        if fault is not None:
            where = "" if box is None else " over the faces of its box"
            assert f"C 0 of MET 1 and C 5 of MET 2 0.1 nm apart{where}, where they overlap" in fault[1]
            assert ("was it rotated, as by a superposition" in fault[1]) == (box is not None)


def test_a_box_in_another_unit():
    frames, system = two_molecules(0.35, 2 * np.eye(3))
    checks = FrameChecks.from_system(frames.topology, system)
    frames.unitcell_vectors = 2.2 * np.eye(3, dtype=np.float32)[None]
    assert checks.fault(frames, None) is None
    frames.unitcell_vectors = 20 * np.eye(3, dtype=np.float32)[None]
    assert checks.fault(frames, None)[1].startswith("has a box of 20 nm, where the system's has 2 nm")


def test_stereocenters_that_every_program_names_alike():
    """Not those of two equal methyl groups or oxygens, whose names are up to the program."""
    topology = mdtraj.Topology()
    residue, atoms = topology.add_residue("XXX", topology.add_chain()), {}
    bonds = [("CA", other) for other in ("N", "H", "C", "CB")] + [("CB", other) for other in ("H2", "G1", "G2")]
    bonds += [("G1", "H3"), ("G2", "H4"), *(("P", other) for other in ("O1", "O2", "O3", "C")), ("O3", "CX")]
    for bond in bonds:
        for name in bond:
            if name not in atoms:
                symbol = {"G1": "C", "G2": "C"}.get(name, name[0])
                atoms[name] = topology.add_atom(name, mdtraj.element.get_by_symbol(symbol), residue)
        topology.add_bond(*(atoms[name] for name in bond))
    assert distinct_stereocenters(topology)[:, 0].tolist() == [atoms["CA"].index]


def test_energies_far_from_those_of_the_others():
    system, rng = molecules.alanine_system(), np.random.default_rng(0)
    energies = rng.normal(-60, 14, 400)
    check_energies("run.dcd", energies, 1, np.ones(400), 300.0, system)
    for value in (1e4, -900.0):
        energies[250] = value
        with pytest.raises(
            DataError, match=rf"run\.dcd: frame 500 has a potential energy of {value:g} kJ/mol, far from"
        ):
            check_energies("run.dcd", energies, 2, np.ones(400), 300.0, system)
        check_energies("run.dcd", energies, 1, (np.arange(400) != 250) * 1.0, 300.0, system)


def twisted(x: np.ndarray) -> np.ndarray:
    """The acetyl group bent onto the rest about its atom C, which leaves all bonds as they are."""
    start, axis = x[:, 4:5], np.cross(x[:, 6] - x[:, 4], x[:, 5] - x[:, 4])[:, None]
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    moved, angle = x.copy(), np.radians(60)
    v = x[:, :4] - start
    moved[:, :4] = (
        start
        + v * np.cos(angle)
        + np.cross(axis, v) * np.sin(angle)
        + axis * ((axis * v).sum(-1, keepdims=True) * (1 - np.cos(angle)))
    )
    return moved


def run_file(folder, x: np.ndarray) -> ExternalTrajectory:
    mdtraj.Trajectory(x.astype(np.float32), TOPOLOGY, 0.1 * np.arange(len(x))).save(str(folder / "run.trr"))
    return ExternalTrajectory(str(folder / "run.trr"), 600.0)


def test_an_external_trajectory_is_checked(simulated, tmp_path):
    """By the first look and by the whole reading; with its energies too, where bonds alone tell nothing."""
    system = molecules.alanine_system()

    def read(x: np.ndarray, reference: np.ndarray | None = None) -> dict:
        files = ExternalFiles(tmp_path / "mark")
        return examine(run_file(tmp_path, x), 0, TOPOLOGY, system, REFERENCE, 0.1, None, files, reference=reference)

    assert read(simulated)["frames"] == FRAMES
    checks = FrameChecks.from_system(TOPOLOGY, system)
    with pytest.raises(DataError, match=r"run\.trr: frame 0 has bonds that are all ten times too long"):
        stride_of(run_file(tmp_path, 10 * simulated), TOPOLOGY, False, 0.1, checks)
    with pytest.raises(DataError, match=r"frame 0 has the other handedness at CA 8 of ALA 2 .* mirrored"):
        read(-simulated, molecules.positions())
    with pytest.raises(DataError, match=r"frame 0 is \d+\.?\d* kJ/mol above the nearest minimum"):
        read(twisted(simulated))
    bent = simulated.copy()
    bent[9:10] = twisted(bent[9:10])
    with pytest.raises(DataError, match=r"frame 9 has a potential energy of \d+(\.\d+)? kJ/mol, far from"):
        read(bent)
