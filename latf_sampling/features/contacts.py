"""Contacts: pairs of atoms, each 1 where they are close and 0 where they are far, smooth in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from latf_sampling.features.descriptor import Column, Descriptor, Entry, Index, Row, side_by_side, validated
from latf_sampling.features.distances import pairs_between, pairs_given
from latf_sampling.features.periodic import Differences
from latf_sampling.features.switching import Switched
from latf_sampling.features.topology import Labels


class SwitchedPairs(torch.nn.Module):
    """A switching function of every pair's difference, (..., n, 3) -> (..., pairs), or their sum, (..., 1)."""

    def __init__(self, pairs: np.ndarray, n_atoms: int, switching: torch.nn.Module, total: bool = False):
        super().__init__()
        self.differences = Differences(pairs[:, 0], pairs[:, 1], n_atoms)
        self.switching = switching
        self.total: bool = total

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        values = self.switching(self.differences(positions, box))
        return values.sum(-1, keepdim=True) if self.total else values


def sum_row(pairs: Sequence[tuple[int, int]], label: str, settings: Any) -> Row:
    """One row for a sum over pairs; its settings are the given ones, and the pairs as places in its atoms."""
    atoms, places = np.unique(np.array(pairs), return_inverse=True)
    return Row(tuple(atoms.tolist()), label, (settings, places.reshape(-1, 2)))


def pair_module(rows: Sequence[Row], n_atoms: int) -> torch.nn.Module:
    """Module of rows whose settings are a switching function and, for a sum, pairs as places in the row's atoms."""
    modules: list[torch.nn.Module] = []
    # those that stand side by side and are switched alike go together
    for (_, each), group in groupby(rows, key=lambda row: (row.settings[0].normal(), row.settings[1] is None)):
        alike = list(group)
        function = alike[0].settings[0].function
        if each:
            modules.append(SwitchedPairs(np.array([row.atoms for row in alike]), n_atoms, function()))
        else:
            modules += [
                SwitchedPairs(np.array(row.atoms)[row.settings[1]], n_atoms, function(), total=True) for row in alike
            ]
    return side_by_side(modules)


class _ContactPairs(Switched):
    pairs: tuple[tuple[Index, Index], ...] = Field(min_length=1)
    sum: bool = False


class _ContactsBetween(Switched):
    between: str
    and_: str | None = Field(None, alias="and")
    skip: Annotated[int, Field(strict=True, ge=0)] = 0
    sum: bool = False


class ContactDescriptor(Descriptor):
    """``{between: selection, and: selection, skip: k, r0: "0.45 nm", n: 6, m: 12}``, or with ``pairs: [[i, j], ...]``.

    ``fermi: "0.02 nm"`` instead of n and m; ``sum: true`` for one column, their sum.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        help_ = 'write {between: selection, r0: "0.45 nm"}, with and, skip, sum, and n and m or fermi'
        settings: Any
        if isinstance(value, Mapping) and "pairs" in value:
            settings = validated(_ContactPairs, value, where, help_)
            pairs, words = pairs_given(labels.topology, settings.pairs, where), f"{len(settings.pairs)} pairs"
        else:
            settings = validated(_ContactsBetween, value, where, help_)
            pairs = pairs_between(
                labels.topology, settings.between, settings.and_, settings.skip, where, f"{where}.between"
            )
            words = settings.between + (f" and {settings.and_}" if settings.and_ is not None else "")
            words += f", {settings.skip} residues apart," * (settings.skip > 0)
        return Entry(settings.normal(), rows_of(pairs, "contact", f"contacts of {words}", settings, labels))

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label) for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        return pair_module(rows, n_atoms)


def rows_of(pairs: Sequence[tuple[int, int]], noun: str, total: str, settings: Any, labels: Labels) -> list[Row]:
    """A row a pair, or one for their sum."""
    switched = Switched(**{key: getattr(settings, key) for key in settings.normal() if key in Switched.model_fields})
    if settings.sum:
        return [sum_row(pairs, f"{total} {switched.words}", switched)]
    return [
        Row(pair, f"{noun} {labels.atom(pair[0])} {labels.atom(pair[1])} {switched.words}", (switched, None))
        for pair in pairs
    ]
