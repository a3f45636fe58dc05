"""The stated free-energy difference: per round, pooled, by plain dynamics and by the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling import analysis
from latf_sampling.analysis import Convergence, Difference
from latf_sampling.core import streams
from latf_sampling.records.observables import Observed
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import Walker
from latf_sampling.report.reference import Reference


@dataclass(frozen=True)
class Estimates:
    """Free-energy differences of the observed variable, with what they are estimated from.

    Attributes
    ----------
    observed : Observed or None
        `None` where the protocol names no variable; everything below is then empty.
    temperature : float
        Temperature of all estimates, K.
    biased : bool
        Whether the estimate comes from biased rounds; it comes from plain dynamics where the protocol has none.
    sampled : dict
        The walkers that the estimate comes from, by the index of their round.
    histories : dict
        Estimate of each of these rounds with its history; `None` where no walker crossed in the selected frames (see
        `selected_crossings`), so that the populations of the two states are not related.
    convergence : Convergence or None
        Estimate from all these rounds together, in which rounds are compared with each other, or walkers if there is
        one round; `None` as for one round.
    plain : list of Walker
        Plain dynamics at the temperature, with which biased rounds are compared.
    plain_estimate : Difference or None
        Estimate from plain dynamics; `None` as for one round.
    cores : tuple of float
        Signed distances below which the core of the rest lies, and above which that of the state lies.
    crossings : dict
        Numbers of crossings into the state and out of it in all frames, by round and walker.
    selected_crossings : dict
        Number of crossings in both directions in the selected frames.
    extent : tuple of float or None
        Lowest and highest value of the variable in all frames; `None` without frames.
    reference : Reference or None
        Independent value at this temperature.
    """

    observed: Observed | None
    temperature: float
    biased: bool
    sampled: dict[int, list[Walker]]
    histories: dict[int, Convergence | None]
    convergence: Convergence | None
    plain: list[Walker]
    plain_estimate: Difference | None
    cores: tuple[float, float]
    crossings: dict[tuple[int, int], tuple[int, int]]
    selected_crossings: dict[tuple[int, int], int]
    extent: tuple[float, float, float] | None
    reference: Reference | None

    @classmethod
    def from_records(cls, records: Records) -> Estimates:
        """The estimates from all rounds, at the lowest temperature of the last biased one that has frames."""
        temperature, observed = target_temperature(records), records.observed
        sampled = sampled_walkers(records, temperature)
        histories: dict[int, Convergence | None] = {}
        crossings: dict[tuple[int, int], tuple[int, int]] = {}
        selected_crossings: dict[tuple[int, int], int] = {}
        convergence, plain, plain_estimate = None, [], None
        cores, extent = (0.0, 0.0), None
        if observed is not None and records.walkers:
            values = [walker.values[observed.name] for walker in records.walkers]
            cores = observed.cores(values)
            together = np.concatenate(values)
            extent = float(together.min()), float(np.median(together)), float(together.max())
            for walker, selected in zip(records.walkers, selected_frames(records.walkers)):
                distance = observed.signed_distance(walker.values[observed.name])
                crossings[walker.key] = analysis.crossings(distance, *cores)
                selected_crossings[walker.key] = sum(analysis.crossings(distance[selected], *cores))
            seed = records.protocol.seed
            for index, walkers in sampled.items():
                rng = streams.stream(seed, "report", index)
                crossed = _total(selected_crossings, walkers)
                histories[index] = _convergence({index: walkers}, observed, temperature, crossed, rng)
            crossed = sum(_total(selected_crossings, walkers) for walkers in sampled.values())
            convergence = _convergence(sampled, observed, temperature, crossed, streams.stream(seed, "report"))
            plain = plain_walkers(records, temperature) if has_bias(records) else []
            if _total(selected_crossings, plain):
                inside = [walker.values[observed.name] > observed.above for walker in plain]
                weights = [np.zeros(len(part)) for part in inside]
                rng = streams.stream(seed, "report", "plain")
                plain_estimate = analysis.free_energy_difference(inside, weights, temperature, rng)
        return cls(
            observed,
            temperature,
            has_bias(records),
            sampled,
            histories,
            convergence,
            plain,
            plain_estimate,
            cores,
            crossings,
            selected_crossings,
            extent,
            Reference.from_records(records, temperature),
        )

    @property
    def variable(self) -> Observed:
        """The observed variable, where the protocol names one."""
        assert self.observed is not None
        return self.observed

    @property
    def state(self) -> str:
        """Name of the observed state."""
        return self.variable.state

    @property
    def source(self) -> str:
        """What the estimate comes from."""
        return "the biased rounds" if self.biased else "plain dynamics"

    @property
    def rounds(self) -> dict[int, Difference | None]:
        """Estimate of each round, by its index."""
        return {index: entry and entry.estimate for index, entry in self.histories.items()}

    @property
    def pooled(self) -> Difference | None:
        """Estimate from all of these rounds."""
        return self.convergence and self.convergence.estimate

    def until_round(self, records: Records, index: int) -> Difference | None:
        """The estimate from the rounds up to one, as `pooled`; `None` where no walker crossed in them."""
        rounds = {number: walkers for number, walkers in self.sampled.items() if number <= index}
        crossed = sum(_total(self.selected_crossings, walkers) for walkers in rounds.values())
        rng = streams.stream(records.protocol.seed, "report", "until", index)
        convergence = _convergence(rounds, self.variable, self.temperature, crossed, rng)
        return convergence and convergence.estimate

    @property
    def deviation(self) -> float | None:
        """Pooled estimate minus reference, in units of the combined error; `None` where one of them is not known."""
        if self.pooled is None or self.reference is None or not math.isfinite(self.pooled.error):
            return None
        combined = math.hypot(self.pooled.error, self.reference.error)
        return (self.pooled.value - self.reference.value) / combined if combined > 0 else None

    @property
    def one_sided(self) -> str:
        """A sentence where no frame is in the state, or all frames are; otherwise empty."""
        if self.extent is None or self.extent[0] <= self.variable.above < self.extent[2]:
            return ""
        low, median, high = (self.variable.words(value, 3) for value in self.extent)
        share = "No frame has" if self.extent[2] <= self.variable.above else "All frames have"
        return (
            f"{share} {self.state}: its values lie between {low} and {high}. Move the border, observe.above, into this "
            f"range (half of the frames are above {median}) and run the same command: only the report is made again."
        )

    @property
    def pooled_crossings(self) -> int:
        """Crossings in the selected frames of all rounds."""
        return sum(self.round_crossings(index) for index in self.rounds)

    def round_crossings(self, index: int) -> int:
        """Crossings in the selected frames of one round."""
        return _total(self.selected_crossings, self.sampled[index])


def _total(crossed: dict[tuple[int, int], int], walkers: Sequence[Walker]) -> int:
    return sum(crossed[walker.key] for walker in walkers)


def target_temperature(records: Records) -> float:
    """The lowest temperature of the last biased round that has frames, or of the first planned one; else of all."""
    biased = [entry for entry in records.rounds if entry.biased]
    begun = [entry for entry in biased if entry.begun]
    if biased:
        return min((begun[-1] if begun else biased[0]).settings.walkers)
    return min(temperature for entry in records.rounds for temperature in entry.settings.walkers)


def has_bias(records: Records) -> bool:
    """Whether the protocol has biased rounds."""
    return any(entry.biased for entry in records.rounds)


def sampled_walkers(records: Records, temperature: float) -> dict[int, list[Walker]]:
    """Walkers at the temperature by the index of their round, of biased rounds or, without these, of plain ones."""
    if has_bias(records):
        biased = {entry.index: entry.begun for entry in records.rounds if entry.biased}
        at_temperature = {
            index: [walker for walker in begun if walker.frames.temperature == temperature]
            for index, begun in biased.items()
        }
        return {index: walkers for index, walkers in at_temperature.items() if walkers}
    walkers: dict[int, list[Walker]] = {}
    for walker in plain_walkers(records, temperature):
        walkers.setdefault(walker.frames.round_index, []).append(walker)
    return walkers


def plain_walkers(records: Records, temperature: float) -> list[Walker]:
    """Unbiased walkers and external trajectories at the temperature, without those whose frames differ in weight."""
    return [
        walker
        for entry in records.rounds
        if not entry.biased
        for walker in entry.begun
        if walker.frames.temperature == temperature and not walker.frames.externally_weighted
    ]


def selected_frames(walkers: Sequence[Walker]) -> list[slice]:
    """The frames of each walker that estimates are made of."""
    return [analysis.after_filling(len(walker.frames), walker.frames.biased) for walker in walkers]


def log_weights(rounds: Mapping[int, Sequence[Walker]]) -> list[np.ndarray]:
    """ln of the weights of all walkers' selected frames, normalized in each round."""
    weights = []
    for walkers in rounds.values():
        parts = zip(walkers, selected_frames(walkers))
        weights += analysis.normalized_together([walker.frames.log_weights[selected] for walker, selected in parts])
    return weights


def _convergence(
    rounds: Mapping[int, Sequence[Walker]],
    observed: Observed,
    temperature: float,
    crossed: int,
    rng: np.random.Generator,
) -> Convergence | None:
    """Free energy of the observed state minus that of the rest, from the selected frames of rounds; `None` where no
    walker crossed."""
    if not crossed:
        return None
    walkers = [walker for group in rounds.values() for walker in group]
    inside = [w.values[observed.name][part] > observed.above for w, part in zip(walkers, selected_frames(walkers))]
    names = [f"round {w.frames.round_index}" if len(rounds) > 1 else f"walker {w.frames.walker}" for w in walkers]
    return Convergence.from_frames(inside, log_weights(rounds), temperature, crossed, rng, names)


def history_times(walker: Walker, convergence: Convergence) -> np.ndarray:
    """Simulated time per walker, ns, of each entry of the history of an estimate."""
    first = (selected_frames([walker])[0].start or 0) * walker.interval
    return (first + convergence.fractions * (walker.simulated - first)) / 1000
