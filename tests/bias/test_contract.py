"""What all kinds of bias have in common, on both backends: one suite that every kind passes.

A kind that is registered in `latf_sampling.bias.from_settings` and has no case here fails.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import openmm
import pytest
from helpers.molecules import (
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

from latf_sampling.bias import Bias, Umbrella, respa_integrator, step_together
from latf_sampling.bias.from_settings import BIAS_KINDS, BiasTask, make_bias
from latf_sampling.core import backends
from latf_sampling.errors import CVError, SettingsError, SimulationError
from latf_sampling.settings.bias import AnyBiasSettings, FlowBiasSettings, MetadynamicsSettings, OPESSettings

BACKENDS = [
    pytest.param(
        "torchforce", marks=pytest.mark.skipif(bool(backends.torchforce_trouble()), reason="TorchForce does not work")
    ),
    "pythonforce",
]


@pytest.fixture(autouse=True)
def compiled(machine_code):
    """A PythonForce as users have it; all tests share the kernels on the disk."""


COMMON = {"interval": 0.01}
SETTINGS = {
    "metadynamics": MetadynamicsSettings(bias_factor=5, height=4.0, **COMMON),
    "opes": OPESSettings(barrier=40.0, **COMMON),
    "flow": FlowBiasSettings(bias_factor=5, **COMMON),
}
KINDS = [*SETTINGS, "umbrella"]


@dataclass
class Case:
    bias: Bias
    system: openmm.System

    def simulation(self, seed: int = 1):
        return alanine_simulation(self.system, seed=seed)


def task(system: openmm.System, directory: Path | None = None, **changes) -> BiasTask:
    return BiasTask(
        system, alanine_cv(2), lambda: alanine_model(2)[0], 300.0, 0.002, "Reference", directory=directory, **changes
    )


def case(kind: str, backend: str = "auto", directory: Path | None = None, **changes) -> Case:
    system = alanine_system()
    if kind == "umbrella":
        cv = alanine_cv(2)
        center = cv(frames(1, noise=0.0)[0]) + cv.sigma
        return Case(Umbrella(system, cv, center, 3.0 / cv.sigma**2, backend=backend), system)
    settings = SETTINGS[kind].model_copy(update={"backend": backend})
    return Case(make_bias(settings, task(system, directory, **changes)), system)


def test_every_kind_has_a_case():
    assert {type(settings) for settings in SETTINGS.values()} == set(BIAS_KINDS)
    assert set(BIAS_KINDS) == set(get_args(get_args(AnyBiasSettings)[0]))


def test_settings_of_opes_arrive():
    def opes(**keys):
        return make_bias(OPESSettings(barrier=40.0, **COMMON, **keys), task(alanine_system(), read_only=True))

    bias = opes(explore=True, width="adaptive", narrowest=0.5)
    assert (bias.explore, bias.adaptive_widths, bias.narrowest) == (True, True, 0.5)
    bias = opes(bias_factor="inf", width=0.5)
    assert (bias.explore, bias.adaptive_widths, bias.narrowest, bias.bias_factor) == (False, False, 0.35, np.inf)
    assert bias.hill_width == pytest.approx(0.5 * bias.cv.sigma)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_energy_forces_and_values(kind, backend):
    """The force in OpenMM is minus the gradient of `energy`, also after the bias has changed."""
    made = case(kind, backend)
    bias, simulation = made.bias, made.simulation()
    assert bias.backend == backend and bias.backend_reason == "asked for"
    bias.step(simulation, 20)
    largest = 0.0
    for running, x in ((simulation.context, None), (context(made.system, frames(1, seed=3)[0]), frames(1, seed=3)[0])):
        if x is None:
            x = running.getState(getPositions=True).getPositions(asNumpy=True)._value
        bias.prepare(simulation)
        u = bias.cv(x)
        assert bias.values(running) == pytest.approx(u, abs=1e-12)
        assert energy(running, bias.group) == pytest.approx(float(bias.energy(u)[0]), rel=1e-6, abs=1e-6)
        slope = gradient(lambda many: bias.energy(bias.cv(many)), x, h=2e-5, atoms=bias.cv.atoms)
        assert np.abs(forces(running, bias.group) + slope).max() < 1e-5 * np.abs(slope).max() + 1e-4
        largest = max(largest, np.abs(slope).max())
    assert largest > 1  # kJ/mol/nm; otherwise nothing is compared


@pytest.mark.parametrize("kind", KINDS)
def test_one_family(kind):
    """The same methods with the same types and shapes, whether a kind has something to do or not."""
    made = case(kind)
    bias, simulation = made.bias, made.simulation()
    bias.step(simulation, 13)
    bias.step(simulation, 0)
    assert simulation.currentStep == 13
    assert bias.frequency == (None if kind == "umbrella" else 5)
    assert bias.is_adaptive == (kind in ("metadynamics", "opes"))
    u = np.random.default_rng(0).normal(size=(7, 2)) * bias.cv.sigma + bias.values(simulation.context)
    assert bias.energy(u).shape == (7,) and bias.energy(u[0]).shape == (1,)
    past = bias.past_energy(u, [5, 13])
    assert past.shape == (2, 7) and past[1] == pytest.approx(bias.energy(u), abs=1e-9)
    assert isinstance(bias.applied_bias(u[0], 13), float) and isinstance(bias.offset(), float)
    assert bias.applied_bias(u[0], 13) == bias.energy(u[0])[0]
    weights = bias.weights(u, 300.0)
    assert weights.shape == (7,) and weights.mean() == pytest.approx(1.0)
    if bias.temperature is None:
        with pytest.raises(SettingsError, match="give temperature"):
            bias.weights(u)
    else:
        assert np.array_equal(weights, bias.weights(u))
    free = bias.free_energy()
    assert isinstance(free, np.ndarray) and free.shape == tuple(map(len, bias.axes))
    if kind != "umbrella":
        assert np.isfinite(free).any() and free.min() == 0
    history = list(bias.free_energy_history(2))
    assert len(history) == (2 if bias.is_adaptive else 0)
    for step, surface in history:
        assert isinstance(step, int) and surface.shape == free.shape
    if bias.is_adaptive:
        with pytest.raises(SettingsError, match="there is nowhere to save it; make it with directory="):
            bias.save()
    else:
        assert bias.save() is None
    assert bias.close() is None


@pytest.mark.parametrize("kind", KINDS)
def test_step_together_with_an_umbrella(kind):
    made = case(kind)
    center = made.bias.cv(frames(1, noise=0.0)[0])
    umbrella = Umbrella(made.system, made.bias.cv, center, 1.0)
    simulation = made.simulation()
    step_together(simulation, 12, umbrella, made.bias)
    assert simulation.currentStep == 12
    assert len({umbrella.group, made.bias.group}) == 2
    for bias in (umbrella, made.bias):
        assert energy(simulation.context, bias.group) == pytest.approx(
            float(bias.energy(bias.values(simulation.context))[0]), abs=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_multiple_time_steps(kind):
    made = case(kind)
    integrator = respa_integrator(made.system, made.bias, 300.0, 1.0, 0.001, stride=2)
    assert any(f"f{made.bias.group}" in integrator.getComputationStep(k)[2] for k in range(3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_continuation_is_exact(kind, backend, tmp_path):
    """After `save` and `rewind`, a simulation continues as if it had never stopped, to the last bit."""
    made = case(kind, backend, tmp_path)
    bias, simulation = made.bias, made.simulation()
    bias.step(simulation, 20)
    bias.save()
    simulation.saveCheckpoint(str(tmp_path / "state"))
    bias.step(simulation, 20)
    expected = [bias.values(simulation.context), bias.energy(bias.values(simulation.context)), bias.free_energy()]
    bias.close()
    again = case(kind, backend, tmp_path)
    continued = again.simulation(seed=5)
    continued.loadCheckpoint(str(tmp_path / "state"))
    again.bias.rewind(continued.currentStep)
    again.bias.step(continued, 20)
    values = again.bias.values(continued.context)
    for found, other in zip((values, again.bias.energy(values), again.bias.free_energy()), expected):
        assert found.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", ["metadynamics", "opes", "flow"])
def test_what_has_nowhere_to_be_saved_is_told(kind):
    bias = case(kind).bias
    if bias.is_adaptive:
        with pytest.raises(SettingsError, match="there is nowhere to save it; make it with directory="):
            bias.save()
    else:
        bias.save()  # there is nothing to save
    bias.close()
    assert repr(bias) == (
        f"<{type(bias).__name__} at 300 K, by {bias.backend}, along <LatentCV: 2 components from "
        f"{len(bias.cv.atoms)} of 22 atoms>>"
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_give_the_same_numbers(backend):
    for kind in KINDS:
        made = case(kind, backend)
        reference = case(kind, "pythonforce")
        for each in (made, reference):
            each.bias.step(each.simulation(), 10)
        u = np.random.default_rng(1).normal(size=(20, 2)) * made.bias.cv.sigma + made.bias.cv(frames(1)[0])
        assert made.bias.energy(u) == pytest.approx(reference.bias.energy(u), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_refusals(kind):
    with pytest.raises(SettingsError, match="backend must be 'auto', 'torchforce' or 'pythonforce'"):
        case(kind, "cuda")
    other = pairs(1, "r")[1]
    count = other.getNumForces()
    with pytest.raises(CVError, match="made for 22 atoms; the system has 2"):
        if kind == "umbrella":
            Umbrella(other, alanine_cv(2), [0.0, 0.0], 1.0)
        else:
            make_bias(SETTINGS[kind], task(other))
    assert other.getNumForces() == count
    if kind != "flow":  # whose table never changes, so that contexts have no parameter that could be missing
        with pytest.raises(SimulationError, match="make the bias first, and then the Simulation"):
            case(kind).bias.step(alanine_simulation(alanine_system()), 1)


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_read_only_changes_nothing(kind, tmp_path):
    """The bias of files that other processes have locked, in a folder that cannot be written."""
    folder = tmp_path / "hills"
    walkers = [case(kind, "auto", folder, walker=name) for name in "ab"]
    for number, made in enumerate(walkers):
        simulation = made.simulation(number + 1)
        made.bias.step(simulation, 20)
        made.bias.save()
    bias = walkers[-1].bias  # read the other's hills last
    if folder.exists():
        with open(folder / "a.hills", "a") as file:
            file.write("25 0.1")  # a line that is being written
        folder.chmod(0o555)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*")}
    try:
        system = alanine_system()
        count = system.getNumForces()
        read = make_bias(SETTINGS[kind], task(system, folder, walker="b", read_only=True))
        assert system.getNumForces() == count
        u = np.random.default_rng(1).normal(size=(20, 2)) * read.cv.sigma + read.cv(frames(1)[0])
        assert read.energy(u) == pytest.approx(bias.energy(u), abs=1e-9)
        assert read.past_energy(u, [10]).shape == (1, 20)
        read.save()
        for use in (lambda: read.group, lambda: read.step(walkers[0].simulation(), 1)):
            with pytest.raises(SimulationError, match="read-only"):
                use()
        if read.is_adaptive:
            with pytest.raises(SimulationError, match="read-only"):
                read.rewind(0)
            for lock in folder.glob("*.lock"):
                with open(lock) as handle, pytest.raises(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # still held by the walkers
        read.close()
        after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*")}
        assert after == before
    finally:
        if folder.exists():
            folder.chmod(0o755)
