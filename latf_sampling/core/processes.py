"""Processes of this machine that take tasks: children that die with their parent, and a pool of them.

What runs tasks on a pool, this one or any other, is `latf_sampling.core.tasks`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from multiprocessing import process, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from latf_sampling.core.plugins import import_openmm
from latf_sampling.errors import SettingsError

GRACE = 5.0
"""s that processes have to end after they were asked to; then they are killed."""
GROUP_DELAY = 0.5
"""s within which a signal that ended a child also reaches this process, if it was sent to both."""
INTERRUPTIONS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1
"""Signals that end this process in an orderly way."""
IDLE, IDLE_WITH_TORCH = 60.0, 1.0
"""s after which a process without a task ends: it holds memory, and starting another one takes seconds. One that has
loaded torch, as for a training, holds some 600 MB, which the next walkers do without."""


class ProcessLost(BrokenExecutor):
    """The process of a task ended before the task did.

    Attributes
    ----------
    how : str
        How it ended: "SIGKILL", "exit code 1".
    """

    def __init__(self, how: str) -> None:
        super().__init__(f"its process ended by {how}")
        self.how = how

    def __reduce__(self) -> tuple:
        return ProcessLost, (self.how,)


class LocalExecutor(Executor):
    """Processes of this machine, each of which takes one task after the other.

    Unlike in a `concurrent.futures.ProcessPoolExecutor`, the death of a process ends its own task alone, with
    `ProcessLost`, and the next task gets a new process. Processes are started when they are needed, import nothing of
    the script that runs here, get no signal that a terminal or a queue sends to all of its processes, and end with this
    one.

    Parameters
    ----------
    processes
        Number of tasks that run at the same time; `None` takes one per core.

    Examples
    --------
    >>> with LocalExecutor(1) as executor:
    ...     executor.submit(max, 3, 5).result()
    5
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes or available_cores()
        self._calls: queue.SimpleQueue[tuple[Future, tuple] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._waiting = 0  # threads without a task, less tasks without a thread
        self._running: set[Future] = set()
        self._busy: dict[Future, ChildProcess] = {}
        self._killed: dict[Future, str] = {}
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        with self._lock:
            if self._closed:
                raise RuntimeError("no new task after the shutdown of its executor")
            if self._waiting < 1 and len(self._threads) < self.processes:
                number = next(number for number in range(self.processes) if number not in self._threads)
                child = ChildProcess(_serve, number)  # here, since a process belongs to the thread that begins it
                # Not to be waited for at the end of this process, if a child waits for a network disk.
                thread = threading.Thread(target=self._serve_slot, args=(number, child), daemon=True)
                self._threads[number] = thread
                self._waiting += 1
                thread.start()
            future: Future = Future()
            self._waiting -= 1
            self._calls.put((future, (fn, args, kwargs)))
            return future

    @contextmanager
    def widened(self, processes: int) -> Iterator[None]:
        """Let at least so many tasks run at the same time, as those that wait for each other."""
        before, self.processes = self.processes, max(self.processes, processes)
        try:
            yield
        finally:
            self.processes = before

    def kill(self, futures: Iterable[Future], how: str = "SIGTERM") -> None:
        """End the processes of running tasks, which are lost; `how` is said to be the reason.

        They are asked to end, and killed after `GRACE`.
        """
        with self._lock:
            futures = [future for future in futures if future.running()]
            self._killed.update(dict.fromkeys(futures, how))
            children = [self._busy[future] for future in futures if future in self._busy]
        end_processes(children)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes: with `wait` after their tasks, otherwise at once, and tasks that wait are canceled."""
        with self._lock:
            self._closed = True
            if cancel_futures or not wait:
                with suppress(queue.Empty):
                    while call := self._calls.get_nowait():
                        call[0].cancel()
                        call[0].set_running_or_notify_cancel()
            threads = list(self._threads.values())
            for _ in threads:
                self._calls.put(None)
            running = list(self._running)
        if not wait:
            self.kill(running)
        for thread in threads:
            thread.join(None if wait else GRACE)

    def _serve_slot(self, slot: int, child: ChildProcess | None) -> None:
        """The loop of a thread, which has one process and ends with it, unless there is more to do."""
        while True:
            call = None
            with suppress(queue.Empty):
                call = self._calls.get(timeout=None if child is None else child.idle)
            if call is None:
                if self._leave(slot, self._closed):
                    self._end(child)
                    return
                continue
            future, task = call
            with self._lock:
                begins = future.set_running_or_notify_cancel()
                if begins:
                    self._running.add(future)
            child, message = self._run(child, slot, future, task) if begins else (child, None)
            with self._lock:
                self._running.discard(future)
                self._waiting += 1
            left = child is None and self._leave(slot)  # before anybody knows, and submits the task again
            if message is not None:
                is_error, content, has_torch = message
                if child is not None:
                    child.idle = IDLE_WITH_TORCH if has_torch else IDLE
                if is_error:
                    future.set_exception(content)
                else:
                    future.set_result(content)
            if left:
                return

    def _leave(self, slot: int, certainly: bool = False) -> bool:
        """End the thread of a process, unless a task counts on it."""
        with self._lock:
            if not (certainly or self._calls.empty()):
                return False
            self._waiting -= 1
            self._threads.pop(slot, None)
            return True

    def _run(
        self, child: ChildProcess | None, slot: int, future: Future, task: tuple
    ) -> tuple[ChildProcess | None, tuple[bool, Any, bool]]:
        """Run a task in a process, by default in a new one.

        Returns the process if it can take another task; and whether the task failed, its result or error, and whether
        the process has loaded torch.
        """
        message = None
        try:
            if child is not None and child.ended(0):
                child = self._end(child)
            if child is None:
                child = ChildProcess(_serve, slot)
            with self._lock:
                self._busy[future] = child
                killed = future in self._killed
            if not killed:
                child.send(task)
                child.wait()
                message = child.receive()
        except Exception as error:  # whatever it is, whoever waits for the future is told
            message = (True, error, False)
            child = self._end(child)
        with self._lock:
            self._busy.pop(future, None)
            how = self._killed.pop(future, None)
        if message is None and child is not None:
            end = child.exit_reason if how is None else how
            child = self._end(child)
            if how is None and end == "SIGTERM":
                time.sleep(GROUP_DELAY)  # a signal to all processes of a job is no failure of this one
            message = (True, ProcessLost(end), False)
        assert message is not None
        return child, message

    @staticmethod
    def _end(child: ChildProcess | None) -> None:
        """End a process that has no task."""
        if child is not None:
            end_processes([child])
            child.close()


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
    idle : float
        s that it may wait for a task.

    Raises
    ------
    SettingsError
        The target or an argument cannot be passed to another process.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()  # two threads that ask for the end at the same time get different answers
        self.connection, child_end = context.Pipe()
        self.idle = IDLE
        self.process = context.Process(target=_run, args=(target, *arguments, child_end), daemon=True)
        resource_tracker.ensure_running()  # which would unblock SIGINT, if it had to be started below
        with _signals_held(), _script_hidden(), _as_settings_error():
            self.process.start()
        child_end.close()

    @property
    def exit_reason(self) -> str:
        """How the process ended: "SIGKILL", "exit code 1"; one that does not end by itself is killed."""
        if not self.ended(GRACE):
            self.signal(signal.SIGKILL)
            self.ended(GRACE)
        code = None
        for _ in range(100):  # where another thread of `multiprocessing` was told first, and is about to note it
            if (code := self.process.exitcode) is not None:
                break
            time.sleep(0.001)
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def ended(self, timeout: float) -> bool:
        """Whether the process ends within so many seconds."""
        if not multiprocessing.connection.wait([self.process.sentinel], timeout):
            return False
        with self._lock:
            self.process.join()  # the sentinel is ready a moment before
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        with self._lock:
            if self.process.is_alive() and self.process.pid is not None:
                os.kill(self.process.pid, number)

    def wait(self) -> None:
        """Wait until the process has sent a message or has ended."""
        multiprocessing.connection.wait([self.connection, self.process.sentinel])

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
            self.ended(GRACE)

    def receive(self) -> Any:
        """A message that was sent and not read yet, or `None`."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, ConnectionResetError):
            return None

    def close(self) -> None:
        """Close the connection to a process that has ended, or that cannot be ended."""
        self.connection.close()
        if self.process.is_alive():  # or the end of this process would wait for it
            vars(process)["_children"].discard(self.process)


def end_processes(children: Iterable[ChildProcess]) -> None:
    """End processes: ask all of them to, and kill after `GRACE` those that are left, such as stopped ones.

    An interruption meanwhile, such as a second Ctrl-C, kills them at once. A process that cannot even be killed, since
    it waits for a network disk, is left to the operating system.
    """
    children = list(children)
    try:
        for child in children:
            child.signal(signal.SIGTERM)
        end = time.monotonic() + GRACE
        for child in children:
            child.ended(max(0.0, end - time.monotonic()))
    finally:
        for child in children:
            child.signal(signal.SIGKILL)
        end = time.monotonic() + GRACE
        for child in children:
            child.ended(max(0.0, end - time.monotonic()))


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let a process be started as a whole, with signals blocked that are not for it.

    It inherits the mask. An interruption between its beginning and the message that tells it what to do would leave it
    with half of that, and it would print a traceback. The mask alone does not prevent that: another thread may receive
    the signal, for which Python calls the handler in the main thread.
    """
    waiting: set[int] = set()
    holds = True
    taken = INTERRUPTIONS if _is_main_thread() else ()
    handlers = {int(number): handler for number in taken if callable(handler := signal.getsignal(number))}

    def handle(number: int, frame: types.FrameType | None) -> None:
        if holds:
            waiting.add(number)
        else:  # one that comes while handlers are restored
            handlers[number](number, frame)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
    try:
        for number in handlers:
            signal.signal(number, handle)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        holds = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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


def passable(content: Any) -> bytes:
    """An object as bytes that other processes can restore with `pickle`.

    Raises
    ------
    SettingsError
        It holds a class or a function that other processes would not find.
    """
    with _script_hidden(), _as_settings_error():
        return pickle.dumps(content)


_slot: int | None = None


def slot() -> int | None:
    """Number of this process among those of its `LocalExecutor`, from 0; `None` in other processes."""
    return _slot


def _serve(number: int, connection: Connection) -> None:
    """The loop of a process of a `LocalExecutor`."""
    global _slot
    _slot = number
    while True:
        try:
            function, arguments, options = connection.recv()
        except EOFError:
            return
        try:
            failed, content = False, function(*arguments, **options)
        except Exception as error:
            failed, content = True, error
        has_torch = "torch" in sys.modules
        try:
            connection.send((failed, content, has_torch))
        except Exception as error:  # a result that cannot be pickled
            connection.send((True, TypeError(f"{type(content).__name__}: cannot be passed on ({error})"), has_torch))


def _run(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # What a task starts ends with this process in the same way, so that it may start processes of its own, which
    # `multiprocessing` refuses to those that end with their parent.
    vars(multiprocessing.current_process())["_config"]["daemon"] = False
    import_openmm()
    target(*arguments)


def _die_with_parent() -> None:
    """End this process when its parent ends: a parent that was killed cannot stop its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
