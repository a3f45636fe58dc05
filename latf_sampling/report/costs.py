"""Where the time went."""

from __future__ import annotations

from latf_sampling.records.records import Records
from latf_sampling.report import charts, page, words


def numbers(records: Records) -> dict:
    """Wall seconds, each process counted by itself.

    The bias costs what biased walkers took beyond what as many steps took in plain dynamics: not known without any.
    """
    plain = [walker for entry in records.rounds if entry.kind == "plain" for walker in entry.begun]
    biased = [walker for entry in records.rounds if entry.biased for walker in entry.begun]
    plain_seconds, biased_seconds = (sum(walker.seconds for walker in group) for group in (plain, biased))
    bias = None
    if plain and biased:
        steps = sum(walker.simulated for walker in biased) / sum(walker.simulated for walker in plain)
        bias = biased_seconds - steps * plain_seconds
    learning = sum(learned.history["seconds"] for _, learned in records.learned)
    return {"plain": plain_seconds, "biased": biased_seconds, "bias_alone": bias, "learning": learning}


def section(records: Records) -> str:
    title, spent = "Where the time went", numbers(records)
    total = spent["plain"] + spent["biased"] + spent["learning"]
    if not total:
        return page.section(title, page.missing("Nothing has been run yet."))
    bias = spent["bias_alone"]
    if bias is None:
        entries = [("plain dynamics", spent["plain"]), ("biased dynamics", spent["biased"])]
    else:
        extra = max(bias, 0.0)
        entries = [("dynamics itself", spent["plain"] + spent["biased"] - extra), ("evaluating the bias", extra)]
    entries.append(("learning", spent["learning"]))
    shares = [(label, seconds / total, charts.colour(k)) for k, (label, seconds) in enumerate(entries)]
    parts = [
        page.shares(shares),
        page.table(("stage", "wall time"), [(label, words.wall(seconds)) for label, seconds in entries]),
        page.paragraph(
            "These are wall seconds of processes, which run at the same time where there are cores for them: a "
            "round of two walkers counts twice, and what else the machine did is in them. Evaluating the bias is "
            "what biased walkers took beyond what as many steps took in plain dynamics. Making starting structures "
            "and work that an interruption threw away are not recorded.",
            "soft",
        ),
        page.table(("walker", "dynamics", "simulated", "wall time", "speed"), _speeds(records)),
    ]
    return page.section(title, *parts)


def _speeds(records: Records) -> list[tuple]:
    return [
        (
            walker.frames.label,
            entry.kind,
            words.span(walker.simulated),
            words.wall(walker.seconds),
            walker.speed,
        )
        for entry in records.rounds
        if not entry.given
        for walker in entry.begun
    ]
