"""Forces in OpenMM against the energies they belong to, and the grid against the Gaussians that are put on it."""

from __future__ import annotations

import copy
import gc
from functools import cache
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
from helpers.landscape import Landscape
from helpers.molecules import (
    PLATFORMS,
    SPECS,
    TRICLINIC,
    alanine_cv,
    alanine_model,
    alanine_simulation,
    alanine_system,
    context,
    energy,
    forces,
    frames,
    gradient,
    pairs,
)
from openmm import app

from latf_sampling.bias import FlowBias, Umbrella
from latf_sampling.bias.grid import SPACING
from latf_sampling.core.backends import BACKENDS
from latf_sampling.cv import graph
from latf_sampling.cv.graph import trace
from latf_sampling.errors import CVError, SimulationError
from latf_sampling.units import KB

DIMENSIONS = [1, 2, 3]


def place(cv, u: np.ndarray, where: str):
    """The variable with other bounds, so that the value u lies in a certain place of the grid."""
    moved, d = copy.copy(cv), cv.dim
    low, size = cv.bounds[:, 0].copy(), np.full(d, 5.0) * cv.sigma
    if where == "inside":
        low = u - 2.2 * cv.sigma
    elif where == "outside":  # below the first face, above the others
        low = np.where(np.arange(d) == 0, u + 3.7 * cv.sigma, u - size - 4.3 * cv.sigma)
    elif where == "boundary":  # on a node: 5 + 2 * 3 widths are 44 cells
        low = u - (5 - 3 + 8 * SPACING) * cv.sigma
        size = np.full(d, 5.0) * cv.sigma
    moved.bounds = np.stack([low, low + size], axis=1)
    return moved


@cache
def biased(dim: int, kind: str, periodic: bool, backend: str = "auto"):
    """One system with every bias, each of which has its own group."""
    cv, model = alanine_cv(dim, kind, periodic), alanine_model(dim, kind, periodic)[0]
    box = TRICLINIC if periodic else None
    x = frames(1, seed=20 + dim)[0]
    if periodic:  # broken: each atom in an image of its own
        x = x + np.random.default_rng(1).integers(-2, 3, x.shape) @ box
    u = cv(x, box)
    system = alanine_system(periodic)
    biases = {
        "inside": Landscape(system, place(cv, u, "inside"), 1, backend=backend),
        "outside": Landscape(system, place(cv, u, "outside"), 2, backend=backend),
        "umbrella": Umbrella(system, cv, u + cv.sigma, 3.0 / cv.sigma**2, backend=backend),
    }
    if not periodic:
        biases["boundary"] = Landscape(system, place(cv, u, "boundary"), 3, backend=backend)
        biases["flow"] = FlowBias(system, cv, model, 300.0, 5.0, backend=backend)
    return SimpleNamespace(cv=cv, x=x, box=box, system=system, biases=biases)


CASES = [
    *((dim, kind, False) for dim in DIMENSIONS for kind in SPECS),
    *zip(DIMENSIONS, SPECS, [True, True, True]),
]


# ------------------------------------------------------------------------------------------------ energy and forces


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dim", "kind", "periodic"), CASES)
def test_forces_are_minus_the_gradient(dim, kind, periodic, backend, platform):
    case = biased(dim, kind, periodic, backend)
    made = context(case.system, case.x, platform, case.box)
    x, box = case.x, case.box
    for changed in (False, True) if periodic else (False,):
        if changed:  # the box changes, and what is broken with it; cells stay the same
            images = np.round((x - frames(1, seed=20 + dim)[0]) @ np.linalg.inv(box))
            box = case.box * [[1.0], [1.2], [1.1]]
            x = frames(1, seed=20 + dim)[0] + images @ box
            made.setPeriodicBoxVectors(*box)
            made.setPositions(x)

        def energies(many, box=box):
            u = case.cv(many, box)
            return np.stack([bias.energy(u) for bias in case.biases.values()], axis=1)

        exact = energies(x[None])[0]
        slopes = gradient(energies, x, h=2e-5, atoms=case.cv.atoms)
        for (name, bias), value, slope in zip(case.biases.items(), exact, slopes):
            scale = np.abs(slope).max()
            if name != "flow":  # which is constant where the flow has seen nothing
                assert scale > 1  # kJ/mol/nm; otherwise there is nothing to compare
            found = forces(made, bias.group)
            assert energy(made, bias.group) == pytest.approx(value, abs=1e-5, rel=1e-6), name
            assert np.abs(found + slope).max() < 1e-5 * scale + 1e-5, name
            assert not found[np.setdiff1d(np.arange(22), case.cv.atoms)].any()
            assert np.abs(found.sum(0)).max() < 1e-9 * scale + 1e-9  # no net force


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forces_fit_the_energies_of_the_platform_itself(backend, platform):
    """As above, with both from OpenMM."""
    case = biased(2, "both", False, backend)
    made = context(case.system, case.x, platform)
    for name, bias in case.biases.items():
        for seed in range(3):
            way = np.random.default_rng(seed).normal(size=case.x.shape)
            values = []
            for step in (-2e-5, -1e-5, 1e-5, 2e-5):
                made.setPositions(case.x + step * way)
                values.append(energy(made, bias.group))
            made.setPositions(case.x)
            slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-5
            found = forces(made, bias.group)
            assert slope == pytest.approx(-(found * way).sum(), abs=1e-4 * np.abs(found).max() + 1e-4), name


def test_places_are_what_they_are_called():
    case = biased(3, "both", False)
    u = case.cv(case.x)
    inside, outside, boundary = (case.biases[name] for name in ("inside", "outside", "boundary"))
    assert ((inside.low < u) & (u < inside.high)).all()
    assert u[0] < outside.low[0] and (u[1:] > outside.high[1:]).all()
    cells = (u - boundary.low) / boundary.grid.step
    assert np.abs(cells - np.round(cells)).max() < 1e-9
    free_energies = case.biases["flow"].on_grid()
    assert np.ptp(free_energies) > 1


def test_groups_separate_energies():
    case = biased(2, "distances", False)
    made = context(case.system, case.x)
    groups = [bias.group for bias in case.biases.values()]
    assert len(set(groups)) == len(groups)
    plain = context(alanine_system(), case.x)
    without = made.getState(getEnergy=True, groups=set(range(32)) - set(groups)).getPotentialEnergy()._value
    total = made.getState(getEnergy=True).getPotentialEnergy()._value
    assert without == pytest.approx(plain.getState(getEnergy=True).getPotentialEnergy()._value, rel=1e-9)
    assert total == pytest.approx(without + sum(energy(made, group) for group in groups), rel=1e-9)


# --------------------------------------------------------------------------------------------------- table and context


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_changes_reach_running_and_new_contexts(backend, platform):
    system, cv = alanine_system(), alanine_cv(2)
    bias = Landscape(system, cv, 1, backend=backend)
    x = frames(2, seed=30)
    first, second = context(system, x[0], platform), context(system, x[1], platform)

    def check(made, frame):
        assert energy(made, bias.group) == pytest.approx(float(bias.energy(cv(frame))[0]), abs=1e-8)
        slope = gradient(lambda many: bias.energy(cv(many)), frame, h=2e-5)
        assert np.abs(forces(made, bias.group) + slope).max() < 1e-5 * np.abs(slope).max()

    before = energy(first, bias.group)
    check(first, x[0])
    check(second, x[1])
    for seed in range(2, 7):
        bias.change(seed, first)
        check(first, x[0])
    assert abs(energy(first, bias.group) - before) > 0.1
    bias.force.refresh(second)
    check(second, x[1])
    third = context(system, x[1], platform)  # made after five changes, not looked at before the sixth
    bias.change(7, second)
    check(second, x[1])
    bias.force.refresh(third)
    check(third, x[1])
    check(context(system, x[0], platform), x[0])
    first.reinitialize(preserveState=True)
    bias.force.refresh(first)
    check(first, x[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loaded_state_does_not_bring_an_old_table_back(backend):
    system, cv = alanine_system(), alanine_cv(2)
    bias = Landscape(system, cv, 1, backend=backend)
    simulation = alanine_simulation(system)
    x = simulation.context.getState(getPositions=True)
    saved = [simulation.context.getState(getPositions=True, getVelocities=True, getParameters=True)]
    for seed in range(2, 6):
        bias.change(seed, simulation.context)
        bias.step(simulation, 1)
        saved.append(simulation.context.getState(getPositions=True, getVelocities=True, getParameters=True))
    for state in saved:
        simulation.context.setState(state)
        bias.step(simulation, 0)
        u = bias.values(simulation.context)
        assert energy(simulation.context, bias.group) == pytest.approx(float(bias.energy(u)[0]), abs=1e-8)
    assert len(x.getPositions()) == 22


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_fits_the_next_run_of_a_script(backend):
    """Names of parameters are those of the run before, or a saved state could not be loaded."""
    states = []
    for _ in range(2):
        system, cv = alanine_system(), alanine_cv(2)
        grid = Landscape(system, cv, 1, backend=backend)
        umbrella = Umbrella(system, cv, [0.0, 0.0], 10.0, backend=backend)
        made = context(system, frames(1)[0])
        for state in states:
            made.setState(state)
        for bias in (grid, umbrella):
            assert energy(made, bias.group) == pytest.approx(float(bias.energy(bias.values(made))[0]), abs=1e-8)
        umbrella.move_to(made, [1.0, 0.5])
        states.append(made.getState(getPositions=True, getParameters=True))
        assert len(set(dict(made.getParameters()))) == 2


@pytest.mark.parametrize("periodic", [False, True])
def test_machine_code_gives_the_same_forces(periodic, monkeypatch, tmp_path):
    box, x, made = (TRICLINIC if periodic else None), frames(3, seed=40), []
    for compiled in ("0", "1"):
        monkeypatch.setenv("LATF_COMPILE", compiled)
        monkeypatch.setenv("LATF_CACHE", str(tmp_path))
        system = alanine_system(periodic)
        bias = Landscape(system, alanine_cv(2, "both", periodic), 1, backend="pythonforce")
        made.append((context(system, x[0], box=box), bias.group))
        assert any((tmp_path / "kernels").glob("*.py")) == (compiled == "1")
    for frame in x:
        for running, _ in made:
            running.setPositions(frame)
        (plain, fast) = made
        assert energy(*fast) == pytest.approx(energy(*plain), rel=1e-10)
        assert np.abs(forces(*fast) - forces(*plain)).max() < 1e-9 * np.abs(forces(*plain)).max()
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert energy(context(copied, x[-1], box=box), bias.group) == pytest.approx(energy(*fast), rel=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bias_acts_when_its_object_is_gone(backend):
    system, cv = alanine_system(), alanine_cv(2)
    group = Umbrella(system, cv, [0.0, 0.0], 10.0, backend=backend).group
    gc.collect()
    x = frames(1)[0]
    assert energy(context(system, x), group) == pytest.approx(5 * (cv(x) ** 2).sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_serialized_systems(backend):
    """A copy has the table that is in use."""
    system, cv = alanine_system(), alanine_cv(2)
    bias = Landscape(system, cv, 1, backend=backend)
    x = frames(1)[0]
    original = context(system, x)
    group, first = bias.group, energy(original, bias.group)
    for seed in (None, 2, 3):
        if seed is not None:
            bias.change(seed, original)
        expected = energy(original, group)
        text = openmm.XmlSerializer.serialize(system)
        copied = openmm.XmlSerializer.deserialize(text)
        assert energy(context(copied, x), group) == pytest.approx(expected, abs=1e-9)
    assert abs(energy(original, group) - first) > 0.1
    made = context(openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(alanine_bias(cv, 1, backend))), x)
    assert np.abs(forces(made, group) - forces(context(alanine_bias(cv, 1, backend), x), group)).max() < 1e-6
    del bias, original
    gc.collect()
    copied = openmm.XmlSerializer.deserialize(text)
    if backend == "pythonforce":
        assert energy(context(copied, x), group) == pytest.approx(first, abs=1e-9)
    else:  # the table went with the bias
        with pytest.raises(openmm.OpenMMException, match="/proc/|the shared memory of the bias is gone"):
            energy(context(copied, x), group)


def alanine_bias(cv, seed: int, backend: str) -> openmm.System:
    system = alanine_system()
    Landscape(system, cv, seed, backend=backend)
    return system


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("periodic", [False, True])
def test_a_fixed_table_goes_along(periodic, backend):
    """A system with a static bias is whole: its text gives the same forces when the bias is long gone."""
    system, cv, x = alanine_system(periodic), alanine_cv(2, periodic=periodic), frames(1)[0]
    box = TRICLINIC if periodic else None
    bias = Landscape(system, cv, fixed=True, backend=backend)
    with pytest.raises(ValueError, match="read-only"):
        bias.coefficients[...] = 0.0
    made = context(system, x, box=box)
    assert not [name for name in made.getParameters() if name.startswith("latf")]
    expected = energy(made, bias.group), forces(made, bias.group)
    assert abs(expected[0]) > 0.1 and np.abs(expected[1]).max() > 1
    text, group = openmm.XmlSerializer.serialize(system), bias.group
    del bias, made, system
    gc.collect()
    copied = context(openmm.XmlSerializer.deserialize(text), x, box=box)
    assert energy(copied, group) == pytest.approx(expected[0], rel=1e-12)
    assert forces(copied, group) == pytest.approx(expected[1], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", list(SPECS))
@pytest.mark.parametrize("periodic", [False, True])
def test_graph_is_of_no_device(kind, periodic):
    """Moved to another device as a whole, it makes no tensor on the one it was traced on."""
    cv = alanine_cv(2, kind, periodic=periodic)
    shape = Landscape(None, cv)._shape()
    inputs = graph.example(cv, shape)
    script = graph.to_torchscript(graph.trace(cv, shape), inputs).to("meta")
    assert [part.device.type for part in script(*(part.to("meta") for part in inputs))] == ["meta", "meta"]


def test_parameters_have_names_of_their_own():
    """Also where a force was removed since: two of one name would have two default values."""
    system, cv = alanine_system(), alanine_cv(1)
    first = Umbrella(system, cv, [0.0], 1.0)
    system.removeForce(0)
    second = Umbrella(system, cv, [0.0], 2.0)
    made = context(system, frames(1)[0])
    assert len([name for name in made.getParameters() if name.startswith("latf")]) == 2
    second.move_to(made, [1.0])
    u = float(cv(frames(1)[0])[0])
    assert energy(made, first.group) == pytest.approx(0.5 * u**2)
    assert energy(made, second.group) == pytest.approx((u - 1) ** 2)


def test_a_full_system_is_refused():
    system = alanine_system()
    for group in range(32):
        spare = openmm.CustomExternalForce("0")
        spare.setForceGroup(group)
        system.addForce(spare)
    count = system.getNumForces()
    with pytest.raises(SimulationError, match="all 32 force groups"):
        Umbrella(system, alanine_cv(2), [0.0, 0.0], 1.0)
    assert system.getNumForces() == count
    spare.setForceGroup(0)  # group 31 is free now
    assert Umbrella(system, alanine_cv(2), [0.0, 0.0], 1.0).group == 31


@pytest.mark.parametrize("periodic", [False, True])
def test_a_periodic_mismatch_is_refused(periodic):
    system = alanine_system(periodic)
    count = system.getNumForces()
    with pytest.raises(SimulationError, match=f"Features\\(..., periodic={periodic}\\)"):
        Umbrella(system, alanine_cv(2, periodic=not periodic), [0.0, 0.0], 1.0)
    assert system.getNumForces() == count


def test_another_molecule_is_refused():
    with pytest.raises(CVError, match="made for 22 atoms; the system has 2"):
        Umbrella(pairs(1, "r")[1], alanine_cv(2), [0.0, 0.0], 1.0)


# ------------------------------------------------------------------------------------------------- one network a step


def operations(bias) -> list[str]:
    """Names of all torch operations that one evaluation of a grid or an umbrella does on the CV's atoms."""
    graph = trace(bias.cv, bias._shape()).graph
    return [str(node.target).split(".")[1] for node in graph.nodes if "aten" in str(node.target)]


@pytest.mark.parametrize(("kind", "most"), [("distances", 43), ("torsions", 83), ("both", 98)])
def test_network_is_evaluated_once_whatever_the_dimension(kind, most):
    counts = []
    for dim in DIMENSIONS:
        names = operations(Landscape(None, alanine_cv(dim, kind)))
        assert names.count("tanh") == 2  # one for each hidden layer
        counts.append((names.count("addmv"), names.count("tanh_backward"), names.count("linalg_vector_norm")))
        # An operation costs 1 us or more in every step; these are as many as there were.
        assert len(names) <= most
    assert len(set(counts)) == 1
    assert counts[0][0] == 3 + 1  # the layers, and the place in the grid


# ---------------------------------------------------------------------------------------- OpenMM's own metadynamics


def gaussians(u: np.ndarray, centers: np.ndarray, heights: np.ndarray, width: np.ndarray) -> np.ndarray:
    square = (((u[:, None] - centers) / width) ** 2).sum(-1)
    return np.exp(-0.5 * square) @ heights


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dim", "periodic"), [(1, False), (1, True), (2, True), (3, False)])
def test_stock_metadynamics(tmp_path, dim, periodic, backend):
    """Variables nested in a CustomCVForce: energies are those of the Gaussians, forces those of the energies."""
    cv, system = alanine_cv(dim, "both", periodic), alanine_system(periodic)
    variables = cv.bias_variables(backend)
    assert [(v.minValue, v.maxValue, v.biasWidth, v.periodic) for v in variables] == [
        (cv.bounds[k, 0] - 3 * cv.sigma[k], cv.bounds[k, 1] + 3 * cv.sigma[k], cv.sigma[k], False) for k in range(dim)
    ]
    for variable in variables:  # a spline of half a hill width is good enough, and setting it up is slow
        variable.gridWidth = 48
    meta = app.Metadynamics(system, variables, 300.0, 8.0, 2.0, 5)
    simulation = alanine_simulation(system)
    if periodic:
        simulation.context.setPeriodicBoxVectors(*TRICLINIC)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(100.0, 1)
    group = meta._force.getForceGroup()
    centers, heights = np.empty((0, dim)), np.empty(0)
    for _ in range(5):
        meta.step(simulation, 5)
        u = cv.of_context(simulation.context)
        assert np.abs(np.array(meta.getCollectiveVariables(simulation)) - u).max() < 1e-6
        before = float(gaussians(u[None], centers, heights, cv.sigma)[0]) if len(heights) else 0.0
        centers = np.vstack([centers, u])
        heights = np.append(heights, 2.0 * np.exp(-before / (KB * 300.0 * 7.0)))
        after = float(gaussians(u[None], centers, heights, cv.sigma)[0])
        assert energy(simulation.context, group) == pytest.approx(after, abs=2e-3 * heights.sum())
    assert before > 0.1
    x = np.array(simulation.context.getState(getPositions=True).getPositions(asNumpy=True)._value)
    found = forces(simulation.context, group)
    for seed in range(3):
        way = np.random.default_rng(seed).normal(size=x.shape)
        values = []
        for step in (-2e-5, -1e-5, 1e-5, 2e-5):
            simulation.context.setPositions(x + step * way)
            values.append(energy(simulation.context, group))
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-5
        assert slope == pytest.approx(-(found * way).sum(), abs=1e-3 * np.abs(found).max() + 1e-3)
