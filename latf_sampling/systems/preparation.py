"""Completion of structures: heavy atoms and residues by PDBFixer, hydrogens, solvent and ions by OpenMM."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openmm
from openmm import app

from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.settings.system import PrepareSettings, SolventSettings, refuse_too_much_water
from latf_sampling.systems.molecule import positions_array
from latf_sampling.systems.reader_errors import reason
from latf_sampling.systems.structure import Structure
from latf_sampling.systems.structure_text import StructureText
from latf_sampling.units import to_quantity


def complete(source: StructureText, settings: PrepareSettings, seed: int) -> Structure:
    """The structure of a file with the residues and heavy atoms that it lacks, and with hydrogens for a pH.

    Raises
    ------
    InstallationError
        PDBFixer is missing.
    SettingsError
        The file cannot be completed.
    """
    try:
        from pdbfixer import PDBFixer
    except ImportError as error:
        raise InstallationError(
            "system.prepare: needs PDBFixer; install it with pip install 'latf_sampling[prepare]'."
        ) from error
    try:
        text = io.StringIO(source.text)
        fixer = PDBFixer(pdbxfile=text) if source.is_mmcif else PDBFixer(pdbfile=text)
        fixer.findMissingResidues()
        fixer.missingResidues = _to_build(fixer, settings.missing_residues)
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=seed % 2**31)
    except Exception as error:  # of many types
        raise SettingsError(f"system.prepare: PDBFixer cannot complete {source.file} ({reason(error)}).") from error
    modeller = app.Modeller(fixer.topology, fixer.positions)
    return with_hydrogens(modeller, settings.pH, seed)


def _to_build(fixer, which: str | None) -> dict:
    """The missing residues that are built: none, those inside chains, or all."""
    if which is None:
        return {}
    if which == "all":
        return fixer.missingResidues
    lengths = [len(list(chain.residues())) for chain in fixer.topology.chains()]
    return {key: names for key, names in fixer.missingResidues.items() if 0 < key[1] < lengths[key[0]]}


def with_hydrogens(modeller: app.Modeller, ph: float, seed: int) -> Structure:
    """A structure with hydrogens for a pH."""
    with seeded(seed):
        modeller.addHydrogens(pH=ph, platform=openmm.Platform.getPlatform("Reference"))
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
