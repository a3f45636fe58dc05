"""`latf status --json` and `--watch`, and what `latf run --until` refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.molecules import finished_campaign, write_protocol
from rich.console import Console

from latf_sampling.cli import inspection
from latf_sampling.cli import main as cli
from latf_sampling.cli.inspection import print_status

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


@pytest.fixture
def growing(copy, monkeypatch) -> Path:
    """A campaign whose report is written while it is watched for the third time."""
    report, naps = copy / "report.html", []
    report.unlink()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        assert len(naps) < 5
        if len(naps) == 2:
            report.write_text("")

    monkeypatch.setattr(inspection.time, "sleep", sleep)
    return copy


def test_status_as_json(copy, capsys):
    print_status(copy, Console(), as_json=True)
    standing = json.loads(capsys.readouterr().out)
    assert (standing["directory"], standing["finished"]) == (str(copy), True)
    assert standing["earlier_protocols"] == 0
    ledger = standing["ledger"]
    assert (ledger["file"], ledger["journal"]) == (str(copy / "ledger.sqlite"), "wal")
    assert (ledger["tasks"]["segment"], ledger["tasks"]["training"], len(ledger["repeatable"])) == (39, 3, 64)
    assert [entry["step"] for entry in standing["steps"]][-2:] == ["starts", "report"]
    assert standing["steps"][0]["words"] == "15 of 15 segments, plain, 600 K"


def test_a_watched_campaign_is_printed_when_it_changes(growing, capsys):
    print_status(growing, Console(width=200), watch=True)
    out = capsys.readouterr().out
    assert [line.split("%")[0].split()[-1] for line in out.splitlines() if line.startswith("report")] == ["0", "100"]


def test_a_watched_campaign_is_a_line_of_json_for_each_change(growing, capsys):
    print_status(growing, Console(), as_json=True, watch=True)
    assert [json.loads(line)["finished"] for line in capsys.readouterr().out.splitlines()] == [False, True]


def test_a_watched_campaign_is_one_table_on_a_terminal(growing, capsys):
    print_status(growing, Console(force_terminal=True, width=100), watch=True)
    assert capsys.readouterr().out.count("\x1b[1A") > 0  # the cursor goes up, and the table is drawn anew


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--until", "0.2 nm"], "--until: '0.2 nm' is not an energy"),
        (["--until", "0.2"], "--until: "),
        (["--until", "-1 kJ/mol"], "until: the error must be a positive energy; got -1 kJ/mol"),
        (["--until", "1 kJ/mol", "--max-rounds", "0"], "until: the largest number of rounds must be positive; got 0"),
        (["--max-rounds", "3"], "--max-rounds goes with --until"),
    ],
)
def test_impossible_errors_are_refused(tmp_path, monkeypatch, capsys, options, words):
    path = write_protocol(tmp_path)
    monkeypatch.setattr(cli, "_err", Console(width=200, stderr=True))
    monkeypatch.setattr("sys.argv", ["latf", "run", str(path), "-o", str(tmp_path / "run"), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
