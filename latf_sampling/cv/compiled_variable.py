"""A learned variable as machine code, for processes that bias a simulation and do nothing else.

torch takes 500 MB of memory and 3 s to import and trace a bias, and such a process needs neither once there is machine
code. Another process, which ends at once, traces the variable of a CV file and the shape of the bias with torch
(`latf_sampling.cv.tracing`), and keeps what it found beside the machine code in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latf_sampling.core import arguments, storage
from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.cv.collective_variable import CollectiveVariable, Evaluator, Positions, check_topology
from latf_sampling.cv.compiler.kernel import Kernel, KernelError, Program, cache_directory
from latf_sampling.cv.shapes import Shape, to_json
from latf_sampling.errors import CVError, StoreError
from latf_sampling.units import to_array

if TYPE_CHECKING:
    import mdtraj
    from openmm import app

UNUSED = 30 * 86400.0
"""s after which a file of programs that nobody read is removed from the cache."""
POLL = 0.1
"""s between two looks whether another process has traced the same."""


class CompiledVariable(CollectiveVariable):
    """The variable of a CV file by its machine code, which has the same numbers without torch.

    Made by `load`.

    Attributes
    ----------
    path : Path
        The CV file.

    Examples
    --------
    >>> cv = CompiledVariable.load("cv.pt", topology)  # doctest: +SKIP
    >>> Metadynamics(system, cv, 300.0, bias_factor=10, height=1.0, frequency=250)  # doctest: +SKIP
    """

    def __init__(self, path: Path, key: str, about: dict[str, Any], programs: dict[str, Program]) -> None:
        names = ("atoms", "n_atoms", "bounds", "sigma", "periodic", "steepness")
        super().__init__(*(about[name] for name in names))
        self.path, self._key, self._about, self._programs = path, key, about, programs

    @classmethod
    def load(cls, path: str | Path, topology: app.Topology | mdtraj.Topology | None = None) -> CompiledVariable:
        """Read a CV file, see `LatentCV.load`.

        Raises
        ------
        CVError
            As of `LatentCV.load`.
        KernelError
            The variable has an operation without machine code, as a custom descriptor may.
        """
        path = Path(path)
        try:
            key = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise CVError(f"{path}: cannot be read as a CV file ({error.strerror}).") from error
        about, programs = _traced(path, key, None)
        if topology is not None:
            check_topology(str(path), topology, about["topology"])
        return cls(path, key, about, programs)

    def __call__(self, positions: Any, box: Any = None) -> np.ndarray:
        positions = np.asarray(to_array(positions, "length", "positions"), np.float64)
        self._check_positions(positions.shape)
        of_atoms, boxes = self._inputs(positions, box)
        values = [self._value(*each)[0] for each in zip(of_atoms, boxes)]
        return np.array(values).reshape(*positions.shape[:-2], self.dim)

    def _gradients_in_chunks(self, positions: Positions, box: Any = None) -> Iterator[np.ndarray]:
        for each in zip(*self._inputs(self._frames(positions), box)):
            yield np.stack(self._gradient(*each))[None]

    def _inputs(self, positions: np.ndarray, box: Any) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, atoms, 3) of the variable's atoms, and boxes (n, 3, 3), of frames (..., N, 3)."""
        if not np.isfinite(positions).all():
            raise self._not_finite(np.argwhere(~np.isfinite(positions))[0].tolist())
        of_atoms = np.ascontiguousarray(positions.reshape(-1, self.n_atoms, 3)[:, self.atoms])
        if not self.periodic:
            return of_atoms, np.tile(np.eye(3), (len(of_atoms), 1, 1))
        if box is None:
            raise self._no_box()
        vectors = np.asarray(to_array(box, "length", "box"), np.float64)
        try:
            boxes = np.broadcast_to(vectors, (*positions.shape[:-2], 3, 3)).reshape(-1, 3, 3)
        except ValueError:
            raise CVError(f"{self._name}: the box must be vectors (..., 3, 3); got {vectors.shape}.") from None
        if not np.isfinite(boxes).all():
            raise CVError(f"{self._name}: the box must be finite vectors; got {arguments.describe(box)}.")
        return of_atoms, reduced_boxes(boxes)

    @cached_property
    def _value(self) -> Kernel:
        return Kernel(self._programs["value"])

    @cached_property
    def _gradient(self) -> Kernel:
        return Kernel(self._programs["gradient"])

    def evaluator(self, shape: Shape) -> Evaluator:
        return Kernel(_traced(self.path, self._key, shape)[1]["bias"])

    def fingerprint(self) -> str:
        return self._about["fingerprint"]

    def undefined(self, positions: np.ndarray, box: np.ndarray | None = None) -> list[str]:
        from latf_sampling.cv.latent_cv import LatentCV  # descriptors by themselves have no machine code

        return LatentCV.load(self.path).undefined(positions, box)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not isinstance(value, Kernel)}


# ---------------------------------------------------------------------------------------------- files of programs


def _traced(path: Path, key: str, shape: Shape | None) -> tuple[dict[str, Any], dict[str, Program]]:
    """What is known of the variable of a CV file, and its programs: of value and gradient, or of a bias with a shape.

    One process at a time traces; the others wait for what it finds.

    Raises
    ------
    CVError
        The file is no CV file, or the process that was to trace it failed.
    KernelError
        An operation has no machine code.
    """
    request = "" if shape is None else to_json(shape)
    digest = hashlib.sha256(f"{_version()} {key} {request}".encode()).hexdigest()[:32]
    file = cache_directory() / f"latf_programs_{digest}.npz"
    about, programs = read_programs(file) or _trace_once(path, file, request)
    if "unsupported" in about:
        raise KernelError(about["unsupported"])
    return about, programs


def _trace_once(path: Path, file: Path, request: str) -> tuple[dict[str, Any], dict[str, Program]]:
    """Let one process at a time trace, and the others wait for what it finds."""
    while True:
        try:
            lock = storage.try_lock(file.with_suffix(".lock"))
        except StoreError:  # as in a cache that cannot be written
            with tempfile.TemporaryDirectory(prefix="latf-programs-") as folder:
                return _trace(path, Path(folder) / file.name, request)
        if lock is not None:
            with lock:
                found = read_programs(file) or _trace(path, file, request)
                file.with_suffix(".lock").unlink(missing_ok=True)
                return found
        time.sleep(POLL)


def _trace(path: Path, file: Path, request: str) -> tuple[dict[str, Any], dict[str, Program]]:
    """Let a process with torch write a file of programs."""
    _remove_unused(file.parent)
    command = [sys.executable, "-m", "latf_sampling.cv.tracing", os.fspath(path), os.fspath(file)]
    done = subprocess.run(command, input=request, capture_output=True, encoding="utf-8", errors="replace")
    found = read_programs(file) if done.returncode == 0 else None
    if found is None:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise CVError(f"{path}: the variable could not be compiled ({last[0]}).")
    return found


@cache
def _version() -> str:
    """What programs depend on beside the variable: torch, and the code that traces and translates."""
    digest = hashlib.sha256(metadata.version("torch").encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def write_programs(file: Path, about: dict[str, Any], programs: dict[str, Program]) -> None:
    """Write a file of programs, at once or not at all."""
    content: dict[str, np.ndarray] = {"about": np.array(json.dumps(about))}
    for name, program in programs.items():
        content[f"{name}.source"] = np.array(json.dumps([program.source, program.shapes]))
        content[f"{name}.floats"], content[f"{name}.integers"] = program.floats, program.integers
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **content)
    with storage.atomic_write(file) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_programs(file: Path) -> tuple[dict[str, Any], dict[str, Program]] | None:
    """What `write_programs` wrote; `None` where there is no such file, or a damaged one."""
    try:
        with np.load(file, allow_pickle=False) as content:
            programs = {}
            for name in (key.removesuffix(".source") for key in content.files if key.endswith(".source")):
                source, shapes = json.loads(str(content[f"{name}.source"]))
                arrays = content[f"{name}.floats"], content[f"{name}.integers"]
                programs[name] = Program(source, [tuple(shape) for shape in shapes], *arrays)
            about = json.loads(str(content["about"]))
        with suppress(OSError):
            os.utime(file)  # still in use
        return about, programs
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _remove_unused(folder: Path) -> None:
    """Remove files of programs that nobody has read for long."""
    for file in folder.glob("latf_programs_*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > UNUSED:
                file.unlink()
