"""How long a campaign will take on this machine, from some seconds of its plain dynamics."""

from __future__ import annotations

import time
from dataclasses import dataclass

import openmm

from latf_sampling.campaign.check import platform
from latf_sampling.core import devices, platforms
from latf_sampling.core.platforms import GPU_PLATFORMS
from latf_sampling.core.processes import available_cores
from latf_sampling.core.words import duration
from latf_sampling.errors import SimulationError
from latf_sampling.records.setup import Setup
from latf_sampling.settings import Protocol, RoundSettings
from latf_sampling.simulation.dynamics import integrator

SECONDS = 10.0
"""s of dynamics by which the speed is measured; setting up the system comes before that."""
ITERATIONS = 50
"""Of the minimizer, so that the dynamics neither explodes nor waits for a perfect minimum."""
SHORT_STEP = 1e-5
"""ps; a step for which a structure that there was no time to minimize stays together. It takes as long as any other."""
COLD = 10.0
"""K; the speed does not depend on the temperature, and a structure that was not relaxed stays together."""
DAY = 86400.0


@dataclass(frozen=True)
class Speed:
    """How fast walkers run here.

    Attributes
    ----------
    per_walker : float
        Simulated time of one walker in a second, ps, with as many beside it as run at the same time.
    at_once : int
        Walkers that run at the same time.
    platform : str
        OpenMM's platform.
    """

    per_walker: float
    at_once: int
    platform: str

    def seconds(self, protocol: Protocol) -> float:
        """What the simulations of a protocol take, without learning, biases and structures.

        Examples
        --------
        >>> round_ = {"walkers": ["300 K"] * 3, "length": "1 ns"}
        >>> protocol = Protocol(name="x", system={"name": "lj7"}, frame_interval="1 ps", segment="1 ns",
        ...     features=[{"distances": "all"}], learning={"lag": "5 ps"}, rounds=[round_])
        >>> Speed(100.0, at_once=2, platform="CPU").seconds(protocol)
        20.0
        """
        rounds = [entry for entry in protocol.runs if isinstance(entry, RoundSettings)]
        return sum(-(-len(entry.walkers) // self.at_once) * entry.length for entry in rounds) / self.per_walker

    def words(self, protocol: Protocol) -> str:
        """The time that the simulations of a protocol take here, and the speed that it follows from."""
        rate = self.per_walker * DAY / 1000
        speed = f"{rate:,.0f} ns/day" if rate >= 100 else f"{rate:.2g} ns/day"
        if self.at_once > 1:
            speed += f" each, {self.at_once} walkers at the same time"
        return (
            f"about {duration(self.seconds(protocol))} of simulation here ({speed}, on {self.platform}); learning and "
            "biases come on top"
        )


def measure_speed(setup: Setup, seconds: float = SECONDS) -> Speed:
    """Run plain dynamics of a protocol's system for some seconds, as one walker of its widest round would.

    Parameters
    ----------
    setup
        The protocol.
    seconds
        s of dynamics.

    Raises
    ------
    SimulationError
        OpenMM cannot simulate the system.
    """
    protocol, molecule = setup.protocol, setup.molecule
    name, use = platform(setup), protocol.devices
    widest = max((len(entry.walkers) for entry in protocol.runs if isinstance(entry, RoundSettings)), default=1)
    processes = protocol.executor.local or available_cores()
    if name in GPU_PLATFORMS and protocol.executor.local is None:
        processes = len(devices.devices_of(use.use)) * use.walkers
    at_once = min(processes, widest)
    chosen, start = platforms.pick_platform(name), molecule.start(0)
    properties = devices.properties(name, use.use, at_once=at_once)
    try:
        dynamics = integrator(protocol.integrator, COLD, 1)
        context = openmm.Context(molecule.system, dynamics, chosen, properties)
        if start.box is not None:
            context.setPeriodicBoxVectors(*start.box)
        context.setPositions(start.positions)
        deadline = _Deadline(seconds)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=ITERATIONS, reporter=deadline)
        if deadline.passed:
            dynamics.setStepSize(SHORT_STEP)
        context.setVelocitiesToTemperature(COLD, 1)
        steps, took = _steps_within(context, dynamics, 0.1 * seconds)  # while the clock of a GPU goes up
        steps, took = _steps_within(context, dynamics, seconds, round(0.1 * seconds * steps / took))
    except openmm.OpenMMException as error:
        raise SimulationError(f"the system cannot be simulated ({error}).") from error
    return Speed(steps * protocol.integrator.timestep / took, at_once, name)


class _Deadline(openmm.MinimizationReporter):
    """Ends a minimization after some seconds: an iteration of a large molecule takes seconds itself on a slow machine.

    Attributes
    ----------
    passed : bool
        Whether it did.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.perf_counter() + seconds
        self.passed = False

    def report(self, *_: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  # OpenMM's has one less
        self.passed = time.perf_counter() > self._end
        return self.passed


def _steps_within(
    context: openmm.Context, dynamics: openmm.Integrator, seconds: float, chunk: int = 1
) -> tuple[int, float]:
    """Take steps until some seconds are over; returns their number and the seconds. The first guess of a chunk is
    doubled as long as it takes less than a tenth of the time."""
    chunk, steps, began = max(chunk, 1), 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        dynamics.step(chunk)
        context.getState(getEnergy=True)  # waits for a GPU
        steps += chunk
        if time.perf_counter() - began - took < 0.1 * seconds:
            chunk *= 2
    return steps, took
