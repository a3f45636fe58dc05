"""The log of a campaign: starts with versions, steps, warnings, ends; a run that was killed has no end."""

from __future__ import annotations

import json
import os
import re
import socket
import warnings
from pathlib import Path

import pytest

from latf_sampling import __version__
from latf_sampling.campaign import log
from latf_sampling.campaign.log import TAIL, is_running, last_events, logged
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


def test_the_same_events_for_programs(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    with pytest.warns(FailureWarning), logged(path, lambda *_: None) as report:
        report("round 0: learn", 0.25, "states: 2 states")
        monkeypatch.setattr(log, "INTERVAL", 0.0)
        report._next = 0.0  # a minute later
        report("round 0: learn", 0.5, "flow: 2 states")
        report("round 0: learn", 1.0, "2 states")
        report("round 1: learn", 1.0, "finished before")
        report.note("free energy", round=0, value=8.5, error=None)
        warnings.warn("x\ny", FailureWarning, stacklevel=1)
        assert is_running(last_events(path))
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events == last_events(path) and not is_running(events)
    assert all(re.fullmatch(TIME.strip(), event.pop("time")) for event in events)
    started, progress, step, energy, warning, ended = events
    assert (started["process"], started["host"]) == (os.getpid(), socket.gethostname())
    assert started["packages"]["latf_sampling"] == __version__ and {"openmm", "torch"} <= set(started["packages"])
    assert progress == {
        "event": "progress", "step": "round 0: learn", "fraction": 0.5, "words": "flow: 2 states", "seconds_left": None,
    }  # fmt: skip
    assert step.pop("seconds") >= 0
    assert step == {"event": "step", "step": "round 0: learn", "words": "2 states"}
    assert energy == {"event": "free energy", "round": 0, "value": 8.5, "error": None}
    assert warning == {"event": "warning", "kind": "FailureWarning", "words": "x\ny"}
    assert ended == {"event": "ended", "words": "finished"}


def test_events_that_are_damaged_are_passed_over(tmp_path):
    path, events = tmp_path / "log.txt", tmp_path / "log.jsonl"
    assert last_events(path) == [] and not is_running([])
    line = json.dumps({"event": "started", "host": "elsewhere", "process": 1})
    events.write_bytes(b'{"event": 3}\n[]\n{"ev\n\xff\n' + line.encode() + b'\n{"event": "en')
    (only,) = last_events(path)
    assert is_running([only]) is None  # on another machine
    assert is_running([{**only, "host": socket.gethostname(), "process": 2**30}]) is False
    events.write_text("x" * 2 * TAIL + f"\n{line}\n")
    assert last_events(path) == [only]
    events.unlink()
    os.mkfifo(events)
    assert last_events(path) == []


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
    with pytest.raises(KeyboardInterrupt), logged(path, lambda *_: None) as progress:
        progress("round 0: simulate", 1.0, "done")
        progress("round 0: learn", 0.4, "flow: 2 states")
        raise KeyboardInterrupt
    *_, last, ended = last_events(path)
    assert ended["event"] == "ended"
    assert [last[key] for key in ("event", "step", "fraction")] == ["progress", "round 0: learn", 0.4]
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
