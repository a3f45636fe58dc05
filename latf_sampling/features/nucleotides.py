"""Nucleotides of a topology, recognized by the names of their atoms, whatever the force field's residue names."""

from __future__ import annotations

import mdtraj
from mdtraj.core.topology import Residue

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import select_atoms

_SUGAR = ("C4'", "O4'", "C1'", "C2'", "C3'")
_PSEUDOURIDINE = "PSU"  # its base is bonded to the sugar by C5


class Nucleotide:
    """A residue with the sugar of a nucleotide, and its atoms by their names in version 3 of the PDB.

    Asterisks count as primes and O1P, O2P as OP1, OP2, as in older files and some force fields. Names of residues
    (DA, DA5, RA3, A, ADE, ...) do not matter, so that modified and terminal nucleotides are recognized as well.

    Parameters
    ----------
    residue
        Any residue; `nucleotides` makes a `Nucleotide` of each that has a sugar.

    Attributes
    ----------
    residue : mdtraj.core.topology.Residue
    atoms : dict of str to int
        Indices by name.
    """

    def __init__(self, residue: Residue):
        self.residue = residue
        self.atoms = {_standard(atom.name): atom.index for atom in residue.atoms}

    @property
    def sugar(self) -> tuple[int, ...]:
        """C4', O4', C1', C2', C3', in the order of the ring."""
        return tuple(self.atoms[name] for name in _SUGAR)

    @property
    def purine(self) -> bool:
        return "N9" in self.atoms

    @property
    def base(self) -> tuple[int, ...]:
        """The triangle C2, C6, C4 of a purine or C2, C4, C6 of a pyrimidine, so that all bases have one orientation.

        Empty where an atom is missing.
        """
        names = ("C2", "C6", "C4") if self.purine else ("C2", "C4", "C6")
        return tuple(self.atoms[name] for name in names if name in self.atoms) if self._has(names) else ()

    @property
    def glycosidic(self) -> tuple[str, str]:
        """Names of the base's atom that is bonded to the sugar, and of the atom after it in IUPAC's torsion chi."""
        if self.residue.name == _PSEUDOURIDINE:
            return "C5", "C4"
        return ("N9", "C4") if self.purine else ("N1", "C2")

    def bonded_to(self, other: Nucleotide) -> bool:
        """Whether O3' of this nucleotide is bonded to P of the other.

        Readers of files often omit this bond. Consecutive nucleotides of a chain count as bonded unless a gap in the
        residue numbers says that one is missing between them.
        """
        a, b = self.residue, other.residue
        if a.chain.index != b.chain.index or b.index != a.index + 1:
            return False
        return b.resSeq - a.resSeq in (0, 1)  # 0: an insertion code tells them apart

    def _has(self, names: tuple[str, ...]) -> bool:
        return all(name in self.atoms for name in names)


def nucleotides(topology: mdtraj.Topology) -> list[Nucleotide]:
    """All residues with the five atoms of the sugar's ring.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ADE", topology.add_chain())
    >>> for name in ("C1*", "C2*", "C3*", "C4*", "O4*", "N9"):
    ...     _ = topology.add_atom(name, mdtraj.element.carbon, residue)
    >>> [nucleotide.sugar for nucleotide in nucleotides(topology)]
    [(3, 4, 0, 1, 2)]
    """
    candidates = [Nucleotide(residue) for residue in topology.residues]
    return [nucleotide for nucleotide in candidates if nucleotide._has(_SUGAR)]


def selected_nucleotides(topology: mdtraj.Topology, selection: str, where: str) -> list[Nucleotide]:
    """Nucleotides with at least one atom in an MDTraj selection.

    Raises
    ------
    SettingsError
        There is no such nucleotide.
    """
    residues = {topology.atom(atom).residue.index for atom in select_atoms(topology, selection, where)}
    selected = [nucleotide for nucleotide in nucleotides(topology) if nucleotide.residue.index in residues]
    if not selected:
        raise SettingsError(
            f"{where}: '{selection}' selects no nucleotide; that is a residue with the atoms {', '.join(_SUGAR)}."
        )
    return selected


def _standard(name: str) -> str:
    """Name of an atom in version 3 of the PDB."""
    name = name.replace("*", "'")
    return {"O1P": "OP1", "O2P": "OP2"}.get(name, name)
