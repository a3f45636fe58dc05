"""Tasks in child processes, which die with their parent; workers in them take one task after the other."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from latf_sampling.errors import LatfError, SimulationError

MAX_DEATHS = 2
"""A task is given up after so many workers died during it."""
WATCH_INTERVAL = 0.5
"""s between two calls of a function that watches tasks."""

Setup = TypeVar("Setup")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerDied:
    """The result of a task that was given up, because its workers died: how the last one ended."""

    how: str


def run_tasks(
    make_worker: Callable[[Setup], Callable[[Task], Result]],
    setup: Setup,
    tasks: Iterable[tuple[int, Task]],
    processes: int,
    *,
    max_deaths: int = MAX_DEATHS,
    fresh: bool = False,
    watch: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Run tasks in parallel, and yield their results in the order in which they finish.

    If a worker is killed, another one begins its task anew. The workers are stopped when the caller stops iterating,
    and when the parent is interrupted: a Ctrl-C reaches the parent alone.

    Parameters
    ----------
    make_worker, setup
        `make_worker(setup)` is called in each process and returns the worker, a function from a task to its result.
        All of these are pickled.
    tasks
        Pairs of a number and a task; each is taken from the iterable when a worker is free for it.
    processes
        Number of tasks that run at the same time. With 1 they run in this process, unless `fresh` is set.
    max_deaths
        A task is given up after so many workers died during it.
    fresh
        Whether each task gets a process of its own, which ends with it; by default a worker takes several tasks.
    watch
        Called with the number of running tasks every half second and when one of them ends, unless they run in this
        process.

    Yields
    ------
    tuple
        The number of a task and its result, or `WorkerDied`.

    Raises
    ------
    LatfError
        A worker raised it; the others are stopped.
    SimulationError
        A worker raised an unexpected exception; the others are stopped.

    Examples
    --------
    >>> from operator import itemgetter
    >>> list(run_tasks(itemgetter, 1, [(0, "ab"), (1, "cd")], processes=1))
    [(0, 'b'), (1, 'd')]
    """
    if processes == 1 and not fresh:
        worker = make_worker(setup)
        for number, task in tasks:
            yield number, worker(task)
        return
    new = (_Assignment(number, task) for number, task in tasks)
    retries: deque[_Assignment] = deque()
    busy: dict[ChildProcess, _Assignment] = {}
    idle: list[ChildProcess] = []
    try:
        while True:
            while len(busy) < processes and (assignment := retries.popleft() if retries else next(new, None)):
                child = idle.pop() if idle else ChildProcess(_serve, make_worker, setup, fresh)
                busy[child] = assignment
                child.send(assignment.task)
            if not busy:
                return
            ready = _wait(busy, None if watch is None else WATCH_INTERVAL)
            if watch is not None:
                watch(len(busy))
            for child in ready:
                assignment = busy.pop(child)
                message = child.receive()
                if message is None:
                    how = child.exit_reason
                    terminate([child])
                    assignment.deaths += 1
                    if assignment.deaths < max_deaths:
                        retries.append(assignment)
                    else:
                        yield assignment.number, WorkerDied(how)
                    continue
                if fresh:
                    child.join()
                else:
                    idle.append(child)
                kind, content = message
                if kind == "error":
                    raise content
                if kind == "failure":
                    raise SimulationError(f"task {assignment.number}: unexpected failure.\n{content}")
                yield assignment.number, content
    finally:
        terminate([*busy, *idle])


def available_cores() -> int:
    """Number of cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


class ChildProcess:
    """A spawned process that runs `target(*arguments, connection)`, and ends when its parent does.

    It does not receive a Ctrl-C: the parent does, and stops its children.

    Attributes
    ----------
    connection : multiprocessing.connection.Connection
        The parent's end of the pipe to the child.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=_run, args=(target, *arguments, child_end), daemon=True)
        # The child inherits the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        child_end.close()

    @property
    def exit_reason(self) -> str:
        """How the process ended: "SIGKILL", "exit code 1"; waits for the end."""
        self.process.join()
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def send(self, message: Any) -> None:
        """Send a message; the death of the child is noticed when its answer is waited for."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            self.process.join()

    def receive(self) -> Any:
        """A message that was sent and not read yet, or `None`."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, ConnectionResetError):
            return None

    def join(self) -> None:
        """Wait for the end of the process, and close the connection."""
        self.process.join()
        self.connection.close()


def terminate(children: Iterable[ChildProcess]) -> None:
    """End processes, and wait for their end."""
    children = list(children)
    for child in children:
        child.process.terminate()
    for child in children:
        child.join()


@dataclass
class _Assignment:
    """A task, its number, and how many workers died during it."""

    number: int
    task: Any
    deaths: int = 0


def _wait(children: Iterable[ChildProcess], timeout: float | None) -> list[ChildProcess]:
    """Children that sent a message or ended; waits for the first, or until the time is over."""
    children = list(children)
    handles = [*(child.connection for child in children), *(child.process.sentinel for child in children)]
    ready = multiprocessing.connection.wait(handles, timeout)
    return [child for child in children if child.connection in ready or child.process.sentinel in ready]


def _serve(make_worker: Callable[[Any], Callable[[Any], Any]], setup: Any, fresh: bool, connection: Connection) -> None:
    """The loop of a worker's process; with `fresh` it ends after one task."""
    worker = None
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            worker = make_worker(setup) if worker is None else worker
            message = ("result", worker(task))
        except LatfError as error:
            message = ("error", error)
        except Exception:
            message = ("failure", traceback.format_exc())
        connection.send(message)
        if fresh:
            return


def _run(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # torch's threads would compete with the other processes and with OpenMM's
    target(*arguments)


def _die_with_parent() -> None:
    """End this process when its parent ends: a parent that was killed cannot stop its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
