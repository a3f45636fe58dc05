"""Statistics of the columns of descriptors: their distributions, nearly constant ones, and duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.errors import DataError

NEARLY_CONSTANT = 1e-3
"""A column is nearly constant where its standard deviation is below this share of 1 + |mean|."""
DUPLICATE = 0.999
"""Columns whose correlation is above this, with either sign, are duplicates."""
SAMPLE_BYTES = 64 * 2**20
"""Correlations are computed from so many bytes of evenly spaced frames."""


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of columns over all frames.

    Attributes
    ----------
    names, units : list of str
    frames : int
    mean, deviation, minimum, maximum : numpy.ndarray (F,)
        In the columns' units.
    constant : list of int
        Nearly constant columns, see `NEARLY_CONSTANT`.
    duplicates : list of tuple
        Pairs of other columns (see `DUPLICATE`), the lower index first, with their correlation. It is exactly 1 or -1
        where both are equal up to their sign.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> statistics = column_statistics([np.column_stack([x, x[:, 0], np.ones(200)])], list("abcd"))
    >>> statistics.constant, statistics.duplicates
    ([3], [(0, 2, 1.0)])
    """

    names: list[str]
    units: list[str]
    frames: int
    mean: np.ndarray
    deviation: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    constant: list[int]
    duplicates: list[tuple[int, int, float]]

    def remarks(self, most: int = 6) -> list[str]:
        """Sentences that name at most so many nearly constant and duplicate columns; empty where there are none."""
        sentences = []
        if self.constant:
            names = _some([f"'{self.names[k]}'" for k in self.constant], most)
            verb = "is" if len(self.constant) == 1 else "are"
            sentences.append(f"{_count(len(self.constant), 'column')} {verb} nearly constant: {names}.")
        if self.duplicates:
            pairs = [
                f"'{self.names[b]}' {'equals' if abs(r) == 1 else 'follows'} "
                f"{'minus ' if r < 0 else ''}'{self.names[a]}'"
                for a, b, r in self.duplicates
            ]
            verb = "is a duplicate" if len(pairs) == 1 else "are duplicates"
            sentences.append(f"{_count(len(pairs), 'column')} {verb}: {_some(pairs, most)}.")
        return sentences

    def table(self) -> str:
        """Name, unit, mean, standard deviation and range of every column, as text."""
        head = ["column", "unit", "mean", "deviation", "minimum", "maximum"]
        numbers = zip(self.mean, self.deviation, self.minimum, self.maximum)
        rows = [
            [name, unit, *(f"{value:.4g}" for value in row)] for name, unit, row in zip(self.names, self.units, numbers)
        ]
        return aligned([head, *rows], words=2)


def column_statistics(
    parts: Iterable[np.ndarray], names: Sequence[str] | None = None, units: Sequence[str] | None = None
) -> ColumnStatistics:
    """Statistics of columns, part by part; memory is needed for one part and for a sample of frames.

    Parameters
    ----------
    parts
        Arrays (frames, F), all of the same columns.
    names, units
        Names and units of the columns (F,); without names they are numbered.

    Raises
    ------
    DataError
        There is no frame, or the number of columns changes.
    """
    count = 0
    mean = squares = minimum = maximum = np.zeros(0)
    sample = _Sample()
    for part in parts:
        x = np.asarray(part, np.float64)
        if not len(x):
            continue
        if count and x.shape[1] != len(mean):
            raise DataError(f"columns: a part has {x.shape[1]} columns, those before it {len(mean)}.")
        if not count:
            mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
            minimum, maximum = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
        # Chan, Golub and LeVeque, doi:10.1080/00031305.1983.10483115: exact also where means are large.
        step = x.mean(0) - mean
        total = count + len(x)
        squares = squares + ((x - x.mean(0)) ** 2).sum(0) + step**2 * count * len(x) / total
        mean = mean + step * len(x) / total
        minimum, maximum = np.minimum(minimum, x.min(0)), np.maximum(maximum, x.max(0))
        count = total
        sample.add(part)
    if not count:
        raise DataError("columns: there is no frame.")
    names = [f"column {k}" for k in range(len(mean))] if names is None else list(names)
    units = [""] * len(mean) if units is None else list(units)
    if not len(names) == len(units) == len(mean):
        raise DataError(f"columns: {len(names)} names and {len(units)} units for {len(mean)} columns.")
    deviation = np.sqrt(squares / count)
    constant = deviation < NEARLY_CONSTANT * (1 + np.abs(mean))
    duplicates = _duplicates(sample.frames(), np.nonzero(~constant)[0])
    return ColumnStatistics(
        names, units, count, mean, deviation, minimum, maximum, np.nonzero(constant)[0].tolist(), duplicates
    )


def aligned(rows: Sequence[Sequence[str]], words: int) -> str:
    """Rows of a table as text: the first `words` columns are aligned at the left, the others at the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


class _Sample:
    """Evenly spaced frames of a stream of unknown length: every second one is dropped whenever there are too many."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.stride, self.count = 1, 0

    def add(self, part: np.ndarray) -> None:
        sample = np.array(part[-self.count % self.stride :: self.stride], np.float32)
        self.count += len(part)
        self.parts.append(sample)
        while sum(entry.nbytes for entry in self.parts) > SAMPLE_BYTES and sum(map(len, self.parts)) > 2:
            self.parts = [np.concatenate(self.parts)[::2].copy()]
            self.stride *= 2

    def frames(self) -> np.ndarray:
        return np.concatenate(self.parts)


def _duplicates(x: np.ndarray, columns: np.ndarray, block: int = 512) -> list[tuple[int, int, float]]:
    """Columns that duplicate an earlier one: the first such column, the column itself, and their correlation."""
    z = x[:, columns].astype(np.float64)
    z -= z.mean(0)
    length = np.linalg.norm(z, axis=0)
    z /= np.where(length > 0, length, 1)
    duplicates = []
    for first in range(0, len(columns), block):
        r = z.T @ z[:, first : first + block]
        for column in range(r.shape[1]):
            b = first + column
            above = np.nonzero(np.abs(r[:b, column]) > DUPLICATE)[0]
            if len(above):
                a = above[0]
                one, other = x[:, columns[a]], x[:, columns[b]]
                equal = np.array_equal(one, other) or np.array_equal(one, -other)
                value = float(np.sign(r[a, column])) if equal else float(np.clip(r[a, column], -0.999999, 0.999999))
                duplicates.append((int(columns[a]), int(columns[b]), value))
    return duplicates


def _some(words: list[str], most: int) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
