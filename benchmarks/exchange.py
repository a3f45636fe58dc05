"""Replica exchange as a kind of round, plain and with a learned bias, against the exact free energies of a double well.

Two wells that differ by 2 kJ/mol, with a barrier of 11 kT between them at the lowest of four temperatures, at which
plain dynamics does not cross in the time of a run. Four walkers that all begin in the upper well, with and without
exchange of configurations, and with and without metadynamics along a variable that was learned from a plain round; for
comparison four walkers at the lowest temperature that share one bias, which is what one would run without a ladder.
Every kind of round has the same simulated time. Frames of all walkers of a round are weighted by MBAR as in a report,
and give the free energy of the lower well less that of the upper one at simulated temperatures and at one that nobody
simulated. The exact value is an integral over the plane.

    python benchmarks/exchange.py -o runs/exchange      # benchmarks/exchange.md is one run
    python benchmarks/exchange.py -o runs/quick --seeds 1 --length 100    # does it run?

The model and the results of finished rounds stay in the output directory, and an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openmm
import yaml
from openmm import app, unit

from latf_sampling.analysis.exchange import round_trips
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.core import streams
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.data.exchanges import exchanges_of
from latf_sampling.data.layout import CampaignDirectory, WalkerDirectory
from latf_sampling.data.trajectories import Frames
from latf_sampling.records.records import Records
from latf_sampling.records.weighting import weightings
from latf_sampling.settings import Protocol
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import WalkerJob
from latf_sampling.systems.potentials import double_well
from latf_sampling.units import KB

WELL = double_well(barrier=10.0, tilt=-2.0)
LADDER = (1.0, 1.5, 2.4, 4.0)
"""kT of the walkers, kJ/mol."""
JUDGED = (1.0, 1.2, 2.4)
"""kT that free energies are compared at, kJ/mol; no walker is at the second."""
CORE = 0.5
"""nm from the barrier; a crossing leads from beyond it on one side to beyond it on the other."""
FRAME, ATTEMPT = 0.2, 1.0
"""ps between frames, and between attempts to exchange."""
BIAS = {"kind": "metadynamics", "bias_factor": 8, "height": "0.5 kJ/mol", "interval": "1 ps"}


@dataclass(frozen=True)
class Kind:
    """A kind of round: kT of its walkers in kJ/mol, and whether they exchange and have a bias."""

    name: str
    kt: tuple[float, ...]
    exchange: bool = False
    biased: bool = False

    def settings(self, length: float) -> dict:
        """The round in a protocol; `length` in ps."""
        content: dict = {"walkers": [f"{kt:g} kJ/mol" for kt in self.kt], "length": f"{length:g} ps"}
        if self.exchange:
            content["exchange"] = {"interval": f"{ATTEMPT:g} ps"}
        return content | ({"bias": BIAS} if self.biased else {})


KINDS = (
    Kind("plain, independent", LADDER),
    Kind("plain, exchange", LADDER, exchange=True),
    Kind("biased, independent", LADDER, biased=True),
    Kind("biased, exchange", LADDER, exchange=True, biased=True),
    Kind("biased, all at 1 kJ/mol", (LADDER[0],) * 4, biased=True),
)


@dataclass
class Result:
    """What one round gave: free energies at `JUDGED` and how long it took.

    Crossings are those of the coldest walker, accepted attempts the share of all, round trips those of all
    configurations.
    """

    free_energies: list[float]
    crossings: int
    accepted: float
    round_trips: int
    seconds: float


def exact(kt: float) -> float:
    """Free energy of the lower well, x > 0, less that of the upper one, kJ/mol."""
    centers, probabilities = WELL.cells(kt / KB)
    lower = probabilities[centers[:, 0] > 0].sum()
    return float(-kt * np.log(lower / (1 - lower)))


def write(folder: Path, rounds: list[dict], seed: int) -> Protocol:
    """A protocol of the well, with its files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(WELL.system))
    with open(folder / "well.pdb", "w") as file:
        app.PDBFile.writeFile(WELL.topology, WELL.positions * unit.nanometer, file)
    content = {
        "name": "double well",
        "seed": seed,
        "system": {"openmm": {"system": "system.xml", "topology": "well.pdb"}, "platform": "Reference"},
        "integrator": {"timestep": "20 fs"},
        "frame_interval": f"{FRAME:g} ps",
        "segment": "100 ps",
        "features": WELL.features,
        "model": {"latent_dim": 1},
        "learning": {"lag": "1 ps", "ensemble": 1, "minimum_population": 0.02},
        "rounds": rounds,
        "observe": {"descriptor": {"coordinates": {"of": "all", "axes": "x"}}, "above": "0 nm"},
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(content))
    return Protocol.load(folder / "protocol.yaml")


PLAIN = KINDS[0].settings(500.0)
"""The round that the variable is learned from."""


def learn(output: Path) -> Path:
    """The campaign whose model biases all later rounds."""
    directory = output / "learned"
    if not (directory / "report.html").exists():
        Campaign(write(output / "protocol", [PLAIN], 1), directory).run()
    return directory


def jobs(kind: Kind, learned: Path, folder: Path, length: float, seed: int) -> list[WalkerJob]:
    """The walkers of a round; a biased one is the round after that of the model."""
    shutil.rmtree(folder, ignore_errors=True)
    index = int(kind.biased)
    protocol = write(folder / "protocol", [*[PLAIN] * index, kind.settings(length)], seed)
    if kind.biased:
        shutil.copytree(learned / "rounds" / "00", folder / "rounds" / "00")
    files = CampaignDirectory(folder)
    here, walkers = files.round(index), protocol.rounds[index].walkers
    return [
        WalkerJob(
            protocol, index, number, here.walker(number).path, None,
            files.round(0).learning.path if kind.biased else None,
            here.hills_of(walkers, number) if kind.biased else None, learned / "system",
        )
        for number in range(len(walkers))
    ]  # fmt: skip


def cpu_seconds() -> float:
    """Of this process and of its children, those that run and those that have ended."""
    ticks = os.sysconf("SC_CLK_TCK")
    alive = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == os.getpid():
            alive += sum(map(int, fields[11:15])) / ticks
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return alive + sum(each.ru_utime + each.ru_stime for each in used)


def crossings(x: np.ndarray) -> int:
    """Passages of a trajectory (frames,) from beyond the core of one well to beyond that of the other."""
    sides = np.sign(x[np.abs(x) > CORE])
    return int((sides[1:] != sides[:-1]).sum())


def position(frames: Frames) -> np.ndarray:
    """x of each frame, nm."""
    return frames.trajectory.xyz[:, 0, 0]


def free_energy(records: Records, walkers: list[Frames], kt: float, seed: int) -> float:
    """Of the lower well less the upper one by MBAR, kJ/mol; infinite where no frame is in the upper or lower one."""
    rng = streams.stream(seed, "benchmark", "weights")
    mbar = weightings(records, walkers, kt / KB, rng)[-1]
    x = np.concatenate([position(walker)[part] for walker, part in zip(mbar.walkers, mbar.selected)])
    weights = np.exp(np.concatenate(mbar.log_weights))
    with np.errstate(divide="ignore"):
        return float(-kt * np.log(weights[x > 0].sum() / weights[x < 0].sum()))


def run(kind: Kind, learned: Path, folder: Path, length: float, seed: int, executor: LocalExecutor) -> Result:
    """One round, and what it gives."""
    walkers = jobs(kind, learned, folder, length, seed)
    began = cpu_seconds()
    run_walkers(walkers, lambda fraction, words: None, executor)
    seconds = cpu_seconds() - began
    records = Records(walkers[0].protocol, CampaignDirectory(folder))
    frames = [frames for frames in records.frames() if frames.round_index == walkers[0].round_index]
    by_walker = [exchanges_of(WalkerDirectory(job.directory).finished_segments()) for job in walkers]
    entries = [entry for own in by_walker for entry in own]
    swaps = sorted(
        (entry.frame, number, entry.partner)
        for number, own in enumerate(by_walker)
        for entry in own
        if entry.accepted and number < entry.partner
    )
    return Result(
        [free_energy(records, frames, kt, seed) for kt in JUDGED],
        crossings(position(frames[0])),
        float(np.mean([entry.accepted for entry in entries])) if entries else np.nan,
        int(round_trips(kind.kt, [pair for _, *pair in swaps]).sum()) if entries else 0,
        seconds,
    )


class Results:
    """Results by the name of a kind and a seed, which a file keeps."""

    def __init__(self, file: Path) -> None:
        self.file, self.known = file, dict[tuple[str, int], Result]()
        for line in file.read_text().splitlines() if file.exists() else ():
            name, seed, content = json.loads(line)
            self.known[name, seed] = Result(**content)

    def add(self, name: str, seed: int, result: Result) -> None:
        self.known[name, seed] = result
        with self.file.open("a") as file:
            file.write(json.dumps([name, seed, asdict(result)]) + "\n")


def row(kind: Kind, results: list[Result], length: float) -> str:
    """A line of the table."""
    errors = np.array([result.free_energies for result in results]) - [exact(kt) for kt in JUDGED]
    cells = [kind.name]
    for column in errors.T:
        finite = column[np.isfinite(column)]
        words = f"{np.sqrt((finite**2).mean()):.2f} ({finite.mean():+.2f})" if len(finite) else "-"
        cells.append(words + (f", {len(column) - len(finite)} unknown" if len(finite) < len(column) else ""))
    cells.append(f"{np.mean([result.crossings for result in results]):.0f}")
    shares = [result.accepted for result in results]
    cells.append("-" if np.isnan(shares).all() else f"{100 * np.mean(shares):.0f} %")
    cells.append(f"{np.mean([result.round_trips for result in results]):.0f}" if kind.exchange else "-")
    nanoseconds = length * len(kind.kt) / 1000
    cells.append(f"{np.median([result.seconds for result in results]) / nanoseconds:.1f}")
    return f"| {' | '.join(cells)} |"


@contextmanager
def one_thread() -> Iterator[None]:
    """Walkers of a biased round use one thread of torch each, and a round has four of them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that a short training gives
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--length", type=float, default=500.0, help="ps of each walker")
    options = parser.parse_args()
    began = time.monotonic()
    with one_thread(), LocalExecutor(2) as executor:
        learned = learn(options.output)
        exactly = ", ".join(f"{exact(kt):.2f} at {kt:g}" for kt in JUDGED)
        print(f"exact free energies, kJ/mol at kT = kJ/mol: {exactly}\n", flush=True)
        results = Results(options.output / f"{options.length:g}.jsonl")
        for seed in range(options.seeds):
            for kind in KINDS:
                if (kind.name, seed) not in results.known:
                    result = run(kind, learned, options.output / "round", options.length, seed, executor)
                    results.add(kind.name, seed, result)
                    print(f"{kind.name}, seed {seed}: {result}", file=sys.stderr, flush=True)
        heads = [f"error at {kt:g} kJ/mol: rms (mean)" for kt in JUDGED]
        heads = ["round", *heads, "crossings", "accepted", "round trips", "CPU s per ns"]
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
        for kind in KINDS:
            known = [results.known[kind.name, seed] for seed in range(options.seeds)]
            print(row(kind, known, options.length))
    load = os.getloadavg()[0]
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes, load of the machine in the end {load:.0f}", flush=True)


if __name__ == "__main__":
    main()
