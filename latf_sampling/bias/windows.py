"""Umbrella sampling in windows along a path in latent space, and what all windows together say (MBAR).

Each finished window is one file of a folder, with its settings, its values of the variable and the frame that it ended
with, from which the next one starts. What is there is not simulated again, so that going on after an interruption, and
several processes that take different windows, are nothing special.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from scipy.special import logsumexp

from latf_sampling import store
from latf_sampling.bias.umbrella import Umbrella, whole_steps
from latf_sampling.errors import DataError, SettingsError, SimulationError, StoreError
from latf_sampling.units import KB, to_float

OVERLAP = 0.03
"""Neighbouring windows that overlap less leave errors that cannot be trusted (Klimovich, Shirts, Mobley,
doi:10.1007/s10822-015-9840-9)."""


@dataclass(frozen=True)
class WindowEstimate:
    """Free energies of windows, and weights of their frames, from MBAR over all of them.

    Attributes
    ----------
    free_energies, errors : numpy.ndarray (K,)
        Free energy of the molecule under each umbrella less that under the first, kJ/mol, and its standard error.
    overlap : numpy.ndarray (K, K)
        Probability that a frame of window i belongs to window j; rows sum to 1.
    u : numpy.ndarray (n, d)
        Values of the variable in all frames, window by window.
    windows : numpy.ndarray (n,)
        The window of each frame.
    log_weights : numpy.ndarray (n,)
        ln of each frame's weight in the ensemble without any umbrella; the weights sum to 1.
    inefficiency : numpy.ndarray (K,)
        So many successive frames of a window count as one.
    """

    free_energies: np.ndarray
    errors: np.ndarray
    overlap: np.ndarray
    u: np.ndarray
    windows: np.ndarray
    log_weights: np.ndarray
    inefficiency: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Weights (n,) of mean 1 that undo all umbrellas."""
        return len(self.log_weights) * np.exp(self.log_weights)


class UmbrellaWindows:
    """Windows of one umbrella at each point of a path, one after the other.

    Parameters
    ----------
    umbrella
        The bias; its stiffness is that of all windows. As a rule kT / stiffness is about the squared distance of
        neighbouring centres.
    path
        Centres (K, d), for example from `even_path` or `free_energy_path`.
    temperature
        K, or a quantity.
    directory
        Folder of the windows' files.

    Raises
    ------
    SettingsError
        The path is no (K, d) of finite numbers, or the temperature is not positive.

    Examples
    --------
    >>> path = even_path([[-1.0], [1.0]], 20, cv.sigma)  # doctest: +SKIP
    >>> windows = UmbrellaWindows(umbrella, path, 300.0, "windows")  # doctest: +SKIP
    >>> windows.run(simulation, equilibrate=5_000, steps=50_000, interval=50)  # doctest: +SKIP
    >>> estimate = windows.free_energy()  # doctest: +SKIP
    >>> values, edges = np.histogram(estimate.u[:, 0], 50, weights=estimate.weights)  # doctest: +SKIP
    """

    def __init__(self, umbrella: Umbrella, path, temperature, directory: str | Path) -> None:
        self.umbrella, self.directory = umbrella, Path(directory)
        self.path = np.array(path, np.float64)
        d = umbrella.cv.dim
        if self.path.ndim != 2 or self.path.shape[1] != d or not len(self.path) or not np.isfinite(self.path).all():
            raise SettingsError(f"UmbrellaWindows: path must be finite numbers (windows, {d}); got {path}.")
        self.temperature = to_float(temperature, "temperature", "temperature")
        if not self.temperature > 0:
            raise SettingsError(f"UmbrellaWindows: temperature must be more than 0 K; got {temperature}.")
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
        simulation: openmm.app.Simulation,
        *,
        equilibrate: int,
        steps: int,
        interval: int,
        only: Iterable[int] | None = None,
        progress: Callable[[float], None] = lambda fraction: None,
        on_frame: Callable[[int, openmm.app.Simulation], None] = lambda window, simulation: None,
    ) -> None:
        """Run the windows that are not finished.

        Each starts from the last frame of the one before, if that is finished, and else from where the simulation is.

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
            Which windows; several processes may each take some, in contiguous parts at best. None is all.
        progress
            Called with the fraction of windows done.
        on_frame
            Called with the window and the simulation at each frame that counts, in the order of `WindowEstimate.u`, for
            whatever else is to be kept.

        Raises
        ------
        SettingsError
            A number of steps is no positive whole number, `interval` does not divide `steps`, a window does not
            exist, or the integrator has another temperature.
        SimulationError
            The simulation exploded; names the window. Finished ones stay.
        StoreError
            A file cannot be read or written, or was made with other settings.
        """
        lengths = {"equilibrate": equilibrate, "steps": steps, "interval": interval}
        lengths = {name: whole_steps("UmbrellaWindows", name, value) for name, value in lengths.items()}
        if steps % interval:
            raise SettingsError(f"UmbrellaWindows: steps ({steps}) must be a multiple of interval ({interval}).")
        chosen = list(range(len(self))) if only is None else sorted(set(only))
        if unknown := [index for index in chosen if not 0 <= index < len(self)]:
            raise SettingsError(f"UmbrellaWindows: there are windows 0 to {len(self) - 1}; got {unknown} in only.")
        self._check_temperature(simulation.integrator)
        for count, index in enumerate(chosen):
            progress(count / len(chosen))
            if self._read(index, lengths) is not None:
                continue
            try:
                self._approach(simulation, index, equilibrate)
                u = np.array([self._frame(simulation, index, interval, on_frame) for _ in range(steps // interval)])
            except SimulationError as error:  # from the umbrella, which does not know whose it is
                raise SimulationError(f"window {index}, centres {self.path[index]}: {error}") from error
            self._write(simulation, index, u, lengths)
        progress(1.0)

    def series(self) -> list[np.ndarray]:
        """Values of the variable in each window, (frames, d).

        Raises
        ------
        StoreError
            A window is not finished, its file cannot be read, or it was made with other settings.
        """
        found = [self._read(index) for index in range(len(self))]
        if missing := [index for index, content in enumerate(found) if content is None]:
            raise StoreError(f"{self.directory}: windows {missing} of {len(self)} are not finished; run them first.")
        return [content["u"] for content in found]

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
        return combine(series, bias, self.temperature, overlap)

    def _check_temperature(self, integrator: openmm.Integrator) -> None:
        if not hasattr(integrator, "getTemperature"):
            return
        kept = to_float(integrator.getTemperature(), "temperature", "temperature")
        if not np.isclose(kept, self.temperature):
            raise SettingsError(
                f"UmbrellaWindows: the integrator keeps {kept:g} K, the windows are at {self.temperature:g} K."
            )

    def _approach(self, simulation: openmm.app.Simulation, index: int, equilibrate: int) -> None:
        """Bring the simulation and the umbrella to a window, and let it forget the way."""
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

    def _frame(self, simulation: openmm.app.Simulation, index: int, interval: int, on_frame) -> np.ndarray:
        self.umbrella.step(simulation, interval)
        u = self.umbrella.values(simulation.context)
        if not np.isfinite(u).all():
            raise SimulationError(f"Umbrella: the variable is {u} at step {simulation.currentStep}; it exploded.")
        on_frame(index, simulation)
        return u

    def _file(self, index: int) -> Path:
        return self.directory / f"window-{index:03d}.npz"

    def _settings(self, index: int) -> dict:
        """What frames of a window must have in common."""
        return {
            "variable": self._variable,
            "centers": self.path[index].tolist(),
            "stiffness": self.umbrella.stiffness.tolist(),
            "walls": self.umbrella.walls,
            "temperature": self.temperature,
        }

    def _write(self, simulation: openmm.app.Simulation, index: int, u: np.ndarray, lengths: dict[str, int]) -> None:
        state = simulation.context.getState(getPositions=True, getVelocities=True)
        with store.replacing(self._file(index)) as temporary:
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
            with np.load(path) as content:
                arrays = dict(content)
            settings = json.loads(str(arrays.pop("settings")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"{path}: cannot be read ({error}); delete it to simulate the window again.") from error
        for name, value in {**self._settings(index), **(lengths or {})}.items():
            if settings.get(name) != value:
                raise StoreError(
                    f"{path}: was made with {name} {settings.get(name)}, not {value}; go on with that, delete the "
                    "file to simulate the window again, or give another directory."
                )
        return arrays


def combine(series: Sequence[np.ndarray], bias: np.ndarray, temperature: float, overlap: float) -> WindowEstimate:
    """MBAR over windows of one temperature.

    Free energies and weights are from all frames; errors are those of as many frames as are independent, by the
    statistical inefficiency of the slowest component of the variable. What is slower, but does not show in the
    variable, is not in them. Sources: Shirts and Chodera, doi:10.1063/1.2978177; Chodera et al., doi:10.1021/ct0502864.

    Parameters
    ----------
    series
        Values of the variable in each window, (frames, d), in the order of time.
    bias
        Bias of each window in all frames, window by window, kJ/mol; (K, n).
    temperature
        K.
    overlap
        Least overlap of neighbouring windows.

    Raises
    ------
    DataError
        Two neighbours overlap less.

    Examples
    --------
    Umbrellas of 1 kJ/mol at 0 and at 1 on a harmonic energy x^2 / 2 differ by 1/4 kJ/mol:

    >>> rng, T = np.random.default_rng(0), 1 / KB
    >>> series = [rng.normal(center / 2, 0.5**0.5, (2000, 1)) for center in (0, 1)]
    >>> x = np.concatenate(series)[:, 0]
    >>> estimate = combine(series, np.stack([0.5 * (x - center) ** 2 for center in (0, 1)]), T, OVERLAP)
    >>> bool(abs(estimate.free_energies[1] - 0.25) < 4 * estimate.errors[1])
    True
    """
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advertises JAX
    import pymbar
    from pymbar import timeseries

    counts = np.array([len(part) for part in series])
    reduced = bias / (KB * temperature)
    inefficiency, kept = np.ones(len(series)), []
    for index, (part, first) in enumerate(zip(series, np.cumsum(counts) - counts)):
        # Fewer than three frames, or frames that never change, have no correlation in time that could be measured.
        moving = [column for column in part.T if len(part) > 2 and np.ptp(column) > 0]
        of_each = [timeseries.statistical_inefficiency(column, fast=True) for column in moving]
        inefficiency[index] = max(of_each, default=1.0)
        kept.append(first + np.asarray(timeseries.subsample_correlated_data(part[:, 0], g=inefficiency[index])))
    thinned = pymbar.MBAR(reduced[:, np.concatenate(kept)], [len(part) for part in kept], solver_protocol="robust")
    mbar = pymbar.MBAR(reduced, counts, solver_protocol="robust", initial_f_k=thinned.f_k)
    shares = mbar.weights()
    shared = counts * (shares.T @ shares)
    for index in range(len(series) - 1):
        if not (least := min(shared[index, index + 1], shared[index + 1, index])) >= overlap:
            raise DataError(
                f"windows {index} and {index + 1} overlap by {least:.2g}, less than {overlap:g}: put windows between "
                "them, or take a lower stiffness."
            )
    free_energies = np.asarray(mbar.f_k)
    log_weights = -logsumexp((np.log(counts) + free_energies)[:, None] - reduced, axis=0)
    return WindowEstimate(
        KB * temperature * (free_energies - free_energies[0]),
        KB * temperature * np.asarray(thinned.compute_free_energy_differences()["dDelta_f"])[0],
        shared,
        np.concatenate(series),
        np.repeat(np.arange(len(series)), counts),
        log_weights - logsumexp(log_weights),
        inefficiency,
    )
