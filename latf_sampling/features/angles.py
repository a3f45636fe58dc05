"""Angles between three atoms, as their cosine or in radian."""

from __future__ import annotations

from collections.abc import Mapping
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
    check_indices,
    concatenate,
    select_atoms,
    validate,
)
from latf_sampling.features.periodic import Differences, cross, dot, squared_lengths
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

_SHORT = 1e-16  # nm^4; squared product of the two lengths below which an angle ceases to be defined


class Cosines(torch.nn.Module):
    """Cosines of angles, (..., n, 3) -> (..., angles).

    u . v / sqrt(|u|^2 |v|^2 + 1e-16 nm^4) for the vectors u and v from the middle atom to the two others. It is smooth
    at 0 and 180 degrees; where two atoms coincide the angle is not defined, and the cosine goes to zero with a finite
    gradient. For ordinary bonds the small term changes the cosine by less than 1e-11.
    """

    def __init__(self, triples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k = triples.T
        self.differences = Differences(np.concatenate([j, j]), np.concatenate([i, k]), n_atoms)
        self.count = len(triples)
        self.short = _SHORT

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        u, v = torch.split(self.differences(positions, box), [self.count, self.count], -2)
        return dot(u, v) * torch.rsqrt(squared_lengths(u) * squared_lengths(v) + self.short)


class Angles(torch.nn.Module):
    """Angles, rad, (..., n, 3) -> (..., angles).

    The arctangent of sqrt(|u x v|^2 + 1e-16 nm^4) and u . v, accurate at 0 and 180 degrees, where the arccosine is not.
    The angle has a kink there; the small term rounds it off, so that value and gradient are finite everywhere. It
    changes the angle of ordinary bonds by less than 1e-11 rad, and by 1e-6 rad at the kink itself.
    """

    def __init__(self, triples: np.ndarray, n_atoms: int):
        super().__init__()
        i, j, k = triples.T
        self.differences = Differences(np.concatenate([j, j]), np.concatenate([i, k]), n_atoms)
        self.count = len(triples)
        self.short = _SHORT

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        u, v = torch.split(self.differences(positions, box), [self.count, self.count], -2)
        return torch.atan2(torch.sqrt(squared_lengths(cross(u, v)) + self.short), dot(u, v))


_MODULES = {"cosine": Cosines, "angle": Angles}


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
        modules = [_MODULES[kind](np.array([term.atoms for term in part]), n_atoms) for kind, part in _by_kind(terms)]
        return concatenate(modules)


def _by_kind(terms: list[Term]) -> list[tuple[str, list[Term]]]:
    """Terms of each kind that occurs, cosines before angles."""
    parts = [(kind, [term for term in terms if term.settings == kind]) for kind in _MODULES]
    return [(kind, part) for kind, part in parts if part]
