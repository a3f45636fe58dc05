"""Minimization of energies that tells how far it is: it takes minutes for a large system on few cores."""

from __future__ import annotations

from collections.abc import Callable

import openmm
from openmm import app

EXPECTED = 500
"""Iterations, each about as long as a time step: most structures take a few hundred."""
PASSES = 4
"""OpenMM usually minimizes so many times, each time with stiffer springs in place of constraints; its largest number of
iterations is that of each time."""
LEAST = 400
"""Iterations that are always made: with fewer a new box of water explodes."""


def minimize(simulation: app.Simulation, steps: int, progress: Callable[[float], object]) -> None:
    """Minimize the energy, to OpenMM's usual tolerance.

    Parameters
    ----------
    simulation
        With its positions.
    steps
        Of the dynamics that comes next: about so many iterations are made at most, but `LEAST`. A new box of water
        takes some thousands to the end, which is too long for a smoke test.
    progress
        Called after each iteration with the share of those that are expected, which is never 1.

    Raises
    ------
    openmm.OpenMMException
        The energy is not finite.
    """
    simulation.minimizeEnergy(maxIterations=max(steps, LEAST) // PASSES, reporter=_Reporter(progress))


class _Reporter(openmm.MinimizationReporter):
    def __init__(self, progress: Callable[[float], object]) -> None:
        super().__init__()
        self._progress, self._iterations = progress, 0

    def report(self, *_: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  # OpenMM's has one less
        """Count an iteration: OpenMM's own number begins at 0 again wherever it makes constraints stiffer."""
        self._iterations += 1
        self._progress(self._iterations / (self._iterations + EXPECTED))
        return False  # to go on
