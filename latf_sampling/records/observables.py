"""The variable whose free energy a report states: its values, its words, and how deep in a state it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mdtraj
import numpy as np

from latf_sampling import units
from latf_sampling.analysis import depth
from latf_sampling.analysis.torsions import torsion_features
from latf_sampling.errors import LatfError, SettingsError
from latf_sampling.features import Features
from latf_sampling.settings import ObserveSettings

MARGIN = 0.35
"""The core of a state of a torsion begins this far (radians, 20 degrees) inside it; what is between is in no core."""
WAY = 0.25
"""That of another variable begins so far on the way from the border to the median of the frames on its side."""
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
            There is none of this name.
        """
        return cls(name, torsion_features(topology, name, periodic=periodic))

    @property
    def circular(self) -> bool:
        """Whether it is a torsion, which ends where it begins."""
        return len(self.features.names) == 2

    @property
    def column_unit(self) -> str:
        """Of its values."""
        return "rad" if self.circular else self.features.units[0]

    @property
    def unit(self) -> str:
        """What people read: degrees instead of radians; empty for a pure number."""
        return "°" if self.column_unit == "rad" else self.column_unit

    @property
    def label(self) -> str:
        """Of an axis."""
        unit = "degrees" if self.unit == "°" else self.unit
        return f"{self.name}, {unit}" if unit else self.name

    def values(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        """Its value in every frame, (frames,); a torsion in (-pi, pi]."""
        columns = self.features.transform(trajectory)
        return np.arctan2(*columns.T) if self.circular else columns[:, 0]

    def shown(self, values):
        """Values in `unit`."""
        return np.degrees(values) if self.unit == "°" else values

    def words(self, value: float, digits: int = 6) -> str:
        """One value with its unit."""
        return f"{self.shown(value):.{digits}g}{'' if self.unit in ('', '°') else ' '}{self.unit}"


@dataclass(frozen=True)
class Observed(Variable):
    """A variable, and the state of which the report says how probable it is: all above a value.

    Attributes
    ----------
    above : float
        In the unit of the column; radians for a torsion.
    """

    above: float

    @classmethod
    def of(cls, settings: ObserveSettings, topology: mdtraj.Topology, periodic: bool) -> Observed:
        """What a protocol says, of a molecule in a periodic box or without one.

        Raises
        ------
        SettingsError
            There is no such variable, it has several columns, or the unit of `above` is not that of its column; names
            the key.
        """
        if settings.torsion is not None:
            try:
                found = Variable.torsion(topology, settings.torsion, periodic)
            except LatfError as error:
                raise SettingsError(f"observe.torsion: {error}") from error
            return cls(found.name, found.features, settings.above)
        try:
            features = Features(topology, [settings.descriptor], periodic=periodic)
        except SettingsError as error:
            message = str(error)
            own = message.startswith("features[0]")
            message = message.removeprefix("features[0]") if own else f": {message}"
            raise SettingsError(f"observe.descriptor{message}") from error
        names = features.names
        if len(names) == 2 and names[0].startswith("sin ") and names[1] == f"cos {names[0][4:]}":
            return cls(names[0][4:], features, _in_unit(settings.above, "rad", names[0][4:]))
        if len(names) > 1:
            first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise SettingsError(
                f"observe.descriptor: makes {len(names)} columns ({first}), and a free energy is that of one variable; "
                "give one that makes a single column."
            )
        return cls(names[0], features, _in_unit(settings.above, features.units[0], names[0]))

    @property
    def state(self) -> str:
        """The state in words."""
        return f"{self.name} above {self.words(self.above)}"

    def depth(self, values: np.ndarray) -> np.ndarray:
        """How far each value lies inside the state, negative outside; for a torsion on the circle; (frames,)."""
        return depth(values, self.above) if self.circular else values - self.above

    def cores(self, values: Sequence[np.ndarray]) -> tuple[float, float]:
        """The depth below which the core of the rest lies, and that above which the core of the state does.

        Parameters
        ----------
        values
            Of each trajectory, (frames,): where the states are, unless it is a torsion.
        """
        if self.circular:
            return -MARGIN, MARGIN
        depths = np.concatenate([self.depth(part) for part in values])
        sides = depths[depths <= 0], depths[depths > 0]
        low, high = (WAY * float(np.median(side)) if len(side) else 0.0 for side in sides)
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
