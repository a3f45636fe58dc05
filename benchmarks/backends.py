"""The biased rounds of a finished campaign with each backend, side by side: seconds per nanosecond.

    make demo && python benchmarks/backends.py runs/demo

For every biased round a walker is simulated as the campaign did it, with its model, bias and time step, once per
backend, in blocks that take turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app

from latf_sampling.bias.from_settings import BiasTask, make_bias
from latf_sampling.core import platforms
from latf_sampling.core.backends import BACKENDS, choose_backend
from latf_sampling.records.records import Records

BLOCKS, PICOSECONDS = 15, 20.0


def walker(records: Records, index: int, backend: str) -> tuple[app.Simulation, object]:
    """A simulation with the bias of a round on one backend."""
    settings, protocol, molecule = records.protocol.runs[index], records.protocol, records.molecule
    system = openmm.XmlSerializer.clone(molecule.system)
    model, cv = records.model(index - 1)
    temperature, timestep = settings.walkers[0], protocol.integrator.timestep
    task = BiasTask(system, cv, lambda: model, temperature, timestep)
    bias = make_bias(settings.bias.model_copy(update={"backend": backend}), task)
    integrator = openmm.LangevinMiddleIntegrator(temperature, protocol.integrator.friction, timestep)
    platform = platforms.pick_platform(protocol.system.platform, system.getNumParticles())
    simulation = app.Simulation(molecule.topology, system, integrator, platform)
    simulation.context.setPositions(molecule.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(temperature, 1)
    return simulation, bias


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a finished campaign")
    records = Records.load(parser.parse_args().directory)
    torch.set_num_threads(1)
    steps = round(PICOSECONDS / records.protocol.integrator.timestep)
    print("| round | seconds per ns, TorchForce | PythonForce | ratio | auto is |\n|---|---|---|---|---|")
    for index, settings in enumerate(records.protocol.rounds):
        if settings.bias is None:
            continue
        walkers = {backend: walker(records, index, backend) for backend in BACKENDS}
        seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
        for _ in range(BLOCKS):
            for backend, (simulation, bias) in walkers.items():
                began = time.perf_counter()
                bias.step(simulation, steps)
                seconds[backend].append((time.perf_counter() - began) / PICOSECONDS * 1000)
        torchforce, pythonforce = (np.array(seconds[backend][1:]) for backend in BACKENDS)
        platform = walkers["torchforce"][0].context.getPlatform().getName()
        print(
            f"| {index} | {np.median(torchforce):.1f} | {np.median(pythonforce):.1f} | "
            f"{np.median(torchforce / pythonforce):.2f} | {choose_backend('auto', platform)[0]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
