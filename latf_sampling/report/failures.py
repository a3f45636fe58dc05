"""What went wrong with walkers: segments that were rolled back, and walkers that were retired."""

from __future__ import annotations

from latf_sampling.core.words import plural
from latf_sampling.data.failures import WalkerFailures
from latf_sampling.records.records import Records
from latf_sampling.report import page
from latf_sampling.report.estimates import Estimates


def section(records: Records, estimates: Estimates) -> str:
    """A table with each failure; empty where no walker failed."""
    failed = [
        (f"round {entry.index}, walker {number}", found)
        for entry in records.rounds
        for number, found in sorted(entry.failures.items())
    ]
    if not failed:
        return ""
    retired = sum(found.retired is not None for _, found in failed)
    rolled_back = sum(len(found.failures) for _, found in failed)
    text = (
        f"{plural(rolled_back, 'segment')} rolled back, {plural(retired, 'walker')} retired. Frames and hills of a "
        "segment that was rolled back do not count; finished segments of a walker that was retired do."
    )
    rows = [row for name, found in failed for row in _rows(name, found)]
    return page.section(
        "Walkers that failed", page.paragraph(text), page.table(("walker", "segment", "step", "what happened"), rows)
    )


def _rows(name: str, found: WalkerFailures) -> list[tuple]:
    last = found.failures[-1] if found.retired is not None else None
    return [
        (name, failure.segment, failure.step, f"{failure.sentence}.{' Retired.' if failure is last else ''}")
        for failure in found.failures
    ]
