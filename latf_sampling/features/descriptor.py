"""What all kinds of descriptors share: the steps from an entry of a specification to a module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import mdtraj
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latf_sampling.errors import SettingsError
from latf_sampling.features.topology import Labels


class Row(NamedTuple):
    """One torsion, distance, ...: its atoms, what to call it, and what else its module has to know."""

    atoms: tuple[int, ...]
    label: str
    settings: Any = None


class Column(NamedTuple):
    """One column of numbers: what to call it, and its unit, empty for a pure number."""

    name: str
    unit: str = ""


class Entry(NamedTuple):
    """What an entry of a specification comes to."""

    spec: Any
    """The entry in its normal form, ready for JSON."""
    rows: list[Row]
    """What it measures, each once."""
    aperiodic: str = ""
    """Why it cannot be measured in a periodic box; empty where it can."""


class Descriptor(ABC):
    """One kind of descriptor: reads its entries of a specification, names its columns, builds its module."""

    @abstractmethod
    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        """Validate ``value``, found at the key ``where``."""

    @abstractmethod
    def columns(self, rows: list[Row]) -> list[Column]:
        """The module's columns, from all rows of this kind."""

    @abstractmethod
    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        """Module (positions, box or None) -> (..., columns) for rows whose atoms count within ``n_atoms`` positions."""


class Columns(torch.nn.Module):
    """Several kinds of descriptors side by side, (..., n, 3) -> (..., F)."""

    def __init__(self, kinds: Sequence[torch.nn.Module]):
        super().__init__()
        self.kinds = torch.nn.ModuleList(kinds)

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        columns: list[torch.Tensor] = []
        for kind in self.kinds:
            columns.append(kind(positions, box))
        return torch.cat(columns, -1)


def side_by_side(modules: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """One module with the columns of all, one after the other."""
    return modules[0] if len(modules) == 1 else Columns(modules)


class Settings(BaseModel):
    """What may stand in one entry of a specification: frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Index = Annotated[int, Field(strict=True, ge=0)]
"""Index of an atom in the topology."""

Axes = Literal["x", "y", "z", "xy", "xz", "yz", "xyz"]
"""Some of the three axes, in order."""


class _Atoms(Settings):
    atoms: tuple[Index, ...] = Field(min_length=1)


def validated(model: type[Settings], value: Any, where: str, help_: str) -> Any:
    """Validate one entry; the first thing wrong becomes a SettingsError that names the key."""
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {value!r} cannot be read; {help_}.")
    try:
        return model.model_validate(_plain(value))
    except ValidationError as error:
        first = error.errors()[0]
    key = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    if first["type"] == "extra_forbidden":
        raise SettingsError(f"{key}: unknown key; {help_}.")
    if first["type"] == "missing":
        raise SettingsError(f"{key}: is missing; {help_}.")
    if first["type"] == "value_error":  # of a validator of this package: says itself what it got
        name = first["loc"][-1] if first["loc"] else where
        reason = first["msg"].removeprefix("Value error, ").removeprefix(f"{name}: ")
        raise SettingsError(f"{key}: {reason}")
    raise SettingsError(f"{key}: {first['msg']}, got {first['input']!r}.")


def _plain(value: Any) -> Any:
    """Turn mappings and arrays, which a script may pass, into the dicts and lists of a protocol."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def check_indices(atoms: Sequence[int], n_atoms: int, where: str) -> None:
    """Refuse atoms that the topology does not have, and the same atom twice."""
    outside = [atom for atom in atoms if atom >= n_atoms]
    if outside:
        raise SettingsError(f"{where}: there is no atom {outside[0]}; the topology has atoms 0 to {n_atoms - 1}.")
    if len(set(atoms)) < len(atoms):
        raise SettingsError(f"{where}: {list(atoms)} names an atom twice.")


def select(topology: mdtraj.Topology, selection: str, where: str) -> list[int]:
    """Indices of the atoms in an MDTraj selection, which has to find one or more."""
    try:
        found = topology.select(selection)
    except Exception as error:  # the parser and the code it generates raise many types
        reason = str(error).partition("\n")[0]
        if len(reason) > 120:
            reason = reason[:120] + " ..."
        raise SettingsError(f"{where}: '{selection}' is not an MDTraj selection ({reason}).") from error
    if not len(found):
        raise SettingsError(f"{where}: '{selection}' selects no atom of this topology.")
    return [int(atom) for atom in found]


def words_of(of: Any, atoms: Sequence[int], labels: Labels) -> str:
    """What to call the atoms that the key ``of`` names: its selection, or the atoms themselves."""
    if isinstance(of, str):
        return f"({of})" if " and " in of or " or " in of else of
    names = [labels.atom(atom) for atom in atoms]
    return " ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]}, {len(names)} atoms"


def atoms_of(topology: mdtraj.Topology, of: Any, where: str) -> list[int]:
    """Indices of the atoms that the key ``of`` names: an MDTraj selection, or ``{atoms: [indices]}``."""
    if isinstance(of, str):
        return select(topology, of, where)
    atoms = validated(_Atoms, of, where, "write a selection, or {atoms: [0, 1]}").atoms
    check_indices(atoms, topology.n_atoms, f"{where}.atoms")
    return list(atoms)
