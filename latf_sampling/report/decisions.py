"""What the campaign decided between its rounds, and why: where walkers start, whether to train, and when to end."""

from __future__ import annotations

from latf_sampling.core import storage
from latf_sampling.records.records import Records
from latf_sampling.report import page
from latf_sampling.report.estimates import Estimates
from latf_sampling.starts.files import StartFiles


def section(records: Records, estimates: Estimates) -> str:
    """A table of decisions; empty where nothing was decided, since all is as by default."""
    rows = [
        row for entry in records.rounds for row in (*_starts(records, entry.index), *_training(records, entry.index))
    ]
    if records.directory.until.exists():
        until = storage.read_json(records.directory.until)
        rows.append((f"after round {until['round']}", until["decision"], f"{until['reason']}."))
    if not rows:
        return ""
    return page.section("Decisions", page.table(("when", "decision", "reason"), rows))


def _starts(records: Records, index: int) -> list[tuple[str, str, str]]:
    """Where the walkers of a round start, unless at samples of the flow."""
    files, rows = records.directory.round(index), []
    for first in files.start_sets():
        structures = StartFiles(files.start_set(first))
        settings = structures.manifest().content["settings"] if structures.complete else {}
        if reason := settings.get("reason"):
            later = f", from walker {first} on" if first else ""
            decision = f"walkers start from archived frames ({settings['restart']})"
            rows.append((f"before round {index}{later}", decision, f"They are {reason}."))
    return rows


def _training(records: Records, index: int) -> list[tuple[str, str, str]]:
    """Whether a model was trained after a round, where that was a question."""
    history = records.rounds[index].learned
    if history is None or records.protocol.learning.retrain == "always" or "decision" not in history.history:
        return []
    trained = history.history["trained"] == index
    decision = "a model was trained" if trained else "the model of the round before was kept"
    return [(f"after round {index}", decision, f"{history.history['decision'].capitalize()}.")]
