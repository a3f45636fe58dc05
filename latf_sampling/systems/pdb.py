"""PDB files, record by record: the atoms of one model, and what makes a file ambiguous or incomplete."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from openmm import app

from latf_sampling.systems.atom_names import ION_ELEMENTS
from latf_sampling.systems.molecule import residue_label
from latf_sampling.systems.structure_text import StructureText, check_cell, is_coordinate

_RECORDS = frozenset("""
    HEADER OBSLTE TITLE SPLIT CAVEAT COMPND SOURCE KEYWDS EXPDTA NUMMDL MDLTYP AUTHOR REVDAT SPRSDE JRNL REMARK DBREF
    DBREF1 DBREF2 SEQADV SEQRES MODRES HET HETNAM HETSYN FORMUL HELIX SHEET TURN SSBOND LINK CISPEP SITE CRYST1 ORIGX1
    ORIGX2 ORIGX3 SCALE1 SCALE2 SCALE3 MTRIX1 MTRIX2 MTRIX3 MODEL ATOM ANISOU SIGATM SIGUIJ TER HETATM ENDMDL CONECT
    MASTER END USER
""".split())  # fmt: skip # noqa: SIM905
"""The records of a PDB file."""


class Atom(NamedTuple):
    """An ATOM or HETATM record."""

    line: int
    residue: str
    """Name and number, with the insertion code: ALA 2."""
    chain: str
    name: str
    alternate: str
    serial: str

    @property
    def label(self) -> str:
        return f"{self.name.strip()} of {self.residue} (chain {self.chain})"


def atoms(source: StructureText) -> list[Atom]:
    """The atoms of a file."""
    return [
        Atom(number, f"{line[17:21].strip()} {line[22:27].strip()}", line[21:22].strip() or "-", *fields)
        for number, line in source.lines()
        if line.startswith(("ATOM  ", "HETATM"))
        for fields in [(line[12:16], line[16:17], line[6:11])]
    ]


def occupancies(source: StructureText) -> list[float]:
    """The occupancies of the atoms, in their order; 1 where a file has none."""
    words = [line[54:60].strip() for _, line in source.lines() if line.startswith(("ATOM  ", "HETATM"))]
    return [float(word) if is_coordinate(word) else 1.0 for word in words]


def elements(source: StructureText) -> list[str]:
    """The symbols of the elements of the atoms, in their order; empty where a file has none."""
    return [line[76:78].strip() for _, line in source.lines() if line.startswith(("ATOM  ", "HETATM"))]


def keep_locations(source: StructureText, kept: Sequence[bool]) -> StructureText:
    """The text without some of its atoms, and without the labels of alternate locations of the others; dropped lines
    are empty, so that the others keep their numbers."""
    lines, keep = [], iter(kept)
    for _, line in source.lines():
        if line.startswith(("ATOM  ", "HETATM")):
            line = f"{line[:16]} {line[17:]}" if next(keep) else ""
        lines.append("" if line.startswith("ANISOU") else line)
    return source.with_text("".join(f"{line}\n" for line in lines))


def one_model(source: StructureText, number: int | None) -> StructureText:
    """The text of one model of a file, counted from 1; `None` is its only one.

    Raises
    ------
    SettingsError
        There are several and none was chosen, or there is none of this number.
    """
    models = _models(source)
    source.check_model(number, len(models))
    if not models or (not any(line.startswith("MODEL ") for _, line in source.lines()) and len(models) < 2):
        return source
    chosen = models[(number or 1) - 1]
    others = {place for model in models if model is not chosen for place in model}
    end = max((place for place, line in source.lines() if line.startswith("END")), default=0)

    def kept(place: int, line: str) -> str:
        if place in others or line.startswith("MODEL ") or (line.startswith("END") and place != end):
            return ""  # so that the numbers of lines in errors stay those of the file
        return "END" if place == end else line  # after CONECT records, which follow the last model

    return source.with_text("".join(f"{kept(place, line)}\n" for place, line in source.lines()))


def check(source: StructureText) -> None:
    """Refuse a file whose records are damaged, or that seems to be cut off.

    Raises
    ------
    SettingsError
        Names the line, and the residue where there is one.
    """
    entries = atoms(source)
    if not entries:
        raise source.fault("holds no atoms, in records ATOM and HETATM; it is empty or no PDB file.")
    lines = dict(source.lines())
    for atom in entries:
        _check_atom(source, atom, lines[atom.line])
    for number, line in lines.items():
        if number < entries[0].line and line.startswith(("TER", "CONECT", "END")):
            raise source.fault(f"is damaged in line {number}: {line[:6].strip()} comes before the first atom.")
        if line.startswith("CRYST1"):
            words = [line[first:last] for first, last in ((6, 15), (15, 24), (24, 33), (33, 40), (40, 47), (47, 54))]
            check_cell(source, words[:3], words[3:])
        elif line[:6].strip() not in _RECORDS and (
            re.match(r" +(ATOM|HETATM)\b", line) or len(re.findall(r"-?\d+\.\d{3}", line)) >= 3
        ):
            raise source.fault(f"is damaged in line {number}: {line[:6].strip()!r} is no record of a PDB file.")
    # Rosetta ends with a table of energies instead.
    ends = ("END", "#END_POSE_ENERGIES_TABLE")
    if not any(line.startswith(ends) for number, line in lines.items() if number > entries[-1].line):
        raise source.fault(
            f"has no END after its last atom, in line {entries[-1].line}; it may be cut off. Add a line END if it is "
            "complete."
        )
    _check_names(source, entries, lines)
    _check_serials(source, entries, lines)


def with_ions(source: StructureText) -> StructureText:
    """The text with the elements of ions under CHARMM's names, where the file has none; OpenMM takes POT for P."""
    lines = []
    for _, line in source.lines():
        if line.startswith(("ATOM  ", "HETATM")) and not line[76:78].strip():
            name = line[12:16].strip()
            if name in ION_ELEMENTS and name == line[17:21].strip():
                line = f"{line[:76]:<76}{ION_ELEMENTS[name]:>2}{line[78:]}"
        lines.append(line)
    return source.with_text("".join(f"{line}\n" for line in lines))


def _residue(line: str) -> tuple[str, str]:
    """Name and place of the residue of an atom's line, like "DMS" and "A 101"."""
    return line[17:21].strip(), f"{line[21:22].strip() or '-'} {line[22:27].strip()}"


def remove_residues(source: StructureText, unwanted: Callable[[str, str], bool]) -> StructureText:
    """The text without the atoms of residues that are unwanted by their name and place, like "DMS" and "A 101"; dropped
    lines are empty, so that the others keep their numbers."""
    lines = []
    for _, line in source.lines():
        is_atom = line.startswith(("ATOM  ", "HETATM", "ANISOU"))
        lines.append("" if is_atom and unwanted(*_residue(line)) else line)
    return source.with_text("".join(f"{line}\n" for line in lines))


def replace_residues(
    source: StructureText,
    new_name: Callable[[str, str], str | None],
    edit: Callable[[str, str, str], tuple[str, str] | None],
) -> StructureText:
    """The text with some residues replaced, also in its sequence where all residues of a name are.

    Parameters
    ----------
    source
        The text.
    new_name
        From the name and the place of a residue, like "SEP" and "A 57", its new name; `None` leaves it as it is.
    edit
        From the new name, and the name and element of an atom, those that it gets; `None` drops the atom, and leaves an
        empty line, so that the others keep their numbers.
    """
    lines = []
    for _, line in source.lines():
        if line.startswith(("ATOM  ", "HETATM", "ANISOU", "TER")):
            name = new_name(*_residue(line))
            if name is not None and line.startswith("TER"):
                line = f"{line[:17]}{name:>3}{line[20:]}"
            elif name is not None:
                atom = edit(name, line[12:16].strip(), line[76:78].strip())
                if atom is None:
                    lines.append("")
                    continue
                record = "ATOM  " if line.startswith("HETATM") else line[:6]
                padded = f" {atom[0]:<3}" if len(atom[0]) < 4 and len(atom[1]) < 2 else f"{atom[0]:<4}"
                line = f"{record}{line[6:12]}{padded}{line[16]}{name:>3}{line[20:76]:<56}{atom[1]:>2}{line[78:]}"
        lines.append(line)
    for number, line in enumerate(lines):
        if line.startswith("SEQRES"):
            words = [new_name(word, "") or word for word in line[19:].split()]
            lines[number] = line[:19] + " ".join(f"{word:>3}" for word in words)
    return source.with_text("".join(f"{line}\n" for line in lines))


def select_chains(source: StructureText, chains: Collection[str]) -> StructureText:
    """The text without the atoms and sequences of other chains; dropped lines are empty, so that the others keep their
    numbers."""
    columns = {"ATOM": 21, "HETATM": 21, "ANISOU": 21, "TER": 21, "SEQRES": 11}
    lines, dropped = [], False
    for _, line in source.lines():
        column = columns.get(line[:6].strip())
        if column is not None and line.strip() != "TER":  # which ends the chain before it
            dropped = (line[column : column + 1].strip() or "-") not in chains
        lines.append("" if column is not None and dropped else line)
    return source.with_text("".join(f"{line}\n" for line in lines))


def missing(source: StructureText, topology: app.Topology) -> Iterator[str]:
    """Residues of SEQRES records that have no coordinates."""
    sequences: dict[str, list[str]] = defaultdict(list)
    for _, line in source.lines():
        if line.startswith("SEQRES"):
            sequences[line[11:12].strip()] += line[17:].split()
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


def _models(source: StructureText) -> list[list[int]]:
    """Numbers of the lines of each model that has atoms."""
    models: list[list[int]] = [[]]
    for number, line in source.lines():
        if line.startswith(("ATOM  ", "HETATM", "TER", "ANISOU")):
            models[-1].append(number)
        elif line.startswith(("MODEL ", "END")) and models[-1]:
            models.append([])
    return [model for model in models if model]


def _check_atom(source: StructureText, atom: Atom, line: str) -> None:
    where = f"is damaged in line {atom.line}, {atom.label}:"
    if not line.isascii():
        raise source.fault(f"is damaged in line {atom.line}: it holds letters that a record of an atom cannot have.")
    if len(line) < 54:
        raise source.fault(f"{where} the line is cut off before its coordinates end.")
    words = _words(line)
    for axis, word in zip("xyz", words):
        if not is_coordinate(word):
            raise source.fault(f"{where} {axis} is {word!r}, not a number in its columns.")
    # An overlong number moves what follows, so that columns hold parts of two numbers.
    if re.search(r"\S\s+\S", line[54:60].strip()):
        raise source.fault(f"{where} its numbers are not in their columns, since one of them is too long.")
    if zeros := [word for word in words if re.match(r"-?0\d", word)]:
        raise source.fault(
            f"{where} {zeros[0]!r} begins with zeros, as what is left of a number that is not in its columns does."
        )


def _words(line: str) -> list[str]:
    """The coordinates of an atom."""
    return [line[30:38].strip(), line[38:46].strip(), line[46:54].strip()]


def _check_names(source: StructureText, entries: list[Atom], lines: dict[int, str]) -> None:
    """Refuse two atoms of one name in a residue, of which OpenMM would keep one: two residues have one number."""
    seen: dict[tuple[str, str], Atom] = {}
    for before, atom in zip([None, *entries], entries):
        if before is not None and (
            (before.residue, before.chain) != (atom.residue, atom.chain)
            or any(lines[number].startswith("TER") for number in range(before.line + 1, atom.line))
        ):
            seen.clear()
        twin = seen.setdefault((atom.name.strip(), atom.alternate), atom)
        if twin is not atom and re.fullmatch(r"\S+ -?\w+", atom.residue):  # ****: OpenMM tells residues by their atoms
            raise source.fault(
                f"has {atom.label} twice, in lines {twin.line} and {atom.line}; give each residue its own number, and "
                "each atom of a residue its own name."
            )


def _check_serials(source: StructureText, entries: list[Atom], lines: dict[int, str]) -> None:
    """Refuse bonds whose atoms are ambiguous."""
    counts = Counter(atom.serial.strip() for atom in entries)
    for number, line in lines.items():
        if line.startswith("CONECT"):
            serials = [line[first : first + 5].strip() for first in range(6, 31, 5)]
            if wrong := [serial for serial in serials if serial and not re.fullmatch("[0-9A-Fa-f]+", serial)]:
                raise source.fault(f"is damaged in line {number}: {wrong[0]!r} is no number of an atom.")
            if not serials[0]:
                raise source.fault(f"is damaged in line {number}: a bond has no first atom.")
            for serial in serials:
                if counts[serial] > 1:
                    raise source.fault(
                        f"names a bond of atom {serial} in line {number}, and {counts[serial]} atoms have this number."
                    )
