"""Densities against quadrature, closed forms, torch's own and autograd; samples against exact distributions."""

import math

import numpy as np
import pytest
import torch
from helpers.molecules import fit_flow
from scipy import integrate, special, stats

from latf_sampling.learning.flow import LatentFlow, MixturePrior, TiltedGaussian

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
    computed = TiltedGaussian(dim, tau).log_normalizer(torch.tensor([scale], dtype=torch.float64))
    assert computed.item() == pytest.approx(math.log(total * peak * sphere), abs=1e-8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tau", [0.0, 2.0])
def test_normalizer_in_one_dimension_in_closed_form(tau, scale):
    # 2 int_0^inf exp(tau r - r^2 / 2s) dr = sqrt(2 pi s) exp(tau^2 s / 2) erfc(-tau sqrt(s / 2))
    exact = (
        0.5 * math.log(2 * math.pi * scale) + tau**2 * scale / 2 + math.log(special.erfc(-tau * math.sqrt(scale / 2)))
    )
    computed = TiltedGaussian(1, tau).log_normalizer(torch.tensor(scale, dtype=torch.float64))
    assert computed.item() == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("dim", DIMS)
def test_without_tilt_it_is_a_gaussian(dim):
    z = 3 * torch.randn(200, dim, generator=generator(0), dtype=torch.float64)
    for scale in SCALES:
        exact = stats.multivariate_normal(np.zeros(dim), scale * np.eye(dim)).logpdf(z.numpy())
        computed = TiltedGaussian(dim, 0.0).log_prob(z, torch.tensor(scale, dtype=torch.float64))
        np.testing.assert_allclose(computed, exact, atol=1e-9)


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


RANGE = (0.5, 2.0)
"""Temperatures that a conditional flow is conditional in; it is tried inside, at the edges and outside."""
TEMPERATURES = {False: [0.5, 1.0, 2.0], True: [0.2, 0.5, 1.3, 5.0]}


def flow_of(kind, dim, conditional=False, perturbation=0.3, seed=0):
    """A flow far from the identity, standardized to data far from the origin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = LatentFlow(dim, 2.0, kind, transforms=3, hidden=(16, 16), bins=8, conditional=conditional)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(perturbation * torch.randn_like(parameter))
        flow.fit(1.0 + torch.randn(500, dim) * torch.linspace(0.5, 2.0, dim), torch.ones(500), torch.tensor(0.1))
    if conditional:
        flow.range.copy_(torch.tensor(RANGE))
    return flow


def enclosed(flow, share=0.1):
    """The same flow with so narrow a range that this share of its samples at s = 1 is beyond either edge."""
    with torch.no_grad():
        u = flow.sample(2000, 1.0, generator(12)).to(flow.shift)
    x = flow.whiten(u)
    nearest = x.norm(dim=1).argsort()[: int(len(x) * (1 - 2 * share))]
    flow.enclose(u[nearest])
    return flow


every_flow = pytest.mark.parametrize(
    ("kind", "dim", "conditional"),
    [(kind, dim, False) for kind in ("spline", "realnvp") for dim in DIMS]
    + [(kind, dim, True) for kind in ("spline", "realnvp") for dim in (1, 2, 3)]
    + [("spline", 5, True)],
    ids=str,
)


def to_z(flow, u, s):
    """The flow from u (n, d) to z at s, written out."""
    inside = flow.whiten(u)
    gauge = (inside @ flow.directions.T / flow.support).amax(1, keepdim=True)
    e = torch.relu(gauge - 1)
    stretched = inside * (1 + e + flow.STRETCH * e * e) / (1 + e)
    context, _ = flow._temperature(torch.as_tensor(s, dtype=u.dtype), len(u))
    return flow.layers(context)(flow.marginals(stretched)[0])


def prior_scale(s, conditional):
    """Where the flow follows temperature the prior does not, and the other way round."""
    return s / min(max(s, RANGE[0]), RANGE[1]) if conditional else s


@every_flow
def test_samples_map_back_to_the_prior_s_samples(kind, dim, conditional):
    for flow in (flow_of(kind, dim, conditional).double(), enclosed(flow_of(kind, dim, conditional).double())):
        for s in TEMPERATURES[conditional]:
            with torch.no_grad():
                u = flow.sample(500, s, generator(5)).double()
                z = flow.prior.sample(500, prior_scale(s, conditional), generator(5)).double()
                assert u.shape == (500, dim)
                torch.testing.assert_close(to_z(flow, u, s), z, atol=1e-5, rtol=1e-5)
                assert float((u - z).abs().max()) > 0.1  # not the identity, for which the round trip would be trivial


@every_flow
def test_log_prob_has_the_jacobian_of_autograd(kind, dim, conditional):
    for flow in (flow_of(kind, dim, conditional).double(), enclosed(flow_of(kind, dim, conditional).double(), 0.3)):
        for s in TEMPERATURES[conditional]:
            u = flow.sample(12, s, generator(6)).double()

            def one(v, flow=flow, s=s):
                return to_z(flow, v.unsqueeze(0), s)[0]

            jacobian = torch.stack([torch.func.jacrev(one)(point) for point in u])
            prior = flow.prior.log_prob(to_z(flow, u, s), torch.tensor(prior_scale(s, conditional), dtype=u.dtype))
            exact = prior + torch.linalg.slogdet(jacobian).logabsdet
            computed = flow.log_prob(u, torch.tensor(s, dtype=u.dtype))
            torch.testing.assert_close(computed, exact, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("kind", ["spline", "realnvp"])
def test_flow_density_integrates_to_one(kind, dim, conditional):
    flow = flow_of(kind, dim, conditional, perturbation=0.1).double()
    for s in TEMPERATURES[conditional]:
        with torch.no_grad():
            far = flow.sample(2000, s, generator(7)).abs().max().item() * 1.5
            u, cell = grid(dim, -far, far, 40_000 if dim == 1 else 500)
            total = flow.log_prob(u, torch.tensor(s, dtype=torch.float64)).exp().sum() * cell
        assert float(total) == pytest.approx(1.0, abs=0.02)  # cells are as wide as some steps of the density


def gauge(flow, u):
    """By which factor the hull has to grow to hold each point of u (n, d); (n,)."""
    return (flow.whiten(u) @ flow.directions.T / flow.support).amax(1)


@pytest.mark.parametrize("dim", [1, 2])
def test_density_around_a_narrow_hull_integrates_to_one(dim):
    flow = enclosed(flow_of("spline", dim, True, perturbation=0.05).double())
    far = 1.3 * float(flow.support.max())
    whitened, cell = grid(dim, -far, far, 20_000 if dim == 1 else 400)
    for s in (0.2, 1.3):
        with torch.no_grad():
            parts = [flow.log_prob(flow.restore(part), torch.tensor(s).double()) for part in whitened.split(100_000)]
        total = torch.cat(parts).exp().sum() * cell / torch.linalg.det(flow.whitening)
        assert float(total) == pytest.approx(1.0, abs=0.01)
    outside = gauge(flow, flow.sample(5000, 1.3, generator(7))) > 1
    assert 0.1 < outside.double().mean() < 0.9  # the hull is narrow enough to matter


@every_flow
def test_nothing_changes_inside_the_hull(kind, dim, conditional):
    flow, narrow = flow_of(kind, dim, conditional), enclosed(flow_of(kind, dim, conditional), 0.01)
    s = torch.tensor(1.3)
    u = flow.sample(500, 1.3, generator(13))
    inside = gauge(narrow, u) < 1
    assert inside.sum() > 300
    assert torch.equal(narrow.log_prob(u, s)[inside], flow.log_prob(u, s)[inside])
    torch.testing.assert_close(narrow.sample(500, 1.3, generator(13))[inside], u[inside])


@every_flow
def test_no_sample_falls_far_outside(kind, dim, conditional):
    flow = enclosed(flow_of(kind, dim, conditional))
    for s in (1.0, 50.0):
        with torch.no_grad():
            z = flow.prior.sample(5000, prior_scale(s, conditional), generator(14))
            excess = gauge(flow, flow.sample(5000, s, generator(14))) - 1
            raw = flow.marginals.inverse(flow.layers(flow._temperature(torch.tensor(s), len(z))[0]).inv(z))
            farthest = (raw @ flow.directions.T / flow.support).max() - 1
        assert 0 < excess.max() < math.sqrt(farthest / flow.STRETCH) + 1e-3


@every_flow
def test_density_is_finite_far_outside(kind, dim, conditional):
    direction = torch.nn.functional.normalize(torch.randn(100, dim, generator=generator(8)), dim=-1)
    for flow in (flow_of(kind, dim, conditional), enclosed(flow_of(kind, dim, conditional))):
        for distance in (0.0, 1.0, 30.0, 1e3):
            for s in TEMPERATURES[conditional]:
                u = (distance * direction).requires_grad_(True)
                log_prob = flow.log_prob(u, torch.tensor(s))
                log_prob.sum().backward()
                assert torch.isfinite(log_prob).all()
                assert torch.isfinite(u.grad).all()


@every_flow
def test_train_equals_eval(kind, dim, conditional):
    flow = enclosed(flow_of(kind, dim, conditional))
    u = torch.randn(20, dim, generator=generator(9))
    results = []
    for mode in (True, False):
        flow.train(mode)
        with torch.no_grad():
            results.append((flow.log_prob(u, torch.tensor(1.0)), flow.sample(20, 1.0, generator(9))))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@every_flow
def test_every_parameter_gets_a_gradient(kind, dim, conditional):
    flow = flow_of(kind, dim, conditional)
    s = torch.linspace(0.4, 2.2, 200)
    flow.log_prob(flow.sample(200, 1.0, generator(4)).detach(), s).sum().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("conditional", [False, True])
def test_one_temperature_for_all_and_one_for_each(conditional):
    flow = enclosed(flow_of("spline", 2, conditional)).double()
    u = flow.sample(6, 1.0, generator(15)).double()
    s = torch.tensor([0.3, 0.5, 1.0, 1.7, 2.0, 4.0], dtype=torch.float64)
    each = torch.stack([flow.log_prob(u[i : i + 1], s[i])[0] for i in range(6)])
    torch.testing.assert_close(flow.log_prob(u, s), each)
    assert flow.log_prob(u, s).shape == (6,)
    torch.testing.assert_close(flow.log_prob(u, s[3]), flow.log_prob(u, s[3].expand(6)))


def test_where_temperature_enters():
    u = torch.randn(50, 2, generator=generator(16), dtype=torch.float64)
    steered, conditional = flow_of("spline", 2).double(), flow_of("spline", 2, True).double()
    with torch.no_grad():
        # Steered: the map is the same at all temperatures. Conditional: it changes within the range and not outside.
        assert torch.equal(to_z(steered, u, 0.6), to_z(steered, u, 1.6))
        assert (to_z(conditional, u, 0.6) - to_z(conditional, u, 1.6)).abs().max() > 0.1
        assert torch.equal(to_z(conditional, u, 0.5), to_z(conditional, u, 0.1))
        assert torch.equal(to_z(conditional, u, 2.0), to_z(conditional, u, 9.0))
        # From there on the prior widens; the density is continuous at the edge.
        for edge in RANGE:
            near = [conditional.log_prob(u, torch.tensor(edge * (1 + h), dtype=u.dtype)) for h in (-1e-6, 1e-6)]
            torch.testing.assert_close(*near, atol=1e-3, rtol=1e-4)


def test_a_range_of_one_temperature_is_no_division_by_zero():
    flow = flow_of("spline", 2, True)
    flow.range.copy_(torch.tensor([1.2, 1.2]))
    u = torch.randn(50, 2, generator=generator(17)).requires_grad_(True)
    for s in (0.6, 1.2, 2.4):
        log_prob = flow.log_prob(u, torch.tensor(s))
        assert torch.isfinite(log_prob).all()


@pytest.mark.parametrize("dim", DIMS)
def test_standardization_is_weighted(dim):
    rng = generator(11)
    mu = torch.randn(4000, dim, generator=rng) * 2.0 + 5.0
    weights = torch.cat([torch.ones(2000), torch.zeros(2000)])
    mu[2000:] += 100.0  # without weight
    flow = flow_of("spline", dim)
    flow.fit(mu, weights, torch.tensor(0.25))
    inside = mu[:2000].double()
    np.testing.assert_allclose(flow.shift, inside.mean(0), rtol=1e-4)
    # All axes of the whitened latent space have one spread, and together the radius of the prior.
    radius = max(1.0, float(flow.prior.mode(torch.tensor(1.0))))
    covariance = inside.T.cov(correction=0).reshape(dim, dim) + 0.25 * torch.eye(dim)
    whitened = flow.whitening.double().T @ covariance @ flow.whitening.double()
    np.testing.assert_allclose(whitened, radius**2 / dim * np.eye(dim), atol=1e-3)
    torch.testing.assert_close(flow.restore(flow.whiten(mu)), mu)


# ----------------------------------------------------------------------- components that are functions of others

LAYOUTS = {
    "plane": (torch.eye(2), [0, 1]),
    "correlated": (torch.tensor([[1.0, 0.9], [0.0, 0.2]]), [0, 1]),
    "line": (torch.tensor([[1.0, -1.1], [0.0, 0.0]]), [0]),
    "uneven line": (torch.tensor([[1.0, 0.1], [0.0, 0.0]]), [0]),
    "first one constant": (torch.tensor([[0.0, 1.0], [0.0, 0.0]]), [1]),
    "plane in space": (torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), [0, 1]),
    "second like the first": (torch.tensor([[1.0, 2.0, 0.3], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), [0, 2]),
    "line in space": (torch.tensor([[1.0, 2.0, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), [0]),
}
"""Mixing of independent components, and which of the results are used."""


def flow_on(layout, enclose=True):
    """A flow that is whitened for data of a layout, and the data."""
    mixing, _ = LAYOUTS[layout]
    dim = len(mixing)
    u = 0.3 + torch.randn(5000, dim, generator=generator(20)) @ mixing
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow = LatentFlow(dim, 2.0, "spline", transforms=3, hidden=(16, 16), bins=8)
    flow.fit(u, torch.ones(len(u)), torch.zeros(()))
    if enclose:
        flow.enclose(u)
    return flow, u


@pytest.mark.parametrize("layout", LAYOUTS)
def test_used_components(layout):
    assert flow_on(layout)[0].used == LAYOUTS[layout][1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blurred_data_stay_inside_the_hull(layout):
    """Where data are on a line, a sample beside it would be brought back along a ray, far from where it was."""
    flow, u = flow_on(layout)
    blurred = flow.blurred(u, torch.randn(u.shape, generator=generator(21)))
    outside = gauge(flow, blurred) - 1
    assert (outside > 0.1).double().mean() < 5e-3
    assert (outside > 0).double().mean() < 0.02  # those at the edge


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_precision_is_enough_for_the_density(layout):
    flow, u = flow_on(layout)
    flow.requires_grad_(False)
    blurred = flow.blurred(u, torch.randn(u.shape, generator=generator(22)))
    single = flow.log_prob(blurred, torch.tensor(1.0)).double()
    double = flow.double().log_prob(blurred.double(), torch.tensor(1.0).double())
    assert float((single - double).abs().quantile(0.99)) < 0.05


@pytest.mark.parametrize("layout", [name for name, (mixing, used) in LAYOUTS.items() if len(used) < len(mixing)])
def test_marginal_density_by_brute_force(layout):
    """Sums over a fine mesh in the latent space itself, of all components but the used ones."""
    flow, u = flow_on(layout, enclose=False)
    flow.requires_grad_(False)
    used, s = flow.used, torch.tensor(0.8, dtype=torch.float64)
    rest = [k for k in range(u.shape[1]) if k not in used]
    computed = flow.marginal_log_prob(u[:3, used], s.float())
    flow = flow.double()
    count = 6001 if len(rest) == 1 else 241
    for point, value in zip(u[:3].double(), computed):
        # Where the density is: 8 whitened units to either side, which a component is moved by for itself and for those
        # before it.
        axes, cell = [], 1.0
        for k in rest:
            width = 8 / float(flow.whitening[k, k])
            axes.append(point[k] + torch.linspace(-width, width, count, dtype=torch.float64))
            cell *= 2 * width / (count - 1)
        mesh = point.repeat(count ** len(rest), 1)
        mesh[:, rest] = torch.cartesian_prod(*axes).reshape(-1, len(rest))
        if len(rest) == 2:  # along the line, the second follows the first
            mesh[:, rest[1]] -= (mesh[:, rest[0]] - point[rest[0]]) * float(
                flow.whitening[rest[0], rest[1]] / flow.whitening[rest[1], rest[1]]
            )
        exact = float(flow.log_prob(mesh, s).exp().sum()) * cell
        assert math.exp(value) == pytest.approx(exact, rel=2e-3 if len(rest) == 1 else 2e-2)


def test_marginal_density_of_a_plane_is_its_density():
    flow, u = flow_on("correlated")
    s = torch.tensor(1.2)
    assert torch.equal(flow.marginal_log_prob(u[:50], s), flow.log_prob(u[:50], s))


def test_a_trained_flow_has_the_density_along_a_line():
    """Two Gaussians, twice as many data in one as in the other."""
    drawn = generator(23)
    x = torch.randn(30_000, 1, generator=drawn) * 0.3 + torch.where(torch.arange(30_000) % 3 > 0, 1.0, -1.0)[:, None]
    u = torch.cat([x, 0.1 - 1.1 * x], 1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow = LatentFlow(2, 2.0, "spline", transforms=3, hidden=(16, 16), bins=8)
    fit_flow(flow, u, steps=300, batch=2048)
    one = torch.ones(())
    line = torch.linspace(-4, 4, 801)[:, None]
    density, samples = flow.marginal_log_prob(line, one).exp(), flow.sample(20_000, 1.0, drawn)
    assert float(density.sum()) * 0.01 == pytest.approx(1.0, abs=0.02)
    assert float(density[:400].sum()) * 0.01 == pytest.approx(1 / 3, abs=0.05)
    # Samples follow the density, also along the line.
    counts = torch.histc(samples[:, 0], 40, -4, 4) / len(samples)
    expected = density[:800].reshape(40, 20).sum(1) * 0.01
    assert float((counts - expected).abs().sum()) < 0.05
