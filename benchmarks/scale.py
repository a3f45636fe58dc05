"""How a campaign scales: 1,000 walkers on Dask without their physics, and 100 walkers that share a million hills.

    python benchmarks/scale.py walkers    # tasks per second, memory of the driver
    python benchmarks/scale.py hills      # cost of adding and reading hills against their number

Results are in benchmarks/scale.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latf_sampling.bias.history import SUFFIX, History, Neighbors
from latf_sampling.campaign.executors import dask
from latf_sampling.core.lease import Lease
from latf_sampling.core.tasks import run_tasks

WALKERS, WORKERS = 1000, 2
PAUSE = 0.01
"""s that a stand-in for a walker takes."""
FIELDS = ["step", "u0", "u1", "height", "sigma0", "sigma1", "clock"]
SHARING = 100
TOTALS = (1_000, 10_000, 100_000, 1_000_000)
REPEATS = 20


def stub(setup: None) -> Callable[[Lease], None]:
    """A walker as an executor sees it: it holds its lease, reports progress, and takes a while."""

    def walk(lease: Lease) -> None:
        with lease.held() as report:
            time.sleep(PAUSE)
            report(1.0)

    return walk


def memory() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def walkers(folder: Path) -> None:
    file = folder / "scheduler.json"
    scheduler = ["distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1"]
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # workers import this file
    processes = [
        subprocess.Popen([sys.executable, "-m", *command, *where], stderr=subprocess.DEVNULL, env=here)
        for command in [scheduler, *[worker] * WORKERS]
    ]
    try:
        while not file.exists():
            time.sleep(0.1)
        with dask(str(file)) as executor:
            import scale  # by the name that workers find it by

            run(scale.stub, executor, folder, WORKERS)  # the workers import the package
            before, began = memory(), time.perf_counter()
            run(scale.stub, executor, folder, WALKERS)
            seconds = time.perf_counter() - began
    finally:
        for process in processes:
            process.kill()
            process.wait()
    print(
        f"{WALKERS} walkers of {PAUSE:g} s on {WORKERS} workers: {seconds:.1f} s, {WALKERS / seconds:.0f} a second; "
        f"memory of the driver {before:.0f} MB before, {memory():.0f} MB after; load {os.getloadavg()[0]:.1f}"
    )


def run(make_worker: Callable, executor, folder: Path, count: int) -> None:
    results = run_tasks(
        make_worker,
        None,
        ((number, None) for number in range(count)),
        executor,
        submitted=lambda number, task: Lease.grant(folder / "running" / f"walker-{number}"),
        watch=lambda running: None,
    )
    assert sum(1 for _ in results) == count


def hills(folder: Path) -> None:
    """Files of all walkers grow; one of them adds a hill, and reads one new hill of each other walker."""
    rng = np.random.default_rng(0)
    histories = [History(folder / f"walker-{k:03d}{SUFFIX}", FIELDS, {}) for k in range(SHARING)]
    own = Neighbors(folder / f"walker-000{SUFFIX}", FIELDS, {})
    print("| hills in all | add one, ms | read one of each other walker, ms | begin: read all, s |")
    print("|---|---|---|---|")
    for total in TOTALS:
        for history in histories:
            for step in range(len(history.rows) + 1, total // SHARING + 1):
                history.add([step, *rng.normal(size=len(FIELDS) - 2), step])
            history.write()
        began = time.perf_counter()
        fresh = Neighbors(folder / f"walker-000{SUFFIX}", FIELDS, {})
        assert sum(map(len, fresh.read_new()[0])) == sum(len(history.rows) for history in histories[1:])
        beginning = time.perf_counter() - began
        own.read_new()
        adding, reading = [], []
        for _ in range(REPEATS):
            for history in histories:
                step = len(history.rows) + 1
                began = time.process_time()
                history.add([step, *rng.normal(size=len(FIELDS) - 2), step])
                history.write()
                adding.append(time.process_time() - began)
            began = time.process_time()
            assert sum(map(len, own.read_new()[0])) == SHARING - 1
            reading.append(time.process_time() - began)
        print(f"| {total:,} | {1e3 * np.median(adding):.3f} | {1e3 * np.median(reading):.2f} | {beginning:.2f} |")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="latf-scale-") as name:
        {"walkers": walkers, "hills": hills}[sys.argv[1]](Path(name))
