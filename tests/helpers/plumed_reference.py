"""Writes plumed_reference.json: the bias that PLUMED 2.11 puts on given values of a variable, for bias/test_plumed.py.

PLUMED is not needed to run the tests. The package `hillclimber` on PyPI holds a build of it, and would bring some
ninety others along. Without them:

    pip download --no-deps hillclimber==0.1.8 && python -m zipfile -e hillclimber-*.whl hillclimber
    python tests/helpers/plumed_reference.py hillclimber

Every case is one line of PLUMED's input. PLUMED adds a hill or kernel at every value after the first, and prints the
bias that acts at a value before its own kernel is added.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).with_suffix(".json")
KT = 8.31446261815324e-3 * 300.0
SIGMA, STEPS = 0.05, 200
BOX = "step(cv0-0.9)-step(cv0-1.05)"
CASES = {
    "opes": (1, "OPES_METAD BARRIER=25"),
    "opes, 2-D": (2, "OPES_METAD BARRIER=25 SIGMA_MIN=0.0175,0.0175"),
    "opes, 3-D": (3, "OPES_METAD BARRIER=25 SIGMA_MIN=0.02,0.02,0.02"),
    "opes, bias factor": (1, "OPES_METAD BARRIER=30 BIASFACTOR=5"),
    "opes, uniform": (1, "OPES_METAD BARRIER=25 BIASFACTOR=inf"),
    "opes, narrowest": (1, "OPES_METAD BARRIER=25 SIGMA_MIN=0.03"),
    "opes, adaptive": (1, "OPES_METAD BARRIER=25 SIGMA=ADAPTIVE ADAPTIVE_SIGMA_STRIDE=10 SIGMA_MIN=0.01"),
    "opes, adaptive, 2-D": (2, "OPES_METAD BARRIER=25 SIGMA=ADAPTIVE ADAPTIVE_SIGMA_STRIDE=10 SIGMA_MIN=0.0175,0.0175"),
    "opes, excluded": (1, "OPES_METAD BARRIER=25 EXCLUDED_REGION=box"),
    "explore": (1, "OPES_METAD_EXPLORE BARRIER=25"),
    "explore, 2-D": (2, "OPES_METAD_EXPLORE BARRIER=25 BIASFACTOR=6"),
    "explore, adaptive": (1, "OPES_METAD_EXPLORE BARRIER=25 SIGMA=ADAPTIVE ADAPTIVE_SIGMA_STRIDE=10 SIGMA_MIN=0.01"),
    "explore, excluded, adaptive": (
        1,
        "OPES_METAD_EXPLORE BARRIER=25 SIGMA=ADAPTIVE ADAPTIVE_SIGMA_STRIDE=10 SIGMA_MIN=0.01 EXCLUDED_REGION=box",
    ),
    "metadynamics": (1, "METAD HEIGHT=1.2 BIASFACTOR=8"),
    "metadynamics, 2-D": (2, "METAD HEIGHT=1.2 BIASFACTOR=8"),
}
"""Number of dimensions, and the action without the arguments that all have in common."""


def values(dim: int, seed: int = 0) -> np.ndarray:
    """Values (steps + 1, d) of a walker that jumps between two wells now and then."""
    rng = np.random.default_rng(seed + dim)
    side = np.cumprod(np.where(rng.random((STEPS + 1, dim)) < 0.04, -1, 1), axis=0)
    u = np.empty((STEPS + 1, dim))
    u[0] = 1 - 0.2 * side[0]
    for step in range(1, STEPS + 1):
        u[step] = u[step - 1] + 0.3 * (1 - 0.2 * side[step] - u[step - 1]) + 0.04 * rng.normal(size=dim)
    return u.round(9)


def plumed(folder: Path, case: str) -> dict[str, list]:
    """The bias at each value of a case, kJ/mol, and for OPES the number of kernels after it."""
    dim, action = CASES[case]
    names = [f"cv{k}" for k in range(dim)]
    rows = [[step, *u] for step, u in enumerate(values(dim).tolist())]
    lines = [f"#! FIELDS time {' '.join(names)}", *(" ".join(map(repr, row)) for row in rows)]
    (folder / "values").write_text("\n".join(lines) + "\n")
    is_opes, adaptive = action.startswith("OPES"), "ADAPTIVE" in action
    width = "" if adaptive else f"SIGMA={','.join([repr(SIGMA)] * dim)}"
    columns = "bias.bias,bias.nker" if is_opes else "bias.bias"
    script = [
        *(f"{name}: READ FILE=values VALUES={name} IGNORE_FORCES" for name in names),
        f"box: CUSTOM ARG=cv0 VAR=cv0 FUNC={BOX} PERIODIC=NO",
        f"bias: {action} ARG={','.join(names)} PACE=1 {width} FILE=kernels",
        f"PRINT ARG={columns} FILE=bias FMT=%.8f",
    ]
    (folder / "plumed.dat").write_text("\n".join(script) + "\n")
    root = Path(sys.argv[1]).resolve()
    library = root / "plumed" / "_lib" / "lib"
    environment = {
        **os.environ,
        "PLUMED_ROOT": str(library / "plumed"),
        "PLUMED_KERNEL": str(library / "libplumedKernel.so"),
        "LD_LIBRARY_PATH": f"{library}:{root / 'hillclimber.libs'}",
        "PLUMED_NUM_THREADS": "1",
        "PLUMED_DP2CUTOFF_NOSTRETCH": "1",  # hills of metadynamics as Gaussians, cut off and not stretched
    }
    program = library.parent / "bin" / "plumed"
    program.chmod(0o755)
    command = [str(program), "driver", "--noatoms", "--plumed", "plumed.dat", "--kt", repr(KT)]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    table = np.loadtxt(folder / "bias", ndmin=2)
    found = {"bias": table[:, 1].round(7).tolist()}
    return {**found, "kernels": table[:, 2].astype(int).tolist()} if is_opes else found


def main() -> None:
    results = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            results[case] = plumed(Path(folder), case)
    lines = (f"{json.dumps(case)}: {json.dumps(result, separators=(',', ':'))}" for case, result in results.items())
    REFERENCE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
