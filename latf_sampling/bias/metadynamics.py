"""Well-tempered metadynamics in the learned variables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import openmm
from scipy.special import logsumexp

from latf_sampling.bias.adaptive import AdaptiveBias
from latf_sampling.bias.arguments import checked, hill_widths
from latf_sampling.bias.grid import SPACING
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.units import KB, to_float, to_kelvin

NARROWEST, WIDEST = 0.5, 2.0
"""Limits of adaptive widths, in units of `cv.sigma`."""


class Metadynamics(AdaptiveBias):
    """Well-tempered metadynamics, in the manner of `openmm.app.Metadynamics`.

    Every `frequency` steps a Gaussian is added where the walker is, of height h exp(-V(u) / (kB T (gamma - 1))).
    The network is evaluated once per step, whatever the dimension. Sources: Barducci, Bussi, Parrinello,
    doi:10.1103/PhysRevLett.100.020603; offset c(t): Tiwary and Parrinello, doi:10.1021/jp504920s; walkers that share
    a bias: Raiteri et al., doi:10.1021/jp054359r; adaptive widths: Branduardi, Bernetti, Parrinello,
    doi:10.1021/ct3002464.

    Parameters
    ----------
    system
        Gets the force, in a force group of its own.
    cv
        The collective variable, of 1 to 3 dimensions.
    temperature
        K, or a quantity; the temperature of the simulation.
    bias_factor
        gamma > 1.
    height
        Height of the first hills, kJ/mol, or a quantity.
    frequency
        Steps between hills.
    width
        Hill width in units of `cv.sigma`, one number or (d,). Or "adaptive": `cv.sigma` times the length of the
        variable's gradient where the hill is put, relative to its mean over the training frames, between 0.5 and 2.
        The volume of adaptive hills does not depend on their width, so that the bias has nearly the same limit; weigh
        frames for a free energy, rather than to read it off the bias.
    model
        Start from the free energy of this `LaTF` instead of from nothing, as a `FlowBias` has it.
    trust
        Region to hold the walker in, besides the walls; see `TrustRegion`.
    walls
        Whether walls push back into the box of the training data and three hill widths around it.
    save_frequency, directory, walker
        To keep hills on the disk and share the bias: every so many steps (none: at each hill) this walker's hills are
        added to ``directory/<walker>.hills`` and those of the other walkers in the folder are read. Hills that the
        file holds already are taken up, so that a simulation can go on; see `rewind`.

    Attributes
    ----------
    hills : numpy.ndarray (n, 2 d + 2)
        This walker's hills: step, centre (d), width (d), height.

    Raises
    ------
    SettingsError
        A number is out of range; names it.
    SimulationError
        The grid would be too large, or the files of the directory belong to another bias or process.

    Examples
    --------
    >>> bias = Metadynamics(system, cv, 300.0, bias_factor=10, height=1.0, frequency=250)  # doctest: +SKIP
    >>> bias.step(simulation, 100_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        system: openmm.System,
        cv: LatentCV,
        temperature,
        bias_factor: float,
        height,
        frequency: int,
        *,
        width: float | np.ndarray | str = 1.0,
        model: LaTF | None = None,
        trust: TrustRegion | None = None,
        walls: bool = True,
        save_frequency: int | None = None,
        directory: str | Path | None = None,
        walker: str = "walker",
    ) -> None:
        temperature = to_kelvin(temperature, "Metadynamics: temperature")
        self.height = checked("Metadynamics", "height", to_float(height, "energy", "height"), 0)
        self.bias_factor = checked("Metadynamics", "bias_factor", bias_factor, 1)
        self.adaptive = isinstance(width, str)
        if self.adaptive and width != "adaptive":
            raise SettingsError(f"Metadynamics: width must be a number, (d,) numbers or 'adaptive'; got '{width}'.")
        if self.adaptive and cv.steepness is None:
            raise SettingsError(
                "Metadynamics: adaptive widths need a variable that knows its mean gradient; export it with training "
                "frames, LatentCV.from_model(model, features, positions)."
            )
        widths = cv.sigma if self.adaptive else hill_widths("Metadynamics", width, cv)
        super().__init__(
            cv,
            widths,
            temperature,
            frequency,
            spacing=NARROWEST * SPACING if self.adaptive and cv.dim < 3 else SPACING,  # finer would not fit in 3-D
            trust=trust,
            walls=walls,
            save_frequency=save_frequency,
            directory=directory,
            walker=walker,
            fields=[*(f"sigma_u{k}" for k in range(cv.dim)), "height"],
            settings={
                "bias": "metadynamics",
                "temperature": repr(temperature),
                "biasfactor": repr(self.bias_factor),
                "start": "nothing" if model is None else f"flow {model.fingerprint()}",
            },
        )
        self._start = None if model is None else self.flow_surface(model, temperature, 1 - 1 / self.bias_factor)
        self._begin(system)

    @property
    def hills(self) -> np.ndarray:
        return self._history.rows

    def free_energy(self) -> np.ndarray:
        """Free energy at the nodes of `axes`, kJ/mol, from the bias: -V gamma / (gamma - 1), lowest value 0."""
        return self._free_energy_of(self._added())

    def offset(self) -> float:
        """c(t), kJ/mol: the free-energy cost of the bias so far, by which V(u, t) is put on one scale for all t."""
        bias = self._at_nodes(self._added()) / (KB * self.temperature)
        whole, rest = (bias * share / (self.bias_factor - 1) for share in (self.bias_factor, 1))
        return KB * self.temperature * float(logsumexp(whole) - logsumexp(rest))

    def _entry(self, simulation: openmm.app.Simulation, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        # Hills at the end of the grid would push a walker that is beyond further out, however many there were.
        height = on_grid * self.height * math.exp(-bias / (KB * self.temperature * (self.bias_factor - 1)))
        width = self.width
        if self.adaptive:
            share = np.clip(self.cv.gradient_of_context(simulation.context) / self.cv.steepness, NARROWEST, WIDEST)
            width, height = self.width * share, height / np.prod(share)
        return np.array([*u, *width, height])

    def _empty(self) -> np.ndarray:
        return self._nothing()

    def _take_up(self, hill: np.ndarray) -> None:
        self._add(self.coefficients, hill)

    def _nothing(self) -> np.ndarray:
        return np.zeros(self.coefficients.shape) if self._start is None else self._start.copy()

    def _add(self, coefficients: np.ndarray, hill: np.ndarray) -> None:
        d = self.cv.dim
        self._add_hill(coefficients, hill[1 : 1 + d], hill[1 + d : -1], hill[-1])

    def _coefficients_of(self, coefficients: np.ndarray) -> np.ndarray:
        return coefficients

    def _free_energy_of(self, coefficients: np.ndarray) -> np.ndarray:
        surface = -self._at_nodes(coefficients) * self.bias_factor / (self.bias_factor - 1)
        return surface - surface.min()
