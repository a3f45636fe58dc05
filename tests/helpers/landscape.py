"""A bias on a grid that is a random smooth function."""

from __future__ import annotations

import numpy as np
import openmm

from latf_sampling.bias.grid import Grid, GridBias
from latf_sampling.cv.variable import Variable


class Landscape(GridBias):
    """A random smooth function on the grid, of some 10 kJ/mol on the scale of a hill width."""

    def __init__(
        self, system: openmm.System | None, cv: Variable, seed: int = 0, fixed: bool = False, backend: str = "auto"
    ) -> None:
        grid = Grid(cv, cv.sigma)
        super().__init__(system, cv, grid, self.random(grid, seed), fixed=fixed, backend=backend)

    def random(self, grid: Grid, seed: int) -> np.ndarray:
        """Coefficients of a function, whose values between the walls are kept as `nodes`."""
        rng = np.random.default_rng(seed)
        nodes = np.stack(np.meshgrid(*grid.nodes(), indexing="ij"), axis=-1) / grid.hill_width
        waves = rng.uniform(-1, 1, (6, grid.dim))
        values = 5 * sum(np.cos(nodes @ wave + rng.uniform(0, 6)) for wave in waves)
        self.nodes = values[grid.between_walls()]
        return grid.spline_through(values)

    def change(self, seed: int, context: openmm.Context | None = None) -> None:
        """Take another function, which a context is told of."""
        self.coefficients[...] = self.random(self.grid, seed)
        if context is not None:
            self.force.publish(context)
