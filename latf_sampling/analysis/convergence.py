"""Whether a free-energy difference has converged: its course, and halves and walkers against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.arguments import by_trajectory, sides, whole
from latf_sampling.analysis.blocks import reach
from latf_sampling.analysis.differences import Difference, free_energy_difference
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.errors import DataError
from latf_sampling.units import to_float

SHARES = np.linspace(0.1, 1.0, 10)
FEW_CROSSINGS = 10
"""With fewer crossings the scatter between blocks says little about the true error."""
FEW_FRAMES = 50
"""With fewer independent frames a few of them carry the estimate, and blocks say little about its error."""
DOUBT = 0.003
"""Estimates contradict each other if chance alone makes them differ as much with less than this probability: by three
standard errors, more where blocks are few or the estimates to compare are many."""
TOLERANCE = 4.184
"""Half width of the 95 % interval, kJ/mol, up to which an estimate is of use: one kcal/mol, chemical accuracy."""


@dataclass(frozen=True)
class Convergence:
    """How a free-energy difference came about, and what is to be thought of it.

    Attributes
    ----------
    estimate : Difference
        From all frames.
    shares : numpy.ndarray (s,)
        Shares of each trajectory, from its beginning; what a plot has on its x axis.
    course : list of Difference (s,)
        The estimate as it would have been after each share.
    halves : tuple of Difference
        From the first and from the second half of each trajectory.
    groups : dict
        Estimate from each group of trajectories alone, by its name; none where none are compared.
    crossings : int
        Times any walker went from one state to the other.
    reasons : list of str
        Why it has not converged; none where it has.
    """

    estimate: Difference
    shares: np.ndarray
    course: list[Difference]
    halves: tuple[Difference, Difference]
    groups: dict[str, Difference]
    crossings: int
    reasons: list[str]

    @classmethod
    def of(
        cls,
        inside: Sequence[np.ndarray],
        log_weights: Sequence[np.ndarray],
        temperature: float,
        crossings: int,
        rng: np.random.Generator,
        groups: Sequence[str] | None = None,
        states: Multistate | None = None,
        tolerance: float = TOLERANCE,
    ) -> Convergence:
        """Judge whether a free-energy difference has converged.

        It has if its 95 % interval is no wider than the tolerance to either side, walkers crossed often enough, the
        estimate is not carried by a few frames that are independent in time, and neither the halves of the data nor
        groups of walkers contradict each other. It is no proof: a state that no walker has found leaves no trace in any
        of these.

        Parameters
        ----------
        inside, log_weights, temperature, rng
            As in `free_energy_difference`.
        crossings
            Times any walker went from one state to the other in these frames.
        groups
            Name of the group that each trajectory belongs to, as its round. Each group is compared with the others
            together. None takes each trajectory by itself; with states it compares none, since one window of many is no
            estimate: name groups there that could each stand alone, as repetitions of all windows.
        states
            As in `free_energy_difference`, with `log_weights` at this temperature. It is solved anew for each part of
            the data.
        tolerance
            Half width of the 95 % interval, kJ/mol, up to which the estimate is of use.

        Raises
        ------
        DataError
            As in `free_energy_difference`; or there is not a name for each trajectory.
        SettingsError
            As in `free_energy_difference`; or the crossings are no whole number.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> inside = [np.repeat(rng.random(2000) < 0.3, 5) for _ in range(2)]
        >>> weights = [np.zeros(10_000)] * 2
        >>> Convergence.of(inside, weights, 300.0, 1600, rng).converged
        True
        >>> Convergence.of(inside, weights, 300.0, 4, rng).verdict
        'Not converged: walkers crossed 4 times, and at least 10 crossings are needed.'
        """
        rng, tolerance = np.random.default_rng(rng), to_float(tolerance, "energy", "Convergence, tolerance")
        crossings = whole(crossings, "Convergence, crossings", 0)
        inside, log_weights = (
            sides(inside, "Convergence, inside"),
            by_trajectory(log_weights, "Convergence, log weights"),
        )
        if groups is not None and len(groups) != len(inside):
            raise DataError(f"Convergence: {len(groups)} names of groups, but {len(inside)} trajectories.")
        if groups is not None:
            names = list(groups)
        else:
            names = [f"walker {index}" for index in range(len(inside))] if states is None else [None] * len(inside)
        starts = np.cumsum([0, *map(len, inside)])

        def part(first: float, last: float, only: str | None = None) -> Difference | None:
            """The estimate from a stretch of each trajectory, or of those of a group; none without frames."""
            cuts = [(round(first * len(mask)), round(last * len(mask))) for mask in inside]
            kept = [index for index, name in enumerate(names) if only in (None, name)]
            masks = [inside[index][slice(*cuts[index])] for index in kept]
            weights = [log_weights[index][slice(*cuts[index])] for index in kept]
            if not any(np.isfinite(weight).any() for weight in weights):
                return None
            if states is None:
                return free_energy_difference(masks, weights, temperature, rng)
            alone = states.subset(np.concatenate([starts[index] + np.arange(*cuts[index]) for index in kept]), rng)
            solved = np.split(alone.log_weights(temperature), np.cumsum([len(mask) for mask in masks])[:-1])
            return free_energy_difference(masks, solved, temperature, rng, alone)

        estimate = free_energy_difference(inside, log_weights, temperature, rng, states)
        course = [made for share in SHARES if (made := part(0.0, share)) is not None]
        halves = part(0.0, 0.5), part(0.5, 1.0)
        titles = [name for name in dict.fromkeys(names) if name is not None]
        alone = {title: made for title in titles if (made := part(0.0, 1.0, title)) is not None}
        reasons = _reasons(estimate, halves, alone, crossings, tolerance)
        return cls(estimate, SHARES[-len(course) :], course, halves, alone, crossings, reasons)

    @property
    def converged(self) -> bool:
        return not self.reasons

    @property
    def verdict(self) -> str:
        """One sentence: whether it has converged, and the numbers that say so."""
        if not self.converged:
            return f"Not converged: {'; '.join(self.reasons)}."
        low, high = self.estimate.interval
        difference = abs(self.halves[0].value - self.halves[1].value)
        others = f", {len(self.groups)} groups of walkers agree" if len(self.groups) > 1 else ""
        return (
            f"Converged to {self.estimate.value:.1f} kJ/mol, with a 95 % interval from {low:.1f} to {high:.1f} kJ/mol: "
            f"the two halves of the data differ by {difference:.1f} kJ/mol, which their errors allow{others}, walkers "
            f"crossed {self.crossings:,} times, and the weights leave {self.estimate.effective_frames:,.0f} effective "
            f"frames, {self.estimate.independent_frames:,.0f} of them independent in time."
        )


def _reasons(estimate, halves, groups: dict[str, Difference], crossings: int, tolerance: float) -> list[str]:
    found = []
    if not np.isfinite(estimate.error):
        found.append("the data do not bound the error, since all but one block of time or fewer know one side only")
    elif estimate.half_width > tolerance:
        found.append(
            f"the 95 % interval reaches {estimate.half_width:.1f} kJ/mol to either side, and {tolerance:g} kJ/mol is "
            "the most that is of use"
        )
    if crossings < FEW_CROSSINGS:
        times = f"{crossings} time{'' if crossings == 1 else 's'}"
        found.append(f"walkers crossed {times}, and at least {FEW_CROSSINGS} crossings are needed")
    if estimate.independent_frames < FEW_FRAMES:
        found.append(
            f"the weights are so uneven that they count as {estimate.effective_frames:,.0f} frames, of which "
            f"correlation in time leaves {estimate.independent_frames:.0f} independent ones: at least {FEW_FRAMES} are "
            "needed"
        )
    if np.isfinite(estimate.error) and not all(half and np.isfinite(half.error) for half in halves):
        found.append("one half of the data alone does not bound the error")
    bounded = {name: made for name, made in groups.items() if np.isfinite(made.error)}
    for title, gap, allowed in [_halves_apart(halves), _group_apart(bounded)]:
        if gap > allowed:
            found.append(f"{title} differ by {gap:.1f} kJ/mol, and their errors allow {allowed:.1f} kJ/mol")
    return found


def _halves_apart(halves) -> tuple[str, float, float]:
    """What is compared, how far apart the two are, and how far they may be by chance, kJ/mol."""
    if not all(half and np.isfinite(half.error) for half in halves):
        return "", 0.0, 0.0
    first, second = halves
    allowed = np.hypot(*(reach(half.error, half.freedom, DOUBT) for half in halves))
    return "first and second half of the data", abs(first.value - second.value), allowed


def _group_apart(groups: dict[str, Difference]) -> tuple[str, float, float]:
    """The same for the group that is least like the weighted mean of the others."""
    if len(groups) < 2:
        return "", 0.0, 0.0
    names, values = list(groups), np.array([made.value for made in groups.values()])
    # Weights by what an error says at this level, not by the error itself: that of few blocks may be small by chance.
    widths = np.array([reach(made.error, made.freedom, DOUBT / len(groups)) for made in groups.values()])
    inverse = 1 / np.maximum(widths, 1e-9) ** 2
    rest = inverse.sum() - inverse
    gaps = np.abs(values - ((inverse * values).sum() - inverse * values) / rest)
    allowed = np.sqrt(widths**2 + 1 / rest)
    worst = int(np.argmax(gaps / allowed))
    title = f"{names[worst]} and the other groups together"
    if len(names) == 2:
        title = " and ".join(names[index] for index in np.argsort(values))
    return title, float(gaps[worst]), float(allowed[worst])
