"""How much of the work on a set of structures is done, in time steps that are expected and were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

ALMOST = 0.99
"""Largest fraction of a set that is not finished."""


class Effort:
    """The steps of plain runs and of structures, which take nearly all time.

    Parameters
    ----------
    steps
        Expected steps of a task of each kind.
    tasks
        Number of tasks of each kind. More of a kind may follow, where structures are rejected.
    progress
        Called with the fraction that is done, and a few words.

    Examples
    --------
    >>> effort = Effort({"plain run": 100, "target": 50}, {"plain run": 2, "target": 4}, lambda f, w: print(f, w))
    >>> effort.finished("plain run", "1 of 2 plain runs")
    0.25 1 of 2 plain runs
    >>> effort.running("plain run", [0.5])
    0.375 1 of 2 plain runs
    """

    def __init__(
        self, steps: Mapping[str, float], tasks: Mapping[str, int], progress: Callable[[float, str], None]
    ) -> None:
        self.steps, self._tasks, self._progress = steps, dict(tasks), progress
        self._done = dict.fromkeys(tasks, 0)
        self._words = ""

    def known(self, kind: str, count: int, words: str = "") -> None:
        """So many tasks of a kind were finished before."""
        self._done[kind], self._words = count, words

    def expect(self, kind: str, count: int) -> None:
        """There will be so many tasks of a kind in all."""
        self._tasks[kind] = count

    def finished(self, kind: str, words: str) -> None:
        """Another task of a kind is finished."""
        self._done[kind] += 1
        self._words = words
        self._report(0.0)

    def running(self, kind: str, fractions: list[float]) -> None:
        """Tasks of a kind run, and these fractions of them are done."""
        self._report(self.steps[kind] * sum(fractions))

    def _report(self, further: float) -> None:
        total = sum(self.steps[kind] * count for kind, count in self._tasks.items())
        done = sum(self.steps[kind] * min(count, self._tasks[kind]) for kind, count in self._done.items())
        # 1 means finished, which is after the last check of the last structure.
        self._progress(1.0 if done >= total else min(ALMOST, (done + further) / total), self._words)
