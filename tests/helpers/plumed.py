"""PLUMED itself, where `make` has put the build that `hillclimber` of the package index carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(os.environ.get("LATF_PLUMED") or Path(sys.prefix) / "plumed")
LIBRARY = ROOT / "plumed" / "_lib" / "lib"
PROGRAM = LIBRARY.parent / "bin" / "plumed"
needs_plumed = pytest.mark.skipif(not PROGRAM.exists(), reason="PLUMED is not installed; see Makefile")


def run(folder: Path, *arguments: str) -> None:
    """Run `plumed driver` on plumed.dat in a folder."""
    environment = {
        **os.environ,
        "PLUMED_ROOT": str(LIBRARY / "plumed"),
        "PLUMED_KERNEL": str(LIBRARY / "libplumedKernel.so"),
        "LD_LIBRARY_PATH": f"{LIBRARY}:{ROOT / 'hillclimber.libs'}",
        "PLUMED_NUM_THREADS": "1",
        "PLUMED_DP2CUTOFF_NOSTRETCH": "1",
    }
    PROGRAM.chmod(0o755)
    command = [str(PROGRAM), "driver", "--plumed", "plumed.dat", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def write_trajectory(file: Path, positions: np.ndarray, box: np.ndarray | None = None) -> None:
    """An XYZ file with all digits; nm."""
    with open(file, "w") as handle:
        for frame in positions:
            cell = "1000 1000 1000" if box is None else " ".join(map(repr, np.asarray(box).ravel().tolist()))
            handle.write(f"{len(frame)}\n{cell}\n")
            handle.writelines(f"X {x!r} {y!r} {z!r}\n" for x, y, z in frame.tolist())


def table(file: Path) -> dict[str, np.ndarray]:
    """The columns of a file that PLUMED wrote."""
    names = file.read_text().split("\n", 1)[0].split()[2:]
    return dict(zip(names, np.loadtxt(file, ndmin=2).T))


def forces(file: Path, n_atoms: int) -> np.ndarray:
    """What `--dump-forces` wrote, (frames, atoms, 3)."""
    rows = [line.split()[1:] for line in file.read_text().splitlines() if line.startswith("X ")]
    return np.array(rows, float).reshape(-1, n_atoms, 3)


def values(
    folder: Path,
    lines: list[str],
    names: list[str],
    positions: np.ndarray,
    box: np.ndarray | None = None,
    *options: str,
) -> np.ndarray:
    """Values (n, names) that PLUMED computes, which is given these lines of input."""
    (folder / "plumed.dat").write_text("\n".join([*lines, f"PRINT ARG={','.join(names)} FILE=out FMT=%.15g", ""]))
    write_trajectory(folder / "x.xyz", positions, box)
    run(folder, "--ixyz", "x.xyz", "--length-units", "nm", *options)
    found = table(folder / "out")
    return np.stack([found[name] for name in names], 1)
