"""What pictures of a system's structures show: the atoms without solvent, whole and aligned, as text of a PDB file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import mdtraj
import numpy as np
import torch

from latf_sampling.features import Unwrap, reduced_box, unwrap_molecules
from latf_sampling.features.bonded_tree import molecule_labels
from latf_sampling.features.topology import insertion_code

SEVERAL = 5
"""A chain of at least so many residues with a backbone is drawn as a cartoon."""
SIDE_CHAINS = 40
"""With more residues than these in chains, their side chains are left out."""
COPIES = 20
"""A kind of small molecule with more copies than these is a solvent."""
MOST_ATOMS = 20_000
"""Of larger systems each residue is one point of a line, and of still larger ones every second or third."""
CAPS = frozenset({"ACE", "NME", "NHE", "NH2", "NMA", "FOR"})
_PROTEIN, _NUCLEIC = {"N", "CA", "C", "O"}, {"C5'", "C4'", "C3'", "O3'"}
_PHOSPHATE = {"P", "OP1", "OP2", "O1P", "O2P"}
_BASE = {"N1", "N3", "N9"}
_CHAINS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class Drawing:
    """The atoms that are drawn, and how.

    Attributes
    ----------
    topology : mdtraj.Topology
        Of the whole system.
    solute : numpy.ndarray (n,)
        Indices of all atoms that are no solvent; molecules are made whole by their bonds.
    atoms : numpy.ndarray (m,)
        Indices of those that are drawn.
    cartoon : frozenset of int
        Indices of the residues that are drawn as a cartoon; the other atoms are sticks.
    style : str
        "cartoon", or "trace" where residues are single points.
    side_chains : bool
        Whether cartoons have side chains.
    """

    topology: mdtraj.Topology
    solute: np.ndarray
    atoms: np.ndarray
    cartoon: frozenset[int]
    style: str
    side_chains: bool

    @classmethod
    def from_topology(cls, topology: mdtraj.Topology) -> Drawing | None:
        """Solvent, ions and most hydrogens are left out; `None` where nothing is left.

        Examples
        --------
        >>> topology = mdtraj.Topology()
        >>> residue = topology.add_residue("HOH", topology.add_chain())
        >>> oxygen = topology.add_atom("O", mdtraj.element.oxygen, residue)
        >>> Drawing.from_topology(topology) is None
        True
        """
        solvent = _solvent(topology)
        solute = np.array([atom.index for atom in topology.atoms if atom.residue.index not in solvent], np.int64)
        cartoon = _cartoon(topology, solvent)
        side_chains = len(cartoon) <= SIDE_CHAINS
        polar = {b.index for a, b in _directed_bonds(topology) if _symbol(b) == "H" and _symbol(a) in ("N", "O", "S")}
        atoms = [
            index
            for index in solute.tolist()
            if _is_drawn(topology.atom(index), topology.atom(index).residue.index in cartoon, side_chains, polar)
        ]
        style = "cartoon"
        if len(atoms) > MOST_ATOMS:
            points = [k for k in atoms if topology.atom(k).name in ("CA", "P")]
            points = points[:: -(-len(points) // MOST_ATOMS)] if points else atoms[:: -(-len(atoms) // MOST_ATOMS)]
            style, atoms = "trace", points
        if not atoms:
            return None
        return cls(topology, solute, np.array(atoms, np.int64), frozenset(cartoon), style, side_chains)

    @cached_property
    def _whole(self) -> mdtraj.Topology:
        return self.topology.subset(self.solute.tolist())

    @cached_property
    def _aligned(self) -> np.ndarray:
        """Places in `atoms` that structures are aligned by: the chains if there are any, otherwise all heavy atoms."""
        names = [self.topology.atom(int(k)) for k in self.atoms]
        chains = [k for k, atom in enumerate(names) if atom.residue.index in self.cartoon and atom.name in ("CA", "P")]
        heavy = [k for k, atom in enumerate(names) if _symbol(atom) != "H"]
        return np.array(chains if len(chains) >= 3 else heavy or range(len(names)))

    def positions(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        """Positions (frames, m, 3) of the drawn atoms, nm, with molecules whole and next to each other."""
        x = np.asarray(trajectory.xyz)[:, self.solute]
        if trajectory.unitcell_vectors is not None and self._whole.n_bonds:
            box = torch.from_numpy(np.ascontiguousarray(trajectory.unitcell_vectors, np.float32))
            x = self._unwrap(torch.from_numpy(x), reduced_box(box)).numpy()
            x = self._together(x, box.numpy())
        return x[:, np.searchsorted(self.solute, self.atoms)]

    @cached_property
    def _unwrap(self) -> Unwrap:
        return unwrap_molecules(self._whole)

    def _together(self, x: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Positions (frames, n, 3) with each molecule in the image that is nearest to the largest one."""
        molecules = molecule_labels(self._whole, range(self._whole.n_atoms))
        sizes = np.bincount(molecules)
        centers = np.stack([x[:, molecules == k].mean(1) for k in range(len(sizes))], axis=1)
        apart = centers - centers[:, [sizes.argmax()]]
        return x - (np.round(apart @ np.linalg.inv(box)) @ box)[:, molecules]

    def aligned(self, positions: np.ndarray) -> np.ndarray:
        """Positions (frames, m, 3) turned and moved onto those of the first frame, whose center is the origin."""
        place = self._aligned
        centered = positions - positions[:, place].mean(1, keepdims=True)
        if len(place) < 2:
            return centered
        covariance = np.einsum("fai,aj->fij", centered[:, place], centered[0, place])
        left, _, right = np.linalg.svd(covariance)
        # A reflection would fit better where the determinant is negative; the last axis is turned back.
        left[..., -1] *= np.sign(np.linalg.det(left @ right))[:, None]
        return centered @ (left @ right)

    @cached_property
    def pdb(self) -> str:
        """The drawn atoms and their bonds as text of a PDB file, with all positions at the origin."""
        serial = {int(index): number for number, index in enumerate(self.atoms, 1)}
        lines = [self._line(index, number) for index, number in serial.items()]
        partners: dict[int, list[int]] = {}
        for first, second in _directed_bonds(self.topology):
            if first.index in serial and second.index in serial:
                partners.setdefault(serial[first.index], []).append(serial[second.index])
        for number, others in sorted(partners.items()):
            for start in range(0, len(others), 4):
                lines.append(f"CONECT{number:5d}" + "".join(f"{other:5d}" for other in others[start : start + 4]))
        return "\n".join([*lines, "END"])

    def _line(self, index: int, serial: int) -> str:
        atom = self.topology.atom(index)
        residue, symbol = atom.residue, _symbol(atom)
        record = "ATOM" if residue.index in self.cartoon else "HETATM"
        name = _plain(atom.name)[:4]
        name = name if len(symbol) == 2 or len(name) == 4 else f" {name}"
        number = residue.resSeq if self.style == "cartoon" and 0 <= residue.resSeq < 10_000 else residue.index % 10_000
        chain, code = _CHAINS[residue.chain.index % len(_CHAINS)], insertion_code(residue)[:1] or " "
        return (
            f"{record:<6}{serial:5d} {name:<4} {_residue_name(residue.name):>3} {chain}{number:4d}{code}   "
            f"{0:8.3f}{0:8.3f}{0:8.3f}{1:6.2f}{0:6.2f}          {symbol.upper():>2}"
        )


def _solvent(topology: mdtraj.Topology) -> set[int]:
    """Indices of residues of water, of ions, and of small molecules with many copies."""
    bonded = {a.residue.index for a, b in _directed_bonds(topology) if a.residue.index != b.residue.index}
    free = [
        residue
        for residue in topology.residues
        if residue.index not in bonded and not residue.is_protein and not residue.is_nucleic
    ]
    copies = Counter(residue.name for residue in free)
    return {
        residue.index for residue in free if residue.is_water or residue.n_atoms == 1 or copies[residue.name] > COPIES
    }


def _cartoon(topology: mdtraj.Topology, solvent: set[int]) -> set[int]:
    """Indices of the residues of proteins and nucleic acids of several residues, with their caps."""
    cartoon: set[int] = set()
    for chain in topology.chains:
        residues = [residue for residue in chain.residues if residue.index not in solvent]
        backbone = [
            residue
            for residue in residues
            if any(needed <= {atom.name.replace("*", "'") for atom in residue.atoms} for needed in (_PROTEIN, _NUCLEIC))
        ]
        if len(backbone) >= SEVERAL:
            cartoon |= {residue.index for residue in backbone}
            cartoon |= {residue.index for residue in residues if residue.name in CAPS}
    return cartoon


def _is_drawn(atom, in_cartoon: bool, side_chains: bool, polar: set[int]) -> bool:
    symbol = _symbol(atom)
    if symbol == "H":
        return not in_cartoon and atom.index in polar
    if atom.element is mdtraj.element.virtual and atom.residue.n_atoms > 1:
        return False
    if not in_cartoon or side_chains:
        return True
    name = atom.name.replace("*", "'")
    return name in _PROTEIN | _PHOSPHATE | _BASE or name.endswith("'")


def _directed_bonds(topology: mdtraj.Topology):
    """Each bond twice, from either end."""
    for first, second in topology.bonds:
        yield first, second
        yield second, first


def _symbol(atom) -> str:
    """Symbol of an element; beads without one are drawn as carbon."""
    return "C" if atom.element in (None, mdtraj.element.virtual) else atom.element.symbol


def _plain(name: str) -> str:
    """A name without what would shift the columns of a PDB file.

    >>> _plain("C 1<\\n>")
    'C1'
    """
    return re.sub(r"[^A-Za-z0-9'*+_-]", "", name) or "X"


def _residue_name(name: str) -> str:
    """A name of three letters; names of nucleotides of force fields as a PDB file has them.

    >>> [_residue_name(name) for name in ("RA5", "DG3", "U5", "HIE", "LIGAND")]
    ['A', 'DG', 'U', 'HIE', 'LIG']
    """
    match = re.fullmatch(r"(?:R?([ACGU])|(D[ACGT]))[35N]?", name)
    return (match[1] or match[2]) if match else _plain(name)[:3]
