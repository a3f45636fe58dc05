"""Campaigns that start from external trajectories, and trajectories that are refused."""

from __future__ import annotations

import copy
import json
import re
import shutil
from functools import cache
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from helpers import molecules

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.extend import preview
from latf_sampling.core import storage
from latf_sampling.data.external import ExternalTrajectory, examine, relocate, stride_of
from latf_sampling.data.external_frames import ExternalFrames
from latf_sampling.data.layout import CampaignDirectory, ExternalFiles
from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import DataError, LatfError, SettingsError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.settings import Protocol

TOPOLOGY = mdtraj.Topology.from_openmm(molecules.alanine().topology)
REFERENCE = openmm.Platform.getPlatformByName("Reference")
INTERVAL = 0.1


@cache
def simulated(temperature: float, frames: int = 300) -> tuple[mdtraj.Trajectory, np.ndarray]:
    """Plain dynamics of alanine dipeptide, a frame every 0.1 ps, and OpenMM's energies; simulated once."""
    system = molecules.alanine_system()
    run = molecules.simulation(molecules.alanine().topology, system, molecules.positions(), seed=int(temperature))
    run.integrator.setTemperature(temperature)
    run.context.setVelocitiesToTemperature(temperature, 1)
    run.step(500)
    positions, energies = [], []
    for _ in range(frames):
        run.step(50)
        state = run.context.getState(getPositions=True, getEnergy=True)
        positions.append(state.getPositions(asNumpy=True)._value)
        energies.append(state.getPotentialEnergy()._value)
    times = INTERVAL * np.arange(1, frames + 1) + 500
    return mdtraj.Trajectory(np.array(positions, np.float32), TOPOLOGY, times), np.array(energies)


def saved(folder: Path, name: str, temperature: float = 300.0, frames: slice = slice(None)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    simulated(temperature)[0][frames].save(str(folder / name))
    return folder / name


def examined(folder: Path, path: Path, earlier: int = 0, **changes) -> ExternalFrames:
    given = ExternalTrajectory(
        **{"path": str(path), "temperature": 300.0, "interval": INTERVAL, "values": {}, **changes}
    )
    examine(
        given, earlier, TOPOLOGY, molecules.alanine_system(), REFERENCE, INTERVAL, None, ExternalFiles(folder / "mark")
    )
    return ExternalFrames.load(ExternalFiles(folder / "mark"), TOPOLOGY, False, 0)


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "trr", "nc", "pdb"])
def test_every_format_gives_the_same_frames_and_openmms_energies(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("latf_sampling.data.trajectory_files.PIECE_BYTES", 12 * 22 * 7)  # pieces of seven frames
    path = saved(tmp_path, f"run.{suffix}", frames=slice(60))
    frames = examined(tmp_path, path)
    trajectory, energies = simulated(300.0)
    rounding = {"xtc": 6e-4, "pdb": 6e-5}.get(suffix, 1e-6)
    assert [len(piece) for piece in frames.pieces()] == [7] * 8 + [4]
    np.testing.assert_allclose(frames.trajectory.xyz, trajectory.xyz[:60], atol=rounding)
    # kJ/mol; XTC moves atoms by half a picometer, which changes the energies of bonds to hydrogen
    np.testing.assert_allclose(
        frames.energies, energies[:60], atol=8 if suffix == "xtc" else 1 if suffix == "pdb" else 2e-3
    )
    assert frames.weights.tolist() == [1.0] * 60
    assert not frames.externally_weighted


def test_frames_are_thinned_to_the_interval_of_the_campaign(tmp_path, monkeypatch):
    monkeypatch.setattr("latf_sampling.data.trajectory_files.PIECE_BYTES", 12 * 22 * 7)
    path = saved(tmp_path, "run.xtc", frames=slice(50))
    np.savetxt(tmp_path / "w.txt", np.arange(50) + 1.0)
    given = ExternalTrajectory(str(path), 300.0, values={"weights": str(tmp_path / "w.txt")})
    examine(
        given, 0, TOPOLOGY, molecules.alanine_system(), REFERENCE, 3 * INTERVAL, None, ExternalFiles(tmp_path / "mark")
    )
    frames = ExternalFrames.load(ExternalFiles(tmp_path / "mark"), TOPOLOGY, False, 0)
    expected, energies = simulated(300.0)
    assert len(frames) == 17
    np.testing.assert_allclose(frames.trajectory.xyz, expected.xyz[:50:3], atol=6e-4)
    np.testing.assert_allclose(frames.energies, energies[:50:3], atol=8)
    np.testing.assert_allclose(frames.weights, np.arange(1, 51, 3) / np.arange(1, 51, 3).mean())
    assert frames.externally_weighted
    np.testing.assert_array_equal(frames.take([16, 3, 3]).xyz, frames.trajectory.xyz[[16, 3, 3]])
    np.testing.assert_array_equal(frames.take(slice(1, 12, 5)).xyz, frames.trajectory.xyz[1:12:5])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".txt"])
def test_energies_and_weights_from_files(tmp_path, suffix):
    """One file for two trajectories, in their order; the second starts where the first ends."""
    paths = [saved(tmp_path, "a.dcd", frames=slice(20)), saved(tmp_path, "b.dcd", frames=slice(20, 50))]
    values, file = np.linspace(-5, 7, 50), tmp_path / f"energies{suffix}"
    {".npy": np.save, ".txt": np.savetxt, ".npz": lambda path, x: np.savez(path, other=x[:1], energies=x)}[suffix](
        file, values
    )
    for place, (path, part) in enumerate(zip(paths, (values[:20], values[20:]))):
        (tmp_path / str(place)).mkdir()
        named = {"values": {"energies": str(file)}, "position": place, "count": 2}
        np.testing.assert_allclose(examined(tmp_path / str(place), path, 20 * place, **named).energies, part)


def test_molecules_cut_by_the_box_are_made_whole(tmp_path):
    trajectory = simulated(300.0)[0][:5]
    trajectory = mdtraj.Trajectory(trajectory.xyz.copy(), TOPOLOGY, trajectory.time)
    trajectory.unitcell_vectors = np.tile(molecules.TRICLINIC, (5, 1, 1)).astype(np.float32)
    whole = mdtraj.compute_distances(
        trajectory, np.array([(a.index, b.index) for a, b in TOPOLOGY.bonds]), periodic=False
    )
    shift = molecules.TRICLINIC[0].astype(np.float32)
    trajectory.xyz[:, ::3] += shift  # every third atom in the next cell
    trajectory.save(str(tmp_path / "cut.xtc"))
    (piece,) = read_pieces(tmp_path / "cut.xtc", TOPOLOGY, True)
    found = mdtraj.compute_distances(piece, np.array([(a.index, b.index) for a, b in TOPOLOGY.bonds]), periodic=False)
    np.testing.assert_allclose(found, whole, atol=3e-3)
    np.testing.assert_allclose(piece.unitcell_vectors, trajectory.unitcell_vectors, atol=1e-3)
    (piece,) = read_pieces(tmp_path / "cut.xtc", TOPOLOGY, False)  # a system without a box takes none
    assert piece.unitcell_vectors is None


# ------------------------------------------------------------------------------------------------ refusals


def broken(folder: Path, kind: str) -> Path:
    """A trajectory that cannot be used."""
    suffix = {"short netcdf": "nc", "short xtc": "xtc", "nan": "trr", "nan xtc": "xtc", "jump": "xtc", "other": "pdb"}
    path = folder / f"run.{suffix.get(kind, 'dcd')}"
    trajectory = copy.deepcopy(simulated(300.0)[0][:40])
    if kind.startswith("nan"):
        trajectory.xyz[23, 5, 1] = np.nan
    if kind == "jump":
        trajectory.time[30:] += 5.0
    if kind == "fewer atoms":
        trajectory = trajectory.atom_slice(range(21))
    if kind == "other":
        trajectory.topology.atom(7).name = "XX"
    trajectory.save(str(path))
    content = path.read_bytes()
    if kind.startswith("short"):
        path.write_bytes(content[: len(content) * 2 // 3])
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "text":
        path.write_text("nothing of the kind\n" * 50)
    return path


@pytest.mark.parametrize(
    "kind, words",
    [
        ("short dcd", "truncated; its header promises 40 frames"),
        ("short netcdf", "truncated or damaged"),
        ("short xtc", "cannot be read beyond frame"),
        ("empty", "is empty"),
        ("text", "cannot be read"),
        ("nan", "frame 23 holds invalid positions"),
        ("nan xtc", "frame 23 holds invalid positions"),
        ("jump", "frames 29 and 30 are 5.1 ps apart, others 0.1 ps"),
        ("fewer atoms", "21"),
        ("other", "atom 7 is 'XX"),
    ],
)  # fmt: skip
def test_trajectories_that_cannot_be_used(tmp_path, kind, words, monkeypatch):
    monkeypatch.setattr("latf_sampling.data.trajectory_files.PIECE_BYTES", 12 * 22 * 7)
    path = broken(tmp_path, kind)
    with pytest.raises(DataError, match=words) as caught:
        examined(tmp_path, path, interval=None if kind == "jump" else INTERVAL)
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path / "mark.json").exists()


def test_a_missing_box_is_named(tmp_path):
    with pytest.raises(DataError, match=r"run.xtc: frame 0 has no periodic box"):
        next(read_pieces(saved(tmp_path, "run.xtc"), TOPOLOGY, True))


@pytest.mark.parametrize(
    "suffix, interval, wanted, words",
    [
        ("dcd", None, 0.1, "holds no times"),
        ("xtc", None, 0.25, "frame_interval is 0.25 ps; make frame_interval a multiple"),
        ("dcd", 0.4, 0.2, "frame_interval cannot be below 0.4 ps"),
    ],
)
def test_inconsistent_times(tmp_path, suffix, interval, wanted, words):
    path = saved(tmp_path, f"run.{suffix}", frames=slice(20))
    with pytest.raises(DataError, match=words):
        stride_of(ExternalTrajectory(str(path), 300.0, interval), TOPOLOGY, False, wanted)


@pytest.mark.parametrize(
    "name, values, words",
    [
        ("weights", -np.ones(20), "must not be negative"),
        ("weights", np.zeros(20), "some of each trajectory must be positive"),
        ("weights", np.ones(19), "holds 19 values for 20 frames"),
        ("energies", np.ones(21), "holds 21 values for 20 frames"),
        ("energies", np.full(20, np.nan), "value 0 is not a number"),
        ("energies", np.ones((20, 2)), "one value per frame"),
    ],
)
def test_numbers_inconsistent_with_the_frames(tmp_path, name, values, words):
    path, file = saved(tmp_path, "run.dcd", frames=slice(20)), tmp_path / "numbers.npy"
    np.save(file, values)
    with pytest.raises(DataError, match=words):
        examined(tmp_path, path, values={name: str(file)})


def test_the_first_different_atom_of_a_topology_is_named(tmp_path):
    path, other = saved(tmp_path, "run.dcd", frames=slice(5)), tmp_path / "other.pdb"
    text = molecules.STRUCTURE.read_text()
    shutil.copy(molecules.STRUCTURE, other)
    assert stride_of(ExternalTrajectory(str(path), 300.0, 0.1, other), TOPOLOGY, False, 0.1) == 1
    other.write_text(text.replace(" CB  ALA", " CX  ALA"))
    with pytest.raises(DataError, match=r"other.pdb: atom \d+ is 'CX C ALA 1' .* the system has 'CB C ALA 1'"):
        stride_of(ExternalTrajectory(str(path), 300.0, 0.1, other), TOPOLOGY, False, 0.1)


def test_a_trajectory_that_has_changed(tmp_path):
    path = saved(tmp_path, "run.dcd", frames=slice(20))
    before = examined(tmp_path, path).energies
    path.write_bytes(path.read_bytes())  # a new time stamp alone is not a change
    np.testing.assert_array_equal(
        ExternalFrames.load(ExternalFiles(tmp_path / "mark"), TOPOLOGY, False, 0).energies, before
    )
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="run.dcd: has changed since this campaign began"):
        ExternalFrames.load(ExternalFiles(tmp_path / "mark"), TOPOLOGY, False, 0)
    path.unlink()
    with pytest.raises(DataError, match=r"run.dcd: cannot be read \(No such file"):
        ExternalFrames.load(ExternalFiles(tmp_path / "mark"), TOPOLOGY, False, 0)


# ------------------------------------------------------------------------------------------------ protocols


def protocol(folder: Path, **changes) -> Path:
    """The tiny protocol, from trajectories at two temperatures in two formats, with one biased round."""
    saved(folder, "cold.xtc", 450.0)
    saved(folder, "hot.dcd", 600.0, slice(150))
    saved(folder, "hotter.dcd", 600.0, slice(150, None))
    given = [
        {"files": "cold.xtc", "temperature": "450 K", "topology": molecules.STRUCTURE.name},
        {"files": ["hot*.dcd"], "temperature": "600 K", "interval": "0.1 ps"},
    ]
    biased = {**molecules.TINY["rounds"][1], "walkers": ["450 K"], "length": "4 ps"}
    changes = {"from_trajectories": given, "rounds": [biased], "starts": None, **changes}
    return molecules.write_protocol(folder, **changes)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"files": "nothing*.dcd"}, r"from_trajectories\[0\].files: there is no file"),
        ({"files": ["cold.xtc", "cold.xtc"]}, "cold.xtc is named twice"),
        ({"files": []}, r"from_trajectories\[0\].files: .*at least 1 item"),
        ({"interval": "0 ps"}, r"from_trajectories\[0\].interval"),
        ({"weights": ["cold.xtc", "hot.dcd"]}, "2 files for 1 trajector(y|ies); give one for all, or one for each"),
        ({"temperature": 300}, r"from_trajectories\[0\].temperature"),
    ],
)
def test_keys_of_a_protocol_that_are_refused(tmp_path, change, words):
    entry = {"files": "cold.xtc", "temperature": "450 K", **change}
    with pytest.raises(SettingsError, match=words):
        Protocol.load(protocol(tmp_path, from_trajectories=[entry]))


def test_trajectories_keep_their_place_when_a_campaign_is_restored(tmp_path):
    read = Protocol.load(protocol(tmp_path))
    again = Protocol.restore(json.loads(read.canonical()), tmp_path)
    assert again == read
    assert [Path(path).name for entry in again.from_trajectories for path in entry.files] == [
        "cold.xtc",
        "hot.dcd",
        "hotter.dcd",
    ]
    assert [entry.walkers for entry in again.all_rounds] == [(450.0, 600.0, 600.0), (450.0,)]
    # only the small files are copied
    assert {Path(file).name for file in read.files} == {molecules.STRUCTURE.name}


def test_a_protocol_without_rounds_and_trajectories_has_nothing_to_do(tmp_path):
    with pytest.raises(SettingsError, match="rounds: give at least one, or external trajectories"):
        Protocol.load(protocol(tmp_path, from_trajectories=[], rounds=[]))


# ------------------------------------------------------------------------------------------------ a campaign


WEIGHTED = {
    "from_trajectories": [
        {"files": "cold.xtc", "temperature": "450 K"},
        {"files": ["hot*.dcd"], "temperature": "600 K", "interval": "0.1 ps", "weights": "w.npy"},
    ],
    "learning": {**molecules.TINY["learning"], "select": {"keep": 3}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A campaign from three trajectories with a biased round, weighted hot frames, and three of four columns."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "data").mkdir()
    np.save(folder / "data" / "w.npy", np.where(np.arange(300) < 50, 0.5, 1.0))
    molecules.run_in_process(Campaign(protocol(folder / "data", **WEIGHTED), folder / "run"))
    (folder / "data" / "protocol.yaml").unlink()
    return folder / "run"


def test_it_learns_from_them_and_biases_the_next_round(finished):
    campaign = Campaign.load(finished)
    status = campaign.records.status()
    assert [entry["step"] for entry in status] == [
        "round 0: read",
        "round 0: learn",
        "round 1: simulate",
        "round 1: learn",
        "report",
    ]
    assert all(entry["done"] == 1 for entry in status)
    walkers = campaign.frames()
    assert [walker.label for walker in walkers] == [
        "round 0, cold.xtc",
        "round 0, hot.dcd",
        "round 0, hotter.dcd",
        "round 1, walker 0",
    ]
    assert [len(walker) for walker in walkers] == [300, 150, 150, 40]
    assert [walker.biased for walker in walkers] == [False, False, False, True]
    assert [walker.externally_weighted for walker in walkers] == [False, True, False, False]
    hot = np.concatenate([walkers[1].energies, walkers[2].energies])
    np.testing.assert_allclose(hot, simulated(600.0)[1], atol=5e-3)
    dataset = campaign.dataset(0)
    assert dataset.frames == 600
    np.testing.assert_allclose(dataset.energies[300:], hot)
    np.testing.assert_allclose(dataset.weights[300:302] / dataset.weights[400], 0.5)
    # none of them is copied
    assert not [path for name in ("cold", "hot") for path in finished.rglob(f"{name}*")]


def test_the_selection_is_stored_with_the_variable(finished):
    campaign = Campaign.load(finished)
    for index in range(2):
        model, cv = campaign.model(index)
        selection = cv.metadata["selection"]
        assert model.n_features == len(cv.metadata["names"]) == len(selection["kept"]) == 3
        assert cv.metadata["names"] == [campaign.features.names[k] for k in selection["kept"]]
        assert [entry["reason"] == "" for entry in selection["candidates"]] == [True] * 3 + [False]
        features = campaign.features_of(cv)
        walker = campaign.frames()[-1]
        np.testing.assert_allclose(
            model.encode(features.transform(walker.trajectory)), cv(walker.trajectory.xyz), atol=1e-4
        )
    assert campaign.evaluate().as_dict()


def test_its_report_names_them(finished):
    page = (finished / "report.html").read_text()
    marks = [storage.read_json(finished / "rounds" / "00" / f"trajectory-{k:03d}.json") for k in range(3)]
    for mark in marks:
        assert mark["path"] in page and mark["sha256"] in page
        assert mark["sha256"] == storage.checksum(mark["path"])
    assert "External trajectories" in page and "round 0, cold.xtc" in page
    assert "3 of 4 columns were selected" in page
    numbers = json.loads(page.split('id="numbers">')[1].split("</script>")[0])
    assert numbers["simulated_ns"] == pytest.approx(0.004)
    assert numbers["rounds_planned"] == numbers["rounds_finished"] == 2


def test_a_continued_campaign_reads_only_missing_trajectories(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "rounds" / "00" / "trajectory-001.json").unlink()
    (tmp_path / "run" / "report.html").unlink()
    before = np.load(finished / "rounds" / "00" / "trajectory-001.npz")
    read = []
    monkeypatch.setattr(
        "latf_sampling.data.external.examine",
        lambda external, *rest: read.append(Path(external.path).name) or examine(external, *rest),
    )
    molecules.run_in_process(Campaign.load(tmp_path / "run"))
    assert read == ["hot.dcd"]
    after = np.load(tmp_path / "run" / "rounds" / "00" / "trajectory-001.npz")
    for name in ("energy", "weight"):
        np.testing.assert_array_equal(after[name], before[name])
    assert (tmp_path / "run" / "report.html").exists()


def moved(finished: Path, folder: Path) -> tuple[CampaignDirectory, Path, Path]:
    """A copy of the finished campaign, a folder to which its trajectories were copied, and a protocol that says so."""
    directory = CampaignDirectory(shutil.copytree(finished, folder / "run"))
    path = protocol(folder / "moved", **WEIGHTED)
    for file in (finished.parent / "data").iterdir():  # without their times
        shutil.copyfile(file, folder / "moved" / file.name)
    return directory, folder / "moved", path


def test_trajectories_that_were_moved_are_known_by_their_checksums(finished, tmp_path, monkeypatch):
    directory, folder, path = moved(finished, tmp_path)
    monkeypatch.setattr("latf_sampling.data.external.examine", lambda *rest: pytest.fail("was read again"))
    monkeypatch.setattr(Campaign, "_report", lambda *_: None)
    before = directory.round(1).learning.history.read_bytes()
    (words,) = preview(directory, Protocol.load(path))
    assert re.match(r"Changed in from_trajectories\[0\]\.files\[0\], .*weights.*\.$", words)
    assert "Made again" not in words
    Campaign(path, directory.path).run()
    assert directory.round(1).learning.history.read_bytes() == before
    assert not (directory.path / "earlier" / "1" / "rounds").exists()
    records = Records.load(directory.path)
    assert [Path(frames.path).parent for frames in records.external_frames()] == [folder] * 3
    summary = directory.round(0).external(1).manifest().content
    assert summary["values"]["weights"]["path"] == str(folder / "w.npy")
    (folder / "hotter.dcd").unlink()
    with pytest.raises(SettingsError, match=r"no file .*hotter\.dcd; where it was moved, give `latf run` a protocol"):
        Records.load(directory.path)


@pytest.mark.parametrize("name, key", [("cold.xtc", r"\[0\]\.files"), ("w.npy", r"\[1\]")])
def test_other_files_in_the_new_place_are_refused(finished, tmp_path, name, key):
    directory, folder, path = moved(finished, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(StoreError, match=rf"from_trajectories{key}.*: walkers depend on what was learned"):
        preview(directory, Protocol.load(path))


def test_a_trajectory_is_not_taken_for_one_that_was_read_in_another_place(tmp_path):
    path = saved(tmp_path, "run.dcd", frames=slice(20))
    examined(tmp_path, path)
    files, other = ExternalFiles(tmp_path / "mark"), saved(tmp_path, "other.dcd", frames=slice(20, 40))
    with pytest.raises(DataError, match=r"other\.dcd: is not the trajectory that was read as .*run\.dcd"):
        relocate(ExternalTrajectory(str(other), 300.0, 0.1), files)
    path.rename(tmp_path / "elsewhere.dcd")
    relocate(ExternalTrajectory(str(tmp_path / "elsewhere.dcd"), 300.0, 0.1), files)
    assert len(ExternalFrames.load(files, TOPOLOGY, False, 0)) == 20


def test_unusable_trajectories_are_refused_before_a_directory_is_made(tmp_path):
    path = protocol(tmp_path / "given", from_trajectories=[{"files": "hot.dcd", "temperature": "600 K"}])
    with pytest.raises(DataError, match="hot.dcd: holds no times"):
        Campaign(path, tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_a_campaign_that_only_learns(tmp_path):
    """Without rounds. Its frames cannot be used before they are read."""
    campaign = Campaign(protocol(tmp_path / "given", rounds=[]), tmp_path / "run")
    with pytest.raises(LatfError, match="trajectories are read by `latf run`"):
        campaign.frames()
    molecules.run_in_process(campaign)
    model, _ = campaign.model(0)
    assert model.provenance["temperatures"] == [450.0, 600.0]
    assert [entry["done"] for entry in campaign.records.status()] == [1, 1, 1]
