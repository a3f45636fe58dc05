"""Free energies by MBAR from walkers of one bias that did not run at the same time.

    python benchmarks/late_walkers.py -o runs/late --seeds 10      # a few minutes of one core

Four walkers share metadynamics in the double well of benchmarks/wells.py in one dimension, whose free energy is known,
two at a time: the second two start when the first two have finished, as with more walkers than cores. MBAR takes the
bias in stages (`analysis.stages`), which need to know what acted on whom: by the step of each walker, as if all had
begun together, or by the clock that walkers agree on (`Bias.shared_time`).

The table has the error of the free energy of the second well less that of the first, its root mean square over the
seeds, how often the 95 % interval holds the exact value, and how far the bias of the stages is from the one that acted
on each frame.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from wells import BIAS_FACTOR, STRIDE, TEMPERATURE, WELLS, Well, frames, simulate

from latf_sampling.analysis import free_energy_difference, offset_weights, stages
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.bias import Metadynamics

HEIGHTS = (1.0, 5.0)  # kJ/mol
FREQUENCY = 20
STEPS = 15_000  # of each walker
GROUPS = (("a", "b"), ("c", "d"))
SKIPPED = 0.2
"""Share of the frames of all walkers, in the order in which they came, in which wells are filled."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/late"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="one seed, briefly, to check that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options.output.mkdir(parents=True, exist_ok=True)
    well = Well.build(WELLS[1], options.output)
    lines = ["| hills, kJ/mol | estimate | error, RMS | mean | intervals that hold | bias of the stages off by |"]
    lines.append("|---|---|---|---|---|---|")
    for height in HEIGHTS:
        results = []
        for seed in range(1 if options.quick else options.seeds):
            file = options.output / f"{height:g}-{seed}.json"
            if options.quick or not file.exists():
                result = run(well, height, seed, 1_500 if options.quick else STEPS)
                file.write_text(json.dumps(result))
            results.append(json.loads(file.read_text()))
        for name in results[0]:
            errors = np.array([result[name]["error"] for result in results])
            held = sum(abs(result[name]["error"]) <= result[name]["half"] for result in results)
            off = np.mean([result[name]["off"] for result in results])
            cells = [f"{height:g}", name, f"{np.sqrt((errors**2).mean()):.2f}", f"{errors.mean():.2f}"]
            lines.append("| " + " | ".join([*cells, f"{held} of {len(results)}", f"{off:.2f}"]) + " |")
    text = "\n".join(lines)
    (options.output / "table.md").write_text(text + "\n")
    print(text)


def run(well: Well, height: float, seed: int, steps: int) -> dict:
    """Error, half width, and deviation of the bias, of each estimate."""
    u, applied, offset = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, names in enumerate(GROUPS):
            walkers = {}
            for place, name in enumerate(names):
                system = well.system()
                bias = Metadynamics(
                    system, well.cv, TEMPERATURE, BIAS_FACTOR, height, FREQUENCY, directory=folder, walker=name
                )
                walkers[name] = bias, simulate(well, system, 100 * seed + 10 * number + place)
            rows: dict[str, list] = {name: [] for name in names}
            for _ in range(steps // STRIDE):
                for name, (bias, simulation) in walkers.items():
                    rows[name] += frames(bias, simulation, 1)
            for name, (bias, _) in walkers.items():
                bias.close()
                u[name], applied[name], offset[name] = map(np.array, zip(*rows[name]))
        bias = Metadynamics(
            well.system(), well.cv, TEMPERATURE, BIAS_FACTOR, height, FREQUENCY, directory=folder, walker="reader",
            read_only=True,
        )  # fmt: skip
        own = STRIDE * np.arange(1, len(u["a"]) + 1)
        clock = {name: bias.shared_time(own, name) for name in u}
        late = np.quantile(np.concatenate(list(clock.values())), SKIPPED)
        used = {name: clock[name] > late for name in u}

        def by_step(points: np.ndarray, steps: list[int]) -> np.ndarray:
            """The bias of all kernels up to each step, whichever walker added them."""
            kernels, energies = bias.all_kernels(), []
            for step in steps:
                state = bias._empty_state()
                for kernel in kernels[kernels[:, 0] <= step]:
                    bias._add_kernel(state, kernel)
                energies.append(bias._energy_with(bias._coefficients_of(state), points))
            return np.stack(energies)

        results = {}
        for how, times in (("MBAR, by step", dict.fromkeys(u, own)), ("MBAR, by clock", clock)):
            joined = np.concatenate([u[name][used[name]] for name in u])
            which, middles = stages(np.concatenate([times[name][used[name]] for name in u]))
            staged = (by_step if times is not clock else bias.past_energy)(joined, middles)
            states = Multistate(
                np.zeros(len(which)), staged, np.full(len(middles), TEMPERATURE), which, np.random.default_rng(0)
            )
            off = staged[which, np.arange(len(which))] - np.concatenate([applied[name][used[name]] for name in u])
            ends = np.cumsum([used[name].sum() for name in u])[:-1]
            logs = np.split(states.log_weights(TEMPERATURE), ends)
            results[how] = judged(well, u, used, logs, seed, states) | {"off": float(np.sqrt((off**2).mean()))}
        logs = [offset_weights(applied[name][used[name]], offset[name][used[name]], TEMPERATURE) for name in u]
        results["c(t)"] = judged(well, u, used, logs, seed) | {"off": 0.0}
        return results


def judged(well: Well, u: dict, used: dict, logs: list[np.ndarray], seed: int, states=None) -> dict:
    inside = [u[name][used[name], 0] > 0 for name in u]
    found = free_energy_difference(inside, logs, TEMPERATURE, np.random.default_rng(seed), states)
    ends = np.array([well.points[0, 0], 0.0, well.points[0, -1]])
    exact = well.exact(0, ends[1:])[0] - well.exact(0, ends[:2])[0]
    return {"error": float(found.value - exact), "half": float(found.half_width)}


if __name__ == "__main__":
    main()
