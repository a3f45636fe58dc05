"""The model of a round: whether it is trained, on which frames, and its files.

Modules that load torch are imported where they are used: the process that runs a campaign hands learning
to another one.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latf_sampling.analysis.agreement import disagreement
from latf_sampling.campaign import repair, retraining, structures
from latf_sampling.campaign.progress import StepProgress, part_of, silent
from latf_sampling.core import storage, streams
from latf_sampling.core.provenance import Attempt
from latf_sampling.core.space import require_space
from latf_sampling.core.words import plural, with_error
from latf_sampling.data.sizes import LEARNING
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import ExtrapolationWarning, RepairWarning, StoreError, TrainingError
from latf_sampling.records.integrity import inputs, verify_learning
from latf_sampling.records.records import Records

if TYPE_CHECKING:
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.dataset import Series
    from latf_sampling.features import Features
    from latf_sampling.learning.model import LaTF
    from latf_sampling.learning.training import TrainingResult

EXPORT_FRAMES = 500
"""Number of frames of each walker for which the forces of a variable are checked when it is exported."""
MOST_APART = 3.0
"""Combined standard errors that populations by the flow and by the frames may be apart: several states are compared."""
READING, EXPORT = 0.03, 0.03
"""Shares of the time of a training that the descriptors of all frames take before it, and the export after it."""


def train_model(
    records: Records,
    last_round: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: StepProgress = silent,
) -> tuple[LaTF, LatentCV, TrainingResult]:
    """Train a new model on the frames of the rounds up to one, and export its collective variable.

    As `latf_sampling.Campaign.train`.
    """
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.dataset import Dataset
    from latf_sampling.data.selection import select_columns
    from latf_sampling.learning.model import LaTF
    from latf_sampling.learning.training import train

    learning = records.protocol.learning
    model = LaTF(records.protocol.model)
    last_round = records.last_simulated() if last_round is None else last_round
    walkers = records.frames(last_round)
    features, series, selection = records.features, records.training_series(walkers), None
    align, align_states = _earlier_model(records, last_round - 1, walkers, series)
    if learning.select is not None:
        selection = select_columns(series, records.lag, **learning.select.model_dump(), names=features.names)
        columns = [int(column) for column in selection.kept]
        features = features.subset(columns)
        series = [entry.subset(columns) for entry in series]
    dataset = Dataset(series, lag=records.lag, names=features.names)
    progress(READING, plural(dataset.frames, "frame"))
    result = train(
        model,
        dataset,
        seed,
        settings=records.training,
        checkpoint=checkpoint,
        progress=part_of(progress, READING, 1 - EXPORT),
        align=align,
        align_states=align_states,
        start=_start(records, last_round - 1, features) if learning.warm_start else None,
    )
    progress(1 - EXPORT, "exporting the variable")
    positions, boxes = structures.some_frames(walkers, EXPORT_FRAMES)
    cv = LatentCV.from_model(model, features, positions, boxes)
    if selection is not None:
        cv.metadata["selection"] = selection.as_dict()
    return model, cv, result


def learn_round(records: Records, progress: StepProgress, index: int) -> None:
    """Train the model of a round, or keep that of the round before, and write it and its variable."""
    files, directory, protocol = records.directory.round(index).learning, records.directory, records.protocol
    if files.finished:
        return
    require_space(directory.path, LEARNING, f"the model of round {index}")
    attempt = Attempt(files.path, "training")
    wanted, reason = retraining.decide(records, index)
    if not wanted:
        _keep_model(records, index, reason, attempt)
        return
    model, cv, result = _train_round(records, index, progress)
    directory.check_present()
    model.save(files.model)
    cv.save(files.cv)
    trapped = model.provenance["not_in_density"]
    frames = records.frames(index) if trapped else []
    summary = {
        "history": result.history,
        "summary": result.summary,
        "crossings": None if result.crossings is None else result.crossings.as_dict(),
        "states": result.states,
        "seconds": result.seconds,
        "converged": result.converged,
        "disagreement": _disagreement(model, result.states),
        "not_in_density": [frames[number].label for number in trapped],
        "inputs": inputs(protocol, directory, index),
        "variable": cv.fingerprint(),
        "model": model.fingerprint(),
        "settings": retraining.settings_digest(protocol),
        "trained": index,
        "decision": reason,
    }
    files.finish(summary, attempt.provenance(stream=["learning", index]))
    storage.remove(files.checkpoint)


def _disagreement(model: LaTF, states: list[dict]) -> str | None:
    """Where the flow and the weighted frames give a state populations that differ by more than their errors say."""
    from latf_sampling.learning.evaluation.populations import model_populations

    temperature = min(model.provenance["temperatures"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        values, errors = model_populations(model, temperature)
    for entry, value, error in zip(states, values, [math.nan] * len(values) if errors is None else errors):
        known, known_error = entry[f"population at {temperature:g}"], entry[f"error at {temperature:g}"]
        flow, frames = (100 * float(value), 100 * float(error)), (100 * known, 100 * (known_error or math.nan))
        if disagreement({"flow": flow, "frames": frames}, MOST_APART) is not None:
            return (
                f"The flow and the weighted frames disagree by more than their errors say on the population of state "
                f"{entry['state']} at {temperature:g} K, {with_error(*flow)} % and {with_error(*frames)} %; take the "
                "frames' value, and train on more frames, or for more epochs."
            )
    return None


def _earlier_model(
    records: Records, index: int, walkers: Sequence[Frames], series: Sequence[Series]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Variable and states of the model of a round, as `train` aligns to them; `None` if there is none.

    The series have all columns of the protocol. Frames that this model was not trained on are left out.
    """
    if index < 0 or not records.directory.round(index).learning.finished:
        return None, None
    model, cv = records.model(index)
    columns = [records.features.names.index(name) for name in cv.metadata["names"]]
    variable, states = [], []
    for walker, entry in zip(walkers, series):
        seen = walker.round_index <= index
        x = entry.x[:, columns]
        variable.append(model.encode(x) if seen else np.full((len(x), model.latent_dim), np.nan))
        states.append(model.assign(x) if seen else np.full(len(x), -1))
    return np.concatenate(variable), np.concatenate(states)


def _start(records: Records, index: int, features: Features) -> LaTF | None:
    """The model of a round, if it has these descriptors."""
    if index < 0 or not records.directory.round(index).learning.finished:
        return None
    model, cv = records.model(index)
    return model if tuple(cv.metadata["names"]) == tuple(features.names) else None


def _keep_model(records: Records, index: int, reason: str, attempt: Attempt) -> None:
    """Let the model of the round before be that of a round too."""
    directory = records.directory
    before, files = directory.round(index - 1).learning, directory.round(index).learning
    content = verify_learning(directory, index - 1).content
    for source, target in ((before.model, files.model), (before.cv, files.cv)):
        with storage.atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
    summary = {**content, "inputs": inputs(records.protocol, directory, index), "decision": reason}
    files.finish(summary, attempt.provenance(stream=["learning", index]))


def _train_round(records: Records, index: int, progress: StepProgress) -> tuple[LaTF, LatentCV, TrainingResult]:
    """Train the model of a round; one that was lost with the settings of the protocol that it was learned with."""
    files, wanted = records.directory.round(index).learning, repair.variable_in_use(records, index)
    ways = [records] if wanted is None else [*_with_earlier_learning(records), records]
    seed = streams.stream_seed(records.protocol.seed, "learning", index)
    for way in ways:
        try:
            made = train_model(way, index, seed, files.checkpoint, progress)
        except TrainingError as error:
            if not str(error).startswith(f"{files.checkpoint}: "):
                raise
            words = "is damaged, or of a training with other settings. The model is trained from the beginning."
            warnings.warn(f"{files.checkpoint}: {words}", RepairWarning, stacklevel=2)
            storage.remove(files.checkpoint)
            made = train_model(way, index, seed, files.checkpoint, progress)
        if wanted in (None, made[1].fingerprint()):
            return made
        storage.remove(files.checkpoint)
    raise StoreError(
        f"{files.path}: the model was trained again, and its variable is not the one that the walkers of round "
        f"{index + 1} were biased along; restore {files.model.name}, {files.cv.name} and {files.history.name}."
    )


def _with_earlier_learning(records: Records) -> list[Records]:
    """The records with each other way of learning that earlier protocols of the campaign had, the oldest first."""
    ways: list[Records] = []
    for earlier in records.directory.protocols():
        learning = {key: getattr(earlier, key) for key in ("features", "model", "learning")}
        protocol = records.protocol.model_copy(update=learning)
        if all(protocol != other.protocol for other in (*ways, records)):
            ways.append(Records(protocol, records.directory, records.trust))
    return ways
