"""The dimension follows from the number of states, and a new latent space is aligned to an earlier one."""

import copy
import hashlib
import json

import numpy as np
import pytest
import torch

from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.errors import DataError, SettingsError, TrainingError
from latf_sampling.learning.marginals import MarginalMap
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import stages, train
from latf_sampling.learning.training.alignment import EarlierModel

TINY = {"encoder_hidden": (8,), "decoder_hidden": (8,), "flow_hidden": (8,), "flow_transforms": 1}
SMALL = {**TINY, "temperature_mode": "steered"}
QUICK = {"refinements": 2, "refinement_epochs": 2, "joint_epochs": 1, "flow_epochs": 2, "ensemble": 1}
QUICK |= {"ensemble_epochs": 1, "learning_rate": 1e-2}


def jumps(count, n=900, seed=0) -> tuple[Dataset, np.ndarray]:
    """So many states of a slow jump process, each at a corner of a simplex, with their labels."""
    rng = np.random.default_rng(seed)
    states = np.repeat(np.arange(n // 15) % count, 15)
    states = states[: n - n % 15]
    x = 3 * np.eye(count)[states] + 0.2 * rng.normal(size=(len(states), count))
    return Dataset([Series(x, labels=states)], lag=2), states


def trained(count, seed=0, options=None, **settings) -> tuple[LaTF, Dataset]:
    dataset, _ = jumps(count)
    model = LaTF(**{**SMALL, **settings})
    train(model, dataset, seed, **{**QUICK, **(options or {})})
    return model, dataset


@pytest.fixture(scope="module")
def three():
    return trained(3)


@pytest.mark.parametrize(("count", "given", "dim"), [(2, None, 1), (5, None, 3), (3, 1, 1), (2, 2, 2)])
def test_one_dimension_less_than_states_and_at_most_three_unless_given(count, given, dim):
    model, dataset = trained(count, latent_dim=given, options={"joint_epochs": 0, "flow_epochs": 0, "ensemble": 0})
    assert model.n_states == count
    assert model.latent_dim == model.encode(dataset.x.numpy()).shape[1] == len(model.latent_bounds) == dim


def test_before_training_the_dimension_is_not_known():
    with pytest.raises(TrainingError, match="one less than the states"):
        _ = LaTF().latent_dim
    assert LaTF(latent_dim=3).latent_dim == 3
    with pytest.raises(SettingsError, match="latent_dim"):
        LaTF(latent_dim=0)


def test_files_have_the_dimension_and_those_of_the_earlier_format_are_read(three, tmp_path):
    model, _ = three
    assert model.latent_dim == 2
    model.save(tmp_path / "model.pt")
    loaded, u = LaTF.load(tmp_path / "model.pt"), model.sample(20, seed=0)
    assert loaded.settings.latent_dim is None
    assert loaded.latent_dim == 2
    assert np.array_equal(loaded.log_prob(u), model.log_prob(u))
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    del content["latent_dim"]
    content |= {"format": 3, "settings": {**content["settings"], "latent_dim": 2}}
    torch.save(content, tmp_path / "earlier.pt")
    earlier = LaTF.load(tmp_path / "earlier.pt")
    assert np.array_equal(earlier.log_prob(u), model.log_prob(u))
    assert earlier.fingerprint() == loaded.fingerprint() == model.fingerprint()
    assert earlier.encoder_fingerprint() == model.encoder_fingerprint()


def test_flows_of_earlier_formats_have_straight_coordinates(three, tmp_path):
    model = copy.deepcopy(three[0])
    for flow in (model.networks.flow, model.networks.validation_flow, *model.networks.ensemble):
        flow.marginals = MarginalMap(2)
    model.save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["state"] = {name: value for name, value in content["state"].items() if ".marginals." not in name}
    torch.save({**content, "format": 4}, tmp_path / "earlier.pt")
    earlier, u = LaTF.load(tmp_path / "earlier.pt"), model.sample(20, seed=0)
    assert np.array_equal(earlier.log_prob(u), model.log_prob(u))
    assert earlier.fingerprint() == model.fingerprint() != three[0].fingerprint()
    # The letters that version 0.1.0 gave: names and numbers without those of the coordinates.
    digest = hashlib.sha256(json.dumps([earlier_settings(model), model.boltzmann], sort_keys=True).encode())
    for name, value in sorted(content["state"].items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert earlier.fingerprint() == digest.hexdigest()[:16]
    torch.save(content, tmp_path / "damaged.pt")
    with pytest.raises(DataError, match="damaged"):
        LaTF.load(tmp_path / "damaged.pt")


def earlier_settings(model):
    """Settings of a model of dimension 2 that differ from the defaults of version 0.1.0."""
    settings = model.settings.model_dump(mode="json", exclude={"latent_dim", "flow_bins"}, exclude_defaults=True)
    return settings | ({} if model.settings.flow_bins == 8 else {"flow_bins": model.settings.flow_bins})


def test_a_mapped_latent_space_predicts_the_same(three):
    dataset, model = three[1], LaTF(**SMALL)
    train(model, dataset, **QUICK)
    x = dataset.rows(slice(0, 50))
    u, before = model.networks.mean(x), model.networks.decoder(model.networks.mean(x))
    turn = 2.5 * torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    center, image, noise = torch.tensor([0.3, -0.1]), torch.tensor([5.0, 7.0]), torch.randn(50, 2)
    spread = (model.networks.noisy(u, noise) - u).norm(dim=1)
    model.networks.map_latent(turn, center, image)
    mapped = model.networks.mean(x)
    torch.testing.assert_close(mapped, (u - center) @ turn.T + image)
    torch.testing.assert_close(model.networks.decoder(mapped), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((model.networks.noisy(mapped, noise) - mapped).norm(dim=1), 2.5 * spread)


def test_a_lost_state_takes_its_dimension_with_it(monkeypatch):
    real = stages._Run._learn_jointly

    def losing(run):
        real(run)
        run.model.networks.decoder[-1].bias.data[1] = -1e6  # no frame's most likely state any more

    monkeypatch.setattr(stages._Run, "_learn_jointly", losing)
    model, dataset = trained(3)
    assert (model.n_states, model.latent_dim) == (2, 1)
    x = dataset.x.numpy()
    assert set(np.unique(model.assign(x))) == {0, 1}
    u = model.sample(500, seed=0)
    assert u.shape == (500, 1)
    assert np.isfinite(model.log_prob(u)).all()
    means = [model.encode(x)[model.assign(x) == k].mean() for k in (0, 1)]
    assert abs(means[1] - means[0]) > 3 * float(model.latent_spread[0])  # what is left tells the two apart


def test_a_new_variable_is_aligned_to_an_earlier_one(three):
    model, dataset = three
    x = dataset.x.numpy()
    turn = np.array([[-0.6, 0.8], [0.8, 0.6]])
    earlier = 4 * model.encode(x) @ turn + [10.0, -20.0]
    earlier[:100] = np.nan  # not known for these
    new = LaTF(**SMALL)
    train(new, dataset, seed=5, align=earlier, **QUICK)
    u = new.encode(x)[100:]
    np.testing.assert_allclose(u.mean(0), earlier[100:].mean(0), atol=1e-2)
    spread = [np.linalg.norm(each - each.mean(0)) for each in (u, earlier[100:])]
    assert spread[0] == pytest.approx(spread[1], rel=1e-3)
    assert np.linalg.norm(u - earlier[100:]) < 0.3 * spread[1]
    other = LaTF(**SMALL)
    train(other, dataset, seed=5, align=earlier[:, :1], **QUICK)  # of another dimension: nothing to align to
    assert abs(other.encode(x).mean()) < 5


def test_states_keep_the_indices_of_the_earlier_ones(three):
    model, dataset = three
    x, order = dataset.x.numpy(), np.array([2, 0, 1])
    new, states = LaTF(**SMALL), order[model.assign(x)]
    states[:50] = -1
    train(new, dataset, seed=6, align_states=states, **QUICK)
    assert (new.assign(x)[50:] == states[50:]).mean() > 0.95
    four = np.where(np.arange(len(states)) < 60, 3, states)
    assert np.array_equal(EarlierModel(None, four).in_order(states.clip(0)), states.clip(0))  # not as many


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"align": np.zeros(899)}, "align must have the shape"),
        ({"align": np.zeros((3, 2))}, "align must have the shape"),
        ({"align": np.full((900, 1), np.inf)}, "infinite, or beyond 1e\\+18, in frame 0"),
        ({"align": np.full((900, 1), 1e39)}, "in frame 0"),
        ({"align": "no"}, "align"),
        ({"align_states": np.zeros((900, 1))}, "align_states must have the shape"),
        ({"align_states": np.full(900, -2)}, "frame 0 has -2"),
        ({"align_states": np.full(900, 0.5)}, "frame 0 has 0.5"),
        ({"align_states": np.full(900, np.inf)}, "frame 0 has inf"),
        ({"align_states": np.full(900, np.nan)}, "frame 0 has nan"),
    ],
)
def test_what_cannot_be_aligned_to_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        train(LaTF(**SMALL), jumps(3)[0], **given, **QUICK)


def test_an_interrupted_training_continues_to_the_same_bits(three, tmp_path):
    model, dataset = three
    earlier = {"align": -3 * model.encode(dataset.x.numpy()), "align_states": 2 - model.assign(dataset.x.numpy())}
    whole = LaTF(**SMALL)
    train(whole, dataset, seed=7, **earlier, **QUICK)
    file, calls = tmp_path / "checkpoint.pt", []

    def interrupt(fraction, words):
        calls.append(words)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt

    for _ in range(20):
        model = LaTF(**SMALL)
        try:
            train(model, dataset, seed=7, checkpoint=file, progress=interrupt, **earlier, **QUICK)
            break
        except KeyboardInterrupt:
            continue
    assert model.trained
    assert all(
        torch.equal(value, model.networks.state_dict()[name]) for name, value in whole.networks.state_dict().items()
    )
    for other in ({}, {**earlier, "align": earlier["align"] + 1}, {"align": earlier["align"]}):
        with pytest.raises(TrainingError, match="other data, settings or seed"):
            train(LaTF(**SMALL), dataset, seed=7, checkpoint=file, **other, **QUICK)
