"""The inputs that docs/howto/coming-from.md shows side by side give the same bias from the same structures."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import openmm
import pytest
from helpers import plumed
from helpers.molecules import alanine, alanine_system, positions, simulation
from openmm import app, unit

PAGE = (Path(__file__).parents[1] / "docs" / "howto" / "coming-from.md").read_text()
PACE = "250"
"""Steps between hills of the page; here a hill is added at each of the structures."""
INSIDE = np.linspace(0.3, 0.9, 61)
"""Values of the variable, nm, that hills are near and walls are not."""


def block(number: int) -> str:
    """One of the inputs that stand side by side."""
    section = PAGE.split("## The same metadynamics in three programs", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```\w+\n(.*?)^```", section, flags=re.M | re.S)
    assert len(blocks) == 3 and blocks[number].count(PACE) == 1
    return blocks[number].replace(PACE, "1")


def at_distances(distances: np.ndarray) -> np.ndarray:
    """Positions (n, 22, 3), nm, with the two atoms of the page at these distances: the last residue is moved whole."""
    x = np.repeat(positions()[None], len(distances), 0)
    axis = x[0, 16] - x[0, 4]
    length = np.linalg.norm(axis)
    x[:, 16:] += ((distances - length)[:, None] * axis / length)[:, None]
    return x


STRUCTURES = at_distances(np.random.default_rng(3).uniform(0.35, 0.85, 60))
"""Where hills are added."""


def walk(system: openmm.System, sampler) -> None:
    """One step at each structure, so short that nothing moves."""
    walker = simulation(alanine().topology, system, STRUCTURES[0], timestep=1e-9)
    for x in STRUCTURES:
        walker.context.setPositions(x)
        walker.context.setVelocities(np.zeros_like(x))
        sampler.step(walker, 1)


@pytest.fixture(scope="module")
def bias(tmp_path_factory) -> np.ndarray:
    """That of this package at `INSIDE`, kJ/mol."""
    script = tmp_path_factory.mktemp("page") / "script.py"  # TorchScript reads the source of classes
    script.write_text(block(2))
    names = runpy.run_path(str(script), {"system": alanine_system()})
    walk(names["system"], names["bias"])
    assert len(names["bias"].hills) == len(STRUCTURES)
    energies = names["bias"].energy(INSIDE[:, None])
    assert energies.max() > 5 and np.ptp(energies) > 3
    return energies


def test_openmm_gives_the_same_bias(bias):
    names = {"system": alanine_system(), "app": app, "openmm": openmm, "unit": unit}
    exec(block(1), names)
    meta = names["meta"]
    walk(names["system"], meta)
    free_energy = meta.getFreeEnergy().value_in_unit(unit.kilojoules_per_mole)
    nodes = np.linspace(0.2, 1.0, len(free_energy))
    stock = np.interp(INSIDE, nodes, -0.9 * free_energy)
    assert np.abs(bias - stock).max() < 0.03


@plumed.needs_plumed
def test_plumed_gives_the_same_bias(bias, tmp_path):
    """PLUMED adds no hill at the first structure of a trajectory, which stands there twice, and cuts hills off."""
    trajectory = np.concatenate([STRUCTURES[:1], STRUCTURES])
    plumed.values(tmp_path, block(0).splitlines(), ["d"], trajectory)
    again = block(0).replace("PACE=1 ", "PACE=1000000 RESTART=YES ")
    found = plumed.values(tmp_path, again.splitlines(), ["metad.bias"], at_distances(INSIDE))[:, 0]
    assert np.abs(bias - found).max() < 0.02


def test_the_free_energy_beside_westpa_is_exact(tmp_path):
    """A twentieth of the script of the page, and the block of the other page that weights frames in the same way."""
    section = PAGE.split("## WESTPA", 1)[1]
    (code,) = [text for text in re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S) if "ls.Meta" in text]
    code = code.replace("10_000", "500").replace("2_000", "100")
    code = code.replace("simulation = ", "integrator.setRandomNumberSeed(1)\nsimulation = ", 1)
    script = tmp_path / "script.py"
    script.write_text(code)
    names = runpy.run_path(str(script))
    exact = float(re.search(r"which is ([\d.]+) kJ/mol exactly", section)[1])
    assert abs(names["difference"].value - exact) < 2

    other = (Path(__file__).parents[1] / "docs" / "tutorials" / "own-script.md").read_text()
    (code,) = re.findall(r"^```python\n(v, c, inside = .*?)^```", other, flags=re.M | re.S)
    names["my_state"] = lambda simulation: names["bias"].values(simulation.context)[0] > 0
    exec(code.replace("10_000", "100"), names)
    assert len(names["log_weights"]) == 80
