"""A campaign whose biased round acts along a variable that was trained elsewhere."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers.molecules import TINY_WELLS, InThisProcess, finished_wells

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.extend import extend
from latf_sampling.campaign.progress import nowhere
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.records.integrity import verify_campaign
from latf_sampling.records.records import Records
from latf_sampling.records.verification import Verification
from latf_sampling.records.weighting import weightings
from latf_sampling.settings import Protocol
from latf_sampling.units import KB

BIAS = {"kind": "metadynamics", "bias_factor": 5, "height": "0.2 kJ/mol", "interval": "5 ps", "variable": "sum.pt"}
BIASED = {"walkers": ["1 kJ/mol"], "length": "50 ps", "restart": "continue", "bias": BIAS}


def write_module(path, columns: int = 2) -> None:
    """The sum of the coordinates."""
    module = torch.nn.Linear(columns, 1)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.zero_()
    torch.jit.save(torch.jit.script(module), str(path))


def protocol(folder, **bias) -> Protocol:
    rounds = [*TINY_WELLS["rounds"], {**BIASED, "bias": {**BIAS, **bias}}]
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**TINY_WELLS, "rounds": rounds}))
    return Protocol.load(folder / "protocol.yaml")


def test_a_round_along_it(tmp_path):
    """Bounds and widths are those of the frames before; the round is weighted, verified, and needs no other file."""
    write_module(tmp_path / "sum.pt")
    shutil.copytree(finished_wells(), tmp_path / "run")
    campaign = Campaign(protocol(tmp_path), tmp_path / "run")
    with campaign.directory.acquire(campaign.protocol, extend(campaign.directory, campaign.protocol), 0):
        campaign._simulate(1, InThisProcess(), nowhere)
    files, records = campaign.directory.round(1), Records.load(tmp_path / "run", trust=True)
    cv = LatentCV.load(files.variable.cv)
    x = np.concatenate([np.asarray(piece.xyz) for walker in records.frames(0) for piece in walker.pieces()])
    of_frames = x[:, 0, :2].sum(1)
    assert cv.bounds[0] == pytest.approx([of_frames.min(), of_frames.max()], abs=1e-5)
    assert files.walker(0).segment(0).manifest().content["variable"] == cv.fingerprint()
    assert records.model(0)[1].fingerprint() != cv.fingerprint()
    centers = np.loadtxt(files.hills / "walker-00.hills")[:, 1]
    of_round = np.concatenate([np.asarray(piece.xyz) for piece in records.frames()[-1].pieces()])
    assert np.abs(centers - of_round[49::50, 0, :2].sum(1)).max() < 1e-4
    assert [made.name for made in weightings(records, records.frames(), 1 / KB, np.random.default_rng(0))][-1] == "MBAR"
    (tmp_path / "sum.pt").unlink()
    assert Protocol.restore(json.loads(records.protocol.canonical()), campaign.directory.inputs) == records.protocol
    verify_campaign(records.protocol, campaign.directory)
    shutil.copy(records.directory.round(0).learning.cv, files.variable.cv)
    with pytest.raises(StoreError, match=r"variable/cv.pt: was changed .* walkers of round 1 were biased along it"):
        verify_campaign(records.protocol, campaign.directory)
    assert files.variable.cv in [finding.path for finding in Verification.of(tmp_path / "run").findings]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variable": "gone.pt"}, r"rounds\[0?1\].bias.*variable: there is no file"),
        ({"start": "flow"}, r"rounds\[1\].bias.variable: start: flow needs the density of the learned variable"),
        ({"trust": {"threshold": 5}}, r"rounds\[1\].bias.variable: trust needs the density"),
        ({"variable": "three.pt"}, r"rounds\[1\].bias.variable: .*three.pt: cannot be evaluated on the 2 columns"),
        ({"variable": "protocol.yaml"}, r"rounds\[1\].bias.variable: .*protocol.yaml: cannot be read as TorchScript"),
    ],
)
def test_what_is_refused_before_anything_runs(tmp_path, changes, message):
    write_module(tmp_path / "sum.pt")
    write_module(tmp_path / "three.pt", 3)
    with pytest.raises(SettingsError, match=message):
        Campaign(protocol(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
