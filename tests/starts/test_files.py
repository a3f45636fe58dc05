"""Sets of structures as files: whole, exact, periodic, taken up after an interruption, and the same in any number of
processes."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
from helpers.molecules import (
    TRICLINIC,
    alanine_cv,
    alanine_model,
    alanine_system,
    alanine_topology,
    finished_campaign,
    frames,
    positions,
)
from openmm import app

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.errors import DataError, SettingsError, StoreError
from latf_sampling.starts import Starts, generate_starts

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it

QUICK = {"thermalise": 0.4, "timestep": 0.004, "seed": 5, "platform": "Reference"}


@pytest.fixture(scope="module")
def given() -> tuple:
    """Model, variable, archive, system and topology of the tiny campaign, in the order `generate_starts` takes them."""
    campaign = Campaign.of(finished_campaign())
    model, cv = campaign.model(campaign.last_learned())
    return model, cv, campaign.frames(), campaign.molecule.system, campaign.molecule.topology


def make(given, n: int = 6, temperature: float = 450.0, **settings) -> Starts:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample of this model may be where no structure is
        return generate_starts(*given, temperature, n, **{**QUICK, **settings})


@pytest.fixture(scope="module")
def made(given) -> Starts:
    return make(given)


def same(one: Starts, other: Starts) -> None:
    """Every bit."""
    assert [entry["number"] for entry in one.checks] == [entry["number"] for entry in other.checks], one.summary()
    for name in ("positions", "velocities", "targets", "reached", "sources", "energies", "weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.rejected, one.checks, one.coverage) == (other.rejected, other.checks, other.coverage)


# --------------------------------------------------------------------------------------------- interruptions, processes


def test_going_on_after_an_interruption(given, made, tmp_path):
    def interrupt(fraction, words):
        if fraction >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(given, directory=tmp_path / "out", progress=interrupt)
    done = sorted(file.name for file in (tmp_path / "out" / "targets").glob("target-*.npz"))
    assert done == ["target-0000.npz", "target-0001.npz", "target-0002.npz"]
    marks = {name: (tmp_path / "out" / "targets" / name).stat().st_mtime_ns for name in done}
    seen = []

    def watch(fraction, words):
        there = {name: (tmp_path / "out" / "targets" / name).stat().st_mtime_ns for name in done}
        seen.append((there == marks, words))

    same(make(given, directory=tmp_path / "out", progress=watch), made)
    assert all(untouched for untouched, _ in seen) and len(seen) == 3
    assert not (tmp_path / "out" / "targets").exists()
    again = make(given, directory=tmp_path / "out", progress=lambda fraction, words: seen.append(words))
    assert seen[-1] == "finished before"
    same(again, made)


def test_killed_workers_and_more_of_them_change_nothing(given, made, tmp_path):
    killed = []

    def kill(fraction, words):
        if not killed and (children := multiprocessing.active_children()):
            killed.append(children[0].pid)
            os.kill(children[0].pid, signal.SIGKILL)

    same(make(given, processes=2, directory=tmp_path, progress=kill), made)
    assert killed and multiprocessing.active_children() == []


@pytest.mark.parametrize(("settings", "keys"), [({"seed": 6}, "points, seed"), ({"thermalise": 0.5}, "thermalise")])
def test_a_directory_belongs_to_one_set(given, tmp_path, settings, keys):
    def interrupt(fraction, words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(given, directory=tmp_path, progress=interrupt)
    with pytest.raises(StoreError, match=rf"made with other settings \({keys}\)"):
        make(given, directory=tmp_path, **settings)


def test_two_processes_do_not_work_in_one_directory(given, tmp_path):
    def again(fraction, words):
        with pytest.raises(StoreError, match="another process is making these structures"):
            make(given, directory=tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(given, directory=tmp_path, progress=again)


def test_a_damaged_target_is_named(given, tmp_path):
    def interrupt(fraction, words):
        if fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(given, directory=tmp_path, progress=interrupt)
    (tmp_path / "targets" / "target-0000.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(StoreError, match=r"target-0000.npz: cannot be read .*; delete it to make the structure again"):
        make(given, directory=tmp_path)


# ---------------------------------------------------------------------------------------------------------------- files


def test_saved_files(given, made, tmp_path):
    made.save(tmp_path)
    each = {f"start-{k:03d}.{kind}" for k in range(len(made)) for kind in ("npz", "pdb", "xml")}
    assert {file.name for file in tmp_path.iterdir()} == each | {"starts.json", "starts.csv", "starts.xtc"}
    _, cv, _, system, topology = given
    for index in range(len(made)):
        stem = tmp_path / f"start-{index:03d}"
        assert mdtraj.load(f"{stem}.pdb").xyz[0] == pytest.approx(made.positions[index], abs=1e-4)
        cv.check_topology(app.PDBFile(f"{stem}.pdb").topology)
        with np.load(f"{stem}.npz") as content:
            assert sorted(content.files) == ["positions", "velocities"]
            assert np.array_equal(content["positions"], made.positions[index])
            assert np.array_equal(content["velocities"], made.velocities[index])
        reference = openmm.Platform.getPlatformByName("Reference")
        simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), reference)
        simulation.loadState(f"{stem}.xml")
        state = simulation.context.getState(getPositions=True, getVelocities=True, getEnergy=True)
        assert np.array_equal(state.getPositions(asNumpy=True)._value, made.positions[index])
        assert np.array_equal(state.getVelocities(asNumpy=True)._value, made.velocities[index])
        assert state.getPotentialEnergy()._value == pytest.approx(made.energies[index], abs=1e-6)
    trajectory = mdtraj.load(str(tmp_path / "starts.xtc"), top=mdtraj.Topology.from_openmm(topology))
    assert trajectory.xyz == pytest.approx(made.positions, abs=6e-4)


def test_the_table(made, tmp_path):
    made.save(tmp_path)
    table = json.loads((tmp_path / "starts.json").read_text())
    assert (table["requested"], table["valid"], table["temperature"]) == (6, len(made), 450.0)
    for name in ("targets", "reached", "sources", "energies", "weights"):
        assert table[name] == getattr(made, name).tolist()
    assert table["coverage"]["covers"] == made.coverage.covers
    assert table["settings"]["thermalise"] == 0.4 and table["settings"]["platform"] == "Reference"
    rows = list(csv.DictReader((tmp_path / "starts.csv").open()))
    assert [int(row["number"]) for row in rows] == list(range(6))
    valid = [row for row in rows if row["file"]]
    assert [row["file"] for row in valid] == [f"start-{k:03d}" for k in range(len(made))]
    for index, row in enumerate(valid):
        numbers = [float(row[f"{name}_{k}"]) for name in ("target", "reached") for k in (1, 2)]
        assert numbers == [*made.targets[index], *made.reached[index]]
        assert float(row["energy_kJ_per_mol"]) == made.energies[index]
        assert float(row["weight"]) == made.weights[index]
        assert int(row["source_frame"]) == made.sources[index]
        assert 0 <= float(row["held_distance"]) <= 4 and 0 <= float(row["released_distance"]) <= 4
        assert row["rejected_because"] == "" == row["inverted"] == row["flipped"]
    for row, entry in zip([row for row in rows if not row["file"]], made.rejected):
        assert row["rejected_because"] == "; ".join(entry["reasons"])


def test_what_is_saved_is_what_is_read(given, made, tmp_path):
    made.save(tmp_path)
    again = Starts.load(tmp_path, given[4])
    same(again, made)
    assert (again.boxes, again.requested, again.tolerance) == (None, 6, 4.0)
    assert again.settings == made.settings
    assert again.thermal.energies == pytest.approx(made.thermal.energies)
    (tmp_path / "start-000.npz").unlink()
    with pytest.raises(StoreError, match="start-000.npz: cannot be read"):
        Starts.load(tmp_path, given[4])


def test_mmcif_on_request_and_where_pdb_cannot_hold_it(given, made, tmp_path):
    made.save(tmp_path / "asked", "cif")
    read = app.PDBxFile(str(tmp_path / "asked" / "start-000.cif"))
    assert np.array(read.positions._value) == pytest.approx(made.positions[0], abs=1e-4)
    far = Starts(**{**vars(made), "positions": made.positions + 2000.0})
    far.save(tmp_path / "far")
    assert (tmp_path / "far" / "start-000.cif").exists() and not (tmp_path / "far" / "start-000.pdb").exists()
    with pytest.raises(SettingsError, match="written as pdb or cif; got 'gro'"):
        made.save(tmp_path / "none", "gro")


# ------------------------------------------------------------------------------------------------------------ periodic


def test_periodic_structures_keep_their_boxes(tmp_path):
    topology, system, cv = alanine_topology(periodic=True), alanine_system(periodic=True), alanine_cv(2, periodic=True)
    system.addForce(openmm.MonteCarloBarostat(1.0, 400.0, 5))
    dynamics = openmm.LangevinMiddleIntegrator(400.0, 1.0, 0.002)
    dynamics.setRandomNumberSeed(1)
    context = openmm.Context(system, dynamics, openmm.Platform.getPlatformByName("Reference"))
    context.setPeriodicBoxVectors(*(2 * TRICLINIC))  # far from the cut-off, where a single molecule's volume may go
    context.setPositions(positions())
    x, boxes = [], []
    for _ in range(30):
        dynamics.step(20)
        state = context.getState(getPositions=True)
        x.append(np.array(state.getPositions(asNumpy=True)._value))
        boxes.append(np.array(state.getPeriodicBoxVectors(asNumpy=True)._value))
    archive = mdtraj.Trajectory(np.array(x), mdtraj.Topology.from_openmm(topology))
    archive.unitcell_vectors = np.array(boxes)
    targets = cv(np.array(x)[[10, 20]], np.array(boxes)[[10, 20]])
    model = SimpleNamespace(sample=lambda n, temperature, seed: targets.astype(np.float32))

    def go(folder: Path, **settings) -> Starts:
        return generate_starts(
            model, cv, archive, system, topology, 400.0, 2, directory=folder,
            **{**QUICK, "timestep": 0.002, "tolerance": 8.0, **settings},
        )  # fmt: skip

    found = go(tmp_path / "one")
    assert len(found) == 2 and found.boxes.shape == (2, 3, 3)
    volumes = np.linalg.det(found.boxes)
    assert (np.abs(volumes / np.linalg.det(np.array(boxes)).mean() - 1) < 0.5).all() and np.ptp(volumes) > 0
    assert found.reached == pytest.approx(cv(found.positions, found.boxes), abs=1e-9)
    simulation = app.Simulation(
        topology, system, openmm.VerletIntegrator(0.002), openmm.Platform.getPlatformByName("Reference")
    )
    for index in range(2):
        stem = tmp_path / "one" / f"start-{index:03d}"
        with np.load(f"{stem}.npz") as content:
            assert np.array_equal(content["box"], found.boxes[index])
        simulation.loadState(f"{stem}.xml")
        box = simulation.context.getState().getPeriodicBoxVectors(asNumpy=True)._value
        assert np.array_equal(box, found.boxes[index])
        energy = simulation.context.getState(getEnergy=True).getPotentialEnergy()._value
        assert energy == pytest.approx(found.energies[index], abs=1e-6)
        read = app.PDBFile(f"{stem}.pdb").topology.getPeriodicBoxVectors()
        assert np.array([list(row) for row in read._value]) == pytest.approx(found.boxes[index], abs=1e-3)
    assert topology.getPeriodicBoxVectors()[0][0]._value == TRICLINIC[0, 0]  # the one that was given is as it was
    assert np.array_equal(Starts.load(tmp_path / "one", topology).boxes, found.boxes)
    # the barostat's random numbers too are those of the target
    again = go(tmp_path / "two")
    assert np.array_equal(again.positions, found.positions) and np.array_equal(again.boxes, found.boxes)


def test_a_periodic_system_needs_boxes():
    topology, cv = alanine_topology(periodic=True), alanine_cv(2, periodic=True)
    bare = mdtraj.Trajectory(frames(3), mdtraj.Topology.from_openmm(topology))
    with pytest.raises(DataError, match="the system is periodic, and frames of the archive have no box vectors"):
        generate_starts(alanine_model(2)[0], cv, bare, alanine_system(periodic=True), topology, 300.0, 1)
