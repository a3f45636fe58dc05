"""On which platform of OpenMM and which device of torch to run."""

from __future__ import annotations

import os
import platform as machine
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from latf_sampling.errors import InstallationError, SettingsError

if TYPE_CHECKING:
    import openmm
    import torch

GPU_PLATFORMS = ("CUDA", "HIP", "OpenCL")
"""OpenMM's GPU platforms, the fastest first."""

SMALL = 100
"""Up to this many particles Reference is faster than CPU, whose threads wait for each other more than they work.
Steps per second with all-pair interactions on one core: 22 atoms 98,700 against 9,600, 100 atoms 6,600 against 6,400,
150 atoms 3,400 against 4,800."""


def pick_platform(
    name: str | None = None,
    particles: int | None = None,
    properties: Callable[[str], Mapping[str, str]] = lambda platform: {},
) -> openmm.Platform:
    """OpenMM's platform of that name, or the fastest one that works here.

    Parameters
    ----------
    name
        "Reference", "CPU", "CUDA", "HIP" or "OpenCL", in any case. `None` picks a GPU that works;
        where there is none, Reference for up to `SMALL` particles and CPU for more.
    particles
        Size of the system, for the choice between Reference and CPU; unknown counts as large.
    properties
        With which properties a platform is going to be used, by its name: whether a GPU works is tried with them.

    Raises
    ------
    SettingsError
        OpenMM has no platform of that name.
    InstallationError
        It has, but not on this machine.

    Examples
    --------
    >>> pick_platform("cpu").getName()
    'CPU'
    """
    import openmm

    here = {p.getName(): p for p in map(openmm.Platform.getPlatform, range(openmm.Platform.getNumPlatforms()))}
    if name is not None:
        known = {each.lower(): each for each in (*here, "Reference", "CPU", *GPU_PLATFORMS)}
        exact = known.get(name.lower())
        if exact is None:
            raise SettingsError(f"platform: OpenMM has none called '{name}'; available here: {', '.join(here)}.")
        if exact not in here:
            raise InstallationError(
                f"platform: {exact} is not available here; available: {', '.join(here)}; 'latf doctor' says why."
            )
        return here[exact]
    for gpu in GPU_PLATFORMS:
        if gpu in here and usable(gpu, **properties(gpu)) is None:
            return here[gpu]
    return here["Reference" if particles is not None and particles <= SMALL else "CPU"]


@cache
def usable(platform: str, **properties: str) -> str | None:
    """Why no context can be made on a platform with some properties, which is common for a GPU; None when one can.

    Examples
    --------
    >>> usable("Reference")
    """
    import openmm

    system = openmm.System()
    system.addParticle(1.0)
    try:
        openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform), properties)
    except Exception as error:  # whatever it is, the platform is not for us
        return str(error) or type(error).__name__
    return None


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """The torch device to train on.

    Parameters
    ----------
    name
        As torch writes it, "cpu" or "cuda:1". None is the GPU where there is one, else "cpu".

    Raises
    ------
    SettingsError
        torch knows no device of that name.
    InstallationError
        It does, but this machine has none.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device: torch knows none called '{name}'; give one like 'cpu' or 'cuda:0'.") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each back end of torch has its own
        here = ", ".join(devices())
        raise InstallationError(f"device: '{name}' is not available here; available: {here}.") from error
    return device


def devices() -> list[str]:
    """Every torch device of this machine.

    Examples
    --------
    >>> devices()[0]
    'cpu'
    """
    import torch

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads, which compete with those of OpenMM and of other processes.

    Parameters
    ----------
    count
        `None` takes as many as torch would by itself.

    Examples
    --------
    >>> import torch
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    """
    import torch

    default, before = _default_threads(), torch.get_num_threads()
    torch.set_num_threads(default if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _default_threads() -> int:
    """torch's own number of threads: it has to be asked for before the first change."""
    import torch

    return torch.get_num_threads()


def system_name() -> str:
    """Operating system, processor and Python in one line, for a report.

    Examples
    --------
    >>> "Python 3" in system_name()
    True
    """
    return f"{machine.system()} {machine.machine()}, Python {machine.python_version()}, {os.cpu_count()} processors"
