"""An ensemble under a bias along the latent variable, in which a barrier has as many frames as a well.

Frames of a biased simulation with weights w have the density p(u) / <w>_u up to a constant, where <w>_u is the mean
weight of the frames at u, and p(u) the density without bias. On a barrier their weights are so small that the
likelihood of weighted frames does not depend on p there; but under the bias V(u) = kT ln <w>_u these frames count. For
any function V whatsoever, frames drawn with the weights w exp(V(u) / kT) have the density p(u) exp(V(u) / kT) / Z
exactly, so that V needs to be known only roughly, whichever variable the simulation was biased along.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.analysis.weights import systematic
from latf_sampling.data.dataset import CHUNK
from latf_sampling.learning.flow import LatentFlow

CENTERS = 1000
"""Frames of the biased simulations that V is interpolated between, and that points for the normalization lie around."""
FITTED = 10_000
"""V is determined from at most so many frames,"""
ITERATIONS = 5
"""in so many steps; it need not be exact."""
NARROWER = 0.5
"""V is interpolated with kernels of this width relative to those of the points for the normalization: on the slope of a
barrier, a wide kernel has the weights of the well in it. In wells of one and two dimensions a third to a half of the
frames were effective with 0.25 and 0.5, and a quarter with 1."""


class TiltedEnsemble:
    """Draws from p(u) exp(v(u)) / Z at one temperature, with v = V / kT, and the likelihood of a flow there.

    v is minus ln of the mean weight near u, and falls where there are no frames of biased simulations. Z of a flow is
    found by importance sampling: points are drawn around frames of biased simulations, so that they lie on barriers.

    Parameters
    ----------
    flow
        Whitens the latent space.
    u, log_weights
        Latent points (n, d) of frames of biased simulations, and ln of their weights at the temperature (n,).
    temperature, reference
        T, and T0 of the flow, K.
    rng
        Chooses frames.
    """

    def __init__(
        self,
        flow: LatentFlow,
        u: Tensor,
        log_weights: np.ndarray,
        temperature: float,
        reference: float,
        rng: np.random.Generator,
    ) -> None:
        self.flow, self.temperature = flow, temperature
        self._scale = torch.tensor(temperature / reference, dtype=u.dtype, device=u.device)
        # The centers come first.
        chosen = torch.from_numpy(rng.permutation(len(u))[:FITTED]).to(u.device)
        log = torch.from_numpy(log_weights).to(u)[chosen]
        points, count, dim = flow.whiten(u[chosen]), min(len(u), CENTERS), u.shape[1]
        self._centers = points[:count]
        self._width = flow.spread * count ** (-1 / (dim + 4))  # Silverman's rule
        kernel = dim * math.log(math.sqrt(2 * math.pi) * self._width)
        # ln of the density of the points for the normalization at a center that is far from all others.
        self._alone = float(torch.log(flow.whitening.diagonal()).sum()) - kernel - math.log(count)
        self._tilt = -log[:count]
        near = torch.softmax(self._kernels(points) / NARROWER**2, 1)
        for _ in range(ITERATIONS):
            tilted = log + near @ self._tilt
            highest = tilted.max()
            mean = near.T @ torch.exp(tilted - highest) / near.sum(0)
            self._tilt = self._tilt - torch.log(mean.clamp(min=torch.finfo(mean.dtype).tiny)) - highest

    def _kernels(self, whitened: Tensor) -> Tensor:
        """ln of the kernel of each center at whitened points (n, d), relative to its highest value; (n, m)."""
        return -0.5 * (torch.cdist(whitened, self._centers) / self._width).square()

    def tilt(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """v at latent points (n, d), and ln of the density that `propose` draws them from; (n,) each."""
        kernels = self._kernels(self.flow.whiten(u))
        v, log_density = torch.softmax(kernels / NARROWER**2, 1) @ self._tilt, torch.logsumexp(kernels, 1)
        # Where not even one center is near, exp(v) falls with the density of proposals, whose weights stay bounded.
        v = v - nn.functional.softplus(-log_density)
        return v, log_density + self._alone

    def propose(self, n: int, generator: torch.Generator) -> Tensor:
        """Points (n, d) around the centers."""
        device, (count, dim) = self._centers.device, self._centers.shape
        which = torch.randint(count, (n,), generator=generator, device=device)
        noise = torch.randn(n, dim, generator=generator, device=device)
        return self.flow.restore(self._centers[which] + self._width * noise)

    @torch.no_grad()
    def draw(
        self, u: Tensor, log_weights: np.ndarray, n: int, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """Points (n, d) of the tilted ensemble in random order, from frames at u (N, d) with ln of their weights (N,).

        The flow's blur comes first and the tilt second: the density that the flow learns is that of blurred points.
        """
        noise = torch.randn(u.shape, generator=generator, device=u.device)
        points = self.flow.blurred(u, noise)
        tilt = torch.cat([self.tilt(part)[0] for part in points.split(max(1, CHUNK // 8))])
        log = log_weights + tilt.cpu().numpy()
        drawn = systematic(np.exp(log - log.max()), n, rng)[rng.permutation(n)]
        return points[torch.from_numpy(drawn).to(points.device)]

    def loss(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Mean of -ln(p(u) exp(v(u)) / Z) of the flow over drawn points (n, d), but for the mean of v, a constant."""
        n = len(points)
        proposed = self.propose(n, generator)
        tilt, log_density = self.tilt(proposed)
        log_p = self.flow.log_prob(torch.cat([points, proposed]), self._scale)
        log_normalizer = torch.logsumexp(log_p[n:] + tilt - log_density, 0) - math.log(n)
        return log_normalizer - log_p[:n].mean()
