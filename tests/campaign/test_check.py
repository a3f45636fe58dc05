"""`latf check`: a protocol that cannot work is refused before anything is written, by the key that is at fault."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mdtraj
import pytest
import yaml
from typer.testing import CliRunner

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.check import check, check_lag, summary
from latf_sampling.cli.main import app
from latf_sampling.errors import LatfError
from latf_sampling.records.setup import Setup
from latf_sampling.settings import Protocol

FOLDER = Path(__file__).parents[2] / "protocols"
BASE = yaml.safe_load((FOLDER / "alanine-dipeptide.yaml").read_text())
OWN = """
import torch


class Own(torch.nn.Module):
    def __init__(self, topology, broken=False):
        super().__init__()
        self.atoms, self.names, self.units = [4, 16], ["own"], ["nm"]

    def forward(self, positions, box: torch.Tensor | None):
        d = positions[..., 1, :] - positions[..., 0, :]
        {body}
"""
DISTANCE = "return (d.square().sum(-1, keepdim=True) + 1e-6).sqrt()"


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("alanine-dipeptide.pdb", "reference_alanine.json"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    """The protocol of alanine dipeptide with changes by dotted keys."""
    content = copy.deepcopy(BASE)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        entry: Any = content
        for part in parents:
            entry = entry[part]
        entry[last] = value
    file = folder / "protocol.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(LatfError) as refused:
        check(Setup(Protocol.load(changed(folder, changes))))
    return str(refused.value).replace(str(folder.resolve()), "DIR").replace(str(folder), "DIR")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_protocols_of_the_project(file):
    setup = Setup(Protocol.load(file))
    check(setup)
    rows = dict(summary(setup))
    assert {"system", "platform", "descriptors", "round 0", "in all"} <= rows.keys()
    if file.stem == "alanine-dipeptide":
        assert rows["descriptors"] == "45 columns (distances)"
        assert rows["round 1"] == "2 walkers x 1.5 ns at 300 K, metadynamics, 1,500 hills each, restart: flow"
        assert rows["learning"] == "lag 2 ps, retrain: always" and rows["executor"] == "local"
        assert rows["observed"] == "phi ALA 2 above 0°, with a reference"
        assert rows["in all"] == "27 ns of simulation, 67,500 frames"


def test_the_command(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    result = CliRunner().invoke(app, ["check", str(FOLDER / "three-hole.yaml")])
    assert result.exit_code == 0
    assert "three-hole.yaml: valid. It would run:" in result.output
    assert "round 0      2 walkers x 10 ns" in result.output
    assert sorted(folder.iterdir()) == before


IN_THE_FILES = [
    ({"observe.reference": "text.json"}, "observe.reference: DIR/text.json is not a JSON file"),
    ({"observe.reference": "list.json"}, "DIR/list.json has no key 'difference_kJ_per_mol'"),
    ({"observe.reference": "other.json"}, "DIR/other.json has no key 'difference_kJ_per_mol'"),
    ({"observe.reference": "word.json"}, "difference_kJ_per_mol of DIR/word.json is not a finite number"),
    ({"observe.reference": "negative.json"}, "error_kJ_per_mol of DIR/negative.json is negative"),
    ({"observe.reference": "surface.json"}, "free_energy_kJ_per_mol of DIR/surface.json has the shape (1, 1)"),
    ({"observe.torsion": "phi ALA 3"}, "observe.torsion: "),
    ({"features.0": {"distance": "element != H"}}, "Did you mean 'distances'?"),
    ({"features.0": {"distances": "element = ("}}, "is not an MDTraj selection"),
    ({"features.0": {"distances": "name XY"}}, "features[0].distances: 'name XY' selects no atom"),
    ({"system.platform": "Cuda9"}, "system.platform: OpenMM has none called 'Cuda9'"),
    ({"system.force_field": ["nowhere.xml"]}, "system.force_field: nowhere.xml: there is no such file"),
    ({"system.structure": "empty.pdb"}, "system.structure: "),
    ({"system.hydrogen_mass": "4.9 amu"}, "system.hydrogen_mass: 4.9 amu leaves "),
]


@pytest.mark.parametrize(("changes", "says"), IN_THE_FILES, ids=lambda part: part if isinstance(part, str) else "")
def test_what_the_files_tell(folder, changes, says):
    value = {"difference_kJ_per_mol": 8.0}
    contents = {
        "text": "no JSON",
        "list": "[1, 2]",
        "other": '{"value": 1}',
        "word": '{"difference_kJ_per_mol": "8"}',
        "negative": json.dumps({**value, "error_kJ_per_mol": -1}),
        "surface": json.dumps({**value, "edges_rad": [0, 1, 2], "free_energy_kJ_per_mol": [[1.0]]}),
    }
    for name, text in contents.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "empty.pdb").write_text("END\n")
    message = refusal(folder, **changes)
    assert says in message and len(message.splitlines()) == 1, message


IN_THE_PROTOCOL = [
    ({"rounds.1.bias.interval": "2 ns"}, "rounds[1].bias.interval: 2000 ps is longer than the round (1500 ps)"),
    ({"model.latent_dim": 4}, "model.latent_dim: a bias needs a grid in latent space, which has at most 3 dimensions"),
    ({"system.hydrogen_mass": "20 amu"}, "system.hydrogen_mass: '20 amu' is too large; it must be at most 5 Da"),
    ({"rounds.0.length": "1e30 s"}, "rounds[0].length: '1e30 s' is too large; it must be at most 1e+12 ps"),
    ({"rounds.0.length": "1 s"}, "more than 1,000,000,000; save fewer, or simulate less."),
    ({"rounds.0.length": "1 ms"}, "segment: a round would have 2e+07 segments, each with its files, more than"),
    ({"integrator.timestep": "1e-300 fs"}, "integrator.timestep: '1e-300 fs' is too small; it must be at least 1e-06"),
    ({"rounds.1.bias.height": "1e30 kJ/mol"}, "rounds[1].bias.height: '1e30 kJ/mol' is too large"),
    ({"learning.joint_epochs": 0, "learning.flow_epochs": 0}, "rounds[1].restart: needs the density of the flow"),
    ({"learning.flow_epochs": True}, "learning.flow_epochs: must be a valid integer, got true."),
    ({"starts.allow_cis": 1}, "starts.allow_cis: must be true or false, got 1."),
    ({"seed": 1.0}, "seed: must be a valid integer, got 1.0."),
    ({"model.beta": "0.1"}, "model.beta: must be a number, got '0.1'."),
    ({"name": 7}, "name: must be text, got 7."),
    ({"system.cutof": "1 nm"}, "system.cutof: no such key, did you mean 'cutoff'? Known keys: name, structure, "),
    (
        {"system.nonbonded": "PME", "system.cutoff": "1 nm", "system.prepare": {"solvent": {"padding": "1000 nm"}}},
        "system.prepare.solvent.padding: a box of 8e+09 nm^3 would hold 2.67e+11 water molecules, more than 1,000,000",
    ),
    (
        {"system.nonbonded": "PME", "system.cutoff": "1 nm", "system.prepare": {"solvent": {"box": ["40 nm"] * 3}}},
        "system.prepare.solvent.box: a box of 6.4e+04 nm^3 would hold 2.14e+06 water molecules",
    ),
]


@pytest.mark.parametrize(("changes", "says"), IN_THE_PROTOCOL, ids=lambda part: part if isinstance(part, str) else "")
def test_what_the_protocol_tells(folder, changes, says):
    message = refusal(folder, **changes)
    assert says in message, message
    assert not any(word in message for word in ("Input should", "pydantic"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return d.sum(-1, keepdim=True) * float('nan')", "'own' is not finite"),
        ("return d", "gives|give an array"),
        (
            "return torch.from_numpy(d.detach().numpy()).square().sum(-1, keepdim=True)",
            "torch.jit.script|another|numpy",
        ),
        ("return d.detach().square().sum(-1, keepdim=True)", "grad"),
        ("return [x for x in d].pop().foo", "AttributeError|script"),
        ("return (d.square().sum(-1, keepdim=True)).sqrt()", "the gradient of 'own' is not finite where all atoms"),
        ("raise KeyError('broken')", "fails: KeyError"),
    ],
)
@pytest.mark.parametrize("where", ["features.0", "observe"])
def test_own_descriptors_are_named(folder, body, says, where):
    (folder / "own.py").write_text(OWN.format(body=body))
    own = {"custom": {"file": "own.py", "class": "Own"}}
    value = own if where == "features.0" else {"descriptor": own, "above": "0.3 nm"}
    with pytest.raises(LatfError, match=says) as refused:
        check(Setup(Protocol.load(changed(folder, {where: value}))))
    key = "features[0].custom" if where == "features.0" else "observe.descriptor.custom"
    assert str(refused.value).startswith(f"{key}: Own of {folder.resolve() / 'own.py'}")
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 600


def test_a_descriptor_of_ones_own(folder):
    (folder / "own.py").write_text(OWN.format(body=DISTANCE))
    entry = {"custom": {"file": "own.py", "class": "Own"}}
    check(Setup(Protocol.load(changed(folder, {"features.0": entry}))))


def test_too_many_columns(folder, tmp_path):
    from latf_sampling.features import Features

    topology = mdtraj.Topology()
    residue = topology.add_residue("ARG", topology.add_chain())
    for _ in range(1930):
        topology.add_atom("A", mdtraj.element.argon, residue)
    for spec in ({"distances": "all"}, {"contacts": {"between": "all", "r0": "0.5 nm"}}):
        with pytest.raises(LatfError, match="makes 1,861,485 columns, more than 100,000; select fewer atoms"):
            Features(topology, [spec])


def test_a_campaign_makes_the_same_check_before_it_writes(folder):
    (folder / "own.py").write_text(OWN.format(body="return d"))
    own = changed(folder, {"features.0": {"custom": {"file": "own.py", "class": "Own"}}})
    for path in (own, changed(folder, {"observe.reference": "alanine-dipeptide.pdb"})):
        with pytest.raises(LatfError):
            Campaign(path, folder / "run")
        assert not (folder / "run").exists()


def test_trajectories_are_looked_at(folder):
    frames = mdtraj.load(str(folder / "alanine-dipeptide.pdb"))
    frames.atom_slice(range(5)).save(str(folder / "five.nc"))
    external = [{"files": "five.nc", "temperature": "300 K", "interval": "0.4 ps"}]
    changes = {"from_trajectories": external, "rounds": [], "starts": None}
    assert "five.nc" in refusal(folder, **changes)


MODULES = """
import sys
from latf_sampling.cli import main
try:
    main.main()
except SystemExit as ended:
    print(ended.code, [name for name in ("torch", "openmm", "mdtraj", "scipy.stats") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("command", "loaded"),
    [
        (["check", FOLDER / "chignolin.yaml"], "0 ['openmm', 'mdtraj']"),
        (["check", "wrong.yaml"], "2 []"),
        (["starts", "nowhere", "--temperature", "450 K", "-n", "2", "-o", "out"], "2 []"),
    ],
    ids=["valid", "wrong", "starts"],
)
def test_what_takes_seconds_is_loaded_only_where_it_is_needed(folder, command, loaded):
    (folder / "wrong.yaml").write_text("sed: 1")
    command = [sys.executable, "-c", MODULES, *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.stdout.splitlines()[-1] == loaded, done.stdout + done.stderr


@pytest.mark.parametrize(("lag", "warns"), [("600 ps", True), ("300 ps", False)])
def test_a_lag_of_more_than_a_quarter_of_the_shortest_run_is_warned_of(folder, lag, warns, recwarn):
    protocol = Protocol.load(changed(folder, {"learning.lag": lag}))
    check_lag(Setup(protocol))
    expected = "learning.lag: 600 ps is more than a quarter of the shortest run, 1.5 ns"
    assert [str(each.message).startswith(expected) for each in recwarn.list] == [True] * warns
