"""Torsions as states of a molecule: their values, how deep in a state, and how often it is left."""

from __future__ import annotations

import mdtraj
import numpy as np

from latf_sampling.analysis.arguments import column, plain
from latf_sampling.errors import DataError
from latf_sampling.features import Features


def torsion_features(topology: mdtraj.Topology, name: str, *, periodic: bool = False) -> Features:
    """Sine and cosine of a torsion by its name, like "phi ALA 2": two columns, in this order.

    Raises
    ------
    SettingsError
        The topology has no torsion of this kind.
    DataError
        It has, but none of this name.
    """
    if not name.split():
        raise DataError("there is no torsion without a name; give one like 'phi ALA 2'.")
    features = Features(topology, [{"torsions": name.split()[0]}], periodic=periodic)
    wanted = [f"sin {name}", f"cos {name}"]
    if not set(wanted) <= set(features.names):
        known = ", ".join(column.removeprefix("sin ") for column in features.names if column.startswith("sin "))
        raise DataError(f"there is no torsion '{name}'; there are: {known}.")
    return features.subset(wanted)


def torsion_values(trajectory: mdtraj.Trajectory, name: str) -> np.ndarray:
    """A torsion by its name, in radians in (-pi, pi]; returns (frames,).

    Raises
    ------
    SettingsError, DataError
        As in `torsion_features`.
    """
    sine, cosine = torsion_features(trajectory.topology, name).transform(trajectory).T
    return np.arctan2(sine, cosine)


def depth(values: np.ndarray, above: float) -> np.ndarray:
    """How far each angle lies inside the arc from `above` to pi, radians, along the circle; (frames,).

    Positive inside, negative outside, zero at both ends of the arc: at `above` and at pi, which is -pi. The two states
    of a torsion that is periodic thus have two borders, and both are seen.

    Examples
    --------
    >>> depth(np.radians([60.0, 170.0, -170.0, -60.0]), 0.0).round(2).tolist()
    [1.05, 0.17, -0.17, -1.05]
    """
    values = plain(values, "depth")
    inside = np.minimum(values - above, np.pi - values)
    outside = np.minimum(above - values, values + np.pi)
    return np.where(values > above, inside, -outside)


def crossings(values: np.ndarray, low: float, high: float) -> tuple[int, int]:
    """How often a series goes from below `low` to above `high`, and back; what lies between counts as neither."""
    values = column(values, "crossings")
    if np.isnan(values).any():
        raise DataError(f"crossings: the value of frame {np.argmax(np.isnan(values))} is not a number.")
    sides = np.where(values > high, 1, np.where(values < low, -1, 0))
    sides = sides[sides != 0]
    changes = np.diff(sides)
    return int((changes > 0).sum()), int((changes < 0).sum())
