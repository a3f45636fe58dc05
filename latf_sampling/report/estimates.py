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
from latf_sampling.records.records import Records, Walker
from latf_sampling.report.reference import Reference


@dataclass(frozen=True)
class Estimates:
    """What the report says about the observed variable.

    Attributes
    ----------
    observed : Observed or None
        None where there is nothing to observe; all that follows then is empty.
    temperature : float
        K; all values are for this temperature.
    biased : bool
        Whether the estimate is made of biased rounds; of plain dynamics where the protocol has no others.
    sampled : dict
        Walkers whose frames the estimate is made of, by the round's index.
    courses : dict
        Estimate of each of these rounds and how it came about; none where nothing relates the two states, since no
        walker crossed in the frames that count (see `settled_crossings`).
    convergence : Convergence or None
        Of all these rounds together, with the rounds against each other, or the walkers if there is one round; none as
        for one round.
    plain : list of Walker
        Plain dynamics at the temperature, to compare biased rounds with.
    plain_estimate : Difference or None
        None as for the rounds.
    cores : tuple of float
        Depth below which the core of the rest lies, and above which that of the state does; see `Observed.cores`.
    crossings : dict
        Times the variable went in and out, by round and walker, in all frames.
    settled_crossings : dict
        The same both ways together, in the frames that count.
    extent : tuple of float or None
        Lowest and highest value of the variable in all frames; none without frames.
    reference : Reference or None
        For this temperature.
    """

    observed: Observed | None
    temperature: float
    biased: bool
    sampled: dict[int, list[Walker]]
    courses: dict[int, Convergence | None]
    convergence: Convergence | None
    plain: list[Walker]
    plain_estimate: Difference | None
    cores: tuple[float, float]
    crossings: dict[tuple[int, int], tuple[int, int]]
    settled_crossings: dict[tuple[int, int], int]
    extent: tuple[float, float] | None
    reference: Reference | None

    @classmethod
    def of(cls, records: Records) -> Estimates:
        temperature, observed = target_temperature(records), records.observed
        sampled = sampled_walkers(records, temperature)
        courses, convergence, plain, plain_estimate, counted, settled = {}, None, [], None, {}, {}
        cores, extent = (0.0, 0.0), None
        if observed is not None and records.walkers:
            values = [walker.values[observed.name] for walker in records.walkers]
            cores = observed.cores(values)
            extent = min(float(part.min()) for part in values), max(float(part.max()) for part in values)
            for walker, kept in zip(records.walkers, settled_frames(records.walkers)):
                depth = observed.depth(walker.values[observed.name])
                counted[walker.place] = analysis.crossings(depth, *cores)
                settled[walker.place] = sum(analysis.crossings(depth[kept], *cores))
            seed = records.protocol.seed
            for index, walkers in sampled.items():
                rng = streams.stream(seed, "report", index)
                courses[index] = _judged({index: walkers}, observed, temperature, _total(settled, walkers), rng)
            crossed = sum(_total(settled, walkers) for walkers in sampled.values())
            convergence = _judged(sampled, observed, temperature, crossed, streams.stream(seed, "report"))
            plain = plain_walkers(records, temperature) if has_bias(records) else []
            if _total(settled, plain):
                inside = [walker.values[observed.name] > observed.above for walker in plain]
                weights = [np.zeros(len(part)) for part in inside]
                rng = streams.stream(seed, "report", "plain")
                plain_estimate = analysis.free_energy_difference(inside, weights, temperature, rng)
        return cls(
            observed,
            temperature,
            has_bias(records),
            sampled,
            courses,
            convergence,
            plain,
            plain_estimate,
            cores,
            counted,
            settled,
            extent,
            Reference.of(records, temperature),
        )

    @property
    def state(self) -> str:
        """The observed state in words."""
        return self.observed.state

    @property
    def source(self) -> str:
        """What the estimate is made of, in words."""
        return "the biased rounds" if self.biased else "plain dynamics"

    @property
    def rounds(self) -> dict[int, Difference | None]:
        """Estimate of each round, by its index."""
        return {index: entry and entry.estimate for index, entry in self.courses.items()}

    @property
    def pooled(self) -> Difference | None:
        """Estimate from all of these rounds."""
        return self.convergence and self.convergence.estimate

    @property
    def deviation(self) -> float | None:
        """Pooled estimate less reference, in units of the combined error; none where one of them is not known."""
        if self.pooled is None or self.reference is None or not math.isfinite(self.pooled.error):
            return None
        combined = math.hypot(self.pooled.error, self.reference.error)
        return (self.pooled.value - self.reference.value) / combined if combined > 0 else None

    @property
    def one_sided(self) -> str:
        """One sentence where no frame is in the state, or all are; else empty."""
        if self.extent is None or self.extent[0] <= self.observed.above < self.extent[1]:
            return ""
        low, high = (self.observed.words(value, 3) for value in self.extent)
        share = "No frame has" if self.extent[1] <= self.observed.above else "All frames have"
        return f"{share} {self.state}: it went from {low} to {high}."

    @property
    def pooled_crossings(self) -> int:
        """Crossings in the frames that the pooled estimate is made from."""
        return sum(self.round_crossings(index) for index in self.rounds)

    def round_crossings(self, index: int) -> int:
        """The same of one round."""
        return _total(self.settled_crossings, self.sampled[index])


def _total(crossed: dict[tuple[int, int], int], walkers: Sequence[Walker]) -> int:
    return sum(crossed[walker.place] for walker in walkers)


def target_temperature(records: Records) -> float:
    """The temperature of the last biased round that has frames, or of the first planned one; else the lowest."""
    biased = [entry for entry in records.rounds if entry.biased]
    begun = [entry for entry in biased if entry.begun]
    if biased:
        return (begun[-1] if begun else biased[0]).settings.walkers[0]
    return min(temperature for entry in records.rounds for temperature in entry.settings.walkers)


def has_bias(records: Records) -> bool:
    """Whether the protocol has biased rounds."""
    return any(entry.biased for entry in records.rounds)


def sampled_walkers(records: Records, temperature: float) -> dict[int, list[Walker]]:
    """Walkers at the temperature by the index of their round, of biased rounds or, without these, of plain ones."""
    if has_bias(records):
        rounds = [e for e in records.rounds if e.biased and e.begun and e.settings.walkers[0] == temperature]
        return {entry.index: entry.begun for entry in rounds}
    found: dict[int, list[Walker]] = {}
    for walker in plain_walkers(records, temperature):
        found.setdefault(walker.frames.round_index, []).append(walker)
    return found


def plain_walkers(records: Records, temperature: float) -> list[Walker]:
    return [
        walker
        for entry in records.rounds
        if not entry.biased
        for walker in entry.begun
        if walker.frames.temperature == temperature and not walker.frames.uneven
    ]


def settled_frames(walkers: Sequence[Walker]) -> list[slice]:
    """Which frames of each walker count."""
    return [analysis.settled(walker.frames) for walker in walkers]


def log_weights(rounds: Mapping[int, Sequence[Walker]]) -> list[np.ndarray]:
    """ln of the weights of all walkers' settled frames, each round balanced by itself."""
    made = []
    for walkers in rounds.values():
        parts = zip(walkers, settled_frames(walkers))
        made += analysis.balanced([walker.frames.log_weights[kept] for walker, kept in parts])
    return made


def _judged(
    rounds: Mapping[int, Sequence[Walker]],
    observed: Observed,
    temperature: float,
    crossed: int,
    rng: np.random.Generator,
) -> Convergence | None:
    """Free energy of the observed state less the rest, from the settled frames of rounds; none where no walker
    crossed."""
    if not crossed:
        return None
    walkers = [walker for group in rounds.values() for walker in group]
    inside = [w.values[observed.name][kept] > observed.above for w, kept in zip(walkers, settled_frames(walkers))]
    names = [f"round {w.frames.round_index}" if len(rounds) > 1 else f"walker {w.frames.walker}" for w in walkers]
    return Convergence.of(inside, log_weights(rounds), temperature, crossed, rng, names)


def course_times(walker: Walker, course: Convergence) -> np.ndarray:
    """Simulated time per walker, ns, at which the estimate of its round would have been that of its course."""
    first = (settled_frames([walker])[0].start or 0) * walker.interval
    return (first + course.shares * (walker.simulated - first)) / 1000
