"""What a campaign's directory holds so far, read once: walkers, learned models, starts and the reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import mdtraj
import numpy as np

from latf_sampling.core import storage
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data import layout
from latf_sampling.data.external_frames import ExternalFrames
from latf_sampling.data.trajectories import Frames, read_walker
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.records.observables import Observed, Variable
from latf_sampling.settings import ExternalRound, Protocol, RoundSettings, steps

if TYPE_CHECKING:
    from latf_sampling.campaign.campaign import Campaign

PARTNER = {"phi": "psi", "psi": "phi"}
"""The torsion that a map shows next to an observed one."""


@dataclass(frozen=True)
class Walker:
    """A walker's finished segments, or a given trajectory.

    Attributes
    ----------
    frames : Frames
    seconds : float or None
        Wall time of its process, without what was lost to interruptions; not known of a given trajectory.
    interval : float
        Time between frames, ps.
    values : dict
        Observed variable, and its partner, by name; (frames,) each, radians for torsions.
    """

    frames: Frames
    seconds: float | None
    interval: float
    values: dict[str, np.ndarray]

    @property
    def place(self) -> tuple[int, int]:
        """Its round, and its number there."""
        return self.frames.round_index, self.frames.walker

    @property
    def simulated(self) -> float:
        """ps."""
        return len(self.frames) * self.interval

    @property
    def speed(self) -> str:
        """ns of simulated time per day of wall time, in words; empty where it is not known."""
        return "" if self.seconds is None else f"{self.simulated / 1000 / self.seconds * 86400:,.0f} ns/day"

    @property
    def time(self) -> np.ndarray:
        """Time of each frame since the round began, ns; (frames,)."""
        return self.interval / 1000 * np.arange(1, len(self.frames) + 1)


@dataclass(frozen=True)
class Learned:
    """What was learned after a round."""

    model: LaTF
    cv: LatentCV
    history: dict


@dataclass(frozen=True)
class Round:
    """A round as far as it has come; `walkers` has none for those without a finished segment."""

    index: int
    settings: RoundSettings | ExternalRound
    walkers: list[Walker | None]
    simulated: bool
    learned: Learned | None

    @property
    def begun(self) -> list[Walker]:
        return [walker for walker in self.walkers if walker is not None]

    @property
    def biased(self) -> bool:
        return self.settings.bias is not None

    @property
    def finished(self) -> bool:
        return self.simulated and self.learned is not None

    @property
    def given(self) -> bool:
        """Whether it was not simulated, but there before the campaign."""
        return isinstance(self.settings, ExternalRound)

    @property
    def kind(self) -> str:
        """Its dynamics in one word."""
        return self.settings.bias.kind if self.biased else "given" if self.given else "plain"

    @property
    def title(self) -> str:
        kind = {"plain": "plain dynamics", "given": "given trajectories"}.get(self.kind, self.kind)
        temperatures = ", ".join(f"{temperature:g} K" for temperature in self.settings.walkers)
        return f"Round {self.index}: {kind}, {temperatures}"


@dataclass(frozen=True)
class Records:
    """All of a campaign."""

    campaign: Campaign
    rounds: list[Round]
    reference: dict | None

    @classmethod
    def read(cls, campaign: Campaign) -> Records:
        """Read what is finished.

        Raises
        ------
        StoreError, DataError
            A finished file is damaged; names it.
        """
        observe = campaign.protocol.observe
        variables = _variables(campaign)
        rounds = [_round(campaign, index, variables) for index in range(campaign.n_rounds)]
        has_reference = observe is not None and observe.reference is not None
        reference = storage.read_json(observe.reference) if has_reference else None
        return cls(campaign, rounds, reference)

    @property
    def protocol(self) -> Protocol:
        return self.campaign.protocol

    @property
    def observed(self) -> Observed | None:
        """None where there is nothing to observe."""
        return self.campaign.observed

    @property
    def partner(self) -> str | None:
        """Name of the torsion next to the observed one."""
        name = partner(self.observed.name) if self.observed is not None else None
        return name if any(name in walker.values for walker in self.walkers) else None

    @cached_property
    def walkers(self) -> list[Walker]:
        return [walker for entry in self.rounds for walker in entry.begun]

    @property
    def learned(self) -> list[tuple[int, Learned]]:
        return [(entry.index, entry.learned) for entry in self.rounds if entry.learned is not None]

    @property
    def simulated(self) -> float:
        """Simulated time of all walkers, without given trajectories, ps."""
        return sum(walker.simulated for entry in self.rounds if not entry.given for walker in entry.begun)

    def starts(self, folder: Path) -> tuple[dict, mdtraj.Trajectory] | None:
        """The table of generated structures in a folder, and the structures; none where there are not any yet."""
        if not (folder / "starts.json").exists():
            return None
        table = storage.read_json(folder / "starts.json")
        positions = np.empty((table["valid"], self.campaign.topology.n_atoms, 3))
        for index in range(len(positions)):
            with np.load(folder / f"start-{index:03d}.npz") as start:
                positions[index] = start["positions"]
        return table, mdtraj.Trajectory(positions, self.campaign.topology)


def partner(name: str) -> str | None:
    """Name of the torsion that goes with one: psi with phi."""
    kind, _, rest = name.partition(" ")
    return f"{PARTNER[kind]} {rest}" if kind in PARTNER else None


def _variables(campaign: Campaign) -> list[Variable]:
    """What to follow: the observed variable and, for a torsion, its partner where the molecule has it."""
    observed = campaign.observed
    if observed is None:
        return []
    other = partner(observed.name) if observed.circular else None
    if other is None:
        return [observed]
    try:
        return [observed, Variable.torsion(campaign.topology, other, campaign.periodic)]
    except (DataError, SettingsError):
        return [observed]


def _round(campaign: Campaign, index: int, variables: list[Variable]) -> Round:
    settings = campaign.protocol.all_rounds[index]
    given = isinstance(settings, ExternalRound)
    read = _given if given else _walker
    walkers = [read(campaign, index, walker, variables) for walker in range(len(settings.walkers))]
    frames = 1 if given else steps(settings.length, campaign.protocol.frame_interval)
    simulated = all(walker is not None and len(walker.frames) >= frames for walker in walkers)
    folder, learned = campaign.store.learning(index), None
    if (folder / "history.json").exists():
        learned = Learned(*campaign.model(index), storage.read_json(folder / "history.json"))
    return Round(index, settings, walkers, simulated, learned)


def _walker(campaign: Campaign, index: int, walker: int, variables: list[Variable]) -> Walker | None:
    folder = campaign.store.walker(index, walker)
    if not (folder / "segment-000.json").exists():
        return None
    frames = read_walker(folder, campaign.topology, index, walker)
    seconds = sum(entry["seconds"] for entry in layout.finished_segments(folder))
    return Walker(frames, seconds, campaign.protocol.frame_interval, _values(frames, variables))


def _given(campaign: Campaign, index: int, number: int, variables: list[Variable]) -> Walker | None:
    target = campaign.store.given(number)
    if not target.with_suffix(".json").exists():
        return None
    frames = ExternalFrames.read(target, campaign.topology, campaign.periodic, number)
    return Walker(frames, None, campaign.protocol.frame_interval, _values(frames, variables))


def _values(frames: Frames, variables: list[Variable]) -> dict[str, np.ndarray]:
    if not variables:
        return {}
    pieces = [[variable.values(piece) for variable in variables] for piece in frames.pieces()]
    return {variable.name: np.concatenate(parts) for variable, parts in zip(variables, zip(*pieces))}
