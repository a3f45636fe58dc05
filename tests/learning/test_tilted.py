"""The ensemble in which barriers count: its draws and its normalization are exact, and a flow learns a high barrier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.learning.flow import LatentFlow
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.learning.training.fit import Fit
from latf_sampling.learning.training.tilted import Sample, TiltedEnsemble
from latf_sampling.learning.training.training_frames import TrainingFrames
from latf_sampling.settings import ModelSettings, TrainingSettings

BARRIER = 15.0  # kT
GRID = np.linspace(-2, 2, 4001)
KELVIN = 300.0


def free_energy(x: np.ndarray) -> np.ndarray:
    """A double well, in kT."""
    return BARRIER * (x**2 - 1) ** 2 + x


def bias(x: np.ndarray) -> np.ndarray:
    """What fills the wells, in kT, up to the pass; a frame has the weight exp(bias)."""
    return 0.9 * np.maximum(BARRIER - free_energy(x), 0)


def exact(log_density: np.ndarray) -> np.ndarray:
    """A density on the grid, of integral 1."""
    density = np.exp(log_density - log_density.max())
    return density / density.sum() / (GRID[1] - GRID[0])


def frames(n: int, rng: np.random.Generator, biased: bool) -> np.ndarray:
    density = exact(-free_energy(GRID) - (bias(GRID) if biased else 0.0))
    return rng.choice(GRID, n, p=density / density.sum()) + rng.uniform(-5e-4, 5e-4, n)


@pytest.fixture(scope="module")
def ensemble():
    rng = np.random.default_rng(0)
    x = frames(4000, rng, biased=True)
    u = torch.from_numpy(x[:, None]).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = LatentFlow(1, 2.0, "spline", 1, (8,), 8)
    flow.fit(u, torch.from_numpy(np.exp(bias(x))), torch.zeros(()))
    return TiltedEnsemble(flow, u, bias(x), KELVIN, KELVIN, rng), x, u


def test_barriers_count_as_much_as_wells(ensemble):
    ensemble, x, u = ensemble
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
    points = ensemble.draw(u, bias(x), 4000, rng, generator).numpy()[:, 0]
    on_pass = np.abs(points) < 0.2
    assert 0.02 < on_pass.mean() < 0.3
    assert (exact(-free_energy(GRID))[np.abs(GRID) < 0.2].sum() * (GRID[1] - GRID[0])) < 1e-6


def test_draws_have_the_density_tilted_by_v(ensemble):
    """p(u) exp(v(u)) / Z, however rough v is."""
    ensemble, x, u = ensemble
    rng, generator = np.random.default_rng(2), torch.Generator().manual_seed(2)
    points = np.sort(ensemble.draw(u, bias(x), 20_000, rng, generator).numpy()[:, 0])
    tilt = ensemble.tilt(torch.from_numpy(GRID[:, None]).float())[0].double().numpy()
    blur = LatentFlow.BLUR * u.std().item()
    share = exact(tilt - free_energy(GRID)).cumsum() * (GRID[1] - GRID[0])
    largest = np.abs(np.searchsorted(points, GRID) / len(points) - share).max()
    assert largest < 0.04 + blur  # of 4000 frames, of which a good third is effective


def test_normalization_of_a_flow_is_that_of_quadrature(ensemble):
    ensemble, _, u = ensemble
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        losses = [
            float(ensemble.loss(Sample(u[:1], *proposals)))
            for proposals in (
                ensemble.propose(10_000, generator),
                ensemble.propose_for(10_000, np.random.default_rng(3), generator),
            )
        ]
        wide = torch.linspace(-6, 6, 4001)[:, None]
        log_p, tilt = ensemble.flow.log_prob(wide, torch.ones(())), ensemble.tilt(wide)[0]
        log_z = torch.logsumexp((log_p + tilt).double(), 0) + np.log(12 / 4000)
        right = float(log_z - ensemble.flow.log_prob(u[:1], torch.ones(()))[0])
    # Of an untrained flow few plain proposals are effective; those that are chosen by their weight give less noise.
    assert losses[0] == pytest.approx(right, abs=0.4)
    assert losses[1] == pytest.approx(right, abs=0.15)


def test_proposals_have_the_density_that_they_are_said_to_have(ensemble):
    ensemble, *_ = ensemble
    points = np.sort(ensemble.propose(20_000, torch.Generator().manual_seed(4))[0].numpy()[:, 0])
    wide = np.linspace(-8, 8, 4001)
    density = np.exp(ensemble.tilt(torch.from_numpy(wide[:, None]).float())[1].double().numpy())
    share = density.cumsum() * (wide[1] - wide[0])
    assert share[-1] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(np.searchsorted(points, wide) / len(points) - share).max() < 0.02


def fit(series: list[Series], seed: int = 0, epochs: int = 10) -> tuple[Fit, LaTF]:
    """The flow alone, on an encoder that passes its descriptor on."""
    settings = ModelSettings(latent_dim=1, flow_transforms=2, flow_hidden=(16,), temperature_mode="reweighted")
    training = TrainingSettings(learning_rate=2e-2)
    model, dataset = LaTF(settings), Dataset(series, lag=1, boltzmann=1 / KELVIN)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.networks = Networks(settings, 1, 2, reweighted=True)
    model.networks.encoder = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    data = TrainingFrames(dataset, settings, training, seed, torch.device("cpu"))
    model.networks.flow.range.copy_(torch.tensor([data.reachable.min(), data.reachable.max()]) / KELVIN)
    model.networks.flow.fit(data.evaluate(model.networks.mean), torch.from_numpy(data.spread_weights), torch.zeros(()))
    pairs = dataset.first
    made = Fit(
        model.networks, data, torch.zeros(dataset.frames).long(), pairs[:-150], pairs[-150:], "flow", 0, seed, training
    )
    for _ in range(epochs):
        made.run_epoch()
    made.take_best()
    return made, model


def both_kinds(count: int) -> list[Series]:
    """Plain dynamics, and twice as many frames under the bias."""
    rng = np.random.default_rng(0)
    plain, biased = frames(count, rng, biased=False), frames(2 * count, rng, biased=True)
    return [
        Series(plain[:, None], KELVIN, energies=free_energy(plain)),
        Series(biased[:, None], KELVIN, np.exp(bias(biased)), energies=free_energy(biased)),
    ]


def test_the_flow_learns_the_height_of_a_barrier_without_weight():
    made, model = fit(both_kinds(600))
    with torch.no_grad():
        log_p = model.networks.flow.log_prob(torch.from_numpy(GRID[:, None]).float(), torch.ones(())).double().numpy()
    right = np.log(exact(-free_energy(GRID)))
    on_pass = np.abs(GRID) < 0.1
    assert np.abs((log_p - right)[on_pass]).max() < 4  # it is nine too high by the weighted frames alone
    assert exact(log_p)[GRID > 0].sum() == pytest.approx(exact(right)[GRID > 0].sum(), abs=0.05 / (GRID[1] - GRID[0]))
    assert made._held_drawn is not None
    entry: dict = {"loss": 0.0}
    made._validate(entry)
    assert np.isfinite([entry["validation_loss"], entry["validation_tilted"]]).all()


def test_an_interrupted_fit_continues_to_the_same_bits():
    made, model = fit(both_kinds(200), epochs=1)
    other, copied = fit(both_kinds(200), epochs=0)
    copied.networks.load_state_dict(model.networks.state_dict())
    other.load_state_dict(made.state_dict())
    entry = made.run_epoch()
    assert {"tilted", "validation_tilted"} <= set(entry)
    assert other.run_epoch() == entry


def test_without_a_bias_there_is_no_such_term():
    rng = np.random.default_rng(0)
    plain = frames(600, rng, biased=False)
    made, _ = fit([Series(plain[:, None], KELVIN, energies=free_energy(plain))], epochs=0)
    assert made._tilted == []
    assert set(made.run_epoch()) == {
        "stage",
        "iteration",
        "epoch",
        "states",
        "learning_rate",
        "loss",
        "validation_loss",
    }
