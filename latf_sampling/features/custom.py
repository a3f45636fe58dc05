"""Descriptors of one's own: a class in one's own file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Row,
    Settings,
    check_indices,
    side_by_side,
    validated,
)
from latf_sampling.features.topology import Labels


class Selected(torch.nn.Module):
    """A module that sees some of the positions only."""

    def __init__(self, module: torch.nn.Module, atoms: tuple[int, ...]):
        super().__init__()
        self.module = module
        self.register_buffer("atoms", torch.as_tensor(atoms, dtype=torch.int64))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return self.module(positions.index_select(-2, self.atoms), box)


class _CustomSettings(Settings):
    file: str
    class_: str
    settings: dict[str, Any] = {}


class CustomDescriptor(Descriptor):
    """``{file: helix.py, class: Helix, settings: {...}}``: a `torch.nn.Module` of one's own.

    The class is called with the topology (``mdtraj.Topology``) and, by name, what stands in ``settings``. What it makes
    has

    ``atoms``
        indices of the atoms that it needs, each once;
    ``names``, ``units``
        of its columns, a unit being "" for a pure number;
    ``periodic``
        whether it can be measured in a periodic box (may be left out: it can);
    ``forward(positions, box)``
        positions (..., len(atoms), 3) of its atoms in their order, nm, and a reduced box (..., 3, 3) or None, to
        (..., columns). It is compiled by ``torch.jit.script`` and differentiated; `latf_sampling.testing` checks it.

    Python executes the file whenever features are made from the specification; the exported variable does without it.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        if isinstance(value, dict) and "class" in value:
            value = {"class_" if key == "class" else key: item for key, item in value.items()}
        settings = validated(_CustomSettings, value, where, "write {file: helix.py, class: Helix, settings: {...}}")
        name = settings.class_
        kind = getattr(_executed(Path(settings.file), where), name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise SettingsError(f"{where}.class: {settings.file} has no class {name} that is a torch.nn.Module.")
        try:
            module = kind(labels.topology, **settings.settings)
        except Exception as error:  # of somebody else's code: any type
            raise SettingsError(f"{where}: {name} cannot be made: {type(error).__name__}: {error}") from error
        for attribute in ("atoms", "names", "units"):
            if not hasattr(module, attribute):
                raise SettingsError(f"{where}: {name} has no attribute '{attribute}'; it needs atoms, names and units.")
        atoms = tuple(int(atom) for atom in module.atoms)
        check_indices([abs(atom) for atom in atoms], labels.topology.n_atoms, f"{where}: {name}.atoms")
        names, units = list(module.names), list(module.units)
        if not atoms or not names or len(units) != len(names):
            raise SettingsError(
                f"{where}: {name} has {len(atoms)} atoms, {len(names)} names and {len(units)} units; "
                "it needs at least one atom and one column, and a unit for each column."
            )
        columns = [Column(*column) for column in zip(names, units)]
        spec = {"file": settings.file, "class": name, "settings": settings.settings}
        aperiodic = "" if getattr(module, "periodic", True) else f"{name} says so"
        return Entry(spec, [Row(atoms, f"{name}: {', '.join(names)}", (module, columns))], aperiodic)

    def columns(self, rows: list[Row]) -> list[Column]:
        return [column for row in rows for column in row.settings[1]]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules = [Selected(row.settings[0], row.atoms) for row in rows]
        return side_by_side(modules)


def _executed(file: Path, where: str) -> Any:
    """The module that a Python file makes."""
    if not file.is_file():
        raise SettingsError(f"{where}.file: there is no file {file}.")
    made = importlib.util.spec_from_file_location(f"latf_custom_{file.stem}", file)
    if made is None or made.loader is None:
        raise SettingsError(f"{where}.file: {file} is not a Python file; its name has to end in .py.")
    module = importlib.util.module_from_spec(made)
    try:
        made.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(f"{where}.file: {file} fails: {type(error).__name__}: {error}") from error
    return module
