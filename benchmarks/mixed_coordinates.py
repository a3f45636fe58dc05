"""The descriptors of the wells in `variables.py`."""

from __future__ import annotations

import mdtraj
import numpy as np
import torch


class Mixed(torch.nn.Module):
    """All coordinates of all particles, mixed by a fixed orthogonal matrix."""

    periodic = False

    def __init__(self, topology: mdtraj.Topology):
        super().__init__()
        size = 3 * topology.n_atoms
        self.atoms = list(range(topology.n_atoms))
        self.names, self.units = [f"mixed {k}" for k in range(size)], ["nm"] * size
        matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
        self.register_buffer("matrix", torch.from_numpy(matrix))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return torch.matmul(positions.flatten(-2), self.matrix.to(positions.dtype))
