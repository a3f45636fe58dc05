"""On-the-fly probability enhanced sampling (OPES) in the learned variables."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import openmm

from latf_sampling import store
from latf_sampling.bias.adding import AddingBias, checked, hill_widths
from latf_sampling.bias.grid import FLAT, SPACING
from latf_sampling.bias.kernels import Kernels
from latf_sampling.bias.trust import TrustRegion
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB, to_float

NARROWEST = (0.2, 0.35, 0.8)
"""Kernels get narrower as there are more, down to so many times their first width, in 1, 2 and 3 dimensions: by
Silverman's rule that takes some thousand entries, and a finer grid would cost more than it gives."""


class Opes(AddingBias):
    """OPES in the flavour that flattens a well-tempered distribution ("metad").

    V(u) = (1 - 1/gamma) kT ln(P(u)/Z + epsilon), with P the reweighted density of what was visited, as a sum of kernels
    that are merged as they come, Z its mean over the visited region, and epsilon = exp(-barrier / (kT (1 - 1/gamma)))
    so that the bias spans about `barrier`, and a few kT more where P is far above its mean. In contrast to
    metadynamics the bias is coarse at once and then only refined.
    Here V has a constant added that makes it zero where nothing was visited. Source: Invernizzi and Parrinello,
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
        Width of the first kernels in units of `cv.sigma`, one number or (d,).
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
    >>> bias = Opes(system, cv, 300.0, barrier=40.0, frequency=500)  # doctest: +SKIP
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
        temperature = checked(self, "temperature", to_float(temperature, "temperature", "temperature"), 0)
        self.barrier = checked(self, "barrier", to_float(barrier, "energy", "barrier"), 0)
        kT = KB * temperature
        if bias_factor is None and not self.barrier > kT:
            raise SettingsError(f"Opes: barrier must be more than kT = {kT:.3g} kJ/mol; got {self.barrier}.")
        self.bias_factor = checked(self, "bias_factor", self.barrier / kT if bias_factor is None else bias_factor, 1)
        self._share = 1 - 1 / self.bias_factor
        self._epsilon = math.exp(-self.barrier / (kT * self._share))
        if not self._epsilon > sys.float_info.min:
            raise SettingsError(
                f"Opes: barrier must be less than {-math.log(sys.float_info.min) * kT * self._share:.4g} kJ/mol at a "
                f"bias_factor of {self.bias_factor:g}; got {self.barrier:g}."
            )
        super().__init__(
            cv,
            hill_widths(self, width, cv),
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
        self._rebuild()
        self._attach(system)

    @property
    def effective_sample_size(self) -> float:
        return (1 + self._weights) ** 2 / (1 + self._squares)

    def free_energy(self) -> np.ndarray:
        """Free energy at the nodes of `axes`, kJ/mol, -kT ln P(u), lowest value 0; infinite where no kernel is."""
        density = np.maximum(self._density[self._between()], 0)
        surface = np.full(density.shape, np.inf)
        there = density > 0
        surface[there] = -KB * self.temperature * np.log(density[there] / density.max())
        return surface

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
        with store.replacing(self._state) as temporary:
            np.savez(
                temporary,
                **self._grid(),
                rows=len(self._history.rows),
                density=self._density,
                centers=self.kernels.centers,
                widths=self.kernels.widths,
                heights=self.kernels.heights,
                sums=[self.kernels.total, self._weights, self._squares],
                neighbours=json.dumps(self._neighbours.places()),
            )

    def _grid(self) -> dict[str, np.ndarray]:
        return {"first": self._first, "step": self._step, "counts": np.array(self._density.shape)}

    def _restore(self) -> int:
        if self._state is None or not self._state.exists():
            return 0
        try:
            with np.load(self._state) as state:
                content = {name: state[name] for name in state.files}
            rows, (total, weights, squares) = int(content["rows"]), content["sums"].tolist()
            places = json.loads(str(content["neighbours"]))
            kernels = content["centers"], content["widths"], content["heights"]
            same = all(np.array_equal(content[name], value) for name, value in self._grid().items())
        except (OSError, EOFError, TypeError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
            raise SimulationError(
                f"{self._state}: cannot be read ({error}); delete it, and the kernels are made from the history."
            ) from error
        if rows > len(self._history.rows) or not same:  # later than what the walker goes on from, or on another grid
            store.remove(self._state)
            return 0
        self._density[...] = content["density"]
        self.kernels.centers, self.kernels.widths, self.kernels.heights = kernels
        self.kernels.total, self._weights, self._squares = total, weights, squares
        self._neighbours.resume(places)
        return rows

    def _entry(self, simulation: openmm.app.Simulation, u: np.ndarray, bias: float) -> np.ndarray:
        log_weight = (bias - self.barrier) / (KB * self.temperature)
        weight = math.exp(log_weight)
        size = (1 + self._weights + weight) ** 2 / (1 + self._squares + weight**2)
        d = self.cv.dim
        # Silverman's rule for the width of kernels
        share = max(NARROWEST[d - 1], (size * (d + 2) / 4) ** (-1 / (d + 4)))
        return np.array([*u, *(share * self.width), log_weight])

    def _take_up(self, entry: np.ndarray, coefficients: np.ndarray) -> None:
        d = self.cv.dim
        center, width, weight = entry[1 : 1 + d], entry[1 + d : -1], math.exp(entry[-1])
        self._weights += weight
        self._squares += weight**2
        gone, new = self.kernels.add(center, width, weight * float(np.prod(self.width / width)))
        for kernel in gone:
            self._add_kernel(*kernel[:2], -kernel[2])
        self._add_kernel(*new)

    def _settle(self, coefficients: np.ndarray) -> None:
        if not len(self.kernels):
            return
        mean = self.kernels.total / len(self.kernels)
        ratio = np.maximum(self._density, 0) / mean
        values = self._share * KB * self.temperature * np.log(ratio + self._epsilon) + self.barrier
        # Values as coefficients: a spline that smooths by a hair, and unlike one through the values never overshoots at
        # the edge of what was visited.
        coefficients[...] = np.pad(values[(slice(FLAT, -FLAT),) * self.cv.dim], FLAT, mode="edge")
        if self._fixed is not None:
            coefficients += self._fixed

    def _empty(self) -> np.ndarray:
        self.kernels = Kernels(self.cv.dim, math.sqrt(2 * self.barrier / (self._share * KB * self.temperature)))
        self._density = np.zeros(self.coefficients.shape)
        self._weights = math.exp(-self.barrier / (KB * self.temperature))
        self._squares = self._weights**2
        return super()._empty()

    def _add_kernel(self, center: np.ndarray, width: np.ndarray, height: float) -> None:
        """Add a kernel to the density at the nodes."""
        places, square = [], np.zeros(())
        for k, count in enumerate(self._density.shape):
            middle, reach = (center[k] - self._first[k]) / self._step[k], self.kernels.cutoff * width[k] / self._step[k]
            first, last = max(0, math.ceil(middle - reach)), min(count - 1, math.floor(middle + reach))
            last = max(first - 1, last)  # off the grid
            places.append(slice(first, last + 1))
            away = ((np.arange(first, last + 1) - middle) * (self._step[k] / width[k])) ** 2
            square = np.add.outer(square, away)
        lowest = math.exp(-0.5 * self.kernels.cutoff**2)
        self._density[tuple(places)] += height * np.maximum(np.exp(-0.5 * square) - lowest, 0.0)
