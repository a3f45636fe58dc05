"""The folder in which a set of structures is made: its lock, its settings, and a file for each finished target."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latf_sampling.core import storage
from latf_sampling.core.arrays import read_npz
from latf_sampling.errors import DataError, StoreError
from latf_sampling.starts.checks import Structure, TargetResult
from latf_sampling.starts.files import StartFiles
from latf_sampling.starts.thermal import Thermal

READABLE = {
    *("temperature", "seed", "timestep", "thermalise", "release", "friction", "tolerance", "attempts", "allow_cis"),
    *("allow_inversion", "platform"),
}
"""Settings whose values are shown where they differ: others are fingerprints, or long."""


class WorkingDirectory:
    """Files of a set that is not complete yet.

    Attributes
    ----------
    lock, settings, variable, lease : pathlib.Path
        The lock, the settings of the set with its latent points, the collective variable, and the lease of workers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "lock"
        self.settings = folder / "plan.json"
        self.variable = folder / "cv.pt"
        self.lease = folder / "workers"
        self._thermal = folder / "thermal.json"

    def read_thermal(self) -> Thermal | None:
        """The thermal range, or `None` if it was not measured yet."""
        return Thermal.from_dict(storage.read_json(self._thermal)) if self._thermal.exists() else None

    def write_thermal(self, thermal: Thermal) -> None:
        """Write the thermal range."""
        storage.write_json(self._thermal, thermal.as_dict())

    def read_target(self, number: int) -> TargetResult | None:
        """The result of a target, or `None` if it is not finished.

        Raises
        ------
        StoreError
            The file is damaged.
        """
        path = self._target(number)
        if not path.exists():
            return None
        try:
            arrays = read_npz(path)
            attempts = json.loads(str(arrays.pop("attempts")))
        except (DataError, ValueError, KeyError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); delete it to make the structure again.") from error
        if not arrays:
            return TargetResult(attempts, None)
        box, energy = arrays.pop("box", None), float(arrays.pop("energy"))
        return TargetResult(attempts, Structure(box=box, energy=energy, **arrays))

    def write_target(self, number: int, result: TargetResult) -> None:
        """Write the result of a target.

        Raises
        ------
        StoreError
            It cannot be written, or the folder is gone.
        """
        if not self.folder.is_dir():  # it is not made anew, since that may be on another disk
            raise StoreError(f"{self.folder}: is gone; was its disk disconnected? The same command continues there.")
        arrays, structure = {}, result.structure
        if structure is not None:
            names = ("positions", "velocities", "held", "reached", "energy")
            arrays = {name: getattr(structure, name) for name in names}
            if structure.box is not None:
                arrays["box"] = structure.box
        with storage.atomic_write(self._target(number)) as temporary:
            np.savez(temporary, attempts=json.dumps(result.attempts), **arrays)

    def _target(self, number: int) -> Path:
        return self.folder / f"target-{number:04d}.npz"


@contextmanager
def working_directory(directory: Path | None, settings: dict, points: np.ndarray) -> Iterator[WorkingDirectory]:
    """The working directory of a set with these settings and latent points (m, d), which is removed at the end.

    After an interruption it is kept in the directory of the set, and the next call continues in it. Without a directory
    it is temporary.

    Raises
    ------
    StoreError
        Another process works there, or the existing targets were made with other settings.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="latf-starts-") as folder:
            yield WorkingDirectory(Path(folder))
        return
    working = WorkingDirectory(StartFiles(directory).unfinished)
    lock = storage.try_lock(working.lock)
    if lock is None:
        raise StoreError(f"{directory}: another process is making these structures.")
    with lock:
        content = {**settings, "points": points.tolist()}
        if working.settings.exists():
            check_same_settings(directory, storage.read_json(working.settings), content)
        else:
            storage.write_json(working.settings, content)
        yield working
        storage.remove_folder(working.folder)


def check_same_settings(directory: Path, existing: dict, wanted: dict) -> None:
    """Refuse a directory whose structures were made with other settings.

    Raises
    ------
    StoreError
        Settings differ; names them, and what they are.
    """
    keys = sorted(key for key in existing.keys() | wanted.keys() if existing.get(key) != wanted.get(key))
    if None in (existing.get("platform"), wanted.get("platform")):  # each worker of an executor chooses
        keys = [key for key in keys if key != "platform"]
    if keys:
        differences = ", ".join(_difference(key, existing.get(key), wanted.get(key)) for key in keys)
        raise StoreError(
            f"{directory}: holds structures that were made with other settings ({differences}), and is not added to, "
            "since the samples of a set belong together. Give those settings again to load them, or another directory; "
            "with another seed its structures are others."
        )


def _difference(key: str, existing: Any, wanted: Any) -> str:
    """A setting that differs, with both values where these say something to people."""
    if key == "requested":
        return f"{existing} structures there, {wanted} asked for"
    return f"{key} {existing} there, {wanted} asked for" if key in READABLE else key
