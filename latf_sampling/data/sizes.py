"""How much a campaign will write, from numbers of atoms and frames: estimates, somewhat more than what is written."""

from __future__ import annotations

from latf_sampling.core.space import Size
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.settings import Protocol, RoundSettings, n_steps

BLOCK = 4096
"""Bytes that each file takes beyond its content, at most, on usual file systems."""
STATE = 185
"""Bytes of an atom in a state of OpenMM, XML: position and velocity to the last digit."""
HILL = 130
"""Bytes of a hill or kernel, text."""
DENSITY = 40_000_000
"""Bytes of the density of OPES on a grid of three components, of which most has been visited, for each walker."""
MODEL = 1_500_000
"""Bytes of a model with its variable, and of the state of its training."""
PAGE = 1_500_000
"""Bytes of a report or an evaluation."""


def segment_size(protocol: Protocol, index: int, atoms: int, periodic: bool) -> Size:
    """Of one segment of one walker of a round: trajectory, numbers of each frame, state, manifest, and its hills."""
    frames, settings = n_steps(protocol.segment, protocol.frame_interval), protocol.runs[index]
    hills = 0
    if isinstance(settings, RoundSettings) and settings.bias is not None:
        hills = int(protocol.segment / settings.bias.interval)
    trajectory = frames * (12 * atoms + (76 if periodic else 28))
    return Size(trajectory + STATE * atoms + HILL * hills + 2 * BLOCK + 4 * BLOCK, 4)


def bias_size(protocol: Protocol, index: int) -> Size:
    """Of the files of a round's bias that stay as large as they are, those of a density that is estimated."""
    settings, dimensions = protocol.runs[index], protocol.model.latent_dim
    if not isinstance(settings, RoundSettings) or settings.bias is None or settings.bias.kind != "opes":
        return Size(0, 0)
    # As long as no model is learned, the number of components is not known where none is asked for.
    walkers = len(settings.walkers)
    return Size(walkers * (DENSITY if dimensions in (None, 3) else 0), walkers)


def starts_size(count: int, atoms: int) -> Size:
    """Of a set of structures, and of the targets while it is made."""
    structure = 82 + 48 + STATE + 8 + 112
    return Size(count * (structure * atoms + 5 * BLOCK) + 8 * BLOCK, 4 * count + 8)


LEARNING = Size(MODEL, 6)
"""Of the model of a round."""


def missing_size(protocol: Protocol, directory: CampaignDirectory | None, atoms: int, periodic: bool) -> Size:
    """Everything that a campaign will still write.

    Parameters
    ----------
    protocol
        The campaign.
    directory
        Where it is; `None` if it begins.
    atoms
        Number of particles.
    periodic
        Whether frames have a box.
    """
    total = Size(2 * PAGE + 2000 * atoms, 20)
    for index, settings in enumerate(protocol.runs):
        files = None if directory is None else directory.run(protocol, index)
        if isinstance(settings, RoundSettings):
            segments = n_steps(settings.length, protocol.segment)
            done = [0] * len(settings.walkers)
            if files is not None:
                done = [min(segments, files.walker(number).finished()) for number in range(len(done))]
            missing = sum(segments - number for number in done)
            total += missing * segment_size(protocol, index, atoms, periodic)
            total += bias_size(protocol, index) if missing else Size(0, 0)
            if 0 < index < len(protocol.all_rounds) and not any(done):
                total += starts_size(len(settings.walkers), atoms)
        if index < len(protocol.all_rounds) and not (files is not None and files.learning.finished):
            total += LEARNING
    if protocol.starts is not None and not (directory is not None and (directory.starts / "starts.json").exists()):
        total += starts_size(protocol.starts.count, atoms)
    return total
