"""What a round consists of: its walkers or external trajectories, and the model that was learned after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from latf_sampling.data.exchanges import Exchange
from latf_sampling.data.failures import WalkerFailures
from latf_sampling.settings import ExternalRound, RoundSettings

if TYPE_CHECKING:
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.trajectories import Frames
    from latf_sampling.learning.model import LaTF


@dataclass(frozen=True)
class Walker:
    """The finished segments of a walker, or an external trajectory.

    Attributes
    ----------
    frames : Frames
    seconds : float or None
        Wall time of its process, without what was lost to interruptions; `None` for an external trajectory.
    interval : float
        Time between frames, ps.
    values : dict
        The observed variable and its partner, by name; (frames,) each, radians for torsions.
    backends : dict
        The backends that evaluated the bias, with the reason for each as far as it was recorded; empty without a bias
        and where no backend was recorded.
    exchanges : list of Exchange
        Replica exchanges that it attempted, in the order of time.
    """

    frames: Frames
    seconds: float | None
    interval: float
    values: dict[str, np.ndarray]
    backends: dict[str, str] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """Its round, and its number there."""
        return self.frames.round_index, self.frames.walker

    @property
    def simulated(self) -> float:
        """Simulated time, ps."""
        return len(self.frames) * self.interval

    @property
    def speed(self) -> str:
        """Simulated time per day of wall time, with its unit; empty where it is not known."""
        return f"{self.simulated / 1000 / self.seconds * 86400:,.0f} ns/day" if self.seconds else ""

    @property
    def time(self) -> np.ndarray:
        """Time of each frame since the round began, ns; (frames,)."""
        return self.interval / 1000 * np.arange(1, len(self.frames) + 1)


@dataclass(frozen=True)
class LearnedModel:
    """The model that was learned after a round, its collective variable, and the history of its training."""

    model: LaTF
    cv: LatentCV
    history: dict


@dataclass(frozen=True)
class Round:
    """A round as far as it has come.

    Attributes
    ----------
    walkers : list
        `None` for those without a finished segment.
    simulated : bool
        Whether nothing is left to simulate.
    failures : dict
        What was rolled back and who was retired, by the numbers of the walkers to whom that happened.
    """

    index: int
    settings: RoundSettings | ExternalRound
    walkers: list[Walker | None]
    simulated: bool
    learned: LearnedModel | None
    failures: dict[int, WalkerFailures] = field(default_factory=dict)

    @property
    def begun(self) -> list[Walker]:
        """The walkers that have frames."""
        return [walker for walker in self.walkers if walker is not None]

    @property
    def biased(self) -> bool:
        return self.settings.bias is not None

    @property
    def finished(self) -> bool:
        return self.simulated and self.learned is not None

    @property
    def external(self) -> bool:
        """Whether it consists of external trajectories."""
        return isinstance(self.settings, ExternalRound)

    @property
    def kind(self) -> str:
        """Kind of its bias, "plain", or "external"."""
        if self.external:
            return "external"
        return "plain" if self.settings.bias is None else self.settings.bias.kind

    @property
    def title(self) -> str:
        """Name of the round with its kind and temperatures."""
        names = {"plain": "plain dynamics", "external": "external trajectories"}
        temperatures = ", ".join(f"{temperature:g} K" for temperature in self.settings.walkers)
        bias = self.settings.bias
        along = "" if bias is None or bias.variable is None else f" along {bias.variable.name}"
        return f"Round {self.index}: {names.get(self.kind, self.kind)}{along}, {temperatures}"
