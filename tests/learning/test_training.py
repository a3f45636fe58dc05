"""Training finds the states of a known jump process, follows weights and temperature, is reproducible, continues to the
same bits after an interruption, and stops when it fails."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latf_sampling.analysis.mbar import TemperatureReweighting
from latf_sampling.analysis.weights import kish
from latf_sampling.core.words import with_error
from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.errors import ExtrapolationWarning, SettingsError, StatesWarning, StoreError, TrainingError
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.learning.training import stages, train
from latf_sampling.learning.training.alignment import take_weights
from latf_sampling.learning.training.training_frames import TrainingFrames
from latf_sampling.settings import ModelSettings, TrainingSettings
from latf_sampling.systems import double_well
from latf_sampling.units import KB

CENTERS = np.array([[0.0, 0, 0, 0], [3, 0, 1, 0], [0, 3, 0, -1]])
POPULATIONS = [0.5, 0.3, 0.2]
TINY = {"encoder_hidden": (16,), "decoder_hidden": (16,), "flow_hidden": (16, 16), "flow_transforms": 2}
SMALL = {**TINY, "temperature_mode": "steered"}
QUICK = {
    "initial_states": 5,
    "refinements": 2,
    "refinement_epochs": 1,
    "joint_epochs": 1,
    "flow_epochs": 1,
    "ensemble": 0,
    "ensemble_epochs": 1,
    "learning_rate": 1e-2,
}
STAGES = ["states", "joint", "flow", "refit", "ensemble"]


def jumps(n, rng, stay):
    """Three states; at each step the state stays, or is drawn anew from its populations."""
    states = np.empty(n, dtype=int)
    for t in range(n):
        if t == 0 or rng.random() > stay:
            state = rng.choice(3, p=POPULATIONS)
        states[t] = state
    return states


def descriptors(states, rng):
    """Four columns that distinguish the states, and one that varies most of all and carries no information."""
    return np.column_stack(
        [CENTERS[states] + 0.3 * rng.normal(size=(len(states), 4)), 5 * rng.normal(size=len(states))]
    )


def matches(assigned, states):
    """Fraction of correct frames, where each learned state is identified with the true state of most of its frames."""
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
        joint_epochs=3,
        flow_epochs=8,
        ensemble=0,
        learning_rate=1e-2,
        progress=lambda fraction, words: progress.append((fraction, words)),
    )
    return model, result, dataset, np.concatenate(states), np.concatenate(weights), progress


def test_finds_the_states(trained):
    model, result, dataset, states, *_ = trained
    assert model.n_states == len(result.states) == 3
    assert matches(model.assign(dataset.x.numpy()), states) > 0.98


def test_a_state_that_joint_training_loses_is_dropped(monkeypatch):
    dataset, _ = small()
    real = stages._Run._learn_jointly

    def losing(run):
        real(run)
        run.model.networks.decoder[-1].bias.data[0] = -1e6  # no frame's most likely state any more

    monkeypatch.setattr(stages._Run, "_learn_jointly", losing)
    model = LaTF(latent_dim=2, **SMALL)
    result = train(model, dataset, seed=0, **QUICK)
    before = result.history[[entry["stage"] for entry in result.history].index("joint")]["states"]
    assert model.n_states == len(result.states) == before - 1
    assert set(np.unique(model.assign(dataset.x.numpy()))) <= set(range(model.n_states))


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
    reported = [row["population at 298.15"] for row in result.states]
    np.testing.assert_allclose(reported, exact, atol=1e-4)
    assert sum(reported) == pytest.approx(1.0, abs=1e-5)
    errors = np.array([row["error at 298.15"] for row in result.states])
    assert ((errors > 1e-4) & (errors < 0.1)).all()
    shares = ", ".join(with_error(100 * p, 100 * error) for p, error in zip(reported, errors))
    assert f"3 states ({shares} % at 298.15 K)" in result.summary
    plain = np.bincount(assigned) / len(assigned)
    assert np.abs(plain - reported).max() > 0.1  # the weights make a difference that could be seen


def test_samples_have_the_weighted_populations(trained):
    model, _, dataset, _, weights, _ = trained
    mu = torch.from_numpy(model.encode(dataset.x.numpy()))
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The flow learns the density of u = mu + noise.
        encoded = model.networks.decoder(mu + torch.exp(0.5 * model.networks.log_variance) * noise).argmax(-1).numpy()
        sampled = model.networks.decoder(torch.from_numpy(model.sample(20_000, seed=2))).argmax(-1).numpy()
    exact = np.bincount(encoded, weights=weights, minlength=3) / weights.sum()
    np.testing.assert_allclose(np.bincount(sampled, minlength=3) / 20_000, exact, atol=0.06)


def test_samples_lie_where_the_data_lie(trained):
    model, _, dataset, _, weights, _ = trained
    u = model.sample(20_000, seed=3)
    mu = model.encode(dataset.x.numpy())
    mean = np.average(mu, axis=0, weights=weights)
    spread = np.sqrt(np.average((mu - mean) ** 2, axis=0, weights=weights) + np.exp(model.networks.log_variance.item()))
    np.testing.assert_allclose(u.mean(0), mean, atol=0.15 * spread.max())
    np.testing.assert_allclose(u.std(0), spread, rtol=0.2)


@pytest.mark.filterwarnings("ignore::latf_sampling.errors.ExtrapolationWarning")
@pytest.mark.parametrize("temperature", [298.15, 450.0])
def test_latent_density_integrates_to_one(trained, temperature):
    model = trained[0]
    u = model.sample(5000, temperature, seed=4)
    # Splines stretch the outermost samples, so that the box has to be wider than they are.
    low, high = u.min(0) - 0.5 * np.ptp(u, axis=0), u.max(0) + 0.5 * np.ptp(u, axis=0)
    n = 700
    axes = [low[k] + (high[k] - low[k]) * (np.arange(n) + 0.5) / n for k in range(2)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(model.log_prob(points, temperature).astype(float)).sum() * np.prod((high - low) / n)
    assert total == pytest.approx(1.0, abs=0.01)


def test_scaling_bounds_and_spread_describe_the_data(trained):
    model, _, dataset, _, weights, _ = trained
    x = dataset.x.numpy().astype(float)
    mean = np.average(x, axis=0, weights=weights)
    np.testing.assert_allclose(model.networks.feature_mean, mean, atol=1e-3)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(model.networks.feature_scale, 1 / deviation, rtol=1e-3)
    mu, assigned = model.encode(dataset.x.numpy()), model.assign(dataset.x.numpy())
    np.testing.assert_allclose(model.latent_bounds, np.stack([mu.min(0), mu.max(0)], axis=1), atol=1e-5)
    within = np.sqrt(np.mean([mu[assigned == k].var(0) for k in range(3)], axis=0))
    np.testing.assert_allclose(model.latent_spread, within, rtol=0.01)


def test_history_progress_and_provenance(trained):
    model, result, dataset, *_, progress = trained
    order = [STAGES.index(entry["stage"]) for entry in result.history]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2, 3}
    assert 1 <= order.count(2) <= 8
    for entry in result.history:
        assert {"iteration", "epoch", "states", "learning_rate"} <= set(entry)
        names = {"flow": ["validation_loss"], "refit": []}.get(entry["stage"], ["prediction", "regularization"])
        for name in ["loss", *names]:
            assert np.isfinite(entry[name])
    counts = [entry["states"] for entry in result.history]
    assert counts == sorted(counts, reverse=True)
    for stage in ("joint", "flow"):
        of_stage = [entry["loss"] for entry in result.history if entry["stage"] == stage]
        assert of_stage[-1] < of_stage[0]
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] <= 1
    assert len(progress) == len(result.history)
    assert model.provenance["seed"] == 1
    assert model.provenance["lag"] == 3
    assert model.provenance["frames"] == len(dataset.x)
    assert model.provenance["temperatures"] == [298.15]
    held = model.provenance["held_blocks"]
    assert 0 < len(held) < len(np.unique(dataset.blocks))
    assert set(held) <= set(dataset.blocks.tolist())
    assert result.seconds > 0
    assert not any(parameter.requires_grad for parameter in model.networks.parameters())


@pytest.mark.parametrize("dim", [1, 3])
def test_other_dimensions_labels_and_two_temperatures(dim):
    rng = np.random.default_rng(5)
    states = [jumps(1500, rng, stay=0.97) for _ in range(2)]
    constant = np.full((1500, 1), 7.0)  # a constant column must do no harm
    series = [
        Series(np.hstack([descriptors(s, rng), constant]), temperature=t, labels=2 * s + 1)  # labels with gaps
        for s, t in zip(states, (1.0, 1.5))
    ]
    dataset = Dataset(series, lag=3, boltzmann=1.0)
    model = LaTF(latent_dim=dim, reference_temperature=1.0, **SMALL)
    result = train(model, dataset, seed=2, **{**QUICK, "refinement_epochs": 8})
    assert model.n_states == 3
    assigned = model.assign(dataset.x.numpy())
    assert matches(assigned, np.concatenate(states)) > 0.98
    assert model.networks.feature_scale[5] == 1.0
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
    first, second, other = (model.networks.state_dict() for model in models)
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


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_stops_and_leaves_no_model(monkeypatch, stage):
    dataset, _ = small()
    model = LaTF(**SMALL)
    optimize = stages._Run._optimize

    def broken(run, epochs):  # this stage alone
        if run.stage == stage:
            run.settings = run.settings.model_copy(update={"learning_rate": 1e30})
        return optimize(run, epochs)

    monkeypatch.setattr(stages._Run, "_optimize", broken)
    with pytest.raises(TrainingError) as failed:
        train(model, dataset, **{**QUICK, "ensemble": 1, "ensemble_epochs": 2, "refinement_epochs": 2})
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


def test_a_label_for_each_frame_is_refused():
    x = np.random.default_rng(0).normal(size=(6000, 1))
    with pytest.raises(TrainingError, match="6000 different labels"):
        train(LaTF(**SMALL), Dataset([Series(x, labels=np.arange(6000))], lag=1), **QUICK)


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


def test_frames_without_weight_have_no_effect():
    # The same data with shifted frames of weight zero, which may enter the clusters only.
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
        assert torch.allclose(*(getattr(model.networks, name) for model in models), rtol=1e-5)


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
    assert np.array_equal(loaded.sample(50, seed=1), model.sample(50, seed=1))
    assert loaded.provenance == model.provenance


def test_no_epochs_of_the_flow_give_states_and_no_density():
    dataset, states = small(n=1500)
    model = LaTF(**SMALL)
    options = {**QUICK, "refinement_epochs": 4, "joint_epochs": 0, "flow_epochs": 0}
    result = train(model, dataset, **options)
    assert {entry["stage"] for entry in result.history} == {"states"}
    assert matches(model.assign(dataset.x.numpy()), states) > 0.9
    with pytest.raises(TrainingError, match="without a density"):
        model.sample(3)


# ------------------------------------------------------------------------------ continuing after an interruption

ALL_STAGES = {
    "initial_states": 5,
    "refinements": 2,
    "refinement_epochs": 2,
    "label_change": 1e-9,
    "joint_epochs": 2,
    "flow_epochs": 4,
    "patience": 1,
    "ensemble": 2,
    "ensemble_epochs": 2,
    "learning_rate": 1e-2,
}


def two_temperatures(n=250, seed=0, **options) -> Dataset:
    """Two series with energies, weights and a fifth descriptor of noise, at kT = 1 and 1.3."""
    rng = np.random.default_rng(seed)
    series = []
    for kT in (1.0, 1.3):
        states = jumps(n, rng, stay=0.97)
        energies, weights = rng.gamma(2.0, kT, n), rng.uniform(0.5, 1.5, n)
        series.append(Series(descriptors(states, rng), kT, weights, energies=energies, **options))
    return Dataset(series, lag=3, boltzmann=1.0)


def learn(checkpoint=None, progress=None, dataset=None, seed=7, model=None, **options):
    """A short training with all its stages."""
    model = LaTF(reference_temperature=1.0, **{**TINY, **(model or {})})
    dataset = two_temperatures() if dataset is None else dataset
    result = train(model, dataset, seed, checkpoint=checkpoint, progress=progress, **{**ALL_STAGES, **options})
    return model, result


@pytest.fixture(scope="module")
def uninterrupted():
    return learn()


def assert_the_same(first, second):
    """Two models and their results are the same to the last bit."""
    (model_a, result_a), (model_b, result_b) = first, second
    a, b = model_a.networks.state_dict(), model_b.networks.state_dict()
    assert a.keys() == b.keys()
    for name, values in a.items():
        assert torch.equal(values, b[name]), name
    assert result_a.history == result_b.history
    assert result_a.states == result_b.states
    assert result_a.converged == result_b.converged
    assert model_a.provenance == model_b.provenance
    assert model_a.reweighted == model_b.reweighted


class Interrupt:
    """Ctrl-C at the given epoch of a stage, all its iterations counted; or after a number of epochs."""

    def __init__(self, stage="", number=1):
        self.stage, self.number, self.count = stage, number, 0

    def __call__(self, fraction, words):
        self.count += words.startswith(self.stage)
        if self.count == self.number:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "number"),
    [("states", 1), ("states", 3), ("joint", 1), ("flow", 1), ("flow", 3), ("refit", 1)]
    + [("refit", 2), ("ensemble", 1), ("ensemble", 3)],
)
def test_an_interrupted_training_continues_to_the_same_bits(tmp_path, uninterrupted, stage, number):
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        learn(file, Interrupt(stage, number))
    assert [path.name for path in tmp_path.iterdir()] == ([] if (stage, number) == ("states", 1) else [file.name])
    before = torch.random.get_rng_state()
    assert_the_same(learn(file), uninterrupted)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_the_best_of_several_encoders_goes_on(tmp_path, monkeypatch):
    """Whichever it is, and wherever the training was interrupted."""
    scores = iter([3.0, 7.0, 5.0])
    monkeypatch.setattr(stages._Run, "_score", lambda run: next(scores))
    encoders = []
    real = stages._Run._encoder

    def remembered(run):
        encoders.append({name: value.clone() for name, value in real(run)["model"].items()})
        return real(run)

    monkeypatch.setattr(stages._Run, "_encoder", remembered)
    options = {"restarts": 3, "joint_epochs": 0, "flow_epochs": 0, "ensemble": 0}
    model, result = learn(**options)
    ends = encoders[-3:]
    for name, value in model.networks.state_dict().items():
        if name.startswith(("encoder.", "decoder.")):
            assert torch.equal(value, ends[1][name])
            assert not torch.equal(value, ends[0][name])
    assert [entry["iteration"] for entry in result.history if entry["stage"] == "states"] == [0, 0, 1, 1]
    file, scores = tmp_path / "checkpoint.pt", iter([3.0, 7.0, 5.0])
    with pytest.raises(KeyboardInterrupt):
        learn(file, Interrupt(number=6), **options)  # in the second one; the first one is finished
    assert_the_same(learn(file, **options), (model, result))


def test_expected_crossings_choose_the_encoder(monkeypatch):
    real, scores, shares = stages._Run._score, [], []
    monkeypatch.setattr(stages._Run, "_score", lambda run: scores.append(real(run)) or scores[-1])
    options = {"joint_epochs": 0, "flow_epochs": 0, "ensemble": 0}
    learn(restarts=2, progress=lambda share, words: shares.append(share), **options)
    assert len(scores) == 2
    assert min(scores) > 0
    assert shares == sorted(shares)


def test_a_network_that_tells_no_states_apart_starts_anew(monkeypatch):
    real, calls = stages._Run._most_likely_states, []

    def stuck(run):
        calls.append(len(run.candidates))
        return torch.zeros_like(real(run)) if len(calls) <= stages.COLLAPSED + 1 else real(run)

    monkeypatch.setattr(stages._Run, "_most_likely_states", stuck)
    model, result = learn(refinements=6, joint_epochs=0, flow_epochs=0, ensemble=0)
    assert calls[: stages.COLLAPSED + 2] == [0] * (stages.COLLAPSED + 1) + [1]  # given up early
    assert len(np.unique(model.assign(two_temperatures().x.numpy()))) > 1
    assert result.history[0]["iteration"] == 0


def test_no_network_tells_states_apart(monkeypatch):
    real = stages._Run._most_likely_states
    monkeypatch.setattr(stages._Run, "_most_likely_states", lambda run: torch.zeros_like(real(run)))
    with pytest.warns(StatesWarning, match=rf"none of {1 + stages.SPARE} encoders tells the \d+ states .* apart"):
        learn(refinements=4, joint_epochs=0, flow_epochs=0, ensemble=0)


def test_interrupted_again_and_again(tmp_path, uninterrupted):
    # Two epochs at a time, the same object each time, until it is through.
    file, model, dataset = tmp_path / "checkpoint.pt", LaTF(reference_temperature=1.0, **TINY), two_temperatures()
    attempts = 0
    while True:
        attempts += 1
        try:
            result = train(model, dataset, 7, checkpoint=file, progress=Interrupt(number=2), **ALL_STAGES)
            break
        except KeyboardInterrupt:
            assert not model.trained
    assert attempts > 6
    assert_the_same((model, result), uninterrupted)
    assert_the_same(learn(file), uninterrupted)  # and once more from the end


def test_a_killed_training_continues_to_the_same_bits(tmp_path, uninterrupted):
    file = tmp_path / "checkpoint.pt"
    code = "import sys, test_training as t\nt.learn(sys.argv[1], lambda fraction, words: print(words, flush=True))\n"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("flow"):
            process.kill()
            break
    process.stdout.close()
    assert process.wait() == -9
    assert lines[0].startswith("states")
    assert_the_same(learn(file), uninterrupted)


def shifted(dataset, **changes):
    """The data set with something else about its first series."""
    first, second = dataset.series
    given = {"temperature": first.temperature, "weights": first.weights, "energies": first.energies, **changes}
    return Dataset([Series(given.pop("x", first.x), **given), second], changes.get("lag", dataset.lag), boltzmann=1.0)


@pytest.mark.parametrize(
    "other",
    [
        lambda data: {"seed": 8},
        lambda data: {"learning_rate": 2e-2},
        lambda data: {"model": {"flow_bins": 5}},
        lambda data: {"dataset": shifted(data, x=data.series[0].x + 1)},
        lambda data: {"dataset": shifted(data, temperature=1.1)},
        lambda data: {"dataset": shifted(data, weights=data.series[0].weights[::-1])},
        lambda data: {"dataset": shifted(data, energies=data.series[0].energies + 1)},
        lambda data: {"dataset": Dataset(data.series, lag=4, boltzmann=1.0)},
        lambda data: {"dataset": Dataset(data.series, lag=3, boltzmann=1.1)},
        lambda data: {"dataset": Dataset(data.series[::-1], lag=3, boltzmann=1.0)},
        lambda data: {"dataset": two_temperatures(251)},
    ],
)
def test_the_checkpoint_of_another_training_is_refused_and_kept(tmp_path, other):
    file, dataset = tmp_path / "checkpoint.pt", two_temperatures()
    with pytest.raises(KeyboardInterrupt):
        learn(file, Interrupt("states", 2), dataset)
    content = file.read_bytes()
    with pytest.raises(TrainingError, match="other data, settings or seed"):
        learn(file, **{"dataset": dataset, **other(dataset)})
    assert file.read_bytes() == content


@pytest.mark.parametrize("damage", [lambda b: b[:-500], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        learn(file, Interrupt("states", 2))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(TrainingError, match="cannot be read as a checkpoint; delete it"):
        learn(file)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, uninterrupted):
    file, flush, calls = tmp_path / "checkpoint.pt", os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")
        return flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        learn(file)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert_the_same(learn(file), uninterrupted)


def test_data_on_the_disk_give_the_same_bits(tmp_path, uninterrupted):
    on_disk = []
    for k, series in enumerate(two_temperatures().series):
        np.save(tmp_path / f"{k}.npy", series.x)
        x = np.load(tmp_path / f"{k}.npy", mmap_mode="r")
        on_disk.append(Series(x, series.temperature, series.weights, energies=series.energies))
    dataset = Dataset(on_disk, lag=3, boltzmann=1.0)
    assert all(series.mapped for series in dataset.series)
    assert_the_same(learn(dataset=dataset), uninterrupted)


def test_the_validation_flow_is_saved_beside_the_refit_one(tmp_path, uninterrupted):
    model, validation = uninterrupted[0], uninterrupted[0].for_validation()
    x, u = two_temperatures().series[0].x[:20], model.sample(20, seed=0)
    assert np.array_equal(validation.encode(x), model.encode(x))
    assert not np.array_equal(validation.log_prob(u), model.log_prob(u))
    model.save(tmp_path / "model.pt")
    assert np.array_equal(LaTF.load(tmp_path / "model.pt").for_validation().log_prob(u), validation.log_prob(u))


# ------------------------------------------------------------------------------------------- temperature and weights

WELL = double_well(barrier=3.0, tilt=1.5, stiffness=10.0)
EPOCHS = {
    "refinements": 1,
    "refinement_epochs": 3,
    "joint_epochs": 2,
    "flow_epochs": 8,
    "ensemble": 0,
    "ensemble_epochs": 2,
    "learning_rate": 5e-3,
    "encoder_decay": 0.1,
}


def left_population(kT: float) -> float:
    """Share of the left well, by quadrature."""
    x = np.linspace(-3, 3, 4001)
    density = np.exp(-WELL.potential(np.stack([x, 0 * x], -1)[:, None]) / kT)
    return density[x < 0].sum() / density.sum()


def of_the_well(n, kT, rng, potential=None, **options) -> Series:
    """Exact samples of the well, in runs on one side so that there is a future to predict."""
    system = WELL if potential is None else replace(WELL, potential=potential)
    x = system.exact_samples(n, kT / KB, rng)
    sides = [np.flatnonzero(x[:, 0] < 0), np.flatnonzero(x[:, 0] >= 0)]
    runs = [run for side in sides for run in np.array_split(side, len(side) // 25)]
    x = x[np.concatenate([runs[k] for k in rng.permutation(len(runs))])]
    options_of_series = {"energies": WELL.potential(x[:, None]), "labels": (x[:, 0] > 0).astype(int)}
    return Series(x, kT, **{**options_of_series, **{name: f(x) for name, f in options.items()}})


def train_on(series, seed=0, latent_dim=1, mode="reweighted", **options) -> LaTF:
    model = LaTF(latent_dim=latent_dim, reference_temperature=1.0, **{**TINY, "temperature_mode": mode})
    train(model, Dataset(series, lag=1, boltzmann=1.0), seed, **{**EPOCHS, **options})
    return model


def left(model, kT) -> float:
    return model.populations(kT)[int(model.assign(np.array([[-1.0, 0.0]]))[0])]


@pytest.fixture(scope="module")
def heated():
    """A model with an ensemble, learned at kT = 1 and 2 from frames with energies; and these."""
    rng = np.random.default_rng(1)
    series = [of_the_well(8000, kT, rng) for kT in (1.0, 2.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return train_on(series, ensemble=4, ensemble_epochs=3), series


def test_reweighted_populations_at_temperatures_without_simulation(heated):
    model, _ = heated
    assert model.reweighted
    for kT in (0.8, 1.0, 1.4, 2.0, 2.5):
        assert not model.extrapolates(kT)
        assert left(model, kT) == pytest.approx(left_population(kT), abs=0.03)


def test_reweighted_populations_from_one_temperature():
    model = train_on([of_the_well(10_000, 1.0, np.random.default_rng(2))], flow_epochs=6)
    for kT in (1.0, 1.8):
        assert not model.extrapolates(kT)
        assert left(model, kT) == pytest.approx(left_population(kT), abs=0.04)


def in_solvent(series, noise=12.0, seed=0):
    """The same frames, whose energies have those of a solvent added, by which temperatures do not overlap."""
    rng = np.random.default_rng(seed)
    for entry in series:
        bath = noise**2 * entry.temperature + noise * entry.temperature * rng.normal(size=len(entry))
        yield Series(entry.x, entry.temperature, energies=entry.energies + bath, labels=entry.labels)


@pytest.fixture(scope="module")
def solvated():
    """A model with an ensemble, learned at kT = 1 and 2 from frames in a solvent; and these."""
    rng = np.random.default_rng(1)
    series = list(in_solvent([of_the_well(8000, kT, rng) for kT in (1.0, 2.0)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return train_on(series, mode="auto", ensemble=4, ensemble_epochs=3), series


def test_a_solvent_leaves_populations_at_temperatures_without_simulation(solvated):
    model, _ = solvated
    assert model.temperature_mode == "thermodynamic" and model.reweighted
    assert model.provenance["overlaps"][0] < 0.03
    state = int(model.assign(np.array([[-1.0, 0.0]]))[0])
    for kT in (1.0, 1.3, 1.6, 2.0):
        assert not model.extrapolates(kT) and model.effective_sample_size(kT) > 2000
        assert left(model, kT) == pytest.approx(left_population(kT), abs=0.04)
        value, error = model.gibbs_helmholtz().populations(kT)
        assert value[state] == pytest.approx(left_population(kT), abs=4.5 * error[state])
        assert error[state] <= model.populations(kT, return_std=True)[1][state] < 0.06
    for kT in (0.8, 2.4):  # beyond the simulated temperatures, with a warning
        assert model.extrapolates(kT)
        with pytest.warns(ExtrapolationWarning, match="with the heat capacities between them"):
            assert left(model, kT) == pytest.approx(left_population(kT), abs=0.06)
    assert model.effective_sample_size(4.0) == 0.0


def test_thermodynamics_of_states_in_a_solvent_and_saved(solvated, tmp_path):
    model, _ = solvated
    found = model.thermodynamics(1.3)
    state = int(model.assign(np.array([[-1.0, 0.0]]))[0])
    share = left_population(1.3)
    exact = -1.3 * np.log(share / (1 - share) if state == 1 else (1 - share) / share)
    assert found.free_energies[1] == pytest.approx(exact, abs=4.5 * found.free_energy_errors[1])
    assert found.entropies == pytest.approx(found.energies - found.free_energies)
    model.save(tmp_path / "model.pt")
    again = LaTF.load(tmp_path / "model.pt")
    assert again.temperature_mode == "thermodynamic"
    assert np.array_equal(again.thermodynamics(1.3).free_energies, found.free_energies)


@pytest.mark.parametrize(
    ("temperatures", "noise", "mode"),
    [
        ((1.0, 2.0), 0.0, "reweighted"),
        ((1.0, 2.0), 12.0, "thermodynamic"),
        ((1.0, 1.02), 12.0, "reweighted"),
        ((1.0,), 0.0, "reweighted"),
        ((1.0,), 40.0, "thermodynamic"),
    ],
)
def test_auto_goes_by_the_overlap_of_energies(temperatures, noise, mode):
    rng = np.random.default_rng(0)
    series = list(in_solvent([of_the_well(2000, kT, rng) for kT in temperatures], noise))
    dataset = Dataset(series, lag=1, boltzmann=1.0)
    frames = TrainingFrames(
        dataset, ModelSettings(reference_temperature=1.0), TrainingSettings(), 0, torch.device("cpu")
    )
    assert frames.mode == mode and len(frames.overlaps) == len(temperatures) - 1


@pytest.mark.parametrize("few", [1, 2, 8, 40])
def test_a_temperature_with_a_few_frames_is_not_one_that_was_sampled(few):
    """The mean energy there is known no better than from nothing; between it and the others the model extrapolates."""
    rng = np.random.default_rng(few)
    hot = of_the_well(500, 2.0, rng)
    hot = Series(hot.x[:few], 2.0, energies=hot.energies[:few], labels=hot.labels[:few])
    series = list(in_solvent([of_the_well(500, 1.0, rng), hot]))
    options = {"refinements": 1, "refinement_epochs": 1, "joint_epochs": 0, "flow_epochs": 1, "ensemble": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = train_on(series, mode="auto", **options)
    said = [entry for entry in caught if "10 independent frames" in str(entry.message)]
    assert model.temperature_mode == "thermodynamic"
    if few == 40:
        assert not said and model.provenance["well_sampled"] == [1.0, 2.0]
        assert not any(model.extrapolates(kT) for kT in (1.0, 1.4, 2.0))
    else:
        assert len(said) == 1 and f"2 has {few}" in str(said[0].message) and said[0].filename == __file__
        assert model.provenance["well_sampled"] == [1.0] and model.provenance["temperatures"] == [1.0, 2.0]
        assert not model.extrapolates(1.0) and all(model.extrapolates(kT) for kT in (1.1, 1.4, 2.0))


def test_reweighting_by_energies_that_do_not_overlap_is_warned_of():
    rng = np.random.default_rng(0)
    series = list(in_solvent([of_the_well(500, kT, rng) for kT in (1.0, 2.0)]))
    options = {"refinements": 1, "refinement_epochs": 1, "joint_epochs": 0, "flow_epochs": 1, "ensemble": 0}
    with pytest.warns(ExtrapolationWarning, match=r"energies of frames at 1 and 2 \(.*\) hardly overlap") as caught:
        model = train_on(series, **options)
    assert caught[0].filename == __file__  # it points to the line that called train
    assert model.extrapolates(1.4) and not model.extrapolates(1.0)


def test_an_ensemble_of_biased_frames_in_a_solvent_is_finite():
    """Frames that a bootstrap sample lacks have no weight in it, and still define the ensemble of the bias."""
    rng = np.random.default_rng(0)
    weighted = [of_the_well(400, kT, rng, weights=lambda x: np.exp(x[:, 0])) for kT in (1.0, 2.0)]
    plain = list(in_solvent([of_the_well(400, kT, rng) for kT in (1.0, 2.0)]))
    series = [
        *plain,
        *(
            Series(entry.x, entry.temperature, entry.weights, energies=bath.energies, labels=entry.labels)
            for entry, bath in zip(weighted, in_solvent(weighted))
        ),
    ]
    model = train_on(series, mode="thermodynamic", refinements=2, joint_epochs=0, flow_epochs=2, ensemble=2)
    assert model.provenance["biased_temperatures"] == [1.0, 2.0]
    _, error = model.populations(1.4, return_std=True)
    assert np.isfinite(error).all()


def test_a_training_in_a_solvent_continues_to_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    series = list(in_solvent([of_the_well(600, kT, rng) for kT in (1.0, 2.0)]))
    arguments = {"dataset": Dataset(series, lag=1, boltzmann=1.0), "model": {"temperature_mode": "thermodynamic"}}
    whole = learn(**arguments)
    file = tmp_path / "checkpoint.pt"
    for stage in ("joint", "flow", "refit", "ensemble"):
        with pytest.raises(KeyboardInterrupt):
            learn(file, Interrupt(stage, 2), **arguments)
    assert_the_same(learn(file, **arguments), whole)


def test_frames_are_drawn_at_the_temperature_that_comes_with_them(heated):
    _, series = heated
    dataset, settings = Dataset(series, lag=1, boltzmann=1.0), TrainingSettings(**EPOCHS)
    frames = TrainingFrames(dataset, ModelSettings(reference_temperature=1.0), settings, 0, torch.device("cpu"))
    drawn, scale = frames.draw(dataset.first, frames.weights, np.random.default_rng(0), 6)
    assert len(drawn) == len(scale) == len(dataset.first)
    assert scale.unique().numel() == 6
    x = np.linspace(-3, 3, 2001)
    along = WELL.potential(np.stack([x, 0 * x], -1)[:, None])
    for s in scale.unique().tolist():
        density = np.exp(-along / s)
        exact = density @ along / density.sum() + 0.5 * s  # and half kT along y
        energies = dataset.energies[drawn[scale == s].numpy()]
        size = frames.reweighting.effective_sample_size(s)
        assert abs(energies.mean() - exact) < 4.5 * energies.std() * (1 / size + 1 / len(energies)) ** 0.5


def test_effective_sample_size_and_extrapolation_of_a_reweighted_model(heated):
    model, series = heated
    energies, temperatures = np.concatenate([s.energies for s in series]), np.repeat([1.0, 2.0], 8000)
    exact = TemperatureReweighting(energies, temperatures, None, 1.0, np.random.default_rng(0))
    for kT in (0.6, 0.8, 1.0, 1.3, 2.0, 3.0):
        assert model.effective_sample_size(kT) == pytest.approx(exact.effective_sample_size(kT), rel=0.02)
    u = np.zeros((1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kT in (0.8, 1.0, 1.5, 2.0, 2.5):
            assert not model.extrapolates(kT)
            model.log_prob(u, kT)
    for kT in (0.05, 50.0):
        assert model.extrapolates(kT)
        with pytest.warns(ExtrapolationWarning, match=f"{kT:g} K is extrapolation from simulations at 1, 2 K"):
            assert np.isfinite(model.log_prob(u, kT)).all()


def test_effective_sample_size_and_extrapolation_of_a_steered_model():
    rng, weights = np.random.default_rng(2), np.random.default_rng(3).uniform(0.1, 2, 600)
    series = [Series(descriptors(jumps(600, rng, 0.97), rng), T, w) for T, w in ((300.0, weights), (400.0, None))]
    model = LaTF(**SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning of missing energies where they are not needed
        train(model, Dataset(series, lag=3), **QUICK)
        for T in (300.0, 400.0):
            assert not model.extrapolates(T)
            model.sample(2, T)
    assert model.effective_sample_size(300.0) == pytest.approx(kish(weights), rel=1e-3)
    assert model.effective_sample_size(400.0) == pytest.approx(600, rel=1e-3)
    assert model.effective_sample_size(350.0) == model.effective_sample_size(500.0) == 0
    for T in (290.0, 350.0, 410.0):
        assert model.extrapolates(T)
        with pytest.warns(ExtrapolationWarning, match="prior alone"):
            model.sample(2, T)


@pytest.mark.parametrize(("dim", "weighted"), [(1, True), (2, True), (1, False)])
def test_weights_undo_a_bias_and_without_them_populations_are_wrong(dim, weighted):
    def bias(x):
        """Halves the barrier and takes the tilt away, so that both wells are equal."""
        return -1.5 * (x[..., 0, 0] ** 2 - 1) ** 2 - 0.75 * x[..., 0, 0]

    def biased(x):
        return WELL.potential(x) + bias(x)

    def weights(x):
        return 1e9 * np.exp(bias(x[:, None]))  # their unit means nothing

    given = {"weights": weights} if weighted else {}
    mode = "reweighted" if dim == 1 else "steered"
    series = [of_the_well(10_000, 1.0, np.random.default_rng(4), biased, **given)]
    model = train_on(series, 1, dim, mode, flow_epochs=8 if weighted else 2)
    deviation = abs(left(model, 1.0) - left_population(1.0))
    assert deviation < 0.03 if weighted else deviation > 0.2


def test_without_energies_there_is_one_warning_and_temperature_is_steered():
    dataset, _ = small(temperature=300.0)
    model = LaTF(**TINY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, dataset, **QUICK)
    ours = [each for each in caught if "energies" in str(each.message)]
    assert len(ours) == 1
    assert ours[0].category is UserWarning
    assert ours[0].filename == __file__  # it points to the line that called train
    assert not model.reweighted
    assert not model.networks.flow.conditional


def test_few_frames_reach_their_own_temperatures_at_least():
    model, _ = learn(dataset=two_temperatures(60), ensemble=0)
    assert model.reweighted
    for kT in (1.0, 1.15, 1.3):
        assert not model.extrapolates(kT)
    assert np.isfinite(model.log_prob(model.sample(20, 1.15, seed=0), 1.15)).all()
    assert model.extrapolates(20.0)


@pytest.mark.parametrize("mode", ["steered", "reweighted"])
def test_balanced_temperatures_weigh_the_same(mode):
    rng = np.random.default_rng(5)
    series = [of_the_well(n, kT, rng) for n, kT in ((3000, 1.0), (600, 2.0))]
    dataset, settings = (
        Dataset(series, lag=1, boltzmann=1.0),
        ModelSettings(reference_temperature=1.0, temperature_mode=mode),
    )
    frames = {
        balance: TrainingFrames(
            dataset, settings, TrainingSettings(balance_temperatures=balance), 0, torch.device("cpu")
        )
        for balance in (False, True)
    }
    means = [entry.x.mean(0) for entry in series]
    np.testing.assert_allclose(frames[True].scaling()[0], np.mean(means, axis=0), atol=1e-4)
    np.testing.assert_allclose(frames[False].scaling()[0], (5 * means[0] + means[1]) / 6, atol=1e-4)
    if mode == "steered":
        for balance, share in ((False, 1 / 6), (True, 1 / 2)):
            each = frames[balance]
            _, scale = each.draw(dataset.first, each.weights, np.random.default_rng(0), 6)
            assert float((scale == 2.0).double().mean()) == pytest.approx(share, abs=0.01)
    else:  # MBAR weights frames by itself
        for kT in (1.0, 1.5, 2.0):
            sizes = [each.reweighting.effective_sample_size(kT) for each in frames.values()]
            assert sizes[0] == pytest.approx(sizes[1], rel=1e-3)


# ------------------------------------------------------------------------------------------- the ensemble


def test_standard_errors_grow_where_frames_are_few(heated):
    model, _ = heated
    rng = np.random.default_rng(6)
    scarce = train_on([of_the_well(400, kT, rng) for kT in (1.0, 2.0)], ensemble=4, ensemble_epochs=3, flow_epochs=4)
    errors = []
    for each in (model, scarce):
        u = each.encode(np.array([[-1.2, 0], [-1.0, 0], [-0.8, 0], [0.8, 0], [1.0, 0], [1.2, 0]]))
        value, error = each.free_energy(u, 1.4, return_std=True)
        populations, spread = each.populations(1.4, return_std=True)
        for numbers in (error, spread):
            assert np.isfinite(numbers).all()
            assert (numbers > 0).all()
        assert np.array_equal(value, each.free_energy(u, 1.4))
        assert spread.shape == populations.shape
        errors.append(error.mean())
    assert errors[1] > 1.5 * errors[0]
    assert errors[0] < 0.3  # of a kT of 1.4


def test_without_an_ensemble_there_is_no_standard_error(trained):
    with pytest.raises(TrainingError, match="ensemble=4"):
        trained[0].free_energy(np.zeros((1, 2)), return_std=True)


def test_a_warm_start_is_the_same_variable_whatever_the_scaling(trained):
    """Weights alone, before anything is trained, on frames with another mean and spread."""
    model, *_ = trained
    other = LaTF(model.settings)
    other.networks = Networks(other.settings, model.n_features, model.n_states, latent_dim=model.latent_dim)
    with torch.no_grad():
        other.networks.feature_mean.copy_(model.networks.feature_mean + 0.7)
        other.networks.feature_scale.copy_(model.networks.feature_scale * 1.9)
    assert take_weights(other.networks, model.networks)
    x = torch.randn(50, model.n_features, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(other.networks.mean(x), model.networks.mean(x), atol=1e-4)
    wider = Networks(model.settings, model.n_features, model.n_states + 1, latent_dim=model.latent_dim)
    before = wider.encoder[0].weight.clone()
    assert not take_weights(wider, model.networks) and torch.equal(wider.encoder[0].weight, before)


def test_a_warm_start_begins_with_the_loss_of_the_model_and_needs_the_same_descriptors():
    dataset, _ = small()
    quick = {"initial_states": 4, "refinements": 4, "joint_epochs": 0, "flow_epochs": 0, "learning_rate": 1e-2}
    cold = LaTF(latent_dim=1, temperature_mode="steered")
    first = train(cold, dataset, seed=1, **quick)
    warm = LaTF(latent_dim=1, temperature_mode="steered")
    second = train(warm, dataset, seed=2, start=cold, **quick)
    assert warm.provenance["warm_start"] and "warm_start" not in cold.provenance
    losses = [[e["prediction"] for e in result.history if e["stage"] == "states"] for result in (first, second)]
    assert losses[1][0] < 0.7 * losses[0][0]
    with pytest.raises(SettingsError, match="start must be a trained model of the same descriptors; it has"):
        train(LaTF(latent_dim=1), Dataset([Series(dataset.series[0].x[:, :1])], lag=3), start=cold)
    with pytest.raises(SettingsError, match="it is not trained"):
        train(LaTF(latent_dim=1), dataset, start=LaTF(latent_dim=1))
