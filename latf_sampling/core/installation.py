"""What is installed, and whether it fits together.

A bias runs in either of two forces of OpenMM (`backends`):

============  ================================================================  ================================
backend       needs                                                             evaluated by
============  ================================================================  ================================
torchforce    OpenMM 8.5, torch 2.10 to 2.12, acellera-openmmtorch-cpu, -cu12   ``openmmtorch.TorchForce``,
              or -cu13 1.10                                                     without Python
pythonforce   OpenMM 8.5 or later, any torch from 2.10 on                       ``openmm.PythonForce``, which
                                                                                calls numba or torch
============  ================================================================  ================================

The plugin is one binary, and its metadata does not name the releases of OpenMM that it works with. `faults` knows the
combinations that crash or fail, from versions alone, so that a wrong one ends in a sentence and not in a segmentation
fault. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from latf_sampling.errors import InstallationError

NEEDED = (
    *("deeptime", "matplotlib", "mdtraj", "netcdf4", "numba", "numpy", "pint", "pydantic"),
    *("pymbar", "pyyaml", "rich", "scipy", "typer", "zuko"),
)
"""Distributions that the package needs beside OpenMM and torch."""

PLUGINS = ("acellera-openmmtorch-cpu", "acellera-openmmtorch-cu12", "acellera-openmmtorch-cu13", "openmmtorch")
"""Distributions that provide the module ``openmmtorch``."""

CUDA = ("openmm-cuda-12", "openmm-cuda-13")
"""Distributions of OpenMM's CUDA platform."""

OPENMM = "8.5.2"
TORCH = ("2.11", "2.13")
"""The release of OpenMM, and the range of torch without its end, that both backends are tested with."""

_REPAIR = 'pip install "openmm=={}" "torch>={},<{}" acellera-openmmtorch-cpu==1.10'.format(OPENMM, *TORCH)


def installed() -> dict[str, str | None]:
    """Versions of everything that matters here, without importing any of it.

    Returns
    -------
    dict
        Distribution name to version, `None` for what is absent.

    Examples
    --------
    >>> import numpy
    >>> installed()["numpy"] == numpy.__version__
    True
    """
    return {name: _version(name) for name in ("openmm", "torch", *PLUGINS, *CUDA, *NEEDED)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an installation.

    Parameters
    ----------
    what
        What is installed and does not fit.
    why
        What happens because of it.
    repair
        A shell command that repairs it.
    fatal
        Whether nothing can be simulated because of it.
    """

    what: str
    why: str
    repair: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. To repair it: {self.repair}"


def faults(versions: Mapping[str, str | None]) -> list[Fault]:
    """What is wrong with a set of installed versions; a function of nothing else.

    Parameters
    ----------
    versions
        As `installed` returns them; a name that is left out counts as absent.

    Returns
    -------
    list of Fault
        The fatal ones first.

    Examples
    --------
    >>> good = dict.fromkeys(NEEDED, "1.0") | {"openmm": "8.6.1", "torch": "2.13.0"}
    >>> [fault.fatal for fault in faults(good)]  # no plugin: PythonForce alone
    []
    >>> [fault.what for fault in faults(good | {"openmm": "8.4.0"})]
    ['OpenMM 8.4.0 is installed']
    """
    openmm, torch = versions.get("openmm"), versions.get("torch")
    entries: list[Fault] = []
    if openmm is None:
        entries.append(Fault("OpenMM is not installed", "nothing can be simulated", _REPAIR))
    elif _release(openmm) < (8, 5):
        why = "the package needs OpenMM 8.5 or later, which has PythonForce"
        entries.append(Fault(f"OpenMM {openmm} is installed", why, _REPAIR))
    if torch is None:
        entries.append(Fault("torch is not installed", "nothing can be learned or biased", _REPAIR))
    elif _release(torch) < (2, 10):
        why = "the package needs torch 2.10 or later"
        entries.append(Fault(f"torch {torch} is installed", why, _REPAIR))
    for name in (name for name in NEEDED if versions.get(name) is None):
        entries.append(Fault(f"{name} is not installed", "the package needs it", f"pip install {name}"))
    if not entries and _plugin(versions) and (fault := torchforce_fault(versions)):
        entries.append(fault)
    for name in CUDA:
        cuda = versions.get(name)
        if openmm and cuda and _release(cuda, 3) != _release(openmm, 3):
            what = f"{name.replace('openmm-cuda', 'OpenMM-CUDA')} {cuda} is installed beside OpenMM {openmm}"
            why = "a plugin of another release does not load or crashes, so a GPU may not be used"
            entries.append(Fault(what, why, f'pip install "{name}=={openmm}"', fatal=False))
    return sorted(entries, key=lambda fault: not fault.fatal)


def torchforce_fault(versions: Mapping[str, str | None]) -> Fault | None:
    """Why TorchForce does not work with a set of versions, or `None` where it does.

    Examples
    --------
    >>> torchforce_fault({"openmm": "8.5.2", "torch": "2.12.1", "acellera-openmmtorch-cpu": "1.10"})
    >>> torchforce_fault({"openmm": "8.6.1", "torch": "2.12.1", "acellera-openmmtorch-cpu": "1.10"}).why
    'with OpenMM 8.6 a TorchForce inside another force ends in a segmentation fault, so PythonForce carries every bias'
    """
    openmm, torch, plugin = versions.get("openmm"), versions.get("torch"), _plugin(versions)
    if openmm is None or torch is None:
        return Fault("OpenMM or torch is not installed", "nothing can be biased", _REPAIR)
    if plugin is None:
        return Fault("No plugin for TorchForce is installed", "PythonForce carries every bias", _REPAIR, fatal=False)
    name, version = plugin
    if name == "openmmtorch":
        why = "it is built for OpenMM 8.4 and crashes with later releases, so PythonForce carries every bias"
        repair = f"pip uninstall -y openmmtorch && {_REPAIR}"
        return Fault(f"openmmtorch {version} is installed", why, repair, fatal=False)
    what = f"{name} {version} is installed beside"
    if _release(openmm) != (8, 5):
        why = "with OpenMM 8.6 a TorchForce inside another force ends in a segmentation fault"
        if _release(openmm) > (8, 6):
            why = f"it is not tested with OpenMM {openmm}, and crashes with 8.6.1"
        why += ", so PythonForce carries every bias"
        return Fault(f"{what} OpenMM {openmm}", why, f'pip install "openmm=={OPENMM}"', fatal=False)
    if not (2, 10) <= _release(torch) < (2, 13):
        why = "it is built for torch 2.10 to 2.12; with 2.13 every evaluation of a TorchForce fails, so PythonForce "
        repair = 'pip install "torch>={},<{}"'.format(*TORCH)
        return Fault(f"{what} torch {torch}", f"{why}carries every bias", repair, fatal=False)
    if _release(version) != (1, 10):
        why = "the package is tested with release 1.10, so PythonForce carries every bias"
        return Fault(f"{name} {version} is installed", why, f"pip install {name}==1.10", fatal=False)
    return None


def _plugin(versions: Mapping[str, str | None]) -> tuple[str, str] | None:
    """Name and version of the plugin for TorchForce."""
    return next(((name, version) for name in PLUGINS if (version := versions.get(name))), None)


def _release(version: str, parts: int = 2) -> tuple[int, ...]:
    """First numbers of a version, padded with zeros: "8.4.0.post2" -> (8, 4)."""
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]
    return tuple([*numbers, *[0] * parts][:parts])


@cache
def check_installation() -> None:
    """Refuse an installation that cannot work, in the words of ``latf doctor``.

    Raises
    ------
    InstallationError
        Packages are missing or do not fit together; says what, why, and the command that repairs it.

    Examples
    --------
    >>> check_installation()
    """
    fatal = [fault for fault in faults(installed()) if fault.fatal]
    if fatal:
        raise InstallationError("\n".join(map(str, fatal)))
