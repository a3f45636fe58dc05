"""Vectors of periodic boxes."""

from __future__ import annotations

import numpy as np


def reduced_boxes(boxes: np.ndarray) -> np.ndarray:
    """Box vectors in OpenMM's reduced form, which a context insists on to the last bit; the lattice stays the same.

    MDTraj computes vectors from lengths and angles in four bytes, so that those of a rhombic dodecahedron, which are at
    the limit, may be beyond it by rounding.

    Parameters
    ----------
    boxes : numpy.ndarray, shape (..., 3, 3)
        Vectors a, b, c as rows, nm. What is above the diagonal is taken for rounding and becomes 0.

    Returns
    -------
    numpy.ndarray, shape (..., 3, 3)
        Of eight bytes, with abs(b_x) and abs(c_x) at most a_x / 2 and abs(c_y) at most b_y / 2.

    Examples
    --------
    >>> reduced_boxes(np.array([[2.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))[1].tolist()
    [-1.0, 1.0, 0.0]
    """
    a, b, c = np.moveaxis(np.tril(np.asarray(boxes, np.float64)), -2, 0)
    c = c - b * np.round(c[..., 1:2] / b[..., 1:2])
    c = c - a * np.round(c[..., 0:1] / a[..., 0:1])
    b = b - a * np.round(b[..., 0:1] / a[..., 0:1])
    return np.stack([a, b, c], -2)
