"""Radius of gyration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Row,
    Settings,
    atoms_of,
    side_by_side,
    validated,
    words_of,
)
from latf_sampling.features.periodic import combined, root, squared_lengths, together, two_parts
from latf_sampling.features.topology import Labels, relative_weights
from latf_sampling.features.whole import Whole, bonded_tree


class Gyration(torch.nn.Module):
    """Radius of gyration, nm, (..., n, 3) -> (..., 1): R^2 = sum_i w_i |x_i - sum_j w_j x_j|^2.

    In a box, molecules are made whole. Where all atoms coincide it is zero with gradient zero.

    Parameters
    ----------
    atoms
        Indices in the positions, what `bonded_tree` added included.
    tree
        Its edges.
    weights
        Of the atoms that count, the first ones; they sum to one.
    n_atoms
        Number of positions.
    """

    def __init__(self, atoms: Sequence[int], tree: np.ndarray, weights: np.ndarray, n_atoms: int):
        super().__init__()
        self.whole = Whole(atoms, tree, n_atoms, range(len(weights)))
        self.register_buffer("weights", two_parts(weights[None]))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        x = self.whole(positions, box)
        weights = together(self.weights).to(x.dtype)
        squares = squared_lengths(x - combined(weights, x))
        return root((squares * weights[0]).sum(-1, keepdim=True), 1e-16)


class _GyrationSettings(Settings):
    of: Any
    weights: Literal["mass", "equal"] = "mass"


class GyrationDescriptor(Descriptor):
    """A selection, or ``{of: selection, weights: mass}``; one row an entry."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        value, key = ({"of": value}, where) if isinstance(value, str) else (value, f"{where}.of")
        settings = validated(_GyrationSettings, value, where, "write a selection, or {of: selection, weights: equal}")
        chosen = atoms_of(labels.topology, settings.of, key)
        weights = relative_weights(labels.topology, chosen, settings.weights, key)
        atoms, tree = bonded_tree(labels.topology, chosen)
        label = f"radius of gyration of {words_of(settings.of, chosen, labels)}"
        label += " (equal weights)" * (settings.weights == "equal")
        return Entry(settings.model_dump(mode="json"), [Row(tuple(atoms), label, (tree, weights))])

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label, "nm") for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules = [Gyration(row.atoms, *row.settings, n_atoms) for row in rows]
        return side_by_side(modules)
