"""Well-tempered metadynamics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import openmm
from scipy.special import logsumexp

from latf_sampling.bias.adaptive import AdaptiveBias, AdaptiveOptions
from latf_sampling.bias.arguments import check_model, check_parts, hill_widths, number_above
from latf_sampling.bias.flow_density import flow_surface
from latf_sampling.bias.grid import SPACING, Grid, Region
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.errors import SettingsError
from latf_sampling.units import KB, EnergyLike, TemperatureLike, to_float, to_kelvin

if TYPE_CHECKING:
    from latf_sampling.learning.model import LaTF

NARROWEST, WIDEST = 0.5, 2.0
"""Limits of adaptive widths, in units of `cv.sigma`."""
VISITED = 2.0
"""c(t) is computed from the nodes within so many widths of a first hill, and a little more where hills overlap. In 150
runs in two components with a known c(t), in whose box walkers visited half, it drifted by 0.8 kJ/mol, from all nodes
of the box by 1.7, and with five widths more on each side by 2.3, with hills of kT / 10; errors of free energies were
1.23, 1.27 and 1.30 kJ/mol, and 92, 94 and 95 % of the intervals held. With hills of 0.4 kT the noise of the bias
decides: 1.32, 1.33, 1.34 kJ/mol, and 91 % each. From 1 to 4 widths nothing else changes."""


class Metadynamics(AdaptiveBias[np.ndarray]):
    """Well-tempered metadynamics, in the manner of `openmm.app.Metadynamics`.

    Every `frequency` steps a Gaussian hill is added where the walker is, of height h exp(-V(u) / (kB T (gamma - 1))).
    The variable is evaluated once per step, whatever its dimension. Sources: Barducci, Bussi, Parrinello,
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
        variable's gradient at the center of the hill, relative to its mean over the training frames, between 0.5 and
        2. The volume of adaptive hills does not depend on their width, so that the bias has nearly the same limit;
        for a free energy weight the frames, rather than reading it off the bias.
    model
        Start from the free energy of this `LaTF`, like a `FlowBias`, instead of from zero.
    trust
        Region that the walker is held in, besides the walls; see `TrustRegion`.
    walls
        Whether walls push back into the box of the training data and three hill widths around it.
    save_frequency, directory, walker
        To keep hills on the disk and share the bias: every so many steps (`None`: at each hill) this walker's hills are
        added to ``directory/<walker>.hills``, and those of the other walkers in the folder are read. Hills that the
        file contains at the start are part of the bias, so that a simulation can be continued; see `rewind`.
    backend
        What evaluates the force: "torchforce", "pythonforce", or "auto" for the faster one.
    read_only
        Rebuild the bias from its files, to evaluate it, also while other processes write them: nothing is locked or
        written, and the system gets no force.

    Attributes
    ----------
    hill_width : numpy.ndarray (d,)
        Width of hills in the unit of the variable: `width` times `cv.sigma`.
    hills : numpy.ndarray (n, 2 d + 2)
        This walker's hills: step, center (d), width (d), height.
    state : numpy.ndarray
        Coefficients of the sum of all walkers' hills.

    Raises
    ------
    SettingsError
        A number is out of range; the message names it.
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
        cv: CollectiveVariable,
        temperature: TemperatureLike,
        bias_factor: float,
        height: EnergyLike,
        frequency: int,
        *,
        width: float | np.ndarray | Literal["adaptive"] = 1.0,
        model: LaTF | None = None,
        trust: TrustRegion | None = None,
        walls: bool = True,
        save_frequency: int | None = None,
        directory: str | Path | None = None,
        walker: str = "walker",
        backend: str = "auto",
        read_only: bool = False,
    ) -> None:
        check_parts("Metadynamics", system, cv)
        if model is not None:
            check_model("Metadynamics", model, cv)
        temperature = to_kelvin(temperature, "Metadynamics: temperature")
        self.height = number_above("Metadynamics", "height", to_float(height, "energy", "Metadynamics: height"), 0)
        self.bias_factor = number_above("Metadynamics", "bias_factor", bias_factor, 1)
        self.adaptive_widths = isinstance(width, str)
        if self.adaptive_widths and width != "adaptive":
            raise SettingsError(f"Metadynamics: width must be a number, (d,) numbers or 'adaptive'; got '{width}'.")
        if self.adaptive_widths and cv.steepness is None:
            raise SettingsError(
                "Metadynamics: adaptive widths need a variable with a known mean gradient; export it with training "
                "frames, LatentCV.from_model(model, features, positions)."
            )
        hill_width = cv.sigma if self.adaptive_widths else hill_widths("Metadynamics", width, cv)
        finer = self.adaptive_widths and cv.dim < 3  # in 3-D a finer grid would not fit into memory
        grid = Grid(cv, hill_width, NARROWEST * SPACING if finer else SPACING)
        share = 1 - 1 / self.bias_factor
        self._start = np.zeros(grid.counts) if model is None else flow_surface(grid, model, temperature, share)
        super().__init__(
            system,
            cv,
            grid,
            temperature,
            frequency,
            AdaptiveOptions(trust, walls, save_frequency, directory, walker, backend, read_only),
            fields=[*(f"sigma_u{k}" for k in range(cv.dim)), "height"],
            settings={
                "bias": "metadynamics",
                "temperature": repr(temperature),
                "biasfactor": repr(self.bias_factor),
                "start": "nothing" if model is None else f"flow {model.fingerprint()}",
            },
        )

    @property
    def hills(self) -> np.ndarray:
        """This walker's hills (n, 2 d + 2): step, center (d), width (d), height."""
        return self.own_kernels

    @property
    def _starts_from_flow(self) -> bool:
        """Whether the bias was not zero before the first hill."""
        return bool(self._start.any())

    @property
    def _highest(self) -> float:
        """The height that no hill exceeds, kJ/mol: that of the first, or of the narrowest of adaptive ones."""
        share = NARROWEST**self.cv.dim if self.adaptive_widths else 1.0
        lowest = min(float(self._start.min()), 0.0)  # a flow's free energy counts from its minimum
        return self.height / share * math.exp(-lowest / (KB * self.temperature * (self.bias_factor - 1)))

    def _limits(self) -> dict[str, tuple[float, float]]:
        # A spline may be some hundredths below zero beside a hill.
        return {"height": (0.0, 1.05 * self._highest)}

    def _empty_state(self) -> np.ndarray:
        return self._start.copy()

    def _new_kernel(self, context: openmm.Context, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        # Hills at the end of the grid would push a walker that is beyond further out, however many there were.
        height = on_grid * self.height * math.exp(-bias / (KB * self.temperature * (self.bias_factor - 1)))
        width = self.hill_width
        if self.adaptive_widths and self.cv.steepness is not None:
            share = np.clip(self.cv.gradient_of_context(context) / self.cv.steepness, NARROWEST, WIDEST)
            width, height = self.hill_width * share, height / np.prod(share)
        return np.array([*u, *width, height])

    def _add_kernel(self, state: np.ndarray, kernel: np.ndarray) -> Region:
        d = self.cv.dim
        return self.grid.add_hill(state, center=kernel[1 : 1 + d], width=kernel[1 + d : -1], height=kernel[-1])

    def _coefficients_of(self, state: np.ndarray) -> np.ndarray:
        return state

    def _free_energy_of(self, state: np.ndarray) -> np.ndarray:
        """-V gamma / (gamma - 1)."""
        surface = -self.grid.at_nodes(state) * self.bias_factor / (self.bias_factor - 1)
        return surface - surface.min()

    def offset(self) -> float:
        """c(t), kJ/mol: the free-energy cost of the bias so far, by which V(u, t) is put on one scale for all t.

        From the nodes between the walls that walkers have visited, or that the model which the bias started from puts
        density on, so that it does not depend on the size of the box.
        """
        bias = self.grid.at_nodes(self.state)
        # A first hill is so high at least, so that a node counts once a hill is near, and from then on for good.
        lowest = self.height / (WIDEST**self.cv.dim if self.adaptive_widths else 1)
        bias = bias[bias >= lowest * math.exp(-0.5 * VISITED**2)] / (KB * self.temperature)
        if not len(bias):
            return 0.0
        above, below = (bias * factor / (self.bias_factor - 1) for factor in (self.bias_factor, 1))
        return KB * self.temperature * float(np.asarray(logsumexp(above)) - np.asarray(logsumexp(below)))
