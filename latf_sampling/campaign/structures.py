"""New structures from the models and frames of a campaign, with the options of its protocol as defaults."""

from __future__ import annotations

from collections.abc import Sequence

import mdtraj
import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import app

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.trajectories import Frames
from latf_sampling.learning.model import LaTF
from latf_sampling.records.records import Records
from latf_sampling.starts import Starts, generate_starts, structures_at, structures_between
from latf_sampling.units import TemperatureLike

Source = tuple[LatentCV, list[Frames], openmm.System, app.Topology]
"""What all functions that make structures take: variable, archive, system and topology."""


def generate(records: Records, temperature: TemperatureLike, n: int, learned: int | None, **options) -> Starts:
    """Structures at a temperature, as `latf_sampling.generate_starts` makes them."""
    model, source, options = _defaults(records, learned, options)
    if records.protocol.starts is not None:
        options = {"release": records.protocol.starts.release, **options}
    return generate_starts(model, *source, temperature, n, **options)


def at(records: Records, temperature: TemperatureLike, points: ArrayLike, learned: int | None, **options) -> Starts:
    """Structures at points (n, d), as `latf_sampling.structures_at` makes them."""
    _, source, options = _defaults(records, learned, options)
    return structures_at(*source, temperature, points, **options)


def between(
    records: Records, temperature: TemperatureLike, ends: Sequence, n: int, learned: int | None, **options
) -> Starts:
    """A path of structures, as `latf_sampling.structures_between` makes it."""
    model, source, options = _defaults(records, learned, options)
    return structures_between(model, *source, temperature, ends, n, **options)


def some_frames(walkers: Sequence[Frames], most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and boxes of about so many frames of each walker, evenly spread in time."""
    parts: list[mdtraj.Trajectory] = [walker.take(slice(None, None, max(1, len(walker) // most))) for walker in walkers]
    positions = np.concatenate([np.asarray(part.xyz) for part in parts])
    if parts[0].unitcell_vectors is None:
        return positions, None
    return positions, np.concatenate([np.asarray(part.unitcell_vectors) for part in parts])


def _defaults(records: Records, learned: int | None, options: dict) -> tuple[LaTF, Source, dict]:
    """A model, what structures are made from, and options, which take precedence over those of the protocol."""
    learned = records.last_learned() if learned is None else learned
    model, cv = records.model(learned)
    protocol = records.protocol
    defaults = {
        "timestep": protocol.integrator.timestep,
        "friction": protocol.integrator.friction,
        "platform": protocol.system.platform,
        "devices": protocol.devices.use,
        "processes": None,
    }
    if protocol.starts is not None:
        defaults |= protocol.starts.model_dump(exclude={"temperature", "count", "release"})
    source = (cv, records.frames(learned), records.molecule.system, records.molecule.topology)
    return model, source, {**defaults, **options}
