"""Where the walkers of a round start. To add a restart policy, write its function and enter it in `POLICIES`.

The names of the policies are also the choices of `RoundSettings.restart`. Most are a choice among archived frames
(`from_frames`), with its reason, which the report states. Frames that were chosen are no sample of an ensemble: what is
simulated from them is, once it has forgotten where it began.

Modules that load torch are imported where they are used: the process that runs a campaign leaves restarts
to another one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from openmm import Context, VerletIntegrator
from openmm.unit import md_unit_system

from latf_sampling.campaign import choices, structures
from latf_sampling.campaign.choices import Choice
from latf_sampling.campaign.progress import StepProgress
from latf_sampling.core import platforms, streams
from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.records.records import Records
from latf_sampling.records.trapped import latent
from latf_sampling.settings import RoundSettings, n_steps

if TYPE_CHECKING:
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.learning.model import LaTF
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
    from latf_sampling.records.weighting import weightings

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
    settings = {"restart": "archive", "seed": seed, "reason": "drawn at random with their weights at this temperature"}
    starts = _starts(records, index, temperature, chosen, settings, progress)
    starts.save(records.directory.round(index).start_set(first))


@dataclass(frozen=True)
class Archive:
    """The frames of all earlier rounds, for one choice among them.

    Attributes
    ----------
    records : Records
    index : int
        Round that the walkers are for; the model is that of the round before.
    temperature : float
        Of the walkers, K.
    first, count : int
        Number of the first of these walkers, and how many there are.
    rng : numpy.random.Generator
    """

    records: Records
    index: int
    temperature: float
    first: int
    count: int
    rng: np.random.Generator

    @cached_property
    def walkers(self) -> list[Frames]:
        return self.records.frames(self.index - 1)

    @cached_property
    def learned(self) -> tuple[LaTF, LatentCV]:
        return self.records.model(self.index - 1)

    @cached_property
    def latent(self) -> np.ndarray:
        """Of each frame; (n, d)."""
        return np.concatenate([latent(self.learned[1], walker) for walker in self.walkers])

    @cached_property
    def states(self) -> np.ndarray:
        """Most probable state of each frame; (n,)."""
        return self.learned[0].state_probabilities(self.latent).argmax(1)


def uniformly(archive: Archive) -> Choice:
    """Frames at random, all with the same probability."""
    return choices.uniform(sum(map(len, archive.walkers)), archive.count, archive.rng)


def of_rare_states(archive: Archive) -> Choice:
    """Frames of the states in which fewest frames are."""
    protocol = archive.records.protocol
    settings = protocol.all_rounds[archive.index]
    assert isinstance(settings, RoundSettings)  # external trajectories start nowhere
    length = n_steps(settings.length, protocol.frame_interval)
    return choices.least_counts(archive.states, archive.learned[0].n_states, archive.count, length, archive.rng)


def at_frontier(archive: Archive) -> Choice:
    """Frames at the border of what was visited."""
    return choices.frontier(archive.latent, archive.learned[1].sigma, archive.count, archive.rng)


def of_disagreement(archive: Archive) -> Choice:
    """Frames where the flows of the ensemble differ most in their free energy."""
    model, cv = archive.learned
    if not model.networks.ensemble:
        raise SettingsError(
            f"rounds: round {archive.index} restarts where an ensemble disagrees, and its model has none; set "
            "learning.ensemble to 2 at least."
        )
    _, deviation = model.free_energy(archive.latent.astype(np.float32), archive.temperature, return_std=True)
    return choices.most_uncertain(np.asarray(deviation, float), archive.latent, cv.sigma, archive.count)


def going_on(archive: Archive) -> Choice:
    """Where the walkers of the round before ended, those at the nearest temperature first."""
    ends = np.cumsum([len(walker) for walker in archive.walkers]) - 1
    last = [k for k, walker in enumerate(archive.walkers) if walker.round_index == archive.index - 1]
    nearest = min(abs(archive.walkers[k].temperature - archive.temperature) for k in last)
    last = [k for k in last if abs(archive.walkers[k].temperature - archive.temperature) == nearest]
    before = archive.records.protocol.all_rounds[archive.index].walkers[: archive.first].count(archive.temperature)
    taken = [last[(before + k) % len(last)] for k in range(archive.count)]
    names = ", ".join(dict.fromkeys(archive.walkers[k].label for k in taken))
    return ends[taken], f"the last ones of {names}"


def from_frames(name: str, choose: Callable[[Archive], Choice]) -> RestartPolicy:
    """The policy that restarts from the archived frames that a function chooses, with new velocities."""

    def policy(
        records: Records,
        index: int,
        seed: int,
        progress: StepProgress,
        first: int = 0,
        executor: Executor | None = None,
    ) -> None:
        temperature, count = next_walkers(records, index, first)
        sources, reason = choose(Archive(records, index, temperature, first, count, streams.stream(seed, "frames")))
        settings = {"restart": name, "seed": seed, "reason": reason}
        starts = _starts(records, index, temperature, sources, settings, progress)
        starts.save(records.directory.round(index).start_set(first))

    policy.__doc__ = choose.__doc__
    return policy


def _starts(
    records: Records, index: int, temperature: float, sources: np.ndarray, settings: dict, progress: StepProgress
) -> Starts:
    """Archived frames with new velocities, by their indices in all frames of the earlier rounds."""
    from latf_sampling.starts import Starts

    seed = settings["seed"]
    molecule, archive = records.molecule, records.frames(index - 1)
    borders = np.cumsum([0, *map(len, archive)])
    platform = platforms.pick_platform(records.protocol.system.platform, molecule.system.getNumParticles())
    context = Context(molecule.system, VerletIntegrator(0.001), platform)
    positions, velocities, boxes, energies = [], [], [], []
    for number, source in enumerate(sources.tolist()):
        walker = int(np.searchsorted(borders, source, side="right")) - 1
        frame = archive[walker].take([source - int(borders[walker])])
        if records.periodic:
            boxes.append(reduced_boxes(np.asarray(frame.unitcell_vectors))[0])
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
        settings={**settings, "variable": cv.fingerprint()},
    )


POLICIES: dict[str, RestartPolicy] = {
    "flow": from_flow,
    "archive": from_archive,
    "uniform": from_frames("uniform", uniformly),
    "counts": from_frames("counts", of_rare_states),
    "frontier": from_frames("frontier", at_frontier),
    "disagreement": from_frames("disagreement", of_disagreement),
    "continue": from_frames("continue", going_on),
}
"""Restart policies by name."""


def restart(
    records: Records, progress: StepProgress, policy: str, index: int, first: int, seed: int, executor: Executor
) -> None:
    """Structures for a walker of a round and those after it, by a policy."""
    POLICIES[policy](records, index, seed, progress, first, executor)
