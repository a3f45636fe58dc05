"""The traced graph of a bias as machine code, for the backend in which OpenMM calls a Python function.

On a small molecule the graph consists of some 100 operations in every step, each of which takes a microsecond however
little it computes; compiled by numba it is one function. Compiling takes seconds, so the result is cached in a
directory of the user. The source depends on operations and shapes, not on weights or tables: a variable that is
retrained with the same descriptors reuses its machine code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from latf_sampling.core import storage


class KernelError(Exception):
    """A graph contains an operation that the compiler does not support; the message names it."""


@dataclass
class Program:
    """A graph as the source of a function `kernel(*inputs, w, v)`.

    Attributes
    ----------
    source
        Depends on operations, shapes and plain numbers in the graph, and on no number of a tensor.
    shapes
        Of the inputs.
    floats, integers
        The workspaces w and v, with the constants in their places.
    """

    source: str
    shapes: list[tuple[int, ...]]
    floats: np.ndarray
    integers: np.ndarray


class Kernel:
    """A program as machine code.

    Calls share a workspace, so that they must not run at the same time; Python's global lock prevents that.
    """

    def __init__(self, program: Program) -> None:
        self.function = compile_source(program.source)
        self._shapes, self._floats, self._integers = program.shapes, program.floats, program.integers

    def __call__(self, *inputs: np.ndarray) -> tuple:
        """Evaluate on arrays of the example's shapes, float64 and C-contiguous.

        Returns
        -------
        tuple
            A number for each output without dimensions, a new array for each other.

        Raises
        ------
        ValueError
            An array has another shape than the example.
        TypeError
            An array is not float64 or not C-contiguous; it may be read-only.
        """
        # Machine code does not check bounds.
        if [x.shape for x in inputs] != self._shapes:
            raise ValueError(f"kernel: need arrays of shapes {self._shapes}, got {[x.shape for x in inputs]}.")
        return self.function(*inputs, self._floats, self._integers)


def cache_directory() -> Path:
    """Directory of cached machine code: $LATF_CACHE/kernels, or latf_sampling/kernels in the user's cache directory."""
    if directory := os.environ.get("LATF_CACHE"):
        return Path(directory) / "kernels"
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home directory, as in some containers
        caches = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
        if caches.is_symlink() or (caches.exists() and caches.stat().st_uid != os.getuid()):
            caches = Path(tempfile.mkdtemp(prefix="latf-cache-"))  # another user made it, and may have put code there
    return caches / "latf_sampling" / "kernels"


@cache
def compile_source(source: str) -> Callable[..., tuple]:
    """Compile the function `kernel` of a source, once in each process, or load its machine code from the cache."""
    import numba  # here, since files of programs are read without it

    versions = f"{numba.__version__} {sys.version_info[:2]}"
    name = "latf_kernel_" + hashlib.sha256(f"{versions}\n{source}".encode()).hexdigest()[:32]
    path = cache_directory() / f"{name}.py"
    try:
        _write_source(path, source.replace("cache=CACHE", "cache=True"))
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"no module can be loaded from {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where numba looks for it when it loads machine code
        spec.loader.exec_module(module)
        return module.kernel
    except Exception as error:  # numba raises many types for an unwritable directory or a damaged file
        warnings.warn(
            f"the machine code of the bias cannot be cached in {path.parent} ({error}): every process compiles it "
            "again, which takes seconds; set LATF_CACHE to a directory that can be written.",
            RuntimeWarning,
            stacklevel=4,
        )
    namespace: dict[str, Any] = {}
    exec(source.replace("cache=CACHE", "cache=False"), namespace)
    return namespace["kernel"]


def _write_source(path: Path, text: str) -> None:
    """Write the source atomically unless the file has it already: several processes may do so at the same time."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with storage.atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        # numba discards machine code if the date of the source has changed: all copies have the same date.
        os.utime(temporary, (0, 0))
