"""A campaign with results gets another protocol: what stays, what is made again, what is refused, what is simulated."""

from __future__ import annotations

import copy as copies
import math
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers.molecules import (
    STRUCTURE,
    TINY,
    TINY_WELLS,
    finished_campaign,
    finished_wells,
    run_in_process,
    write_protocol,
)

from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.extend import extend, preview
from latf_sampling.campaign.findings import Finding
from latf_sampling.campaign.policies import POLICIES
from latf_sampling.campaign.until import Until
from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import ProtocolWarning, RepairWarning, SettingsError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.settings import Protocol
from latf_sampling.simulation.job import WalkerJob
from latf_sampling.starts.files import start_of

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


def changed(**changes: object) -> dict:
    """The tiny protocol with some values replaced, by keys like `rounds__2__length`."""
    content = copies.deepcopy(TINY)
    for key, value in changes.items():
        place, (*parents, last) = content, [int(part) if part.isdecimal() else part for part in key.split("__")]
        for part in parents:
            place = place[part]  # type: ignore[index]
        place[last] = value  # type: ignore[index]
    return content


def store(directory: Path, folder: Path, content: dict) -> CampaignDirectory:
    """Take a protocol for the campaign in a directory, without running it."""
    protocol, files = Protocol.load(write_protocol(folder, **content)), CampaignDirectory(directory)
    with files.acquire(protocol, extend(files, protocol)):
        assert files.protocol().rounds == protocol.rounds
    return files


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("lock", "log.txt", "log.jsonl")
    }


FURTHER = {"walkers": ["300 K"], "length": "4 ps", "bias": {**TINY["rounds"][2]["bias"], "height": "2 kJ/mol"}}
LAST = ("rounds/02/learning", "starts")
ALLOWED = {
    "a round more": ({"rounds": [*TINY["rounds"], FURTHER]}, ("starts",)),
    "two rounds more": ({"rounds": [*TINY["rounds"], FURTHER, TINY["rounds"][2]]}, ("starts",)),
    "a longer last round": ({"rounds__2__length": "60 ps"}, LAST),
    "more walkers": ({"rounds__2__walkers": ["300 K"] * 3}, LAST),
    "longer with more walkers": ({"rounds__2__walkers": ["300 K"] * 3, "rounds__2__length": "50 ps"}, LAST),
    "more starts": ({"starts__count": 5}, ("starts",)),
    "starts at another temperature": ({"starts__temperature": "500 K"}, ("starts",)),
    "a wider tolerance": ({"starts__tolerance": 5}, ("starts",)),
    "no starts": ({"starts": None}, ("starts",)),
    "observe": ({"observe": {"torsion": "psi ALA 2", "above": "90 degree"}}, ()),
    "observe nothing": ({"observe": None}, ()),
    "evaluate": ({"evaluate": {"temperatures": ["300 K"], "length": "4 ps"}}, ()),
    "lag": ({"learning__lag": "0.3 ps"}, LAST),
    "learning": ({"learning__flow_epochs": 5, "learning__select": {"keep": 3}}, LAST),
    "model": ({"model__tau": 1.0}, LAST),
    "dimension": ({"model__latent_dim": 1}, LAST),
    "more descriptors": ({"features": [{"distances": "name CA CB"}, *TINY["features"]]}, LAST),
    "name": ({"name": "another"}, ()),
    "platform": ({"system__platform": "CPU"}, ()),
    "backend": ({"rounds__1__bias__backend": "pythonforce"}, ()),
    "all at once": (
        {"rounds": [*TINY["rounds"], FURTHER], "learning__lag": "0.3 ps", "observe": None, "name": "n"}, LAST
    ),
}  # fmt: skip


def plan(folder: Path, content: dict) -> list[str]:
    """What of the finished campaign does not belong to a protocol; nothing is written."""
    protocol, files = Protocol.load(write_protocol(folder, **content)), CampaignDirectory(finished_campaign())
    stored = Manifest.load(files.path / "protocol.json")
    paths = extend(files, protocol)(protocol.changes(stored.content), stored)
    return [path.relative_to(files.path).as_posix() for path in paths]


@pytest.mark.parametrize("case", ALLOWED)
@pytest.mark.filterwarnings("ignore::latf_sampling.errors.ProtocolWarning")
def test_a_campaign_goes_on_with_what_belongs_to_the_new_protocol(tmp_path, case):
    changes, superseded = ALLOWED[case]
    assert plan(tmp_path, changed(**changes)) == list(superseded)


@pytest.mark.parametrize("case", ["name", "lag", "all at once"])
@pytest.mark.filterwarnings("ignore::latf_sampling.errors.ProtocolWarning")
def test_what_does_not_belong_to_the_new_protocol_is_kept_beside_the_earlier_one(copy, tmp_path, case):
    changes, superseded = ALLOWED[case]
    before = contents(copy)
    files = store(copy, tmp_path / "given", changed(**changes))
    after = contents(copy)
    moved = {name for name in before if name.startswith(tuple(f"{path}/" for path in superseded))}
    stays = before.keys() - moved - {"protocol.json"}
    assert {name: after.get(name) for name in stays} == {name: before[name] for name in stays}
    assert {name: after[f"earlier/1/{name}"] for name in moved} == {name: before[name] for name in moved}
    assert len(after) == len(before) + 1  # the earlier protocol
    (version,) = files.versions()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", version.content["stored"])
    assert version.content["stored"] <= version.content["replaced"]
    assert version.content["name"] == "tiny"
    Records.load(copy).verify()  # every manifest is in order
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store(copy, tmp_path / "given", changed(**changes))  # the same again
    assert contents(copy) == after


REFUSED = {
    "seed": ({"seed": 2}, r"was made with other settings \(seed\)"),
    "physics beside what may change": (
        {"seed": 2, "learning__lag": "0.3 ps", "integrator": {"timestep": "4 fs", "friction": "2 /ps"}},
        r"other settings \(integrator\.friction, seed\)",
    ),
    "time step": ({"integrator": {"timestep": "2 fs"}}, r"\(integrator\.timestep\)"),
    "frames": ({"frame_interval": "0.2 ps"}, r"\(frame_interval\)"),
    "segments": ({"segment": "1 ps"}, r"\(segment\)"),
    "force field": ({"system__hydrogen_mass": "2 amu"}, r"\(system\.hydrogen_mass\)"),
    "constraints": ({"system__constraints": "all-bonds"}, r"\(system\.constraints\)"),
    "restraints": ({"system__restraints": [{"atoms": "name CA", "stiffness": "1 kJ/mol/nm^2"}]}, r"system\.restraints"),
    "bias": ({"rounds__2__bias__height": "2 kJ/mol"}, r"\(rounds\[2\]\.bias\.height\)"),
    "kind of bias": (
        {"rounds__2__bias": {"kind": "flow", "bias_factor": 5, "interval": "0.2 ps"}}, r"rounds\[2\]\.bias\.kind"
    ),
    "no bias": ({"rounds__2__bias": None}, r"\(rounds\[2\]\.bias\)"),
    "restart": ({"rounds__1__restart": "archive"}, r"\(rounds\[1\]\.restart\)"),
    "trust region": (
        {"rounds__2__bias": {**TINY["rounds"][2]["bias"], "trust": {}}}, r"\(rounds\[2\]\.bias\.trust\)"
    ),
    "an earlier round": ({"rounds__1__length": "6 ps"}, r"rounds\[1\]\.length: round 1 is not the last one"),
    "the first round": ({"rounds__0__walkers": ["600 K"] * 2}, r"rounds\[0\]\.walkers: round 0 is not the last one"),
    "a round less": ({"rounds": TINY["rounds"][:2]}, r"rounds\[2\]: this round was simulated"),
    "a shorter round": ({"rounds__2__length": "20 ps"}, r"rounds\[2\]\.length: walker 0 was simulated for 40 ps"),
    "another temperature": (
        {"rounds__2__walkers": ["350 K"]}, r"rounds\[2\]\.walkers: walker 0 was simulated at 300 K, not 350 K"
    ),
    "nearly the same temperature": (
        {"rounds__2__walkers": ["300.0001 K"]}, r"walker 0 was simulated at 300 K, not 300\.0001 K"
    ),
    "trajectories before it": (
        {"from_trajectories": [{"files": [str(STRUCTURE)], "topology": str(STRUCTURE), "temperature": "300 K"}]},
        r"from_trajectories\[0\]: round 0 was simulated, and external trajectories come before all rounds",
    ),
    "other descriptors": ({"features": [{"torsions": "phi"}]}, r"features\[0\]\.torsions: later walkers depend on"),
    "fewer columns": ({"features": [*TINY["features"], {"columns": ["sin phi ALA 2"]}]}, r"features: later walkers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_simulated_cannot_change(tmp_path, case):
    changes, words = REFUSED[case]
    with pytest.raises(StoreError, match=words) as refused:
        plan(tmp_path, changed(**changes))
    assert "\n" not in str(refused.value)


def test_nothing_is_written_where_a_protocol_is_refused(copy, tmp_path):
    before = contents(copy)
    for case in ("physics beside what may change", "a shorter round"):
        with pytest.raises(StoreError, match=REFUSED[case][1]):
            store(copy, tmp_path / "given", changed(**REFUSED[case][0]))
    assert contents(copy) == before


def test_models_that_walkers_depend_on_stay_and_it_is_said(tmp_path):
    with pytest.warns(ProtocolWarning, match=r"learning\.lag: applies from the model of round 2 on; those of rounds 0"):
        assert plan(tmp_path, changed(learning__lag="0.3 ps")) == list(LAST)


def test_a_round_that_has_not_begun_may_be_any(copy, tmp_path):
    for path in ("rounds/02/walker-00", "rounds/02/learning", "starts"):
        shutil.rmtree(copy / path)
    files = CampaignDirectory(copy)
    stored = Manifest.load(copy / "protocol.json")
    for changes, expected in [
        ({"rounds__2__bias__height": "3 kJ/mol"}, ["rounds/02"]),
        ({"rounds__2__length": "6 ps"}, ["rounds/02"]),
        ({"rounds__2__walkers": ["350 K"] * 4, "rounds__2__restart": "archive"}, ["rounds/02"]),
        ({"rounds__2": FURTHER, "starts__thermalise": "2 ps"}, ["rounds/02"]),
        ({"rounds": TINY["rounds"][:2]}, ["rounds/02"]),
        ({"rounds__1__length": "6 ps"}, ["rounds/01/learning", "rounds/02"]),
        ({"starts__release": "0.2 ps"}, ["rounds/02"]),
        ({"starts__count": 9}, []),
    ]:
        protocol = Protocol.load(write_protocol(tmp_path / "given", **changed(**changes)))
        paths = extend(files, protocol)(protocol.changes(stored.content), stored)
        assert [path.relative_to(copy).as_posix() for path in paths] == expected, changes


def test_structures_for_added_walkers_that_are_not_finished_are_begun_anew(copy, tmp_path):
    (copy / "rounds/02/starts-001/targets").mkdir(parents=True)
    files, stored = CampaignDirectory(copy), Manifest.load(copy / "protocol.json")
    for changes in ({"rounds__2__walkers": ["300 K"] * 3}, {"starts__tolerance": 5}):
        protocol = Protocol.load(write_protocol(tmp_path / "given", **changed(**changes)))
        paths = extend(files, protocol)(protocol.changes(stored.content), stored)
        assert copy / "rounds/02/starts-001" in paths and copy / "rounds/02/starts" not in paths


def test_the_first_model_alone_is_learned_from_any_descriptors(copy, tmp_path):
    for path in ("rounds/01", "rounds/02", "starts"):
        shutil.rmtree(copy / path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store(copy, tmp_path / "given", changed(features=[{"torsions": "phi"}], model__flow_bins=6))
    assert (copy / "earlier/1/rounds/00/learning/model.pt").exists()


def test_an_interrupted_change_is_finished(copy, tmp_path, monkeypatch):
    """Whatever was moved when the process ended, the same protocol and the old one both lead to a whole campaign."""
    given, before = changed(rounds__2__length="60 ps"), contents(copy)
    with monkeypatch.context() as patch:
        patch.setattr(CampaignDirectory, "_store", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store(copy, tmp_path / "given", given)
    assert contents(copy)["protocol.json"] == before["protocol.json"] and not (copy / "starts").exists()
    files = store(copy, tmp_path / "given", given)
    assert len(files.versions()) == 1 and (copy / "earlier/1/starts/starts.json").exists()


def test_every_version_that_ran_is_kept(copy, tmp_path):
    for count in (3, 4, 5):
        files = store(copy, tmp_path / "given", changed(starts__count=count))
    assert [version.content["starts"]["count"] for version in files.versions()] == [2, 3, 4]


def test_inputs_of_an_earlier_protocol_are_kept(copy, tmp_path):
    before = next((copy / "inputs").glob("*.pdb")).read_bytes()
    path = write_protocol(tmp_path)
    structure = next(tmp_path.glob("*.pdb"))
    structure.write_text("REMARK   1 by me\n" + structure.read_text())
    protocol, files, said = Protocol.load(path), CampaignDirectory(copy), []
    with files.acquire(protocol, extend(files, protocol, lambda *words: said.append(words))):
        pass
    assert said == [] and (files.versions()[0].path.parent / "inputs" / structure.name).read_bytes() == before
    protocol = Protocol.load(write_protocol(tmp_path / "given", **changed(starts__count=3)))
    with files.acquire(protocol, extend(files, protocol, lambda *words: said.append(words))):
        pass
    words = f"Changed in starts.count. Made again where needed, while the earlier ones go to {copy}/earlier: starts."
    assert said == [("protocol", 1.0, words)]


def test_a_campaign_goes_on_without_the_structure_beside_its_protocol(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Campaign, "_report", lambda *_: None)
    path, before = write_protocol(tmp_path / "given"), contents(copy)
    structure = next((tmp_path / "given").glob("*.pdb"))
    structure.unlink()
    words = f"{structure}: is gone; the campaign goes on with its copy, {copy / 'inputs' / structure.name}"
    with pytest.warns(RepairWarning, match=re.escape(words)):
        Campaign(path, copy).run()
    assert contents(copy) == before


def test_what_a_run_would_do_is_told_before(copy, tmp_path):
    files = CampaignDirectory(copy)

    def told(**changes) -> list[str]:
        return preview(files, Protocol.load(write_protocol(tmp_path / "given", **changed(**changes))))

    assert told() == told(name="another") == []
    assert told(starts__count=4) == [
        f"Changed in starts.count. Made again where needed, while the earlier ones go to {copy}/earlier: starts."
    ]
    first, second = told(learning__lag="0.3 ps")
    assert first.endswith("rounds/02/learning, starts.") and second.startswith("learning.lag: applies from the model")
    with pytest.raises(StoreError, match=r"other settings \(seed\)"):
        told(seed=2)
    assert preview(CampaignDirectory(tmp_path / "none"), files.protocol()) == []


# ------------------------------------------------------------------------------------------------------------ evaluate


@pytest.mark.parametrize(
    ("evaluate", "kept"),
    [
        ({"temperatures": ["1.5 kJ/mol"], "length": "200 ps"}, 2),
        ({"temperatures": ["1.5 kJ/mol", "2 kJ/mol"], "length": "100 ps"}, 2),
        ({"temperatures": ["1.5 kJ/mol"], "length": "50 ps"}, 1),
        ({"temperatures": ["2 kJ/mol"], "length": "100 ps"}, 0),
        (None, 0),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_references_are_simulated_where_they_are_missing(tmp_path, evaluate, kept, old):
    directory = Path(shutil.copytree(finished_wells(), tmp_path / "copy"))
    if old:  # as version 0.2 wrote them
        (directory / "references").rename(directory / "rounds" / "01")
        assert len(Records.load(directory).references()) == 1
    further = {**TINY_WELLS["rounds"][0], "walkers": ["1 kJ/mol"]}
    content = {**TINY_WELLS, "evaluate": evaluate, "rounds": [*TINY_WELLS["rounds"], further]}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(content))
    protocol, files = Protocol.load(tmp_path / "protocol.yaml"), CampaignDirectory(directory)
    with files.acquire(protocol, extend(files, protocol)):
        pass
    assert len(files.references(2).walker(0).markers()) == kept
    assert not (directory / "rounds" / "01").exists() and not files.evaluation_marker.exists()
    assert (directory / "earlier/1/evaluation.html").exists()


# ---------------------------------------------------------------------------------------------------------- simulation


PLAIN = {
    **{key: value for key, value in TINY_WELLS.items() if key not in ("observe", "evaluate")},
    "segment": "10 ps",
    "rounds": [{"walkers": ["1 kJ/mol"], "length": "30 ps"}],
}


@pytest.fixture
def unlearned(monkeypatch):
    """Campaigns whose rounds are simulated and not learned from."""

    def finish(campaign, index, *arguments):
        storage.write_json(campaign.directory.round(index).learning.checkpoint, {})

    monkeypatch.setattr(loop.Campaign, "_learn", finish)
    monkeypatch.setattr(loop.Campaign, "_report", lambda *_: None)


def simulate(folder: Path, directory: Path, **changes) -> Records:
    folder.mkdir(exist_ok=True)
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**PLAIN, **changes}))
    run_in_process(Campaign(folder / "protocol.yaml", directory))
    return Records.load(directory)


def test_references_are_the_same_in_a_campaign_of_more_rounds(tmp_path):
    jobs = []
    for rounds in (PLAIN["rounds"], PLAIN["rounds"] * 2):
        content = {**PLAIN, "rounds": rounds, "evaluate": TINY_WELLS["evaluate"]}
        (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(content))
        jobs.append(WalkerJob(Protocol.load(tmp_path / "protocol.yaml"), len(rounds), 0, tmp_path))
    assert jobs[0].stream(3, 0) == jobs[1].stream(3, 0) and jobs[1].name == "references, walker 0"


def test_an_extended_round_is_the_one_that_was_longer_from_the_beginning(tmp_path, unlearned):
    rounds = [{"walkers": ["1 kJ/mol", "2 kJ/mol"], "length": "50 ps"}]
    simulate(tmp_path / "given", tmp_path / "grown")
    grown = simulate(tmp_path / "given", tmp_path / "grown", rounds=rounds)
    whole = simulate(tmp_path / "given", tmp_path / "whole", rounds=rounds)
    for one, other in zip(grown.frames(), whole.frames(), strict=True):
        assert len(one) == 500 and one.temperature == other.temperature
        assert np.array_equal(one.trajectory.xyz, other.trajectory.xyz)
        assert np.array_equal(one.energies, other.energies)


def test_structures_for_walkers_that_are_added(copy, tmp_path, monkeypatch):
    """Those that have walkers stay; further walkers get structures of their own, by a stream of their own."""
    calls = []

    def policy(records, index, seed, progress, first, executor):
        calls.append((index, seed, first))
        POLICIES["archive"](records, index, seed, progress, first, executor)

    monkeypatch.setitem(POLICIES, "flow", policy)
    before = contents(copy)
    for walkers in (2, 4):
        path = write_protocol(tmp_path / "given", **changed(rounds__2__walkers=["300 K"] * walkers))
        campaign = Campaign(path, copy)
        with campaign.directory.acquire(campaign.protocol, extend(campaign.directory, campaign.protocol)):
            campaign._restart(2, campaign.protocol.rounds[2], None, lambda *arguments: None)
    assert [(index, first) for index, _, first in calls] == [(2, 1), (2, 2)]
    assert len({seed for _, seed, _ in calls}) == 2
    files = campaign.directory.round(2)
    names = [start_of(files, number).relative_to(files.path).as_posix() for number in range(4)]
    assert names == [f"{folder}/start-{k:03d}.npz" for folder, k in
                     [("starts", 0), ("starts-001", 0), ("starts-002", 0), ("starts-002", 1)]]  # fmt: skip
    after = contents(copy)
    assert all(after[name] == value for name, value in before.items() if name.startswith("rounds/02/starts/"))


# ------------------------------------------------------------------------------------------------------- --until -----


OBSERVED = {"observe": TINY_WELLS["observe"], "rounds": [{"walkers": ["1 kJ/mol"], "length": "10 ps"}]}


@pytest.fixture
def errors(monkeypatch):
    """Errors of the free-energy difference, one for each number of rounds, in kJ/mol."""
    values: list[float | None] = []
    looks: dict[tuple[Campaign, int], list[float | None]] = {}

    def finding(campaign, executor, settled):
        known = looks.setdefault((campaign, campaign.n_rounds), [])
        known.append(known[0] if known else values.pop(0) if values else None)
        value = known[0]
        assert len(known) <= campaign.n_rounds, "a round is looked at once"
        return Finding(300.0, "x > 0", math.nan, math.nan) if value is None else Finding(300.0, "x > 0", 1.0, value)

    monkeypatch.setattr(loop.Campaign, "_free_energy", finding)
    monkeypatch.setattr(loop.Campaign, "_restart", lambda *arguments: None)
    monkeypatch.setattr(loop.repair, "repair_starts", lambda *arguments, **options: None)
    monkeypatch.setattr("latf_sampling.campaign.campaign.start_of", lambda *arguments: None)
    return values


def run_until(folder: Path, until: Until | None, **changes) -> Records:
    folder.mkdir(exist_ok=True)
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**PLAIN, **OBSERVED, **changes}))
    run_in_process(Campaign(folder / "protocol.yaml", folder / "run"), until=until)
    return Records.load(folder / "run")


def test_rounds_are_added_until_the_error_is_small(tmp_path, unlearned, errors):
    errors += [None, math.nan, 0.5, 0.3]
    until = Until(0.3)
    records = run_until(tmp_path, until)
    assert errors == [] and until.reached == 0.3
    assert [len(walker) for walker in records.frames()] == [100] * 4
    versions = records.directory.versions()
    assert [len(version.content["rounds"]) for version in versions] == [1, 2, 3]
    # The same command, without the option or with it, and the campaign by its directory go on with these rounds.
    assert len(run_until(tmp_path, None).protocol.rounds) == 4
    run_in_process(Campaign.load(tmp_path / "run"))
    errors += [0.3, 0.1]
    assert len(run_until(tmp_path, Until(0.2)).protocol.rounds) == 5
    # A protocol with a round of its own has that in place of a copy, and one more beyond them is one more.
    assert len(run_until(tmp_path, None, rounds=OBSERVED["rounds"] * 2).protocol.rounds) == 5
    assert len(run_until(tmp_path, None, rounds=OBSERVED["rounds"] * 6).protocol.rounds) == 6
    with pytest.raises(StoreError, match=r"rounds\[1\]: this round was simulated, and the protocol lacks it"):
        run_until(tmp_path, None)


def test_rounds_that_are_added_have_an_end(tmp_path, unlearned, errors):
    errors += [1.0, 0.9]
    until = Until(0.3, max_rounds=2)
    assert len(run_until(tmp_path, until).protocol.rounds) == 2
    assert until.words == "the error of the free-energy difference is 0.9 kJ/mol; 0.3 kJ/mol are wanted"


def test_a_campaign_ends_when_neither_the_free_energy_nor_the_states_change(tmp_path, unlearned, monkeypatch):
    """Values and errors of the free energy, and numbers of states, after each round."""
    values = [(9.0, 0.1), (8.2, 0.1), (8.0, 0.1), (8.1, 0.1)]
    states = [3, 4, 4, 4]

    def estimates(records):
        done = records.n_rounds
        rounds = {k: SimpleNamespace(value=value, error=error) for k, (value, error) in enumerate(values[:done])}
        return SimpleNamespace(
            temperature=300.0,
            state="x > 0",
            observed=None,
            pooled=rounds[done - 1],
            rounds=rounds,
            sampled=rounds,
            until_round=lambda records, index: rounds[index],
            convergence=SimpleNamespace(converged=done > 3, reasons=["the halves differ"]),
        )

    def learned(records):
        return [(k, SimpleNamespace(history={"states": range(n)})) for k, n in enumerate(states[: records.n_rounds])]

    monkeypatch.setattr("latf_sampling.report.estimates.Estimates", SimpleNamespace(from_records=estimates))
    monkeypatch.setattr(Records, "learned", property(learned))
    monkeypatch.setattr(loop.Campaign, "_restart", lambda *arguments: None)
    monkeypatch.setattr(loop.repair, "repair_starts", lambda *arguments, **options: None)
    monkeypatch.setattr("latf_sampling.campaign.campaign.start_of", lambda *arguments: None)
    told, until = [], Until(0.3, settled=True)
    asks = Until.asks_for_more
    monkeypatch.setattr(Until, "asks_for_more", lambda self, *rest: (asks(self, *rest), told.append(self.unsettled))[0])
    records = run_until(tmp_path, until)
    assert records.n_rounds == 4
    assert told == [
        ["there is no earlier model to compare the states with"],
        [
            "the last round changed the number of states from 3 to 4",
            "the last round changed the free energy by 0.8 kJ/mol, more than 0.28 kJ/mol",
            "the halves differ",
        ],
        ["the halves differ"],
        [],
    ]
    written = storage.read_json(records.directory.until)
    assert written == {"round": 3, "decision": "no further round", "reason": until.words}
    assert run_until(tmp_path, Until(0.05, max_rounds=4)).n_rounds == 4
    assert storage.read_json(records.directory.until)["decision"] == "no further round, since there are 4"


def test_an_added_round_that_was_interrupted_goes_on(tmp_path, unlearned, errors, monkeypatch):
    def interrupted(self, index, *arguments):
        raise KeyboardInterrupt

    errors += [1.0]
    simulate = loop.Campaign._simulate
    with monkeypatch.context() as patch:
        patch.setattr(loop.Campaign, "_simulate", lambda self, index, *rest:
                      (interrupted if index else simulate)(self, index, *rest))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            run_until(tmp_path, Until(0.3))
    errors += [0.1]
    assert len(run_until(tmp_path, Until(0.3)).frames()) == 2


def test_what_cannot_be_run_until_an_error_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SettingsError, match="observe: without this key"):
        run_until(tmp_path, Until(0.3), observe=None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [(0,), (-1.0,), (math.nan,), (1.0, 0), ("0.2",)])
def test_errors_that_cannot_be_reached_are_refused(arguments):
    with pytest.raises(SettingsError, match="until"):
        Until(*arguments)
