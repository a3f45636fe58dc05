"""What `latf status` and `latf verify` print."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from latf_sampling.cli import tables
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.records import Records

INTERVAL = 2.0
"""s between two looks at a campaign that is watched."""


def print_status(directory: Path, out: Console, as_json: bool = False, watch: bool = False) -> None:
    """Print where a campaign stands, once, or whenever it changes until the campaign is finished.

    On a terminal a campaign that is watched has one table, which is drawn anew.
    """
    standings = _changes(directory) if watch else iter([_standing(directory)])
    if watch and out.is_terminal and not as_json:
        with Live(console=out, auto_refresh=False) as live:
            for standing in standings:
                live.update(Text(_table(standing, out)), refresh=True)
        return
    for standing in standings:
        if as_json:  # a line for each change
            print(json.dumps(standing, indent=None if watch else 1), flush=True)
        else:
            out.print(Text(_table(standing, out)), soft_wrap=True)


def _changes(directory: Path) -> Iterator[dict[str, Any]]:
    """Where a campaign stands, again after each change, until it is finished."""
    before = None
    while before is None or not before["finished"]:
        standing = _standing(directory)
        if standing != before:
            yield standing
            before = standing
        else:
            time.sleep(INTERVAL)


def _standing(directory: Path) -> dict[str, Any]:
    steps, files = Records.load(directory).status(), CampaignDirectory(directory)
    return {
        "directory": str(files.path),
        "finished": all(entry["done"] >= 1 for entry in steps),
        "earlier_protocols": len(files.versions()),
        "steps": steps,
    }


def _table(standing: dict[str, Any], out: Console) -> str:
    rows = [[entry["step"], f"{100 * entry['done']:.0f} %", entry["words"]] for entry in standing["steps"]]
    table = tables.aligned(["step", "done", ""], rows, out.width if out.is_terminal else None)
    if not standing["earlier_protocols"]:
        return table
    times, folder = plural(standing["earlier_protocols"], "time"), f"{standing['directory']}/earlier"
    return f"{table}\nThe protocol was changed {times}; what belongs to earlier ones is in {folder}."
