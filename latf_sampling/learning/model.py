"""The Latent Thermodynamic Flow as its users see it: questions answered in arrays, a file, and what it was trained on.

x are descriptors at time t, y is the metastable state one lag later, u the latent variable; the networks and their
equations are in `networks.py`. Source: Qiu, John, Herron, Tiwary, arXiv:2507.03174.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from latf_sampling.analysis.thermodynamics import GibbsHelmholtz, StateThermodynamics
from latf_sampling.core import arguments
from latf_sampling.core.notebook import ShownInNotebooks
from latf_sampling.core.words import plural
from latf_sampling.errors import DataError, ExtrapolationWarning, LatfError, SettingsError, TrainingError
from latf_sampling.learning.flow import LatentFlow
from latf_sampling.learning.marginals import MarginalMap
from latf_sampling.learning.model_file import check_provenance, read_content, write_content
from latf_sampling.learning.networks import Networks
from latf_sampling.settings import ModelSettings
from latf_sampling.units import KB, TemperatureLike, to_kelvin

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
FARTHEST_TEMPERATURE = 1e6
"""Factor between a temperature and the reference, either way, beyond which it is an error of units; samples of the
prior need their ratio in single precision."""
POPULATION_SAMPLES = 20_000
"""Latent samples that populations of states are counted on."""

Array = TypeVar("Array", np.ndarray, Tensor)


class LaTF(ShownInNotebooks):
    """A model to be trained with `latf_sampling.train`, saved, loaded, evaluated and exported.

    Ask it for `encode` and `assign` of descriptors; at a temperature for `sample`, `log_prob` and `free_energy` of
    latent points, and `populations` and `thermodynamics` of states; for `extrapolates` and `effective_sample_size`,
    whether to believe them; and `save` it.

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
    provenance : dict
        Seed, data and settings of the training.
    latent_bounds : Tensor (d, 2)
        Range of the collective variable over the training data.
    latent_spread : Tensor (d,)
        Standard deviation of the collective variable within a state.
    networks : Networks
        The torch module behind it all: encoder, decoder, flow.

    Examples
    --------
    >>> model = LaTF(latent_dim=2, reference_temperature=300.0)
    >>> model.encode(np.zeros((5, 3)))
    Traceback (most recent call last):
    ...
    latf_sampling.errors.TrainingError: LaTF: the model is not trained yet; call latf_sampling.train first.
    """

    def __init__(self, settings: ModelSettings | None = None, **kwargs: Any) -> None:
        if settings is not None:
            arguments.instance("LaTF", "settings", settings, ModelSettings, "ModelSettings, or LaTF(latent_dim=2, ...)")
        if settings is not None and kwargs:
            raise SettingsError(f"LaTF: give settings or their fields ({', '.join(kwargs)}), not both.")
        self.settings = settings if settings is not None else ModelSettings(**kwargs)
        self.trained = False
        self.boltzmann = KB
        self.provenance: dict = {}
        self._networks: Networks | None = None

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
    def networks(self) -> Networks:
        """The torch module: encoder, decoder, prior and flow, which training makes once it knows the states.

        Raises
        ------
        TrainingError
            It has not been made yet.
        """
        if self._networks is None:
            raise TrainingError("LaTF: the model is not trained yet; call latf_sampling.train first.")
        return self._networks

    @networks.setter
    def networks(self, networks: Networks) -> None:
        self._networks = networks

    @property
    def n_features(self) -> int:
        """Number of descriptors F."""
        return self.networks.n_features

    @property
    def n_states(self) -> int:
        """Number of metastable states that training found."""
        return self.networks.n_states

    @property
    def reweighted(self) -> bool:
        """Whether the flow depends on temperature itself."""
        return self.networks.reweighted

    @property
    def latent_bounds(self) -> Tensor:
        """Range of the collective variable over the training data (d, 2)."""
        return self.networks.latent_bounds

    @property
    def latent_spread(self) -> Tensor:
        """Standard deviation of the collective variable within a state (d,)."""
        return self.networks.latent_spread

    @property
    def latent_dim(self) -> int:
        """Dimension d of the collective variable.

        Raises
        ------
        TrainingError
            The settings leave it to the number of states, which training is to find.
        """
        if self._networks is not None:
            return self._networks.latent_dim
        if self.settings.latent_dim is None:
            raise TrainingError(
                "LaTF: the model is not trained yet, and latent_dim is one less than the states that training finds; "
                "call latf_sampling.train first."
            )
        return self.settings.latent_dim

    @property
    def temperature_mode(self) -> str:
        """The mode of the settings, or what "auto" came to; models of earlier versions have two of them."""
        self._require_training()
        return self.provenance.get("temperature_mode", "reweighted" if self.reweighted else "steered")

    def encode(self, x: Array) -> Array:
        """Collective variable mu(x) of descriptors (frames, F); returns (frames, d)."""
        return self._apply_to(self.networks.mean, x, self.n_features, "descriptors")

    def assign(self, x: Array) -> Array:
        """Most likely metastable state after one lag, of descriptors (frames, F); returns (frames,) integers."""
        networks = self.networks
        return self._apply_to(
            lambda t: networks.decoder(networks.mean(t)).argmax(-1), x, self.n_features, "descriptors"
        )

    def state_probabilities(self, u: Array) -> Array:
        """Probability of each metastable state one lag after latent points (n, d); returns (n, n_states)."""
        decoder = self.networks.decoder
        return self._apply_to(lambda t: decoder(t).softmax(-1), u, self.latent_dim, "latent dimensions")

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

        value = log_prob_of(self.networks.flow)
        return (value, _standard_error([log_prob_of(flow) for flow in self._members()])) if return_std else value

    @property
    def used_components(self) -> list[int]:
        """Latent components that are no linear function of the ones before.

        Two states are distinguished by one number, and three by two: an encoder with more components than that makes
        the last ones functions of the others. The density of the latent space then is a needle or a sheet, which a grid
        does not resolve; `marginal_log_prob` is that of the used components.
        """
        self._require_training()
        return self.networks.flow.used

    def marginal_log_prob(self, u: Array, temperature: TemperatureLike | None = None) -> Array:
        """Normalized log density of the used components (n, k) alone, at a temperature (default: the reference); (n,).

        Where all components are used, it is `log_prob`.
        """
        scale, flow = self._scale(temperature), self.networks.flow
        return self._apply_to(
            lambda t: flow.marginal_log_prob(t, torch.tensor(scale, device=t.device)),
            u,
            len(flow.used),
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

        With `return_std` a pair: the populations and their standard errors, from the ensemble of flows. A thermodynamic
        flow learns populations from the states and energies of the frames, and knows no more than these: its errors are
        at least those of the Gibbs-Helmholtz equation, which do not hang on the scatter of a few flows.
        """
        scale = self._scale(temperature)

        def populations_of(flow: LatentFlow) -> np.ndarray:
            with torch.no_grad():
                u = flow.sample(POPULATION_SAMPLES, scale, self._generator(seed))
                states = self.networks.decoder(u).argmax(-1)
            return torch.bincount(states, minlength=self.n_states).cpu().numpy() / POPULATION_SAMPLES

        value = populations_of(self.networks.flow)
        if not return_std:
            return value
        error = _standard_error([populations_of(flow) for flow in self._members()])
        if self.temperature_mode == "thermodynamic":
            error = np.fmax(error, self.gibbs_helmholtz().populations(self._temperature(temperature))[1])
        return value, error

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
        other.networks = self.networks.for_validation()
        return other

    def effective_sample_size(self, temperature: TemperatureLike | None = None) -> float:
        """Number of equally weighted frames that would be as informative about a temperature as all training frames.

        Frames that follow each other closely are counted in full, though they are less informative than independent
        ones. Without energies, frames of a temperature count there and nowhere else.
        """
        self._require_training()
        inverse = 1 / self._temperature(temperature)
        known, sizes = self.networks.inverse_temperatures, self.networks.effective_sizes
        return float(np.interp(inverse, known.cpu().numpy(), sizes.cpu().numpy(), left=0.0, right=0.0))

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
            return self.networks.flow.sample(n, scale, self._generator(seed)).cpu().numpy()

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
            f"{name}."
            for name, part in self.networks.named_modules()
            if isinstance(part, MarginalMap) and part.straight
        )
        state = self.networks.state_dict()
        numbers = {name: value for name, value in state.items() if not name.startswith(straight)}
        return _digest(json.dumps([settings, self.boltzmann], sort_keys=True), numbers)

    def encoder_fingerprint(self) -> str:
        """Sixteen letters that two models have in common only if they have the same collective variable.

        A variable that is exported from the model carries them, so that it is not taken for that of another training.
        """
        self._require_training()
        parts = ("encoder.", "feature_", "log_variance")
        state = self.networks.state_dict()
        return _digest("", {name: value for name, value in state.items() if name.startswith(parts)})

    def save(self, path: str | Path) -> None:
        """Write the model to one file, at once or not at all."""
        path = arguments.path("LaTF.save", "path", path)
        self._require_training()
        content = {
            "settings": self.settings.model_dump(mode="json"),
            "n_features": self.n_features,
            "n_states": self.n_states,
            "latent_dim": self.latent_dim,
            "reweighted": self.reweighted,
            "members": len(self.networks.ensemble),
            "boltzmann": self.boltzmann,
            "provenance": self.provenance,
            "state": self.networks.state_dict(),
        }
        write_content(path, content)

    @classmethod
    def load(cls, path: str | Path) -> LaTF:
        """Read a model written by `save`. The file is data: nothing in it is run.

        Raises
        ------
        DataError
            The file is missing, damaged, something else, or of another format.
        """
        content = read_content(path)
        try:
            model = cls(**content["settings"])
            with torch.random.fork_rng(devices=[]):  # first weights come from torch's global generator
                shape = content["n_features"], content["n_states"], content["reweighted"], content.get("latent_dim")
                networks = model.networks = Networks(model.settings, *shape)
            networks.ensemble.extend(copy.deepcopy(networks.flow) for _ in range(content["members"]))
            model.boltzmann, model.provenance = content["boltzmann"], content["provenance"]
            for name in ("inverse_temperatures", "effective_sizes"):
                setattr(networks, name, content["state"][name])  # their lengths are those of the training
            state = content["state"]
            if content["format"] < 5:
                state = {name: value for name, value in networks.state_dict().items() if ".marginals." in name} | state
            networks.load_state_dict(state)
            check_provenance(model.provenance, model.n_states, model.boltzmann)
            networks.requires_grad_(False)
            model.trained = True
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, LatfError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise DataError(f"{path}: is damaged as a LaTF model ({reason}).") from error
        return model

    def _require_training(self) -> None:
        if not self.trained:
            raise TrainingError("LaTF: the model is not trained yet; call latf_sampling.train first.")

    def _temperature(self, temperature: TemperatureLike | None) -> float:
        if temperature is None:
            return self.settings.reference_temperature
        value, reference = to_kelvin(temperature, "LaTF: temperature"), self.settings.reference_temperature
        if not 1 / FARTHEST_TEMPERATURE <= value / reference <= FARTHEST_TEMPERATURE:
            raise SettingsError(
                f"LaTF: temperature must be within a factor of {FARTHEST_TEMPERATURE:g} of the reference temperature, "
                f"{reference:g} K; got {value:g} K."
            )
        return value

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
        generator = torch.Generator(device=self.networks.feature_mean.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(arguments.whole("LaTF", "seed", seed) % 2**64)
        return generator

    def _members(self) -> list[LatentFlow]:
        ensemble = self.networks.ensemble
        if len(ensemble) < 2:
            raise TrainingError("LaTF: a standard error needs an ensemble; train with ensemble=4, for example.")
        return [cast(LatentFlow, flow) for flow in ensemble]

    def _apply_to(self, function: Callable[[Tensor], Tensor], values: Array, width: int, what: str) -> Array:
        """A function of tensors (n, width) applied to an array or a tensor; the result is of the same kind."""
        self._require_training()
        numbers = values if isinstance(values, Tensor) else torch.from_numpy(_writable(values, what))
        if numbers.is_complex():
            raise DataError(f"LaTF: {what} must be real numbers; got a tensor of {numbers.dtype}.")
        if numbers.ndim != 2 or numbers.shape[1] != width:
            remedy = ""
            if tuple(numbers.shape) == (width,):
                remedy = "; one row is values[None]"
            elif what == "descriptors":
                remedy = "; measure the descriptors of the training, in their order"
            raise DataError(f"LaTF: expected an array (n, {width}) of {what}; got {tuple(numbers.shape)}{remedy}.")
        tensor = numbers.to(self.networks.feature_mean)
        finite = torch.isfinite(tensor)
        if not finite.all():
            row, column = torch.nonzero(~finite)[0].tolist()
            raise DataError(
                f"LaTF: {what} are not finite in row {row}, column {column} ({tensor[row, column]:g}); leave the row "
                "out."
            )
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


def _standard_error(values: list[Array]) -> Array:
    """Standard deviation over the members of an ensemble, so much larger that 1.96 of them make a 95 % interval.

    The deviation of few members is itself uncertain, for which Student's distribution corrects.
    """
    factor = float(stdtrit(len(values) - 1, 0.975)) / NORMAL_QUANTILE
    if isinstance(values[0], Tensor):
        return factor * torch.stack(cast(list[Tensor], values)).std(0)
    return factor * np.std(values, axis=0, ddof=1)
