"""Coordination numbers of identical particles, sorted, and the moments of their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import gcd
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, field_validator

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Axes,
    Column,
    Columns,
    Descriptor,
    Entry,
    Row,
    Settings,
    atoms_of,
    validated,
)
from latf_sampling.features.periodic import Differences
from latf_sampling.features.topology import Labels
from latf_sampling.schema import Length

_MOST_ATOMS = 256  # the matrix that sums over pairs has half the cube of it as entries
_HUGE = 1e36  # where powers stop growing; in single precision they overflow at 3e38


class CoordinationNumbers(torch.nn.Module):
    """Coordination numbers, smallest first, then central moments, (..., n, 3) -> (..., atoms + moments), no unit.

    The coordination number of particle i is a smooth count of the others within r0,

        c_i = sum_j s(r_ij),   s(r) = (1 - (r / r0)^n) / (1 - (r / r0)^m),

    and the moment of order k is the mean over i of (c_i - <c>)^k: COORDINATIONNUMBER with MOMENTS and the switching
    function RATIONAL of PLUMED (Tribello et al., doi:10.1016/j.cpc.2013.09.018). Neither changes when particles trade
    places. Where two numbers cross, the sorted ones are continuous with a kink; moments are smooth.

    With g the greatest common divisor of n and m and w = (r / r0)^g, s is the quotient of 1 + w + ... + w^(n/g - 1) and
    1 + w + ... + w^(m/g - 1). It has no pole at r0, is 1 / (1 + (r / r0)^n) for m = 2n, and contains no square root,
    for g is even: value and gradient are finite everywhere. Where w^(m/g - 1) reaches 1e36, for m = 2n where s falls
    to 1e-36, s becomes constant.

    Parameters
    ----------
    atoms
        Indices of the particles in the positions; two or more.
    n_atoms
        Number of positions.
    r0
        Distance, nm.
    n, m
        Exponents, even, 0 < n < m.
    moments
        Orders k.
    axes
        Which components of a difference make up the distance.

    Examples
    --------
    >>> square = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> CoordinationNumbers(range(4), 4, r0=1.0, n=6, m=12, moments=[2])(square)
    tensor([1.1111, 1.1111, 1.1111, 1.1111, 0.0000])
    """

    __constants__ = ["moments"]  # TorchScript cannot tell the type of an attribute that is empty

    def __init__(
        self,
        atoms: Sequence[int],
        n_atoms: int,
        *,
        r0: float,
        n: int,
        m: int,
        moments: Sequence[int] = (),
        axes: str = "xyz",
    ):
        super().__init__()
        pairs = torch.tensor(list(combinations(range(len(atoms)), 2)))
        particles = torch.as_tensor(atoms)
        self.differences = Differences(particles[pairs[:, 0]], particles[pairs[:, 1]], n_atoms)
        common = gcd(n, m)
        self.scale = r0**-2
        self.power = common / 2
        self.terms_above, self.terms_below = n // common, m // common
        self.limit = _HUGE ** (2 / (m - common))
        self.moments = tuple(moments)
        self.register_buffer("axes", torch.tensor([float(axis in axes) for axis in "xyz"]))
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("ends", torch.nn.functional.one_hot(pairs, len(atoms)).sum(1).float())

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        squares = torch.matmul(self.differences(positions, box).square(), self.axes)
        w = torch.clamp(squares * self.scale, max=self.limit) ** self.power
        # Horner's rule; the longer sum goes on where the shorter one ends
        above = self.one
        for _ in range(self.terms_above - 1):
            above = torch.addcmul(self.one, above, w)
        below = above
        for _ in range(self.terms_below - self.terms_above):
            below = torch.addcmul(self.one, below, w)
        numbers = torch.matmul(above / below, self.ends)
        # the derivative of torch.sort itself is traced with zeros that stay on the device of the trace
        columns = [torch.gather(numbers, -1, torch.argsort(numbers.detach(), -1))]
        deviations = numbers - numbers.mean(-1, keepdim=True)
        for order in self.moments:
            columns.append((deviations**order).mean(-1, keepdim=True))
        return torch.cat(columns, -1)


_Exponent = Annotated[int, Field(strict=True, ge=2, multiple_of=2)]


class _CoordinationSettings(Settings):
    of: Any
    r0: Length
    n: _Exponent = 6
    m: _Exponent = Field(default=12, validate_default=True)
    moments: tuple[Annotated[int, Field(strict=True, ge=2)], ...] = ()
    axes: Axes = "xyz"

    @field_validator("m")
    @classmethod
    def _steeper(cls, m: int, info: ValidationInfo) -> int:
        if m <= info.data.get("n", 0):
            raise SettingsError(f"{m} has to be greater than n, which is {info.data['n']}.")
        return m

    @field_validator("moments")
    @classmethod
    def _different(cls, moments: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(moments)) < len(moments):
            raise SettingsError(f"{list(moments)} names an order twice.")
        return moments


class CoordinationDescriptor(Descriptor):
    """``{of: selection, r0: "1.5 nm", n: 6, m: 12, moments: [2, 3], axes: "xy"}``; one row an entry."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_CoordinationSettings, value, where, 'write {of: selection, r0: "0.5 nm"}')
        atoms = atoms_of(labels.topology, settings.of, f"{where}.of")
        if not 2 <= len(atoms) <= _MOST_ATOMS:
            raise SettingsError(f"{where}.of: needs 2 to {_MOST_ATOMS} atoms, finds {len(atoms)}.")
        label = f"coordination within {settings.r0} nm (n {settings.n}, m {settings.m}, axes {settings.axes})"
        aperiodic = "" if settings.axes == "xyz" else "shortest images take all three axes"
        row = Row(tuple(sorted(atoms)), label, settings)
        return Entry(settings.model_dump(mode="json"), [row], aperiodic)

    def columns(self, rows: list[Row]) -> list[Column]:
        names = []
        for index, row in enumerate(rows):
            noun = "coordination" if len(rows) == 1 else f"coordination#{index}"
            names += [f"{noun} {rank}" for rank in range(1, len(row.atoms) + 1)]
            names += [f"{noun} moment {order}" for order in row.settings.moments]
        return [Column(name) for name in names]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules = [CoordinationNumbers(row.atoms, n_atoms, **row.settings.model_dump(exclude={"of"})) for row in rows]
        return modules[0] if len(modules) == 1 else Columns(modules)
