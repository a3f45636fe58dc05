"""Whether a model is trained after a round or kept, with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from helpers.molecules import finished_campaign

from latf_sampling.campaign import retraining
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.learning import learn_round
from latf_sampling.campaign.retraining import CRITERIA, NewFrames, decide, settings_digest
from latf_sampling.learning.model import LaTF
from latf_sampling.records.records import Records
from latf_sampling.report import decisions
from latf_sampling.report.estimates import Estimates
from latf_sampling.settings import LearningSettings

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


def with_criterion(directory: Path, name: str) -> Records:
    """A campaign as if its models had been learned with a criterion."""
    records = Records.load(directory)
    learning = records.protocol.learning.model_copy(update={"retrain": name})
    return Records(records.protocol.model_copy(update={"learning": learning}), records.directory)


def test_the_choices_of_the_settings_are_the_registered_criteria():
    assert set(get_args(LearningSettings.model_fields["retrain"].annotation)) == set(CRITERIA)


def test_the_first_model_and_one_that_is_learned_in_another_way_are_trained():
    records = with_criterion(finished_campaign(), "more_data")
    assert decide(records, 0) == (True, "there is no earlier model")
    learning = records.protocol.learning.model_copy(update={"lag": 0.3})
    other = Records(records.protocol.model_copy(update={"learning": learning}), records.directory)
    assert decide(other, 1) == (True, "the model of the round before was learned in another way")
    assert decide(with_criterion(finished_campaign(), "always"), 1)[0]
    assert settings_digest(records.protocol) == settings_digest(Records.load(finished_campaign()).protocol)


@pytest.mark.parametrize(("share", "wanted"), [(0.2, True), (0.3, False)])
def test_enough_new_frames(monkeypatch, share, wanted):
    monkeypatch.setattr(retraining, "NEW_SHARE", share)
    records = with_criterion(finished_campaign(), "more_data")
    found, reason = decide(records, 1)
    assert found is wanted
    percent = f"{100 * share:.0f}"
    assert reason == f"80 frames are new, 27 % of the 300 that the model was trained on, where {percent} % are enough"


class Line(LaTF):
    """A model whose free energy is 3 kT u^2, with a density of variance 1/6."""

    used_components = [0]

    def __init__(self) -> None:
        super().__init__(latent_dim=1)
        self.trained = True

    def log_prob(self, u, temperature):
        return -3 * u[:, 0] ** 2

    marginal_log_prob = log_prob

    def sample(self, n, temperature, seed):
        return np.random.default_rng(seed).normal(scale=6**-0.5, size=(n, 1))


def frames(points: np.ndarray, weights=None) -> NewFrames:
    """New frames of one walker at some latent points (n,)."""
    weights = np.ones(len(points)) if weights is None else weights
    walker = SimpleNamespace(temperature=300.0, weights=weights)
    return SimpleNamespace(learned=(Line(), None), new=[walker], points=[points[:, None]])  # type: ignore[return-value]


def test_new_regions():
    inside = np.clip(np.random.default_rng(1).normal(size=1000), -3, 3)
    assert not retraining.new_regions(frames(inside))[0]  # up to 30 kT, where u is 3.2
    outside = np.where(np.arange(1000) < 15, 3.5, inside)
    found, reason = retraining.new_regions(frames(outside))
    assert found and reason.startswith("1.5 % of the 1,000 new frames have a free energy of more than 30 kT")


def test_density():
    points = np.random.default_rng(1).normal(scale=6**-0.5, size=4000)
    assert not retraining.density(frames(points))[0]
    wide = 2 * points
    found, reason = retraining.density(frames(wide))
    assert found and reason.startswith("the mean of -ln p of the new frames at 300 K differs by 1.5 ")
    # Biased frames count with their weights: these undo that they are twice as wide.
    assert not retraining.density(frames(wide, np.exp(-(3 - 0.75) * wide**2)))[0]


def test_a_model_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(retraining, "NEW_SHARE", 0.5)
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    for name in ("rounds/02", "rounds/01/learning", "starts"):
        shutil.rmtree(directory / name)
    records = with_criterion(directory, "more_data")
    protocol = records.protocol.model_copy(update={"rounds": records.protocol.rounds[:2], "starts": None})
    campaign = Campaign(protocol, directory)
    learn_round(campaign.records, lambda fraction, words: None, 1)
    before, kept = (campaign.directory.round(index).learning for index in (0, 1))
    assert kept.model.read_bytes() == before.model.read_bytes() and kept.cv.read_bytes() == before.cv.read_bytes()
    content = kept.manifest().verified().content
    assert content["trained"] == 0 and "80 frames are new" in content["decision"]
    campaign.records.verify()
    assert campaign.model(1)[0].fingerprint() == campaign.model(0)[0].fingerprint()
    loaded = campaign.records
    page = decisions.section(loaded, Estimates.from_records(loaded))
    assert "the model of the round before was kept" in page and "80 frames are new" in page
