"""The loop that metadynamics and OPES share: an adaptive (history-dependent) bias of one walker or of several.

A kind of bias is five methods of `AdaptiveBias`. Every `frequency` steps, `_new_kernel` computes what to add where the
walker is, and `_add_kernel` adds it to the state; `_coefficients_of` and `_free_energy_of` evaluate a state, and
`_empty_state` is the one before the first kernel. Everything else follows from the kernels alone: the bias of a
simulation that continues is rebuilt by adding the kernels of its history one by one in their order, so that it has
every bit that it had.

Walkers that share a bias need not run at the same time: one that starts late feels all earlier kernels from its first
step on. So every kernel has a time on a clock that all walkers agree on (Lamport, doi:10.1145/359545.359563). A
walker's clock advances with its steps, and to beyond the time of each kernel of others that it reads. For a single
walker, and for walkers that run side by side at the same speed, it is the step.
"""

from __future__ import annotations

import math
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import app

from latf_sampling.bias.arguments import check_backend, check_model, check_parts, latent_points, whole_steps
from latf_sampling.bias.grid import Grid, GridBias, Region
from latf_sampling.bias.history import SUFFIX, History, Neighbors
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core import arguments, storage
from latf_sampling.core.backends import choose_backend
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.force import free_group
from latf_sampling.errors import HistoryWarning, SettingsError, SimulationError

State = TypeVar("State")
"""What a kind of bias makes of its kernels."""


@dataclass(frozen=True)
class AdaptiveOptions:
    """What all adaptive biases can be told.

    Attributes
    ----------
    trust
        Region that the walker is held in, besides the walls.
    walls
        Whether walls push back into the box of the training data and three hill widths around it.
    save_frequency
        Steps from one writing and reading of files to the next, a multiple of `frequency`; `None` is `frequency`.
    directory
        Folder of the files of all walkers that share the bias; `None` keeps the history in memory.
    walker
        Name of this walker's files.
    backend
        "torchforce", "pythonforce" or "auto".
    read_only
        Rebuild the bias from its files, without a lock, without writing anything, and without a force.
    """

    trust: TrustRegion | None = None
    walls: bool = True
    save_frequency: int | None = None
    directory: str | Path | None = None
    walker: str = "walker"
    backend: str = "auto"
    read_only: bool = False


class AdaptiveBias(GridBias, Generic[State]):
    """A bias that a kernel is added to every `frequency` steps.

    Parameters
    ----------
    system, cv, grid
        As of `GridBias`.
    temperature
        K.
    frequency
        Steps between kernels.
    options
        What all adaptive biases can be told.
    fields
        Names of the numbers of a kernel that follow its step and its center.
    settings
        What kernels depend on, besides variable and hill width: files with other settings are refused.

    Attributes
    ----------
    state
        What all kernels so far made.
    history : History
        The kernels of this walker, each with its time on the clock of all walkers.
    latest : float
        Time of the latest kernel of another walker in the state.
    neighbors : Neighbors or None
        Those of the other walkers in the directory.
    """

    is_adaptive = True
    frequency: int
    temperature: float
    state: State

    def __init__(
        self,
        system: openmm.System,
        cv: CollectiveVariable,
        grid: Grid,
        temperature: float,
        frequency: int,
        options: AdaptiveOptions,
        *,
        fields: list[str],
        settings: dict[str, str],
    ) -> None:
        name = type(self).__name__
        check_parts(name, system, cv)
        check_backend(name, options.backend)
        for option in ("walls", "read_only"):
            arguments.truth(name, option, getattr(options, option))
        if options.trust is not None:
            arguments.instance(name, "trust", options.trust, TrustRegion, "a TrustRegion")
            check_model(f"{name}: trust", options.trust.model, cv)
        if options.directory is not None:
            arguments.path(name, "directory", options.directory, "a folder")
        # Never None here, unlike in the base class.
        self.temperature = temperature  # pyright: ignore[reportIncompatibleVariableOverride]
        self.frequency = whole_steps(name, "frequency", frequency)  # pyright: ignore[reportIncompatibleVariableOverride]
        save_frequency = self.frequency if options.save_frequency is None else options.save_frequency
        self.save_frequency = whole_steps(name, "save_frequency", save_frequency)
        if self.save_frequency % self.frequency:
            raise SettingsError(
                f"{name}: save_frequency ({save_frequency}) must be a multiple of frequency ({frequency})."
            )
        if not (isinstance(options.walker, str) and re.fullmatch(r"[^./][^/]*", options.walker)):
            raise SettingsError(f"{name}: walker must be a name to call a file by; got {options.walker!r}.")
        self.cv, self.grid, self.trust, self.read_only = cv, grid, options.trust, options.read_only
        wall = None if self.trust is None else self.trust._wall(grid.nodes(), cv.sigma)
        self._wall = None if wall is None else grid.spline_through(wall)
        # A system that does not fit is refused before there are files, and files before the system gets a force.
        free_group(system, cv)
        if not self.read_only:
            choose_backend(options.backend)
        self._open_files(options, fields, settings)
        self._closed = self._complete = False
        self._last = (-1, 0.0)  # the step of the last kernel, and the bias there without it
        try:
            self._rebuild()
            coefficients = np.zeros(grid.counts)
            self._copy_coefficients(coefficients, [grid.everything])
            super().__init__(
                None if self.read_only else system,
                cv,
                grid,
                coefficients,
                walls=options.walls,
                backend=options.backend,
            )
            self._complete = True
        except BaseException:
            self.history.close()  # a caller that keeps the error keeps this object alive
            raise

    def _open_files(self, options: AdaptiveOptions, fields: list[str], settings: dict[str, str]) -> None:
        directory, cv = options.directory, self.cv
        path = None if directory is None else Path(directory) / f"{options.walker}{SUFFIX}"
        fields = ["step", *(f"u{k}" for k in range(cv.dim)), *fields, "clock"]
        widths = " ".join(map(repr, self.grid.hill_width.tolist()))
        settings = {**settings, "variable": cv.fingerprint(), "width": widths}
        limits = self._kernel_limits(fields)
        self.neighbors = None if path is None else Neighbors(path, fields, settings, limits)
        if self.neighbors is not None:
            self.neighbors.check()  # before there is a file of this walker, which would stop the others in turn
        self.history = History(path, fields, settings, self.read_only, limits)
        if self.neighbors is not None and (missing := self.neighbors.missing(self.history.known)):
            warnings.warn(
                f"{type(self).__name__}: {path}: went on with the hills of {', '.join(missing)}, which are not in the "
                "folder any more, and the bias lacks them; restore them, or give the bias a directory of its own.",
                HistoryWarning,
                stacklevel=4,
            )
        if path is not None and not self.read_only:
            storage.remove_stale(path.parent, path.stem)  # no other process writes files of this name

    def _kernel_limits(self, fields: list[str]) -> dict[str, tuple[float, float]]:
        """`_limits`, with those of centers, which are on the grid, and of widths."""
        ends = np.stack(self.grid.ends, 1)
        slack = 1e-6 * (ends[:, 1] - ends[:, 0])
        limits = {f"u{k}": (ends[k, 0] - slack[k], ends[k, 1] + slack[k]) for k in range(self.cv.dim)}
        limits |= {name: (0.0, math.inf) for name in fields if name.startswith("sigma_")}
        return {**limits, **self._limits()}

    # ------------------------------------------------------------------------------------- what a kind of bias defines

    @abstractmethod
    def _empty_state(self) -> State:
        """The state before the first kernel."""

    @abstractmethod
    def _new_kernel(self, context: openmm.Context, u: np.ndarray, bias: float, on_grid: bool) -> np.ndarray:
        """The kernel to add at u (d,), where the bias without walls is so high, kJ/mol.

        Returns the kernel without its step. The walker is at u if it is on the grid, and beyond otherwise.
        """

    @abstractmethod
    def _add_kernel(self, state: State, kernel: np.ndarray) -> Region:
        """Add a kernel, as one of `own_kernels`, to a state; returns which coefficients it changes."""

    @abstractmethod
    def _coefficients_of(self, state: State) -> np.ndarray:
        """Coefficients of the bias in a state, without the wall of a trust region; not to be changed."""

    @abstractmethod
    def _free_energy_of(self, state: State) -> np.ndarray:
        """Free energy at the nodes of `axes` in a state, kJ/mol, lowest value 0."""

    def _limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest number that a kernel of this bias can have, by the names of its fields."""
        return {}

    def _load_state(self) -> int:
        """Set `state` to a saved one, if there is one; returns how many of this walker's kernels that contains."""
        return 0

    # ----------------------------------------------------------------------------------------------------- simulation

    def prepare(self, simulation: app.Simulation) -> None:
        self._check_open()
        rows, now = self.history.rows, simulation.currentStep
        if len(rows) and rows[-1, 0] > now:
            raise SimulationError(
                f"{type(self).__name__}: the walker's history goes on to step {int(rows[-1, 0])}, the simulation is at "
                f"step {now}. To continue from there call rewind({now}), which removes the "
                f"{int((rows[:, 0] > now).sum())} later kernels for good; a new or a second simulation needs a bias of "
                "its own, with another directory or walker."
            )
        self._repair()
        super().prepare(simulation)

    def update(self, simulation: app.Simulation) -> None:
        """Add a kernel at the position of the walker, and the kernels of the others that are new on the disk."""
        context, step = simulation.context, simulation.currentStep
        u = self.values(context)
        self._check_value(u)
        energy = float(self.energy(u)[0])
        self._check_force(context, u, energy)
        # A walker that is off the grid adds at the grid's end, and only what is bounded: see `_new_kernel`.
        center = np.clip(u, *self.grid.ends)
        bias = self.grid.interpolate(center[None], self.coefficients)[0]
        if self._wall is not None:
            bias -= self.grid.interpolate(center[None], self._wall)[0]
        kernel = np.array([step, *self._new_kernel(context, center, bias, bool((center == u).all()))])
        self._last = step, energy
        self._complete = False
        self.history.add([*kernel, self._clock(step)])
        changed = [self._add_kernel(self.state, kernel)]
        if step % self.save_frequency == 0:
            self.history.write()
            changed += self._add_neighbors()
        self._copy_coefficients(self.coefficients, changed)
        self._complete = True
        self.force.publish(context)
        if self.trust is not None:
            self.trust._check(u, step)

    def applied_bias(self, u: np.ndarray, step: int) -> float:
        """Bias at the point (d,) that a walker reached at a step, kJ/mol, without the kernel added at this very step.

        The weight of a frame depends on the bias that brought the walker there; its own hill would count it too high.
        """
        return self._last[1] if self._last[0] == step else super().applied_bias(u, step)

    def rewind(self, step: int) -> None:
        """Remove what this walker added after a step, for a simulation that continues from an earlier state.

        After ``simulation.loadCheckpoint(file)``, ``bias.rewind(simulation.currentStep)`` restores the bias of that
        step: a single walker then continues as if it had never stopped, to the last bit on the Reference platform. On
        other platforms, whose forces differ in their last bits from run to run, and with other walkers, whose kernels
        come in another order, it continues along another trajectory of the same distribution.

        Warns where the history ends before that step: kernels were lost, unless the bias was not stepped until then.

        Raises
        ------
        StoreError
            The file cannot be written; nothing was removed.
        """
        self._check_open()
        step = arguments.whole(type(self).__name__, "step", step, 0, "steps")
        self.history.rewind(step)
        rows = self.history.rows
        # Kernels of an earlier run may be further apart than these.
        last, apart = (rows[-1, 0], max([self.frequency, *np.diff(rows[-2:, 0])])) if len(rows) else (0, self.frequency)
        if step >= last + apart:
            where = "the history" if self.history.path is None else str(self.history.path)
            ends = f"ends at step {last:.0f}" if len(rows) else "is empty"
            warnings.warn(
                f"{type(self).__name__}: {where} {ends}, and the simulation goes on from step {step}. If the bias was "
                "stepped until then, kernels are missing: call save() before saving a checkpoint, and give the "
                "directory of the earlier run.",
                HistoryWarning,
                stacklevel=2,
            )
        self._complete = False
        self._repair()

    def save(self) -> None:
        """Write kernels to the disk that wait for the next multiple of `save_frequency`.

        To be called before ``simulation.saveCheckpoint``, so that the history is as long as the checkpoint needs it.

        Raises
        ------
        SettingsError
            The bias was made without a directory.
        """
        if self.history.path is None:
            name = type(self).__name__
            raise SettingsError(
                f"{name}: there is nowhere to save it; make it with directory=, as in {name}(..., directory='hills')."
            )
        if not self.read_only:
            self.history.write()
            self.history.sync()

    def saved(self) -> dict[str, Any] | None:
        """What `save` wrote to the disk: number and digest of this walker's kernels; `None` without a directory."""
        return None if self.history.path is None else self.history.summary()

    def close(self) -> None:
        """`save`, and let another object or process continue as this walker."""
        if self.history.path is not None:
            self.save()
        self.history.close()
        self._closed = True

    def _check_open(self) -> None:
        if self.read_only:
            raise SimulationError(
                f"{type(self).__name__}: was opened read-only; it cannot be stepped or rewound. Make it without "
                "read_only=True for that."
            )
        if self._closed:
            raise SimulationError(f"{type(self).__name__}: is closed; make a new one to continue with this walker.")

    # ------------------------------------------------------------------------------------------------------ estimates

    def free_energy(self) -> np.ndarray:
        """Free energy at the nodes of `axes`, kJ/mol, lowest value 0; infinite where no kernel is."""
        return self._free_energy_of(self.state)

    def free_energy_history(self, times: int = 10) -> Iterator[tuple[int, np.ndarray]]:
        """`free_energy` after each of so many equal shares of the kernels of all walkers, as (step, surface)."""
        state, times = self._empty_state(), arguments.whole(type(self).__name__, "times", times, 1)
        for part in np.array_split(self._rows_in_order(), times):
            for row in part:
                self._add_kernel(state, row[:-1])
            if len(part):
                yield int(part[-1, -1]), self._free_energy_of(state)

    def past_energy(self, u: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        u = latent_points(type(self).__name__, u, self.cv.dim)
        times = arguments.real_numbers(type(self).__name__, "steps", steps).reshape(-1)
        kernels, state, done = self._rows_in_order(), self._empty_state(), 0
        ends = np.searchsorted(kernels[:, -1], times, side="right")
        energies = np.empty((len(ends), len(u)))
        for index in np.argsort(ends, kind="stable"):
            for row in kernels[done : ends[index]]:
                self._add_kernel(state, row[:-1])
            done = ends[index]
            coefficients = self._coefficients_of(state)
            energies[index] = self._energy_with(coefficients if self._wall is None else coefficients + self._wall, u)
        return energies

    def shared_time(self, steps: ArrayLike, walker: str | None = None) -> np.ndarray:
        rows = self.history.rows
        if self.neighbors is not None and walker is not None:
            rows = self.neighbors.read(walker, rows)
        steps = arguments.real_numbers(type(self).__name__, "steps", steps)
        if not len(rows):
            return steps
        before = np.maximum(np.searchsorted(rows[:, 0], steps, side="right") - 1, 0)
        return rows[before, -1] + steps - rows[before, 0]

    @property
    def own_kernels(self) -> np.ndarray:
        """This walker's kernels (n, fields): the step, the center, and what the kind of bias adds."""
        return self.history.rows[:, :-1]

    def all_kernels(self) -> np.ndarray:
        """Kernels of all walkers in the order in which they came; those of others as far as these have written them."""
        return self._rows_in_order()[:, :-1]

    def _rows_in_order(self) -> np.ndarray:
        """Rows of all histories, ordered by clock, and by name where walkers added at the same time."""
        rows = self.history.rows
        if self.neighbors is not None:
            rows = np.concatenate(self.neighbors.read_all(rows))
        return rows[np.argsort(rows[:, -1], kind="stable")]

    def _clock(self, step: int) -> float:
        """Time of a kernel that this walker adds at a step."""
        rows = self.history.rows
        ahead = rows[-1, -1] - rows[-1, 0] if len(rows) else 0.0
        return float(max(step + ahead, self.latest + 1))

    # ----------------------------------------------------------------------------------------------------- bookkeeping

    def _repair(self) -> None:
        """Rebuild the bias from its history, if it does not hold all of it, as after an interruption."""
        if not self._complete:
            self._rebuild()
            self._copy_coefficients(self.coefficients, [self.grid.everything])
            self._complete = True
            self.force.publish()

    def _take_new(self) -> None:
        """Add kernels of others that are new on the disk now, rather than at the next multiple of `save_frequency`."""
        changed = self._add_neighbors()
        self._copy_coefficients(self.coefficients, changed)
        self.force.publish()

    def _rebuild(self, from_scratch: bool = False) -> None:
        """Let the state hold this walker's kernels, and those of others that are on the disk."""
        self._complete = False
        self.state, self.latest = self._empty_state(), -math.inf
        if self.neighbors is not None:
            self.neighbors.seek({})
        done = 0 if from_scratch else self._load_state()
        for kernel in self.own_kernels[done:]:
            self._add_kernel(self.state, kernel)
        self._add_neighbors()

    def _add_neighbors(self) -> list[Region]:
        """Add the kernels of other walkers that are new; returns which coefficients they change."""
        if self.neighbors is None:
            return []
        new, void = self.neighbors.read_new()
        if not self.read_only:
            self.history.remember(set(self.neighbors.offsets()))
        if void:  # a walker removed kernels that are in the state
            self._rebuild(from_scratch=True)
            return [self.grid.everything]
        self.latest = max([self.latest, *(rows[-1, -1] for rows in new if len(rows))])
        return [self._add_kernel(self.state, row[:-1]) for rows in new for row in rows]

    def _copy_coefficients(self, target: np.ndarray, regions: list[Region]) -> None:
        """Set coefficients in some regions to those of the state, with the wall of the trust region."""
        coefficients = self._coefficients_of(self.state)
        for region, following in zip(regions, [*regions[1:], None]):
            if region != following:
                part = coefficients[region]
                target[region] = part if self._wall is None else part + self._wall[region]
