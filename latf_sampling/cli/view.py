"""What `latf run` shows on a terminal and `latf status` prints: steps, walkers, states, free energy and time left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from latf_sampling.campaign.log import is_running, last_events
from latf_sampling.campaign.progress import Paces
from latf_sampling.cli import tables
from latf_sampling.core.words import duration, plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.ledger import journal_mode
from latf_sampling.records.records import Records
from latf_sampling.records.standing import walkers_of_present_round
from latf_sampling.records.status import disagreements
from latf_sampling.settings import Protocol, RoundSettings

MOST_WALKERS = 20
"""Of more walkers only those that are neither finished nor waiting are shown, and no more than these."""
BAR = 20
"""Characters of a bar."""


def standing(directory: Path) -> dict[str, Any]:
    """Where a campaign stands, from its files alone.

    Returns
    -------
    dict
        "directory", "finished", "running" (`None` where that cannot be told), "earlier_protocols", "steps" as
        `Records.status` returns them, "walkers" as `walkers_of_present_round`, "free_energy", the last event of that
        name in the log about what is observed now or `None`, "disagreements", sentences about ways to estimate one
        number that differ by more than their errors say, "progress", the last one of a step that is not finished or
        `None`, and "ledger" with "file" and "journal", SQLite's journal mode.

    Raises
    ------
    StoreError
        There is no campaign in the directory, or a file of it is damaged.
    """
    records, files = Records.load(directory), CampaignDirectory(directory)
    steps, events = records.status(), last_events(files.log)
    finished = all(entry["done"] >= 1 for entry in steps)
    running = is_running(events)
    named = {event["event"]: event for event in events}
    free_energy = named.get("free energy")
    if free_energy is not None and "observe" in free_energy:
        observe = records.protocol.observe
        if observe is None or observe.what() != free_energy["observe"]:
            free_energy = None  # of what an earlier protocol observed
    progress = named.get("progress")
    done = {event.get("step") for event in events[_place(events, progress) :] if event["event"] == "step"}
    done |= {entry["step"] for entry in steps if entry["done"] >= 1}
    if finished or progress is None or progress.get("step") in done:
        progress = None
    return {
        "directory": str(files.path),
        "finished": finished,
        "running": running,
        "earlier_protocols": len(files.versions()),
        "steps": steps,
        "walkers": walkers_of_present_round(records.protocol, files),
        "free_energy": free_energy,
        "disagreements": disagreements(records.protocol, files, free_energy),
        "progress": progress,
        "ledger": {"file": str(files.ledger), "journal": journal_mode(files.ledger)},
    }


def _place(events: list[dict[str, Any]], event: dict[str, Any] | None) -> int:
    return len(events) if event is None else next(k for k, each in enumerate(events) if each is event)


def table(standing: dict[str, Any], width: int | None) -> str:
    """The steps of a campaign with the words for each, in a table; lines are as long as they need to be for `None`."""
    rows = [[entry["step"], f"{100 * entry['done']:.0f} %", entry["words"]] for entry in standing["steps"]]
    lines = [tables.aligned(["step", "done", ""], rows, width)]
    lines += _walkers(standing, width)
    if (words := _free_energy(standing)) is not None:
        lines.append(words)
    lines += standing.get("disagreements", [])
    if (progress := standing.get("progress")) is not None:
        left, about = progress.get("seconds_left"), ""
        if standing.get("running") is False:
            about = " when it stopped"
        elif isinstance(left, (int, float)):
            about = f", about {duration(left)} left"
        words = f"{progress.get('step')}: {100 * progress.get('fraction', 0):.0f} %{about}"
        lines.append(f"{words} (as of {progress.get('time')}). {progress.get('words')}")
    if standing.get("running") is False and not standing["finished"]:
        lines.append("No process runs it: `latf run` goes on with it.")
    if standing["ledger"]["journal"] == "delete":
        lines.append("Its disk is one of a network, where the ledger is written without SQLite's write-ahead log.")
    if standing["earlier_protocols"]:
        times, folder = plural(standing["earlier_protocols"], "time"), f"{standing['directory']}/earlier"
        lines.append(f"The protocol was changed {times}; what belongs to earlier ones is in {folder}.")
    return "\n".join(lines)


def _walkers(standing: dict[str, Any], width: int | None) -> list[str]:
    """A table of the walkers of the present round; none once the campaign is finished."""
    walkers = standing.get("walkers", [])
    if standing["finished"] or not walkers:
        return []
    shown = walkers
    if len(walkers) > MOST_WALKERS:
        shown = [entry for entry in walkers if entry["state"] not in ("finished", "waiting")][:MOST_WALKERS]
    rows = []
    for entry in shown:
        where = ", ".join(words for words in (entry["platform"], entry["device"]) if words)
        speed = "" if entry["ns_per_day"] is None else f"{entry['ns_per_day']:,.3g} ns/day"
        state = "running" if entry["state"] == "begun" else entry["state"]
        if entry["state"] == "begun" and standing.get("running") is False:
            state = "stopped"
        if entry["rolled_back"]:
            state += f", rolled back {plural(entry['rolled_back'], 'time')}"
        segments = f"{entry['segments']:,} of {entry['of']:,}"
        rows.append([f"{entry['walker']}", f"{entry['temperature']:g} K", segments, speed, where, state])
    head = [f"{walkers[0]['round']}: walker", "T", "segments", "speed", "device", "state"]
    lines = ["", tables.aligned(head, rows, width)]
    if len(shown) < len(walkers):
        lines.append(f"... of {plural(len(walkers), 'walker')}")
    return [*lines, ""]


def _free_energy(standing: dict[str, Any]) -> str | None:
    event = standing.get("free_energy")
    return None if event is None else f"Free energy after round {event.get('round')}: {event.get('words')}"


class RunView:
    """What a command shows on a terminal: drawn anew from what steps report and, less often, from a campaign's files.

    Parameters
    ----------
    directory
        Of the campaign that runs; `None` for other commands, which have steps alone.
    paces
        What steps of this run have reported.
    """

    def __init__(self, directory: Path | None, paces: Paces) -> None:
        self.directory, self.paces, self._began = directory, paces, time.monotonic()
        self.standing: dict[str, Any] | None = None
        self._time_left: TimeLeft | None = None

    def read(self) -> None:
        """Look at the files again."""
        if self.directory is not None:
            self.standing = standing(self.directory)
            self._time_left = TimeLeft(CampaignDirectory(self.directory).protocol())

    def draw(self, console: Console) -> Group:
        """The view as it is now."""
        steps = self._steps()
        below = [] if self.standing is None else _walkers({**self.standing, "running": True}, console.width)
        done = [step for step, (fraction, *_) in steps.items() if fraction >= 1]
        room = max(3, console.height - len(below) - 4)
        hidden = done[: max(0, len(steps) - room)]  # the bottom of what is higher than the terminal is not seen
        rows = [
            [step, _bar(fraction), f"{100 * fraction:.0f} %", time, words]
            for step, (fraction, time, words) in steps.items()
            if step not in hidden
        ]
        lines = [tables.aligned(["step", "", "done", "time", ""], rows, console.width)] if rows else []
        if hidden:
            lines.insert(0, f"{plural(len(hidden), 'step')} finished")
        return Group(*(Text(line) for line in [*lines, *below, self._times(steps)]))

    def _steps(self) -> dict[str, tuple[float, str, str]]:
        """Fraction, time and words of each step, in order."""
        known = [] if self.standing is None else self.standing["steps"]
        steps = {entry["step"]: (entry["done"], "", entry["words"]) for entry in known}
        names, last = list(steps), None
        for step, (pace, words) in list(self.paces.steps.items()):
            left = pace.seconds_left()
            spent = duration(pace.seconds) if pace.fraction >= 1 else "" if left is None else f"{duration(left)} left"
            steps[step] = pace.fraction, spent, words.partition(";")[0]  # the rest is in the log
            if step not in names:
                names.insert(len(names) if last is None else names.index(last) + 1, step)
            last = step
        return {name: steps[name] for name in names}

    def _times(self, steps: dict[str, tuple[float, str, str]]) -> str:
        words = f"{duration(time.monotonic() - self._began)} so far"
        if self._time_left is None or self.standing is None:
            return words
        left, unknown = self._time_left.seconds_left([name for name, step in steps.items() if step[0] < 1], self.paces)
        if left > 0:
            words += f"; about {duration(left)} left"
        return f"{words}; not known yet: {', '.join(unknown)}" if unknown else words


class TimeLeft:
    """How long steps will take that have not begun, from those of the same kind that this run has finished.

    Simulations of one kind of bias take a time in proportion to their length and to the number of walkers, trainings in
    proportion to the frames. Of other steps nothing is known.

    Parameters
    ----------
    protocol
        Of the campaign.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._sizes: dict[str, tuple[str, float]] = {}
        frames = 0.0
        for index, settings in enumerate(protocol.runs):
            name = protocol.run_name(index)
            if isinstance(settings, RoundSettings):
                size = settings.length * len(settings.walkers)
                kind = "plain" if settings.bias is None else settings.bias.kind
                self._sizes[f"{name}: simulate"] = f"simulate, {kind}", size
                frames += size
            self._sizes[f"{name}: learn"] = "learn", frames

    def seconds_left(self, steps: list[str], paces: Paces) -> tuple[float, list[str]]:
        """What steps that are not finished will take, as far as it is known, and those of which nothing is known."""
        rates: dict[str, float] = {}
        for name, (pace, _) in list(paces.steps.items()):
            kind, size = self._sizes.get(name, (name, 0.0))
            if pace.fraction >= 1 and pace.done > 0.5 and size > 0:
                rates[kind] = pace.seconds / (pace.done * size)
        total, unknown = 0.0, []
        for name in steps:
            kind, size = self._sizes.get(name, (name, 0.0))
            left = paces.steps[name][0].seconds_left() if name in paces.steps else None
            if left is None and kind in rates:
                left = rates[kind] * size
            if left is None:
                unknown.append(name)
            else:
                total += left
        return total, unknown


def _bar(fraction: float) -> str:
    """
    >>> _bar(0.26)
    '━━━━━               '
    """
    full = int(BAR * min(max(fraction, 0.0), 1.0))
    return "━" * full + " " * (BAR - full)
