"""Rounds are added to a campaign until its free-energy difference is known well enough, and no longer changes."""

from __future__ import annotations

import math

from latf_sampling.campaign.findings import Finding
from latf_sampling.campaign.progress import Progress
from latf_sampling.core import storage
from latf_sampling.errors import SettingsError
from latf_sampling.records.records import Records
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

    def asks_for_more(self, records: Records, finding: Finding, progress: Progress) -> bool:
        """Whether a campaign whose rounds are finished needs another one, by the free energy that they gave."""
        self.reached = math.inf if math.isnan(finding.error) else finding.error
        self.unsettled = finding.unsettled
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
