"""Ctrl-C, SIGTERM and SIGHUP end a command in the same way: its children are stopped, and no file is half written."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_AGAIN = 1.0
"""s within which a second signal counts as the first: some senders address a process and its group."""


class Interrupted(BaseException):
    """A signal asked this process to end; like a `KeyboardInterrupt`, it passes by whoever catches `Exception`.

    Attributes
    ----------
    signal : signal.Signals
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as a shell reports it."""
        return 128 + self.signal


class Signals:
    """The last signal that was received, also where the exception that it raised was lost on its way."""

    def __init__(self) -> None:
        self.received: Interrupted | None = None
        self._when = -_AGAIN

    def __call__(self, number: int, frame: object) -> None:
        if time.monotonic() - self._when < _AGAIN:
            return
        self.received, self._when = Interrupted(number), time.monotonic()
        raise self.received


@contextmanager
def as_exceptions() -> Iterator[Signals]:
    """Raise `Interrupted` in the main thread when a signal arrives; what is ignored, as under nohup, stays ignored."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, signals)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
