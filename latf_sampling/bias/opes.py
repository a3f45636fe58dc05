"""On-the-fly probability enhanced sampling (OPES) in the learned variables."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import openmm

from latf_sampling.bias.adaptive import AdaptiveBias
from latf_sampling.bias.arguments import checked, hill_widths
from latf_sampling.bias.density import Density
from latf_sampling.bias.grid import FLAT, SPACING
from latf_sampling.bias.kernels import Kernels
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core import storage
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB, to_float, to_kelvin

NARROWEST = (0.2, 0.35, 0.8)
"""Kernels get narrower as there are more, down to so many times their first width, in 1, 2 and 3 dimensions: by
Silverman's rule that takes some thousand entries, and a finer grid would cost more than it gives."""


class OPES(AdaptiveBias):
    """OPES in the flavour that flattens a well-tempered distribution ("metad").

    V(u) = (1 - 1/gamma) kT ln(P(u)/Z + epsilon), with P the reweighted density of what was visited, as a sum of kernels
    that are merged as they come, Z its mean over the visited region, and epsilon = exp(-barrier / (kT (1 - 1/gamma)))
    so that the bias spans about `barrier`, and a few kT more where P is far above its mean. In contrast to
    metadynamics the bias is coarse at once and then only refined. Merging depends on the order of the entries, which
    differs between walkers that share a bias: so do their kernels, by what merging costs. Here V has a constant added
    that makes it zero where nothing was visited. Source: Invernizzi and Parrinello,
    doi:10.1021/acs.jpclett.0c00497.

    Parameters
    ----------
    system, cv, temperature
        As for `Metadynamics`.
    barrier
        Highest free-energy barrier to be crossed, kJ/mol, or a quantity.
    frequency
        Steps between kernels.
    bias_factor
        gamma > 1; none is barrier / kT.
    width
        Width of the first kernels in units of `cv.sigma`, one number or (d,). They get narrower as there are more, down
        to 0.2, 0.35 and 0.8 of it in 1, 2 and 3 dimensions. Where a pass is not much wider than that, and walkers cross
        rarely, half of it is better.
    trust, walls, save_frequency, directory, walker
        As for `Metadynamics`. `save` also writes ``directory/<walker>.npz``, the merged kernels, so that going on needs
        only the history since.

    Attributes
    ----------
    kernels : Kernels
        The merged kernels of all walkers.
    effective_sample_size : float
        Of the entries that P is made of.

    Raises
    ------
    SettingsError
        A number is out of range, or the barrier is below kT.

    Examples
    --------
    >>> bias = OPES(system, cv, 300.0, barrier=40.0, frequency=500)  # doctest: +SKIP
    >>> bias.step(simulation, 100_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        system: openmm.System,
        cv: LatentCV,
        temperature,
        barrier,
        frequency: int,
        *,
        bias_factor: float | None = None,
        width: float | np.ndarray = 1.0,
        trust: TrustRegion | None = None,
        walls: bool = True,
        save_frequency: int | None = None,
        directory: str | Path | None = None,
        walker: str = "walker",
    ) -> None:
        temperature = to_kelvin(temperature, "OPES: temperature")
        self.barrier = checked("OPES", "barrier", to_float(barrier, "energy", "barrier"), 0)
        kT = KB * temperature
        if bias_factor is None and not self.barrier > kT:
            raise SettingsError(f"OPES: barrier must be more than kT = {kT:.3g} kJ/mol; got {self.barrier}.")
        self.bias_factor = checked("OPES", "bias_factor", self.barrier / kT if bias_factor is None else bias_factor, 1)
        self._share = 1 - 1 / self.bias_factor
        self._epsilon = math.exp(-self.barrier / (kT * self._share))
        if not self._epsilon > sys.float_info.min:
            raise SettingsError(
                f"OPES: barrier must be less than {-math.log(sys.float_info.min) * kT * self._share:.4g} kJ/mol at a "
                f"bias_factor of {self.bias_factor:g}; got {self.barrier:g}."
            )
        super().__init__(
            cv,
            hill_widths("OPES", width, cv),
            temperature,
            frequency,
            spacing=NARROWEST[min(cv.dim, 3) - 1] * SPACING,
            trust=trust,
            walls=walls,
            save_frequency=save_frequency,
            directory=directory,
            walker=walker,
            fields=[*(f"sigma_u{k}" for k in range(cv.dim)), "logweight"],
            settings={
                "bias": "opes",
                "temperature": repr(temperature),
                "barrier": repr(self.barrier),
                "biasfactor": repr(self.bias_factor),
            },
        )
        self._state = None if directory is None else Path(directory) / f"{walker}.npz"
        self._begin(system)

    @property
    def kernels(self) -> Kernels:
        return self._density.kernels

    @property
    def effective_sample_size(self) -> float:
        return self._density.effective_sample_size()

    def free_energy(self) -> np.ndarray:
        """Free energy at the nodes of `axes`, kJ/mol, -kT ln P(u), lowest value 0; infinite where no kernel is."""
        return self._free_energy_of(self._density)

    def offset(self) -> float:
        """What V has to be lowered by, kJ/mol, to be on one scale for all times: here a constant, the barrier."""
        return self.barrier

    def save(self) -> None:
        """Bring entries and the merged kernels to the disk."""
        super().save()
        if self._state is None:
            return
        if not self._whole:
            self._rebuild()
            self._force.publish()
        rows, neighbours = len(self._history.rows), json.dumps(self._neighbours.places())
        with storage.atomic_write(self._state) as temporary:
            np.savez(temporary, rows=rows, neighbours=neighbours, **self._density.state())

    def _restore(self) -> int:
        if self._state is None or not self._state.exists():
            return 0
        try:
            with np.load(self._state) as state:
                content = {name: state[name] for name in state.files}
            rows, places = int(content["rows"]), json.loads(str(content["neighbours"]))
            # Not if it is later than what the walker goes on from, or on another grid.
            taken = rows <= len(self._history.rows) and self._density.restore(content)
        except (OSError, EOFError, TypeError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
            raise SimulationError(
                f"{self._state}: cannot be read ({error}); delete it, and the kernels are made from the history."
            ) from error
        if not taken:
            storage.remove(self._state)
            return 0
        self._neighbours.resume(places)
        return rows

    def _entry(self, simulation: openmm.app.Simulation, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        log_weight = (bias - self.barrier) / (KB * self.temperature)
        size, d = self._density.effective_sample_size(math.exp(log_weight)), self.cv.dim
        # Silverman's rule for the width of kernels
        share = max(NARROWEST[d - 1], (size * (d + 2) / 4) ** (-1 / (d + 4)))
        return np.array([*u, *(share * self.width), log_weight])

    def _take_up(self, entry: np.ndarray) -> None:
        self._add(self._density, entry)

    def _add(self, density: Density, entry: np.ndarray) -> None:
        d = self.cv.dim
        center, width, weight = entry[1 : 1 + d], entry[1 + d : -1], math.exp(entry[-1])
        density.add(center, width, weight, weight * float(np.prod(self.width / width)))

    def _settle(self) -> None:
        self._spread(self._density, self.coefficients, self._fixed)

    def _spread(self, density: Density, coefficients: np.ndarray, fixed: np.ndarray | None = None) -> None:
        """Set coefficients to those of the bias by a density, with something fixed on top, where it is not zero."""
        if not len(density.kernels):
            return
        visited, faces = density.visited, np.array(coefficients.shape) - FLAT
        # Values as coefficients: a spline that smooths by a hair, and unlike one through the values never overshoots at
        # the edge of what was visited. Elsewhere they are zero. In place, since it is done for every kernel.
        values = np.maximum(density.values[visited], 0)
        values /= density.mean
        values += self._epsilon
        np.log(values, out=values)
        values *= self._share * KB * self.temperature
        values += self.barrier
        if (density.low < FLAT).any() or (density.high > faces).any():
            whole = np.zeros(coefficients.shape)
            whole[visited] = values
            values = np.pad(whole[(slice(FLAT, -FLAT),) * self.cv.dim], FLAT, mode="edge")
            visited = ...
        coefficients[visited] = values if fixed is None else values + fixed[visited]

    def _empty(self) -> np.ndarray:
        self._density = self._nothing()
        return super()._empty()

    def _nothing(self) -> Density:
        kT = KB * self.temperature
        cutoff = math.sqrt(2 * self.barrier / (self._share * kT))
        return Density(self._first, self._step, self.coefficients.shape, cutoff, math.exp(-self.barrier / kT))

    def _coefficients_of(self, density: Density) -> np.ndarray:
        coefficients = np.zeros(self.coefficients.shape)
        self._spread(density, coefficients)
        return coefficients

    def _free_energy_of(self, density: Density) -> np.ndarray:
        values = np.maximum(density.values[self._between()], 0)
        surface = np.full(values.shape, np.inf)
        there = values > 0
        surface[there] = -KB * self.temperature * np.log(values[there] / values.max())
        return surface
