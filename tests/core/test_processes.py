"""A pool of processes: one that dies ends its own task alone, others are kept, none is left behind."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import wait
from multiprocessing import resource_tracker, util
from pathlib import Path

import pytest

from latf_sampling.core import processes
from latf_sampling.core.processes import LocalExecutor, ProcessLost
from latf_sampling.errors import SettingsError


def load_torch() -> None:
    import torch  # noqa: F401 - that is all


def identity(pause: float = 0.0) -> tuple[int, int | None]:
    time.sleep(pause)
    return os.getpid(), processes.slot()


def end(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().split()[2]


class Unlocated:
    """A class that another process does not find, as those of a script."""


Unlocated.__module__ = "__main__"


@pytest.fixture(scope="module")
def pool():
    others = set(multiprocessing.active_children())  # of earlier tests
    with LocalExecutor(2) as executor:
        yield executor
    assert set(multiprocessing.active_children()) <= others


def test_processes_are_kept_and_numbered(pool):
    first = [pool.submit(identity, 0.5) for _ in range(2)]
    pids = dict(future.result() for future in first)
    assert sorted(pids.values()) == [0, 1] and os.getpid() not in pids and processes.slot() is None
    again = [pool.submit(identity).result() for _ in range(4)]
    assert all(pids[pid] == slot for pid, slot in again)


def test_a_process_that_dies_ends_its_own_task_alone(pool):
    other = pool.submit(identity, 1.0)
    dying = pool.submit(end, signal.SIGKILL)
    with pytest.raises(ProcessLost, match="its process ended by SIGKILL") as raised:
        dying.result()
    assert raised.value.how == "SIGKILL"
    assert other.result()[0] and pool.submit(abs, -2).result() == 2


def test_errors_and_what_cannot_be_passed_on(pool):
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    with pytest.raises(TypeError, match="cannot be passed on"):
        pool.submit(eval, "lambda: 0").result()
    script = sys.modules["__main__"]
    with pytest.raises(SettingsError, match="cannot be passed to another process .*put classes and functions"):
        pool.submit(Unlocated).result()
    assert sys.modules["__main__"] is script
    assert pool.submit(abs, -3).result() == 3


def test_more_tasks_than_processes_and_widened(pool):
    futures = [pool.submit(identity, 0.1) for _ in range(5)]
    assert len({future.result()[0] for future in futures}) <= 2
    with pool.widened(3):
        futures = [pool.submit(identity, 1.0) for _ in range(3)]
        assert len({future.result()[0] for future in futures}) == 3
    assert pool.processes == 2


def in_a_pool_of_its_own(file: str) -> int:
    """In a process of a pool: let another one write its number to a file, and wait."""
    with LocalExecutor(1) as executor:
        return executor.submit(stay, file).result()


def stay(file: str) -> int:
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)
    return 0


def test_what_a_process_of_a_pool_starts_ends_with_it(pool, tmp_path):
    file = tmp_path / "process"
    future = pool.submit(in_a_pool_of_its_own, str(file))
    wait_until(lambda: file.exists() and file.read_text() != "")
    process = int(file.read_text())
    pool.kill([future])
    with pytest.raises(ProcessLost, match="SIGTERM"):
        future.result()
    wait_until(lambda: not Path(f"/proc/{process}").exists() or state_of(process) == "Z")


def wait_until(true: Callable[[], bool], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_idle_process_ends(monkeypatch):
    monkeypatch.setattr(processes, "IDLE", 0.1)
    with LocalExecutor(1) as pool:
        pid, _ = pool.submit(identity).result()
        while pid in {child.pid for child in multiprocessing.active_children()}:
            time.sleep(0.05)
        assert pool.submit(identity).result()[0] != pid


def test_an_idle_process_that_has_loaded_torch_ends_soon(monkeypatch):
    monkeypatch.setattr(processes, "IDLE_WITH_TORCH", 0.1)
    with LocalExecutor(1) as pool:
        pid, _ = pool.submit(identity).result()
        time.sleep(0.5)
        assert pool.submit(identity).result()[0] == pid
        pool.submit(load_torch).result()
        while pid in {child.pid for child in multiprocessing.active_children()}:
            time.sleep(0.05)


def test_kill_and_shutdown_end_stopped_processes(monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.3)
    pool = LocalExecutor(2)
    stopped, calm = pool.submit(end, signal.SIGSTOP), pool.submit(identity, 60)
    waiting = pool.submit(identity)
    while "T" not in {state_of(child.pid) for child in multiprocessing.active_children()}:
        time.sleep(0.05)
    pool.kill([stopped], "having a rest")
    with pytest.raises(ProcessLost, match="ended by having a rest"):
        stopped.result()
    waiting.result()  # in its place
    pool.shutdown(wait=False)
    wait([calm])
    with pytest.raises(ProcessLost, match="SIGTERM"):
        calm.result()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(identity)
    assert not any(thread.is_alive() for thread in pool._threads)


def test_a_process_that_cannot_be_killed_is_left_alone(monkeypatch):
    """As one that waits for a network disk: neither `end_processes` nor the end of this process waits for it long."""
    monkeypatch.setattr(processes, "GRACE", 0.2)
    child = processes.ChildProcess(time.sleep)
    pid = child.process.pid
    os.kill(pid, signal.SIGSTOP)
    while state_of(pid) != "T":
        time.sleep(0.01)
    with monkeypatch.context() as patch:
        patch.setattr(child, "signal", lambda number: None)
        began = time.monotonic()
        processes.end_processes([child])
        child.close()
    assert time.monotonic() - began < 5 and child.process not in multiprocessing.active_children()
    os.kill(pid, signal.SIGKILL)
    child.process.join()


def test_an_interruption_waits_for_a_process_that_is_being_started(monkeypatch, capfd):
    """Otherwise the process would print a traceback, since it was told half of what it needs."""
    spawn, begun = util.spawnv_passfds, []

    def interrupted(*arguments):
        begun.append(spawn(*arguments))
        _thread.interrupt_main()  # what another thread does that receives the signal
        return begun[0]

    resource_tracker.ensure_running()
    monkeypatch.setattr(util, "spawnv_passfds", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind
    try:
        with pytest.raises(KeyboardInterrupt):
            processes.ChildProcess(str)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    (pid,) = begun
    for child in multiprocessing.active_children():
        if child.pid == pid:
            child.join()
    assert "Traceback" not in capfd.readouterr().err


def test_available_cores():
    assert 1 <= processes.available_cores() <= os.cpu_count()
