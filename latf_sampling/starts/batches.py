"""All targets of one set: made in parallel, in batches, until there are enough structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from latf_sampling.core.lease import Lease
from latf_sampling.core.platforms import torch_threads
from latf_sampling.core.processes import LocalExecutor, available_cores
from latf_sampling.core.tasks import WorkerDied, run_tasks
from latf_sampling.core.words import plural
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SimulationError
from latf_sampling.starts.archive import Archive
from latf_sampling.starts.checks import duplicates
from latf_sampling.starts.effort import Effort
from latf_sampling.starts.options import Progress
from latf_sampling.starts.thermal import RUNS, Thermal
from latf_sampling.starts.worker import (
    PlainRun,
    SourceFrame,
    TargetResult,
    TargetTask,
    Worker,
    WorkerSettings,
    expected_steps,
    part_of,
)
from latf_sampling.starts.working_directory import WorkingDirectory
from latf_sampling.systems.geometry import molecules_of


@dataclass
class TargetBatches:
    """Latent points (m, d), and what is needed to make structures there.

    The first n points are tried first. Each that gives no structure is replaced by the next one after these, as long as
    there are any.
    """

    points: np.ndarray
    n: int
    archive: Archive
    settings: WorkerSettings
    dof: int
    attempts: int
    processes: int
    executor: Executor | None = None

    @property
    def plain_runs(self) -> int:
        """Number of plain runs for the thermal range."""
        return min(RUNS, self.n + 1)

    def run(self, cv: LatentCV, directory: WorkingDirectory, progress: Progress) -> tuple[list[TargetResult], Thermal]:
        """Make what a directory lacks; returns the results of the points that were tried, in their order."""
        cv.save(directory.variable)
        at_once = self.processes if self.executor is None or isinstance(self.executor, LocalExecutor) else None
        self.settings = replace(self.settings, variable=directory.variable, at_once=at_once)
        counts = {PlainRun.kind: self.plain_runs, TargetTask.kind: self.n}
        effort = Effort(expected_steps(self.settings), counts, progress)
        with self._ready(directory):
            thermal = self._measure_thermal(directory, effort)
            results: dict[int, TargetResult] = {}
            tried = 0
            while (missing := self.n - self._count_valid(results)) and tried < len(self.points):
                numbers = range(tried, min(len(self.points), tried + missing))
                tried = numbers.stop
                self._run_batch(numbers, thermal, directory, results, effort)
            return [results[number] for number in range(tried)], thermal

    @contextmanager
    def _ready(self, directory: WorkingDirectory) -> Iterator[None]:
        """Have an executor, unless none was given and one process is enough, which is then this one."""
        if self.executor is None and self.processes == 1:
            yield
            return
        self.settings = replace(self.settings, lease=Lease.grant(directory.lease))
        if self.executor is not None:
            yield
            return
        with LocalExecutor(self.processes) as self.executor:
            yield

    @cached_property
    def _worker(self) -> Worker:
        """The worker of this process, for plain runs and targets: making one takes half a second."""
        return Worker(self.settings)

    def _run_tasks(self, tasks: Iterable[tuple[int, PlainRun | TargetTask]], kind: str, effort: Effort) -> closing:
        begun: set[int] = set()

        def watched() -> Iterator[tuple[int, PlainRun | TargetTask]]:
            for number, task in tasks:
                begun.add(number)
                yield number, task

        def watch(running: int) -> None:
            reports = [self.settings.lease and self.settings.lease.progress(part_of(kind, number)) for number in begun]
            effort.running(kind, [report["fraction"] for report in reports if report and report["fraction"] < 1])

        def here(settings: WorkerSettings) -> Worker:
            self._worker.report = lambda fraction: effort.running(kind, [fraction])
            return self._worker

        make_worker = here if self.executor is None else SingleThreaded
        at_once = self.processes if isinstance(self.executor, LocalExecutor) else None
        stop = (lambda: None) if self.settings.lease is None else self.settings.lease.revoke
        return closing(
            run_tasks(
                make_worker,
                self.settings,
                watched(),
                self.executor,
                at_once=at_once,
                watch=watch,
                stop=stop,
                name=f"{kind} {{}}".format,
            )
        )

    def _run_batch(
        self,
        numbers: Sequence[int],
        thermal: Thermal,
        directory: WorkingDirectory,
        results: dict[int, TargetResult],
        effort: Effort,
    ) -> None:
        finished = {number: directory.read_target(number) for number in numbers}
        results.update({number: result for number, result in finished.items() if result is not None})
        effort.expect(TargetTask.kind, max(self.n, numbers[-1] + 1))
        effort.known(TargetTask.kind, len(results), _words(results))
        tasks = ((number, self._task(number, thermal)) for number in numbers if finished[number] is None)
        with self._run_tasks(tasks, TargetTask.kind, effort) as finishing:
            for number, result in finishing:
                if isinstance(result, TargetResult):
                    directory.write_target(number, result)
                else:
                    result = TargetResult([{"reason": _death(result)}], None)
                results[number] = result
                effort.finished(TargetTask.kind, _words(results))

    def _count_valid(self, results: dict[int, TargetResult]) -> int:
        """Number of structures; those that repeat an earlier one are rejected."""
        structures = {number: results[number].structure for number in sorted(results)}
        positions = {number: entry.positions for number, entry in structures.items() if entry is not None}
        if not positions:
            return 0
        numbers = list(positions)
        atoms = molecules_of(self.archive.topology, self.archive.atoms)
        repeated = duplicates(np.stack([positions[number][atoms] for number in numbers]))
        for k, first in repeated.items():
            *before, last = results[numbers[k]].attempts
            reason = f"it repeats the structure of target {numbers[first]}"
            results[numbers[k]] = TargetResult([*before, {**last, "reason": reason}], None)
        return len(numbers) - len(repeated)

    def _measure_thermal(self, directory: WorkingDirectory, effort: Effort) -> Thermal:
        """The thermal range of energies and the fluctuation of the latent, from plain runs, unless they are known."""
        known = directory.read_thermal()
        if known is not None:
            effort.known(PlainRun.kind, self.plain_runs)
            return known
        targets = self.points[:RUNS]
        frames_each = -(-RUNS // len(targets))
        frames = [index for target in targets for index in self._nearest_frames(target, frames_each)][:RUNS]
        runs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        failures: dict[int, str] = {}
        while len(runs) < self.plain_runs and (begun := len(runs) + len(failures)) < len(frames):
            numbers = range(begun, min(len(frames), self.plain_runs + len(failures)))
            effort.expect(PlainRun.kind, numbers.stop)
            tasks = ((number, PlainRun(number, self._frame(frames[number]))) for number in numbers)
            with self._run_tasks(tasks, PlainRun.kind, effort) as finishing:
                for number, result in finishing:
                    if isinstance(result, tuple):
                        runs[number] = result
                    else:
                        failures[number] = _death(result)
                    words = f"{len(runs) + len(failures)} of {plural(numbers.stop, 'plain run')}"
                    effort.finished(PlainRun.kind, words)
        if not runs:
            raise SimulationError(
                f"starts: from none of {len(frames)} archived frames a plain simulation at "
                f"{self.settings.temperature:g} K goes on: {failures[0]}. A shorter timestep usually mends it."
            )
        thermal = Thermal.from_runs([runs[number] for number in sorted(runs)], self.dof, self.settings.temperature)
        directory.write_thermal(thermal)
        return thermal

    def _task(self, number: int, thermal: Thermal) -> TargetTask:
        frames = [self._frame(index) for index in self._nearest_frames(self.points[number], self.attempts)]
        return TargetTask(number, self.points[number], frames, thermal)

    def _nearest_frames(self, target: np.ndarray, count: int) -> list[int]:
        return self.archive.nearest_frames(target, self.settings.temperature, count)

    def _frame(self, index: int) -> SourceFrame:
        positions, boxes = self.archive.take([index])
        return SourceFrame(index, positions[0], None if boxes is None else boxes[0], self.archive.latent[index])


class SingleThreaded:
    """A `Worker` whose torch uses one thread, since others run beside it."""

    def __init__(self, settings: WorkerSettings) -> None:
        with torch_threads(1):
            self.worker = Worker(settings)

    def __call__(self, task: PlainRun | TargetTask) -> tuple[np.ndarray, np.ndarray] | str | TargetResult:
        with torch_threads(1):
            return self.worker(task)


def default_processes(platform: str | None, n: int, executor: Executor | None = None) -> int:
    """One process per core, if there are at least four structures for each.

    On GPUs as many as an executor of this machine has, which are those of the protocol, or one.
    """
    if platform not in ("Reference", "CPU"):
        return min(n, executor.processes) if isinstance(executor, LocalExecutor) else 1
    return max(1, min(available_cores(), n // 4))


def _words(results: dict[int, TargetResult]) -> str:
    """How many structures there are, for people."""
    valid = sum(entry.structure is not None for entry in results.values())
    return f"{valid} valid, {len(results) - valid} rejected"


def _death(result: object) -> str:
    """The reason of a task's failure."""
    return f"its process ended by {result.how}" if isinstance(result, WorkerDied) else str(result)
