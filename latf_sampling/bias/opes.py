"""On-the-fly probability enhanced sampling (OPES)."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openmm

from latf_sampling.bias.adaptive import AdaptiveBias, AdaptiveOptions
from latf_sampling.bias.arguments import check_parts, hill_widths, number_above
from latf_sampling.bias.density import Density
from latf_sampling.bias.grid import FLAT, SPACING, Grid, Region
from latf_sampling.bias.kernels import Kernels
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core import arguments, storage
from latf_sampling.cv.variable import Variable
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB, EnergyLike, TemperatureLike, to_float, to_kelvin

NARROWEST = (0.2, 0.35, 0.8)
"""Kernels get narrower as their number grows, down to this share of their first width, in 1, 2 and 3 dimensions: by
Silverman's rule that takes some thousand kernels, and a finer grid would cost more than it gains."""


class OPES(AdaptiveBias[Density]):
    """OPES in the flavor that flattens a well-tempered distribution ("metad").

    V(u) = (1 - 1/gamma) kT ln(P(u)/Z + epsilon), with P the reweighted density of the visited points, as a sum of
    kernels that are merged as they come, Z its mean over the visited region, and epsilon = exp(-barrier / (kT (1 -
    1/gamma))) so that the bias spans about `barrier`, and a few kT more where P is far above its mean. In contrast to
    metadynamics the bias is coarse at once and then only refined. Merging depends on the order of the kernels, which
    differs between walkers that share a bias: so do their merged kernels, by what merging costs. Here V has a constant
    added that makes it zero where no walker was. Source: Invernizzi and Parrinello, doi:10.1021/acs.jpclett.0c00497.

    Parameters
    ----------
    system, cv, temperature
        As for `Metadynamics`.
    barrier
        Highest free-energy barrier to be crossed, kJ/mol, or a quantity.
    frequency
        Steps between kernels.
    bias_factor
        gamma > 1; `None` is barrier / kT.
    width
        Width of the first kernels in units of `cv.sigma`, one number or (d,). Kernels get narrower as their number
        grows, down to 0.2, 0.35 and 0.8 of it in 1, 2 and 3 dimensions. Where a pass is not much wider than that, and
        walkers cross rarely, half of it is better.
    trust, walls, save_frequency, directory, walker, backend, read_only
        As for `Metadynamics`. `save` also writes ``directory/<walker>.npz``, the merged kernels, so that a later run
        needs only the history since.

    Attributes
    ----------
    hill_width : numpy.ndarray (d,)
        Width of the first kernels in the unit of the variable: `width` times `cv.sigma`.
    kernels : Kernels
        The merged kernels of all walkers.
    effective_sample_size : float
        Of the frames that P is estimated from.
    state : Density
        P.

    Raises
    ------
    SettingsError
        A number is out of range, or the barrier is below kT.
    SimulationError
        The grid would be too large, or the files of the directory are damaged, or belong to another bias or process.

    Examples
    --------
    >>> bias = OPES(system, cv, 300.0, barrier=40.0, frequency=500)  # doctest: +SKIP
    >>> bias.step(simulation, 100_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        system: openmm.System,
        cv: Variable,
        temperature: TemperatureLike,
        barrier: EnergyLike,
        frequency: int,
        *,
        bias_factor: float | None = None,
        width: float | np.ndarray = 1.0,
        trust: TrustRegion | None = None,
        walls: bool = True,
        save_frequency: int | None = None,
        directory: str | Path | None = None,
        walker: str = "walker",
        backend: str = "auto",
        read_only: bool = False,
    ) -> None:
        check_parts("OPES", system, cv)
        temperature = to_kelvin(temperature, "OPES: temperature")
        self.barrier = number_above("OPES", "barrier", to_float(barrier, "energy", "barrier"), 0)
        kT = KB * temperature
        if bias_factor is None and not self.barrier > kT:
            raise SettingsError(f"OPES: barrier must be more than kT = {kT:.3g} kJ/mol; got {self.barrier}.")
        factor = self.barrier / kT if bias_factor is None else bias_factor
        self.bias_factor = number_above("OPES", "bias_factor", factor, 1)
        self._share = 1 - 1 / self.bias_factor
        self._epsilon = math.exp(-self.barrier / (kT * self._share))
        if not self._epsilon > sys.float_info.min:
            raise SettingsError(
                f"OPES: barrier must be less than {-math.log(sys.float_info.min) * kT * self._share:.4g} kJ/mol at a "
                f"bias_factor of {self.bias_factor:g}; got {self.barrier:g}."
            )
        grid = Grid(cv, hill_widths("OPES", width, cv), NARROWEST[min(cv.dim, 3) - 1] * SPACING)
        if directory is not None:
            arguments.path("OPES", "directory", directory, "a folder")
        self._state_file = None if directory is None else Path(directory) / f"{walker}.npz"
        super().__init__(
            system,
            cv,
            grid,
            temperature,
            frequency,
            AdaptiveOptions(trust, walls, save_frequency, directory, walker, backend, read_only),
            fields=[*(f"sigma_u{k}" for k in range(cv.dim)), "logweight"],
            settings={
                "bias": "opes",
                "temperature": repr(temperature),
                "barrier": repr(self.barrier),
                "biasfactor": repr(self.bias_factor),
            },
        )

    @property
    def kernels(self) -> Kernels:
        return self.state.kernels

    @property
    def effective_sample_size(self) -> float:
        return self.state.effective_sample_size()

    def empty_state(self) -> Density:
        kT = KB * self.temperature
        cutoff = math.sqrt(2 * self.barrier / (self._share * kT))
        return Density(self.grid.first, self.grid.step, self.grid.counts, cutoff, math.exp(-self.barrier / kT))

    def new_kernel(self, context: openmm.Context, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        log_weight = (bias - self.barrier) / (KB * self.temperature)
        size, d = self.state.effective_sample_size(math.exp(log_weight)), self.cv.dim
        # Silverman's rule for the width of kernels
        share = max(NARROWEST[d - 1], (size * (d + 2) / 4) ** (-1 / (d + 4)))
        return np.array([*u, *(share * self.hill_width), log_weight])

    def add_kernel(self, state: Density, kernel: np.ndarray) -> Region:
        d = self.cv.dim
        center, width, weight = kernel[1 : 1 + d], kernel[1 + d : -1], math.exp(kernel[-1])
        state.add(center, width, weight, weight * float(np.prod(self.hill_width / width)))
        return self.grid.everything if self._touches_faces(state) else state.visited

    def coefficients_of(self, state: Density) -> np.ndarray:
        coefficients = np.zeros(self.grid.counts)
        if not len(state.kernels):
            return coefficients
        # Values as coefficients: a spline that smooths by a hair, and unlike one through the values never overshoots at
        # the edge of the visited region. Elsewhere they are zero. In place, since it is done for every kernel.
        values = np.maximum(state.values[state.visited], 0)
        values /= state.mean
        values += self._epsilon
        np.log(values, out=values)
        values *= self._share * KB * self.temperature
        values += self.barrier
        coefficients[state.visited] = values
        if self._touches_faces(state):
            return np.pad(coefficients[(slice(FLAT, -FLAT),) * self.cv.dim], FLAT, mode="edge")
        return coefficients

    def free_energy_of(self, state: Density) -> np.ndarray:
        """-kT ln P(u); infinite where no kernel is."""
        values = np.maximum(state.values[self.grid.between_walls()], 0)
        surface = np.full(values.shape, np.inf)
        visited = values > 0
        surface[visited] = -KB * self.temperature * np.log(values[visited] / values.max())
        return surface

    def offset(self) -> float:
        """What V has to be lowered by, kJ/mol, to be on one scale for all times: here a constant, the barrier."""
        return self.barrier

    def save(self) -> None:
        """Write kernels and merged kernels to the disk."""
        super().save()
        if self._state_file is None or self.neighbors is None or self.read_only:
            return
        self.repair()
        rows, neighbors = len(self.history.rows), json.dumps(self.neighbors.offsets())
        with storage.atomic_write(self._state_file) as temporary:
            # The name of the second array is that of files which exist already.
            np.savez(temporary, allow_pickle=False, rows=rows, neighbours=neighbors, **self.state.arrays())

    def saved(self) -> dict[str, Any] | None:
        saved = super().saved()
        if saved is None or self._state_file is None:
            return None
        return {**saved, "state": storage.checksum(self._state_file)}

    def load_state(self) -> int:
        if self._state_file is None or self.neighbors is None or not self._state_file.exists():
            return 0
        try:
            with np.load(self._state_file) as file:
                arrays = {name: file[name] for name in file.files}
            rows, offsets = int(arrays["rows"]), json.loads(str(arrays["neighbours"]))
            # Not if it is later than what the walker continues from, or on another grid.
            loaded = rows <= len(self.history.rows) and self.state.load(arrays)
        except (OSError, EOFError, TypeError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
            raise SimulationError(
                f"{self._state_file}: cannot be read ({error}); delete it, and the kernels are made from the history."
            ) from error
        if not loaded:
            if not self.read_only:
                storage.remove(self._state_file)
            return 0
        self.neighbors.seek(offsets)
        return rows

    def _touches_faces(self, state: Density) -> bool:
        """Whether the visited region reaches coefficients that have to be equal across a face."""
        return bool((state.low < FLAT).any() or (state.high > np.array(self.grid.counts) - FLAT).any())
