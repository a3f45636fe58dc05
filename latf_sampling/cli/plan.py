"""What `latf check` and `latf run --dry-run` print: the same plan, the latter with its time on this machine."""

from __future__ import annotations

from pathlib import Path

from latf_sampling.cli import tables
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.status import status
from latf_sampling.settings import Protocol


def plan(protocol: Path, output: Path | None, width: int | None, timed: bool = False) -> str:
    """Check a protocol without writing anything; returns what would run.

    Parameters
    ----------
    protocol
        The YAML file.
    output
        Directory of a campaign that would go on with it; `None` where it would begin.
    width
        Characters of a line; `None` wraps nothing.
    timed
        Whether the time is estimated, by some seconds of dynamics.

    Raises
    ------
    LatfError
        The protocol cannot work, or not in this directory.
    """
    settings = Protocol.load(protocol) if output is None else CampaignDirectory(output).load_protocol(protocol)

    from latf_sampling.campaign.check import check, summary, warn_of_space
    from latf_sampling.campaign.extend import preview
    from latf_sampling.core.installation import check_installation
    from latf_sampling.records.setup import Setup

    check_installation()
    changes = [] if output is None else preview(CampaignDirectory(output), settings)
    setup = Setup(settings)
    check(setup)
    directory = None if output is None else CampaignDirectory(output)
    if directory is not None:
        warn_of_space(setup, directory)
    first, *rows = summary(setup, directory)
    if timed:
        from latf_sampling.campaign.speed import measure_speed

        rows.append(("time", measure_speed(setup).words(settings)))
    left = [] if directory is None or changes else _left(directory, settings)
    return "\n".join([f"{protocol}: valid. It would run:", tables.aligned(first, rows, width), *changes, *left])


def _left(directory: CampaignDirectory, protocol: Protocol) -> list[str]:
    """What is left to do in a campaign with results, in a sentence."""
    if not (directory.protocol_file.exists() and directory.has_results()):
        return []
    protocol, _ = directory.with_added_rounds(protocol)
    steps = [entry["step"] for entry in status(protocol, directory) if entry["done"] < 1]
    if steps in ([], ["report"]):
        return ["Everything is finished: only the report would be written again."]
    return [f"What is finished stays. Left to do: {', '.join(steps)}."]
