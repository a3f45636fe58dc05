"""Damaged structure files: each is refused in one sentence, or gives the system of the undamaged file.

45 kinds of damage to PDB files of alanine dipeptide and of a box of water, 13 to files in PDBx/mmCIF, 12 files that are
no text, and two files that are cut off at 200 places each.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from helpers.molecules import STRUCTURE
from openmm import app, unit

from latf_sampling.errors import LatfError, SettingsError
from latf_sampling.settings import SystemSettings
from latf_sampling.systems import build, parametrized
from latf_sampling.systems.structure import read_structure

PROTEIN = "amber14/protein.ff14SB.xml"
WATER = "amber14/tip3p.xml"
ALANINE = STRUCTURE.read_text()


@pytest.fixture(autouse=True)
def one_force_field(monkeypatch):
    """Reading the same files for every case takes longer than everything else."""
    monkeypatch.setattr(parametrized, "load_force_field", force_field)


force_field = cache(parametrized.load_force_field)


@cache
def water_box(mmcif: bool = False) -> str:
    """27 waters in a box of 0.95 nm, and a sodium and a chloride ion."""
    topology, places = app.Topology(), []
    chain = topology.addChain()
    for number in range(29):
        center = 0.3 * np.array(np.unravel_index(number, (3, 3, 4)), dtype=float)
        if number >= 27:
            name, element = (("NA", app.element.sodium), ("CL", app.element.chlorine))[number - 27]
            topology.addAtom(name, element, topology.addResidue(name, chain))
            places.append(center)
            continue
        residue = topology.addResidue("HOH", chain)
        for name, element, shift in (
            ("O", app.element.oxygen, (0, 0, 0)),
            ("H1", app.element.hydrogen, (0.0957, 0, 0)),
            ("H2", app.element.hydrogen, (-0.024, 0.0927, 0)),
        ):
            topology.addAtom(name, element, residue)
            places.append(center + shift)
    topology.setUnitCellDimensions((1.2, 1.2, 1.4))
    handle = io.StringIO()
    (app.PDBxFile if mmcif else app.PDBFile).writeFile(topology, np.array(places) * unit.nanometer, handle)
    return handle.getvalue()


@cache
def alanine_mmcif() -> str:
    content, handle = app.PDBFile(str(STRUCTURE)), io.StringIO()
    app.PDBxFile.writeFile(content.topology, content.positions, handle, keepIds=True)
    return handle.getvalue()


def settings(file: Path, box: bool = False, **changes) -> SystemSettings:
    periodic = {"nonbonded": "PME", "cutoff": 0.5} if box else {}
    return SystemSettings(structure=file, force_field=(PROTEIN, WATER), **{**periodic, **changes})


def system_of(file: Path, box: bool = False, **changes) -> tuple[str, np.ndarray]:
    molecule = build(settings(file, box, **changes))
    return openmm.XmlSerializer.serialize(molecule.system), molecule.positions


@cache
def undamaged(name: str) -> tuple[str, np.ndarray]:
    """The system and the positions of an undamaged file."""
    import tempfile

    texts = {"a.pdb": lambda: ALANINE, "a.cif": alanine_mmcif, "w.pdb": water_box, "w.cif": lambda: water_box(True)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(texts[name]())
        return system_of(Path(folder) / name, name.startswith("w"))


def refused_or_same(folder: Path, name: str, content: bytes) -> str | None:
    """The sentence that refuses a file in place of an undamaged one; None where it gives the same system."""
    (folder / name).write_bytes(content)
    try:
        system, positions = system_of(folder / name, name.startswith("w"))
    except LatfError as error:
        sentence = str(error)
        assert sentence.startswith("system."), sentence
        assert "\n" not in sentence
        assert not re.search(r"index out of range|math domain|NoneType|could not convert|Traceback|codec", sentence)
        return sentence
    expected, places = undamaged(name)
    assert system == expected
    assert np.abs(positions - places).max() < 1e-9
    return None


def lines(text: str, change: Callable[[int, str], str | None]) -> str:
    """A text with its lines changed; those that become None are removed."""
    changed = (change(number, line) for number, line in enumerate(text.splitlines(), 1))
    return "".join(f"{line}\n" for line in changed if line is not None)


def columns(text: str, number: int, first: int, last: int, value: str) -> str:
    """A text with columns, counted from 1, of the n-th atom replaced."""
    atoms = [k for k, line in enumerate(text.splitlines(), 1) if line.startswith(("ATOM", "HETATM"))]
    return lines(text, lambda k, line: line[: first - 1] + value + line[last:] if k == atoms[number] else line)


def renumbered(text: str) -> str:
    """The second water with the number of the first one."""
    return lines(text, lambda k, line: line.replace("HOH A   2", "HOH A   1"))


def box(text: str, cell: str) -> str:
    return lines(text, lambda k, line: "CRYST1" + cell if line.startswith("CRYST1") else line)


def models(text: str) -> str:
    atoms = lines(text, lambda k, line: line if line.startswith(("ATOM", "HETATM", "TER")) else None)
    moved = lines(
        atoms, lambda k, line: f"{line[:30]}{float(line[30:38]) + 1:8.3f}{line[38:]}" if line[:3] != "TER" else line
    )
    rest = lines(text, lambda k, line: line if line.startswith("CONECT") else None)
    return f"MODEL        1\n{atoms}ENDMDL\nMODEL        2\n{moved}ENDMDL\n{rest}END\n"


SAME = None
DAMAGE = {
    # name: undamaged file, damage, words of the refusal; SAME where the system has to be that of the undamaged file
    "cut in a line": ("a.pdb", lambda t: t[: t.index(" NME") + 18], "line .* is cut off before its coordinates end"),
    "cut in the last atom": ("a.pdb", lambda t: t[: t.index("CONECT") - 40], r"line 23, .* NME .* is cut off|no END"),
    "cut between waters": (
        "w.pdb",
        lambda t: t[: t.index("HOH A  11") - 17],
        "has no END after its last atom, in line",
    ),
    "cut in the bonds": ("a.pdb", lambda t: t[: t.index("CONECT") + 30], "has no END after its last atom"),
    "no END": ("a.pdb", lambda t: t.replace("\nEND\n", "\n"), "has no END after its last atom, in line 23"),
    "an asterisk": ("a.pdb", lambda t: columns(t, 3, 31, 38, "********"), r"line 5, .* of ACE 1 .*: x is '\*+', not"),
    "no number": ("a.pdb", lambda t: columns(t, 3, 39, 46, "     nan"), "line 5, .*: y is 'nan', not a number"),
    "infinite": ("a.pdb", lambda t: columns(t, 3, 47, 54, "     inf"), "line 5, .*: z is 'inf', not a number"),
    "no coordinate": ("a.pdb", lambda t: columns(t, 3, 31, 38, " " * 8), "line 5, .*: x is '', not a number"),
    "a number that is too long": ("a.pdb", lambda t: columns(t, 3, 31, 38, "12345.678"), "line 5, .*columns"),
    "three that are too long": (
        "a.pdb",
        lambda t: columns(t, 3, 31, 54, "12345.6781234.5671234.567"),
        "line 5, .* not in their columns",
    ),
    "a record of no kind": ("w.pdb", lambda t: t.replace("HETATM", "HETXTM", 1), "line 3: 'HETXTM' is no record"),
    "a record without its beginning": (
        "w.pdb",
        lambda t: t.replace("HETATM   82 ", "H", 1),
        "line 84: .* is no record",
    ),
    "a record that is moved": ("w.pdb", lambda t: t.replace("HETATM", " HETATM", 1), "line 3: .* is no record"),
    "letters in an atom": ("a.pdb", lambda t: columns(t, 3, 13, 16, " é1 "), "line 5: it holds letters"),
    "no atoms": ("a.pdb", lambda t: "REMARK nothing\nEND\n", "holds no atoms"),
    "empty": ("a.pdb", lambda t: "", "holds no atoms"),
    "a web page": ("a.pdb", lambda t: "<!DOCTYPE html>\n<html><body>404</body></html>\n", "it is a web page"),
    "PDBx/mmCIF": ("a.pdb", lambda t: alanine_mmcif(), r"it is PDBx/mmCIF; let its name end in \.cif"),
    "JSON": ("a.pdb", lambda t: '{"a": 1}\n', "holds no atoms"),
    "several models": ("a.pdb", models, r"holds 2 models; say which with system\.model, like model: 1, or keep one"),
    "models without MODEL": ("w.pdb", lambda t: t + t, "holds 2 models"),
    "alternate locations": (
        "a.pdb",
        lambda t: t.replace(" CB  ALA", " CB AALA").replace(
            "CONECT",
            columns(lines(t, lambda k, line: line if " CB  ALA" in line else None), 0, 17, 17, "B") + "CONECT",
            1,
        ),
        r"has alternate locations of ALA 2 \(chain A\): A, B",
    ),
    "a missing atom": (
        "a.pdb",
        lambda t: lines(t, lambda k, line: None if " CB  ALA" in line else line),
        "lacks the heavy",
    ),
    "a doubled atom": (
        "a.pdb",
        lambda t: lines(t, lambda k, line: f"{line}\n{line}" if " CB  ALA" in line else line),
        r"has CB of ALA 2 \(chain A\) twice, in lines \d+ and \d+",
    ),
    "two residues of one number": ("w.pdb", renumbered, r"has O of HOH 1 \(chain A\) twice, in lines 3 and 6"),
    "two atoms of one number": (
        "a.pdb",
        lambda t: t.replace("HETATM    2", "HETATM    1"),
        "names a bond of atom 1 in",
    ),
    "two atoms of one number, no bonds": ("w.pdb", lambda t: t.replace("HETATM    2", "HETATM    1"), SAME),
    "numbers of atoms that overflow": ("w.pdb", lambda t: re.sub("HETATM.{5}", "HETATM*****", t), SAME),
    "angles that do not fit": (
        "w.pdb",
        lambda t: box(t, "   12.000   12.000   14.000 150.00 150.00 150.00 P 1"),
        "has an impossible unit cell: .* angles 150.00, 150.00, 150.00",
    ),
    "an angle of zero": (
        "w.pdb",
        lambda t: box(t, "   12.000   12.000   14.000  90.00  90.00   0.00"),
        "impossible unit cell",
    ),
    "a length of no number": (
        "w.pdb",
        lambda t: box(t, "   12.000  *******   14.000  90.00  90.00  90.00"),
        "impossible unit",
    ),
    "a negative length": (
        "w.pdb",
        lambda t: box(t, "  -12.000   12.000   14.000  90.00  90.00  90.00"),
        "impossible unit",
    ),
    "a cell that is cut off": ("w.pdb", lambda t: box(t, "   12.000   12"), "impossible unit"),
    "no cell": (
        "w.pdb",
        lambda t: lines(t, lambda k, line: None if line.startswith("CRYST1") else line),
        "PME needs a unit",
    ),
    "a cell of nothing": (
        "w.pdb",
        lambda t: box(t, "    1.000    1.000    1.000  90.00  90.00  90.00"),
        "PME needs a unit",
    ),
    "line ends of Windows": ("a.pdb", lambda t: t.replace("\n", "\r\n"), SAME),
    "old line ends of Macs": ("a.pdb", lambda t: t.replace("\n", "\r"), SAME),
    "a remark in Latin-1": ("a.pdb", lambda t: "REMARK   caf\udce9\n" + t, SAME),
    "a byte order mark": ("a.pdb", lambda t: "\ufeff" + t, SAME),
    "an end before the atoms": ("a.pdb", lambda t: "END\n" + t, "line 1: END comes before the first atom"),
    "bonds before the atoms": ("a.pdb", lambda t: "CONECT    1    2\n" + t, "line 1: CONECT comes before the first"),
    "an empty line at the end": ("a.pdb", lambda t: t + "\n\n", SAME),
    "the end of Rosetta": ("a.pdb", lambda t: t.replace("\nEND\n", "\n#END_POSE_ENERGIES_TABLE a.pdb\n"), SAME),
    "no last line end": ("a.pdb", lambda t: t.rstrip(), SAME),
    "lines without what follows coordinates": (
        "w.pdb",
        lambda t: lines(t, lambda k, line: line[:54] if line.startswith("HETATM") else line),
        SAME,
    ),
    "mmCIF: PDB": ("a.cif", lambda t: ALANINE, r"it is a PDB file; let its name end in \.pdb"),
    "mmCIF: empty": ("a.cif", lambda t: "", "it is no PDBx/mmCIF"),
    "mmCIF: a web page": ("a.cif", lambda t: "<html></html>", "it is a web page"),
    "mmCIF: nothing in it": ("a.cif", lambda t: "data_a\n#\n", "holds no atoms"),
    "mmCIF: cut in a row": ("a.cif", lambda t: t[: t.rindex("NME") + 5], "too few values"),
    "mmCIF: no number": ("a.cif", lambda t: t.replace("-0.2950", "nan", 1), "H1 of ACE 1 .*: x is 'nan', not a number"),
    "mmCIF: unknown": ("a.cif", lambda t: t.replace("-0.2950", "?", 1), r"H1 of ACE 1 .*: x is '\?', not a number"),
    "mmCIF: a word": ("a.cif", lambda t: t.replace("-0.2950", "left", 1), "H1 of ACE 1 .*: x is 'left', not a number"),
    "mmCIF: a doubled atom": (
        "a.cif",
        lambda t: lines(t, lambda k, line: f"{line}\n{line}" if " CB " in line else line),
        "has CB of ALA 2 .* twice",
    ),
    "mmCIF: impossible cell": ("w.cif", lambda t: t.replace("90", "150"), "impossible unit cell|angles"),
    "mmCIF: several models": (
        "a.cif",
        lambda t: t + lines(t, lambda k, line: line[:-1] + "2" if line.startswith(("ATOM", "HETATM")) else None),
        "holds 2 models; say which",
    ),
    "mmCIF: line ends of Windows": ("a.cif", lambda t: t.replace("\n", "\r\n"), SAME),
    "mmCIF: a remark in Latin-1": ("a.cif", lambda t: "# caf\udce9\n" + t, SAME),
}
TEXTS = {"a.pdb": lambda: ALANINE, "a.cif": alanine_mmcif, "w.pdb": water_box, "w.cif": lambda: water_box(True)}


@pytest.mark.parametrize("case", DAMAGE)
def test_every_damage_is_refused_or_does_not_matter(tmp_path, case):
    name, damage, words = DAMAGE[case]
    content = damage(TEXTS[name]())
    assert content != TEXTS[name]()
    encoded = content.encode("utf-8", errors="surrogateescape")
    sentence = refused_or_same(tmp_path, name, encoded)
    if words is SAME:
        assert sentence is None
    else:
        assert sentence is not None
        assert re.search(words, sentence), sentence
        assert name in sentence or "unit cell, and the structure has none" in sentence or "lacks the heavy" in sentence


@pytest.mark.parametrize("name", ["a.pdb", "w.pdb"])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, name):
    text = TEXTS[name]().rstrip()
    for place in random.Random(1).sample(range(len(text)), 200):
        (tmp_path / name).write_text(text[:place])
        with pytest.raises(SettingsError, match=name):
            read_structure(tmp_path / name, "system.structure")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(ALANINE.encode()), "compressed by gzip"),
        (bz2.compress(ALANINE.encode()), "compressed by bzip2"),
        (lzma.compress(ALANINE.encode()), "compressed by xz"),
        (b"PK\x03\x04...", "compressed by zip"),
        (ALANINE.encode("utf-16"), "no text file"),
        (b"\x89PNG\r\n\x1a\n\0\0", "no text file"),
    ],
    ids=["gzip", "bzip2", "xz", "zip", "UTF-16", "PNG"],
)
@pytest.mark.parametrize("name", ["a.pdb", "a.cif"])
def test_what_is_no_text_is_refused(tmp_path, name, content, words):
    sentence = refused_or_same(tmp_path, name, content)
    assert sentence is not None
    assert words in sentence


def test_other_keys_refuse_the_same(tmp_path):
    """Conformations and the structure of a serialized system are read by the same function."""
    (tmp_path / "two.pdb").write_text(models(ALANINE))
    (tmp_path / "a.pdb").write_text(ALANINE)
    (tmp_path / "a.xml").write_text(undamaged("a.pdb")[0])
    with pytest.raises(
        SettingsError, match=r"^system\.conformations\[0\]: .*two\.pdb holds 2 models; keep one of them in"
    ):
        build(settings(tmp_path / "a.pdb", conformations=(tmp_path / "two.pdb",)))
    with pytest.raises(
        SettingsError, match=r"^system\.openmm\.topology: .*two\.pdb holds 2 models; keep one of them in"
    ):
        build(SystemSettings(openmm={"system": tmp_path / "a.xml", "topology": tmp_path / "two.pdb"}))


@pytest.mark.parametrize("name", ["a.pdb", "a.cif"])
def test_a_model_is_chosen_by_its_number(tmp_path, name):
    if name == "a.pdb":
        text = models(ALANINE)
    else:
        text = alanine_mmcif()
        more = lines(text, lambda k, line: line[:-1] + "2" if line.startswith(("ATOM", "HETATM")) else None)
        text += re.sub(r" (-?\d+\.\d{3,}) ", lambda m: f" {float(m[1]) + 1:.4f} ", more, flags=re.M) if more else ""
    (tmp_path / name).write_text(text)
    first, second = (system_of(tmp_path / name, model=number)[1] for number in (1, 2))
    assert np.abs(first - undamaged(name)[1]).max() < 1e-9
    assert np.abs(second - first).max() > 0.05
    with pytest.raises(SettingsError, match="holds 2 models; there is no model 3"):
        build(settings(tmp_path / name, model=3))
    with pytest.raises(SettingsError, match="model: does not go with a molecule by name"):
        SystemSettings(name="alanine-dipeptide", model=1)


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_water_and_cells_are_not_simulated_in_vacuum_by_default(tmp_path, suffix):
    file = tmp_path / f"w.{suffix}"
    file.write_text(water_box(suffix == "cif"))
    with pytest.raises(SettingsError, match=r"structure: .* has a unit cell and 27 waters; say nonbonded: PME .* or"):
        build(settings(file))
    said = build(settings(file, nonbonded="no cutoff"))
    assert not said.system.usesPeriodicBoundaryConditions()
    assert build(settings(file, box=True)).system.usesPeriodicBoundaryConditions()


def test_a_cell_that_stands_for_none_is_none(tmp_path):
    file = tmp_path / "a.pdb"
    file.write_text("CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n" + ALANINE)
    assert system_of(file)[0] == undamaged("a.pdb")[0]
    file.write_text("CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1\n" + ALANINE)
    with pytest.raises(
        SettingsError, match="has a unit cell; say nonbonded: PME with a cutoff, or nonbonded: no cutoff"
    ):
        build(settings(file))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CAS", r"CAS 2 \(chain A\) is not in the force field\. Add a force field file that has a template of CAS"),
        ("YS", r"YS 2 \(chain A\) is not in the force field"),  # C + YS is a cysteine
        ("A", r"A 2 \(chain A\) is not in the force field"),  # N + A is a sodium ion
        ("GLY", r"GLY 2 \(chain A\) (fits none|lacks)"),
    ],
)
def test_a_residue_that_the_force_field_does_not_have_is_called_so(tmp_path, name, words):
    (tmp_path / "a.pdb").write_text(ALANINE.replace("ALA A", f"{name:>3} A"))
    with pytest.raises(SettingsError, match=words):
        build(settings(tmp_path / "a.pdb"))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("  90.000  90.000  90.000", r"the bond of CA of ALA 2 \(chain A\) and CB of ALA 2 .* is \d+\.\d\d nm long"),
        (
            None,
            r"CB of ALA 2 \(chain A\) and CA of ALA 2 \(chain A\) overlap|CA of ALA 2 .* and CB of ALA 2 .* overlap",
        ),
    ],
)
def test_what_the_file_has_broken_is_not_blamed_on_what_prepare_placed(tmp_path, place, words):
    pytest.importorskip("pdbfixer")
    heavy = lines(ALANINE, lambda k, line: None if line[76:78] == " H" or line.startswith("CONECT") else line)
    if place is None:
        place = next(line[30:54] for line in heavy.splitlines() if line[12:16] == " CA ")
    broken = lines(heavy, lambda k, line: line[:30] + place + line[54:] if line[12:16] == " CB " else line)
    (tmp_path / "a.pdb").write_text(broken)
    with pytest.raises(SettingsError, match=rf"^system\.structure: .*a\.pdb is damaged: .*({words})"):
        build(settings(tmp_path / "a.pdb", prepare={}))
