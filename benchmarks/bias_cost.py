"""What a bias adds to a step: OpenMM's own metadynamics against ours on both backends, every 1, 2 or 4 steps.

    python benchmarks/bias_cost.py --markdown benchmarks/bias_cost.md

prints one table. Each number is a median of blocks that are measured in turn with plain dynamics, so that what else the
machine does falls on all of them. The ways:

- stock, by hand: `openmm.app.Metadynamics` on one TorchForce for each dimension, which OpenMM differentiates by
  autograd, as users wrap a network themselves;
- stock, bias_variables: the same sampler on `cv.bias_variables()`, on either backend;
- TorchForce, PythonForce: `latf_sampling.Metadynamics` on either backend;
- on a GPU, a static bias on the same grid (`latf_sampling.FlowBias` is one), with and without CUDA graphs.

Systems: alanine dipeptide in vacuum (45 distances, or with phi and psi besides), chignolin in implicit solvent
(GBn2), and on a GPU (`--platform CUDA`) boxes of water with the variable on 200 atoms. Variables are two-dimensional,
of an encoder of 32-32 nodes with random weights: their values do not matter for their cost.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

import latf_sampling as ls
from latf_sampling.bias import respa_integrator
from latf_sampling.core import backends, platforms
from latf_sampling.cv.force import BiasForce
from latf_sampling.learning.networks import Networks

STRIDES = (1, 2, 4)
BLOCKS = 7
BLOCK_SECONDS = 0.4
"""About as long as a block takes."""
FREQUENCY = 500
"""Steps between hills."""
STOCK = ("stock, by hand", "stock, bias_variables, TorchForce", "stock, bias_variables, PythonForce")
OURS = {"TorchForce": "torchforce", "PythonForce": "pythonforce"}
STATIC = ("TorchForce, static", "TorchForce, static, CUDA graphs")
"""A static bias reads no parameter on the host, so that a CUDA graph can hold it; an adaptive one does."""
WATERS = {"water-1000": 1_000, "water-10000": 10_000, "water-100000": 100_000}
SYSTEMS = ["alanine-distances", "alanine", "chignolin", *WATERS]


class Stock(torch.nn.Module):
    """One component of a variable, as users wrap it: OpenMM asks torch for the gradient."""

    def __init__(self, module: torch.jit.ScriptModule, component: int, periodic: bool) -> None:
        super().__init__()
        self.module, self.component, self.periodic = module, component, periodic

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.module(positions)[self.component]


class PeriodicStock(Stock):
    """The same with a box."""

    def forward(self, positions: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        return self.module(positions, box)[self.component]


def alanine(spec: list[dict]):
    """Alanine dipeptide in vacuum."""
    structure = app.PDBFile(str(Path(__file__).parents[1] / "protocols" / "alanine-dipeptide.pdb"))
    field = app.ForceField("amber14/protein.ff14SB.xml")
    system = field.createSystem(structure.topology, constraints=app.HBonds, hydrogenMass=3 * unit.amu)
    return system, structure.topology, structure.positions, spec


def chignolin():
    """YYDPETGTWY, stretched out, in GBn2."""
    try:
        import PeptideBuilder
        from Bio.PDB import PDBIO
    except ImportError:
        sys.exit("chignolin is built from its sequence by PeptideBuilder: pip install PeptideBuilder")
    writer, text = PDBIO(), io.StringIO()
    writer.set_structure(PeptideBuilder.add_terminal_OXT(PeptideBuilder.make_extended_structure("YYDPETGTWY")))
    writer.save(text)
    text.seek(0)
    structure = app.PDBFile(text)
    field = app.ForceField("amber14/protein.ff14SB.xml", "implicit/gbn2.xml")
    model = app.Modeller(structure.topology, structure.positions)
    model.addHydrogens(field)
    system = field.createSystem(model.topology, constraints=app.HBonds, hydrogenMass=3 * unit.amu)
    spec = [{"torsions": "phi psi"}, {"distances": {"between": "name CA", "skip": 3}}]
    return system, model.topology, model.positions, spec


def water(atoms: int):
    """A box of water, with distances of 100 pairs of oxygens."""
    field = app.ForceField("amber14/tip3p.xml")
    model = app.Modeller(app.Topology(), [])
    model.addSolvent(field, model="tip3p", numAdded=atoms // 3)
    system = field.createSystem(
        model.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, constraints=app.HBonds
    )
    oxygens = [atom.index for atom in model.topology.atoms() if atom.element == app.element.oxygen][:200]
    pairs = [[first, second] for first, second in zip(oxygens[::2], oxygens[1::2])]
    return system, model.topology, model.positions, [{"distances": {"pairs": pairs}}]


def build(name: str):
    """System, topology, positions and descriptors by name."""
    if name == "alanine-distances":
        return alanine([{"distances": "element != H"}])
    if name == "alanine":
        return alanine([{"distances": "element != H"}, {"torsions": "phi psi"}])
    return chignolin() if name == "chignolin" else water(WATERS[name])


def variable(system: openmm.System, topology: app.Topology, positions, spec: list[dict]) -> ls.LatentCV:
    """A two-dimensional variable with random weights, of which the positions are in the middle."""
    features = ls.Features(topology, spec, periodic=system.usesPeriodicBoundaryConditions())
    rng = np.random.default_rng(0)
    x = np.array(positions.value_in_unit(unit.nanometer))
    box = np.array([list(v) for v in system.getDefaultPeriodicBoxVectors()], dtype=object)
    box = np.array([[float(c.value_in_unit(unit.nanometer)) for c in v] for v in box]) if features.periodic else None
    descriptors = features(x + rng.normal(scale=0.01, size=(64, *x.shape)), box)
    model = ls.LaTF(latent_dim=2, encoder_hidden=(32, 32))
    model.networks = Networks(model.settings, len(features.names), 2)
    model.trained = True
    with torch.no_grad():
        model.networks.feature_mean.copy_(torch.from_numpy(descriptors.mean(0)))
        model.networks.feature_scale.copy_(torch.from_numpy(0.1 / (descriptors.std(0) + 1e-3)))
        u = model.encode(descriptors)
        middle = torch.from_numpy(u.mean(0))
        model.latent_bounds.copy_(torch.stack([middle - 2, middle + 2], dim=1))
        model.latent_spread.fill_(0.2)
    return ls.LatentCV.from_model(model, features)


def biased(way: str, system: openmm.System, cv: ls.LatentCV):
    """Add a bias of metadynamics; returns what steps a simulation, and the force group."""
    if way in STOCK:
        variables = stock_variables(cv) if way == STOCK[0] else cv.bias_variables(OURS[way.split(", ")[-1]])
        bias = app.Metadynamics(system, variables, 300.0, 10.0, 0.1, FREQUENCY)
        return bias.step, bias._force.getForceGroup()
    if way in STATIC:
        grid = ls.Metadynamics(openmm.XmlSerializer.clone(system), cv, 300.0, 10.0, 0.1, FREQUENCY)
        static = BiasForce(system, cv, grid._shape(), grid.coefficients.ravel(), fixed=True, backend="torchforce")
        if way == STATIC[1]:
            static.force.setProperty("useCUDAGraphs", "true")
        return app.Simulation.step, static.group
    bias = ls.Metadynamics(system, cv, 300.0, bias_factor=10, height=0.1, frequency=FREQUENCY, backend=OURS[way])
    return bias.step, bias.group


def stock_variables(cv: ls.LatentCV) -> list[app.BiasVariable]:
    """One TorchForce for each component, differentiated by autograd."""
    kind = PeriodicStock if cv.periodic else Stock
    variables = []
    for k in range(cv.dim):
        force = backends.torchforce()(torch.jit.script(kind(cv.module, k, cv.periodic)))
        force.setUsesPeriodicBoundaryConditions(cv.periodic)
        low, high = cv.bounds[k]
        variables.append(app.BiasVariable(force, float(low), float(high), float(cv.sigma[k]), False))
    return variables


def simulation(name: str, way: str, stride: int, platform: str | None):
    """A simulation of one way, and the function that steps it so many time steps of 2 fs."""
    system, topology, positions, spec = build(name)
    cv = variable(system, topology, positions, spec)
    if way == "plain":
        step, group = None, None
    else:
        step, group = biased(way, system, cv)
    if stride == 1:
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
    else:
        integrator = respa_integrator(system, argparse.Namespace(group=group), 300.0, 1.0, 0.002, stride)
    chosen = platforms.pick_platform(platform, system.getNumParticles())
    run = app.Simulation(topology, system, integrator, chosen)
    run.context.setPositions(positions)
    run.minimizeEnergy(maxIterations=50)
    run.context.setVelocitiesToTemperature(300.0, 1)
    return run.step if step is None else lambda n: step(run, n)


def measure(name: str, platform: str | None, ways: list[tuple[str, int]]) -> tuple[dict, dict]:
    """Microseconds of a time step for each way and stride, a list of blocks each; and what failed, with its reason."""
    steppers, failures, steps, times = {}, {}, {}, {}
    for way, stride in ways:
        try:
            step = simulation(name, way, stride, platform)
            step(20 // stride)
            began = time.perf_counter()
            step(20 // stride)
            each = (time.perf_counter() - began) / 20
        except Exception as error:  # a way that does not work here is a line of the table
            failures[way, stride] = " ".join(str(error).split())[:120]
            continue
        steppers[way, stride] = step
        steps[way, stride] = stride * max(1, round(BLOCK_SECONDS / each / stride))
        times[way, stride] = []
    for _ in range(BLOCKS):
        for key, step in steppers.items():
            began = time.perf_counter()
            step(steps[key] // key[1])
            times[key].append((time.perf_counter() - began) / steps[key] * 1e6)
    return times, failures


def lines(name: str, times: dict, failures: dict) -> list[str]:
    """Lines of the table for one system."""
    plain = np.array(times["plain", 1])
    added = {key: float(np.median(np.array(values) - plain)) for key, values in times.items()}
    references = [added.get((way, 1)) for way in STOCK[:2]]
    rows = []
    for (way, stride), values in times.items():
        own = added[way, stride]
        shares = ["" if way == "plain" or stock is None else f"{own / stock:.2f}" for stock in references]
        us = "" if way == "plain" else f"{own:.1f}"
        speed = np.median(plain) / np.median(values)
        rows.append(
            f"| {name} | {way} | {stride} | {np.median(values):.1f} | {us} | {' | '.join(shares)} | {speed:.2f} |"
        )
    return rows + [f"| {name} | {way} | {stride} | {why} | | | | |" for (way, stride), why in failures.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", help="OpenMM platform; default: the fastest one for the system")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, help="default: the molecules, and on CUDA the water too"
    )
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ways = [("plain", 1), *((way, stride) for way in (*OURS, STOCK[0]) for stride in STRIDES)]
    ways += [(way, 1) for way in STOCK[1:]]
    if options.platform == "CUDA":
        ways += [(way, 1) for way in STATIC]
    rows = [
        "| system | way | stride | us a step | added, us | of stock, by hand | of bias_variables | of plain speed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in options.systems or (SYSTEMS if options.platform == "CUDA" else SYSTEMS[:3]):
        times, failures = measure(name, options.platform, ways)
        if ("plain", 1) not in times:
            sys.exit(f"{name}: not even plain dynamics runs: {failures['plain', 1]}")
        rows += lines(name, times, failures)
    print("\n".join(rows))
    if options.markdown:
        machine = f"OpenMM {openmm.__version__}, torch {torch.__version__}, {os.cpu_count()} hardware threads"
        command = " ".join(["python benchmarks/bias_cost.py", *sys.argv[1:]])
        text = "\n".join(rows)
        options.markdown.write_text(f"# What a bias adds to a step\n\n`{command}`\n{machine}\n\n{text}\n")


if __name__ == "__main__":
    main()
