"""Densities against quadrature, closed forms, torch's own and autograd; samples against exact distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from latf_sampling.flow import LatentFlow, MixturePrior, TiltedGaussian

DIMS = [1, 2, 3, 5]
SCALES = [0.25, 0.5, 1.0, 2.0, 5.0]


def radial(r, dim, tau, scale):
    return r ** (dim - 1) * np.exp(tau * r - r**2 / (2 * scale))


def generator(seed):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------ the tilted Gaussian


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("dim", DIMS)
def test_normalizer_by_adaptive_quadrature(dim, tau, scale):
    # The peak is put at 1 first: exp(tau^2 s / 2) would overflow the tolerances.
    mode = 0.5 * scale * (tau + math.sqrt(tau**2 + 4 * (dim - 1) / scale))
    peak = radial(mode, dim, tau, scale)
    far = mode + 15 * math.sqrt(scale)
    total, _ = integrate.quad(lambda r: radial(r, dim, tau, scale) / peak, 0, far, points=[mode], epsabs=1e-12)
    sphere = 2 * math.pi ** (dim / 2) / special.gamma(dim / 2)
    found = TiltedGaussian(dim, tau).log_normalizer(torch.tensor([scale], dtype=torch.float64))
    assert found.item() == pytest.approx(math.log(total * peak * sphere), abs=1e-8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_normalizer_in_one_dimension_in_closed_form(tau, scale):
    # 2 int_0^inf exp(tau r - r^2 / 2s) dr = sqrt(2 pi s) exp(tau^2 s / 2) erfc(-tau sqrt(s / 2))
    exact = (
        0.5 * math.log(2 * math.pi * scale) + tau**2 * scale / 2 + math.log(special.erfc(-tau * math.sqrt(scale / 2)))
    )
    found = TiltedGaussian(1, tau).log_normalizer(torch.tensor(scale, dtype=torch.float64))
    assert found.item() == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("dim", DIMS)
def test_without_tilt_it_is_a_gaussian(dim):
    z = 3 * torch.randn(200, dim, generator=generator(0), dtype=torch.float64)
    for scale in SCALES:
        exact = stats.multivariate_normal(np.zeros(dim), scale * np.eye(dim)).logpdf(z.numpy())
        found = TiltedGaussian(dim, 0.0).log_prob(z, torch.tensor(scale, dtype=torch.float64))
        np.testing.assert_allclose(found, exact, atol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tau", [0.0, 2.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_density_integrates_to_one(dim, tau, scale):
    z, cell = grid(dim, -16, 16, 1001)
    density = TiltedGaussian(dim, tau).log_prob(z, torch.tensor(scale, dtype=torch.float64)).exp()
    # The cusp at the origin costs the sum a little in two dimensions.
    assert float(density.sum() * cell) == pytest.approx(1.0, abs=1e-4)


def test_one_scale_for_all_and_one_for_each():
    prior, z = TiltedGaussian(3, 2.0), torch.randn(6, 3, generator=generator(1))
    scales = torch.tensor([0.5, 1.0, 2.0, 1.0, 0.5, 0.5])
    each = torch.stack([prior.log_prob(z[i : i + 1], scales[i])[0] for i in range(6)])
    assert prior.log_prob(z, scales).shape == (6,)
    torch.testing.assert_close(prior.log_prob(z, scales), each)
    torch.testing.assert_close(prior.log_prob(z, torch.tensor(2.0)), prior.log_prob(z, torch.full((6,), 2.0)))


@pytest.mark.parametrize("dim", DIMS)
def test_gradient_at_the_origin_is_finite(dim):
    z = torch.zeros(4, dim, requires_grad=True)
    TiltedGaussian(dim, 2.0).log_prob(z, torch.tensor(1.0)).sum().backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tau", [0.0, 2.0])
@pytest.mark.parametrize("dim", DIMS)
def test_radius_of_samples_has_the_exact_distribution(dim, tau, scale):
    z = TiltedGaussian(dim, tau).sample(20_000, scale, generator(10 * dim + int(tau))).double()
    assert z.shape == (20_000, dim)
    r = np.linspace(0, 40, 40_001)
    cdf = integrate.cumulative_simpson(radial(r, dim, tau, scale), x=r, initial=0)
    result = stats.kstest(z.norm(dim=-1).numpy(), lambda q: np.interp(q, r, cdf / cdf[-1]))
    assert result.pvalue > 1e-4


@pytest.mark.parametrize("dim", DIMS)
def test_directions_of_samples_are_uniform_and_independent_of_the_radius(dim):
    n = 20_000
    z = TiltedGaussian(dim, 2.0).sample(n, 1.0, generator(dim)).double()
    radius = z.norm(dim=-1)
    unit = (z / radius[:, None]).numpy()
    # Moments of the uniform distribution on the sphere: 0, 1/d, and 0 off the diagonal; five standard errors.
    assert np.abs(unit.mean(0)).max() < 5 / math.sqrt(dim * n)
    assert np.abs(unit.T @ unit / n - np.eye(dim) / dim).max() < 5 / math.sqrt(n)
    assert np.abs([np.corrcoef(radius, unit[:, k])[0, 1] for k in range(dim)]).max() < 5 / math.sqrt(n)
    if dim == 2:
        angle = np.arctan2(unit[:, 1], unit[:, 0])
        assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4
    if dim == 3:  # Archimedes: each coordinate is uniform on (-1, 1)
        assert stats.kstest(unit[:, 0], stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_samples_follow_the_generator():
    prior = TiltedGaussian(2, 2.0)
    assert torch.equal(prior.sample(50, 1.0, generator(3)), prior.sample(50, 1.0, generator(3)))
    assert not torch.equal(prior.sample(50, 1.0, generator(3)), prior.sample(50, 1.0, generator(4)))


# --------------------------------------------------------------------------------------- the mixture prior


@pytest.mark.parametrize("dim", DIMS)
def test_mixture_is_torch_s_mixture_of_normals(dim):
    prior = MixturePrior(4)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(4, generator=generator(1)))
    centers = torch.randn(4, dim, generator=generator(2))
    u = 2 * torch.randn(50, dim, generator=generator(3))
    log_variance = torch.tensor(-0.7)
    deviation = torch.exp(0.5 * log_variance).expand(4, dim)
    exact = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=prior.logits),
        torch.distributions.Independent(torch.distributions.Normal(centers, deviation), 1),
    ).log_prob(u)
    torch.testing.assert_close(prior.log_prob(u, centers, log_variance), exact, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------- the flow: one suite for every kind and dimension


def grid(dim, low, high, n):
    """Points (n^dim, dim) in the middle of cells, and the volume of a cell."""
    step = (high - low) / n
    axis = low + step * (torch.arange(n, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, dim), step**dim


def flow_of(kind, dim, perturbation=0.3, seed=0):
    """A flow far from the identity, standardised to data far from the origin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = LatentFlow(dim, 2.0, kind, transforms=3, hidden=(16, 16), bins=8)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(perturbation * torch.randn_like(parameter))
        flow.fit(1.0 + torch.randn(500, dim) * torch.linspace(0.5, 2.0, dim), torch.ones(500), torch.tensor(0.1))
    return flow


every_flow = pytest.mark.parametrize(
    ("kind", "dim"), [(kind, dim) for kind in ("spline", "realnvp") for dim in DIMS], ids=str
)


def to_z(flow, u):
    return flow.layers()((u - flow.shift) * flow.scale)


@every_flow
def test_samples_map_back_to_the_prior_s_samples(kind, dim):
    flow = flow_of(kind, dim).double()
    with torch.no_grad():
        u = flow.sample(500, 1.5, generator(5))
        z = flow.prior.sample(500, 1.5, generator(5))
        assert u.shape == (500, dim)
        torch.testing.assert_close(to_z(flow, u), z.double(), atol=1e-5, rtol=1e-5)
        assert float((u - z).abs().max()) > 0.1  # the flow is no identity, so the round trip says something


@every_flow
def test_log_prob_has_the_jacobian_of_autograd(kind, dim):
    flow = flow_of(kind, dim).double()
    u = flow.sample(12, 1.0, generator(6)).double()
    jacobian = torch.stack([torch.func.jacrev(lambda v: to_z(flow, v.unsqueeze(0))[0])(point) for point in u])
    scale = torch.tensor(1.3, dtype=torch.float64)
    exact = flow.prior.log_prob(to_z(flow, u), scale) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.log_prob(u, scale), exact, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("temperature_scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("kind", ["spline", "realnvp"])
def test_flow_density_integrates_to_one(kind, dim, temperature_scale):
    flow = flow_of(kind, dim, perturbation=0.1).double()
    with torch.no_grad():
        far = flow.sample(2000, temperature_scale, generator(7)).abs().max().item() * 1.5
        u, cell = grid(dim, -far, far, 4000 if dim == 1 else 300)
        total = flow.log_prob(u, torch.tensor(temperature_scale, dtype=torch.float64)).exp().sum() * cell
    assert float(total) == pytest.approx(1.0, abs=0.01)


@every_flow
def test_density_is_finite_far_outside(kind, dim):
    flow = flow_of(kind, dim)
    direction = torch.nn.functional.normalize(torch.randn(100, dim, generator=generator(8)), dim=-1)
    for distance in (0.0, 1.0, 30.0, 1e3):
        u = (distance * direction).requires_grad_(True)
        log_prob = flow.log_prob(u, torch.tensor(1.0))
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all()
        assert torch.isfinite(u.grad).all()


@every_flow
def test_train_equals_eval(kind, dim):
    flow = flow_of(kind, dim)
    u = torch.randn(20, dim, generator=generator(9))
    results = []
    for mode in (True, False):
        flow.train(mode)
        with torch.no_grad():
            results.append((flow.log_prob(u, torch.tensor(1.0)), flow.sample(20, 1.0, generator(9))))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@every_flow
def test_every_parameter_gets_a_gradient(kind, dim):
    flow = flow_of(kind, dim)
    flow.log_prob(flow.sample(200, 1.0, generator(4)).detach(), torch.tensor(1.0)).sum().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@every_flow
def test_standardisation_is_weighted(kind, dim):
    rng = generator(11)
    mu = torch.randn(4000, dim, generator=rng) * 2.0 + 5.0
    weights = torch.cat([torch.ones(2000), torch.zeros(2000)])
    mu[2000:] += 100.0  # without weight
    flow = flow_of(kind, dim)
    flow.fit(mu, weights, torch.tensor(0.25))
    inside = mu[:2000].double()
    np.testing.assert_allclose(flow.shift, inside.mean(0), rtol=1e-4)
    spread = torch.sqrt(inside.var(0, correction=0) + 0.25)
    # All axes of the standardised latent space have one spread, and together the radius of the prior.
    radius = max(1.0, float(flow.prior.mode(torch.tensor(1.0))))
    np.testing.assert_allclose(flow.scale * spread, np.full(dim, radius / math.sqrt(dim)), rtol=1e-4)
