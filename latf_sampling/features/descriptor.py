"""What all kinds of descriptors share: from an entry of a specification to a torch module."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import mdtraj
import numpy as np
from pydantic import Field, ValidationError

from latf_sampling.errors import ColumnWarning, SettingsError
from latf_sampling.features.topology import Labels, select
from latf_sampling.settings.fields import Settings, explain

if TYPE_CHECKING:
    import torch


MAX_COLUMNS = 100_000
"""Columns of a specification; 10,000 frames of so many have 4 GB."""
MANY_COLUMNS = 10_000
"""From this number of columns of an entry on a warning is given."""
MAX_PAIRS = 10_000_000
"""Pairs in a sum, which are evaluated at every step of a simulation."""


class Term(NamedTuple):
    """One torsion, distance, ...: its atoms, its label, and what else its module needs."""

    atoms: tuple[int, ...]
    label: str
    settings: Any = None


class Column(NamedTuple):
    """Name and unit of one column; the unit of a pure number is empty."""

    name: str
    unit: str = ""


class Entry(NamedTuple):
    """One entry of a specification, after it was read."""

    spec: Any
    """The entry in its normal form, ready for JSON."""
    terms: list[Term]
    """What the entry measures, each term once."""
    nonperiodic: str = ""
    """Why the entry cannot be measured in a periodic box; empty where it can."""


class Descriptor(ABC):
    """One kind of descriptor: reads its entries of a specification, names its columns, builds its module.

    A new kind is a file with a subclass, its module in one of `latf_sampling.features.modules`, which `module` imports,
    and its entry in `latf_sampling.features.registry.DESCRIPTORS`.
    """

    @abstractmethod
    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        """Validate ``value``, which stands at the key ``where``."""

    @abstractmethod
    def columns(self, terms: list[Term]) -> list[Column]:
        """Columns of the module, from all terms of this kind."""

    @abstractmethod
    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        """Module (positions, box or None) -> (..., columns); the atoms of ``terms`` index ``n_atoms`` positions."""


Index = Annotated[int, Field(strict=True, ge=0)]
"""Index of an atom in the topology."""

Axes = Literal["x", "y", "z", "xy", "xz", "yz", "xyz"]
"""Some of the three axes, in order."""

Model = TypeVar("Model", bound=Settings)


class _Atoms(Settings):
    atoms: tuple[Index, ...] = Field(min_length=1)


def validate(model: type[Model], value: Any, where: str, usage: str) -> Model:
    """Validate one entry; the SettingsError names every key at fault and says what to write (``usage``)."""
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {value!r} cannot be read; {usage}.")
    try:
        return model.model_validate(_plain(value))
    except ValidationError as error:
        raise SettingsError(explain(error, where, model, nested=True, usage=usage)) from error


def _plain(value: Any) -> Any:
    """Turn mappings and arrays, which a script may pass, into the dicts and lists of a protocol."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def check_indices(atoms: Sequence[int], n_atoms: int, where: str) -> None:
    """Refuse atoms that the topology does not have, and the same atom twice."""
    outside = [atom for atom in atoms if not 0 <= atom < n_atoms]
    if outside:
        raise SettingsError(f"{where}: there is no atom {outside[0]}; the topology has atoms 0 to {n_atoms - 1}.")
    if len(set(atoms)) < len(atoms):
        raise SettingsError(f"{where}: {list(atoms)} names an atom twice.")


def refuse_too_many(number: int, where: str, total: bool = False) -> None:
    """Refuse more columns than a model can be trained on, before anything is made for each of them.

    Parameters
    ----------
    number
        Number of columns, or of pairs that one column is the ``total`` of.
    where
        The key at fault.

    Raises
    ------
    SettingsError
        There are more than `MAX_COLUMNS`, or than `MAX_PAIRS`.
    """
    most = MAX_PAIRS if total else MAX_COLUMNS
    if number > most:
        what = f"sums over {number:,} pairs" if total else f"makes {number:,} columns"
        raise SettingsError(f"{where}: {what}, more than {most:,}; select fewer atoms, such as name CA.")
    if number > MANY_COLUMNS and not total:
        warnings.warn(
            f"{where}: makes {number:,} columns, which take long to learn from; select fewer atoms, such as name CA.",
            ColumnWarning,
            stacklevel=2,
        )


def select_atoms(topology: mdtraj.Topology, selection: str, where: str) -> list[int]:
    """Indices of the atoms in an MDTraj selection, which has to contain at least one."""
    try:
        atoms = select(topology, selection)
    except Exception as error:  # the parser and the code it generates raise many types
        reason = str(error).partition("\n")[0]
        if len(reason) > 120:
            reason = reason[:120] + " ..."
        raise SettingsError(f"{where}: '{selection}' is not an MDTraj selection ({reason}).") from error
    if not len(atoms):
        found = len(select(topology, selection, everything=True)) > 0
        but = " but water and virtual sites, which are not taken by element" if found else ""
        raise SettingsError(f"{where}: '{selection}' selects no atom of this topology{but}.")
    return [int(atom) for atom in atoms]


def atom_indices(topology: mdtraj.Topology, of: Any, where: str) -> list[int]:
    """Indices of the atoms that the value of a key ``of`` stands for: a selection, or ``{atoms: [indices]}``."""
    if isinstance(of, str):
        return select_atoms(topology, of, where)
    atoms = validate(_Atoms, of, where, "write a selection, or {atoms: [0, 1]}").atoms
    check_indices(atoms, topology.n_atoms, f"{where}.atoms")
    return list(atoms)


def describe_atoms(of: Any, atoms: Sequence[int], labels: Labels) -> str:
    """Atoms in the name of a column: their selection, or their labels where they were given by index."""
    if isinstance(of, str):
        return f"({of})" if " and " in of or " or " in of else of
    names = [labels.atom(atom) for atom in atoms]
    return " ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]}, {len(names)} atoms"
