"""Whether a free-energy difference has converged: its course, and halves and walkers against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.differences import Difference, free_energy_difference
from latf_sampling.errors import DataError
from latf_sampling.reweighting import Multistate

SHARES = np.linspace(0.1, 1.0, 10)
FEW_CROSSINGS = 10
"""With fewer crossings the scatter between blocks says little about the true error."""
FEW_FRAMES = 100
"""With fewer effective frames a few of them carry the estimate."""
APART = 1.5
"""Two estimates contradict each other if they differ by more than so many of their combined half widths at 95 %: three
standard errors, more where blocks are few."""
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
        Estimate from each group of trajectories alone, by its name.
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
        weights are not carried by a few frames, and neither the halves of the data nor groups of walkers contradict
        each other. It is no proof: a state that no walker has found leaves no trace in any of these.

        Parameters
        ----------
        inside, log_weights, temperature, rng
            As in `free_energy_difference`.
        crossings
            Times any walker went from one state to the other in these frames.
        groups
            Name of the group that each trajectory belongs to, as its round; none takes each by itself. Groups are
            compared with each other.
        states
            As in `free_energy_difference`; for the estimate from all frames, parts take its weights as given.
        tolerance
            Half width of the 95 % interval, kJ/mol, up to which the estimate is of use.

        Raises
        ------
        DataError
            As in `free_energy_difference`; or there is not a name for each trajectory.

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
        names = [f"walker {index}" for index in range(len(inside))] if groups is None else list(groups)
        if len(names) != len(inside):
            raise DataError(f"Convergence: {len(names)} names of groups, but {len(inside)} trajectories.")

        def part(first: float, last: float, only: str | None = None) -> Difference | None:
            """The estimate from a stretch of each trajectory, or of those of a group; none without frames."""
            kept = [
                (mask[slice(*cut)], weight[slice(*cut)])
                for mask, weight, name in zip(inside, log_weights, names)
                if only in (None, name)
                for cut in [(round(first * len(mask)), round(last * len(mask)))]
            ]
            if not sum(len(mask) for mask, _ in kept):
                return None
            return free_energy_difference(*zip(*kept), temperature, rng)

        estimate = free_energy_difference(inside, log_weights, temperature, rng, states)
        course = [made for share in SHARES if (made := part(0.0, share)) is not None]
        halves = part(0.0, 0.5), part(0.5, 1.0)
        alone = {name: made for name in dict.fromkeys(names) if (made := part(0.0, 1.0, name)) is not None}
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
            "frames."
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
    if estimate.effective_frames < FEW_FRAMES:
        found.append(
            f"the weights are so uneven that they count as {estimate.effective_frames:.0f} frames, and at least "
            f"{FEW_FRAMES} are needed"
        )
    if np.isfinite(estimate.error) and not all(half and np.isfinite(half.error) for half in halves):
        found.append("one half of the data alone does not bound the error")
    named = [("first and second half of the data", *halves)]
    bounded = [(name, made) for name, made in groups.items() if np.isfinite(made.error)]
    if len(bounded) > 1:
        low, high = min(bounded, key=lambda e: e[1].value), max(bounded, key=lambda e: e[1].value)
        named.append((f"{low[0]} and {high[0]}", low[1], high[1]))
    for title, one, other in named:
        if one is None or other is None or not (np.isfinite(one.error) and np.isfinite(other.error)):
            continue
        gap, allowed = abs(one.value - other.value), APART * np.hypot(one.half_width, other.half_width)
        if gap > allowed:
            found.append(f"{title} differ by {gap:.1f} kJ/mol, and their errors allow {allowed:.1f} kJ/mol")
    return found
