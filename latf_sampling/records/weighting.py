"""Three ways to weight the frames of a campaign: by c(t), by the last bias, and by MBAR over everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from latf_sampling.analysis import (
    STAGES,
    after_filling,
    last_bias_weights,
    normalized_together,
    offset_weights,
    stages,
)
from latf_sampling.analysis.mbar import Multistate
from latf_sampling.analysis.weights import kish
from latf_sampling.bias.from_settings import BiasTask, make_bias
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.trajectories import Frames, WalkerFrames
from latf_sampling.errors import DataError
from latf_sampling.learning.model import LaTF
from latf_sampling.records.records import Records
from latf_sampling.records.trapped import cores, latent, trapped
from latf_sampling.settings import RoundSettings, n_steps


@dataclass(frozen=True)
class Weighting:
    """Weights of walkers' frames in the unbiased ensemble of one temperature.

    Attributes
    ----------
    name : str
        "c(t)", "last bias" or "MBAR".
    walkers : list of Frames
        The walkers whose frames have weights.
    selected : list of slice
        The frames of each walker that have weights: `analysis.after_filling`.
    log_weights : list of numpy.ndarray
        ln of the weight of each of these frames, up to a constant.
    states : Multistate or None
        The MBAR estimator that the weights come from, with which `analysis` includes the errors of its free energies.
    lost_states : list of int
        Metastable states whose core only walkers reached that MBAR leaves out.
    """

    name: str
    walkers: list[Frames]
    selected: list[slice]
    log_weights: list[np.ndarray]
    states: Multistate | None = None
    lost_states: list[int] = field(default_factory=list)


def weightings(
    records: Records, walkers: Sequence[Frames], temperature: float, rng: np.random.Generator
) -> list[Weighting]:
    """All three weightings where there are biased rounds at the temperature; MBAR alone where there are none.

    c(t) puts each frame under the bias at its time on one scale, and needs a bias that changes slowly. The last bias
    takes frames sampled under all earlier ones as sampled under the last, and needs a bias that has stopped changing.
    MBAR takes a biased round as a few stages, each under the bias in the middle of it, for which frames are weighted
    where the bias was another when they were saved. It joins rounds, temperatures and plain dynamics, each of which it
    takes as sampled in equilibrium; where the potential energy depends on temperature, it joins what is at the same one
    alone. Plain dynamics that never visited a state that biased walkers visited is therefore left out, since MBAR would
    conclude that the state is empty.

    Parameters
    ----------
    records
        The campaign of the walkers. Its files are only read.
    walkers
        As `Records.frames` gives them. External trajectories whose frames differ in weight are left out, since the
        bias that they were sampled under is not known.
    temperature
        K.
    rng
        Chooses the frames for which MBAR's free energies are solved.

    Raises
    ------
    DataError
        No walker is left.
    SimulationError
        The hills of a biased round cannot be read.
    """
    walkers = [walker for walker in walkers if len(walker) and not walker.externally_weighted]
    if records.protocol.system.temperature_dependent:
        walkers = [walker for walker in walkers if walker.temperature == temperature]
    if not walkers:
        raise DataError("weights: there are no frames whose weights can be computed.")
    selected = [after_filling(len(walker), walker.biased) for walker in walkers]
    keys = sorted({_key(walker) for walker in walkers if walker.biased})
    biases = {key: _RoundBias.load(records, key, walkers, selected) for key in keys}
    weightings = _of_biased(walkers, selected, biases, temperature)
    lost = set[int]()
    if keys:
        reached = cores(biases[keys[-1]].states)
        mixed = [k for k, left_out in enumerate(trapped(walkers, reached)) if not left_out]
        lost = set[int]().union(*reached).difference(*(reached[k] for k in mixed))
        walkers, selected = [walkers[k] for k in mixed], [selected[k] for k in mixed]
        biases = {key: bias.of_walkers(mixed) for key, bias in biases.items()}
    by_mbar = _by_mbar(walkers, selected, biases, temperature, rng)
    return [*weightings, replace(by_mbar, lost_states=sorted(lost))]


_Key = tuple[int, float]
"""What distinguishes biases: the round, and the temperature, K."""


def _key(walker: Frames) -> _Key:
    return walker.round_index, walker.temperature


def _of_biased(
    walkers: list[Frames], selected: list[slice], biases: dict[_Key, _RoundBias], temperature: float
) -> list[Weighting]:
    """The weights by c(t) and by the last bias, of the biased walkers at the temperature."""
    places = [k for k, walker in enumerate(walkers) if walker.biased and walker.temperature == temperature]
    if not places:
        return []

    def by_offset(k: int) -> np.ndarray:
        walker = walkers[k]
        assert isinstance(walker, WalkerFrames)  # no other frames are biased
        return offset_weights(walker.bias[selected[k]], walker.offset[selected[k]], temperature)

    def by_last(k: int) -> np.ndarray:
        return last_bias_weights(biases[_key(walkers[k])].last[k], temperature)

    weightings = []
    for name, weights in (("c(t)", by_offset), ("last bias", by_last)):
        logs: dict[int, np.ndarray] = {}
        for key in biases:
            of_round = [k for k in places if _key(walkers[k]) == key]
            if of_round:
                logs.update(zip(of_round, normalized_together([weights(k) for k in of_round])))
        weightings.append(
            Weighting(name, [walkers[k] for k in places], [selected[k] for k in places], [logs[k] for k in places])
        )
    return weightings


def _by_mbar(
    walkers: list[Frames],
    selected: list[slice],
    biases: dict[_Key, _RoundBias],
    temperature: float,
    rng: np.random.Generator,
) -> Weighting:
    """One state for each temperature without bias, and one for each stage of each bias."""
    lengths = [len(range(*part.indices(len(walker)))) for walker, part in zip(walkers, selected)]
    stage = [
        biases[_key(walker)].stages[k] if walker.biased else np.zeros(length, int)
        for k, (walker, length) in enumerate(zip(walkers, lengths))
    ]
    distinct = sorted({_state(walker, number) for walker, part in zip(walkers, stage) for number in set(part.tolist())})
    places = {state: place for place, state in enumerate(distinct)}
    states = np.concatenate(
        [
            np.array([places.get(_state(walker, number), -1) for number in range(STAGES)])[part]
            for walker, part in zip(walkers, stage)
        ]
    )
    growth = [
        _growth(walker, part, biases[_key(walker)].staged[k][stage[k], np.arange(length)])
        if isinstance(walker, WalkerFrames) and walker.biased
        else np.zeros(length)
        for k, (walker, part, length) in enumerate(zip(walkers, selected, lengths))
    ]
    zero = np.zeros(sum(lengths))
    mixture = Multistate(
        np.concatenate([walker.energies[part] for walker, part in zip(walkers, selected)]),
        np.stack(
            [
                zero if index < 0 else np.concatenate([part[number] for part in biases[index, kelvin].staged])
                for index, number, kelvin in distinct
            ]
        ),
        np.array([state[-1] for state in distinct]),
        states,
        rng,
        _within_states(np.concatenate(growth), states),
    )
    logs = np.split(mixture.log_weights(temperature), np.cumsum(lengths)[:-1])
    return Weighting("MBAR", walkers, selected, logs, mixture)


def _growth(walker: WalkerFrames, part: slice, staged: np.ndarray) -> np.ndarray:
    """Bias at the time of each frame less that in the middle of its stage, kT, on the scale of c(t); (frames,)."""
    at_the_time = offset_weights(walker.bias[part], walker.offset[part], walker.temperature)
    return at_the_time - last_bias_weights(staged, walker.temperature)


def _within_states(log_weights: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Weights (n,) of frames in their own state, those of each state of a sum of their effective number."""
    weights = np.empty(len(states))
    for state in np.unique(states):
        here = states == state
        of_state = np.exp(log_weights[here] - log_weights[here].max())
        weights[here] = of_state * kish(of_state) / of_state.sum()
    return weights


def _state(walker: Frames, stage: int) -> tuple[int, int, float]:
    """What distinguishes the states of MBAR: the round if it is biased, its stage, and the temperature."""
    return (walker.round_index, stage, walker.temperature) if walker.biased else (-1, 0, walker.temperature)


@dataclass(frozen=True)
class _RoundBias:
    """The bias of a round at one temperature, at the selected frames of all walkers.

    Each list has one entry per walker.

    Attributes
    ----------
    stages : list of numpy.ndarray
        Stage of each frame, from 0, of walkers under the bias; (frames,).
    staged : list of numpy.ndarray
        Bias in the middle of each stage, kJ/mol; (stages, frames).
    last : list of numpy.ndarray
        Bias at the end of the round, kJ/mol; (frames,).
    states : list of numpy.ndarray
        Probabilities of the states of the model that the variable belongs to; (frames, states).
    """

    stages: list[np.ndarray]
    staged: list[np.ndarray]
    last: list[np.ndarray]
    states: list[np.ndarray]

    @classmethod
    def load(cls, records: Records, key: _Key, walkers: Sequence[Frames], selected: Sequence[slice]) -> _RoundBias:
        index, temperature = key
        settings = records.protocol.all_rounds[index]
        assert isinstance(settings, RoundSettings) and settings.bias is not None
        files, learning = records.directory.round(index), records.directory.round(index - 1).learning
        model = LaTF.load(learning.model)
        timestep = records.protocol.integrator.timestep * settings.bias.stride
        first = min(walker.walker for walker in walkers if walker.biased and _key(walker) == key)
        task = BiasTask(
            records.molecule.system,
            LatentCV.load(records.directory.biased_along(records.protocol, index).cv, records.molecule.topology),
            lambda: model,
            temperature,
            timestep,
            directory=files.hills_of(settings.walkers, first),
            walker=files.walker(first).path.name,
            read_only=True,
        )
        bias = make_bias(settings.bias, task)
        stride = n_steps(records.protocol.frame_interval, timestep)
        under = [k for k, walker in enumerate(walkers) if walker.biased and _key(walker) == key]
        times = {}
        for k in under:
            walker, steps = walkers[k], stride * np.arange(1, len(walkers[k]) + 1)
            assert isinstance(walker, WalkerFrames)  # no other frames are biased
            times[k] = bias.shared_time(steps[selected[k]], files.walker(walker.walker).path.name)
        which, middles = stages(np.concatenate([times[k] for k in under]), STAGES if bias.is_adaptive else 1)
        parts = dict(zip(under, np.split(which, np.cumsum([len(times[k]) for k in under])[:-1])))
        u = [latent(bias.cv, walker)[part] for walker, part in zip(walkers, selected)]
        learned = u  # the states are those of the model, whatever the bias acts on
        if settings.bias.variable is not None:
            own = LatentCV.load(learning.cv, records.molecule.topology)
            learned = [latent(own, walker)[part] for walker, part in zip(walkers, selected)]
        # All walkers together, so that the history of the bias is traversed once.
        joined, ends = np.concatenate(u), np.cumsum(list(map(len, u)))[:-1]
        return cls(
            [parts.get(k, np.empty(0, int)) for k in range(len(walkers))],
            np.split(bias.past_energy(joined, middles), ends, axis=1),
            np.split(bias.energy(joined), ends),
            [model.state_probabilities(part) for part in learned],
        )

    def of_walkers(self, places: Sequence[int]) -> _RoundBias:
        """The same of some walkers alone, by their places."""
        return _RoundBias(
            [self.stages[k] for k in places],
            [self.staged[k] for k in places],
            [self.last[k] for k in places],
            [self.states[k] for k in places],
        )
