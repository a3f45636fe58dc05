"""The ledger is what the manifests say, whatever happened to it, and knows what was finished and is gone."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from latf_sampling.campaign import ledger as writing
from latf_sampling.campaign.ledger import ledger, update
from latf_sampling.campaign.progress import nowhere
from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.provenance import ATTEMPTS, Attempt, attempts
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import RepairWarning, StoreError
from latf_sampling.records.ledger import Ledger, repeatable_digest, summary

SEGMENTS = 4


def make(folder: Path, stamp: str = "") -> CampaignDirectory:
    """Files of a campaign of one round with two walkers and a model, as far as manifests go."""
    files = CampaignDirectory(folder)
    files.system.mkdir(parents=True)
    storage.write_text(files.protocol_file, "{}")
    storage.write_text(files.system / "system.xml", "system")
    Manifest.write(files.system / "molecule.json", {}, [files.system / "system.xml"])
    for number in range(2):
        walker = files.round(0).walker(number)
        for index in range(SEGMENTS):
            segment = walker.segment(index)
            attempt = Attempt(walker.path, segment.stem.name)
            for path in (segment.trajectory, segment.frames, segment.state):
                storage.write_text(path, f"{number} {index} {path.suffix}")
            summary = {"step": index, "frames": 1, "temperature": 300.0, "seconds": 1.0}
            segment.finish(
                summary, attempt.provenance(device={"platform": "CPU"}, stream=["segment", 0, number, index])
            )
    learning = files.round(0).learning
    attempt = Attempt(learning.path, "training")
    storage.write_text(learning.model, f"model {stamp}")  # files of models hold the time of their export
    storage.write_text(learning.cv, f"variable {stamp}")
    learned = {"history": [], "states": [], "seconds": 1.0, "converged": True, "model": "m1", "variable": "v1"}
    learning.finish({**learned, "inputs": {"rounds/00/walker-00/segment-000.json": "d1"}}, attempt.provenance())
    return files


@pytest.fixture
def files(tmp_path) -> CampaignDirectory:
    made = make(tmp_path / "run")
    update(made)
    return made


def rows(files: CampaignDirectory) -> dict:
    return Ledger(files).read()[0]


def test_a_row_has_everything_about_its_task(files):
    with sqlite3.connect(files.ledger) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(task)")]
        assert connection.execute("SELECT count(*) FROM task WHERE state = 'finished'").fetchone() == (11,)
    assert {"name", "kind", "state", "attempts", "began", "ended", "seconds", "host", "platform", "device"} < {*columns}
    assert {"versions", "stream", "inputs", "outputs", "manifest"} < {*columns}
    tasks = rows(files)
    assert [task.kind for task in tasks.values()].count("segment") == 2 * SEGMENTS
    segment = tasks["rounds/00/walker-01/segment-002"]
    manifest = files.round(0).walker(1).segment(2).manifest()
    assert (segment.state, segment.attempts, segment.platform) == ("finished", 1, "CPU")
    assert segment.stream == ["segment", 0, 1, 2] and segment.host and segment.began <= segment.ended
    assert segment.outputs == {f"rounds/00/walker-01/{name}": value for name, value in manifest.files.items()}
    before = files.round(0).walker(1).segment(1).state
    assert segment.inputs == {
        "system/system.xml": storage.checksum(files.system / "system.xml"),
        "rounds/00/walker-01/segment-001.xml": storage.checksum(before),
    }
    assert segment.manifest == manifest.digest and "numpy" in segment.versions
    training, export = tasks["rounds/00/learning"], tasks["rounds/00/learning/cv"]
    assert training.inputs == {"rounds/00/walker-00/segment-000.json": "d1"} and training.result == "m1"
    assert (export.kind, export.result, [*export.outputs]) == ("export", "v1", ["rounds/00/learning/cv.pt"])
    assert summary(files)["journal"] == "wal"


def test_nothing_is_left_behind_by_writing_or_reading(files):
    assert sorted(path.name for path in files.path.iterdir()) == ["ledger.sqlite", "protocol.json", "rounds", "system"]
    os.chmod(files.path, 0o500)
    assert len(rows(files)) == 11
    os.chmod(files.path, 0o700)
    assert sorted(path.name for path in files.path.iterdir()) == ["ledger.sqlite", "protocol.json", "rounds", "system"]


def test_two_runs_of_the_same_work_have_the_same_repeatable_part(files, tmp_path):
    other = make(tmp_path / "elsewhere", stamp="later")
    Attempt(other.round(0).learning.path, "training")  # begun once more
    update(other)
    tasks = rows(other)
    assert tasks != rows(files) and repeatable_digest(tasks) == repeatable_digest(rows(files))
    name = "rounds/00/walker-01/segment-002"
    assert repeatable_digest({**tasks, name: replace(tasks[name], result="x")}) != repeatable_digest(tasks)
    del tasks[name]
    assert repeatable_digest(tasks) != repeatable_digest(rows(files))


def test_a_task_that_was_begun_and_killed(files):
    walker = files.round(0).walker(0)
    Attempt(walker.path, f"segment-{SEGMENTS:03d}")
    with open(walker.path / ATTEMPTS, "a") as file:  # the next one was killed while it wrote this
        file.write(f"segment-{SEGMENTS:03d} 2026")
    assert Attempt(walker.path, f"segment-{SEGMENTS:03d}").number == 2
    update(files)
    task = rows(files)[f"rounds/00/walker-00/segment-{SEGMENTS:03d}"]
    assert (task.state, task.attempts) == ("begun", 2)
    assert len(attempts(walker.path)) == SEGMENTS + 1
    assert summary(files)["tasks"]["segment"] == 2 * SEGMENTS


def test_a_kill_between_manifest_and_row(files):
    """Whatever the ledger lacks is in the manifests."""
    whole = rows(files)
    with sqlite3.connect(files.ledger) as connection:
        connection.execute("DELETE FROM task WHERE name LIKE '%segment-003' OR kind = 'export'")
    connection.close()
    assert Ledger(files).tasks() == whole  # as `latf status` sees it
    assert update(files) == [] and rows(files) == whole


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "no database": lambda content: b"x" * len(content),
    "header": lambda content: content[:20] + b"\7" + content[21:],
    "of another format": lambda content: content[:63] + b"\11" + content[64:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_made_again(files, damage):
    whole = rows(files)
    files.ledger.write_bytes(DAMAGES[damage](files.ledger.read_bytes()))
    with pytest.raises(StoreError, match=r"ledger\.sqlite: is (damaged|of format)"):
        rows(files)
    assert Ledger(files).tasks() == whole
    with pytest.warns(RepairWarning, match=r"ledger\.sqlite: is .* It is made again from the manifests\.$"):
        update(files)
    assert rows(files) == whole and summary(files)["journal"] == "wal"


@pytest.mark.parametrize("change", ["DROP TABLE task", "ALTER TABLE task DROP COLUMN stream"])
def test_a_ledger_of_another_layout_is_made_again(files, change):
    whole = rows(files)
    with closing(sqlite3.connect(files.ledger)) as connection, connection:
        connection.execute(change)
    with pytest.raises(StoreError, match=r"ledger\.sqlite: is damaged \(its table lacks .*stream"):
        rows(files)
    with pytest.warns(RepairWarning, match=r"It is made again from the manifests\.$"):
        update(files)
    assert rows(files) == whole


def test_no_flipped_byte_changes_a_row(files):
    whole, content, refused = rows(files), files.ledger.read_bytes(), 0
    for place in range(0, len(content), len(content) // 150):
        files.ledger.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert rows(files) == whole, place
        except StoreError:
            refused += 1
    assert refused > 30  # the rest is empty


def test_a_lost_ledger_is_made_again(files):
    whole = rows(files)
    files.ledger.unlink()
    assert rows(files) == {} and Ledger(files).tasks() == whole
    update(files)
    assert rows(files) == whole


def test_a_ledger_is_a_file_of_its_campaign(files, tmp_path):
    files.ledger.unlink()
    files.ledger.symlink_to(tmp_path / "another.sqlite")
    with pytest.raises(StoreError, match=r"ledger.sqlite: is a symbolic link"), ledger(files, nowhere):
        pass
    assert not (tmp_path / "another.sqlite").exists()


def test_what_was_finished_and_is_gone_is_known(files):
    shutil.rmtree(files.round(0).walker(1).path)
    with pytest.warns(RepairWarning) as found, ledger(files, lambda *_: None):
        pass
    words = [str(warning.message) for warning in found]
    assert words == [
        f"{files.path}/rounds/00/walker-01/segment-000.json: is missing, although it was finished, and 3 "
        "further tasks too. What nothing that is left was made from is made again."
    ]
    assert len(rows(files)) == 11 - SEGMENTS


def test_what_belongs_to_an_earlier_protocol_is_not_lost(files):
    storage.move(files.round(0).learning.path, files.earlier / "1" / "rounds/00/learning")
    assert update(files) == [] and len(rows(files)) == 9


def test_rows_are_written_while_a_campaign_runs(files, monkeypatch):
    told = []
    monkeypatch.setattr(writing, "INTERVAL", 0.0)
    with ledger(files, lambda *arguments: told.append(arguments)) as report:
        Attempt(files.path, "evaluation")
        report("evaluate", 0.5, "half")
        assert rows(files)["evaluation"].state == "begun"
        storage.write_text(files.evaluation, "page")
        Manifest.write(files.evaluation_marker, {}, [files.evaluation])
        report("evaluate", 1.0, "done")
        assert rows(files)["evaluation"].state == "finished"
    assert told == [("evaluate", 0.5, "half"), ("evaluate", 1.0, "done")]


def test_a_file_system_of_other_machines_has_no_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "network_file_system", lambda path: "nfs4")
    files = make(tmp_path / "run")
    update(files)
    assert summary(files)["journal"] == "delete" and len(rows(files)) == 11


MOUNTS = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /home rw - nfs4 server:/home rw
41 40 8:2 / /home/scratch\\040space rw shared:5 master:2 - xfs /dev/sdb rw
42 22 0:40 / /mnt/drive rw - fuse.sshfs host:/ rw
43 22 0:41 / /mnt/windows rw - fuseblk /dev/sdc rw
44 22 0:42 / /lustre rw - lustre fs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/run", None),
        ("/home/me/run", "nfs4"),
        ("/home/scratch space/run", None),
        ("/homes/run", None),
        ("/mnt/drive/run", "fuse.sshfs"),
        ("/mnt/windows/run", None),
        ("/lustre", "lustre"),
    ],
)
def test_which_file_systems_other_machines_may_write_to(tmp_path, path, kind):
    (tmp_path / "mounts").write_text(MOUNTS)
    assert storage.network_file_system(path, tmp_path / "mounts") == kind
    assert storage.network_file_system(path, tmp_path / "absent") is None


def test_a_full_disk_is_one_sentence_and_the_ledger_goes_on_later(tmp_path):
    files = make(tmp_path / "run")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(StoreError, match=r"ledger\.sqlite: cannot be written \(.*\); what is finished is kept\.$"):
            update(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RepairWarning)  # where the empty file was left
        update(files)
    assert len(rows(files)) == 11


def test_a_campaign_that_is_gone_gets_no_ledger_elsewhere(files):
    moved = files.path.rename(files.path.with_name("moved"))
    files.path.mkdir()  # where its disk was mounted
    with pytest.raises(StoreError, match=r"run: is gone while the campaign runs; was its disk disconnected"):
        update(files)
    assert [*files.path.iterdir()] == [] and len(rows(CampaignDirectory(moved))) == 11
