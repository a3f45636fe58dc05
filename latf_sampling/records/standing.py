"""The walkers of the round that a campaign is in, from the names of files and the last manifest of each walker."""

from __future__ import annotations

from typing import Any

from latf_sampling.core.manifest import Manifest
from latf_sampling.data.layout import CampaignDirectory, WalkerDirectory
from latf_sampling.settings import Protocol, RoundSettings, n_steps

DAY = 86400.0
"""s"""


def walkers_of_present_round(protocol: Protocol, directory: CampaignDirectory) -> list[dict[str, Any]]:
    """One entry for each walker of the first round that is not finished, or of the last one where all are.

    Returns
    -------
    list of dict
        With "round", "walker", "temperature" (K), "segments" and "of", "state" ("waiting", "begun", "finished",
        "retired" or "left its trust region"), "rolled_back" (how often), and, from the last finished segment,
        "ns_per_day", "platform" and "device"; these are `None` where they are not known. Empty without rounds of
        simulations.
    """
    present: list[dict[str, Any]] = []
    for index, settings in enumerate(protocol.runs):
        if not isinstance(settings, RoundSettings):
            continue
        files = directory.run(protocol, index)
        segments = n_steps(settings.length, protocol.segment)
        folders = [files.walker(number) for number in range(len(settings.walkers))]
        if present and not any(folder.path.exists() for folder in folders):
            break
        present = [
            {
                "round": protocol.run_name(index),
                "walker": number,
                "temperature": temperature,
                **_walker(folder, segments, protocol.segment),
            }
            for number, (folder, temperature) in enumerate(zip(folders, settings.walkers))
        ]
        if any(entry["state"] in ("waiting", "begun") for entry in present):
            break
    return present


def _walker(folder: WalkerDirectory, segments: int, length: float) -> dict[str, Any]:
    done, failures = folder.finished(), folder.failures()
    last = Manifest.load(folder.segment(done - 1).marker) if done else None
    speed = None
    if last is not None and last.content.get("seconds", 0) > 0 and "stopped" not in last.content:
        speed = length / 1000 / last.content["seconds"] * DAY
    if failures.ends_before(done):
        state = "retired"
    elif last is not None and "stopped" in last.content:
        state = "left its trust region"
    elif done >= segments:
        state = "finished"
    else:
        state = "begun" if folder.path.exists() else "waiting"
    return {
        "segments": done,
        "of": segments,
        "state": state,
        "rolled_back": len(failures.failures),
        "ns_per_day": speed,
        "platform": None if last is None else last.provenance.get("platform"),
        "device": None if last is None else last.provenance.get("device"),
    }
