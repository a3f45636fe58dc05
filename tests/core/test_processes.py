"""Tasks in other processes: results although workers die, the package's errors unchanged, no orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from latf_sampling.core import processes
from latf_sampling.core.processes import UnexpectedFailure, WorkerDied, run_tasks
from latf_sampling.errors import DataError, SettingsError, SimulationError, StoreError


class Squares:
    """Squares numbers; a task with a name does something to the process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, 0

    def __call__(self, task: int | str):
        self.done += 1
        if task == "who":
            return os.getpid(), self.done
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "die once" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "stop" or (task == "stop once" and not (self.folder / "stopped").exists()):
            (self.folder / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if task == "refuse":
            raise DataError("that is no number")
        if task == "fail":
            raise ZeroDivisionError("by nothing")
        return 4 if isinstance(task, str) else task**2


def test_results_although_workers_die(tmp_path):
    tasks = [(0, 5), (1, "die"), (2, "die once"), (3, 7)]
    assert dict(run_tasks(Squares, tmp_path, tasks, 2)) == {0: 25, 1: WorkerDied("SIGKILL"), 2: 4, 3: 49}
    assert multiprocessing.active_children() == []


def test_a_worker_takes_several_tasks(tmp_path):
    results = run_tasks(Squares, tmp_path, iter([(k, "who") for k in range(9)]), 2)
    answers = [next(results)[1] for _ in range(4)]
    assert os.getpid() not in {pid for pid, _ in answers}
    assert max(done for _, done in answers) > 1
    results.close()  # the workers end with the iteration
    assert multiprocessing.active_children() == []


def test_one_process_is_this_one(tmp_path):
    results = list(run_tasks(Squares, tmp_path, [(0, "who"), (1, "who")], 1))
    assert results == [(0, (os.getpid(), 1)), (1, (os.getpid(), 2))]


def test_a_fresh_process_for_each_task(tmp_path):
    running = []
    results = dict(run_tasks(Squares, tmp_path, [(k, "who") for k in range(3)], 1, fresh=True, watch=running.append))
    assert len({pid for pid, _ in results.values()} - {os.getpid()}) == 3
    assert {done for _, done in results.values()} == {1}
    assert set(running) == {1} and len(running) >= 3
    assert multiprocessing.active_children() == []


def test_the_caller_decides_whether_a_task_is_begun_anew(tmp_path):
    deaths = []
    results = dict(
        run_tasks(
            Squares, tmp_path, [(0, "die once"), (1, 3)], 2, begin_again=lambda *death: deaths.append(death), fresh=True
        )
    )
    assert results == {0: WorkerDied("SIGKILL"), 1: 9}
    assert deaths == [(0, "SIGKILL", 1)]


def test_a_worker_without_progress_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.3)
    deaths = []

    def begin_again(number: int, how: str, count: int) -> bool:
        deaths.append(how)
        return True

    results = run_tasks(
        Squares, tmp_path, [(0, "stop once")], 1, fresh=True, begin_again=begin_again,
        # nothing counts before the worker is stopped: to begin takes seconds
        pulse=lambda number: 1 if (tmp_path / "stopped").exists() and not deaths else time.monotonic(), patience=0.8,
    )  # fmt: skip
    assert list(results) == [(0, 4)]
    assert deaths == ["being killed after 0.8 s without progress"]


def test_stopped_workers_are_killed_soon_also_by_a_second_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 30.0)

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    results = run_tasks(Squares, tmp_path, [(k, "stop") for k in range(2)], 2, watch=lambda running: check())

    def check() -> None:
        states = [Path(f"/proc/{child.pid}/stat").read_text().split()[2] for child in multiprocessing.active_children()]
        if states == ["T", "T"]:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR2, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(results)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert multiprocessing.active_children() == []


def test_a_process_that_cannot_be_killed_is_left_alone(monkeypatch):
    """As one that waits for a network disk: neither `terminate` nor the end of this process waits for it for long."""
    monkeypatch.setattr(processes, "GRACE", 0.2)
    child = processes.ChildProcess(time.sleep)
    pid = child.process.pid
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().split()[2] != "T":
        time.sleep(0.01)
    with monkeypatch.context() as patch:
        patch.setattr(child.process, "kill", lambda: None)
        began = time.monotonic()
        processes.terminate([child])
    assert time.monotonic() - began < 5 and child.process not in multiprocessing.active_children()
    os.kill(pid, signal.SIGKILL)
    child.process.join()


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [("refuse", DataError, "^that is no number$"), ("fail", SimulationError, "unexpected failure.*by nothing")],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_errors_arrive_and_end_the_others(tmp_path, task, error, words, fresh):
    with pytest.raises(error, match="(?s)" + words):
        list(run_tasks(Squares, tmp_path, [(0, task)], 2, fresh=fresh))
    assert multiprocessing.active_children() == []


def test_available_cores():
    assert 1 <= processes.available_cores() <= os.cpu_count()


class Broken:
    """Cannot write its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, task: int) -> None:
        (self.folder / "none" / "x").write_text("")


class Unlocated:
    """A class that another process does not find, as those of a script."""


Unlocated.__module__ = "__main__"


def test_errors_of_files_and_unexpected_failures(tmp_path):
    with pytest.raises(StoreError, match="none/x: cannot be read or written .No such file or directory"):
        list(run_tasks(Broken, tmp_path, [(0, 1)], 1, fresh=True))
    words = r"^walker 3: unexpected failure \(ZeroDivisionError: by nothing\)\.$"
    with pytest.raises(UnexpectedFailure, match=words) as raised:
        list(run_tasks(Squares, tmp_path, [(3, "fail")], 1, fresh=True, name="walker {}".format))
    assert "raise ZeroDivisionError" in str(raised.value.__cause__)


def test_what_only_the_script_knows_is_refused(tmp_path):
    script = sys.modules["__main__"]
    for setup, task in ((Unlocated(), 1), (tmp_path, Unlocated()), (lambda: 0, 1)):
        with pytest.raises(SettingsError, match="cannot be passed to another process .*put classes and functions"):
            list(run_tasks(Squares, setup, [(0, task)], 1, fresh=True))
    assert multiprocessing.active_children() == []
    assert sys.modules["__main__"] is script
