"""PDBx/mmCIF files: the atoms of one model, and what makes a file ambiguous or incomplete."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
    for row in _rows(_block(source), "atom_site", *names):
        yield _described(dict(zip(names, row)))


def _described(row: dict[str, str]) -> tuple[str, str, str, str]:
    """Residue, chain, name and alternate location of an atom, by the names of the authors where there are any."""

    def first(*keys: str) -> str:
        return next((value for key in keys if (value := row.get(key, ".")) not in (".", "?")), ".")

    code = first("pdbx_PDB_ins_code")
    number = f"{first('auth_seq_id', 'label_seq_id')}{'' if code == '.' else code}"
    return (
        f"{first('auth_comp_id', 'label_comp_id')} {number}",
        first("auth_asym_id", "label_asym_id"),
        row.get("label_atom_id", "."),
        row.get("label_alt_id", "."),
    )


def occupancies(source: StructureText) -> list[float]:
    """The occupancies of the atoms, in their order; 1 where a file has none."""
    words = [word for (word,) in _rows(_block(source), "atom_site", "occupancy")]
    return [float(word) if is_coordinate(word) else 1.0 for word in words]


def elements(source: StructureText) -> list[str]:
    """The symbols of the elements of the atoms, in their order."""
    return [symbol for (symbol,) in _rows(_block(source), "atom_site", "type_symbol")]


def keep_locations(source: StructureText, kept: Sequence[bool]) -> StructureText:
    """The text without some of its atoms, and without the labels of alternate locations of the others."""
    keep = iter(kept)

    def edit(row: dict[str, str]) -> dict[str, str] | None:
        return {**row, "label_alt_id": "."} if next(keep) else None

    return _edited(source, "atom_site", edit)


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


def remove_residues(source: StructureText, unwanted: Callable[[str, str], bool]) -> StructureText:
    """The text without the atoms of residues that are unwanted by their name and place; as `pdb.remove_residues`."""

    def kept(row: dict[str, str]) -> dict[str, str] | None:
        residue, chain, *_ = _described(row)
        name, number = residue.split(" ", 1)
        return None if unwanted(name, f"{chain} {number}") else row

    return _edited(source, "atom_site", kept)


def replace_residues(
    source: StructureText,
    new_name: Callable[[str, str], str | None],
    edit: Callable[[str, str, str], tuple[str, str] | None],
) -> StructureText:
    """The text with some residues replaced; as `pdb.replace_residues`."""

    def replaced(row: dict[str, str]) -> dict[str, str] | None:
        residue, chain, atom, _ = _described(row)
        old, place = residue.split(" ", 1)
        name = new_name(old, f"{chain} {place}")
        if name is None:
            return row
        if (changed := edit(name, atom, row.get("type_symbol", ""))) is None:
            return None
        values = {"label_comp_id": name, "auth_comp_id": name, "group_PDB": "ATOM", "type_symbol": changed[1],
                  "label_atom_id": changed[0], "auth_atom_id": changed[0]}  # fmt: skip
        return {key: values.get(key, value) for key, value in row.items()}

    def in_sequence(row: dict[str, str]) -> dict[str, str]:
        return {key: new_name(value, "") or value if key == "mon_id" else value for key, value in row.items()}

    return _edited(_edited(source, "atom_site", replaced), "entity_poly_seq", in_sequence)


def select_chains(source: StructureText, chains: Collection[str]) -> StructureText:
    """The text without the atoms of other chains, by the letters of the authors."""
    return _edited(source, "atom_site", lambda row: row if _described(row)[1] in chains else None)


def _edited(
    source: StructureText, category: str, edit: Callable[[dict[str, str]], dict[str, str] | None]
) -> StructureText:
    """The text with changed rows of a table, or without those for which `edit` gives `None`."""
    table = _block(source).getObj(category)
    if table is None:
        return source
    names = table.getAttributeList()
    rows = [edit(dict(zip(names, row))) for row in table.getRowList()]
    lines = source.text.splitlines(True)
    first = next(index for index, line in enumerate(lines) if line.startswith(f"_{category}."))
    start = next(index for index in range(first, len(lines)) if not lines[index].startswith(f"_{category}."))
    end = next((k for k in range(start, len(lines)) if lines[k].startswith(("#", "_", "loop_", "data_"))), len(lines))
    if start - first != len(names) or not (first and lines[first - 1].strip() == "loop_"):
        raise source.fault(f"has a category {category} that is no loop; write it as one.")
    text = "".join(" ".join(map(_quoted, row.values())) + "\n" for row in rows if row is not None)
    return source.with_text("".join(lines[:start]) + text + "".join(lines[end:]))


def _quoted(value: str) -> str:
    if value and not re.search(r"\s|^['\"#$_;\[\]]", value):
        return value
    return f"'{value}'" if "' " not in value and not value.endswith("'") else f'"{value}"'


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
