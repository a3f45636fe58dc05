"""Radius of gyration."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Term,
    atom_indices,
    concatenate,
    describe_atoms,
    validate,
)
from latf_sampling.features.periodic import join_double, safe_sqrt, split_double, squared_lengths, weighted_sums
from latf_sampling.features.topology import Labels, normalized_weights
from latf_sampling.features.unwrap import Unwrap, bonded_tree
from latf_sampling.settings.fields import Settings


class Gyration(torch.nn.Module):
    """Radius of gyration, nm, (..., n, 3) -> (..., 1): R^2 = sum_i w_i |x_i - sum_j w_j x_j|^2.

    In a box, molecules are unwrapped. Where all atoms coincide the radius and its gradient are zero.

    Parameters
    ----------
    atoms
        Indices of positions: the atoms that count, then those that `bonded_tree` added.
    tree
        Edges of `bonded_tree`.
    weights
        Weights of the atoms that count; they sum to one.
    n_atoms
        Number of positions.
    """

    weights: Tensor

    def __init__(self, atoms: Sequence[int], tree: np.ndarray, weights: np.ndarray, n_atoms: int):
        super().__init__()
        self.unwrap = Unwrap(atoms, tree, n_atoms, range(len(weights)))
        self.register_buffer("weights", split_double(weights[None]))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        x = self.unwrap(positions, box)
        weights = join_double(self.weights).to(x.dtype)
        squares = squared_lengths(x - weighted_sums(weights, x))
        return safe_sqrt((squares * weights[0]).sum(-1, keepdim=True), 1e-16)


class _GyrationSettings(Settings):
    of: Any
    weights: Literal["mass", "equal"] = "mass"


class GyrationDescriptor(Descriptor):
    """A selection, or ``{of: selection, weights: mass}``; an entry is one term."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        value, key = ({"of": value}, where) if isinstance(value, str) else (value, f"{where}.of")
        settings = validate(_GyrationSettings, value, where, "write a selection, or {of: selection, weights: equal}")
        counted = atom_indices(labels.topology, settings.of, key)
        weights = normalized_weights(labels.topology, counted, settings.weights, key)
        atoms, tree = bonded_tree(labels.topology, counted)
        label = f"radius of gyration of {describe_atoms(settings.of, counted, labels)}"
        label += " (equal weights)" * (settings.weights == "equal")
        return Entry(settings.model_dump(mode="json"), [Term(tuple(atoms), label, (tree, weights))])

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label, "nm") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for term in terms:
            tree, weights = term.settings
            modules.append(Gyration(term.atoms, tree, weights, n_atoms))
        return concatenate(modules)
