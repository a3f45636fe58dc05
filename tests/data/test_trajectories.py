"""Segments are read as the simulation writes them; damaged files are named."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from helpers import molecules

from latf_sampling.core import storage
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import DataError, StoreError
from latf_sampling.units import KB

TOPOLOGY = mdtraj.Topology.from_openmm(molecules.alanine().topology)
BOX = np.array([[1.7, 0.0, 0.0], [0.5, 1.6, 0.0], [-0.4, 0.6, 1.5]])


def write_segment(folder, index: int, frames: int = 8, table: int | None = None, bias: float = 0.0, box=None) -> dict:
    """One finished segment with recognizable numbers; returns them."""
    rng = np.random.default_rng(index)
    x = molecules.frames(frames, seed=index)
    columns = {
        "energy": rng.normal(size=table or frames),
        "bias": bias * rng.random(table or frames),
        "offset": bias * rng.random(table or frames),
    }
    files = WalkerDirectory(folder).segment(index)
    trajectory = mdtraj.Trajectory(x.astype(np.float32), TOPOLOGY)
    if box is not None:
        trajectory.unitcell_vectors = np.tile(box, (frames, 1, 1)).astype(np.float32)
    with storage.atomic_write(files.trajectory) as temporary:
        trajectory.save_netcdf(str(temporary))
    with storage.atomic_write(files.frames) as temporary:
        np.savez(temporary, **columns)
    storage.write_text(files.state, "<State/>")
    files.finish({"step": 100 * (index + 1), "frames": frames, "temperature": 450.0, "seconds": 1.0})
    return {"positions": x, **columns}


def read(folder) -> WalkerFrames:
    return WalkerFrames.load(folder, TOPOLOGY, 2, 1)


@pytest.mark.parametrize("segments", [1, 3])
def test_segments_are_read_in_order(tmp_path, segments):
    written = [write_segment(tmp_path, index, frames=5 + index, bias=2.0) for index in range(segments)]
    walker = read(tmp_path)
    assert len(walker) == sum(5 + index for index in range(segments))
    assert (walker.temperature, walker.round_index, walker.walker) == (450.0, 2, 1)
    positions = np.concatenate([segment["positions"] for segment in written])
    np.testing.assert_allclose(walker.trajectory.xyz, positions, atol=2e-6)
    for name, values in (("energy", walker.energies), ("bias", walker.bias), ("offset", walker.offset)):
        np.testing.assert_array_equal(values, np.concatenate([segment[name] for segment in written]))
    assert walker.trajectory.topology == TOPOLOGY
    assert walker.trajectory.unitcell_vectors is None


def test_boxes_are_read(tmp_path):
    for index in range(2):
        write_segment(tmp_path, index, box=BOX)
    boxes = read(tmp_path).trajectory.unitcell_vectors
    np.testing.assert_allclose(boxes, np.tile(BOX, (16, 1, 1)), atol=2e-5)


@pytest.mark.parametrize(
    "wanted", [[17, 3, 3, 8, -1], slice(1, None, 7), slice(None, None, -5), slice(3, 3), np.arange(24) % 8 == 2, [9]]
)
def test_frames_stay_on_the_disk_until_they_are_taken(tmp_path, monkeypatch, wanted):
    for index in range(3):
        write_segment(tmp_path, index)
    real, loaded = mdtraj.load_netcdf, []
    monkeypatch.setattr(mdtraj, "load_netcdf", lambda path, top: loaded.append(path) or real(path, top=top))
    walker = read(tmp_path)
    assert len(walker) == 24 and loaded == []
    everything = walker.trajectory
    assert [len(piece) for piece in walker.pieces()] == [8, 8, 8]
    loaded.clear()
    taken = walker.take(wanted)
    assert np.array_equal(taken.xyz, everything[wanted].xyz) and np.array_equal(taken.time, everything[wanted].time)
    assert len(loaded) == len({index // 8 for index in np.arange(24)[wanted]})  # and no other segment


def test_weights_undo_the_bias(tmp_path):
    written = write_segment(tmp_path, 0, bias=10.0)
    walker = read(tmp_path)
    exact = np.exp((written["bias"] - written["offset"]) / (KB * 450.0))
    assert walker.biased
    np.testing.assert_allclose(walker.weights, exact / exact.mean(), rtol=1e-10)
    assert walker.weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(np.diff(walker.log_weights), np.diff(np.log(exact)), atol=1e-10)


def test_plain_frames_have_equal_weights(tmp_path):
    write_segment(tmp_path, 0)
    walker = read(tmp_path)
    assert not walker.biased
    np.testing.assert_array_equal(walker.weights, 1.0)


def test_weights_beyond_double_precision():
    bias = np.array([4000.0, 4001.0])
    walker = WalkerFrames(None, 300.0, np.zeros(2), bias, np.zeros(2), 0, 0)
    assert walker.weights[1] / walker.weights[0] == pytest.approx(np.exp(1 / (KB * 300.0)))


def test_a_gap_between_segments_is_refused(tmp_path):
    for index in range(3):
        write_segment(tmp_path, index)
    (tmp_path / "segment-001.json").unlink()
    with pytest.raises(StoreError, match=r"segment-001\.json: is missing, while later segments of this walker exist"):
        read(tmp_path)


def test_nothing_finished(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path / "walker-07")
    assert str(tmp_path / "walker-07") in str(error.value)


@pytest.mark.parametrize("what", ["nc", "npz", "xml"])
@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
def test_damage_names_the_file(tmp_path, what, how):
    for index in range(2):
        write_segment(tmp_path, index)
    file = WalkerDirectory(tmp_path).segment(1).stem.with_suffix(f".{what}")
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError) as error:
        read(tmp_path)
    assert str(file) in str(error.value)


def test_a_marker_that_cannot_be_read_is_named(tmp_path):
    write_segment(tmp_path, 0)
    (tmp_path / "segment-000.json").write_text("{")
    with pytest.raises(StoreError, match=r"segment-000\.json"):
        read(tmp_path)


def test_a_table_of_another_length_names_the_file(tmp_path):
    write_segment(tmp_path, 0)
    write_segment(tmp_path, 1, frames=6, table=8)
    with pytest.raises(DataError, match=r"segment-001\.nc: holds 6 frames, its table 8"):
        read(tmp_path)
