"""Distances between the centers of groups of atoms."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.bonded_tree import bonded_tree, molecule_labels
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Term,
    atom_indices,
    describe_atoms,
    validate,
)
from latf_sampling.features.topology import Labels, normalized_weights
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


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
        molecules = [molecule_labels(labels.topology, atoms) for atoms in groups]
        atoms, indices = np.unique(np.concatenate([members for members, _ in trees]), return_inverse=True)
        ends = np.cumsum([len(members) for members, _ in trees])[:-1]
        members = [part.tolist() for part in np.split(indices.reshape(-1), ends)]
        noun = "centers" if settings.center == "mass" else "geometric centers"
        names = [f"distance of {noun} of {descriptions[i]} and {descriptions[j]}" for i, j in pairs]
        geometry = ([(m, tree) for m, (_, tree) in zip(members, trees)], weights, np.array(pairs), molecules)
        term = Term(tuple(atoms.tolist()), "; ".join(names), (names, geometry))
        return Entry(settings.model_dump(mode="json"), [term])

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(name, "nm") for term in terms for name in term.settings[0]]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.groups import GroupDistances

        modules: list[torch.nn.Module] = []
        for term in terms:
            groups, weights, pairs, molecules = term.settings[1]
            groups = [(np.array(term.atoms)[members].tolist(), tree) for members, tree in groups]
            modules.append(GroupDistances(groups, weights, pairs, n_atoms, molecules))
        return concatenate(modules)
