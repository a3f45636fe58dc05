"""A dimer with two stable lengths in a dense fluid of repulsive particles, whose solvent hides it from the energy.

After Straub, Borkovec and Berne, J. Chem. Phys. 89, 4833 (1988), and Dellago, Bolhuis and Chandler, J. Chem. Phys. 110,
6617 (1999). The fluid is that of Weeks, Chandler and Andersen (WCA): the Lennard-Jones potential up to its minimum,
lifted to zero there. Energies of the fluid at two temperatures that differ by a factor of two hardly overlap.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import openmm
from openmm import app

SIDE = 5
"""Particles along each edge of the lattice that a simulation starts from; two neighbors are the dimer."""
SIGMA, EPSILON, MASS = 0.34, 1.0, 39.948
"""Those of argon: nm, kJ/mol, amu."""
DENSITY = 0.75
"""Particles in sigma^3."""
COMPACT, EXTENDED = 2 ** (1 / 6) * SIGMA, 1.5 * 2 ** (1 / 6) * SIGMA
"""Lengths of the dimer at which its energy is least, nm; the barrier is in the middle."""
BARRIER = 3.0
"""Height of the barrier seen from the compact dimer, kJ/mol, without the tilt."""
TILT = 2.0
"""Energy of the extended less that of the compact dimer, kJ/mol."""


def wca_dimer() -> tuple[openmm.System, app.Topology, np.ndarray]:
    """System, topology and positions (125, 3), nm, of a dimer in 123 particles in a cubic box.

    The bond's energy is barrier (x^2 - 1)^2 + tilt (x + 1) / 2, with x = -1 where the dimer is compact and x = 1 where
    it is extended; all other pairs repel each other.

    Examples
    --------
    >>> system, topology, positions = wca_dimer()
    >>> system.getNumParticles(), round(float(np.linalg.norm(positions[1] - positions[0])), 2)
    (125, 0.37)
    """
    count = SIDE**3
    edge = (count / DENSITY) ** (1 / 3) * SIGMA
    positions = np.array(list(product(range(SIDE), repeat=3))) * edge / SIDE
    system, topology = openmm.System(), app.Topology()
    box = edge * np.eye(3)
    system.setDefaultPeriodicBoxVectors(*box)
    topology.setPeriodicBoxVectors(box)
    chain = topology.addChain()
    dimer = topology.addResidue("DIM", chain)
    atoms = [topology.addAtom(f"A{k}", app.element.argon, dimer) for k in (1, 2)]
    topology.addBond(*atoms)
    for _ in range(count - 2):
        topology.addAtom("AR", app.element.argon, topology.addResidue("AR", chain))
    fluid = openmm.CustomNonbondedForce(f"{EPSILON}*(4*s*(s - 1) + 1); s=({SIGMA}/r)^6")
    fluid.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    fluid.setCutoffDistance(2 ** (1 / 6) * SIGMA)  # where energy and force are zero
    for _ in range(count):
        system.addParticle(MASS)
        fluid.addParticle([])
    fluid.addExclusion(0, 1)
    system.addForce(fluid)
    middle, half = 0.5 * (COMPACT + EXTENDED), 0.5 * (EXTENDED - COMPACT)
    bond = openmm.CustomBondForce(f"{BARRIER}*(x^2 - 1)^2 + {0.5 * TILT}*(x + 1); x=(r - {middle})/{half}")
    bond.setUsesPeriodicBoundaryConditions(True)
    bond.addBond(0, 1, [])
    system.addForce(bond)
    return system, topology, positions
