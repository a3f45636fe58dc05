"""A campaign whose process group is killed at random moments ends as one that was never interrupted, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.molecules import TINY, write_protocol

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.starts.files import StartFiles

KILLS = 3
SHORT = {
    "rounds": [
        {"walkers": ["600 K"], "length": "10 ps"},
        {**TINY["rounds"][2], "length": "4 ps"},
    ],
    "starts": None,
}
"""Changes of the tiny protocol: one walker a round, since what walkers that share a bias read depends on timing."""


def begin(protocol: Path, directory: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "latf_sampling.cli.main", "run", str(protocol), "-o", str(directory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def written(directory: Path) -> int:
    """Number of files, half-written ones included, with the size of hills, which grow."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return len(files) + sum(path.stat().st_size // 400 for path in files if path.suffix == ".hills")


@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(tmp_path):
    protocol = write_protocol(tmp_path / "given", **SHORT)
    whole = Campaign(protocol, tmp_path / "whole")
    whole.run()
    rng, directory = random.Random(3), tmp_path / "killed"
    end = written(whole.directory.path)
    for moment in sorted(rng.randrange(5, end - 5) for _ in range(KILLS)):
        process = begin(protocol, directory)
        # More than when it began, so that each process does something before it is killed.
        while process.poll() is None and written(directory) < max(moment, 2):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = begin(protocol, directory)
    words = process.communicate()[0]
    assert process.returncode == 0, words
    again = Campaign.load(directory)
    for mine, other in zip(again.frames(), whole.frames(), strict=True):
        assert np.array_equal(mine.trajectory.xyz, other.trajectory.xyz)
        assert np.array_equal(mine.energies, other.energies)
    names = [{str(path.relative_to(c.directory.path)) for path in c.directory.path.rglob("*")} for c in (again, whole)]
    assert names[0] == names[1]  # nothing is left behind
    places: list[CampaignDirectory] = [again.directory, whole.directory]
    hills = [np.loadtxt(place.round(1).hills / "walker-00.hills") for place in places]
    assert np.array_equal(*hills)
    for index in range(2):
        assert again.model(index)[0].fingerprint() == whole.model(index)[0].fingerprint()
        assert again.model(index)[1].fingerprint() == whole.model(index)[1].fingerprint()
    tables = [StartFiles(place.round(1).starts).read_table() for place in places]
    assert tables[0] == tables[1]
