"""Fraction of native contacts: the torch module."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.modules.contacts import SwitchedPairs
from latf_sampling.features.modules.switching import Fermi


class NativeContacts(torch.nn.Module):
    """Q = mean over contacts of 1 / (1 + exp(beta (r_ij - lambda r0_ij))), (..., n, 3) -> (..., 1), or each of them.

    Best, Hummer and Eaton, Proc. Natl. Acad. Sci. USA 110, 17874 (2013), doi:10.1073/pnas.1311599110.

    Parameters
    ----------
    pairs
        Atoms in contact (contacts, 2).
    native
        Their distances r0 in the native structure, nm.
    beta, lambda_
        Steepness, 1/nm, and the factor by which a contact may be longer than r0.
    each
        Whether every contact is a column.
    n_atoms
        Number of positions.
    """

    def __init__(
        self, pairs: np.ndarray, native: Sequence[float], beta: float, lambda_: float, each: bool, n_atoms: int
    ):
        super().__init__()
        self.contacts = SwitchedPairs(pairs, n_atoms, Fermi(torch.tensor(native) * lambda_, 1 / beta))
        self.each: bool = each

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        values = self.contacts(positions, box)
        return values if self.each else values.mean(-1, keepdim=True)
