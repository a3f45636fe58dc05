"""The Latent Thermodynamic Flow: encoder, state decoder, prior and flow.

x are descriptors at time t, simulated at temperature T; y the metastable state at t + lag; u the latent variable.
The encoder q(u|x) is a normal distribution around mu(x) with one learned variance; mu(x) is the collective variable.
The decoder p(y|u) predicts the state; the flow gives p(u|T). Source: Qiu, John, Herron, Tiwary, arXiv:2507.03174.
"""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latf_sampling.core import storage
from latf_sampling.errors import DataError, ExtrapolationWarning, LatfError, SettingsError, TrainingError
from latf_sampling.learning.flow import LatentFlow, MixturePrior
from latf_sampling.settings import ModelSettings
from latf_sampling.units import KB, to_kelvin

FORMAT = 2
POPULATION_SAMPLES = 20_000
"""Latent samples that populations of states are counted on."""


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with tanh between them: smooth, so that forces are, and cheap to differentiate."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class LaTF(nn.Module):
    """A model to be trained with `latf_sampling.train`, saved, loaded, asked and exported.

    Parameters
    ----------
    settings
        Fields of `ModelSettings` as keyword arguments, or one such object.

    Attributes
    ----------
    n_states : int
        Number of metastable states, found by training.
    latent_bounds : Tensor (d, 2)
        Range of the collective variable over the training data.
    latent_spread : Tensor (d,)
        Standard deviation of the collective variable within a state.

    Examples
    --------
    >>> model = LaTF(latent_dim=2, reference_temperature=300.0)
    >>> model.encode(np.zeros((5, 3)))
    Traceback (most recent call last):
    ...
    latf_sampling.errors.TrainingError: LaTF: the model is not trained yet; call latf_sampling.train first.
    """

    def __init__(self, settings: ModelSettings | None = None, **kwargs) -> None:
        super().__init__()
        if settings is not None and kwargs:
            raise SettingsError(f"LaTF: give settings or their fields ({', '.join(kwargs)}), not both.")
        self.settings = settings if settings is not None else ModelSettings(**kwargs)
        self.n_features = self.n_states = 0
        self.boltzmann = KB
        self.reweighted = False
        self.provenance: dict = {}

    @property
    def latent_dim(self) -> int:
        return self.settings.latent_dim

    @property
    def trained(self) -> bool:
        return self.n_features > 0

    def build(self, n_features: int, n_states: int, reweighted: bool = False) -> None:
        """Make the networks for so many descriptors and states, with random weights."""
        s = self.settings
        self.n_features, self.n_states, self.reweighted = n_features, n_states, reweighted
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))
        self.register_buffer("latent_bounds", torch.zeros(s.latent_dim, 2))
        self.register_buffer("latent_spread", torch.ones(s.latent_dim))
        self.register_buffer("representatives", torch.zeros(n_states, n_features))
        self.register_buffer("inverse_temperatures", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("effective_sizes", torch.zeros(1, dtype=torch.float64))
        self.encoder = mlp((n_features, *s.encoder_hidden, s.latent_dim))
        self.log_variance = nn.Parameter(torch.tensor(-2.0))
        self.decoder = mlp((s.latent_dim, *s.decoder_hidden, n_states))
        self.mixture = MixturePrior(n_states)
        self.flow = LatentFlow(
            s.latent_dim, s.tau, s.flow, s.flow_transforms, s.flow_hidden, s.flow_bins, conditional=reweighted
        )
        self.trial = copy.deepcopy(self.flow)
        self.ensemble = nn.ModuleList()

    def keep_states(self, kept: Tensor) -> None:
        """Drop all states but those with the indices `kept`; the decoder's rows of the others stay as they are."""
        last = self.decoder[-1]
        # Without first weights, which would take numbers from the global generator of random numbers.
        smaller = nn.utils.skip_init(nn.Linear, last.in_features, len(kept), device=last.weight.device)
        with torch.no_grad():
            smaller.weight.copy_(last.weight[kept])
            smaller.bias.copy_(last.bias[kept])
            logits = self.mixture.logits[kept]
        self.decoder[-1] = smaller
        self.mixture.logits = nn.Parameter(logits.clone())
        self.representatives = self.representatives[kept]
        self.n_states = len(kept)

    # What training needs: tensors on the model's device.

    def mean(self, x: Tensor) -> Tensor:
        """mu(x): (n, F) -> (n, d)."""
        return self.encoder((x - self.feature_mean) * self.feature_scale)

    def noisy(self, mu: Tensor, noise: Tensor) -> Tensor:
        """u drawn from q(u|x): mu (n, d) with standard normal noise (n, d)."""
        return mu + torch.exp(0.5 * self.log_variance) * noise

    def prediction(self, u: Tensor, y: Tensor) -> Tensor:
        """Mean of -log p(y|u) over latent points (n, d) and their future states (n,)."""
        return nn.functional.cross_entropy(self.decoder(u), y)

    def regularisation(self, u: Tensor, noise: Tensor, scale: Tensor, prior: str) -> Tensor:
        """Mean of log q(u|x) - log p(u|T) over frames drawn with their Boltzmann weights.

        Parameters
        ----------
        u, noise
            Latent points (n, d), and the noise (n, d) that they were made with.
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

    # What users ask: arrays in, arrays out.

    def encode(self, x) -> np.ndarray | Tensor:
        """Collective variable mu(x) of descriptors (frames, F); returns (frames, d)."""
        return self._ask(self.mean, x, self.n_features, "descriptors")

    def assign(self, x) -> np.ndarray | Tensor:
        """Most likely metastable state after one lag, of descriptors (frames, F); returns (frames,) integers."""
        return self._ask(lambda t: self.decoder(self.mean(t)).argmax(-1), x, self.n_features, "descriptors")

    def state_probabilities(self, u) -> np.ndarray | Tensor:
        """Probability of each metastable state one lag after latent points (n, d); returns (n, n_states)."""
        return self._ask(lambda t: self.decoder(t).softmax(-1), u, self.latent_dim, "latent dimensions")

    def log_prob(self, u, temperature=None, return_std: bool = False):
        """Normalised log density of latent points (n, d) at a temperature (default: the reference); returns (n,).

        With `return_std` a pair: the log density and its standard error, from the ensemble of flows.

        Raises
        ------
        TrainingError
            The standard error is asked of a model that was trained without an ensemble.
        """
        scale = self._scale(temperature)

        def of(flow: LatentFlow):
            return self._ask(
                lambda t: flow.log_prob(t, torch.tensor(scale, device=t.device)),
                u,
                self.latent_dim,
                "latent dimensions",
            )

        value = of(self.flow)
        return (value, self._std([of(flow) for flow in self._members()])) if return_std else value

    @property
    def used_components(self) -> list[int]:
        """Latent components that are no linear function of the ones before.

        Two states are told apart by one number, and three by two: an encoder with more components than that makes the
        last ones functions of the others. The density of the latent space then is a needle or a sheet, which a grid
        does not hold; `marginal_log_prob` is that of the used components.
        """
        self._require_training()
        return self.flow.used

    def marginal_log_prob(self, u, temperature=None):
        """Normalised log density of the used components (n, k) alone, at a temperature (default: the reference); (n,).

        Where all components are used, it is `log_prob`.
        """
        scale = self._scale(temperature)
        return self._ask(
            lambda t: self.flow.marginal_log_prob(t, torch.tensor(scale, device=t.device)),
            u,
            len(self.flow.used),
            "used latent dimensions",
        )

    def free_energy(self, u, temperature=None, return_std: bool = False):
        """Latent free energy -kB T ln p(u|T) of latent points (n, d), kJ/mol; returns (n,).

        With `return_std` a pair: the free energy and its standard error, from the ensemble of flows.
        """
        kT = self.boltzmann * self._temperature(temperature)
        if not return_std:
            return -kT * self.log_prob(u, temperature)
        value, error = self.log_prob(u, temperature, return_std=True)
        return -kT * value, kT * error

    def populations(self, temperature=None, return_std: bool = False, seed: int = 0):
        """Populations of the metastable states at a temperature (default: the reference); returns (n_states,).

        With `return_std` a pair: the populations and their standard errors, from the ensemble of flows.
        """
        scale = self._scale(temperature)

        def of(flow: LatentFlow) -> np.ndarray:
            with torch.no_grad():
                u = flow.sample(POPULATION_SAMPLES, scale, self._generator(seed))
                states = self.decoder(u).argmax(-1)
            return torch.bincount(states, minlength=self.n_states).cpu().numpy() / POPULATION_SAMPLES

        value = of(self.flow)
        return (value, self._std([of(flow) for flow in self._members()])) if return_std else value

    def on_trial(self) -> LaTF:
        """The model as it was before it saw the held-out blocks, for these to judge; its other parts are shared."""
        self._require_training()
        other = copy.copy(self)
        other._modules = {**self._modules, "flow": self.trial}
        return other

    def effective_sample_size(self, temperature=None) -> float:
        """Number of equally weighted training frames that would say as much about a temperature as all of them do.

        Frames that follow each other closely are counted in full, though they say less than independent ones. Without
        energies, frames of a temperature count there and nowhere else.
        """
        self._require_training()
        inverse = 1 / self._temperature(temperature)
        table = self.inverse_temperatures.cpu().numpy(), self.effective_sizes.cpu().numpy()
        return float(np.interp(inverse, *table, left=0.0, right=0.0))

    def extrapolates(self, temperature=None) -> bool:
        """Whether the training data say too little about a temperature for an answer to be more than a guess."""
        self._require_training()
        value = self._temperature(temperature)
        if self.reweighted:
            return self.effective_sample_size(value) < self.provenance["minimum_effective_size"]
        simulated = self.provenance["temperatures"]
        return not 0.999 * simulated[0] <= value <= 1.001 * simulated[-1]

    def sample(self, n: int, temperature=None, seed: int | None = None) -> np.ndarray:
        """Draw n latent samples at a temperature (default: the reference).

        Parameters
        ----------
        n
            Number of samples.
        temperature
            K, or an `openmm.unit.Quantity`.
        seed
            The same seed gives the same samples; none draws afresh.

        Returns
        -------
        numpy.ndarray (n, d) float32
        """
        scale = self._scale(temperature)
        with torch.no_grad():
            return self.flow.sample(n, scale, self._generator(seed)).cpu().numpy()

    def fingerprint(self) -> str:
        """Sixteen letters that two models have in common only if all their numbers are the same."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the model to one file, at once or not at all."""
        self._require_training()
        content = {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "n_features": self.n_features,
            "n_states": self.n_states,
            "reweighted": self.reweighted,
            "members": len(self.ensemble),
            "boltzmann": self.boltzmann,
            "provenance": self.provenance,
            "state": self.state_dict(),
        }
        buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
        torch.save(content, buffer)
        with storage.atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> LaTF:
        """Read a model written by `save`.

        Raises
        ------
        DataError
            The file is missing, damaged or not of this format.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file
            raise DataError(
                f"{path}: cannot be read as a LaTF model ({' '.join(str(error).split())[:200]})."
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path}: is not a LaTF model of format {FORMAT}.")
        try:
            model = cls(**content["settings"])
            with torch.random.fork_rng(devices=[]):  # first weights come from torch's global generator
                model.build(content["n_features"], content["n_states"], content["reweighted"])
            model.ensemble.extend(copy.deepcopy(model.flow) for _ in range(content["members"]))
            model.boltzmann, model.provenance = content["boltzmann"], content["provenance"]
            for name in ("inverse_temperatures", "effective_sizes"):
                setattr(model, name, content["state"][name])  # tables have the length that training gave them
            model.load_state_dict(content["state"])
        except (KeyError, TypeError, RuntimeError, LatfError) as error:
            raise DataError(f"{path}: is damaged ({' '.join(str(error).split())[:200]}).") from error
        return model.requires_grad_(False)

    def _require_training(self) -> None:
        if not self.trained:
            raise TrainingError("LaTF: the model is not trained yet; call latf_sampling.train first.")

    def _temperature(self, temperature) -> float:
        return self.settings.reference_temperature if temperature is None else to_kelvin(temperature)

    def _scale(self, temperature) -> float:
        """T / T0 for a question to the flow, with a warning where the answer is extrapolation."""
        self._require_training()
        if not self.provenance["density"]:
            raise TrainingError("LaTF: the model was trained without a density; train with flow_epochs of 1 or more.")
        value = self._temperature(temperature)
        if self.extrapolates(value):
            simulated = ", ".join(f"{entry:g}" for entry in self.provenance["temperatures"])
            reach = (
                f"an effective sample of {self.effective_sample_size(value):.0f} frames"
                if self.reweighted
                else "temperature enters through the prior alone"
            )
            warnings.warn(
                f"LaTF: {value:g} K is extrapolation from simulations at {simulated} K ({reach}).",
                ExtrapolationWarning,
                stacklevel=3,
            )
        return value / self.settings.reference_temperature

    def _generator(self, seed: int | None) -> torch.Generator:
        generator = torch.Generator(device=self.feature_mean.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return generator

    def _members(self) -> nn.ModuleList:
        if len(self.ensemble) < 2:
            raise TrainingError("LaTF: a standard error needs an ensemble; train with ensemble=4, for example.")
        return self.ensemble

    @staticmethod
    def _std(values: list):
        if isinstance(values[0], Tensor):
            return torch.stack(values).std(0)
        return np.std(values, axis=0, ddof=1)

    def _ask(self, function, values, width: int, what: str):
        self._require_training()
        is_tensor = isinstance(values, Tensor)
        tensor = torch.as_tensor(values).to(self.feature_mean)
        if tensor.ndim != 2 or tensor.shape[1] != width:
            raise DataError(f"LaTF: expected an array (n, {width}) of {what}; got {tuple(tensor.shape)}.")
        if is_tensor:
            return function(tensor)
        with torch.no_grad():
            return function(tensor).cpu().numpy()
