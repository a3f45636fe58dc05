"""How often walkers cross along a learned variable: this package's, others', and coordinates that a chemist would take.

    pip install 'latf_sampling[benchmarks,prepare]'                        # mlcolvar, PeptideBuilder
    OMP_NUM_THREADS=1 python benchmarks/variables.py -o runs/variables     # some two hours of one core
    python benchmarks/variables.py --systems wells --variables ours DeepTICA --seeds 3 -o runs/variables
    python benchmarks/variables.py --quick                                 # a few minutes, to check that it runs

Each system is simulated once without a bias at two temperatures. From these frames every variable is trained by every
seed, with the same descriptors, lag and widths of layers. Others have one component, ours as many as it asks for. Each
then drives well-tempered metadynamics at the lower temperature, from the same start and with the same hills. Hills are
a sixteenth of the variable's range over the training frames wide, or half or twice as much: whichever gives most
crossings with seed 0 is the variable's width with all seeds.

Crossings are counted both ways between cores. An estimate after a time t is made of the frames between 0.2 t and t,
weighted by exp((V - c) / kT). Its error is the root mean square over seeds, and where a system has several events also
over these; it is infinite while one of them has no crossing in these frames, and after an explosion.

"Over the limit" are frames of the biased runs at which one hill, where it is steepest, pushes an atom harder than
LatentCV.from_model allows on training frames, 300 kJ/mol/nm; "99.9 % push" is the force of the whole bias on an atom,
kJ/mol/nm, that is exceeded in one of a thousand frames.

Finished data, variables and runs are files in the output directory, which the same command uses again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import torch
from alanine import POINTS, PROTOCOLS, convergence_time, span
from mdtraj.geometry.dihedral import indices_phi, indices_psi
from openmm import app, unit
from scipy.special import logsumexp
from scipy.stats import spearmanr

from latf_sampling import Dataset, Features, LatentCV, LaTF, Metadynamics, Series, train
from latf_sampling.analysis import (
    FILLING,
    Hills,
    LatentSeries,
    crossings,
    expected_crossings,
    offset_weights,
    signed_distance,
)
from latf_sampling.analysis.mbar import TemperatureReweighting
from latf_sampling.core import platforms, storage, streams
from latf_sampling.cv.latent_cv import FORCE_LIMIT
from latf_sampling.errors import CVError, SimulationError
from latf_sampling.features import as_mdtraj
from latf_sampling.learning.networks import Networks
from latf_sampling.records.observables import MARGIN
from latf_sampling.settings import Protocol
from latf_sampling.systems import build
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.named import peptide
from latf_sampling.units import KB

TEMPERATURE = 300.0  # of the biased runs
TEMPERATURES = (300.0, 600.0)  # of the training frames
LENGTH = 8.0  # ns of each of these
REPLICA_RUNS, REPLICA_LENGTH = 4, 3.0  # ns at each temperature
TIMESTEP, FRICTION = 0.004, 1.0  # ps, 1 / ps
STRIDE = 100  # steps between frames
LAG = 5  # frames, 2 ps
HEIGHT, BIAS_FACTOR, FREQUENCY = 1.0, 10.0, 250  # kJ/mol, a hill every ps
PARTS = 16  # hills are 1 / 16 of a variable's range wide
WIDTHS = (0.5, 1.0, 2.0)  # times that
HIDDEN = (32, 32)
FAR = 1000.0  # nm; atoms get there by explosions alone
FRAMES_PER_NS = round(1000 / (TIMESTEP * STRIDE))


# Variables


@dataclass(frozen=True)
class Method:
    """How a variable is made: its kind, the options of its training, and its dimension (`None`: that of the model)."""

    kind: str
    options: dict = field(default_factory=dict)
    dim: int | None = None


PLAIN = {"slowness": 0.0, "evenness": 0.0}
METHODS = {
    "ours": Method("ours"),
    "ours, one component": Method("ours", dim=1),
    # Without the new terms components of a few states are functions of each other.
    "ours before": Method("ours", {**PLAIN, "encoder_decay": 3.0}, dim=1),
    "SPIB": Method("ours", {**PLAIN, "encoder_decay": 0.0, "joint_epochs": 0}, dim=1),
    "DeepTICA": Method("DeepTICA"),
    "DeepTDA": Method("DeepTDA"),
    "known pair": Method("known"),
    "known single": Method("known"),
}
"""SPIB is this package's first stage without the terms that shape the encoder, with neither decay nor flow. The states
that DeepTDA separates are those of "ours" with the same seed. "Ours" has a component less than there are states, at
most three; with two states "ours, one component" is the same. Known coordinates are those of each system."""


# Systems


@dataclass(frozen=True)
class Known:
    """A coordinate in OpenMM, its range, and whether it is periodic."""

    title: str
    force: openmm.Force
    low: float = -np.pi
    high: float = np.pi
    periodic: bool = True


class System:
    """A molecule with its descriptors, the events that are counted, and known coordinates."""

    name: str
    features: list
    cores: tuple[float, float] = (-MARGIN, MARGIN)
    """A walker has crossed when it was below the first and is above the second, or back."""

    def molecule(self, output: Path) -> Molecule:
        raise NotImplementedError

    def events(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        """Signed distance (frames, events) from the border of each event."""
        raise NotImplementedError

    def known(self, topology: mdtraj.Topology) -> dict[str, list[Known]]:
        """Known coordinates by the name of the method."""
        raise NotImplementedError

    def reference(self, options: argparse.Namespace) -> np.ndarray:
        """Free energy (events,) of the positive side of each event minus that of the negative one, kJ/mol."""
        raise NotImplementedError


def torsion(title: str, atoms: np.ndarray) -> Known:
    force = openmm.CustomTorsionForce("theta")
    force.addTorsion(*atoms.tolist(), [])
    return Known(title, force)


class Alanine(System):
    """Alanine dipeptide in vacuum as in `protocols/alanine-dipeptide.yaml`; phi > 0 against the rest."""

    name = "alanine dipeptide"
    protocol = Protocol.load(PROTOCOLS / "alanine-dipeptide.yaml")
    features = protocol.features

    def molecule(self, output: Path) -> Molecule:
        return build(self.protocol.system)

    def events(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        return signed_distance(mdtraj.compute_phi(trajectory)[1][:, 0], 0.0)[:, None]

    def known(self, topology: mdtraj.Topology) -> dict[str, list[Known]]:
        phi = torsion("phi", indices_phi(topology)[0])
        psi = torsion("psi", indices_psi(topology)[0])
        return {"known pair": [phi, psi], "known single": [phi]}

    def reference(self, options: argparse.Namespace) -> np.ndarray:
        return np.array([json.loads((PROTOCOLS / "reference_alanine.json").read_text())["difference_kJ_per_mol"]])


class Wells(System):
    """The potential of Müller and Brown, doi:10.1007/BF00547608, in the plane of one particle, and 31 harmonic wells.

    The wells are along its third coordinate and those of ten other particles. The path from the deepest minimum is
    bent, and leads over a pass of 37 kJ/mol.
    """

    name = "wells"
    features = [{"custom": {"file": str(Path(__file__).parent / "mixed_coordinates.py"), "class": "Mixed"}}]
    cores = (-0.3, 0.9)
    particles = 11
    scale = 0.35
    heights = (-200.0, -100.0, -170.0, 15.0)
    terms = ((-1.0, 0.0, -10.0), (-1.0, 0.0, -10.0), (-6.5, 11.0, -6.5), (0.7, 0.6, 0.7))
    centers = ((1.0, 0.0), (0.0, 0.5), (-0.5, 1.5), (-1.0, 1.0))
    deepest, saddle = (-0.558, 1.442), (-0.822, 0.624)

    def molecule(self, output: Path) -> Molecule:
        system, topology = openmm.System(), app.Topology()
        chain, argon = topology.addChain(), app.element.argon
        for _ in range(self.particles):
            system.addParticle(1.0)
            topology.addAtom("Ar", argon, topology.addResidue("Ar", chain))
        parts = [
            f"{self.scale * height}*exp({a}*(x-{x})^2+({b})*(x-{x})*(y-{y})+({c})*(y-{y})^2)"
            for height, (a, b, c), (x, y) in zip(self.heights, self.terms, self.centers)
        ]
        plane = openmm.CustomExternalForce("+".join(parts).replace("--", "+"))
        plane.addParticle(0, [])
        harmonic = openmm.CustomExternalForce("0.5*(kx*x^2+ky*y^2+kz*z^2)")
        for axis in "xyz":
            harmonic.addPerParticleParameter(f"k{axis}")
        stiffness = np.concatenate([[0.0, 0.0], np.linspace(5.0, 20.0, 3 * self.particles - 2)]).reshape(-1, 3)
        for index, row in enumerate(stiffness):
            harmonic.addParticle(index, row)
        system.addForce(plane)
        system.addForce(harmonic)
        positions = np.zeros((self.particles, 3))
        positions[0, :2] = self.deepest
        return Molecule(system, topology, positions)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """From a line through the saddle, which the path crosses steeply; negative at the deepest minimum."""
        return 0.5 * (x - self.saddle[0]) - (y - self.saddle[1])

    def events(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        return self.distance(*trajectory.xyz[:, 0, :2].T.astype(float))[:, None]

    def known(self, topology: mdtraj.Topology) -> dict[str, list[Known]]:
        def coordinate(expression: str, low: float, high: float) -> Known:
            force = openmm.CustomExternalForce(expression)
            force.addParticle(0, [])
            return Known(expression, force, low, high, periodic=False)

        pair = [coordinate("x", -1.8, 1.6), coordinate("y", -0.8, 2.6)]
        return {"known pair": pair, "known single": [coordinate("x - y", -3.4, 1.8)]}

    def reference(self, options: argparse.Namespace) -> np.ndarray:
        x, y = np.meshgrid(np.linspace(-3, 3, 2001), np.linspace(-2, 4, 2001), indexing="ij")
        energy = np.zeros_like(x)
        for height, (a, b, c), (x0, y0) in zip(self.heights, self.terms, self.centers):
            dx, dy = x - x0, y - y0
            energy += self.scale * height * np.exp(np.minimum(a * dx**2 + b * dx * dy + c * dy**2, 100))
        weights = np.exp(-(energy - energy.min()) / (KB * TEMPERATURE))
        positive = self.distance(x, y) > 0
        return np.array([-KB * TEMPERATURE * np.log(weights[positive].sum() / weights[~positive].sum())])


class Tetrapeptide(System):
    """ACE-ALA3-NME in vacuum; phi > 0 of each of the three residues."""

    name = "alanine tetrapeptide"
    features = [{"distances": "element != H"}]
    ladder = (300.0, 366.0, 447.0, 545.0, 665.0, 811.0)  # K, of the replicas that the reference is computed from

    def molecule(self, output: Path) -> Molecule:
        file = output / "tetrapeptide.pdb"
        force_field = app.ForceField("amber14/protein.ff14SB.xml")
        if not file.exists():
            made = app.Modeller(*capped(peptide("AAAAA", ((-80, 80),) * 5)))
            made.addHydrogens(force_field)
            with storage.atomic_write(file) as temporary, open(temporary, "w") as handle:
                app.PDBFile.writeFile(made.topology, made.positions, handle)
        pdb = app.PDBFile(str(file))
        system = force_field.createSystem(pdb.topology, constraints=app.HBonds, hydrogenMass=3 * unit.amu)
        return Molecule(system, pdb.topology, pdb.getPositions(asNumpy=True)._value)

    def events(self, trajectory: mdtraj.Trajectory) -> np.ndarray:
        return np.stack([signed_distance(phi, 0.0) for phi in mdtraj.compute_phi(trajectory)[1].T], axis=1)

    def known(self, topology: mdtraj.Topology) -> dict[str, list[Known]]:
        _, second, third = indices_phi(topology)
        pair = [torsion("phi of ALA 3", second), torsion("phi of ALA 4", third)]
        return {"known pair": pair, "known single": [torsion("phi of ALA 3", second)]}

    def reference(self, options: argparse.Namespace) -> np.ndarray:
        """From exchanging replicas, reweighted to the temperature of the biased runs; 10 % at their beginnings not."""
        runs = [self.replicas(options, seed) for seed in range(REPLICA_RUNS)]
        parts = [slice(len(run["energies"]) // 10, None) for run in runs]
        energies = np.concatenate([run["energies"][part].ravel() for run, part in zip(runs, parts)])
        events = np.concatenate([run["events"][part].reshape(-1, 3) for run, part in zip(runs, parts)])
        temperatures = np.tile(self.ladder, len(energies) // len(self.ladder))
        reweighting = TemperatureReweighting(energies, temperatures, None, KB, np.random.default_rng(0))
        positive = np.exp(reweighting.log_weights(TEMPERATURE)) @ (events > 0)
        return -KB * TEMPERATURE * np.log(positive / (1 - positive))

    def replicas(self, options: argparse.Namespace, seed: int) -> dict[str, np.ndarray]:
        """Energies (frames, temperatures) and events (frames, temperatures, 3) of replicas that exchange every 2 ps."""
        file = options.output / f"{slug(self.name)}-replicas-{seed}.npz"
        if not file.exists():
            print(f"{self.name}, replicas, seed {seed}", file=sys.stderr, flush=True)
            molecule, rng = self.molecule(options.output), streams.stream(seed, "exchanges")
            seeds = [streams.stream_seed(seed, "replica", index) for index in range(len(self.ladder))]
            contexts = [start(molecule, *each).context for each in zip(self.ladder, seeds)]
            topology, energies, events = as_mdtraj(molecule.topology), [], []
            beta = 1 / (KB * np.array(self.ladder))
            for frame in range(round(options.replica_ns * 500)):
                for context in contexts:
                    context.getIntegrator().step(round(2 / TIMESTEP))
                states = [
                    context.getState(getPositions=True, getVelocities=True, getEnergy=True) for context in contexts
                ]
                energies.append([state.getPotentialEnergy()._value for state in states])
                positions = [state.getPositions(asNumpy=True)._value for state in states]
                events.append(self.events(mdtraj.Trajectory(np.array(positions), topology)))
                for low in range(frame % 2, len(contexts) - 1, 2):
                    high = low + 1
                    gain = (beta[low] - beta[high]) * (energies[-1][low] - energies[-1][high])
                    if np.log(rng.random()) < gain:
                        for one, other in ((low, high), (high, low)):
                            scale = np.sqrt(self.ladder[one] / self.ladder[other])
                            contexts[one].setPositions(positions[other])
                            contexts[one].setVelocities(scale * states[other].getVelocities(asNumpy=True)._value)
            with storage.atomic_write(file) as temporary:
                np.savez(temporary, energies=energies, events=events)
        return read(file)


def capped(structure: app.PDBFile) -> tuple[app.Topology, unit.Quantity]:
    """A peptide whose first and last residue are made the caps ACE and NME, without hydrogens."""
    topology, positions = app.Topology(), []
    chain, residues = topology.addChain(), list(structure.topology.residues())
    caps = {0: ("ACE", {"CA": "CH3", "C": "C", "O": "O"}), len(residues) - 1: ("NME", {"N": "N", "CA": "C"})}
    for index, residue in enumerate(residues):
        name, atoms = caps.get(index, (residue.name, {atom.name: atom.name for atom in residue.atoms()}))
        made = topology.addResidue(name, chain)
        for atom in residue.atoms():
            if atom.name in atoms:
                topology.addAtom(atoms[atom.name], atom.element, made)
                positions.append(structure.positions[atom.index]._value)
    topology.createStandardBonds()
    return topology, np.array(positions) * unit.nanometer


SYSTEMS: dict[str, type[System]] = {each.name: each for each in (Alanine, Wells, Tetrapeptide)}


# The command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(tempfile.gettempdir()) / "latf-variables")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--variables", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="VARIABLE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ns", type=float, default=2.0, help="length of a biased run")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="two seeds of 20 ps, in a temporary directory")
    options = parser.parse_args()
    options.data_ns, options.replica_ns = LENGTH, REPLICA_LENGTH
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            options.output, options.seeds, options.ns = Path(folder), 2, 0.02
            options.data_ns, options.replica_ns = 0.4, 0.02
            print(run_all(options))
    else:
        print(run_all(options))


def run_all(options: argparse.Namespace) -> str:
    quiet()
    options.output.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that an interrupted benchmark has some of everything; widths come from seed 0.
    each(options, prepare, [(system,) for system in options.systems])
    for seed in range(options.seeds):
        each(options, chain, [(*pair, seed) for pair in product(options.systems, options.variables)])
    text = "\n\n".join(f"**{system}**\n\n{table(options, system)}" for system in options.systems)
    (options.output / "table.md").write_text(text + "\n")
    return text


def quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def each(options: argparse.Namespace, function: Callable, cases: list[tuple]) -> None:
    """Call a function of the options and a case for all cases, in several processes if there shall be several."""
    if options.jobs == 1:
        for case in cases:
            function(options, *case)
        return
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), quiet) as pool:
        for future in [pool.submit(function, options, *case) for case in cases]:
            future.result()


def prepare(options: argparse.Namespace, system: str) -> None:
    """What all variables of a system need: its frames and its reference."""
    for temperature in TEMPERATURES:
        frames_of(options, system, temperature)
    SYSTEMS[system]().reference(options)


def chain(options: argparse.Namespace, system: str, variable: str, seed: int) -> None:
    """Train a variable, and simulate along it."""
    widths = widths_of(options, system, variable) if seed == 0 else (best_width(options, system, variable),)
    for width in widths:
        file = run_file(options, system, variable, seed, width)
        if not file.exists():
            print(f"{system}, {variable}, seed {seed}, width {width:g}", file=sys.stderr, flush=True)
            simulate(options, system, variable, seed, width, file)


def widths_of(options: argparse.Namespace, system: str, variable: str) -> tuple[float, ...]:
    """Widths to choose from; in three dimensions the grid of the narrowest hills does not fit into memory."""
    wide = METHODS[variable].kind == "known" or cv_of(options, system, variable, 0).dim < 3
    return WIDTHS if wide else WIDTHS[1:]


def best_width(options: argparse.Namespace, system: str, variable: str) -> float:
    """The width with most crossings with seed 0; one that exploded only if all did."""

    def rank(width: float) -> tuple[bool, int]:
        run = read(run_file(options, system, variable, 0, width))
        return not run["exploded"], count_crossings(SYSTEMS[system], run)

    return max(widths_of(options, system, variable), key=rank)


# Files


def slug(text: str) -> str:
    return text.replace(", ", "-").replace(" ", "-")


def variable_file(options: argparse.Namespace, system: str, variable: str, seed: int) -> Path:
    return options.output / f"{slug(system)}-{slug(variable)}-{seed}.pt"


def run_file(options: argparse.Namespace, system: str, variable: str, seed: int, width: float) -> Path:
    """File of a run; another variable or length has another file."""
    digest = hashlib.sha256(json.dumps([options.ns, width]).encode())
    if METHODS[variable].kind != "known":
        digest.update(cv_of(options, system, variable, seed).fingerprint().encode())
    return options.output / f"{slug(system)}-{slug(variable)}-{seed}-{digest.hexdigest()[:8]}.npz"


def read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return {key: content[key] for key in content.files}


# Training frames


def frames_of(options: argparse.Namespace, system: str, temperature: float) -> dict[str, np.ndarray]:
    """Positions and energies of plain dynamics."""
    file = options.output / f"{slug(system)}-{temperature:g}K.npz"
    if not file.exists():
        print(f"{system}, plain dynamics at {temperature:g} K", file=sys.stderr, flush=True)
        molecule = SYSTEMS[system]().molecule(options.output)
        simulation = start(molecule, temperature, streams.stream_seed(0, "plain", system, f"{temperature:g}"))
        count = round(options.data_ns * FRAMES_PER_NS)
        positions, energies = np.empty((count, len(molecule.positions), 3), np.float32), np.empty(count)
        for frame in range(count):
            simulation.step(STRIDE)
            state = simulation.context.getState(getPositions=True, getEnergy=True)
            positions[frame] = state.getPositions(asNumpy=True)._value
            energies[frame] = state.getPotentialEnergy()._value
        with storage.atomic_write(file) as temporary:
            np.savez(temporary, positions=positions, energies=energies)
    return read(file)


def start(molecule: Molecule, temperature: float, seed: int) -> app.Simulation:
    """A simulation on the platform of OpenMM that is fastest for so few particles, after minimization."""
    dynamics = openmm.LangevinMiddleIntegrator(temperature, FRICTION, TIMESTEP)
    dynamics.setRandomNumberSeed(seed)
    platform = platforms.pick_platform("Reference", len(molecule.positions))
    simulation = app.Simulation(molecule.topology, molecule.system, dynamics, platform)
    simulation.context.setPositions(molecule.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(temperature, seed)
    return simulation


@dataclass(frozen=True)
class Frames:
    """Training frames of a system: descriptors, positions and energies at each temperature."""

    features: Features
    positions: list[np.ndarray]
    x: list[np.ndarray]
    energies: list[np.ndarray]

    def dataset(self) -> Dataset:
        parts = zip(self.x, TEMPERATURES, self.energies)
        return Dataset([Series(x, temperature, energies=energies) for x, temperature, energies in parts], lag=LAG)


@cache
def training_frames(output: Path, system: str, data_ns: float) -> Frames:
    options = argparse.Namespace(output=output, data_ns=data_ns)
    topology = as_mdtraj(SYSTEMS[system]().molecule(output).topology)
    features = Features(topology, SYSTEMS[system].features)
    parts = [frames_of(options, system, temperature) for temperature in TEMPERATURES]
    positions = [part["positions"] for part in parts]
    x = [features.transform(mdtraj.Trajectory(each, topology)).astype(np.float32) for each in positions]
    return Frames(features, positions, x, [part["energies"] for part in parts])


# Training


def cv_of(options: argparse.Namespace, system: str, variable: str, seed: int) -> LatentCV:
    """A learned variable, trained if its file is not there; a sixteenth of its range as the width of hills."""
    file = variable_file(options, system, variable, seed)
    if not file.exists():
        print(f"{system}, {variable}, seed {seed}: training", file=sys.stderr, flush=True)
        frames = training_frames(options.output, system, options.data_ns)
        began = time.process_time()
        model = learn(options, system, variable, seed)
        seconds = time.process_time() - began
        cv = LatentCV.from_model(model, frames.features)
        cv.metadata["bounds"] = range_of(model, frames).double().tolist()
        cv.metadata["sigma"] = [(high - low) / PARTS for low, high in cv.metadata["bounds"]]
        cv.metadata["provenance"]["training_seconds"] = seconds
        cv.metadata["provenance"]["states"] = model.n_states
        if METHODS[variable].kind == "ours":
            model.save(file.with_suffix(".model"))
        cv.save(file)
    return LatentCV.load(file)


def learn(options: argparse.Namespace, system: str, variable: str, seed: int) -> LaTF:
    """A model whose encoder is the variable."""
    method = METHODS[variable]
    frames = training_frames(options.output, system, options.data_ns)
    if method.kind == "ours":
        model = LaTF(latent_dim=method.dim, encoder_hidden=HIDDEN, reference_temperature=TEMPERATURE)
        # The flow alone and the ensemble are trained on the finished encoder, and do not change it.
        stages = {"flow_epochs": 0, "ensemble": 0, **({"refinements": 2, "joint_epochs": 1} if options.quick else {})}
        train(model, frames.dataset(), seed, device="cpu", **(stages | method.options))
        return model
    if method.kind == "DeepTICA":
        return deep_tica(frames, seed, 2 if options.quick else 200)
    cv_of(options, system, "ours", seed)
    states = LaTF.load(variable_file(options, system, "ours", seed).with_suffix(".model"))
    return deep_tda(frames, [states.assign(x) for x in frames.x], seed, 2 if options.quick else 200)


def deep_tica(frames: Frames, seed: int, epochs: int) -> LaTF:
    """The slowest component of mlcolvar's DeepTICA, of three."""
    from mlcolvar.cvs import DeepTICA
    from mlcolvar.data import DictDataset
    from mlcolvar.utils.timelagged import create_timelagged_dataset

    torch.manual_seed(seed)
    parts = [create_timelagged_dataset(torch.from_numpy(x), lag_time=LAG) for x in frames.x]
    dataset = DictDataset({key: torch.cat([part[key] for part in parts]) for key in parts[0].keys})
    model = DeepTICA([frames.x[0].shape[1], *HIDDEN, 3], options=mlcolvar_options())
    model.set_regularization(1e-6)
    fit(model, dataset, epochs)
    vector, mean = model.tica.evecs[:, :1].double(), model.tica.mean.double()
    return as_latf(model, frames, lambda weight, bias: (vector.T @ weight, vector.T @ (bias - mean)))


def deep_tda(frames: Frames, labels: list[np.ndarray], seed: int, epochs: int) -> LaTF:
    """mlcolvar's DeepTDA, with the targets of its authors: states 14 apart in a row, 0.2 wide."""
    from mlcolvar.cvs import DeepTDA
    from mlcolvar.data import DictDataset

    torch.manual_seed(seed)
    states = np.unique(np.concatenate(labels), return_inverse=True)[1]
    data = {"data": torch.from_numpy(np.concatenate(frames.x)), "labels": torch.from_numpy(states).float()}
    count = max(2, states.max() + 1)
    centers = [[14.0 * (index - 0.5 * (count - 1))] for index in range(count)]
    layers = [frames.x[0].shape[1], *HIDDEN, 1]
    model = DeepTDA(count, 1, centers, [[0.2]] * count, layers, options=mlcolvar_options())
    fit(model, DictDataset(data), epochs)
    return as_latf(model, frames, lambda weight, bias: (weight, bias))


def mlcolvar_options() -> dict:
    return {"nn": {"activation": "tanh"}, "norm_in": {"mode": "mean_std"}}


def fit(model, dataset, epochs: int) -> None:
    import logging

    import lightning
    from lightning.pytorch.callbacks import EarlyStopping
    from mlcolvar.data import DictModule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[EarlyStopping("valid_loss", min_delta=1e-4, patience=20)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, DictModule(dataset, lengths=[0.8, 0.2], batch_size=4096))
    model.eval()


def as_latf(model, frames: Frames, last: Callable) -> LaTF:
    """A `LaTF` whose encoder is a network of mlcolvar, so that it is exported and evaluated as ours is.

    `last` changes weight and bias of the last layer.
    """
    made = LaTF(latent_dim=1, encoder_hidden=HIDDEN, reference_temperature=TEMPERATURE)
    networks = made.networks = Networks(made.settings, frames.x[0].shape[1], 2)
    theirs = [layer for layer in model.nn.nn if isinstance(layer, torch.nn.Linear)]
    ours = [layer for layer in networks.encoder if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        networks.feature_mean.copy_(model.norm_in.mean)
        networks.feature_scale.copy_(1 / model.norm_in.range)
        for source, target in zip(theirs, ours):
            weight, bias = source.weight.double(), source.bias.double()
            if source is theirs[-1]:
                weight, bias = last(weight, bias)
            target.weight.copy_(weight)
            target.bias.copy_(bias)
        x = torch.from_numpy(frames.x[0][:100])
        difference = (
            (model(x)[:, :1] - networks.encoder((x - networks.feature_mean) * networks.feature_scale)).abs().max()
        )
        assert difference < 1e-2 * model(x)[:, 0].std() + 1e-3, difference
        made.latent_bounds.copy_(range_of(made, frames))
    made.trained = True
    return made


@torch.no_grad()
def range_of(model: LaTF, frames: Frames) -> torch.Tensor:
    """Smallest and largest value (d, 2) of each component on the training frames."""
    networks = model.networks
    x = (torch.from_numpy(np.concatenate(frames.x)) - networks.feature_mean) * networks.feature_scale
    u = networks.encoder(x)
    return torch.stack([u.min(0).values, u.max(0).values], 1)


# Simulation


def simulate(options: argparse.Namespace, system: str, variable: str, seed: int, width: float, file: Path) -> None:
    """Run, and save events, bias, its offset and its largest force on an atom at every frame.

    And the largest force of a single hill where it is steepest, which the package limits when it exports a variable.
    """
    kind = SYSTEMS[system]()
    molecule = kind.molecule(options.output)
    make = known if METHODS[variable].kind == "known" else learned
    advance, applied, group = make(options, system, variable, seed, width, molecule)
    simulation = start(molecule, TEMPERATURE, streams.stream_seed(seed, "biased", system))
    count = round(options.ns * FRAMES_PER_NS)
    positions = np.empty((count, len(molecule.positions), 3), np.float32)
    biases, pushes = np.empty((count, 2)), np.empty(count)
    began, before, frame = time.perf_counter(), time.process_time(), 0
    try:
        for frame in range(count):
            advance(simulation, STRIDE)
            state = simulation.context.getState(getPositions=True, getForces=True, groups=1 << group)
            exact = state.getPositions(asNumpy=True)._value
            if not np.abs(exact).max() < FAR:
                raise SimulationError("the simulation exploded.")
            positions[frame], biases[frame] = exact, applied(simulation, exact)
            pushes[frame] = np.linalg.norm(state.getForces(asNumpy=True)._value, axis=1).max()
        frame, exploded = count, False
    except (SimulationError, CVError, openmm.OpenMMException):
        exploded = True
    seconds, cpu = time.perf_counter() - began, time.process_time() - before
    positions, biases = positions[:frame], biases[:frame]
    trajectory = mdtraj.Trajectory(positions, as_mdtraj(molecule.topology))
    hills = np.full(frame, np.nan)
    if METHODS[variable].kind != "known":
        cv = cv_of(options, system, variable, seed)
        slopes = np.linalg.norm(cv.gradients(positions), axis=-1).max(-1)
        hills = np.exp(-0.5) * HEIGHT * (slopes / (width * cv.sigma)).max(-1)
    with storage.atomic_write(file) as temporary:
        np.savez(
            temporary,
            events=kind.events(trajectory),
            bias=biases[:, 0],
            offset=biases[:, 1],
            pushes=pushes[:frame],
            hills=hills,
            exploded=exploded,
            count=count,
            seconds=seconds,
            cpu=cpu,
        )


def learned(options, system: str, variable: str, seed: int, width: float, molecule: Molecule):
    """A function that simulates, one that returns bias and offset at the current positions, and the force group."""
    cv = cv_of(options, system, variable, seed)
    bias = Metadynamics(molecule.system, cv, TEMPERATURE, BIAS_FACTOR, HEIGHT, FREQUENCY, width=width)

    def applied(simulation: app.Simulation, positions: np.ndarray) -> tuple[float, float]:
        return bias.applied_bias(cv(positions), simulation.currentStep), bias.offset()

    return bias.step, applied, bias.group


def known(options, system: str, variable: str, seed: int, width: float, molecule: Molecule):
    """The same of OpenMM's metadynamics, for known coordinates."""
    coordinates = SYSTEMS[system]().known(as_mdtraj(molecule.topology))[variable]
    variables = [
        app.BiasVariable(each.force, each.low, each.high, width * (each.high - each.low) / PARTS, each.periodic)
        for each in coordinates
    ]
    bias = app.Metadynamics(molecule.system, variables, TEMPERATURE, BIAS_FACTOR, HEIGHT, FREQUENCY)
    group = bias._force.getForceGroup()

    def applied(simulation: app.Simulation, positions: np.ndarray) -> tuple[float, float]:
        energy = simulation.context.getState(getEnergy=True, groups=1 << group).getPotentialEnergy()._value
        surface = -bias.getFreeEnergy()._value / (KB * TEMPERATURE)  # V gamma / (gamma - 1)
        return energy, KB * TEMPERATURE * float(logsumexp(surface) - logsumexp(surface / BIAS_FACTOR))

    return bias.step, applied, group


# Evaluation


def count_by_event(system: type[System], run: dict) -> np.ndarray:
    """Crossings (events,), both ways together."""
    return np.array([sum(crossings(event, *system.cores)) for event in run["events"].T])


def count_crossings(system: type[System], run: dict) -> int:
    return int(count_by_event(system, run).sum())


def free_energy_history(system: type[System], run: dict) -> np.ndarray:
    """Estimates (POINTS, events) after equal parts of a run, kJ/mol; infinite without crossings or after its end."""
    log_weights = offset_weights(run["bias"], run["offset"], TEMPERATURE)
    weights = np.exp(log_weights - log_weights.max())
    ends = np.arange(1, POINTS + 1) * int(run["count"]) // POINTS
    begins = np.round(FILLING * ends).astype(int)
    history = np.full((POINTS, run["events"].shape[1]), np.inf)
    for index, event in enumerate(run["events"].T):
        for point, (begin, end) in enumerate(zip(begins, ends)):
            part = slice(begin, end)
            if end > len(event) or not sum(crossings(event[part], *system.cores)):
                continue
            positive = event[part] > 0
            inside, outside = (weights[part][side].sum() for side in (positive, ~positive))
            history[point, index] = -KB * TEMPERATURE * np.log(inside / outside)
    return history


def score(options: argparse.Namespace, system: str, variable: str, seed: int, width: float) -> float:
    """Crossings per ns that are expected along a variable from its training frames alone, of all events together."""
    kind = SYSTEMS[system]()
    cv, frames = cv_of(options, system, variable, seed), training_frames(options.output, system, options.data_ns)
    u = [cv(positions) for positions in frames.positions]
    hills = Hills(width * cv.sigma, HEIGHT, BIAS_FACTOR, FREQUENCY * TIMESTEP)
    topology = as_mdtraj(kind.molecule(options.output).topology)
    events = [kind.events(mdtraj.Trajectory(positions, topology)).T for positions in frames.positions]
    total, (low, high) = 0.0, kind.cores
    for event in zip(*events):
        states = [np.where(distance < low, 0, np.where(distance > high, 1, -1)) for distance in event]
        series = [LatentSeries(*each) for each in zip(u, states, TEMPERATURES)]
        total += expected_crossings(series, hills, TEMPERATURE, STRIDE * TIMESTEP, seed, options.ns).crossings
    return total


def evaluate(options: argparse.Namespace, system: str, variable: str, reference: np.ndarray) -> dict:
    kind = SYSTEMS[system]
    width = best_width(options, system, variable)
    runs = [read(run_file(options, system, variable, seed, width)) for seed in range(options.seeds)]
    histories = np.array([free_energy_history(kind, run) for run in runs])
    errors = np.sqrt(((histories - reference) ** 2).mean((0, 2)))
    times = options.ns * np.arange(1, POINTS + 1) / POINTS
    counts = np.array([count_crossings(kind, run) for run in runs]) / options.ns
    hills = np.concatenate([run["hills"] for run in runs])
    hills = hills[np.isfinite(hills)]  # those of known coordinates are not computed
    cpu = [run["cpu"] / max(1, len(run["bias"])) * run["count"] / options.ns for run in runs]
    result = {
        "width": width,
        "crossings": counts,
        "by event": np.mean([count_by_event(kind, run) for run in runs], axis=0) / options.ns,
        "converged_ns": convergence_time(times, errors),
        "error": errors[-1],
        "mean": histories[:, -1].mean(0),
        "explosions": sum(bool(run["exploded"]) for run in runs),
        "other explosions": sum(
            bool(read(run_file(options, system, variable, 0, each))["exploded"])
            for each in widths_of(options, system, variable)
            if each != width
        ),
        "over": float(np.mean(hills > FORCE_LIMIT * HEIGHT)) if len(hills) else float("nan"),
        "push": np.quantile(np.concatenate([run["pushes"] for run in runs]), 0.999),
        "cpu_per_ns": float(np.mean(cpu)),
        "training": float("nan"),
        "scores": np.full(options.seeds, np.nan),
    }
    if METHODS[variable].kind != "known":
        cvs = [cv_of(options, system, variable, seed) for seed in range(options.seeds)]
        result["training"] = np.mean([cv.metadata["provenance"]["training_seconds"] for cv in cvs])
        result["scores"] = np.array([score(options, system, variable, seed, width) for seed in range(options.seeds)])
    return result


def table(options: argparse.Namespace, system: str) -> str:
    head = [
        "",
        "width",
        "crossings per ns",
        "of seeds",
        "of events",
        "score before biasing",
        "ns to 1 kJ/mol",
        "CPU s to it",
    ]
    head += ["error after all", "mean", "explosions", "over the limit, %", "99.9 % push", "training, s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    reference = SYSTEMS[system]().reference(options)
    results = [evaluate(options, system, variable, reference) for variable in options.variables]
    for variable, result in zip(options.variables, results):
        time_ns = result["converged_ns"]
        title = variable
        if METHODS[variable].kind == "known":
            topology = as_mdtraj(SYSTEMS[system]().molecule(options.output).topology)
            title = " and ".join(each.title for each in SYSTEMS[system]().known(topology)[variable])
        cells = [title, f"{result['width']:g} x", f"{result['crossings'].mean():.1f}"]
        cells += [
            ", ".join(f"{count:.0f}" for count in sorted(result["crossings"])),
            ", ".join(f"{count:.1f}" for count in result["by event"]),
            number(result["scores"].mean(), 1),
        ]
        cells += [span(time_ns, options.ns), number(time_ns * result["cpu_per_ns"], 0)]
        cells += [f"{result['error']:.2f}", ", ".join(f"{mean:.1f}" for mean in result["mean"])]
        cells += [f"{result['explosions']} of {options.seeds}", number(100 * result["over"], 2)]
        cells += [f"{result['push']:.0f}", number(result["training"], 0)]
        lines.append("| " + " | ".join(cells) + " |")
    values = ", ".join(f"{value:.2f}" for value in reference)
    notes = f"Reference: {values} kJ/mol."
    measured, scores = (np.concatenate([result[key] for result in results]) for key in ("crossings", "scores"))
    scored = np.isfinite(scores)
    if scored.sum() > 2:
        correlation = spearmanr(measured[scored], scores[scored]).statistic
        notes += f" Rank correlation of the score over {scored.sum()} trained variables: {correlation:.2f}."
    return "\n".join([*lines, "", notes])


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else ""


if __name__ == "__main__":
    main()
