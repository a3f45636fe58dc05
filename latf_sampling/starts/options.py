"""Options that `generate_starts`, `structures_at` and `structures_between` share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latf_sampling.core import arguments
from latf_sampling.core.devices import Devices
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.core.tasks import check_executor
from latf_sampling.errors import SettingsError
from latf_sampling.starts.files import FORMATS
from latf_sampling.units import FrictionLike, TemperatureLike, TimeLike, to_float, to_kelvin

Progress = Callable[[float, str], None]
"""Called with the fraction that is done, and a few words."""


def no_progress(fraction: float, words: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class StartOptions:
    """Checked options; `generate_starts` describes them. Temperatures in K, times in ps, friction in 1/ps.

    Raises
    ------
    SettingsError
        A value cannot work; names it.
    """

    temperature: float
    timestep: float
    friction: float
    thermalise: float
    release: float
    tolerance: float
    attempts: int
    seed: int
    allow_cis: bool
    allow_inversion: bool
    platform: str | None
    processes: int | None
    directory: Path | None
    structures: str | None
    progress: Progress
    executor: Executor | None = None
    devices: Devices = "auto"

    def __post_init__(self) -> None:
        for name, unit in (("timestep", " ps"), ("thermalise", " ps"), ("tolerance", "")):
            value = getattr(self, name)
            if not (isinstance(value, (int, float, np.number)) and 0 < value < float("inf")):
                got = f"{value:g}{unit}" if isinstance(value, float) else arguments.describe(value)
                raise SettingsError(f"starts: {name} must be more than 0{unit}; got {got}.")
        if not self.release >= 0:
            raise SettingsError(f"starts: release must not be negative; got {self.release:g} ps.")
        for name, count in (("attempts", self.attempts), ("processes", self.processes)):
            if count is not None:
                arguments.whole("starts", name, count, 1)
        for name in ("allow_cis", "allow_inversion"):
            arguments.instance("starts", name, getattr(self, name), bool, "True or False")
        if self.platform is not None:
            arguments.instance("starts", "platform", self.platform, str, "the name of a platform of OpenMM")
        arguments.function("starts", "progress", self.progress)
        if self.executor is not None:
            check_executor("starts: executor", self.executor)
        if self.is_elsewhere and self.directory is None:
            raise SettingsError("starts: executor: needs a directory, on a disk that its workers share.")
        if self.structures not in (None, *FORMATS):
            raise SettingsError(
                f"starts: structures are written as {' or '.join(FORMATS)}; got {arguments.describe(self.structures)}."
            )

    @property
    def is_elsewhere(self) -> bool:
        """Whether structures are made by workers that may be on other machines."""
        return self.executor is not None and not isinstance(self.executor, LocalExecutor)

    @classmethod
    def from_quantities(
        cls,
        *,
        temperature: TemperatureLike,
        timestep: TimeLike,
        friction: FrictionLike,
        thermalise: TimeLike,
        release: TimeLike,
        directory: str | Path | None,
        **others: Any,
    ) -> StartOptions:
        """Options from quantities with or without a unit; the others are taken as they are."""
        if directory is not None:
            arguments.path("starts", "directory", directory, "a folder")
        return cls(
            temperature=to_kelvin(temperature, "starts: temperature"),
            timestep=to_float(timestep, "time", "starts: timestep"),
            friction=to_float(friction, "friction", "starts: friction"),
            thermalise=to_float(thermalise, "time", "starts: thermalise"),
            release=to_float(release, "time", "starts: release"),
            directory=None if directory is None else Path(directory),
            **others,
        )
