"""The contract of the model: shapes, arrays in and arrays out, one file, and a loss that follows its formulas."""

import copy
import math
import pickle
import pydoc
import re
import warnings

import numpy as np
import pytest
import torch
from openmm import unit
from scipy.special import stdtrit

from latf_sampling.errors import DataError, ExtrapolationWarning, SettingsError, TrainingError
from latf_sampling.learning.model import POPULATION_SAMPLES, LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.settings import ModelSettings
from latf_sampling.units import KB

FEATURES, STATES = 5, 3


def make(dim=2, seed=0, reweighted=False, members=0, **settings) -> LaTF:
    """A model with random weights, as training would leave it; reweighted between 250 K and 500 K."""
    options = {"encoder_hidden": (8,), "decoder_hidden": (8,), "flow_hidden": (16,), "flow_transforms": 2, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LaTF(latent_dim=dim, **options)
        networks = model.networks = Networks(model.settings, FEATURES, STATES, reweighted)
        model.trained = True
        networks.ensemble.extend(copy.deepcopy(networks.flow) for _ in range(members))
        with torch.no_grad():
            for parameter in networks.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            networks.feature_mean.normal_()
            networks.feature_scale.uniform_(0.5, 2.0)
            networks.representatives.normal_()
            model.latent_bounds.copy_(torch.tensor([[-1.0, 2.0]] * dim))
    model.provenance = {"temperatures": [250.0, 500.0], "density": True, "minimum_effective_size": 100.0}
    if reweighted:
        for flow in (networks.flow, *networks.ensemble):
            flow.range.copy_(torch.tensor([250.0, 500.0]) / model.settings.reference_temperature)
        networks.inverse_temperatures = torch.tensor([1 / 600, 1 / 400, 1 / 200], dtype=torch.float64)
        networks.effective_sizes = torch.tensor([50.0, 450.0, 50.0], dtype=torch.float64)
    return model


def batch(n=16, seed=1, dim=2):
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(n, FEATURES, generator=g),
        "y": torch.randint(STATES, (n,), generator=g),
        "scale": torch.tensor([1.0, 1.5])[torch.randint(2, (n,), generator=g)],
        "noise": torch.randn(n, dim, generator=g),
    }


# ------------------------------------------------------------------------------------------- untrained, wrong


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.encode(np.zeros((2, 3))),
        lambda m: m.assign(np.zeros((2, 3))),
        lambda m: m.log_prob(np.zeros((2, 2))),
        lambda m: m.free_energy(np.zeros((2, 2))),
        lambda m: m.sample(3),
        lambda m: m.populations(),
        lambda m: m.effective_sample_size(300.0),
        lambda m: m.extrapolates(300.0),
        lambda m: m.save("never.pt"),
    ],
)
def test_an_untrained_model_is_refused(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="not trained yet; call latf_sampling.train"):
        use(LaTF())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("encode", (FEATURES,)),
        ("encode", (4, FEATURES + 1)),
        ("encode", (2, 4, FEATURES)),
        ("assign", (4, FEATURES - 1)),
        ("log_prob", (2,)),
        ("log_prob", (4, 3)),
        ("free_energy", (4, 1)),
    ],
)
@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_wrong_shapes_are_refused_with_both_shapes(method, shape, kind):
    with pytest.raises(DataError) as refused:
        getattr(make(), method)(kind(shape))
    assert str(tuple(shape)) in str(refused.value)
    assert f"(n, {FEATURES if method in ('encode', 'assign') else 2})" in str(refused.value)


@pytest.mark.parametrize("temperature", [0.0, -300.0, float("nan"), 1.0 * unit.nanometer, "300 nm"])
def test_impossible_temperatures_are_refused(temperature):
    for use in (lambda: make().sample(2, temperature), lambda: make().log_prob(np.zeros((1, 2)), temperature)):
        with pytest.raises(SettingsError, match="temperature"):
            use()


@pytest.mark.parametrize("temperature", [1e40, 1e-50, 1e9])
def test_a_temperature_from_another_unit_is_refused_and_no_endless_draw(temperature):
    for method in (make().populations, lambda value: make().sample(2, value)):
        with pytest.raises(SettingsError, match=r"within a factor of 1e\+06 of the reference temperature, 300 K"):
            method(temperature)


def test_unknown_and_doubled_settings_are_refused():
    with pytest.raises(SettingsError, match="latent_dims"):
        LaTF(latent_dims=2)
    with pytest.raises(SettingsError, match="not both"):
        LaTF(ModelSettings(), latent_dim=3)
    assert LaTF(ModelSettings(latent_dim=3)).latent_dim == 3


# ------------------------------------------------------------------------------------------- arrays in and out


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_shapes_and_kinds(dim):
    model, x = make(dim), np.random.default_rng(0).normal(size=(7, FEATURES))
    u = model.sample(7, 320.0, seed=0)
    assert (type(u), u.shape, u.dtype) == (np.ndarray, (7, dim), np.float32)
    for values, shape in [
        (model.encode(x), (7, dim)),
        (model.assign(x), (7,)),
        (model.log_prob(u), (7,)),
        (model.free_energy(u, 320.0), (7,)),
    ]:
        assert isinstance(values, np.ndarray)
        assert values.shape == shape
    for function, argument in [(model.encode, x), (model.assign, x), (model.log_prob, u), (model.free_energy, u)]:
        tensor = function(torch.from_numpy(argument))
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(tensor.detach(), function(argument), rtol=1e-6)
    assert model.assign(x).dtype == np.int64
    assert set(model.assign(x)) <= set(range(STATES))


def test_tensors_carry_gradients_to_the_descriptors():
    x = torch.randn(3, FEATURES, requires_grad=True)
    make().encode(x).sum().backward()
    assert x.grad.abs().min() > 0


def test_encode_is_the_scaled_encoder_and_frames_do_not_mix():
    model, x = make(), np.random.default_rng(0).normal(size=(6, FEATURES)).astype(np.float32)
    scaled = (x - model.networks.feature_mean.numpy()) * model.networks.feature_scale.numpy()
    first, last = model.networks.encoder[0], model.networks.encoder[2]
    w1, b1, w2, b2 = (p.detach().numpy() for p in (first.weight, first.bias, last.weight, last.bias))
    np.testing.assert_allclose(model.encode(x), np.tanh(scaled @ w1.T + b1) @ w2.T + b2, atol=1e-5)
    one_by_one = np.concatenate([model.encode(x[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(model.encode(x), one_by_one, atol=1e-6)


def test_free_energy_is_minus_kt_log_p():
    model, u = make(reference_temperature=310.0), make().sample(20, seed=3)
    assert np.array_equal(model.log_prob(u), model.log_prob(u, 310.0))
    assert not np.allclose(model.log_prob(u, 400.0), model.log_prob(u, 310.0))
    for temperature, kelvin in [(None, 310.0), (450.0, 450.0), (450.0 * unit.kelvin, 450.0)]:
        exact = -KB * kelvin * model.log_prob(u, temperature)
        np.testing.assert_allclose(model.free_energy(u, temperature), exact, rtol=1e-6)


def test_state_probabilities_are_those_that_states_are_assigned_by():
    model = make()
    x = batch(50)["x"].numpy()
    computed = model.state_probabilities(model.encode(x))
    assert computed.shape == (50, STATES) and (computed > 0).all()
    assert computed.sum(1) == pytest.approx(np.ones(50), abs=1e-6)
    assert np.array_equal(computed.argmax(1), model.assign(x))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_where_all_components_are_used_the_marginal_density_is_the_density(dim):
    model = make(dim)
    u = batch(20, dim=dim)["noise"].numpy()
    assert model.used_components == list(range(dim))
    assert np.array_equal(model.marginal_log_prob(u, 300.0), model.log_prob(u, 300.0))


def test_of_a_latent_line_the_component_along_it_is_used():
    model = make(2)
    along = torch.linspace(-1, 1, 200)[:, None]
    model.networks.flow.fit(torch.cat([along, 2 - along], 1), torch.ones(200), torch.zeros(()))
    assert model.used_components == [0]
    line = np.linspace(-8, 8, 1601, dtype=np.float32)[:, None]
    density = np.exp(model.marginal_log_prob(line, 300.0).astype(float))
    assert density.sum() * 0.01 == pytest.approx(1.0, abs=0.01)
    samples = model.sample(20_000, 300.0, seed=1)[:, 0]
    cumulative = np.cumsum(density) * 0.01
    # Kolmogorov-Smirnov: below 1.95 / sqrt(n) in 999 of 1,000 runs
    assert np.abs(np.searchsorted(np.sort(samples), line[:, 0] + 0.005) / 20_000 - cumulative).max() < 0.02
    with pytest.raises(DataError, match=r"an array \(n, 1\) of used latent dimensions; got \(5, 2\)"):
        model.marginal_log_prob(np.zeros((5, 2)), 300.0)


def test_seeded_samples_repeat_and_others_differ():
    model = make()
    assert np.array_equal(model.sample(10, 350.0, seed=4), model.sample(10, 350.0, seed=4))
    assert not np.array_equal(model.sample(10, 350.0, seed=4), model.sample(10, 350.0, seed=5))
    assert not np.array_equal(model.sample(10, 350.0), model.sample(10, 350.0))
    state = torch.random.get_rng_state()
    model.sample(10, seed=4)
    model.sample(10)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone


def test_train_and_eval_compute_the_same():
    model, x, data = make(), np.random.default_rng(0).normal(size=(9, FEATURES)), batch()
    results = []
    for mode in (True, False):
        model.networks.train(mode)
        loss = sum(terms(model.networks, data, "flow")).item()
        results.append((model.encode(x), model.assign(x), model.log_prob(model.sample(9, seed=1)), loss))
    for a, b in zip(*results):
        assert np.array_equal(a, b)


def test_help_shows_what_a_model_answers_and_nothing_of_torch_s_modules():
    text = pydoc.plain(pydoc.render_doc(LaTF))
    assert len(text.splitlines()) < 350
    assert {
        name for name in ("encode", "sample", "free_energy", "populations", "load") if f" {name}(" not in text
    } == set()
    inherited = (
        set(dir(torch.nn.Module)) - set(dir(object)) - {"__dict__", "__weakref__", "__module__", "__annotations__"}
    )
    assert {name for name in inherited if re.search(rf"^ \|  {name}\b", text, re.MULTILINE)} == set()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_the_same_model_and_shares_nothing(copied):
    model, x = make(reweighted=True, members=2), np.random.default_rng(0).normal(size=(9, FEATURES))
    other = copied(model)
    assert other.fingerprint() == model.fingerprint()
    assert np.array_equal(other.encode(x), model.encode(x))
    with torch.no_grad():
        other.networks.log_variance.add_(1.0)
    assert other.fingerprint() != model.fingerprint()


# --------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("kind", [{}, {"reweighted": True}, {"reweighted": True, "members": 3}], ids=str)
@pytest.mark.parametrize("flow", ["spline", "realnvp"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_loaded_model_is_the_same_model(tmp_path, dim, flow, kind):
    model = make(dim, flow=flow, reference_temperature=290.0, **kind)
    x = np.random.default_rng(0).normal(size=(9, FEATURES))
    model.boltzmann, model.provenance = 1.0, {**model.provenance, "seed": 3}
    model.networks.flow.enclose(torch.tensor([[-0.5] * dim, [1.0] * dim]))
    model.save(tmp_path / "model.pt")
    state = torch.random.get_rng_state()
    loaded = LaTF.load(tmp_path / "model.pt")
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone
    u = model.sample(9, 330.0, seed=2)
    assert np.array_equal(loaded.sample(9, 330.0, seed=2), u)
    assert np.array_equal(loaded.encode(x), model.encode(x))
    assert np.array_equal(loaded.assign(x), model.assign(x))
    for temperature in (250.0, 290.0, 410.0):
        assert np.array_equal(loaded.log_prob(u, temperature), model.log_prob(u, temperature))
        assert np.array_equal(loaded.free_energy(u, temperature), model.free_energy(u, temperature))
        assert loaded.effective_sample_size(temperature) == model.effective_sample_size(temperature)
        if kind.get("members"):
            for a, b in zip(loaded.log_prob(u, temperature, True), model.log_prob(u, temperature, True)):
                assert np.array_equal(a, b)
    assert loaded.settings == model.settings
    assert loaded.provenance == model.provenance
    assert loaded.reweighted == model.reweighted
    assert loaded.n_states == STATES
    assert torch.equal(loaded.latent_bounds, model.latent_bounds)
    assert not any(p.requires_grad for p in loaded.networks.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_model_that_lost_states_is_saved_and_loaded(tmp_path):
    model, x = make(), torch.randn(40, FEATURES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.networks.decoder(model.networks.mean(x))
        log_weights = model.networks.mixture.logits.clone()
    model.networks.keep_states(torch.tensor([0, 2]))
    with torch.no_grad():
        assert torch.equal(model.networks.decoder(model.networks.mean(x)), before[:, [0, 2]])
    assert torch.equal(model.networks.mixture.logits, log_weights[[0, 2]])
    assert model.n_states == 2
    assert len(model.networks.representatives) == 2
    model.save(tmp_path / "model.pt")
    assert np.array_equal(LaTF.load(tmp_path / "model.pt").assign(x.numpy()), model.assign(x.numpy()))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def _without_key(key):
    def damage(path):
        content = torch.load(path, weights_only=True)
        del content[key]
        torch.save(content, path)

    return damage


def _wrong_size(path):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "n_features": FEATURES + 1}, path)


def _unknown_setting(path):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "settings": {**content["settings"], "color": "red"}}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a model"),
        lambda path: torch.save([1, 2, 3], path),
        lambda path: torch.save({"format": 99}, path),
        lambda path: torch.save({**torch.load(path, weights_only=True), "format": 1}, path),
        _truncate,
        _without_key("state"),
        _without_key("settings"),
        _wrong_size,
        _unknown_setting,
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "model.pt"
    make().save(path)
    damage(path)
    with pytest.raises(DataError) as refused:
        LaTF.load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 400


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    torch.save({"format": 2, "settings": Trap()}, tmp_path / "model.pt")
    with pytest.raises(DataError):
        LaTF.load(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


# --------------------------------------------------------------------------------------------------- temperature


@pytest.mark.parametrize(
    ("reweighted", "inside", "outside"),
    [(False, (250, 500.2), (240, 300, 510)), (True, (240, 300, 500), (205, 590, 1e4))],
)
def test_extrapolation_is_reported_and_warned_of(recwarn, reweighted, inside, outside):
    model, u = make(reweighted=reweighted), np.zeros((1, 2))
    for temperature in inside:
        assert not model.extrapolates(temperature)
        model.log_prob(u, temperature)
        model.sample(2, temperature)
    assert not recwarn.list
    for temperature in outside:
        assert model.extrapolates(temperature)
        for use in (
            lambda t: model.log_prob(u, t),
            lambda t: model.free_energy(u, t),
            lambda t: model.sample(2, t),
            lambda t: model.populations(t),
        ):
            with pytest.warns(
                ExtrapolationWarning, match=rf"{temperature:g} K is extrapolation .* at 250, 500 K"
            ) as caught:
                use(temperature)
            assert len(caught) == 1
    assert model.extrapolates() is model.extrapolates(300.0) is model.extrapolates(300 * unit.kelvin) is not reweighted


def test_effective_sample_size_is_read_off_in_inverse_temperature():
    model = make(reweighted=True)
    assert model.effective_sample_size(400.0) == pytest.approx(450)
    half = 2 / (1 / 400 + 1 / 600)
    assert model.effective_sample_size(half) == pytest.approx(250)
    assert model.effective_sample_size(half * unit.kelvin) == pytest.approx(250)
    assert model.effective_sample_size(700.0) == model.effective_sample_size(150.0) == 0
    assert model.effective_sample_size() == model.effective_sample_size(300.0)
    with pytest.raises(SettingsError, match="temperature"):
        model.effective_sample_size(0.0)


def test_a_model_without_density_has_states_and_nothing_else():
    model, x = make(), np.zeros((3, FEATURES))
    model.provenance["density"] = False
    assert model.encode(x).shape == (3, 2)
    assert model.assign(x).shape == (3,)
    for use in (lambda: model.sample(3), lambda: model.log_prob(np.zeros((1, 2))), model.populations):
        with pytest.raises(TrainingError, match="without a density"):
            use()


@pytest.mark.parametrize("temperature", [300.0, 450.0])
@pytest.mark.parametrize("reweighted", [False, True])
def test_populations_are_the_density_integrated_over_each_state(reweighted, temperature):
    model = make(dim=1, reweighted=reweighted, decoder_hidden=())
    low, high = np.quantile(model.sample(1000, seed=0), [0.2, 0.7])
    u = np.linspace(-60, 60, 40_001)[:, None]
    with torch.no_grad():  # left, between and right of two places
        model.networks.decoder[0].weight.copy_(torch.tensor([[-1.0], [0.0], [1.0]]))
        model.networks.decoder[0].bias.copy_(torch.tensor([low, 0.0, -high]))
        states = model.networks.decoder(torch.from_numpy(u).float()).argmax(-1).numpy()
    density = np.exp(model.log_prob(u, temperature).astype(float))
    exact = np.bincount(states, density, minlength=STATES) * (u[1, 0] - u[0, 0])
    assert exact.sum() == pytest.approx(1.0, abs=1e-3)
    assert exact.min() > 0.05
    computed = model.populations(temperature)
    assert computed.sum() == pytest.approx(1.0)
    assert (np.abs(computed - exact) < 4.5 * np.sqrt(exact * (1 - exact) / POPULATION_SAMPLES) + 1e-3).all()
    assert np.array_equal(model.populations(temperature), computed)
    assert not np.array_equal(model.populations(temperature, seed=1), computed)


def test_standard_errors_are_the_spread_of_the_ensemble():
    model = make(members=4, reweighted=True)
    u = model.sample(6, seed=0)
    value, error = model.log_prob(u, 320.0, return_std=True)
    with torch.no_grad():
        each = [flow.log_prob(torch.from_numpy(u), torch.tensor(320 / 300)).numpy() for flow in model.networks.ensemble]
    assert np.array_equal(value, model.log_prob(u, 320.0))
    wider = stdtrit(3, 0.975) / 1.959964  # 1.96 standard errors of four members are a 95 % interval
    np.testing.assert_allclose(error, wider * np.std(each, axis=0, ddof=1), rtol=1e-4)
    assert (error > 0).all()
    energy, energy_error = model.free_energy(u, 320.0, return_std=True)
    assert np.array_equal(energy, model.free_energy(u, 320.0))
    np.testing.assert_allclose(energy_error, KB * 320 * error, rtol=1e-5)
    tensor = model.free_energy(torch.from_numpy(u), 320.0, return_std=True)
    for a, b in zip(tensor, (energy, energy_error)):
        assert isinstance(a, torch.Tensor)
        np.testing.assert_allclose(a.detach(), b, rtol=1e-4)
    populations, spread = model.populations(320.0, return_std=True)
    assert np.array_equal(populations, model.populations(320.0))
    assert spread.shape == (STATES,)
    assert (spread > 0).any()


@pytest.mark.parametrize("members", [0, 1])
def test_without_an_ensemble_there_is_no_standard_error(members):
    model = make(members=members)
    for use in (model.log_prob, model.free_energy):
        with pytest.raises(TrainingError, match="ensemble"):
            use(np.zeros((1, 2)), 300.0, return_std=True)
    with pytest.raises(TrainingError, match="ensemble"):
        model.populations(return_std=True)


# --------------------------------------------------------------------------------------------------- the loss


def terms(networks, data, prior):
    """Prediction and regularization of a batch."""
    u = networks.noisy(networks.mean(data["x"]), data["noise"])
    prediction = networks.prediction(u, data["y"], torch.ones(len(u)))
    return prediction, networks.regularization(u, data["noise"], data["scale"], prior)


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("prior", ["mixture", "flow"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_loss_against_a_plain_sum_over_frames(dim, prior, reweighted):
    # Frame by frame: an (n,) times an (n, 1) array would give another number.
    networks, data = make(dim, reweighted=reweighted).networks.double(), batch(dim=dim)
    data = {name: values.double() if values.is_floating_point() else values for name, values in data.items()}
    deviation = math.exp(0.5 * networks.log_variance.item())
    prediction = regularization = 0.0
    with torch.no_grad():
        for i in range(16):
            mu = networks.encoder((data["x"][i] - networks.feature_mean) * networks.feature_scale)
            u = mu + deviation * data["noise"][i]
            log_q = torch.distributions.Normal(mu, deviation).log_prob(u).sum().item()
            if prior == "flow":
                log_p = networks.flow.log_prob(u[None], data["scale"][i]).item()
            else:
                weights = torch.softmax(networks.mixture.logits, 0)
                parts = [
                    weights[k]
                    * torch.distributions.Normal(networks.mean(networks.representatives)[k], deviation)
                    .log_prob(u)
                    .sum()
                    .exp()
                    for k in range(STATES)
                ]
                log_p = sum(parts).log().item()
            prediction -= torch.log_softmax(networks.decoder(u), -1)[data["y"][i]].item() / 16
            regularization += (log_q - log_p) / 16
    computed = terms(networks, data, prior)
    assert all(term.shape == () for term in computed)
    assert computed[0].item() == pytest.approx(prediction, rel=1e-6)
    assert computed[1].item() == pytest.approx(regularization, rel=1e-5)


def test_steered_temperature_enters_by_the_prior_s_scale_alone():
    model, data = make(), batch()
    hot = {**data, "scale": 2 * data["scale"]}
    for prior, same in (("mixture", True), ("flow", False)):
        a, b = (terms(model.networks, d, prior) for d in (data, hot))
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1]) == same
    # log p(u|T) - log p(u|T') is that of the priors, since the flow and its Jacobian do not depend on temperature.
    u = torch.from_numpy(model.sample(20, seed=0))
    with torch.no_grad():
        flow = model.networks.flow
        z = flow.layers()(flow.whiten(u))
        change = model.log_prob(u, 500.0) - model.log_prob(u, 250.0)
        hot, cold = (flow.prior.log_prob(z, torch.tensor(temperature / 300)) for temperature in (500, 250))
    torch.testing.assert_close(change, hot - cold, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("prior", ["mixture", "flow"])
def test_every_trained_parameter_gets_a_finite_gradient(prior, reweighted):
    networks = make(reweighted=reweighted).networks
    sum(terms(networks, batch(200), prior)).backward()
    gradients = {name: p.grad for name, p in networks.named_parameters() if p.grad is not None}
    unused = ("validation_flow.", "flow." if prior == "mixture" else "mixture.")
    assert set(gradients) == {name for name, _ in networks.named_parameters() if not name.startswith(unused)}
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


def test_thermodynamics_far_outside_the_simulated_temperatures_warn():
    model = make(dim=1)
    stored = {"parameters": np.ones((3, 3, STATES)).tolist(), "reach": [250.0, 550.0]}
    model.provenance |= {"temperatures": [300.0, 450.0], "thermodynamics": stored}
    with pytest.warns(
        ExtrapolationWarning, match="at 5000 K are extrapolation from simulations at 300, 450 K"
    ) as caught:
        model.thermodynamics(5000.0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.thermodynamics(500 * unit.kelvin).temperature == 500


@pytest.mark.parametrize(
    "change",
    [
        {"temperatures": []},
        {"temperatures": [0.0]},
        {"temperatures": "warm"},
        {"minimum_effective_size": None},
        {"minimum_effective_size": -1.0},
        {"density": "yes"},
        {"temperature_mode": "hot"},
        {"thermodynamics": {"parameters": [[0.0]], "reach": [1.0, 2.0]}},
        {"thermodynamics": {}},
    ],
    ids=str,
)
def test_what_a_file_states_about_its_training_has_to_be_possible(tmp_path, change):
    model = make()
    model.provenance = {**model.provenance, **change}
    model.save(tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"model.pt: is damaged as a LaTF model"):
        LaTF.load(tmp_path / "model.pt")
