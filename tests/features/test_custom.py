"""Descriptors of one's own, and the checks that every descriptor passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from helpers.molecules import STRUCTURE, random_model, write_protocol

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.settings import Protocol
from latf_sampling.testing import check_descriptors

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_descriptor.py"
SHAPE = [{"custom": {"file": str(EXAMPLE), "class": "ShapeAnisotropy", "settings": {"atoms": "element != H"}}}]

HEAD = """
import torch
class Mine(torch.nn.Module):
    {attributes}
    def __init__(self, topology, last: int = 5):
        super().__init__()
        self.atoms, self.names, self.units = [4, last], ["mine"], ["nm"]
    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        {body}
"""
DISTANCE = "return torch.linalg.vector_norm(positions[..., 1, :] - positions[..., 0, :], dim=-1, keepdim=True)"


@pytest.fixture(scope="module")
def frames() -> mdtraj.Trajectory:
    structure = mdtraj.load(str(STRUCTURE))
    noise = np.random.default_rng(3).normal(0, 0.01, (10, *structure.xyz.shape[1:]))
    return mdtraj.Trajectory(structure.xyz + noise, structure.topology)


@pytest.fixture
def own(tmp_path):
    """Writes a class with a forward of one's own; gives a specification of it."""

    def make(body: str, attributes: str = "pass", **settings) -> list[dict]:
        (tmp_path / "mine.py").write_text(HEAD.format(body=body, attributes=attributes))
        return [{"custom": {"file": str(tmp_path / "mine.py"), "class": "Mine", "settings": settings}}]

    return make


def test_example(frames):
    x = frames.xyz[:, frames.topology.select("element != H")].astype(float)
    x = x - x.mean(1, keepdims=True)
    moments = np.linalg.eigvalsh(np.einsum("fai,faj->fij", x, x))
    expected = 1 - 3 * (moments * np.roll(moments, 1, 1)).sum(1) / moments.sum(1) ** 2
    features = Features(frames.topology, SHAPE, periodic=True)
    assert np.allclose(features(frames.xyz)[:, 0], expected, atol=1e-6)
    assert features.names == ["shape anisotropy of element != H"] and features.units == [""]
    check_descriptors(frames, SHAPE)


def test_a_file_with_dataclasses(frames, own):
    """They look their module up in sys.modules, for annotations that are texts."""
    spec = own(DISTANCE)
    file = Path(spec[0]["custom"]["file"])
    table = "from dataclasses import dataclass, KW_ONLY\n@dataclass\nclass Table:\n    _: KW_ONLY\n    last: int = 5\n"
    file.write_text("from __future__ import annotations\n" + table + file.read_text())
    assert np.allclose(
        Features(frames.topology, spec)(frames.xyz)[:, 0],
        np.linalg.norm(frames.xyz[:, 5] - frames.xyz[:, 4], axis=-1),
        atol=1e-6,
    )


def test_an_exported_variable_does_without_the_file(frames, own, tmp_path):
    features = Features(frames.topology, [*own(DISTANCE, last=8), {"torsions": "phi psi"}])
    x = features.transform(frames)
    assert features.names[0] == "mine" and len(features.names) == 5
    assert np.allclose(x[:, 0], np.linalg.norm(frames.xyz[:, 8] - frames.xyz[:, 4], axis=1), atol=1e-6)
    again = Features(frames.topology, json.loads(json.dumps(features.spec)))
    assert np.array_equal(again.transform(frames), x)
    made = LatentCV.from_model(random_model(features, x, 1, seed=0), features, frames.xyz)
    made.save(tmp_path / "cv.pt")
    (tmp_path / "mine.py").unlink()
    assert np.array_equal(LatentCV.load(tmp_path / "cv.pt")(frames.xyz), made(frames.xyz))


def test_protocols_name_files_beside_them(tmp_path):
    shutil.copy(EXAMPLE, tmp_path)
    shutil.copy(STRUCTURE, tmp_path / "native.pdb")
    spec = {"custom": {"file": EXAMPLE.name, "class": "ShapeAnisotropy", "settings": {"atoms": "all"}}}
    path = write_protocol(tmp_path, features=[spec, {"rmsd": {"of": "all", "reference": ["native.pdb"]}}])
    protocol = Protocol.load(path)
    assert protocol.features[0]["custom"]["file"] == str(tmp_path / EXAMPLE.name)
    assert protocol.features[1]["rmsd"]["reference"] == [str(tmp_path / "native.pdb")]
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    for file in protocol.files:
        shutil.copy(file, elsewhere)
    again = Protocol.restore(json.loads(protocol.canonical()), elsewhere)
    assert again.features[0]["custom"]["file"] == str(elsewhere / EXAMPLE.name)
    assert again.canonical() == protocol.canonical()
    (elsewhere / EXAMPLE.name).write_text("changed")
    assert again.canonical() != protocol.canonical()
    (tmp_path / "native.pdb").unlink()
    with pytest.raises(SettingsError, match=r"features\[1\].rmsd.reference\[0\]: there is no file .*native.pdb"):
        Protocol.load(path)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return positions[..., :1, 0]", "a translation changes it"),
        (
            "return positions.square().sum(-1)[..., :1] * 0 + (positions[..., 1, :1] - positions[..., 0, :1])",
            "a rotation changes it",
        ),
        (
            "return (positions[..., 1, :] - positions[..., 0, :]).square().sum(-1, keepdim=True).sqrt()",
            "the gradient of 'mine' is not finite where all atoms coincide",
        ),
        (DISTANCE, "periodic images of atoms in a rectangular box change it"),
        (
            "d = positions[..., 1, :] - positions[..., 0, :]; return (d * d.detach()).sum(-1, keepdim=True)",
            "the gradient is not that of finite differences",
        ),
        ("return torch.cat([positions[..., 0, :]] * 2, -1)", "10 frames give an array|8 frames give an array"),
        (
            "return torch.as_tensor(sorted(positions.flatten().tolist())[:1]).expand(positions.shape[:-2] + (1,))",
            "another value|torch.jit.script",
        ),
        ("return positions[..., 0, :1] / 0", "'mine' is not finite in one of the frames"),
    ],
)
def test_broken_promises_are_found(frames, own, body, says):
    with pytest.raises(AssertionError, match=says):
        check_descriptors(frames, own(body))


def test_what_is_not_promised_is_not_checked(frames, own):
    check_descriptors(frames, own(DISTANCE), periodic=False)
    check_descriptors(frames, own("return positions[..., :1, 0]"), periodic=False, floating=False)
    with pytest.raises(SettingsError, match="cannot be measured in a periodic box; Mine.periodic is False"):
        Features(frames.topology, own(DISTANCE, "periodic = False"), periodic=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file": "nowhere.py"}, r"features\[0\].custom.file: there is no file nowhere.py."),
        ({"class": "Other"}, r"features\[0\].custom.class: .*mine.py has no class Other that is a torch.nn.Module."),
        ({"settings": {"first": 1}}, "Mine cannot be made: TypeError: .*first"),
        ({"settings": {"last": 22}}, "there is no atom 22; the topology has atoms 0 to 21."),
        ({"settings": {"last": -1}}, "there is no atom -1"),
        ({"settings": {"last": 4}}, "names an atom twice"),
        ({"what": 1}, "no such key"),
    ],
)
def test_wrong_specifications(frames, own, change, says):
    spec = own(DISTANCE)
    spec[0]["custom"].update(change)
    with pytest.raises(SettingsError, match=says):
        Features(frames.topology, spec)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        (
            "import torch\nclass Mine(torch.nn.Module):\n  def __init__(self, topology): super().__init__()",
            "no attribute",
        ),
        (HEAD.format(body=DISTANCE, attributes="pass").replace('["nm"]', "[]"), "1 names and 0 units"),
    ],
)
def test_wrong_files(frames, tmp_path, text, says):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(SettingsError, match=says):
        Features(frames.topology, [{"custom": {"file": str(tmp_path / "mine.py"), "class": "Mine"}}])
