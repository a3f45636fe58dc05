"""Reference structures of a specification: what frames are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from latf_sampling.errors import SettingsError
from latf_sampling.features.topology import Labels

_HELP = "name a structure file or several, or write {positions: [[[x, y, z], ...], ...]} in nm"


def read_references(
    value: Any, labels: Labels, atoms: Sequence[int], where: str
) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Positions of some atoms in one or several reference structures.

    Parameters
    ----------
    value
        Path of a file that MDTraj reads with its topology (PDB, PDBx/mmCIF, ...), a list of such paths, or the normal
        form. All models of a file count. Molecules have to be whole in it.
    labels
        Of the topology that the atoms are counted in. In a file they are found by residue and name, so that it may
        hold other atoms besides, such as solvent after the solute, or no hydrogens.
    atoms
        Indices in the topology.
    where
        Key of ``value`` in the specification.

    Returns
    -------
    tuple
        The normal form, which needs no file any more; the positions, float64 (references, len(atoms), 3), nm; and what
        to call each, the name of its file, with a number if there are several of that name.

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
            raise SettingsError(f"{where}: {value!r} cannot be read; {_HELP}.")
        found = [_from_file(file, labels, atoms, where) for file in files]
        positions = np.concatenate(found)
        given = [Path(file).name for file, models in zip(files, found) for _ in models]
        names = [name if given.count(name) == 1 else f"{name} #{k}" for name, k in zip(given, _numbers(given))]
    if not np.isfinite(positions).all():
        raise SettingsError(
            f"{where}: a position of reference {np.argwhere(~np.isfinite(positions))[0][0]} is no number."
        )
    return {"positions": positions.tolist(), "names": names}, positions, names


def _numbers(names: Sequence[str]) -> list[int]:
    """Of each name, how many of the same stand before it and at its place."""
    return [list(names[: index + 1]).count(name) for index, name in enumerate(names)]


def _from_file(file: str, labels: Labels, atoms: Sequence[int], where: str) -> np.ndarray:
    try:
        structure = mdtraj.load(file)
    except Exception as error:  # readers raise many types for a damaged file
        raise SettingsError(f"{where}: {file} cannot be read ({' '.join(str(error).split())}).") from error
    found = {(atom.residue.index, atom.residue.name, atom.name): atom.index for atom in structure.topology.atoms}
    places = []
    for index in atoms:
        atom = labels.topology.atom(int(index))
        key = (atom.residue.index, atom.residue.name, atom.name)
        if key not in found:
            raise SettingsError(
                f"{where}: {file} has no atom {labels.atom(index)} (by names, and as residue {key[0]} counted from 0)."
            )
        places.append(found[key])
    # float32 in the file: six digits after the point hold it
    return structure.xyz[:, places].astype(np.float64).round(6)
