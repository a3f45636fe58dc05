"""Cartesian coordinates, for model potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latf_sampling.features.descriptor import Axes, Column, Descriptor, Entry, Term, atom_indices, validate
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


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
        from latf_sampling.features.modules.coordinates import Coordinates

        return Coordinates([3 * term.atoms[0] + term.settings for term in terms])
