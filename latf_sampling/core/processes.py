"""Tasks in child processes, which die with their parent; workers in them take one task after the other."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import process, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from latf_sampling.core.outputs import explain
from latf_sampling.errors import LatfError, SettingsError, SimulationError, StoreError

MAX_DEATHS = 2
"""By default a task is given up after so many workers died during it."""
WATCH_INTERVAL = 0.5
"""s between two calls of a function that watches tasks."""
GRACE = 5.0
"""s that processes have to end after they were asked to; then they are killed."""
GROUP_DELAY = 0.5
"""s within which a signal that ended a child also reaches this process, if it was sent to both."""

Setup = TypeVar("Setup")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerDied:
    """The result of a task that was given up, because its workers died: how the last one ended."""

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
    processes: int,
    *,
    begin_again: Callable[[int, str, int], bool] = lambda number, how, deaths: deaths < MAX_DEATHS,
    fresh: bool = False,
    watch: Callable[[int], None] | None = None,
    pulse: Callable[[int], object] | None = None,
    patience: float | None = None,
    name: Callable[[int], str] = "task {}".format,
) -> Generator[tuple[int, Result | WorkerDied], None, None]:
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
    begin_again
        Called with the number of a task whose worker died, how it ended, and how many workers died during this task so
        far: whether another worker begins it anew. By default it is given up when two have died.
    fresh
        Whether each task gets a process of its own, which ends with it; by default a worker takes several tasks.
    watch
        Called with the number of running tasks every half second and when one of them ends, unless they run in this
        process.
    pulse, patience
        A worker is killed when `pulse`, of the number of its task, has had the same value for so many seconds. By
        default there is no limit.
    name
        What a task is called in an error, by its number.

    Yields
    ------
    tuple
        The number of a task and its result, or `WorkerDied`.

    Raises
    ------
    LatfError
        A worker raised it; the others are stopped.
    StoreError
        A worker could not read or write a file; the others are stopped.
    UnexpectedFailure
        A worker raised another exception; the others are stopped.
    SettingsError
        Worker, setup or a task cannot be passed to another process.

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
            began = time.monotonic()
            ready = _wait(busy, None if watch is pulse is None else WATCH_INTERVAL)
            if watch is not None:
                watch(len(busy))
            stuck = []
            if pulse is not None and patience is not None:
                # A process that was stopped itself, as by Ctrl-Z, must not count that time.
                waited = min(time.monotonic() - began, 2 * WATCH_INTERVAL)
                stuck = [
                    child
                    for child, assignment in busy.items()
                    if assignment.idle(pulse(assignment.number), waited) > patience and child not in ready
                ]
            for child in [*ready, *stuck]:
                assignment = busy.pop(child)
                message = child.receive()
                if message is None:
                    how = f"being killed after {patience:g} s without progress" if child in stuck else child.exit_reason
                    terminate([child])
                    if how == "SIGTERM":
                        time.sleep(GROUP_DELAY)  # a signal to all processes of a job is no failure of this one
                    assignment.deaths += 1
                    if begin_again(assignment.number, how, assignment.deaths):
                        retries.append(_Assignment(assignment.number, assignment.task, assignment.deaths))
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
                    what, text = content
                    failure = f"{name(assignment.number)}: unexpected failure ({what})."
                    raise UnexpectedFailure(failure) from RemoteTraceback(text)
                yield assignment.number, content
    finally:
        terminate([*busy, *idle])


def available_cores() -> int:
    """Number of cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


class ChildProcess:
    """A spawned process that runs `target(*arguments, connection)`, and ends when its parent does.

    It does not receive a Ctrl-C, nor the end of the terminal, nor SIGUSR1, which queues send to all processes of a job
    before its time is over: the parent does, and stops its children. It imports nothing of the script that runs in the
    parent, which therefore needs no ``if __name__ == "__main__"``.

    Attributes
    ----------
    connection : multiprocessing.connection.Connection
        The parent's end of the pipe to the child.

    Raises
    ------
    SettingsError
        The target or an argument cannot be passed to another process.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=_run, args=(target, *arguments, child_end), daemon=True)
        resource_tracker.ensure_running()  # which would unblock SIGINT, if it had to be started below
        # The child inherits the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
        try:
            with _script_hidden(), _as_settings_error():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        child_end.close()

    @property
    def exit_reason(self) -> str:
        """How the process ended: "SIGKILL", "exit code 1"; one that does not end by itself is killed."""
        self._end()
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def _end(self) -> None:
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(GRACE)

    def send(self, message: Any) -> None:
        """Send a message; the death of the child is noticed when its answer is waited for.

        Raises
        ------
        SettingsError
            The message cannot be passed to another process.
        """
        try:
            with _script_hidden(), _as_settings_error():
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
        """Wait for the end of the process, which has nothing left to do, and close the connection."""
        self._end()
        self.close()

    def close(self) -> None:
        """Close the connection to a process that has ended, or that cannot be ended."""
        self.connection.close()
        if self.process.is_alive():  # or the end of this process would wait for it
            vars(process)["_children"].discard(self.process)


def terminate(children: Iterable[ChildProcess]) -> None:
    """End processes: ask all of them to, and kill after `GRACE` those that are left, such as stopped ones.

    An interruption meanwhile, such as a second Ctrl-C, kills them at once. A process that cannot even be killed, since
    it waits for a network disk, is left to the operating system.
    """
    children = list(children)
    try:
        for child in children:
            child.process.terminate()
        end = time.monotonic() + GRACE
        for child in children:
            child.process.join(max(0.0, end - time.monotonic()))
    finally:
        for child in children:
            if child.process.is_alive():
                child.process.kill()
        end = time.monotonic() + GRACE
        for child in children:
            child.process.join(max(0.0, end - time.monotonic()))
            child.close()


_script_lock = threading.RLock()


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Let `multiprocessing` find an empty module in place of the script that runs in this process.

    It would have a child import the script first, which then starts the same work again unless all of it stands under
    ``if __name__ == "__main__"``.
    """
    with _script_lock:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


@contextmanager
def _as_settings_error() -> Iterator[None]:
    """An object that cannot be pickled is the caller's: most often a class or function of the script itself."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"an object cannot be passed to another process ({error}); put classes and functions of your own into a "
            "file beside the script, and import them from there."
        ) from error


@dataclass
class _Assignment:
    """A task, its number, how many workers died during it, and for how long its pulse has been the same, s."""

    number: int
    task: Any
    deaths: int = 0
    pulse: object = None
    unchanged: float = 0.0

    def idle(self, pulse: object, waited: float) -> float:
        """Note the present pulse, so many seconds after the last one; returns for how long it has been the same."""
        self.unchanged = self.unchanged + waited if pulse == self.pulse else 0.0
        self.pulse = pulse
        return self.unchanged


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
        except OSError as error:
            message = ("error", StoreError(explain(error)))
        except Exception as error:
            message = ("failure", (describe(error), traceback.format_exc()))
        connection.send(message)
        if fresh:
            return


def describe(error: BaseException) -> str:
    """Type and text of an exception on one line.

    >>> describe(KeyError("spam"))
    "KeyError: 'spam'"
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
