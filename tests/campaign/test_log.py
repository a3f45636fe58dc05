"""The log of a campaign: starts with versions, steps, warnings, ends; a run that was killed has no end."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from latf_sampling import __version__
from latf_sampling.campaign import log
from latf_sampling.campaign.log import logged
from latf_sampling.core import storage
from latf_sampling.errors import FailureWarning, StoreError

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d "


def lines(path: Path) -> list[str]:
    """The lines without their times, which all have."""
    found = path.read_text().splitlines()
    assert all(re.match(TIME, line) for line in found)
    return [re.sub(TIME, "", line) for line in found]


def test_what_a_run_does_is_noted(tmp_path):
    path, told = tmp_path / "log.txt", []
    with pytest.warns(FailureWarning, match="^x$"), logged(path, lambda *step: told.append(step)) as progress:
        progress("round 0: simulate", 0.5, "1 of 2 walkers finished")
        progress("round 0: simulate", 1.0, "2 of 2\nwalkers finished")
        progress("round 0: simulate", 1.0, "again")
        progress("round 0: learn", 1.0, "finished before")
        warnings.warn("x", FailureWarning, stacklevel=1)
    start, *steps = lines(path)
    assert re.match(
        rf"started: process \d+ on .*; latf_sampling {__version__}, openmm \d.*, torch \d.*, numpy \d", start
    )
    assert steps == ["round 0: simulate: 2 of 2 walkers finished", "x", "ended: finished"]
    assert len(told) == 4


def test_a_run_that_fails_and_one_that_is_killed(tmp_path):
    path = tmp_path / "log.txt"
    with pytest.raises(KeyboardInterrupt), logged(path, lambda *_: None):
        raise KeyboardInterrupt("by hand")
    killed = logged(path, lambda *_: None)
    killed.__enter__()
    path.write_text(path.read_text() + "2026-11-30T00:00:00+00:00 a broken li")
    with logged(path, lambda *_: None):
        pass
    words = [line.partition(":")[0] for line in lines(path)]
    assert words == ["started", "ended", "started", "a broken li", "started", "ended"]
    assert "ended: KeyboardInterrupt: by hand" in lines(path)
    killed.__exit__(None, None, None)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "log.txt").symlink_to(tmp_path / "thesis.tex")
    with (
        pytest.raises(StoreError, match=r"log\.txt: is a symbolic link"),
        logged(tmp_path / "log.txt", lambda *_: None),
    ):
        pytest.fail("work began")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_full_disk_does_not_hide_what_failed(tmp_path, monkeypatch):
    def full(*_):
        raise StoreError("full")

    with pytest.raises(ZeroDivisionError), logged(tmp_path / "log.txt", lambda *_: None):
        monkeypatch.setattr(storage, "append_line", full)
        raise ZeroDivisionError
    with pytest.raises(StoreError, match="full"), logged(tmp_path / "log.txt", lambda *_: None):
        pytest.fail("work began")
    assert warnings.showwarning is log.warnings.showwarning
