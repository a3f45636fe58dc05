"""Distances between atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Annotated, Any

import mdtraj
import numpy as np
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Term,
    check_indices,
    refuse_too_many,
    select_atoms,
    validate,
)
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


class _DistancePairs(Settings):
    pairs: tuple[tuple[Index, Index], ...] = Field(min_length=1)


class _DistanceBetween(Settings):
    between: str
    and_: str | None = Field(None, alias="and")
    skip: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0


def pairs_between(
    topology: mdtraj.Topology, between: str, and_: str | None, skip: int, where: str, key: str, total: bool = False
) -> list[tuple[int, int]]:
    """Pairs of atoms within a selection, or between two, whose residues are at least ``skip`` apart, each once.

    There is a limit for their number, which is higher where only their ``total`` is measured.
    """
    first = select_atoms(topology, between, key)
    second = first if and_ is None else select_atoms(topology, and_, f"{where}.and")
    refuse_too_many(_count(topology, first, second, skip), key, total)
    pairs = combinations(first, 2) if and_ is None else ((i, j) for i, j in product(first, second) if i != j)
    unique = list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))
    if not unique:
        raise SettingsError(f"{key}: '{between}' selects one atom only; a distance needs two.")
    residues = [atom.residue.index for atom in topology.atoms]
    separated = [(i, j) for i, j in unique if abs(residues[i] - residues[j]) >= skip]
    if not separated:
        raise SettingsError(f"{where}.skip: no two selected atoms are {skip} or more residues apart.")
    return separated


def _count(topology: mdtraj.Topology, first: list[int], second: list[int], skip: int) -> int:
    """Number of pairs that are ``skip`` residues apart, counted fast; twice what different selections share."""
    residues = [np.sort([topology.atom(atom).residue.index for atom in atoms]) for atoms in (first, second)]
    below = np.searchsorted(residues[1], residues[0] - skip, side="right")
    above = len(second) - np.searchsorted(residues[1], residues[0] + skip, side="left")
    ordered = int((below + above).sum()) if skip > 0 else len(first) * len(second) - len({*first} & {*second})
    both = {*first} & {*second}
    return ordered // 2 if len(both) == len(first) == len(second) else ordered


def pairs_by_index(topology: mdtraj.Topology, pairs: Sequence[tuple[int, int]], where: str) -> list[tuple[int, int]]:
    """Pairs given by indices, each once."""
    for position, pair in enumerate(pairs):
        check_indices(pair, topology.n_atoms, f"{where}.pairs[{position}]")
    return list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))


class DistanceDescriptor(Descriptor):
    """A selection, ``{between: selection, and: selection, skip: k}``, or ``{pairs: [[i, j], ...]}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        usage = "write a selection, {between: selection, and: selection, skip: residues}, or {pairs: [[0, 1]]}"
        if isinstance(value, Mapping) and "pairs" in value:
            pairs_settings = validate(_DistancePairs, value, where, usage)
            pairs = pairs_by_index(labels.topology, pairs_settings.pairs, where)
            return Entry(pairs_settings.model_dump(mode="json"), self._terms(pairs, labels))
        key = where if isinstance(value, str) else f"{where}.between"
        settings = validate(_DistanceBetween, {"between": value} if isinstance(value, str) else value, where, usage)
        pairs = pairs_between(labels.topology, settings.between, settings.and_, settings.skip, where, key)
        normal_form = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
        return Entry(normal_form, self._terms(pairs, labels))

    def _terms(self, pairs: Sequence[tuple[int, int]], labels: Labels) -> list[Term]:
        return [Term(pair, f"distance {labels.atom(pair[0])} {labels.atom(pair[1])}") for pair in pairs]

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label, "nm") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.distances import Distances

        return Distances(np.array([term.atoms for term in terms]), n_atoms)
