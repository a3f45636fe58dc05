"""Structures from PDB and PDBx/mmCIF files; ambiguous and incomplete ones are refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path

import numpy as np
from openmm import app
from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

from latf_sampling.errors import SettingsError
from latf_sampling.systems.molecule import positions_array, residue_label
from latf_sampling.systems.whole_molecules import make_whole

LONGEST_LINK = 0.25
"""Longest bond between two residues of a chain, nm: where it would be longer, residues are missing between the two. A
peptide bond has 0.133 nm."""
_LINKS = {"C": "N", "O3'": "P"}
"""Atoms that bond a residue to the next."""


@dataclass(frozen=True)
class Structure:
    """The content of a file: OpenMM's topology, with the box, and positions (N, 3), nm."""

    topology: app.Topology
    positions: np.ndarray


def is_mmcif(file: Path) -> bool:
    """Whether the suffix of a file is one of PDBx/mmCIF."""
    return file.suffix.lower() in (".cif", ".mmcif", ".pdbx")


def read_structure(file: Path, key: str, periodic: bool = False) -> Structure:
    """The first model of a PDB or PDBx/mmCIF file.

    Parameters
    ----------
    file
        Its suffix decides the format.
    key
        Its key in a protocol, for errors.
    periodic
        Whether its unit cell is used; if so, molecules that the faces of the cell cut are made whole.

    Raises
    ------
    SettingsError
        The file cannot be read, or residues have alternate locations; names them.
    """
    refuse_alternates(file, key)
    try:
        content = (app.PDBxFile if is_mmcif(file) else app.PDBFile)(str(file))
        positions = positions_array(content.positions)
    except Exception as error:  # OpenMM's readers raise many types for a damaged file
        raise SettingsError(f"{key}: {file} cannot be read ({' '.join(str(error).split())}).") from error
    if not len(positions):
        raise SettingsError(f"{key}: {file} holds no atoms.")
    if not np.isfinite(positions).all():
        raise SettingsError(f"{key}: {file} has an atom without a position.")
    return Structure(content.topology, make_whole(content.topology, positions) if periodic else positions)


def refuse_alternates(file: Path, key: str) -> None:
    """Refuse a file with alternate locations of an atom of the first model."""
    locations: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for residue, chain, atom, alternate in (_mmcif_atoms if is_mmcif(file) else _pdb_atoms)(file, key):
        locations[residue, chain][atom].add(alternate)
    ambiguous = [
        f"{residue} (chain {chain}): "
        + ", ".join(sorted(label for label in set().union(*atoms.values()) if label not in {" ", ".", "?"}))
        for (residue, chain), atoms in locations.items()
        if any(len(labels) > 1 for labels in atoms.values())
    ]
    if ambiguous:
        raise SettingsError(
            f"{key}: {file} has alternate locations of {_some(ambiguous, '; ')}. Keep one of them in the file."
        )


def refuse_missing(file: Path, topology: app.Topology, key: str) -> None:
    """Refuse a file whose chains lack residues of their sequence in the file."""
    missing = list((_mmcif_missing if is_mmcif(file) else _pdb_missing)(file, topology))
    if missing:
        raise SettingsError(
            f"{key}: {file} lacks residues of its sequence: {_some(missing, '; ')}. Set prepare.missing_residues to "
            "have them built, or remove the sequence from the file to do without them."
        )


def refuse_breaks(structure: Structure, key: str) -> None:
    """Refuse a structure in which neighbors in a chain are too far from each other to be bonded."""
    for first, second, distance in links(structure):
        if distance > LONGEST_LINK:
            raise SettingsError(
                f"{key}: {residue_label(first)} and {residue_label(second)} are {distance:.2f} nm apart; residues are "
                "missing between them. Build them first, or end the chain between the two (TER) and cap it."
            )


def links(structure: Structure) -> Iterator[tuple[app.topology.Residue, app.topology.Residue, float]]:
    """Neighbors in a chain that have to be bonded, and the length of that bond, nm."""
    for bond in structure.topology.bonds():
        first, second = sorted(bond, key=lambda atom: atom.index)
        if _LINKS.get(first.name) == second.name and second.residue.index == first.residue.index + 1:
            length = np.linalg.norm(structure.positions[first.index] - structure.positions[second.index])
            yield first.residue, second.residue, float(length)


def _some(items: list[str], separator: str = ", ", most: int = 5) -> str:
    """The first few of a list, for an error."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join(items[:most] + more)


def _pdb_lines(file: Path, key: str) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise SettingsError(f"{key}: {file} cannot be read ({error.strerror}).") from error


def _pdb_atoms(file: Path, key: str) -> Iterator[tuple[str, str, str, str]]:
    """Residue, chain, name and label of the alternate location of each atom of the first model."""
    for line in _pdb_lines(file, key):
        if line.startswith("ENDMDL"):
            return
        if line.startswith(("ATOM", "HETATM")):
            yield f"{line[17:20].strip()} {line[22:27].strip()}", line[21].strip() or "-", line[12:16], line[16:17]


def _pdb_missing(file: Path, topology: app.Topology) -> Iterator[str]:
    """Residues of SEQRES records that have no coordinates."""
    sequences: dict[str, list[str]] = defaultdict(list)
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith("SEQRES"):
            sequences[line[11].strip()] += line[17:].split()
    for chain in topology.chains():
        sequence = sequences.pop(chain.id.strip(), None)
        if sequence is None:
            continue
        residues = [residue for residue in chain.residues() if residue.name != "HOH"]
        matcher = SequenceMatcher(None, sequence, [residue.name for residue in residues], autojunk=False)
        for tag, first, last, index, _ in matcher.get_opcodes():
            if tag == "delete":
                before = f"before {residue_label(residues[0])}"
                yield f"{' '.join(sequence[first:last])} " + (
                    f"after {residue_label(residues[index - 1])}" if index else before
                )


def _mmcif_block(file: Path, key: str):
    blocks: list = []
    try:
        with open(file) as handle:
            PdbxReader(handle).read(blocks)
        return blocks[0]
    except Exception as error:  # of many types
        raise SettingsError(f"{key}: {file} cannot be read ({' '.join(str(error).split()) or 'no mmCIF'}).") from error


def _rows(block, category: str, *names: str) -> Iterable[tuple[str, ...]]:
    """The rows of some columns of a category; a missing column consists of dots, a missing category has no rows."""
    table = block.getObj(category)
    if table is None:
        return
    columns = [table.getAttributeIndex(name) for name in names]
    for row in table.getRowList():
        yield tuple(row[column] if column >= 0 else "." for column in columns)


def _mmcif_atoms(file: Path, key: str) -> Iterator[tuple[str, str, str, str]]:
    names = ("pdbx_PDB_model_num", "auth_comp_id", "label_comp_id", "auth_seq_id", "label_seq_id",
             "pdbx_PDB_ins_code", "auth_asym_id", "label_asym_id", "label_atom_id", "label_alt_id")  # fmt: skip
    first = None
    for model, name, own_name, number, own_number, code, chain, own_chain, atom, alternate in _rows(
        _mmcif_block(file, key), "atom_site", *names
    ):
        first = model if first is None else first
        if model == first:
            number = own_number if number in ".?" else number
            residue = f"{own_name if name in '.?' else name} {number}{'' if code in '.?' else code}"
            yield residue, own_chain if chain in ".?" else chain, atom, alternate


def _mmcif_missing(file: Path, topology: app.Topology) -> Iterator[str]:
    """Residues of the sequence of an entity that have no coordinates in its chains."""
    block = _mmcif_block(file, "")
    sequences: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entity, number, name in _rows(block, "entity_poly_seq", "entity_id", "num", "mon_id"):
        sequences[entity].append((number, name))
    resolved: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    names = ("label_entity_id", "label_asym_id", "auth_asym_id", "label_seq_id")
    for entity, chain, auth, number in _rows(block, "atom_site", *names):
        resolved[entity, chain, auth].add(number)
    for (entity, _, chain), numbers in resolved.items():
        for present, group in groupby(sequences.get(entity, ()), lambda entry, numbers=numbers: entry[0] in numbers):
            if not present:
                run = list(group)
                yield f"{' '.join(name for _, name in run)} at {run[0][0]} of the sequence of chain {chain}"
