"""Whether a free-energy difference has converged: its history, and halves and walkers against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.analysis.arguments import FrameValues, as_masks, by_trajectory, whole_number
from latf_sampling.analysis.blocks import half_width
from latf_sampling.analysis.differences import Difference, free_energy_difference
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.errors import DataError
from latf_sampling.units import EnergyLike, TemperatureLike, to_float

FRACTIONS = np.linspace(0.1, 1.0, 10)
"""Fractions of each trajectory, from its beginning, that the history of an estimate is made of."""
MIN_CROSSINGS = 10
"""With fewer crossings the scatter between blocks says little about the true error."""
MIN_INDEPENDENT_FRAMES = 50
"""With fewer independent frames a few of them dominate the estimate, and blocks say little about its error."""
SIGNIFICANCE = 0.003
"""Estimates contradict each other if chance alone makes them differ as much with less than this probability: by three
standard errors, more where blocks are few or the estimates to compare are many."""
TOLERANCE = 4.184
"""Half width of the 95 % interval, kJ/mol, up to which an estimate is useful: one kcal/mol, chemical accuracy."""


@dataclass(frozen=True)
class Convergence:
    """How an estimate of a free-energy difference developed, and whether it has converged.

    Attributes
    ----------
    estimate : Difference
        From all frames.
    fractions : numpy.ndarray (s,)
        Fractions of each trajectory, from its beginning; the x axis of a plot.
    history : list of Difference (s,)
        The estimate as it would have been after each of these fractions.
    halves : tuple of Difference or None
        From the first and from the second half of each trajectory; `None` for a half without frames.
    groups : dict
        Estimate from each group of trajectories alone, by its name; empty where groups are not compared.
    crossings : int
        Number of times that any walker went from one state to the other.
    reasons : list of str
        Why it has not converged; empty where it has.
    """

    estimate: Difference
    fractions: np.ndarray
    history: list[Difference]
    halves: tuple[Difference | None, Difference | None]
    groups: dict[str, Difference]
    crossings: int
    reasons: list[str]

    @classmethod
    def from_frames(
        cls,
        inside: FrameValues,
        log_weights: FrameValues,
        temperature: TemperatureLike,
        crossings: int,
        rng: np.random.Generator | int,
        groups: Sequence[str] | None = None,
        states: Multistate | None = None,
        tolerance: EnergyLike = TOLERANCE,
    ) -> Convergence:
        """Test whether a free-energy difference has converged.

        It has if the half width of its 95 % interval is within the tolerance, walkers crossed often enough, the
        estimate does not depend on a few independent frames, and neither the halves of the data nor groups of walkers
        contradict each other. This is not a proof: a state that no walker has found leaves no trace in any of these.

        Parameters
        ----------
        inside, log_weights, temperature, rng
            As in `free_energy_difference`.
        crossings
            Number of times that any walker went from one state to the other in these frames.
        groups
            Name of the group that each trajectory belongs to, for example its round. Each group is compared with the
            others together. `None` makes each trajectory a group; with states it compares none, since one of many
            windows is not an estimate: there, name groups that could each stand alone, as repetitions of all windows.
        states
            As in `free_energy_difference`, with `log_weights` at this temperature. It is solved anew for each part of
            the data.
        tolerance
            Half width of the 95 % interval, kJ/mol, up to which the estimate is useful.

        Raises
        ------
        DataError
            As in `free_energy_difference`; or there is not one name for each trajectory.
        SettingsError
            As in `free_energy_difference`; or the crossings are not a whole number.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> inside = [np.repeat(rng.random(2000) < 0.3, 5) for _ in range(2)]
        >>> weights = [np.zeros(10_000)] * 2
        >>> Convergence.from_frames(inside, weights, 300.0, 1600, rng).converged
        True
        >>> Convergence.from_frames(inside, weights, 300.0, 4, rng).verdict
        'Not converged: walkers crossed 4 times, and at least 10 crossings are needed.'
        """
        rng, tolerance = np.random.default_rng(rng), to_float(tolerance, "energy", "Convergence, tolerance")
        crossings = whole_number(crossings, "Convergence, crossings", 0)
        masks = as_masks(inside, "Convergence, inside")
        log_weights = by_trajectory(log_weights, "Convergence, log weights")
        names: list[str | None]
        if groups is not None:
            if len(groups) != len(masks):
                raise DataError(f"Convergence: {len(groups)} names of groups, but {len(masks)} trajectories.")
            names = list(groups)
        elif states is None:
            names = [f"walker {index}" for index in range(len(masks))]
        else:
            names = [None] * len(masks)
        starts = np.cumsum([0, *map(len, masks)])

        def part(first: float, last: float, group: str | None = None) -> Difference | None:
            """The estimate from a stretch of each trajectory, or of those of a group; `None` without frames."""
            cuts = [(round(first * len(mask)), round(last * len(mask))) for mask in masks]
            selected = [index for index, name in enumerate(names) if group in (None, name)]
            part_masks = [masks[index][slice(*cuts[index])] for index in selected]
            weights = [log_weights[index][slice(*cuts[index])] for index in selected]
            if not any(np.isfinite(weight).any() for weight in weights):
                return None
            if states is None:
                return free_energy_difference(part_masks, weights, temperature, rng)
            frames = np.concatenate([starts[index] + np.arange(*cuts[index]) for index in selected])
            solved = states.subset(frames, rng)
            ends = np.cumsum([len(mask) for mask in part_masks])[:-1]
            weights = np.split(solved.log_weights(temperature), ends)
            return free_energy_difference(part_masks, weights, temperature, rng, solved)

        estimate = free_energy_difference(masks, log_weights, temperature, rng, states)
        history = [earlier for fraction in FRACTIONS if (earlier := part(0.0, fraction)) is not None]
        halves = part(0.0, 0.5), part(0.5, 1.0)
        titles = [name for name in dict.fromkeys(names) if name is not None]
        alone = {title: own for title in titles if (own := part(0.0, 1.0, title)) is not None}
        reasons = _reasons(estimate, halves, alone, crossings, tolerance)
        return cls(estimate, FRACTIONS[-len(history) :], history, halves, alone, crossings, reasons)

    @property
    def converged(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """One sentence: whether the estimate has converged, and the numbers that it follows from."""
        if not self.converged:
            return f"Not converged: {'; '.join(self.reasons)}."
        low, high = self.estimate.interval
        first, second = self.halves
        compared = ""
        if first is not None and second is not None:  # else there would be a reason
            difference = abs(first.value - second.value)
            compared = f"the two halves of the data differ by {difference:.1f} kJ/mol, which their errors allow"
        others = f", {len(self.groups)} groups of walkers agree" if len(self.groups) > 1 else ""
        return (
            f"Converged to {self.estimate.value:.1f} kJ/mol, with a 95 % interval from {low:.1f} to {high:.1f} kJ/mol: "
            f"{compared}{others}, walkers crossed {self.crossings:,} times, and the weights leave "
            f"{self.estimate.effective_frames:,.0f} effective frames, {self.estimate.independent_frames:,.0f} of them "
            "independent in time."
        )


Halves = tuple[Difference | None, Difference | None]


def _reasons(
    estimate: Difference, halves: Halves, groups: Mapping[str, Difference], crossings: int, tolerance: float
) -> list[str]:
    reasons = []
    if not np.isfinite(estimate.error):
        reasons.append(
            "the data do not bound the error, since one of the two states has frames in at most one block of time"
        )
    elif estimate.half_width > tolerance:
        reasons.append(
            f"the 95 % interval reaches {estimate.half_width:.1f} kJ/mol to either side, and {tolerance:.2g} kJ/mol is "
            "the most that is of use"
        )
    if crossings < MIN_CROSSINGS:
        times = f"{crossings} time{'' if crossings == 1 else 's'}"
        reasons.append(f"walkers crossed {times}, and at least {MIN_CROSSINGS} crossings are needed")
    if estimate.independent_frames < MIN_INDEPENDENT_FRAMES:
        reasons.append(
            f"the weights are so uneven that they count as {estimate.effective_frames:,.0f} frames, of which "
            f"correlation in time leaves {estimate.independent_frames:.0f} independent ones: at least "
            f"{MIN_INDEPENDENT_FRAMES} are needed"
        )
    if np.isfinite(estimate.error) and _bounded(halves) is None:
        reasons.append("one half of the data alone does not bound the error")
    bounded = {name: group for name, group in groups.items() if np.isfinite(group.error)}
    for title, gap, allowed in [_halves_apart(halves), _group_apart(bounded)]:
        if gap > allowed:
            reasons.append(f"{title} differ by {gap:.1f} kJ/mol, and their errors allow {allowed:.1f} kJ/mol")
    return reasons


def _bounded(halves: Halves) -> tuple[Difference, Difference] | None:
    """Both halves, if the data bound the error of each."""
    first, second = halves
    if first is None or second is None or not np.isfinite([first.error, second.error]).all():
        return None
    return first, second


def _halves_apart(halves: Halves) -> tuple[str, float, float]:
    """What is compared, how far apart the two are, and how far they may be by chance, kJ/mol."""
    if (bounded := _bounded(halves)) is None:
        return "", 0.0, 0.0
    first, second = bounded
    widths = [half_width(half.error, half.dof, SIGNIFICANCE) for half in bounded]
    return "first and second half of the data", abs(first.value - second.value), float(np.hypot(*widths))


def _group_apart(groups: Mapping[str, Difference]) -> tuple[str, float, float]:
    """The same for the group that differs most from the weighted mean of the others."""
    if len(groups) < 2:
        return "", 0.0, 0.0
    names, values = list(groups), np.array([group.value for group in groups.values()])
    # Weights by the interval at this level, not by the error itself: that of few blocks may be small by chance.
    significance = SIGNIFICANCE / len(groups)
    widths = np.array([half_width(group.error, group.dof, significance) for group in groups.values()])
    inverse = 1 / np.maximum(widths, 1e-9) ** 2
    rest = inverse.sum() - inverse
    gaps = np.abs(values - ((inverse * values).sum() - inverse * values) / rest)
    allowed = np.sqrt(widths**2 + 1 / rest)
    worst = int(np.argmax(gaps / allowed))
    title = f"{names[worst]} and the other groups together"
    if len(names) == 2:
        title = " and ".join(names[index] for index in np.argsort(values))
    return title, float(gaps[worst]), float(allowed[worst])
