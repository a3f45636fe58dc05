"""The Go model of an RNA hairpin with a GCAA tetraloop: nine heavy atoms of each nucleotide of GGCGCAAGCC.

A structure-based model like those of Whitford and others, doi:10.1002/prot.22253, with fewer atoms. It has the shape of
the hairpin, whose G-vectors and eRMSD it keeps, and nothing of its chemistry: its energy scale was chosen for a melting
temperature near 330 K, which is a definition and says nothing about the melting temperature of the RNA.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from latf_sampling.systems.structure_based import (
    add_angles,
    add_bonds,
    add_contacts,
    add_repulsion,
    add_torsions,
    with_torsions,
)
from latf_sampling.units import to_array

NATIVE = Path(__file__).parent / "data" / "gcaa-hairpin.pdb"
"""The native structure with all heavy atoms: loop and closing pair of 1S72, continued as an A-form helix."""
SUGAR = ("P", "C5'", "C4'", "C3'", "C1'")
SITES = ("O4'", "C2'")
"""Atoms without mass or forces, at their native places relative to the sugar's others, by which a sugar is known."""
BASES = {"A": ("N9", "C2", "C6", "C4"), "G": ("N9", "C2", "C6", "C4"), "C": ("N1", "C2", "C4", "C6")}
"""In an order in which C1' and any three of them, one after the other, are far from a line, where torsions are
undefined."""
PAIRS = ((0, 9), (1, 8), (2, 7))
"""Nucleotides, from 0, of the base pairs."""
EPSILON = 2.1
"""Depth of a contact, kJ/mol; the other terms are multiples of it."""
PAIRING = 1.5
"""Depth of contacts of a base pair, in epsilon; the atoms of its hydrogen bonds are left out."""
STACKING = 2 / 3
"""Depth of contacts between neighbors in the chain, in epsilon."""
BACKBONE = 0.5
"""Strength of torsions about the backbone and the glycosidic bond, in epsilon."""
REACH = 0.6
"""Atoms of different nucleotides that are nearer than this in the native structure are a contact, nm."""
DIAMETER = 0.45
"""Diameter of the repulsion between pairs that are no native contact, nm."""
REPELLING = ("P", "C4'", "C2")
"""Atoms that repel each other, one each of phosphate, sugar and base, which stand for the others."""
BOND = 4000.0
"""Stiffness of bonds, kJ/mol/nm^2. With the next two it lets the fastest vibration be slow enough for 20 fs a step."""
ANGLE = 100.0
"""Stiffness of angles, kJ/mol/rad^2."""
RIGID = 40.0
"""Strength of torsions that keep handedness and planes, in epsilon."""
MASS = 36.0
"""A ninth of the mean mass of a nucleotide, amu."""


def gcaa_go() -> tuple[openmm.System, app.Topology, np.ndarray]:
    """System, topology and native positions (109, 3), nm, of the Go model of GGCGCAAGCC.

    Bonds, angles and torsions have their minima in the native structure. Sugar and base of a nucleotide are rigid but
    for vibrations; chirality and planarity are kept by stiff torsions. Native contacts have depth [5 (r0/r)^12 - 6
    (r0/r)^10], other pairs repel each other with epsilon (diameter / r)^12.

    Examples
    --------
    >>> system, topology, positions = gcaa_go()
    >>> system.getNumParticles(), topology.getNumResidues()
    (109, 10)
    """
    topology, native = _atoms()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(0.0 if atom.name in SITES else MASS)
    index = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()]
    for names in index:
        for name in SITES:
            system.setVirtualSite(names[name], _site(native, [names[k] for k in ("C4'", "C3'", "C1'")], names[name]))
    bonds, angles, torsions, stiff = _bonded(topology, index)
    add_bonds(system, native, bonds, BOND)
    add_angles(system, native, angles, ANGLE)
    add_torsions(system, native, torsions, BACKBONE * EPSILON)
    add_torsions(system, native, stiff, RIGID * EPSILON, threefold=False)
    near, far = contacts()
    add_contacts(system, native, near, STACKING * EPSILON)
    atoms = list(topology.atoms())
    for paired, depth in ((True, PAIRING * EPSILON), (False, EPSILON)):
        residues = [tuple(atoms[k].residue.index for k in pair) for pair in far]
        add_contacts(system, native, [c for c, r in zip(far, residues, strict=True) if (r in PAIRS) == paired], depth)
    kept = [k for k, atom in enumerate(atoms) if atom.name in REPELLING]
    linked = {*near, *far, *(tuple(sorted(pair)) for pair in bonds), *((a, c) for a, _, c in angles)}
    repelled = [
        pair
        for pair in combinations(kept, 2)
        if pair not in linked and atoms[pair[0]].residue is not atoms[pair[1]].residue
    ]
    add_repulsion(system, repelled, EPSILON, DIAMETER)
    return system, topology, native


def contacts() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Native contacts between neighbors in the chain, of their bases alone, and all between other nucleotides."""
    topology, native = _atoms()
    atoms = list(topology.atoms())
    near, far = [], []
    for a, b in combinations(range(len(atoms)), 2):
        apart = atoms[b].residue.index - atoms[a].residue.index
        if apart == 0 or {atoms[a].name, atoms[b].name} & set(SITES) or np.linalg.norm(native[a] - native[b]) > REACH:
            continue
        if apart > 1:
            far.append((a, b))
        elif not {atoms[a].name, atoms[b].name} & set(SUGAR):
            near.append((a, b))
    return near, far


def extended() -> np.ndarray:
    """Positions (109, 3) of the stretched chain with native bonds and angles, nm."""
    topology, native = _atoms()
    index = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()]
    turned = []
    for this, after in zip(index, index[1:], strict=False):
        turned.append((this["C4'"], this["C3'"], after["P"], after["C5'"]))
        turned.append((this["C3'"], after["P"], after["C5'"], after["C4'"]))
    return with_torsions(native, turned, np.pi)


def _atoms() -> tuple[app.Topology, np.ndarray]:
    """Topology with virtual bonds, and positions (109, 3) of its atoms in the native structure, nm."""
    structure = app.PDBFile(str(NATIVE))
    positions, topology, kept = to_array(structure.positions, "length"), app.Topology(), []
    chain = topology.addChain("A")
    for residue in structure.topology.residues():
        atoms = {atom.name: atom for atom in residue.atoms()}
        copy = topology.addResidue(residue.name, chain, residue.id)
        for name in (*SUGAR, *BASES[residue.name], *SITES):
            if name in atoms:  # the first nucleotide has no phosphate
                topology.addAtom(name, atoms[name].element, copy)
                kept.append(atoms[name].index)
    index = [{atom.name: atom for atom in residue.atoms()} for residue in topology.residues()]
    for residue, names in zip(topology.residues(), index, strict=True):
        base = BASES[residue.name]
        links = [("P", "C5'"), ("C5'", "C4'"), ("C4'", "C3'"), ("C4'", "C1'"), ("C3'", "C1'"), ("C1'", base[0])]
        links += [("C4'", "O4'"), ("O4'", "C1'"), ("C3'", "C2'"), ("C2'", "C1'")]
        for first, second in (*links, *combinations(base, 2)):
            if first in names:
                topology.addBond(names[first], names[second])
    for this, after in zip(index, index[1:], strict=False):
        topology.addBond(this["C3'"], after["P"])
    return topology, np.array(positions)[kept]


def _site(native: np.ndarray, frame: list[int], index: int) -> openmm.VirtualSite:
    """The virtual site of a particle whose native place relative to three others is kept."""
    first, second, third = native[frame]
    a, b = second - first, third - first
    weights = np.linalg.solve(np.stack([a, b, np.cross(a, b)], axis=1), native[index] - first)
    return openmm.OutOfPlaneSite(*frame, *weights)


def _bonded(topology: app.Topology, index: list[dict[str, int]]) -> tuple[list, list, list, list]:
    """Atoms of bonds, of angles, of torsions that turn, and of torsions that do not, of the whole chain.

    Rigid parts are held by bonds between all of their atoms: the sugar with the phosphorus after it, and the base with
    C1'. Angles keep the torsions defined, whose forces have no limit where three of their atoms are in line.
    """
    bonds, angles, torsions, stiff = set(), [], [], []
    for residue, names in zip(topology.residues(), index, strict=True):
        base = [names[name] for name in BASES[residue.name]]
        c5, c4, c3, c1 = sugar = [names[name] for name in SUGAR[1:]]
        bonds |= {*combinations(sugar, 2), *combinations((c1, *base), 2), *((k, base[0]) for k in (c5, c4, c3))}
        angles += [(c4, c1, base[0]), (c3, c1, base[0]), (c1, *base[:2]), tuple(base[:3]), (c5, c4, c3)]
        stiff += [(c5, c4, c3, c1), (c4, c3, c1, base[0]), (c1, *base[:3]), tuple(base)]
        torsions.append((c4, c1, *base[:2]))
        if "P" in names:
            bonds.add((names["P"], c5))
            angles.append((names["P"], c5, c4))
            torsions.append((names["P"], c5, c4, c3))
    for this, after in zip(index, index[1:], strict=False):
        phosphorus, c5 = after["P"], after["C5'"]
        bonds |= {(this[name], phosphorus) for name in SUGAR[1:]}
        angles += [(this["C4'"], this["C3'"], phosphorus), (this["C3'"], phosphorus, c5)]
        torsions += [(this["C4'"], this["C3'"], phosphorus, c5), (this["C3'"], phosphorus, c5, after["C4'"])]
    return sorted(bonds), angles, torsions, stiff
