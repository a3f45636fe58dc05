"""The variable of a biased round that the protocol names: a module that was trained elsewhere."""

from __future__ import annotations

import numpy as np

from latf_sampling.campaign import structures
from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core.manifest import Manifest
from latf_sampling.errors import CVError, SettingsError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.records.setup import Setup
from latf_sampling.settings import RoundSettings
from latf_sampling.systems.molecule import box_vectors

MOST_FRAMES = 2000
"""Frames of each walker that bounds, hill widths and forces are taken from."""


def check_variables(setup: Setup) -> None:
    """Refuse modules that do not take the protocol's descriptors, before anything is simulated.

    Raises
    ------
    SettingsError
        Names the key.
    """
    for number, entry in enumerate(setup.protocol.rounds):
        if entry.bias is None or entry.bias.variable is None:
            continue
        from latf_sampling.cv.external_module import ExternalModule  # with torch

        molecule = setup.molecule
        box = box_vectors(molecule.system.getDefaultPeriodicBoxVectors()) if setup.periodic else None
        x = setup.features(np.asarray(molecule.positions)[None], box)
        try:
            ExternalModule(entry.bias.variable, setup.features)(x)
        except CVError as error:
            raise SettingsError(f"rounds[{number}].bias.variable: {error}") from error


def export_variable(records: Records, progress: StepProgress, index: int, force_limit: float | None) -> None:
    """Write the variable of a round, with bounds and widths from the frames of all rounds before, if it is missing.

    Raises
    ------
    SettingsError
        The module cannot be biased; names the key.
    StoreError
        The file of the variable was changed.
    """
    from latf_sampling.cv.latent_cv import FORCE_LIMIT, LatentCV  # with torch

    limit = FORCE_LIMIT if force_limit is None else force_limit
    settings, files = records.protocol.runs[index], records.directory.round(index).variable
    assert isinstance(settings, RoundSettings) and settings.bias is not None and settings.bias.variable is not None
    if files.marker.exists():
        try:
            files.manifest().verified()
        except StoreError as error:
            raise StoreError(f"{error} Restore it, or delete {files.path.parent} and all later rounds.") from error
        return
    positions, boxes = structures.some_frames(records.frames(index - 1), MOST_FRAMES)
    try:
        cv = LatentCV.from_torchscript(settings.bias.variable, records.features, positions, boxes, limit)
    except CVError as error:
        number = index - (len(records.protocol.all_rounds) - len(records.protocol.rounds))
        raise SettingsError(f"rounds[{number}].bias.variable: {error}") from error
    cv.save(files.cv)
    Manifest.write(files.marker, {"variable": cv.fingerprint(), "frames": len(positions)}, [files.cv])
