"""The text of a PDB or PDBx/mmCIF file, before anything is made of it."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latf_sampling.errors import SettingsError

_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
"""How compressed files begin, and what unpacks them."""
_OTHER_FORMATS = frozenset([".bcif", ".gro", ".mae", ".mmtf", ".mol", ".mol2", ".pdbqt", ".pqr", ".sdf", ".xyz"])
"""Endings of structures in other formats. PQR and PDBQT look like PDB, and have other numbers in its columns."""


def packed_by(content: bytes) -> str | None:
    """The program that a file was compressed by; `None` if it is not."""
    return next((program for magic, program in _COMPRESSED.items() if content.startswith(magic)), None)


def format_of(file: Path) -> str:
    """The suffix that says the format of a file, also where it is compressed by gzip or numbered as a copy.

    Examples
    --------
    >>> format_of(Path("1abc.CIF.gz")), format_of(Path("1abc.pdb-1.gz")), format_of(Path("conf.gro"))
    ('.cif', '.pdb', '.gro')
    """
    name = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    return re.sub(r"-\d+$", "", name.suffix.lower())


@dataclass(frozen=True)
class StructureText:
    """The text of a structure file.

    Attributes
    ----------
    file : pathlib.Path
        Its suffix says the format.
    key : str
        Its key in a protocol, for errors.
    text : str
        Its content, or the part of one model.
    """

    file: Path
    key: str
    text: str

    @classmethod
    def load(cls, file: Path, key: str) -> StructureText:
        """Read a file, also one with a name like 1abc.pdb.gz; what is not a text of its format is refused.

        Raises
        ------
        SettingsError
            The file is missing, compressed, binary, a web page or in another format than its name says.
        """
        try:
            content = file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{key}: {file} cannot be read ({error.strerror}).") from error
        program = packed_by(content)
        if program == "gzip" and file.suffix.lower() == ".gz":
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as error:
                raise SettingsError(f"{key}: {file} cannot be unpacked ({error}); is it cut off?") from error
        elif program is not None:
            raise SettingsError(f"{key}: {file} cannot be read (it is compressed by {program}; unpack it first).")
        if b"\0" in content:
            raise SettingsError(f"{key}: {file} cannot be read (it is no text file).")
        # Remarks may hold letters in any encoding; what matters is ASCII, and is checked where it is read.
        read = cls(file, key, "\n".join(content.decode("utf-8-sig", errors="replace").splitlines()) + "\n")
        read._check_format()
        return read

    def _check_format(self) -> None:
        ending = format_of(self.file)
        if ending in _OTHER_FORMATS:
            raise self.fault(f"cannot be read (its name says {ending}); give the structure as PDB or PDBx/mmCIF.")
        first = next((line.strip() for line in self.text.splitlines() if line.strip() and line[0] != "#"), "")
        if first.startswith("<"):
            raise self.fault("cannot be read (it is a web page or XML; was it downloaded as a file?).")
        if self.is_mmcif != first.lower().startswith("data_") and (self.is_mmcif or first.lower().startswith("data_")):
            if not self.is_mmcif:
                raise self.fault("cannot be read (it is PDBx/mmCIF; let its name end in .cif).")
            if re.match(r"(ATOM|HETATM|HEADER|TITLE|REMARK|CRYST1|MODEL|COMPND|SEQRES|EXPDTA)\b", first):
                raise self.fault("cannot be read (it is a PDB file; let its name end in .pdb).")
            raise self.fault("cannot be read (it is no PDBx/mmCIF, which begins with data_).")

    @property
    def is_mmcif(self) -> bool:
        """Whether the suffix of the file is one of PDBx/mmCIF."""
        return format_of(self.file) in (".cif", ".mmcif", ".pdbx")

    def lines(self) -> Iterator[tuple[int, str]]:
        """Its lines, with their numbers from 1."""
        return enumerate(self.text.splitlines(), 1)

    def fault(self, words: str) -> SettingsError:
        """An error that names key and file."""
        return SettingsError(f"{self.key}: {self.file} {words}")

    def check_model(self, number: int | None, models: int) -> None:
        """Refuse several models of which none was chosen, and a model that the file does not hold.

        Parameters
        ----------
        number
            The chosen model, from 1; `None` is the only one.
        models
            How many models the file holds; 0 where they are not numbered.

        Raises
        ------
        SettingsError
            Says how to choose one, or which there are.
        """
        if number is None and models > 1:
            choose = "say which with system.model, like model: 1, or keep" if self.key == "system.structure" else "keep"
            raise self.fault(f"holds {models} models; {choose} one of them in the file.")
        if number is not None and number > max(models, 1):
            raise self.fault(f"holds {models} models; there is no model {number}.")

    def with_text(self, text: str) -> StructureText:
        return replace(self, text=text)


def check_cell(source: StructureText, lengths: list[str], angles: list[str]) -> None:
    """Refuse a unit cell that does not exist; lengths of zero mean that there is none.

    Raises
    ------
    SettingsError
        A length or angle is no number, or three such angles do not fit together.
    """
    try:
        a, angle = np.array(lengths, dtype=float), np.radians(np.array(angles, dtype=float))
    except ValueError:
        a, angle = np.full(3, np.nan), np.full(3, np.nan)
    if np.all(a == 0):
        return
    cosines = np.cos(angle)
    volume = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if not (np.all(a > 0) and np.all(angle > 0) and np.all(angle < np.pi) and volume > 1e-6 and np.isfinite(a).all()):
        raise source.fault(
            f"has an impossible unit cell: lengths {', '.join(map(str.strip, lengths))} and angles "
            f"{', '.join(map(str.strip, angles))}. Correct or remove it."
        )


def is_coordinate(word: str) -> bool:
    """Whether a word is a finite number, as structure files write them."""
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", word) is not None
