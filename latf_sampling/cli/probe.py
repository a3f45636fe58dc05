"""The child process of `latf doctor`: evaluates a real bias where a crash does no harm, and answers in a line of JSON.

What is tried is what a campaign runs: a bias of a table that changes, one of a fixed table, and a component of the
variable inside a `CustomCVForce`, as OpenMM's own metadynamics nests it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from latf_sampling.errors import LatfError

if TYPE_CHECKING:
    import openmm

    from latf_sampling.cv.variable import Variable

TOLERANCE = 1e-4
"""Of energies and forces, relative to the largest; single precision on a GPU stays well below."""

POSITIONS = np.array([[0.31, -0.12, 0.05], [-0.22, 0.27, 0.41], [0.08, 0.19, -0.33]])
CENTERS, MOVED, STIFFNESS = np.array([0.3, 0.5]), np.array([0.9, 0.2]), np.array([400.0, 150.0])


def expected(positions: np.ndarray, centers: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy of a harmonic bias on two distances, sum_k K_k (|r_k+1 - r_k| - c_k)^2 / 2, and its forces.

    Parameters
    ----------
    positions
        Three particles, nm, (3, 3).
    centers
        c, nm, (2,).

    Returns
    -------
    tuple
        Energy in kJ/mol and forces in kJ/mol/nm, (3, 3).
    """
    steps = np.diff(positions, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    pulls = (STIFFNESS * (lengths - centers) / lengths)[:, None] * steps
    return float(0.5 * STIFFNESS @ (lengths - centers) ** 2), np.vstack([pulls, np.zeros(3)]) - np.vstack(
        [np.zeros(3), pulls]
    )


def nested(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of v^2 / 2, with v the first of these distances."""
    step = positions[1] - positions[0]
    return float(0.5 * step @ step), np.array([step, -step, np.zeros(3)])


def make_variable() -> Variable:
    """The two distances between neighbors of three particles."""
    import mdtraj

    from latf_sampling.cv.variable import Variable
    from latf_sampling.features import Features

    topology = mdtraj.Topology()
    residue = topology.add_residue("TRI", topology.add_chain())
    for name in ("A", "B", "C"):
        topology.add_atom(name, mdtraj.element.carbon, residue)
    features = Features(topology, [{"distances": {"pairs": [[0, 1], [1, 2]]}}])
    bounds, sigma = [[0.1, 2.0]] * 2, [0.05] * 2
    return Variable(features.module.double(), features.atoms, features.n_atoms, bounds, sigma)


def evaluate(backend: str, platform: str) -> dict[str, str]:
    """Try one backend on one platform.

    Returns
    -------
    dict
        "status", which is "works" or "wrong", and "detail".
    """
    import openmm

    from latf_sampling.cv.force import BiasForce, bias_variables
    from latf_sampling.cv.shapes import Harmonic

    variable, harmonic = make_variable(), Harmonic(2)
    table, moved = np.concatenate([CENTERS, STIFFNESS]), np.concatenate([MOVED, STIFFNESS])

    system = _particles()
    changing = BiasForce(system, variable, harmonic, table, backend=backend)
    context = _context(system, platform)
    before = _state(context)
    changing.table[:] = moved
    changing.publish(context)
    after = _state(context)
    repeats, start = 50, time.perf_counter()
    for _ in range(repeats):
        _state(context)
    seconds = (time.perf_counter() - start) / repeats

    system = _particles()
    BiasForce(system, variable, harmonic, table, fixed=True, backend=backend)
    fixed = _state(_context(system, platform))

    system = _particles()
    outer = openmm.CustomCVForce("v^2/2")
    outer.addCollectiveVariable("v", bias_variables(variable, backend)[0].force)
    system.addForce(outer)
    inside = _state(_context(system, platform))

    errors = {
        "a bias": _error(before, expected(POSITIONS, CENTERS)),
        "a bias whose table has changed": _error(after, expected(POSITIONS, MOVED)),
        "a bias of a fixed table": _error(fixed, expected(POSITIONS, CENTERS)),
        "a variable inside CustomCVForce": _error(inside, nested(POSITIONS)),
    }
    for what, error in errors.items():
        if not error < TOLERANCE:  # also when it is not a number
            return {"status": "wrong", "detail": f"energy or forces of {what} are off by {error:.2g} of the largest"}
    accuracy = f"relative error {max(errors.values()):.1g}"
    return {"status": "works", "detail": f"bare, fixed and nested; {seconds * 1e6:.0f} us an evaluation, {accuracy}"}


def _particles() -> openmm.System:
    import openmm

    system = openmm.System()
    for _ in POSITIONS:
        system.addParticle(1.0)
    return system


def _context(system: openmm.System, platform: str) -> openmm.Context:
    import openmm

    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform))
    context.setPositions(POSITIONS)
    for _ in range(3):  # torch optimizes a graph during its first evaluations
        _state(context)
    return context


def _state(context: openmm.Context) -> tuple[float, np.ndarray]:
    state = context.getState(getEnergy=True, getForces=True)
    return float(state.getPotentialEnergy()._value), np.array(state.getForces(asNumpy=True)._value)


def _error(got: tuple[float, np.ndarray], right: tuple[float, np.ndarray]) -> float:
    """Largest error of energy and forces, each relative to the largest."""
    energy = abs(got[0] - right[0]) / abs(right[0])
    return float(np.maximum(energy, np.abs(got[1] - right[1]).max() / np.abs(right[1]).max()))


def survey() -> dict[str, Any]:
    """List platforms and devices. torch comes first, as in every run: OpenMM's torch plugins do not load without it."""
    from latf_sampling.core import platforms

    notes: list[str] = []
    devices: list[str] = []
    entries: list[dict[str, Any]] = []
    failures: list[str] = []
    try:
        import torch

        devices = [f"{d} ({torch.cuda.get_device_name(d)})" if "cuda" in d else d for d in platforms.devices()]
    except Exception as error:  # a broken torch shows itself in many ways
        notes.append(f"torch does not load: {error}")
    try:
        import openmm

        for index in range(openmm.Platform.getNumPlatforms()):
            platform = openmm.Platform.getPlatform(index)
            name = platform.getName()
            entries.append({"name": name, "speed": platform.getSpeed(), "trouble": platforms.usable(name) or ""})
        failures = list(openmm.Platform.getPluginLoadFailures())
    except Exception as error:
        notes.append(f"OpenMM does not load: {error}")
    return {"platforms": entries, "devices": devices, "plugin_failures": failures, "notes": notes}


def answer(backend: str | None, platform: str) -> dict[str, Any]:
    """What the child prints: the survey of the machine, or the status of one backend on one platform."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # no core file when it crashes
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if backend is None:
        return survey()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            result = evaluate(backend, platform)
        remarks = [str(entry.message) for entry in caught if issubclass(entry.category, RuntimeWarning)]
        return {**result, "detail": "; ".join([result["detail"], *dict.fromkeys(remarks)])}
    except LatfError as error:
        return {"status": "failed", "detail": str(error)}
    except Exception as error:
        return {"status": "failed", "detail": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Answer the parent."""
    parser = argparse.ArgumentParser(prog="python -m latf_sampling.cli.probe", description=__doc__)
    parser.add_argument(
        "--backend", choices=["torchforce", "pythonforce"], help="what to try; default: list the machine"
    )
    parser.add_argument("--platform", default="Reference", help="OpenMM's platform to try it on")
    arguments = parser.parse_args()
    print(json.dumps(answer(arguments.backend, arguments.platform)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
