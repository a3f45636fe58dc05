"""Plain Cartesian coordinates, for model potentials and what moves on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from latf_sampling.features.descriptor import Axes, Column, Descriptor, Entry, Row, Settings, atoms_of, validated
from latf_sampling.features.topology import Labels


class Coordinates(torch.nn.Module):
    """Some of the coordinates, nm, (..., n, 3) -> (..., coordinates).

    They change when the system is moved or turned: good for a model potential, which is fixed in space, and for
    nothing that floats. A box says nothing about them and is ignored; `Features` refuses one.

    Parameters
    ----------
    components
        What to keep of x0, y0, z0, x1, ..., counted from 0.

    Examples
    --------
    >>> Coordinates([3, 4])(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    tensor([0.4000, 0.5000])
    """

    def __init__(self, components: Sequence[int]):
        super().__init__()
        self.register_buffer("components", torch.as_tensor(components, dtype=torch.int64))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return positions.flatten(-2).index_select(-1, self.components)


class _CoordinateSettings(Settings):
    of: Any
    axes: Axes = "xyz"


class CoordinateDescriptor(Descriptor):
    """A selection, or ``{of: selection, axes: "xy"}``; one row a coordinate, its settings the number of the axis."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        value, key = ({"of": value}, where) if isinstance(value, str) else (value, f"{where}.of")
        settings = validated(_CoordinateSettings, value, where, 'write a selection, or {of: selection, axes: "xy"}')
        atoms = atoms_of(labels.topology, settings.of, key)
        rows = [
            Row((atom,), f"{axis} {labels.atom(atom)}", "xyz".index(axis)) for atom in atoms for axis in settings.axes
        ]
        return Entry(settings.model_dump(mode="json"), rows, "a position is the same as all its images")

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label, "nm") for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        return Coordinates([3 * row.atoms[0] + row.settings for row in rows])
