"""The module that gives a custom one the atoms that it needs."""

import torch
from torch import Tensor


class SelectAtoms(torch.nn.Module):
    """Apply a module to some of the positions, (..., n, 3) -> (..., columns)."""

    atoms: Tensor

    def __init__(self, module: torch.nn.Module, atoms: tuple[int, ...]):
        super().__init__()
        self.module = module
        self.register_buffer("atoms", torch.as_tensor(atoms, dtype=torch.int64))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        return self.module(positions.index_select(-2, self.atoms), box)
