"""Densities of the latent space: what has `log_prob` and draws samples.

- `TiltedGaussian`: the prior of the flow, whose width follows the temperature.
- `MixturePrior`: the prior of the first training stage, a mixture of Gaussians on representatives.
- `LatentFlow`: a normalizing flow (zuko) between the latent space and the tilted Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
import zuko
from torch import Tensor, nn


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
        """Normalised log density of z (n, d) at scales s, a scalar or (n,); returns (n,)."""
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

        kept: list[Tensor] = []
        missing = n
        while missing > 0:
            r = mode + torch.sqrt(s) * torch.randn(
                2 * missing + 16, generator=generator, device=device, dtype=torch.float64
            )
            log_accept = log_density(r.clamp(min=0)) - log_density(mode) + (r - mode) ** 2 / (2 * s)
            coin = torch.rand(r.shape, generator=generator, device=device, dtype=torch.float64)
            kept.append(r[(r > 0) & (torch.log(coin) < log_accept)][:missing])
            missing -= len(kept[-1])
        return (torch.cat(kept).unsqueeze(-1) * direction).float()


@lru_cache(maxsize=1)
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


class MixturePrior(nn.Module):
    """p(u) = sum_k w_k N(u; c_k, variance), with centres that the encoder gives for one representative per state.

    Source: the prior of the state predictive information bottleneck, Wang and Tiwary, doi:10.1063/5.0038198.
    """

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_states))

    def log_prob(self, u: Tensor, centers: Tensor, log_variance: Tensor) -> Tensor:
        """Log density of u (n, d) given centres (K, d) and the encoder's log variance, a scalar; returns (n,)."""
        square = (u.unsqueeze(-2) - centers).square().sum(-1)
        log_gauss = -0.5 * (square * torch.exp(-log_variance) + u.shape[-1] * (log_variance + math.log(2 * math.pi)))
        return torch.logsumexp(log_gauss + torch.log_softmax(self.logits, 0), dim=-1)


def _of_vectors(univariate: Callable[..., zuko.transforms.Transform], *parameters: Tensor) -> zuko.transforms.Transform:
    """A transform of single numbers as one of vectors (n, 1), whose log determinant is (n,) and not (n, 1)."""
    return zuko.transforms.DependentTransform(univariate(*parameters), 1)


class LatentFlow(nn.Module):
    """A normalizing flow u -> z with the tilted Gaussian as the density of z.

    The latent space is standardised first (`fit`), so that the data fill the region where splines act; outside it a
    rational-quadratic spline is the identity, so no point is ever without a density.

    Parameters
    ----------
    dim, tau
        Dimension and tilt, as in `TiltedGaussian`.
    kind
        "spline" (neural spline couplings, Durkan et al., arXiv:1906.04032) or "realnvp" (Dinh et al.,
        arXiv:1605.08803).
    """

    BOUND = 12.0
    """Half width of the interval on which splines act, in units of z."""

    def __init__(self, dim: int, tau: float, kind: str, transforms: int, hidden: tuple[int, ...], bins: int) -> None:
        super().__init__()
        self.prior = TiltedGaussian(dim, tau)
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        if kind == "spline":
            univariate = partial(zuko.transforms.MonotonicRQSTransform, bound=self.BOUND)
            shapes = [(bins,), (bins,), (bins - 1,)]
        else:
            univariate, shapes = zuko.transforms.MonotonicAffineTransform, [(), ()]
        if dim == 1:  # there is nothing to couple: plain learned transforms of the one coordinate
            layers = [
                zuko.flows.UnconditionalTransform(
                    partial(_of_vectors, univariate), *(nn.Parameter(1e-2 * torch.randn(1, *shape)) for shape in shapes)
                )
                for _ in range(transforms)
            ]
            self.layers = zuko.lazy.LazyComposedTransform(*layers)
        else:
            self.layers = zuko.flows.MAF(
                dim,
                transforms=transforms,
                randperm=False,
                passes=2,
                univariate=univariate,
                shapes=shapes,
                hidden_features=hidden,
            ).transform

    @torch.no_grad()
    def fit(self, mu: Tensor, weights: Tensor, variance: Tensor) -> None:
        """Standardise: put the weighted mean of u = mu + noise at zero and its spread at the radius of the prior.

        mu is (n, d), weights (n,), variance that of the encoder's noise, a scalar.
        """
        share = (weights / weights.sum()).unsqueeze(-1)
        mean = (share * mu).sum(0)
        deviation = torch.sqrt((share * (mu - mean).square()).sum(0) + variance)
        radius = self.prior.mode(torch.ones((), device=mu.device))
        self.shift.copy_(mean)
        self.scale.copy_(torch.clamp(radius, min=1.0) / math.sqrt(mu.shape[-1]) / deviation)

    def log_prob(self, u: Tensor, temperature_scale: Tensor) -> Tensor:
        """Normalised log density of u (n, d) at s = T / T0, a scalar or (n,); returns (n,)."""
        z, log_determinant = self.layers().call_and_ladj((u - self.shift) * self.scale)
        return self.prior.log_prob(z, temperature_scale) + log_determinant + torch.log(self.scale).sum()

    def sample(self, n: int, temperature_scale: float, generator: torch.Generator) -> Tensor:
        """Draw (n, d) latent samples at s = T / T0."""
        z = self.prior.sample(n, temperature_scale, generator).to(self.shift)
        return self.layers().inv(z) / self.scale + self.shift
