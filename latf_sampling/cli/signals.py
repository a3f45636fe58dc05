"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end a command in the same way: its children are stopped, no file is half written.

SIGUSR1, which queues send before the time of a job is over, and the end of ``--max-time`` have an exit code of their
own, by which a job knows that the same command should be run again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from latf_sampling.errors import SettingsError
from latf_sampling.units import SECOND, parse

_AGAIN = 1.0
"""s within which a second signal counts as the first: some senders address a process and its group."""
RUN_AGAIN = 75
"""Exit code by which the same command should be run again, EX_TEMPFAIL of sysexits.h."""
LONGEST = 1e9
"""s; a longer time is a mistake."""


class Interrupted(BaseException):
    """A signal asked this process to end; like a `KeyboardInterrupt`, it passes by whoever catches `Exception`.

    Attributes
    ----------
    signal : signal.Signals
    out_of_time : bool
        Whether `TimeLimit` sent the signal.
    """

    def __init__(self, number: int, out_of_time: bool = False) -> None:
        self.signal, self.out_of_time = signal.Signals(number), out_of_time
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as a shell reports it, or `RUN_AGAIN`."""
        return RUN_AGAIN if self.signal is signal.SIGUSR1 else 128 + self.signal

    @property
    def words(self) -> str:
        """What happened, for people."""
        if self.out_of_time:
            return "the time is over"
        return "interrupted" if self.signal is signal.SIGINT else f"interrupted by {self.signal.name}"


class Signals:
    """The last signal that was received, also where the exception that it raised was lost on its way.

    Attributes
    ----------
    received : Interrupted or None
    ignored : set
        Numbers of signals that were ignored before.
    """

    def __init__(self) -> None:
        self.received: Interrupted | None = None
        self.ignored: set[int] = set()
        self._when = -_AGAIN

    def __call__(self, number: int, frame: object) -> None:
        out_of_time = number == signal.SIGUSR1 and TimeLimit.is_over
        if time.monotonic() - self._when < _AGAIN or (number in self.ignored and not out_of_time):
            return
        self.received, self._when = Interrupted(number, out_of_time), time.monotonic()
        raise self.received


class TimeLimit:
    """Ends the command with SIGUSR1 after so many seconds; a context, outside of which it does nothing.

    Attributes
    ----------
    is_over : bool
        Whether the time of the last limit is over.
    """

    is_over = False

    def __init__(self, seconds: float | None) -> None:
        TimeLimit.is_over = False
        self._timer = None if seconds is None else threading.Timer(seconds, self._end)

    def __enter__(self) -> TimeLimit:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _end() -> None:
        TimeLimit.is_over = True
        os.kill(os.getpid(), signal.SIGUSR1)


@contextmanager
def as_exceptions() -> Iterator[Signals]:
    """Raise `Interrupted` in the main thread when a signal arrives; what is ignored, as under nohup, stays ignored."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    signals.ignored = {number for number, handler in handlers.items() if handler is signal.SIG_IGN}
    # Of those that are ignored, only SIGUSR1 is looked at: it may come from a `TimeLimit`.
    heeded = handlers.keys() - (signals.ignored - {signal.SIGUSR1})
    before = {number: handler for number, handler in handlers.items() if handler is not None and number in heeded}
    for number in before:
        signal.signal(number, signals)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seconds(text: str, where: str) -> float:
    """A time on the clock.

    Raises
    ------
    SettingsError
        It is no time, or impossibly short or long.

    Examples
    --------
    >>> seconds("1.5 h", "--max-time")
    5400.0
    """
    value = parse(text, "time", where) / SECOND
    if not 0 < value <= LONGEST:
        raise SettingsError(f"{where}: '{text}' is no time that a command could take; write it like '2 h'.")
    return round(value, 9)
