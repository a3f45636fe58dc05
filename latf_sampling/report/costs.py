"""Wall time of each step, and the backends that evaluated the bias."""

from __future__ import annotations

from latf_sampling.records.records import Records
from latf_sampling.records.rounds import Round, Walker
from latf_sampling.report import charts, page, words
from latf_sampling.report.estimates import Estimates


def numbers(records: Records) -> dict:
    """Wall seconds, summed over processes.

    The cost of the bias is the time of the biased walkers minus that of as many steps of plain dynamics; it is not
    known without plain dynamics.
    """
    plain = [walker for entry in records.rounds if entry.kind == "plain" for walker in entry.begun]
    biased = [walker for entry in records.rounds if entry.biased for walker in entry.begun]
    plain_seconds, biased_seconds = (sum(walker.seconds or 0.0 for walker in group) for group in (plain, biased))
    bias = None
    if plain and biased:
        steps = sum(walker.simulated for walker in biased) / sum(walker.simulated for walker in plain)
        bias = biased_seconds - steps * plain_seconds
    learning = sum(learned.history["seconds"] for _, learned in records.learned)
    return {"plain": plain_seconds, "biased": biased_seconds, "bias_alone": bias, "learning": learning}


def backends(records: Records) -> dict[str, list[str]]:
    """The backends that evaluated the bias of each biased round, as far as they were recorded."""
    return {
        str(entry.index): sorted({backend for walker in entry.begun for backend in walker.backends})
        for entry in records.rounds
        if entry.biased
    }


def section(records: Records, estimates: Estimates) -> str:
    title, spent = "Wall time", numbers(records)
    total = spent["plain"] + spent["biased"] + spent["learning"]
    if not total:
        return page.section(title, page.missing("No step has been run yet."))
    bias = spent["bias_alone"]
    if bias is None:
        entries = [("plain dynamics", spent["plain"]), ("biased dynamics", spent["biased"])]
    else:
        extra = max(bias, 0.0)
        entries = [("dynamics", spent["plain"] + spent["biased"] - extra), ("evaluating the bias", extra)]
    entries.append(("learning", spent["learning"]))
    shares = [(label, seconds / total, charts.color(k)) for k, (label, seconds) in enumerate(entries)]
    parts = [
        page.shares(shares),
        page.table(("stage", "wall time"), [(label, words.wall(seconds)) for label, seconds in entries]),
        page.paragraph(
            "Wall times are summed over processes, which run in parallel where there are enough cores; they include "
            "the effect of other programs on the machine. The time for evaluating the bias is that of biased walkers "
            "minus that of as many steps of plain dynamics. The generation of starting structures, and work that was "
            "lost to an interruption, are not included.",
            "soft",
        ),
        page.table(("walker", "dynamics", "backend", "simulated", "wall time", "speed"), _speeds(records)),
        *_backends(records),
    ]
    return page.section(title, *parts)


def _backends(records: Records) -> list[str]:
    """A paragraph with the reasons for the backends, as far as they were recorded."""
    reasons = {
        f"Round {entry.index} used {backend}: {reason.rstrip('.')}."
        for entry in records.rounds
        for walker in entry.begun
        for backend, reason in walker.backends.items()
        if reason
    }
    return [page.paragraph(" ".join(sorted(reasons)), "soft")] if reasons else []


def _backend(entry: Round, walker: Walker) -> str:
    if not entry.biased:
        return "no bias"
    return words.listed(list(walker.backends)) if walker.backends else "unknown"


def _speeds(records: Records) -> list[tuple]:
    return [
        (
            walker.frames.label,
            entry.kind,
            _backend(entry, walker),
            words.span(walker.simulated),
            words.wall(walker.seconds or 0.0),
            walker.speed,
        )
        for entry in records.rounds
        if not entry.external
        for walker in entry.begun
    ]
