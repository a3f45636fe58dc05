"""Which GPU and how many threads a simulation gets, so that those that run together do not share by accident."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from latf_sampling.core import platforms
from latf_sampling.core.platforms import GPU_PLATFORMS
from latf_sampling.core.processes import available_cores, slot
from latf_sampling.errors import SettingsError

if TYPE_CHECKING:
    import openmm

Devices = Literal["auto"] | Sequence[int]
"""Indices of GPUs among those that this process sees; "auto" takes all of them."""

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables by which a process is restricted to some GPUs, which then have the indices from 0 on."""
GRANTED = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Variables with the GPUs that Slurm granted, by their numbers in the machine."""


def visible_devices(environment: Mapping[str, str] | None = None) -> list[int] | None:
    """Indices of the GPUs that this process may use, as OpenMM counts them; `None` where nothing restricts it.

    Examples
    --------
    >>> visible_devices({"CUDA_VISIBLE_DEVICES": "4,6"}), visible_devices({"CUDA_VISIBLE_DEVICES": ""})
    ([0, 1], [])
    >>> visible_devices({"SLURM_JOB_GPUS": "0-3", "SLURM_STEP_GPUS": "2,3"}), visible_devices({})
    ([2, 3], None)
    """
    environment = os.environ if environment is None else environment
    for name in VISIBLE:
        if name in environment:
            return list(range(len(_until_invalid(environment[name]))))
    for name in GRANTED:
        if numbers := _numbers(environment.get(name, "")):
            count = _count()  # a process that Slurm confines to its GPUs counts them from 0
            return numbers if count == 0 or max(numbers) < count else list(range(len(numbers)))
    return None


def devices_of(devices: Devices) -> list[int]:
    """The GPUs to use, at least one.

    Raises
    ------
    SettingsError
        One that is named is not visible; names it.
    """
    visible = visible_devices()
    if devices == "auto":
        return visible or list(range(_count())) or [0]
    if visible is not None and (missing := sorted(set(devices) - set(visible))):
        limits = ", ".join(f"{name}={os.environ[name]}" for name in (*VISIBLE, *GRANTED) if name in os.environ)
        raise SettingsError(
            f"devices: there is no GPU {missing[0]} here; with {limits} OpenMM has "
            f"{', '.join(map(str, visible)) if visible else 'none'}."
        )
    return list(devices)


def properties(platform: str, devices: Devices = "auto", number: int = 0, at_once: int | None = None) -> dict[str, str]:
    """Properties of a platform of OpenMM for one of several simulations.

    Parameters
    ----------
    platform
        Name of the platform.
    devices
        The GPUs that are used in turn.
    number
        Number of the simulation. A process of a `LocalExecutor` goes by its own number instead, so that as many
        simulations are on each GPU at any time, whichever ends first.
    at_once
        How many simulations share the cores of this process; `None` where that is not known, which leaves the number
        of threads to OPENMM_CPU_THREADS, to Slurm's number of cores for a task, or to OpenMM.

    Examples
    --------
    >>> properties("CUDA", devices=[2, 5], number=3), properties("Reference")
    ({'DeviceIndex': '5'}, {})
    """
    if platform in GPU_PLATFORMS:
        indices, own = devices_of(devices), slot()
        return {"DeviceIndex": str(indices[(number if own is None else own) % len(indices)])}
    if platform != "CPU":
        return {}
    if at_once is not None:
        return {"Threads": str(max(1, available_cores() // at_once))}
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return {"Threads": cores} if cores.isdecimal() and "OPENMM_CPU_THREADS" not in os.environ else {}


def pick(
    name: str | None, particles: int, devices: Devices = "auto", number: int = 0, at_once: int | None = None
) -> tuple[openmm.Platform, dict[str, str]]:
    """The platform of one of several simulations, and its properties.

    Parameters
    ----------
    name
        Of the platform; `None` takes the fastest one that works with the properties.
    particles
        Size of the system.
    devices, number, at_once
        As for `properties`.

    Raises
    ------
    SettingsError
        GPUs are named, and none of OpenMM's platforms works with that of this simulation.
    InstallationError
        OpenMM has the platform, but not on this machine.

    Examples
    --------
    >>> platform, properties = pick("Reference", 22, devices=[2, 5])
    >>> platform.getName(), properties
    ('Reference', {})
    """
    own = partial(properties, devices=devices, number=number, at_once=at_once)
    platform = platforms.pick_platform(name, particles, own)
    if name is None and devices != "auto" and platform.getName() not in GPU_PLATFORMS:
        raise SettingsError(
            f"devices: GPU {own(GPU_PLATFORMS[0])['DeviceIndex']} is named, and no GPU of that number works here; "
            "'latf doctor' says why. Write devices: auto to take those that do, or CPU cores where there are none."
        )
    return platform, own(platform.getName())


def _until_invalid(text: str) -> list[str]:
    """Entries before the first one that is no device, from where on CUDA ignores the rest; none where two are equal."""
    entries: list[str] = []
    for entry in (part.strip() for part in text.split(",")):
        if entry in entries:
            return []
        if not (entry.isdecimal() or entry.startswith(("GPU-", "MIG-"))):
            break
        entries.append(entry)
    return entries


def _numbers(text: str) -> list[int]:
    """Numbers of a list like "0,2-3"."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            return []
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _count() -> int:
    """Number of GPUs that torch sees; 0 where it is not built for them."""
    import torch

    return torch.cuda.device_count()
