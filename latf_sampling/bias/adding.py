"""What metadynamics and OPES share: a bias that walkers add to as they go, alone or together, and can go on with."""

from __future__ import annotations

import math
import operator
import re
from pathlib import Path

import numpy as np
import openmm

from latf_sampling.bias.grid import SPACING, GridBias
from latf_sampling.bias.history import SUFFIX, History, Neighbours
from latf_sampling.bias.trust import TrustRegion
from latf_sampling.bias.umbrella import boltzmann_weights
from latf_sampling.cv import LatentCV
from latf_sampling.errors import SettingsError, SimulationError


class AddingBias(GridBias):
    """Every `frequency` steps, an entry is made where the walker is, kept in a history and taken up in the grid.

    A kind of bias says what an entry is (`_entry`), and how it changes the coefficients (`_take_up`). Everything else
    follows from the entries: the bias of a simulation that goes on is made by taking up those of its history again, one
    by one in their order, so that it has every bit that it had.
    """

    _whole = False  # whether the grid holds every entry that was made or read; not after an interruption

    def __init__(
        self,
        cv: LatentCV,
        width: np.ndarray,
        temperature: float,
        frequency: int,
        *,
        fields: list[str],
        settings: dict[str, str],
        spacing: float = SPACING,
        trust: TrustRegion | None = None,
        walls: bool = True,
        save_frequency: int | None = None,
        directory: str | Path | None = None,
        walker: str = "walker",
    ) -> None:
        self.temperature = temperature
        self.frequency = _whole(self, frequency, "frequency")
        self.save_frequency = (
            self.frequency if save_frequency is None else _whole(self, save_frequency, "save_frequency")
        )
        if self.save_frequency % self.frequency:
            raise SettingsError(
                f"{type(self).__name__}: save_frequency ({save_frequency}) must be a multiple of frequency "
                f"({frequency})."
            )
        if not re.fullmatch(r"[^./][^/]*", walker):
            raise SettingsError(f"{type(self).__name__}: walker must be a name to call a file by; got {walker!r}.")
        super().__init__(cv, width, walls=walls, spacing=spacing)
        self.trust = trust
        self._fixed = None if trust is None else self._spline_through(trust.wall(self._nodes(), self.width))
        fields = ["step", *(f"u{k}" for k in range(cv.dim)), *fields]
        settings = {**settings, "variable": cv.fingerprint(), "width": " ".join(map(repr, self.width.tolist()))}
        path = None if directory is None else Path(directory) / f"{walker}{SUFFIX}"
        self._history = History(path, fields, settings)
        self._neighbours = None if path is None else Neighbours(path, fields, settings)
        self._before = (-1, 0.0)  # the step of the last entry, and the bias where it was made
        self._others: list[np.ndarray] = []  # entries of other walkers, in the order in which they were taken up

    def step(self, simulation: openmm.app.Simulation, steps: int) -> None:
        """Simulate so many steps, adding to the bias at whole multiples of `frequency`.

        Raises
        ------
        SimulationError
            The simulation exploded, or goes on from before the end of this walker's history.
        LeftTrustRegion
            The walker left a trust region that says to stop.
        """
        rows = self._history.rows
        if len(rows) and rows[-1, 0] > simulation.currentStep:
            raise SimulationError(
                f"{type(self).__name__}: the walker's history goes on to step {int(rows[-1, 0])}, the simulation is at "
                f"step {simulation.currentStep}. To go on from there call rewind({simulation.currentStep}); for a new "
                "simulation give another directory or walker."
            )
        if not self._whole:
            self._rebuild()
            self._force.publish()
        self._walk(simulation, steps)

    def felt(self, u: np.ndarray, step: int) -> float:
        """Bias at a point (d,) that a walker has reached at a step, kJ/mol, without the entry made at this very step.

        What weighs a frame is the bias that brought it there; its own hill would count it too high.
        """
        return self._before[1] if self._before[0] == step else super().felt(u, step)

    def rewind(self, step: int) -> None:
        """Take back what this walker added after a step, where a simulation goes on from an earlier state.

        After ``simulation.loadCheckpoint(file)``, ``bias.rewind(simulation.currentStep)`` makes the bias what it was
        then: a walker alone then goes on as if it had never stopped, to the last bit on the Reference platform. On
        other platforms, whose forces differ in their last bits from run to run, and with other walkers, whose entries
        come in another order, it goes on along another trajectory of the same distribution.
        """
        self._history.rewind(step)
        self._rebuild()
        self._force.publish()

    def save(self) -> None:
        """Bring entries to the disk that wait for the next multiple of `save_frequency`.

        To be called before ``simulation.saveCheckpoint``, for the history to reach as far as the checkpoint.
        """
        self._history.write()
        self._history.sync()

    def close(self) -> None:
        """`save`, and let another object or process go on as this walker."""
        self.save()
        self._history.close()

    def weights(self, u: np.ndarray) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the bias as it is now, on frames at latent points (n, d)."""
        return boltzmann_weights(self.energy(u), self.temperature)

    def _entry(self, simulation: openmm.app.Simulation, u: np.ndarray, bias: float) -> np.ndarray:
        """What to add at u (d,), where the bias is so high, kJ/mol: a row of the history without its step."""
        raise NotImplementedError

    def _take_up(self, entry: np.ndarray, coefficients: np.ndarray) -> None:
        """Change the coefficients by an entry, a row of a history."""
        raise NotImplementedError

    def _settle(self, coefficients: np.ndarray) -> None:
        """Bring the coefficients up to date after some entries, where `_take_up` does not do it itself."""

    def _restore(self) -> int:
        """Take up a saved state, where the kind of bias has one; returns how many of this walker's entries it holds."""
        return 0

    def _empty(self) -> np.ndarray:
        """Coefficients without any entry."""
        return np.zeros(self.coefficients.shape)

    def _added(self) -> np.ndarray:
        """Coefficients of what was added, without the wall of a trust region."""
        return self.coefficients if self._fixed is None else self.coefficients - self._fixed

    def _look(self, simulation: openmm.app.Simulation) -> None:
        u = self.values(simulation.context)
        self.watch(u)
        # A walker behind a wall adds where the wall stands.
        inside = np.clip(u, self.low, self.high)
        bias = self._interpolated(inside[None], self._added())[0]
        entry = np.array([simulation.currentStep, *self._entry(simulation, inside, bias)])
        self._before = simulation.currentStep, float(self.energy(u)[0])
        self._whole = False
        self._history.add(entry)
        self._take_up(entry, self.coefficients)
        if simulation.currentStep % self.save_frequency == 0:
            self._history.write()
            self._take_up_others()
        self._settle(self.coefficients)
        self._whole = True
        self._force.publish(simulation.context)
        if self.trust is not None:
            self.trust.check(u, simulation.currentStep)

    def _rebuild(self, anew: bool = False) -> None:
        """Make the grid hold this walker's entries, and those of others as far as they are there."""
        self._whole = False
        self.coefficients[...] = self._empty()
        if self._fixed is not None:
            self.coefficients += self._fixed
        self._others.clear()
        if self._neighbours is not None:
            self._neighbours.resume({})
        there = 0 if anew else self._restore()
        for entry in self._history.rows[there:]:
            self._take_up(entry, self.coefficients)
        self._take_up_others()
        self._settle(self.coefficients)
        self._whole = True

    def _take_up_others(self) -> None:
        if self._neighbours is None:
            return
        news, void = self._neighbours.news()
        if void:  # a walker took entries back that are in the grid
            self._rebuild(anew=True)
            return
        for rows in news:
            for entry in rows:
                self._take_up(entry, self.coefficients)
            if len(rows):
                self._others.append(rows)


def checked(bias: object, name: str, value, least: float) -> float:
    """A finite number above a limit.

    Raises
    ------
    SettingsError
        It is not; names it.
    """
    if not (math.isfinite(value) and value > least):
        raise SettingsError(f"{type(bias).__name__}: {name} must be more than {least}; got {value}.")
    return float(value)


def hill_widths(bias: object, width, cv: LatentCV) -> np.ndarray:
    """Widths (d,) in the latent space, from one number or (d,) in units of `cv.sigma`."""
    try:
        given = np.asarray(width, np.float64)
    except (TypeError, ValueError):  # not numbers
        given = np.empty(0)
    given = np.full(cv.dim, given) if given.ndim == 0 else given
    if given.shape != (cv.dim,):
        raise SettingsError(f"{type(bias).__name__}: width must be one number or {cv.dim}; got {width}.")
    return np.array([checked(bias, "width", one, 0) for one in given]) * cv.sigma


def _whole(bias: object, value, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise SettingsError(f"{type(bias).__name__}: {name} must be a whole number of steps; got {value!r}.")
    checked(bias, name, value, 0)
    return operator.index(value)
