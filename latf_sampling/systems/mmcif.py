"""PDBx/mmCIF files: the atoms of one model, and what makes a file ambiguous or incomplete."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby

from openmm import app
from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

from latf_sampling.systems.reader_errors import reason
from latf_sampling.systems.structure_text import StructureText, check_cell, is_coordinate

_MODEL = "pdbx_PDB_model_num"


def atoms(source: StructureText) -> Iterator[tuple[str, str, str, str]]:
    """Residue, chain, name and label of the alternate location of each atom."""
    names = ("auth_comp_id", "label_comp_id", "auth_seq_id", "label_seq_id", "pdbx_PDB_ins_code", "auth_asym_id",
             "label_asym_id", "label_atom_id", "label_alt_id")  # fmt: skip
    for name, own_name, number, own_number, code, chain, own_chain, atom, alternate in _rows(
        _block(source), "atom_site", *names
    ):
        number = own_number if number in ".?" else number
        residue = f"{own_name if name in '.?' else name} {number}{'' if code in '.?' else code}"
        yield residue, own_chain if chain in ".?" else chain, atom, alternate


def one_model(source: StructureText, number: int | None) -> StructureText:
    """The text of one model of a file, counted from 1; `None` is its only one.

    Raises
    ------
    SettingsError
        There are several and none was chosen, or there is none of this number.
    """
    rows = [model for (model,) in _rows(_block(source), "atom_site", _MODEL)]
    models = list(dict.fromkeys(rows))
    source.check_model(number, len(models))
    if len(models) < 2:
        return source
    lines = source.text.splitlines(True)
    places = [index for index, line in enumerate(lines) if line.startswith(("ATOM ", "HETATM "))]
    if len(places) != len(rows):
        raise source.fault(f"holds {len(models)} models, and atoms that take several lines; keep one of the models.")
    dropped = {place for place, model in zip(places, rows) if model != models[(number or 1) - 1]}
    return source.with_text("".join(line for index, line in enumerate(lines) if index not in dropped))


def check(source: StructureText) -> None:
    """Refuse a file whose table of atoms is damaged.

    A file that was cut off between two rows is not noticed, since nothing marks the end of a table.

    Raises
    ------
    SettingsError
        Names the residue where there is one.
    """
    block = _block(source)
    if not list(_rows(block, "atom_site")):
        raise source.fault("holds no atoms, in a category atom_site.")
    labels = [f"{atom} of {residue} (chain {chain})" for residue, chain, atom, _ in atoms(source)]
    for label, position in zip(labels, _rows(block, "atom_site", "Cartn_x", "Cartn_y", "Cartn_z")):
        for axis, word in zip("xyz", position):
            if not is_coordinate(word):
                raise source.fault(f"is damaged at {label}: {axis} is {word!r}, not a number.")
    names = ("auth_seq_id", "label_seq_id", "label_asym_id", "label_alt_id")
    keys = list(zip(labels, _rows(block, "atom_site", *names)))
    for (label, (number, own_number, *_)), times in Counter(keys).items():
        if times > 1 and not {number, own_number} <= {".", "?"}:  # without numbers OpenMM tells residues by their atoms
            raise source.fault(f"has {label} twice; give each residue its own number, and each atom its own name.")
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    for cell in _rows(block, "cell", *names):
        check_cell(source, list(cell[:3]), list(cell[3:]))


def missing(source: StructureText, topology: app.Topology) -> Iterator[str]:
    """Residues of the sequence of an entity that have no coordinates in its chains."""
    block = _block(source)
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


@lru_cache(maxsize=1)  # reading takes seconds for large files
def _block(source: StructureText):
    """The first data block of a file."""
    blocks: list = []
    try:
        PdbxReader(io.StringIO(source.text)).read(blocks)
        block = blocks[0]
    except Exception as error:  # of many types
        raise source.fault(f"cannot be read ({reason(error)}).") from error
    for name in block.getObjNameList():
        table = block.getObj(name)
        if any(len(row) != len(table.getAttributeList()) for row in table.getRowList()):
            raise source.fault(f"is cut off or damaged: a row of {name} has too few values.")
    return block


def _rows(block, category: str, *names: str) -> Iterable[tuple[str, ...]]:
    """The rows of some columns of a category; a missing column consists of dots, a missing category has no rows."""
    table = block.getObj(category)
    if table is None:
        return
    columns = [table.getAttributeIndex(name) for name in names]
    for row in table.getRowList():
        yield tuple(row[column] if column >= 0 else "." for column in columns)
