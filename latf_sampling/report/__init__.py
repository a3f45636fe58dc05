"""Pages that need nothing else: of a campaign, finished or not, of a model's evaluation, and of a choice of lag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latf_sampling.core import storage
from latf_sampling.records.observables import Observed
from latf_sampling.records.records import Records
from latf_sampling.report import (
    costs,
    crossings,
    descriptors,
    headline,
    landscapes,
    learning,
    page,
    provenance,
    series,
    starts,
    weights,
)
from latf_sampling.report.estimates import Estimates
from latf_sampling.report.evaluation import write_evaluation
from latf_sampling.report.lags import write_lags

if TYPE_CHECKING:
    from latf_sampling.campaign.campaign import Campaign

__all__ = ["Observed", "write_evaluation", "write_lags", "write_report"]


def write_report(campaign: Campaign) -> Path:
    """Write `report.html` into a campaign's directory, from what is there.

    The same files give the same report. Its headline numbers stand in it once more as JSON, in the element with the
    id "numbers": null where there is no number, or no bound on an error.

    Raises
    ------
    StoreError
        A finished file is missing, was changed or cannot be read; names it.
    DataError
        A trajectory does not fit its table; names it.
    """
    records = Records.read(campaign)
    estimates = Estimates.of(records)
    sections = [
        headline.section(records, estimates),
        crossings.section(records, estimates),
        weights.section(records, estimates),
        landscapes.section(records, estimates),
        series.section(records),
        learning.section(records),
        descriptors.section(records),
        starts.section(records),
        costs.section(records),
        provenance.section(records),
    ]
    numbers = {**headline.numbers(records, estimates), "seconds": costs.numbers(records)}
    storage.write_text(
        campaign.store.report, page.document(f"{records.protocol.name}: campaign report", sections, numbers)
    )
    return campaign.store.report
