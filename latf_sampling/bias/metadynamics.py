"""Well-tempered metadynamics in the learned variables, shared by walkers through a folder."""

from __future__ import annotations

import math
import operator
import zipfile
from pathlib import Path

import numpy as np
import openmm

from latf_sampling import store
from latf_sampling.bias.grid import GridBias
from latf_sampling.bias.umbrella import boltzmann_weights
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB, to_float


class Metadynamics(GridBias):
    """Well-tempered metadynamics, in the manner of `openmm.app.Metadynamics`.

    Every `frequency` steps a Gaussian is added where the walker is, of height h exp(-V(u) / (kB T (gamma - 1))).
    The network is evaluated once per step, whatever the dimension. Sources: Barducci, Bussi, Parrinello,
    doi:10.1103/PhysRevLett.100.020603; offset c(t): Tiwary and Parrinello, doi:10.1021/jp504920s; walkers that share
    a bias: Raiteri et al., doi:10.1021/jp054359r.

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
        Hill width in units of `cv.sigma`.
    save_frequency, directory, walker
        To share the bias: every so many steps (none: at each hill) this walker's hills are written to
        ``directory/<walker>.npz`` and those of the other walkers are read. Hills that the file holds already are
        taken up, so that a simulation can go on.

    Attributes
    ----------
    hills : numpy.ndarray (n, d + 2)
        This walker's hills: step, centre (d), height.

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
        width: float = 1.0,
        save_frequency: int | None = None,
        directory: str | Path | None = None,
        walker: str = "walker",
    ) -> None:
        self.temperature = to_float(temperature, "temperature", "temperature")
        self.height = to_float(height, "energy", "height")
        self.bias_factor = float(bias_factor)
        self.frequency = _whole(frequency, "frequency")
        self.save_frequency = self.frequency if save_frequency is None else _whole(save_frequency, "save_frequency")
        for name, value, least in (
            ("temperature", self.temperature, 0),
            ("height", self.height, 0),
            ("width", width, 0),
            ("bias_factor", self.bias_factor, 1),
            ("frequency", self.frequency, 0),
            ("save_frequency", self.save_frequency, 0),
        ):
            if not (math.isfinite(value) and value > least):
                raise SettingsError(f"Metadynamics: {name} must be more than {least}; got {value}.")
        if self.save_frequency % self.frequency:
            raise SettingsError(
                f"Metadynamics: save_frequency ({save_frequency}) must be a multiple of frequency ({frequency})."
            )
        super().__init__(cv, width * cv.sigma)
        self.hills = np.empty((0, cv.dim + 2))
        self._file = None if directory is None else Path(directory) / f"{walker}.npz"
        self._taken: dict[str, np.ndarray] = {}  # hills of each other walker that are in the grid
        if self._file is not None:
            if self._file.exists():
                self.hills = self._read(self._file)
                self._add(self.hills)
            self._take_up_others()
        self._attach(system)
        self._pushed = True  # whether the force has the grid as it is

    def rewind(self, step: int) -> None:
        """Forget this walker's hills after a step, where a simulation goes on from an earlier state."""
        self.hills = self.hills[self.hills[:, 0] <= step]
        self._start_over()
        if self._file is not None:
            self._write()
            self._take_up_others()

    def step(self, simulation: openmm.app.Simulation, steps: int) -> None:
        """Simulate so many steps, adding hills at whole multiples of `frequency`."""
        if not self._pushed:
            self._push(simulation.context)
        self._force.refresh(simulation.context)
        while steps > 0:
            part = min(steps, self.frequency - simulation.currentStep % self.frequency)
            try:
                simulation.step(part)
            except openmm.OpenMMException as error:
                raise SimulationError(
                    f"Metadynamics: the simulation stopped near step {simulation.currentStep} ({error})."
                ) from error
            steps -= part
            if simulation.currentStep % self.frequency == 0:
                self._deposit(simulation)

    def free_energy(self) -> np.ndarray:
        """Free energy at the nodes of `axes`, kJ/mol, from the bias: -V gamma / (gamma - 1), lowest value 0."""
        surface = -self.on_grid() * self.bias_factor / (self.bias_factor - 1)
        return surface - surface.min()

    def offset(self) -> float:
        """c(t), kJ/mol: the free-energy cost of the bias so far, by which V(u, t) is put on one scale for all t."""
        bias = self.on_grid() / (KB * self.temperature)
        whole = bias * self.bias_factor / (self.bias_factor - 1)
        rest = bias / (self.bias_factor - 1)
        return KB * self.temperature * (_log_sum_exp(whole) - _log_sum_exp(rest))

    def weights(self, u: np.ndarray) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the bias as it is now, on frames at latent points (n, d)."""
        return boltzmann_weights(self.energy(u), self.temperature)

    def _deposit(self, simulation: openmm.app.Simulation) -> None:
        u = self.values(simulation.context)
        if not np.isfinite(u).all():
            raise SimulationError(
                f"Metadynamics: the collective variable is {u} at step {simulation.currentStep}; the simulation "
                "exploded."
            )
        # A walker held outside the box by the walls adds its hill at the face, where the grid can hold it.
        u = np.clip(u, self.low, self.high)
        height = self.height * math.exp(-float(self.energy(u)[0]) / (KB * self.temperature * (self.bias_factor - 1)))
        self.hills = np.vstack([self.hills, [simulation.currentStep, *u, height]])
        self._add(self.hills[-1:])
        if self._file is not None and simulation.currentStep % self.save_frequency == 0:
            self._write()
            self._take_up_others()
        self._push(simulation.context)

    def _push(self, context: openmm.Context) -> None:
        super()._push(context)
        self._pushed = True

    def _start_over(self) -> None:
        """Make the grid hold this walker's hills and no others."""
        self._taken.clear()
        self.coefficients[...] = 0
        self._pushed = False
        self._add(self.hills)

    def _add(self, hills: np.ndarray) -> None:
        for hill in hills:
            self._add_hill(hill[1:-1], hill[-1])

    def _write(self) -> None:
        with store.replacing(self._file) as temporary:
            np.savez(temporary, hills=self.hills, width=self.width)

    def _take_up_others(self) -> None:
        others = {p.name: self._read(p) for p in sorted(self._file.parent.glob("[!.]*.npz")) if p != self._file}
        if any(not np.array_equal(others.get(name, [])[: len(had)], had) for name, had in self._taken.items()):
            self._start_over()  # a walker was rewound: hills that are in the grid are no longer in its file
        for name, hills in others.items():
            self._add(hills[len(self._taken.get(name, ())) :])
        self._taken = others

    def _read(self, path: Path) -> np.ndarray:
        try:
            with np.load(path) as content:
                hills, width = content["hills"], content["width"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise SimulationError(f"{path}: cannot be read as hills ({error}).") from error
        if hills.ndim != 2 or hills.shape[1] != self.cv.dim + 2:
            raise SimulationError(
                f"{path}: holds hills of another number of dimensions; give each bias a directory of its own."
            )
        if not np.allclose(width, self.width):
            raise SimulationError(
                f"{path}: holds hills of width {width}, not {self.width}; give each bias a directory of its own."
            )
        return hills


def _whole(value, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise SettingsError(f"Metadynamics: {name} must be a whole number of steps; got {value!r}.")
    return operator.index(value)


def _log_sum_exp(values: np.ndarray) -> float:
    largest = values.max()
    return float(largest + np.log(np.exp(values - largest).sum()))
