"""What went wrong with a walker, one small file beside its segments: explosions, lost processes, and its retirement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from latf_sampling.core.manifest import Manifest

ALLOWED_EXPLOSIONS = 2
"""A walker is rolled back after so many explosions in a round; the next one retires it."""

Cause = Literal["explosion", "process"]
"""Whether a simulation exploded, or the process that ran it was lost."""


@dataclass(frozen=True)
class Diagnosis:
    """Energies and forces where a simulation was last finite. Numbers that are not finite are text: "nan", "inf".

    Attributes
    ----------
    step : int
        Where that was.
    force : str
        The force, by its name in OpenMM, whose energy rose most since the segment began.
    energy, energy_before : float or str
        Its energy there and at the beginning of the segment, kJ/mol.
    atoms : list
        The atoms with the largest forces, as [name, kJ/mol/nm].
    bias : float, str or None
        Bias there, kJ/mol; `None` without one.
    undefined : list of str
        Descriptors of its variable that have no finite value there.
    """

    step: int
    force: str
    energy: float | str
    energy_before: float | str
    atoms: list[list[Any]]
    bias: float | str | None = None
    undefined: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """In words, without a period.

        Examples
        --------
        >>> Diagnosis(12, "NonbondedForce", 1.5e9, -20.5, [["ALA 2 CA (atom 8)", 4e10]], bias=3.25).sentence
        'at step 12 NonbondedForce has 1.5e+09 kJ/mol (-20.5 where the segment began), the largest force is on \
ALA 2 CA (atom 8): 4e+10 kJ/mol/nm, and the bias is 3.25 kJ/mol'
        """
        atoms = ", ".join(f"{name}: {_shown(size)}" for name, size in self.atoms)
        sizes = "the largest forces are on" if len(self.atoms) > 1 else "the largest force is on"
        bias = "there is no bias" if self.bias is None else f"the bias is {_shown(self.bias)} kJ/mol"
        if self.undefined:
            names = ", ".join(f"'{name}'" for name in self.undefined)
            bias += f", since {names} {'have' if len(self.undefined) > 1 else 'has'} no finite value there"
        return (
            f"at step {self.step} {self.force} has {_shown(self.energy)} kJ/mol ({_shown(self.energy_before)} where "
            f"the segment began), {sizes} {atoms} kJ/mol/nm, and {bias}"
        )


@dataclass(frozen=True)
class Failure:
    """A segment that was rolled back.

    Attributes
    ----------
    cause : str
        "explosion", or "process" if the process of the walker was killed or made no progress.
    segment, attempt : int
        The segment, and how often it had been rolled back for an explosion before.
    step : int
        Step of the walker near which it happened; of a lost process, where its last finished segment ends.
    reason : str
        What happened, in words.
    timestep : float
        Time step of the attempt, ps.
    stream : list
        Name of the attempt's random stream, as `latf_sampling.core.streams` takes it.
    diagnosis : Diagnosis or None
        What the last finite positions show; the first explosion of a walker has none.
    """

    cause: Cause
    segment: int
    attempt: int
    step: int
    reason: str
    timestep: float
    stream: Sequence[str | int]
    diagnosis: Diagnosis | None = None

    @property
    def sentence(self) -> str:
        """What happened, with the diagnosis, without a period."""
        return self.reason if self.diagnosis is None else f"{self.reason}; {self.diagnosis.sentence}"


@dataclass(frozen=True)
class WalkerFailures:
    """All failures of a walker in their order.

    Attributes
    ----------
    path : pathlib.Path
        The file; it exists as soon as there is a failure.
    failures : tuple of Failure
    retired : str or None
        Why the walker is not continued, one sentence without a period; `None` as long as it may be.
    """

    path: Path
    failures: tuple[Failure, ...] = ()
    retired: str | None = None

    @classmethod
    def load(cls, path: Path) -> WalkerFailures:
        """Read a file; one that does not exist states no failure.

        Raises
        ------
        StoreError
            It was changed after it was written.
        """
        if not path.exists():
            return cls(path)
        content = Manifest.load(path, ("failures", "retired")).content
        return cls(path, tuple(map(_failure, content["failures"])), content["retired"])

    def write(self) -> None:
        """Write the file.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        Manifest.write(self.path, {"failures": [asdict(entry) for entry in self.failures], "retired": self.retired})

    def add(self, failure: Failure, retired: str | None = None) -> WalkerFailures:
        """These and one more, which may be the reason to retire the walker."""
        return replace(self, failures=(*self.failures, failure), retired=retired)

    @property
    def explosions(self) -> list[Failure]:
        return [entry for entry in self.failures if entry.cause == "explosion"]

    def attempt(self, segment: int) -> int:
        """Number of the next attempt at a segment, from 0; each has a random stream of its own."""
        return sum(entry.segment == segment for entry in self.explosions)

    def shortens_timestep(self, segment: int) -> bool:
        """Whether a segment is simulated with half the time step: the one in which the second explosion was."""
        explosions = self.explosions
        return len(explosions) >= ALLOWED_EXPLOSIONS and explosions[ALLOWED_EXPLOSIONS - 1].segment == segment

    def ends_before(self, segment: int) -> bool:
        """Whether a walker with so many finished segments is retired; lost segments before its end are made again."""
        return self.retired is not None and self.failures[-1].segment <= segment

    @property
    def retired_by_process(self) -> bool:
        """Whether the walker was retired since its process was lost, which says nothing about the simulation."""
        return self.retired is not None and self.failures[-1].cause == "process"

    @property
    def summary(self) -> str:
        """In one line what happened, for people; empty without a failure."""
        if self.retired is not None:
            return f"retired: {self.retired}"
        segments = ", ".join(dict.fromkeys(f"{entry.segment}" for entry in self.failures))
        return f"rolled back in segment {segments}" if self.failures else ""


def _failure(entry: dict[str, Any]) -> Failure:
    diagnosis = entry["diagnosis"]
    return Failure(**{**entry, "diagnosis": None if diagnosis is None else Diagnosis(**diagnosis)})


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
