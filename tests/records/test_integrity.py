"""What a user reads when a file of a campaign is missing or was changed, and what a run makes again."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.molecules import TINY, finished_campaign, finished_wells, run_in_process, step_here, write_protocol

from latf_sampling.bias.history import History, hills_digest, keep_hills, verify_hills
from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.repair import repair_evaluation, repair_starts
from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.errors import RepairWarning, SettingsError, StoreError
from latf_sampling.learning.training.checkpoint import Checkpoint
from latf_sampling.records.records import Records
from latf_sampling.report import write_report
from latf_sampling.settings import Protocol
from latf_sampling.starts.files import StartFiles

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore:LaTF")]


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def first_lines(count: int) -> Callable[[str], str]:
    return lambda text: "".join(text.splitlines(keepends=True)[:count])


HILLS, SEGMENT, MODEL = "rounds/02/hills/walker-00.hills", "rounds/02/walker-00/segment-", "rounds/02/learning/"
TRAINED = r"The model of round 2 was trained on it: restore it, or delete .*rounds/02/learning and all later rounds"
CHANGES = {
    "hills cut": (HILLS, lambda path: edit(path, first_lines(50)), rf"its first \d+ hills are not those .* {TRAINED}"),
    "hills deleted": (HILLS, Path.unlink, rf"walker-00\.hills: is missing\. {TRAINED}"),
    "hill added": (HILLS, lambda path: edit(path, lambda text: text + text.splitlines()[-1] + "\n"), "more hills than"),
    "hill changed": (HILLS, lambda path: edit(path, lambda text: text[:-3] + "9" + text[-2:]), "are not those that"),
    "marker deleted": (f"{SEGMENT}007.json", Path.unlink, r"segment-007\.json: is missing, while later segments"),
    "last marker deleted": (f"{SEGMENT}019.json", Path.unlink, rf"segment-019\.json: is missing\. {TRAINED}"),
    "walker deleted": ("rounds/02/walker-00", shutil.rmtree, r"segment-000\.json: is missing\. The model"),
    "marker emptied": (f"{SEGMENT}007.json", lambda path: path.write_text("{}"), r"segment-007\.json: is damaged"),
    "energies": (f"{SEGMENT}007.npz", lambda path: path.write_bytes(b"\0"), r"segment-007\.npz: was changed after"),
    "variable of another round": (
        f"{MODEL}cv.pt",
        lambda path: shutil.copyfile(path.parents[2] / "01" / "learning" / "cv.pt", path),
        r"cv\.pt: was changed after it was finished(; it has .* bytes)?\. `latf run` trains this model again",
    ),
    "history": (
        f"{MODEL}history.json",
        lambda path: edit(path, lambda text: text.replace('"converged": ', '"converged": 1')),
        r"history\.json: was changed|history\.json: is damaged",
    ),
    "model of an earlier round": (
        "rounds/01/learning",
        shutil.rmtree,
        r"rounds/01/learning/history\.json: is missing, while the walkers of round 2 were biased along",
    ),
    "start": ("rounds/02/starts/start-000.npz", Path.unlink, r"start-000\.npz: is missing"),
    "starts": (
        "rounds/02/starts/starts.json",
        Path.unlink,
        r"starts\.json: cannot be read \(No such file .* The walkers of round 2 started",
    ),
    "structure of a start": ("starts/start-000.pdb", lambda path: path.write_text(""), r"start-000\.pdb: was changed"),
    "structure": ("system/structure.cif", lambda path: path.write_text(""), r"structure\.cif: was changed"),
    "molecule": (
        "system/molecule.json",
        lambda path: edit(path, lambda text: text.replace("0.1", "0.2", 1)),
        r"molecule\.json: was changed after it was written",
    ),
    "input": (
        "inputs/alanine-dipeptide.pdb",
        lambda path: edit(path, lambda text: text.replace("1.", "2.", 1)),
        r"inputs/alanine-dipeptide\.pdb: was changed after it was finished",
    ),
    "protocol": (
        "protocol.json",
        lambda path: edit(path, lambda text: text.replace('"seed": 1', '"seed": 2')),
        r"protocol\.json: was changed after the campaign was made; restore it",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_report_is_refused(copy, case):
    name, change, words = CHANGES[case]
    change(copy / name)
    with pytest.raises(StoreError, match=words) as refused:
        write_report(Records.load(copy))
    assert "\n" not in str(refused.value)


class MadeAgain(Exception):
    pass


@pytest.fixture
def costly(monkeypatch):
    """Steps that cost more than writing a file raise."""

    def again(*arguments, **settings):
        raise MadeAgain

    monkeypatch.setattr("latf_sampling.campaign.learning.train_model", again)
    monkeypatch.setattr(loop.structures, "generate", again)
    monkeypatch.setattr(loop.Campaign, "_report", lambda *_: None)
    monkeypatch.setattr(loop, "run_step", step_here)
    monkeypatch.setattr(loop, "run_walkers", again)


REFUSED = ["hills cut", "hills deleted", "hill added", "hill changed", "marker deleted", "last marker deleted"]
REFUSED += ["walker deleted", "marker emptied", "energies"]


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_refuses_what_a_model_was_trained_on(copy, tmp_path, costly, case):
    name, change, words = CHANGES[case]
    change(copy / name)
    with pytest.raises(StoreError, match=words):
        Campaign(write_protocol(tmp_path / "given"), copy).run()


@pytest.mark.filterwarnings("ignore::latf_sampling.errors.RepairWarning")
def test_a_run_refuses_structures_that_walkers_started_from(copy, tmp_path, costly):
    name, change, _ = CHANGES["starts"]
    change(copy / name)
    with pytest.raises(StoreError, match=r"starts\.json: is missing.*alkers have started"):
        Campaign(write_protocol(tmp_path / "given"), copy).run()


@pytest.mark.parametrize("case", ["variable of another round", "history", "model of an earlier round"])
def test_a_run_trains_a_model_again(copy, tmp_path, costly, case):
    name, change, _ = CHANGES[case]
    change(copy / name)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(MadeAgain):
        warnings.simplefilter("always", RepairWarning)
        Campaign(write_protocol(tmp_path / "given"), copy).run()
    words = [str(warning.message) for warning in caught if warning.category is RepairWarning]
    assert len(words) == 1
    lost = case == "model of an earlier round"  # which only the ledger knows of
    assert words[0].endswith("is made again." if lost else "The model is trained again.")


def test_a_training_whose_checkpoint_is_damaged_begins_anew(copy, tmp_path, monkeypatch):
    learning = copy / MODEL
    (learning / "history.json").unlink()
    (learning / "training.pt").write_bytes(b"half a file")
    seen = []

    def train(*arguments, checkpoint, **settings):
        seen.append(checkpoint.exists())
        Checkpoint(checkpoint, *([None] * 4)).load()
        raise MadeAgain

    monkeypatch.setattr(Checkpoint, "__init__", lambda self, path, *rest: setattr(self, "path", path))
    monkeypatch.setattr("latf_sampling.learning.training.train", train)
    monkeypatch.setattr(loop, "run_step", step_here)
    with (
        pytest.warns(RepairWarning, match=r"training\.pt: is damaged, or .* from the beginning"),
        pytest.raises(MadeAgain),
    ):
        Campaign(write_protocol(tmp_path / "given"), copy).run()
    assert seen == [True, False]


@pytest.mark.filterwarnings("ignore::latf_sampling.errors.ProtocolWarning")
def test_a_lost_model_is_trained_with_the_settings_that_it_was_learned_with(copy, tmp_path, monkeypatch):
    lags, model = [], Records.load(copy).model(1)

    def train(records, index, *arguments):
        lags.append((index, records.protocol.learning.lag, records.lag))
        if index == 2:
            raise MadeAgain
        return (*model, None) if records.lag == 2 else (*Records.load(copy).model(0), None)

    monkeypatch.setattr(loop, "run_step", step_here)
    monkeypatch.setattr("latf_sampling.campaign.learning.train_model", train)
    for lag in ("0.3 ps", "0.5 ps"):
        with pytest.raises(MadeAgain):
            Campaign(write_protocol(tmp_path / "given", learning={**TINY["learning"], "lag": lag}), copy).run()
    shutil.rmtree(copy / "rounds/01/learning")
    lags.clear()
    with pytest.raises(AttributeError):  # the stub has no history
        Campaign.load(copy).run()
    assert lags == [(1, 0.2, 2)]
    monkeypatch.setattr("latf_sampling.campaign.learning.train_model", lambda records, *arguments: (
        lags.append(records.protocol.learning.lag), (*Records.load(copy).model(0), None)
    )[1])  # fmt: skip
    lags.clear()
    with pytest.raises(StoreError, match=r"its variable is not the one that the walkers of round 2 were biased along"):
        Campaign.load(copy).run()
    assert lags == [0.2, 0.3, 0.5]


@pytest.mark.parametrize(("before", "kept"), [("CPU", False), ("Reference", True)])
def test_structures_that_were_begun_on_another_platform_are_begun_anew(copy, before, kept):
    (copy / "starts/starts.json").unlink()
    (copy / "starts/targets").mkdir()
    storage.write_json(copy / "starts/targets/plan.json", {"platform": before})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RepairWarning)
        repair_starts(Records.load(copy), StartFiles(copy / "starts"), begun=False)
    assert (copy / "starts/targets").exists() == kept
    words = f"starts/targets: was begun on the platform {before}. The structures are made again on Reference."
    assert [str(warning.message).endswith(words) for warning in caught] == [True] * (not kept)


def test_what_a_kill_left_beside_finished_structures_is_removed(copy):
    storage.write_json(copy / "starts/targets/plan.json", {})
    repair_starts(Records.load(copy), StartFiles(copy / "starts"), begun=False)
    assert not (copy / "starts/targets").exists()


def test_a_model_that_is_not_the_one_in_use_is_not_stored(copy, tmp_path, monkeypatch):
    """Walkers were biased along a variable that is lost; another one must not take its place in silence."""
    shutil.rmtree(copy / "rounds" / "01" / "learning")
    campaign = Campaign(write_protocol(tmp_path / "given"), copy)
    stored = campaign.model(0)
    monkeypatch.setattr(loop, "run_step", step_here)
    monkeypatch.setattr("latf_sampling.campaign.learning.train_model", lambda *arguments: (*stored, None))
    with pytest.raises(
        StoreError, match="was trained again, and its variable is not the one that the walkers of round 2"
    ):
        campaign.run()
    assert [path.name for path in (copy / "rounds" / "01" / "learning").iterdir()] == ["attempts.txt"]


@pytest.mark.parametrize("case", ["structure of a start", "structure", "molecule", "input", "protocol"])
def test_a_run_writes_again_what_it_can(copy, tmp_path, costly, case):
    name, change, _ = CHANGES[case]
    change(copy / name)
    with pytest.warns(RepairWarning, match=re.escape(Path(name).name)):
        Campaign(write_protocol(tmp_path / "given"), copy).run()
    records = Records.load(copy)
    assert len(records.frames()) == 4 and records.starts(copy / "starts") is not None
    assert np.array_equal(records.molecule.positions, Records.load(finished_campaign()).molecule.positions)


@pytest.mark.parametrize("damaged", ["segment-005.nc", "segment-005.json", "hills"])
def test_segments_that_no_model_depends_on_are_simulated_again(copy, tmp_path, monkeypatch, damaged):
    """Frames and hills are those of the campaign that was not damaged, to the last bit on the Reference platform."""
    monkeypatch.setattr(loop.Campaign, "_learn", lambda *arguments: None)
    monkeypatch.setattr(loop.Campaign, "_final_starts", lambda *arguments: None)
    monkeypatch.setattr(loop.Campaign, "_report", lambda *_: None)
    shutil.rmtree(copy / "rounds" / "02" / "learning")
    path = copy / HILLS if damaged == "hills" else copy / "rounds" / "02" / "walker-00" / damaged
    if damaged == "hills":
        edit(path, lambda text: "".join([*text.splitlines(keepends=True)[:80], "garbage\n"]))
    elif damaged.endswith("json"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(RepairWarning, match="It is made again from there"):
        run_in_process(Campaign(write_protocol(tmp_path / "given"), copy))
    mine, other = Records.load(copy).frames()[-1], Records.load(finished_campaign()).frames()[-1]
    assert np.array_equal(mine.trajectory.xyz, other.trajectory.xyz)
    assert np.array_equal(mine.energies, other.energies)
    hills = [np.loadtxt(directory / HILLS) for directory in (copy, finished_campaign())]
    assert np.array_equal(*hills)


def test_an_evaluation_that_is_damaged_is_made_again(copy):
    page = copy / "evaluation.html"
    page.write_text("page")
    Manifest.write(copy / "evaluation.json", {}, [page])
    page.write_text("other")
    with pytest.warns(RepairWarning, match=r"evaluation\.html: was changed.* The evaluation is made again"):
        repair_evaluation(Records.load(copy))
    assert not (copy / "evaluation.json").exists()


def test_a_reference_that_the_model_was_evaluated_with_is_named(tmp_path):
    """Also the last segment, after which nothing is missing for those who count up to the first gap."""
    wells = Path(shutil.copytree(finished_wells(), tmp_path / "wells"))
    last = max((wells / "references" / "walker-00").glob("segment-*.json"))
    last.unlink()
    with pytest.raises(StoreError, match=rf"{last.name}: is missing\. The model was evaluated with it: restore it, or"):
        Records.load(wells).verify()


def test_what_was_made_from_another_model_is_made_again(copy):
    """As after the segments that a model was learned from were lost, and simulated again on another platform."""
    records, last, page = Records.load(copy), StartFiles(copy / "starts"), copy / "evaluation.html"
    targets = StartFiles(copy / "rounds" / "02" / "starts")
    page.write_text("page")
    learned = [Manifest.load(copy / "rounds" / number / "learning" / "history.json") for number in ("01", "02")]
    Manifest.write(copy / "evaluation.json", {"variable": learned[1].content["variable"]}, [page])

    def repair_all(begun: bool = False) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            repair_starts(records, targets, begun=begun, learned=1)
            repair_evaluation(records)
            repair_starts(records, last, begun=False)
        return [str(entry.message).removeprefix(f"{copy}/") for entry in caught]

    def learn_again(manifest: Manifest) -> None:
        paths = [manifest.path.parent / name for name in manifest.files]
        Manifest.write(manifest.path, {**manifest.content, "variable": "another"}, paths)

    records.verify()
    assert repair_all() == []
    learn_again(learned[1])
    with pytest.raises(StoreError, match=r"starts\.json: was made from another model .*`latf run` makes it again"):
        records.verify()
    words = "was made from another model than rounds/02/learning/model.pt, which was learned again. It is made again."
    assert repair_all() == [f"evaluation.json: {words}", f"starts/starts.json: {words}"]
    assert not (copy / "evaluation.json").exists() and not last.complete
    learn_again(learned[0])
    assert repair_all(begun=True) == []  # walkers have started from these structures
    plan = copy / "starts" / "targets" / "plan.json"
    storage.write_json(plan, {"variable": learned[1].content["variable"]})
    assert repair_all() == [
        f"rounds/02/starts/starts.json: {words.replace('02', '01')}", f"starts/targets/plan.json: {words}"
    ]  # fmt: skip
    assert not targets.complete and not plan.parent.exists()


# ---------------------------------------------------------------------------------------------- protocols and versions


def test_a_mended_protocol_is_accepted_where_nothing_was_simulated(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise SettingsError("a frame is damaged")

    monkeypatch.setattr(loop, "run_walkers", refuse)
    with pytest.raises(SettingsError, match="damaged"):
        Campaign(write_protocol(tmp_path / "first"), tmp_path / "run").run()
    with pytest.raises(SettingsError, match="damaged"):
        Campaign(write_protocol(tmp_path / "second", seed=5), tmp_path / "run").run()
    assert Records.load(tmp_path / "run").protocol.seed == 5


def test_a_new_name_and_a_remark_are_no_other_campaign(copy, tmp_path, costly):
    path = write_protocol(tmp_path / "given", name="new name")
    structure = next(path.parent.glob("*.pdb"))
    structure.write_text("REMARK   1 by me\n" + structure.read_text())
    Campaign(path, copy).run()
    assert Records.load(copy).protocol.name == "new name"
    assert next((copy / "inputs").glob("*.pdb")).read_text() == structure.read_text()


def test_a_campaign_of_a_version_without_a_setting_goes_on(copy, tmp_path, costly):
    """Also where the digest tells that the key was removed by hand: it has its default."""
    content = storage.read_json(copy / "protocol.json")
    del content["model"]["tau"]
    del content["observe"]["below" if "below" in content["observe"] else "reference"]
    storage.write_json(copy / "protocol.json", content)
    assert Records.load(copy).protocol == Records.load(finished_campaign()).protocol.model_copy(
        update={"system": Records.load(copy).protocol.system}
    )
    Campaign(write_protocol(tmp_path / "given"), copy).run()


def test_a_campaign_of_a_later_version_is_refused_by_its_version(copy, tmp_path):
    content = storage.read_json(copy / "protocol.json")
    Manifest.write(copy / "protocol.json", {**content, "version": "99.1", "telepathy": True}, [])
    for attempt in (Records.load, Campaign.load, lambda path: Campaign(write_protocol(tmp_path / "p"), path).run()):
        with pytest.raises((StoreError, SettingsError), match=r"made by latf_sampling 99\.1"):
            attempt(copy)


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "inputs/../../protocol.json"])
def test_a_stored_protocol_names_no_file_outside_of_its_campaign(copy, name):
    content = storage.read_json(copy / "protocol.json")
    content["system"]["structure"]["name"] = name
    Manifest.write(copy / "protocol.json", {k: v for k, v in content.items() if k not in ("files", "digest")}, [])
    with pytest.raises((StoreError, SettingsError)) as refused:
        Records.load(copy)
    assert "root:" not in str(refused.value)


def test_a_damaged_protocol_is_named_and_not_its_keys(copy):
    path = copy / "protocol.json"
    path.write_text(path.read_text().replace('"length"', '"lengdh"', 1))
    with pytest.raises(StoreError, match=r"protocol\.json: was changed after the campaign was made; restore it\.$"):
        Records.load(copy)
    path.write_text('{"a": 1}')
    with pytest.raises(StoreError, match=r"protocol\.json: is damaged; it holds no settings of a campaign\.$"):
        Records.load(copy)
    path.unlink()
    with pytest.raises(StoreError, match=r"protocol\.json: is missing, while the campaign's results are here"):
        Records.load(copy)


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "", "null"])
def test_something_that_is_no_protocol_is_refused(copy, text):
    (copy / "protocol.json").write_text(text)
    with pytest.raises((StoreError, SettingsError)) as refused:
        Records.load(copy)
    assert str(copy) in str(refused.value)
    assert json.dumps(Protocol.model_fields, default=str) not in str(refused.value)


# --------------------------------------------------------------------------------------------------------------- hills


def test_hills_are_recognized_up_to_a_number(tmp_path):
    path = tmp_path / "walker-00.hills"
    head, hills = "#! FIELDS step u0\n#! SET generation 0\n", [f"{k} 0.{k}\n" for k in range(1, 6)]
    path.write_text(head + "".join(hills))
    saved = {"entries": 3, "sha256": hills_digest(path, 3)}
    verify_hills(path, saved, complete=False)
    with pytest.raises(StoreError, match="holds more hills than the 3"):
        verify_hills(path, saved, complete=True)
    path.write_text(head.replace("generation 0", "generation 4") + "".join(hills[:3]) + "4 0.")  # a broken last line
    verify_hills(path, saved, complete=True)
    keep_hills(path, 2)
    assert path.read_text().endswith("2 0.2\n")
    with pytest.raises(StoreError, match="its first 3 hills are not those that were added"):
        verify_hills(path, saved, complete=False)
    assert hills_digest(path, 0) == hills_digest(tmp_path / "walker-00.hills", 0)
    keep_hills(path, 0)
    with pytest.raises(StoreError, match="is missing"):
        verify_hills(path, saved, complete=False)


@pytest.mark.parametrize(
    "damage", [("u0", "u1"), ("300.0", "600.0"), ("#! SET temperature 300.0\n", ""), ("tion 0", "tion x")]
)
def test_the_settings_above_hills_are_verified(tmp_path, damage):
    settings = {"temperature": "300.0"}
    history = History(tmp_path / "walker-00.hills", ["step", "u0"], settings)
    history.add([1, 0.1])
    history.write()
    saved, path = history.summary(), tmp_path / "walker-00.hills"
    history.rewind(0)  # the next generation
    history.close()
    verify_hills(path, {**saved, "entries": 0, "sha256": hills_digest(path, 0)}, complete=True)
    path.write_text(path.read_text().replace("tion 1", "tion 0").replace(*damage) + "1 0.1\n")
    with pytest.raises(StoreError, match="its first lines, with the settings of the bias, were changed"):
        verify_hills(path, saved, complete=False)


def test_the_state_of_opes_belongs_to_its_kernels(tmp_path):
    path, state = tmp_path / "walker-00.hills", tmp_path / "walker-00.npz"
    path.write_text("#! FIELDS step u0\n1 0.1\n")
    state.write_bytes(b"state")
    saved = {"entries": 1, "sha256": hills_digest(path, 1), "state": storage.checksum(state)}
    verify_hills(path, saved, complete=True)
    state.write_bytes(b"other")
    verify_hills(path, saved, complete=False)  # a walker that goes on has written a later one
    with pytest.raises(StoreError, match=r"walker-00\.npz: was changed since"):
        verify_hills(path, saved, complete=True)
