"""Where a campaign stands, from the names of its files alone: neither frames nor models are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latf_sampling.core.manifest import Manifest
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.settings import ExternalRound, Protocol, RoundSettings, n_steps
from latf_sampling.starts.files import StartFiles


def status(protocol: Protocol, directory: CampaignDirectory) -> list[dict]:
    """One entry per step of a campaign, with "step", "done" (0 to 1) and "words"."""
    entries = []
    for index, settings in enumerate(protocol.all_rounds):
        if isinstance(settings, ExternalRound):
            entries.append(_reading(directory, settings))
        else:
            entries.append(_simulation(protocol, directory, index, settings, f"round {index}"))
        entries.append(_learning(directory, index))
    if protocol.evaluate is not None:
        index = len(protocol.all_rounds)
        settings = protocol.runs[index]
        assert isinstance(settings, RoundSettings)  # the references
        entries.append(_simulation(protocol, directory, index, settings, "references"))
        done = directory.evaluation.exists()
        entries.append(_entry("evaluate", done, str(directory.evaluation) if done else ""))
    if protocol.starts is not None:
        entries.append(_starts(directory))
    done = directory.report.exists()
    entries.append(_entry("report", done, str(directory.report) if done else ""))
    return entries


def _entry(step: str, done: float, words: str) -> dict:
    return {"step": step, "done": float(done), "words": words}


def _simulation(
    protocol: Protocol, directory: CampaignDirectory, index: int, settings: RoundSettings, name: str
) -> dict:
    segments = n_steps(settings.length, protocol.segment)
    walkers = [directory.run(protocol, index).walker(number) for number in range(len(settings.walkers))]
    stopped = [walker.stop_reason() is not None for walker in walkers]
    failures = [walker.failures() for walker in walkers]
    finished = [walker.finished() for walker in walkers]
    left = [0 if walker.is_finished(segments) else segments - done for walker, done in zip(walkers, finished)]
    kind = "plain" if settings.bias is None else settings.bias.kind
    total = segments * len(walkers)
    words = f"{sum(finished)} of {plural(total, 'segment')}, {kind}, {_kelvin(settings)}"
    if any(stopped):
        words += f"; {plural(sum(stopped), 'walker')} left the trust region and stopped"
    for number, failed in enumerate(failures):
        if failed.failures:
            words += f"; walker {number} {failed.summary}"
    return _entry(f"{name}: simulate", 1 - sum(left) / total, words)


def _reading(directory: CampaignDirectory, settings: ExternalRound) -> dict:
    markers = [directory.round(0).external(number).marker for number in range(len(settings.walkers))]
    summaries = [Manifest.load(marker).content for marker in markers if marker.exists()]
    frames = sum(len(range(0, summary["frames"], summary["stride"])) for summary in summaries)
    words = f"{len(summaries)} of {plural(len(markers), 'trajectory')}, {plural(frames, 'frame')}, {_kelvin(settings)}"
    return _entry("round 0: read", len(summaries) / len(markers), words)


def _learning(directory: CampaignDirectory, index: int) -> dict:
    learning, words = directory.round(index).learning, ""
    if learning.finished:
        history = learning.manifest().content
        words = f"{learned_words(history).partition(';')[0]}, {history['seconds']:.0f} s"
    return _entry(f"round {index}: learn", learning.finished, words)


def learned_words(history: Mapping[str, Any]) -> str:
    """What a training has led to; models of earlier versions know the number of their states alone."""
    return history.get("summary") or plural(len(history["states"]), "state")


def _starts(directory: CampaignDirectory) -> dict:
    files, words = StartFiles(directory.starts), ""
    if files.complete:
        table = files.manifest().content
        words = f"{table['valid']} of {table['requested']} valid at {table['temperature']:g} K"
    return _entry("starts", files.complete, words)


def _kelvin(settings: RoundSettings | ExternalRound) -> str:
    return ", ".join(f"{temperature:g} K" for temperature in settings.walkers)
