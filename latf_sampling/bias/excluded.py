"""The part of the values of a variable in which an adaptive bias adds nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from latf_sampling.bias.arguments import numbers
from latf_sampling.bias.grid import Grid, mesh
from latf_sampling.errors import SettingsError

LATTICE = 50
"""Points along each dimension between the walls at which regions are compared."""


class ExcludedRegion:
    """Boxes, or what a function says, as a function of points (n, d).

    Parameters
    ----------
    region
        Boxes (n, d, 2) of lowest and highest values, one box (d, 2), in one dimension intervals (n, 2), or a function
        that takes points (n, d) and returns whether each is in the region, (n,).
    grid
        Of the bias.

    Attributes
    ----------
    digest : str
        The same for regions that are the same on a lattice of points between the walls, and have some of them.

    Raises
    ------
    SettingsError
        It is neither, or nothing or everything between the walls: of a function, on the lattice.
    """

    def __init__(self, region: Callable[[np.ndarray], np.ndarray] | ArrayLike, grid: Grid) -> None:
        self._function = region if callable(region) else None
        self._boxes = np.empty((0, grid.dim, 2)) if callable(region) else _boxes(region, grid.dim)
        lattice = mesh([np.linspace(low, high, LATTICE) for low, high in zip(grid.low, grid.high)])
        inside = self(lattice.reshape(-1, grid.dim))
        # A box may lie between the points of the lattice.
        low, high = self._boxes[..., 0], self._boxes[..., 1]
        somewhere = inside.any() or ((low <= grid.high) & (high >= grid.low)).all(-1).any()
        if inside.all() or not somewhere:
            raise SettingsError(
                f"OPES: excluded_region must be a part of the box {grid.low} to {grid.high} of the variable; it "
                f"{'is all of it' if inside.all() else 'has no point in common with it'}."
            )
        content = np.packbits(inside) if inside.any() else self._boxes
        self.digest = hashlib.sha256(content.tobytes()).hexdigest()[:16]

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """Whether each of the points (n, d) is in the region; (n,)."""
        if self._function is None:
            low, high = self._boxes[..., 0], self._boxes[..., 1]
            return np.any(((u[:, None] >= low) & (u[:, None] <= high)).all(-1), axis=-1)
        inside = np.asarray(self._function(u))
        if inside.shape != (len(u),) or inside.dtype.kind not in "bif":
            raise SettingsError(
                f"OPES: the function excluded_region must return one truth value for each of {len(u)} points; got an "
                f"array of the shape {inside.shape} and the type {inside.dtype}."
            )
        return inside != 0


def _boxes(region: ArrayLike, dim: int) -> np.ndarray:
    """Boxes (n, d, 2)."""
    requirement = (
        f"excluded_region must be boxes (n, {dim}, 2) of lowest and highest values, or a function of points (n, {dim})"
    )
    boxes = numbers("OPES", requirement, region)
    if boxes.ndim == 2 and (dim == 1 or len(boxes) == dim):
        boxes = boxes.reshape(-1, dim, 2) if boxes.shape[1] == 2 else boxes
    if boxes.ndim != 3 or boxes.shape[1:] != (dim, 2) or not (boxes[..., 0] < boxes[..., 1]).all():
        raise SettingsError(f"OPES: {requirement}; got {region}.")
    return boxes
