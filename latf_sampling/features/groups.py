"""Distances between the centres of groups of atoms."""

from __future__ import annotations

from collections.abc import Sequence
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
    atoms_of,
    side_by_side,
    validated,
    words_of,
)
from latf_sampling.features.periodic import Differences, combined, lengths, together, two_parts
from latf_sampling.features.topology import Labels, relative_weights
from latf_sampling.features.whole import Whole, bonded_tree


class GroupDistances(torch.nn.Module):
    """Distances between centres of groups, nm, (..., n, 3) -> (..., pairs); zero gradient where centres coincide.

    In a box, each group is made whole and the distance is that of the shortest image.

    Parameters
    ----------
    groups
        Of each its atoms, indices in the positions; then what `bonded_tree` added, and the edges.
    weights
        Of each group's atoms; they sum to one.
    pairs
        Which distances, as places in ``groups`` (pairs, 2).
    n_atoms
        Number of positions.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], np.ndarray]],
        weights: Sequence[np.ndarray],
        pairs: np.ndarray,
        n_atoms: int,
    ):
        super().__init__()
        atoms: list[int] = []
        trees, wanted = [], []
        for (members, tree), weight in zip(groups, weights, strict=True):
            trees.append(tree + len(atoms))
            wanted.append(np.arange(len(weight)) + len(atoms))
            atoms += members
        self.whole = Whole(atoms, np.concatenate(trees), n_atoms, np.concatenate(wanted).tolist())
        centers = torch.block_diag(*(torch.from_numpy(weight)[None] for weight in weights))
        self.register_buffer("centers", two_parts(centers.numpy()))
        self.differences = Differences(pairs[:, 0], pairs[:, 1], len(groups))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        x = self.whole(positions, box)
        return lengths(self.differences(combined(together(self.centers).to(x.dtype), x), box))


class _GroupSettings(Settings):
    groups: tuple[Any, ...] = Field(min_length=2)
    center: Literal["mass", "geometry"] = "mass"
    pairs: Literal["all"] | tuple[tuple[Index, Index], ...] = "all"


class GroupDescriptor(Descriptor):
    """``{groups: [selection, {atoms: [...]}, ...], center: mass, pairs: all}``; one row an entry."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_GroupSettings, value, where, "write {groups: [selection, selection], center: mass}")
        groups = [atoms_of(labels.topology, group, f"{where}.groups[{k}]") for k, group in enumerate(settings.groups)]
        words = [words_of(of, atoms, labels) for of, atoms in zip(settings.groups, groups)]
        if settings.pairs == "all":
            pairs = list(combinations(range(len(groups)), 2))
        else:
            for position, pair in enumerate(settings.pairs):
                if max(pair) >= len(groups) or pair[0] == pair[1]:
                    raise SettingsError(
                        f"{where}.pairs[{position}]: {list(pair)} are not two of the groups 0 to {len(groups) - 1}."
                    )
            pairs = list(dict.fromkeys((min(pair), max(pair)) for pair in settings.pairs))
        if not pairs:
            raise SettingsError(f"{where}.pairs: need one or more, or 'all'.")
        kind = "mass" if settings.center == "mass" else "equal"
        weights = [
            relative_weights(labels.topology, atoms, kind, f"{where}.groups[{k}]") for k, atoms in enumerate(groups)
        ]
        trees = [bonded_tree(labels.topology, atoms) for atoms in groups]
        atoms, places = np.unique(np.concatenate([members for members, _ in trees]), return_inverse=True)
        ends = np.cumsum([len(members) for members, _ in trees])[:-1]
        members = [part.tolist() for part in np.split(places.reshape(-1), ends)]
        noun = "centers" if settings.center == "mass" else "geometric centers"
        names = [f"distance of {noun} of {words[i]} and {words[j]}" for i, j in pairs]
        geometry = ([(m, tree) for m, (_, tree) in zip(members, trees)], weights, np.array(pairs))
        row = Row(tuple(atoms.tolist()), "; ".join(names), (names, geometry))
        return Entry(settings.model_dump(mode="json"), [row])

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(name, "nm") for row in rows for name in row.settings[0]]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules = []
        for row in rows:
            groups, weights, pairs = row.settings[1]
            placed = [(np.array(row.atoms)[members].tolist(), tree) for members, tree in groups]
            modules.append(GroupDistances(placed, weights, pairs, n_atoms))
        return side_by_side(modules)
