"""What carries a bias: `TorchForce` or `PythonForce`, and which of them is the faster one where.

The choice, and all that is known of releases that do not fit together, is in this file and in `installation`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from latf_sampling.core import installation, plugins
from latf_sampling.core.platforms import GPU_PLATFORMS, usable
from latf_sampling.errors import InstallationError, SettingsError

if TYPE_CHECKING:
    import openmm

BACKENDS = ("torchforce", "pythonforce")
_SWITCH = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
"""Values of LATF_COMPILE, in any case."""


def choose_backend(backend: str = "auto", platform: str | None = None) -> tuple[str, str]:
    """The backend of a bias, and why it is this one.

    Parameters
    ----------
    backend
        "torchforce", "pythonforce", or "auto" for the faster one: PythonForce, compiled to machine code, on Reference
        and CPU (14 us a step against 106 on alanine dipeptide, benchmarks/bias_cost.md), TorchForce on a GPU, where
        positions need not leave the device.
    platform
        OpenMM's platform that the simulation will run on. `None` is a GPU where a GPU works, else the CPU.

    Raises
    ------
    SettingsError
        There is no such backend, or LATF_COMPILE in the environment is neither yes nor no.
    InstallationError
        The backend that is asked for does not work in this installation; says why, and what would help.

    Examples
    --------
    >>> choose_backend("pythonforce", "CPU")
    ('pythonforce', 'asked for')
    """
    installation.check_installation()
    check_environment()
    if backend not in ("auto", *BACKENDS):
        raise SettingsError(f"backend must be 'auto', 'torchforce' or 'pythonforce'; got {backend!r}.")
    trouble = torchforce_trouble()
    if backend == "torchforce":
        if trouble:
            raise InstallationError(f"backend: TorchForce does not work here: {trouble}.")
        return backend, "asked for"
    if backend == "pythonforce":
        return backend, "asked for"
    if platform is None:
        platform = next((gpu for gpu in GPU_PLATFORMS if usable(gpu) is None), "CPU")
    if platform in GPU_PLATFORMS:
        if trouble:
            return "pythonforce", f"TorchForce, which is faster on {platform}, does not work here: {trouble}"
        if not has_torchforce_kernels(platform):
            return "pythonforce", f"TorchForce has no plugin for {platform} here"
        return "torchforce", f"the faster one on {platform}"
    if not compiles():
        if trouble:
            return "pythonforce", f"not compiled, since {_why_not_compiled()}; TorchForce does not work here: {trouble}"
        return "torchforce", f"PythonForce, which is faster on {platform}, is not compiled, since {_why_not_compiled()}"
    return "pythonforce", f"the faster one on {platform}"


def compiles() -> bool:
    """Whether a PythonForce is compiled to machine code: numba is installed, and LATF_COMPILE does not forbid it.

    Raises
    ------
    SettingsError
        LATF_COMPILE is neither yes nor no.
    """
    return not _why_not_compiled()


def check_environment() -> None:
    """Refuse variables of the environment that have no meaning.

    Raises
    ------
    SettingsError
        LATF_COMPILE is neither yes nor no.
    """
    value = os.environ.get("LATF_COMPILE", "")
    if value and value.lower() not in _SWITCH:
        raise SettingsError(f"LATF_COMPILE in the environment must be one of {', '.join(_SWITCH)}; got {value!r}.")


def _why_not_compiled() -> str:
    check_environment()
    value = os.environ.get("LATF_COMPILE") or "1"
    if not _SWITCH[value.lower()]:
        return f"LATF_COMPILE is {value}"
    return "" if importlib.util.find_spec("numba") else "numba is not installed"


def torchforce_trouble() -> str:
    """Why TorchForce cannot be used here, from versions alone, with the command that helps; empty where it can."""
    fault = installation.torchforce_fault(installation.installed())
    return "" if fault is None else str(fault).rstrip(".")


@cache
def torchforce() -> type:
    """``openmmtorch.TorchForce``, loaded so that it works.

    openmmtorch does not find torch's libraries by itself: torch has to be imported first. OpenMM's plugins for it are
    loaded here, where `latf_sampling.core.plugins` left them out, or where they failed to load because OpenMM was
    imported before torch.

    Raises
    ------
    InstallationError
        The installed releases do not fit together, or the library does not load.
    """
    if trouble := torchforce_trouble():
        raise InstallationError(f"TorchForce does not work here: {trouble}.")
    import torch  # noqa: F401  (see above)

    with _without_simtk_warning():
        try:
            import openmmtorch
        except ImportError as error:
            raise InstallationError(f"openmmtorch does not load: {error}. 'latf doctor' says more.") from error
    _load_torch_plugins()
    return openmmtorch.TorchForce


def read_system(text: str) -> openmm.System:
    """The system in a text that this package wrote, whose potential energy may have a TorchForce.

    Raises
    ------
    InstallationError
        It has one, and as of `torchforce`.
    """
    import openmm

    if 'type="TorchForce"' in text:
        torchforce()
    return openmm.XmlSerializer.deserialize(text)


@contextmanager
def _without_simtk_warning() -> Iterator[None]:
    """openmmtorch is a SWIG wrapper that names OpenMM "simtk.openmm", which logs a warning to the root logger."""

    def keep(record: logging.LogRecord) -> bool:
        return "simtk.openmm" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def _load_torch_plugins() -> None:
    import openmm

    if _supports_torchforce("Reference"):
        return
    reasons = []
    for file in plugins.torch_plugins():
        try:
            openmm.Platform.loadPluginLibrary(str(file))
        except openmm.OpenMMException as error:  # expected where the platform itself is absent
            reasons.append(str(error))
    if not _supports_torchforce("Reference"):
        why = "; ".join(reasons) or "it is not in OpenMM's folder of plugins"
        raise InstallationError(f"OpenMM's plugin for TorchForce does not load: {why}.")


def has_torchforce_kernels(platform: str) -> bool:
    """Whether a TorchForce runs on a platform, by a plugin of its own or by that of Reference.

    Raises
    ------
    InstallationError
        As of `torchforce`.
    """
    torchforce()
    return _supports_torchforce(platform)


def _supports_torchforce(platform: str) -> bool:
    import openmm

    return openmm.Platform.getPlatformByName(platform).supportsKernels(["CalcTorchForce"])
