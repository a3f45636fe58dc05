"""Progress bars of the command line."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Bars:
    """One progress bar per step on a terminal; elsewhere one line when a step is done."""

    def __init__(self, console: Console) -> None:
        # words may hold brackets, which are no markup
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self._console = console
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._done: set[str] = set()

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def __call__(self, step: str, fraction: float, words: str) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=1.0, words="")
        self._bars.update(self._tasks[step], completed=fraction, words=words)
        if fraction >= 1 and step not in self._done:
            self._done.add(step)
            if not self._console.is_terminal:
                self._console.print(Text(f"{step}: done. {words}"), soft_wrap=True)
