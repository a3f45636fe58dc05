"""All targets of one set: made in parallel, each on the disk as soon as it is done, and duplicates found at the end."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latf_sampling.core import processes as pool
from latf_sampling.core import storage
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SimulationError, StoreError
from latf_sampling.starts.archive import Archive
from latf_sampling.starts.checks import Found, duplicates
from latf_sampling.starts.geometry import molecules_of
from latf_sampling.starts.maker import Frame, Made, Maker, Making, PlainRun, Recipe
from latf_sampling.starts.thermal import RUNS, Thermal

Progress = Callable[[float, str], None]


@dataclass
class Targets:
    """Latent points (m, d) and what is needed to make structures there.

    The first `wanted` points are tried. For each that gives no structure, the next one after these is, while there are
    any.
    """

    points: np.ndarray
    wanted: int
    archive: Archive
    recipe: Recipe
    freedom: int
    attempts: int
    processes: int

    def make(self, cv: LatentCV, folder: Path, progress: Progress) -> tuple[list[Made], Thermal]:
        """Make what is missing in a folder; returns what became of the points that were tried, in their order."""
        cv.save(folder / "cv.pt")
        threads = max(1, pool.cores() // self.processes) if self.processes > 1 else None
        self.recipe = replace(self.recipe, variable=folder / "cv.pt", threads=threads)
        thermal = self._thermal(folder, progress)
        made: dict[int, Made] = {}
        tried = 0
        while (missing := self.wanted - len(self._valid(made))) and tried < len(self.points):
            numbers = range(tried, min(len(self.points), tried + missing))
            tried = numbers.stop
            self._wave(numbers, thermal, folder, made, progress)
        return [made[number] for number in range(tried)], thermal

    def _wave(
        self, numbers: Sequence[int], thermal: Thermal, folder: Path, made: dict[int, Made], progress: Progress
    ) -> None:
        waiting = []
        for number in numbers:
            done = _read(_file(folder, number))
            if done is None:
                waiting.append(number)
            else:
                made[number] = done
        tasks = ((number, self._task(number, thermal)) for number in waiting)
        for number, result in pool.work(Maker, self.recipe, tasks, self.processes):
            if isinstance(result, pool.Died):
                result = Made([{"reason": f"its process ended by {result.how}"}], None)
            else:
                _write(_file(folder, number), result)
            made[number] = result
            valid = sum(entry.found is not None for entry in made.values())
            words = f"{valid} valid, {len(made) - valid} rejected"
            progress(min(1.0, len(made) / (numbers[-1] + 1)), words)

    def _valid(self, made: dict[int, Made]) -> list[int]:
        """Numbers of the targets that gave a structure; repeated structures become rejected ones."""
        numbers = [number for number in sorted(made) if made[number].found is not None]
        if not numbers:
            return []
        atoms = molecules_of(self.archive.topology, self.archive.atoms)
        repeated = duplicates(np.stack([made[number].found.positions[atoms] for number in numbers]))
        for k, first in repeated.items():
            *before, last = made[numbers[k]].attempts
            reason = f"it repeats the structure of target {numbers[first]}"
            made[numbers[k]] = Made([*before, {**last, "reason": reason}], None)
        return [number for k, number in enumerate(numbers) if k not in repeated]

    def _thermal(self, folder: Path, progress: Progress) -> Thermal:
        file = folder / "thermal.json"
        if file.exists():
            return Thermal.from_dict(storage.read_json(file))
        some = self.points[:RUNS]
        each = -(-RUNS // len(some))
        frames = [index for point in some for index in self._neighbours(point, each)][:RUNS]
        tasks = ((number, PlainRun(number, self._frame(index))) for number, index in enumerate(frames))
        runs = {}
        for number, result in pool.work(Maker, self.recipe, tasks, min(self.processes, len(frames))):
            runs[number] = f"its process ended by {result.how}" if isinstance(result, pool.Died) else result
            progress(0.0, f"{len(runs)} of {len(frames)} plain runs")
        good = [runs[number] for number in sorted(runs) if not isinstance(runs[number], str)]
        if not good:
            raise SimulationError(
                f"starts: from none of {len(frames)} archived frames a plain simulation at {self.recipe.temperature:g} "
                f"K goes on: {runs[0]}. A shorter timestep usually mends it."
            )
        thermal = Thermal.of(good, self.freedom, self.recipe.temperature)
        storage.write_json(file, thermal.as_dict())
        return thermal

    def _task(self, number: int, thermal: Thermal) -> Making:
        frames = [self._frame(index) for index in self._neighbours(self.points[number], self.attempts)]
        return Making(number, self.points[number], frames, thermal)

    def _neighbours(self, point: np.ndarray, count: int) -> list[int]:
        return self.archive.neighbours(point, self.recipe.temperature, count)

    def _frame(self, index: int) -> Frame:
        positions, boxes = self.archive.take([index])
        return Frame(index, positions[0], None if boxes is None else boxes[0], self.archive.latent[index])


@contextmanager
def workshop(directory: Path | None, settings: dict, points: np.ndarray) -> Iterator[Path]:
    """A folder for the targets of a set with these settings: one that goes on, or one that is thrown away.

    Raises
    ------
    StoreError
        Another process works there, or what is there was made with other settings.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="latf-starts-") as folder:
            yield Path(folder)
        return
    folder = directory / "targets"
    lock = storage.try_lock(folder / "lock")
    if lock is None:
        raise StoreError(f"{directory}: another process is making these structures.")
    with lock:
        plan, content = folder / "plan.json", {**settings, "points": points.tolist()}
        if plan.exists():
            refuse_other(directory, storage.read_json(plan), content)
        else:
            storage.write_json(plan, content)
        yield folder
        storage.remove_folder(folder)


def refuse_other(directory: Path, there: dict, wanted: dict) -> None:
    """Refuse a directory that was made with other settings; names them.

    Raises
    ------
    StoreError
        It was.
    """
    keys = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
    if keys:
        raise StoreError(
            f"{directory}: holds structures that were made with other settings ({', '.join(keys)}); "
            "go on with those, or give another directory."
        )


def _file(folder: Path, number: int) -> Path:
    return folder / f"target-{number:04d}.npz"


def _write(path: Path, made: Made) -> None:
    arrays = {}
    if made.found is not None:
        found = made.found
        arrays = {name: getattr(found, name) for name in ("positions", "velocities", "held", "reached", "energy")}
        if found.box is not None:
            arrays["box"] = found.box
    with storage.atomic_write(path) as temporary:
        np.savez(temporary, attempts=json.dumps(made.attempts), **arrays)


def _read(path: Path) -> Made | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as content:
            arrays = dict(content)
        attempts = json.loads(str(arrays.pop("attempts")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it to make the structure again.") from error
    if not arrays:
        return Made(attempts, None)
    return Made(attempts, Found(box=arrays.pop("box", None), energy=float(arrays.pop("energy")), **arrays))


def default_processes(platform: str, count: int) -> int:
    """One a core, where there are at least four structures for each; one in all for a GPU."""
    if platform not in ("Reference", "CPU"):
        return 1
    return max(1, min(pool.cores(), count // 4))
