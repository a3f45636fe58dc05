"""From the settings of a protocol to a bias: the registry of the kinds of bias.

A new kind is one class of settings in `latf_sampling.settings.bias`, one class of bias in this folder, and one entry in
`BIAS_KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openmm

from latf_sampling.bias.base import Bias
from latf_sampling.bias.flow_bias import FlowBias
from latf_sampling.bias.metadynamics import Metadynamics
from latf_sampling.bias.opes import OPES
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.core.backends import choose_backend
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.settings import n_steps
from latf_sampling.settings.bias import BiasSettings, FlowBiasSettings, MetadynamicsSettings, OPESSettings

if TYPE_CHECKING:
    from latf_sampling.learning.model import LaTF


@dataclass(frozen=True)
class BiasTask:
    """What a bias is made for, besides its settings.

    Attributes
    ----------
    system, cv
        The system that gets the force, and the collective variable.
    load_model
        Gives the `LaTF` that the variable belongs to; called only if the settings need it.
    temperature, timestep
        K, and ps of one step of the simulation.
    platform
        Name of OpenMM's platform that the simulation will run on, for the choice of a backend.
    directory, walker
        Folder where walkers share an adaptive bias, or `None`, and the name of this walker.
    read_only
        Rebuild the bias from its files, without a lock, without writing anything, and without a force.
    """

    system: openmm.System
    cv: CollectiveVariable
    load_model: Callable[[], LaTF]
    temperature: float
    timestep: float
    platform: str | None = None
    directory: Path | None = None
    walker: str = "walker"
    read_only: bool = False

    @cached_property
    def model(self) -> LaTF:
        return self.load_model()

    def shared(self, settings: BiasSettings) -> dict[str, Any]:
        """Arguments that all kinds of bias have in common."""
        trust = settings.trust
        return {
            "frequency": n_steps(settings.interval, self.timestep),
            "trust": trust and TrustRegion(self.model, self.temperature, trust.threshold, trust.on_leaving),
            "backend": self.backend(settings)[0],
            "read_only": self.read_only,
        }

    def backend(self, settings: BiasSettings) -> tuple[str, str]:
        """The backend on the platform of the simulation, and why it is this one; any where there is no force."""
        if self.read_only:
            return settings.backend, "no force"
        return choose_backend(settings.backend, self.platform)


def make_bias(settings: BiasSettings, task: BiasTask) -> Bias:
    """The bias of some settings, whose force is added to the system of the task.

    An adaptive bias contains what all walkers have added so far. With ``read_only=True`` the task's files may be in use
    by other processes: they are read as they are, and the system gets no force.

    Raises
    ------
    SettingsError
        A number is out of range.
    SimulationError
        The files of an adaptive bias belong to another bias, or another process writes as this walker.

    Examples
    --------
    >>> task = BiasTask(system, cv, lambda: LaTF.load("model.pt"), 300.0, 0.004, Path("hills"))  # doctest: +SKIP
    >>> with closing(make_bias(protocol.runs[1].bias, task)) as bias:  # doctest: +SKIP
    ...     bias.step(simulation, 1000)
    """
    bias = BIAS_KINDS[type(settings)](settings, task)
    if not task.read_only:
        bias.force.backend_reason = task.backend(settings)[1]
    return bias


def _metadynamics(settings: MetadynamicsSettings, task: BiasTask) -> Metadynamics:
    return Metadynamics(
        task.system,
        task.cv,
        task.temperature,
        settings.bias_factor,
        settings.height,
        width=settings.width,
        model=task.model if settings.start == "flow" else None,
        directory=task.directory,
        walker=task.walker,
        **task.shared(settings),
    )


def _opes(settings: OPESSettings, task: BiasTask) -> OPES:
    return OPES(
        task.system,
        task.cv,
        task.temperature,
        settings.barrier,
        bias_factor=settings.bias_factor,
        width=settings.width,
        narrowest=settings.narrowest,
        explore=settings.explore,
        directory=task.directory,
        walker=task.walker,
        **task.shared(settings),
    )


def _flow_bias(settings: FlowBiasSettings, task: BiasTask) -> FlowBias:
    return FlowBias(task.system, task.cv, task.model, task.temperature, settings.bias_factor, **task.shared(settings))


BIAS_KINDS: Mapping[type[BiasSettings], Callable[[Any, BiasTask], Bias]] = {
    MetadynamicsSettings: _metadynamics,
    OPESSettings: _opes,
    FlowBiasSettings: _flow_bias,
}
"""What makes the bias of each class of settings."""
