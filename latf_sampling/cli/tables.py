"""Tables for the terminal, in which no word is broken: a line that is too long for a terminal goes on below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 100_000
"""Width of what is no terminal."""


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns of text, the last of which is wrapped between words.

    Parameters
    ----------
    head, rows
        Cells (columns,) and (rows, columns).
    width
        Characters of a line; `None` wraps nothing, for files and other programs.

    Examples
    --------
    >>> print(aligned(["step", "words"], [["learn", "2 states, 12 s"]], width=18))
    step   words
    learn  2 states,
           12 s
    """
    cells = [head, *rows]
    widths = [max(map(len, column)) for column in list(zip(*cells))[:-1]]
    indent = sum(widths) + 2 * len(widths)
    room = WIDEST if width is None else max(width - indent, 1)
    wrapper = textwrap.TextWrapper(room, break_long_words=False, break_on_hyphens=False)
    lines = []
    for *row, last in cells:
        first, *more = wrapper.wrap(last) or [""]
        lines.append("".join(f"{cell:<{size}}  " for cell, size in zip(row, widths)) + first)
        lines += [" " * indent + part for part in more]
    return "\n".join(line.rstrip() for line in lines)


def print_table(console: Console, table: Table) -> None:
    """Print a table as narrow as the terminal, yet no column narrower than its longest word."""
    for column in table.columns:
        words = [word for cell in (column.header, *column.cells) for word in str(cell).split()]
        column.min_width = max(map(len, words), default=0)
    size = Measurement.get(console, console.options.update(max_width=WIDEST), table)
    width = max(console.width, size.minimum) if console.is_terminal else size.maximum
    console.print(table, width=min(width, size.maximum), crop=False)
