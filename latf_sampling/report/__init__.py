"""Pages that need no other file: of a campaign, finished or not, of several, of an evaluation, and of a scan of lags.

To add a section to the report of a campaign, write a file with a function ``section(records, estimates) -> str`` and
enter it in `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.outputs import output_file
from latf_sampling.core.provenance import Attempt
from latf_sampling.records.records import Records
from latf_sampling.records.status import results
from latf_sampling.report import (
    costs,
    crossings,
    decisions,
    descriptors,
    equilibration,
    exchange,
    failures,
    headline,
    landscapes,
    learning,
    page,
    provenance,
    series,
    starts,
    structures,
    weights,
)
from latf_sampling.report.comparison import write_comparison
from latf_sampling.report.estimates import Estimates
from latf_sampling.report.evaluation import write_evaluation
from latf_sampling.report.lags import write_lags

__all__ = ["SECTIONS", "write_comparison", "write_evaluation", "write_lags", "write_report"]

SECTIONS: list[Callable[[Records, Estimates], str]] = [
    headline.section,
    crossings.section,
    exchange.section,
    weights.section,
    landscapes.section,
    structures.section,
    series.section,
    equilibration.section,
    failures.section,
    decisions.section,
    learning.section,
    descriptors.section,
    starts.section,
    costs.section,
    provenance.section,
]
"""The sections of a campaign's report, in their order. Each returns HTML, also for an unfinished campaign: it says what
is missing, and is empty where it does not apply."""


SHARES = {
    "headline": 0.3,
    "weights": 0.3,
    "landscapes": 0.8,
    "structures": 0.6,
    "series": 0.3,
    "learning": 1.5,
    "starts": 0.4,
}
"""Seconds of sections that draw, in a report of a small campaign on one core; others take a hundredth of one."""
READING = 0.5
"""Seconds of reading the campaign and of its estimates."""


def _share(section: Callable[[Records, Estimates], str]) -> float:
    return SHARES.get(_name(section), 0.01)


def _name(section: Callable[[Records, Estimates], str]) -> str:
    """Name of the file of a section."""
    return section.__module__.rpartition(".")[2]


def write_report(
    records: Records,
    path: str | Path | None = None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Path:
    """Write the report of a campaign, from what is finished of it.

    The same files give the same report. Its headline numbers are repeated as JSON in the element with the id "numbers":
    null where there is no number, or no bound on an error. No other file is written or locked, but the manifest of the
    report in the campaign's directory.

    Parameters
    ----------
    records
        The campaign.
    path
        File to write; by default `report.html` in the campaign's directory.
    progress
        Called with the fraction that is done, and a few words.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    StoreError
        A finished file is missing, was changed or cannot be read; names it. Or the report cannot be written, which is
        found before it is made.
    DataError
        A trajectory does not fit its table; names the file.
    """
    own, attempt = records.directory.report, Attempt(None, "report")
    target = output_file(own) if path is None else output_file(path)
    records.verify()
    estimates = Estimates.from_records(records)
    sections, done, total = [], READING, READING + sum(map(_share, SECTIONS))
    for section in SECTIONS:
        progress(done / total, f"section '{_name(section)}'")
        sections.append(section(records, estimates))
        done += _share(section)
    numbers = {
        **headline.numbers(records, estimates),
        "seconds": costs.numbers(records),
        "backends": costs.backends(records),
    }
    title = f"{records.protocol.name}: campaign report"
    storage.write_text(target, page.document(title, sections, numbers, structures.scripts(sections)))
    if target.absolute() == own:
        stated = {"results": results(records.protocol, records.directory)}
        Manifest.write(records.directory.report_marker, stated, [own], attempt.provenance())
    return target
