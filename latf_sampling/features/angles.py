"""Angles between three atoms, as their cosine or in radian."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Row,
    Settings,
    check_indices,
    select,
    side_by_side,
    validated,
)
from latf_sampling.features.periodic import Differences, cross, dot, squared_lengths
from latf_sampling.features.topology import Labels

_SHORT = 1e-16  # nm^4; squared product of the two lengths where an angle ceases to be defined


class Cosines(torch.nn.Module):
    """Cosines of angles, (..., n, 3) -> (..., angles).

    u . v / sqrt(|u|^2 |v|^2 + 1e-16 nm^4) for the vectors u and v from the middle atom to the two others. Smooth at 0
    and 180 degrees; where two atoms coincide the angle is not defined and the cosine goes to zero with a finite
    gradient. Of ordinary bonds the term takes less than 1e-11.
    """

    def __init__(self, triples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k = triples.T
        self.differences = Differences(np.concatenate([j, j]), np.concatenate([i, k]), n_atoms)
        self.count = len(triples)
        self.short = _SHORT

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        u, v = torch.split(self.differences(positions, box), [self.count, self.count], -2)
        return dot(u, v) * torch.rsqrt(squared_lengths(u) * squared_lengths(v) + self.short)


class Angles(torch.nn.Module):
    """Angles, rad, (..., n, 3) -> (..., angles).

    The arctangent of sqrt(|u x v|^2 + 1e-16 nm^4) and u . v, accurate at 0 and 180 degrees, where the arccosine is not.
    The angle has a kink there; the term rounds it off, so that value and gradient are finite everywhere. Of ordinary
    bonds it takes less than 1e-11 rad, and 1e-6 rad at the kink itself.
    """

    def __init__(self, triples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k = triples.T
        self.differences = Differences(np.concatenate([j, j]), np.concatenate([i, k]), n_atoms)
        self.count = len(triples)
        self.short = _SHORT

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        u, v = torch.split(self.differences(positions, box), [self.count, self.count], -2)
        return torch.atan2(torch.sqrt(squared_lengths(cross(u, v)) + self.short), dot(u, v))


_MODULES = {"cosine": Cosines, "angle": Angles}


class _AngleSettings(Settings):
    as_: Literal["cosine", "angle"] = Field("cosine", alias="as")


class _AngleAtoms(_AngleSettings):
    atoms: tuple[tuple[Index, Index, Index], ...] = Field(min_length=1)


class _AngleBonded(_AngleSettings):
    of: str
    at: str | None = None


class AngleDescriptor(Descriptor):
    """A selection, ``{of: selection, at: selection, as: cosine}``, or ``{atoms: [[i, j, k], ...], as: angle}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        help_ = "write a selection, {of: selection, at: selection, as: cosine}, or {atoms: [[0, 1, 2]], as: angle}"
        if isinstance(value, Mapping) and "atoms" in value:
            settings = validated(_AngleAtoms, value, where, help_)
            triples = settings.atoms
            for position, triple in enumerate(triples):
                check_indices(triple, labels.topology.n_atoms, f"{where}.atoms[{position}]")
        else:
            given = {"of": value} if isinstance(value, str) else value
            settings = validated(_AngleBonded, given, where, help_)
            triples = self._bonded(settings, labels, where, where if isinstance(value, str) else f"{where}.of")
        # backwards is the same angle
        triples = dict.fromkeys((min(i, k), j, max(i, k)) for i, j, k in triples)
        noun = "cos angle" if settings.as_ == "cosine" else "angle"
        rows = [Row(t, f"{noun} {' '.join(labels.atom(a) for a in t)}", settings.as_) for t in triples]
        return Entry(settings.model_dump(mode="json", by_alias=True, exclude_none=True), rows)

    def _bonded(self, settings: _AngleBonded, labels: Labels, where: str, key: str) -> list[tuple[int, int, int]]:
        chosen = set(select(labels.topology, settings.of, key))
        vertices = chosen if settings.at is None else set(select(labels.topology, settings.at, f"{where}.at")) & chosen
        neighbours: dict[int, list[int]] = {atom: [] for atom in sorted(chosen)}
        for bond in labels.topology.bonds:
            first, second = bond[0].index, bond[1].index
            if first in chosen and second in chosen:
                neighbours[first].append(second)
                neighbours[second].append(first)
        found = [(i, j, k) for j in sorted(vertices) for i, k in combinations(sorted(neighbours[j]), 2)]
        if not found:
            lacks = "" if labels.topology.n_bonds else "; the topology has no bonds at all"
            raise SettingsError(f"{key}: '{settings.of}' selects no three atoms bonded in a row{lacks}.")
        return found

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label, "" if kind == "cosine" else "rad") for kind, part in _by_kind(rows) for row in part]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules = [_MODULES[kind](np.array([row.atoms for row in part]), n_atoms) for kind, part in _by_kind(rows)]
        return side_by_side(modules)


def _by_kind(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Cosines first."""
    parts = [(kind, [row for row in rows if row.settings == kind]) for kind in _MODULES]
    return [(kind, part) for kind, part in parts if part]
