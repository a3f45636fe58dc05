"""How much less time a free energy takes with several walkers that share a bias than with one.

    python benchmarks/walkers.py -o runs/walkers            # everything, some minutes of a few cores
    python benchmarks/walkers.py -o runs/walkers --quick    # less than a minute, to check that it runs

The double well of benchmarks/wells.py in one dimension, with a barrier of 20 kJ/mol. Walkers are processes of one
thread each that share a folder; all begin in the same well. They wait for each other every few hundred steps, so that
they advance together, as on a machine with a core for each. The estimate after a time t is that of the frames of all
walkers from 0.2 t to t, weighted by the applied bias and its offset. It counts as known from the time on after which
its error stays below 1 kJ/mol: the root mean square over the seeds, or that of each seed. Times are those of one
walker.

Finished runs are kept in the output directory, so that an interrupted benchmark can be continued.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from wells import BARRIER, BIAS_FACTOR, KT, TEMPERATURE, TIMESTEP, WELLS, Well, frames, simulate

from latf_sampling.analysis import FILLING, free_energy_difference, offset_weights
from latf_sampling.bias import OPES, Metadynamics

COUNTS = (1, 2, 4, 8)
KINDS = ("metadynamics", "OPES")
HEIGHT, HILLS, KERNELS = 0.3, 20, 20
STRIDE = 10  # wells.frames makes a frame every so many steps
STEPS = {1: 60_000, 2: 45_000, 4: 22_500, 8: 12_000}
SYNC = 300
"""Steps after which walkers wait for each other."""
TOLERANCE = 1.0
"""kJ/mol."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/walkers"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="one and two walkers, briefly")
    options = parser.parse_args()
    if options.quick:
        options.seeds = 1
    options.output.mkdir(parents=True, exist_ok=True)
    well = Well.build(WELLS[1], options.output)
    jobs = [
        (kind, count, seed, 3_000 if options.quick else STEPS[count])
        for seed in range(options.seeds)
        for kind in KINDS
        for count in (COUNTS[:2] if options.quick else COUNTS)
    ]
    waiting = [job for job in jobs if not all(file.exists() for file in files_of(options.output, *job[:3]))]
    for kind, count, seed, _ in waiting:  # an interrupted run starts again
        shutil.rmtree(folder_of(options.output, kind, count, seed), ignore_errors=True)
    if waiting:
        spawn = multiprocessing.get_context("spawn")
        barriers = {count: spawn.Barrier(count) for count in COUNTS}
        largest = max(count for _, count, _, _ in waiting)
        walkers = [spawn.Process(target=walk, args=(k, waiting, barriers, options.output)) for k in range(largest)]
        for walker in walkers:
            walker.start()
        for walker in walkers:
            walker.join()
        if any(walker.exitcode for walker in walkers):
            sys.exit("A walker failed; see above.")
    text = table(well, jobs, options.output)
    (options.output / "table.md").write_text(text + "\n")
    print(text)


def folder_of(output: Path, kind: str, count: int, seed: int) -> Path:
    return output / f"{kind}-{count}-{seed}"


def files_of(output: Path, kind: str, count: int, seed: int) -> list[Path]:
    return [folder_of(output, kind, count, seed) / f"{walker}.npy" for walker in range(count)]


def walk(walker: int, jobs: list, barriers: dict, output: Path) -> None:
    """Walker number `walker` of each job that has so many; saves u, bias and offset of its frames (frames, 3)."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    well = Well.build(WELLS[1], output)
    for kind, count, seed, steps in jobs:
        if walker >= count:
            continue
        # A context keeps a copy of the forces; each run has a system of its own.
        system, folder = well.system(), folder_of(output, kind, count, seed)
        shared = {"directory": folder, "walker": f"walker-{walker}"}
        if kind == "OPES":
            bias = OPES(system, well.cv, TEMPERATURE, BARRIER, KERNELS, **shared)
        else:
            bias = Metadynamics(system, well.cv, TEMPERATURE, BIAS_FACTOR, HEIGHT, HILLS, **shared)
        simulation = simulate(well, system, 100 * seed + walker)
        rows = []
        for _ in range(steps // SYNC):
            barriers[count].wait()
            rows += [(u[0], applied, offset) for u, applied, offset in frames(bias, simulation, SYNC // STRIDE)]
        barriers[count].wait()
        bias.close()
        np.save(folder / f"{walker}.npy", np.array(rows))


def table(well: Well, jobs: list, output: Path) -> str:
    head = ["bias", "walkers", "seeds", "ps until known, RMS", "times sooner"]
    head += ["ps until known, mean of seeds", "times sooner", "ps in total", "difference at the end"]
    head += ["exact", "half width, median", "intervals with exact value"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    ends = np.array([well.points[0, 0], 0.0, well.points[0, -1]])
    exact = well.exact(0, ends[1:])[0] - well.exact(0, ends[:2])[0]
    for kind in KINDS:
        alone = None
        for count in COUNTS:
            runs = [[np.load(file) for file in files_of(output, *job[:3])] for job in jobs if job[:2] == (kind, count)]
            if not runs:
                continue
            times = np.arange(10, len(runs[0][0]) + 1, 10)
            errors = np.array([[difference(run, time) - exact for time in times] for run in runs])
            ps = [known(times, np.sqrt((errors**2).mean(0))), np.mean([known(times, each) for each in errors])]
            alone = ps if alone is None else alone
            last = [estimate_of(run, seed) for seed, run in enumerate(runs)]
            values = np.array([each.value for each in last])
            held = sum(low <= exact <= high for low, high in (each.interval for each in last))
            spread = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}" if len(values) > 1 else ""
            cells = [kind, f"{count}", f"{len(runs)}"]
            cells += [f"{here:.0f} | {one / here:.1f}" for one, here in zip(alone, ps)]
            cells += [f"{len(runs[0][0]) * STRIDE * TIMESTEP:.0f}", f"{values.mean():.2f}{spread}", f"{exact:.2f}"]
            cells += [f"{np.median([each.half_width for each in last]):.2f}", f"{held} of {len(runs)}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def known(times: np.ndarray, errors: np.ndarray) -> float:
    """ps of one walker after which errors stay below the tolerance; NaN where they do not."""
    above = np.flatnonzero(~(np.abs(errors) < TOLERANCE))
    first = above[-1] + 1 if len(above) else 0
    return times[first] * STRIDE * TIMESTEP if first < len(times) else np.nan


def used_frames(run: list[np.ndarray], time: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per walker, whether it is in the second well, and ln of the weight, of the frames that count after a time."""
    parts = [walker[round(FILLING * time) : time] for walker in run]
    return [part[:, 0] > 0 for part in parts], [offset_weights(part[:, 1], part[:, 2], TEMPERATURE) for part in parts]


def difference(run: list[np.ndarray], time: int) -> float:
    """Free energy of the second well less that of the first after so many frames, kJ/mol; infinite if it is empty."""
    inside, log_weights = (np.concatenate(parts) for parts in used_frames(run, time))
    weights = np.exp(log_weights - log_weights.max())
    with np.errstate(divide="ignore"):
        return float(-KT * np.log(weights[inside].sum() / weights[~inside].sum()))


def estimate_of(run: list[np.ndarray], seed: int):
    return free_energy_difference(*used_frames(run, len(run[0])), TEMPERATURE, np.random.default_rng(seed))


if __name__ == "__main__":
    main()
