"""Densities of the latent space.

- `TiltedGaussian`: the prior of the flow, whose width follows the temperature.
- `MixturePrior`: the prior of the first training stage, a mixture of Gaussians on representatives.
- `LatentFlow`: a normalizing flow (zuko) between the latent space and the tilted Gaussian.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache, partial

import numpy as np
import torch
import zuko
from torch import Tensor, nn

from latf_sampling.data.dataset import CHUNK
from latf_sampling.learning.marginals import MarginalMap

QUADRATURE = 512
"""Nodes that the unused components of a latent space are integrated on, all of them together."""


class TiltedGaussian:
    """The exponentially tilted Gaussian p(z) = exp(tau |z| - |z|^2 / 2s) / Z(tau, s, d).

    Only its radius is not Gaussian, so it is sampled exactly in any dimension: a uniform direction, and the radius
    from the log-concave density r^(d-1) exp(tau r - r^2 / 2s) by rejection from a Gaussian of variance s around its
    mode (the second derivative of its logarithm is nowhere above -1/s, hence the Gaussian is an envelope).
    Source: Qiu, John, Herron, Tiwary, arXiv:2507.03174 (2025).

    Parameters
    ----------
    dim
        Dimension d.
    tau
        Tilt; 0 is a Gaussian of variance s.

    Examples
    --------
    >>> prior = TiltedGaussian(2, tau=0.0)
    >>> float(prior.log_prob(torch.zeros(1, 2), torch.tensor(1.0)))  # -log(2 pi)
    -1.837...
    """

    def __init__(self, dim: int, tau: float) -> None:
        self.dim, self.tau = dim, tau

    def mode(self, scale: Tensor) -> Tensor:
        """Radius where r^(d-1) exp(tau r - r^2 / 2s) is largest; same shape as `scale`."""
        return 0.5 * scale * (self.tau + torch.sqrt(self.tau**2 + 4 * (self.dim - 1) / scale))

    def log_normalizer(self, scale: Tensor) -> Tensor:
        """log Z for each scale s, by quadrature over the radius in double precision; same shape as `scale`."""
        s = scale.double().unsqueeze(-1)
        mode, width = self.mode(s), torch.sqrt(s)
        low = torch.clamp(mode - 12 * width, min=0.0)
        nodes, weights = (part.to(s.device) for part in _gauss_legendre(128))
        half = 0.5 * (mode + 12 * width - low)
        r = low + half * (nodes + 1)
        log_radial = (self.dim - 1) * torch.log(r) + self.tau * r - r**2 / (2 * s)
        log_sphere = math.log(2) + 0.5 * self.dim * math.log(math.pi) - math.lgamma(0.5 * self.dim)
        total = torch.logsumexp(log_radial + torch.log(weights * half), dim=-1) + log_sphere
        return total.to(scale.dtype)

    def log_prob(self, z: Tensor, scale: Tensor) -> Tensor:
        """Normalized log density of z (n, d) at scales s, a scalar or (n,); returns (n,)."""
        distinct, where = torch.unique(scale, return_inverse=True)
        square = z.square().sum(-1)
        return self.tau * torch.sqrt(square + 1e-12) - square / (2 * scale) - self.log_normalizer(distinct)[where]

    def sample(self, n: int, scale: float, generator: torch.Generator) -> Tensor:
        """Draw (n, d) exact samples at one scale s."""
        device = generator.device
        direction = torch.randn(n, self.dim, generator=generator, device=device)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        s = torch.tensor(scale, dtype=torch.float64, device=device)
        mode = self.mode(s)

        def log_density(r: Tensor) -> Tensor:
            return torch.xlogy(torch.tensor(float(self.dim - 1), device=device), r) + self.tau * r - r**2 / (2 * s)

        accepted: list[Tensor] = []
        missing = n
        while missing > 0:
            r = mode + torch.sqrt(s) * torch.randn(
                2 * missing + 16, generator=generator, device=device, dtype=torch.float64
            )
            log_accept = log_density(r.clamp(min=0)) - log_density(mode) + (r - mode) ** 2 / (2 * s)
            coin = torch.rand(r.shape, generator=generator, device=device, dtype=torch.float64)
            accepted.append(r[(r > 0) & (torch.log(coin) < log_accept)][:missing])
            missing -= len(accepted[-1])
        return (torch.cat(accepted).unsqueeze(-1) * direction).float()


@lru_cache(maxsize=1)
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


class MixturePrior(nn.Module):
    """p(u) = sum_k w_k N(u; c_k, variance), whose centers are the encoded representatives of the states, one each.

    Source: the prior of the state predictive information bottleneck, Wang and Tiwary, doi:10.1063/5.0038198.
    """

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_states))

    def log_prob(self, u: Tensor, centers: Tensor, log_variance: Tensor) -> Tensor:
        """Log density of u (n, d) given centers (K, d) and the encoder's log variance, a scalar; returns (n,)."""
        square = (u.unsqueeze(-2) - centers).square().sum(-1)
        log_gauss = -0.5 * (square * torch.exp(-log_variance) + u.shape[-1] * (log_variance + math.log(2 * math.pi)))
        return torch.logsumexp(log_gauss + torch.log_softmax(self.logits, 0), dim=-1)


class LatentFlow(nn.Module):
    """A normalizing flow u -> z with the tilted Gaussian as the density of z, at any temperature.

    Temperature is s = T / T0. Inside a range of s the flow itself depends on temperature (on ln s, as one more input of
    its networks) and the prior does not; outside, the flow is that of the nearest edge and the prior widens with
    s / edge. A range of [1, 1] with `conditional` false is the paper's steering by the prior alone.

    The latent space is whitened first (`fit`), so that the data fill the region where splines act, also where an
    encoder of few states maps them to a thin line. Each whitened coordinate is then widened where the data are many
    (`MarginalMap`), since states are narrow. Beyond the convex hull of the data (`enclose`) the latent space is
    stretched: every point has a finite density, and samples that are drawn far out in z lie only slightly outside.

    Parameters
    ----------
    dim, tau
        Dimension and tilt, as in `TiltedGaussian`.
    kind
        "spline" (neural spline couplings, Durkan et al., arXiv:1906.04032) or "realnvp" (Dinh et al.,
        arXiv:1605.08803).
    transforms, hidden, bins
        Number of couplings, widths of their networks, bins of each spline.
    conditional
        Whether the flow depends on temperature.
    """

    BOUND = 8.0
    """Half width of the interval on which splines act, in units of z; the prior at s = 1 lies well inside."""
    STRETCH = 1000.0
    """A point that the hull would have to grow by a factor of 1 + e to hold is moved to 1 + e + STRETCH e^2."""
    BLUR = 0.01
    """In its own stage the flow learns the density of the collective variable plus noise of this share of the data's
    spread, so that the density does not resolve single frames; where coordinates are widened, of a share that is
    smaller by as much, since states are narrow."""
    THINNEST = 1e-3
    """Data thinner than this share of their width are whitened as if they were that thick: single precision still
    resolves a thousandth of that."""
    CLEARANCE = 4.0
    """The hull is at least so many standard deviations of the blur thick on either side. A thinner one would displace
    samples along the data, because they are brought back inside along rays from the origin."""
    USED = 0.02
    """A component of which the components before it explain all but this share is a function of them."""

    shift: Tensor
    whitening: Tensor
    directions: Tensor
    support: Tensor
    range: Tensor

    def __init__(
        self,
        dim: int,
        tau: float,
        kind: str,
        transforms: int,
        hidden: tuple[int, ...],
        bins: int,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        self.prior = TiltedGaussian(dim, tau)
        self.conditional = conditional
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim))
        self.register_buffer("directions", _directions(dim))
        self.register_buffer("support", torch.full((len(self.directions),), torch.inf))
        self.register_buffer("range", torch.ones(2))
        self.marginals = MarginalMap(dim)
        if kind == "spline":
            univariate = partial(zuko.transforms.MonotonicRQSTransform, bound=self.BOUND)
            shapes = [(bins,), (bins,), (bins - 1,)]
        else:
            univariate, shapes = zuko.transforms.MonotonicAffineTransform, [(), ()]
        self.layers = zuko.flows.MAF(
            dim,
            int(conditional),
            transforms=transforms,
            passes=2,  # coupling
            univariate=univariate,
            shapes=shapes,
            hidden_features=hidden,
            activation=nn.SiLU,  # smooth, so that free energies are
        ).transform

    @property
    def spread(self) -> float:
        """Standard deviation of the data along each whitened coordinate; together they have the radius of the prior."""
        dim = len(self.shift)
        return max(1.0, float(self.prior.mode(torch.ones(())))) / math.sqrt(dim)

    @torch.no_grad()
    def fit(self, mu: Tensor, weights: Tensor, variance: Tensor) -> None:
        """Whiten: put the weighted mean of u = mu + noise at zero and its covariance at `spread` squared; then widen.

        mu is (n, d), weights (n,), variance that of the encoder's noise, a scalar.
        """
        share = (weights.double() / weights.double().sum()).unsqueeze(-1)
        mean = (share * mu).sum(0)
        centered = mu.double() - mean
        covariance = centered.T @ (share * centered)
        thinnest = variance.double() + self.THINNEST**2 * covariance.trace() + 1e-12
        covariance = covariance + thinnest * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        self.shift.copy_(mean)
        self.whitening.copy_(self.spread * torch.linalg.inv(torch.linalg.cholesky(covariance)).T)
        widths = torch.hypot(variance.sqrt() * self.whitening.norm(dim=0), torch.tensor(self.BLUR * self.spread))
        # What is a function of other components has no width that could be widened.
        self.marginals.fit(self.whiten(mu), weights, widths, self.used, self.spread)

    def whiten(self, u: Tensor) -> Tensor:
        """Whitened coordinates of latent points (n, d)."""
        return (u - self.shift) @ self.whitening

    def restore(self, whitened: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return torch.linalg.solve_triangular(self.whitening, whitened, upper=True, left=False) + self.shift

    def blurred(self, mu: Tensor, noise: Tensor) -> Tensor:
        """mu (n, d) plus a little of standard normal noise (n, d), in proportion to the spread of the data nearby."""
        whitened = self.whiten(mu)
        _, log_slopes = self.marginals(whitened)
        # Nowhere is it more than BLUR: on the slope of a barrier, noise would bring frames of the well to the pass.
        return self.restore(whitened + self.BLUR * self.spread * noise * torch.exp(-log_slopes.clamp(min=0)))

    @torch.no_grad()
    def enclose(self, u: Tensor) -> None:
        """Set the hull of the data u (n, d), which samples leave only slightly."""
        extent = torch.stack([(self.whiten(part) @ self.directions.T).amax(0) for part in u.split(CHUNK)]).amax(0)
        self.support.copy_(extent.clamp(min=self.CLEARANCE * self.BLUR * self.spread))

    @property
    def used(self) -> list[int]:
        """Components that are no linear function of those before them; of data on a line, only the first."""
        # Row k of the Cholesky factor: how component k depends on each one before it, and its remainder.
        factor = torch.linalg.inv(self.whitening.double() / self.spread).T
        size = factor.norm(dim=1)
        remainder = factor.diagonal() / torch.maximum(size, 0.1 * size.max())
        return torch.nonzero(remainder >= self.USED).flatten().tolist()

    def marginal_log_prob(self, u: Tensor, temperature_scale: Tensor) -> Tensor:
        """Normalized log density of the used components (n, k) at s, a scalar; the others are integrated out; (n,).

        The integral is taken in double precision by the trapezoidal rule over the whitened coordinates of the other
        components, in which their density is at least about as wide as the blur.
        """
        used, dim = self.used, len(self.shift)
        if len(used) == dim:
            return self.log_prob(u, temperature_scale)
        flow, rest = copy.deepcopy(self).double(), [k for k in range(dim) if k not in used]
        axes = []
        for k in rest:
            extents = [flow.support[(flow.directions[:, k] * side).argmax()] for side in (-1.0, 1.0)]
            low, high = (1.1 * min(float(extent), self.BOUND) for extent in extents)  # the density vanishes beyond
            count = math.ceil((low + high) / (0.5 * self.BLUR * self.spread)) + 1
            count = min(count, round(QUADRATURE ** (1 / len(rest))))
            axes.append(torch.linspace(-low, high, count, dtype=torch.float64))
        nodes = torch.cartesian_prod(*axes).reshape(-1, len(rest)).to(flow.shift)
        # Volume in the latent space of one cell of the grid in whitened coordinates, as a logarithm.
        volume = sum(math.log(float(axis[1] - axis[0]) / float(flow.whitening[k, k])) for k, axis in zip(rest, axes))
        log_densities = []
        for part in u.double().split(max(1, CHUNK // len(nodes))):
            points = part.new_empty(len(part), len(nodes), dim)
            for k in range(dim):
                if k in used:
                    points[..., k] = part[:, used.index(k), None]
                else:  # whitening is triangular: the components before this one are set already
                    before = (points[..., :k] - flow.shift[:k]) @ flow.whitening[:k, k]
                    points[..., k] = flow.shift[k] + (nodes[:, rest.index(k)] - before) / flow.whitening[k, k]
            log_p = flow.log_prob(points.reshape(-1, dim), temperature_scale.double()).reshape(len(part), -1)
            log_densities.append(torch.logsumexp(log_p, dim=1) + volume)
        return torch.cat(log_densities).to(u)

    def _excess(self, whitened: Tensor) -> Tensor:
        """Relative growth of the hull that would make it hold each point (n, 1); 0 inside."""
        gauge = (whitened @ self.directions.T / self.support).amax(-1, keepdim=True)
        return torch.relu(gauge - 1)

    def log_prob(self, u: Tensor, temperature_scale: Tensor) -> Tensor:
        """Normalized log density of u (n, d) at s = T / T0, a scalar or (n,); returns (n,)."""
        inside = self.whiten(u)
        e = self._excess(inside).clamp(max=1e5)  # farther out, squares would overflow
        factor = (1 + e + self.STRETCH * e.square()) / (1 + e)
        context, prior_scale = self._temperature(temperature_scale, len(u))
        widened, log_slopes = self.marginals(inside * factor)
        z, log_determinant = self.layers(context).call_and_ladj(widened)
        # The stretch along rays from the origin enters once along the ray and d - 1 times across it.
        stretched = torch.log1p(2 * self.STRETCH * e) + (u.shape[-1] - 1) * torch.log(factor)
        log_determinant = log_determinant + log_slopes.sum(-1) + stretched.squeeze(-1)
        log_determinant = log_determinant + torch.log(self.whitening.diagonal()).sum()
        return self.prior.log_prob(z, prior_scale) + log_determinant

    def sample(self, n: int, temperature_scale: float, generator: torch.Generator) -> Tensor:
        """Draw (n, d) latent samples at s = T / T0."""
        context, prior_scale = self._temperature(torch.tensor(temperature_scale, device=self.shift.device), n)
        z = self.prior.sample(n, float(prior_scale), generator).to(self.shift)
        stretched = self.marginals.inverse(self.layers(context).inv(z))
        moved = self._excess(stretched)
        e = (torch.sqrt(1 + 4 * self.STRETCH * moved) - 1) / (2 * self.STRETCH)
        return self.restore(stretched * (1 + e) / (1 + moved))

    def _temperature(self, s: Tensor, n: int) -> tuple[Tensor | None, Tensor]:
        """The input of the networks for s, (n, 1) or None, and the scale of the prior, of the shape of s."""
        low, high = self.range
        nearest = torch.minimum(torch.maximum(s, low), high)
        if not self.conditional:
            return None, s / nearest
        context = (torch.log(nearest / low) - torch.log(high / nearest)) / torch.log(high / low).clamp(min=1e-6)
        return context.expand(n).unsqueeze(-1), s / nearest


def _directions(dim: int) -> Tensor:
    """Unit vectors (k, d) that are spread over the sphere; always the same ones."""
    if dim == 1:
        return torch.tensor([[1.0], [-1.0]])
    if dim == 2:
        angles = torch.arange(64) * (math.pi / 32)
        return torch.stack([torch.cos(angles), torch.sin(angles)], 1)
    drawn = torch.randn(64 * dim, dim, generator=torch.Generator().manual_seed(0))
    return torch.cat([drawn / drawn.norm(dim=1, keepdim=True), torch.eye(dim), -torch.eye(dim)])
