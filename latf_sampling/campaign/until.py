"""Rounds are added to a campaign until its free-energy difference is known well enough, and no longer changes."""

from __future__ import annotations

import math

from latf_sampling.campaign.progress import Progress
from latf_sampling.core import storage
from latf_sampling.errors import SettingsError
from latf_sampling.records.records import Records
from latf_sampling.report.estimates import Estimates
from latf_sampling.settings import Protocol
from latf_sampling.units import EnergyLike, to_float


class Until:
    """How well the free-energy difference of a campaign is to be known.

    Parameters
    ----------
    error
        Standard error, kJ/mol, or a quantity.
    max_rounds
        Rounds of the campaign at most.
    settled
        Whether, besides the error, the last round must have changed neither the free energy, by more than twice the
        combined error of what was known before it and after it, nor the number of states, and the estimate must have
        converged as the report tests it.

    Attributes
    ----------
    error : float
        kJ/mol.
    reached : float
        Error after the last round that was looked at, kJ/mol; infinite where it is not known.
    unsettled : list of str
        What has not settled after that round, in words.

    Raises
    ------
    SettingsError
        The error is not positive, or the number of rounds is not.

    Examples
    --------
    >>> Until(0.2).error
    0.2
    """

    def __init__(self, error: EnergyLike, max_rounds: int = 20, settled: bool = False) -> None:
        self.settled, self.unsettled = settled, list[str]()
        self.error, self.max_rounds, self.reached = to_float(error, "energy", "until"), max_rounds, math.inf
        if not 0 < self.error < math.inf:
            raise SettingsError(f"until: the error must be a positive energy; got {self.error:g} kJ/mol.")
        if max_rounds < 1:
            raise SettingsError(f"until: the largest number of rounds must be positive; got {max_rounds}.")

    def check(self, protocol: Protocol) -> None:
        """Refuse a protocol whose free-energy difference is not known, or whose last round cannot be repeated.

        Raises
        ------
        SettingsError
            Names the key.
        """
        if protocol.observe is None:
            raise SettingsError("observe: without this key there is no free-energy difference whose error is known.")
        protocol.with_rounds(1)

    def asks_for_more(self, records: Records, progress: Progress) -> bool:
        """Whether a campaign whose rounds are finished needs another one."""
        loaded = Records.load(records.directory.path, trust=True)
        estimates = Estimates.from_records(loaded)
        pooled = estimates.pooled
        self.reached = math.inf if pooled is None or math.isnan(pooled.error) else pooled.error
        self.unsettled = unsettled(loaded, estimates) if self.settled else []
        progress(f"round {records.n_rounds - 1}: error", 1.0, self.words)
        wanted = self.reached > self.error or bool(self.unsettled)
        more = wanted and records.n_rounds < self.max_rounds
        decision = "a further round" if more else "no further round"
        if wanted and not more:
            decision += f", since there are {self.max_rounds}"
        content = {"round": records.n_rounds - 1, "decision": decision, "reason": self.words}
        storage.write_json(records.directory.until, content)
        return more

    @property
    def words(self) -> str:
        """The error that was reached and the one that is wanted."""
        known = f"{self.reached:.2g} kJ/mol" if math.isfinite(self.reached) else "not known"
        words = f"the error of the free-energy difference is {known}; {self.error:g} kJ/mol are wanted"
        return "; ".join([words, *self.unsettled])


def unsettled(records: Records, estimates: Estimates) -> list[str]:
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
