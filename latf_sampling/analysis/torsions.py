"""Torsions as states of a molecule: their values, their distance to the borders of a state, and crossings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mdtraj
import numpy as np

from latf_sampling.analysis.arguments import column, unitless
from latf_sampling.errors import DataError
from latf_sampling.features import Features

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def torsion_features(topology: mdtraj.Topology, name: str, *, periodic: bool = False) -> Features:
    """Sine and cosine of a torsion by its name, for example "phi ALA 2": two columns, in this order.

    Raises
    ------
    SettingsError
        The topology has no torsion of this kind.
    DataError
        The topology has such torsions, but none of this name.
    """
    if not name.split():
        raise DataError("there is no torsion without a name; give one like 'phi ALA 2'.")
    features = Features(topology, [{"torsions": name.split()[0]}], periodic=periodic)
    columns = [f"sin {name}", f"cos {name}"]
    if not set(columns) <= set(features.names):
        known = ", ".join(title.removeprefix("sin ") for title in features.names if title.startswith("sin "))
        raise DataError(f"there is no torsion '{name}'; there are: {known}.")
    return features.subset(columns)


def torsion_values(trajectory: mdtraj.Trajectory, name: str) -> np.ndarray:
    """A torsion by its name, in radians in (-pi, pi]; returns (frames,).

    Raises
    ------
    SettingsError, DataError
        As in `torsion_features`; or the trajectory has no topology.
    """
    if trajectory.topology is None:
        raise DataError(f"the torsion '{name}' needs a trajectory with a topology.")
    sine, cosine = torsion_features(trajectory.topology, name).transform(trajectory).T
    return np.arctan2(sine, cosine)


def signed_distance(values: ArrayLike, above: float) -> np.ndarray:
    """Distance of each angle to the nearer end of the arc from `above` to pi, radians, along the circle; (frames,).

    The distance is positive inside the arc, negative outside, and zero at both ends: at `above` and at pi, which is
    -pi. The two states of a periodic torsion have two borders, and both are taken into account in this way.

    Examples
    --------
    >>> signed_distance(np.radians([60.0, 170.0, -170.0, -60.0]), 0.0).round(2).tolist()
    [1.05, 0.17, -0.17, -1.05]
    """
    angles = unitless(values, "signed_distance")
    inside = np.minimum(angles - above, np.pi - angles)
    outside = np.minimum(above - angles, angles + np.pi)
    return np.where(angles > above, inside, -outside)


def crossings(values: ArrayLike, low: float, high: float) -> tuple[int, int]:
    """How often a series goes from below `low` to above `high`, and back; values in between are ignored.

    Raises
    ------
    DataError
        A value is not a number, or there is not one value for each frame.

    Examples
    --------
    >>> crossings([-1.0, 0.1, 1.0, -0.1, 1.0, -1.0], low=-0.5, high=0.5)
    (1, 1)
    """
    series = column(values, "crossings")
    if np.isnan(series).any():
        raise DataError(f"crossings: the value of frame {np.argmax(np.isnan(series))} is not a number.")
    sides = np.where(series > high, 1, np.where(series < low, -1, 0))
    changes = np.diff(sides[sides != 0])
    return int((changes > 0).sum()), int((changes < 0).sum())
