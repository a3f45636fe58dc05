"""On-the-fly probability enhanced sampling (OPES)."""

from __future__ import annotations

import json
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openmm
from numpy.typing import ArrayLike

from latf_sampling.bias.adaptive import AdaptiveBias, AdaptiveOptions
from latf_sampling.bias.arguments import check_parts, hill_widths, number_above
from latf_sampling.bias.density import Density
from latf_sampling.bias.excluded import ExcludedRegion
from latf_sampling.bias.fluctuations import WINDOW, Fluctuations
from latf_sampling.bias.grid import FLAT, Grid, Region
from latf_sampling.bias.kernels import Kernels
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core import arguments, storage
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB, EnergyLike, TemperatureLike, to_float, to_kelvin

NARROWEST = (0.2, 0.35, 0.4)
"""Default of `narrowest` in 1, 2 and 3 dimensions: by Silverman's rule kernels get there after 4200, 540 and 490
effective frames. A finer grid, of which every kernel changes all visited nodes, would cost more than it gains. With
3000 kernels in 3 dimensions the limit 0.4 was not reached, and 0.8 moved the bias by 3.7 kJ/mol, root mean square."""
SPACING = (0.25, 0.25, 0.5)
"""Distance of grid nodes in widths of the narrowest kernels. In 3 dimensions memory allows no finer grid; the spline
then smooths the bias by less than kT / 8."""


class OPES(AdaptiveBias[Density]):
    """OPES in the flavor that flattens a well-tempered distribution ("metad").

    V(u) = (1 - 1/gamma) kT ln(P(u)/Z + epsilon), with P the reweighted density of the visited points, as a sum of
    kernels that are merged as they come, Z its mean over the visited region, and epsilon = exp(-barrier / (kT (1 -
    1/gamma))) so that the bias spans about `barrier`, and a few kT more where P is far above its mean. In contrast to
    metadynamics the bias is coarse at once and then only refined. Merging depends on the order of the kernels, which
    differs between walkers that share a bias: so do their merged kernels, by what merging costs. Here V has a constant
    added that makes it zero where no walker was. Source: Invernizzi and Parrinello, doi:10.1021/acs.jpclett.0c00497.

    With ``explore=True`` P is the density of the visited points without weights, the well-tempered one, and V(u) =
    (gamma - 1) kT ln(P(u)/Z + epsilon), with epsilon accordingly. This bias keeps changing, so that walkers leave
    states that the variable does not tell apart: they explore more, and estimates converge later. Frames are weighted
    by exp(V/kT) as without it, and `free_energy`, -gamma kT ln P(u), fluctuates more than what they give. Source:
    Invernizzi and Parrinello, doi:10.1021/acs.jctc.2c00152.

    Kernels and biases are those of OPES_METAD and OPES_METAD_EXPLORE in PLUMED, but for the grid.

    Parameters
    ----------
    system, cv, temperature
        As for `Metadynamics`.
    barrier
        Highest free-energy barrier to be crossed, kJ/mol, or a quantity.
    frequency
        Steps between kernels.
    bias_factor
        gamma > 1; `None` is barrier / kT, and infinity or "inf" a uniform target, which ``explore=True`` cannot have.
    width
        Width of the first kernels in units of `cv.sigma`, one number or (d,), and with ``explore=True`` times the
        square root of gamma, by which the target widens free-energy minima. Kernels get narrower as their number grows,
        by Silverman's rule. Where a pass is not much wider than that, and walkers cross rarely, half of it is better.
        Or "adaptive", which is SIGMA=ADAPTIVE of PLUMED: the fluctuation of the walker around its mean over the last
        ten times at which kernels are added, averaged over the simulation, and reduced to what it would be without
        bias. No kernel is added at the first nine of these times. A uniform target needs given widths.
    narrowest
        Kernels never get narrower than this, in units of `cv.sigma` times `width`, or of `cv.sigma` for adaptive widths
        (SIGMA_MIN of PLUMED); `None` is 0.2, 0.35 and 0.4 in 1, 2 and 3 dimensions. Wider kernels smear out narrow
        passes, narrower ones need a finer grid: its number of nodes, and the time for a kernel, grow as
        1 / narrowest^d.
    explore
        Whether P is the density of the visited points as it is, not reweighted; see above.
    excluded_region
        Where no kernels are added (EXCLUDED_REGION of PLUMED), so that the bias hardly changes there but by the tails
        of kernels outside, for example in a transition region whose passages are counted: boxes (n, d, 2) of lowest and
        highest values of the variable, which may be infinite, one box (d, 2), or a function that takes points (n, d)
        and returns whether each is in the region, (n,).
    trust, walls, save_frequency, directory, walker, backend, read_only
        As for `Metadynamics`. `save` also writes ``directory/<walker>.npz``, the merged kernels, so that a later run
        needs only the history since.

    Attributes
    ----------
    hill_width : numpy.ndarray (d,)
        `width` times `cv.sigma`, or `cv.sigma` for adaptive widths.
    kernels : Kernels
        The merged kernels of all walkers.
    effective_sample_size : float
        Of the frames that P is estimated from.
    state : Density
        P.

    Raises
    ------
    SettingsError
        A number is out of range, the barrier is below kT, the excluded region is nothing or everything, or the bias
        factor is infinite with ``explore=True`` or adaptive widths.
    SimulationError
        The grid would be too large, or the files of the directory are damaged, or belong to another bias or process.

    Examples
    --------
    >>> bias = OPES(system, cv, 300.0, barrier=40.0, frequency=500)  # doctest: +SKIP
    >>> bias = OPES(system, cv, 300.0, 40.0, 500, explore=True, width="adaptive")  # doctest: +SKIP
    >>> bias.step(simulation, 100_000)  # doctest: +SKIP
    """

    def __init__(
        self,
        system: openmm.System,
        cv: CollectiveVariable,
        temperature: TemperatureLike,
        barrier: EnergyLike,
        frequency: int,
        *,
        bias_factor: float | Literal["inf"] | None = None,
        width: float | np.ndarray | Literal["adaptive"] = 1.0,
        narrowest: float | None = None,
        explore: bool = False,
        excluded_region: Callable[[np.ndarray], np.ndarray] | ArrayLike | None = None,
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
        self.barrier = number_above("OPES", "barrier", to_float(barrier, "energy", "OPES: barrier"), 0)
        kT = KB * temperature
        if bias_factor is None and not self.barrier > kT:
            raise SettingsError(f"OPES: barrier must be more than kT = {kT:.3g} kJ/mol; got {self.barrier}.")
        if bias_factor is None:
            bias_factor = self.barrier / kT
        uniform = isinstance(bias_factor, (str, float, np.floating)) and bias_factor in ("inf", math.inf)
        self.bias_factor = math.inf if uniform else number_above("OPES", "bias_factor", bias_factor, 1)
        arguments.instance("OPES", "explore", explore, bool, "True or False")
        self.explore, self.adaptive_widths = explore, isinstance(width, str)
        if self.adaptive_widths and width != "adaptive":
            raise SettingsError(f"OPES: width must be a number, (d,) numbers or 'adaptive'; got '{width}'.")
        if uniform and (explore or self.adaptive_widths):
            what = "explore=True" if explore else "width='adaptive'"
            raise SettingsError(f"OPES: {what} needs a finite bias_factor; got {bias_factor}.")
        self._prefactor = kT * (self.bias_factor - 1 if explore else 1 - 1 / self.bias_factor)
        self._epsilon = math.exp(-self.barrier / self._prefactor)
        if not self._epsilon > sys.float_info.min:
            raise SettingsError(
                f"OPES: barrier must be less than {-math.log(sys.float_info.min) * self._prefactor:.4g} kJ/mol at a "
                f"bias_factor of {self.bias_factor:g}; got {self.barrier:g}."
            )
        dimension = min(cv.dim, 3) - 1
        self.narrowest = NARROWEST[dimension] if narrowest is None else number_above("OPES", "narrowest", narrowest, 0)
        hill_width = cv.sigma if self.adaptive_widths else hill_widths("OPES", width, cv)
        self._first_width = hill_width * (math.sqrt(self.bias_factor) if explore else 1.0)
        if self.narrowest > 1:
            raise SettingsError(f"OPES: narrowest must be at most 1; got {self.narrowest:g}.")
        grid = Grid(cv, hill_width, self.narrowest * SPACING[dimension])
        self._excluded = None if excluded_region is None else ExcludedRegion(excluded_region, grid)
        if directory is not None:
            arguments.path("OPES", "directory", directory, "a folder")
        self._state_file = None if directory is None else Path(directory) / f"{walker}.npz"
        self._fluctuations = Fluctuations(cv.dim, self.bias_factor)
        self._log_weight_without_bias = -self.barrier / kT
        super().__init__(
            system,
            cv,
            grid,
            temperature,
            frequency,
            AdaptiveOptions(trust, walls, save_frequency, directory, walker, backend, read_only),
            fields=[*(f"sigma_u{k}" for k in range(cv.dim)), "logweight"],
            settings={
                "bias": self._kind(NARROWEST[dimension]),
                "temperature": repr(temperature),
                "barrier": repr(self.barrier),
                "biasfactor": repr(self.bias_factor),
            },
        )

    @property
    def kernels(self) -> Kernels:
        """The merged kernels of all walkers."""
        return self.state.kernels

    @property
    def epsilon(self) -> float:
        """What is added to the normalized density, so that the bias does not exceed the barrier."""
        return self._epsilon

    @property
    def _excludes_region(self) -> bool:
        """Whether there is an excluded region."""
        return self._excluded is not None

    @property
    def effective_sample_size(self) -> float:
        """Of the frames that the density is estimated from."""
        return self.state.effective_sample_size()

    def _kind(self, narrowest: float) -> str:
        """The settings that kernels of one history share, besides numbers, as far as they are not the default."""
        words = ["opes", "explore" * self.explore, "adaptive" * self.adaptive_widths]
        words.append(f"narrowest {self.narrowest!r}" * (self.narrowest != narrowest))
        if self._excluded is not None:
            words.append(f"excluded {self._excluded.digest}")
        return " ".join(filter(None, words))

    def _limits(self) -> dict[str, tuple[float, float]]:
        # The density is at most as many times its mean as there are kernels: 1e6 of them are more than fit in memory.
        kT = KB * self.temperature
        return {"logweight": (-self.barrier / kT - 1e-3, self._prefactor / kT * math.log(1e6))}

    def _empty_state(self) -> Density:
        kT = KB * self.temperature
        cutoff = math.sqrt(2 * self.barrier / (kT if self.explore else self._prefactor))
        unbiased = 1.0 if self.explore else math.exp(-self.barrier / kT)
        return Density(self.grid.first, self.grid.step, self.grid.counts, cutoff, unbiased)

    def _new_kernel(self, context: openmm.Context, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        log_weight = (bias - self.barrier) / (KB * self.temperature)
        return np.array([*u, *self._kernel_width(u, log_weight), log_weight])

    def _kernel_width(self, u: np.ndarray, log_weight: float) -> np.ndarray:
        """Width (d,) of the kernel at a walker's next position; zeros where none is added."""
        d, narrowest = self.cv.dim, self.narrowest * self.hill_width
        excluded = self._excluded is not None and bool(self._excluded(u[None])[0])
        if self.adaptive_widths:
            fluctuations = self._fluctuations_so_far()
            fluctuations.add(u, log_weight != self._log_weight_without_bias)
            if excluded or fluctuations.count < WINDOW:
                return np.zeros(d)
            share = 1.0 if self.explore else 1 / math.sqrt(self.bias_factor)
            first = np.maximum(share * fluctuations.kernel_width(), narrowest)
        elif excluded:
            return np.zeros(d)
        else:
            first = self._first_width
        # Kernels without weights count as one frame each, however they are distributed.
        size = self.state.sum_of_weights + 1 if self.explore else self.state.effective_sample_size(math.exp(log_weight))
        return np.maximum(first * (size * (d + 2) / 4) ** (-1 / (d + 4)), narrowest)  # Silverman's rule

    def _fluctuations_so_far(self) -> Fluctuations:
        """Of all positions of this walker; anew from its history, if that was read or rewound."""
        rows, d = self.own_kernels, self.cv.dim
        if self._fluctuations.count != len(rows):
            self._fluctuations = Fluctuations(d, self.bias_factor)
            for row in rows:
                self._fluctuations.add(row[1 : 1 + d], row[-1] != self._log_weight_without_bias)
                if row[1 + d] > 0:
                    self._fluctuations.kernel_width()
        return self._fluctuations

    def _add_kernel(self, state: Density, kernel: np.ndarray) -> Region:
        d = self.cv.dim
        center, width = kernel[1 : 1 + d], kernel[1 + d : -1]
        if not width.all():  # a position without a kernel
            return (slice(0, 0),) * d
        weight = 1.0 if self.explore else math.exp(kernel[-1])
        state.add(center, width, weight, weight * float(np.prod(self.hill_width / width)))
        return self.grid.everything if self._touches_faces(state) else state.visited

    def _coefficients_of(self, state: Density) -> np.ndarray:
        coefficients = np.zeros(self.grid.counts)
        if not len(state.kernels):
            return coefficients
        # Values as coefficients: a spline that smooths by a hair, and unlike one through the values never overshoots at
        # the edge of the visited region. Elsewhere they are zero. In place, since it is done for every kernel.
        values = np.maximum(state.values[state.visited], 0)
        values /= state.mean
        values += self._epsilon
        np.log(values, out=values)
        values *= self._prefactor
        values += self.barrier
        coefficients[state.visited] = values
        if self._touches_faces(state):
            return np.pad(coefficients[(slice(FLAT, -FLAT),) * self.cv.dim], FLAT, mode="edge")
        return coefficients

    def _free_energy_of(self, state: Density) -> np.ndarray:
        """-kT ln P(u), or with ``explore=True`` -gamma kT ln P(u); infinite where no kernel is."""
        values = np.maximum(state.values[self.grid.between_walls()], 0)
        surface = np.full(values.shape, np.inf)
        visited = values > 0
        factor = self.bias_factor if self.explore else 1.0
        surface[visited] = -factor * KB * self.temperature * np.log(values[visited] / values.max())
        return surface

    def offset(self) -> float:
        """What V has to be lowered by, kJ/mol, to be on one scale for all times: here a constant, the barrier."""
        return self.barrier

    def save(self) -> None:
        """Write kernels and merged kernels to the disk."""
        super().save()
        if self._state_file is None or self.neighbors is None or self.read_only:
            return
        self._repair()
        rows, neighbors = len(self.history.rows), json.dumps(self.neighbors.offsets())
        with storage.atomic_write(self._state_file) as temporary:
            # The name of the second array is that of files which exist already.
            np.savez(
                temporary,
                allow_pickle=False,
                rows=rows,
                neighbours=neighbors,
                latest=self.latest,
                **self.state.arrays(),
            )

    def saved(self) -> dict[str, Any] | None:
        saved = super().saved()
        if saved is None or self._state_file is None:
            return None
        return {**saved, "state": storage.checksum(self._state_file)}

    def _load_state(self) -> int:
        if self._state_file is None or self.neighbors is None or not self._state_file.exists():
            return 0
        try:
            with np.load(self._state_file) as file:
                arrays = {name: file[name] for name in file.files}
            rows, offsets = int(arrays["rows"]), json.loads(str(arrays["neighbours"]))
            latest = float(arrays["latest"])
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
        self.latest = latest
        return rows

    def _touches_faces(self, state: Density) -> bool:
        """Whether the visited region reaches coefficients that have to be equal across a face."""
        return bool((state.low < FLAT).any() or (state.high > np.array(self.grid.counts) - FLAT).any())
