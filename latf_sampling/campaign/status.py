"""Where a campaign stands, from its files alone."""

from __future__ import annotations

from pathlib import Path

from latf_sampling.core import storage
from latf_sampling.data import layout
from latf_sampling.settings import steps


def status(directory: str | Path) -> list[dict]:
    """Where a campaign stands: one entry per step, with "step", "done" (0 to 1) and "words".

    Raises
    ------
    StoreError
        There is no campaign in the directory.
    """
    files = layout.Store(directory)
    content = files.protocol()
    entries = []
    runs = list(content["rounds"])
    # campaigns made before there were given trajectories lack the key
    given = [entry["temperature"] for entry in content.get("from_trajectories", []) for _ in entry["files"]]
    if given:
        runs.insert(0, {"walkers": given})
    learned_rounds = len(runs)
    if content["evaluate"] is not None:
        runs.append({**content["evaluate"], "walkers": content["evaluate"]["temperatures"], "bias": None})
    for index, entry in enumerate(runs):
        name = f"round {index}" if index < learned_rounds else "references"
        if index == 0 and given:
            entries += [_given_status(files, given), _learned_status(files, 0)]
            continue
        segments = steps(entry["length"], content["segment"])
        folders = [files.walker(index, walker) for walker in range(len(entry["walkers"]))]
        stopped = [layout.stopped(folder) is not None for folder in folders]
        finished = [
            segments if halted else len(list(folder.glob("segment-*.json"))) for folder, halted in zip(folders, stopped)
        ]
        temperatures = ", ".join(f"{temperature:g} K" for temperature in entry["walkers"])
        kind = "plain" if entry["bias"] is None else entry["bias"]["kind"]
        words = f"{sum(finished)} of {segments * len(finished)} segments, {kind}, {temperatures}"
        if any(stopped):
            words += f"; {sum(stopped)} walkers left what the model knows and were stopped"
        share = sum(finished) / (segments * len(finished))
        entries.append({"step": f"{name}: simulate", "done": share, "words": words})
        if index == learned_rounds:
            done = files.evaluation.exists()
            entries.append({"step": "evaluate", "done": float(done), "words": str(files.evaluation) if done else ""})
            continue
        entries.append(_learned_status(files, index))
    if content["starts"] is not None:
        table = files.starts / "starts.json"
        words = ""
        if table.exists():
            made = storage.read_json(table)
            words = f"{made['valid']} of {made['requested']} valid at {made['temperature']:g} K"
        entries.append({"step": "starts", "done": float(table.exists()), "words": words})
    done = files.report.exists()
    entries.append({"step": "report", "done": float(done), "words": str(files.report) if done else ""})
    return entries


def _given_status(files: layout.Store, temperatures: list[float]) -> dict:
    marks = [files.given(number).with_suffix(".json") for number in range(len(temperatures))]
    done = [storage.read_json(mark) for mark in marks if mark.exists()]
    frames = sum(len(range(0, mark["frames"], mark["stride"])) for mark in done)
    kelvin = ", ".join(f"{temperature:g} K" for temperature in temperatures)
    words = f"{len(done)} of {len(marks)} trajectories, {frames:,} frames, {kelvin}"
    return {"step": "round 0: read", "done": len(done) / len(marks), "words": words}


def _learned_status(files: layout.Store, index: int) -> dict:
    learned, words = files.learning(index) / "history.json", ""
    if learned.exists():
        history = storage.read_json(learned)
        words = f"{len(history['states'])} states, {history['seconds']:.0f} s"
    return {"step": f"round {index}: learn", "done": float(learned.exists()), "words": words}
