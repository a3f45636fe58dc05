"""Tasks on any executor: results although workers are lost, the package's errors unchanged, an end for all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from latf_sampling.core import processes, tasks
from latf_sampling.core.lease import Superseded
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.core.tasks import MAX_LOST, UnexpectedFailure, WorkerDied, check_executor, is_lost, run_tasks
from latf_sampling.errors import DataError, FailureWarning, HistoryWarning, SettingsError, SimulationError, StoreError


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
        if task == "write":
            (self.folder / "none" / "x").write_text("")
        if task == "warn":
            warnings.warn("careful", HistoryWarning, stacklevel=2)
        if task == "superseded":
            raise Superseded("another attempt")
        if task == "wait":
            while not (self.folder / "end").exists():
                time.sleep(0.01)
        return 4 if isinstance(task, str) else task**2


class Flaky(Executor):
    """An executor that runs a task here, after it has lost its worker so many times."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error, self.times, self.submitted = error, times, 0

    def submit(self, fn, /, *args, **kwargs) -> Future:
        self.submitted += 1
        future: Future = Future()
        if self.submitted <= self.times:
            future.set_exception(self.error)
        else:
            future.set_result(fn(*args, **kwargs))
        return future


class Silent(Executor):
    """An executor that never says what became of its first tasks, which it runs, or does not even begin."""

    def __init__(self, runs: bool, times: int = 1) -> None:
        self.runs, self.times, self.futures = runs, times, []

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future: Future = Future()
        self.futures.append(future)
        if len(self.futures) > self.times:
            future.set_result(fn(*args, **kwargs))
        elif self.runs:
            fn(*args, **kwargs)
        return future


def named(module: str, name: str) -> BaseException:
    """As an executor's package would raise it."""
    return type(name, (Exception,), {"__module__": module})("worker-3 is gone.")


@pytest.fixture(scope="module")
def pool():
    with LocalExecutor(2) as executor:
        yield executor


def test_results_although_workers_die(tmp_path, monkeypatch, pool):
    monkeypatch.setattr(tasks, "MAX_LOST", 2)
    these = [(0, 5), (1, "die"), (2, "die once"), (3, 7)]
    assert dict(run_tasks(Squares, tmp_path, these, pool)) == {0: 25, 1: WorkerDied("SIGKILL"), 2: 4, 3: 49}


def test_a_worker_takes_several_tasks_and_is_made_anew_for_others(tmp_path, pool):
    answers = [answer for _, answer in run_tasks(Squares, tmp_path, ((k, "who") for k in range(9)), pool)]
    assert os.getpid() not in {pid for pid, _ in answers} and max(done for _, done in answers) > 1
    again = [answer for _, answer in run_tasks(Squares, tmp_path, [(0, "who")], pool)]
    assert again[0][0] in {pid for pid, _ in answers} and again[0][1] == 1


def test_without_an_executor_tasks_run_here(tmp_path):
    results = list(run_tasks(Squares, tmp_path, [(0, "who"), (1, "who")], None))
    assert results == [(0, (os.getpid(), 1)), (1, (os.getpid(), 2))]


def test_the_caller_decides_whether_a_task_is_begun_anew(tmp_path, pool):
    deaths, running = [], []
    results = run_tasks(
        Squares, tmp_path, [(0, "die once"), (1, 3)], pool,
        begin_again=lambda *death: bool(deaths.append(death)), watch=running.append,
    )  # fmt: skip
    assert dict(results) == {0: WorkerDied("SIGKILL"), 1: 9}
    assert deaths == [(0, "SIGKILL", 1)] and running and max(running) <= 2


def test_a_worker_without_progress_is_killed(tmp_path, monkeypatch, pool):
    monkeypatch.setattr(processes, "GRACE", 0.3)
    deaths = []

    def begin_again(number: int, how: str, count: int) -> bool:
        deaths.append(how)
        return True

    results = run_tasks(
        Squares, tmp_path, [(0, "stop once")], pool, begin_again=begin_again,
        # nothing counts before the worker is stopped: to begin takes seconds
        pulse=lambda number: 1 if (tmp_path / "stopped").exists() and not deaths else time.monotonic(), patience=0.8,
    )  # fmt: skip
    assert list(results) == [(0, 4)]
    assert deaths == ["being killed after 0.8 s without progress"]


def test_another_executor_without_progress_is_not_waited_for(tmp_path, monkeypatch):
    """A thread cannot be killed: the task is submitted again, and what the first attempt returns later is nothing."""
    attempts = []

    def submitted(number: int, task: str) -> str:
        attempts.append(number)
        return task if len(attempts) == 1 else "go"

    with ThreadPoolExecutor(2) as threads:
        beats = iter([None])  # no beat before a worker has begun
        results = run_tasks(
            Squares, tmp_path, [(0, "wait")], threads, submitted=submitted,
            pulse=lambda number: next(beats, 1), patience=0.6,
        )  # fmt: skip
        assert list(results) == [(0, 4)] and attempts == [0, 0]
        (tmp_path / "end").touch()


def test_a_task_that_its_executor_lost_is_submitted_again(tmp_path):
    """Nobody has begun it: no worker was lost, and the next wait is twice as long."""
    executor, losses = Silent(runs=False), []
    results = run_tasks(
        Squares, tmp_path, [(0, 3)], executor, begin_again=lambda *loss: bool(losses.append(loss)),
        pulse=lambda number: None, patience=0.6, name="walker {}".format,
    )  # fmt: skip
    with pytest.warns(FailureWarning, match=r"^walker 0: no worker has begun it for 0\.6 s; it is submitted again"):
        assert list(results) == [(0, 9)]
    assert len(executor.futures) == 2 and executor.futures[0].cancelled() and not losses


def test_the_next_wait_for_a_worker_is_twice_as_long():
    batch = tasks._Batch(Silent(runs=False, times=3), Squares, None, lambda number, task: task)
    for waits in range(3):
        batch.submit(tasks._Assignment(waits, 1, waits=waits))
    for seconds, expected in ((1.1, {0}), (1.0, {0, 1}), (2.0, {0, 1, 2})):
        batch.beat(lambda number: None, seconds)
        batch.give_up(1.0)
        assert {each.number for each in batch.running.values() if each.verdict is not None} == expected


def test_a_task_that_has_made_everything_is_finished_whatever_its_executor_says(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "SILENCE", 0.6)
    executor, looks = Silent(runs=True), []

    def is_done(number: int) -> bool:
        looks.append((number, time.monotonic()))
        if len(looks) == 2:
            (tmp_path / "made").touch()
        return (tmp_path / "made").exists()

    results = run_tasks(Squares, tmp_path, [(0, 3)], executor, pulse=lambda number: 1.0, is_done=is_done)
    assert list(results) == [(0, None)] and len(executor.futures) == 1
    (_, first), (_, second) = looks  # not at every look at the pulse, which may be at a thousand walkers
    assert second - first > 0.5


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        ("refuse", DataError, "^that is no number$"),
        ("fail", UnexpectedFailure, r"^task 0: unexpected failure \(ZeroDivisionError: by nothing\)\.$"),
        ("write", StoreError, "none/x: cannot be read or written .No such file or directory"),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_errors_arrive_and_end_the_others(tmp_path, task, error, words, elsewhere, pool):
    stopped = []

    def stop() -> None:
        stopped.append(1)
        (tmp_path / "end").touch()

    with ThreadPoolExecutor(2) as threads, pytest.raises(error, match=words) as raised:
        executor = threads if elsewhere else pool
        list(run_tasks(Squares, tmp_path, [(0, task), (1, "wait")], executor, stop=stop))
    assert bool(stopped) == elsewhere
    if task == "fail":
        assert "raise ZeroDivisionError" in str(raised.value.__cause__)


def test_stopped_workers_are_killed_soon_also_by_a_second_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 30.0)
    before = set(multiprocessing.active_children())

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    def check(running: int) -> None:
        new = [child for child in multiprocessing.active_children() if child not in before]
        if [Path(f"/proc/{child.pid}/stat").read_text().split()[2] for child in new] == ["T", "T"]:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGUSR2, interrupted)
    executor = LocalExecutor(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run_tasks(Squares, tmp_path, [(k, "stop") for k in range(2)], executor, watch=check))
    finally:
        signal.signal(signal.SIGUSR2, handler)
        executor.shutdown(wait=False)
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.parametrize(
    "error",
    [
        BrokenExecutor("worker-3 is gone."),
        named("distributed.scheduler", "KilledWorker"),
        named("parsl.executors.high_throughput.errors", "ManagerLost"),
        named("parsl.executors.high_throughput.errors", "WorkerLost"),
        named("executorlib.standalone.interactive.communication", "ExecutorlibSocketError"),
    ],
)
def test_lost_workers_of_other_executors(tmp_path, error):
    assert is_lost(error) and not is_lost(named("numpy.core", "WorkerLost")) and not is_lost(ValueError())
    executor = Flaky(error, MAX_LOST - 1)
    assert list(run_tasks(Squares, tmp_path, [(0, 3)], executor)) == [(0, 9)] and executor.submitted == MAX_LOST
    ((number, result),) = run_tasks(Squares, tmp_path, [(0, 3)], Flaky(error, 1000))
    assert number == 0 and isinstance(result, WorkerDied)
    assert result.how == f"the loss of its worker ({type(error).__name__}: worker-3 is gone.)"


def test_an_executor_that_fails_ends_all_with_one_sentence(tmp_path):
    words = r"^executor: runs no tasks any more \(OSError: no scheduler\). What is finished stays; .* works\.$"
    with pytest.raises(SimulationError, match=words):
        list(run_tasks(Squares, tmp_path, [(0, 3)], Flaky(OSError("no scheduler."), 1)))
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    with pytest.raises(SimulationError, match=r"executor: runs no tasks any more \(RuntimeError: cannot schedule"):
        list(run_tasks(Squares, tmp_path, [(0, 3)], closed))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as broken:
        results = run_tasks(Squares, tmp_path, [(0, "die")], broken)
        with pytest.raises(SimulationError, match=r"executor: runs no tasks any more \(BrokenProcessPool"):
            list(results)


def test_warnings_of_workers_and_superseded_attempts(tmp_path, pool):
    with pytest.warns(HistoryWarning, match="careful"):
        assert list(run_tasks(Squares, tmp_path, [(0, "warn")], pool)) == [(0, 4)]
    results = dict(run_tasks(Squares, tmp_path, [(0, "superseded")], pool))
    assert results == {0: WorkerDied("another attempt")}


def test_what_cannot_be_passed_and_other_versions(tmp_path, pool, monkeypatch):
    for setup, task in ((lambda: 0, 1), (tmp_path, lambda: 0)):
        with pytest.raises(SettingsError, match="cannot be passed to another process .*put classes and functions"):
            list(run_tasks(Squares, setup, [(0, task)], pool))
    with pytest.raises(SettingsError, match="executor: must be a concurrent.futures.Executor, .*got 'dask'"):
        check_executor("executor", "dask")
    monkeypatch.setattr(tasks, "__version__", "0.1")
    with pytest.raises(SettingsError, match=r"executor: .* has latf_sampling .*, and 0\.1 is running here"):
        list(run_tasks(Squares, tmp_path, [(0, 1)], pool))
