"""The reader of a campaign's directory: it writes and locks nothing, and reads only what is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.molecules import STRUCTURE, finished_campaign, finished_wells, write_protocol

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.core import storage
from latf_sampling.data.layout import LOCK, CampaignDirectory
from latf_sampling.errors import DataError, StoreError
from latf_sampling.records.feature_table import Source, write_features
from latf_sampling.records.records import Records
from latf_sampling.records.setup import Setup
from latf_sampling.report import costs, write_report
from latf_sampling.report.estimates import Estimates
from latf_sampling.settings import Protocol

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it

LOCKS_ELSEWHERE = """
import sys, time
from pathlib import Path
from latf_sampling.core import storage
held = [storage.try_lock(path) for path in map(Path, sys.argv[1:])]
print(all(held), flush=True)
time.sleep(600)
"""


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and bytes of each file of a campaign, and the times of the folders."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
    }


@pytest.fixture
def locked(tmp_path) -> Path:
    """A copy of the tiny campaign whose locks another process holds, and that nobody but root can write to."""
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    locks = [directory / LOCK, *directory.rglob("*.lock")]
    assert len(locks) == 4
    process = subprocess.Popen([sys.executable, "-c", LOCKS_ELSEWHERE, *map(str, locks)], stdout=subprocess.PIPE)
    paths = [directory, *directory.rglob("*")]
    try:
        assert process.stdout is not None and process.stdout.readline() == b"True\n"
        for path in paths:
            path.chmod(path.stat().st_mode & ~0o222)
        yield directory
    finally:
        process.kill()
        process.communicate()
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


def test_reading_writes_and_locks_nothing(locked, tmp_path):
    """Report, status, evaluation and features of a campaign that another process is running."""
    before = contents(locked)
    records = Records.load(locked)
    page = write_report(records, tmp_path / "elsewhere.html")
    assert "Three ways to weight frames" in page.read_text()
    assert "could not be read" not in page.read_text()
    assert all(entry["done"] == 1.0 for entry in records.status())
    assert Campaign.load(locked).evaluate().rows
    write_features(records.features, Source.from_records(records), tmp_path / "x.npz")
    assert contents(locked) == before


def test_a_report_elsewhere_is_the_one_in_the_directory(tmp_path):
    records = Records.load(finished_wells())
    assert write_report(records, tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_text() == records.directory.report.read_text()


def test_status_loads_neither_torch_nor_openmm():
    code = (
        "import sys\nfrom latf_sampling.records.records import Records\n"
        "print(len(Records.load(sys.argv[1]).status()), {'torch', 'openmm', 'mdtraj'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished_campaign())], capture_output=True, text=True, check=True
    )
    assert done.stdout == "8 set()\n"


def test_a_protocol_that_was_not_run_has_a_setup_without_a_directory(tmp_path):
    setup = Setup(Protocol.load(write_protocol(tmp_path)))
    assert setup.features.names == ["sin phi ALA 2", "sin psi ALA 2", "cos phi ALA 2", "cos psi ALA 2"]
    assert (setup.lag, setup.periodic, setup.topology.n_atoms) == (2, False, 22)
    assert setup.observed is not None and setup.observed.name == "phi ALA 2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [STRUCTURE.name, "protocol.yaml"]


def test_files_of_frames():
    records = Records.load(finished_campaign())
    for frames, segments in zip(records.frames(), (15, 2, 2, 20)):
        files = records.source_files(frames)
        assert len(files) == segments
        assert all(storage.checksum(file["path"]) == file["sha256"] for file in files)


def test_rounds_are_read_once_and_frames_each_time(tmp_path):
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    records = Records.load(directory)
    assert [len(walker.frames) for walker in records.walkers] == [300, 40, 40, 400]
    assert records.partner == "psi ALA 2" and set(records.walkers[0].values) == {"phi ALA 2", "psi ALA 2"}
    assert np.isfinite(records.walkers[0].values["psi ALA 2"]).all()
    files = CampaignDirectory(directory).round(2)
    files.walker(0).segment(19).marker.unlink()
    with pytest.raises(StoreError, match=r"segment-019\.json: is missing\. The model of round 2 was trained on it"):
        records.frames()
    files.learning.history.unlink()
    assert [len(walker) for walker in records.frames()] == [300, 40, 40]  # rounds that are finished
    assert [len(walker.frames) for walker in records.walkers] == [300, 40, 40, 400]


def test_the_backend_of_biased_walkers_is_recorded():
    records = Records.load(finished_campaign())
    assert [len(walker.backends) for walker in records.walkers] == [0, 1, 1, 1]
    assert set().union(*(walker.backends for walker in records.walkers)) <= {"torchforce", "pythonforce"}
    (backend,), reason = records.walkers[1].backends, next(iter(records.walkers[1].backends.values()))
    assert costs.backends(records) == {"1": [backend], "2": [backend]}
    page = costs.section(records, Estimates.from_records(records))
    assert f"<td>{backend}</td>" in page and f"Round 1 used {backend}: {reason[:20]}" in page


@pytest.mark.parametrize("segments", [0, 5])
def test_a_campaign_that_was_stopped_is_read_up_to_the_last_finished_round(tmp_path, segments):
    """In its last round, before and after the first segment of the walker."""
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    walker = directory / "rounds" / "02" / "walker-00"
    for path in walker.glob("segment-*"):
        if int(path.stem.removeprefix("segment-")) >= segments:
            path.unlink()
    shutil.rmtree(directory / "rounds" / "02" / "learning")
    records = Records.load(directory)
    assert (records.last_simulated(), records.last_learned()) == (1, 1)
    assert [frames.round_index for frames in records.frames()] == [0, 1, 1]
    assert len(records.frames(2)) == 3 + (segments > 0)
    assert len(Source.from_records(records)) == 3
    assert records.dataset(1).frames == 300 + 2 * 40
    (directory / "rounds" / "01" / "walker-00" / "segment-001.json").unlink()  # a model was learned from it
    with pytest.raises(StoreError, match="segment-001"):
        records.frames()


def test_a_campaign_without_a_finished_segment_has_no_frames(tmp_path):
    directory = CampaignDirectory(tmp_path / "run")
    protocol = Protocol.load(write_protocol(tmp_path / "protocol"))
    records = Records(protocol, directory)
    for read in (records.frames, records.dataset):
        with pytest.raises(StoreError, match="run: no segment is finished yet; run the campaign first"):
            read()


def test_a_value_that_is_no_number_is_named():
    """Of a descriptor by walker and frame, of the observed variable by the time of the frame."""
    records = Records.load(finished_wells())
    frames = records.frames()[0]
    features = SimpleNamespace(names=["fine", "root"], transform=lambda piece: np.array([[1.0, 2.0], [1.0, np.nan]]))
    with pytest.raises(DataError, match=r"round 0, walker 0: descriptor 'root' is nan in frame 1; leave it out of"):
        records.series([frames], features)
    assert records.observed is not None
    observed = replace(records.observed, features=features)
    with pytest.raises(DataError, match=r"observe: .* has no finite value in the frame at 0\.2 ps of a trajectory"):
        observed.values(frames.take([0, 1]))
