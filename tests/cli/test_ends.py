"""How a run ends before its end: by the clock, by a queue, although a walker is stopped, without a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.explosive import write_explosive
from rich.console import Console

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli import main as cli
from latf_sampling.cli import signals
from latf_sampling.core.processes import GRACE
from latf_sampling.records.records import Records

CONTINUES = "what is finished is kept, and the same command continues."


@pytest.fixture
def latf(monkeypatch, capsys):
    """Calls the command line; gives its exit code and standard error."""

    def call(*arguments) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["latf", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return call


def test_the_signal_of_a_queue_asks_to_run_again(latf, monkeypatch):
    def work(*_, **__):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)

    monkeypatch.setattr(Records, "load", work)
    before = signal.getsignal(signal.SIGUSR1)
    assert latf("status", "x") == (75, "latf: interrupted by SIGUSR1.\n")  # there is nothing to keep
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_end_of_the_time_asks_to_run_again(latf, monkeypatch, tmp_path):
    protocol, begun = write_explosive(tmp_path), []

    def work(*_, **__):
        begun.append(time.monotonic())
        time.sleep(20)

    monkeypatch.setattr(Campaign, "run", work)
    assert latf("run", protocol, "-o", tmp_path / "run", "--max-time", "0.3 s") == (
        75,
        f"latf: the time is over; {CONTINUES}\n",
    )
    assert time.monotonic() - begun[0] < 5
    # What ends in time is not interrupted, also not later.
    monkeypatch.setattr(Campaign, "run", lambda *_, **__: None)
    assert latf("run", protocol, "-o", tmp_path / "run", "--max-time", "0.5 s")[0] == 0
    time.sleep(0.6)


def test_a_signal_that_is_ignored_stays_ignored_but_not_the_clock():
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with signals.as_exceptions():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            with pytest.raises(signals.Interrupted) as raised, signals.TimeLimit(0.1):
                time.sleep(5)
            assert raised.value.words == "the time is over"
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, handler)


@pytest.mark.parametrize("text", ["2", "0 s", "-1 h", "2 kcal/mol", "1e9 year", "soon"])
def test_a_time_that_is_none_is_refused(latf, monkeypatch, tmp_path, text):
    monkeypatch.setattr(Campaign, "run", lambda *_, **__: pytest.fail("work began"))
    code, words = latf("run", write_explosive(tmp_path), "-o", tmp_path / "run", f"--max-time={text}")
    assert code == 2 and words.startswith("latf: --max-time: ") and words.count("\n") == 1


class Closed:
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")

    def isatty(self) -> bool:
        return True


def test_a_closed_terminal_is_no_failure(latf, monkeypatch):
    def work(*_, **__):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(5)

    monkeypatch.setattr(Records, "load", work)
    monkeypatch.setattr(cli, "_err", Console(file=Closed(), force_terminal=True))
    heeded = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert latf("status", "x")[0] == 129
    finally:
        signal.signal(signal.SIGHUP, heeded)


def test_the_cursor_is_shown_again(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_err", Console(stderr=True, force_terminal=True))
    cli._interrupted(signals.Interrupted(signal.SIGTERM))
    assert capsys.readouterr().err.startswith("\x1b[?25h")


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_stopped_walker_does_not_keep_a_run_from_ending(tmp_path):
    """Real processes: SIGSTOP to a walker, then Slurm's SIGUSR1 to all of them."""
    protocol = write_explosive(tmp_path, rounds=[{"walkers": ["300 K"], "length": "40 ns"}], segment="0.2 ns")
    process = subprocess.Popen(
        [sys.executable, "-m", "latf_sampling.cli.main", "run", str(protocol), "-o", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 100
        while not list(tmp_path.glob("run/rounds/00/walker-00/segment-*.json")):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        walkers = [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        (walker,) = walkers
        os.kill(walker, signal.SIGSTOP)
        while not _stopped(walker):
            time.sleep(0.01)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGUSR1)
        words = process.communicate(timeout=60)[1]
        assert process.returncode == 75 and words == f"latf: interrupted by SIGUSR1; {CONTINUES}\n"
        assert time.monotonic() - began < GRACE + 10
        assert not Path(f"/proc/{walker}").exists()
    finally:
        process.kill()
        process.communicate()
