"""What a command shows of its progress: on a terminal it is drawn anew, elsewhere there is a line a minute."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from latf_sampling.campaign.progress import Paces
from latf_sampling.core.words import duration
from latf_sampling.errors import LatfError

if TYPE_CHECKING:
    from latf_sampling.cli.view import RunView

LINES_EVERY = 60.0
"""s between two lines about a step, where there is no terminal."""
FRAMES_PER_SECOND = 2
"""How often a terminal is drawn anew."""
SHARE = 0.005
"""Of the time that a campaign's files may be read for the view; they are read every `SOONEST` s at most."""
SOONEST = 2.0


class Bars:
    """The steps of a command: one bar each on a terminal; elsewhere a line a minute, and one when a step is done.

    A `Progress`, and a context outside of which nothing is shown.

    Parameters
    ----------
    console
        Where to show it.
    directory
        Of a campaign that runs, whose walkers and results are shown too; `None` shows the steps alone.
    """

    def __init__(self, console: Console, directory: Path | None = None) -> None:
        self._console, self._directory = console, directory
        self._paces = Paces()
        self._done: set[str] = set()
        self._view: RunView | None = None
        self._began = self._read = time.monotonic()
        self._wait = SOONEST
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, daemon=True)
        self._live: Live | None = None

    def __enter__(self) -> Bars:
        if self._console.is_terminal:
            from latf_sampling.cli.view import RunView

            self._view = RunView(self._directory, self._paces)
            self._live = Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=FRAMES_PER_SECOND,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)
        else:
            self._lines.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()

    def __call__(self, step: str, fraction: float, words: str) -> None:
        self._paces(step, fraction, words)
        if fraction >= 1 and step not in self._done:
            self._done.add(step)
            if not self._console.is_terminal:
                self._print(f"{step}: done. {words}")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)  # words may hold brackets, which are no markup

    def _print_lines(self) -> None:
        """A line a minute, also where a step has nothing to report for longer."""
        while not self._ended.wait(LINES_EVERY):
            step = self._paces.current
            if step is None or step in self._done:
                self._print(f"at work since {duration(time.monotonic() - self._began)}.")
            else:
                self._print(self._paces.line(step))

    def _draw(self) -> RenderableType:
        assert self._view is not None
        if self._directory is not None and time.monotonic() - self._read >= self._wait:
            began = time.monotonic()
            try:
                self._view.read()
            except (LatfError, OSError):  # files that are being written or moved: the last view stays
                pass
            self._read = time.monotonic()
            self._wait = max(SOONEST, (self._read - began) / SHARE)
        return self._view.draw(self._console)
