"""Structures from PDB and PDBx/mmCIF files; ambiguous, damaged and incomplete ones are refused."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from latf_sampling.core.words import first_of
from latf_sampling.errors import SettingsError
from latf_sampling.systems import mmcif, pdb
from latf_sampling.systems.alternate_locations import one_location
from latf_sampling.systems.molecule import box_vectors, positions_array, residue_label
from latf_sampling.systems.neighbors import close_pairs
from latf_sampling.systems.reader_errors import reason
from latf_sampling.systems.scale import scale_words
from latf_sampling.systems.structure_text import StructureText
from latf_sampling.systems.whole_molecules import make_whole

LONGEST_LINK = 0.25
"""Longest bond between two residues of a chain, nm: where it would be longer, residues are missing between the two. A
peptide bond has 0.133 nm. No bond of the elements of `_ORGANIC` is longer."""
LONGEST_HYDROGEN = 0.15
"""nm; a bond of a hydrogen has at most 0.135 nm, with sulfur, and its atom's neighbors are at 0.19 nm."""
CLOSEST = 0.05
"""Atoms of a file overlap where they are closer than this, nm."""
DUMMY_BOX = 0.15
"""A unit cell of less than this, nm, stands for none: files of NMR, electron microscopy and models have 0.1 nm."""
DENSEST = 1000.0
"""Atoms per cubic nanometer that a unit cell may hold; water has 100."""
_LINKS = {"C": "N", "O3'": "P"}
"""Atoms that bond a residue to the next."""
_ORGANIC = frozenset(["H", "C", "N", "O", "F", "P", "S", "Cl", "Br"])
COVALENT_RADII = {"H": 0.031, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057, "P": 0.107, "S": 0.105, "Cl": 0.102,
                  "Se": 0.12, "Br": 0.12, "I": 0.139}  # fmt: skip
"""Covalent radii, nm (Cordero and others, doi:10.1039/b801115j)."""


@dataclass(frozen=True)
class Structure:
    """The content of a file: OpenMM's topology, with the box, and positions (N, 3), nm."""

    topology: app.Topology
    positions: np.ndarray


def read_text(file: Path, key: str, model: int | None = None, alternate: str | None = None) -> StructureText:
    """The text of one model of a PDB or PDBx/mmCIF file.

    Parameters
    ----------
    file
        Its suffix decides the format.
    key
        Its key in a protocol, for errors.
    model
        Number of the model, from 1; `None` refuses a file with several.
    alternate
        The alternate location that is taken, as `one_location` takes it; `None` refuses a file with several.

    Raises
    ------
    SettingsError
        The file cannot be read, is damaged or cut off, holds several models, or alternate locations; names the line or
        the residue.
    """
    source = StructureText.load(file, key)
    reader = mmcif if source.is_mmcif else pdb
    source = reader.one_model(source, model)
    reader.check(source)
    return one_location(source, alternate)


def parse(source: StructureText, periodic: bool = False) -> Structure:
    """The structure in a text from `read_text`.

    Parameters
    ----------
    source
        The text.
    periodic
        Whether its unit cell is used; if so, molecules that the faces of the cell cut are made whole.

    Raises
    ------
    SettingsError
        OpenMM cannot read it, or atoms of it would be lost.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of residues with one number, which `pdb.check` looks at
            text = source.text if source.is_mmcif else pdb.with_ions(source).text
            content = (app.PDBxFile if source.is_mmcif else app.PDBFile)(io.StringIO(text))
        positions = positions_array(content.positions)
    except Exception as error:  # OpenMM's readers raise many types for a damaged file
        raise source.fault(f"cannot be read ({reason(error)}).") from error
    bond_hydrogens(content.topology, positions)
    count = len(list(mmcif.atoms(source) if source.is_mmcif else pdb.atoms(source)))
    if len(positions) != count:
        raise source.fault(f"has {count} atoms, of which OpenMM reads {len(positions)}; atoms share names and numbers.")
    vectors: Any = content.topology.getPeriodicBoxVectors()  # OpenMM does not annotate it
    box = box_vectors(vectors)
    if box is not None and (box.diagonal().min() < DUMMY_BOX or count > DENSEST * box.diagonal().prod()):
        edges = " x ".join(f"{edge:.3g}" for edge in box.diagonal())
        warnings.warn(
            f"{source.key}: the unit cell of {source.file}, {edges} nm, is too small for its atoms, and is ignored as "
            "one that stands for none.",
            stacklevel=2,
        )
        content.topology.setPeriodicBoxVectors(None)
    return Structure(content.topology, make_whole(content.topology, positions) if periodic else positions)


def bond_hydrogens(topology: app.Topology, positions: np.ndarray) -> None:
    """Bond hydrogens to the heavy atom that they are at, where OpenMM does not know their names, or as those of others.

    Programs name hydrogens differently: H2' is at the oxygen O2' in files of CHARMM, and at the carbon C2' elsewhere.

    Parameters
    ----------
    topology
        A hydrogen without a bond, in a residue with bonds of its own, or whose bond within its residue is longer than
        `LONGEST_HYDROGEN`, is bonded to the one heavy atom that is as near as that; if there are others, it stays as it
        is.
    positions : numpy.ndarray (N, 3)
        nm.
    """
    bonds = topology._bonds  # the topology has no method that removes one
    bonded = {atom for bond in bonds for atom in bond}
    known = {bond[0].residue for bond in bonds if bond[0].residue is bond[1].residue}
    for atom in topology.atoms():
        if _symbol(atom) == "H" and atom not in bonded and atom.residue in known:
            if (heavy := _heavy_neighbor(atom, positions)) is not None:
                topology.addBond(atom, heavy)
    for place, bond in enumerate(bonds):
        hydrogen, heavy = (bond[0], bond[1]) if _symbol(bond[0]) == "H" else (bond[1], bond[0])
        length = np.linalg.norm(positions[heavy.index] - positions[hydrogen.index])
        if _symbol(hydrogen) != "H" or hydrogen.residue is not heavy.residue or length <= LONGEST_HYDROGEN:
            continue
        if (other := _heavy_neighbor(hydrogen, positions)) is not None:
            bonds[place] = type(bond)(hydrogen, other)


def _heavy_neighbor(hydrogen: app.topology.Atom, positions: np.ndarray) -> app.topology.Atom | None:
    """The only heavy atom of its residue that a hydrogen is near to; `None` if there is none, or another."""
    near = [
        atom
        for atom in hydrogen.residue.atoms()
        if _symbol(atom) not in (None, "H")
        and np.linalg.norm(positions[atom.index] - positions[hydrogen.index]) <= LONGEST_HYDROGEN
    ]
    return near[0] if len(near) == 1 else None


def read_structure(file: Path, key: str, periodic: bool = False) -> Structure:
    """The structure in a PDB or PDBx/mmCIF file with one model.

    Parameters
    ----------
    file, key
        As in `read_text`.
    periodic
        As in `parse`.

    Raises
    ------
    SettingsError
        As `read_text` and `parse`.
    """
    return parse(read_text(file, key), periodic)


def refuse_missing(source: StructureText, topology: app.Topology) -> None:
    """Refuse a file whose chains lack residues of their sequence in the file."""
    missing = list((mmcif if source.is_mmcif else pdb).missing(source, topology))
    if missing:
        raise source.fault(
            f"lacks residues of its sequence: {first_of(missing, 5, '; ')}. Set prepare.missing_residues to have them "
            "built, or remove the sequence from the file to do without them."
        )


def refuse_other_units(structure: Structure, key: str) -> None:
    """Refuse a structure all of whose bonds are too long or too short by one factor."""
    usual, pairs = [], []
    for bond in structure.topology.bonds():
        radii = [COVALENT_RADII.get(_symbol(atom) or "", 0.0) for atom in bond]
        if all(radii):
            usual.append(sum(radii))
            pairs.append([atom.index for atom in bond])
    if len(pairs) > 2:
        x = structure.positions[np.array(pairs)]
        factors = np.linalg.norm(x[:, 0] - x[:, 1], axis=1) / usual
        middle = float(np.median(factors))
        if abs(np.log(max(middle, 1e-3))) > np.log(1.5) and np.ptp(np.quantile(factors, [0.1, 0.9])) < 0.5 * middle:
            raise SettingsError(f"{key}: all bonds are {scale_words(middle)}")


def refuse_breaks(structure: Structure, key: str) -> None:
    """Refuse a structure in which neighbors in a chain are too far from each other to be bonded."""
    for first, second, distance in links(structure):
        if distance > LONGEST_LINK:
            raise SettingsError(
                f"{key}: {residue_label(first)} and {residue_label(second)} are {distance:.2f} nm apart; residues are "
                "missing between them. Build them first, or end the chain between the two (TER) and cap it."
            )


def refuse_damage(structure: Structure, source: StructureText) -> None:
    """Refuse a structure with impossible bonds or overlapping atoms, before atoms are placed next to them.

    Virtual sites, which are inside of atoms, overlap nothing.
    """
    atoms = list(structure.topology.atoms())

    def name(index: int) -> str:
        return f"{atoms[index].name} of {residue_label(atoms[index].residue)}"

    for bond in structure.topology.bonds():
        first, second = bond.atom1, bond.atom2
        if first.residue is not second.residue or not {_symbol(first), _symbol(second)} <= _ORGANIC:
            continue
        length = float(np.linalg.norm(structure.positions[first.index] - structure.positions[second.index]))
        if length > LONGEST_LINK:
            raise source.fault(
                f"is damaged: the bond of {name(first.index)} and {name(second.index)} is {length:.2f} nm long."
            )
    real = np.array([atom.index for atom in atoms if atom.element is not None], int)
    for first, second in real[close_pairs(structure.positions[real], CLOSEST)].tolist():
        length = np.linalg.norm(structure.positions[first] - structure.positions[second])
        raise source.fault(f"is damaged: {name(first)} and {name(second)} overlap, they are {length:.3f} nm apart.")


def links(structure: Structure) -> Iterator[tuple[app.topology.Residue, app.topology.Residue, float]]:
    """Neighbors in a chain that have to be bonded, and the length of that bond, nm."""
    for bond in structure.topology.bonds():
        first, second = sorted(bond, key=lambda atom: atom.index)
        if _LINKS.get(first.name) == second.name and second.residue.index == first.residue.index + 1:
            length = np.linalg.norm(structure.positions[first.index] - structure.positions[second.index])
            yield first.residue, second.residue, float(length)


def _symbol(atom: app.topology.Atom) -> str | None:
    return None if atom.element is None else atom.element.symbol
