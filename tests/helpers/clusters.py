"""Real schedulers on this machine, with workers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latf_sampling.core import storage

PARSL = """
from parsl import Config, HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.providers import LocalProvider

workers = HighThroughputExecutor(
    launch_cmd=DEFAULT_LAUNCH_CMD + " || kill -KILL 0",
    address="127.0.0.1", max_workers_per_node=2, heartbeat_period=1, heartbeat_threshold=5, encrypted=False,
    provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1), block_error_handler=False,
    interchange_launch_cmd=["setpriv", "--pdeathsig", "KILL", "interchange.py"],
)
config = Config(
    executors=[workers], run_dir={run_dir!r}, strategy="simple", strategy_period=1, initialize_logging=False
)
"""
"""A manager that is killed is a block that failed: the strategy begins another one, and no handler of such errors ends
everything. Parsl's interchange outlives a driver that is killed, and with it all workers: setpriv, of util-linux, ends
it. A manager that is killed leaves a helper process, and workers until they have finished their task: its shell ends
them with all that the block began."""


@contextmanager
def dask_cluster(folder: Path, workers: int = 2, nannies: bool = False) -> Iterator[Path]:
    """A Dask scheduler, by its file, and workers, of which some may have been killed at the end.

    With nannies, which are children of this process, a worker that is killed is begun again.
    """
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)  # of a scheduler that was killed
    scheduler = ["distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1"]
    nanny = "--nanny" if nannies else "--no-nanny"
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", nanny, "--local-directory", str(folder)]
    commands = [scheduler, *[worker] * workers]
    with open(folder / "log.txt", "w") as log:
        where = ["--scheduler-file", str(file), "--no-dashboard"]
        processes = [
            subprocess.Popen([sys.executable, "-m", *command, *where], stderr=log, stdout=log) for command in commands
        ]
        try:
            while not file.exists():
                time.sleep(0.05)
            yield file
        finally:
            for process in processes:
                process.kill()
                process.wait()


def parsl_configuration(folder: Path) -> Path:
    """A configuration of Parsl with two workers of one manager."""
    file = folder / "config.py"
    file.write_text(PARSL.format(run_dir=str(folder / "runinfo")))
    return file


@contextmanager
def worker_killed(leases: Path, tasks: str = "*") -> Iterator[list[int]]:
    """Kill the worker of the task, of those with such a name, that gets on first in a folder of leases.

    Yields a list that gets the number of its process.
    """
    killed: list[int] = []
    end = threading.Event()

    def kill() -> None:
        while not end.is_set() and not killed:
            for path in leases.glob(f"{tasks}.progress"):
                try:
                    told = storage.read_json(path)
                except Exception:  # it is just being written
                    continue
                if told["process"] != os.getpid() and told["fraction"] > 0.1:
                    os.kill(told["process"], signal.SIGKILL)
                    killed.append(told["process"])
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        end.set()
        thread.join()
