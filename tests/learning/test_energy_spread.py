"""Temperatures within reach, whatever the spread of the energies: from one molecule to 25,000 waters and beyond."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import train
from latf_sampling.learning.training.training_frames import FARTHEST, TABLE, TrainingFrames
from latf_sampling.settings import ModelSettings, TrainingSettings
from latf_sampling.units import KB

N = 2000
QUICK = {
    "initial_states": 4,
    "refinements": 1,
    "refinement_epochs": 1,
    "joint_epochs": 1,
    "flow_epochs": 1,
    "ensemble": 0,
}


def series(spread: float, temperature: float = 300.0, frames: int = N, seed: int = 0) -> Series:
    """Gaussian energies, whose mean rises with temperature by their heat capacity spread^2 / kT^2."""
    rng = np.random.default_rng(seed)
    mean = -1e6 + spread**2 / (KB * 300.0**2) * (temperature - 300.0)
    x = np.sign(np.sin(np.arange(frames) / 50))[:, None] + 0.1 * rng.normal(size=(frames, 2))
    return Series(x, temperature, energies=mean + spread * rng.normal(size=frames))


def training_frames(*of: Series) -> TrainingFrames:
    return TrainingFrames(
        Dataset(list(of), lag=1),
        ModelSettings(temperature_mode="reweighted"),
        TrainingSettings(),
        0,
        torch.device("cpu"),
    )


@pytest.mark.parametrize("spread", [1.0, 30.0, 950.0, 1100.0, 1e4, 1e5])
def test_the_reach_is_as_wide_as_the_energies_allow(spread):
    made = training_frames(series(spread))
    inverse, sizes = made.effective_sizes()
    assert (np.diff(inverse) > 0).all() and np.interp(1 / 300.0, inverse, sizes) == pytest.approx(N, rel=0.05)
    assert len(made.reachable) == TABLE and (np.diff(made.reachable) > 0).all()
    low, high = made.reachable[[0, -1]]
    assert low < 300.0 < high
    # The share of effective frames, exp(-((1/T - 1/300) spread / k)^2) for Gaussian energies, falls to a tenth here.
    distance = np.sqrt(np.log(10)) * KB / spread
    exact = [1 / min(1 / 300.0 + distance, FARTHEST / 300.0), 1 / max(1 / 300.0 - distance, 1 / (FARTHEST * 300.0))]
    assert np.abs(np.array([low, high]) - 300.0) == pytest.approx(np.abs(np.array(exact) - 300.0), rel=0.3)


@pytest.mark.parametrize("other", [301.0, 310.0, 400.0])
def test_temperatures_of_a_large_box_are_within_reach_each_for_itself(other):
    made = training_frames(series(1000.0), series(1000.0, other, seed=1))
    inverse, sizes = made.effective_sizes()
    for temperature in (300.0, other):
        assert np.interp(1 / temperature, inverse, sizes) > 0.9 * N
        assert np.abs(made.reachable - temperature).min() < 0.5
    assert np.isfinite(made.reachable).all() and (np.diff(made.reachable) >= 0).all()
    if other == 400.0:  # in the gap between them there is no frame
        assert np.interp(1 / 350.0, inverse, sizes) < 0.01 * N


def test_a_large_box_trains():
    model = LaTF(latent_dim=1, flow_transforms=1, flow_hidden=(8,), encoder_hidden=(8,))
    train(model, Dataset([series(1100.0, frames=600)], lag=5), **QUICK)
    assert model.reweighted and not model.extrapolates(300.0) and model.extrapolates(310.0)
    assert np.isfinite(model.sample(10, 300.0, seed=0)).all()


def test_a_small_molecule_has_the_table_that_it_had():
    """Refinement would change the random numbers of every training."""
    assert len(training_frames(series(100.0)).effective_sizes()[0]) == TABLE
