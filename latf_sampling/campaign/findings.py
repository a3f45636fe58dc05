"""What is known of the free-energy difference after a round, and whether it has settled.

Modules that load torch are imported where they are used: the process that runs a campaign leaves these looks at the
frames to another one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latf_sampling.campaign.progress import StepProgress
from latf_sampling.errors import SimulationError
from latf_sampling.records.records import Records

if TYPE_CHECKING:
    from latf_sampling.report.estimates import Estimates


@dataclass(frozen=True)
class Finding:
    """The free-energy difference of the observed variable from the rounds so far.

    Attributes
    ----------
    temperature : float
        K.
    state : str
        What it is the free energy of, less that of the rest.
    value, error : float
        kJ/mol; NaN where nothing has crossed yet, or where the error is not known.
    disagreement : str or None
        A sentence where weightings of the frames disagree by more than their errors say.
    unsettled : list of str
        What the last round changed, and what has not converged, in words; empty where that was not asked for.
    """

    temperature: float
    state: str
    value: float
    error: float
    disagreement: str | None = None
    unsettled: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The estimate for people.

        >>> Finding(300.0, "phi > 0", 8.63, 0.07).words
        '8.6 ± 0.1 kJ/mol of phi > 0 at 300 K'
        """
        if math.isnan(self.value):
            return f"not known: nothing at {self.temperature:g} K has crossed yet"
        if math.isfinite(self.error):
            return f"{self.value:.1f} ± {self.error:.1f} kJ/mol of {self.state} at {self.temperature:g} K"
        return f"{self.value:.1f} kJ/mol of {self.state} at {self.temperature:g} K, with an unknown error"

    @property
    def numbers(self) -> dict[str, Any]:
        """The estimate for a file; what is not known is `None`, since JSON has no other word for it."""
        value, error = (number if math.isfinite(number) else None for number in (self.value, self.error))
        return {
            "temperature": self.temperature,
            "state": self.state,
            "value": value,
            "error": error,
            "disagreement": self.disagreement,
        }


def free_energy(records: Records, progress: StepProgress, settled: bool = False) -> Finding:
    """The free-energy difference from the rounds so far, and on request what has not settled.

    It takes one more look at the frames for the observed variable, a small part of what learning from them takes.
    """
    from latf_sampling.report.estimates import Estimates

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report says what is wrong with an estimate
        estimates = Estimates.from_records(records)
    pooled = estimates.pooled
    value, error = (math.nan, math.nan) if pooled is None else (pooled.value, pooled.error)
    unsettled = _unsettled(records, estimates) if settled else []
    return Finding(estimates.temperature, estimates.state, value, error, _disagreement(records, estimates), unsettled)


def _disagreement(records: Records, estimates: Estimates) -> str | None:
    """Where c(t) and MBAR differ by more than their errors say, in a sentence."""
    from latf_sampling.report import weights

    if not weights.applies(records, estimates):
        return None
    try:
        return weights.disagreement(weights.differences_by_weights(records, estimates))
    except SimulationError:
        return None  # the report says that the hills cannot be read


def _unsettled(records: Records, estimates: Estimates) -> list[str]:
    """What the last round of a campaign changed, and whether its free-energy difference has converged, in words."""
    reasons, states = [], [len(learned.history["states"]) for _, learned in records.learned[-2:]]
    if len(states) < 2:
        return ["there is no earlier model to compare the states with"]
    if states[0] != states[1]:
        reasons.append(f"the last round changed the number of states from {states[0]} to {states[1]}")
    last, before = records.rounds[-1].index, [index for index in estimates.rounds if index < records.rounds[-1].index]
    if not before or last not in estimates.sampled:
        return [*reasons, "there is no earlier round to compare the free energy with"]
    earlier = estimates.until_round(records, before[-1])
    if earlier is None or estimates.pooled is None:
        return [*reasons, "the free energy before the last round is not known"]
    change, allowed = abs(estimates.pooled.value - earlier.value), 2 * math.hypot(estimates.pooled.error, earlier.error)
    if not change <= allowed:
        reasons.append(f"the last round changed the free energy by {change:.2g} kJ/mol, more than {allowed:.2g} kJ/mol")
    if estimates.convergence is not None and not estimates.convergence.converged:
        reasons += estimates.convergence.reasons
    return reasons
