"""The stated free-energy difference: per biased round, pooled, by plain dynamics and by the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling import analysis, runtime
from latf_sampling.analysis import Convergence, Difference
from latf_sampling.report.records import Records, Round, Walker

MARGIN = 0.35
"""A frame belongs to a state once it lies this far (radians, 20 degrees) inside it; what is between belongs to none."""


@dataclass(frozen=True)
class Estimates:
    """What the report says about the observed torsion.

    Attributes
    ----------
    temperature : float
        K; all values are for this temperature.
    above : float
        radians; the difference is that of the torsion above this value less the rest.
    courses : dict
        Estimate of each biased round with frames and how it came about, by the round's index; none where nothing
        relates the two states, since no walker crossed in the frames that count (see `settled_crossings`).
    convergence : Convergence or None
        Of all biased rounds together, with the rounds against each other, or the walkers if there is one round; none as
        for one round.
    plain : list of Walker
        Plain dynamics at the temperature.
    plain_estimate : Difference or None
        None as for the biased rounds.
    crossings : dict
        Times the torsion went in and out, by round and walker, in all frames.
    settled_crossings : dict
        The same both ways together, in the frames that count.
    reference, reference_error : float or None
        kJ/mol, if there is a reference for this temperature.
    """

    torsion: str | None
    temperature: float
    above: float
    courses: dict[int, Convergence | None]
    convergence: Convergence | None
    plain: list[Walker]
    plain_estimate: Difference | None
    crossings: dict[tuple[int, int], tuple[int, int]]
    settled_crossings: dict[tuple[int, int], int]
    reference: float | None
    reference_error: float | None

    @classmethod
    def of(cls, records: Records) -> Estimates:
        temperature = target_temperature(records)
        torsion = records.torsion
        above = records.protocol.observe.above if records.protocol.observe is not None else 0.0
        courses, convergence, plain, plain_estimate, counted, settled = {}, None, [], None, {}, {}
        if torsion is not None:
            for walker, kept in zip(records.walkers, settled_frames(records.walkers)):
                depth = analysis.depth(walker.angles[torsion], above)
                counted[walker.place] = analysis.crossings(depth, -MARGIN, MARGIN)
                settled[walker.place] = sum(analysis.crossings(depth[kept], -MARGIN, MARGIN))
            seed, biased = records.protocol.seed, biased_rounds(records, temperature)
            for entry in biased:
                rng, crossed = runtime.stream(seed, "report", entry.index), _total(settled, entry.begun)
                courses[entry.index] = _judged([entry], torsion, above, temperature, crossed, rng)
            crossed = sum(_total(settled, entry.begun) for entry in biased)
            convergence = _judged(biased, torsion, above, temperature, crossed, runtime.stream(seed, "report"))
            plain = plain_walkers(records, temperature)
            if _total(settled, plain):
                inside = [walker.angles[torsion] > above for walker in plain]
                weights = [np.zeros(len(part)) for part in inside]
                rng = runtime.stream(seed, "report", "plain")
                plain_estimate = analysis.free_energy_difference(inside, weights, temperature, rng)
        value, error = _reference(records, temperature)
        return cls(
            torsion,
            temperature,
            above,
            courses,
            convergence,
            plain,
            plain_estimate,
            counted,
            settled,
            value,
            error,
        )

    @property
    def state(self) -> str:
        """The observed state in words."""
        return f"{self.torsion} above {np.degrees(self.above):g}°"

    @property
    def rounds(self) -> dict[int, Difference | None]:
        """Estimate of each biased round with frames, by its index."""
        return {index: entry and entry.estimate for index, entry in self.courses.items()}

    @property
    def pooled(self) -> Difference | None:
        """Estimate from all biased rounds."""
        return self.convergence and self.convergence.estimate

    @property
    def deviation(self) -> float | None:
        """Pooled estimate less reference, in units of the combined error; none where one of them is not known."""
        if self.pooled is None or self.reference is None or not math.isfinite(self.pooled.error):
            return None
        combined = math.hypot(self.pooled.error, self.reference_error or 0.0)
        return (self.pooled.value - self.reference) / combined if combined > 0 else None

    @property
    def biased_crossings(self) -> int:
        """Crossings in the frames that the pooled estimate is made from."""
        return sum(self.round_crossings(index) for index in self.rounds)

    def round_crossings(self, index: int) -> int:
        """Crossings in the frames of one round that count."""
        return sum(crossed for (place, _), crossed in self.settled_crossings.items() if place == index)


def _total(crossed: dict[tuple[int, int], int], walkers: Sequence[Walker]) -> int:
    return sum(crossed[walker.place] for walker in walkers)


def target_temperature(records: Records) -> float:
    """The temperature of the last biased round that has frames, or of the first planned one; else the lowest."""
    biased = [entry for entry in records.rounds if entry.biased]
    begun = [entry for entry in biased if entry.begun]
    if biased:
        return (begun[-1] if begun else biased[0]).settings.walkers[0]
    return min(temperature for entry in records.rounds for temperature in entry.settings.walkers)


def biased_rounds(records: Records, temperature: float) -> list[Round]:
    return [e for e in records.rounds if e.biased and e.begun and e.settings.walkers[0] == temperature]


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


def log_weights(rounds: Sequence[Round]) -> list[np.ndarray]:
    """ln of the weights of all walkers' settled frames, each round balanced by itself."""
    made = []
    for entry in rounds:
        parts = zip(entry.begun, settled_frames(entry.begun))
        made += analysis.balanced([walker.frames.log_weights[kept] for walker, kept in parts])
    return made


def _judged(
    rounds: Sequence[Round], torsion: str, above: float, temperature: float, crossed: int, rng: np.random.Generator
) -> Convergence | None:
    """Free energy of the torsion above a value less the rest, from the settled frames of biased rounds; none where no
    walker crossed."""
    if not crossed:
        return None
    walkers = [walker for entry in rounds for walker in entry.begun]
    inside = [w.angles[torsion][kept] > above for w, kept in zip(walkers, settled_frames(walkers))]
    names = [f"round {w.frames.round_index}" if len(rounds) > 1 else f"walker {w.frames.walker}" for w in walkers]
    return Convergence.of(inside, log_weights(rounds), temperature, crossed, rng, names)


def course_times(entry: Round, course: Convergence) -> np.ndarray:
    """Simulated time per walker, ns, at which a round's estimate would have been that of its course."""
    walker = entry.begun[0]
    first = (settled_frames([walker])[0].start or 0) * walker.interval
    return (first + course.shares * (walker.simulated - first)) / 1000


def _reference(records: Records, temperature: float) -> tuple[float | None, float | None]:
    """Value and error of the reference, if it is one for this temperature."""
    reference = records.reference
    if not isinstance(reference, dict) or "difference_kJ_per_mol" not in reference:
        return None, None
    if abs(reference.get("temperature_K", temperature) - temperature) > 0.01:
        return None, None
    return float(reference["difference_kJ_per_mol"]), float(reference.get("error_kJ_per_mol", 0.0))
