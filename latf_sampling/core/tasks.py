"""Tasks on any executor of `concurrent.futures`: on processes of this machine, on Dask, Parsl or executorlib.

A task that is lost with its worker is submitted again. What an executor raises by itself is told from what a task
raises: the latter comes back as a result, whatever is installed where.
"""

from __future__ import annotations

import math
import os
import pickle
import queue
import socket
import threading
import time
import traceback
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from latf_sampling import __version__
from latf_sampling.core import arguments, processes
from latf_sampling.core.lease import Superseded
from latf_sampling.core.outputs import explain
from latf_sampling.core.processes import LocalExecutor, ProcessLost, passable
from latf_sampling.errors import FailureWarning, LatfError, SettingsError, SimulationError, StoreError

MAX_LOST = 10
"""A task is given up after so many workers were lost during it: systems short of memory and people kill processes,
nodes fail, and queues end their jobs, without a fault of the task."""
WATCH_INTERVAL = 0.5
"""s between two calls of a function that watches tasks."""
SILENCE = 60.0
"""s without progress after which it is looked for what a task should make: its worker may have finished it, and its
executor not have passed that on."""

LOST = {
    ("distributed", "KilledWorker"),
    ("executorlib", "ExecutorlibSocketError"),
    ("parsl", "ManagerLost"),
    ("parsl", "WorkerLost"),
}
"""Package and name of what executors raise for a task whose worker was lost, besides a `BrokenExecutor`."""

Setup = TypeVar("Setup")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerDied:
    """The result of a task that was given up, because its workers were lost: how the last one ended."""

    how: str


class UnexpectedFailure(SimulationError):
    """A worker raised an exception that is none of the package's; its cause is a `RemoteTraceback`."""


class RemoteTraceback(Exception):
    """The traceback of an exception in another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def run_tasks(
    make_worker: Callable[[Setup], Callable[[Task], Result]],
    setup: Setup,
    tasks: Iterable[tuple[int, Task]],
    executor: Executor | None,
    *,
    at_once: int | None = None,
    submitted: Callable[[int, Task], Task] = lambda number, task: task,
    begin_again: Callable[[int, str, int], bool] | None = None,
    watch: Callable[[int], None] | None = None,
    pulse: Callable[[int], object] | None = None,
    patience: float | None = None,
    is_done: Callable[[int], bool] | None = None,
    stop: Callable[[], None] = lambda: None,
    name: Callable[[int], str] = "task {}".format,
) -> Generator[tuple[int, Result | WorkerDied], None, None]:
    """Run tasks in parallel, and yield their results in the order in which they finish.

    Tasks that still run when the caller stops iterating, or is interrupted, are ended: processes of this machine are
    killed; other workers are asked to end by `stop`, and waited for as long as `core.processes.GRACE`.

    Parameters
    ----------
    make_worker, setup
        `make_worker(setup)` is called in each worker and returns a function from a task to its result. All of these
        are pickled.
    tasks
        Pairs of a number and a task; each is taken from the iterable when it is submitted.
    executor
        Where they run; `None` runs them here, one after the other, and pickles nothing.
    at_once
        Number of tasks that are submitted at the same time; by default as many as a `LocalExecutor` has processes, and
        all of them elsewhere.
    submitted
        Called with the number and the task whenever it is submitted; returns the task to submit.
    begin_again
        Called with the number of a task whose worker was lost, how, and how many were lost during this task so far:
        whether it is submitted again. By default it is given up after `MAX_LOST`.
    watch
        Called with the number of submitted tasks every half second and when one of them ends, unless they run here.
    pulse, patience
        A worker is given up when `pulse`, of the number of its task, has had the same value for so many seconds. A task
        whose pulse is `None` has no worker yet: it is submitted again after these seconds, later after twice as many,
        and so on, in case its executor lost it; that counts as no lost worker. Processes of this machine have to begin
        within `patience`, too. By default there is no limit.
    is_done
        Called with the number of a task that was begun and has shown no progress for `SILENCE`: whether everything that
        it makes is there. It has then finished with the result `None`, whether its executor knows or not. Needs
        `pulse`; processes of this machine are not asked.
    stop
        Called when tasks are ended that may still run.
    name
        What a task is called in an error, by its number.

    Yields
    ------
    tuple
        The number of a task and its result, or `WorkerDied`.

    Raises
    ------
    LatfError
        A worker raised it; the others are ended.
    StoreError
        A worker could not read or write a file; the others are ended.
    UnexpectedFailure
        A worker raised another exception; the others are ended.
    SimulationError
        The executor does not work any more.
    SettingsError
        Worker, setup or a task cannot be passed to another process.

    Examples
    --------
    >>> from operator import itemgetter
    >>> with LocalExecutor(1) as executor:
    ...     list(run_tasks(itemgetter, 1, [(0, "ab"), (1, "cd")], executor))
    [(0, 'b'), (1, 'd')]
    """
    if executor is None:
        worker = make_worker(setup)
        for number, task in tasks:
            yield number, worker(submitted(number, task))
        return
    batch = _Batch(executor, make_worker, setup, submitted)
    width = at_once or (executor.processes if isinstance(executor, LocalExecutor) else math.inf)
    if begin_again is None:
        begin_again = lambda number, how, lost: lost < MAX_LOST  # noqa: E731
    new = (_Assignment(number, task) for number, task in tasks)
    again: deque[_Assignment] = deque()
    try:
        while True:
            while len(batch.running) < width and (assignment := again.popleft() if again else next(new, None)):
                batch.submit(assignment)
            if not batch.running:
                return
            began = time.monotonic()
            ready = batch.ready()
            if watch is not None:
                watch(len(batch.running))
            if pulse is not None:
                # A process that was stopped itself, as by Ctrl-Z, must not count that time.
                batch.beat(pulse, min(time.monotonic() - began, 2 * WATCH_INTERVAL))
                if is_done is not None:
                    ready += batch.finished(is_done)
                if patience is not None:
                    ready += batch.give_up(patience)
            for future in ready:
                assignment = batch.running.pop(future)
                kind, content = assignment.verdict or _outcome(future)
                if kind == "waiting":
                    warnings.warn(f"{name(assignment.number)}: {content}", FailureWarning, stacklevel=2)
                    waits = assignment.waits + 1
                    again.append(_Assignment(assignment.number, assignment.task, assignment.lost, waits))
                elif kind == "lost":
                    lost = _Assignment(assignment.number, assignment.task, assignment.lost + 1)
                    if begin_again(lost.number, content, lost.lost):
                        again.append(lost)
                    else:
                        yield lost.number, WorkerDied(content)
                elif kind == "error":
                    raise content
                elif kind == "failure":
                    what, text = content
                    failure = f"{name(assignment.number)}: unexpected failure ({what})."
                    raise UnexpectedFailure(failure) from RemoteTraceback(text)
                else:
                    yield assignment.number, content
    finally:
        batch.end(stop)


def check_executor(name: str, value: Any) -> Executor:
    """A value that must be an executor.

    Raises
    ------
    SettingsError
        It is none; names it.

    Examples
    --------
    >>> check_executor("executor", "local")
    Traceback (most recent call last):
    latf_sampling.errors.SettingsError: executor: must be a concurrent.futures.Executor, such as \
distributed.Client(...).get_executor(); got 'local'.
    """
    if not isinstance(value, Executor):
        raise SettingsError(
            f"{name}: must be a concurrent.futures.Executor, such as distributed.Client(...).get_executor(); got "
            f"{arguments.describe(value)}."
        )
    return value


def is_lost(error: BaseException) -> bool:
    """Whether an executor says that the worker of a task was lost.

    >>> is_lost(BrokenExecutor()), is_lost(ValueError())
    (True, False)
    """
    names = {(each.__module__.partition(".")[0], each.__name__) for each in type(error).__mro__}
    return isinstance(error, BrokenExecutor) or not names.isdisjoint(LOST)


def describe(error: BaseException) -> str:
    """Type and text of an exception on one line.

    >>> describe(KeyError("spam"))
    "KeyError: 'spam'"
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass
class _Assignment:
    """A task, its number, how many workers were lost during it, and how often it waited in vain for one.

    `unchanged` is for how long its pulse has been the same, s, and `looked` what that was when it was last looked for
    what the task makes. `verdict` is what became of it where its executor is not waited for, as by `_outcome`.
    """

    number: int
    task: Any
    lost: int = 0
    waits: int = 0
    pulse: object = None
    unchanged: float = 0.0
    looked: float = 0.0
    verdict: tuple[str, Any] | None = None

    def beat(self, pulse: object, waited: float) -> None:
        """Note the present pulse, so many seconds after the last one."""
        if pulse == self.pulse:
            self.unchanged += waited
        else:
            self.pulse, self.unchanged, self.looked = pulse, 0.0, 0.0

    def is_silent(self) -> bool:
        """Whether it was begun, and has shown no progress for `SILENCE`, and again for as long."""
        if self.pulse is None or self.unchanged < self.looked + SILENCE:
            return False
        self.looked = self.unchanged
        return True


@dataclass(frozen=True)
class _Kind:
    """What all tasks of one call of `run_tasks` have in common, and who called it: host and process."""

    key: str
    worker: bytes
    driver: tuple[str, int]
    version: str


class _Batch:
    """The tasks of one call of `run_tasks` that are submitted and not finished."""

    def __init__(self, executor: Executor, make_worker: Callable, setup: Any, submitted: Callable) -> None:
        self.executor, self.submitted = executor, submitted
        self.kind = _Kind(uuid.uuid4().hex, passable((make_worker, setup)), _here(), __version__)
        self.running: dict[Future, _Assignment] = {}
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()

    def submit(self, assignment: _Assignment) -> None:
        task = passable(self.submitted(assignment.number, assignment.task))
        try:
            future = self.executor.submit(_call, self.kind, task)
        except Exception as error:  # whatever an executor raises that is broken or was shut down
            raise _failed(error) from error
        self.running[future] = assignment
        future.add_done_callback(self._done.put)

    def ready(self) -> list[Future]:
        """Tasks that have come to an end; waits for the first, or for `WATCH_INTERVAL`."""
        ready = []
        with suppress(queue.Empty):
            ready.append(self._done.get(timeout=WATCH_INTERVAL))
            while True:
                ready.append(self._done.get_nowait())
        return [future for future in ready if future in self.running]  # others were given up

    def beat(self, pulse: Callable[[int], object], waited: float) -> None:
        """Note the pulse of each task, so many seconds after the last time."""
        for assignment in self.running.values():
            assignment.beat(pulse(assignment.number), waited)

    def finished(self, is_done: Callable[[int], bool]) -> list[Future]:
        """Tasks that have made everything, and of which the executor says nothing."""
        if isinstance(self.executor, LocalExecutor):
            return []
        finished = []
        for future, assignment in self.running.items():
            if not future.done() and assignment.is_silent() and is_done(assignment.number):
                assignment.verdict = "result", None
                finished.append(future)
        return finished

    def give_up(self, patience: float) -> list[Future]:
        """Kill processes without progress; returns tasks of other workers without progress, or without a worker."""
        local, stuck = isinstance(self.executor, LocalExecutor), []
        for future, assignment in self.running.items():
            waits = assignment.pulse is None and not local
            limit = patience * 2**assignment.waits if waits else patience
            if assignment.verdict is not None or assignment.unchanged <= limit or future.done():
                continue
            if isinstance(self.executor, LocalExecutor):
                self.executor.kill([future], f"being killed after {patience:g} s without progress")
                continue
            _cancel(future)
            if waits:
                words = f"no worker has begun it for {limit:g} s; it is submitted again, in case its executor lost it."
                assignment.verdict = "waiting", words
            else:
                assignment.verdict = "lost", f"having made no progress for {patience:g} s"
            stuck.append(future)
        return stuck

    def end(self, stop: Callable[[], None]) -> None:
        """End the tasks that still run."""
        if not self.running:
            return
        for future in self.running:
            _cancel(future)
        if isinstance(self.executor, LocalExecutor):
            self.executor.kill(self.running)
        else:
            stop()
            wait(self.running, processes.GRACE)


def _outcome(future: Future) -> tuple[str, Any]:
    """What became of a task, as `_call` returns it; "lost" if its worker was lost.

    Raises
    ------
    SimulationError
        The executor failed.
    """
    error = CancelledError() if future.cancelled() else future.exception()
    if error is None:
        kind, content, told = future.result()
        for category, text in told:
            warnings.warn(text, category, stacklevel=3)
        return kind, content
    if isinstance(error, ProcessLost):
        return "lost", error.how
    if is_lost(error):
        return "lost", f"the loss of its worker ({describe(error)})"
    if isinstance(error, LatfError):
        raise error
    raise _failed(error) from error


def _failed(error: BaseException) -> SimulationError:
    """What to raise where an executor fails, and not a task."""
    return SimulationError(
        f"executor: runs no tasks any more ({describe(error).rstrip('.')}). What is finished stays; the same command "
        "goes on with an executor that works."
    )


def _cancel(future: Future) -> None:
    with suppress(NotImplementedError):  # of Parsl
        future.cancel()


def _here() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


_own = threading.local()
"""The worker of this thread, and the key of its tasks."""
_telling = threading.Lock()


def _call(kind: _Kind, task: bytes) -> tuple[str, Any, list]:
    """In a worker: run a task. Returns "result", "error", "failure" or "lost", what that is, and warnings."""
    if kind.version != __version__:
        where = socket.gethostname()
        error = SettingsError(f"executor: {where} has latf_sampling {__version__}, and {kind.version} is running here.")
        return "error", error, []
    # What is warned of elsewhere, the driver tells; `warnings` can keep them for one thread at a time.
    if kind.driver == _here() or not _telling.acquire(blocking=False):
        return (*_result(kind, task), [])
    try:
        with warnings.catch_warnings(record=True) as told:
            message = _result(kind, task)
        return (*message, [(each.category, str(each.message)) for each in told])
    finally:
        _telling.release()


def _result(kind: _Kind, task: bytes) -> tuple[str, Any]:
    try:
        if getattr(_own, "key", None) != kind.key:
            _own.key = _own.worker = None  # which may hold the memory that the next one needs
            make_worker, setup = pickle.loads(kind.worker)
            _own.worker = make_worker(setup)
            _own.key = kind.key
        return "result", _own.worker(pickle.loads(task))
    except Superseded as error:
        return "lost", str(error)
    except LatfError as error:
        return "error", error
    except OSError as error:
        return "error", StoreError(explain(error))
    except Exception as error:
        return "failure", (describe(error), traceback.format_exc())
