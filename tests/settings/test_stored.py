"""What a campaign has stored is compared by what it means, and read from its own folder alone."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.molecules import TINY

from latf_sampling import __version__
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import LatfError, RepairWarning, SettingsError, StoreError
from latf_sampling.settings import Protocol, SystemSettings
from latf_sampling.settings.stored import RENAMED, same_molecule

FOLDER = Path(__file__).parents[2] / "protocols"


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("alanine-dipeptide.yaml", "alanine-dipeptide.pdb", "reference_alanine.json"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def stored(folder: Path) -> dict:
    return json.loads(Protocol.load(folder / "alanine-dipeptide.yaml").canonical())


def differences(folder: Path, content: dict, **text: str) -> list[str]:
    """Differences of the protocol, with texts in it replaced, from a stored one."""
    file = folder / "alanine-dipeptide.yaml"
    words = file.read_text()
    for old, new in text.items():
        assert old in words
        words = words.replace(old, new)
    (folder / "changed.yaml").write_text(words)
    return Protocol.load(folder / "changed.yaml").differences(content)


def without(content: dict, *keys: str) -> dict:
    content = copy.deepcopy(content)
    for key in keys:
        *parents, last = key.split(".")
        entry = content
        for part in parents:
            entry = entry[int(part) if part.isdigit() else part]
        del entry[last]
    return content


def test_the_version_is_stored_and_no_difference(folder):
    content = stored(folder)
    assert content["version"] == __version__
    assert differences(folder, content) == []
    assert differences(folder, {**content, "version": "0.1.7"}) == []
    assert differences(folder, without(content, "version")) == []


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("name: alanine dipeptide", "name: another", []),
        ("platform: Reference", "platform: CPU", []),
        ("# Plain dynamics.", "# A comment.", []),
        ("seed: 1", "seed: 2", ["seed"]),
        ("timestep: 4 fs", "timestep: 2 fs", ["integrator.timestep"]),
        ("height: 1 kJ/mol", "height: 2 kJ/mol", ["rounds[1].bias.height", "rounds[2].bias.height"]),
        ("element != H", "name CA", ["features[0].distances"]),
        ("model:", "model:\n  latent_dim: 1", ["model.latent_dim"]),
        ("length: 8 ns", "length: 9 ns", ["rounds[0].length"]),
        ("count: 16", "count: 17", ["starts.count"]),
    ],
)
def test_what_is_a_difference(folder, old, new, keys):
    assert differences(folder, stored(folder), **{old: new}) == keys


def test_keys_that_an_earlier_version_called_otherwise(folder):
    for (section, old), new in RENAMED.items():
        content = stored(folder)
        content[section][old] = content[section].pop(new)
        earlier = {**content, "version": "0.1.0"}
        assert differences(folder, earlier) == []
        assert Protocol.restore(earlier, folder).differences(stored(folder)) == []


def test_keys_that_an_earlier_version_lacked_are_their_defaults(folder):
    content = stored(folder)
    old = without(content, "model.flow_bins", "rounds.1.bias.stride", "rounds.1.restart", "system.barostat", "evaluate")
    assert differences(folder, old) == []
    assert differences(folder, old, **{"model:": "model:\n  flow_bins: 4"}) == ["model.flow_bins"]
    assert differences(folder, without(content, "system.hydrogen_mass")) == ["system.hydrogen_mass"]
    assert Protocol.restore(old, folder).model == Protocol.load(folder / "alanine-dipeptide.yaml").model


def test_another_kind_of_bias_is_a_difference_and_no_unknown_key(folder):
    content = stored(folder)
    bias = content["rounds"][1]["bias"]
    del bias["height"], bias["start"]
    bias |= {"kind": "opes", "barrier": 40.0}
    assert "rounds[1].bias.kind" in differences(folder, content)


@pytest.mark.parametrize("version", ["0.9", "1.0.0", f"{__version__}.1", "10"])
def test_a_later_version_is_refused_by_its_version(folder, version):
    content = {**stored(folder), "version": version, "new_key": 1}
    for use in (lambda: differences(folder, content), lambda: Protocol.restore(content, folder)):
        with pytest.raises(StoreError, match=f"made by latf_sampling {version}; this is {__version__}: update it"):
            use()


def test_a_key_that_no_longer_exists_is_named(folder):
    content = stored(folder)
    content["model"]["glow"] = 1
    with pytest.raises(StoreError, match=r"model\.glow: latf_sampling .* has no such key any more"):
        differences(folder, content)
    with pytest.raises(SettingsError, match=r"model\.glow: no such key"):
        Protocol.restore(content, folder)


@pytest.mark.parametrize("content", [[], None, 1, "x", {"a": 1}, {"version": "x"}, {"version": None}, {"version": {}}])
def test_what_is_no_protocol_is_refused(folder, content):
    with pytest.raises(LatfError):
        Protocol.restore(content, folder)


PDB = "alanine-dipeptide.pdb"
CELL = "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1"


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda text: f"REMARK   1 anything\nTITLE     X\nHEADER    Y\n{text}\n\n", []),
        (lambda text: text.replace("\n", "  \r\n"), []),
        (lambda text: text.replace("ATOM  ", "HETATM", 1), ["system.structure"]),
        (lambda text: f"{CELL}\n{text}", ["system.structure"]),
        (lambda text: f"SSBOND   1 CYS A    6    CYS A  127\n{text}", ["system.structure"]),
    ],
)
def test_remarks_of_a_structure_are_no_difference(folder, change, keys):
    protocol = Protocol.load(folder / "alanine-dipeptide.yaml")
    content, made_from = stored(folder), protocol.made_from()
    text = (folder / PDB).read_text()
    (folder / PDB).write_text(change(text))
    assert (folder / PDB).read_text() != text
    assert protocol.differences(content) == keys
    assert same_molecule(protocol.made_from(), made_from, SystemSettings) == (keys == [])


def test_the_same_file_under_another_name_is_no_difference(folder):
    content = stored(folder)
    shutil.copy(folder / PDB, folder / "copy.pdb")
    assert differences(folder, content, **{"structure: alanine-dipeptide.pdb": "structure: copy.pdb"}) == []


def test_a_molecule_of_an_earlier_version_is_the_same(folder):
    protocol = Protocol.load(folder / "alanine-dipeptide.yaml")
    old = json.loads(protocol.made_from())
    del old["system"]["barostat"]
    old["system"]["platform"] = "CPU"
    del old["system"]["structure"]["counted"]
    assert same_molecule(protocol.made_from(), json.dumps(old), SystemSettings)
    assert not same_molecule(protocol.made_from(), json.dumps({**old, "seed": 2}), SystemSettings)
    assert not same_molecule(protocol.made_from(), "something else", SystemSettings)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("system", "structure"), "../../../../../../etc/passwd"),
        (("system", "structure"), {"name": "/etc/passwd", "sha256": "0"}),
        (("system", "structure"), {"name": "link.pdb", "sha256": "0"}),
        (("system", "force_field"), ["/etc/passwd"]),
        (("system", "force_field"), ["../elsewhere.xml"]),
        (("observe", "reference"), {"name": "../reference.json", "sha256": "0"}),
        (("features",), [{"custom": {"file": "../own.py", "class": "Own"}}]),
        (("features",), [{"rmsd": {"of": "all", "reference": ["/etc/passwd"]}}]),
    ],
)
def test_a_stored_protocol_is_not_followed_out_of_its_folder(folder, keys, value):
    content = stored(folder)
    inputs = folder / "inputs"
    inputs.mkdir()
    for name in (PDB, "reference_alanine.json"):
        shutil.copy(folder / name, inputs)
    (inputs / "link.pdb").symlink_to("/etc/passwd")
    for name in ("own.py", "reference.json", "elsewhere.xml"):
        (folder / name).write_text("")
    assert Protocol.restore(content, inputs).seed == 1
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(SettingsError, match=r"is not the name of a file in .*inputs; the stored protocol was changed"):
        Protocol.restore(content, inputs)


def test_a_stored_topology_is_not_followed_to_other_files(folder):
    inputs = folder / "inputs"
    inputs.mkdir()
    shutil.copy(folder / "reference_alanine.json", inputs)
    (inputs / "x.gro").write_text("")
    content = stored(folder)
    gromacs = {"topology": {"name": "x.top", "sha256": "0"}, "coordinates": {"name": "x.gro", "sha256": "0"}}
    content["system"] = {"gromacs": gromacs}
    (inputs / "x.top").write_text('#include "missing.itp" ; which a condition leaves out\n')
    assert Protocol.restore(content, inputs).system.gromacs.topology == (inputs / "x.top").resolve()
    (inputs / "x.top").write_text('#include "../alanine-dipeptide.pdb"\n')
    with pytest.raises(SettingsError, match=r"system.gromacs.topology: .*x.top includes '../alanine-dipeptide.pdb'"):
        Protocol.restore(content, inputs)


# ------------------------------------------------------------------------------------------- files that are gone

SYSTEMS = {
    "structure": {"structure": "in/a.pdb", "force_field": ["in/own.xml", "amber14/tip3p.xml"]},
    "conformations": {"structure": "in/a.pdb", "force_field": ["in/own.xml"], "conformations": ["in/b.pdb", "c/b.pdb"]},
    "amber": {"amber": {"topology": "in/a.prmtop", "coordinates": "in/a.inpcrd"}},
    "gromacs": {"gromacs": {"topology": "in/a.top", "coordinates": "in/a.gro", "include": "c"}},
    "charmm": {"charmm": {"topology": "in/a.psf", "coordinates": "in/a.crd", "parameters": ["in/a.prm", "c/a.prm"]}},
    "openmm": {"openmm": {"system": "in/s.xml", "topology": "in/a.cif"}},
}


def campaign_of(tmp_path: Path, **changes) -> tuple[Path, Protocol, CampaignDirectory]:
    """A protocol whose files hold their own names, and a campaign that has stored it."""
    content = {
        **TINY,
        "starts": None,
        "features": [{"rmsd": {"atoms": "all", "reference": "in/ref.pdb"}}, {"custom": {"file": "in/own.py"}}],
        "observe": {"torsion": "phi ALA 2", "above": "0 degree", "reference": "c/ref.json"},
        **changes,
    }
    for name in re.findall(r"\b(?:in|c)/[\w.]+", json.dumps(content)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('#include "x.itp"\n' if name.endswith(".top") else name)
    (tmp_path / "c" / "x.itp").write_text("[ moleculetype ]\n")
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(content))
    protocol, files = Protocol.load(path), CampaignDirectory(tmp_path / "run")
    with files.acquire(protocol):
        pass
    return path, protocol, files


@pytest.mark.parametrize("source", SYSTEMS)
def test_copies_of_a_campaign_stand_for_files_that_are_gone(tmp_path, source):
    path, protocol, files = campaign_of(tmp_path, system=SYSTEMS[source])
    before, inputs = protocol.canonical(), protocol.inputs()
    shutil.rmtree(tmp_path / "c")
    gone = [file for file in (tmp_path / "in").iterdir() if file.suffix != ".py"]
    for file in gone:
        file.unlink()
    with pytest.warns(RepairWarning, match="is gone; the campaign goes on with its copy") as said:
        again = files.load_protocol(path)
    assert len(said) >= len(gone)
    assert again.canonical() == before
    assert {Path(file).parent for file in again.files} == {files.inputs, tmp_path / "in"}
    with files.acquire(again):
        pass
    with files.acquire(again.model_copy(update={"seed": 2})):  # as long as nothing was simulated, any protocol may come
        pass
    assert files.protocol().inputs() == inputs
    with pytest.raises(SettingsError, match="there is no"):  # without the campaign
        Protocol.load(path)


def test_files_that_are_there_and_other_files_are_no_copies(tmp_path):
    path, _, files = campaign_of(tmp_path, system=SYSTEMS["structure"])
    (tmp_path / "in" / "a.pdb").write_text("changed")
    assert files.load_protocol(path).system.structure == tmp_path / "in" / "a.pdb"
    (tmp_path / "in" / "own.py").unlink()  # a program runs from beside the protocol alone
    with pytest.raises(SettingsError, match=r"no file .*own\.py"):
        files.load_protocol(path)
    (tmp_path / "in" / "own.py").write_text("in/own.py")
    (tmp_path / "in" / "a.pdb").unlink()
    (files.inputs / "a.pdb").write_text("damaged")
    with pytest.raises(SettingsError, match=r"no file .*a\.pdb"):
        files.load_protocol(path)
    path.write_text(path.read_text().replace("in/a.pdb", "in/other.pdb"))
    with pytest.raises(SettingsError, match=r"no file .*other\.pdb"):
        files.load_protocol(path)
