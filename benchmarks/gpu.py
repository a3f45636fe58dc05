"""Training on a GPU against a CPU, and two walkers on one GPU.

    python benchmarks/gpu.py --platform CUDA

prints two tables. Training is that of `latf_sampling.train` on frames of a double well among noise, on each device in
turn. Walkers are processes that simulate the same box of water, biased along distances, alone and at the same time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings

import bias_cost
import numpy as np
import torch

import latf_sampling as ls

COLUMNS, FRAMES = 45, 20_000
SECONDS = 20.0
"""So long a walker simulates."""


def series(seed: int, temperature: float) -> ls.Series:
    """A double well that relaxes slowly, mixed into noisy columns."""
    rng = np.random.default_rng(seed)
    state = np.where(rng.random(FRAMES) < 0.002, -1, 1).cumprod()
    position = state + 0.2 * rng.normal(size=FRAMES)
    mixing = np.random.default_rng(0).normal(size=(1, COLUMNS))
    x = position[:, None] * mixing + 0.3 * rng.normal(size=(FRAMES, COLUMNS))
    return ls.Series(x.astype(np.float32), temperature=temperature, energies=rng.normal(scale=5.0, size=FRAMES))


def training(device: str) -> tuple[float, int]:
    """Seconds of a whole training, and the number of states."""
    dataset = ls.Dataset([series(1, 300.0), series(2, 400.0)], lag=10)
    began = time.perf_counter()
    result = ls.train(ls.LaTF(latent_dim=1), dataset, seed=0, device=device)
    return time.perf_counter() - began, len(result.states)


def walker(platform: str, system: str, start, results) -> None:
    """Simulate for some seconds; puts the steps a second into the queue."""
    warnings.simplefilter("ignore")
    step = bias_cost.simulation(system, "PythonForce" if platform == "CPU" else "TorchForce", 1, platform)
    step(100)
    start.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        step(100)
        steps += 100
    results.put(steps / (time.perf_counter() - began))


def speeds(platform: str, system: str, walkers: int) -> list[float]:
    """Steps a second of each of some walkers that run at the same time."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(walkers), context.Queue()
    processes = [context.Process(target=walker, args=(platform, system, start, results)) for _ in range(walkers)]
    for process in processes:
        process.start()
    values = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="CUDA")
    parser.add_argument("--system", default="water-10000", choices=bias_cost.SYSTEMS)
    options = parser.parse_args()
    print("| training on | seconds | states |\n|---|---|---|")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        seconds, states = training(device)
        print(f"| {device} | {seconds:.1f} | {states} |", flush=True)
    print("\n| walkers at once | steps a second, each | together |\n|---|---|---|")
    for count in (1, 2):
        values = speeds(options.platform, options.system, count)
        print(f"| {count} | {', '.join(f'{v:.0f}' for v in values)} | {sum(values):.0f} |", flush=True)


if __name__ == "__main__":
    main()
