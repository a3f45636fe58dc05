"""Settings of where a campaign runs, which change neither physics nor results: its executor, and its devices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import Settings, is_stored, shown

BACKENDS = ("local", "slurm_job", "slurm_cluster", "flux_job", "flux_cluster")
"""Of executorlib, whose classes `latf_sampling.campaign.executors` knows."""
USAGE = "write local, {dask: tcp://host:8786}, {parsl: config.py} or {executorlib: {backend: slurm_cluster}}"


def _beside(value: Any, info: ValidationInfo) -> str:
    """The absolute path of a file that a protocol names and a campaign does not copy."""
    if not isinstance(value, (str, Path)):
        raise SettingsError(f"{shown(value)} is not the name of a file.")
    return os.path.abspath(Path((info.context or {}).get("directory") or ".") / value)


def _existing(value: Any, info: ValidationInfo) -> str:
    if is_stored(info):  # it belongs to the machine where the campaign runs, not to the campaign
        return str(value)
    path = _beside(value, info)
    if not os.path.isfile(path):
        raise SettingsError(f"there is no file {path}; paths are relative to the protocol.")
    return path


def _address(value: Any, info: ValidationInfo) -> Any:
    is_file = isinstance(value, str) and value.endswith(".json")
    return _beside(value, info) if is_file and not is_stored(info) else value


@dataclass(frozen=True)
class Shorthand:
    """What may stand in a protocol instead of a mapping, as JSON schemas."""

    schemas: tuple[dict[str, Any], ...]

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [*self.schemas, handler(schema)]}


class ExecutorSettings(Settings):
    """Where walkers, training and the making of structures run: processes of this machine, or one of the others."""

    local: int | None = Field(default=None, ge=1, le=10_000)
    """Number of processes on this machine; None takes one per core, or one for each place on a GPU."""
    dask: Annotated[str, Field(min_length=1), BeforeValidator(_address)] | None = None
    """Address of a Dask scheduler, like tcp://host:8786, or the file that it writes with --scheduler-file."""
    parsl: Annotated[str, BeforeValidator(_existing)] | None = None
    """Python file that defines `config`, a parsl.Config. It is not copied into the campaign."""
    executorlib: dict[str, Any] | None = None
    """Key `backend`: local, slurm_job, slurm_cluster, flux_job or flux_cluster; and the options of its class."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if value == "local":
            return {}
        if isinstance(value, (str, type(None))):
            raise SettingsError(f"there is no {shown(value)}; {USAGE}.")
        return value

    @model_validator(mode="after")
    def _one(self) -> ExecutorSettings:
        named = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(named) > 1:
            raise SettingsError(f"{' and '.join(named)} exclude each other; give one of them.")
        if self.executorlib is not None:
            self._check_executorlib(self.executorlib)
        return self

    @staticmethod
    def _check_executorlib(options: dict[str, Any]) -> None:
        given = options.get("backend")
        if given not in BACKENDS:
            got = "this key is missing" if given is None else f"there is no {shown(given)}"
            raise SettingsError(f"executorlib.backend: {got}; give one of {', '.join(BACKENDS)}.")
        for key in ("max_workers", "max_cores"):  # without workers executorlib waits without end
            count = options.get(key)
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                raise SettingsError(f"executorlib.{key}: {shown(count)} is not a number of at least 1.")

    @property
    def kind(self) -> str:
        """Key of the executor."""
        return next((key for key in type(self).model_fields if getattr(self, key) is not None), "local")

    @property
    def value(self) -> Any:
        """What the key of the executor has."""
        return getattr(self, self.kind)


class DeviceSettings(Settings):
    """Which GPUs walkers are simulated on, in turn."""

    use: Literal["auto"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(default="auto")
    """Indices of GPUs among those that CUDA_VISIBLE_DEVICES and Slurm let this process see; auto takes all of these."""
    walkers: int = Field(default=1, ge=1, le=1000)
    """Walkers that run on one GPU at the same time. For more than one, begin NVIDIA's multi-process service before
    (nvidia-cuda-mps-control -d), or they take turns."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, (str, list, tuple)) else value

    @model_validator(mode="after")
    def _some(self) -> DeviceSettings:
        if self.use != "auto" and (not self.use or len(set(self.use)) < len(self.use)):
            raise SettingsError(f"use: must be auto or different indices of GPUs, got {shown(list(self.use))}.")
        return self


Executor = Annotated[ExecutorSettings, Shorthand(({"const": "local"},))]
_INDICES = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
Devices = Annotated[DeviceSettings, Shorthand(({"const": "auto"}, _INDICES))]
