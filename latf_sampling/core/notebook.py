"""How objects and progress look in a notebook; progress also on a terminal, and nowhere else."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from latf_sampling.core.words import duration

Progress = Callable[[str, float, str], None]
"""Called with the name of a step, the fraction of it that is done, and a few words."""
OFTEN = 0.5
"""s between two drawings in a notebook at least."""


class ShownInNotebooks:
    """A base of what notebooks show as a table: its `repr`, and what `_overview` lists.

    Examples
    --------
    >>> class Walk(ShownInNotebooks):
    ...     def __repr__(self):
    ...         return "<Walk>"
    ...     def _overview(self):
    ...         return [("steps", 3)]
    >>> Walk()._repr_html_()
    '<table><caption>&lt;Walk&gt;</caption><tr><th>steps</th><td>3</td></tr></table>'
    """

    def _overview(self) -> Sequence[tuple[str, Any]]:
        """Words and what belongs to each; a list has a line for each of its entries."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        rows = []
        for word, value in self._overview():
            values = value if isinstance(value, list | tuple) else [value]
            cell = "<br>".join(html.escape(str(entry)) for entry in values)
            rows.append(f"<tr><th>{html.escape(word)}</th><td>{cell}</td></tr>")
        return f"<table><caption>{html.escape(repr(self))}</caption>{''.join(rows)}</table>"


def some(items: Sequence[Any], most: int = 8) -> list[str]:
    """The first few of a list, as text.

    >>> some(["a", "b", "c"], most=2)
    ['a', 'b', '... 1 more']
    """
    more = [f"... {len(items) - most:,} more"] if len(items) > most else []
    return [*map(str, items[:most]), *more]


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A bar for each step, in a notebook or on a terminal; where nobody looks nothing is printed.

    >>> with shown_progress() as show:  # a test has no terminal
    ...     show("train", 0.5, "flow")
    """
    if _in_notebook():
        yield _NotebookBars()
        return
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda step, fraction, words: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.text import Text

    tasks: dict[str, Any] = {}
    with Bars(console=Console(stderr=True)) as bars:

        def show(step: str, fraction: float, words: str) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task("", total=1.0)
            bars.update(tasks[step], completed=fraction, description=Text(f"{step}: {words}").markup)

        yield show


def _in_notebook() -> bool:
    """Whether the code runs in the kernel of a notebook; the prompt of IPython is a terminal."""
    shell = sys.modules.get("IPython")
    shell = None if shell is None else shell.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class _NotebookBars:
    """Bars of HTML in one cell of output, which need no widgets."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[float, str]] = {}
        self._began = self._drawn = time.monotonic()
        self._handle: Any = None

    def __call__(self, step: str, fraction: float, words: str) -> None:
        self._steps[step] = fraction, words
        now = time.monotonic()
        if self._handle is not None and now - self._drawn < OFTEN and fraction < 1:
            return
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._drawn = now
        content = HTML(self._table(now - self._began))
        if self._handle is None:
            self._handle = display(content, display_id=True)
        else:
            self._handle.update(content)

    def _table(self, seconds: float) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(step)}</td><td><progress value='{fraction:.3f}' max='1'></progress></td>"
            f"<td>{html.escape(words)}</td></tr>"
            for step, (fraction, words) in self._steps.items()
        )
        return f"<table>{rows}</table><small>{duration(seconds)}</small>"
