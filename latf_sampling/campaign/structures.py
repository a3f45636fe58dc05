"""New structures from the models and frames of a campaign, with the options of its protocol as defaults.

Modules that load torch are imported where they are used: the process that runs a campaign leaves structures to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core import streams
from latf_sampling.data.trajectories import Frames
from latf_sampling.records.records import Records
from latf_sampling.units import TemperatureLike

if TYPE_CHECKING:
    import openmm
    from openmm import app

    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.learning.model import LaTF
    from latf_sampling.starts import Starts

    Source = tuple[LatentCV, list[Frames], openmm.System, app.Topology]


def generate(records: Records, temperature: TemperatureLike, n: int, learned: int | None, **options) -> Starts:
    """Structures at a temperature, as `latf_sampling.generate_starts` makes them."""
    from latf_sampling.starts import generate_starts

    model, source, options = _defaults(records, learned, options)
    if records.protocol.starts is not None:
        options = {"release": records.protocol.starts.release, **options}
    return generate_starts(model, *source, temperature, n, **options)


def at(records: Records, temperature: TemperatureLike, points: ArrayLike, learned: int | None, **options) -> Starts:
    """Structures at points (n, d), as `latf_sampling.structures_at` makes them."""
    from latf_sampling.starts import structures_at

    _, source, options = _defaults(records, learned, options)
    return structures_at(*source, temperature, points, **options)


def between(
    records: Records, temperature: TemperatureLike, ends: Sequence, n: int, learned: int | None, **options
) -> Starts:
    """A path of structures, as `latf_sampling.structures_between` makes it."""
    from latf_sampling.starts import structures_between

    model, source, options = _defaults(records, learned, options)
    return structures_between(model, *source, temperature, ends, n, **options)


def some_frames(walkers: Sequence[Frames], most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and boxes of about so many frames of each walker, evenly spread in time."""
    parts: list[mdtraj.Trajectory] = [walker.take(slice(None, None, max(1, len(walker) // most))) for walker in walkers]
    positions = np.concatenate([np.asarray(part.xyz) for part in parts])
    if parts[0].unitcell_vectors is None:
        return positions, None
    return positions, np.concatenate([np.asarray(part.unitcell_vectors) for part in parts])


def final_starts(records: Records, progress: StepProgress, executor: Executor) -> int:
    """The structures that the protocol asks for in the end, into their folder; returns how many are valid."""
    settings = records.protocol.starts
    assert settings is not None
    seed = streams.stream_seed(records.protocol.seed, "starts")
    options = {"seed": seed, "progress": progress, "directory": records.directory.starts, "executor": executor}
    return len(generate(records, settings.temperature, settings.count, None, **options))


def _defaults(records: Records, learned: int | None, options: dict) -> tuple[LaTF, Source, dict[str, Any]]:
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
