"""Sets of structures as files: complete, exact, periodic, and independent of interruptions and of processes."""

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
def source() -> tuple:
    """Model, variable, archive, system and topology of the tiny campaign, in the order `generate_starts` takes them."""
    campaign = Campaign.load(finished_campaign())
    model, cv = campaign.model(campaign.last_learned())
    return model, cv, campaign.frames(), campaign.molecule.system, campaign.molecule.topology


def make(source, n: int = 6, temperature: float = 450.0, **settings) -> Starts:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no structure at a sample of this model
        return generate_starts(*source, temperature, n, **{**QUICK, **settings})


@pytest.fixture(scope="module")
def structures(source) -> Starts:
    return make(source)


def same(one: Starts, other: Starts) -> None:
    """All numbers of two sets are identical."""
    assert [entry["number"] for entry in one.checks] == [entry["number"] for entry in other.checks], one.summary()
    for name in ("positions", "velocities", "targets", "reached", "sources", "energies", "weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.rejected, one.checks, one.coverage) == (other.rejected, other.checks, other.coverage)


# --------------------------------------------------------------------------------------------- interruptions, processes


def test_an_interrupted_set_is_continued(source, structures, tmp_path):
    def interrupt(fraction, words):
        if words.startswith("3 valid"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(source, directory=tmp_path / "out", progress=interrupt)
    done = sorted(file.name for file in (tmp_path / "out" / "targets").glob("target-*.npz"))
    assert done == ["target-0000.npz", "target-0001.npz", "target-0002.npz"]
    times = {name: (tmp_path / "out" / "targets" / name).stat().st_mtime_ns for name in done}
    seen = []

    def watch(fraction, words):
        now = {name: (tmp_path / "out" / "targets" / name).stat().st_mtime_ns for name in done}
        seen.append((now == times, words))

    same(make(source, directory=tmp_path / "out", progress=watch), structures)
    assert all(untouched for untouched, _ in seen)
    counts = [int(words.split()[0]) for _, words in seen]
    assert counts == sorted(counts) and set(counts) >= {3, 4}
    assert not (tmp_path / "out" / "targets").exists()
    again = make(source, directory=tmp_path / "out", progress=lambda fraction, words: seen.append(words))
    assert seen[-1] == "finished before"
    same(again, structures)
    with pytest.raises(
        StoreError, match=r"\(6 structures there, 8 asked for\), and is not added to.*another directory"
    ):
        make(source, n=8, directory=tmp_path / "out")


def test_structures_do_not_depend_on_killed_workers_or_their_number(source, structures, tmp_path):
    killed = []

    def kill(fraction, words):
        if not killed and (children := multiprocessing.active_children()):
            killed.append(children[0].pid)
            os.kill(children[0].pid, signal.SIGKILL)

    same(make(source, processes=2, directory=tmp_path, progress=kill), structures)
    assert killed and multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"seed": 6}, r"points, seed \d+ there, 6 asked for"),
        ({"thermalise": 0.5}, r"thermalise [\d.]+ there, 0.5 asked for"),
    ],
)
def test_a_directory_belongs_to_one_set(source, tmp_path, settings, keys):
    def interrupt(fraction, words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(source, directory=tmp_path, progress=interrupt)
    with pytest.raises(StoreError, match=rf"made with other settings \({keys}\)"):
        make(source, directory=tmp_path, **settings)


def test_two_processes_do_not_work_in_one_directory(source, tmp_path):
    def again(fraction, words):
        with pytest.raises(StoreError, match="another process is making these structures"):
            make(source, directory=tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(source, directory=tmp_path, progress=again)


def test_a_damaged_target_is_named(source, tmp_path):
    def interrupt(fraction, words):
        if fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(source, directory=tmp_path, progress=interrupt)
    (tmp_path / "targets" / "target-0000.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(StoreError, match=r"target-0000.npz: cannot be read .*; delete it to make the structure again"):
        make(source, directory=tmp_path)


# ---------------------------------------------------------------------------------------------------------------- files


def test_saved_files(source, structures, tmp_path):
    structures.save(tmp_path)
    each = {f"start-{k:03d}.{kind}" for k in range(len(structures)) for kind in ("npz", "pdb", "xml")}
    assert {file.name for file in tmp_path.iterdir()} == each | {"starts.json", "starts.csv", "starts.xtc"}
    _, cv, _, system, topology = source
    for index in range(len(structures)):
        stem = tmp_path / f"start-{index:03d}"
        assert mdtraj.load(f"{stem}.pdb").xyz[0] == pytest.approx(structures.positions[index], abs=1e-4)
        cv.check_topology(app.PDBFile(f"{stem}.pdb").topology)
        with np.load(f"{stem}.npz") as content:
            assert sorted(content.files) == ["positions", "velocities"]
            assert np.array_equal(content["positions"], structures.positions[index])
            assert np.array_equal(content["velocities"], structures.velocities[index])
        reference = openmm.Platform.getPlatformByName("Reference")
        simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), reference)
        simulation.loadState(f"{stem}.xml")
        state = simulation.context.getState(getPositions=True, getVelocities=True, getEnergy=True)
        assert np.array_equal(state.getPositions(asNumpy=True)._value, structures.positions[index])
        assert np.array_equal(state.getVelocities(asNumpy=True)._value, structures.velocities[index])
        assert state.getPotentialEnergy()._value == pytest.approx(structures.energies[index], abs=1e-6)
    trajectory = mdtraj.load(str(tmp_path / "starts.xtc"), top=mdtraj.Topology.from_openmm(topology))
    assert trajectory.xyz == pytest.approx(structures.positions, abs=6e-4)


def test_the_table(structures, tmp_path):
    structures.save(tmp_path)
    table = json.loads((tmp_path / "starts.json").read_text())
    assert (table["requested"], table["valid"], table["temperature"]) == (6, len(structures), 450.0)
    for name in ("targets", "reached", "sources", "energies", "weights"):
        assert table[name] == getattr(structures, name).tolist()
    assert table["coverage"]["covers"] == structures.coverage.covers
    assert table["settings"]["thermalise"] == 0.4 and table["settings"]["platform"] == "Reference"
    rows = list(csv.DictReader((tmp_path / "starts.csv").open()))
    assert [int(row["number"]) for row in rows] == list(range(6))
    valid = [row for row in rows if row["file"]]
    assert [row["file"] for row in valid] == [f"start-{k:03d}" for k in range(len(structures))]
    for index, row in enumerate(valid):
        numbers = [float(row[f"{name}_{k}"]) for name in ("target", "reached") for k in (1, 2)]
        assert numbers == [*structures.targets[index], *structures.reached[index]]
        assert float(row["energy_kJ_per_mol"]) == structures.energies[index]
        assert float(row["weight"]) == structures.weights[index]
        assert int(row["source_frame"]) == structures.sources[index]
        assert 0 <= float(row["held_distance"]) <= 4 and 0 <= float(row["released_distance"]) <= 4
        assert row["rejected_because"] == "" == row["inverted"] == row["flipped"]
    for row, entry in zip([row for row in rows if not row["file"]], structures.rejected):
        assert row["rejected_because"] == "; ".join(entry["reasons"])


def test_a_saved_set_is_loaded_unchanged(source, structures, tmp_path):
    structures.save(tmp_path)
    again = Starts.load(tmp_path, source[4])
    same(again, structures)
    assert (again.boxes, again.requested, again.tolerance) == (None, 6, 4.0)
    assert again.settings == structures.settings
    assert again.thermal.energies == pytest.approx(structures.thermal.energies)
    (tmp_path / "start-000.npz").unlink()
    with pytest.raises(StoreError, match="start-000.npz: is missing"):
        Starts.load(tmp_path, source[4])


def test_mmcif_on_request_and_if_pdb_cannot_hold_the_system(source, structures, tmp_path):
    structures.save(tmp_path / "requested", "cif")
    read = app.PDBxFile(str(tmp_path / "requested" / "start-000.cif"))
    assert np.array(read.positions._value) == pytest.approx(structures.positions[0], abs=1e-4)
    far = Starts(**{**vars(structures), "positions": structures.positions + 2000.0})
    far.save(tmp_path / "far")
    assert (tmp_path / "far" / "start-000.cif").exists() and not (tmp_path / "far" / "start-000.pdb").exists()
    with pytest.raises(SettingsError, match="written as pdb or cif; got 'gro'"):
        structures.save(tmp_path / "none", "gro")


# ------------------------------------------------------------------------------------------------------------ periodic


def test_periodic_structures_keep_their_boxes(tmp_path):
    topology, system, cv = alanine_topology(periodic=True), alanine_system(periodic=True), alanine_cv(2, periodic=True)
    system.addForce(openmm.MonteCarloBarostat(1.0, 400.0, 5))
    dynamics = openmm.LangevinMiddleIntegrator(400.0, 1.0, 0.002)
    dynamics.setRandomNumberSeed(1)
    context = openmm.Context(system, dynamics, openmm.Platform.getPlatformByName("Reference"))
    context.setPeriodicBoxVectors(*(2 * TRICLINIC))  # far from the cutoff, so that the volume may change
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

    result = go(tmp_path / "one")
    assert len(result) == 2 and result.boxes.shape == (2, 3, 3)
    volumes = np.linalg.det(result.boxes)
    assert (np.abs(volumes / np.linalg.det(np.array(boxes)).mean() - 1) < 0.5).all() and np.ptp(volumes) > 0
    assert result.reached == pytest.approx(cv(result.positions, result.boxes), abs=1e-9)
    simulation = app.Simulation(
        topology, system, openmm.VerletIntegrator(0.002), openmm.Platform.getPlatformByName("Reference")
    )
    for index in range(2):
        stem = tmp_path / "one" / f"start-{index:03d}"
        with np.load(f"{stem}.npz") as content:
            assert np.array_equal(content["box"], result.boxes[index])
        simulation.loadState(f"{stem}.xml")
        box = simulation.context.getState().getPeriodicBoxVectors(asNumpy=True)._value
        assert np.array_equal(box, result.boxes[index])
        energy = simulation.context.getState(getEnergy=True).getPotentialEnergy()._value
        assert energy == pytest.approx(result.energies[index], abs=1e-6)
        read = app.PDBFile(f"{stem}.pdb").topology.getPeriodicBoxVectors()
        assert np.array([list(row) for row in read._value]) == pytest.approx(result.boxes[index], abs=1e-3)
    assert topology.getPeriodicBoxVectors()[0][0]._value == TRICLINIC[0, 0]  # the argument is not changed
    assert np.array_equal(Starts.load(tmp_path / "one", topology).boxes, result.boxes)
    # the random numbers of the barostat, too, belong to the target
    again = go(tmp_path / "two")
    assert np.array_equal(again.positions, result.positions) and np.array_equal(again.boxes, result.boxes)


def test_a_periodic_system_needs_boxes():
    topology, cv = alanine_topology(periodic=True), alanine_cv(2, periodic=True)
    bare = mdtraj.Trajectory(frames(3), mdtraj.Topology.from_openmm(topology))
    with pytest.raises(DataError, match="the system is periodic, and frames of the archive have no box vectors"):
        generate_starts(alanine_model(2)[0], cv, bare, alanine_system(periodic=True), topology, 300.0, 1)
