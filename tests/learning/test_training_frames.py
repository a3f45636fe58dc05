"""Simulations that do not count in the density have no weight in it, and their frames are still predicted from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.errors import DataError, ExtrapolationWarning, SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import train
from latf_sampling.learning.training.training_frames import TrainingFrames
from latf_sampling.settings import ModelSettings, TrainingSettings

QUICK: dict[str, Any] = {
    "initial_states": 4,
    "refinements": 2,
    "refinement_epochs": 1,
    "joint_epochs": 1,
    "flow_epochs": 3,
}
SHAPE: dict[str, Any] = {
    "latent_dim": 1,
    "encoder_hidden": (8,),
    "decoder_hidden": (8,),
    "flow_hidden": (8,),
    "flow_transforms": 1,
}


def crossing(n: int, rng: np.random.Generator, share: float = 0.3) -> np.ndarray:
    """Two states, of which the second has a share of the frames; (n, 2) descriptors."""
    states = np.empty(n, int)
    for t in range(n):
        states[t] = rng.random() < share if t == 0 or rng.random() > 0.95 else states[t - 1]
    return np.column_stack([2.0 * states, 0 * states]) + 0.2 * rng.normal(size=(n, 2))


def data(trapped: dict, temperature: float = 300.0) -> Dataset:
    """Simulations that cross, and three times as many frames of one that stays in the first state."""
    rng = np.random.default_rng(0)
    parts = [crossing(800, rng), crossing(2400, rng, share=0.0)]
    energies = [rng.normal(size=len(part)) for part in parts]
    return Dataset(
        [
            Series(parts[0], 300.0, energies=energies[0]),
            Series(parts[1], temperature, energies=energies[1], **trapped),
        ],
        lag=3,
    )


@pytest.mark.parametrize("mode", ["steered", "reweighted"])
@pytest.mark.parametrize("temperature", [300.0, 450.0])
@pytest.mark.parametrize("balance", [False, True])
def test_no_weight_in_the_density_and_all_frames_in_the_prediction(mode, temperature, balance):
    dataset = data({"in_density": False}, temperature)
    settings = TrainingSettings(balance_temperatures=balance)
    model = ModelSettings(temperature_mode=mode, latent_dim=1)
    frames = TrainingFrames(dataset, model, settings, 0, torch.device("cpu"))
    assert frames.weights[:800].min() > 0 and (frames.weights[800:] == 0).all()
    assert len(frames.with_weight(dataset.first)) == len(dataset.first) == 797 + 2397
    drawn, scale = frames.draw(dataset.first, frames.weights, np.random.default_rng(0), 8)
    assert int(drawn.max()) < 800 and torch.isfinite(scale).all()
    inverse, sizes = frames.effective_sizes()
    assert np.isfinite(inverse).all() and np.isfinite(sizes).all()
    log_weights = frames.log_weights(300.0, frames.weights)
    assert np.isfinite(log_weights[:800]).all() and (log_weights[800:] == -np.inf).all()
    # the rest is as if there were no such simulation
    alone = TrainingFrames(Dataset(dataset.series[:1], lag=3), model, settings, 0, torch.device("cpu"))
    assert np.exp(log_weights - log_weights.max())[:800] == pytest.approx(
        np.exp(alone.log_weights(300.0, alone.weights) - alone.log_weights(300.0, alone.weights).max()), rel=1e-6
    )
    assert frames.minimum_effective_size == pytest.approx(alone.minimum_effective_size, rel=0.01)


def test_populations_are_those_of_the_simulations_that_count():
    model, wrong = LaTF(**SHAPE), LaTF(**SHAPE)
    dataset = data({"in_density": False}, 450.0)
    result = train(model, dataset, seed=0, ensemble=2, learning_rate=1e-2, **QUICK)
    x = np.array([[0.0, 0.0], [2.0, 0.0]])
    first, second = model.assign(x)
    right = float((dataset.series[0].x[:, 0] > 1).mean())
    assert result.states[second]["population at 300"] == pytest.approx(right, abs=0.02)
    assert "population at 450" not in result.states[first]
    assert model.populations(300.0)[second] == pytest.approx(right, abs=0.1)
    assert model.provenance["not_in_density"] == [1] and model.provenance["temperatures"] == [300.0]
    result = train(wrong, data({}), seed=0, ensemble=0, learning_rate=1e-2, **QUICK)
    assert wrong.populations(300.0)[wrong.assign(x)[1]] < 0.5 * right


def test_one_simulation_has_to_count_and_the_flag_is_one():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="no series counts in the density"):
        Dataset([Series(crossing(50, rng), in_density=False)], lag=3)
    with pytest.raises(SettingsError, match="in_density must be True or False; got 0.5"):
        Series(crossing(50, rng), in_density=0.5)  # pyright: ignore[reportArgumentType]
    assert not Series(crossing(50, rng), in_density=False).subset([0]).in_density


def test_simulated_temperatures_have_frames_though_nothing_between_them_has():
    """Narrow energies far apart: the table of effective sizes has a peak at each simulated temperature."""
    rng = np.random.default_rng(0)
    series = [
        Series(crossing(200, rng), kelvin, energies=rng.normal(mean, 2, 200))
        for kelvin, mean in ((300.0, 0.0), (450.0, 5000.0))
    ]
    settings = ModelSettings(temperature_mode="reweighted")
    with pytest.warns(ExtrapolationWarning, match="hardly overlap"):
        frames = TrainingFrames(Dataset(series, lag=3), settings, TrainingSettings(), 0, torch.device("cpu"))
    found = np.interp([1 / 450, 1 / 370, 1 / 300], *frames.effective_sizes())
    assert found == pytest.approx([200, 0, 200])
    assert frames.reachable[[0, -1]].tolist() == [300, 450]
