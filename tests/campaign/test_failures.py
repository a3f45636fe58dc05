"""Campaigns in which walkers explode: the round goes on, or ends with one diagnosis; status and report tell it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from helpers.explosive import write_explosive
from helpers.molecules import run_in_process

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli import main as cli
from latf_sampling.errors import RepairWarning, SimulationError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.report import write_report

HOT = {"cliff": 1.7, "rounds": [{"walkers": ["300 K", "3000 K", "300 K"], "length": "40 ps"}]}
"""The second of three walkers falls off the cliff, the others never come near."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Campaign:
    folder = tmp_path_factory.mktemp("hot")
    made = Campaign(write_explosive(folder / "given", **HOT), folder / "run")
    run_in_process(made)
    return made


def test_the_round_goes_on_without_a_walker_that_is_retired(campaign):
    walkers = [campaign.directory.round(0).walker(number) for number in range(3)]
    assert [walker.is_finished(4) for walker in walkers] == [True] * 3
    assert walkers[1].failures().retired and not walkers[0].failures_file.exists()
    segments = [len(walker.markers()) for walker in walkers]
    assert segments[0] == segments[2] == 4 > segments[1]
    # Finished segments of all count, and nothing else.
    frames = [50 * count for count in segments if count]
    assert [len(walker) for walker in campaign.frames()] == frames
    assert campaign.last_learned() == 0
    log = campaign.directory.log.read_text()
    assert all(words in log for words in (" started: ", " round 0: learn: ", " report: ", " ended: finished"))


def test_status_records_and_report_tell_it(campaign):
    records = Records.load(campaign.directory.path)
    (entry,) = [entry for entry in records.status() if entry["step"] == "round 0: simulate"]
    assert entry["done"] == 1.0 and "walker 1 retired: exploded 3 times, the last time in segment" in entry["words"]
    assert records.rounds[0].finished and list(records.rounds[0].failures) == [1]
    page = write_report(records, campaign.directory.path.parent / "page.html").read_text()
    assert "Walkers that failed" in page and "3 segments rolled back, 1 walker retired." in page
    assert "Cliff has nan kJ/mol" in page


def test_what_was_learned_without_a_retired_walker_knows_of_it(campaign, tmp_path):
    directory = Path(shutil.copytree(campaign.directory.path, tmp_path / "run"))
    (directory / "rounds/00/walker-01/failures.json").unlink()
    with pytest.raises(StoreError, match=r"walker-01/failures\.json: is missing\. The model of round 0 was trained"):
        Records.load(directory).verify()


@pytest.mark.parametrize("learned", [True, False])
def test_a_damaged_record_is_made_again_or_named(campaign, tmp_path, monkeypatch, learned):
    """Where nothing was learned, the failures happen again, in the same way."""
    directory = Path(shutil.copytree(campaign.directory.path, tmp_path / "run"))
    file = directory / "rounds/00/walker-01/failures.json"
    intact = file.read_text()
    file.write_text(intact[:100])
    if learned:
        with pytest.raises(
            StoreError, match=r"failures\.json: is damaged; .* The model of round 0 was trained on it: rest"
        ):
            Campaign.load(directory).run()
        return
    shutil.rmtree(directory / "rounds/00/learning")
    far = lambda *_: (_ for _ in ()).throw(SimulationError("that far"))  # noqa: E731
    monkeypatch.setattr("latf_sampling.campaign.learning.train_model", far)
    with (
        pytest.warns(RepairWarning, match=r"failures\.json: is damaged"),
        pytest.raises(SimulationError, match="that far"),
    ):
        run_in_process(Campaign.load(directory))
    assert file.read_text() == intact


def test_too_many_are_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    hot = {**HOT, "rounds": [{"walkers": ["3000 K", "300 K", "3000 K"], "length": "40 ps"}]}
    protocol = write_explosive(tmp_path / "given", **hot)
    with pytest.raises(SimulationError, match="^round 0: 2 walkers of 3 had to be retired, and the campaign stops; "):
        run_in_process(Campaign(protocol, tmp_path / "run"))
    # Again, from the command line and with processes: the same, at once.
    monkeypatch.setattr(sys, "argv", ["latf", "run", str(protocol), "-o", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    words = capsys.readouterr().err
    assert ended.value.code == 2 and words.count("\n") == 1 and "Traceback" not in words
    assert words.startswith("latf: round 0: 2 walkers of 3 had to be retired, and the campaign stops; round 0, walker ")
    for part in ("exploded 3 times", "Cliff has nan kJ/mol", "the largest force is on AR 1 AR", "there is no bias"):
        assert part in words
    # Nothing but failures in the first segments is no result yet: another protocol may take the directory.
    assert Campaign.load(tmp_path / "run").directory.has_results()
    for file in tmp_path.glob("run/rounds/00/walker-*/segment-*"):
        file.unlink()
    assert not Campaign.load(tmp_path / "run").directory.has_results()
