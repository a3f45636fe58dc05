"""Work in processes of its own: children that die with their parent, and workers that take task after task."""

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
from typing import Any

from latf_sampling.errors import LatfError, SimulationError

DEATHS = 2
"""A task during which so many workers died is given up."""


def cores() -> int:
    """How many cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


class Child:
    """A spawned process that runs `target(*arguments, connection)`, and ends when its parent does.

    A Ctrl-C does not reach it: that is for the parent, which stops its children.

    Attributes
    ----------
    connection : multiprocessing.connection.Connection
        The parent's end of the pipe to it.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(target, *arguments, theirs), daemon=True)
        # The child inherits the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()

    @property
    def ended(self) -> str:
        """How the process ended, which is to be over: "SIGKILL", "exit code 1"."""
        self.process.join()
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def last_words(self) -> Any:
        """What it sent and nobody has read yet, or None."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, ConnectionResetError):
            return None


def stop(children: Iterable[Child]) -> None:
    """End processes, and wait until they are gone."""
    children = list(children)
    for child in children:
        child.process.terminate()
    for child in children:
        child.process.join()
        child.connection.close()


@dataclass(frozen=True)
class Died:
    """What a task gives whose workers died: how the last one ended."""

    how: str


def work(
    make: Callable[[Any], Callable[[Any], Any]], recipe: Any, tasks: Iterable[tuple[int, Any]], processes: int
) -> Iterator[tuple[int, Any]]:
    """Do tasks in parallel, each by a worker that has nothing else to do; yields results as they come.

    A worker that is killed takes nothing with it: its task is begun anew by another one.

    Parameters
    ----------
    make, recipe
        In each process `make(recipe)` makes the worker, a function from a task to its result. All of it is pickled.
    tasks
        Pairs of a number and a task; each is taken from the iterable when a worker is free for it.
    processes
        So many at once; 1 works in this process, without any other.

    Yields
    ------
    tuple
        The number of a task and its result, or `Died`.

    Raises
    ------
    LatfError
        A worker raised it; the others are stopped.

    Examples
    --------
    >>> from operator import itemgetter
    >>> list(work(itemgetter, 1, [(0, "ab"), (1, "cd")], processes=1))
    [(0, 'b'), (1, 'd')]
    """
    if processes == 1:
        worker = make(recipe)
        for number, task in tasks:
            yield number, worker(task)
        return
    source, again = iter(tasks), deque()
    busy: dict[Child, tuple[int, Any, int]] = {}
    idle: list[Child] = []
    try:
        while True:
            while len(busy) < processes and (entry := again.popleft() if again else _next(source)) is not None:
                child = idle.pop() if idle else Child(_serve, make, recipe)
                busy[child] = entry
                _send(child, entry[1])
            if not busy:
                return
            ready = multiprocessing.connection.wait(
                [*(child.connection for child in busy), *(child.process.sentinel for child in busy)]
            )
            for child in [child for child in busy if child.connection in ready or child.process.sentinel in ready]:
                number, task, deaths = busy.pop(child)
                answer = child.last_words()
                if answer is None:
                    how = child.ended
                    stop([child])
                    if deaths + 1 < DEATHS:
                        again.append((number, task, deaths + 1))
                    else:
                        yield number, Died(how)
                    continue
                idle.append(child)
                kind, value = answer
                if kind == "error":
                    raise value
                if kind == "failure":
                    raise SimulationError(f"task {number}: unexpected failure.\n{value}")
                yield number, value
    finally:
        stop([*busy, *idle])


def _next(source: Iterator[tuple[int, Any]]) -> tuple[int, Any, int] | None:
    entry = next(source, None)
    return None if entry is None else (*entry, 0)


def _send(child: Child, task: Any) -> None:
    """A child that died meanwhile is noticed when its answer is waited for."""
    try:
        child.connection.send(task)
    except (BrokenPipeError, ConnectionResetError):
        child.process.join()


def _serve(make: Callable[[Any], Callable[[Any], Any]], recipe: Any, connection) -> None:
    """What a worker's process runs."""
    worker = None
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            worker = make(recipe) if worker is None else worker
            answer = ("result", worker(task))
        except LatfError as error:
            answer = ("error", error)
        except Exception:
            answer = ("failure", traceback.format_exc())
        connection.send(answer)


def _run(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # torch's threads would compete with the other processes and with OpenMM's
    target(*arguments)


def _die_with_parent() -> None:
    """A parent that was killed cannot stop its children; they notice it and end themselves."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
