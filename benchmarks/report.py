"""How long the report of a large campaign takes, and how large its page is.

    python benchmarks/report.py -o DIR            # ten walkers of 1,000 segments each, of one particle

makes a campaign whose frames are drawn at random around two places, in files as walkers write them, lets `latf run`
learn a model of them, and writes the report of `latf report` again. Results are in benchmarks/report.md.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling.campaign.ledger import update
from latf_sampling.core.provenance import Attempt
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.data.trajectory_writers import write_netcdf
from latf_sampling.features import as_mdtraj
from latf_sampling.settings import Protocol
from latf_sampling.systems import Molecule, build

LEARNING = {"lag": "0.2 ps", "refinements": 3, "joint_epochs": 3, "flow_epochs": 5, "ensemble": 2}
NOISE = 0.01
"""Standard deviation of coordinates, nm."""
RUN = "import sys; from latf_sampling import Campaign; Campaign.load(sys.argv[1]).run()"


def protocol_of(length: int) -> Protocol:
    return Protocol(
        name="many segments",
        system={"name": "double-well"},
        integrator={"timestep": "10 fs"},
        frame_interval="100 fs",
        segment="1 ps",
        features=[{"coordinates": {"of": "all", "axes": "x"}}],
        learning=LEARNING,
        rounds=[{"walkers": ["300 K"] * 10, "length": f"{length} ps"}],
        observe={"descriptor": {"coordinates": {"of": "all", "axes": "x"}}, "above": "0 nm"},
    )


def make(directory: Path, protocol: Protocol) -> None:
    """A campaign whose simulations are finished."""
    files = CampaignDirectory(directory)
    with files.acquire(protocol):
        molecule = build(protocol.system, protocol.seed)
        molecule.save(files.system, protocol.made_from())
    rng = np.random.default_rng(1)
    (walkers,) = protocol.rounds
    for number in range(len(walkers.walkers)):
        simulate(files, protocol, molecule, number, rng)
    update(files)


def simulate(
    files: CampaignDirectory, protocol: Protocol, molecule: Molecule, number: int, rng: np.random.Generator
) -> None:
    """The segments of a walker that is at one of two places and now and then goes to the other."""
    frames = round(protocol.segment / protocol.frame_interval)
    walker = files.round(0).walker(number)
    walker.path.mkdir(parents=True)
    topology, place, side = as_mdtraj(molecule.topology), molecule.positions, 1.0
    for index in range(round(protocol.rounds[0].length / protocol.segment)):
        segment = walker.segment(index)
        attempt = Attempt(walker.path, segment.stem.name)
        sides = side * np.cumprod(np.where(rng.random(frames) < 0.02, -1.0, 1.0))
        side = sides[-1]
        positions = sides[:, None, None] * place + rng.normal(scale=NOISE, size=(frames, *place.shape))
        step = round((index + 1) * protocol.segment / protocol.integrator.timestep)
        times = index * protocol.segment + protocol.frame_interval * np.arange(1, frames + 1)
        write_netcdf(mdtraj.Trajectory(positions, topology, times), segment.trajectory)
        zeros = np.zeros(frames)
        np.savez(segment.frames, energy=rng.normal(size=frames), bias=zeros, offset=zeros)
        segment.state.write_bytes(b"not continued from")
        content = {"step": step, "frames": frames, "temperature": 300.0, "seconds": 1.0}
        stream = ["segment", 0, number, index]
        segment.finish(content, attempt.provenance(device={"platform": "Reference"}, stream=stream))


def timed(*arguments: str) -> str:
    """Seconds that Python needs with some arguments, which is started anew."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{time.perf_counter() - began:.0f} s on the clock, {processor:.0f} s of the processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--segments", type=int, default=1000, help="of each walker")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    directory = arguments.output / "run"
    if not directory.exists():
        make(directory, protocol_of(arguments.segments))
    print(f"latf run: {timed('-c', RUN, str(directory))}")
    print(f"latf report: {timed('-m', 'latf_sampling.cli.main', 'report', str(directory))}")
    print(f"page: {(directory / 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
