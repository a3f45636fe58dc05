"""Coordination numbers of identical particles, sorted, and the moments of their distribution."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from latf_sampling.errors import SettingsError
from latf_sampling.features.contacts import sum_term
from latf_sampling.features.descriptor import (
    Axes,
    Column,
    Descriptor,
    Entry,
    Term,
    atom_indices,
    describe_atoms,
    refuse_too_many,
    validate,
)
from latf_sampling.features.switching import SwitchingSettings
from latf_sampling.features.topology import Labels

if TYPE_CHECKING:
    import torch


_MAX_ATOMS = 256  # the matrix that sums over pairs has half the cube of this as entries


class _CoordinationSettings(SwitchingSettings):
    of: Any
    with_: Any = Field(None, alias="with")
    moments: tuple[Annotated[int, Field(strict=True, ge=2)], ...] = ()
    axes: Axes = "xyz"

    @field_validator("moments")
    @classmethod
    def _different(cls, moments: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(moments)) < len(moments):
            raise SettingsError(f"{list(moments)} names an order twice.")
        return moments


_USAGE = 'write {of: selection, r0: "0.5 nm"}, with n and m or fermi, or {of: selection, with: selection, ...}'


class CoordinationDescriptor(Descriptor):
    """``{of: selection, r0: "1.5 nm", n: 6, m: 12, moments: [2, 3], axes: "xy"}``.

    ``fermi: "0.02 nm"`` replaces n and m; ``with: selection`` makes the one coordination number between two groups.
    An entry is one term.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_CoordinationSettings, value, where, _USAGE)
        atoms = atom_indices(labels.topology, settings.of, f"{where}.of")
        nonperiodic = "" if settings.axes == "xyz" else "shortest images need all three axes"
        if settings.with_ is not None:
            return self._between(settings, atoms, labels, where, nonperiodic)
        if not 2 <= len(atoms) <= _MAX_ATOMS:
            raise SettingsError(f"{where}.of: needs 2 to {_MAX_ATOMS} atoms, finds {len(atoms)}.")
        label = f"coordination {settings.description}" + f" along {settings.axes}" * (settings.axes != "xyz")
        return Entry(settings.normal_form(), [Term(tuple(sorted(atoms)), label, (settings, None))], nonperiodic)

    def _between(
        self, settings: _CoordinationSettings, atoms: list[int], labels: Labels, where: str, nonperiodic: str
    ) -> Entry:
        if settings.moments:
            raise SettingsError(f"{where}.moments: need identical particles, and so no key 'with'.")
        others = atom_indices(labels.topology, settings.with_, f"{where}.with")
        refuse_too_many(len(atoms) * len(others), f"{where}.with", total=True)
        pairs = list(dict.fromkeys((min(p), max(p)) for p in product(atoms, others) if p[0] != p[1]))
        if not pairs:
            raise SettingsError(f"{where}.with: is the only atom of 'of'; a distance needs two.")
        first, second = describe_atoms(settings.of, atoms, labels), describe_atoms(settings.with_, others, labels)
        label = f"coordination of {first} with {second} {settings.description}"
        label += f" along {settings.axes}" * (settings.axes != "xyz")
        normal_form = settings.normal_form()
        normal_form.pop("moments")
        return Entry(normal_form, [sum_term(pairs, label, settings)], nonperiodic)

    def columns(self, terms: list[Term]) -> list[Column]:
        sorted_numbers = [term for term in terms if term.settings[1] is None]
        names = []
        for term in terms:
            if term.settings[1] is not None:
                names.append(term.label)
                continue
            noun = "coordination" if len(sorted_numbers) == 1 else f"coordination#{sorted_numbers.index(term)}"
            names += [f"{noun} {rank}" for rank in range(1, len(term.atoms) + 1)]
            names += [f"{noun} moment {order}" for order in term.settings[0].moments]
        return [Column(name) for name in names]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.contacts import SwitchedPairs
        from latf_sampling.features.modules.coordination import CoordinationNumbers

        modules: list[torch.nn.Module] = []
        for term in terms:
            settings, pairs = term.settings
            switching = settings.function(settings.axes)
            if pairs is None:
                modules.append(CoordinationNumbers(term.atoms, n_atoms, switching, settings.moments))
            else:
                modules.append(SwitchedPairs(np.array(term.atoms)[pairs], n_atoms, switching, total=True))
        return concatenate(modules)
