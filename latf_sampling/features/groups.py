"""Distances between the centers of groups of atoms."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Term,
    atom_indices,
    concatenate,
    describe_atoms,
    validate,
)
from latf_sampling.features.periodic import Differences, join_double, lengths, split_double, weighted_sums
from latf_sampling.features.topology import Labels, normalized_weights
from latf_sampling.features.unwrap import Unwrap, bonded_tree
from latf_sampling.settings.fields import Settings


class GroupDistances(torch.nn.Module):
    """Distances between centers of groups, nm, (..., n, 3) -> (..., pairs); zero gradient where centers coincide.

    In a box, each group is unwrapped, and the distance is that of the shortest image.

    Parameters
    ----------
    groups
        For each group, its atoms (indices of positions) followed by those that `bonded_tree` added, and the edges.
    weights
        Weights of the atoms of each group; they sum to one.
    pairs
        Indices of the two groups of each distance (pairs, 2).
    n_atoms
        Number of positions.
    """

    centers: Tensor

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], np.ndarray]],
        weights: Sequence[np.ndarray],
        pairs: np.ndarray,
        n_atoms: int,
    ):
        super().__init__()
        atoms: list[int] = []
        trees, counted = [], []
        for (members, tree), weight in zip(groups, weights, strict=True):
            trees.append(tree + len(atoms))
            counted.append(np.arange(len(weight)) + len(atoms))
            atoms += members
        self.unwrap = Unwrap(atoms, np.concatenate(trees), n_atoms, np.concatenate(counted).tolist())
        centers = torch.block_diag(*(torch.from_numpy(weight)[None] for weight in weights))
        self.register_buffer("centers", split_double(centers.numpy()))
        self.differences = Differences(pairs[:, 0], pairs[:, 1], len(groups))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        return lengths(self.differences(weighted_sums(join_double(self.centers).to(x.dtype), x), box))


class _GroupSettings(Settings):
    groups: tuple[Any, ...] = Field(min_length=2)
    center: Literal["mass", "geometry"] = "mass"
    pairs: Literal["all"] | tuple[tuple[Index, Index], ...] = "all"


class GroupDescriptor(Descriptor):
    """``{groups: [selection, {atoms: [...]}, ...], center: mass, pairs: all}``; an entry is one term."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_GroupSettings, value, where, "write {groups: [selection, selection], center: mass}")
        groups = [
            atom_indices(labels.topology, group, f"{where}.groups[{k}]") for k, group in enumerate(settings.groups)
        ]
        descriptions = [describe_atoms(of, atoms, labels) for of, atoms in zip(settings.groups, groups)]
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
            normalized_weights(labels.topology, atoms, kind, f"{where}.groups[{k}]") for k, atoms in enumerate(groups)
        ]
        trees = [bonded_tree(labels.topology, atoms) for atoms in groups]
        atoms, indices = np.unique(np.concatenate([members for members, _ in trees]), return_inverse=True)
        ends = np.cumsum([len(members) for members, _ in trees])[:-1]
        members = [part.tolist() for part in np.split(indices.reshape(-1), ends)]
        noun = "centers" if settings.center == "mass" else "geometric centers"
        names = [f"distance of {noun} of {descriptions[i]} and {descriptions[j]}" for i, j in pairs]
        geometry = ([(m, tree) for m, (_, tree) in zip(members, trees)], weights, np.array(pairs))
        term = Term(tuple(atoms.tolist()), "; ".join(names), (names, geometry))
        return Entry(settings.model_dump(mode="json"), [term])

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(name, "nm") for term in terms for name in term.settings[0]]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for term in terms:
            groups, weights, pairs = term.settings[1]
            groups = [(np.array(term.atoms)[members].tolist(), tree) for members, tree in groups]
            modules.append(GroupDistances(groups, weights, pairs, n_atoms))
        return concatenate(modules)
