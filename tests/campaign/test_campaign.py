"""A campaign from a protocol to a report; killed, interrupted and continued; refused where it cannot work."""

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

from latf_sampling import systems
from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli import main as cli
from latf_sampling.core import storage
from latf_sampling.core.lease import Lease, lease_of
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.report import write_report
from latf_sampling.starts.files import StartFiles
from latf_sampling.units import KB

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it
SEGMENT = ("json", "nc", "npz", "xml")
FILES = ("hills", "lock")
STRUCTURE_FILES = ("pdb", "npz", "xml")
TABLES = ("starts.json", "starts.csv", "starts.xtc")


def status(directory: Path) -> list[dict]:
    return Records.load(directory).status()


def times(directory: Path) -> dict[str, int]:
    """When each file of a campaign was last written."""
    files = (
        file for file in directory.rglob("*") if file.is_file() and file.name not in ("lock", "log.txt", "log.jsonl")
    )
    return {str(file.relative_to(directory)): file.stat().st_mtime_ns for file in files}


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the tiny finished campaign."""
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------------- a finished one


def test_files_of_a_finished_campaign():
    expected = {"protocol.json", "ledger.sqlite", "report.html", "report.json", f"inputs/{STRUCTURE.name}"}
    expected |= {f"system/{name}" for name in ("system.xml", "structure.cif", "molecule.json")}
    for index, (walkers, segments) in enumerate([(1, 15), (2, 2), (1, 20)]):
        here = f"rounds/{index:02d}"
        for walker in range(walkers):
            stems = [f"{here}/walker-{walker:02d}/segment-{segment:03d}" for segment in range(segments)]
            expected |= {f"{stem}.{kind}" for stem in stems for kind in SEGMENT}
            expected.add(f"{here}/walker-{walker:02d}/attempts.txt")
        expected |= {f"{here}/learning/{name}" for name in ("model.pt", "cv.pt", "history.json", "attempts.txt")}
        if index > 0:
            expected |= {f"{here}/hills/walker-{walker:02d}.{kind}" for walker in range(walkers) for kind in FILES}
            names = [f"start-{walker:03d}.{kind}" for walker in range(walkers) for kind in STRUCTURE_FILES]
            expected |= {f"{here}/starts/{name}" for name in [*names, *TABLES]}
    found = set(times(finished_campaign()))
    starts = {name for name in found if name.startswith("starts/")}
    assert found - starts == expected
    table = storage.read_json(finished_campaign() / "starts" / "starts.json")
    assert starts == {
        *(f"starts/{name}" for name in TABLES),
        *(f"starts/start-{k:03d}.{kind}" for k in range(table["valid"]) for kind in STRUCTURE_FILES),
    }
    assert (table["requested"], table["temperature"]) == (2, 450.0)
    assert table["valid"] + len(table["rejected"]) == 2


def test_the_report_is_complete():
    text = (finished_campaign() / "report.html").read_text()
    assert text.rstrip().endswith("</html>")
    assert "tiny" in text


def test_a_campaign_is_loaded_from_its_directory():
    again = Campaign.load(finished_campaign())
    assert again.protocol.system.structure == finished_campaign() / "inputs" / STRUCTURE.name
    assert again.features.names == ["sin phi ALA 2", "sin psi ALA 2", "cos phi ALA 2", "cos psi ALA 2"]
    walkers = again.frames()
    shape = [(w.round_index, w.walker, w.temperature, len(w), w.biased) for w in walkers]
    assert shape == [
        (0, 0, 600.0, 300, False), (1, 0, 300.0, 40, True), (1, 1, 300.0, 40, True), (2, 0, 300.0, 400, True),
    ]  # fmt: skip
    assert len(again.frames(0)) == 1
    assert again.last_learned() == 2


def test_each_round_is_learned_from_all_frames_so_far():
    again = Campaign.load(finished_campaign())
    for index, frames in enumerate([300, 380, 780]):
        model, cv = again.model(index)
        assert model.n_states >= 2
        assert model.provenance["frames"] == frames
        assert model.provenance["temperatures"] == [600.0] if index == 0 else [300.0, 600.0]
        walker = again.frames(index)[-1].trajectory
        u = cv(walker.xyz.astype(float))
        assert u == pytest.approx(model.encode(again.features.transform(walker)), abs=1e-4)
        assert (u >= cv.bounds[:, 0] - 1e-4).all() and (u <= cv.bounds[:, 1] + 1e-4).all()


def test_each_model_is_aligned_to_the_one_before():
    again = Campaign.load(finished_campaign())
    for index in (1, 2):
        (before, _), (after, _) = again.model(index - 1), again.model(index)
        x = np.concatenate([entry.x for entry in again.series(again.frames(index - 1))])
        if after.latent_dim == before.latent_dim:
            old, new = (model.encode(x) - model.encode(x).mean(0) for model in (before, after))
            assert np.linalg.norm(new) == pytest.approx(np.linalg.norm(old), rel=1e-3)
            product = new.T @ old  # symmetric and positive, if no rotation or reflection comes closer
            assert np.abs(product - product.T).max() < 1e-3 * np.abs(product).max()
            assert np.linalg.eigvalsh(product + product.T).min() > -1e-3 * np.abs(product).max()
        if after.n_states == before.n_states:
            shared = np.array([[((after.assign(x) == j) & (before.assign(x) == i)).sum() for j in range(after.n_states)]
                               for i in range(before.n_states)])  # fmt: skip
            assert np.trace(shared) >= np.trace(shared[:, ::-1])


def test_walkers_of_a_biased_round_share_hills_and_begin_at_their_starts():
    again = Campaign.load(finished_campaign())
    folder = finished_campaign() / "rounds" / "01"
    for walker in (0, 1):
        hills = np.loadtxt(folder / "hills" / f"walker-{walker:02d}.hills")
        assert hills[:, 0].tolist() == list(range(100, 1001, 100))
        with np.load(folder / "starts" / f"start-{walker:03d}.npz") as content:
            start = content["positions"]
        first = again.frames(1)[1 + walker].trajectory[0]
        together = mdtraj.Trajectory(np.stack([start, first.xyz[0]]), again.topology)
        assert mdtraj.rmsd(together, together, 0)[1] < 0.1  # 0.1 ps later
    biases = [walker.bias for walker in again.frames(1)[1:]]
    assert max(bias.max() for bias in biases) > 1.5  # hills of 1 kJ/mol have piled up


def test_history():
    history = storage.read_json(finished_campaign() / "rounds" / "00" / "learning" / "history.json")
    assert {entry["stage"] for entry in history["history"]} == {"states", "joint", "flow", "refit", "ensemble"}
    assert history["seconds"] > 0
    assert sum(state["population at 600"] for state in history["states"]) == pytest.approx(1.0, abs=1e-4)


def test_status_of_a_finished_campaign():
    entries = status(finished_campaign())
    assert [entry["step"] for entry in entries] == [
        "round 0: simulate", "round 0: learn", "round 1: simulate", "round 1: learn", "round 2: simulate",
        "round 2: learn", "starts", "report",
    ]  # fmt: skip
    assert all(entry["done"] == 1.0 for entry in entries)
    assert entries[0]["words"] == "15 of 15 segments, plain, 600 K"
    assert entries[4]["words"] == "20 of 20 segments, metadynamics, 300 K"
    words = r"\d states? \(.* % at 600 K\), \d+ s"
    assert re.fullmatch(words, entries[1]["words"])


def test_status_of_an_unfinished_campaign(copy):
    shutil.rmtree(copy / "rounds" / "02")
    shutil.rmtree(copy / "starts")
    (copy / "report.html").unlink()
    (copy / "rounds" / "00" / "walker-00" / "segment-014.json").unlink()
    done = {entry["step"]: entry["done"] for entry in status(copy)}
    assert done.pop("round 0: simulate") == pytest.approx(14 / 15)
    assert done == {
        "round 0: learn": 1, "round 1: simulate": 1, "round 1: learn": 1, "round 2: simulate": 0, "round 2: learn": 0,
        "starts": 0, "report": 0,
    }  # fmt: skip
    assert Campaign.load(copy).last_learned() == 1


def test_status_of_a_campaign_older_than_external_trajectories(copy):
    content = storage.read_json(copy / "protocol.json")
    del content["from_trajectories"]
    storage.write_json(copy / "protocol.json", content)
    assert status(copy)[:-1] == status(finished_campaign())[:-1]  # the last names the report by its path


def test_a_second_run_does_nothing_but_the_report(copy, monkeypatch):
    def never(*arguments, **settings):
        raise AssertionError("a finished step was repeated")

    for name in ("run_walkers", "run_step"):
        monkeypatch.setattr(loop, name, never)
    reported, stages = [], []
    monkeypatch.setattr(loop.Campaign, "_report", lambda campaign, *_: reported.append(campaign.records))
    before, began = times(copy), time.process_time()
    again = Campaign.load(copy)
    for folder in ("equilibration", "rounds/01", "rounds/02"):  # of a driver that was killed when a task had just ended
        Lease.grant(lease_of(copy / folder / "learning"))
    again.run(lambda stage, fraction, words: stages.append((stage, fraction, words)))
    assert time.process_time() - began < 10
    assert times(copy) == before
    assert [records.directory.path for records in reported] == [copy]
    assert ("round 0: simulate", 1.0, "finished before") in stages
    assert ("round 2: learn", 1.0, "finished before") in stages


def test_the_process_that_runs_a_campaign_loads_no_torch(tmp_path):
    copy = Path(shutil.copytree(finished_wells(), tmp_path / "copy"))
    (copy / "report.html").unlink()
    code = f"""
import sys
from latf_sampling.core.plugins import import_openmm
import_openmm()
from latf_sampling.campaign.campaign import Campaign
Campaign.load({str(copy)!r}).run(lambda *step: None)
print("torch" in sys.modules or "libtorch" in open("/proc/self/maps").read())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"
    assert (copy / "report.html").exists()


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2}, "seed"),
        ({"integrator": {"timestep": "2 fs"}}, r"integrator\.timestep"),
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
    structure = tmp_path / STRUCTURE.name
    structure.write_text(structure.read_text().replace("1.00  0.00", "1.00  0.01", 1))
    with pytest.raises(StoreError, match=r"other settings \(system\.structure\)"):
        Campaign(protocol, finished_campaign()).run()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observe": {"torsion": "phi ALA 9"}}, r"observe\.torsion"),
        ({"observe": {"descriptor": {"distances": "name CA CB"}, "above": "3 ps"}}, r"observe\.above: .* not a length"),
        ({"features": [{"torsions": "phi"}, {"distance": "name CA"}]}, r"distance"),
        ({"system": {**TINY["system"], "force_field": ["tip3p.xml"]}}, r"system\.force_field"),
        ({"system": {**TINY["system"], "platform": "Abacus"}}, r"Abacus"),
        ({"rounds": [TINY["rounds"][1]]}, r"rounds\[0\]\.bias"),
    ],
    ids=["torsion", "unit", "feature", "force field", "platform", "first round"],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(SettingsError, match=words):
        Campaign(write_protocol(tmp_path / "given", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_campaign_is_refused(tmp_path):
    for question in (status, Campaign.load):
        with pytest.raises(StoreError, match="there is no campaign in this directory"):
            question(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_rounds_that_do_not_exist(copy):
    again = Campaign.load(copy)
    for wrong in (3, -1):
        with pytest.raises(SettingsError, match=f"has rounds 0 to 2; got {wrong}"):
            again.frames(wrong)
    with pytest.raises(StoreError, match="no model was learned after round 7"):
        again.model(7)
    for index in range(3):
        shutil.rmtree(copy / "rounds" / f"{index:02d}" / "learning")
    with pytest.raises(StoreError, match="no model is learned yet"):
        again.last_learned()


# ---------------------------------------------------------------------------------- killed, interrupted, continued ----


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """The tiny campaign as if its last round had only begun; each test below continues where the one before it
    interrupted it."""
    directory = Path(shutil.copytree(finished_campaign(), tmp_path_factory.mktemp("broken") / "run"))
    write_protocol(directory.parent)
    for done in ("rounds/02/walker-00", "rounds/02/hills", "rounds/02/learning", "starts"):
        shutil.rmtree(directory / done)
    (directory / "report.html").unlink()
    return directory


def command(directory: Path) -> list[str]:
    return ["run", str(directory.parent / "protocol.yaml"), "-o", str(directory)]


@pytest.fixture
def child(broken):
    """The command as a process in its own group, like one at a terminal."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "latf_sampling.cli.main", *command(broken)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
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
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.01)
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


def marks(directory: Path) -> dict[str, int]:
    """Markers of the last round's finished segments, with their times."""
    return {name: at for name, at in times(directory).items() if re.match(r"rounds/02/walker-00/.*\.json", name)}


def run_here(directory: Path, monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and standard error of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["latf", *command(directory)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


def kill_a_child(count: int) -> threading.Thread:
    """Kill the last child of this process when it has so many."""

    def kill() -> None:
        wait_for(lambda: len(multiprocessing.active_children()) == count)
        time.sleep(0.2)  # it has its task by now, and still imports OpenMM; without a task nothing would be lost
        os.kill(max(process.pid for process in multiprocessing.active_children()), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_killed_parent(broken, child, monkeypatch, capsys):
    wait_for(lambda: marks(broken))
    (walker,) = walkers_of(child)
    assert alive(walker)

    code, words = run_here(broken, monkeypatch, capsys)  # a second one at the same time
    assert (code, words) == (2, f"latf: {broken}: another process is running this campaign.\n")

    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL
    wait_for(lambda: not alive(walker), 10.0)
    kept = marks(broken)
    assert 1 <= len(kept) < 20  # it did not just come to its end
    assert len(WalkerDirectory(broken / "rounds/02/walker-00").finished_segments()) == len(
        kept
    )  # complete, by their checksums


def test_ctrl_c(broken, child):
    before = marks(broken)
    (walker,) = wait_for(lambda: walkers_of(child))
    blocked = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{walker}/status").read_text(), flags=re.M)[1]
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1  # from its first moment on: it would print a traceback
    os.killpg(child.pid, signal.SIGINT)  # to the walker too, as a terminal does
    assert child.wait(60) == 130
    wait_for(lambda: not alive(walker), 10.0)
    words = child.communicate()[1]
    assert "latf: interrupted; what is finished is kept, and the same command continues." in words
    assert "Traceback" not in words
    assert marks(broken) == before


def test_a_continued_campaign_gives_what_an_uninterrupted_one_gives(broken, monkeypatch, capsys):
    """Frames, hills, model and structures are those of the campaign that was not interrupted; its walker is killed."""
    monkeypatch.setattr(loop.Campaign, "_report", lambda *_: storage.write_text(broken / "report.html", ""))
    before = marks(broken)
    killer = kill_a_child(1)
    code, words = run_here(broken, monkeypatch, capsys)
    killer.join()
    assert code == 0, words
    assert "round 2, walker 0: its process ended by SIGKILL in segment" in words and "it is started again" in words
    assert "round 2: simulate: done." in words
    assert "\x1b" not in words and "\r" not in words  # no bars where no terminal is
    assert before.items() <= marks(broken).items()
    *done, report = status(broken)
    assert all(entry["done"] == 1.0 for entry in done)
    assert report["words"].startswith("written half-way")  # its manifest, which nothing wrote here, is an earlier one's
    assert set(times(broken)) == set(times(finished_campaign()))  # and no other file
    here, there = Campaign.load(broken), Campaign.load(finished_campaign())
    (mine, other) = (campaign.frames()[-1] for campaign in (here, there))
    assert np.array_equal(mine.trajectory.xyz, other.trajectory.xyz)
    for name in ("energies", "bias", "offset"):
        assert np.array_equal(getattr(mine, name), getattr(other, name))
    states = [campaign.model(2)[0].networks.state_dict() for campaign in (here, there)]
    assert all(np.array_equal(value, states[1][name]) for name, value in states[0].items())
    tables = [StartFiles(campaign.directory.starts).read_table() for campaign in (here, there)]
    assert tables[0] == tables[1]


# ------------------------------------------------------------------------------------------------- model systems


@pytest.fixture(scope="module")
def wells() -> Campaign:
    """A campaign on a model system by name, with references, run to its end."""
    return Campaign.load(finished_wells())


def test_a_model_system_is_simulated_learned_and_evaluated(wells):
    model, cv = wells.model(0)
    assert model.reweighted and len(model.networks.ensemble) == 2
    assert [name[0] for name in cv.metadata["names"]] == ["x", "y"]
    entries = status(wells.directory.path)
    steps = ["round 0: simulate", "round 0: learn", "references: simulate", "evaluate", "report"]
    assert [(entry["step"], entry["done"]) for entry in entries] == [(step, 1.0) for step in steps]
    assert not list(wells.directory.path.rglob("training.pt"))


def test_nothing_is_learned_from_references(wells):
    (reference,) = wells.references()
    assert reference.temperature == pytest.approx(1.5 / KB)
    assert wells.dataset().frames == sum(len(walker) for walker in wells.frames()) == 4000
    page = wells.directory.evaluation.read_text()
    numbers = json.loads(re.search(r'<script[^>]*id="numbers"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    kinds = {(row["kind"], round(row["temperature"] * KB, 3)) for row in numbers["rows"]}
    assert ("reference", 1.5) in kinds and {kind for kind, kT in kinds if kT != 1.5} <= {"held out"}


def exact_difference(above: float, temperature: float) -> float:
    """Free energy of y above a value minus that of the rest, by the trapezoidal rule on a grid through the value."""
    x, y = np.linspace(-4, 4, 801), np.linspace(above - 5, above + 5, 1001)
    energies = systems.three_hole().potential(np.stack(np.meshgrid(x, y, indexing="ij"), -1)[:, :, None])
    along = np.exp(-energies / (KB * temperature)).sum(0)
    parts = [np.trapezoid(along[side], y[side]) for side in (y >= above, y <= above)]
    return float(-KB * temperature * np.log(parts[0] / parts[1]))


def numbers_of(campaign: Campaign) -> dict:
    page = campaign.directory.report.read_text()
    return json.loads(re.search(r'<script[^>]*id="numbers"[^>]*>(.*?)</script>', page, re.DOTALL)[1])


def test_plain_dynamics_gives_the_exact_free_energy_within_errors(wells):
    found, temperature = numbers_of(wells)["difference"], 1 / KB
    exact = exact_difference(1.1, temperature)
    assert (found["observed"], found["above"], found["unit"]) == ("y AR1-Ar", 1.1, "nm")
    assert found["reference_kJ_per_mol"] == pytest.approx(exact, abs=2e-3)
    y = wells.frames()[0].trajectory.xyz[:, 0, 1]
    share = float(np.mean(y > 1.1))
    pooled = found["pooled"]
    assert pooled["value_kJ_per_mol"] == pytest.approx(-np.log(share / (1 - share)), abs=1e-6)
    # 2.2 half widths of some ten blocks: Student's t of 4.8, beyond which is one run in a thousand
    low, high = pooled["interval_kJ_per_mol"]
    assert abs(pooled["value_kJ_per_mol"] - exact) < 2.2 * (high - low) / 2 < 4
    assert found["plain"] is None
    words = wells.directory.report.read_text()
    assert "from plain dynamics" in words and "All temperatures together" in words and ">MBAR<" in words


def test_biased_rounds_give_the_free_energy_of_a_coordinate(wells, tmp_path):
    """Frames drawn exactly at twice the temperature, which is a bias of minus half the potential."""
    model = systems.three_hole()
    rounds = [
        *TINY_WELLS["rounds"],
        {
            "walkers": ["1 kJ/mol"] * 2,
            "length": "200 ps",
            "bias": {"kind": "flow", "bias_factor": 2, "interval": "1 ps"},
        },
    ]
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump({**TINY_WELLS, "rounds": rounds, "evaluate": None}))
    campaign = Campaign(tmp_path / "protocol.yaml", tmp_path / "run")
    temperature = campaign.protocol.rounds[1].walkers[0]
    with campaign.directory.acquire(campaign.protocol):
        shutil.copytree(wells.directory.path / "rounds" / "00", campaign.directory.path / "rounds" / "00")
    rng = np.random.default_rng(0)
    for walker in range(2):
        drawn = model.exact_samples(2000, 2 * temperature, rng)
        positions = np.pad(drawn, ((0, 0), (0, 1)))[:, None].astype(np.float32)
        energies = model.potential(drawn[:, None])
        for segment in range(4):
            here = slice(500 * segment, 500 * (segment + 1))
            files = campaign.directory.round(1).walker(walker).segment(segment)
            with storage.atomic_write(files.trajectory) as temporary:
                mdtraj.Trajectory(positions[here], campaign.topology).save_netcdf(str(temporary))
            with storage.atomic_write(files.frames) as temporary:
                np.savez(temporary, energy=energies[here], bias=-energies[here] / 2, offset=np.zeros(500))
            storage.write_text(files.state, "<State/>")
            summary = {"step": 5000 * (segment + 1), "frames": 500, "seconds": 1.0}
            files.finish({**summary, "temperature": temperature})
    write_report(Records.load(campaign.directory.path))
    found, exact = numbers_of(campaign)["difference"], exact_difference(1.1, temperature)
    low, high = found["pooled"]["interval_kJ_per_mol"]
    assert found["converged"] is True
    # 1.8 half widths at 95 % are three and a half errors where blocks are many
    assert abs(found["pooled"]["value_kJ_per_mol"] - exact) < 1.8 * (high - low) / 2 < 0.5
    assert found["plain"]["value_kJ_per_mol"] is not None
    page = campaign.directory.report.read_text()
    for words in ("from the biased rounds by reweighting", "Three ways to weight frames", "Free energy along y AR1-Ar"):
        assert words in page


def test_energies_of_frames_are_those_of_the_potential(wells):
    walker = wells.frames()[0]
    exact = systems.three_hole().potential(walker.trajectory.xyz[:, :, :2].astype(float))
    np.testing.assert_allclose(walker.energies, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ({"name": "four-hole"}, "no model system or molecule 'four-hole'; there are three-hole"),
        ({"name": "lj7", "force_field": ["amber14/protein.ff14SB.xml"]}, "system.force_field: does not go with"),
        ({"platform": "Reference"}, "system.structure: this key is missing"),
    ],
)
def test_an_impossible_system_is_refused(tmp_path, system, words):
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump({**TINY_WELLS, "system": system}))
    with pytest.raises(SettingsError, match=re.escape(words)):
        Campaign(tmp_path / "protocol.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------- kinds of bias

KINDS = [
    {"kind": "opes", "barrier": "20 kJ/mol", "interval": "0.4 ps", "stride": 2, "trust": {"on_leaving": "hold"}},
    {"kind": "flow", "bias_factor": 5, "interval": "0.2 ps"},
    {
        "kind": "metadynamics", "bias_factor": 5, "height": "1 kJ/mol", "interval": "0.4 ps", "width": "adaptive",
        "start": "flow",
    },
]  # fmt: skip


def test_rounds_with_every_kind_of_bias(tmp_path):
    """Each round runs to its end and biases its frames, and the next round learns from them."""
    rounds = [TINY["rounds"][0], *({"walkers": ["300 K", "300 K"], "length": "4 ps", "bias": bias} for bias in KINDS)]
    # a frame falls on a whole number of strides
    changes = {"rounds": rounds, "starts": None, "frame_interval": "0.08 ps", "segment": "2 ps"}
    changes["learning"] = {**TINY["learning"], "lag": "0.16 ps"}
    campaign = Campaign(write_protocol(tmp_path / "given", **changes), tmp_path / "run")
    run_in_process(campaign)
    walkers = campaign.frames()
    assert [len(walker) for walker in walkers] == [375, *[50] * 6]
    assert [walker.biased for walker in walkers] == [False, *[True] * 6]
    for walker in walkers[1:]:
        assert np.isfinite(walker.log_weights).all() and np.ptp(walker.bias) > 0.1
    table = np.loadtxt(tmp_path / "run" / "rounds" / "01" / "hills" / "walker-00.hills")
    assert table[:, 0].tolist() == list(range(50, 501, 50))  # steps of two time steps of 4 fs
    assert all(entry["done"] == 1 for entry in status(tmp_path / "run"))
    assert "Three ways to weight frames" in (tmp_path / "run" / "report.html").read_text()


def test_walkers_that_leave_the_trust_region_are_stopped_and_learned_from(tmp_path):
    trust = {"threshold": 1.0, "on_leaving": "stop"}
    bias = {"kind": "metadynamics", "bias_factor": 10, "height": "3 kJ/mol", "interval": "0.2 ps", "trust": trust}
    rounds = [TINY["rounds"][0], {"walkers": ["300 K", "300 K"], "length": "8 ps", "bias": bias}]
    campaign = Campaign(write_protocol(tmp_path / "given", rounds=rounds, starts=None), tmp_path / "run")
    run_in_process(campaign)
    reasons = [campaign.directory.round(1).walker(walker).stop_reason() for walker in (0, 1)]
    assert any("left the trust region" in (reason or "") for reason in reasons)
    for walker in campaign.frames()[1:]:
        assert 0 < len(walker) <= 80
        if campaign.directory.round(1).walker(walker.walker).stop_reason():
            assert len(walker) < 80
    assert campaign.last_learned() == 1
    (entry,) = [entry for entry in status(tmp_path / "run") if entry["step"] == "round 1: simulate"]
    assert entry["done"] == 1 and "stopped" in entry["words"]
    before = times(tmp_path / "run" / "rounds")
    Campaign.load(tmp_path / "run").run()  # they are not continued
    assert times(tmp_path / "run" / "rounds") == before
