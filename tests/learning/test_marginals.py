"""The map of each coordinate: it is increasing, its inverse and slopes are exact, and narrow states become wide."""

import numpy as np
import pytest
import torch

from latf_sampling.learning.flow import LatentFlow
from latf_sampling.learning.marginals import MarginalMap

SHAPES = {
    "one Gaussian": lambda g: torch.randn(20_000, 1, generator=g),
    "two narrow states": lambda g: 0.03 * torch.randn(20_000, 1, generator=g) + (torch.arange(20_000) % 2)[:, None],
    "a rare state": lambda g: 0.05 * torch.randn(20_000, 1, generator=g) + (torch.arange(20_000) % 50 == 0)[:, None],
    "a sharp edge": lambda g: torch.rand(20_000, 1, generator=g) ** 4,
    "an outlier": lambda g: torch.cat([torch.randn(20_000, 1, generator=g), torch.tensor([[300.0]])]),
    "one value": lambda g: torch.full((100, 1), 3.0),
}


def fitted(shape, spread=1.6, width=0.02):
    data = SHAPES[shape](torch.Generator().manual_seed(0))
    marginals = MarginalMap(1)
    width = width * float(data.std().clamp(min=0.1))
    marginals.fit(data, torch.ones(len(data)), torch.tensor([width]), [0], spread)
    return marginals, data


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_increasing_and_its_inverse_and_slopes_are_exact(shape):
    marginals, data = fitted(shape)
    marginals = marginals.double()
    far = 2 * float(data.abs().max())
    x = torch.linspace(-far, far, 3001, dtype=torch.float64)[:, None].requires_grad_(True)
    y, log_slope = marginals(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    torch.testing.assert_close(log_slope, slope.log())
    torch.testing.assert_close(marginals.inverse(y), x, atol=1e-9 * far, rtol=1e-9)
    # The slope is continuous, at the outermost knots too.
    edges = marginals.knots[0]
    below, above = (marginals((edges + side * 1e-9 * far)[:, None])[1] for side in (-1, 1))
    torch.testing.assert_close(below, above, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_is_enough(shape):
    marginals, data = fitted(shape)
    y, log_slope = marginals(data)
    exact, exact_log_slope = marginals.double()(data.double())
    torch.testing.assert_close(y.double(), exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_slope.double(), exact_log_slope, atol=1e-2, rtol=1e-2)
    back = marginals.float().inverse(y)
    assert float((back - data).abs().max()) < 1e-4 * float(data.abs().max())


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "one value"])
def test_mapped_data_have_the_spread_asked_for(shape):
    marginals, data = fitted(shape, spread=1.6)
    y, _ = marginals(data)
    assert float(y.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(y.std()) == pytest.approx(1.6, rel=0.05)


def test_narrow_states_become_wide_and_passes_keep_their_share():
    marginals, data = fitted("two narrow states")
    y, _ = marginals(data)
    first = torch.arange(len(data)) % 2 == 0
    separation = data[~first].mean() - data[first].mean(), y[~first].mean() - y[first].mean()
    assert y[first].std() / separation[1] > 3 * data[first].std() / separation[0]
    between = marginals(torch.tensor([[0.2], [0.8]]))[0].diff(dim=0)
    assert float(between / separation[1]) > 0.1


def test_frames_without_weight_do_not_count():
    data = torch.cat([torch.randn(2000, 1), 30 + torch.randn(2000, 1)])
    marginals = MarginalMap(1)
    marginals.fit(data, (data[:, 0] < 15).float(), torch.tensor([0.1]), [0], 1.0)
    inside = data[:2000]
    assert float(marginals(inside)[0].std()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("weights", [[0.0, 1.0, 0.0], [1e-12, 1.0, 1e-12]])
def test_frames_of_next_to_no_weight_may_be_as_far_away_as_they_like(weights):
    data, marginals = torch.tensor([[-1e6], [0.0], [2e6]]), MarginalMap(1)
    marginals.fit(data, torch.tensor(weights), torch.tensor([0.02]), [0], 1.6)
    y, log_slopes = marginals(data)
    assert all(bool(torch.isfinite(each).all()) for each in (y, log_slopes))
    assert float(marginals(torch.tensor([[-0.02], [0.02]]))[0].diff(dim=0)) == pytest.approx(2 * 1.6, rel=0.2)


def test_other_coordinates_stay_straight():
    marginals, data = MarginalMap(2), torch.randn(500, 2)
    assert marginals.straight
    torch.testing.assert_close(marginals(data), (data, torch.zeros(500, 2)), atol=1e-5, rtol=1e-5)
    marginals.fit(data, torch.ones(500), torch.full((2,), 0.1), [1], 1.6)
    assert not marginals.straight
    torch.testing.assert_close(marginals(data)[0][:, 0], data[:, 0])
    assert (marginals(data)[0][:, 1] - data[:, 1]).abs().max() > 0.1


def test_a_second_fit_forgets_the_first():
    marginals, data = fitted("two narrow states")
    again = MarginalMap(1)
    for each in (marginals, again):
        each.fit(data**2, torch.ones(len(data)), torch.tensor([0.02]), [0], 1.0)
    assert all(torch.equal(a, b) for a, b in zip(marginals.buffers(), again.buffers()))


def test_the_blur_of_a_flow_is_smaller_within_states_than_between_them():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = LatentFlow(1, 2.0, "spline", transforms=1, hidden=(8,), bins=8)
    data = SHAPES["two narrow states"](torch.Generator().manual_seed(0))
    flow.fit(data, torch.ones(len(data)), torch.zeros(()))
    noise = torch.randn(len(data), 1, generator=torch.Generator().manual_seed(1))
    within = flow.blurred(data, noise) - data
    between = flow.blurred(torch.full_like(data, 0.5), noise) - 0.5
    assert float(within.std()) < 0.5 * float(between.std())
    assert float(within.std()) < LatentFlow.BLUR * float(data.std())
    assert np.isclose(float(within.mean()), 0, atol=1e-3)
