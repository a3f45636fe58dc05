"""The variable whose free energy is reported: its values, its names, and distances from the border of a state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import mdtraj
import numpy as np

from latf_sampling import units
from latf_sampling.analysis import signed_distance
from latf_sampling.analysis.torsions import torsion_features
from latf_sampling.errors import DataError, LatfError, SettingsError
from latf_sampling.features import Features
from latf_sampling.settings import ObserveSettings

MARGIN, MARGIN_SHARE = math.radians(50), 5 / 9
"""The core of a torsional state begins so far from the borders of the state, radians, or at this share of the way to
its middle where that is nearer. On a barrier that a bias has filled, a walker goes back and forth hundreds of times:
with cores that began 20 degrees from it, there were 631 crossings of alanine dipeptide's phi where 51 led from well to
well; with these there are 53."""
CORE_SHARE = 0.75
"""The core of a state of another variable begins at this share of the way from the border to the median of the frames
on its side."""
DIMENSIONS = {"nm": "length", "rad": "angle", "kJ/mol": "energy"}


@dataclass(frozen=True)
class Variable:
    """A torsion, or what a descriptor measures.

    Attributes
    ----------
    name : str
    features : Features
        One column, or sine and cosine of a torsion.
    """

    name: str
    features: Features

    @classmethod
    def torsion(cls, topology: mdtraj.Topology, name: str, periodic: bool) -> Variable:
        """A torsion by its name, in a periodic box or without one.

        Raises
        ------
        SettingsError, DataError
            The topology has no torsion of this name.
        """
        return cls(name, torsion_features(topology, name, periodic=periodic))

    @property
    def circular(self) -> bool:
        """Whether it is a torsion, whose values lie on a circle."""
        return len(self.features.names) == 2

    @property
    def column_unit(self) -> str:
        """Unit of `values`."""
        return "rad" if self.circular else self.features.units[0]

    @property
    def unit(self) -> str:
        """Unit for people: degrees instead of radians; empty for a pure number."""
        return "°" if self.column_unit == "rad" else self.column_unit

    @property
    def label(self) -> str:
        """Label of an axis."""
        unit = "degrees" if self.unit == "°" else self.unit
        return f"{self.name}, {unit}" if unit else self.name

    def values(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        """Its value in every frame, (frames,); a torsion in (-pi, pi].

        Raises
        ------
        DataError
            It has no finite value in a frame.
        """
        columns = self.features.transform(trajectory)
        finite = np.isfinite(columns).all(1)
        if not finite.all():
            time = float(np.asarray(trajectory.time)[finite.argmin()])
            raise DataError(f"observe: {self.name} has no finite value in the frame at {time:g} ps of a trajectory.")
        return np.arctan2(*columns.T) if self.circular else columns[:, 0]

    @overload
    def shown(self, values: float) -> float: ...

    @overload
    def shown(self, values: np.ndarray) -> np.ndarray: ...

    def shown(self, values: float | np.ndarray) -> float | np.ndarray:
        """Values in `unit`."""
        return np.degrees(values) if self.unit == "°" else values

    def words(self, value: float, digits: int = 6) -> str:
        """One value with its unit."""
        return f"{self.shown(value):.{digits}g}{'' if self.unit in ('', '°') else ' '}{self.unit}"


@dataclass(frozen=True)
class Observed(Variable):
    """A variable with the state whose free energy is reported: all values above a border.

    Attributes
    ----------
    above : float
        The border, in the unit of the column; radians for a torsion.
    """

    above: float

    @classmethod
    def from_settings(cls, settings: ObserveSettings, topology: mdtraj.Topology, periodic: bool) -> Observed:
        """The observed variable of a protocol, for a molecule in a periodic box or without one.

        Raises
        ------
        SettingsError
            The variable does not exist, it has several columns, or the unit of `above` is not that of its column;
            names the key.
        """
        if settings.torsion is not None:
            try:
                torsion = Variable.torsion(topology, settings.torsion, periodic)
            except LatfError as error:
                raise SettingsError(f"observe.torsion: {error}") from error
            return cls(torsion.name, torsion.features, float(settings.above))
        try:
            features = Features(topology, [settings.descriptor or {}], periodic=periodic)
        except SettingsError as error:
            message = str(error)
            named = message.startswith("features[0]")
            message = message.removeprefix("features[0]") if named else f": {message}"
            raise SettingsError(f"observe.descriptor{message}") from error
        names = features.names
        if len(names) == 2 and names[0].startswith("sin ") and names[1] == f"cos {names[0][4:]}":
            return cls(names[0][4:], features, _in_unit(settings.above, "rad", names[0][4:]))
        if len(names) > 1:
            first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise SettingsError(
                f"observe.descriptor: has {len(names)} columns ({first}), and the free energy of one variable is "
                "reported; give a descriptor with a single column."
            )
        return cls(names[0], features, _in_unit(settings.above, features.units[0], names[0]))

    @property
    def state(self) -> str:
        """Name of the state."""
        return f"{self.name} above {self.words(self.above)}"

    def signed_distance(self, values: np.ndarray) -> np.ndarray:
        """Distance of each value from the border, positive inside the state; on the circle for a torsion; (frames,)."""
        return signed_distance(values, self.above) if self.circular else values - self.above

    def cores(self, values: Sequence[np.ndarray]) -> tuple[float, float]:
        """The signed distances below which the core of the rest lies, and above which that of the state lies.

        Parameters
        ----------
        values
            Values in each trajectory, (frames,), which the cores are derived from unless it is a torsion.
        """
        if self.circular:
            widths = math.pi + self.above, math.pi - self.above
            low, high = (min(MARGIN, MARGIN_SHARE * width / 2) for width in widths)
            return -low, high
        distances = np.concatenate([self.signed_distance(part) for part in values])
        sides = distances[distances <= 0], distances[distances > 0]
        low, high = (CORE_SHARE * float(np.median(side)) if len(side) else 0.0 for side in sides)
        return low, high


def _in_unit(above: float | str, unit: str, name: str) -> float:
    """The border as a number in the unit of a column."""
    key = "observe.above"
    if unit in DIMENSIONS:
        return units.parse(above, DIMENSIONS[unit], key)
    try:
        return float(above)
    except ValueError as error:
        has = f"is in {unit}" if unit else "has no unit"
        raise SettingsError(f"{key}: '{above}' is not a plain number, but '{name}' {has}; give a number.") from error
