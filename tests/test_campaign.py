"""A campaign from a protocol to a report; killed, interrupted, taken up again; refused where it must be."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from molecules import STRUCTURE, TINY, finished_campaign, write_protocol
from openmm import app

from latf_sampling import campaign as room
from latf_sampling import cli, store
from latf_sampling.campaign import Campaign, status
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.model import LaTF

SEGMENT = ("json", "nc", "npz", "xml")


def times(directory: Path) -> dict[str, int]:
    """When each file of a campaign was last written."""
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): file.stat().st_mtime_ns for file in files if file.name != "lock"}


@pytest.fixture
def copy(tmp_path) -> Path:
    """The tiny finished campaign, to be changed at will."""
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------------- a finished one


def test_every_file_has_its_place():
    expected = {"protocol.json", "report.html", f"inputs/{STRUCTURE.name}"}
    for index, (walkers, segments) in enumerate([(2, 6), (2, 1), (1, 2)]):
        here = f"rounds/{index:02d}"
        for walker in range(walkers):
            stems = [f"{here}/walker-{walker:02d}/segment-{segment:03d}" for segment in range(segments)]
            expected |= {f"{stem}.{kind}" for stem in stems for kind in SEGMENT}
        expected |= {f"{here}/learning/{name}" for name in ("model.pt", "cv.pt", "history.json")}
        if index > 0:
            expected |= {f"{here}/hills/walker-{walker:02d}.npz" for walker in range(walkers)}
            names = [f"start-{walker:03d}.{kind}" for walker in range(walkers) for kind in ("pdb", "npz")]
            expected |= {f"{here}/starts/{name}" for name in [*names, "starts.json"]}
    found = set(times(finished_campaign()))
    starts = {name for name in found if name.startswith("starts/")}
    assert found - starts == expected
    table = store.read_json(finished_campaign() / "starts" / "starts.json")
    assert starts == {
        "starts/starts.json",
        *(f"starts/start-{k:03d}.{kind}" for k in range(table["valid"]) for kind in ("pdb", "npz")),
    }
    assert (table["requested"], table["temperature"]) == (2, 450.0)
    assert table["valid"] + len(table["rejected"]) == 2


def test_taken_up_from_its_directory_alone():
    again = Campaign.of(finished_campaign())
    assert again.protocol.system.structure == finished_campaign() / "inputs" / STRUCTURE.name
    assert again.features.names == ["sin phi ALA 2", "cos phi ALA 2", "sin psi ALA 2", "cos psi ALA 2"]
    walkers = again.frames()
    shape = [(w.round_index, w.walker, w.temperature, len(w), w.biased) for w in walkers]
    assert shape == [
        (0, 0, 300.0, 240, False), (0, 1, 600.0, 240, False), (1, 0, 300.0, 40, True), (1, 1, 300.0, 40, True),
        (2, 0, 300.0, 80, True),
    ]  # fmt: skip
    assert len(again.frames(0)) == 2
    assert again.last_learned() == 2


def test_each_round_is_learned_from_all_frames_so_far():
    again = Campaign.of(finished_campaign())
    for index, frames in enumerate([480, 560, 640]):
        model, cv = again.model(index)
        assert model.n_states >= 2
        assert model.provenance["frames"] == frames
        assert model.provenance["temperatures"] == [300.0, 600.0]
        walker = again.frames(index)[-1].trajectory
        u = cv(walker.xyz.astype(float))
        assert u == pytest.approx(model.encode(again.features.transform(walker)), abs=1e-4)
        assert (u >= cv.bounds[:, 0] - 1e-4).all() and (u <= cv.bounds[:, 1] + 1e-4).all()


def test_walkers_of_a_biased_round_share_hills_and_begin_at_their_starts():
    again = Campaign.of(finished_campaign())
    folder = finished_campaign() / "rounds" / "01"
    for walker in (0, 1):
        with np.load(folder / "hills" / f"walker-{walker:02d}.npz") as content:
            assert content["hills"][:, 0].tolist() == list(range(100, 1001, 100))
        with np.load(folder / "starts" / f"start-{walker:03d}.npz") as content:
            start = content["positions"]
        first = again.frames(1)[2 + walker].trajectory[0]
        together = mdtraj.Trajectory(np.stack([start, first.xyz[0]]), again.topology)
        assert mdtraj.rmsd(together, together, 0)[1] < 0.1  # 0.1 ps later
    biases = [walker.bias for walker in again.frames(1)[2:]]
    assert max(bias.max() for bias in biases) > 1.5  # hills of 1 kJ/mol have piled up


def test_history():
    history = store.read_json(finished_campaign() / "rounds" / "00" / "learning" / "history.json")
    assert {entry["stage"] for entry in history["history"]} == {"states", "flow"}
    assert history["seconds"] > 0
    assert sum(state["population at 600"] for state in history["states"]) == pytest.approx(1.0, abs=1e-4)


def test_status_of_a_finished_campaign():
    entries = status(finished_campaign())
    assert [entry["step"] for entry in entries] == [
        "round 0: simulate", "round 0: learn", "round 1: simulate", "round 1: learn", "round 2: simulate",
        "round 2: learn", "starts", "report",
    ]  # fmt: skip
    assert all(entry["done"] == 1.0 for entry in entries)
    assert entries[0]["words"] == "12 of 12 segments, plain, 300 K, 600 K"
    assert entries[4]["words"] == "2 of 2 segments, metadynamics, 300 K"
    assert re.fullmatch(r"\d states, \d+ s", entries[1]["words"])


def test_status_on_the_way(copy):
    shutil.rmtree(copy / "rounds" / "02")
    shutil.rmtree(copy / "starts")
    (copy / "report.html").unlink()
    (copy / "rounds" / "00" / "walker-01" / "segment-005.json").unlink()
    done = {entry["step"]: entry["done"] for entry in status(copy)}
    assert done.pop("round 0: simulate") == pytest.approx(11 / 12)
    assert done == {
        "round 0: learn": 1, "round 1: simulate": 1, "round 1: learn": 1, "round 2: simulate": 0, "round 2: learn": 0,
        "starts": 0, "report": 0,
    }  # fmt: skip
    assert Campaign.of(copy).last_learned() == 1


def test_a_second_run_does_nothing_but_the_report(copy, monkeypatch):
    def never(*arguments, **settings):
        raise AssertionError("did again what is done")

    for owner, name in ((room, "run_walkers"), (room, "train"), (room, "generate_starts")):
        monkeypatch.setattr(owner, name, never)
    reported, stages = [], []
    monkeypatch.setattr(room, "write_report", reported.append)
    before, began = times(copy), time.perf_counter()
    again = Campaign.of(copy)
    again.run(lambda stage, fraction, words: stages.append((stage, fraction, words)))
    assert time.perf_counter() - began < 10
    assert times(copy) == before
    assert reported == [again]
    assert ("round 0: simulate", 1.0, "finished before") in stages
    assert ("round 2: learn", 1.0, "finished before") in stages


def test_what_is_missing_at_the_end_is_done_again(copy, monkeypatch):
    """Learning is a function of the frames and the seed: a lost model comes back as it was."""
    monkeypatch.setattr(room, "write_report", lambda campaign: None)
    before = LaTF.load(copy / "rounds" / "02" / "learning" / "model.pt")
    shutil.rmtree(copy / "rounds" / "02" / "learning")
    kept = times(copy)
    Campaign.of(copy).run()
    after = LaTF.load(copy / "rounds" / "02" / "learning" / "model.pt")
    state = before.state_dict()
    assert all(np.array_equal(value, state[name]) for name, value in after.state_dict().items())
    assert {name: times(copy)[name] for name in kept} == kept


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2}, "seed"),
        ({"learning": {**TINY["learning"], "lag": "0.3 ps"}}, r"learning\.lag"),
        ({"system": {**TINY["system"], "constraints": "all-bonds"}}, r"system\.constraints"),
    ],
)
def test_another_protocol_is_refused_by_its_keys(tmp_path, changes, key):
    before = times(finished_campaign())
    other = Campaign(write_protocol(tmp_path, **changes), finished_campaign())
    with pytest.raises(StoreError, match=rf"was made with other settings \({key}\)"):
        other.run()
    assert times(finished_campaign()) == before


def test_another_structure_under_the_same_name_is_refused(tmp_path):
    protocol = write_protocol(tmp_path)
    with open(tmp_path / STRUCTURE.name, "a") as handle:
        handle.write("REMARK\n")
    with pytest.raises(StoreError, match=r"other settings \(system\.structure\.sha256\)"):
        Campaign(protocol, finished_campaign()).run()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observe": {"torsion": "phi ALA 9"}}, r"observe\.torsion"),
        ({"features": [{"torsions": "phi"}, {"distance": "name CA"}]}, r"distance"),
        ({"system": {**TINY["system"], "force_field": ["tip3p.xml"]}}, r"system\.force_field"),
        ({"system": {**TINY["system"], "platform": "Abacus"}}, r"Abacus"),
        ({"rounds": [TINY["rounds"][1]]}, r"rounds\[0\]\.bias"),
    ],
    ids=["torsion", "feature", "force field", "platform", "first round"],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(SettingsError, match=words):
        Campaign(write_protocol(tmp_path / "given", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_campaign_is_refused(tmp_path):
    for question in (status, Campaign.of):
        with pytest.raises(StoreError, match=r"protocol\.json"):
            question(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_rounds_that_are_not_there(copy):
    again = Campaign.of(copy)
    for wrong in (3, -1):
        with pytest.raises(SettingsError, match=f"has rounds 0 to 2; got {wrong}"):
            again.frames(wrong)
    with pytest.raises(StoreError, match="no model was learned after round 7"):
        again.model(7)
    for index in range(3):
        shutil.rmtree(copy / "rounds" / f"{index:02d}" / "learning")
    with pytest.raises(StoreError, match="no model is learned yet"):
        again.last_learned()


# ---------------------------------------------------------------------------------- killed, interrupted, taken up again

# One round of two walkers, ten segments each: some seconds, in which to kill.
LONG = {
    "frame_interval": "0.5 ps", "segment": "20 ps", "integrator": {"timestep": "2 fs"}, "starts": None,
    "rounds": [{"walkers": ["600 K", "600 K"], "length": "200 ps"}],
    "learning": {**TINY["learning"], "lag": "0.5 ps", "flow_epochs": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> list[str]:
    """Arguments of the command that the tests below break off, each where the one before it left the campaign."""
    folder = tmp_path_factory.mktemp("long")
    return ["run", str(write_protocol(folder / "given", **LONG)), "-o", str(folder / "run")]


@pytest.fixture
def child(long):
    """The command as a process in a group of its own, like one at a terminal."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "latf_sampling.cli", *long],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    yield process
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


def wait_for(condition, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def walkers_of(process: subprocess.Popen) -> list[int]:
    """Process ids of its walkers."""
    found = []
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        try:
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def at_once() -> int:
    """Walkers that run at the same time here."""
    return min(2, len(os.sched_getaffinity(0)))


def finished(long) -> dict[str, int]:
    """Marks of finished segments, with their times."""
    return {name: time for name, time in times(Path(long[-1])).items() if re.search(r"segment-\d+\.json", name)}


def run_here(arguments: list[str], monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and standard error of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["latf", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


def test_killed_parent(long, child, monkeypatch, capsys):
    wait_for(lambda: finished(long))
    walkers = walkers_of(child)
    assert len(walkers) == at_once() and all(map(alive, walkers))

    code, words = run_here(long, monkeypatch, capsys)
    assert code == 2
    assert words == f"latf: {long[-1]}: another process is running this campaign.\n"

    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, walkers)), 5.0)
    kept = finished(long)
    assert 1 <= len(kept) < 20  # they did not just come to their end
    for walker in (0, 1):
        store.finished_segments(store.Store(long[-1]).walker(0, walker))  # whole, by their checksums


def test_ctrl_c(long, child):
    before = finished(long)
    walkers = wait_for(lambda: len(walkers_of(child)) == at_once() and walkers_of(child))
    os.killpg(child.pid, signal.SIGINT)  # to the walkers too, as a terminal does, while they are being made
    assert child.wait(20) == 130
    wait_for(lambda: not any(map(alive, walkers)), 5.0)
    words = child.communicate()[1]
    assert "latf: interrupted; what is finished is kept, the same command goes on." in words
    assert "Traceback" not in words
    assert before.items() <= finished(long).items()


def test_killed_walker(long, monkeypatch, capsys):
    before = finished(long)

    def kill() -> None:
        walkers = wait_for(lambda: len(multiprocessing.active_children()) == at_once() and sorted_children())
        os.kill(walkers[-1], signal.SIGKILL)

    def sorted_children() -> list[int]:
        return sorted(process.pid for process in multiprocessing.active_children())

    killer = threading.Thread(target=kill)
    killer.start()
    code, words = run_here(long, monkeypatch, capsys)
    killer.join()
    assert code == 2
    assert words.splitlines()[-1] == (
        f"latf: round 0, walker {at_once() - 1}: its process ended by SIGKILL; finished segments are kept, run the "
        "campaign again to go on."
    )
    assert "Traceback" not in words
    assert multiprocessing.active_children() == []
    assert before.items() <= finished(long).items()


def test_and_it_goes_on_to_its_end(long, monkeypatch, capsys):
    before = finished(long)
    code, words = run_here(long, monkeypatch, capsys)
    assert (code, "Traceback" in words) == (0, False)
    assert "round 0: simulate: done." in words
    assert "\x1b" not in words and "\r" not in words  # no bars where no terminal is
    after = finished(long)
    assert len(after) == 20
    assert before.items() <= after.items()
    assert all(entry["done"] == 1.0 for entry in status(long[-1]))
    assert not [name for name in times(Path(long[-1])) if Path(name).name.startswith(".")]
    campaign = Campaign.of(long[-1])
    for walker in campaign.frames():
        assert len(walker) == 400
        moved = np.abs(np.diff(walker.trajectory.xyz, axis=0)).max((1, 2))
        assert moved.min() > 0.003  # no frame twice, wherever it was broken off
    assert json.loads((Path(long[-1]) / "protocol.json").read_text())["name"] == "tiny"
    assert app.PDBFile(str(campaign.protocol.system.structure)).topology.getNumAtoms() == 22
