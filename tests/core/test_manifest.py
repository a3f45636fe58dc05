"""Manifests: what a finished task wrote is recognized, and every change to it is noticed."""

import json
import os

import pytest

from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.errors import StoreError

CONTENT = {"frames": 3, "temperature": 300.0, "losses": [float("nan"), 0.1], "states": {"a": None}}


@pytest.fixture
def path(tmp_path):
    """A manifest of two files."""
    (tmp_path / "below").mkdir()
    files = [tmp_path / "energies.npz", tmp_path / "below" / "model.pt"]
    for file in files:
        file.write_bytes(file.name.encode())
    Manifest.write(tmp_path / "task.json", CONTENT, files)
    return tmp_path / "task.json"


def test_what_was_written_is_read(path):
    manifest = Manifest.load(path, ("frames", "states")).verified()
    assert repr(sorted(manifest.content.items())) == repr(sorted(CONTENT.items()))
    assert manifest.files == {
        "energies.npz": storage.checksum(path.parent / "energies.npz"),
        "below/model.pt": storage.checksum(path.parent / "below" / "model.pt"),
    }
    assert not manifest.changed and manifest.damaged() == []


def test_every_flipped_byte_is_noticed_or_changes_nothing(path):
    original, refused = path.read_bytes(), 0
    for place in range(len(original)):
        path.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        try:
            manifest = Manifest.load(path)
        except StoreError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert repr(sorted(manifest.content.items())) == repr(sorted(CONTENT.items()))
    assert refused > 0.7 * len(original)  # the rest are spaces


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_truncated_manifest_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"task\.json: "):
        Manifest.load(path)


@pytest.mark.parametrize("content", [[], {}, {"a": 1}, {"files": []}, {"files": {}}, "text", None])
def test_something_else_is_refused(path, content):
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"task\.json: (is damaged|was changed)"):
        Manifest.load(path, ("frames",))


@pytest.mark.parametrize("name", ["energies.npz", "below/model.pt"])
def test_changed_and_missing_files_are_named(path, name):
    file = path.parent / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"{name}: was changed after it was finished"):
        Manifest.load(path).verified()
    file.unlink()
    with pytest.raises(StoreError, match=f"{name}: is missing"):
        Manifest.load(path).verified()
    assert Manifest.load(path).damaged() == [file]
    assert Manifest.load(path).damaged(".other") == []
    file.mkdir()
    assert Manifest.load(path).damaged() == [file]


def test_manifests_of_versions_without_digests_are_read(path):
    path.write_text(json.dumps({"frames": 3}))
    manifest = Manifest.load(path, ("frames",)).verified()
    assert manifest.content == {"frames": 3} and not manifest.changed


def test_files_are_read_again_only_where_their_size_or_time_has_changed(path, monkeypatch):
    energies, reads = path.parent / "energies.npz", []
    checksum = storage.checksum
    monkeypatch.setattr("latf_sampling.core.manifest.checksum", lambda file: reads.append(file.name) or checksum(file))
    assert Manifest.load(path).damaged() == [] == reads
    os.utime(energies, ns=(0, 5))  # as after a copy that does not keep times
    assert Manifest.load(path).damaged() == [] and reads == ["energies.npz"]
    manifest = Manifest.load(path).renewed()
    assert manifest == Manifest.load(path) and not manifest.changed
    assert manifest.damaged() == [] and reads == ["energies.npz"]
    assert manifest.renewed() is manifest
    energies.write_bytes(energies.read_bytes()[::-1])
    os.utime(energies, ns=(0, 5))  # which only a look at every byte shows
    assert Manifest.load(path).damaged() == [] and Manifest.load(path).damaged(full=True) == [energies]


def test_a_file_that_was_cut_is_told_from_one_that_was_edited(path):
    manifest, energies = Manifest.load(path), path.parent / "energies.npz"
    energies.write_bytes(energies.read_bytes()[:-2])
    assert manifest.fault(energies) == "was changed after it was finished; it has 10 of 12 bytes"
    energies.write_bytes(b"0123456789ab")
    assert manifest.fault(energies) == "was changed after it was finished"


@pytest.mark.parametrize("stats", [None, [], "text", {"energies.npz": None}, {"energies.npz": ["a"]}, {"x": [1, 2]}])
def test_times_that_make_no_sense_are_no_times(path, stats):
    content = storage.read_json(path)
    storage.write_json(path, {**content, "stats": stats})
    assert Manifest.load(path).damaged() == []
    (path.parent / "energies.npz").write_bytes(b"0")
    assert "was changed" in Manifest.load(path).fault(path.parent / "energies.npz")
