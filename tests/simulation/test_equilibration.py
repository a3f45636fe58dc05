"""Equilibration: stages that go on after an interruption, restraints that hold, volumes that all walkers share."""

import warnings
from dataclasses import replace

import numpy as np
import openmm
import pytest
from openmm import app, unit

from latf_sampling import Campaign, Protocol
from latf_sampling.campaign.executors import open_executor
from latf_sampling.core.arrays import read_npz
from latf_sampling.core.manifest import Manifest
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.records.verification import Verification
from latf_sampling.settings.system import SystemSettings
from latf_sampling.simulation import equilibration
from latf_sampling.simulation.equilibration import EquilibrationJob, equilibrate, stages
from latf_sampling.simulation.explosion import usual_timestep
from latf_sampling.systems import build
from latf_sampling.systems.named import named_structure

SHORT = {"heating": "0.2 ps", "release": "0.5 ps", "length": "1 ps"}


def protocol(system, equilibrate_, **changes) -> Protocol:
    content = {
        "name": "test",
        "seed": 3,
        "system": system,
        "integrator": {"timestep": "10 fs"},
        "frame_interval": "0.1 ps",
        "segment": "2 ps",
        "features": [{"distances": {"pairs": [[0, 1]]}}],
        "learning": {"lag": "0.1 ps"},
        "rounds": [{"walkers": ["200 K", "300 K", "200 K"], "length": "2 ps"}],
        "equilibrate": equilibrate_,
    }
    return Protocol(**{**content, **changes})


def job(tmp_path, settings: Protocol, **options) -> EquilibrationJob:
    folder = tmp_path / "system"
    if not folder.exists():
        build(settings.system).save(folder, "test")
    return EquilibrationJob(settings, tmp_path / "200K-0", folder, 200.0, 0, **options)


def fluid(tmp_path, **options) -> EquilibrationJob:
    return job(tmp_path, protocol({"name": "wca-dimer", "platform": "Reference"}, SHORT), **options)


def test_true_takes_the_defaults_and_the_rest_is_refused():
    assert protocol({"name": "wca-dimer"}, True).equilibrate.heating == 50.0
    assert protocol({"name": "wca-dimer"}, False).equilibrate is None
    assert protocol({"name": "wca-dimer"}, None).equilibrate is None
    with pytest.raises(SettingsError, match="heating"):
        protocol({"name": "wca-dimer"}, {"heating": "3 K"})
    with pytest.raises(SettingsError, match=r"equilibrate.pressure: the system has a barostat"):
        protocol({"name": "wca-dimer", "barostat": {"pressure": "2000 bar"}}, {"pressure": "1 bar"})


def test_an_interrupted_equilibration_goes_on_to_the_same_bits(tmp_path):
    whole = fluid(tmp_path / "a")
    equilibrate(whole)
    told = []

    def stop(share, words):
        told.append((share, words))
        if words == "release-3":
            raise KeyboardInterrupt

    part = replace(fluid(tmp_path / "b"), directory=tmp_path / "b" / "200K-0")
    with pytest.raises(KeyboardInterrupt):
        equilibrate(part, stop)
    assert not part.is_finished and (part.directory / "stage-2.json").exists()
    kept = (part.directory / "stage-2.npz").stat().st_mtime_ns
    equilibrate(part)
    assert (part.directory / "stage-2.npz").stat().st_mtime_ns == kept
    for name, values in read_npz(whole.start).items():
        np.testing.assert_array_equal(values, read_npz(part.start)[name])
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[0][1] in ("minimization", "heating") and 0 < told[0][0] < 0.9  # what is minimized has its share


def test_pressure_finds_a_volume_that_the_last_stage_keeps(tmp_path):
    pressed = fluid(tmp_path, pressure=2000.0)
    assert [stage.name for stage in stages(pressed)][-2:] == ["free", "mean-volume"]
    equilibrate(pressed)
    content = Manifest.load(pressed.marker).verified().content
    assert content["volume"] == pytest.approx(content["stages"]["free"]["volume"], rel=1e-9)
    before = np.linalg.det(np.array(read_npz(pressed.directory / "stage-0.npz")["box"]))
    assert content["volume"] != pytest.approx(before, rel=1e-3)
    assert content["stages"]["heating"]["volume"] == pytest.approx(before)
    given = replace(fluid(tmp_path, volume=before * 1.02), directory=tmp_path / "given")
    equilibrate(given)
    assert np.linalg.det(read_npz(given.start)["box"]) == pytest.approx(before * 1.02)


def test_restraints_hold_the_heavy_atoms_of_the_solute(tmp_path):
    system = {"name": "alanine-dipeptide", "platform": "Reference"}
    settings = protocol(system, {**SHORT, "stiffness": "100000 kJ/mol/nm^2"}, integrator={"timestep": "1 fs"})
    restrained = job(tmp_path, settings)
    equilibrate(restrained)
    molecule = build(SystemSettings(name="alanine-dipeptide"))
    heavy = [atom.index for atom in molecule.topology.atoms() if atom.element.symbol != "H"]

    def away(stage):
        positions = read_npz(restrained.directory / f"stage-{stage}.npz")["positions"]
        return np.linalg.norm(positions - molecule.positions, axis=1)[heavy].max()

    assert away(0) < 0.05 < away(6)  # after heating, and at the end of the dynamics without restraints


def test_an_explosion_names_the_stage(tmp_path):
    settings = protocol({"name": "alanine-dipeptide", "platform": "Reference"}, SHORT)  # with steps of 10 fs
    with pytest.raises(SimulationError, match=r"equilibration at 200 K .* stage heating .*fs"):
        equilibrate(job(tmp_path, settings))
    assert not list(tmp_path.glob("200K-0/*.npz"))


def test_what_drifts_or_is_thin_is_said():
    quiet = {"energy_drift": 0.2, "volume_drift": 0.1, "density": 700.0}
    settings = protocol({"name": "wca-dimer"}, SHORT)
    made = EquilibrationJob(settings, equilibration.Path("200K-0"), equilibration.Path("system"), 200.0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equilibration, "_water", lambda job: 0.9)
        assert "700 kg/m^3 is too thin; give equilibrate.pressure" in next(
            equilibration._remarks(made, {"free": quiet})
        )
        drifting = {**quiet, "density": 1000.0, "energy_drift": 3.0}
        assert "the energy still drifted" in next(equilibration._remarks(made, {"free": drifting}))
        assert not list(equilibration._remarks(made, {"free": {**quiet, "density": 1000.0}}))
    assert equilibration._drift(np.arange(100.0)) > 1.7
    assert equilibration._drift(np.random.default_rng(0).normal(size=100)) < 1


def test_walkers_of_a_campaign_start_from_it_and_its_frames_do_not_count(tmp_path):
    learning = {"lag": "0.1 ps", "refinements": 1, "refinement_epochs": 1, "joint_epochs": 0, "flow_epochs": 1}
    settings = protocol(
        {"name": "wca-dimer", "platform": "Reference"},
        {**SHORT, "pressure": "2000 bar"},
        learning={**learning, "ensemble": 0},
    )
    campaign, steps = Campaign(settings, tmp_path / "run"), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_executor(campaign.records, None) as executor, campaign.directory.acquire(settings):
            campaign._store_molecule()
            campaign._simulate(0, executor, lambda step, share, words: steps.append(step))
    assert list(dict.fromkeys(steps)) == ["round 0: equilibrate", "round 0: simulate"]
    folders = sorted(path.name for path in campaign.directory.equilibration.iterdir() if path.name != "running")
    assert folders == ["200K-0", "300K-0"]
    volumes = [Manifest.load(path).content["volume"] for path in campaign.directory.equilibration.glob("*/equil*.json")]
    assert volumes[0] == pytest.approx(volumes[1], rel=1e-9)  # of which MBAR over temperatures makes use
    frames = campaign.frames(0)
    assert [len(walker) for walker in frames] == [20, 20, 20]
    for walker in frames:
        np.testing.assert_allclose(walker.trajectory.unitcell_volumes, volumes[0], rtol=1e-4)
    damaged = [finding.path.name for finding in Verification.of(tmp_path / "run").findings]
    assert damaged == ["ledger.sqlite"]  # which only a complete run makes
    file = campaign.directory.equilibration / "300K-0" / "equilibrated.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert any(finding.path == file for finding in Verification.of(tmp_path / "run").findings)


def test_rigid_water_leaves_the_time_step_of_heavy_hydrogens():
    field = app.ForceField("amber14/protein.ff14SB.xml", "amber14/tip3p.xml")
    structure = named_structure("alanine-dipeptide", None, 0)
    modeller = app.Modeller(structure.topology, structure.positions)
    modeller.addSolvent(field, numAdded=5)
    heavy = {"constraints": app.HBonds, "hydrogenMass": 3 * unit.amu}
    assert usual_timestep(field.createSystem(modeller.topology, **heavy), modeller.topology)[0] == 4.0
    flexible = field.createSystem(modeller.topology, rigidWater=False, **heavy)
    assert usual_timestep(flexible, modeller.topology)[0] == 4.0  # OpenMM makes these hydrogens heavy too
    light = field.createSystem(modeller.topology, constraints=app.HBonds)
    assert usual_timestep(light, modeller.topology)[0] == 2.0
    modeller.delete([next(modeller.topology.chains())])
    water = field.createSystem(modeller.topology)
    assert usual_timestep(water, modeller.topology) == (4.0, "rigid water")


def test_particles_keep_their_molecules_when_the_box_is_scaled(tmp_path):
    made = fluid(tmp_path)
    molecule = build(SystemSettings(name="wca-dimer"))
    box = np.array([vector._value for vector in molecule.system.getDefaultPeriodicBoxVectors()])
    scaled = equilibration._with_volume(made, {"positions": molecule.positions, "box": box}, 8 * np.linalg.det(box))
    np.testing.assert_allclose(scaled["box"], 2 * box)
    first = molecule.positions[1] - molecule.positions[0]
    np.testing.assert_allclose(scaled["positions"][1] - scaled["positions"][0], first, atol=1e-12)  # the dimer's bond
    np.testing.assert_allclose(scaled["positions"][2:], 2 * molecule.positions[2:])
    assert openmm.version.version
