"""GROMACS's .gro files, of any precision; OpenMM's reader wants few decimals, and takes the first of several frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from openmm import Vec3
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from latf_sampling.units import to_quantity

_FIRST = 20
"""The column at which coordinates begin, after the names and numbers of residue and atom."""


@dataclass(frozen=True)
class GroFile:
    """The content of a .gro file with one frame.

    Attributes
    ----------
    names : list of str
        Names of the atoms.
    positions : numpy.ndarray (N, 3)
        nm.
    box : list of Vec3 or None
        OpenMM's vectors of the unit cell; `None` where the file has zeros.
    """

    names: list[str]
    positions: np.ndarray
    box: Any

    @classmethod
    def load(cls, file: str) -> GroFile:
        """Read a file.

        Raises
        ------
        ValueError
            It is damaged, or holds several frames; names the line.
        """
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
        count = lines[1].strip() if len(lines) > 1 else ""
        if not count.isdecimal():
            raise ValueError("its second line is not the number of atoms")
        end = 2 + int(count)
        names, positions = [], []
        for number, line in enumerate(lines[2:end], 3):
            point = line.find(".", _FIRST)
            width = line.find(".", point + 1) - point
            words = [line[_FIRST + k * width : _FIRST + (k + 1) * width] for k in range(3)]
            if point < 0 or width < 2 or not all(map(_is_number, words)):
                raise ValueError(f"line {number} has no three coordinates in their columns, and {count} atoms are said")
            names.append(line[10:15].strip())
            positions.append([float(word) for word in words])
        if len(lines) <= end or not all(map(_is_number, words := lines[end].split())) or len(words) not in (3, 9):
            raise ValueError(
                f"it has no line of three or nine numbers, the unit cell, after its {count} atoms; it is cut off, or "
                "has another number of atoms than its second line says"
            )
        if any(line.strip() for line in lines[end + 1 :]):
            raise ValueError("it holds several frames; keep one of them, like gmx trjconv -dump writes it")
        return cls(names, np.array(positions, float).reshape(-1, 3), _box([float(word) for word in words]))


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _box(values: list[float]) -> Any:
    """Box vectors from v1(x) v2(y) v3(z) v1(y) v1(z) v2(x) v2(z) v3(x) v3(y), where the last six may be missing."""
    ax, by, cz, ay, az, bx, bz, cx, cy = values if len(values) == 9 else [*values, *6 * [0.0]]
    if not any(values):
        return None
    if ay or az or bz or min(ax, by, cz) <= 0:
        raise ValueError("its unit cell is not that of GROMACS: the first vector along x, the second in the xy plane")
    vectors = to_quantity([Vec3(ax, ay, az), Vec3(bx, by, bz), Vec3(cx, cy, cz)], "length")
    return reducePeriodicBoxVectors(vectors)
