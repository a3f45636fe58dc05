"""Restart policies: each registered one starts walkers, and an unknown one is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from helpers.molecules import TINY, finished_campaign, run_in_process, write_protocol

from latf_sampling.campaign import choices
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.policies import POLICIES, from_archive
from latf_sampling.errors import SettingsError
from latf_sampling.records.records import Records
from latf_sampling.records.weighting import weightings
from latf_sampling.report import write_report
from latf_sampling.settings import RoundSettings
from latf_sampling.starts.files import StartFiles

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture
def records(tmp_path) -> Records:
    """The tiny campaign as if its second round had not begun."""
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    for name in ("rounds/01", "rounds/02", "starts"):
        shutil.rmtree(directory / name)
    return Records.load(directory)


def test_the_choices_of_the_settings_are_the_registered_policies():
    assert set(get_args(RoundSettings.model_fields["restart"].annotation)) == set(POLICIES)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_writes_one_structure_per_walker(records, name):
    fractions = []
    POLICIES[name](records, 1, 7, lambda fraction, words: fractions.append(fraction))
    files = StartFiles(records.directory.round(1).starts)
    table = files.read_table()
    assert (table["valid"], table["requested"], table["temperature"]) == (2, 2, 300.0)
    assert fractions and fractions[-1] == 1.0
    for index in range(2):
        arrays = files.read_arrays(index)
        assert arrays["positions"].shape == arrays["velocities"].shape == (22, 3)
        assert np.isfinite(arrays["positions"]).all()
        # velocities at 300 K: 55 degrees of freedom
        masses = [records.molecule.system.getParticleMass(k)._value for k in range(22)]
        kinetic = 0.5 * (np.array(masses)[:, None] * arrays["velocities"] ** 2).sum()
        assert 30 < kinetic < 130


def test_each_choice_is_stated_with_its_reason(records):
    """The tiny campaign has one plain walker in its first round."""
    reasons = {}
    for name in ("archive", "uniform", "counts", "frontier", "disagreement", "continue"):
        POLICIES[name](records, 1, 7, lambda fraction, words: None)
        table = StartFiles(records.directory.round(1).starts).read_table()
        reasons[name] = table["settings"]["reason"]
        assert table["settings"]["restart"] == name
        shutil.rmtree(records.directory.round(1).starts)
        if name == "continue":
            assert table["sources"] == [299, 299]
    assert reasons["uniform"] == "drawn at random from 300 frames, all with the same probability"
    assert reasons["counts"].startswith("in the states with the fewest frames: state ")
    assert reasons["frontier"].startswith("at the border of what was visited, where the 10 nearest of 300 frames ")
    assert reasons["disagreement"].startswith("where the flows of the ensemble differ most in their free energy, by ")
    assert reasons["continue"] == "the last ones of round 0, walker 0"


def test_walkers_spread_over_what_they_are_sent_to():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1, 1, size=(2000, 2)), [[6.0, 0.0], [6.2, 0.0], [0.0, 7.0]]])
    chosen, _ = choices.frontier(points, np.array([0.5, 0.5]), 3, rng)
    assert {2002} < set(chosen.tolist()) and len({2000, 2001} & set(chosen.tolist())) == 1
    deviation = np.linalg.norm(points, axis=1)
    chosen, reason = choices.most_uncertain(deviation, points, np.array([0.5, 0.5]), 2)
    assert chosen.tolist() == [2002, 2001] and "by 6.2 to 7 kJ/mol" in reason
    # With more walkers than distinct frames some share one.
    assert choices.most_uncertain(np.ones(2), np.zeros((2, 1)), np.ones(1), 5)[0].tolist() == [0, 1, 0, 1, 0]
    states = np.repeat([0, 1, 3], [500, 20, 90])
    chosen, reason = choices.least_counts(states, 4, 5, 50, rng)
    assert np.bincount(states[chosen]).tolist() == [0, 3, 0, 2]
    assert reason == "in the states with the fewest frames: state 1 with 20, state 3 with 90"


def test_an_ensemble_that_could_disagree_is_needed(tmp_path):
    rounds = [TINY["rounds"][0], {**TINY["rounds"][1], "restart": "disagreement"}]
    learning = {**TINY["learning"], "ensemble": 1}
    with pytest.raises(SettingsError, match=r"rounds\[1\]\.restart: flows disagree where there are several"):
        Campaign(write_protocol(tmp_path, rounds=rounds, learning=learning), tmp_path / "run")


def test_archived_frames_are_drawn_with_their_weights(records, monkeypatch):
    """More walkers than anyone would run, against the weights that the frames were drawn with."""
    walkers = (300.0,) * 200
    monkeypatch.setitem(vars(records.protocol.rounds[1]), "walkers", walkers)
    from_archive(records, 1, 7, lambda fraction, words: None)
    table = StartFiles(records.directory.round(1).starts).read_table()
    (weighting,) = weightings(records, records.frames(0), 300.0, np.random.default_rng(0))
    weights = np.exp(weighting.log_weights[0] - weighting.log_weights[0].max())
    energies = records.frames(0)[0].energies
    mean = np.average(energies, weights=weights)
    spread = np.sqrt(np.average((energies - mean) ** 2, weights=weights) / 200)
    assert abs(energies[table["sources"]].mean() - mean) < 4 * spread
    assert mean + 4 * spread < energies.mean()  # which frames at 600 K without weights do not pass
    np.testing.assert_allclose(energies[table["sources"]], table["energies"], atol=0.5)


def test_a_round_that_restarts_from_the_archive(tmp_path):
    biased = {**TINY["rounds"][1], "restart": "archive", "length": "2 ps"}
    protocol = write_protocol(tmp_path / "given", rounds=[TINY["rounds"][0], biased], starts=None)
    directory = tmp_path / "run"
    campaign = Campaign(protocol, directory)
    with campaign.directory.acquire(campaign.protocol):
        campaign._store_molecule()
    shutil.copytree(finished_campaign() / "rounds" / "00", directory / "rounds" / "00")
    run_in_process(campaign)
    archive = campaign.frames(0)[0].trajectory.xyz
    files = StartFiles(campaign.directory.round(1).starts)
    for index, source in enumerate(files.read_table()["sources"]):
        np.testing.assert_allclose(files.read_arrays(index)["positions"], archive[source], atol=1e-4)
    page = write_report(Records.load(directory)).read_text()
    assert "archived frames, drawn at random with their weights" in page


def test_an_unknown_policy_is_refused(tmp_path):
    rounds = [TINY["rounds"][0], {**TINY["rounds"][1], "restart": "nowhere"}]
    with pytest.raises(SettingsError, match=r"rounds\[1\]\.restart"):
        Campaign(write_protocol(tmp_path, rounds=rounds), tmp_path / "run")


def test_the_first_round_has_nothing_to_restart_from(tmp_path):
    rounds = [{**TINY["rounds"][0], "restart": "archive"}, TINY["rounds"][1]]
    with pytest.raises(SettingsError, match=r"rounds\[0\]\.restart: the first round has no earlier frames"):
        Campaign(write_protocol(tmp_path, rounds=rounds), tmp_path / "run")
