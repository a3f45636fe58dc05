"""One walker of one round, as it is handed to a process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latf_sampling.settings import AnyBiasSettings, Protocol, RoundSettings, n_steps


@dataclass(frozen=True)
class WalkerJob:
    """One walker of one round: everything that a process needs to run it, or to continue it.

    Attributes
    ----------
    protocol, round_index, walker
        The settings, and the numbers of the round and of the walker in it.
    directory
        Folder of the walker's segments.
    start
        NPZ file with "positions" (N, 3) in nm, "velocities" (N, 3) in nm/ps and, in a periodic system, "box" (3, 3) in
        nm; `None` is the protocol's structure, or one of its conformations, minimized.
    learning, hills
        Folder with the model and the collective variable of the bias, and folder where the walkers of the round share
        their bias; `None` for plain dynamics.
    system
        Folder with the campaign's molecule; `None` builds it from the protocol.
    at_once
        Number of walkers that share the cores of a machine; `None` where that is not known.
    """

    protocol: Protocol
    round_index: int
    walker: int
    directory: Path
    start: Path | None = None
    learning: Path | None = None
    hills: Path | None = None
    system: Path | None = None
    at_once: int | None = None

    @property
    def name(self) -> str:
        """Name of the walker for people."""
        return f"{self.round_name}, walker {self.walker}"

    @property
    def round_name(self) -> str:
        """Name of its round for people."""
        return self.protocol.run_name(self.round_index)

    @property
    def is_reference(self) -> bool:
        """Whether it belongs to the simulations of `evaluate`."""
        return self.round_index == len(self.protocol.all_rounds)

    @property
    def temperature(self) -> float:
        return self.temperatures[self.walker]

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Of all walkers of the round, K."""
        return self.protocol.runs[self.round_index].walkers

    @property
    def bias(self) -> AnyBiasSettings | None:
        return self.protocol.runs[self.round_index].bias

    @property
    def bias_name(self) -> str:
        """Name of the walker's files among those of the bias."""
        return f"walker-{self.walker:02d}"

    @property
    def segments(self) -> int:
        settings = self.protocol.runs[self.round_index]
        assert isinstance(settings, RoundSettings)  # external trajectories are not simulated
        return n_steps(settings.length, self.protocol.segment)

    @property
    def timestep(self) -> float:
        """ps of one step of the integrator, which with multiple time steps is all steps from one bias to the next."""
        return self.protocol.integrator.timestep * (1 if self.bias is None else self.bias.stride)

    def stream(self, segment: int, attempt: int) -> tuple[str | int, ...]:
        """Name of the random stream of an attempt at a segment."""
        run = "references" if self.is_reference else self.round_index  # the same when a round is added
        name = ("segment", run, self.walker, segment)
        return (*name, "attempt", attempt) if attempt else name
