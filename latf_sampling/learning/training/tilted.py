"""An ensemble under a bias along the latent variable, in which a barrier has as many frames as a well.

Frames of a biased simulation with weights w have the density p(u) / <w>_u up to a constant, where <w>_u is the mean
weight of the frames at u, and p(u) the density without bias. On a barrier their weights are so small that the
likelihood of weighted frames does not depend on p there; but under the bias V(u) = kT ln <w>_u these frames count. For
any function V whatsoever, frames drawn with the weights w exp(V(u) / kT) have the density p(u) exp(V(u) / kT) / Z
exactly, so that V needs to be known only roughly, whichever variable the simulation was biased along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
WIDTH = 0.5
"""Width of the kernels around the centers, relative to Silverman's rule. On the slope of a barrier, a wide kernel has
the weights of the well in it."""
REACH = 4.0
"""Half of the points for the normalization have kernels that are wider by this factor: a flow connects wells by thin
filaments beside the data, which decide on the lowest pass, and narrow kernels do not get there."""
POOL = 20_000
"""Points for the normalization are chosen among at most so many."""


@dataclass(frozen=True)
class Sample:
    """What the likelihood in a tilted ensemble is computed from.

    Attributes
    ----------
    points : Tensor (n, d)
        Points of the ensemble.
    proposals, log_factors : Tensor (m, d), Tensor (m,)
        Other points, and ln of the factors that make the mean of factor times p(u) the Z of a flow.
    """

    points: Tensor
    proposals: Tensor
    log_factors: Tensor

    def split(self, parts: int) -> list[Sample]:
        """The same in nearly equal parts."""
        pieces = (each.tensor_split(parts) for each in (self.points, self.proposals, self.log_factors))
        return [Sample(*each) for each in zip(*pieces)]


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
        self._width = WIDTH * flow.spread * count ** (-1 / (dim + 4))
        kernel = dim * math.log(math.sqrt(2 * math.pi) * self._width)
        # ln of the density of the points for the normalization at a center that is far from all others.
        self._alone = float(torch.log(flow.whitening.diagonal()).sum()) - kernel - math.log(count)
        self._tilt = -log[:count]
        near = torch.softmax(self._kernels(points), 1)
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
        narrow, wide = torch.logsumexp(kernels, 1), torch.logsumexp(kernels / REACH**2, 1)
        # Where not even one center is near, exp(v) falls with the density of proposals, whose weights stay bounded.
        v = torch.softmax(kernels, 1) @ self._tilt - nn.functional.softplus(-wide)
        log_density = torch.logaddexp(narrow, wide - u.shape[1] * math.log(REACH)) - math.log(2)
        return v, log_density + self._alone

    @torch.no_grad()
    def propose(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n, d) around the centers, and v less ln of their density; (n,)."""
        device, (count, dim) = self._centers.device, self._centers.shape
        which = torch.randint(count, (n,), generator=generator, device=device)
        noise = torch.randn(n, dim, generator=generator, device=device)
        wide = torch.rand(n, 1, generator=generator, device=device) < 0.5
        points = self.flow.restore(self._centers[which] + self._width * torch.where(wide, REACH, 1.0) * noise)
        tilt, log_density = self.tilt(points)
        return points, tilt - log_density

    @torch.no_grad()
    def draw(
        self, u: Tensor, log_weights: np.ndarray, n: int, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """Points (n, d) of the ensemble in random order, from frames at u (N, d) with ln of their weights (N,).

        The flow's blur comes first and the tilt second: the density that the flow learns is that of blurred points.
        """
        noise = torch.randn(u.shape, generator=generator, device=u.device)
        points = self.flow.blurred(u, noise)
        tilt = torch.cat([self.tilt(part)[0] for part in points.split(max(1, CHUNK // 8))])
        log = log_weights + tilt.cpu().numpy()
        drawn = systematic(np.exp(log - log.max()), n, rng)[rng.permutation(n)]
        return points[torch.from_numpy(drawn).to(u.device)]

    @torch.no_grad()
    def propose_for(self, n: int, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As `propose`, half of them chosen by how much they add to the present Z of the flow, as filaments do."""
        proposals, log_factors = self.propose(min(POOL, 4 * n), generator)
        share = 0.5 / len(proposals) + 0.5 * torch.softmax(self.flow.log_prob(proposals, self._scale) + log_factors, 0)
        log_factors = log_factors - torch.log(len(proposals) * share)
        chosen = systematic(share.double().cpu().numpy(), n, rng)[rng.permutation(n)]
        places = torch.from_numpy(chosen).to(proposals.device)
        return proposals[places], log_factors[places]

    def loss(self, sample: Sample) -> Tensor:
        """Mean of -ln(p(u) exp(v(u)) / Z) of the flow over the points, but for the mean of v, a constant."""
        count = len(sample.points)
        log_p = self.flow.log_prob(torch.cat([sample.points, sample.proposals]), self._scale)
        log_normalizer = torch.logsumexp(log_p[count:] + sample.log_factors, 0) - math.log(len(sample.proposals))
        return log_normalizer - log_p[:count].mean()
