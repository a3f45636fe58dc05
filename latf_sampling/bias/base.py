"""The base class of all biases: what a script can do with each of them, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import app

from latf_sampling.analysis.weights import boltzmann_weights
from latf_sampling.bias.thermostat import check_simulation, check_temperature
from latf_sampling.core import arguments
from latf_sampling.core.notebook import ShownInNotebooks
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.force import BiasForce
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import TemperatureLike, to_kelvin


class Bias(ShownInNotebooks, ABC):
    """A bias potential V(u) on a collective variable u, which acts in an OpenMM system.

    `Metadynamics`, `OPES`, `FlowBias` and `Umbrella` have the same methods with the same meaning. Where a kind has
    nothing to do, such as a static bias on `save`, the method does nothing.

    A bias is made before the Simulation, whose forces are those that the system has then, and steps it: `step` and
    `prepare` refuse a simulation that was made before the bias, or that keeps another temperature. A simulation that is
    stepped by itself, ``simulation.step``, is not looked at, and an adaptive bias does not grow in it.

    Parameters
    ----------
    cv
        The collective variable.
    force
        Its force in a system; `None` for a bias that was opened to be read.

    Attributes
    ----------
    cv : CollectiveVariable
    temperature : float or None
        K; `None` where the bias does not depend on one.
    frequency : int or None
        Steps from one `update` to the next; `None` where nothing is to be updated.
    is_adaptive : bool
        Whether the bias depends on the history of the simulation.
    axes : list of numpy.ndarray
        Nodes along each dimension at which `free_energy` is given; without nodes where the bias estimates none.
    """

    temperature: float | None = None
    frequency: int | None = None
    is_adaptive: bool = False
    axes: list[np.ndarray]

    def __init__(self, cv: CollectiveVariable, force: BiasForce | None) -> None:
        self.cv, self._force = cv, force

    def __repr__(self) -> str:
        where = "read-only" if self._force is None else f"by {self.backend}"
        temperature = "" if self.temperature is None else f" at {self.temperature:g} K"
        return f"<{type(self).__name__}{temperature}, {where}, along {self.cv!r}>"

    def _overview(self) -> list[tuple[str, Any]]:
        rows: list[tuple[str, Any]] = [("adaptive", "yes" if self.is_adaptive else "no")]
        names = ("bias_factor", "height", "barrier", "frequency")
        rows += [(name, f"{value:g}") for name in names if isinstance(value := getattr(self, name, None), int | float)]
        return [*rows, *self.cv._overview()]

    @property
    def force(self) -> BiasForce:
        """The force that acts in the system.

        Raises
        ------
        SimulationError
            The bias was opened to be read, and is in no system.
        """
        if self._force is None:
            raise SimulationError(f"{type(self).__name__}: was opened read-only, and acts in no system.")
        return self._force

    @property
    def group(self) -> int:
        """Force group of the bias in the system; no other force has it."""
        return self.force.group

    @property
    def backend(self) -> str:
        """What evaluates the force: "torchforce" or "pythonforce"."""
        return self.force.backend

    @property
    def backend_reason(self) -> str:
        """Why it is this backend."""
        return self.force.backend_reason

    def step(self, simulation: app.Simulation, steps: int) -> None:
        """Simulate a number of steps, with an `update` at whole multiples of `frequency`.

        Raises
        ------
        SettingsError
            The simulation keeps another temperature than that of the bias, or none, or the steps are no whole number.
        SimulationError
            The simulation exploded, was made before the bias, or continues from before the end of the walker's history.
        LeftTrustRegion
            The walker left a trust region whose `on_leaving` is "stop".
        """
        step_together(simulation, steps, self)

    def values(self, context: openmm.Context) -> np.ndarray:
        """Present value (d,) of the collective variable."""
        return self.cv.of_context(context)

    @abstractmethod
    def energy(self, u: np.ndarray) -> np.ndarray:
        """Present bias at points (n, d), kJ/mol, with all that belongs to the force, such as walls; returns (n,)."""

    def applied_bias(self, u: np.ndarray, step: int) -> float:
        """Bias at the point (d,) that a walker reached at a step, kJ/mol, as it acted on the way there."""
        return float(self.energy(u)[0])

    def past_energy(self, u: np.ndarray, steps: Sequence[int]) -> np.ndarray:
        """`energy` at points (n, d) as it was at each of some steps of the walkers, kJ/mol; (steps, n).

        Where walkers share the bias, but did not run side by side, steps are those of `shared_time`.
        """
        return np.tile(self.energy(u), (len(steps), 1))

    def shared_time(self, steps: ArrayLike, walker: str | None = None) -> np.ndarray:
        """Steps (n,) of a walker, by default this one, on the clock that all walkers of the bias agree on; (n,).

        Walkers that ran one after the other have times one after the other.
        """
        return np.asarray(steps, np.float64)

    def offset(self) -> float:
        """Constant, kJ/mol, by which the present V has to be lowered to be on one scale for all times."""
        return 0.0

    def weights(self, u: np.ndarray, temperature: TemperatureLike | None = None) -> np.ndarray:
        """Weights (n,) of mean 1 that undo the present bias on frames at points (n, d).

        Parameters
        ----------
        u
            Values of the collective variable, (n, d).
        temperature
            Of the frames, K, or a quantity; by default that of the bias. An `Umbrella` has none.

        Raises
        ------
        SettingsError
            The temperature is missing, or is not more than 0.
        """
        name = type(self).__name__
        kelvin = self.temperature if temperature is None else to_kelvin(temperature, f"{name}: temperature")
        if kelvin is None:
            raise SettingsError(f"{name}: weights depend on the temperature of the frames; give temperature.")
        return boltzmann_weights(self.energy(u), kelvin)

    def free_energy(self) -> np.ndarray:
        """Free energy without the bias at the nodes of `axes`, kJ/mol, lowest value 0; NaN where it is unknown."""
        return np.full([len(axis) for axis in self.axes], np.nan)

    def free_energy_history(self, times: int = 10) -> Iterator[tuple[int, np.ndarray]]:
        """`free_energy` after each of so many equal shares of the history, as (step, surface); none without one."""
        return iter(())

    def save(self) -> None:
        """Write to the disk what a later run continues from.

        To be called before ``simulation.saveCheckpoint``, so that the history is as long as the checkpoint needs it.
        A bias that does not depend on the history has nothing to write.

        Raises
        ------
        SettingsError
            There is something to write, and the bias was made without a directory.
        """

    def saved(self) -> dict[str, Any] | None:
        """What `save` wrote to the disk, as `latf_sampling.bias.history.verify_hills` checks it; `None` for nothing."""
        return None

    def rewind(self, step: int) -> None:
        """Remove from the bias what was added after a step, for a simulation that continues from an earlier state."""

    def close(self) -> None:
        """`save`, and let another object or process continue from the files of this bias."""

    def prepare(self, simulation: app.Simulation) -> None:
        """Let a simulation use the present bias; `step` calls this before the first step.

        Raises
        ------
        SettingsError
            The simulation keeps another temperature than that of the bias, or none.
        """
        if self.temperature is not None:
            check_temperature(type(self).__name__, self.temperature, simulation)
        self.force.refresh(simulation.context)

    def update(self, simulation: app.Simulation) -> None:
        """What `step` does at whole multiples of `frequency`: add to the bias, or check the position of the walker."""


def step_together(simulation: app.Simulation, steps: int, *biases: Bias) -> None:
    """Simulate a number of steps with several biases of one system, each of which is updated at its own multiples.

    Raises
    ------
    SettingsError
        There is no bias, one is given twice, the steps are no whole number, or the simulation keeps another temperature
        than that of a bias.
    SimulationError, LeftTrustRegion
        As of `Bias.step`.

    Examples
    --------
    >>> backbone = Metadynamics(system, cv, 300.0, 10, 1.0, 500)  # doctest: +SKIP
    >>> contacts = Umbrella(system, other_cv, [0.5], 100.0)  # doctest: +SKIP
    >>> step_together(simulation, 100_000, backbone, contacts)  # doctest: +SKIP
    """
    if not biases:
        raise SettingsError("step_together: give the biases to step with, step_together(simulation, steps, bias, ...).")
    check_simulation("step", simulation)
    steps = arguments.whole("step", "steps", steps, 0, "steps")
    for number, bias in enumerate(biases):
        arguments.instance("step_together", "bias", bias, Bias, "a bias, such as a Metadynamics")
        if any(bias is other for other in biases[:number]):
            raise SettingsError("step_together: a bias is given twice; it would be updated twice.")
    for bias in biases:
        bias.prepare(simulation)
    updated = [(bias, bias.frequency) for bias in biases if bias.frequency is not None]
    while steps > 0:
        part = min([steps, *(frequency - simulation.currentStep % frequency for _, frequency in updated)])
        try:
            simulation.step(part)
        except openmm.OpenMMException as error:
            raise SimulationError(
                f"{type(biases[0]).__name__}: the simulation stopped near step {simulation.currentStep} ({error})."
            ) from error
        steps -= part
        for bias, frequency in updated:
            if simulation.currentStep % frequency == 0:
                bias.update(simulation)
