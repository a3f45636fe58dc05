"""The networks of a Latent Thermodynamic Flow: encoder, state decoder, prior and flow.

x are descriptors at time t, simulated at temperature T; y the metastable state at t + lag; u the latent variable.
The encoder q(u|x) is a normal distribution around mu(x) with one learned variance; mu(x) is the collective variable.
The decoder p(y|u) predicts the state; the flow gives p(u|T). Source: Qiu, John, Herron, Tiwary, arXiv:2507.03174.
"""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.learning.flow import LatentFlow, MixturePrior
from latf_sampling.settings import ModelSettings

MOST_DIMENSIONS = 3
"""Largest dimension that the number of states asks for: that of the largest grid of a bias."""


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with tanh between them: smooth, so that forces are, and cheap to differentiate."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Networks(nn.Module):
    """Encoder, decoder, prior and flow of a `LaTF`, with random weights; `latf_sampling.train` trains them.

    Tensors in, tensors with gradients out, all on one device. `LaTF` answers questions from them in arrays.

    Parameters
    ----------
    settings
        Widths of the networks, kind and size of the flow.
    n_features, n_states
        Number of descriptors, and of metastable states.
    reweighted
        Whether the flow depends on temperature itself.
    latent_dim
        Dimension of the variable if the settings have none; None takes one less than there are states, at most three.

    Attributes
    ----------
    latent_dim : int
        Dimension d of the variable.
    feature_mean, feature_scale : Tensor (F,)
        Descriptors are scaled as (x - mean) * scale before they enter the encoder.
    latent_bounds, latent_spread : Tensor (d, 2), (d,)
        Range of the variable over the training data, and its standard deviation within a state.
    representatives : Tensor (n_states, F)
        Descriptors of one frame of each state, the centers of the mixture prior.
    inverse_temperatures, effective_sizes : Tensor (k,) float64
        Effective number of training frames at each 1 / T.
    log_variance : Parameter ()
        ln of the encoder's variance.
    flow, validation_flow : LatentFlow
        The flow, and what it was before it was refit on all frames.
    ensemble : ModuleList
        Flows of bootstrap samples, whose spread is the standard error.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    latent_bounds: Tensor
    latent_spread: Tensor
    representatives: Tensor
    inverse_temperatures: Tensor
    effective_sizes: Tensor

    def __init__(
        self,
        settings: ModelSettings,
        n_features: int,
        n_states: int,
        reweighted: bool = False,
        latent_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.n_features, self.n_states, self.reweighted = settings, n_features, n_states, reweighted
        dim = settings.latent_dim or latent_dim or max(1, min(n_states - 1, MOST_DIMENSIONS))
        self.latent_dim = dim
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))
        self.register_buffer("latent_bounds", torch.zeros(dim, 2))
        self.register_buffer("latent_spread", torch.ones(dim))
        self.register_buffer("representatives", torch.zeros(n_states, n_features))
        self.register_buffer("inverse_temperatures", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("effective_sizes", torch.zeros(1, dtype=torch.float64))
        self.encoder = mlp((n_features, *settings.encoder_hidden, dim))
        self.log_variance = nn.Parameter(torch.tensor(-2.0))
        self.decoder = mlp((dim, *settings.decoder_hidden, n_states))
        self.mixture = MixturePrior(n_states)
        self._build_flow()

    def _build_flow(self) -> None:
        s = self.settings
        self.flow = LatentFlow(
            self.latent_dim, s.tau, s.flow, s.flow_transforms, s.flow_hidden, s.flow_bins, conditional=self.reweighted
        )
        self.validation_flow = copy.deepcopy(self.flow)
        self.ensemble = nn.ModuleList()

    def keep_states(self, states: Tensor) -> None:
        """Drop all states but those with these indices (k,), whose rows in the decoder stay as they are."""
        last = cast(nn.Linear, self.decoder[-1])
        # skip_init, because initial weights would be drawn from the global generator of random numbers.
        smaller = cast(
            nn.Linear, nn.utils.skip_init(nn.Linear, last.in_features, len(states), device=last.weight.device)
        )
        with torch.no_grad():
            smaller.weight.copy_(last.weight[states])
            smaller.bias.copy_(last.bias[states])
            logits = self.mixture.logits[states]
        self.decoder[-1] = smaller
        self.mixture.logits = nn.Parameter(logits.clone())
        self.representatives = self.representatives[states]
        self.n_states = len(states)

    @torch.no_grad()
    def map_latent(self, matrix: Tensor, center: Tensor, image: Tensor) -> None:
        """Take u' = matrix (u - center) + image as the collective variable; the decoder follows.

        With fewer components than before, the decoder takes the missing ones to be those of the center, and the flow is
        made anew, with random weights. It has to be trained after any change of the variable.

        Parameters
        ----------
        matrix
            (k, d); its rows are orthogonal and have the same length, so that the noise has the same variance in all
            directions.
        center, image
            A point in the present latent space (d,), and where it comes to lie (k,).
        """
        last, first = cast(nn.Linear, self.encoder[-1]), cast(nn.Linear, self.decoder[0])
        scale = matrix[0].square().sum()
        bias = last.bias - center
        last.weight = nn.Parameter(matrix @ last.weight)
        last.bias = nn.Parameter(matrix @ bias + image)
        last.out_features = len(matrix)
        # u = center + matrix^T (u' - image) / scale
        back = first.weight @ matrix.T / scale
        first.bias.add_(first.weight @ center - back @ image)
        first.weight = nn.Parameter(back)
        first.in_features = len(matrix)
        self.log_variance.add_(torch.log(scale))
        if len(matrix) < self.latent_dim:
            self.latent_dim = len(matrix)
            device = self.feature_mean.device
            self.latent_bounds = torch.zeros(len(matrix), 2, device=device)
            self.latent_spread = torch.ones(len(matrix), device=device)
            reach = self.flow.range
            self._build_flow()
            self.flow.range.copy_(reach)
            self.to(device)

    def mean(self, x: Tensor) -> Tensor:
        """mu(x): (n, F) -> (n, d)."""
        return self.encoder((x - self.feature_mean) * self.feature_scale)

    def noisy(self, mu: Tensor, noise: Tensor) -> Tensor:
        """u drawn from q(u|x): mu (n, d) with standard normal noise (n, d)."""
        return mu + torch.exp(0.5 * self.log_variance) * noise

    def prediction(self, u: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Mean of -log p(y|u) over latent points (n, d) and their future states (n,), with weights (n,)."""
        losses = nn.functional.cross_entropy(self.decoder(u), y, reduction="none")
        return (weights * losses).sum() / weights.sum()

    def regularization(self, u: Tensor, noise: Tensor, scale: Tensor, prior: str) -> Tensor:
        """Mean of log q(u|x) - log p(u|T) over frames drawn with their Boltzmann weights.

        Parameters
        ----------
        u, noise
            Latent points (n, d), and the noise (n, d) in them.
        scale
            T / T0 of the frames (n,).
        prior
            "mixture" in the first stage, "flow" in the second.
        """
        log_q = -0.5 * (noise.square() + self.log_variance + np.log(2 * np.pi)).sum(-1)
        if prior == "mixture":
            log_p = self.mixture.log_prob(u, self.mean(self.representatives), self.log_variance)
        else:
            log_p = self.flow.log_prob(u, scale)
        return (log_q - log_p).mean()

    def for_validation(self) -> Networks:
        """The same networks with the flow before its refit; all weights are shared."""
        other = copy.copy(self)
        other._modules = {**self._modules, "flow": self.validation_flow}
        return other
