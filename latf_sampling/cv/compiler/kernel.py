"""The traced graph of a bias as machine code, for the lane in which OpenMM calls a Python function.

On a small molecule the graph costs some 100 operators in every step, a microsecond each however little they compute;
compiled by numba it is one function. Compiling takes seconds, so its result is kept in a folder of the user's. The
source depends on operations and shapes and not on weights or tables: a variable that was trained anew with the same
descriptors finds its machine code there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import warnings
from functools import cache
from pathlib import Path

import numba
import numpy as np
import torch

from latf_sampling.core import storage
from latf_sampling.cv.compiler.lowering import lowered
from latf_sampling.cv.compiler.operations import KernelError

__all__ = ["Kernel", "KernelError", "compiled", "folder"]


class Kernel:
    """A compiled graph; made by `compiled`.

    It is not to be called by two threads at once, which Python's global lock sees to.
    """

    def __init__(self, source: str, shapes: list[tuple[int, ...]], floats: np.ndarray, integers: np.ndarray) -> None:
        self._function = _function(source)
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
            An array is not float64, not C-contiguous, or read-only.
        """
        # Machine code does not look whether what it reads is there.
        if [x.shape for x in inputs] != self._shapes:
            raise ValueError(f"kernel: need arrays of shapes {self._shapes}, got {[x.shape for x in inputs]}.")
        return self._function(*inputs, self._floats, self._integers)


def compiled(graph: torch.fx.GraphModule, example: tuple[torch.Tensor, ...]) -> Kernel:
    """Compile a graph of aten operations, or find its machine code in the folder.

    Parameters
    ----------
    graph
        Made by `make_fx`; its inputs are float64 tensors, its output is a tuple of tensors.
    example
        Inputs, of which the shapes count.

    Returns
    -------
    Kernel
        Called with arrays in place of the inputs it gives what the graph gives.

    Raises
    ------
    KernelError
        The graph contains an operation that has no machine code here.

    Notes
    -----
    Where an index is out of range torch raises an error; the kernel takes the closest one that is in range.
    """
    program = lowered(graph, example)
    return Kernel(program.source, [tuple(x.shape) for x in example], program.floats, program.integers)


def folder() -> Path:
    """Where machine code is kept: $LATF_CACHE/kernels, or latf_sampling/kernels in the user's folder of caches."""
    if chosen := os.environ.get("LATF_CACHE"):
        return Path(chosen) / "kernels"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "latf_sampling" / "kernels"


@cache
def _function(source: str):
    """The compiled function, once a process."""
    versions = f"{numba.__version__} {sys.version_info[:2]}"
    name = "latf_kernel_" + hashlib.sha256(f"{versions}\n{source}".encode()).hexdigest()[:32]
    kept = source.replace("cache=CACHE", "cache=True")
    path = folder() / f"{name}.py"
    try:
        _write(path, kept)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where numba looks for it when it reads machine code
        spec.loader.exec_module(module)
        return module.kernel
    except Exception as error:  # an unwritable folder, a damaged file: numba raises many types for either
        warnings.warn(
            f"machine code of the bias is not kept in {path.parent} ({error}): every process compiles it anew, which "
            "takes seconds; set LATF_CACHE to a folder that can be written.",
            RuntimeWarning,
            stacklevel=4,
        )
    names: dict = {}
    exec(source.replace("cache=CACHE", "cache=False"), names)
    return names["kernel"]


def _write(path: Path, text: str) -> None:
    """Write the source, at once, unless it is there: many processes may do so at the same time."""
    if path.exists() and path.read_text() == text:
        return
    with storage.atomic_write(path) as temporary:
        temporary.write_text(text)
        # numba takes machine code for outdated if the source has another date: all copies have the same one.
        os.utime(temporary, (0, 0))
