"""A protocol is valid, or it is refused with every key that is at fault."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml
from openmm import unit

from latf_sampling.errors import SettingsError
from latf_sampling.settings import (
    IntegratorSettings,
    LearningSettings,
    MetadynamicsSettings,
    ModelSettings,
    ObserveSettings,
    Protocol,
    RoundSettings,
    StartsSettings,
    SystemSettings,
    TrainingSettings,
    steps,
)
from latf_sampling.settings.fields import Settings

STRUCTURE = Path(__file__).parents[2] / "protocols" / "alanine-dipeptide.pdb"
VALID = """
name: alanine dipeptide
seed: 7
system:
  structure: alanine-dipeptide.pdb
  force_field: [amber14-all.xml]
  nonbonded: cutoff
  cutoff: 12 angstrom
  hydrogen_mass: 3 amu
integrator: {timestep: 4 fs, friction: 1 / ps}
frame_interval: 100 fs
segment: 10 ps
features:
  - torsions: phi psi
model: {latent_dim: 2, reference_temperature: 300 K}
learning: {lag: 1 ps, flow_epochs: 5}
rounds:
  - {walkers: [300 K, 500 K], length: 20 ps}
  - walkers: [300 K, 300 K]
    length: 0.02 ns
    bias: {bias_factor: 8, height: 0.25 kcal/mol, interval: 200 fs}
starts: {temperature: 127 degC, count: 4}
observe: {torsion: phi ALA 2, above: 90 degree, reference: reference.json}
"""
REMOVED = object()


def write(folder: Path, **changes) -> Path:
    """The valid protocol with changes by dotted path, `rounds.1.bias` for an entry of a list."""
    data = yaml.safe_load(VALID)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        entry = data
        for part in parents:
            entry = entry[part]
        if value is REMOVED:
            del entry[last]
        else:
            entry[last] = copy.deepcopy(value)
    folder.mkdir(exist_ok=True)
    shutil.copy(STRUCTURE, folder)
    (folder / "reference.json").write_text('{"value": 1.5}')
    protocol = folder / "protocol.yaml"
    protocol.write_text(yaml.safe_dump(data))
    return protocol


def refusal(folder: Path, **changes) -> str:
    with pytest.raises(SettingsError) as refused:
        Protocol.load(write(folder, **changes))
    return str(refused.value)


def test_a_valid_protocol_in_internal_units(tmp_path):
    protocol = Protocol.load(write(tmp_path))
    assert protocol.system.structure == (tmp_path / "alanine-dipeptide.pdb").resolve()
    assert protocol.observe.reference == (tmp_path / "reference.json").resolve()
    assert protocol.system.cutoff == 1.2
    assert protocol.system.hydrogen_mass == 3.0
    assert protocol.integrator.timestep == 0.004
    assert protocol.frame_interval == 0.1
    assert protocol.segment == 10.0
    assert protocol.model.reference_temperature == 300.0
    assert (protocol.learning.lag, protocol.learning.flow_epochs) == (1.0, 5)
    assert protocol.rounds[0].walkers == (300.0, 500.0)
    assert protocol.rounds[0].bias is None
    assert protocol.rounds[1].length == 20.0
    assert protocol.rounds[1].bias.height == pytest.approx(1.046, rel=1e-12)
    assert protocol.starts.temperature == 400.15
    assert protocol.observe.above == pytest.approx(1.5707963267948966, rel=1e-11)


def test_optional_stages_may_be_absent(tmp_path):
    protocol = Protocol.load(write(tmp_path, starts=REMOVED, observe=REMOVED, model=REMOVED, integrator=REMOVED))
    assert (protocol.starts, protocol.observe) == (None, None)
    assert protocol.model == ModelSettings()
    assert protocol.integrator.timestep == 0.002


FAULTS = [
    # unknown keys, on every level
    ({"sed": 1}, "sed", "no such key"),
    ({"system.forcefield": "x"}, "system.forcefield", "no such key"),
    ({"integrator.time_step": "2 fs"}, "integrator.time_step", "no such key"),
    ({"model.latent_dims": 2}, "model.latent_dims", "no such key"),
    ({"learning.epochs": 2}, "learning.epochs", "no such key"),
    ({"rounds.0.lenght": "1 ps"}, "rounds[0].lenght", "no such key"),
    ({"rounds.1.bias.sigma": 1}, "rounds[1].bias.sigma", "no such key"),
    ({"starts.number": 1}, "starts.number", "no such key"),
    ({"observe.below": "1 rad"}, "observe.below", "no such key"),
    # missing keys
    ({"name": REMOVED}, "name", "missing"),
    ({"system": REMOVED}, "system", "missing"),
    ({"system.structure": REMOVED}, "system.structure", "missing"),
    ({"learning.lag": REMOVED}, "learning.lag", "missing"),
    ({"rounds.0.walkers": REMOVED}, "rounds[0].walkers", "missing"),
    ({"rounds.1.bias.height": REMOVED}, "rounds[1].bias.height", "missing"),
    # no unit
    ({"integrator.timestep": 0.004}, "integrator.timestep", "has no unit"),
    ({"integrator.friction": 1}, "integrator.friction", "has no unit"),
    ({"frame_interval": "100"}, "frame_interval", "has no unit"),
    ({"system.cutoff": 1.2}, "system.cutoff", "has no unit"),
    ({"system.hydrogen_mass": 3}, "system.hydrogen_mass", "has no unit"),
    ({"model.reference_temperature": 300}, "model.reference_temperature", "has no unit"),
    ({"learning.lag": 1.0}, "learning.lag", "has no unit"),
    ({"rounds.0.walkers": ["300 K", 400]}, "rounds[0].walkers[1]", "has no unit"),
    ({"rounds.0.length": 20}, "rounds[0].length", "has no unit"),
    ({"rounds.1.bias.height": 1.0}, "rounds[1].bias.height", "has no unit"),
    ({"starts.temperature": 400}, "starts.temperature", "has no unit"),
    ({"observe.above": 90}, "observe.above", "has no unit"),
    ({"observe.torsion": REMOVED}, "observe.torsion", "this key is missing"),
    ({"observe.descriptor": {"distances": "name CA"}}, "observe.torsion", "give one of them"),
    ({"observe": {"descriptor": {"distances": "name CA"}}}, "observe.above", "this key is missing"),
    ({"observe": {"descriptor": "distances", "above": "1 nm"}}, "observe.descriptor", "dictionary"),
    (
        {"observe": {"descriptor": {"rmsd": {"of": "all", "reference": "elsewhere.pdb"}}, "above": "1 nm"}},
        "observe.descriptor.rmsd.reference",
        "there is no file",
    ),
    # another dimension
    ({"integrator.timestep": "4 K"}, "integrator.timestep", "is not a time"),
    ({"rounds.1.bias.height": "1 kJ"}, "rounds[1].bias.height", "is not an energy"),
    ({"rounds.0.walkers": ["300 ps"]}, "rounds[0].walkers[0]", "is not a temperature"),
    ({"rounds.0.walkers": ["27 C"]}, "rounds[0].walkers[0]", "is not a temperature; write it in kelvin, like"),
    ({"system.cutoff": "1 ps"}, "system.cutoff", "is not a length"),
    # out of range
    ({"rounds.0.walkers": ["-300 K"]}, "rounds[0].walkers[0]", "more than 0"),
    ({"model.reference_temperature": "0 K"}, "model.reference_temperature", "more than 0"),
    ({"integrator.timestep": "-2 fs"}, "integrator.timestep", "more than 0"),
    ({"integrator.timestep": "nan fs"}, "integrator.timestep", "not finite"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"model.latent_dim": 0}, "model.latent_dim", "greater than or equal to 1"),
    ({"model.beta": float("inf")}, "model.beta", "finite"),
    ({"model.encoder_hidden": [32, 0]}, "model.encoder_hidden[1]", "greater than 0"),
    ({"rounds.1.bias.bias_factor": 1}, "rounds[1].bias.bias_factor", "greater than 1"),
    ({"learning.validation_fraction": 1.0}, "learning.validation_fraction", "less than 0.9"),
    ({"rounds": []}, "rounds", "give at least one"),
    ({"rounds.0.walkers": []}, "rounds[0].walkers", "at least 1 item"),
    ({"features": []}, "features", "at least 1 item"),
    ({"starts.count": 0}, "starts.count", "greater than or equal to 1"),
    # not one of the words
    ({"system.nonbonded": "Ewald"}, "system.nonbonded", "'PME'"),
    ({"model.flow": "glow"}, "model.flow", "'realnvp'"),
    ({"rounds.1.bias.kind": "ones"}, "rounds[1].bias.kind", "'metadynamics'"),
    ({"rounds.1.bias.stride": 0}, "rounds[1].bias.stride", "greater than or equal to 1"),
    ({"rounds.1.bias.trust": {"on_leaving": "go"}}, "rounds[1].bias.trust.on_leaving", "'hold'"),
    # files
    ({"system.structure": "elsewhere.pdb"}, "system.structure", "elsewhere.pdb"),
    ({"observe.reference": "elsewhere.json"}, "observe.reference", "elsewhere.json"),
    ({"system.structure": "."}, "system.structure", "there is no file"),
    # keys that do not fit together
    ({"system.nonbonded": "no cutoff"}, "system.cutoff", "takes none"),
    ({"system.cutoff": REMOVED}, "system.cutoff", "needs one"),
    ({"system.nonbonded": "PME", "system.cutoff": REMOVED}, "system.cutoff", "needs one"),
    (
        {
            "rounds.0.bias": {"bias_factor": 8, "height": "1 kJ/mol", "interval": "200 fs"},
            "rounds.0.walkers": ["300 K"],
        },
        "rounds[0].bias",
        "the first round",
    ),
    ({"rounds.1.exchange": {"interval": "1 ps"}}, "rounds[1].exchange", "all walkers are at"),
    (
        {"rounds.1.bias": {"kind": "opes", "barrier": "2 kJ/mol", "interval": "1 ps"}},
        "rounds[1].bias.barrier",
        "not more than kT = 2.49 kJ/mol of the hottest walker",
    ),
    (
        {"rounds.1.walkers": ["300 K", "310 K"], "rounds.1.exchange": {"interval": "250 fs"}},
        "rounds[1].exchange.interval",
        "not a multiple of frame_interval",
    ),
    (
        {"rounds.1.walkers": ["300 K", "310 K"], "rounds.1.exchange": {"interval": "20 ps"}},
        "rounds[1].exchange.interval",
        "not shorter than the round",
    ),
    (
        {
            "rounds.1.walkers": ["300 K", "310 K"],
            "rounds.1.exchange": {"interval": "1 ps"},
            "rounds.1.bias": {"kind": "opes", "barrier": "30 kJ/mol", "interval": "200 fs", "width": "adaptive"},
        },
        "rounds[1].bias.width",
        "which an exchange is no part of",
    ),
    ({"frame_interval": "50 fs"}, "frame_interval", "not a multiple of integrator.timestep"),
    ({"frame_interval": "1 fs"}, "frame_interval", "not a multiple of integrator.timestep"),
    (
        {"segment": "10.05 ps", "rounds.0.length": "20.1 ps", "rounds.1.length": "20.1 ps"},
        "segment",
        "not a multiple of frame_interval",
    ),
    ({"learning.lag": "250 fs"}, "learning.lag", "not a multiple of frame_interval"),
    ({"learning.lag": "50 fs"}, "learning.lag", "not a multiple of frame_interval"),
    ({"learning.lag": "20 ps"}, "learning.lag", "as long as a walker's whole trajectory"),
    ({"learning.lag": "1 ns"}, "learning.lag", "as long as a walker's whole trajectory"),
    ({"rounds.0.length": "5 ps"}, "rounds[0].length", "not a multiple of segment"),
    ({"rounds.1.length": "25 ps"}, "rounds[1].length", "not a multiple of segment"),
    ({"rounds.1.bias.interval": "201 fs"}, "rounds[1].bias.interval", "not a multiple of integrator.timestep"),
]


@pytest.mark.parametrize(("changes", "key", "why"), FAULTS, ids=lambda part: part if isinstance(part, str) else "")
def test_one_fault_is_refused_with_its_key(tmp_path, changes, key, why):
    message = refusal(tmp_path, **changes)
    lines = message.splitlines()
    assert len(lines) == 1, message
    assert lines[0].startswith(f"{tmp_path / 'protocol.yaml'}: {key}: ")
    assert why in lines[0]


def test_all_faults_at_once(tmp_path):
    changes = {
        "color": "red",
        "system.structure": "elsewhere.pdb",
        "integrator.timestep": 2,
        "learning.lag": REMOVED,
        "rounds.0.walkers": ["300 K", "-1 K"],
        "rounds.1.bias.height": "1 nm",
        "observe.reference": "elsewhere.json",
    }
    message = refusal(tmp_path, **changes)
    keys = {line.split(": ")[1] for line in message.splitlines()}
    assert keys == {
        "color",
        "system.structure",
        "integrator.timestep",
        "learning.lag",
        "rounds[0].walkers[1]",
        "rounds[1].bias.height",
        "observe.reference",
    }


def test_all_that_does_not_fit_together_at_once(tmp_path):
    changes = {"learning.lag": "250 fs", "segment": "10.05 ps", "rounds.1.bias.interval": "201 fs"}
    message = refusal(tmp_path, **changes)
    assert {line.split(": ")[1] for line in message.splitlines()} == {
        "learning.lag",
        "segment",
        "rounds[0].length",  # 20 ps are no multiple of the changed segment
        "rounds[1].length",
        "rounds[1].bias.interval",
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name: [unclosed", "not a YAML file"),
        (b"\tname: tab", "not a YAML file"),
        (b"name: \xff\xfe", "not a YAML file"),
        (b"- a\n- b\n", "got list"),
        (b"", "the file is empty"),
        (b"!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_not_a_protocol_at_all(tmp_path, content, why):
    path = tmp_path / "protocol.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        Protocol.load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert why in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_protocol(tmp_path):
    with pytest.raises(SettingsError, match="nowhere.yaml: cannot be read"):
        Protocol.load(tmp_path / "nowhere.yaml")
    with pytest.raises(SettingsError, match="cannot be read as a protocol, since it is a directory; give a YAML file"):
        Protocol.load(tmp_path)


def test_relative_files_are_next_to_the_protocol_whatever_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path / "campaign")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    protocol = Protocol.load("../campaign/protocol.yaml")
    assert protocol.system.structure == (tmp_path / "campaign" / "alanine-dipeptide.pdb").resolve()


def test_frozen(tmp_path):
    protocol = Protocol.load(write(tmp_path))
    for model, key, value in [
        (protocol, "seed", 8),
        (protocol.integrator, "timestep", 0.001),
        (protocol.rounds[1].bias, "bias_factor", 20.0),
    ]:
        with pytest.raises(SettingsError, match="settings are not changed; make new ones"):
            setattr(model, key, value)


def test_from_python_with_floats_quantities_and_nested_dictionaries():
    assert IntegratorSettings(timestep=4 * unit.femtosecond).timestep == pytest.approx(0.004)
    assert IntegratorSettings(timestep=0.004, friction="2 / ps").friction == 2.0
    assert RoundSettings(walkers=[300, 310 * unit.kelvin], length=5.0).walkers == (300.0, 310.0)
    biased = RoundSettings(walkers=[300], length=5.0, bias={"bias_factor": 5, "height": 1.0, "interval": 0.1})
    assert biased.bias == MetadynamicsSettings(bias_factor=5, height=1.0, interval=0.1)


@pytest.mark.parametrize(
    ("model", "data", "key"),
    [
        (ModelSettings, {"latent_dims": 2}, "latent_dims"),
        (ModelSettings, {"reference_temperature": -1}, "reference_temperature"),
        (ModelSettings, {"reference_temperature": 1 * unit.nanometer}, "reference_temperature"),
        (TrainingSettings, {"batch_size": 1}, "batch_size"),
        (TrainingSettings, {"learning_rate": float("nan")}, "learning_rate"),
        (TrainingSettings, {"encoder_decay": 500.0}, "encoder_decay"),
        (LearningSettings, {}, "lag"),
        (StartsSettings, {"temperature": 300, "count": 0}, "count"),
        (ObserveSettings, {}, "torsion"),
        (SystemSettings, {"structure": "a.pdb", "force_field": ["b.xml"], "cutoff": 1.0}, "cutoff"),
        (
            RoundSettings,
            {"walkers": [300], "length": 1.0, "bias": {"height": 1.0, "interval": 1.0}},
            "bias.bias_factor",
        ),
    ],
)
def test_from_python_refused_with_the_key(model, data, key):
    with pytest.raises(SettingsError) as refused:
        model(**data)
    assert str(refused.value).startswith(f"{model.__name__}: {key}: ")


def test_every_settings_class_refuses_unknown_keys_and_changes():
    classes, models = [Settings], []
    while classes:
        models.append(classes.pop())
        classes += models[-1].__subclasses__()
    assert len(models) >= 11
    for model in models:
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"


def test_canonical_does_not_depend_on_the_place_or_the_wording(tmp_path):
    first = Protocol.load(write(tmp_path / "first"))
    other = Protocol.load(write(tmp_path / "other", **{"integrator.timestep": "0.004 ps", "system.cutoff": "1.2 nm"}))
    assert first.system.structure != other.system.structure
    assert first.canonical() == other.canonical()
    assert str(tmp_path) not in first.canonical()
    assert first.canonical() == Protocol.load(tmp_path / "first" / "protocol.yaml").canonical()


@pytest.mark.parametrize("file", ["alanine-dipeptide.pdb", "reference.json"])
def test_canonical_follows_the_contents_of_files(tmp_path, file):
    protocol = Protocol.load(write(tmp_path))
    before = protocol.canonical()
    with open(tmp_path / file, "a") as handle:
        handle.write("\n")
    assert protocol.canonical() != before


def test_canonical_is_json_that_follows_every_key(tmp_path):
    content = json.loads(Protocol.load(write(tmp_path)).canonical())
    assert content["system"]["structure"]["name"] == "alanine-dipeptide.pdb"
    assert len(content["system"]["structure"]["sha256"]) == 64
    assert content["rounds"][1]["bias"]["height"] == pytest.approx(1.046)
    changed = json.loads(Protocol.load(write(tmp_path, **{"learning.patience": 9, "seed": 8})).canonical())
    assert changed["learning"].pop("patience") == 9
    assert changed.pop("seed") == 8
    del content["learning"]["patience"], content["seed"]
    assert changed == content


def test_restored_from_canonical_text_and_copies_of_the_files(tmp_path):
    protocol = Protocol.load(write(tmp_path / "here"))
    copies = tmp_path / "copies"
    copies.mkdir()
    for file in protocol.files:
        shutil.copy(file, copies)
    text = protocol.canonical()
    shutil.rmtree(tmp_path / "here")
    content = json.loads(text)
    restored = Protocol.restore(content, copies)
    assert restored.canonical() == text
    assert restored.system.structure == (copies / "alanine-dipeptide.pdb").resolve()
    assert content == json.loads(text)  # what was read is not changed
    (copies / "reference.json").unlink()
    with pytest.raises(SettingsError, match="observe.reference: there is no file"):
        Protocol.restore(content, copies)


def test_files_of_an_observed_descriptor_are_kept_like_all_others(tmp_path):
    rmsd = {"rmsd": {"of": "all", "reference": "alanine-dipeptide.pdb"}}
    protocol = Protocol.load(write(tmp_path / "here", observe={"descriptor": rmsd, "above": "0.1 nm"}))
    path = (tmp_path / "here" / "alanine-dipeptide.pdb").resolve()
    assert protocol.observe.descriptor["rmsd"]["reference"] == str(path)
    content = json.loads(protocol.canonical())
    assert content["observe"]["descriptor"]["rmsd"]["reference"]["name"] == "alanine-dipeptide.pdb"
    assert content["observe"]["above"] == "0.1 nm"
    restored = Protocol.restore(content, tmp_path / "here")
    assert restored.observe == protocol.observe


def test_canonical_without_the_file_names_the_key(tmp_path):
    protocol = Protocol.load(write(tmp_path))
    (tmp_path / "alanine-dipeptide.pdb").unlink()
    with pytest.raises(SettingsError, match="system.structure: .*alanine-dipeptide.pdb cannot be read"):
        protocol.canonical()


@pytest.mark.parametrize(
    ("time", "step", "count"),
    [
        (10.0, 0.002, 5000),
        (0.1, 0.1, 1),
        (1e6, 0.004, 250_000_000),
        (0.3, 0.1, 3),
        (0.05, 0.1, None),
        (0.25, 0.1, None),
    ],
)
def test_steps(time, step, count):
    assert steps(time, step) == count


def test_each_kind_of_bias(tmp_path):
    """The kind decides which keys exist; the default is metadynamics, and each fault is named by its key."""
    kinds = {
        "metadynamics": {"bias_factor": 8, "height": "1 kJ/mol", "width": "adaptive", "start": "flow"},
        "opes": {"barrier": "40 kJ/mol"},
        "flow": {"bias_factor": 8, "trust": {"threshold": 25, "on_leaving": "stop"}},
    }
    for kind, keys in kinds.items():
        settings = RoundSettings(walkers=[300.0], length=10.0, bias={"kind": kind, "interval": 1.0, **keys})
        assert settings.bias.kind == kind and (settings.bias.stride, settings.bias.backend) == (1, "auto")
        assert RoundSettings.model_validate(settings.model_dump()) == settings
    with pytest.raises(SettingsError, match=r"bias\.barrier: this key is missing"):
        RoundSettings(walkers=[300.0], length=10.0, bias={"kind": "opes", "interval": 1.0})
    for keys, message in (
        ({"bias_factor": "inf", "explore": True}, r"bias\.bias_factor: explore needs a finite one; got 'inf'"),
        (
            {"bias_factor": float("inf"), "width": "adaptive"},
            r"bias\.bias_factor: an adaptive width needs a finite one",
        ),
        ({"bias_factor": "infinite"}, r"bias\.bias_factor"),
        ({"narrowest": 1.5}, r"bias\.narrowest.*1"),
        ({"width": "wide"}, r"bias\.width"),
    ):
        with pytest.raises(SettingsError, match=message):
            bias = {"kind": "opes", "barrier": 40.0, "interval": 1.0, **keys}
            RoundSettings(walkers=[300.0], length=10.0, bias=bias)
    uniform = {"kind": "opes", "barrier": 40.0, "interval": 1.0, "bias_factor": float("inf")}
    settings = RoundSettings(walkers=[300.0], length=10.0, bias=uniform)
    assert settings.bias.bias_factor == "inf" and "Infinity" not in settings.model_dump_json()
    with pytest.raises(SettingsError, match=r"bias\.width"):
        bias = {"bias_factor": 8.0, "height": 1.0, "interval": 1.0, "width": "wide"}
        RoundSettings(walkers=[300.0], length=10.0, bias=bias)
