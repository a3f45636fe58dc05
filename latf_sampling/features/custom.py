"""Custom descriptors: a class in a file of the user."""

from __future__ import annotations

import importlib.util
import operator
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Term, check_indices, validate
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


class _CustomSettings(Settings):
    file: str
    class_: str = Field(alias="class")
    settings: dict[str, Any] = {}


class CustomDescriptor(Descriptor):
    """``{file: helix.py, class: Helix, settings: {...}}``: a `torch.nn.Module` of the user.

    The class is called with the topology (``mdtraj.Topology``) and the ``settings`` as keyword arguments. The module
    has

    ``atoms``
        indices of the atoms that it needs, each once;
    ``names``, ``units``
        of its columns; the unit of a pure number is "";
    ``periodic``
        whether it can be measured in a periodic box (optional; True if it is missing);
    ``forward(positions, box)``
        positions (..., len(atoms), 3) of its atoms in their order, nm, and a reduced box (..., 3, 3) or None, to
        (..., columns). It is compiled by ``torch.jit.script`` and differentiated; `latf_sampling.testing` checks it.

    Python executes the file whenever `Features` reads the specification; an exported variable does not need the file.
    That of a campaign that somebody else made is executed only with ``trust=True``, or ``--trust`` on the command line.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_CustomSettings, value, where, "write {file: helix.py, class: Helix, settings: {...}}")
        import torch

        name = settings.class_
        kind = getattr(_execute(Path(settings.file), where), name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise SettingsError(f"{where}.class: {settings.file} has no class {name} that is a torch.nn.Module.")
        try:
            module: Any = kind(labels.topology, **settings.settings)
        except (Exception, SystemExit) as error:  # the user's code may raise any type
            raise SettingsError(f"{where}: {name} cannot be made: {type(error).__name__}: {error}") from error
        for attribute in ("atoms", "names", "units"):
            if not hasattr(module, attribute):
                raise SettingsError(f"{where}: {name} has no attribute '{attribute}'; it needs atoms, names and units.")
        try:
            atoms = tuple(operator.index(atom) for atom in module.atoms)
            names, units = list(module.names), list(module.units)
        except TypeError as error:
            raise SettingsError(
                f"{where}: {name} needs lists: atoms of integers, names and units of texts ({error})."
            ) from error
        check_indices(atoms, labels.topology.n_atoms, f"{where}: {name}.atoms")
        if not all(isinstance(text, str) for text in [*names, *units]):
            raise SettingsError(f"{where}: {name} has names or units that are no text: {names[:3]}, {units[:3]}.")
        if not atoms or not names or len(units) != len(names):
            raise SettingsError(
                f"{where}: {name} has {len(atoms)} atoms, {len(names)} names and {len(units)} units; "
                "it needs at least one atom and one column, and a unit for each column."
            )
        columns = [Column(*column) for column in zip(names, units)]
        spec = {"file": settings.file, "class": name, "settings": settings.settings}
        nonperiodic = "" if getattr(module, "periodic", True) else f"{name}.periodic is False"
        return Entry(spec, [Term(atoms, f"{name}: {', '.join(names)}", (module, columns))], nonperiodic)

    def columns(self, terms: list[Term]) -> list[Column]:
        return [column for term in terms for column in term.settings[1]]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.selected_atoms import SelectAtoms

        modules = [SelectAtoms(term.settings[0], term.atoms) for term in terms]
        return concatenate(modules)


def _execute(file: Path, where: str) -> ModuleType:
    """The Python module of a file."""
    if not file.is_file():
        raise SettingsError(f"{where}.file: there is no file {file}.")
    name = f"latf_custom_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or file.suffix != ".py":
        raise SettingsError(f"{where}.file: {file} is not a Python file; its name has to end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        # Not by the module's loader: it would rather run bytecode in __pycache__, which may be that of other code.
        exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SettingsError(f"{where}.file: {file} fails: {type(error).__name__}: {error}") from error
    return module
