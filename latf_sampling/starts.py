"""From latent samples to checked, thermalised structures at any temperature.

For a target u drawn from the flow at temperature T, the structures that belong to it are p(x|u, T), proportional to
exp(-E(x)/kT) q(u|x). Since the encoder's q(u|x) is a Gaussian of variance sigma^2 around the collective variable mu(x),
that is the Boltzmann distribution of the system with an umbrella of stiffness kT / sigma^2 at u, the one that
structures are thermalised in here; and |mu(x) - u| of a few sigma is what "on target" means.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from latf_sampling import runtime, store
from latf_sampling.bias import Umbrella
from latf_sampling.cv import LatentCV
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features import as_mdtraj
from latf_sampling.model import LaTF
from latf_sampling.units import KB, to_float

PULL_MOVES = 40
"""The umbrella moves from the archived frame to the target in so many moves, in a fifth of the thermalising time."""
STABLE_PHASE = 0.5
"""The umbrella's fastest oscillation may turn by so many radians in one time step."""


@dataclass(frozen=True)
class Starts:
    """Structures to start simulations from, and what became of the targets that gave none.

    Attributes
    ----------
    positions, velocities : numpy.ndarray (m, N, 3)
        nm and nm/ps.
    targets, reached : numpy.ndarray (m, d)
        Latent point that the flow asked for, and the structure's own.
    sources : numpy.ndarray (m,)
        Archived frame that each was pulled from.
    energies : numpy.ndarray (m,)
        Potential energy without umbrella, kJ/mol.
    rejected : list of dict
        Per failed target: "target", and "reasons", one for each archived frame that was tried.
    requested : int
        Number of structures asked for; equals m + len(rejected).
    """

    temperature: float
    topology: app.Topology
    positions: np.ndarray
    velocities: np.ndarray
    targets: np.ndarray
    reached: np.ndarray
    sources: np.ndarray
    energies: np.ndarray
    rejected: list[dict]
    requested: int
    tolerance: float

    def __len__(self) -> int:
        return len(self.positions)

    def summary(self) -> str:
        """A sentence or more on how many there are, and why others are not."""
        lines = [f"{len(self)} of {self.requested} structures at {self.temperature:g} K are valid."]
        for entry in self.rejected:
            target = ", ".join(f"{value:.3g}" for value in entry["target"])
            lines.append(f"Target ({target}): {'; '.join(entry['reasons'])}.")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write each structure as PDB and as NPZ (positions, velocities), and one table, starts.json."""
        folder = Path(folder)
        for index in range(len(self)):
            with store.replacing(folder / f"start-{index:03d}.pdb") as temporary, open(temporary, "w") as handle:
                app.PDBFile.writeFile(self.topology, self.positions[index] * unit.nanometer, handle)
            with store.replacing(folder / f"start-{index:03d}.npz") as temporary:
                np.savez(temporary, positions=self.positions[index], velocities=self.velocities[index])
        table = {
            "temperature": self.temperature,
            "requested": self.requested,
            "valid": len(self),
            "tolerance": self.tolerance,
            "targets": self.targets.tolist(),
            "reached": self.reached.tolist(),
            "sources": self.sources.tolist(),
            "energies": self.energies.tolist(),
            "rejected": self.rejected,
        }
        store.write_json(folder / "starts.json", table)


def generate_starts(
    model: LaTF,
    cv: LatentCV,
    archive: mdtraj.Trajectory,
    system: openmm.System,
    topology: app.Topology,
    temperature,
    n: int,
    *,
    seed: int = 0,
    timestep: float = 0.002,
    friction: float = 1.0,
    thermalise=4.0,
    tolerance: float = 4.0,
    attempts: int = 4,
    platform: str | None = None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Starts:
    """Generate n structures at a temperature, simulated or not.

    Latent samples are drawn from the flow at the temperature. For each, the closest archived frame is pulled to
    it by a moving umbrella, minimised, and thermalised under the umbrella of stiffness kT / sigma^2. It counts if
    its energy is finite and within the thermal range, its latent is within `tolerance` sigma of the target, and all
    stereocentres are those of the archived frame. Otherwise the next closest frame is tried.

    Parameters
    ----------
    model, cv
        A trained model and the variable exported from it.
    archive
        Frames to start from.
    system, topology
        The system without any bias; it is copied, not changed.
    temperature
        K, or a quantity.
    n
        Number of targets.
    seed
        Same seed, same targets and same random forces.
    timestep, friction
        Of the Langevin dynamics, ps and 1/ps, or quantities. The time step is shortened where the collective variable
        is so steep that the umbrella would oscillate too fast for it.
    thermalise
        Time at the temperature on each target, ps, or a quantity.
    tolerance
        In units of the encoder's uncertainty sigma.
    attempts
        Archived frames that are tried for each target.
    platform
        OpenMM platform; none picks one.
    progress
        Called with the fraction done and a few words.

    Returns
    -------
    Starts
        With fewer than n structures there is a warning, and `Starts.rejected` says why.

    Examples
    --------
    >>> starts = generate_starts(model, cv, archive, system, pdb.topology, 450.0, 16)  # doctest: +SKIP
    >>> print(starts.summary())  # doctest: +SKIP
    16 of 16 structures at 450 K are valid.
    """
    temperature = to_float(temperature, "temperature", "temperature")
    if temperature <= 0:
        raise SettingsError(f"generate_starts: temperature must be more than 0 K; got {temperature:g} K.")
    if n < 1:
        raise SettingsError(f"generate_starts: n must be at least 1; got {n}.")
    if len(archive) == 0:
        raise DataError("generate_starts: the archive holds no frame to start from.")
    cv.check_topology(topology)
    cv.check_topology(archive.topology)
    worker = _Worker(
        cv, archive, system, topology, temperature,
        runtime.stream_seed(seed, "starts"), to_float(timestep, "time", "timestep"),
        to_float(friction, "friction", "friction"), to_float(thermalise, "time", "thermalise"), tolerance, platform,
    )  # fmt: skip
    targets = model.sample(n, temperature, seed=runtime.stream_seed(seed, "targets")).astype(np.float64)
    archived = cv(archive.xyz, archive.unitcell_vectors)
    made, rejected = [], []
    for number, target in enumerate(targets):
        nearest = np.argsort(((archived - target) ** 2).sum(1), kind="stable")[:attempts]
        reasons: list[str] = []
        for source in nearest:
            structure, why = worker.make(int(source), archived[source], target)
            if structure is not None:
                made.append(structure)
                break
            reasons.append(f"from frame {source}: {why}")
        else:
            rejected.append({"target": target.tolist(), "reasons": reasons})
        progress((number + 1) / n, f"{len(made)} valid, {len(rejected)} rejected")
    starts = _collect(made, rejected, n, temperature, topology, tolerance, cv)
    if rejected:
        warnings.warn(starts.summary(), stacklevel=2)
    return starts


def stereocentres(topology: mdtraj.Topology) -> np.ndarray:
    """Atoms whose handedness must not change: four bonds, at most one of them to a hydrogen.

    Returns
    -------
    numpy.ndarray (centres, 5)
        The atom and its four neighbours, in order of index.
    """
    neighbours: dict[int, list] = {atom.index: [] for atom in topology.atoms}
    for first, second in topology.bonds:
        neighbours[first.index].append(second)
        neighbours[second.index].append(first)
    rows = [
        [centre, *sorted(atom.index for atom in around)]
        for centre, around in neighbours.items()
        if len(around) == 4 and sum(atom.element is not None and atom.element.symbol == "H" for atom in around) <= 1
    ]
    return np.array(rows, dtype=int).reshape(-1, 5)


def handedness(positions: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Sign of the volume that each centre's first three neighbours span, seen from the fourth; (centres,)."""
    a, b, c, d = (positions[centres[:, k]] for k in range(1, 5))
    return np.sign(np.einsum("ij,ij->i", np.cross(b - a, c - a), d - a))


@dataclass
class _Structure:
    positions: np.ndarray
    velocities: np.ndarray
    target: np.ndarray
    reached: np.ndarray
    source: int
    energy: float


@dataclass
class _Worker:
    """One context, used for all targets one after the other."""

    cv: LatentCV
    archive: mdtraj.Trajectory
    system: openmm.System
    topology: app.Topology
    temperature: float
    seed: int
    timestep: float
    friction: float
    thermalise: float
    tolerance: float
    platform: str | None
    centres: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        mdtraj_topology = as_mdtraj(self.topology)
        molecules = any(residue.n_atoms > 1 for residue in mdtraj_topology.residues)
        if molecules and mdtraj_topology.n_bonds == 0:
            raise DataError(
                "generate_starts: the topology has no bonds, so that chirality cannot be checked; add them."
            )
        self.centres = stereocentres(mdtraj_topology)
        system = openmm.XmlSerializer.clone(self.system)
        self.natural = KB * self.temperature / self.cv.noise**2
        self.umbrella = Umbrella(system, self.cv, np.zeros(self.cv.dim), self.natural)
        masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
        frames = self.archive[:: max(1, len(self.archive) // 1000)]
        steepest = np.quantile(self.cv.mobility(frames.xyz, masses, frames.unitcell_vectors), 0.995)
        timestep = min(self.timestep, STABLE_PHASE / float(np.sqrt(self.natural * steepest)))
        self.pull_steps = max(1, round(0.2 * self.thermalise / timestep / PULL_MOVES))
        self.thermalise_steps = max(1, round(self.thermalise / timestep))
        made = openmm.LangevinMiddleIntegrator(self.temperature, self.friction, timestep)
        made.setRandomNumberSeed(self.seed)
        chosen = runtime.pick_platform(self.platform, system.getNumParticles())
        self.simulation = app.Simulation(self.topology, system, made, chosen)
        self.freedom = 3 * int((masses > 0).sum()) - system.getNumConstraints()

    def make(self, source: int, start: np.ndarray, target: np.ndarray) -> tuple[_Structure | None, str]:
        """Pull a frame to a target; returns the structure, or none and the reason."""
        context = self.simulation.context
        if self.archive.unitcell_vectors is not None:
            context.setPeriodicBoxVectors(*self.archive.unitcell_vectors[source].astype(float))
        context.setPositions(self.archive.xyz[source].astype(float))
        handed = handedness(self.archive.xyz[source], self.centres)
        try:
            context.applyConstraints(1e-6)
            seed = runtime.stream_seed(self.seed, "pull", source)
            context.setVelocitiesToTemperature(self.temperature, seed)
            for share in np.linspace(0, 1, PULL_MOVES + 1)[1:]:
                self.umbrella.move_to(context, start + share * (target - start))
                self.simulation.step(self.pull_steps)
            self.simulation.minimizeEnergy(maxIterations=200)
            floor = self._energy()
            seed = runtime.stream_seed(self.seed, "thermalise", source)
            context.setVelocitiesToTemperature(self.temperature, seed)
            self.simulation.step(self.thermalise_steps)
        except openmm.OpenMMException as error:
            return None, f"the simulation exploded ({error})"
        energy = self._energy()
        state = context.getState(getPositions=True, getVelocities=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
        reached = self.umbrella.values(context)
        # A harmonic system of f degrees of freedom stores f/2 kT, with a standard deviation of sqrt(f/2) kT.
        thermal = KB * self.temperature * (self.freedom / 2 + 8 * np.sqrt(self.freedom / 2))
        distance = float(np.linalg.norm(reached - target)) / self.cv.noise
        if not (np.isfinite(energy) and np.isfinite(positions).all() and np.isfinite(velocities).all()):
            return None, "the energy is not finite"
        if energy - floor > thermal:
            return None, f"the energy is {energy - floor:.0f} kJ/mol above the minimum, {thermal:.0f} would be thermal"
        if not distance <= self.tolerance:
            return None, f"its latent stayed {distance:.1f} sigma from the target, {self.tolerance:g} are tolerated"
        changed = np.nonzero(handedness(positions, self.centres) != handed)[0]
        if len(changed):
            return None, f"atom {self.centres[changed[0], 0]} changed its chirality"
        return _Structure(positions, velocities, target, reached, source, energy), ""

    def _energy(self) -> float:
        groups = ~(1 << self.umbrella.group) & 0xFFFFFFFF
        state = self.simulation.context.getState(getEnergy=True, groups=groups)
        return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def _collect(
    made: list[_Structure], rejected: list[dict], n: int, temperature: float, topology, tolerance: float, cv: LatentCV
) -> Starts:
    def stack(name: str, *shape: int) -> np.ndarray:
        return np.array([getattr(entry, name) for entry in made]).reshape(len(made), *shape)

    return Starts(
        temperature=temperature,
        topology=topology,
        positions=stack("positions", cv.n_atoms, 3),
        velocities=stack("velocities", cv.n_atoms, 3),
        targets=stack("target", cv.dim),
        reached=stack("reached", cv.dim),
        sources=stack("source").astype(int),
        energies=stack("energy"),
        rejected=rejected,
        requested=n,
        tolerance=tolerance,
    )
