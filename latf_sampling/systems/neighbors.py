"""Pairs of atoms that are close to each other."""

from __future__ import annotations

import numpy as np

SMALL = 1000
"""Up to this many atoms all distances are computed, which takes less time than the import of scipy's trees."""
BLOCK = 100
"""Atoms whose distances to all others are computed at once."""


def close_pairs(positions: np.ndarray, distance: float) -> np.ndarray:
    """Pairs of indices (pairs, 2), the lower one first, of positions (N, 3) at most a distance apart, in order.

    Examples
    --------
    >>> close_pairs(np.array([[0.0, 0, 0], [1.0, 0, 0], [1.1, 0, 0]]), 0.2).tolist()
    [[1, 2]]
    """
    if len(positions) > SMALL:
        from scipy.spatial import KDTree

        pairs = KDTree(positions).query_pairs(distance, output_type="ndarray")
        return pairs[np.lexsort(pairs.T[::-1])]
    parts = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(positions), BLOCK):
        vectors = positions[start : start + BLOCK, None] - positions
        first, second = np.nonzero((vectors**2).sum(-1) <= distance**2)
        parts.append(np.stack([first + start, second], axis=1))
    pairs = np.concatenate(parts)
    return pairs[pairs[:, 0] < pairs[:, 1]]
