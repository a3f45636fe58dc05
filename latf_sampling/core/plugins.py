"""OpenMM's plugins. That of TorchForce brings torch's libraries, 380 MB, and is loaded only where it is needed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

PLATFORMS = ("CPU", "CUDA", "HIP", "OpenCL")
"""Plugins that are platforms; others add to those that are there."""
_FOLDER = "OPENMM_PLUGIN_DIR"


def import_openmm() -> None:
    """Import OpenMM without its plugin for TorchForce; `latf_sampling.core.backends.torchforce` loads it.

    For processes that are this package's alone. Nothing is done where OpenMM was imported before, or where
    OPENMM_PLUGIN_DIR in the environment tells OpenMM which plugins to load.

    Examples
    --------
    >>> import_openmm()
    """
    if "openmm" in sys.modules or _FOLDER in os.environ:
        return
    os.environ[_FOLDER] = os.devnull  # where OpenMM finds no plugin when it is imported
    try:
        import openmm
    finally:
        del os.environ[_FOLDER]
    torch = torch_plugins()
    others = [file for file in _plugins() if file not in torch]
    for file in sorted(others, key=lambda file: (_name(file) not in PLATFORMS, file)):
        with suppress(openmm.OpenMMException):  # of a platform that this machine does not have, as in OpenMM itself
            openmm.Platform.loadPluginLibrary(str(file))


def torch_plugins() -> list[Path]:
    """The libraries of OpenMM's plugin for TorchForce, one for each platform."""
    return [file for file in _plugins() if _name(file).startswith("Torch")]


def _plugins() -> list[Path]:
    """All plugins in the folder from which OpenMM loads them."""
    from openmm import Platform, version

    libraries = Path(version.openmm_library_path)
    own = _FOLDER not in os.environ and libraries.is_dir()
    folder = libraries / "plugins" if own else Path(Platform.getDefaultPluginsDirectory())
    return sorted(folder.glob("*OpenMM*")) if folder.is_dir() else []


def _name(plugin: Path) -> str:
    """The name of a plugin without that of OpenMM: libOpenMMCPU.so is CPU."""
    return plugin.name.split(".")[0].partition("OpenMM")[2]
