"""What `latf run` shows while it runs, on a terminal and elsewhere, and `latf status` of the same campaign."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from helpers.molecules import finished_campaign
from rich.console import Console

from latf_sampling.campaign.log import events_file
from latf_sampling.campaign.progress import Paces
from latf_sampling.cli import progress
from latf_sampling.cli.progress import Bars
from latf_sampling.cli.view import RunView, TimeLeft, standing, table
from latf_sampling.core.manifest import Manifest
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.records import Records
from latf_sampling.starts.files import StartFiles

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


FREE_ENERGY = {"event": "free energy", "round": 1, "words": "8.5 ± 0.4 kJ/mol", "value": 8.5, "error": 0.4}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """A campaign that is killed in its last biased round."""
    copy = Path(shutil.copytree(finished_campaign(), tmp_path_factory.mktemp("view") / "run"))
    for path in (copy / "rounds/02/walker-00").glob("segment-01[5-9]*"):
        path.unlink()
    shutil.rmtree(copy / "rounds/02/learning")
    shutil.rmtree(copy / "starts")
    (copy / "report.html").unlink()
    lines = events_file(copy / "log.txt").read_text().splitlines()
    killed = [
        lines[0].replace('"process": ', '"process": 1073741824'),
        json.dumps({**FREE_ENERGY, "observe": Records.load(copy).protocol.observe.what()}),
    ]
    events_file(copy / "log.txt").write_text("\n".join(killed) + "\n")
    return copy


def drawn(view: RunView, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=height, color_system=None)
    console.print(view.draw(console))
    return console.file.getvalue().splitlines()


def test_status_tells_of_walkers_and_results(interrupted):
    now = standing(interrupted)
    assert (now["finished"], now["running"], now["progress"]) == (False, False, None)
    (walker,) = now["walkers"]
    expected = {"round": "round 2", "walker": 0, "segments": 15, "of": 20, "state": "begun", "rolled_back": 0}
    assert {key: walker[key] for key in expected} == expected
    assert walker["ns_per_day"] > 0 and walker["platform"] == "Reference"
    lines = table(now, None).splitlines()
    (row,) = [line for line in lines if line.startswith("0  ")]
    assert "300 K" in row and "15 of 20" in row and "ns/day" in row and row.endswith("stopped")
    assert "Free energy after round 1: 8.5 ± 0.4 kJ/mol" in lines
    assert "No process runs it: `latf run` goes on with it." in lines


def test_populations_have_errors(interrupted):
    (learned,) = [entry for entry in standing(interrupted)["steps"] if entry["step"] == "round 1: learn"]
    assert re.match(r"2 states \([\d.]+ ± [\d.]+, [\d.]+ ± [\d.]+ % at 300 K\), ", learned["words"])


def test_estimates_that_disagree_are_told(interrupted, tmp_path):
    copy = Path(shutil.copytree(interrupted, tmp_path / "run"))
    with events_file(copy / "log.txt").open("a") as file:
        observe = Records.load(copy).protocol.observe.what()
        file.write(json.dumps({**FREE_ENERGY, "observe": observe, "disagreement": "Weightings disagree."}) + "\n")
    files = CampaignDirectory(copy).round(1).learning
    content = {**files.manifest().content, "disagreement": "The flow and the frames disagree."}
    Manifest.write(files.history, content, [files.model, files.cv])
    now = standing(copy)
    assert now["disagreements"] == ["The flow and the frames disagree.", "Weightings disagree."]
    lines = table(now, None).splitlines()
    assert lines[lines.index("Free energy after round 1: 8.5 ± 0.4 kJ/mol") + 1 :][:2] == now["disagreements"]


def test_a_report_and_structures_of_an_earlier_state_are_not_finished(tmp_path):
    copy = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    steps = {entry["step"]: entry for entry in standing(copy)["steps"]}
    assert steps["report"]["done"] == steps["starts"]["done"] == 1.0
    learned = CampaignDirectory(copy).round(2).learning
    manifest = learned.manifest()
    shutil.move(learned.path, tmp_path / "lost")
    steps = {entry["step"]: entry for entry in standing(copy)["steps"]}
    assert steps["report"]["done"] == steps["starts"]["done"] == 0.0
    assert steps["report"]["words"] == f"written half-way: {copy / 'report.html'}"
    assert steps["starts"]["words"].startswith("of an earlier model, made again with the last one: ")
    shutil.move(tmp_path / "lost", learned.path)  # trained again, with another result
    Manifest.write(learned.history, {**manifest.content, "variable": "another"}, [learned.model, learned.cv])
    steps = {entry["step"]: entry for entry in standing(copy)["steps"]}
    assert steps["report"]["done"] == steps["starts"]["done"] == 0.0
    assert steps["round 2: learn"]["done"] == 1.0


def test_a_report_that_is_older_than_the_last_structures_is_not_finished(tmp_path):
    copy = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    table_file = StartFiles(CampaignDirectory(copy).starts)
    manifest = table_file.manifest()
    Manifest.write(table_file.table, {**manifest.content, "valid": 0}, [])
    assert standing(copy)["steps"][-1]["done"] == 0.0 and not standing(copy)["finished"]


def test_a_free_energy_of_what_was_observed_before_is_not_told(interrupted):
    assert "observe" in standing(finished_campaign())["free_energy"]  # as a run has noted it
    log = events_file(interrupted / "log.txt")
    before = log.read_text()
    try:
        with log.open("a") as file:
            observe = {**Records.load(interrupted).protocol.observe.what(), "above": 0.7}
            file.write(json.dumps({**FREE_ENERGY, "observe": observe}) + "\n")
        now = standing(interrupted)
        assert now["free_energy"] is None and not any("Free energy" in line for line in table(now, None).splitlines())
    finally:
        log.write_text(before)


def test_status_tells_of_the_step_that_runs(interrupted, monkeypatch):
    monkeypatch.setattr("latf_sampling.cli.view.is_running", lambda events: True)
    with events_file(interrupted / "log.txt").open("a") as file:
        event = {"event": "progress", "step": "round 2: simulate", "fraction": 0.75, "words": "w", "time": "T"}
        file.write(json.dumps({**event, "seconds_left": 90}) + "\n")
    monkeypatch.setattr("latf_sampling.cli.view.is_running", lambda events: False)
    assert "round 2: simulate: 75 % when it stopped (as of T). w" in table(standing(interrupted), 100).splitlines()
    monkeypatch.setattr("latf_sampling.cli.view.is_running", lambda events: True)
    lines = table(standing(interrupted), 100).splitlines()
    assert "round 2: simulate: 75 %, about 1.5 min left (as of T). w" in lines
    assert any(line.startswith("0  ") and line.endswith("running") for line in lines)
    with events_file(interrupted / "log.txt").open("a") as file:
        file.write(json.dumps({"event": "step", "step": "round 2: simulate", "words": ""}) + "\n")
    assert standing(interrupted)["progress"] is None


def test_the_view_of_a_run(interrupted):
    now = [0.0]
    paces = Paces(lambda: now[0])
    view = RunView(interrupted, paces)
    paces("round 0: simulate", 1.0, "finished before")
    paces("round 2: simulate", 0.75, "0 of 1 walkers finished")
    now[0] = 10.0
    paces("round 2: simulate", 0.85, "0 of 1 walkers finished")
    assert any("85 %" in line and "15 s left" in line for line in drawn(view))  # before the files are looked at
    view.read()
    lines = drawn(view)
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        "round 0: simulate", "round 0: learn", "round 1: simulate", "round 1: learn", "round 2: simulate",
        "round 2: learn",
    ]  # fmt: skip
    assert any(line.startswith("round 2: walker") for line in lines)
    assert any(line.startswith("0  ") and "15 of 20" in line and line.rstrip().endswith("running") for line in lines)
    assert "about 15 s left; not known yet: round 2: learn, starts, report" in lines[-1]
    assert len(drawn(view, height=12)) <= 12  # finished steps give way


def test_what_is_left_is_told_from_steps_of_the_same_kind(interrupted):
    now = [0.0]
    paces = Paces(lambda: now[0])
    time_left = TimeLeft(Records.load(interrupted).protocol)
    for step, seconds in (("round 0: simulate", 30.0), ("round 0: learn", 5.0), ("round 1: simulate", 16.0)):
        paces(step, 0.0, "")
        now[0] += seconds
        paces(step, 1.0, "")
    left, unknown = time_left.seconds_left(["round 2: simulate", "round 2: learn", "report"], paces)
    # round 0 has 300 frames, round 1 two walkers with 40 each of metadynamics, round 2 one with 400 of the same
    assert left == pytest.approx(16.0 * 400 / 80 + 5.0 * 780 / 300)
    assert unknown == ["report"]


@pytest.mark.parametrize("silent", [True, False])
def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch, silent):
    monkeypatch.setattr(progress, "LINES_EVERY", 0.02)
    console = Console(file=io.StringIO(), width=20, color_system=None)
    with Bars(console) as bars:
        if not silent:
            bars("learn", 0.25, "flow: [2 states]")
        end = time.monotonic() + 10
        while not console.file.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        line = console.file.getvalue().splitlines()[0]
        bars("learn", 1.0, "2 states")
    assert line == ("at work since 0 s." if silent else "learn: 25 %. flow: [2 states]")
    assert console.file.getvalue().splitlines().count("learn: done. 2 states") == 1
    told = console.file.getvalue()
    time.sleep(0.06)
    assert console.file.getvalue() == told


def test_a_view_whose_files_are_damaged_stays(interrupted, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "SOONEST", 0.0)
    copy = Path(shutil.copytree(interrupted, tmp_path / "run"))
    (copy / "protocol.json").write_text("{")
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Bars(console, copy) as bars:
        bars._wait = 0.0
        bars("round 2: simulate", 0.5, "words")
    assert "round 2: simulate" in console.file.getvalue()
