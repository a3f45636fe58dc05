"""What a molecule consists of: amino acids, nucleotides, water, ions, and other molecules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from openmm import app

from latf_sampling.core.words import plural

WATERS = frozenset(["HOH", "WAT", "H2O", "TIP", "TIP3", "TP3", "TIP4", "TP4", "SOL", "SPC", "DOD"])
"""Names of water in structure files."""
CAPS = frozenset(["ACE", "NME", "NMA", "NHE", "NH2", "FOR"])
"""Names of groups at the ends of chains that are no amino acids."""
MANY = 10
"""Molecules of one name of which there are more count as solvent, like lipids and cosolvents."""

Residue = app.topology.Residue


@dataclass(frozen=True)
class Contents:
    """The residues of a molecule by what they are.

    Attributes
    ----------
    amino_acids, nucleotides, waters, ions : sequence of Residue
        Ions are single atoms.
    caps : sequence of Residue
        Groups at the ends of chains.
    others : sequence of Residue
        Ligands and other molecules.
    solvents : sequence of Residue
        Molecules besides water of which there are more than `MANY`.
    """

    amino_acids: Sequence[Residue]
    nucleotides: Sequence[Residue]
    caps: Sequence[Residue]
    waters: Sequence[Residue]
    ions: Sequence[Residue]
    others: Sequence[Residue]
    solvents: Sequence[Residue]

    @classmethod
    def from_topology(cls, topology: app.Topology) -> Contents:
        """The contents of a topology, with or without hydrogens.

        Examples
        --------
        >>> from latf_sampling.settings.system import SystemSettings
        >>> from latf_sampling.systems import build
        >>> str(Contents.from_topology(build(SystemSettings(name="alanine-dipeptide")).topology))
        '1 amino acid'
        """
        kinds: dict[str, list[Residue]] = {name: [] for name in cls.__dataclass_fields__}
        for residue in topology.residues():
            kinds[_kind(residue)].append(residue)
        counts = Counter(residue.name for residue in kinds["others"])
        kinds["solvents"] = [residue for residue in kinds["others"] if counts[residue.name] > MANY]
        kinds["others"] = [residue for residue in kinds["others"] if counts[residue.name] <= MANY]
        return cls(**kinds)

    @property
    def units(self) -> int:
        """Number of amino acids and nucleotides."""
        return len(self.amino_acids) + len(self.nucleotides)

    def __str__(self) -> str:
        others = ", ".join(dict.fromkeys(residue.name for residue in self.others))
        parts = [
            (self.amino_acids, "amino acid", ""),
            (self.nucleotides, "nucleotide", ""),
            (self.others, "other molecule", f" ({others})"),
            (self.solvents, "molecule", " of other solvent"),
            (self.waters, "water", ""),
            (self.ions, "ion", ""),
        ]
        return ", ".join(plural(len(members), noun) + more for members, noun, more in parts if members)


def _kind(residue: Residue) -> str:
    if residue.name in WATERS:
        return "waters"
    names = {atom.name.replace("*", "'") for atom in residue.atoms()}
    if {"N", "CA", "C"} <= names:
        return "amino_acids"
    if {"C1'", "C3'", "O4'"} <= names:
        return "nucleotides"
    if residue.name in CAPS:
        return "caps"
    return "ions" if len(names) == 1 else "others"


def heavy_atoms(residues: Sequence[Residue]) -> list[int]:
    """Indices of the atoms of residues that are neither hydrogens nor virtual sites."""
    return [
        atom.index
        for residue in residues
        for atom in residue.atoms()
        if atom.element is not None and atom.element.symbol not in ("H", "D")
    ]
