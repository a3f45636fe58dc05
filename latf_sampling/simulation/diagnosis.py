"""What the last finite positions of a simulation that exploded show: which force, which atoms, which bias."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import app

from latf_sampling.data.failures import Diagnosis

Snapshot = tuple[np.ndarray, "np.ndarray | None"]
"""Positions (N, 3) and box vectors (3, 3), nm; no box where the system has none."""
GROUPS = 32
"""OpenMM's force groups; systems with more forces put several in one."""
LISTED = 3
"""Number of atoms with the largest forces that are named."""


def diagnose(
    system: openmm.System,
    topology: app.Topology,
    platform: openmm.Platform,
    step: int,
    last: Snapshot,
    first: Snapshot,
    bias: float | None,
    bias_forces: np.ndarray | None,
) -> Diagnosis:
    """Compare the forces at the last finite positions with those at the beginning of the segment.

    Parameters
    ----------
    system
        Without the bias; its force groups are changed.
    topology
        Its names.
    platform
        Where the forces are computed.
    step, last
        The last step with finite positions, and these.
    first
        Those at the beginning of the segment.
    bias, bias_forces
        Bias at the last positions, kJ/mol, and its forces (N, 3), kJ/mol/nm; `None` without one.
    """
    for index, force in enumerate(system.getForces()):
        force.setForceGroup(index % GROUPS)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    before, _ = _energies(context, *first)
    after, forces = _energies(context, *last)
    with np.errstate(all="ignore"):
        rise = np.nan_to_num(after - before, nan=np.inf, posinf=np.inf)
        sizes = np.linalg.norm(forces if bias_forces is None else forces + bias_forces, axis=1)
    worst = int(np.argmax(rise))
    names = [force.getName() for force in system.getForces()]
    largest = np.argsort(-np.nan_to_num(sizes, nan=np.inf, posinf=np.inf), kind="stable")[:LISTED]
    atoms = list(topology.atoms())
    return Diagnosis(
        step,
        " and ".join(names[worst::GROUPS]),
        _number(after[worst]),
        _number(before[worst]),
        [[_name(atoms[index]), _number(sizes[index])] for index in largest],
        None if bias is None else _number(bias),
    )


def _energies(context: openmm.Context, positions: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Energy of each force group, kJ/mol, and all forces (N, 3), kJ/mol/nm; NaN where OpenMM has none."""
    groups = min(GROUPS, context.getSystem().getNumForces())
    energies, forces = np.full(groups, np.nan), np.zeros_like(positions)
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(positions)
    for group in range(groups):
        try:
            state = context.getState(getEnergy=True, getForces=True, groups=1 << group)
        except openmm.OpenMMException:  # it refuses what is not finite
            forces[:] = np.nan
            continue
        energies[group] = state.getPotentialEnergy()._value
        forces += state.getForces(asNumpy=True)._value
    return energies, forces


def _name(atom: app.Atom) -> str:
    return f"{atom.residue.name} {atom.residue.id} {atom.name} (atom {atom.index})"


def _number(value: float) -> float | str:
    return float(value) if np.isfinite(value) else str(float(value))
