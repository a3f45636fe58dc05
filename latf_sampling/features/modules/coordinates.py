"""Cartesian coordinates, for model potentials: the torch module."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Coordinates(torch.nn.Module):
    """Some of the coordinates, nm, (..., n, 3) -> (..., coordinates).

    They are not invariant to translation and rotation: they suit a model potential, which is fixed in space, but no
    molecule that diffuses. A box is ignored; `Features` refuses one.

    Parameters
    ----------
    components
        Indices into x0, y0, z0, x1, ..., counted from 0.

    Examples
    --------
    >>> Coordinates([3, 4])(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    tensor([0.4000, 0.5000])
    """

    components: Tensor

    def __init__(self, components: Sequence[int]):
        super().__init__()
        self.register_buffer("components", torch.as_tensor(components, dtype=torch.int64))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        return positions.flatten(-2).index_select(-1, self.components)
