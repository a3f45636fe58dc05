"""Three ways to weigh the frames of a campaign: by c(t), by the last bias, and by MBAR over everything."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latf_sampling.analysis import STAGES, balanced, last_bias_weights, offset_weights, settled, stages
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.trajectories import Frames
from latf_sampling.learning.model import LaTF
from latf_sampling.settings import steps
from latf_sampling.simulation.walker import Molecule, WalkerJob, make_bias

if TYPE_CHECKING:
    from latf_sampling.campaign.campaign import Campaign

CORE = 0.9
"""A frame is in the core of a state that is the likeliest one a lag later, with so much of the probability of the frame
where it is largest."""
CHUNK = 2048
"""Frames that a variable is evaluated on at once."""


@dataclass(frozen=True)
class Weighting:
    """Weights of walkers' settled frames in the unbiased ensemble of one temperature.

    Attributes
    ----------
    name : str
        "c(t)", "last bias" or "MBAR".
    walkers : list of Frames
        Whose frames have weights.
    kept : list of slice
        Which of each walker's frames do: `analysis.settled`.
    log_weights : list of numpy.ndarray
        ln of the weight of each of these frames, up to a constant.
    states : Multistate or None
        What the weights of MBAR come from, for `analysis` to take the errors of its free energies into account.
    """

    name: str
    walkers: list[Frames]
    kept: list[slice]
    log_weights: list[np.ndarray]
    states: Multistate | None = None


def weightings(
    campaign: Campaign, walkers: Sequence[Frames], temperature: float, rng: np.random.Generator
) -> list[Weighting]:
    """All three, where there are biased rounds at the temperature; MBAR alone where there are none.

    c(t) puts each frame under the bias as it was then on one scale, and needs a bias that changes slowly; the last bias
    takes what was sampled under all earlier ones as sampled under the last, and needs one that has stopped changing;
    MBAR takes a biased round as a few stages, each under the bias as it was in the middle of it, and joins rounds,
    temperatures and plain dynamics, each of which it takes as sampled in equilibrium. Plain dynamics that stayed away
    from a state that biased walkers were in is therefore left out: it would say that the state is empty.

    Parameters
    ----------
    campaign
        Whose rounds the walkers are of; their biases must not be in use.
    walkers
        As `Campaign.frames` gives them. External trajectories whose frames differ in weight are left out, since the
        bias that they were sampled under is not known.
    temperature
        K.
    rng
        Chooses the frames that MBAR's free energies are solved on.

    Raises
    ------
    SimulationError
        A walker of a biased round is still running.
    """
    walkers = [walker for walker in walkers if len(walker) and not walker.uneven]
    kept = [settled(walker) for walker in walkers]
    rounds = sorted({walker.round_index for walker in walkers if walker.biased})
    biases = {index: _Biases.of(campaign, index, walkers, kept) for index in rounds}
    made = []
    there = [k for k, w in enumerate(walkers) if w.biased and w.temperature == temperature]
    if there:
        for name, weights in (
            ("c(t)", lambda k: offset_weights(walkers[k].bias[kept[k]], walkers[k].offset[kept[k]], temperature)),
            ("last bias", lambda k: last_bias_weights(biases[walkers[k].round_index].last[k], temperature)),
        ):
            logs: dict[int, np.ndarray] = {}
            for index in rounds:
                own = [k for k in there if walkers[k].round_index == index]
                logs.update(zip(own, balanced([weights(k) for k in own])) if own else ())
            made.append(
                Weighting(name, [walkers[k] for k in there], [kept[k] for k in there], [logs[k] for k in there])
            )
    if rounds:
        reached = biases[rounds[-1]].reached
        sought = set.union(*(reached[k] for k, walker in enumerate(walkers) if walker.biased))
        mixed = [k for k, walker in enumerate(walkers) if walker.biased or reached[k] >= sought]
        walkers, kept = [walkers[k] for k in mixed], [kept[k] for k in mixed]
        biases = {index: bias.of_walkers(mixed) for index, bias in biases.items()}
    # One state for each temperature without bias, and one for each stage of each biased round.
    lengths = [len(range(*part.indices(len(walker)))) for walker, part in zip(walkers, kept)]
    stage = [
        biases[w.round_index].stages[k] if w.biased else np.zeros(length, int)
        for k, (w, length) in enumerate(zip(walkers, lengths))
    ]
    own = [{_state(walker, number) for number in set(part.tolist())} for walker, part in zip(walkers, stage)]
    distinct = sorted(set.union(*own))
    places = {state: place for place, state in enumerate(distinct)}
    zero = np.zeros(sum(lengths))
    mixture = Multistate(
        np.concatenate([walker.energies[part] for walker, part in zip(walkers, kept)]),
        np.stack(
            [
                zero if index < 0 else np.concatenate([part[number] for part in biases[index].staged])
                for index, number, _ in distinct
            ]
        ),
        np.array([state[-1] for state in distinct]),
        np.concatenate(
            [
                np.array([places.get(_state(walker, number), -1) for number in range(STAGES)])[part]
                for walker, part in zip(walkers, stage)
            ]
        ),
        rng,
    )
    logs = np.split(mixture.log_weights(temperature), np.cumsum(lengths)[:-1])
    return [*made, Weighting("MBAR", walkers, kept, logs, mixture)]


def _state(walker: Frames, stage: int) -> tuple[int, int, float]:
    """What MBAR tells states apart by: the round if it is biased, its stage, and the temperature."""
    return (walker.round_index, stage, walker.temperature) if walker.biased else (-1, 0, walker.temperature)


@dataclass(frozen=True)
class _Biases:
    """The biases that a round went through, at the kept frames of all walkers; lists have an entry for each walker.

    Attributes
    ----------
    stages : list of numpy.ndarray
        Stage of each frame, from 0, of walkers of the round; (frames,).
    staged : list of numpy.ndarray
        Bias as it was in the middle of each stage, kJ/mol; (stages, frames).
    last : list of numpy.ndarray
        Bias as the round left it, kJ/mol; (frames,).
    reached : list of set
        States, as the model of the round's variable tells them, whose core the walker was in.
    """

    stages: list[np.ndarray]
    staged: list[np.ndarray]
    last: list[np.ndarray]
    reached: list[set[int]]

    @classmethod
    def of(cls, campaign: Campaign, index: int, walkers: Sequence[Frames], kept: Sequence[slice]) -> _Biases:
        folder, learned = campaign.store.walker(index, 0), campaign.store.learning(index - 1)
        job = WalkerJob(campaign.protocol, index, 0, folder, learned=learned, hills=folder.parent / "hills")
        molecule = campaign.molecule
        bias = make_bias(job, Molecule(copy.deepcopy(molecule.system), molecule.topology, molecule.positions))
        bias.close()
        model = LaTF.load(learned / "model.pt")
        stride = steps(campaign.protocol.frame_interval, job.timestep)
        times = [stride * np.arange(1, len(walker) + 1)[part] for walker, part in zip(walkers, kept)]
        own = [k for k, walker in enumerate(walkers) if walker.biased and walker.round_index == index]
        which, middles = stages(np.concatenate([times[k] for k in own]), STAGES if bias.is_adaptive else 1)
        parts = dict(zip(own, np.split(which, np.cumsum([len(times[k]) for k in own])[:-1])))
        latent = [_latent(bias.cv, walker)[part] for walker, part in zip(walkers, kept)]
        # All together, so that the history of the bias is gone through once.
        joined, ends = np.concatenate(latent), np.cumsum(list(map(len, latent)))[:-1]
        return cls(
            [parts.get(k, np.empty(0, int)) for k in range(len(walkers))],
            np.split(bias.past_energy(joined, middles), ends, axis=1),
            np.split(bias.energy(joined), ends),
            _reached([model.state_probabilities(u) for u in latent]),
        )

    def of_walkers(self, chosen: Sequence[int]) -> _Biases:
        """The same of some walkers alone, by their places."""
        return _Biases(*([part[k] for k in chosen] for part in (self.stages, self.staged, self.last, self.reached)))


def _reached(probabilities: Sequence[np.ndarray]) -> list[set[int]]:
    """States whose core each walker was in, from the probabilities of all states at each of its frames."""
    largest = np.concatenate(probabilities).max(0)
    return [
        set(part.argmax(1)[((part >= CORE * largest) & (part == part.max(1, keepdims=True))).any(1)].tolist())
        for part in probabilities
    ]


def _latent(cv: LatentCV, walker: Frames) -> np.ndarray:
    """The variable at all frames of a walker, (frames, d)."""
    found = []
    for piece in walker.pieces():
        x, boxes = piece.xyz, piece.unitcell_vectors
        cuts = [slice(start, start + CHUNK) for start in range(0, len(x), CHUNK)]
        found += [cv(x[part].astype(np.float64), None if boxes is None else boxes[part]) for part in cuts]
    return np.concatenate(found)
