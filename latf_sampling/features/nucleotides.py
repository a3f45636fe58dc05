"""Nucleotides of a topology, found by the names of their atoms, whatever a force field calls the residue."""

from __future__ import annotations

import mdtraj

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import select

_SUGAR = ("C4'", "O4'", "C1'", "C2'", "C3'")
_PSEUDOURIDINE = "PSU"  # the uridine whose base hangs on the sugar by its C5


class Nucleotide:
    """A residue with the sugar of a nucleotide; atoms by the names of the PDB's version 3.

    Asterisks count as primes and O1P, O2P as OP1, OP2, as in older files and some force fields. Names of residues do
    not count (DA, DA5, RA3, A, ADE, ...), so that modified ones and those at either end are found as well.

    Parameters
    ----------
    residue
        Any residue; `nucleotides` makes one of each that has a sugar.

    Attributes
    ----------
    residue : mdtraj.core.topology.Residue
    atoms : dict of str to int
        Indices by name.
    """

    def __init__(self, residue: mdtraj.core.topology.Residue):
        self.residue = residue
        self.atoms = {_standard(atom.name): atom.index for atom in residue.atoms}

    @property
    def sugar(self) -> tuple[int, ...]:
        """C4', O4', C1', C2', C3': the ring in its order."""
        return tuple(self.atoms[name] for name in _SUGAR)

    @property
    def purine(self) -> bool:
        return "N9" in self.atoms

    @property
    def base(self) -> tuple[int, ...]:
        """C2 and its two neighbours in the triangle C2, C4, C6, in the sense that gives all bases one orientation.

        Of a purine that is C2, C6, C4, of a pyrimidine C2, C4, C6; empty where one is missing.
        """
        names = ("C2", "C6", "C4") if self.purine else ("C2", "C4", "C6")
        return tuple(self.atoms[name] for name in names if name in self.atoms) if self._has(names) else ()

    @property
    def glycosidic(self) -> tuple[str, str]:
        """Names of the base's atom at the sugar, and of that atom's neighbour which IUPAC counts chi from."""
        if self.residue.name == _PSEUDOURIDINE:
            return "C5", "C4"
        return ("N9", "C4") if self.purine else ("N1", "C2")

    def bonded_to(self, other: Nucleotide) -> bool:
        """Whether O3' of this one is bonded to P of the other.

        Readers of files often leave this bond out. Of neighbours in a chain it is taken to be there unless the numbers
        of the residues say that one is missing in between.
        """
        a, b = self.residue, other.residue
        if a.chain.index != b.chain.index or b.index != a.index + 1:
            return False
        return b.resSeq - a.resSeq in (0, 1)  # 0: told apart by a letter

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
    found = [Nucleotide(residue) for residue in topology.residues]
    return [nucleotide for nucleotide in found if nucleotide._has(_SUGAR)]


def chosen_nucleotides(topology: mdtraj.Topology, selection: str, where: str) -> list[Nucleotide]:
    """Nucleotides of which one atom or more is in an MDTraj selection.

    Raises
    ------
    SettingsError
        There is none.
    """
    residues = {topology.atom(atom).residue.index for atom in select(topology, selection, where)}
    found = [nucleotide for nucleotide in nucleotides(topology) if nucleotide.residue.index in residues]
    if not found:
        raise SettingsError(
            f"{where}: '{selection}' selects no nucleotide; that is a residue with the atoms {', '.join(_SUGAR)}."
        )
    return found


def _standard(name: str) -> str:
    name = name.replace("*", "'")
    return {"O1P": "OP1", "O2P": "OP2"}.get(name, name)
