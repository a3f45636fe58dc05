"""Space is asked for before it is needed, in numbers, and with a reserve."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.molecules import TINY_WELLS, finished_campaign, finished_wells, run_in_process

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.core import space
from latf_sampling.core.space import RESERVE, SPARE_FILES, Size, free_space, require_space, spelled
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.data.sizes import DENSITY, LEARNING, PAGE, missing_size, segment_size, starts_size
from latf_sampling.errors import SpaceWarning, StoreError
from latf_sampling.records.verification import Verification
from latf_sampling.settings import Protocol
from latf_sampling.simulation.segment import Segment


class Disk:
    """A disk with so much space, in place of the real one; less with each look."""

    def __init__(self, monkeypatch, size: float, files: int = 10**6, taken: float = 0.0) -> None:
        self.size, self.files, self.taken = size, files, taken
        monkeypatch.setattr(space.os, "statvfs", self)

    def __call__(self, path: object) -> SimpleNamespace:
        self.size -= self.taken
        return SimpleNamespace(f_bavail=int(self.size), f_frsize=1, f_favail=self.files, f_files=10**6)


def test_what_fits_is_not_refused(monkeypatch, tmp_path):
    Disk(monkeypatch, 5e6 + RESERVE, 3 + SPARE_FILES)
    require_space(tmp_path / "new" / "folder", Size(5e6, 3), "it")
    assert free_space(tmp_path) == (5e6 + RESERVE, 3 + SPARE_FILES)


@pytest.mark.parametrize(
    ("size", "files", "words"),
    [
        (4e6, 10**6, "has 4 MB free, and it takes 5 MB; free some space, and run the same command again."),
        (5.5e6, 10**6, "has 5.5 MB free, and it takes 5 MB besides a reserve of 1.05 MB; free some"),
        (1e9, SPARE_FILES + 2, "its disk can take 18 more files, and it takes 3; remove some files there"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(monkeypatch, tmp_path, size, files, words):
    Disk(monkeypatch, size, files)
    with pytest.raises(StoreError) as refused:
        require_space(tmp_path, Size(5e6, 3), "it")
    assert str(refused.value).startswith(f"{tmp_path}: {words}") and "\n" not in str(refused.value)


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.EIO, errno.ESTALE])
def test_a_disk_that_was_disconnected_is_one_sentence(monkeypatch, tmp_path, number):
    def fail(path: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(space.os, "statvfs", fail)
    with pytest.raises(StoreError, match=rf"^{tmp_path}: cannot be read \({os.strerror(number)}\)\.$"):
        require_space(tmp_path, Size(1, 1), "it")


def test_no_limit_of_files_is_none(monkeypatch, tmp_path):
    unlimited = SimpleNamespace(f_bavail=10, f_frsize=512, f_favail=0, f_files=0)
    monkeypatch.setattr(space.os, "statvfs", lambda path: unlimited)
    assert free_space(tmp_path) == (5120, None)


@pytest.mark.parametrize(("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1e3, "1 kB"), (123.4e9, "123 GB")])
def test_sizes_are_spelled(size, words):
    assert spelled(size) == words


def size_of(paths) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("finished", [finished_campaign, finished_wells])
def test_estimates_are_more_than_what_is_written_and_not_much_more(finished):
    files = CampaignDirectory(finished())
    protocol = files.protocol()
    atoms = 22 if finished is finished_campaign else 1
    for index in range(len(protocol.runs)):
        walker = files.run(protocol, index).walker(0)
        written = size_of(path for path in walker.path.glob("segment-001.*"))
        estimate = segment_size(protocol, index, atoms, periodic=False)
        assert written < estimate.size < 2 * written + 6 * 4096 and estimate.files == 4
    assert size_of(files.round(0).learning.path.iterdir()) < LEARNING.size
    if protocol.starts is not None:
        structures = [path for path in files.starts.iterdir() if path.is_file()]
        estimate = starts_size(protocol.starts.count, atoms)
        assert size_of(structures) < estimate.size and len(structures) <= estimate.files
    written = [path for path in files.path.rglob("*") if path.is_file()]
    whole = missing_size(protocol, None, atoms, periodic=False)
    assert size_of(written) < whole.size and len(written) < whole.files
    left = missing_size(protocol, files, atoms, periodic=False)
    assert left == Size(2 * PAGE + 2000 * atoms, 20)  # pages, which are written again


def test_densities_on_a_grid_of_three_components_count():
    protocol = Protocol.load(Path(__file__).parents[2] / "protocols" / "chignolin-night.yaml")
    two = protocol.model_copy(update={"model": protocol.model.model_copy(update={"latent_dim": 2})})
    known, not_known = (missing_size(case, None, 166, periodic=False) for case in (two, protocol))
    assert not_known.size - known.size == 8 * DENSITY  # two rounds of four walkers


def small(folder: Path) -> Path:
    """A protocol of four segments of one walker."""
    rounds = [{"walkers": ["1 kJ/mol"], "length": "200 ps"}]
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**TINY_WELLS, "rounds": rounds, "evaluate": None}))
    return folder / "protocol.yaml"


def simulate_alone(monkeypatch) -> None:
    monkeypatch.setattr(Campaign, "_learn", lambda self, index, *_: None)
    monkeypatch.setattr("latf_sampling.campaign.campaign.Campaign._report", lambda *_: None)


def test_a_disk_that_is_disconnected_gets_nothing_written_in_its_place(monkeypatch, tmp_path):
    path, run = small(tmp_path), tmp_path / "run"
    simulate_alone(monkeypatch)
    fraction = Segment._fraction

    def disconnect(self: Segment, frames: int) -> float:
        if (self.index, frames) == (2, 5) and run.exists():
            run.rename(tmp_path / "moved")
        return fraction(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(Segment, "_fraction", disconnect)
        with pytest.raises(
            StoreError, match=r"run: is gone while the campaign runs; .* the same command continues with"
        ):
            run_in_process(Campaign(path, run))
    assert not [file for file in run.rglob("*") if file.is_file()]
    shutil.rmtree(run, ignore_errors=True)
    (tmp_path / "moved").rename(run)
    run_in_process(Campaign(path, run))
    assert len(CampaignDirectory(run).round(0).walker(0).markers()) == 4
    assert Verification.of(run).findings == []


def test_what_fails_since_the_campaign_is_gone_says_so(tmp_path):
    files, protocol = CampaignDirectory(tmp_path / "run"), Protocol.load(small(tmp_path))
    for number, error in enumerate((FileNotFoundError(2, "No such file", "x.nc"), StoreError("x.nc: is missing."))):
        with pytest.raises(StoreError, match="run: is gone while the campaign runs; "), files.acquire(protocol):
            files.path.rename(tmp_path / f"moved-{number}")
            raise error
    with pytest.raises(StoreError, match="^x.nc: is missing.$"), files.acquire(protocol):
        raise StoreError("x.nc: is missing.")


def test_a_campaign_stops_before_the_disk_is_full_and_goes_on_later(monkeypatch, tmp_path):
    """The disk has less at each look, as if others wrote to it too."""
    path = small(tmp_path)
    with monkeypatch.context() as patch:
        Disk(patch, RESERVE + 400e3, taken=80e3)
        with (
            pytest.warns(SpaceWarning, match=r"are free, and the campaign will still write about .* it stops before"),
            pytest.raises(
                StoreError, match=r"free, and segment 2 of round 0, walker 0 takes .*free some space, and run"
            ),
        ):
            run_in_process(Campaign(path, tmp_path / "run"))
    files = CampaignDirectory(tmp_path / "run")
    assert len(files.round(0).walker(0).markers()) == 2
    assert Verification.of(files.path).findings == [] and not [*files.path.rglob(".*")]
    before = files.round(0).walker(0).segment(0).trajectory.read_bytes()
    simulate_alone(monkeypatch)
    run_in_process(Campaign(path, tmp_path / "run"))
    assert len(files.round(0).walker(0).markers()) == 4
    assert files.round(0).walker(0).segment(0).trajectory.read_bytes() == before
