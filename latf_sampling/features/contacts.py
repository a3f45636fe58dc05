"""Switched contacts of pairs of atoms: 1 for near and 0 for far, smooth in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from latf_sampling.features.descriptor import Column, Descriptor, Entry, Index, Term, validate
from latf_sampling.features.distances import pairs_between, pairs_by_index
from latf_sampling.features.switching import SwitchingSettings
from latf_sampling.features.topology import Labels

if TYPE_CHECKING:
    import torch


def sum_term(pairs: Sequence[tuple[int, int]], label: str, settings: Any) -> Term:
    """One term for a sum over pairs; its settings are ``settings``, and the pairs as indices of its atoms."""
    atoms, indices = np.unique(np.array(pairs), return_inverse=True)
    return Term(tuple(atoms.tolist()), label, (settings, indices.reshape(-1, 2)))


def pair_module(terms: Sequence[Term], n_atoms: int) -> torch.nn.Module:
    """Module of terms whose settings are a switching function and, for a sum, pairs as indices of the term's atoms."""

    from latf_sampling.features.modules.concatenation import concatenate
    from latf_sampling.features.modules.contacts import SwitchedPairs

    modules: list[torch.nn.Module] = []
    # consecutive terms with the same switching function share a module
    for (_, each), group in groupby(terms, key=lambda term: (term.settings[0].normal_form(), term.settings[1] is None)):
        alike = list(group)
        function = alike[0].settings[0].function
        if each:
            modules.append(SwitchedPairs(np.array([term.atoms for term in alike]), n_atoms, function()))
        else:
            modules += [
                SwitchedPairs(np.array(term.atoms)[term.settings[1]], n_atoms, function(), total=True) for term in alike
            ]
    return concatenate(modules)


class _ContactPairs(SwitchingSettings):
    pairs: tuple[tuple[Index, Index], ...] = Field(min_length=1)
    sum: bool = False


class _ContactsBetween(SwitchingSettings):
    between: str
    and_: str | None = Field(None, alias="and")
    skip: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0
    sum: bool = False


class ContactDescriptor(Descriptor):
    """``{between: selection, and: selection, skip: k, r0: "0.45 nm", n: 6, m: 12}``, or with ``pairs: [[i, j], ...]``.

    ``fermi: "0.02 nm"`` replaces n and m; ``sum: true`` makes one column, the sum.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        usage = 'write {between: selection, r0: "0.45 nm"}, with and, skip, sum, and n and m or fermi'
        settings: Any
        if isinstance(value, Mapping) and "pairs" in value:
            settings = validate(_ContactPairs, value, where, usage)
            pairs = pairs_by_index(labels.topology, settings.pairs, where)
            description = f"{len(settings.pairs)} pairs"
        else:
            settings = validate(_ContactsBetween, value, where, usage)
            key = f"{where}.between"
            pairs = pairs_between(
                labels.topology, settings.between, settings.and_, settings.skip, where, key, settings.sum
            )
            description = settings.between + (f" and {settings.and_}" if settings.and_ is not None else "")
            description += f", {settings.skip} residues apart," * (settings.skip > 0)
        terms = pair_terms(pairs, "contact", f"contacts of {description}", settings, labels)
        return Entry(settings.normal_form(), terms)

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label) for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        return pair_module(terms, n_atoms)


def pair_terms(pairs: Sequence[tuple[int, int]], noun: str, total: str, settings: Any, labels: Labels) -> list[Term]:
    """One term for each pair, called ``noun``, or with ``settings.sum`` one for their sum, called ``total``."""
    keys = settings.normal_form().keys() & SwitchingSettings.model_fields.keys()
    switching = SwitchingSettings(**{key: getattr(settings, key) for key in keys})
    if settings.sum:
        return [sum_term(pairs, f"{total} {switching.description}", switching)]
    return [
        Term(pair, f"{noun} {labels.atom(pair[0])} {labels.atom(pair[1])} {switching.description}", (switching, None))
        for pair in pairs
    ]
