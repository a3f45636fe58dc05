"""Reference structures of a specification, from files or from their normal form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from latf_sampling.core.readers import quiet, why
from latf_sampling.errors import SettingsError
from latf_sampling.features.bonded_tree import molecule_labels
from latf_sampling.features.topology import Labels

_SMALLEST_CELL = 0.5
"""nm; files without a unit cell have one of 0.1 nm."""
_USAGE = "name a structure file or several, or write {positions: [[[x, y, z], ...], ...]} in nm"


def read_references(
    value: Any, labels: Labels, atoms: Sequence[int] | np.ndarray, where: str
) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Read the positions of some atoms in one or several reference structures.

    Parameters
    ----------
    value
        Path of a file that MDTraj reads with its topology (PDB, PDBx/mmCIF, ...), a list of such paths, or the normal
        form. Every model of a file is a reference; molecules must not be broken across the box. A molecule that is more
        than a unit cell of the file away from the first one, as after a run that was never wrapped, is moved to its
        nearest image.
    labels
        Labels of the topology. Atoms are matched by residue and name, so that a file may contain other atoms besides,
        such as solvent after the solute, or lack hydrogens.
    atoms
        Indices in the topology.
    where
        Key of ``value`` in the specification.

    Returns
    -------
    tuple
        The normal form, which needs no file; the positions, float64 (references, len(atoms), 3), nm; and the names of
        the references: that of the file, with a number if several have that name.

    Raises
    ------
    SettingsError
        A file cannot be read or lacks one of the atoms, or the normal form has another shape.
    """
    names: Any = None
    if isinstance(value, dict) and "positions" in value and set(value) <= {"positions", "names"}:
        try:
            positions = np.array(value["positions"], float)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{where}.positions: are not an array of numbers ({error}).") from error
        if positions.ndim != 3 or positions.shape[1:] != (len(atoms), 3) or not len(positions):
            raise SettingsError(
                f"{where}.positions: need the shape (references, {len(atoms)}, 3), got {positions.shape}."
            )
        names = value.get("names", [f"reference {number + 1}" for number in range(len(positions))])
        if not isinstance(names, Sequence) or len(names) != len(positions) or len(set(map(str, names))) < len(names):
            raise SettingsError(f"{where}.names: need {len(positions)} different ones, got {names!r}.")
        names = [str(name) for name in names]
    else:
        files = [value] if isinstance(value, str) else value
        if not isinstance(files, Sequence) or not files or not all(isinstance(file, str) for file in files):
            raise SettingsError(f"{where}: {value!r} cannot be read; {_USAGE}.")
        models = [_from_file(file, labels, atoms, where) for file in files]
        positions = np.concatenate(models)
        file_names = [Path(file).name for file, frames in zip(files, models) for _ in frames]
        counts = [file_names[: index + 1].count(name) for index, name in enumerate(file_names)]
        names = [name if file_names.count(name) == 1 else f"{name} #{k}" for name, k in zip(file_names, counts)]
    if not np.isfinite(positions).all():
        raise SettingsError(
            f"{where}: a position of reference {np.argwhere(~np.isfinite(positions))[0][0]} is no number."
        )
    return {"positions": positions.tolist(), "names": names}, positions, names


def _from_file(file: str, labels: Labels, atoms: Sequence[int] | np.ndarray, where: str) -> np.ndarray:
    """Positions (models, len(atoms), 3) in one file, nm."""
    try:
        with quiet():
            structure = mdtraj.load(file)
    except Exception as error:  # readers raise many types for a damaged file
        raise SettingsError(f"{where}: {file} cannot be read as a structure{why(error)}.") from error
    by_name = {(atom.residue.index, atom.residue.name, atom.name): atom.index for atom in structure.topology.atoms}
    indices = []
    for index in atoms:
        atom = labels.topology.atom(int(index))
        key = (atom.residue.index, atom.residue.name, atom.name)
        if key not in by_name:
            raise SettingsError(
                f"{where}: {file} has no atom {labels.atom(index)} (by names, and as residue {key[0]} counted from 0)."
            )
        indices.append(by_name[key])
    positions, cells = np.asarray(structure.xyz)[:, indices].astype(np.float64), structure.unitcell_vectors
    if cells is not None:
        positions = _together(positions, np.asarray(cells, np.float64), molecule_labels(labels.topology, atoms))
    return positions.round(6)  # six decimals represent the float32 numbers of the file


def _together(positions: np.ndarray, cells: np.ndarray, molecules: np.ndarray) -> np.ndarray:
    """Molecules that are more than a unit cell away from the first one, moved to their nearest images; nearer ones are
    not, since a complex may be longer than half a cell."""
    moved = positions.copy()
    for x, cell in zip(moved, cells):
        if np.diagonal(cell).min() < _SMALLEST_CELL:
            continue
        first = x[molecules == 0].mean(0)
        for number in range(1, molecules.max() + 1):
            fractions = np.linalg.solve(cell.T, x[molecules == number].mean(0) - first)
            if np.abs(fractions).max() > 1:
                x[molecules == number] -= np.round(fractions) @ cell
    return moved
