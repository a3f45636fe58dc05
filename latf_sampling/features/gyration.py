"""Radius of gyration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from latf_sampling.features.bonded_tree import bonded_tree, molecule_labels
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Term, atom_indices, describe_atoms, validate
from latf_sampling.features.topology import Labels, normalized_weights
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


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
        molecules = molecule_labels(labels.topology, counted)
        label = f"radius of gyration of {describe_atoms(settings.of, counted, labels)}"
        label += " (equal weights)" * (settings.weights == "equal")
        term = Term(tuple(atoms), label, (tree, weights, molecules))
        return Entry(settings.model_dump(mode="json"), [term])

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label, "nm") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.gyration import Gyration

        modules: list[torch.nn.Module] = []
        for term in terms:
            tree, weights, molecules = term.settings
            modules.append(Gyration(term.atoms, tree, weights, n_atoms, molecules))
        return concatenate(modules)
