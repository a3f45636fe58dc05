"""What a molecule consists of: amino acids, nucleotides, water, ions, and other molecules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from openmm import app

from latf_sampling.core.words import first_of, plural
from latf_sampling.systems.molecule import residue_label

WATERS = frozenset(["HOH", "WAT", "H2O", "TIP", "TIP3", "TP3", "TIP4", "TP4", "SOL", "SPC", "DOD"])
"""Names of water in structure files."""
CAPS = frozenset(["ACE", "NME", "NMA", "NHE", "NH2", "FOR"])
"""Names of groups at the ends of chains that are no amino acids."""
HISTIDINES = frozenset(["HIS", "HID", "HIE", "HIP", "HSD", "HSE", "HSP"])
"""Names of histidine, with those of Amber and CHARMM for its states of protonation."""
SHOWN = 12
"""Residues that are listed by name."""
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


def chemistry(topology: app.Topology) -> list[str]:
    """What a sequence leaves open, a line each: disulfide bonds, states of histidines, unusual states of protonation.

    Examples
    --------
    >>> chemistry(app.Topology())
    []
    """
    bonded = {
        first.residue: second.residue
        for first, second in topology.bonds()
        if first.name == second.name == "SG" and first.residue is not second.residue
    }
    disulfides = [f"{residue_label(one)} and {residue_label(other)}" for one, other in bonded.items()]
    histidines, unusual = [], []
    sulfurs = {*bonded, *bonded.values()}
    for residue in topology.residues():
        names = {atom.name for atom in residue.atoms()}
        if "CA" not in names or "HA" not in names:
            continue
        if residue.name in HISTIDINES:
            state = {(True, True): "HIP", (True, False): "HID", (False, True): "HIE"}.get(
                ("HD1" in names, "HE2" in names)
            )
            histidines.append(f"{residue_label(residue)} {state or 'without hydrogens at its nitrogens'}")
        elif is_neutral(residue):
            unusual.append(f"{residue_label(residue)} neutral")
        elif _lost_proton(residue.name, names) and residue not in sulfurs:
            unusual.append(f"{residue_label(residue)} charged")
    lines = {"disulfide bonds": disulfides, "histidines": histidines, "unusual protonation": unusual}
    return [f"{what}: {first_of(members, SHOWN)}" for what, members in lines.items() if members]


def is_neutral(residue: Residue) -> bool:
    """Whether an aspartate, glutamate or lysine with hydrogens has no charge."""
    names = {atom.name for atom in residue.atoms()}
    return (
        (residue.name in ("ASP", "ASH") and bool({"HD1", "HD2"} & names))
        or (residue.name in ("GLU", "GLH") and bool({"HE1", "HE2"} & names))
        or (residue.name in ("LYS", "LYN") and not {"HZ1", "HZ2", "HZ3"} <= names)
    )


def _lost_proton(residue: str, names: Collection[str]) -> bool:
    """Whether a cysteine or tyrosine has no hydrogen at its sulfur or oxygen."""
    return (residue in ("CYS", "CYM") and not {"HG", "HG1"} & set(names)) or (residue == "TYR" and "HH" not in names)


def heavy_atoms(residues: Sequence[Residue]) -> list[int]:
    """Indices of the atoms of residues that are neither hydrogens nor virtual sites."""
    return [
        atom.index
        for residue in residues
        for atom in residue.atoms()
        if atom.element is not None and atom.element.symbol not in ("H", "D")
    ]
