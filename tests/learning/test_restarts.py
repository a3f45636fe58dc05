"""Ranking of models by the crossings that a bias along their variables is expected to show."""

import dataclasses

import numpy as np
import pytest
import torch

from latf_sampling.analysis.crossing_rates import CrossingRate, PairRate
from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.errors import DataError, LatfError, SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import TrainingResult
from latf_sampling.learning.training.restarts import first_frames, model_crossings, rank_models
from latf_sampling.learning.training.training_progress import TrainingProgress
from latf_sampling.settings import TrainingSettings

FRAMES = 8000


class Linear(LaTF):
    """A model whose variable and states are given functions of two descriptors."""

    def __init__(self, function, state=lambda x: (x[:, 0] > 0).long()):
        super().__init__(latent_dim=1)
        self.function, self.state = function, state

    def encode(self, x):
        return self.function(torch.as_tensor(x)).unsqueeze(-1).numpy()

    def assign(self, x):
        return self.state(torch.as_tensor(x)).numpy()


@pytest.fixture(scope="module")
def series():
    """Overdamped dynamics (kT = 1, D = 1, a frame every 0.02) in a double well of 2.5 kT; the second column is fast."""
    rng = np.random.default_rng(0)
    x, frames = -np.ones(2), np.empty((2, FRAMES, 2), np.float32)
    fast = np.zeros(2)
    for frame in range(FRAMES):
        for _ in range(4):
            x = x - 0.005 * 10 * x * (x**2 - 1) + 0.1 * rng.normal(size=2)
        fast = 0.5 * fast + rng.normal(size=2)
        frames[:, frame] = np.stack([x, fast], 1)
    return [Series(part, temperature=1.0, interval=0.02) for part in frames]


SLOW, FAST = Linear(lambda x: x[:, 0]), Linear(lambda x: x[:, 1])
MIXED = Linear(lambda x: x[:, 0] + 0.2 * x[:, 1])
STEP = Linear(lambda x: torch.tanh(100 * x[:, 0]))


def known(rate):
    assert rate is not None
    return rate


def test_models_are_ranked_by_how_slow_and_even_their_variable_is(series):
    dataset = Dataset(series, lag=5, boltzmann=1.0)
    states = [(entry.x[:, 0] > 0).astype(int) for entry in series]
    ranked = rank_models([FAST, STEP, MIXED, SLOW], dataset, states=states)
    assert [index for index, _ in ranked][:2] == [3, 2]
    step, fast, slow = (known(dict(ranked)[index]) for index in (1, 0, 3))
    assert step.note == "too steep"
    assert step.crossings == 0
    assert fast.crossings < 0.5 * slow.crossings  # not more than plain dynamics


def test_a_model_with_one_state_comes_last(series):
    single = Linear(lambda x: x[:, 0], state=lambda x: torch.zeros(len(x), dtype=torch.int64))
    ranked = rank_models([single, SLOW], Dataset(series, lag=5, boltzmann=1.0))
    assert [index for index, _ in ranked] == [1, 0]
    assert ranked[1][1] is None


def test_without_an_interval_rates_are_per_1000_frames(series):
    bare = [Series(entry.x, temperature=1.0) for entry in series]
    rates = [known(model_crossings(SLOW, entries, 5, boltzmann=1.0)) for entries in (series, bare)]
    assert [rate.unit for rate in rates] == ["ns", "1000 frames"]
    assert rates[0].crossings * 0.02 == pytest.approx(rates[1].crossings, rel=0.05)
    assert "per 1000 frames" in rates[1].sentence


SHORT = Dataset([Series(np.linspace(-1, 1, 20)[:, None] * [1, 1])], lag=1)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"models": []}, DataError, "no model"),
        ({"models": SLOW}, SettingsError, "models must be a list of LaTF"),
        ({"models": ["model.pt"]}, SettingsError, r"models\[0\] must be a LaTF"),
        ({"dataset": SHORT.series}, SettingsError, "dataset must be a Dataset"),
        ({"temperature": "300"}, SettingsError, "temperature"),
        ({"temperature": float("inf")}, SettingsError, "temperature"),
        ({"seed": -1}, SettingsError, "seed"),
        ({"states": []}, DataError, "those of series 0 do not fit"),
        ({"states": [np.arange(20) % 2] * 2}, DataError, "those of series 1 do not fit"),
        ({"states": [np.arange(19) % 2]}, DataError, "those of series 0 do not fit"),
        ({"states": [np.full(20, np.nan)]}, DataError, "states of series 0 must be state indices"),
        ({"states": [np.arange(20) - 2]}, DataError, "states of series 0 must be state indices"),
    ],
)
def test_what_cannot_be_ranked_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        rank_models(**{"models": [SLOW], "dataset": SHORT, **given})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "model.pt"}, SettingsError, r"model must be a LaTF; .*LaTF\.load\('model\.pt'\)"),
        ({"lag": 0}, DataError, "model_crossings: lag must be a whole number of frames, at least 1; got 0"),
        ({"lag": "5"}, LatfError, "model_crossings: lag"),
        ({"series": [Series(np.eye(2), interval=dt) for dt in (1.0, 5.0)]}, DataError, "model_crossings: series 0 has"),
    ],
)
def test_what_no_crossings_are_expected_of_is_refused(changes, error, words):
    with pytest.raises(error, match=words):
        model_crossings(**{"model": SLOW, "series": [Series(np.eye(2))], "lag": 1, **changes})


def test_frames_between_states_are_no_state_of_their_own():
    assert rank_models([SLOW], SHORT, states=[np.repeat([0, -1], 10)]) == [(0, None)]


def test_the_first_frames_are_the_same_share_of_each_series():
    rng = np.random.default_rng(0)
    weights = np.concatenate([np.zeros(60), np.ones(40)])
    series = [
        Series(rng.normal(size=(300, 2)), 400.0, interval=2.0, in_density=False, breaks=[10, 200]),
        Series(rng.normal(size=(100, 2)), weights=weights),
    ]
    assert first_frames(series, 400) == series
    (part,) = first_frames(series, 200)  # of the other one no frame has a weight
    assert np.array_equal(part.x, series[0].x[:150]) and part.breaks.tolist() == [10]
    assert (part.temperature, part.interval, part.in_density) == (400.0, 2.0, False)


def test_a_training_is_summarized_in_one_line():
    states = [
        {"state": k, "population at 600": 0.5, "population at 300": share} for k, share in enumerate((0.93, 0.07))
    ]
    pair = PairRate((0, 1), 24.0, 6.0, 0.2, 30.0, 2.0, 1.0, 12)
    rate = CrossingRate(24.0, 6.0, 0.2, pair, (pair,), 300.0)
    result = TrainingResult([], states, 12.4, True, rate)
    expected = "2 states (93, 7 % at 300 K); 24.0 ± 6.0 crossings per ns expected under metadynamics"
    assert result.summary == expected and repr(result) == f"<TrainingResult: {expected}, in 12 s>"
    steep = dataclasses.replace(rate, crossings=0.0, note="too steep")
    words = "no bias along the variable is expected to work, since it is too steep; not converged: why"
    assert dataclasses.replace(result, crossings=steep, remarks=("not converged: why",)).summary.endswith(words)
    assert "cannot be expected" in dataclasses.replace(result, crossings=None).summary
    rare = [{"state": k, "population at 300": share} for k, share in enumerate((0.9996, 0.0004))]
    assert "(100, 0.04 % at 300 K)" in dataclasses.replace(result, states=rare).summary


def test_what_comes_before_an_epoch_is_no_part_of_its_cost():
    settings = TrainingSettings(refinements=1, refinement_epochs=4, joint_epochs=2, flow_epochs=0, ensemble=0)
    moments = iter([0.0, 80.0, 81.0])
    progress = TrainingProgress(settings, lambda: next(moments))
    progress.begin()  # after 80 s of reading and clustering
    assert progress.note("states", 0, 1) == 81 / (81 + 19)
