"""The Go model of chignolin: ten beads at the CA atoms of the hairpin CLN025, attracted by their native contacts.

A structure-based model after Clementi, Nymeyer and Onuchic, doi:10.1006/jmbi.2000.3693, with their ratios of all terms.
It has the shape and the connectivity of the protein, and nothing of its chemistry: its energy scale was chosen for a
melting temperature near 340 K, which is a definition and says nothing about the melting temperature of the peptide.
"""

from __future__ import annotations

import numpy as np
import openmm
from openmm import app

from latf_sampling.systems.structure_based import (
    add_angles,
    add_bonds,
    add_contacts,
    add_repulsion,
    add_torsions,
    angles,
    distances,
    other_pairs,
)

SEQUENCE = ("TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "TYR")
"""Residues of CLN025, Honda et al., doi:10.1021/ja8030533."""
NATIVE = np.array(
    [
        [0.0000, 0.0000, 0.0000], [0.3571, -0.1134, 0.0655], [0.5728, -0.4267, 0.0689], [0.9299, -0.4113, 0.1991],
        [0.9790, -0.7697, 0.0814], [0.9752, -0.6382, -0.2755], [1.0486, -0.2745, -0.1916], [0.7045, -0.1779, -0.3217],
        [0.5703, 0.1586, -0.2057], [0.2355, 0.3158, -0.2946],
    ]
)  # fmt: skip
"""CA atoms (10, 3) of the conformation 'hairpin' of the system chignolin, nm, which has the torsions of the crystal
structure 5AWL."""
CONTACTS = ((0, 7), (0, 8), (0, 9), (1, 7), (1, 8), (1, 9), (2, 6), (2, 7), (2, 8), (3, 7), (3, 8))
"""Residues at least four apart whose heavy atoms come nearer than 0.55 nm in that conformation."""
SEPARATION = 4
"""Residues nearer along the chain have neither contacts nor repulsion."""
EPSILON = 2.9
"""Depth of a contact, kJ/mol; the other terms are multiples of it."""
DIAMETER = 0.4
"""Diameter of the repulsion between residues that are no native contact, nm."""
MASS = 110.0
"""Mean mass of a residue, amu."""


def chignolin_go() -> tuple[openmm.System, app.Topology, np.ndarray]:
    """System, topology and native positions (10, 3) of the Go model of chignolin.

    Bonds have 100 epsilon / A^2 (r - r0)^2, angles 20 epsilon (theta - theta0)^2, torsions epsilon [1 - cos(phi - phi0)
    + (1 - cos 3 (phi - phi0)) / 2], native contacts epsilon [5 (r0/r)^12 - 6 (r0/r)^10], and all other pairs epsilon
    (4 A / r)^12.

    Examples
    --------
    >>> system, topology, positions = chignolin_go()
    >>> system.getNumParticles(), topology.getNumBonds(), positions.shape
    (10, 9, (10, 3))
    """
    count = len(NATIVE)
    system, topology = openmm.System(), app.Topology()
    chain = topology.addChain()
    for name in SEQUENCE:
        system.addParticle(MASS)
        topology.addAtom("CA", app.element.carbon, topology.addResidue(name, chain))
    atoms = list(topology.atoms())
    for first, second in zip(atoms, atoms[1:], strict=False):
        topology.addBond(first, second)
    chains = [[range(i, i + length) for i in range(count - length + 1)] for length in (2, 3, 4)]
    add_bonds(system, NATIVE, chains[0], 2e4 * EPSILON)
    add_angles(system, NATIVE, chains[1], 40 * EPSILON)
    add_torsions(system, NATIVE, chains[2], EPSILON)
    add_contacts(system, NATIVE, CONTACTS, EPSILON)
    add_repulsion(system, other_pairs(count, CONTACTS, SEPARATION), EPSILON, DIAMETER)
    return system, topology, NATIVE.copy()


def extended() -> np.ndarray:
    """Positions (10, 3) of the chain with native bonds and angles and all torsions at 180 degrees, nm."""
    count = len(NATIVE)
    lengths = distances(NATIVE, [(i, i + 1) for i in range(count - 1)])
    bends = np.pi - angles(NATIVE, [(i, i + 1, i + 2) for i in range(count - 2)])
    directions = np.concatenate([[0.0], np.cumsum(bends * (-1.0) ** np.arange(count - 2))])
    positions = np.zeros((count, 3))
    positions[1:, 0] = np.cumsum(lengths * np.cos(directions))
    positions[1:, 1] = np.cumsum(lengths * np.sin(directions))
    return positions
