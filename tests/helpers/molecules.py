"""Small systems for tests: alanine dipeptide with an untrained variable, pairs of particles with known densities, and
tiny campaigns."""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import mdtraj
import numpy as np
import openmm
import torch
import yaml
from openmm import app, unit

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.features import Features
from latf_sampling.learning.flow import LatentFlow
from latf_sampling.learning.marginals import MarginalMap
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.networks import Networks

if TYPE_CHECKING:
    from latf_sampling.campaign.campaign import Campaign

STRUCTURE = Path(__file__).resolve().parents[2] / "protocols" / "alanine-dipeptide.pdb"
SPECS = {
    "distances": [{"distances": "element != H"}],
    "torsions": [{"torsions": "phi psi"}],
    "both": [{"torsions": "phi psi"}, {"distances": "element != H"}],
}
PLATFORMS = os.environ.get("LATF_TEST_PLATFORMS", "Reference CPU").split()
"""OpenMM's platforms that forces are tested on; `benchmarks/gpu.sh` names CUDA."""
PROVENANCE = {"temperatures": [200.0, 1000.0], "density": True, "minimum_effective_size": 0.0}
"""Provenance that training would have written into a model; temperatures in between are no extrapolation."""
TRICLINIC = np.array([[1.7, 0.0, 0.0], [0.5, 1.6, 0.0], [-0.4, 0.6, 1.5]])
"""Box vectors, nm, in OpenMM's reduced form; each height is larger than the molecule."""
SMALL_FLOW = {"flow_transforms": 2, "flow_hidden": (16,), "flow_bins": 4}


@cache
def alanine() -> app.PDBFile:
    return app.PDBFile(str(STRUCTURE))


def positions() -> np.ndarray:
    """Positions (22, 3) of alanine dipeptide, nm."""
    return np.array(alanine().getPositions(asNumpy=True).value_in_unit(unit.nanometer))


def frames(n: int, seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """Positions (n, 22, 3), each atom displaced at random, nm."""
    return positions() + np.random.default_rng(seed).normal(scale=noise, size=(n, 22, 3))


def alanine_topology(periodic: bool = False) -> app.Topology:
    topology = app.PDBFile(str(STRUCTURE)).topology
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in TRICLINIC] if periodic else None)
    return topology


def alanine_system(periodic: bool = False) -> openmm.System:
    method = {"nonbondedMethod": app.CutoffPeriodic, "nonbondedCutoff": 0.5} if periodic else {}
    field = app.ForceField("amber14/protein.ff14SB.xml")
    return field.createSystem(alanine_topology(periodic), constraints=app.HBonds, **method)


def random_model(features: Features, x: np.ndarray, dim: int, seed: int = 0, **settings) -> LaTF:
    """A model with random weights, whose scaling, bounds and spread fit descriptors x (frames, F)."""
    model = LaTF(latent_dim=dim, **{**SMALL_FLOW, **settings})
    networks = model.networks = Networks(model.settings, len(features.names), 3)
    model.trained = True
    model.provenance = {**PROVENANCE}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in networks.parameters():
            if weight.ndim > 0:  # not the log variance
                fan_in = weight.shape[1] if weight.ndim == 2 else 4
                weight.copy_(torch.randn(weight.shape, generator=generator) / fan_in**0.5)
        networks.log_variance.fill_(-6.0)
        networks.feature_mean.copy_(torch.from_numpy(x.mean(0)))
        networks.feature_scale.copy_(torch.from_numpy(1 / x.std(0)))
        u = torch.from_numpy(model.encode(x))
        model.latent_bounds.copy_(torch.stack([u.amin(0), u.amax(0)], dim=1))
        model.latent_spread.copy_(0.15 * (u.amax(0) - u.amin(0)))
        networks.flow.fit(u, torch.ones(len(u)), torch.tensor(0.01))
        networks.flow.marginals = MarginalMap(dim)  # in widened coordinates, random weights would reach far beyond u
    return model


@cache
def alanine_model(dim: int = 2, kind: str = "distances", periodic: bool = False) -> tuple[LaTF, Features]:
    features = Features(alanine_topology(), SPECS[kind], periodic=periodic)
    return random_model(features, features(frames(200)), dim, seed=dim), features


@cache
def line_model() -> LaTF:
    """A model of two latent dimensions whose data lie on the line u1 = 0.2 - 1.1 u0, as the data of two states do."""
    model = copy.deepcopy(alanine_model(2)[0])
    along = torch.randn(5000, 1, generator=torch.Generator().manual_seed(5)) * 2 * float(model.latent_spread[0])
    fit_flow(model.networks.flow, torch.cat([along, 0.2 - 1.1 * along], 1), steps=150)
    return model


def fit_flow(flow: LatentFlow, u: torch.Tensor, steps: int, batch: int = 1024) -> None:
    """Train a flow at one temperature on data u (n, d), as the trainer does."""
    generator, one = torch.Generator().manual_seed(6), torch.ones(())
    flow.fit(u, torch.ones(len(u)), torch.zeros(()))
    optimizer = torch.optim.Adam(flow.requires_grad_(True).parameters(), 1e-2)
    for _ in range(steps):
        part = u[torch.randint(len(u), (batch,), generator=generator)]
        loss = -flow.log_prob(flow.blurred(part, torch.randn(part.shape, generator=generator)), one).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    flow.requires_grad_(False).enclose(u)


def alanine_cv(dim: int = 2, kind: str = "distances", periodic: bool = False) -> LatentCV:
    """An untrained variable of alanine dipeptide with plausible scales; every caller gets a copy."""
    return copy.copy(_alanine_cv(dim, kind, periodic))


@cache
def _alanine_cv(dim: int, kind: str, periodic: bool) -> LatentCV:
    boxes = np.broadcast_to(TRICLINIC, (4, 3, 3)) if periodic else None
    return LatentCV.from_model(*alanine_model(dim, kind, periodic), frames(4), boxes)


def simulation(
    topology: app.Topology,
    system: openmm.System,
    x: np.ndarray,
    platform: str = "Reference",
    *,
    timestep: float = 0.002,
    friction: float = 1.0,
    seed: int = 1,
) -> app.Simulation:
    """Langevin dynamics at 300 K, from positions (N, 3) and random velocities."""
    integrator = openmm.LangevinMiddleIntegrator(300.0, friction, timestep)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName(platform))
    simulation.context.setPositions(x)
    simulation.context.setVelocitiesToTemperature(300.0, seed)
    return simulation


def alanine_simulation(system: openmm.System, platform: str = "Reference", seed: int = 1) -> app.Simulation:
    return simulation(alanine().topology, system, positions(), platform, seed=seed)


def context(system: openmm.System, x: np.ndarray, platform: str = "Reference", box=None) -> openmm.Context:
    """A context at positions (N, 3); a GPU computes in double precision, for finite differences to mean something."""
    properties = {} if platform in ("Reference", "CPU") else {"Precision": "double"}
    chosen = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), chosen, properties)
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(x)
    return context


def energy(context: openmm.Context, group: int) -> float:
    """Energy of one force group, kJ/mol."""
    return context.getState(getEnergy=True, groups={group}).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def forces(context: openmm.Context, group: int) -> np.ndarray:
    """Forces (N, 3) of one force group, kJ/mol/nm."""
    state = context.getState(getForces=True, groups={group})
    return np.array(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))


def gradient(function, x: np.ndarray, h: float = 1e-4, atoms=None) -> np.ndarray:
    """Gradient (..., N, 3) of a function of frames (n, N, 3) -> (n, ...) by finite differences of fourth order.

    With `atoms`, the gradient with respect to the other atoms is zero.
    """
    atoms = range(len(x)) if atoms is None else atoms
    steps = np.zeros((3 * len(atoms), *x.shape))
    for row, (atom, axis) in enumerate(np.ndindex(len(atoms), 3)):
        steps[row, atoms[atom], axis] = h
    values = np.split(np.asarray(function(np.concatenate([x + k * steps for k in (-2, -1, 1, 2)]))), 4)
    slopes = np.moveaxis((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h), 0, -1)
    result = np.zeros((*slopes.shape[:-1], *x.shape))
    result[..., list(atoms), :] = slopes.reshape(*slopes.shape[:-1], len(atoms), 3)
    return result


def pairs(count: int, expression: str, mass: float = 4.0, **parameters) -> tuple[app.Topology, openmm.System, LatentCV]:
    """Pairs of particles with an energy U(r) of their distance, an expression of r, and the distances as variable.

    The density of each distance is r^2 exp(-U(r) / kT), independent of the other pairs, and the variable is exactly
    (r1, r2, ...), nm, with bounds from 0.5 to 1.5 and hill widths of 0.05.
    """
    topology, system, force = mdtraj.Topology(), openmm.System(), openmm.CustomBondForce(expression)
    for name, value in parameters.items():
        force.addGlobalParameter(name, value)
    chain = topology.add_chain()
    for k in range(count):
        residue = topology.add_residue("PAI", chain, resSeq=k + 1)
        for name in ("A", "B"):
            topology.add_atom(name, mdtraj.element.argon, residue)
            system.addParticle(mass)
        force.addBond(2 * k, 2 * k + 1, [])
    system.addForce(force)
    features = Features(topology, [{"distances": {"pairs": [[2 * k, 2 * k + 1] for k in range(count)]}}])
    model = LaTF(latent_dim=count, encoder_hidden=(), **SMALL_FLOW)
    networks = model.networks = Networks(model.settings, count, 2)
    model.trained = True
    model.provenance = {**PROVENANCE}
    with torch.no_grad():
        networks.encoder[0].weight.copy_(torch.eye(count))
        networks.encoder[0].bias.zero_()
        model.latent_bounds.copy_(torch.tensor([[0.5, 1.5]] * count))
        model.latent_spread.fill_(0.05)
        networks.log_variance.fill_(-12.0)
    cv = LatentCV.from_model(model, features)
    cv.sigma = np.full(count, 0.05)
    return topology.to_openmm(), system, cv


TINY = {
    "name": "tiny",
    "seed": 1,
    "system": {
        "structure": STRUCTURE.name,
        "force_field": ["amber14/protein.ff14SB.xml"],
        "hydrogen_mass": "3 amu",
        "platform": "Reference",
    },
    "integrator": {"timestep": "4 fs"},
    "frame_interval": "0.1 ps",
    "segment": "2 ps",
    "features": [{"torsions": "phi psi"}],
    "model": {"latent_dim": 2, "beta": 0.03, "flow_transforms": 2, "flow_hidden": [16], "flow_bins": 4},
    "learning": {
        "lag": "0.2 ps",
        "initial_states": 4,
        "refinements": 2,
        "refinement_epochs": 4,
        "minimum_population": 0,
        "learning_rate": 0.01,
        "encoder_decay": 0.5,
        "joint_epochs": 4,
        "flow_epochs": 4,
        "ensemble": 2,
        "ensemble_epochs": 1,
    },
    "rounds": [
        {"walkers": ["600 K"], "length": "30 ps"},
        {
            "walkers": ["300 K", "300 K"],
            "length": "4 ps",
            "bias": {"kind": "metadynamics", "bias_factor": 10, "height": "1 kJ/mol", "interval": "0.4 ps"},
        },
        {
            "walkers": ["300 K"],
            "length": "40 ps",  # some seconds, so that tests can interrupt it
            "bias": {"kind": "metadynamics", "bias_factor": 5, "height": "1 kJ/mol", "interval": "0.2 ps"},
        },
    ],
    "starts": {"temperature": "450 K", "count": 2},
    "observe": {"torsion": "phi ALA 2"},
}
"""A protocol of three rounds that takes seconds and still learns a variable: torsions, 600 K, few epochs."""


def write_protocol(folder: Path, **changes) -> Path:
    """Write the tiny protocol, with some keys replaced, and its structure into a folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STRUCTURE, folder)
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**TINY, **changes}))
    return folder / "protocol.yaml"


TINY_WELLS = {
    **{key: TINY[key] for key in ("seed", "model")},
    "name": "tiny wells",
    "system": {"name": "three-hole"},
    "integrator": {"timestep": "10 fs"},
    "frame_interval": "0.1 ps",
    "segment": "50 ps",
    "features": [{"coordinates": {"of": "all", "axes": "xy"}}],
    "learning": {**TINY["learning"], "lag": "0.5 ps"},
    "rounds": [{"walkers": ["1 kJ/mol", "2 kJ/mol"], "length": "200 ps"}],
    "evaluate": {"temperatures": ["1.5 kJ/mol"], "length": "100 ps"},
    "observe": {"descriptor": {"coordinates": {"of": "all", "axes": "y"}}, "above": "1.1 nm"},
}
"""A protocol of a model system that is run, learned from and evaluated in seconds."""


@cache
def finished_campaign() -> Path:
    """Directory of the tiny campaign, run once for all tests, its protocol deleted. Change only copies."""
    return _finished("campaign", write_protocol, lambda campaign: campaign.run())


@cache
def finished_wells() -> Path:
    """Directory of the tiny wells, run once for all tests. Change only copies."""

    def protocol(folder: Path) -> Path:
        folder.mkdir()
        (folder / "protocol.yaml").write_text(yaml.safe_dump(TINY_WELLS))
        return folder / "protocol.yaml"

    return _finished("wells", protocol, run_in_process)


def _finished(name: str, protocol: Callable[[Path], Path], run: Callable[[Campaign], None]) -> Path:
    """Directory of a finished campaign; the first process of this pytest that needs it runs it for all processes."""
    from latf_sampling.campaign.campaign import Campaign  # takes seconds; few tests need it

    shared = Path(os.environ["LATF_TESTS"])
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / name / "run" / "report.html").exists():
            shutil.rmtree(shared / name, ignore_errors=True)  # of a campaign that failed
            (shared / name).mkdir()
            run(Campaign(protocol(shared / name / "protocol"), shared / name / "run"))
            shutil.rmtree(shared / name / "protocol")
    return shared / name / "run"


def run_in_process(campaign: Campaign, **options) -> None:
    """Run a campaign whose tasks run one after the other in this process.

    A process takes seconds to import what a walker needs. The tiny campaign, and those that tests interrupt, run each
    walker in one, as users do.
    """
    campaign.run(executor=InThisProcess(), **options)


class InThisProcess(Executor):
    """An executor of `concurrent.futures` that runs each task at once."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def step_here(records, step, executor, progress=lambda fraction, words: None):
    """In place of `latf_sampling.campaign.steps.run_step`: do it here, where tests can replace what it does."""
    return step.function(records, progress, *step.arguments, *([executor] if step.submits else []))
