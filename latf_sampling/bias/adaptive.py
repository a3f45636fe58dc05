"""What metadynamics and OPES share: a bias that walkers add to as they go, alone or together, and can go on with."""

from __future__ import annotations

import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openmm

from latf_sampling.bias.arguments import latent_points, whole_steps
from latf_sampling.bias.grid import SPACING, GridBias
from latf_sampling.bias.history import SUFFIX, History, Neighbours
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core import storage
from latf_sampling.cv.force import free_group
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import HistoryWarning, SettingsError, SimulationError


class AdaptiveBias(GridBias):
    """Every `frequency` steps, an entry is made where the walker is, kept in a history and taken up in the grid.

    A kind of bias says what an entry is (`_entry`), how it changes the coefficients (`_take_up`), and what entries
    would have made at an earlier time (`_nothing`, `_add`). Everything else follows from the entries: the bias of a
    simulation that goes on is made by taking up those of its history again, one by one in their order, so that it has
    every bit that it had.
    """

    is_adaptive = True
    _whole = False  # whether the grid holds every entry that was made or read; not after an interruption
    _closed = False

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
        name = type(self).__name__
        self.frequency = whole_steps(name, "frequency", frequency)
        self.save_frequency = whole_steps(
            name, "save_frequency", frequency if save_frequency is None else save_frequency
        )
        if self.save_frequency % self.frequency:
            raise SettingsError(
                f"{name}: save_frequency ({save_frequency}) must be a multiple of frequency ({frequency})."
            )
        if not (isinstance(walker, str) and re.fullmatch(r"[^./][^/]*", walker)):
            raise SettingsError(f"{name}: walker must be a name to call a file by; got {walker!r}.")
        super().__init__(cv, width, walls=walls, spacing=spacing)
        self.trust = trust
        self._fixed = None if trust is None else self._spline_through(trust.wall(self._nodes(), cv.sigma))
        self._before = (-1, 0.0)  # the step of the last entry, and the bias where it was made
        self._path = None if directory is None else Path(directory) / f"{walker}{SUFFIX}"
        self._fields = ["step", *(f"u{k}" for k in range(cv.dim)), *fields]
        self._settings = {**settings, "variable": cv.fingerprint(), "width": " ".join(map(repr, self.width.tolist()))}

    def _begin(self, system: openmm.System) -> None:
        """Take up what the files hold, and add the force to a system."""
        free_group(system, self.cv)  # refuses a system that does not fit before there are files
        self._neighbours = None
        if self._path is not None:
            self._neighbours = Neighbours(self._path, self._fields, self._settings)
            self._neighbours.check()  # before there is a file that would stop the others in turn
        self._history = History(self._path, self._fields, self._settings)
        if self._path is not None:
            storage.remove_stale(self._path.parent, self._path.stem)  # no other process writes files of this name
        self._rebuild()
        self._attach(system)

    def _ready(self, simulation: openmm.app.Simulation) -> None:
        self._check_open()
        rows, now = self._history.rows, simulation.currentStep
        if len(rows) and rows[-1, 0] > now:
            raise SimulationError(
                f"{type(self).__name__}: the walker's history goes on to step {int(rows[-1, 0])}, the simulation is at "
                f"step {now}. To go on from there call rewind({now}), which takes the {int((rows[:, 0] > now).sum())} "
                "later entries back for good; a new or a second simulation needs a bias of its own, with another "
                "directory or walker."
            )
        if not self._whole:
            self._rebuild()
            self._force.publish()
        super()._ready(simulation)

    def applied_bias(self, u: np.ndarray, step: int) -> float:
        """Bias at a point (d,) that a walker has reached at a step, kJ/mol, without the entry made at this very step.

        What weighs a frame is the bias that brought it there; its own hill would count it too high.
        """
        return self._before[1] if self._before[0] == step else super().applied_bias(u, step)

    def rewind(self, step: int) -> None:
        """Take back what this walker added after a step, where a simulation goes on from an earlier state.

        After ``simulation.loadCheckpoint(file)``, ``bias.rewind(simulation.currentStep)`` makes the bias what it was
        then: a walker alone then goes on as if it had never stopped, to the last bit on the Reference platform. On
        other platforms, whose forces differ in their last bits from run to run, and with other walkers, whose entries
        come in another order, it goes on along another trajectory of the same distribution.

        Warns where the history ends before that step: entries were lost, unless the bias was not stepped until then.

        Raises
        ------
        StoreError
            The file cannot be written; nothing was taken back.
        """
        self._check_open()
        self._history.rewind(step)
        rows = self._history.rows
        # Those of an earlier run may be further apart than these.
        last, apart = (rows[-1, 0], max([self.frequency, *np.diff(rows[-2:, 0])])) if len(rows) else (0, self.frequency)
        if step >= last + apart:
            where = "the history" if self._path is None else str(self._path)
            ends = f"ends at step {last:.0f}" if len(rows) else "is empty"
            warnings.warn(
                f"{type(self).__name__}: {where} {ends}, and the simulation goes on from step {step}. If the bias was "
                "stepped until then, entries are missing: call save() before saving a checkpoint, and give the "
                "directory of the earlier run.",
                HistoryWarning,
                stacklevel=2,
            )
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
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise SimulationError(f"{type(self).__name__}: is closed; make a new one to go on with this walker.")

    def free_energy_history(self, times: int = 10) -> Iterator[tuple[int, np.ndarray]]:
        """What `free_energy` was after each of so many equal shares of the entries, of all walkers: (step, surface)."""
        made = self._nothing()
        for part in np.array_split(self._all_entries(), times):
            for entry in part:
                self._add(made, entry)
            if len(part):
                yield int(part[-1, 0]), self._free_energy_of(made)

    def past_energy(self, u: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        u = latent_points(type(self).__name__, u, self.cv.dim)
        entries, made, done = self._all_entries(), self._nothing(), 0
        ends = np.searchsorted(entries[:, 0], steps, side="right")
        energies = np.empty((len(ends), len(u)))
        for index in np.argsort(ends, kind="stable"):
            for entry in entries[done : ends[index]]:
                self._add(made, entry)
            done = ends[index]
            coefficients = self._coefficients_of(made)
            energies[index] = self._total(u, coefficients if self._fixed is None else coefficients + self._fixed)
        return energies

    def _all_entries(self) -> np.ndarray:
        """Of all walkers, in the order of their steps; those of others as far as these have written them."""
        others = [] if self._neighbours is None else self._neighbours.entries()
        entries = np.concatenate([self._history.rows, *others])
        return entries[np.argsort(entries[:, 0], kind="stable")]

    @abstractmethod
    def _nothing(self):
        """What is made of no entry, of a type that the kind of bias chooses."""

    @abstractmethod
    def _add(self, made, entry: np.ndarray) -> None:
        """Add an entry, a row of a history, to what is made of those before it."""

    @abstractmethod
    def _coefficients_of(self, made) -> np.ndarray:
        """Coefficients of the spline by what is made of entries, without the wall of a trust region."""

    @abstractmethod
    def _free_energy_of(self, made) -> np.ndarray:
        """Free energy at the nodes of `axes` by what is made of entries."""

    @abstractmethod
    def _entry(self, simulation: openmm.app.Simulation, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        """What to add at u (d,), where the bias is so high, kJ/mol: a row of the history without its step."""

    @abstractmethod
    def _take_up(self, entry: np.ndarray) -> None:
        """Change the bias by an entry, a row of a history."""

    def _settle(self) -> None:
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
        # A walker that is off the grid adds at its end, and that only what is bounded: see `_entry`.
        there = np.clip(u, *self.ends)
        bias = self._interpolated(there[None], self._added())[0]
        entry = np.array([simulation.currentStep, *self._entry(simulation, there, bias, (u == there).all())])
        self._before = simulation.currentStep, float(self.energy(u)[0])
        self._whole = False
        self._history.add(entry)
        self._take_up(entry)
        if simulation.currentStep % self.save_frequency == 0:
            self._history.write()
            self._take_up_others()
        self._settle()
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
        if self._neighbours is not None:
            self._neighbours.resume({})
        there = 0 if anew else self._restore()
        for entry in self._history.rows[there:]:
            self._take_up(entry)
        self._take_up_others()
        self._settle()
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
                self._take_up(entry)
