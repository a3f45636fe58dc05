"""The file that holds the state of a training, so that it can continue after an interruption."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latf_sampling.core import storage
from latf_sampling.data.dataset import Dataset
from latf_sampling.errors import TrainingError
from latf_sampling.learning.model_file import FORMAT
from latf_sampling.settings import ModelSettings, TrainingSettings


class Checkpoint:
    """One file, written after every epoch; without a path, nothing is written.

    A fingerprint in it names data, further arrays, settings, seed and the format of models; a training with other ones
    is refused.
    """

    def __init__(
        self,
        path: str | Path | None,
        dataset: Dataset,
        seed: int,
        model: ModelSettings,
        training: TrainingSettings,
        arrays: Sequence[np.ndarray] = (),
    ) -> None:
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        setup = f"{FORMAT} {seed} {model!r} {training!r} {dataset.lag} {dataset.boltzmann}"
        digest = hashlib.blake2b(setup.encode())
        for series in dataset.series:
            digest.update(f"{series.x.shape} {series.temperature} {series.in_density}".encode())
            for part in (series.x, series.weights, series.energies, series.labels):
                digest.update(b"" if part is None else np.ascontiguousarray(part).data)
        for array in arrays:
            digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).data)
        self.fingerprint = digest.hexdigest()

    def load(self) -> dict | None:
        """What was written last, or None.

        Raises
        ------
        TrainingError
            The file is damaged, or belongs to another training.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file
            raise TrainingError(f"{self.path}: cannot be read as a checkpoint; delete it to train anew.") from error
        if not isinstance(content, dict) or content.get("fingerprint") != self.fingerprint:
            raise TrainingError(
                f"{self.path}: is the checkpoint of a training with other data, settings or seed, or of another "
                "version; delete it to train anew."
            )
        return content

    def save(self, content: dict) -> None:
        """Write a state, at once or not at all."""
        if self.path is None:
            return
        buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
        torch.save({**content, "fingerprint": self.fingerprint}, buffer)
        with storage.atomic_write(self.path) as temporary:
            temporary.write_bytes(buffer.getvalue())
