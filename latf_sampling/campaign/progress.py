"""How the steps of a campaign report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, str], None]
"""Called with the name of the step, the fraction of it that is done, and a few words."""
StepProgress = Callable[[float, str], None]
"""The same within one step."""


def silent(fraction: float, words: str) -> None:
    """Report nothing."""


def nowhere(step: str, fraction: float, words: str) -> None:
    """Report nothing, of no step."""
