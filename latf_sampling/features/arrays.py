"""Checks of the positions and boxes that users pass."""

from __future__ import annotations

import math
from typing import Any

import mdtraj
import numpy as np
import torch
from torch import Tensor

from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features.periodic import reduced_box
from latf_sampling.units import to_array


def as_array(values: Any, name: str) -> np.ndarray:
    """Convert lengths, plain numbers in nm or a Quantity, to an array.

    Raises
    ------
    DataError
        They are not an array of numbers, or have another unit.
    """
    try:
        return to_array(values, "length", name) if hasattr(values, "value_in_unit") else np.asarray(values)
    except SettingsError as error:
        raise DataError(str(error)) from error
    except ValueError as error:
        raise DataError(f"{name}: are not an array of numbers ({error}).") from error


def as_box(box: Any, positions: Tensor) -> Tensor:
    """Check box vectors and reduce them in double precision; the result has dtype and device of the positions."""
    if not isinstance(box, Tensor):
        array = as_array(box, "box")
        if array.dtype.kind not in "fiu":
            raise DataError(f"box: need numbers, got {array.dtype}.")
        box = torch.as_tensor(array.astype(np.float64))
    batch = tuple(positions.shape[:-2])
    if tuple(box.shape) not in ((3, 3), (*batch, 3, 3)):
        shapes = "(3, 3)" if not batch else f"(3, 3) or {(*batch, 3, 3)}"
        raise DataError(f"box: need the shape {shapes}, got {tuple(box.shape)}.")
    check_finite(box, "box", "vector")
    box = box.to(device=positions.device, dtype=torch.float64)
    size = box.diagonal(dim1=-2, dim2=-1)
    above = torch.stack([box[..., 0, 1], box[..., 0, 2], box[..., 1, 2]], -1).abs()
    if bool((size <= 0).any()):
        raise DataError("box: a_x, b_y and c_z have to be positive; vectors are the rows, in nm.")
    if bool((above > 1e-5 * size.amax(-1, keepdim=True)).any()):
        raise DataError("box: vector a has to lie along x and b in the xy plane; rotate box and positions together.")
    return reduced_box(box.tril()).to(positions.dtype)


def box_vectors(traj: mdtraj.Trajectory) -> np.ndarray | None:
    """Box vectors (frames, 3, 3) as rows, nm, or None; ``traj.unitcell_vectors`` takes 30 microseconds per frame."""
    if traj.unitcell_lengths is None or traj.unitcell_angles is None:
        return None
    a, b, c = np.asarray(traj.unitcell_lengths, float).T
    cosines = np.cos(np.radians(np.asarray(traj.unitcell_angles, float))).T
    alpha, beta, gamma = np.where(abs(cosines) < 1e-7, 0.0, cosines)  # right angles exactly
    sine = np.sqrt(1 - gamma**2)
    cy = c * (alpha - beta * gamma) / sine
    zero = np.zeros_like(a)
    rows = [a, zero, zero, b * gamma, b * sine, zero, c * beta, cy, np.sqrt(c**2 * (1 - beta**2) - cy**2)]
    return np.stack(rows, -1).reshape(-1, 3, 3)


def check_finite(values: Any, name: str, item: str, first_frame: int = 0) -> None:
    """Refuse values (..., items, 3) that are not finite; ``item`` is what the second last dimension counts."""
    with np.errstate(all="ignore"):
        if math.isfinite(values.detach().sum() if isinstance(values, Tensor) else values.sum()):
            return  # far faster than the search below, which is needed as well since a sum may overflow
    if isinstance(values, Tensor):
        finite = torch.isfinite(values.detach()).all(-1).cpu().numpy()
    else:
        finite = np.isfinite(values).all(-1)
    if finite.all():
        return
    *frame, index = np.argwhere(~finite)[0].tolist()
    if frame:
        frame[0] += first_frame
    prefix = f"frame {frame[0] if len(frame) == 1 else tuple(frame)}, " if frame else ""
    raise DataError(f"{name}: {prefix}{item} {index} is not finite.")
