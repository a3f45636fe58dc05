"""Angles between three atoms, as their cosine or in radian."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Term,
    check_indices,
    select_atoms,
    validate,
)
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


class _AngleSettings(Settings):
    as_: Literal["cosine", "angle"] = Field("cosine", alias="as")


class _AngleAtoms(_AngleSettings):
    atoms: tuple[tuple[Index, Index, Index], ...] = Field(min_length=1)


class _AngleBonded(_AngleSettings):
    of: str
    at: str | None = None


class AngleDescriptor(Descriptor):
    """A selection, ``{of: selection, at: selection, as: cosine}``, or ``{atoms: [[i, j, k], ...], as: angle}``."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        usage = "write a selection, {of: selection, at: selection, as: cosine}, or {atoms: [[0, 1, 2]], as: angle}"
        if isinstance(value, Mapping) and "atoms" in value:
            settings = validate(_AngleAtoms, value, where, usage)
            triples = settings.atoms
            for position, triple in enumerate(triples):
                check_indices(triple, labels.topology.n_atoms, f"{where}.atoms[{position}]")
        else:
            settings = validate(_AngleBonded, {"of": value} if isinstance(value, str) else value, where, usage)
            triples = self._bonded(settings, labels, where, where if isinstance(value, str) else f"{where}.of")
        # the reversed triple is the same angle
        triples = dict.fromkeys((min(i, k), j, max(i, k)) for i, j, k in triples)
        noun = "cos angle" if settings.as_ == "cosine" else "angle"
        terms = [Term(t, f"{noun} {' '.join(labels.atom(a) for a in t)}", settings.as_) for t in triples]
        return Entry(settings.model_dump(mode="json", by_alias=True, exclude_none=True), terms)

    def _bonded(self, settings: _AngleBonded, labels: Labels, where: str, key: str) -> list[tuple[int, int, int]]:
        atoms = set(select_atoms(labels.topology, settings.of, key))
        vertices = atoms
        if settings.at is not None:
            vertices = atoms & set(select_atoms(labels.topology, settings.at, f"{where}.at"))
        neighbors: dict[int, list[int]] = {atom: [] for atom in sorted(atoms)}
        for bond in labels.topology.bonds:
            first, second = bond[0].index, bond[1].index
            if first in atoms and second in atoms:
                neighbors[first].append(second)
                neighbors[second].append(first)
        triples = [(i, j, k) for j in sorted(vertices) for i, k in combinations(sorted(neighbors[j]), 2)]
        if not triples:
            reason = "" if labels.topology.n_bonds else "; the topology has no bonds at all"
            raise SettingsError(f"{key}: '{settings.of}' selects no three atoms bonded in a row{reason}.")
        return triples

    def columns(self, terms: list[Term]) -> list[Column]:
        return [
            Column(term.label, "" if kind == "cosine" else "rad") for kind, part in _by_kind(terms) for term in part
        ]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.angles import Angles, Cosines
        from latf_sampling.features.modules.concatenation import concatenate

        kinds = {"cosine": Cosines, "angle": Angles}
        modules = [kinds[kind](np.array([term.atoms for term in part]), n_atoms) for kind, part in _by_kind(terms)]
        return concatenate(modules)


def _by_kind(terms: list[Term]) -> list[tuple[str, list[Term]]]:
    """Terms of each kind that occurs, cosines before angles."""
    parts = [(kind, [term for term in terms if term.settings == kind]) for kind in ("cosine", "angle")]
    return [(kind, part) for kind, part in parts if part]
