"""Where the walkers of a round start. To add a restart policy, write its function and enter it in `POLICIES`.

The names of the policies are also the choices of `RoundSettings.restart`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from openmm import Context, VerletIntegrator
from openmm.unit import md_unit_system

from latf_sampling.campaign import structures
from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core import platforms, streams
from latf_sampling.errors import DataError
from latf_sampling.records.records import Records
from latf_sampling.records.weighting import weightings
from latf_sampling.starts import Starts

RestartPolicy = Callable[[Records, int, int, StepProgress, int, Executor | None], None]
"""Called with the records of the campaign, the index of a round after the first, a seed, a progress callback, and the
number of the first walker that needs a structure, a policy writes one structure for this and for each later walker, as
`Starts.save` does, into the folder `start_set(first)` of this round, for as many walkers as follow each other at the
same temperature (`next_walkers`). It may write fewer than that, or stop at any time and continue when it is called
again."""


def next_walkers(records: Records, index: int, first: int) -> tuple[float, int]:
    """Temperature of a walker of a round, K, and how many walkers from it on have this temperature."""
    temperatures = records.protocol.all_rounds[index].walkers[first:]
    others = (number for number, temperature in enumerate(temperatures) if temperature != temperatures[0])
    return temperatures[0], next(others, len(temperatures))


def from_flow(
    records: Records, index: int, seed: int, progress: StepProgress, first: int = 0, executor: Executor | None = None
) -> None:
    """Samples of the flow at the temperature of the walkers, made into structures."""
    temperature, count = next_walkers(records, index, first)
    structures.generate(
        records,
        temperature,
        count,
        learned=index - 1,
        seed=seed,
        progress=progress,
        # Every walker has to start somewhere: further samples replace targets that give no structure.
        extra_samples=2 * count,
        directory=records.directory.round(index).start_set(first),
        executor=executor,
    )


def from_archive(
    records: Records, index: int, seed: int, progress: StepProgress, first: int = 0, executor: Executor | None = None
) -> None:
    """Frames drawn at random with their weights in the ensemble at the temperature of the walkers.

    The weights are those of MBAR over all earlier rounds (`latf_sampling.records.weighting`). Velocities are new.
    """
    temperature, count = next_walkers(records, index, first)
    rng = streams.stream(seed, "frames")
    archive = records.frames(index - 1)
    weighting = weightings(records, archive, temperature, rng)[-1]
    begins = dict(zip(((w.round_index, w.walker) for w in archive), np.cumsum([0, *map(len, archive)])))
    sources = np.concatenate(
        [
            begins[walker.round_index, walker.walker] + np.arange(len(walker))[part]
            for walker, part in zip(weighting.walkers, weighting.selected)
        ]
    )
    logs = np.concatenate(weighting.log_weights)
    weights = np.exp(logs - logs.max())
    if not np.isfinite(weights).all():
        raise DataError(f"round {index}: the weights of the archived frames at {temperature:g} K are not finite.")
    chosen = sources[rng.choice(len(sources), count, p=weights / weights.sum())]
    starts = _starts(records, index, temperature, chosen, seed, progress)
    starts.save(records.directory.round(index).start_set(first))


def _starts(
    records: Records, index: int, temperature: float, sources: np.ndarray, seed: int, progress: StepProgress
) -> Starts:
    """Archived frames with new velocities, by their indices in all frames of the earlier rounds."""
    molecule, archive = records.molecule, records.frames(index - 1)
    borders = np.cumsum([0, *map(len, archive)])
    platform = platforms.pick_platform(records.protocol.system.platform, molecule.system.getNumParticles())
    context = Context(molecule.system, VerletIntegrator(0.001), platform)
    positions, velocities, boxes, energies = [], [], [], []
    for number, source in enumerate(sources.tolist()):
        walker = int(np.searchsorted(borders, source, side="right")) - 1
        frame = archive[walker].take([source - int(borders[walker])])
        if records.periodic:
            boxes.append(np.asarray(frame.unitcell_vectors)[0].astype(float))
            context.setPeriodicBoxVectors(*boxes[-1])
        context.setPositions(np.asarray(frame.xyz)[0].astype(float))
        context.applyConstraints(1e-6)
        context.setVelocitiesToTemperature(temperature, streams.stream_seed(seed, "velocities", number))
        state = context.getState(positions=True, velocities=True, energy=True)
        # in the units of the package, which are OpenMM's
        positions.append(state.getPositions(asNumpy=True).value_in_unit_system(md_unit_system))
        velocities.append(state.getVelocities(asNumpy=True).value_in_unit_system(md_unit_system))
        energies.append(state.getPotentialEnergy().value_in_unit_system(md_unit_system))
        progress((number + 1) / len(sources), f"frame {source}")
    box = np.array(boxes) if boxes else None
    _, cv = records.model(index - 1)
    latent = cv(np.array(positions), box)
    return Starts(
        temperature=temperature,
        topology=molecule.topology,
        positions=np.array(positions),
        velocities=np.array(velocities),
        targets=latent,
        reached=latent,
        sources=sources,
        energies=np.array(energies),
        rejected=[],
        requested=len(sources),
        tolerance=0.0,
        boxes=box,
        checks=[{"number": number} for number in range(len(sources))],
        settings={"restart": "archive", "seed": seed},
    )


POLICIES: dict[str, RestartPolicy] = {
    "flow": from_flow,
    "archive": from_archive,
}
"""Restart policies by name."""
