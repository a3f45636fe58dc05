"""How long `latf status` takes, `latf run` to go on, and `latf verify`, in a campaign of many finished segments.

    python benchmarks/many_segments.py -o /tmp/many --segments 10000

makes a campaign whose segments are files of a few bytes with manifests as walkers write them, and prints the times.
"goes on" is until the first walker would be started.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from latf_sampling.campaign.ledger import update
from latf_sampling.core.provenance import Attempt
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.settings import Protocol
from latf_sampling.systems import build

WALKERS = 10
GO_ON = """
import sys
from latf_sampling.campaign import campaign

class Begun(Exception):
    pass

def begun(jobs, progress, executor):
    raise Begun

campaign.run_walkers = begun
try:
    campaign.Campaign.load(sys.argv[1]).run()
except Begun:
    pass
"""


def protocol(segments: int) -> Protocol:
    """One round of plain dynamics, in which each walker lacks its last segment."""
    return Protocol(
        name="many segments",
        system={"name": "double-well"},
        integrator={"timestep": "10 fs"},
        frame_interval="100 fs",
        segment="1 ps",
        features=[{"coordinates": {"of": "all", "axes": "x"}}],
        learning={"lag": "0.2 ps"},
        rounds=[{"walkers": ["300 K"] * WALKERS, "length": f"{segments // WALKERS + 1} ps"}],
    )


def make(directory: Path, segments: int) -> None:
    """A campaign with so many finished segments."""
    settings, files = protocol(segments), CampaignDirectory(directory)
    with files.acquire(settings):
        build(settings.system, settings.seed).save(files.system, settings.made_from())
    for number in range(WALKERS):
        walker = files.round(0).walker(number)
        walker.path.mkdir(parents=True)
        for index in range(segments // WALKERS):
            segment = walker.segment(index)
            attempt = Attempt(walker.path, segment.stem.name)
            for path in (segment.trajectory, segment.frames, segment.state):
                path.write_bytes(f"{number} {index} {path.suffix}".encode() * 100)
            content = {"step": 100 * (index + 1), "frames": 10, "temperature": 300.0, "seconds": 1.0}
            stream = ["segment", 0, number, index]
            segment.finish(content, attempt.provenance(device={"platform": "Reference"}, stream=stream))
    update(files)


def measure(directory: Path) -> dict[str, tuple[float, float]]:
    """Seconds on the clock, and of processor time, of each command, started anew."""
    latf = [sys.executable, "-m", "latf_sampling.cli.main"]
    commands = {
        "latf --version": [*latf, "--version"],
        "latf status": [*latf, "status", str(directory)],
        "latf run goes on": [sys.executable, "-c", GO_ON, str(directory)],
        "latf verify": [*latf, "verify", str(directory)],
    }
    seconds = {}
    for name, command in commands.items():
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds[name] = time.perf_counter() - began, processor
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--segments", type=int, default=10_000)
    arguments = parser.parse_args()
    if not arguments.output.exists():
        make(arguments.output, arguments.segments)
    size = CampaignDirectory(arguments.output).ledger.stat().st_size
    print(f"ledger: {size / arguments.segments:,.0f} bytes a segment")
    print(f"{'command':<18}{'s':>8}{'processor s':>14}")
    for name, (clock, processor) in measure(arguments.output).items():
        print(f"{name:<18}{clock:8.2f}{processor:14.2f}")


if __name__ == "__main__":
    main()
