"""Switching functions of distances: 1 for near, 0 for far, smooth in between: the torch modules."""

from math import gcd

import torch
from torch import Tensor

from latf_sampling.features.periodic import lengths, squared_lengths

_MAX_POWER = 1e36  # powers are clamped here; in single precision they overflow at 3e38


class _ProjectAxes(torch.nn.Module):
    """Set the components of difference vectors along the other axes to zero."""

    axes: Tensor

    def __init__(self, axes: str):
        super().__init__()
        self.all: bool = axes == "xyz"
        self.register_buffer("axes", torch.tensor([float(axis in axes) for axis in "xyz"]))

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors if self.all else vectors * self.axes


class Rational(torch.nn.Module):
    """s = (1 - (r / r0)^n) / (1 - (r / r0)^m) of difference vectors (..., rows, 3) -> (..., rows).

    PLUMED's RATIONAL (doi:10.1016/j.cpc.2013.09.018). With g the greatest common divisor of n and m and
    w = (r / r0)^g, it is the quotient of 1 + w + ... + w^(n/g - 1) and 1 + w + ... + w^(m/g - 1). That has no pole at
    r0, is 1 / (1 + (r / r0)^n) for m = 2n, and contains no square root, since g is even: value and gradient are finite
    everywhere. Where w^(m/g - 1) reaches 1e36 (for m = 2n, where s falls to 1e-36), s becomes constant.

    Parameters
    ----------
    r0
        Distance, nm.
    n, m
        Exponents, even, 0 < n < m.
    axes
        The components of a difference that make up the distance.

    Examples
    --------
    >>> Rational(0.4)(torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.8, 0.0]]))
    tensor([1.0000, 0.5000, 0.0154])
    """

    one: Tensor

    def __init__(self, r0: float, n: int = 6, m: int = 12, axes: str = "xyz"):
        super().__init__()
        common = gcd(n, m)
        self.scale = r0**-2
        self.power = common / 2
        self.terms_above, self.terms_below = n // common, m // common
        self.limit = _MAX_POWER ** (2 / (m - common))
        self.project = _ProjectAxes(axes)
        self.register_buffer("one", torch.ones(()))

    def forward(self, vectors: Tensor) -> Tensor:
        w = torch.clamp(squared_lengths(self.project(vectors)) * self.scale, max=self.limit) ** self.power
        # Horner's rule; the longer sum goes on where the shorter one ends
        above = self.one
        for _ in range(self.terms_above - 1):
            above = torch.addcmul(self.one, above, w)
        below = above
        for _ in range(self.terms_below - self.terms_above):
            below = torch.addcmul(self.one, below, w)
        return above / below


class Fermi(torch.nn.Module):
    """s = 1 / (1 + exp((r - r0) / width)) of difference vectors (..., rows, 3) -> (..., rows).

    At coincident atoms, where s is 1 up to exp(-r0 / width), its gradient counts as zero.

    Parameters
    ----------
    r0
        Distance, nm, or one for each row.
    width
        Width, nm; s falls from 88 to 12 % over four widths.
    axes
        The components of a difference that make up the distance.

    Examples
    --------
    >>> Fermi(0.4, 0.05)(torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.8, 0.0]]))
    tensor([9.9966e-01, 5.0000e-01, 3.3535e-04])
    """

    start: Tensor

    def __init__(self, r0: float | Tensor, width: float, axes: str = "xyz"):
        super().__init__()
        self.project = _ProjectAxes(axes)
        self.slope = -1.0 / width
        self.register_buffer("start", torch.as_tensor(r0).to(torch.get_default_dtype()) / width)

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.sigmoid(lengths(self.project(vectors)) * self.slope + self.start)
