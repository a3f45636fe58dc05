"""What runs here: do the installed packages fit together, on which platform and device, with which random numbers.

Two things can carry a bias, and the release of OpenMM decides which one it is, the *lane*:

============  =============================================  ==================================================
lane          installed                                      the bias is evaluated by
============  =============================================  ==================================================
torchforce    OpenMM 8.4, openmmtorch 1.5, torch 2.9         ``openmmtorch.TorchForce``, without Python
pythonforce   OpenMM 8.5 or later, torch 2.9 or later        ``openmm.PythonForce``, which calls torch
============  =============================================  ==================================================

openmmtorch 1.5 is one binary, and its metadata does not say what it was built for. `faults` knows which
combinations crash or fail, from versions alone, so that a wrong one ends in a sentence and not in a segmentation fault.
Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from latf_sampling.errors import InstallationError

if TYPE_CHECKING:
    pass

NEEDED = (
    *("deeptime", "matplotlib", "mdtraj", "netcdf4", "numpy", "pint", "pydantic"),
    *("pymbar", "pyyaml", "rich", "scipy", "typer", "zuko"),
)
"""Distributions the package needs in any lane, beside OpenMM and torch."""

NVRTC = "libnvrtc.so.12"
"""The library of CUDA 12 that openmmtorch's binary for Linux is linked to; torch's CUDA build brings it."""

_TORCHFORCE_PINS = '"openmm==8.4.*" "torch==2.9.*" openmmtorch==1.5'


# --------------------------------------------------------------------------------------------- what is installed


def installed() -> dict[str, str | None]:
    """Versions of everything that matters here, without importing any of it.

    Returns
    -------
    dict
        Distribution name to version, None for what is absent. One entry is not a distribution:
        "libnvrtc.so.12" tells where that library comes from, or "not needed" outside Linux.

    Examples
    --------
    >>> import numpy
    >>> installed()["numpy"] == numpy.__version__
    True
    """
    names = ("openmm", "openmmtorch", "torch", *NEEDED, "openmm-cuda-12", "openmm-torch-cuda-12")
    return {**{name: _version(name) for name in names}, NVRTC: _nvrtc()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nvrtc() -> str | None:
    if sys.platform != "linux":
        return "not needed"
    if wheel := _version("nvidia-cuda-nvrtc-cu12"):
        return wheel
    folders = [f"{sys.prefix}/lib", *os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/usr/local/cuda/lib64"]
    return next((folder for folder in folders if folder and (Path(folder) / NVRTC).exists()), None)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an installation.

    Parameters
    ----------
    what
        What is installed and does not fit.
    why
        What happens because of it.
    mend
        A shell command that mends it.
    fatal
        Whether nothing can be simulated because of it.
    """

    what: str
    why: str
    mend: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. To mend it: {self.mend}"


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
    >>> faults(good)
    []
    >>> [fault.what for fault in faults(good | {"openmm": "8.3.1"})]
    ['OpenMM 8.3.1 is installed']
    """
    openmm, torch, plugin = (versions.get(name) for name in ("openmm", "torch", "openmmtorch"))
    found = [*_openmm_faults(openmm, plugin), *_torch_faults(openmm, torch)]
    if openmm and torch and plugin and not found:
        found = _plugin_faults(openmm, torch, plugin, versions.get(NVRTC))
    for name in (name for name in NEEDED if versions.get(name) is None):
        found.append(Fault(f"{name} is not installed", "the package needs it", f"pip install {name}"))
    if openmm and (cuda := versions.get("openmm-cuda-12")):
        found += _cuda_faults(openmm, plugin, cuda, versions.get("openmm-torch-cuda-12"))
    return sorted(found, key=lambda fault: not fault.fatal)


def _openmm_faults(openmm: str | None, plugin: str | None) -> list[Fault]:
    install = f"pip install {_TORCHFORCE_PINS}"
    if openmm is None:
        return [Fault("OpenMM is not installed", "nothing can be simulated", install)]
    if _release(openmm) < (8, 4):
        return [Fault(f"OpenMM {openmm} is installed", "the package needs OpenMM 8.4, or 8.5 and later", install)]
    if _release(openmm) == (8, 4) and plugin is None:
        why = "OpenMM 8.4 has no PythonForce, so nothing can carry a bias"
        return [Fault(f"OpenMM {openmm} is installed without openmmtorch", why, install)]
    return []


def _torch_faults(openmm: str | None, torch: str | None) -> list[Fault]:
    wanted = "torch>=2.9" if openmm and _release(openmm) >= (8, 5) else "torch==2.9.*"
    if torch is None:
        return [Fault("torch is not installed", "nothing can be learned or biased", f'pip install "{wanted}"')]
    if _release(torch) < (2, 9):
        why = "the package needs torch 2.9 or later, and openmmtorch 1.5 crashes with an older one"
        return [Fault(f"torch {torch} is installed", why, f'pip install "{wanted}"')]
    return []


def _plugin_faults(openmm: str, torch: str, plugin: str, nvrtc: str | None) -> list[Fault]:
    if _release(openmm) >= (8, 5):
        return [
            Fault(
                f"openmmtorch {plugin} is installed beside OpenMM {openmm}",
                "it was built for OpenMM 8.4 and crashes inside another force, so PythonForce is used instead",
                "pip uninstall -y openmmtorch",
                fatal=False,
            )
        ]
    if _release(plugin) != (1, 5):
        return [
            Fault(
                f"openmmtorch {plugin} is installed",
                "the package is tested with openmmtorch 1.5",
                f"pip install {_TORCHFORCE_PINS}",
                fatal=False,
            )
        ]
    if _release(torch) != (2, 9):
        why = "openmmtorch 1.5 was built for torch 2.9, and with a later one every evaluation of the force fails"
        return [Fault(f"torch {torch} is installed beside openmmtorch {plugin}", why, 'pip install "torch==2.9.*"')]
    if "+cpu" in torch or nvrtc is None:
        return [
            Fault(
                f"a CPU-only torch {torch} is installed beside openmmtorch {plugin}",
                f"openmmtorch needs {NVRTC} even where there is no GPU, and only the CUDA build of torch brings it",
                f'pip install --force-reinstall "torch=={torch.split("+")[0]}"',
            )
        ]
    return []


def _cuda_faults(openmm: str, plugin: str | None, cuda: str, torch_cuda: str | None) -> list[Fault]:
    if _release(cuda, 3) != _release(openmm, 3):
        what = f"OpenMM-CUDA-12 {cuda} is installed beside OpenMM {openmm}"
        why = "a plugin of another release does not load or crashes, so a GPU may not be used"
        return [Fault(what, why, f'pip install "openmm[cuda12]=={openmm}"', fatal=False)]
    if _release(openmm) == (8, 4) and plugin and torch_cuda is None:
        what = "OpenMM-CUDA-12 is installed without OpenMM-Torch-CUDA-12"
        why = "TorchForce does not run on the CUDA platform, so a GPU is not used"
        return [Fault(what, why, f'pip install "openmm[cuda12]=={openmm}" "openmmtorch[cuda12]==1.5"', fatal=False)]
    return []


def _release(version: str, parts: int = 2) -> tuple[int, ...]:
    """First numbers of a version, padded with zeros: "8.4.0.post2" -> (8, 4)."""
    numbers = [int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0])]
    return tuple([*numbers, *[0] * parts][:parts])


def lane_of(versions: Mapping[str, str | None]) -> str | None:
    """The lane of a set of versions: "torchforce", "pythonforce", or None when a fault is fatal."""
    if any(fault.fatal for fault in faults(versions)):
        return None
    return "pythonforce" if _release(versions["openmm"]) >= (8, 5) else "torchforce"


@cache
def check_installation() -> None:
    """Refuse an installation that cannot work, in the words of ``latf doctor``.

    Raises
    ------
    InstallationError
        Packages are missing or do not fit together; says what, why, and the command that mends it.

    Examples
    --------
    >>> check_installation()
    """
    fatal = [fault for fault in faults(installed()) if fault.fatal]
    if fatal:
        raise InstallationError("\n".join(map(str, fatal)))


def lane() -> str:
    """What carries a bias here: "torchforce" or "pythonforce".

    Raises
    ------
    InstallationError
        Neither can; see `check_installation`.

    Examples
    --------
    >>> lane() in ("torchforce", "pythonforce")
    True
    """
    check_installation()
    return lane_of(installed())


@cache
def torchforce() -> type:
    """``openmmtorch.TorchForce``, loaded so that it works.

    openmmtorch does not find torch's libraries by itself: torch has to be imported first. When OpenMM was imported
    before torch, its plugins for TorchForce have already failed to load, and they are loaded again here.

    Raises
    ------
    InstallationError
        The lane is "pythonforce", the installation has a fault, or the library does not load.
    """
    if lane() != "torchforce":
        version = installed()["openmm"]
        raise InstallationError(f"TorchForce is not used with OpenMM {version}, whose PythonForce carries the bias.")
    import torch  # noqa: F401  (see above)

    with _without_simtk_warning():
        try:
            import openmmtorch
        except ImportError as error:
            raise InstallationError(f"openmmtorch does not load: {error}. 'latf doctor' says more.") from error
    _load_torch_plugins()
    return openmmtorch.TorchForce


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

    if has_torchforce_kernels("Reference"):
        return
    failed = [re.match(r"Error loading library (.*?): ", text) for text in openmm.Platform.getPluginLoadFailures()]
    reasons = []
    for path in [match[1] for match in failed if match and "OpenMMTorch" in match[1]]:
        try:
            openmm.Platform.loadPluginLibrary(path)
        except openmm.OpenMMException as error:  # expected where the platform itself is absent
            reasons.append(str(error))
    if not has_torchforce_kernels("Reference"):
        why = "; ".join(reasons) or "it is not in OpenMM's folder of plugins"
        raise InstallationError(f"OpenMM's plugin for TorchForce does not load: {why}.")


def has_torchforce_kernels(platform: str) -> bool:
    import openmm

    return openmm.Platform.getPlatformByName(platform).supportsKernels(["CalcTorchForce"])
