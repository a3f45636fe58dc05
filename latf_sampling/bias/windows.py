"""Umbrella sampling in windows along a path in latent space, and the free energies from all windows (MBAR).

Each finished window is one file of a folder, with its settings, its values of the variable and its last frame, from
which the next one starts. Finished windows are not simulated again, and a process skips the window that another one is
simulating. A run can therefore continue after an interruption, and several processes can share one folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from openmm import app

from latf_sampling.analysis.windows import OVERLAP, WindowEstimate, combine_windows
from latf_sampling.bias.arguments import numbers, whole_steps
from latf_sampling.bias.thermostat import check_simulation, check_temperature
from latf_sampling.bias.umbrella import Umbrella
from latf_sampling.core import arguments, storage
from latf_sampling.core.arrays import read_npz
from latf_sampling.cv.force import bias_groups
from latf_sampling.errors import DataError, SettingsError, SimulationError, StoreError
from latf_sampling.units import TemperatureLike, to_kelvin


class UmbrellaWindows:
    """Windows of one umbrella at each point of a path, one after the other.

    Parameters
    ----------
    umbrella
        The bias; its stiffness is that of all windows. As a rule kT / stiffness is about the squared distance of
        neighboring centers.
    path
        Centers (K, d), for example from `even_path` or `free_energy_path`.
    temperature
        K, or a quantity.
    directory
        Folder of the windows' files, for one molecule: windows of another one with the same variable look alike.

    Raises
    ------
    SettingsError
        The path is not (K, d) finite numbers, or the temperature is not positive.

    Examples
    --------
    >>> path = even_path([[-1.0], [1.0]], 20, cv.sigma)  # doctest: +SKIP
    >>> windows = UmbrellaWindows(umbrella, path, 300.0, "windows")  # doctest: +SKIP
    >>> windows.run(simulation, equilibrate=5_000, steps=50_000, interval=50)  # doctest: +SKIP
    >>> estimate = windows.free_energy()  # doctest: +SKIP
    >>> values, edges = np.histogram(estimate.u[:, 0], 50, weights=estimate.weights)  # doctest: +SKIP
    """

    def __init__(
        self, umbrella: Umbrella, path: ArrayLike, temperature: TemperatureLike, directory: str | Path
    ) -> None:
        arguments.instance("UmbrellaWindows", "umbrella", umbrella, Umbrella, "an Umbrella")
        arguments.path("UmbrellaWindows", "directory", directory, "a folder")
        self.umbrella, self.directory = umbrella, Path(directory)
        requirement = f"path must be finite numbers (windows, {umbrella.cv.dim})"
        self.path, d = numbers("UmbrellaWindows", requirement, path), umbrella.cv.dim
        if self.path.ndim != 2 or self.path.shape[1] != d or not len(self.path) or not np.isfinite(self.path).all():
            raise SettingsError(f"UmbrellaWindows: {requirement}; got {arguments.describe(path)}.")
        self.temperature = to_kelvin(temperature, "UmbrellaWindows: temperature")
        self._variable = umbrella.cv.fingerprint()

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.path)

    @property
    def finished(self) -> list[int]:
        """Windows that are on the disk, those of other processes among them."""
        return [index for index in range(len(self)) if self._file(index).exists()]

    def run(
        self,
        simulation: app.Simulation,
        *,
        equilibrate: int,
        steps: int,
        interval: int,
        only: Iterable[int] | None = None,
        progress: Callable[[float], None] = lambda fraction: None,
        on_frame: Callable[[int, app.Simulation], None] = lambda window, simulation: None,
    ) -> None:
        """Run the windows that are not finished, and that no other process is simulating.

        Each starts from the last frame of the one before, if that is finished, and else from the present positions.

        Parameters
        ----------
        simulation
            Of a system with the umbrella; its integrator keeps the windows' temperature.
        equilibrate
            Steps before frames count, of which the first half takes the umbrella from the window before to this one;
            from elsewhere, that half takes as many times longer as the way is longer.
        steps, interval
            Steps of a window that count, and from one frame to the next.
        only
            Which windows; `None` is all. Of several processes, each may be given some, at best a contiguous part, so
            that a window can start from the one before.
        progress
            Called with the fraction of windows done.
        on_frame
            Called with the window and the simulation at each frame that counts, in the order of `WindowEstimate.u`, for
            whatever else is to be saved. A window that was interrupted begins anew: frames of it that were passed
            before are then void.

        Raises
        ------
        SettingsError
            A number of steps is not a positive whole number, `interval` does not divide `steps`, a window does not
            exist, the simulation keeps another temperature, or another bias acts in its system.
        SimulationError
            The simulation exploded; the message names the window. Finished ones remain.
        StoreError
            A file cannot be read or written, or was made with other settings.
        """
        lengths = {"equilibrate": equilibrate, "steps": steps, "interval": interval}
        lengths = {name: whole_steps("UmbrellaWindows", name, value) for name, value in lengths.items()}
        if steps % interval:
            raise SettingsError(f"UmbrellaWindows: steps ({steps}) must be a multiple of interval ({interval}).")
        if isinstance(only, str) or not isinstance(only, Iterable | None):
            raise SettingsError(f"UmbrellaWindows: only must be a list of windows; got {arguments.describe(only)}.")
        chosen = list(range(len(self))) if only is None else sorted(set(only))
        if unknown := [index for index in chosen if index not in range(len(self))]:
            raise SettingsError(f"UmbrellaWindows: there are windows 0 to {len(self) - 1}; got {unknown} in only.")
        check_simulation("UmbrellaWindows", simulation)
        check_temperature("UmbrellaWindows", self.temperature, simulation)
        if bias_groups(simulation.system) not in ([], [self.umbrella.group]):
            raise SettingsError(
                "UmbrellaWindows: another bias acts in the system, and no weight of a frame undoes it; make the system "
                "anew, with the umbrella alone."
            )
        for count, index in enumerate(chosen):
            progress(count / len(chosen))
            if self._read(index, lengths) is not None:
                continue
            path = self._file(index).with_suffix(".lock")
            if (lock := storage.try_lock(path)) is None:
                continue
            with lock:
                if self._read(index, lengths) is not None:  # since a moment ago
                    continue
                try:
                    self._approach(simulation, index, equilibrate)
                    u = np.array([self._frame(simulation, index, interval, on_frame) for _ in range(steps // interval)])
                except SimulationError as error:  # from the umbrella, whose messages do not name the window
                    raise SimulationError(f"window {index}, centers {self.path[index]}: {error}") from error
                self._write(simulation, index, u, lengths)
                storage.remove(path)
        progress(1.0)

    def series(self) -> list[np.ndarray]:
        """Values of the variable in each window, (frames, d).

        Raises
        ------
        StoreError
            A window is not finished, its file cannot be read, or it was made with other settings.
        """
        windows = [self._read(index) for index in range(len(self))]
        if missing := [index for index, content in enumerate(windows) if content is None]:
            raise StoreError(f"{self.directory}: windows {missing} of {len(self)} are not finished; run them first.")
        return [content["u"] for content in windows if content is not None]

    def free_energy(self, overlap: float = OVERLAP) -> WindowEstimate:
        """Free energies of all windows and weights of all frames.

        Parameters
        ----------
        overlap
            Least overlap of neighbouring windows; 0 takes any.

        Raises
        ------
        DataError
            Two neighbours overlap less.
        StoreError
            As of `series`.
        """
        series = self.series()
        joined = np.concatenate(series)
        bias = np.stack([self.umbrella.energy(joined, centers) for centers in self.path])
        return combine_windows(series, bias, self.temperature, overlap)

    def _approach(self, simulation: app.Simulation, index: int, equilibrate: int) -> None:
        """Bring the simulation and the umbrella to a window, and equilibrate it there."""
        context, sigma = simulation.context, self.umbrella.cv.sigma
        before = self._read(index - 1) if index else None
        if before is not None:
            context.setPeriodicBoxVectors(*before["box"])
            context.setPositions(before["positions"])
            context.setVelocities(before["velocities"])
            self.umbrella.move_to(context, self.path[index - 1])
        else:
            self.umbrella.move_to(context, self.umbrella.values(context))
        way = np.linalg.norm((self.path[index] - self.umbrella.centers) / sigma)
        usual = np.linalg.norm(np.diff(self.path, axis=0) / sigma, axis=1).max(initial=0.0)
        half = (equilibrate + 1) // 2
        self.umbrella.steer(simulation, self.path[index], half * max(1, int(np.ceil(way / usual)) if usual else 1))
        self.umbrella.step(simulation, equilibrate - half)

    def _frame(self, simulation: app.Simulation, index: int, interval: int, on_frame) -> np.ndarray:
        self.umbrella.step(simulation, interval)
        u = self.umbrella.values(simulation.context)
        if not np.isfinite(u).all():
            raise SimulationError(f"Umbrella: the variable is {u} at step {simulation.currentStep}; it exploded.")
        on_frame(index, simulation)
        return u

    def _file(self, index: int) -> Path:
        return self.directory / f"window-{index:03d}.npz"

    def _settings(self, index: int) -> dict:
        """Settings that all frames of a window have in common."""
        return {
            "variable": self._variable,
            "centers": self.path[index].tolist(),
            "stiffness": self.umbrella.stiffness.tolist(),
            "walls": self.umbrella.walls,
            "temperature": self.temperature,
        }

    def _write(self, simulation: app.Simulation, index: int, u: np.ndarray, lengths: dict[str, int]) -> None:
        state = simulation.context.getState(getPositions=True, getVelocities=True)
        with storage.atomic_write(self._file(index)) as temporary:
            np.savez(
                temporary,
                settings=json.dumps({**self._settings(index), **lengths}),
                u=u,
                positions=state.getPositions(asNumpy=True)._value,
                velocities=state.getVelocities(asNumpy=True)._value,
                box=state.getPeriodicBoxVectors(asNumpy=True)._value,
            )

    def _read(self, index: int, lengths: dict[str, int] | None = None) -> dict[str, np.ndarray] | None:
        """A window's arrays, or None where it is not finished; of these lengths, if given."""
        path = self._file(index)
        if not path.exists():
            return None
        try:
            arrays = read_npz(path)
            settings = json.loads(str(arrays.pop("settings")))
        except (DataError, ValueError, KeyError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); delete it to simulate the window again.") from error
        for name, value in {**self._settings(index), **(lengths or {})}.items():
            if settings.get(name) != value:
                raise StoreError(
                    f"{path}: was made with {name} {settings.get(name)}, not {value}; continue with that, delete the "
                    "file to simulate the window again, or give another directory."
                )
        return arrays
