"""Three ways to weigh the frames of a campaign: by c(t), by the last bias, and by MBAR over everything."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latf_sampling.analysis import balanced, last_bias_weights, offset_weights, settled
from latf_sampling.reweighting import Multistate
from latf_sampling.simulate import Molecule, WalkerJob, make_bias
from latf_sampling.trajectories import Frames

if TYPE_CHECKING:
    from latf_sampling.campaign import Campaign

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
    MBAR does the same for each round, and joins rounds, temperatures and plain dynamics, each of which it takes as
    sampled in equilibrium: plain dynamics that never crosses a barrier draws it to the side that it stays on.

    Parameters
    ----------
    campaign
        Whose rounds the walkers are of; their biases must not be in use.
    walkers
        As `Campaign.frames` gives them. Given trajectories whose frames differ in weight are left out: under which bias
        they were sampled is not known.
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
    values = {index: _last_bias(campaign, index, walkers, kept) for index in rounds}
    made = []
    there = [k for k, w in enumerate(walkers) if w.biased and w.temperature == temperature]
    if there:
        for name, weights in (
            ("c(t)", lambda k: offset_weights(walkers[k].bias[kept[k]], walkers[k].offset[kept[k]], temperature)),
            ("last bias", lambda k: last_bias_weights(values[walkers[k].round_index][k], temperature)),
        ):
            logs: dict[int, np.ndarray] = {}
            for index in rounds:
                own = [k for k in there if walkers[k].round_index == index]
                logs.update(zip(own, balanced([weights(k) for k in own])) if own else ())
            made.append(
                Weighting(name, [walkers[k] for k in there], [kept[k] for k in there], [logs[k] for k in there])
            )
    # One state for each temperature without bias, and one for each biased round.
    names = [(walker.round_index if walker.biased else None, walker.temperature) for walker in walkers]
    distinct = sorted(set(names), key=str)
    lengths = [len(range(*part.indices(len(walker)))) for walker, part in zip(walkers, kept)]
    zero = np.zeros(sum(lengths))
    mixture = Multistate(
        np.concatenate([walker.energies[part] for walker, part in zip(walkers, kept)]),
        np.stack([zero if index is None else np.concatenate(values[index]) for index, _ in distinct]),
        np.array([state[1] for state in distinct]),
        np.repeat([distinct.index(name) for name in names], lengths),
        rng,
    )
    logs = np.split(mixture.log_weights(temperature), np.cumsum(lengths)[:-1])
    return [*made, Weighting("MBAR", walkers, kept, logs, mixture)]


def _last_bias(campaign: Campaign, index: int, walkers: Sequence[Frames], kept: Sequence[slice]) -> list[np.ndarray]:
    """The bias of a round as its walkers left it, at all kept frames, kJ/mol."""
    folder = campaign.store.walker(index, 0)
    job = WalkerJob(
        campaign.protocol, index, 0, folder, learned=campaign.store.learning(index - 1), hills=folder.parent / "hills"
    )
    molecule = campaign.molecule
    bias = make_bias(job, Molecule(copy.deepcopy(molecule.system), molecule.topology, molecule.positions))
    bias.close()
    found = []
    for walker, part in zip(walkers, kept):
        values = []
        for piece in walker.pieces():
            x, boxes = piece.xyz, piece.unitcell_vectors
            cuts = [slice(start, start + CHUNK) for start in range(0, len(x), CHUNK)]
            values += [bias.energy(bias.cv(x[p].astype(np.float64), None if boxes is None else boxes[p])) for p in cuts]
        found.append(np.concatenate(values)[part])
    return found
