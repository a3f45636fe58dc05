"""Structures and force fields, energies against OpenMM, biases against their hills, and going on bit for bit."""

from __future__ import annotations

import errno
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from helpers.molecules import STRUCTURE, alanine, alanine_cv, alanine_topology, context, positions, write_protocol
from openmm import app, unit

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import SettingsError, SimulationError, StoreError
from latf_sampling.settings import IntegratorSettings, Protocol, SystemSettings
from latf_sampling.simulation.dynamics import integrator
from latf_sampling.simulation.explosion import usual_timestep
from latf_sampling.simulation.retirement import refuse_too_many
from latf_sampling.simulation.walker import WalkerJob, run_walker
from latf_sampling.systems import build
from latf_sampling.units import KB

SYSTEM = {"structure": STRUCTURE.name, "force_field": ["amber14/protein.ff14SB.xml"], "platform": "Reference"}
FIELD = ("amber14/protein.ff14SB.xml",)
PLAIN = {"walkers": ["300 K", "450 K"], "length": "3 ps"}
BIASED = {
    "walkers": ["300 K"],
    "length": "3 ps",
    "bias": {"kind": "metadynamics", "bias_factor": 5, "height": "2 kJ/mol", "interval": "0.04 ps", "width": 0.8},
}


def settings(structure=STRUCTURE, **changes) -> SystemSettings:
    return SystemSettings(structure=structure, **{"force_field": FIELD, **changes})


def job(folder, biased: bool = False, walker: int = 0, start=None, **changes) -> WalkerJob:
    """A walker of three segments of 1 ps, ten frames each, in a folder of its own."""
    rounds = [PLAIN, BIASED]
    changes = {"segment": "1 ps", "rounds": rounds, "starts": None, "observe": None, **changes}
    protocol = Protocol.load(write_protocol(folder / "given", **changes))
    hills = learned = None
    if biased:
        hills, learned = folder / "hills", folder
        wide_cv().save(folder / "cv.pt")
    return WalkerJob(protocol, int(biased), walker, folder / "walker", start, learned, hills)


def wide_cv() -> LatentCV:
    """A variable whose bounds are far from where 3 ps of dynamics go."""
    cv = alanine_cv(2, "torsions")
    return LatentCV(cv.module, {**cv.metadata, "bounds": [[-0.5, 1.2], [-1.3, 1.1]]})


def tables(made: WalkerJob) -> dict[str, np.ndarray]:
    """Everything that a walker computed, to the last bit."""
    columns: dict[str, list] = {}
    for index in range(len(WalkerDirectory(made.directory).finished_segments())):
        files = WalkerDirectory(made.directory).segment(index)
        with np.load(files.frames) as table:
            for name in ("energy", "bias", "offset"):
                columns.setdefault(name, []).append(table[name])
        columns.setdefault("xyz", []).append(mdtraj.load(files.trajectory, top=alanine_mdtraj()).xyz)
        state = files.state.read_text()
        columns.setdefault("state", []).append(np.array([state]))
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    if made.hills is not None:
        found["hills"] = np.loadtxt(made.hills / f"walker-{made.walker:02d}.hills")
    return found


def alanine_mdtraj() -> mdtraj.Topology:
    return mdtraj.Topology.from_openmm(alanine_topology())


def assert_identical(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(found[name], expected[name]), name


# ----------------------------------------------------------------------------------------------- structure, force field


def test_pdb_and_mmcif_give_the_same_molecule(tmp_path):
    file = tmp_path / "alanine.cif"
    with open(file, "w") as handle:
        app.PDBxFile.writeFile(alanine().topology, alanine().positions, handle)
    pdb, cif = build(settings()), build(settings(file))
    assert cif.positions.shape == (22, 3)
    assert np.abs(pdb.positions - positions()).max() == 0
    assert np.abs(cif.positions - positions()).max() < 1e-6
    states = [context(made.system, positions()).getState(getEnergy=True, getForces=True) for made in (pdb, cif)]
    energies, forces = zip(*((state.getPotentialEnergy()._value, state.getForces(asNumpy=True)) for state in states))
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)
    assert np.abs((forces[0] - forces[1])._value).max() < 1e-6
    assert pdb.system.getNumConstraints() == cif.system.getNumConstraints()
    assert [atom.name for atom in cif.topology.atoms()] == [atom.name for atom in pdb.topology.atoms()]


def test_masses_and_constraints_are_those_of_the_settings():
    def total(system) -> float:
        return sum(masses(system))

    def masses(system) -> list[float]:
        return [system.getParticleMass(k)._value for k in range(system.getNumParticles())]

    light = build(settings(constraints="none")).system
    heavy = build(settings(constraints="h-bonds", hydrogen_mass=3.0)).system
    hydrogens = [atom.index for atom in alanine().topology.atoms() if atom.element.symbol == "H"]
    assert light.getNumConstraints() == 0
    assert heavy.getNumConstraints() == len(hydrogens) == 12
    assert [masses(heavy)[k] for k in hydrogens] == [3.0] * 12
    assert total(heavy) == pytest.approx(total(light))


def test_pme_with_its_cutoff(tmp_path):
    topology = alanine_topology()
    topology.setPeriodicBoxVectors(2.5 * np.eye(3) * unit.nanometer)
    with open(tmp_path / "box.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, alanine().positions, handle)
    system = build(settings(tmp_path / "box.pdb", nonbonded="PME", cutoff=0.9)).system
    (force,) = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert force.getNonbondedMethod() == openmm.NonbondedForce.PME
    assert force.getCutoffDistance()._value == pytest.approx(0.9)
    assert system.usesPeriodicBoundaryConditions()
    with pytest.raises(SettingsError, match=r"^system\.nonbonded: PME needs a unit cell"):
        build(settings(nonbonded="PME", cutoff=0.9))  # without one


def without(words: str, text: str) -> str:
    return "".join(line for line in text.splitlines(True) if words not in line and "CONECT" not in line)


def wrong(tmp_path, name: str, text: str):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: settings(path / "none.pdb"), r"^system\.structure: .*none\.pdb"),
        (lambda path: settings(path / "none.cif"), r"^system\.structure: .*none\.cif"),
        (lambda path: settings(wrong(path, "a.pdb", "no\nstructure\n")), r"^system\.structure: .*a\.pdb"),
        (lambda path: settings(wrong(path, "a.cif", "no structure")), r"^system\.structure: .*a\.cif"),
        (
            lambda path: settings(wrong(path, "b.pdb", without("H1  ACE", STRUCTURE.read_text()))),
            r"^system\.force_field: amber14/protein\.ff14SB\.xml: .*ACE",
        ),
        (lambda path: settings(force_field=("amber14/none.xml",)), r"^system\.force_field: amber14/none\.xml"),
        (
            lambda path: settings(force_field=(str(wrong(path, "f.xml", "<ForceField><Resid")),)),
            r"^system\.force_field: .*f\.xml",
        ),
    ],
    ids=["no PDB", "no mmCIF", "bad PDB", "bad mmCIF", "residue", "no force field", "bad force field"],
)
def test_what_cannot_be_built_is_refused_by_its_key(tmp_path, make, words):
    with pytest.raises(SettingsError, match=words) as refused:
        build(make(tmp_path))
    assert "\n" not in str(refused.value)


def test_integrator():
    made = integrator(IntegratorSettings(timestep=0.003, friction=7.0), 321.0, 5)
    assert isinstance(made, openmm.LangevinMiddleIntegrator)
    assert made.getTemperature()._value == 321.0
    assert made.getFriction()._value == 7.0
    assert made.getStepSize()._value == pytest.approx(0.003)
    assert made.getRandomNumberSeed() == 5


# -------------------------------------------------------------------------------------------------------- plain walkers


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> WalkerJob:
    made = job(tmp_path_factory.mktemp("plain"))
    run_walker(made)
    return made


@pytest.fixture(scope="module")
def biased(tmp_path_factory) -> WalkerJob:
    made = job(tmp_path_factory.mktemp("biased"), biased=True)
    run_walker(made)
    return made


def assert_energies(made: WalkerJob) -> None:
    molecule, frames = build(made.protocol.system), WalkerFrames.load(made.directory, alanine_mdtraj(), 0, 0)
    again = context(molecule.system, molecule.positions)
    for x, energy in zip(frames.trajectory.xyz.astype(float), frames.energies):
        again.setPositions(x)
        # Frames are kept in single precision: the stiffest bonds turn 1e-7 nm into some 1e-3 kJ/mol.
        assert again.getState(getEnergy=True).getPotentialEnergy()._value == pytest.approx(energy, abs=0.02)
    assert np.ptp(frames.energies) > 5


def test_energies_are_those_of_the_frames(plain, biased):
    assert_energies(plain)
    assert_energies(biased)  # the potential's alone, without the bias


def test_frames_segments_and_marks(plain):
    summaries = [manifest.content for manifest in WalkerDirectory(plain.directory).finished_segments()]
    assert [entry["step"] for entry in summaries] == [250, 500, 750]
    assert all(entry["frames"] == 10 and entry["temperature"] == 300.0 for entry in summaries)
    for index in range(3):
        piece = mdtraj.load(WalkerDirectory(plain.directory).segment(index).trajectory, top=alanine_mdtraj())
        assert piece.n_frames == 10
        assert piece.unitcell_vectors is None
        assert np.asarray(piece.time) == pytest.approx(index + 0.1 * np.arange(1, 11), rel=1e-5)
    frames = WalkerFrames.load(plain.directory, alanine_mdtraj(), 0, 0)
    assert len(frames) == 30
    assert not frames.biased
    moved = np.abs(np.diff(frames.trajectory.xyz, axis=0)).max((1, 2))
    assert moved.min() > 0.003 and moved.max() < 0.3  # no frame twice, no jump where one segment follows another


def test_a_finished_walker_is_left_alone(plain):
    files = sorted(plain.directory.iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    fractions = []
    run_walker(plain, fractions.append)
    assert sorted(plain.directory.iterdir()) == files
    assert [file.stat().st_mtime_ns for file in files] == before
    assert fractions == [1.0]


def test_progress_rises_to_one(tmp_path):
    fractions = []
    run_walker(job(tmp_path, rounds=[{"walkers": ["300 K"], "length": "2 ps"}]), fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == pytest.approx(1.0)
    assert (np.diff(fractions) > 0).all()
    assert len([fraction for fraction in fractions if fraction > 1e-6]) == 20  # and less while it is minimized


def test_walkers_differ_and_have_their_temperatures(tmp_path):
    long = {"segment": "40 ps", "frame_interval": "1 ps", "learning": {"lag": "1 ps"}}
    long["rounds"] = [{**PLAIN, "length": "40 ps"}]
    made = [job(tmp_path / str(walker), walker=walker, **long) for walker in (0, 1)]
    kinetic = []
    for entry in made:
        run_walker(entry)
        energies = WalkerFrames.load(entry.directory, alanine_mdtraj(), 0, 0)
        assert energies.temperature == entry.temperature
        kinetic.append(energies.energies[10:].mean())
    # The potential energy of f nearly harmonic degrees of freedom rises by f/2 k, that is 0.2245 kJ/mol/K for 54.
    assert (kinetic[1] - kinetic[0]) / 150 == pytest.approx(0.5 * KB * 54, rel=0.3)


def test_start_from_given_positions_and_velocities(tmp_path):
    x = positions() + 0.002 * np.random.default_rng(0).normal(size=(22, 3))
    v = np.random.default_rng(1).normal(scale=0.2, size=(22, 3))
    np.savez(tmp_path / "start.npz", positions=x, velocities=v)
    free = {"integrator": {"timestep": "0.1 fs", "friction": "0.001 / ps"}, "frame_interval": "0.1 fs"}
    made = job(
        tmp_path, start=tmp_path / "start.npz", segment="0.2 fs", rounds=[{"walkers": ["300 K"], "length": "0.2 fs"}],
        learning={"lag": "0.1 fs"}, system={**SYSTEM, "constraints": "none"}, **free,
    )  # fmt: skip
    run_walker(made)
    first, second = WalkerFrames.load(made.directory, alanine_mdtraj(), 0, 0).trajectory.xyz
    assert np.abs(first - (x + 1e-4 * v)).max() < 2e-5
    assert np.abs(second - (x + 2e-4 * v)).max() < 8e-5


def test_a_periodic_walker_keeps_its_box(tmp_path):
    topology = alanine_topology()
    topology.setPeriodicBoxVectors(2.5 * np.eye(3) * unit.nanometer)
    with open(tmp_path / "box.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, alanine().positions, handle)
    made = job(
        tmp_path, segment="0.2 ps", rounds=[{"walkers": ["300 K"], "length": "0.4 ps"}],
        system={**SYSTEM, "structure": str(tmp_path / "box.pdb"), "nonbonded": "PME", "cutoff": "1 nm"},
    )  # fmt: skip
    run_walker(made)
    frames = WalkerFrames.load(made.directory, alanine_mdtraj(), 0, 0)
    assert frames.trajectory.unitcell_vectors == pytest.approx(np.tile(2.5 * np.eye(3), (4, 1, 1)), abs=1e-6)
    assert_energies_close = context(build(made.protocol.system).system, positions())
    for x, energy in zip(frames.trajectory.xyz.astype(float), frames.energies):
        assert_energies_close.setPositions(x)
        assert assert_energies_close.getState(getEnergy=True).getPotentialEnergy()._value == pytest.approx(
            energy, abs=0.05
        )


# ------------------------------------------------------------------------------------------------------- biased walkers


def test_bias_and_offset_are_those_of_the_hills_so_far(biased):
    frames, cv = WalkerFrames.load(biased.directory, alanine_mdtraj(), 0, 0), wide_cv()
    hills = np.loadtxt(biased.hills / "walker-00.hills")[:, :-1]  # without the clock
    width = 0.8 * cv.sigma
    assert hills[:, 3:5] == pytest.approx(np.tile(width, (75, 1)))
    assert hills[:, 0].tolist() == list(range(10, 751, 10))
    axes = [np.linspace(*(cv.bounds[k] + [-3 * width[k], 3 * width[k]]), 150) for k in (0, 1)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def bias(u, step, own=True):
        past = hills[hills[:, 0] <= step] if own else hills[hills[:, 0] < step]
        square = (((u[:, None] - past[:, 1:3]) / width) ** 2).sum(-1)
        return np.exp(-0.5 * square) @ past[:, -1]

    kt, gamma = KB * 300.0, 5.0
    for number, x in enumerate(frames.trajectory.xyz):
        step = 25 * (number + 1)
        u = cv(x[None].astype(float))
        assert (u > cv.bounds[:, 0] - 3 * width).all() and (u < cv.bounds[:, 1] + 3 * width).all()  # off the walls
        # without the hill of this very step, which did not bring the walker here
        assert frames.bias[number] == pytest.approx(bias(u, step, own=False)[0], abs=0.02)
        v = bias(grid, step)
        # c(t) of Tiwary and Parrinello: ratio of the integrals of exp(gamma/(gamma-1) V/kT) and exp(1/(gamma-1) V/kT)
        # over where a first hill, which is the highest, would be within two widths
        v = v[v >= hills[0, -1] * np.exp(-2.0)]
        offset = kt * np.log(np.exp(gamma / (gamma - 1) * v / kt).sum() / np.exp(v / (gamma - 1) / kt).sum())
        assert frames.offset[number] == pytest.approx(offset, abs=0.02 + 0.01 * offset)
    assert frames.biased
    assert frames.bias.max() > 4  # hills have piled up
    assert frames.offset[-1] > frames.offset[0] > 0


IN_A_PROCESS = """
import pickle, sys
from pathlib import Path
from latf_sampling.core.plugins import import_openmm
import_openmm()
from latf_sampling.simulation.walker import run_walker
run_walker(pickle.loads(Path(sys.argv[1]).read_bytes()))
print("torch" in sys.modules)
"""


def test_a_walker_needs_torch_only_where_its_bias_needs_the_model(biased, tmp_path, machine_code):
    """It has 230 MB without torch, and 870 MB with it."""
    again = job(tmp_path / "again", biased=True)
    bias = {**BIASED["bias"], "start": "flow"}
    flow = job(tmp_path / "flow", rounds=[PLAIN, {**BIASED, "bias": bias}]).protocol.runs[1].bias
    assert flow.needs_model and not again.bias.needs_model
    (tmp_path / "job").write_bytes(pickle.dumps(again))
    command = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path / "job")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
    here = job(tmp_path / "here", biased=True)
    run_walker(here)
    assert_identical(tables(again), tables(here))
    hills = [np.loadtxt(made.hills / "walker-00.hills")[:20] for made in (again, biased)]  # the latter by torch
    np.testing.assert_allclose(*hills, rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("kind", ["plain", "biased"])
def test_going_on_after_losing_segments_changes_no_bit(kind, request, tmp_path):
    made = request.getfixturevalue(kind)
    shutil.copytree(made.directory.parent, tmp_path / "copy")
    again = job(tmp_path / "copy", biased=kind == "biased")
    for index in (1, 2):
        (again.directory / f"segment-{index:03d}.json").unlink()
    kept = (again.directory / "segment-000.npz").stat().st_mtime_ns
    run_walker(again)
    assert_identical(tables(again), tables(made))
    assert (again.directory / "segment-000.npz").stat().st_mtime_ns == kept


@pytest.mark.parametrize("kind", ["plain", "biased"])
def test_going_on_after_an_interruption_changes_no_bit(kind, request, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(fraction: float) -> None:
        if fraction > 0.55:
            raise Interrupted

    made, again = request.getfixturevalue(kind), job(tmp_path, biased=kind == "biased")
    with pytest.raises(Interrupted):
        run_walker(again, interrupt)
    assert len(WalkerDirectory(again.directory).finished_segments()) == 1
    run_walker(again)
    assert_identical(tables(again), tables(made))


# ------------------------------------------------------------------------------------------------------------- failures


def test_going_on_after_a_full_disk_changes_no_bit(plain, tmp_path, monkeypatch):
    again = job(tmp_path)
    shutil.copytree(plain.directory, again.directory)
    last = WalkerDirectory(again.directory).segment(2)
    for file in (last.trajectory, last.frames, last.state, last.marker):
        file.unlink()
    kept = sorted(again.directory.iterdir())

    def full(trajectory, path):
        path.write_bytes(b"CDF")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"002\.nc: .*No space left on device"):
        patch.setattr("latf_sampling.simulation.segment.write_netcdf", full)
        run_walker(again)
    assert sorted(again.directory.iterdir()) == kept
    run_walker(again)
    assert_identical(tables(again), tables(plain))


@pytest.mark.parametrize("kind", ["plain", "biased"])
def test_an_explosion_keeps_what_is_finished_and_takes_hills_back(kind, request, tmp_path):
    made = request.getfixturevalue(kind)
    shutil.copytree(made.directory.parent, tmp_path / "copy")
    violent = {"integrator": {"timestep": "50 fs"}, "frame_interval": "0.1 ps"}
    rounds = [PLAIN, {**BIASED, "bias": {**BIASED["bias"], "interval": "0.1 ps"}}]
    again = job(tmp_path / "copy", biased=kind == "biased", rounds=rounds, **violent)
    for index in (1, 2):
        (again.directory / f"segment-{index:03d}.json").unlink()
    run_walker(again)
    directory = WalkerDirectory(again.directory)
    (kept,) = directory.finished_segments()
    assert kept.digest == WalkerDirectory(made.directory).finished_segments()[0].digest
    assert "exploded 3 times, the last time in segment 1" in str(directory.failures().retired)
    if again.hills is not None:
        steps = np.loadtxt(again.hills / "walker-00.hills")[:, 0]
        assert steps.tolist() == list(range(10, 251, 10))  # of the finished segment alone


def test_a_changed_segment_is_not_gone_on_from(plain, tmp_path):
    shutil.copytree(plain.directory.parent, tmp_path / "copy")
    again = job(tmp_path / "copy")
    with open(again.directory / "segment-001.xml", "a") as handle:
        handle.write(" ")
    with pytest.raises(StoreError, match=r"segment-001\.xml: .* changed"):
        run_walker(again)


# ------------------------------------------------------------------------------------------------------- explosions


HOT = {**BIASED, "bias": {**BIASED["bias"], "height": "1000 kJ/mol"}}


@pytest.mark.parametrize(
    ("biased", "changes", "causes"),
    [
        (True, {"rounds": [PLAIN, HOT], "integrator": {"timestep": "20 fs"}, "frame_interval": "0.1 ps"},
         ["integrator.timestep is 20 fs", "4 fs is the longest that is usual with hydrogens of 3 amu in constrained",
          r"bias.height is 1,000 kJ/mol, 401 kT, where less than 1 kT is usual"]),
        (False, {"integrator": {"timestep": "20 fs"}}, ["integrator.timestep is 20 fs"]),
    ],
    ids=["biased", "plain"],
)  # fmt: skip
def test_an_explosion_is_told_with_its_likely_cause_also_when_it_is_run_again(tmp_path, biased, changes, causes):
    made = job(tmp_path, biased, **changes)
    said = []
    for _ in range(2):
        run_walker(made)
        with pytest.raises(SimulationError) as raised:
            refuse_too_many([made])
        said.append(str(raised.value))
    assert said[0] == said[1] and "\n" not in said[0]
    assert said[0].startswith(f"round {int(biased)}: its only walker had to be retired, and the campaign stops; ")
    assert all(cause in said[0] for cause in causes)
    assert "Finished segments are kept" in said[0]
    assert re.search(r"the largest forces are on \w+ \d \w+ \(atom \d+\)", said[0])
    assert (", and there is no bias" in said[0]) != biased
    assert len(WalkerDirectory(made.directory).failures().failures) == 3  # it was not tried again


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({"constraints": "none"}, (1.0, "hydrogens of 1.01 amu whose bonds vibrate")),
        ({}, (2.0, "hydrogens of 1.01 amu in constrained bonds")),
        ({"hydrogen_mass": 3.0}, (4.0, "hydrogens of 3 amu in constrained bonds")),
        ({"constraints": "none", "hydrogen_mass": 3.0}, (2.0, "hydrogens of 3 amu whose bonds vibrate")),
    ],
)
def test_usual_timesteps(changes, longest):
    molecule = build(settings(**changes))
    assert usual_timestep(molecule.system, molecule.topology) == longest
