"""Starts: on target, thermal, of the right chirality, reproducible; failures are reported."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import alanine, alanine_topology, context, finished_campaign, frames, pairs, positions
from openmm import app

from latf_sampling import starts
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.errors import CVError, DataError, ExtrapolationWarning, SettingsError, SimulationError
from latf_sampling.starts import (
    generate_starts,
    handedness,
    state_point,
    stereocenters,
    structures_at,
    structures_between,
)
from latf_sampling.starts.checks import TargetResult
from latf_sampling.starts.worker import PlainRun
from latf_sampling.units import KB

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture(scope="module")
def learned() -> SimpleNamespace:
    """Model, variable, archive, system and topology of the tiny campaign, in the order `generate_starts` takes them."""
    campaign = Campaign.load(finished_campaign())
    model, cv = campaign.model(campaign.last_learned())
    archive = mdtraj.join([walker.trajectory for walker in campaign.frames()])
    molecule = campaign.molecule
    return SimpleNamespace(model=model, cv=cv, archive=archive, system=molecule.system, topology=molecule.topology)


def generate(learned, n: int = 1, temperature=450.0, *, targets=None, **settings) -> starts.Starts:
    """Starts from the learned model; with `targets`, at these latent points instead of samples."""
    entries = {**vars(learned), **{name: settings.pop(name) for name in list(settings) if hasattr(learned, name)}}
    if targets is not None:
        entries["model"] = SimpleNamespace(sample=lambda n, temperature, seed: np.array(targets, dtype=np.float32))
    return generate_starts(
        entries["model"], entries["cv"], entries["archive"], entries["system"], entries["topology"], temperature, n,
        **{"timestep": 0.004, "thermalise": 1.0, "seed": 1, **settings},
    )  # fmt: skip


def likely_state(model, temperature: float) -> int:
    """The state of most samples: a model that is hardly trained may give another one none."""
    return int(np.bincount(model.state_probabilities(model.sample(500, temperature, seed=1)).argmax(1)).argmax())


@pytest.fixture(scope="module")
def near(learned) -> np.ndarray:
    """Latent points (4, 2) of frames that were simulated, far apart in time."""
    return learned.cv(learned.archive.xyz[[30, 120, 210, 400]].astype(float))


@pytest.fixture(scope="module")
def structures(learned, near) -> starts.Starts:
    return generate(learned, 4, targets=near)


# --------------------------------------------------------------------------------------------------------- valid starts


def test_samples_of_the_flow_give_structures(learned):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no structure at a sample
        result = generate(learned, 3)
    assert result.requested == 3 == len(result) + len(result.rejected)
    assert len(result) >= 1
    drawn = [*result.targets.tolist(), *(entry["target"] for entry in result.rejected)]
    assert len(np.unique(drawn, axis=0)) == 3
    assert result.temperature == 450.0


def test_structures_are_on_their_targets(learned, structures, near):
    assert len(structures) == 4 and not structures.rejected
    assert structures.targets == pytest.approx(near, abs=1e-6)
    assert structures.reached == pytest.approx(learned.cv(structures.positions), abs=1e-9)
    held = np.array([entry["held"] for entry in structures.checks])
    away = np.linalg.norm(held - structures.targets, axis=1) / learned.cv.noise
    assert away == pytest.approx([entry["held_distance"] for entry in structures.checks])
    assert away.max() < 4
    assert away.min() > 1e-3  # a thermal spread, not a minimum
    assert structures.positions.shape == structures.velocities.shape == (4, 22, 3)
    assert structures.summary().splitlines()[0] == "4 of 4 structures at 450 K are valid."
    assert [entry["held_distance"] < 4 and entry["released_distance"] < 4 for entry in structures.checks] == [True] * 4


def test_sources_are_the_closest_frames(learned, structures):
    archived = learned.cv(learned.archive.xyz.astype(float))
    distance = np.linalg.norm(archived - structures.targets[:, None], axis=2)
    assert (distance[np.arange(4), structures.sources] <= np.sort(distance, axis=1)[:, 3] + 1e-9).all()


def test_energies_are_those_of_the_system_without_the_umbrella(learned, structures):
    again = context(learned.system, positions())
    for x, energy in zip(structures.positions, structures.energies):
        again.setPositions(x)
        assert again.getState(getEnergy=True).getPotentialEnergy()._value == pytest.approx(energy, abs=1e-6)


def test_structures_are_thermal_and_satisfy_the_constraints(learned, structures):
    system = learned.system
    for k in range(system.getNumConstraints()):
        a, b, length = system.getConstraintParameters(k)
        lengths = np.linalg.norm(structures.positions[:, a] - structures.positions[:, b], axis=1)
        assert lengths == pytest.approx(length._value, rel=1e-4)
    masses = np.array([system.getParticleMass(k)._value for k in range(22)])
    kinetic = 0.5 * (masses[:, None] * structures.velocities**2).sum((1, 2)).mean()
    # with 54 degrees of freedom, four structures give the temperature to 10 %
    assert kinetic / (0.5 * 54 * KB) == pytest.approx(450.0, rel=0.35)


def test_the_system_is_not_changed(learned, near):
    before = openmm.XmlSerializer.serialize(learned.system)
    first = learned.archive.xyz.copy()
    generate(learned, targets=near[:1])
    assert openmm.XmlSerializer.serialize(learned.system) == before
    assert np.array_equal(learned.archive.xyz, first)


def test_same_seed_same_structures(learned, structures, near):
    again = generate(learned, 2, targets=near[:2])
    assert np.array_equal(again.positions, structures.positions[:2])
    assert np.array_equal(again.velocities, structures.velocities[:2])
    other = generate(learned, 1, targets=near[:1], seed=2)
    assert np.abs(other.positions[0] - structures.positions[0]).max() > 0.01


def test_the_seed_decides_the_targets(learned, monkeypatch):
    class Failing:
        def __init__(self, recipe):
            pass

        def __call__(self, task):
            if isinstance(task, PlainRun):
                return np.zeros(2), np.zeros((2, 2))
            return TargetResult([{"reason": "not tried"}], None)

    monkeypatch.setattr("latf_sampling.starts.batches.Worker", Failing)

    def targets(seed):
        with pytest.warns(UserWarning, match="0 of 5"):
            return [entry["target"] for entry in generate(learned, 5, seed=seed).rejected]

    assert targets(1) == targets(1) != targets(2)


def test_quantities_and_progress(learned, structures, near):
    seen = []
    again = generate(
        learned, 1, targets=near[:1], temperature=450.0 * openmm.unit.kelvin, thermalise=1.0 * openmm.unit.picosecond,
        timestep=4 * openmm.unit.femtosecond, progress=lambda fraction, words: seen.append((fraction, words)),
    )  # fmt: skip
    assert np.array_equal(again.positions, structures.positions[:1])
    assert seen[-1] == (1.0, "1 valid, 0 rejected")
    fractions = [fraction for fraction, _ in seen]
    # Two plain runs are half of the work on one structure, and each step of the way is told.
    assert fractions == sorted(fractions) and np.diff([0.0, *fractions]).max() < 0.25
    assert 0.3 < max(fraction for fraction, words in seen if "plain run" in words) < 0.95


def test_umbrella_is_the_posterior_of_the_encoder():
    """p(x|u, T) of pairs at a distance r is r^2 exp(-U(r)/kT - (r - u)^2 / 2 sigma^2), known in closed form."""
    sigma, target, kt = 0.05, 1.1, KB * 300.0
    topology, system, cv = pairs(3, f"0.5 * {kt / sigma**2} * (r - 1)^2")
    atoms = list(topology.atoms())
    for k in range(3):
        topology.addBond(atoms[2 * k], atoms[2 * k + 1])
    cv.noise = cv.metadata["noise"] = sigma
    x = np.zeros((1, 6, 3))
    x[0, :, 0], x[0, 1::2, 1] = np.repeat([0.0, 5.0, 10.0], 2), 1.0
    model = SimpleNamespace(sample=lambda n, temperature, seed: np.full((n, 3), target))
    result = generate_starts(
        model, cv, mdtraj.Trajectory(x, mdtraj.Topology.from_openmm(topology)), system, topology, 300.0, 50,
        timestep=0.01, friction=5.0, thermalise=1.0, platform="Reference", tolerance=6.0, release=0,
    )  # fmt: skip
    assert len(result) == 50
    r = np.linspace(0.8, 1.4, 2001)
    density = r**2 * np.exp(-((r - 1) ** 2 + (r - target) ** 2) / (2 * sigma**2))
    density /= density.sum()
    mean = density @ r
    deviation = np.sqrt(density @ (r - mean) ** 2)
    assert result.reached.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(150))
    assert result.reached.std() == pytest.approx(deviation, rel=4 / np.sqrt(300))


# ------------------------------------------------------------------------------------------------------------ chirality


def test_the_stereocenter_of_alanine():
    topology = mdtraj.Topology.from_openmm(alanine_topology())
    (row,) = stereocenters(topology)
    name = [atom.name for atom in topology.atoms]
    assert (topology.atom(row[0]).residue.name, name[row[0]]) == ("ALA", "CA")
    assert sorted(name[k] for k in row[1:]) == ["C", "CB", "HA", "N"]
    assert (np.diff(row[1:]) > 0).all()


def test_mirrored_positions_have_the_other_handedness():
    centers = stereocenters(mdtraj.Topology.from_openmm(alanine_topology()))
    reference = handedness(positions(), centers)
    # L: seen with the hydrogen towards the viewer, CO, R and N are clockwise ("CORN")
    at = {atom.name: positions()[atom.index] for atom in alanine().topology.atoms() if atom.residue.name == "ALA"}
    to = {name: at[name] - at["CA"] for name in ("C", "CB", "N", "HA")}
    assert np.cross(to["C"], to["CB"]) @ to["N"] > 0
    assert abs(reference[0]) == 1
    assert handedness(positions() * [-1, 1, 1], centers) == -reference
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert handedness(positions() @ turned, centers) == np.sign(np.linalg.det(turned)) * reference
    assert all(handedness(x, centers) == reference for x in frames(20))


def test_handedness_is_preserved(learned, structures):
    centers = stereocenters(mdtraj.Topology.from_openmm(learned.topology))
    assert (np.array([handedness(x, centers) for x in structures.positions]) == handedness(positions(), centers)).all()


def test_a_d_form_in_the_archive_stays_one(learned, near):
    centers = stereocenters(mdtraj.Topology.from_openmm(learned.topology))
    mirrored = learned.archive[[30]]
    mirrored.xyz = mirrored.xyz * np.array([-1, 1, 1], dtype=np.float32)
    target = learned.cv(mirrored.xyz.astype(float))
    result = generate(learned, 1, targets=target, archive=mirrored)
    assert handedness(result.positions[0], centers) == -handedness(positions(), centers)


def test_a_changed_handedness_is_rejected_with_its_atom(learned, near, monkeypatch):
    calls = []

    def flipping(x, centers, box):
        calls.append(x)
        return handedness(x, centers) * (-1) ** len(calls)

    monkeypatch.setattr("latf_sampling.systems.geometry.handedness", flipping)
    with pytest.warns(UserWarning, match="0 of 1"):
        result = generate(learned, 1, targets=near[:1], attempts=1, thermalise=0.5)
    (reason,) = result.rejected[0]["reasons"]
    assert reason.endswith("atom ALA2-CA changed its chirality")


# ------------------------------------------------------------------------------------------------------------- failures


def test_targets_that_cannot_be_reached_are_rejected_with_reasons(learned, near):
    far = (learned.cv.bounds[:, 1] + 3.0).astype(np.float32).tolist()
    with pytest.warns(UserWarning, match="1 of 2 structures at 450 K are valid") as warned:
        result = generate(learned, 2, targets=[far, near[0]], attempts=3, thermalise=0.5)
    assert result.requested == 2 and len(result) == 1
    assert result.targets == pytest.approx(near[:1], abs=1e-6)
    (entry,) = result.rejected
    assert entry["target"] == far
    assert len(entry["reasons"]) == 3
    assert all("sigma from the target, 4 are tolerated" in reason for reason in entry["reasons"])
    assert len({reason.split(":")[0] for reason in entry["reasons"]}) == 3  # from three frames
    message = " ".join(str(warning.message) for warning in warned)
    assert f"Target ({far[0]:.3g}, {far[1]:.3g}): from frame " in message


def test_a_tolerance_that_no_structure_meets(learned, near):
    with pytest.warns(UserWarning, match="0 of 1"):
        result = generate(learned, 1, targets=near[:1], attempts=1, tolerance=1e-9, thermalise=0.5)
    assert len(result) == 0
    assert result.positions.shape == result.velocities.shape == (0, 22, 3)
    assert result.targets.shape == result.reached.shape == (0, 2)


def test_a_system_that_always_explodes_is_refused_at_once(learned, near):
    stiff = openmm.XmlSerializer.clone(learned.system)
    force = openmm.CustomExternalForce("1e9 * x^2")  # oscillates within a fraction of a time step
    for atom in range(22):
        force.addParticle(atom)
    stiff.addForce(force)
    with pytest.raises(SimulationError, match="from none of 8 archived frames a plain simulation at 450 K goes on"):
        generate(learned, 2, targets=near[:2], attempts=2, system=stiff)


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_of_structures_below_one_is_refused(learned, n):
    with pytest.raises(SettingsError, match=f"n must be at least 1; got {n}"):
        generate(learned, n)


@pytest.mark.parametrize("temperature", [0.0, -5.0])
def test_a_temperature_not_above_zero_is_refused(learned, temperature):
    with pytest.raises(SettingsError, match="temperature: must be more than 0 K"):
        generate(learned, temperature=temperature)


def test_an_empty_archive_is_refused(learned):
    with pytest.raises(DataError, match="the archive holds no frame"):
        generate(learned, archive=learned.archive[:0])


def test_another_molecule_is_refused(learned):
    solvent = learned.archive.atom_slice(range(21))
    with pytest.raises(CVError, match="another topology"):
        generate(learned, archive=solvent)
    with pytest.raises(CVError, match="another topology"):
        generate(learned, topology=solvent.topology.to_openmm())


def test_a_topology_without_bonds_is_refused(learned):
    bare = app.Topology()
    chain = bare.addChain()
    for residue in learned.topology.residues():
        added = bare.addResidue(residue.name, chain)
        for atom in residue.atoms():
            bare.addAtom(atom.name, atom.element, added)
    with pytest.raises(DataError, match="no bonds"):
        generate(learned, topology=bare)


# -------------------------------------------------------------------------------------------------- pulled and released


def test_a_frame_that_is_not_on_the_target_is_pulled(learned, near):
    away = np.linalg.norm(learned.cv(learned.archive.xyz.astype(float)) - near[0], axis=1) / learned.cv.noise
    far = learned.archive[(away > 2) & (away < 5)]
    result = generate(learned, targets=near[:1], archive=far)
    assert len(result) == 1 and result.checks[0]["pulled"]
    assert result.checks[0]["held_distance"] < 4
    on_it = generate(learned, targets=near[:1])
    assert not on_it.checks[0]["pulled"]
    # the pulled structure is thermal, too
    low, high = result.thermal.energies
    assert low < result.energies[0] < high
    assert result.thermal.fluctuation.shape == (2,) and (result.thermal.fluctuation > 0).all()


def test_pulled_structures_do_not_depend_on_earlier_ones(learned, near):
    away = np.linalg.norm(learned.cv(learned.archive.xyz.astype(float)) - near[0], axis=1) / learned.cv.noise
    far = learned.archive[(away > 2) & (away < 5)]

    def at(points):
        return structures_at(
            learned.cv, far, learned.system, learned.topology, 450.0, points,
            timestep=0.004, thermalise=0.2, attempts=1, platform="Reference", tolerance=50.0,
        )  # fmt: skip

    first, second = at([near[0], near[0]]), at([near[1], near[0]])
    assert all(entry["pulled"] for entry in first.checks)
    assert np.array_equal(first.positions[-1], second.positions[-1])
    assert not np.array_equal(first.positions[0], first.positions[1])


def test_a_released_structure_has_moved_since_the_umbrella(learned, near):
    held, free = (generate(learned, targets=near[:1], release=time) for time in (0, 0.2))
    assert held.checks[0]["held"] == held.checks[0]["reached"] == free.checks[0]["held"]  # one run
    assert free.checks[0]["reached"] != free.checks[0]["held"]
    assert (held.thermal.fluctuation == 0).all()
    assert held.checks[0]["held_distance"] == pytest.approx(held.checks[0]["released_distance"])


def test_structures_of_exact_samples_are_exact_samples():
    """For targets u = r + sigma * noise with r of the Boltzmann distribution, released structures follow it again."""
    sigma, kt, rng = 0.05, KB * 300.0, np.random.default_rng(1)
    topology, system, cv = pairs(4, f"0.5 * {kt / sigma**2} * (r - 1)^2")
    atoms = list(topology.atoms())
    for k in range(4):
        topology.addBond(atoms[2 * k], atoms[2 * k + 1])
    cv.noise = cv.metadata["noise"] = sigma
    r = np.linspace(0.7, 1.4, 4001)
    density = r**2 * np.exp(-((r - 1) ** 2) / (2 * sigma**2))
    density /= density.sum()
    targets = rng.choice(r, (60, 4), p=density) + sigma * rng.normal(size=(60, 4))
    x = np.zeros((1, 8, 3))
    x[0, :, 0], x[0, 1::2, 1] = np.repeat([0.0, 5.0, 10.0, 15.0], 2), 1.0
    model = SimpleNamespace(sample=lambda n, temperature, seed: targets)
    result = generate_starts(
        model, cv, mdtraj.Trajectory(x, mdtraj.Topology.from_openmm(topology)), system, topology, 300.0, 60,
        timestep=0.01, friction=5.0, thermalise=1.0, release=0.3, platform="Reference", tolerance=7.0,
    )  # fmt: skip
    assert len(result) == 60
    mean = density @ r
    deviation = np.sqrt(density @ (r - mean) ** 2)
    assert result.reached.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(240))
    assert result.reached.std() == pytest.approx(deviation, rel=4 / np.sqrt(480))
    energies = 0.5 * kt * ((result.reached - 1) / sigma) ** 2
    assert result.energies == pytest.approx(energies.sum(1), rel=1e-6)


def test_extra_samples_replace_failed_ones(learned, near):
    far = (learned.cv.bounds[:, 1] + 3.0).tolist()
    result = generate(learned, 2, targets=[far, near[0], near[1], near[2]], extra_samples=2, attempts=1, thermalise=0.5)
    assert (len(result), result.requested, len(result.rejected)) == (2, 2, 1)
    assert [entry["number"] for entry in result.checks] == [1, 2]
    assert result.targets == pytest.approx(near[:2], abs=1e-6)


# ------------------------------------------------------------------------------------------------- points and paths


def test_structures_at_points(learned, near):
    result = structures_at(
        learned.cv, learned.archive, learned.system, learned.topology, 300.0, near[:2],
        timestep=0.004, thermalise=1.0, platform="Reference",
    )  # fmt: skip
    assert len(result) == 2 and result.coverage is None
    assert (result.weights == 1).all()
    assert np.linalg.norm(result.reached - near[:2], axis=1).max() < 4 * learned.cv.noise


def test_a_path_goes_from_state_to_state(learned, near):
    model, end = learned.model, near[2]
    state = likely_state(model, 600.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no structures on a path of a hardly trained model
        result = structures_between(
            model, learned.cv, learned.archive, learned.system, learned.topology, 600.0, (state, end), 3,
            timestep=0.004, thermalise=0.5, attempts=2, platform="Reference",
        )  # fmt: skip
    targets = {entry["number"]: entry["target"] for entry in result.rejected}
    targets |= {entry["number"]: result.targets[k] for k, entry in enumerate(result.checks)}
    assert sorted(targets) == [0, 1, 2]
    point = state_point(model, state, 600.0)
    assert targets[0] == pytest.approx(point, abs=1e-6)
    assert targets[2] == pytest.approx(end, abs=1e-6)
    assert model.networks.decoder(torch.as_tensor(point[None].astype(np.float32))).argmax() == state


@pytest.mark.parametrize(
    ("state", "words"), [(-1, "state must be at least 0; got -1"), (99, "the model has states 0 to .*; got 99")]
)
def test_unknown_states_are_refused(learned, state, words):
    with pytest.raises(SettingsError, match=words):
        state_point(learned.model, state, 300.0)


@pytest.mark.parametrize("points", [[[0.0, 1.0, 2.0]], [[np.nan, 0.0]], []])
def test_points_of_another_dimension_are_refused(learned, points):
    with pytest.raises(SettingsError, match=r"points must be finite numbers \(n, 2\)"):
        structures_at(learned.cv, learned.archive, learned.system, learned.topology, 300.0, points)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"extra_samples": -1}, "extra_samples must be at least 0; got -1"),
        ({"attempts": 0}, "attempts must be at least 1; got 0"),
        ({"processes": 0}, "processes must be at least 1; got 0"),
        ({"tolerance": 0}, "tolerance must be more than 0; got 0"),
        ({"thermalise": 0}, "thermalise must be more than 0 ps; got 0 ps"),
        ({"release": -0.1}, "release must not be negative; got -0.1 ps"),
        ({"structures": "gro"}, "structures are written as pdb or cif; got 'gro'"),
    ],
)
def test_impossible_settings_are_refused(learned, settings, words):
    with pytest.raises(SettingsError, match=words):
        generate(learned, **settings)


def test_a_temperature_may_have_a_unit_everywhere(learned, near):
    model, kelvin = learned.model, openmm.unit.kelvin
    state = likely_state(model, 600.0)
    assert np.array_equal(state_point(model, state, 600.0 * kelvin), state_point(model, state, 600.0))
    options = {"timestep": 0.004, "thermalise": 0.2, "attempts": 1, "tolerance": 50.0, "platform": "Reference"}
    source = (learned.cv, learned.archive, learned.system, learned.topology)
    with pytest.warns(ExtrapolationWarning, match="LaTF: 900 K is extrapolation"):
        path = structures_between(model, *source, 900.0 * kelvin, (near[0], near[1]), 2, **options)
    assert (path.temperature, path.settings["temperature"]) == (900.0, 900.0)
    temperatures = np.full(len(learned.archive), 300.0)
    one, other = (
        structures_at(*source, 0.6 * 500.0 * unit, near[:1], temperatures=temperatures * unit, **options)
        for unit in (kelvin, 1.0)
    )
    assert np.array_equal(one.positions, other.positions)
    with pytest.raises(SettingsError, match="starts: temperatures: .* is not a temperature"):
        structures_at(*source, 300.0, near[:1], temperatures=temperatures * openmm.unit.nanometer, **options)
    with pytest.raises(SettingsError, match="state .* has next to no weight at 300 K"):
        nowhere = copy.copy(model)
        nowhere.sample = lambda n, temperature, seed: np.zeros((n, 2))
        nowhere.state_probabilities = lambda u: np.eye(model.n_states)[np.zeros(len(u), int)]
        state_point(nowhere, 1, 300.0 * kelvin)


def test_temperatures_that_do_not_fit_are_refused(learned):
    with pytest.raises(DataError, match="one for each of 1 trajectories or 500 frames; got 3"):
        generate(learned, archive=learned.archive[:500], temperatures=[300.0, 400.0, 500.0])
