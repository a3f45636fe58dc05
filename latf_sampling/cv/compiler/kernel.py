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
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from latf_sampling.core import storage
from latf_sampling.cv.compiler.lowering import lower
from latf_sampling.cv.compiler.operations import KernelError

__all__ = ["Kernel", "KernelError", "cache_directory", "compile_graph", "compile_source"]


class Kernel:
    """A compiled graph, the result of `compile_graph`.

    Calls share a workspace, so that they must not run at the same time; Python's global lock prevents that.
    """

    def __init__(self, source: str, shapes: list[tuple[int, ...]], floats: np.ndarray, integers: np.ndarray) -> None:
        self.function = compile_source(source)
        self._shapes, self._floats, self._integers = shapes, floats, integers

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


def compile_graph(graph: torch.fx.GraphModule, example: tuple[torch.Tensor, ...]) -> Kernel:
    """Compile a graph of aten operations, or load its machine code from the cache.

    Parameters
    ----------
    graph
        A result of `make_fx`; its inputs are float64 tensors, its output is a tuple of tensors.
    example
        Inputs; only their shapes matter.

    Returns
    -------
    Kernel
        A function that takes arrays in place of the graph's inputs and returns the graph's outputs.

    Raises
    ------
    KernelError
        The graph contains an operation that the compiler does not support.

    Notes
    -----
    Where an index is out of range torch raises an error; the kernel takes the closest one that is in range.

    Examples
    --------
    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> example = (torch.zeros(3, dtype=torch.float64),)
    >>> kernel = compile_graph(make_fx(lambda x: (x * x.sum(),))(*example), example)
    >>> kernel(np.array([1.0, 2.0, 3.0]))
    (array([ 6., 12., 18.]),)
    """
    program = lower(graph, example)
    return Kernel(program.source, [tuple(x.shape) for x in example], program.floats, program.integers)


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
