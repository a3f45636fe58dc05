"""Cartesian coordinates, for model potentials."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latf_sampling.features.descriptor import Axes, Column, Descriptor, Entry, Term, atom_indices, validate
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings


class Coordinates(torch.nn.Module):
    """Some of the coordinates, nm, (..., n, 3) -> (..., coordinates).

    They are not invariant to translation and rotation: they suit a model potential, which is fixed in space, but no
    molecule that diffuses. A box is ignored; `Features` refuses one.

    Parameters
    ----------
    components
        Indices into x0, y0, z0, x1, ..., counted from 0.

    Examples
    --------
    >>> Coordinates([3, 4])(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    tensor([0.4000, 0.5000])
    """

    components: Tensor

    def __init__(self, components: Sequence[int]):
        super().__init__()
        self.register_buffer("components", torch.as_tensor(components, dtype=torch.int64))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        return positions.flatten(-2).index_select(-1, self.components)


class _CoordinateSettings(Settings):
    of: Any
    axes: Axes = "xyz"


class CoordinateDescriptor(Descriptor):
    """A selection, or ``{of: selection, axes: "xy"}``; a term is one coordinate, its settings the axis."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        value, key = ({"of": value}, where) if isinstance(value, str) else (value, f"{where}.of")
        settings = validate(_CoordinateSettings, value, where, 'write a selection, or {of: selection, axes: "xy"}')
        atoms = atom_indices(labels.topology, settings.of, key)
        terms = [
            Term((atom,), f"{axis} {labels.atom(atom)}", "xyz".index(axis)) for atom in atoms for axis in settings.axes
        ]
        return Entry(settings.model_dump(mode="json"), terms, "a position has no shortest image")

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label, "nm") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        return Coordinates([3 * term.atoms[0] + term.settings for term in terms])
