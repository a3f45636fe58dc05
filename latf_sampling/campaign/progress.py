"""How the steps of a campaign report their progress, and how long the rest of a step takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from latf_sampling.core.words import duration

Progress = Callable[[str, float, str], None]
"""Called with the name of the step, the fraction of it that is done, and a few words."""
StepProgress = Callable[[float, str], None]
"""The same within one step."""

FEWEST_SECONDS, SMALLEST_SHARE = 1.0, 0.002
"""The rest of a step is not estimated before so many seconds, and before so much of it was done in them."""


def silent(fraction: float, words: str) -> None:
    """Report nothing."""


def nowhere(step: str, fraction: float, words: str) -> None:
    """Report nothing, of no step."""


def part_of(progress: StepProgress, first: float, last: float) -> StepProgress:
    """The progress of a part of a step, which is its fractions from `first` to `last`.

    Examples
    --------
    >>> part_of(lambda fraction, words: print(fraction, words), 0.5, 0.75)(0.5, "flow")
    0.625 flow
    """
    return lambda fraction, words: progress(first + (last - first) * fraction, words)


class Pace:
    """How fast a step gets on since the pace was made.

    What an earlier run had done counts as done, and not as fast. Where a step goes back, as when a walker is rolled
    back, time goes on.

    Parameters
    ----------
    clock
        Returns the present time, s.

    Attributes
    ----------
    fraction : float
        The last fraction that was noted.

    Examples
    --------
    >>> moments = iter([0.0, 60.0, 90.0])
    >>> pace = Pace(lambda: next(moments))
    >>> pace.note(0.5)  # done by an earlier run
    >>> pace.note(0.7)
    >>> round(pace.seconds_left())
    135
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.fraction = 0.0
        self._first: tuple[float, float] | None = None
        self._end: float | None = None

    def note(self, fraction: float) -> None:
        """Note the fraction of the step that is done."""
        now = self._clock()
        if self._first is None or fraction < self._first[1]:
            self._first = now if self._first is None else self._first[0], fraction
        self.fraction, self._end = fraction, now if fraction >= 1 else None

    @property
    def done(self) -> float:
        """The fraction of the step that was done since the first note."""
        return 0.0 if self._first is None else self.fraction - self._first[1]

    @property
    def seconds(self) -> float:
        """From the first note until now, or until the step was done."""
        if self._first is None:
            return 0.0
        return (self._clock() if self._end is None else self._end) - self._first[0]

    def seconds_left(self) -> float | None:
        """What is left at the pace so far, s; `None` as long as that is not known.

        The longer nothing is noted, the longer it becomes.
        """
        if self.fraction >= 1:
            return 0.0
        if self._first is None:
            return None
        seconds = self.seconds
        if seconds < FEWEST_SECONDS or self.done < SMALLEST_SHARE:
            return None
        return seconds * (1 - self.fraction) / self.done


class Paces:
    """The pace of each step that has reported, and the step that reported last.

    It is a `Progress` itself.

    Attributes
    ----------
    steps : dict
        `Pace` and words of each step, in the order in which they began.
    current : str or None
        The step that reported last.

    Examples
    --------
    >>> paces = Paces()
    >>> paces("round 0: simulate", 0.25, "1 of 4 walkers finished")
    >>> paces.line("round 0: simulate")
    'round 0: simulate: 25 %. 1 of 4 walkers finished'
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.steps: dict[str, tuple[Pace, str]] = {}
        self.current: str | None = None

    def __call__(self, step: str, fraction: float, words: str) -> None:
        pace = self.steps[step][0] if step in self.steps else Pace(self._clock)
        pace.note(fraction)
        self.steps[step], self.current = (pace, words), step

    def line(self, step: str) -> str:
        """Where a step stands, in one line."""
        pace, words = self.steps[step]
        left = pace.seconds_left()
        about = "" if left is None else f", about {duration(left)} left"
        return f"{step}: {100 * pace.fraction:.0f} %{about}. {words}".rstrip()
