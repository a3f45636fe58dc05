"""The model's promises: shapes, arrays in and arrays out, one file, and a loss that is what the formulas say."""

import copy
import math

import numpy as np
import pytest
import torch
from openmm import unit

from latf_sampling.errors import DataError, LatfError, SettingsError, TrainingError
from latf_sampling.model import LaTF
from latf_sampling.settings import ModelSettings
from latf_sampling.units import KB

FEATURES, STATES = 5, 3


def make(dim=2, seed=0, **settings) -> LaTF:
    """A model with random weights, as training would leave it."""
    options = {"encoder_hidden": (8,), "decoder_hidden": (8,), "flow_hidden": (16,), "flow_transforms": 2, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LaTF(latent_dim=dim, **options)
        model.build(FEATURES, STATES)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            model.feature_mean.normal_()
            model.feature_scale.uniform_(0.5, 2.0)
            model.representatives.normal_()
            model.latent_bounds.copy_(torch.tensor([[-1.0, 2.0]] * dim))
    return model


def batch(n=16, seed=1, dim=2):
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(n, FEATURES, generator=g),
        "y": torch.randint(STATES, (n,), generator=g),
        "weights": 0.1 + torch.rand(n, generator=g),
        "scale": torch.tensor([1.0, 1.5])[torch.randint(2, (n,), generator=g)],
        "noise": torch.randn(n, dim, generator=g),
    }


def rows(data, index):
    return {name: values[index] for name, values in data.items()}


# ------------------------------------------------------------------------------------------- untrained, wrong


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.encode(np.zeros((2, 3))),
        lambda m: m.assign(np.zeros((2, 3))),
        lambda m: m.log_prob(np.zeros((2, 2))),
        lambda m: m.free_energy(np.zeros((2, 2))),
        lambda m: m.sample(3),
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


@pytest.mark.parametrize("temperature", [0.0, -300.0, float("nan"), 1.0 * unit.nanometer, "300 K"])
def test_impossible_temperatures_are_refused(temperature):
    for use in (lambda: make().sample(2, temperature), lambda: make().log_prob(np.zeros((1, 2)), temperature)):
        with pytest.raises(LatfError, match="temperature"):
            use()


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
    scaled = (x - model.feature_mean.numpy()) * model.feature_scale.numpy()
    first, last = model.encoder[0], model.encoder[2]
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


def test_seeded_samples_repeat_and_others_differ():
    model = make()
    assert np.array_equal(model.sample(10, 350.0, seed=4), model.sample(10, 350.0, seed=4))
    assert not np.array_equal(model.sample(10, 350.0, seed=4), model.sample(10, 350.0, seed=5))
    assert not np.array_equal(model.sample(10, 350.0), model.sample(10, 350.0))
    state = torch.random.get_rng_state()
    model.sample(10, seed=4)
    model.sample(10)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are touched


def test_train_and_eval_compute_the_same():
    model, x, data = make(), np.random.default_rng(0).normal(size=(9, FEATURES)), batch()
    results = []
    for mode in (True, False):
        model.train(mode)
        loss = model.loss_terms(**data, prior="flow")["loss"].item()
        results.append((model.encode(x), model.assign(x), model.log_prob(model.sample(9, seed=1)), loss))
    for a, b in zip(*results):
        assert np.array_equal(a, b)


# --------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("flow", ["spline", "realnvp"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_loaded_model_is_the_same_model(tmp_path, dim, flow):
    model, x = make(dim, flow=flow, reference_temperature=290.0), np.random.default_rng(0).normal(size=(9, FEATURES))
    model.boltzmann, model.provenance = 1.0, {"seed": 3, "temperatures": [290.0]}
    model.save(tmp_path / "model.pt")
    loaded = LaTF.load(tmp_path / "model.pt")
    u = model.sample(9, 330.0, seed=2)
    assert np.array_equal(loaded.sample(9, 330.0, seed=2), u)
    assert np.array_equal(loaded.encode(x), model.encode(x))
    assert np.array_equal(loaded.assign(x), model.assign(x))
    assert np.array_equal(loaded.log_prob(u, 330.0), model.log_prob(u, 330.0))
    assert np.array_equal(loaded.free_energy(u, 330.0), model.free_energy(u, 330.0))
    assert loaded.settings == model.settings
    assert loaded.provenance == model.provenance
    assert loaded.n_states == STATES
    assert torch.equal(loaded.latent_bounds, model.latent_bounds)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_model_that_lost_states_is_saved_and_loaded(tmp_path):
    model, x = make(), torch.randn(40, FEATURES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.decoder(model.mean(x))
        log_weights = model.mixture.logits.clone()
    model.keep_states(torch.tensor([0, 2]))
    with torch.no_grad():
        assert torch.equal(model.decoder(model.mean(x)), before[:, [0, 2]])
    assert torch.equal(model.mixture.logits, log_weights[[0, 2]])
    assert model.n_states == 2
    assert len(model.representatives) == 2
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
    torch.save({**content, "settings": {**content["settings"], "colour": "red"}}, path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not a model"),
        lambda path: torch.save([1, 2, 3], path),
        lambda path: torch.save({"format": 99}, path),
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

    torch.save({"format": 1, "settings": Trap()}, tmp_path / "model.pt")
    with pytest.raises(DataError):
        LaTF.load(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


# --------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("prior", ["mixture", "flow"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_loss_against_a_plain_sum_over_frames(dim, prior):
    # With different weights in every frame, an (n,) times an (n, 1) array would give another number.
    model, data = make(dim, beta=0.3).double(), batch(dim=dim)
    data = {name: values.double() if values.is_floating_point() else values for name, values in data.items()}
    deviation = math.exp(0.5 * model.log_variance.item())
    prediction = regularisation = 0.0
    with torch.no_grad():
        for i in range(16):
            mu = model.encoder((data["x"][i] - model.feature_mean) * model.feature_scale)
            u = mu + deviation * data["noise"][i]
            log_q = torch.distributions.Normal(mu, deviation).log_prob(u).sum().item()
            if prior == "flow":
                log_p = model.flow.log_prob(u[None], data["scale"][i]).item()
            else:
                weights = torch.softmax(model.mixture.logits, 0)
                parts = [
                    weights[k]
                    * torch.distributions.Normal(model.mean(model.representatives)[k], deviation)
                    .log_prob(u)
                    .sum()
                    .exp()
                    for k in range(STATES)
                ]
                log_p = sum(parts).log().item()
            w = (data["weights"][i] / data["weights"].sum()).item()
            prediction -= w * torch.log_softmax(model.decoder(u), -1)[data["y"][i]].item()
            regularisation += w * (log_q - log_p)
    terms = model.loss_terms(**data, prior=prior)
    assert all(term.shape == () for term in terms.values())
    assert terms["prediction"].item() == pytest.approx(prediction, rel=1e-6)
    assert terms["regularisation"].item() == pytest.approx(regularisation, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(prediction + 0.3 * regularisation, rel=1e-5)


def _gradients(model, data, prior):
    model = copy.deepcopy(model)
    terms = model.loss_terms(**data, prior=prior)
    terms["loss"].backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: term.item() for name, term in terms.items()}, grads


@pytest.mark.parametrize("prior", ["mixture", "flow"])
def test_a_frame_twice_is_a_frame_of_twice_the_weight(prior):
    model, data = make(beta=0.3), batch()
    doubled = rows(data, torch.tensor([*range(16), 3, 3, 7]))
    heavier = {**data, "weights": data["weights"].clone()}
    heavier["weights"][3] *= 3
    heavier["weights"][7] *= 2
    (a, gradients_a), (b, gradients_b) = _gradients(model, doubled, prior), _gradients(model, heavier, prior)
    assert a == pytest.approx(b, rel=1e-5)
    for name, gradient in gradients_a.items():
        torch.testing.assert_close(gradient, gradients_b[name], atol=1e-6, rtol=1e-3)
    plain, _ = _gradients(model, data, prior)
    assert abs(plain["loss"] - a["loss"]) > 1e-4  # otherwise the weights would not matter at all


def test_weights_count_by_their_ratios_only():
    model, data = make(), batch()
    scaled = {**data, "weights": 1000 * data["weights"]}
    assert _gradients(model, scaled, "flow")[0] == pytest.approx(_gradients(model, data, "flow")[0], rel=1e-5)


def test_a_frame_without_weight_does_not_count():
    model, data = make(), batch()
    muted = {**data, "weights": data["weights"].clone()}
    muted["weights"][5] = 0
    other = {**muted, "x": muted["x"].clone()}
    other["x"][5] = 4.0
    assert _gradients(model, muted, "flow")[0] == pytest.approx(_gradients(model, other, "flow")[0], rel=1e-6)


def test_temperature_enters_by_the_prior_s_scale_alone():
    model, data = make(), batch()
    hot = {**data, "scale": 2 * data["scale"]}
    for prior, same in (("mixture", True), ("flow", False)):
        a, b = (model.loss_terms(**d, prior=prior) for d in (data, hot))
        assert torch.equal(a["prediction"], b["prediction"])
        assert torch.equal(a["regularisation"], b["regularisation"]) == same
    # log p(u|T) - log p(u|T') is that of the priors, since the flow and its Jacobian know no temperature.
    u = torch.from_numpy(model.sample(20, seed=0))
    with torch.no_grad():
        z = model.flow.layers()((u - model.flow.shift) * model.flow.scale)
        change = model.log_prob(u, 600.0) - model.log_prob(u, 300.0)
        exact = model.flow.prior.log_prob(z, torch.tensor(2.0)) - model.flow.prior.log_prob(z, torch.tensor(1.0))
    torch.testing.assert_close(change, exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prior", ["mixture", "flow"])
def test_every_trained_parameter_gets_a_finite_gradient(prior):
    model, data = make(), batch(200)
    _, gradients = _gradients(model, data, prior)
    unused = "flow." if prior == "mixture" else "mixture."
    wanted = {name for name, _ in model.named_parameters() if not name.startswith(unused)}
    assert set(gradients) == wanted
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name
