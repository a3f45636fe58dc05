"""What `latf status` prints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from latf_sampling.cli.view import standing, table
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.ledger import summary

INTERVAL = 2.0
"""s between two looks at a campaign that is watched."""


def print_status(directory: Path, out: Console, as_json: bool = False, watch: bool = False) -> None:
    """Print where a campaign stands, once, or whenever it changes until the campaign is finished.

    On a terminal a campaign that is watched has one table, which is drawn anew.
    """
    standings = _changes(directory) if watch else iter([standing(directory)])
    width = out.width if out.is_terminal else None
    if watch and out.is_terminal and not as_json:
        with Live(console=out, auto_refresh=False) as live:
            for present in standings:
                live.update(Text(table(present, width)), refresh=True)
        return
    for present in standings:
        if as_json:  # a line for each change
            present = {**present, "ledger": summary(CampaignDirectory(directory))}
            print(json.dumps(present, indent=None if watch else 1), flush=True)
        else:
            out.print(Text(table(present, width)), soft_wrap=True)


def _changes(directory: Path) -> Iterator[dict[str, Any]]:
    """Where a campaign stands, again after each change, until it is finished."""
    before = None
    while before is None or not before["finished"]:
        present = standing(directory)
        if present != before:
            yield present
            before = present
        else:
            time.sleep(INTERVAL)
