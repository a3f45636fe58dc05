"""What a structure lacks: heavy atoms and residues by PDBFixer, hydrogens, solvent and ions by OpenMM."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.settings.system import PrepareSettings, SolventSettings
from latf_sampling.systems.structure import Structure


def complete(file: Path, settings: PrepareSettings, seed: int) -> Structure:
    """A structure with the residues and heavy atoms that its file lacks, and hydrogens for a pH.

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
        fixer = PDBFixer(filename=str(file))
        fixer.findMissingResidues()
        fixer.missingResidues = _to_build(fixer, settings.missing_residues)
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=seed % 2**31)
    except Exception as error:  # of another package: any type
        words = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"system.prepare: PDBFixer cannot complete {file} ({words}).") from error
    modeller = app.Modeller(fixer.topology, fixer.positions)
    return with_hydrogens(modeller, settings.pH, seed)


def _to_build(fixer, which: str | None) -> dict:
    if which is None:
        return {}
    if which == "all":
        return fixer.missingResidues
    lengths = [len(list(chain.residues())) for chain in fixer.topology.chains()]
    return {key: names for key, names in fixer.missingResidues.items() if 0 < key[1] < lengths[key[0]]}


def with_hydrogens(modeller: app.Modeller, ph: float, seed: int) -> Structure:
    """A structure with its hydrogens."""
    with seeded(seed):
        modeller.addHydrogens(pH=ph, platform=openmm.Platform.getPlatform("Reference"))
    return _structure(modeller)


def solvated(structure: Structure, field: app.ForceField, settings: SolventSettings, seed: int) -> Structure:
    """A structure in a box of water with ions.

    Raises
    ------
    SettingsError
        The force field lacks the water, or the molecule does not fit into the box; says so.
    """
    modeller = app.Modeller(structure.topology, structure.positions * unit.nanometer)
    if settings.box is None:
        size = {"padding": settings.padding * unit.nanometer, "boxShape": settings.shape}
    else:
        size = {"boxSize": openmm.Vec3(*settings.box) * unit.nanometer}
    try:
        with seeded(seed):
            modeller.addExtraParticles(field)
            modeller.addSolvent(
                field,
                model=settings.model,
                ionicStrength=settings.ionic_strength * unit.molar,
                positiveIon=settings.positive_ion,
                negativeIon=settings.negative_ion,
                **size,
            )
    except Exception as error:  # OpenMM raises several types where the force field lacks water or ions
        words = " ".join(str(error).split())
        raise SettingsError(
            f"system.prepare.solvent: {words} Does the force field have this water and ions?"
        ) from error
    return _structure(modeller)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """OpenMM's Modeller draws from Python's global random numbers; they are left as they were."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _structure(modeller: app.Modeller) -> Structure:
    positions = np.array(modeller.getPositions().value_in_unit(unit.nanometer), dtype=float)
    return Structure(modeller.getTopology(), positions)
