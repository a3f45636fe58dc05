"""Training finds the states of a jump process of known truth, follows weights, repeats, and stops when it fails."""

import doctest

import numpy as np
import pytest
import torch

from latf_sampling import trainer
from latf_sampling.dataset import Dataset, Series
from latf_sampling.errors import SettingsError, TrainingError
from latf_sampling.model import LaTF
from latf_sampling.settings import TrainingSettings
from latf_sampling.trainer import train

CENTERS = np.array([[0.0, 0, 0, 0], [3, 0, 1, 0], [0, 3, 0, -1]])
POPULATIONS = [0.5, 0.3, 0.2]
SMALL = {"encoder_hidden": (16,), "decoder_hidden": (16,), "flow_hidden": (16, 16), "flow_transforms": 2}
QUICK = {"initial_states": 5, "refinements": 2, "refinement_epochs": 1, "flow_epochs": 1, "learning_rate": 1e-2}


def jumps(n, rng, stay):
    """Three states; at each step the state stays, or is drawn anew from its populations."""
    states = np.empty(n, dtype=int)
    for t in range(n):
        if t == 0 or rng.random() > stay:
            state = rng.choice(3, p=POPULATIONS)
        states[t] = state
    return states


def descriptors(states, rng):
    """Four that tell the states apart, and one that varies most of all and says nothing."""
    return np.column_stack(
        [CENTERS[states] + 0.3 * rng.normal(size=(len(states), 4)), 5 * rng.normal(size=len(states))]
    )


def matches(assigned, states):
    """Fraction of frames that are right, when each state found is named by the truth it holds most of."""
    return sum(np.bincount(states[assigned == k]).max() for k in np.unique(assigned)) / len(states)


def small(n=600, seed=0, **options) -> tuple[Dataset, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = jumps(n, rng, stay=0.97)
    return Dataset([Series(descriptors(states, rng), **options)], lag=3), states


@pytest.fixture(scope="module")
def trained():
    """A model, its result and its data; frames carry weights that change the populations a lot."""
    rng = np.random.default_rng(0)
    states = [jumps(1500, rng, stay=0.95) for _ in range(4)]
    weights = [np.array([1.0, 3.0, 0.5])[s] * rng.uniform(0.5, 1.5, len(s)) for s in states]
    series = [Series(descriptors(s, rng), temperature=298.15, weights=w) for s, w in zip(states, weights)]
    dataset, progress = Dataset(series, lag=3), []
    model = LaTF(latent_dim=2, reference_temperature=298.15, **SMALL)
    result = train(
        model,
        dataset,
        seed=1,
        initial_states=8,
        refinements=6,
        refinement_epochs=2,
        flow_epochs=8,
        learning_rate=1e-2,
        progress=lambda fraction, words: progress.append((fraction, words)),
    )
    return model, result, dataset, np.concatenate(states), np.concatenate(weights), progress


def test_finds_the_states(trained):
    model, result, dataset, states, *_ = trained
    assert model.n_states == len(result.states) == 3
    assert matches(model.assign(dataset.x.numpy()), states) > 0.98


def test_the_latent_space_ignores_the_fast_descriptor(trained):
    model, _, dataset, states, *_ = trained
    x = dataset.x.numpy().copy()
    moved = x.copy()
    moved[:, 4] += 5.0  # one standard deviation of the noise
    across = np.linalg.norm(model.encode(x[states == 0]).mean(0) - model.encode(x[states == 1]).mean(0))
    assert np.linalg.norm(model.encode(moved) - model.encode(x), axis=1).mean() < 0.3 * across


def test_reported_populations_are_weighted(trained):
    model, result, dataset, _, weights, _ = trained
    assigned = model.assign(dataset.x.numpy())
    exact = [weights[assigned == k].sum() / weights.sum() for k in range(3)]
    found = [row["population at 298.15"] for row in result.states]
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert sum(found) == pytest.approx(1.0, abs=1e-5)
    plain = np.bincount(assigned) / len(assigned)
    assert np.abs(plain - found).max() > 0.1  # the weights make a difference that could be seen


def test_samples_have_the_weighted_populations(trained):
    model, _, dataset, _, weights, _ = trained
    mu = torch.from_numpy(model.encode(dataset.x.numpy()))
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The flow learns the density of u = mu + noise.
        encoded = model.decoder(mu + torch.exp(0.5 * model.log_variance) * noise).argmax(-1).numpy()
        sampled = model.decoder(torch.from_numpy(model.sample(20_000, seed=2))).argmax(-1).numpy()
    exact = np.bincount(encoded, weights=weights, minlength=3) / weights.sum()
    np.testing.assert_allclose(np.bincount(sampled, minlength=3) / 20_000, exact, atol=0.06)


def test_samples_lie_where_the_data_lie(trained):
    model, _, dataset, _, weights, _ = trained
    u = model.sample(20_000, seed=3)
    mu = model.encode(dataset.x.numpy())
    mean = np.average(mu, axis=0, weights=weights)
    spread = np.sqrt(np.average((mu - mean) ** 2, axis=0, weights=weights) + np.exp(model.log_variance.item()))
    np.testing.assert_allclose(u.mean(0), mean, atol=0.15 * spread.max())
    np.testing.assert_allclose(u.std(0), spread, rtol=0.2)


@pytest.mark.parametrize("temperature", [298.15, 450.0])
def test_latent_density_integrates_to_one(trained, temperature):
    model = trained[0]
    u = model.sample(5000, temperature, seed=4)
    # Splines stretch the outermost samples, so that the box has to be wider than they are.
    low, high = u.min(0) - 0.5 * np.ptp(u, axis=0), u.max(0) + 0.5 * np.ptp(u, axis=0)
    n = 300
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(model.log_prob(points, temperature).astype(float)).sum() * np.prod((high - low) / n)
    assert total == pytest.approx(1.0, abs=0.01)


def test_scaling_bounds_and_spread_describe_the_data(trained):
    model, _, dataset, _, weights, _ = trained
    x = dataset.x.numpy().astype(float)
    mean = np.average(x, axis=0, weights=weights)
    np.testing.assert_allclose(model.feature_mean, mean, atol=1e-3)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(model.feature_scale, 1 / deviation, rtol=1e-3)
    mu, assigned = model.encode(dataset.x.numpy()), model.assign(dataset.x.numpy())
    np.testing.assert_allclose(model.latent_bounds, np.stack([mu.min(0), mu.max(0)], axis=1), atol=1e-5)
    within = np.sqrt(np.mean([mu[assigned == k].var(0) for k in range(3)], axis=0))
    np.testing.assert_allclose(model.latent_spread, within, rtol=0.01)


def test_history_progress_and_provenance(trained):
    model, result, dataset, *_, progress = trained
    stages = [entry["stage"] for entry in result.history]
    assert stages == sorted(stages, reverse=True)  # all of "states" before all of "flow"
    assert 1 <= stages.count("flow") <= 8
    for entry in result.history:
        for name in ("loss", "prediction", "regularisation"):
            assert np.isfinite(entry[name])
            if entry["stage"] == "flow":
                assert np.isfinite(entry[f"validation_{name}"])
    found = [entry["states"] for entry in result.history]
    assert found == sorted(found, reverse=True)
    first, last = (next(e for e in h if e["stage"] == "flow") for h in (result.history, result.history[::-1]))
    assert last["regularisation"] < first["regularisation"]
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] <= 1
    assert len(progress) == len(result.history)
    assert model.provenance["seed"] == 1
    assert model.provenance["lag"] == 3
    assert model.provenance["frames"] == len(dataset.x)
    assert model.provenance["temperatures"] == [298.15]
    assert result.seconds > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dim", [1, 3])
def test_other_dimensions_labels_and_two_temperatures(dim):
    rng = np.random.default_rng(5)
    states = [jumps(1500, rng, stay=0.97) for _ in range(2)]
    constant = np.full((1500, 1), 7.0)  # a column that says nothing must do no harm
    series = [
        Series(np.hstack([descriptors(s, rng), constant]), temperature=t, labels=2 * s + 1)  # labels with gaps
        for s, t in zip(states, (1.0, 1.5))
    ]
    dataset = Dataset(series, lag=3, boltzmann=1.0)
    model = LaTF(latent_dim=dim, reference_temperature=1.0, **SMALL)
    result = train(model, dataset, seed=2, refinements=2, flow_epochs=1, learning_rate=1e-2)
    assert model.n_states == 3
    assigned = model.assign(dataset.x.numpy())
    assert matches(assigned, np.concatenate(states)) > 0.98
    assert model.feature_scale[5] == 1.0
    for half, t in ((slice(0, 1500), "1"), (slice(1500, None), "1.5")):
        exact = np.bincount(assigned[half], minlength=3) / 1500
        np.testing.assert_allclose([row[f"population at {t}"] for row in result.states], exact, atol=1e-5)
    u = model.sample(50, 1.5, seed=0)
    assert u.shape == (50, dim)
    np.testing.assert_allclose(model.free_energy(u, 1.5), -1.5 * model.log_prob(u, 1.5), rtol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    dataset, _ = small()
    models, before = [], torch.random.get_rng_state()
    for seed in (3, 3, 4):
        np.random.seed(seed + 10)  # noqa: NPY002 - whatever others do with the global generators must not matter
        torch.manual_seed(seed + 20 * len(models))
        models.append(LaTF(**SMALL))
        train(models[-1], dataset, seed=seed, **QUICK)
    torch.random.set_rng_state(before)
    first, second, other = (model.state_dict() for model in models)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert torch.equal(values, second[name]), name
    weights = "encoder.0.weight"
    assert not torch.equal(first[weights], other[weights])


def test_the_global_generators_are_left_alone():
    dataset, _ = small()
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(LaTF(**SMALL), dataset, **QUICK)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("stage", ["states", "flow"])
def test_a_loss_that_is_not_finite_stops_and_leaves_no_model(monkeypatch, stage):
    dataset, _ = small()
    model = LaTF(**SMALL)
    if stage == "flow":  # break the second stage alone
        learn = trainer._Run._learn_flow

        def broken(run, labels):
            run.settings = run.settings.model_copy(update={"learning_rate": 1e30})
            return learn(run, labels)

        monkeypatch.setattr(trainer._Run, "_learn_flow", broken)
        rate = QUICK["learning_rate"]
    else:
        rate = 1e30
    with pytest.raises(TrainingError) as failed:
        train(model, dataset, **{**QUICK, "learning_rate": rate})
    assert f"stage '{stage}'" in str(failed.value)
    assert "learning_rate (1e+30)" in str(failed.value)
    assert not model.trained
    with pytest.raises(TrainingError, match="not trained"):
        model.encode(np.zeros((1, 5)))
    monkeypatch.undo()
    train(model, dataset, **QUICK)  # the same object can be trained after all
    assert np.isfinite(model.encode(dataset.x.numpy())).all()


def test_values_whose_square_overflows_are_named():
    dataset, _ = small()
    dataset.x[100, 2] = 1e30
    with pytest.raises(TrainingError, match="column 2"):
        train(LaTF(**SMALL), dataset, **QUICK)


def test_a_single_label_is_refused():
    dataset, _ = small(labels=np.full(600, 3))
    with pytest.raises(TrainingError, match="same label"):
        train(LaTF(**SMALL), dataset, **QUICK)


def test_descriptors_that_never_change_are_refused():
    dataset = Dataset([Series(np.full((300, 3), 2.0))], lag=2)
    with pytest.raises(TrainingError, match="no descriptor ever changes"):
        train(LaTF(**SMALL), dataset, **QUICK)


def test_noise_without_slow_states_is_refused():
    x = np.random.default_rng(0).normal(size=(2000, 3))
    with pytest.raises(TrainingError, match="no slow transition"):
        train(LaTF(**SMALL), Dataset([Series(x)], lag=5), **{**QUICK, "refinements": 8, "refinement_epochs": 4})


def test_fewer_frames_than_initial_clusters():
    x = np.repeat([[0.0, 1.0], [5.0, 2.0]], 6, axis=0) + 0.1 * np.random.default_rng(0).normal(size=(12, 2))
    model = LaTF(**SMALL)
    train(model, Dataset([Series(x)], lag=1), **{**QUICK, "initial_states": 20, "minimum_population": 0.0})
    assert np.isfinite(model.encode(x)).all()


def test_series_too_short_to_hold_blocks_out_are_refused():
    # Ten blocks of four frames with a lag of eight: when nine are held out, no pair is left.
    x = np.random.default_rng(0).normal(size=(40, 2))
    x[:, 0] = (-1.0) ** np.arange(40)
    dataset = Dataset([Series(x, labels=np.arange(40) % 2)], lag=8)
    with pytest.raises(TrainingError, match="give longer series"):
        train(LaTF(**SMALL), dataset, validation_fraction=0.89, **{**QUICK, "refinement_epochs": 100})


def test_batches_without_weight_do_no_harm():
    # Two thirds of the frames have no weight, and a batch of two pairs is often without any.
    dataset, _ = small(n=300, weights=np.where(np.arange(300) % 30 < 20, 0.0, 1.0))
    model = LaTF(**SMALL)
    train(model, dataset, **{**QUICK, "batch_size": 2})
    assert np.isfinite(model.encode(dataset.x.numpy())).all()


def test_frames_without_weight_teach_nothing():
    # The same data with frames of another world in between: without weight, only the clusters may see them.
    dataset, states = small(labels=jumps(600, np.random.default_rng(0), stay=0.97))
    weights = np.where(np.arange(600) < 300, 1.0, 0.0)
    models = []
    for shift in (0.0, 3.0):
        x = dataset.x.numpy().copy()
        x[300:] += shift
        series = Series(x, labels=states, weights=weights)
        models.append(LaTF(**SMALL))
        train(models[-1], Dataset([series], lag=3), **{**QUICK, "refinements": 1, "minimum_population": 0.0})
    for name in ("feature_mean", "feature_scale"):
        assert torch.allclose(getattr(models[0], name), getattr(models[1], name), rtol=1e-5)


def test_what_cannot_be_trained_is_refused(trained):
    dataset, _ = small()
    with pytest.raises(TrainingError, match="trained already"):
        train(trained[0], dataset)
    assert trained[0].trained
    with pytest.raises(SettingsError, match="learning_rates"):
        train(LaTF(), dataset, learning_rates=1e-3)
    with pytest.raises(SettingsError, match="not both"):
        train(LaTF(), dataset, settings=TrainingSettings(), learning_rate=1e-3)


def test_a_saved_and_loaded_model_is_the_trained_one(trained, tmp_path):
    model, _, dataset, *_ = trained
    model.save(tmp_path / "model.pt")
    loaded = LaTF.load(tmp_path / "model.pt")
    assert np.array_equal(loaded.assign(dataset.x.numpy()), model.assign(dataset.x.numpy()))
    assert np.array_equal(loaded.sample(50, 400.0, seed=1), model.sample(50, 400.0, seed=1))
    assert loaded.provenance == model.provenance


def test_examples_in_docstrings():
    results = doctest.testmod(trainer)
    assert results.attempted >= 4
    assert results.failed == 0
