"""Checks of a structure before its first step: its box, its bonds, overlapping atoms, its energy."""

from __future__ import annotations

import warnings

import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.errors import SettingsError
from latf_sampling.systems.molecule import Conformation, Molecule, bond_terms, box_vectors, residue_label
from latf_sampling.systems.neighbors import close_pairs
from latf_sampling.systems.scale import scale_words
from latf_sampling.units import to_float

CLOSEST, CLOSEST_HYDROGENS = 0.09, 0.05
"""Atoms without a bond overlap where they are closer than this, nm. The shortest hydrogen bonds have 0.15 nm; programs
that fill a box with water leave hydrogens of two molecules 0.08 nm apart, which a minimization parts."""
LONGEST = 2.0
"""A bond may be this many times longer than its equilibrium length."""
LONGEST_CONSTRAINT = 1.5
"""As `LONGEST` where the length is fixed: with oxygen and hydrogen of water exchanged one has 1.58 of its length."""
AMINO_ACIDS = frozenset("""
    ALA ARG ASH ASN ASP CYM CYS CYX GLH GLN GLU HID HIE HIP HIS ILE LEU LYN LYS MET PHE PRO SER THR TRP TYR VAL
""".split())  # fmt: skip # noqa: SIM905
"""Names of amino acids that have the form L, with the names of Amber for states of protonation."""
LIGHTEST = 2.0
"""Mass that a heavy atom must keep, amu; that of a methyl group has 3 where its hydrogens have 4."""
MARGIN = 0.95
"""Fraction of half the box that a cutoff may have where a barostat changes the volume."""


def check_box(molecule: Molecule, changes: bool, key: str) -> None:
    """Refuse a cutoff of more than half of the box, within which an atom would interact with two images of another.

    Parameters
    ----------
    molecule
        The molecule; one without periodic boundaries passes.
    changes
        Whether a barostat changes the volume.
    key
        The key at fault in a protocol.
    """
    if not molecule.system.usesPeriodicBoundaryConditions():
        return
    box = box_vectors(molecule.system.getDefaultPeriodicBoxVectors())
    cutoffs = [
        to_float(force.getCutoffDistance(), "length")
        for force in molecule.system.getForces()
        if isinstance(force, openmm.NonbondedForce | openmm.CustomNonbondedForce)
        and force.usesPeriodicBoundaryConditions()
    ]
    width = box.diagonal().min()
    longest = 0.5 * width * (MARGIN if changes else 1)
    if cutoffs and max(cutoffs) > longest:
        margin = f", and {MARGIN:g} of that where a barostat changes it" if changes else ""
        raise SettingsError(
            f"{key}: {max(cutoffs):g} nm is too long for a box whose least width is {width:.3g} nm; it may be at most "
            f"half of it{margin}: {longest:.3g} nm."
        )


def check_masses(molecule: Molecule, hydrogen_mass: float) -> None:
    """Refuse heavy atoms that are left with next to no mass by what their hydrogens take from them.

    Parameters
    ----------
    molecule
        The molecule with its final masses.
    hydrogen_mass
        What hydrogens have, amu, for the message.

    Raises
    ------
    SettingsError
        A heavy atom is lighter than `LIGHTEST`; names it.
    """
    for atom in molecule.topology.atoms():
        mass = to_float(molecule.system.getParticleMass(atom.index), "mass")
        if atom.element is not None and atom.element.symbol not in ("H", "D") and mass < LIGHTEST:
            raise SettingsError(
                f"system.hydrogen_mass: {hydrogen_mass:g} amu leaves {mass:.2g} amu for {atom.name} of "
                f"{residue_label(atom.residue)}, which its hydrogens take their mass from; give a smaller one, 3 amu "
                "is usual."
            )


def d_amino_acids(topology: app.Topology, positions: np.ndarray) -> tuple[list[app.topology.Residue], int]:
    """Amino acids that have the form D although their names are those of the form L, and the number of all that have
    either."""
    wrong, count = [], 0
    for residue in topology.residues():
        places = {atom.name: positions[atom.index] for atom in residue.atoms()}
        if residue.name in AMINO_ACIDS and {"N", "CA", "C", "CB"} <= places.keys():
            a, b, c = (places[name] - places["CA"] for name in ("N", "C", "CB"))
            count += 1
            if np.dot(np.cross(a, b), c) < 0:
                wrong.append(residue)
    return wrong, count


def warn_of_mirrored(molecule: Molecule, key: str) -> None:
    """Warn of amino acids of the usual names that have the other handedness, which no force field notices."""
    wrong, count = d_amino_acids(molecule.topology, molecule.positions)
    if wrong and len(wrong) == count:
        warnings.warn(f"{key}: all amino acids are of the form D; are the coordinates mirrored?", stacklevel=3)
    elif wrong:
        labels = ", ".join(map(residue_label, wrong[:3]))
        verb = "is" if len(wrong) == 1 else "are"
        warnings.warn(f"{key}: {labels} {verb} of the form D; is that intended?", stacklevel=3)


def check_handedness(molecule: Molecule, start: Conformation, key: str) -> None:
    """Refuse a conformation whose stereocenters are not those of the molecule.

    Raises
    ------
    SettingsError
        Names the first one that differs.
    """
    from latf_sampling.features import as_mdtraj
    from latf_sampling.systems.geometry import distinct_stereocenters, handedness

    centers = distinct_stereocenters(as_mdtraj(molecule.topology))
    differ = handedness(start.positions, centers) != handedness(molecule.positions, centers)
    if differ.any():
        atom = list(molecule.topology.atoms())[centers[int(differ.argmax()), 0]]
        raise SettingsError(
            f"{key}: {atom.name} of {residue_label(atom.residue)} has the other handedness than in the molecule; are "
            "the coordinates mirrored?"
        )


def check_start(molecule: Molecule, start: Conformation, key: str) -> None:
    """Refuse positions that no simulation can start from.

    Raises
    ------
    SettingsError
        A bond is far too long, two molecules overlap, or the energy is not finite; names the residues.
    """
    system, positions = molecule.system, start.positions
    atoms = list(molecule.topology.atoms())

    def name(index: int) -> str:
        return f"{atoms[index].name} of {residue_label(atoms[index].residue)}"

    bonds = {pair: term for pair, term in bond_terms(system).items() if term[0] > 0}
    if bonds:
        pairs, (rest, stiffness) = np.array(list(bonds)), np.array(list(bonds.values())).T
        length = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
        factors = length / rest
        middle = float(np.median(factors))
        if len(factors) > 1 and abs(np.log(middle)) > np.log(1.5) and np.ptp(factors) < 0.5 * middle:
            raise SettingsError(f"{key}: all bonds are {scale_words(middle)}")
        excess = factors / np.where(np.isinf(stiffness), LONGEST_CONSTRAINT, LONGEST)
        worst = int(np.argmax(excess))
        if excess[worst] > 1:
            first, second = pairs[worst]
            raise SettingsError(
                f"{key}: the bond of {name(first)} and {name(second)} is {length[worst]:.2f} nm long, in equilibrium "
                f"{rest[worst]:.2f} nm; the coordinates are damaged, in another order, or those of another molecule."
            )
    if overlap := _overlap(molecule, start, set(bonds)):
        first, second, distance = overlap
        raise SettingsError(
            f"{key}: {name(first)} and {name(second)} overlap, they are {distance:.3f} nm apart; move one of them."
        )
    energy = _energy(molecule, start)
    if not np.isfinite(energy):
        raise SettingsError(f"{key}: the potential energy of the structure is {energy}; atoms overlap in it.")


def _overlap(molecule: Molecule, start: Conformation, bonded: set[tuple[int, int]]) -> tuple[int, int, float] | None:
    """The closest two atoms without a bond and their distance, if they overlap; virtual sites are ignored."""
    real = np.array([i for i, atom in enumerate(molecule.topology.atoms()) if atom.element is not None], dtype=int)
    bonds = bonded | {tuple(sorted((bond.atom1.index, bond.atom2.index))) for bond in molecule.topology.bonds()}
    near = np.sort(real[close_pairs(start.positions[real], CLOSEST)], axis=1)
    hydrogens = {atom.index for atom in molecule.topology.atoms() if atom.element is app.element.hydrogen}
    overlaps = []
    for first, second in near.tolist():
        distance = float(np.linalg.norm(start.positions[first] - start.positions[second]))
        closest = CLOSEST_HYDROGENS if {first, second} <= hydrogens else CLOSEST
        if (first, second) not in bonds and distance < closest:
            overlaps.append((first, second, distance))
    return min(overlaps, key=lambda overlap: overlap[2], default=None)


def _energy(molecule: Molecule, start: Conformation) -> float:
    small = molecule.system.getNumParticles() < 1000
    platform = openmm.Platform.getPlatform("Reference" if small else "CPU")
    context = openmm.Context(molecule.system, openmm.VerletIntegrator(0.001), platform)
    if start.box is not None:
        context.setPeriodicBoxVectors(*start.box)
    context.setPositions(start.positions)
    try:
        context.computeVirtualSites()
        return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    except openmm.OpenMMException:  # raised for a coordinate that is not a number
        return float("nan")
