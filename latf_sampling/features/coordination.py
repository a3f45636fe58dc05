"""Coordination numbers of identical particles, sorted, and the moments of their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, field_validator

from latf_sampling.errors import SettingsError
from latf_sampling.features.contacts import SwitchedPairs, sum_row
from latf_sampling.features.descriptor import (
    Axes,
    Column,
    Descriptor,
    Entry,
    Row,
    atoms_of,
    side_by_side,
    validated,
    words_of,
)
from latf_sampling.features.periodic import Differences
from latf_sampling.features.switching import Switched
from latf_sampling.features.topology import Labels

_MOST_ATOMS = 256  # the matrix that sums over pairs has half the cube of it as entries


class CoordinationNumbers(torch.nn.Module):
    """Coordination numbers, smallest first, then central moments, (..., n, 3) -> (..., atoms + moments), no unit.

    The coordination number of particle i is a smooth count of the others, c_i = sum_j s(r_ij), with a switching
    function s, and the moment of order k is the mean over i of (c_i - <c>)^k: COORDINATIONNUMBER with MOMENTS of PLUMED
    (Tribello et al., doi:10.1016/j.cpc.2013.09.018). Neither changes when particles trade places. Where two numbers
    cross, the sorted ones are continuous with a kink; moments are smooth.

    Parameters
    ----------
    atoms
        Indices of the particles in the positions; two or more.
    n_atoms
        Number of positions.
    switching
        Of difference vectors, see `latf_sampling.features.switching`.
    moments
        Orders k.

    Examples
    --------
    >>> from latf_sampling.features.switching import Rational
    >>> square = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> CoordinationNumbers(range(4), 4, Rational(1.0), moments=[2])(square)
    tensor([1.1111, 1.1111, 1.1111, 1.1111, 0.0000])
    """

    __constants__ = ["moments"]  # TorchScript cannot tell the type of an attribute that is empty

    def __init__(
        self,
        atoms: Sequence[int],
        n_atoms: int,
        switching: torch.nn.Module,
        moments: Sequence[int] = (),
    ):
        super().__init__()
        pairs = torch.tensor(list(combinations(range(len(atoms)), 2)))
        particles = torch.as_tensor(atoms)
        self.differences = Differences(particles[pairs[:, 0]], particles[pairs[:, 1]], n_atoms)
        self.switching = switching
        self.moments = tuple(moments)
        self.register_buffer("ends", torch.nn.functional.one_hot(pairs, len(atoms)).sum(1).float())

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        numbers = torch.matmul(self.switching(self.differences(positions, box)), self.ends)
        # the derivative of torch.sort itself is traced with zeros that stay on the device of the trace
        columns = [torch.gather(numbers, -1, torch.argsort(numbers.detach(), -1))]
        deviations = numbers - numbers.mean(-1, keepdim=True)
        for order in self.moments:
            columns.append((deviations**order).mean(-1, keepdim=True))
        return torch.cat(columns, -1)


class _CoordinationSettings(Switched):
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


_HELP = 'write {of: selection, r0: "0.5 nm"}, with n and m or fermi, or {of: selection, with: selection, ...}'


class CoordinationDescriptor(Descriptor):
    """``{of: selection, r0: "1.5 nm", n: 6, m: 12, moments: [2, 3], axes: "xy"}``.

    ``fermi: "0.02 nm"`` instead of n and m; with ``with: selection``, the single coordination number between two
    groups. One row an entry.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_CoordinationSettings, value, where, _HELP)
        atoms = atoms_of(labels.topology, settings.of, f"{where}.of")
        aperiodic = "" if settings.axes == "xyz" else "shortest images take all three axes"
        if settings.with_ is not None:
            return self._between(settings, atoms, labels, where, aperiodic)
        if not 2 <= len(atoms) <= _MOST_ATOMS:
            raise SettingsError(f"{where}.of: needs 2 to {_MOST_ATOMS} atoms, finds {len(atoms)}.")
        label = f"coordination {settings.words}" + f" along {settings.axes}" * (settings.axes != "xyz")
        return Entry(settings.normal(), [Row(tuple(sorted(atoms)), label, (settings, None))], aperiodic)

    def _between(
        self, settings: _CoordinationSettings, atoms: list[int], labels: Labels, where: str, aperiodic: str
    ) -> Entry:
        if settings.moments:
            raise SettingsError(f"{where}.moments: are of particles that are all alike, without 'with'.")
        others = atoms_of(labels.topology, settings.with_, f"{where}.with")
        pairs = list(dict.fromkeys((min(p), max(p)) for p in product(atoms, others) if p[0] != p[1]))
        if not pairs:
            raise SettingsError(f"{where}.with: is the only atom of 'of'; a distance needs two.")
        words = [words_of(of, found, labels) for of, found in ((settings.of, atoms), (settings.with_, others))]
        label = f"coordination of {words[0]} with {words[1]} {settings.words}"
        label += f" along {settings.axes}" * (settings.axes != "xyz")
        normal = settings.normal()
        normal.pop("moments")
        return Entry(normal, [sum_row(pairs, label, settings)], aperiodic)

    def columns(self, rows: list[Row]) -> list[Column]:
        alike = [row for row in rows if row.settings[1] is None]
        names = []
        for row in rows:
            if row.settings[1] is not None:
                names.append(row.label)
                continue
            noun = "coordination" if len(alike) == 1 else f"coordination#{alike.index(row)}"
            names += [f"{noun} {rank}" for rank in range(1, len(row.atoms) + 1)]
            names += [f"{noun} moment {order}" for order in row.settings[0].moments]
        return [Column(name) for name in names]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for row in rows:
            settings, pairs = row.settings
            switching = settings.function(settings.axes)
            if pairs is None:
                modules.append(CoordinationNumbers(row.atoms, n_atoms, switching, settings.moments))
            else:
                modules.append(SwitchedPairs(np.array(row.atoms)[pairs], n_atoms, switching, total=True))
        return side_by_side(modules)
