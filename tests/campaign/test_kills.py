"""A campaign whose driver, walkers and trainers are killed ends as one that was never interrupted, bit for bit."""

from __future__ import annotations

import pytest
import yaml
from helpers.molecules import TINY, TINY_WELLS, run_in_process
from helpers.torture import Torture, differences

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.records.ledger import Ledger
from latf_sampling.records.verification import Verification

SHORT = {
    **TINY_WELLS,
    "segment": "10 ps",
    "learning": {**TINY_WELLS["learning"], **dict.fromkeys(("refinements", "joint_epochs", "flow_epochs"), 1)},
    "rounds": [
        {"walkers": ["1 kJ/mol"], "length": "80 ps"},
        {**TINY["rounds"][2], "walkers": ["1 kJ/mol"], "length": "40 ps"},
    ],
    "starts": {"temperature": "1.5 kJ/mol", "count": 2},
    "evaluate": None,
}
"""One walker a round, since what walkers that share a bias read depends on timing."""
VICTIMS = ["worker", "driver", "trainer"]


@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(tmp_path):
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(yaml.safe_dump(SHORT))
    whole = Campaign(protocol, tmp_path / "whole")
    run_in_process(whole)
    torture = Torture(protocol, tmp_path / "killed", seed=3)
    torture.run(VICTIMS)
    assert torture.kills["driver"] == 1 and sum(torture.kills.values()) >= 2
    assert differences(tmp_path / "killed", tmp_path / "whole") == []
    assert Verification.of(tmp_path / "killed").findings == []
    tasks = Ledger(CampaignDirectory(tmp_path / "killed")).read()[0]
    assert {task.state for task in tasks.values()} == {"finished"}
    assert max(task.attempts for task in tasks.values()) > 1  # what was killed counts
