"""A biased round with walkers at several temperatures: each has the bias of its own, and MBAR weighs all frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.molecules import TINY_WELLS, finished_wells, run_in_process

from latf_sampling.analysis import STAGES
from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.extend import preview
from latf_sampling.core import storage
from latf_sampling.core.processes import LocalExecutor
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import StoreError
from latf_sampling.records.records import Records
from latf_sampling.records.verification import Verification
from latf_sampling.records.weighting import weightings
from latf_sampling.report.estimates import sampled_walkers, target_temperature
from latf_sampling.settings import Protocol
from latf_sampling.starts.files import StartFiles
from latf_sampling.systems.potentials import three_hole
from latf_sampling.units import KB

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny wells runs them
COLD, HOT = 1 / KB, 2 / KB
BIASED = {
    "walkers": ["1 kJ/mol", "2 kJ/mol", "2 kJ/mol", "1 kJ/mol"],
    "length": "100 ps",
    "restart": "archive",
    "bias": {"bias_factor": 8, "height": "0.3 kJ/mol", "interval": "0.5 ps"},
}
CONTENT = {**TINY_WELLS, "evaluate": None, "rounds": [*TINY_WELLS["rounds"], BIASED]}


def write(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**CONTENT, **changes}))
    return folder / "protocol.yaml"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """The tiny wells with a biased round at two temperatures that nothing was learned from."""
    folder = tmp_path_factory.mktemp("temperatures")
    shutil.copytree(finished_wells(), folder / "run")
    learn = loop.Campaign._learn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Campaign, "_learn", lambda self, index, *rest: learn(self, index, *rest) if not index else 0)
        patch.setattr(loop.Campaign, "_report", lambda *_: None)
        run_in_process(Campaign(write(folder), folder / "run"))
    return folder / "run"


def test_walkers_feel_the_hills_of_their_own_temperature(directory):
    files = CampaignDirectory(directory).round(1)
    found = {path.relative_to(files.hills).as_posix() for path in files.hills.rglob("*.hills")}
    hot = f"{HOT:.12g}K"
    assert found == {"walker-00.hills", "walker-03.hills", f"{hot}/walker-01.hills", f"{hot}/walker-02.hills"}
    heads = {name: (files.hills / name).read_text().split("SET temperature ")[1].split("\n")[0] for name in found}
    assert {name: float(text) for name, text in heads.items()} == {
        name: pytest.approx(HOT if name.startswith(hot) else COLD) for name in found
    }
    records = Records.load(directory)
    for walker in records.frames()[2:]:
        folder = files.hills_of(records.protocol.rounds[1].walkers, walker.walker)
        hills = np.concatenate([np.loadtxt(path) for path in sorted(folder.glob("*.hills"))])
        # the first hill of a walker is one of full height, unless another at its temperature has been there
        assert hills[:, -2].max() == pytest.approx(0.3)
        assert walker.temperature == pytest.approx(HOT if walker.walker in (1, 2) else COLD)
        assert walker.biased


def test_each_temperature_has_structures_of_its_own_to_start_from(directory):
    files = CampaignDirectory(directory).round(1)
    assert files.start_sets() == [0, 1, 3]
    tables = [StartFiles(files.start_set(first)).read_table() for first in files.start_sets()]
    assert [table["requested"] for table in tables] == [1, 2, 1]
    assert [table["temperature"] for table in tables] == pytest.approx([COLD, HOT, COLD])


def test_mbar_takes_each_bias_in_stages(directory):
    records = Records.load(directory)
    walkers, rng = records.frames(), np.random.default_rng(0)
    cold, hot = records.protocol.rounds[1].walkers[:2]
    by_offset, _, by_mbar = weightings(records, walkers, cold, rng)
    assert [walker.walker for walker in by_offset.walkers] == [0, 3]
    assert by_mbar.states is not None
    assert len(by_mbar.states.temperatures) == 2 + 2 * STAGES  # two plain walkers, and two biases
    of_hot = [walker.walker for walker in weightings(records, walkers, hot, rng)[0].walkers]
    assert of_hot == [1, 2]
    # All frames, biased ones at twice the temperature too, give the exact mean energy at the lower one.
    weights = np.exp(np.concatenate(by_mbar.log_weights))
    energies = np.concatenate([w.energies[part] for w, part in zip(by_mbar.walkers, by_mbar.selected)])

    system = three_hole()
    centers, exact = system.cells(COLD)
    expected = float(exact @ system.potential(centers[:, None]))
    assert np.average(energies, weights=weights) == pytest.approx(expected, abs=0.25)


def test_the_report_states_the_lowest_temperature(directory):
    records = Records.load(directory)
    assert target_temperature(records) == pytest.approx(COLD)
    assert [walker.frames.walker for walker in sampled_walkers(records, target_temperature(records))[1]] == [0, 3]


def test_hills_of_every_temperature_are_verified(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "copy"))
    assert not Verification.of(copy).findings
    hills = next(copy.glob(f"rounds/01/hills/{HOT:.12g}K/walker-01.hills"))
    hills.write_text(hills.read_text().replace(" 0.3 ", " 0.4 "))
    with pytest.raises(StoreError, match="walker-01.hills"):
        Records.load(copy).verify()
    assert any("walker-01.hills" in str(finding) for finding in Verification.of(copy).findings)


def test_a_walker_keeps_the_temperature_of_the_structure_that_it_starts_from(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "copy"))
    shutil.rmtree(copy / "rounds/01/walker-02")
    warmer = {**BIASED, "walkers": ["1 kJ/mol", "2 kJ/mol", "3 kJ/mol", "1 kJ/mol"]}
    protocol = Protocol.load(write(tmp_path, rounds=[*TINY_WELLS["rounds"], warmer]))
    with pytest.raises(StoreError, match=r"rounds\[1\]\.walkers: walker 2 has a structure of 240\.\d+ K"):
        preview(CampaignDirectory(copy), protocol)
    longer = {**BIASED, "walkers": [*BIASED["walkers"], "3 kJ/mol"]}
    protocol = Protocol.load(write(tmp_path, rounds=[*TINY_WELLS["rounds"], longer]))
    assert preview(CampaignDirectory(copy), protocol)
    assert storage.read_json(copy / "protocol.json")["rounds"][1]["length"] == 100.0


def test_structures_of_all_temperatures_are_one_step(directory, tmp_path):
    """Each set is its part of the step, which is done when the last one is."""
    copy = Path(shutil.copytree(directory, tmp_path / "copy"))
    for folder in copy.glob("rounds/01/*"):
        shutil.rmtree(folder)
    told = []
    campaign = Campaign.load(copy)
    with LocalExecutor(1) as executor:
        campaign._restart(1, campaign.protocol.rounds[1], executor, lambda *args: told.append(args))
    assert {step for step, _, _ in told} == {"round 1: starts"}
    fractions = [fraction for _, fraction, _ in told]
    assert fractions == sorted(fractions) and fractions.count(1.0) == 1
    assert {0.25, 0.75, 1.0} <= set(fractions)  # after the sets of one, two and one walkers
