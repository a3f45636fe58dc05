"""The Latent Thermodynamic Flow: encoder, state decoder, prior and flow.

x are descriptors at time t, simulated at temperature T; y the metastable state at t + lag; u the latent variable.
The encoder q(u|x) is a normal distribution around mu(x) with one learned variance; mu(x) is the collective variable.
The decoder p(y|u) predicts the state; the flow gives p(u|T). Source: Qiu, John, Herron, Tiwary, arXiv:2507.03174.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from latf_sampling.analysis.thermodynamics import GibbsHelmholtz, StateThermodynamics
from latf_sampling.core import archives, arguments, storage
from latf_sampling.core.notebook import ShownInNotebooks
from latf_sampling.core.words import plural
from latf_sampling.errors import DataError, ExtrapolationWarning, LatfError, SettingsError, TrainingError
from latf_sampling.learning.flow import LatentFlow, MixturePrior
from latf_sampling.learning.marginals import MarginalMap
from latf_sampling.settings import ModelSettings
from latf_sampling.units import KB, TemperatureLike, to_kelvin

FORMAT = 5
"""Of the file that `LaTF.save` writes; 5 since flows widen their coordinates where the data are many."""
READABLE = (3, 4, 5)
"""Formats that are read. In the third, settings always had the dimension; in the fourth, coordinates were straight."""
MOST_DIMENSIONS = 3
"""Largest dimension that the number of states asks for: that of the largest grid of a bias."""
EARLIER_DIMENSION = 2
"""Default of the dimension in the third format, by which fingerprints do not depend on it."""
EARLIER_BINS = 8
"""Default of the bins of splines up to the fourth format, likewise."""
EARLIER_MODE = "reweighted"
"""Default of the temperature mode before there was "auto", likewise."""
HILLS_PER_RANGE = 16
"""Hills are this share of the variable's range wide: with a sixteenth, walkers along variables of alanine dipeptide
crossed four times as often as with an eighth."""
NORMAL_QUANTILE = 1.959964
"""95 % of a normal distribution lie within so many standard deviations."""
POPULATION_SAMPLES = 20_000
"""Latent samples that populations of states are counted on."""

Array = TypeVar("Array", np.ndarray, Tensor)


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with tanh between them: smooth, so that forces are, and cheap to differentiate."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class LaTF(ShownInNotebooks, nn.Module):
    """A model to be trained with `latf_sampling.train`, saved, loaded, evaluated and exported.

    Ask it for `encode` and `assign` of descriptors; at a temperature for `sample`, `log_prob` and `free_energy` of
    latent points, and `populations` and `thermodynamics` of states; for `extrapolates` and `effective_sample_size`,
    whether to believe them; and `save` it. Everything else serves training, or is inherited from `torch.nn.Module`.

    Methods for users take and return arrays: numpy arrays for numpy arrays, tensors with gradients for tensors.

    Parameters
    ----------
    settings
        A `ModelSettings`; or its fields as keyword arguments.

    Attributes
    ----------
    trained : bool
        Whether the model answers questions; `train` sets it when it is done, `load` does too.
    n_features, n_states : int
        Number of descriptors, and of the metastable states that training found.
    reweighted : bool
        Whether the flow depends on temperature itself, see `ModelSettings.temperature_mode`.
    temperature_mode : str
        How temperature enters: "reweighted", "thermodynamic" or "steered".
    validation_flow : LatentFlow
        The flow before it was refit on all frames, see `for_validation`.
    provenance : dict
        Seed, data and settings of the training.
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

    feature_mean: Tensor
    feature_scale: Tensor
    latent_bounds: Tensor
    latent_spread: Tensor
    representatives: Tensor
    inverse_temperatures: Tensor
    effective_sizes: Tensor

    def __init__(self, settings: ModelSettings | None = None, **kwargs: Any) -> None:
        super().__init__()
        if settings is not None:
            arguments.instance("LaTF", "settings", settings, ModelSettings, "ModelSettings, or LaTF(latent_dim=2, ...)")
        if settings is not None and kwargs:
            raise SettingsError(f"LaTF: give settings or their fields ({', '.join(kwargs)}), not both.")
        self.settings = settings if settings is not None else ModelSettings(**kwargs)
        self.trained = False
        self.n_features = self.n_states = 0
        self._latent_dim = self.settings.latent_dim or 0
        self.boltzmann = KB
        self.reweighted = False
        self.provenance: dict = {}

    def __repr__(self) -> str:
        if not self.trained:
            return "<LaTF: not trained>"
        simulated = self.provenance.get("temperatures", [])
        return (
            f"<LaTF: {plural(self.n_states, 'state')}, {plural(self.latent_dim, 'dimension')} from "
            f"{plural(self.n_features, 'descriptor')}, {self.temperature_mode}"
            + (f", trained at {', '.join(f'{temperature:g}' for temperature in simulated)} K>" if simulated else ">")
        )

    def _overview(self) -> list[tuple[str, Any]]:
        changed = self.settings.model_fields_set
        settings = [("settings", [f"{name}: {getattr(self.settings, name)}" for name in sorted(changed)])]
        if not self.trained:
            return settings
        ranges = [f"{low:.3g} to {high:.3g}" for low, high in self.latent_bounds.tolist()]
        names = ("seed", "frames")
        data = [f"{name}: {self.provenance[name]}" for name in names if name in self.provenance]
        return [("latent coordinates", ranges), ("training", data), *settings]

    @property
    def latent_dim(self) -> int:
        """Dimension d of the collective variable.

        Raises
        ------
        TrainingError
            The settings leave it to the number of states, which training is to find.
        """
        if not self._latent_dim:
            raise TrainingError(
                "LaTF: the model is not trained yet; latent_dim is one less than the states that training finds."
            )
        return self._latent_dim

    @property
    def temperature_mode(self) -> str:
        """The mode of the settings, or what "auto" came to; models of earlier versions have two of them."""
        self._require_training()
        return self.provenance.get("temperature_mode", "reweighted" if self.reweighted else "steered")

    def build(self, n_features: int, n_states: int, reweighted: bool = False, latent_dim: int | None = None) -> None:
        """Make the networks for a number of descriptors and states, with random weights; they are not trained yet.

        The dimension is that of the settings, or else the one given, or else one less than there are states.
        """
        s = self.settings
        self.n_features, self.n_states, self.reweighted = n_features, n_states, reweighted
        dim = s.latent_dim or latent_dim or max(1, min(n_states - 1, MOST_DIMENSIONS))
        self._latent_dim = dim
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))
        self.register_buffer("latent_bounds", torch.zeros(dim, 2))
        self.register_buffer("latent_spread", torch.ones(dim))
        self.register_buffer("representatives", torch.zeros(n_states, n_features))
        self.register_buffer("inverse_temperatures", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("effective_sizes", torch.zeros(1, dtype=torch.float64))
        self.encoder = mlp((n_features, *s.encoder_hidden, dim))
        self.log_variance = nn.Parameter(torch.tensor(-2.0))
        self.decoder = mlp((dim, *s.decoder_hidden, n_states))
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
            self._latent_dim = len(matrix)
            device = self.feature_mean.device
            self.latent_bounds = torch.zeros(len(matrix), 2, device=device)
            self.latent_spread = torch.ones(len(matrix), device=device)
            reach = self.flow.range
            self._build_flow()
            self.flow.range.copy_(reach)
            self.to(device)

    # For training: tensors on the model's device.

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

    # For users: arrays in, arrays out.

    def encode(self, x: Array) -> Array:
        """Collective variable mu(x) of descriptors (frames, F); returns (frames, d)."""
        return self._apply_to(self.mean, x, self.n_features, "descriptors")

    def assign(self, x: Array) -> Array:
        """Most likely metastable state after one lag, of descriptors (frames, F); returns (frames,) integers."""
        return self._apply_to(lambda t: self.decoder(self.mean(t)).argmax(-1), x, self.n_features, "descriptors")

    def state_probabilities(self, u: Array) -> Array:
        """Probability of each metastable state one lag after latent points (n, d); returns (n, n_states)."""
        return self._apply_to(lambda t: self.decoder(t).softmax(-1), u, self.latent_dim, "latent dimensions")

    @overload
    def log_prob(
        self, u: Array, temperature: TemperatureLike | None = None, return_std: Literal[False] = False
    ) -> Array: ...
    @overload
    def log_prob(
        self, u: Array, temperature: TemperatureLike | None = None, *, return_std: Literal[True]
    ) -> tuple[Array, Array]: ...
    def log_prob(
        self, u: Array, temperature: TemperatureLike | None = None, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
        """Normalized log density of latent points (n, d) at a temperature (default: the reference); returns (n,).

        With `return_std` a pair: the log density and its standard error, from the ensemble of flows.

        Raises
        ------
        TrainingError
            The standard error is requested of a model that was trained without an ensemble.
        """
        scale = self._scale(temperature)

        def log_prob_of(flow: LatentFlow) -> Array:
            return self._apply_to(
                lambda t: flow.log_prob(t, torch.tensor(scale, device=t.device)),
                u,
                self.latent_dim,
                "latent dimensions",
            )

        value = log_prob_of(self.flow)
        return (value, _standard_error([log_prob_of(flow) for flow in self._members()])) if return_std else value

    @property
    def used_components(self) -> list[int]:
        """Latent components that are no linear function of the ones before.

        Two states are distinguished by one number, and three by two: an encoder with more components than that makes
        the last ones functions of the others. The density of the latent space then is a needle or a sheet, which a grid
        does not resolve; `marginal_log_prob` is that of the used components.
        """
        self._require_training()
        return self.flow.used

    def marginal_log_prob(self, u: Array, temperature: TemperatureLike | None = None) -> Array:
        """Normalized log density of the used components (n, k) alone, at a temperature (default: the reference); (n,).

        Where all components are used, it is `log_prob`.
        """
        scale = self._scale(temperature)
        return self._apply_to(
            lambda t: self.flow.marginal_log_prob(t, torch.tensor(scale, device=t.device)),
            u,
            len(self.flow.used),
            "used latent dimensions",
        )

    @overload
    def free_energy(
        self, u: Array, temperature: TemperatureLike | None = None, return_std: Literal[False] = False
    ) -> Array: ...
    @overload
    def free_energy(
        self, u: Array, temperature: TemperatureLike | None = None, *, return_std: Literal[True]
    ) -> tuple[Array, Array]: ...
    def free_energy(
        self, u: Array, temperature: TemperatureLike | None = None, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
        """Latent free energy -kB T ln p(u|T) of latent points (n, d), kJ/mol; returns (n,).

        With `return_std` a pair: the free energy and its standard error, from the ensemble of flows.
        """
        kT = self.boltzmann * self._temperature(temperature)
        if not return_std:
            return -kT * self.log_prob(u, temperature)
        value, error = self.log_prob(u, temperature, return_std=True)
        return -kT * value, kT * error

    @overload
    def populations(
        self, temperature: TemperatureLike | None = None, return_std: Literal[False] = False, seed: int = 0
    ) -> np.ndarray: ...
    @overload
    def populations(
        self, temperature: TemperatureLike | None = None, *, return_std: Literal[True], seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def populations(
        self, temperature: TemperatureLike | None = None, return_std: bool = False, seed: int = 0
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Populations of the metastable states at a temperature (default: the reference); returns (n_states,).

        With `return_std` a pair: the populations and their standard errors, from the ensemble of flows.
        """
        scale = self._scale(temperature)

        def populations_of(flow: LatentFlow) -> np.ndarray:
            with torch.no_grad():
                u = flow.sample(POPULATION_SAMPLES, scale, self._generator(seed))
                states = self.decoder(u).argmax(-1)
            return torch.bincount(states, minlength=self.n_states).cpu().numpy() / POPULATION_SAMPLES

        value = populations_of(self.flow)
        return (value, _standard_error([populations_of(flow) for flow in self._members()])) if return_std else value

    def thermodynamics(self, temperature: TemperatureLike | None = None) -> StateThermodynamics:
        """Free energies, energies, entropies and heat capacities of the states relative to the first, with errors.

        They come from the Gibbs-Helmholtz equation with heat capacities, fitted to the states and the energies of the
        training frames at all simulated temperatures (`latf_sampling.analysis.thermodynamics`), not from the flow.

        Parameters
        ----------
        temperature
            Default: the reference.

        Raises
        ------
        TrainingError
            The frames had no energies, or the model is of an earlier version.

        Warns
        -----
        ExtrapolationWarning
            The temperature is farther outside the simulated ones than half their range (of the logarithm).
        """
        value, solution = self._temperature(temperature), self.gibbs_helmholtz()
        if not solution.reach[0] <= value <= solution.reach[1]:
            simulated = ", ".join(f"{entry:g}" for entry in self.provenance["temperatures"])
            warnings.warn(
                f"LaTF: thermodynamics at {value:g} K are extrapolation from simulations at {simulated} K.",
                ExtrapolationWarning,
                stacklevel=2,
            )
        return solution.at(value)

    def gibbs_helmholtz(self) -> GibbsHelmholtz:
        """What `thermodynamics` gives at one temperature, at all of them."""
        self._require_training()
        stored = self.provenance.get("thermodynamics")
        if stored is None:
            raise TrainingError(
                "LaTF: the thermodynamics of states need the energies of the training frames, Series(energies=...), "
                "and a model that this version has trained."
            )
        parameters = np.array(stored["parameters"])
        reach = stored["reach"][0], stored["reach"][1]
        return GibbsHelmholtz(self.settings.reference_temperature, self.boltzmann, parameters, reach)

    def for_validation(self) -> LaTF:
        """The model before its flow was refit on all frames, for comparison with held-out blocks; shares all else."""
        self._require_training()
        other = copy.copy(self)
        other._modules = {**self._modules, "flow": self.validation_flow}
        return other

    def effective_sample_size(self, temperature: TemperatureLike | None = None) -> float:
        """Number of equally weighted frames that would be as informative about a temperature as all training frames.

        Frames that follow each other closely are counted in full, though they are less informative than independent
        ones. Without energies, frames of a temperature count there and nowhere else.
        """
        self._require_training()
        inverse = 1 / self._temperature(temperature)
        table = self.inverse_temperatures.cpu().numpy(), self.effective_sizes.cpu().numpy()
        return float(np.interp(inverse, *table, left=0.0, right=0.0))

    def extrapolates(self, temperature: TemperatureLike | None = None) -> bool:
        """Whether too few training frames are informative about a temperature for more than a guess.

        With mean energies ("thermodynamic"), so is every temperature outside those that were simulated for ten or more
        independent frames, where heat capacities are taken to be what they are inside. Without energies ("steered"), so
        is every other than a simulated one.
        """
        self._require_training()
        value = self._temperature(temperature)
        if self.reweighted and self.effective_sample_size(value) < self.provenance["minimum_effective_size"]:
            return True
        simulated = self.provenance["temperatures"]
        if self.temperature_mode == "steered":
            return all(abs(value / temperature - 1) > 0.001 for temperature in simulated)
        known = self.provenance.get("well_sampled", simulated)
        inside = len(known) > 0 and 0.999 * known[0] <= value <= 1.001 * known[-1]
        return self.temperature_mode != "reweighted" and not inside

    def sample(self, n: int, temperature: TemperatureLike | None = None, seed: int | None = None) -> np.ndarray:
        """Draw n latent samples at a temperature (default: the reference).

        Parameters
        ----------
        n
            Number of samples, 1 or more.
        temperature
            K, or an `openmm.unit.Quantity`.
        seed
            The same seed gives the same samples; None draws different ones each time.

        Returns
        -------
        numpy.ndarray (n, d) float32

        Raises
        ------
        SettingsError
            `n` or `seed` is not such a whole number.
        """
        n, scale = arguments.whole("LaTF.sample", "n", n, 1, "samples", most=10**8), self._scale(temperature)
        with torch.no_grad():
            return self.flow.sample(n, scale, self._generator(seed)).cpu().numpy()

    def fingerprint(self) -> str:
        """Sixteen letters that two models have in common only if all their numbers and settings are the same.

        Settings with their default values do not count, nor do coordinates of flows that are straight, so that a later
        version, with further settings, gives the same letters.
        """
        self._require_training()
        exclude = {"latent_dim", "flow_bins", "temperature_mode"}
        settings = self.settings.model_dump(mode="json", exclude_defaults=True, exclude=exclude)
        if self.latent_dim != EARLIER_DIMENSION:
            settings["latent_dim"] = self.latent_dim
        if self.settings.flow_bins != EARLIER_BINS:
            settings["flow_bins"] = self.settings.flow_bins
        if self.settings.temperature_mode != EARLIER_MODE:
            settings["temperature_mode"] = self.settings.temperature_mode
        straight = tuple(
            f"{name}." for name, part in self.named_modules() if isinstance(part, MarginalMap) and part.straight
        )
        numbers = {name: value for name, value in self.state_dict().items() if not name.startswith(straight)}
        return _digest(json.dumps([settings, self.boltzmann], sort_keys=True), numbers)

    def encoder_fingerprint(self) -> str:
        """Sixteen letters that two models have in common only if they have the same collective variable.

        A variable that is exported from the model carries them, so that it is not taken for that of another training.
        """
        self._require_training()
        parts = ("encoder.", "feature_", "log_variance")
        return _digest("", {name: value for name, value in self.state_dict().items() if name.startswith(parts)})

    def save(self, path: str | Path) -> None:
        """Write the model to one file, at once or not at all."""
        path = arguments.path("LaTF.save", "path", path)
        self._require_training()
        content = {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "n_features": self.n_features,
            "n_states": self.n_states,
            "latent_dim": self.latent_dim,
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
        """Read a model written by `save`. The file is data: nothing in it is run.

        Raises
        ------
        DataError
            The file is missing, damaged, something else, or of another format.
        """
        content = _content_of(path)
        try:
            model = cls(**content["settings"])
            with torch.random.fork_rng(devices=[]):  # first weights come from torch's global generator
                shape = content["n_features"], content["n_states"], content["reweighted"], content.get("latent_dim")
                model.build(*shape)
            model.ensemble.extend(copy.deepcopy(model.flow) for _ in range(content["members"]))
            model.boltzmann, model.provenance = content["boltzmann"], content["provenance"]
            for name in ("inverse_temperatures", "effective_sizes"):
                setattr(model, name, content["state"][name])  # their lengths are those of the training
            state = content["state"]
            if content["format"] < 5:
                state = {name: value for name, value in model.state_dict().items() if ".marginals." in name} | state
            model.load_state_dict(state)
            _check_provenance(model)
            model.trained = True
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, LatfError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise DataError(f"{path}: is damaged as a LaTF model ({reason}).") from error
        return model.requires_grad_(False)

    def _require_training(self) -> None:
        if not self.trained:
            raise TrainingError("LaTF: the model is not trained yet; call latf_sampling.train first.")

    def _temperature(self, temperature: TemperatureLike | None) -> float:
        if temperature is None:
            return self.settings.reference_temperature
        return to_kelvin(temperature, "LaTF: temperature")

    def _scale(self, temperature: TemperatureLike | None) -> float:
        """T / T0 for the flow, with a warning where the model extrapolates."""
        self._require_training()
        if not self.provenance["density"]:
            raise TrainingError("LaTF: the model was trained without a density; train with flow_epochs of 1 or more.")
        value = self._temperature(temperature)
        if self.extrapolates(value):
            simulated = ", ".join(f"{entry:g}" for entry in self.provenance["temperatures"])
            size = self.effective_sample_size(value)
            reason = "temperature enters through the prior alone, which misplaces populations"
            if self.temperature_mode == "thermodynamic" and size >= self.provenance["minimum_effective_size"]:
                reason = "with the heat capacities between them"
            elif self.reweighted:
                reason = f"an effective sample of {size:.0f} frames"
            warnings.warn(
                f"LaTF: {value:g} K is extrapolation from simulations at {simulated} K ({reason}).",
                ExtrapolationWarning,
                stacklevel=3,
            )
        return value / self.settings.reference_temperature

    def _generator(self, seed: int | None) -> torch.Generator:
        generator = torch.Generator(device=self.feature_mean.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(arguments.whole("LaTF", "seed", seed) % 2**64)
        return generator

    def _members(self) -> list[LatentFlow]:
        if len(self.ensemble) < 2:
            raise TrainingError("LaTF: a standard error needs an ensemble; train with ensemble=4, for example.")
        return [cast(LatentFlow, flow) for flow in self.ensemble]

    def _apply_to(self, function: Callable[[Tensor], Tensor], values: Array, width: int, what: str) -> Array:
        """A function of tensors (n, width) applied to an array or a tensor; the result is of the same kind."""
        self._require_training()
        numbers = values if isinstance(values, Tensor) else torch.from_numpy(_writable(values, what))
        if numbers.is_complex():
            raise DataError(f"LaTF: {what} must be real numbers; got a tensor of {numbers.dtype}.")
        if numbers.ndim != 2 or numbers.shape[1] != width:
            raise DataError(f"LaTF: expected an array (n, {width}) of {what}; got {tuple(numbers.shape)}.")
        tensor = numbers.to(self.feature_mean)
        finite = torch.isfinite(tensor)
        if not finite.all():
            row, column = torch.nonzero(~finite)[0].tolist()
            raise DataError(f"LaTF: {what} are not finite in row {row}, column {column}.")
        if isinstance(values, Tensor):
            return function(tensor)
        with torch.no_grad():
            return function(tensor).cpu().numpy()


def _digest(text: str, numbers: dict[str, Tensor]) -> str:
    """The first sixteen letters of the SHA-256 of a text and of numbers with their names."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(numbers.items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _writable(values: object, what: str) -> np.ndarray:
    """Numbers as an array of floats that torch may share; single precision stays what it is."""
    array = arguments.real_numbers("LaTF", what, values)
    return np.require(array, array.dtype if array.dtype in (np.float32, np.float64) else np.float64, ["C", "W"])


def _content_of(path: str | Path) -> dict:
    """What a file written by `LaTF.save` holds."""
    try:
        data, kind = archives.read_archive(path)
    except archives.ArchiveError as error:
        raise DataError(f"{path}: cannot be read as a LaTF model: {error}.") from error
    if kind == archives.TORCHSCRIPT:
        raise DataError(f"{path}: is a CV file or another TorchScript program, not a LaTF model; see LatentCV.load.")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds Python objects besides tensors and numbers, which could run any code; it is no LaTF model, "
            "and was not loaded."
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        raise DataError(f"{path}: cannot be read as a LaTF model: it is damaged.") from error
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or "settings" not in content:
        raise DataError(f"{path}: is not a LaTF model, though torch wrote it; see LaTF.save.")
    if version not in READABLE:
        remedy = "update latf_sampling" if version > FORMAT else "train it again"
        readable = f"{READABLE[0]} to {READABLE[-1]}"
        raise DataError(f"{path}: is a LaTF model of format {version}, and this version reads {readable}; {remedy}.")
    return content


def _check_provenance(model: LaTF) -> None:
    """Raise a ValueError where what a model states about its training cannot be; earlier versions state less."""
    known = model.provenance
    temperatures = np.asarray(known["temperatures"], float)
    possible = np.isfinite(temperatures) & (temperatures > 0)
    if not (temperatures.ndim == 1 and len(temperatures) and possible.all()):
        raise ValueError("its temperatures are none")
    if not isinstance(known["density"], bool) or not float(known["minimum_effective_size"]) >= 0:
        raise ValueError("what it states about its training is none")
    if known.get("temperature_mode", "steered") not in ("reweighted", "thermodynamic", "steered"):
        raise ValueError(f"there is no temperature_mode {known['temperature_mode']!r}")
    if not 0 < float(model.boltzmann) < np.inf:
        raise ValueError("its Boltzmann constant is none")
    sampled = np.asarray(known.get("well_sampled", temperatures), float)
    if sampled.ndim != 1 or not np.isin(sampled, temperatures).all():
        raise ValueError("its well_sampled temperatures are none of those that it was trained at")
    if "thermodynamics" in known:
        shape = np.shape(known["thermodynamics"]["parameters"])
        if len(shape) != 3 or shape[1:] != (3, model.n_states) or len(known["thermodynamics"]["reach"]) != 2:
            raise ValueError("its thermodynamics are none")


def _standard_error(values: list[Array]) -> Array:
    """Standard deviation over the members of an ensemble, so much larger that 1.96 of them make a 95 % interval.

    The deviation of few members is itself uncertain, for which Student's distribution corrects.
    """
    factor = float(stdtrit(len(values) - 1, 0.975)) / NORMAL_QUANTILE
    if isinstance(values[0], Tensor):
        return factor * torch.stack(cast(list[Tensor], values)).std(0)
    return factor * np.std(values, axis=0, ddof=1)
