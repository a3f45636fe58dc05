"""Where a campaign stands, from the names of its files alone: neither frames nor models are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latf_sampling.core.manifest import Manifest
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.settings import ExternalRound, Protocol, RoundSettings, n_steps
from latf_sampling.starts.files import StartFiles

OF_EARLIER_MODEL = "of an earlier model, made again with the last one"


def status(protocol: Protocol, directory: CampaignDirectory) -> list[dict]:
    """One entry per step of a campaign, with "step", "done" (0 to 1) and "words"."""
    entries = []
    for index, settings in enumerate(protocol.all_rounds):
        if isinstance(settings, ExternalRound):
            entries.append(_reading(directory, settings))
        else:
            entries.append(_simulation(protocol, directory, index, settings, f"round {index}"))
        entries.append(_learning(directory, index))
    last = len(protocol.all_rounds)
    if protocol.evaluate is not None:
        settings = protocol.runs[last]
        assert isinstance(settings, RoundSettings)  # the references
        entries.append(_simulation(protocol, directory, last, settings, "references"))
        entries.append(_evaluation(directory, last - 1))
    if protocol.starts is not None:
        entries.append(_starts(directory, last - 1))
    entries.append(_report(protocol, directory, all(entry["done"] >= 1 for entry in entries)))
    return entries


def results(protocol: Protocol, directory: CampaignDirectory) -> dict[str, str]:
    """The digest of each model, of the evaluation and of the structures that are there, by the name of its step."""
    markers = {
        f"round {index}: learn": directory.round(index).learning.history for index in range(len(protocol.all_rounds))
    }
    markers |= {"evaluate": directory.evaluation_marker, "starts": StartFiles(directory.starts).table}
    return {step: Manifest.load_unverified(path).digest for step, path in markers.items() if path.exists()}


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


def disagreements(protocol: Protocol, directory: CampaignDirectory, free_energy: Mapping[str, Any] | None) -> list[str]:
    """Sentences about ways to estimate one number that differ by more than their errors say, as far as it is noted.

    Parameters
    ----------
    protocol, directory
        The campaign, whose last model says whether its flow agrees with the frames.
    free_energy
        The last event of that name in the log, which says whether weightings of the frames agree.
    """
    learned = [directory.round(index).learning for index in range(len(protocol.all_rounds))]
    last = next((learning for learning in reversed(learned) if learning.finished), None)
    noted = [{} if last is None else last.manifest().content, free_energy or {}]
    return [sentence for entry in noted if isinstance(sentence := entry.get("disagreement"), str)]


def _evaluation(directory: CampaignDirectory, learned: int) -> dict:
    marker = directory.evaluation_marker
    if not (marker.exists() and directory.evaluation.exists()):
        return _entry("evaluate", False, "")
    if not _of_last_model(directory, learned, Manifest.load(marker).content):
        return _entry("evaluate", False, OF_EARLIER_MODEL)
    return _entry("evaluate", True, str(directory.evaluation))


def _starts(directory: CampaignDirectory, learned: int) -> dict:
    files = StartFiles(directory.starts)
    if not files.complete:
        return _entry("starts", False, "")
    table = files.manifest().content
    words = f"{table['valid']} of {table['requested']} valid at {table['temperature']:g} K"
    if not _of_last_model(directory, learned, table["settings"]):
        return _entry("starts", False, f"{OF_EARLIER_MODEL}: {words}")
    return _entry("starts", True, words)


def _of_last_model(directory: CampaignDirectory, learned: int, made_from: Mapping[str, Any]) -> bool:
    """Whether something was made from the model of the last round, and not from one before it or one that was lost."""
    learning = directory.round(learned).learning
    if not learning.finished:
        return False
    variable = learning.manifest().content.get("variable")
    return variable is None or made_from.get("variable", variable) == variable  # earlier versions did not state it


def _report(protocol: Protocol, directory: CampaignDirectory, others: bool) -> dict:
    """The last step. A report may be written at any time, and is finished when it has all results."""
    if not directory.report.exists():
        return _entry("report", False, "")
    marker = directory.report_marker
    known = Manifest.load_unverified(marker).content.get("results") if marker.exists() else None
    if others and known in (None, results(protocol, directory)):  # earlier versions did not state it
        return _entry("report", True, str(directory.report))
    return _entry("report", False, f"written half-way: {directory.report}")


def _kelvin(settings: RoundSettings | ExternalRound) -> str:
    return ", ".join(f"{temperature:g} K" for temperature in settings.walkers)
