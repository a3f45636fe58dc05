"""Work in other processes: results whatever happens to a worker, errors of the package as they are, no orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from latf_sampling.core import processes
from latf_sampling.core.processes import WorkerDied, run_tasks
from latf_sampling.errors import DataError, SimulationError


class Squares:
    """Squares numbers; what is asked by a name happens to the process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, 0

    def __call__(self, task: int | str):
        self.done += 1
        if task == "who":
            return os.getpid(), self.done
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "die once" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "refuse":
            raise DataError("that is no number")
        if task == "fail":
            raise ZeroDivisionError("by nothing")
        return 4 if task == "die once" else task**2


def test_results_whatever_happens_to_a_worker(tmp_path):
    tasks = [(0, 5), (1, "die"), (2, "die once"), (3, 7)]
    assert dict(run_tasks(Squares, tmp_path, tasks, 2)) == {0: 25, 1: WorkerDied("SIGKILL"), 2: 4, 3: 49}
    assert multiprocessing.active_children() == []


def test_a_worker_is_kept_for_the_next_task(tmp_path):
    results = run_tasks(Squares, tmp_path, iter([(k, "who") for k in range(9)]), 2)
    found = [next(results)[1] for _ in range(4)]
    assert os.getpid() not in {pid for pid, _ in found}
    assert max(done for _, done in found) > 1
    results.close()  # whoever stops asking ends the workers
    assert multiprocessing.active_children() == []


def test_one_process_is_this_one(tmp_path):
    assert list(run_tasks(Squares, tmp_path, [(0, "who"), (1, "who")], 1)) == [
        (0, (os.getpid(), 1)),
        (1, (os.getpid(), 2)),
    ]


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [("refuse", DataError, "^that is no number$"), ("fail", SimulationError, "unexpected failure.*by nothing")],
)
def test_errors_arrive_and_end_the_others(tmp_path, task, error, words):
    with pytest.raises(error, match="(?s)" + words):
        list(run_tasks(Squares, tmp_path, [(0, task)], 2))
    assert multiprocessing.active_children() == []


def test_cores():
    assert 1 <= processes.available_cores() <= os.cpu_count()
