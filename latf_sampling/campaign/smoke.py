"""A smoke test of a protocol: the same campaign, made as small as it can be, from end to end in a temporary folder.

It shows whether everything that the protocol asks for works together on this machine: system, integrator, descriptors,
biases, restarts, observed variable, evaluation, structures and report. It shows nothing about the molecule: a few
picoseconds hold no slow transition, so that the two "states" that the model learns are the first and the second half of
each trajectory.
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.progress import Progress, nowhere
from latf_sampling.core import storage, streams
from latf_sampling.core.words import duration, plural
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import SimulationError
from latf_sampling.records.records import Records
from latf_sampling.settings import ExecutorSettings, Protocol, RoundSettings

if TYPE_CHECKING:
    from latf_sampling.data.dataset import Series
    from latf_sampling.features import Features

STEPS = 10
"""Time steps from frame to frame at least."""
FRAMES = 16
"""Frames of a segment."""
SEGMENTS = 2
"""Segments of a walker, so that it also goes on from a file."""
WALKERS = 2
"""Walkers of a round at most."""
STRUCTURES = 2
"""Generated structures at most."""
THERMALIZATION, RELEASE = 60, 5
"""Steps for a structure at most."""
TEMPERATURES = 2
"""Temperatures of an evaluation at most."""
TRAINING = {
    "refinements": 3,
    "refinement_epochs": 10,
    "joint_epochs": 2,
    "flow_epochs": 5,
    "patience": 1,
    "ensemble": 2,
    "ensemble_epochs": 1,
}
"""Most that is trained."""
EXCHANGE = 4
"""Frames between attempts to exchange configurations."""
SAMPLES = 2000
"""Generated samples that an evaluation compares at each temperature."""


@dataclass
class SmokeTest:
    """What a smoke test did.

    Attributes
    ----------
    steps : dict
        Seconds of each step, in their order.
    remarks : list of str
        What had to be done in another way than in the campaign, a sentence each.
    seconds : float
        In all.
    """

    steps: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self, protocol: Protocol) -> str:
        """What was done, for people."""
        small = smoke_protocol(protocol)
        walkers = sum(len(entry.walkers) for entry in small.runs if isinstance(entry, RoundSettings))
        done = (
            f"Smoke test of '{protocol.name}': {plural(len(small.runs), 'round')} with {plural(walkers, 'walker')} of "
            f"{plural(SEGMENTS * FRAMES, 'frame')} each, every step from end to end, in {duration(self.seconds)}. It "
            "tells that everything works together, and nothing about the molecule or how long the campaign will take."
        )
        steps = [f"  {step}: {seconds:.1f} s" for step, seconds in self.steps.items()]
        return "\n".join([done, *steps, *self.remarks])


def smoke_test(protocol: Protocol, progress: Progress = nowhere, executor: Executor | None = None) -> SmokeTest:
    """Run a protocol made small, in a temporary folder that is removed in the end.

    Parameters
    ----------
    protocol
        The protocol; external trajectories that it names are read from end to end.
    progress
        Is told of the steps.
    executor
        Where tasks run, with the disk of the temporary folder; `None` takes processes of this machine, whatever the
        protocol says.

    Raises
    ------
    LatfError
        What does not work, as the campaign would raise it.
    """
    test, began = SmokeTest(), time.perf_counter()
    starts: dict[str, float] = {}

    def timed(step: str, fraction: float, words: str) -> None:
        starts.setdefault(step, time.perf_counter())
        if fraction >= 1:
            test.steps[step] = time.perf_counter() - starts[step]
        progress(step, fraction, "" if folder in words else words)  # a path in it is gone in the end

    with tempfile.TemporaryDirectory(prefix="latf-smoke-") as folder:
        campaign = _SmokeCampaign(smoke_protocol(protocol), Path(folder) / "run", test)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of too few frames, which is meant to be
            campaign.run(timed, executor)
    test.seconds = time.perf_counter() - began
    return test


def smoke_protocol(protocol: Protocol) -> Protocol:
    """A protocol with everything that a campaign has, and as little of it as possible.

    Raises
    ------
    SettingsError
        A key fits the protocol and not one that is so small; names it.
    """
    step, rounds = protocol.integrator.timestep, protocol.rounds
    stride = math.lcm(*(entry.bias.stride for entry in rounds if entry.bias is not None), 1)
    frame = step * stride * -(-STEPS // stride)
    segment, length = FRAMES * frame, SEGMENTS * FRAMES * frame
    barostat = protocol.system.barostat
    changes: dict[str, Any] = {
        "executor": ExecutorSettings(),  # whose workers share the temporary folder
        "frame_interval": frame,
        "segment": segment,
        "learning": _training(protocol, frame),
        "rounds": tuple(_round(entry, frame, length) for entry in rounds),
    }
    if barostat is not None:
        interval = min(barostat.interval, STEPS)
        changes["system"] = protocol.system.model_copy(
            update={"barostat": barostat.model_copy(update={"interval": interval})}
        )
    if protocol.equilibrate is not None:
        brief = {"heating": segment, "release": segment, "length": segment}
        changes["equilibrate"] = protocol.equilibrate.model_copy(update=brief)
    if protocol.evaluate is not None:
        temperatures = protocol.evaluate.temperatures[:TEMPERATURES]
        changes["evaluate"] = protocol.evaluate.model_copy(update={"temperatures": temperatures, "length": length})
    if protocol.starts is not None:
        settings = protocol.starts
        changes["starts"] = settings.model_copy(
            update={
                "count": min(settings.count, STRUCTURES),
                "thermalise": min(settings.thermalise, THERMALIZATION * step),
                "release": min(settings.release, RELEASE * step),
            }
        )
    return Protocol(**{**dict(protocol), **changes})


def _training(protocol: Protocol, frame: float) -> Any:
    learning = protocol.learning
    smaller = {key: min(getattr(learning, key), most) for key, most in TRAINING.items()}
    return learning.model_copy(update={**smaller, "lag": frame, "restarts": 1})


def _round(settings: RoundSettings, frame: float, length: float) -> RoundSettings:
    """A round with a walker at each of a few of its temperatures, and a second one where there are several."""
    temperatures = list(dict.fromkeys(settings.walkers))[:WALKERS]
    walkers = (*temperatures, *settings.walkers[: min(WALKERS, len(settings.walkers)) - len(temperatures)])
    changes: dict[str, Any] = {"walkers": walkers, "length": length}
    if settings.bias is not None:
        changes["bias"] = settings.bias.model_copy(update={"interval": frame})
    if settings.exchange is not None:
        changes["exchange"] = settings.exchange.model_copy(update={"interval": EXCHANGE * frame})
    return settings.model_copy(update=changes)


class _SmokeCampaign(Campaign):
    """A campaign that learns whatever it simulates, and starts somewhere."""

    force_limit = math.inf  # the range over a few picoseconds is a fraction of that over the campaign's frames
    samples = SAMPLES

    def __init__(self, protocol: Protocol, directory: Path, test: SmokeTest) -> None:
        super().__init__(protocol, directory)
        self.records = _SmokeRecords(protocol, self.directory)
        self.test = test

    def _restart(self, index: int, settings: RoundSettings, executor: Executor, progress: Progress) -> None:
        try:
            super()._restart(index, settings, executor, progress)
        except SimulationError as error:
            sets = self.directory.round(index)
            for first in sets.start_sets():
                if sets.start_set(first).exists():
                    storage.remove_folder(sets.start_set(first))
            self.test.remarks.append(
                f"Round {index} started from archived frames, since structures of a model of so few frames failed: "
                f"{error}"
            )
            seed = streams.stream_seed(self.protocol.seed, "smoke", index)
            name = f"round {index}: starts"
            self._make_starts("archive", index, 0, seed, executor, lambda f, words: progress(name, f, words))


class _SmokeRecords(Records):
    """Records whose frames are labeled: the first and the second half of each trajectory are a state."""

    def training_series(self, walkers: Sequence[Frames], features: Features | None = None) -> list[Series]:
        series = super().training_series(walkers, features)
        for entry in series:
            entry.labels = (2 * np.arange(len(entry)) // len(entry)).astype(np.int64)
        return series
