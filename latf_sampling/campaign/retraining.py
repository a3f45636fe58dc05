"""Whether a model is trained after a round, or that of the round before is kept.

To add a criterion, write a function that looks at the frames since the last training, enter it in `CRITERIA`, and its
name in `latf_sampling.settings.training.LearningSettings.retrain`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from latf_sampling.core.words import percent, plural
from latf_sampling.data.trajectories import Frames
from latf_sampling.records.records import Records
from latf_sampling.records.trapped import latent
from latf_sampling.settings import Protocol

if TYPE_CHECKING:
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.learning.model import LaTF

NEW_SHARE = 0.2
"""With "more_data", new frames are enough when they are at least so many of those that the model was trained on."""
OUTSIDE, OUTSIDE_SHARE = 30.0, 0.01
"""With "new_regions", new frames with a free energy of more than so many kT are outside; more than this share of them
is too much. 30 kT is also the default of the trust region."""
SURPRISE = 0.5
"""With "density", the mean of -ln p of new frames may differ by so many nats from that of the flow's own samples."""
SAMPLES = 20_000
"""Samples of the flow for this mean."""


@dataclass(frozen=True)
class NewFrames:
    """The frames since the last training, and the model that it gave.

    Attributes
    ----------
    records : Records
    index : int
        The round after which the question is asked.
    trained : int
        The round after which the model was trained.
    """

    records: Records
    index: int
    trained: int

    @cached_property
    def learned(self) -> tuple[LaTF, LatentCV]:
        return self.records.model(self.index - 1)

    @cached_property
    def walkers(self) -> list[Frames]:
        return self.records.frames(self.index)

    @property
    def new(self) -> list[Frames]:
        """Walkers of the rounds since the training that have frames."""
        return [walker for walker in self.walkers if walker.round_index > self.trained and len(walker)]

    @cached_property
    def points(self) -> list[np.ndarray]:
        """Latent points of the new frames, of each walker (frames, d)."""
        return [latent(self.learned[1], walker).astype(np.float32) for walker in self.new]


Criterion = Callable[[NewFrames], tuple[bool, str]]
"""Whether to train, and the reason: a sentence without a period."""


def always(frames: NewFrames) -> tuple[bool, str]:
    """Train after each round."""
    return True, "a model is trained after each round"


def more_data(frames: NewFrames) -> tuple[bool, str]:
    """Train when there are enough new frames."""
    new = sum(map(len, frames.new))
    old = sum(len(walker) for walker in frames.walkers if walker.round_index <= frames.trained)
    number = f"{plural(new, 'frame')} are new, {100 * new / old:.0f} % of the {old:,} that the model was trained on"
    return new >= NEW_SHARE * old, f"{number}, where {100 * NEW_SHARE:.0f} % are enough"


def new_regions(frames: NewFrames) -> tuple[bool, str]:
    """Train when walkers left the region where the model had training data."""
    from latf_sampling.bias.trust_region import TrustRegion  # with torch

    temperatures = {walker.temperature for walker in frames.new}
    regions = {kelvin: TrustRegion(frames.learned[0], kelvin, OUTSIDE) for kelvin in temperatures}
    heights = [regions[walker.temperature].height(points) for walker, points in zip(frames.new, frames.points)]
    outside, total = sum(int((height > OUTSIDE).sum()) for height in heights), sum(map(len, heights))
    share = outside / max(1, total)
    return share > OUTSIDE_SHARE, (
        f"{percent(share)} % of the {total:,} new frames have a free energy of more than {OUTSIDE:g} kT, where "
        f"{100 * OUTSIDE_SHARE:g} % are allowed"
    )


def density(frames: NewFrames) -> tuple[bool, str]:
    """Train when the density of the new frames is not the flow's, at one of their temperatures."""
    model, worst, where = frames.learned[0], 0.0, frames.new[0].temperature if frames.new else 0.0
    for temperature in sorted({walker.temperature for walker in frames.new}):
        parts = [
            (np.asarray(model.log_prob(points, temperature)), walker.weights)
            for walker, points in zip(frames.new, frames.points)
            if walker.temperature == temperature
        ]
        logs, weights = (np.concatenate(arrays) for arrays in zip(*parts))
        expected = np.mean(np.asarray(model.log_prob(_samples(model, temperature), temperature)))
        difference = float(expected - np.average(logs, weights=weights))
        if abs(difference) > abs(worst):
            worst, where = difference, temperature
    return abs(worst) > SURPRISE, (
        f"the mean of -ln p of the new frames at {where:g} K differs by {worst:.2g} from that of the flow's samples, "
        f"where {SURPRISE:g} is allowed"
    )


CRITERIA: dict[str, Criterion] = {
    "always": always,
    "more_data": more_data,
    "new_regions": new_regions,
    "density": density,
}
"""Criteria by name."""


def decide(records: Records, index: int) -> tuple[bool, str]:
    """Whether to train a model after a round, and why.

    The first model is trained in any case, and so is one that is learned in another way than that of the round before.
    """
    name = records.protocol.learning.retrain
    if name == "always":
        return always(NewFrames(records, index, index - 1))
    if index == 0:
        return True, "there is no earlier model"
    before = records.directory.round(index - 1).learning.manifest().content
    if before.get("settings") != settings_digest(records.protocol):
        return True, "the model of the round before was learned in another way"
    return CRITERIA[name](NewFrames(records, index, before["trained"]))


def settings_digest(protocol: Protocol) -> str:
    """SHA-256 of all settings that a model depends on, of which a later version may have more, with defaults."""
    options = {"mode": "json", "exclude_defaults": True}
    kept = {
        "features": json.loads(protocol.canonical())["features"],
        "model": protocol.model.model_dump(**options),
        "learning": protocol.learning.model_dump(**options, exclude={"retrain"}),
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _samples(model: LaTF, temperature: float) -> np.ndarray:
    return np.asarray(model.sample(SAMPLES, temperature, seed=0))
