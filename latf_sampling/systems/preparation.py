"""Completion of structures: heavy atoms and residues by PDBFixer, hydrogens, solvent and ions by OpenMM."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import MembraneSettings, PrepareSettings, SolventSettings, refuse_too_much_water
from latf_sampling.systems import pdb
from latf_sampling.systems.checks import d_amino_acids
from latf_sampling.systems.contents import is_neutral
from latf_sampling.systems.force_field import add_template_bonds, missing_virtual_sites
from latf_sampling.systems.ligands import Ligand, with_hydrogens_of_ligands
from latf_sampling.systems.molecule import positions_array, residue_label
from latf_sampling.systems.reader_errors import reason
from latf_sampling.systems.replacement import import_pdbfixer, residue_at
from latf_sampling.systems.structure import Structure, bond_hydrogens
from latf_sampling.systems.structure_text import StructureText
from latf_sampling.units import to_quantity

LONGEST_DISULFIDE = 0.3
"""nm; OpenMM makes a bond of sulfurs that are nearer."""
STATES = {"ASP": "ASP", "ASH": "ASP", "GLU": "GLU", "GLH": "GLU", "HID": "HIS", "HIE": "HIS", "HIP": "HIS",
          "LYS": "LYS", "LYN": "LYS"}  # fmt: skip
"""States of protonation, and the residue that each belongs to."""
NEUTRAL = {"ASP": "ASH", "GLU": "GLH", "LYS": "LYN"}
"""Residues that are charged at pH 7, and their neutral states, which force fields may lack at the ends of chains."""


def complete(
    source: StructureText, settings: PrepareSettings, field: app.ForceField, small: list[Ligand], seed: int
) -> Structure:
    """The structure of a file with the residues and heavy atoms that it lacks, with hydrogens for a pH, and with those
    of its ligands, small molecules whose templates the force field has.

    Raises
    ------
    InstallationError
        PDBFixer is missing.
    SettingsError
        The file cannot be completed, or has no residue that the settings name.
    """
    fixer_type = import_pdbfixer().PDBFixer
    try:
        text = io.StringIO(source.text if source.is_mmcif else pdb.with_ions(source).text)
        fixer = fixer_type(pdbxfile=text) if source.is_mmcif else fixer_type(pdbfile=text)
        d_before = {_label(residue) for residue in d_amino_acids(fixer.topology, positions_array(fixer.positions))[0]}
        fixer.findMissingResidues()
        fixer.missingResidues = _to_build(fixer, settings.missing_residues)
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=seed % 2**31)
    except Exception as error:  # of many types
        raise SettingsError(f"system.prepare: PDBFixer cannot complete {source.file} ({reason(error)}).") from error
    positions = positions_array(fixer.positions)
    for residue in d_amino_acids(fixer.topology, positions)[0]:
        if _label(residue) not in d_before and residue.name not in ("ILE", "THR"):  # whose side chains are chiral too
            _reflect_side_chain(residue, positions)
    bond_hydrogens(fixer.topology, positions)
    add_template_bonds(field, fixer.topology, positions)
    fixed = with_hydrogens_of_ligands(without_unknown_sites(Structure(fixer.topology, positions), field), small)
    modeller = app.Modeller(fixed.topology, to_quantity(fixed.positions, "length"))
    modeller = set_disulfides(modeller, settings.disulfides)
    return protonated(modeller, field, settings, seed)


def _reflect_side_chain(residue: app.topology.Residue, positions: np.ndarray) -> None:
    """Turn a residue that PDBFixer has built as D, which happens, into the form L, by reflection at its backbone."""
    places = {atom.name: atom.index for atom in residue.atoms()}
    middle = positions[places["CA"]]
    normal = np.cross(positions[places["N"]] - middle, positions[places["C"]] - middle)
    normal /= np.linalg.norm(normal)
    for name, index in places.items():
        if name not in ("N", "CA", "C", "O", "OXT"):
            positions[index] -= 2 * normal * (normal @ (positions[index] - middle))


def _label(residue: app.topology.Residue) -> str:
    return f"{residue.chain.id} {residue.id}{residue.insertionCode}"


def _to_build(fixer, which: str | None) -> dict:
    """The missing residues that are built: none, those inside chains, or all."""
    if which is None:
        return {}
    if which == "all":
        return fixer.missingResidues
    lengths = [len(list(chain.residues())) for chain in fixer.topology.chains()]
    return {key: names for key, names in fixer.missingResidues.items() if 0 < key[1] < lengths[key[0]]}


def set_disulfides(modeller: app.Modeller, wanted: str | tuple[tuple[str, str], ...]) -> app.Modeller:
    """The same structure with the bonds between sulfurs of `PrepareSettings.disulfides`.

    Raises
    ------
    SettingsError
        A residue of a pair is missing, is no cysteine, or is too far from the other.
    """
    if wanted == "auto":
        return modeller
    key, sulfurs = "system.prepare.disulfides", []
    for pair in () if wanted == "none" else wanted:
        atoms = []
        for place in pair:
            residue = residue_at(modeller.topology, place, key)
            atoms += [atom for atom in residue.atoms() if atom.name == "SG"]
            if not atoms or atoms[-1].residue is not residue:
                raise SettingsError(f"{key}: {residue_label(residue)} is no cysteine with a sulfur.")
        first, second = positions_array([modeller.positions[atom.index] for atom in atoms])
        if (distance := float(np.linalg.norm(first - second))) > LONGEST_DISULFIDE:
            raise SettingsError(
                f"{key}: the sulfurs of {residue_label(atoms[0].residue)} and {residue_label(atoms[1].residue)} are "
                f"{distance:.2f} nm apart; a bond has 0.2 nm."
            )
        sulfurs.append(tuple(sorted(atom.index for atom in atoms)))
    topology = app.Topology()
    topology.setPeriodicBoxVectors(modeller.topology.getPeriodicBoxVectors())
    atoms = []
    for chain in modeller.topology.chains():
        added = topology.addChain(chain.id)
        for residue in chain.residues():
            place = topology.addResidue(residue.name, added, residue.id, residue.insertionCode)
            atoms += [topology.addAtom(atom.name, atom.element, place, atom.id) for atom in residue.atoms()]
    for bond in modeller.topology.bonds():
        if {bond.atom1.name, bond.atom2.name} != {"SG"} or bond.atom1.residue is bond.atom2.residue:
            topology.addBond(atoms[bond.atom1.index], atoms[bond.atom2.index], bond.type, bond.order)
    for first, second in sulfurs:
        topology.addBond(atoms[first], atoms[second])
    return app.Modeller(topology, modeller.positions)


def protonated(modeller: app.Modeller, field: app.ForceField, settings: PrepareSettings, seed: int) -> Structure:
    """A structure with hydrogens: for a pH, and in the states that the settings give.

    The force fields of Amber have no neutral forms of residues at the ends of chains. What a pH would make neutral
    there stays charged, and a warning says so.

    Raises
    ------
    SettingsError
        A residue has no such state, or the force field has none at the end of a chain.
    """
    key = "system.prepare.protonation"
    variants: list[str | None] = [None] * modeller.topology.getNumResidues()
    for place, variant in settings.protonation.items():
        residue = residue_at(modeller.topology, place, key)
        if STATES[variant] != residue.name:
            raise SettingsError(
                f"{key}: {residue_label(residue)} has no state {variant}, which is one of {STATES[variant]}."
            )
        variants[residue.index] = variant
    topology, positions = modeller.topology, modeller.positions
    while True:
        modeller = app.Modeller(topology, positions)
        with seeded(seed):
            platform = openmm.Platform.getPlatform("Reference")
            modeller.addHydrogens(pH=settings.pH, variants=variants, platform=platform)
        retry = False
        for residue in field.getUnmatchedResidues(modeller.topology):
            chosen = variants[residue.index]
            if chosen in NEUTRAL.values():
                raise SettingsError(
                    f"{key}: the force field has no {chosen} where {residue_label(residue)} is; use {STATES[chosen]}."
                )
            if chosen is None and is_neutral(residue):
                variants[residue.index], retry = residue.name, True
                warnings.warn(
                    f"system.prepare.pH: {residue_label(residue)} stays charged, since the force field has no "
                    f"{NEUTRAL[residue.name]} at the end of a chain.",
                    stacklevel=2,
                )
        if not retry:
            return _structure(modeller)


def with_hydrogens(modeller: app.Modeller, ph: float, seed: int) -> Structure:
    """A structure with hydrogens for a pH."""
    with seeded(seed):
        modeller.addHydrogens(pH=ph, platform=openmm.Platform.getPlatform("Reference"))
    return _structure(modeller)


def with_virtual_sites(structure: Structure, field: app.ForceField) -> Structure:
    """A structure with the virtual sites of its residues in a force field, like those of water of four sites; their
    places follow from the other atoms."""
    if not any(count > 0 for count in missing_virtual_sites(field, structure.topology).values()):
        return structure
    modeller = app.Modeller(structure.topology, to_quantity(structure.positions, "length"))
    try:
        modeller.addExtraParticles(field)
    except ValueError:  # a residue fits no template, which `apply_force_field` says in other words
        return structure
    return _structure(modeller)


def without_unknown_sites(structure: Structure, field: app.ForceField) -> Structure:
    """A structure without the virtual sites that its residues have not in a force field, like those of water of four
    sites where the force field has water of three."""
    unknown = [
        atom
        for residue, lacking in missing_virtual_sites(field, structure.topology).items()
        for atom in residue.atoms()
        if lacking < 0 and atom.element is None
    ]
    if not unknown:
        return structure
    modeller = app.Modeller(structure.topology, to_quantity(structure.positions, "length"))
    modeller.delete(unknown)
    return _structure(modeller)


def solvate(structure: Structure, field: app.ForceField, settings: SolventSettings, seed: int) -> Structure:
    """A structure in a box of water with ions.

    Raises
    ------
    SettingsError
        The force field lacks the water, or the molecule does not fit into the box.
    """
    modeller = app.Modeller(structure.topology, to_quantity(structure.positions, "length"))
    try:
        refuse_too_much_water(*settings.size(structure.positions))
    except SettingsError as error:
        raise SettingsError(f"system.prepare.solvent.{error}") from error
    if settings.box is None:
        size: dict[str, Any] = {"padding": to_quantity(settings.padding, "length"), "boxShape": settings.shape}
    else:
        size = {"boxSize": to_quantity(openmm.Vec3(*settings.box), "length")}
    try:
        with seeded(seed):
            modeller.addExtraParticles(field)
            modeller.addSolvent(
                field,
                model=settings.model,
                ionicStrength=to_quantity(settings.ionic_strength, "concentration"),
                positiveIon=settings.positive_ion,
                negativeIon=settings.negative_ion,
                **size,
            )
    except Exception as error:  # OpenMM raises several types where the force field lacks water or ions
        raise SettingsError(
            f"system.prepare.solvent: {reason(error)}. Does the force field have this water and ions?"
        ) from error
    return _structure(modeller)


def embed(structure: Structure, field: app.ForceField, settings: MembraneSettings, seed: int) -> Structure:
    """A structure in a lipid bilayer with water and ions.

    Raises
    ------
    SettingsError
        The force field lacks the lipid, water or ions, or the molecule does not fit into the membrane.
    """
    modeller = app.Modeller(structure.topology, to_quantity(structure.positions, "length"))
    try:
        with seeded(seed):
            modeller.addExtraParticles(field)
            modeller.addMembrane(
                field,
                lipidType=settings.lipid,
                membraneCenterZ=to_quantity(settings.center, "length"),
                minimumPadding=to_quantity(settings.padding, "length"),
                positiveIon=settings.positive_ion,
                negativeIon=settings.negative_ion,
                ionicStrength=to_quantity(settings.ionic_strength, "concentration"),
                platform=openmm.Platform.getPlatform("CPU"),
            )
    except Exception as error:  # OpenMM raises several types where the force field lacks lipids, water or ions
        raise SettingsError(
            f"system.prepare.membrane: {reason(error)}. Does the force field have {settings.lipid}, TIP3P water and "
            "these ions?"
        ) from error
    return _structure(modeller)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's global random numbers, which OpenMM's Modeller draws from, and restore their state afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _structure(modeller: app.Modeller) -> Structure:
    return Structure(modeller.getTopology(), positions_array(modeller.getPositions()))
