"""Slowness and evenness of the variable: against deeptime, exact lines, and what they do to a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deeptime.decomposition import TICA

from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import train
from latf_sampling.learning.training.shape import StatePairs, slowness, unevenness

LAG = 5


def processes(n: int = 4000, seed: int = 0) -> np.ndarray:
    """Two autoregressive processes (n, 2) with time scales of 30 and of 3 frames, mixed with each other."""
    rng = np.random.default_rng(seed)
    memory = np.exp(-1 / np.array([30.0, 3.0]))
    x = np.zeros((n, 2))
    for k in range(1, n):
        x[k] = memory * x[k - 1] + np.sqrt(1 - memory**2) * rng.normal(size=2)
    return x @ np.array([[1.0, 0.4], [2.0, -1.0]]) + 3.0


def of(x: np.ndarray, groups=None, weights=None, lag: int = LAG) -> float:
    """Slowness of a trajectory."""
    now, later = torch.from_numpy(x[:-lag]), torch.from_numpy(x[lag:])
    groups = torch.zeros(len(now), dtype=torch.int64) if groups is None else torch.from_numpy(groups[:-lag])
    weights = torch.ones(len(now), dtype=torch.float64) if weights is None else torch.from_numpy(weights[:-lag])
    return float(slowness(now, later, groups, weights))


def test_slowness_is_that_of_deeptime():
    x = processes()
    tica = TICA(lagtime=LAG, scaling=None, epsilon=1e-12).fit((x[:-LAG], x[LAG:])).fetch_model()
    assert of(x) == pytest.approx((tica.singular_values**2).sum(), rel=1e-3)
    assert of(x[:, :1]) < of(x)


def test_slowness_does_not_depend_on_scale_and_basis():
    x = processes()
    assert of(1e-3 * x @ np.array([[3.0, 1.0], [0.0, 20.0]]) - 7) == pytest.approx(of(x), rel=1e-3)
    copies = torch.from_numpy(x[:, [0, 0]]).requires_grad_(True)  # of rank 1
    n = len(x) - LAG
    value = slowness(copies[:-LAG], copies[LAG:], torch.zeros(n, dtype=torch.int64), torch.ones(n))
    value.backward()
    assert value.item() == pytest.approx(of(x[:, :1]), abs=1e-3)
    assert copies.grad is not None and torch.isfinite(copies.grad).all()


def test_a_difference_between_temperatures_is_not_slow():
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1], 3000)
    x = rng.normal(size=(6000, 1)) + 10 * groups[:, None]
    assert of(x) > 0.9
    assert of(x, groups) < 0.02  # of noise, 1 / n in the mean


def test_weights_count_pairs():
    x = processes(500)
    times = np.random.default_rng(2).integers(0, 3, len(x))
    now = np.flatnonzero(times[:-LAG])
    repeated = np.repeat(now, times[now])
    zeros, ones = torch.zeros(len(repeated), dtype=torch.int64), torch.ones(len(repeated), dtype=torch.float64)
    expected = slowness(torch.from_numpy(x[repeated]), torch.from_numpy(x[repeated + LAG]), zeros, ones)
    assert of(x, weights=times.astype(float)) == pytest.approx(float(expected), rel=1e-9)
    assert of(x, weights=7.0 * np.ones(len(x))) == pytest.approx(of(x), rel=1e-9)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.5, 2.0), (0.25, 4.0), (0.125, 8.0)])
def test_unevenness_of_ramps_is_exact(share, expected):
    """A ramp over a share of the line takes the inverse of it."""
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    ramp = ((t - 0.5 * (1 - share) // 0.125 * 0.125) / share).clamp(0, 1)
    lines = torch.stack([ramp, 2 * ramp], -1)[:, None]  # one line in two dimensions
    assert float(unevenness(lines)) == pytest.approx(expected)
    assert float(unevenness(lines.expand(9, 5, 2))) == pytest.approx(expected)


def test_pairs_are_of_different_states_and_of_all_pairs_alike():
    labels = torch.tensor([0] * 900 + [2] * 90 + [3] * 10)
    frames = torch.arange(0, 1000, 2)
    pairs = StatePairs(frames, labels)
    assert len(pairs) == 3
    one, other = pairs.draw(60_000, torch.Generator().manual_seed(0))
    assert (labels[one] != labels[other]).all()
    assert set(one.tolist()) == set(frames.tolist())
    counts = np.unique((4 * labels[one] + labels[other]).numpy(), return_counts=True)[1]
    assert len(counts) == 6 and np.abs(counts - 10_000).max() < 5 * 100
    again = pairs.draw(60_000, torch.Generator().manual_seed(0))
    assert torch.equal(one, again[0]) and torch.equal(other, again[1])


def two_states(n: int = 6000, seed: int = 3) -> np.ndarray:
    """Descriptors (n, 4) of two states, which a fast and wide motion is mixed with."""
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.random(n) < 0.004) % 2
    fast = 2.0 * rng.normal(size=n)
    noise = 0.3 * rng.normal(size=(n, 4))
    return noise + np.outer(2.0 * state, [1, 1, 0, 0]) + np.outer(fast, [0.5, -0.3, 1, 0])


def trained(**settings) -> tuple[LaTF, np.ndarray]:
    x = two_states()
    model = LaTF(latent_dim=1, temperature_mode="steered")
    quick = {"initial_states": 6, "refinements": 1, "joint_epochs": 0, "flow_epochs": 0, "ensemble": 0}
    train(model, Dataset([Series(x)], lag=LAG), seed=0, **quick, **settings)
    return model, x


def test_slowness_makes_states_compact_and_evenness_the_way_between_them():
    def measures(model: LaTF, x: np.ndarray) -> tuple[float, float]:
        line = torch.linspace(0, 1, 9)[:, None, None]
        u, states = model.encode(x), model.assign(x)
        first, second = (torch.from_numpy(x[states == k].mean(0)).float() for k in (0, 1))
        with torch.no_grad():
            lines = model.networks.mean(torch.lerp(first, second, line).reshape(9, -1)).reshape(9, 1, -1)
        return of(u.astype(float)), float(unevenness(lines))

    plain, slow, both = (
        measures(*trained(slowness=slow, evenness=even)) for slow, even in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.3))
    )
    assert slow[0] > plain[0] + 0.02
    assert both[1] < slow[1] - 0.15
