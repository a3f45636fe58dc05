"""Pucker of five-membered rings, such as the sugars of nucleic acids: phase and amplitude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from latf_sampling.features.descriptor import Column, Descriptor, Entry, Index, Term, check_indices, validate
from latf_sampling.features.nucleotides import selected_nucleotides
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


class _Rings(Settings):
    atoms: tuple[tuple[Index, Index, Index, Index, Index], ...] = Field(min_length=1)


class _Sugars(Settings):
    of: str


class PuckerDescriptor(Descriptor):
    """A selection of nucleotides, by any of their atoms, or ``{atoms: [[C4', O4', C1', C2', C3'], ...]}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        usage = "write a selection such as all, or {atoms: [[0, 1, 2, 3, 4]]}"
        if isinstance(value, Mapping) and "atoms" in value:
            settings = validate(_Rings, value, where, usage)
            terms = {}
            for position, ring in enumerate(settings.atoms):
                check_indices(ring, labels.topology.n_atoms, f"{where}.atoms[{position}]")
                terms[ring] = Term(ring, " ".join(labels.atom(atom) for atom in ring))
            return Entry(settings.model_dump(mode="json"), list(terms.values()))
        settings = validate(_Sugars, {"of": value} if isinstance(value, str) else value, where, usage)
        key = where if isinstance(value, str) else f"{where}.of"
        sugars = [nucleotide.sugar for nucleotide in selected_nucleotides(labels.topology, settings.of, key)]
        terms = [Term(sugar, labels.residue(sugar[0])) for sugar in sugars]
        return Entry(settings.model_dump(mode="json"), terms)

    def columns(self, terms: list[Term]) -> list[Column]:
        columns = [Column(f"{part} pucker {term.label}") for part in ("sin", "cos") for term in terms]
        return columns + [Column(f"pucker amplitude {term.label}", "nm") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.pucker import Pucker

        return Pucker(np.array([term.atoms for term in terms]), n_atoms)
