"""Modules that put columns of other modules together, or select some."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Concatenation(torch.nn.Module):
    """Columns of several modules, one module after the other, (..., n, 3) -> (..., F)."""

    def __init__(self, modules: Sequence[torch.nn.Module]):
        super().__init__()
        self.parts = torch.nn.ModuleList(modules)

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        columns: list[Tensor] = []
        for part in self.parts:
            columns.append(part(positions, box))
        return torch.cat(columns, -1)


def concatenate(modules: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """One module with the columns of all modules."""
    return modules[0] if len(modules) == 1 else Concatenation(modules)


class SelectColumns(torch.nn.Module):
    """Some columns of a module, (..., n, 3) -> (..., columns)."""

    columns: Tensor

    def __init__(self, module: torch.nn.Module, columns: Sequence[int]):
        super().__init__()
        self.module = module
        self.register_buffer("columns", torch.as_tensor(columns, dtype=torch.int64))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        return self.module(positions, box).index_select(-1, self.columns)
