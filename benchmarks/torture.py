"""Campaigns whose drivers, walkers and trainers are killed at random moments, with full disks and cut files between.

    python benchmarks/torture.py -o /tmp/torture --kills 50 --systems wells alanine

runs each protocol once without interruption, then once while processes are killed (SIGKILL) one after the other at
random moments, and prints what was lost: frames that are missing, frames that are there twice, and whether ledger,
trajectories, hills and structures are those of the first run, byte by byte. The first run is on processes of this
machine. With `--executor` dask or parsl, those that are killed are the two workers of a Dask scheduler, or those of
Parsl's HighThroughputExecutor and their manager. `--disk` mounts a small disk, which needs root: it is too small for
the campaign, and made larger after each stop.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.clusters import dask_cluster, parsl_configuration
from helpers.molecules import TINY, TINY_WELLS, write_protocol
from helpers.torture import Torture, differences

from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.ledger import Ledger
from latf_sampling.records.verification import Verification
from latf_sampling.settings import RoundSettings, n_steps

ONE = {**TINY["rounds"][2]}
SYSTEMS = {
    "wells": {
        **TINY_WELLS,
        "segment": "10 ps",
        "learning": {**TINY_WELLS["learning"], **dict.fromkeys(("refinements", "joint_epochs", "flow_epochs"), 1)},
        "rounds": [
            {"walkers": ["1 kJ/mol", "2 kJ/mol"], "length": "150 ps"},
            {**ONE, "walkers": ["1 kJ/mol"], "length": "100 ps"},
        ],
        "starts": {"temperature": "1.5 kJ/mol", "count": 8},
        "evaluate": None,
    },
    "alanine": {
        **TINY,
        "rounds": [{"walkers": ["600 K", "600 K"], "length": "60 ps"}, ONE],
        "starts": {"temperature": "450 K", "count": 8},
    },
}
"""Protocols on the Reference platform. Biased rounds have one walker: what walkers that share a bias read of each other
depends on when they run."""
VICTIMS = ("driver", "worker", "worker", "trainer")


def frames(directory: Path) -> tuple[int, int]:
    """Numbers of frames that are missing, and that are there twice, of those that the protocol asks for."""
    files = CampaignDirectory(directory)
    protocol, lost, doubled = files.protocol(), 0, 0
    for index, settings in enumerate(protocol.runs):
        if not isinstance(settings, RoundSettings):
            continue
        for number in range(len(settings.walkers)):
            walker = files.run(protocol, index).walker(number)
            have = sum(manifest.content["frames"] for manifest in walker.finished_segments())
            want = n_steps(settings.length, protocol.frame_interval)
            lost, doubled = lost + max(0, want - have), doubled + max(0, have - want)
    return lost, doubled


def write(folder: Path, content: dict) -> Path:
    """The protocol and its structure."""
    shutil.rmtree(folder, ignore_errors=True)
    path = write_protocol(folder)
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def workers(kind: str, folder: Path) -> Iterator[tuple[str | dict, dict]]:
    """The entry `executor` of the protocol, and how `Torture` finds workers that are no children of the driver."""
    if kind == "dask":
        with dask_cluster(folder, nannies=True) as file:
            yield {"dask": str(file)}, {"roots": (os.getpid(),)}
    elif kind == "parsl":
        yield {"parsl": str(parsl_configuration(folder))}, {"mark": str(folder)}
    else:
        yield kind, {}


def victims(count: int, rng: random.Random) -> list[str]:
    """Kills in a random order."""
    return [rng.choice(VICTIMS) for _ in range(count)]


def report(name: str, torture: Torture, whole: Path, began: float) -> bool:
    """Print a line of the table; returns whether all is as in the run without interruptions."""
    lost, doubled = frames(torture.directory)
    found = differences(torture.directory, whole)
    tasks = Ledger(CampaignDirectory(torture.directory)).tasks()
    damaged = len(Verification.of(torture.directory).findings)
    kills = ", ".join(f"{count} {victim}" for victim, count in sorted(torture.kills.items()))
    attempts = sum(task.attempts for task in tasks.values() if task.kind != "export")
    done = sum(task.kind not in ("export", "molecule") for task in tasks.values())
    equal = "yes" if not found else f"NO: {'; '.join(found[:5])}"
    minutes = (time.monotonic() - began) / 60
    print(
        f"| {name} | {kills} | {done} | {attempts} | {lost} | {doubled} | {damaged} | {equal} | {minutes:.1f} |",
        flush=True,
    )
    return not found and not lost and not doubled


def fill_disk(protocol: Path, mount: Path, sizes: list[int]) -> int:
    """Run a campaign on a disk that is too small, and made larger after each stop; returns the number of stops.

    Raises
    ------
    RuntimeError
        A run ends otherwise than with one sentence about the disk.
    """
    mount.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sizes[0]}k", "tmpfs", str(mount)], check=True)
    for stops, size in enumerate(sizes):
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(mount)], check=True)
        command = [sys.executable, "-m", "latf_sampling.cli.main", "run", str(protocol), "-o", str(mount / "run")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return stops
        sentence = done.stderr.strip().splitlines()[-1]
        if done.returncode != 2 or "free" not in sentence or "Traceback" in done.stderr:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")
        if findings := Verification.of(mount / "run").findings:
            raise RuntimeError(f"{size} kB: {findings}")
        print(f"{size} kB: {sentence}", flush=True)
    raise RuntimeError("the last disk is too small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS])
    parser.add_argument("--executor", choices=["local", "dask", "parsl"], default="local")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--disk", action="store_true")
    arguments = parser.parse_args()
    print("| campaign | kills | tasks | attempts | frames lost | doubled | damaged files | equal | min |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    right = True
    for name in arguments.systems:
        folder = arguments.output / name
        protocol = write(folder / "protocol", SYSTEMS[name])
        began, whole = time.monotonic(), Torture(protocol, folder / "whole")
        whole.run([])
        right &= report(f"{name}, whole", whole, folder / "whole", began)
        rng, killed, turn = random.Random(arguments.seed), 0, 0
        with workers(arguments.executor, folder) as (executor, where):
            protocol = write(folder / arguments.executor, {**SYSTEMS[name], "executor": executor})
            while killed < arguments.kills:  # a campaign is over before it was killed fifty times
                began, turn = time.monotonic(), turn + 1
                shutil.rmtree(folder / "killed", ignore_errors=True)
                torture = Torture(protocol, folder / "killed", seed=rng.randrange(1 << 30), **where)
                torture.run(victims(arguments.kills - killed, rng))
                killed += sum(torture.kills.values())
                right &= report(f"{name}, {turn}", torture, folder / "whole", began)
        if arguments.disk:
            mount = folder / "disk"
            stops = fill_disk(protocol, mount, [1100, 1300, 2600, 2800, 3200, 4000, 8000, 40000])
            print(f"{name}, full disks: {stops} stops, differences: {differences(mount / 'run', folder / 'whole')}")
            subprocess.run(["umount", str(mount)], check=True)
    sys.exit(not right)


if __name__ == "__main__":
    main()
