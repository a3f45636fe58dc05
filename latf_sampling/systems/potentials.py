"""Model systems in OpenMM with known answers, by name, for tests of methods before molecules.

Lengths are nm, energies kJ/mol, masses amu; with these units of length, energy and mass the reduced unit of time is
1 ps. Temperatures are in K everywhere in the package; the reduced temperature T of the literature is kT in kJ/mol, and
a protocol may state it ("0.5 kJ/mol" is a temperature of 60.1 K).

All of them are two-dimensional: no force acts along z, where particles drift freely. Any three-dimensional integrator
of OpenMM therefore samples the two-dimensional Boltzmann distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import DataError, SettingsError
from latf_sampling.units import KB, TemperatureLike, to_kelvin

CELLS = 800
"""Cells per dimension of the grid that represents a distribution."""


@dataclass(frozen=True)
class ModelSystem:
    """A potential as an OpenMM system, with suitable descriptors.

    Attributes
    ----------
    name : str
        Its name in a protocol.
    system, topology
        OpenMM's; every particle is a separate residue, an argon atom by name with a mass of 1 amu.
    positions : numpy.ndarray (N, 3)
        Initial positions, nm.
    features : list of dict
        Descriptors, as `latf_sampling.Features` takes them.
    potential : callable
        Maps positions in the plane (..., N, 2), nm, to energies (...,), kJ/mol: the same potential in numpy.
    extent : numpy.ndarray (2, 2)
        Box in the plane that contains all but a negligible part of the density at any relevant temperature, nm.
    """

    name: str
    system: openmm.System
    topology: app.Topology
    positions: np.ndarray
    features: list[dict]
    potential: Callable[[np.ndarray], np.ndarray]
    extent: np.ndarray

    def cells(self, temperature: TemperatureLike) -> tuple[np.ndarray, np.ndarray]:
        """The Boltzmann distribution of a single particle on a fine grid over the extent.

        Parameters
        ----------
        temperature
            K, or a quantity.

        Returns
        -------
        centers : numpy.ndarray (cells, 2)
            Centers of the cells, nm.
        probabilities : numpy.ndarray (cells,)
            Their sum is 1.

        Raises
        ------
        DataError
            The system has more than one particle.

        Examples
        --------
        >>> centers, probabilities = harmonic_well().cells(300.0)
        >>> variance = float(probabilities @ centers[:, 0] ** 2)  # kT / k_x
        >>> round(variance / (KB * 300.0 / 10.0), 6)
        1.0
        """
        if self.system.getNumParticles() != 1:
            raise DataError(f"{self.name}: exact samples are for one particle; simulate this system instead.")
        edges = [np.linspace(low, high, CELLS + 1) for low, high in self.extent]
        centers = np.stack(np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in edges), indexing="ij"), -1).reshape(-1, 2)
        energy = self.potential(centers[:, None])
        weights = np.exp(-(energy - energy.min()) / (KB * to_kelvin(temperature)))
        return centers, weights / weights.sum()

    def exact_samples(self, n: int, temperature: TemperatureLike, rng: np.random.Generator) -> np.ndarray:
        """Independent samples of the Boltzmann distribution of a single particle.

        Parameters
        ----------
        n
            Number of samples.
        temperature
            K, or a quantity.
        rng
            Random generator.

        Returns
        -------
        numpy.ndarray (n, 2)
            Positions in the plane, nm, from a grid so fine that the steps between its cells are negligible.

        Raises
        ------
        DataError
            The system has more than one particle.

        Examples
        --------
        >>> harmonic_well().exact_samples(3, 300.0, np.random.default_rng(0)).shape
        (3, 2)
        """
        centers, probabilities = self.cells(temperature)
        cells = rng.choice(len(centers), size=n, p=probabilities)
        width = (self.extent[:, 1] - self.extent[:, 0]) / CELLS
        return centers[cells] + width * (rng.random((n, 2)) - 0.5)


def three_hole() -> ModelSystem:
    """Two deep holes at (-1, 0) and (1, 0), a shallow one at (0, 5/3), and two paths between the deep ones.

    V(x, y) = 3 exp(-x^2 - (y-1/3)^2) - 3 exp(-x^2 - (y-5/3)^2) - 5 exp(-(x-1)^2 - y^2) - 5 exp(-(x+1)^2 - y^2)
    + 0.2 x^4 + 0.2 (y-1/3)^4. Source: Metzner, Schuette, Vanden-Eijnden, doi:10.1063/1.2335447.
    """
    expression = (
        "3*exp(-x^2-(y-1/3)^2) - 3*exp(-x^2-(y-5/3)^2) - 5*exp(-(x-1)^2-y^2) - 5*exp(-(x+1)^2-y^2)"
        " + 0.2*x^4 + 0.2*(y-1/3)^4"
    )

    def potential(plane: np.ndarray) -> np.ndarray:
        x, y = plane[..., 0, 0], plane[..., 0, 1]
        return (
            3 * np.exp(-(x**2) - (y - 1 / 3) ** 2)
            - 3 * np.exp(-(x**2) - (y - 5 / 3) ** 2)
            - 5 * np.exp(-((x - 1) ** 2) - y**2)
            - 5 * np.exp(-((x + 1) ** 2) - y**2)
            + 0.2 * x**4
            + 0.2 * (y - 1 / 3) ** 4
        )

    return _one_particle("three-hole", expression, potential, [-1.0, 0.0], [[-4.0, 4.0], [-3.7, 4.3]])


def double_well(barrier: float = 10.0, tilt: float = 0.0, stiffness: float = 20.0) -> ModelSystem:
    """Two wells at x = -1 and 1: V = barrier (x^2 - 1)^2 + tilt x / 2 + stiffness y^2 / 2, all in kJ/mol and nm."""

    def potential(plane: np.ndarray) -> np.ndarray:
        x, y = plane[..., 0, 0], plane[..., 0, 1]
        return barrier * (x**2 - 1) ** 2 + 0.5 * tilt * x + 0.5 * stiffness * y**2

    expression = f"{barrier}*(x^2-1)^2 + {0.5 * tilt}*x + {0.5 * stiffness}*y^2"
    return _one_particle("double-well", expression, potential, [-1.0, 0.0], [[-3.0, 3.0], _side(stiffness)])


def harmonic_well(stiffness: tuple[float, float] = (10.0, 40.0)) -> ModelSystem:
    """V = (k_x x^2 + k_y y^2) / 2, kJ/mol and nm: at any temperature a Gaussian of variances kT / k."""
    kx, ky = stiffness

    def potential(plane: np.ndarray) -> np.ndarray:
        return 0.5 * (kx * plane[..., 0, 0] ** 2 + ky * plane[..., 0, 1] ** 2)

    expression = f"{0.5 * kx}*x^2 + {0.5 * ky}*y^2"
    return _one_particle("harmonic-well", expression, potential, [0.0, 0.0], [_side(kx), _side(ky)])


def _side(stiffness: float) -> list[float]:
    """Side of a box that contains a Gaussian of variance kT / stiffness: six standard deviations each way at 300 K."""
    half = max(3.0, 6 * np.sqrt(KB * 300 / stiffness))
    return [-half, half]


LJ7_CONTAINER, LJ7_STIFFNESS = 2.0, 100.0
"""Radius of the soft container, nm, and its force constant, kJ/mol/nm^2."""


def lj7() -> ModelSystem:
    """Seven Lennard-Jones particles in the plane, epsilon = 1 kJ/mol and sigma = 1 nm, in a soft round container.

    A harmonic force acts on particles farther than `LJ7_CONTAINER` from the origin; without it, the cluster evaporates
    at higher temperatures. Descriptors are the sorted coordination numbers, with (1 - (r/1.5)^8) / (1 - (r/1.5)^16) per
    pair, and the second and third moment of their distribution.
    """
    particles = 7
    angles = np.arange(6) * np.pi / 3
    ring = 2 ** (1 / 6) * np.stack([np.cos(angles), np.sin(angles)], 1)
    positions = np.zeros((particles, 3))
    positions[1:, :2] = ring
    pairs = np.array(list(combinations(range(particles), 2)))
    system, topology = _particles(particles)
    lennard_jones = openmm.CustomCompoundBondForce(2, "4*(s^6 - s^3); s=1/((x1-x2)^2 + (y1-y2)^2)")
    for first, second in pairs:
        lennard_jones.addBond([int(first), int(second)], [])
    system.addForce(lennard_jones)
    container = openmm.CustomExternalForce(
        f"{0.5 * LJ7_STIFFNESS}*max(0, r - {LJ7_CONTAINER})^2; r=sqrt(x^2 + y^2 + 1e-12)"
    )
    for index in range(particles):
        container.addParticle(index, [])
    system.addForce(container)

    def potential(plane: np.ndarray) -> np.ndarray:
        s = 1 / ((plane[..., pairs[:, 0], :] - plane[..., pairs[:, 1], :]) ** 2).sum(-1)
        outside = np.maximum(0, np.linalg.norm(plane, axis=-1) - LJ7_CONTAINER)
        return 4 * (s**6 - s**3).sum(-1) + 0.5 * LJ7_STIFFNESS * (outside**2).sum(-1)

    coordination = {"of": "all", "r0": "1.5 nm", "n": 8, "m": 16, "moments": [2, 3], "axes": "xy"}
    extent = np.array([[-3.0, 3.0], [-3.0, 3.0]])
    return ModelSystem("lj7", system, topology, positions, [{"coordination": coordination}], potential, extent)


SYSTEMS: dict[str, Callable[[], ModelSystem]] = {
    "three-hole": three_hole,
    "double-well": double_well,
    "harmonic-well": harmonic_well,
    "lj7": lj7,
}
"""The model systems by their names in a protocol, `system: {name: ...}`."""


def by_name(name: str) -> ModelSystem:
    """The model system with a name.

    Raises
    ------
    SettingsError
        No model system has this name.
    """
    if name not in SYSTEMS:
        raise SettingsError(f"system.name: there is no model system '{name}'; there are {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]()


def _particles(count: int) -> tuple[openmm.System, app.Topology]:
    system, topology = openmm.System(), app.Topology()
    chain = topology.addChain()
    for _ in range(count):
        system.addParticle(1.0)
        topology.addAtom("Ar", app.element.argon, topology.addResidue("AR", chain))
    return system, topology


def _one_particle(name: str, expression: str, potential: Callable, start: list[float], extent: list) -> ModelSystem:
    system, topology = _particles(1)
    force = openmm.CustomExternalForce(expression)
    force.addParticle(0, [])
    system.addForce(force)
    positions = np.array([[*start, 0.0]])
    features = [{"coordinates": {"of": "all", "axes": "xy"}}]
    return ModelSystem(name, system, topology, positions, features, potential, np.array(extent))
