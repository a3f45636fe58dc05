"""Rounds are added to a campaign until the error of its free-energy difference is small enough."""

from __future__ import annotations

import math

from latf_sampling.campaign.progress import Progress
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

    Attributes
    ----------
    error : float
        kJ/mol.
    reached : float
        Error after the last round that was looked at, kJ/mol; infinite where it is not known.

    Raises
    ------
    SettingsError
        The error is not positive, or the number of rounds is not.

    Examples
    --------
    >>> Until(0.2).error
    0.2
    """

    def __init__(self, error: EnergyLike, max_rounds: int = 20) -> None:
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
        pooled = Estimates.from_records(Records.load(records.directory.path, trust=True)).pooled
        self.reached = math.inf if pooled is None or math.isnan(pooled.error) else pooled.error
        progress(f"round {records.n_rounds - 1}: error", 1.0, self.words)
        return self.reached > self.error and records.n_rounds < self.max_rounds

    @property
    def words(self) -> str:
        """The error that was reached and the one that is wanted."""
        known = f"{self.reached:.2g} kJ/mol" if math.isfinite(self.reached) else "not known"
        return f"the error of the free-energy difference is {known}; {self.error:g} kJ/mol are wanted"
