"""The command line: every command on a finished campaign, and one sentence with exit code 2 for what cannot work."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import pytest
import torch
from helpers.molecules import TINY, alanine_topology, finished_campaign, finished_wells, frames, write_protocol
from rich.console import Console

from latf_sampling import __version__
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli import doctor
from latf_sampling.cli import main as cli
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.learning.model import LaTF
from latf_sampling.starts import state_point

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it
NO_CAMPAIGN = "there is no campaign in this directory"
COMMANDS = (
    "init",
    "run",
    "status",
    "verify",
    "train",
    "evaluate",
    "lags",
    "features",
    "export",
    "weights",
    "starts",
    "report",
    "schema",
    "doctor",
)


@pytest.fixture
def latf(monkeypatch, capsys, tmp_path):
    """Calls the command line in an empty directory; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_out", Console(width=200))
    monkeypatch.setattr(cli, "_err", Console(width=200, stderr=True))

    def call(*arguments) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["latf", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the finished campaign."""
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


# ---------------------------------------------------------------------------------------------------------- happy paths


def test_help_lists_every_command(latf):
    found = latf("--help")
    assert found.code == 0
    for name in COMMANDS:
        assert f" {name} " in found.out
        help_of = latf(name, "--help")
        assert (help_of.code, help_of.err) == (0, "")
        assert name in help_of.out


def test_status(latf):
    found = latf("status", finished_campaign())
    assert (found.code, found.err) == (0, "")
    rows = [line for line in found.out.splitlines() if "%" in line]
    assert len(rows) == 8
    assert all("100 %" in row for row in rows)
    assert "15 of 15 segments, plain, 600 K" in rows[0]


def test_train(latf, tmp_path):
    found = latf("train", finished_campaign(), "-o", tmp_path / "own", "--round", 0, "--seed", 5)
    assert found.code == 0
    assert sorted(file.name for file in (tmp_path / "own").iterdir()) == ["cv.pt", "model.pt"]
    model, cv = LaTF.load(tmp_path / "own" / "model.pt"), LatentCV.load(tmp_path / "own" / "cv.pt", alanine_topology())
    assert f"{model.n_states} states. Model and collective variable are in {tmp_path / 'own'}." in found.out
    assert (model.provenance["seed"], model.provenance["frames"]) == (5, 300)
    assert cv.dim == 2
    assert "\x1b" not in found.err and "\r" not in found.err


def test_evaluate(latf, tmp_path):
    found = latf("evaluate", finished_wells(), "-o", tmp_path / "page.html")
    assert found.code == 0
    assert "reference" in found.out and "held out" in found.out and "page.html" in found.out
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_lags(latf, tmp_path):
    found = latf("lags", finished_wells(), "-o", tmp_path / "page.html")
    assert found.code == 0
    assert "slowest time scale" in found.out and "page.html" in found.out
    assert "<svg" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("index", [None, 0])
def test_export(latf, tmp_path, index):
    found = latf("export", finished_campaign(), "-o", "cv.pt", *(() if index is None else ("--round", index)))
    assert (found.code, found.err) == (0, "")
    assert found.out == "cv.pt: 2 components from 4 descriptors of 5 atoms.\n"
    _, expected = Campaign.load(finished_campaign()).model(2 if index is None else index)
    assert np.array_equal(LatentCV.load(tmp_path / "cv.pt", alanine_topology())(frames(5)), expected(frames(5)))


def test_export_to_plumed(latf, tmp_path):
    """The hills of the round after the model go along; one of the two options is needed."""
    found = latf("export", finished_campaign(), "--round", 0, "--plumed", "plumed")
    assert (found.code, found.err) == (0, "")
    assert found.out == "plumed: HILLS, plumed.dat, encoder.pt, with the bias of round 1.\n"
    hills = np.loadtxt(tmp_path / "plumed" / "HILLS")
    assert 0 < len(hills) <= 20 and (hills[:, -1] == 10).all() and 0 < hills[:, -2].min() <= hills[:, -2].max() < 1.12
    found = latf("export", finished_campaign())
    assert found.code == 2 and "give -o, a CV file to write, or --plumed" in found.err


def test_starts(latf, tmp_path):
    found = latf("starts", finished_campaign(), "--temperature", "177 degC", "-n", 2, "-o", "made")
    table = json.loads((tmp_path / "made" / "starts.json").read_text())
    assert table["temperature"] == pytest.approx(450.15)
    assert table["requested"] == 2 == table["valid"] + len(table["rejected"])
    assert found.code == (0 if table["valid"] == 2 else 1)
    assert f"{table['valid']} of 2 structures at 450.15 K are valid." in found.out
    for index in range(table["valid"]):
        assert mdtraj.load(str(tmp_path / "made" / f"start-{index:03d}.pdb")).n_atoms == 22
    assert "\x1b" not in found.err and "Traceback" not in found.err


def test_structures_at_points_and_between_them(latf, tmp_path):
    campaign = Campaign.load(finished_campaign())
    model, cv = campaign.model(1)
    point = cv(campaign.frames(1)[0].trajectory.xyz[150].astype(float))
    short = ("--thermalise", "0.2 ps", "--temperature", "450 K")
    place = f"{point[0]:.4f}, {point[1]:.4f}"
    learned = finished_campaign() / "rounds" / "01" / "learning" / "model.pt"
    found = latf("starts", learned, *short, "--at", place, "--at", place, "--cif", "-o", "at")
    table = json.loads((tmp_path / "at" / "starts.json").read_text())
    assert (found.code, table["requested"], table["valid"]) == (0, 2, 2)
    assert table["targets"] == [[float(f"{value:.4f}") for value in point]] * 2
    assert table["settings"]["variable"] == cv.fingerprint() and table["settings"]["release"] == 0
    assert (tmp_path / "at" / "start-001.cif").exists()
    state = model.networks.decoder(torch.from_numpy(model.sample(500, 450.0, seed=1))).argmax(-1).mode().values.item()
    latf("starts", learned, *short, "--between", f"state {state}", place, "-n", 3, "-o", "path")
    table = json.loads((tmp_path / "path" / "starts.json").read_text())
    targets = {entry["number"]: entry["target"] for entry in table["rejected"]}
    targets |= {entry["number"]: target for entry, target in zip(table["checks"], table["targets"])}
    assert sorted(targets) == [0, 1, 2]
    assert targets[2] == pytest.approx(point, abs=1e-4)
    assert targets[0] == pytest.approx(state_point(model, state, 450.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--at", "0, 0", "-n", 2), "--at already determines the number of structures; leave out -n"),
        (("--at", "0, 0", "--between", "0, 0", "1, 1"), "give --at or --between, not both"),
        ((), "-n, the number of structures, is missing"),
        (("--at", "here"), "'here' are not values of the collective variable, like '0.3, -1.2'"),
        (("--between", "state 99", "state 0", "-n", 3), "; got 99"),
        (("--at", "0.3"), r"points must be finite numbers (n, 2); got [[0.3]]"),
    ],
)
def test_contradictory_options_of_starts(latf, options, words):
    found = latf("starts", finished_campaign(), "--temperature", "450 K", "-o", "made", *options)
    assert found.code == 2 and words in found.err and "Traceback" not in found.err


def test_fewer_starts_than_requested(latf, monkeypatch, tmp_path):
    made = SimpleNamespace(summary=lambda: "1 of 2 structures at 450 K are valid.")
    monkeypatch.setattr(Campaign, "generate_starts", lambda *_, **__: Few(made))
    found = latf("starts", finished_campaign(), "--temperature", "450 K", "-n", 2, "-o", "made")
    assert (found.code, found.out) == (1, "1 of 2 structures at 450 K are valid.\n")


class Few:
    """One structure."""

    def __init__(self, made: SimpleNamespace) -> None:
        self.summary, self.requested = made.summary, 2

    def __len__(self) -> int:
        return 1


def test_report(latf, monkeypatch):
    written = []

    def write(records, path):
        written.append((records.directory.path, path))
        return records.directory.report if path is None else path

    monkeypatch.setattr("latf_sampling.report.write_report", write)
    found = latf("report", finished_campaign())
    assert (found.code, found.err) == (0, "")
    assert found.out == f"Report: {finished_campaign() / 'report.html'}\n"
    assert written == [(finished_campaign(), None)]
    assert latf("report", finished_campaign(), "-o", "page.html").out == "Report: page.html\n"


def test_schema_and_version(latf):
    content = json.loads(latf("schema").out)
    assert "rounds" in content["properties"]
    found = latf("--version")
    versions = dict(line.split() for line in found.out.splitlines())
    assert found.code == 0 and found.out.startswith(f"latf_sampling {__version__}\n")
    assert versions["numpy"] == np.__version__ and versions["torch"] == torch.__version__.split("+")[0]
    assert {"python", "openmm", "pydantic"} < versions.keys()


def test_a_dry_run_is_the_plan_of_the_check_with_its_time(latf, tmp_path, monkeypatch):
    from latf_sampling.campaign import speed

    monkeypatch.setattr(speed, "measure_speed", partial(speed.measure_speed, seconds=0.1))
    protocol = write_protocol(tmp_path)
    checked, dry = latf("check", protocol), latf("run", protocol, "--dry-run")
    assert (checked.code, dry.code) == (0, 0)
    *same, time = dry.out.splitlines()
    assert same == checked.out.splitlines()
    assert re.fullmatch(r"time +about .* of simulation here \(.* ns/day.*, on Reference\); learning and .*", time)
    assert {path.name for path in tmp_path.iterdir()} == {"protocol.yaml", "alanine-dipeptide.pdb"}
    found = latf("run", protocol, "--dry-run", "--smoke")
    assert found.code == 2 and "give one of them" in found.err


def test_a_check_says_what_is_left_of_a_campaign(latf, tmp_path):
    protocol, copy = write_protocol(tmp_path), tmp_path / "run"
    shutil.copytree(finished_campaign(), copy)
    last = latf("check", protocol, "-o", copy).out.splitlines()[-1]
    assert last == "Everything is finished: only the report would be written again."
    shutil.rmtree(copy / "starts")
    last = latf("check", protocol, "-o", copy).out.splitlines()[-1]
    assert last == "What is finished stays. Left to do: starts, report."


def test_a_proposal_is_printed_and_never_replaces_a_file(latf, tmp_path, monkeypatch):
    from latf_sampling.campaign import proposal

    measure = proposal.measure_speed
    monkeypatch.setattr(proposal, "measure_speed", lambda setup, seconds: measure(setup, 0.1))
    write_protocol(tmp_path)
    found = latf("init", "alanine-dipeptide.pdb", "-o", "new.yaml")
    assert found.code == 0 and found.out.startswith("new.yaml: written. It would run:\nfound ")
    assert "latf run new.yaml --smoke" in found.out and "ns/day" in (tmp_path / "new.yaml").read_text()
    assert latf("check", "new.yaml").code == 0
    found = latf("init", "alanine-dipeptide.pdb", "-o", "new.yaml")
    assert found.code == 2 and "exists already; give --force" in found.err


def test_status_of_a_file_that_is_not_a_directory(latf, tmp_path):
    (tmp_path / "file").write_text("")
    assert NO_CAMPAIGN in latf("status", "file").err


def test_features_cannot_be_ranked_without_a_model(latf, tmp_path):
    found = latf("features", write_protocol(tmp_path), "--ranking")
    assert (found.code, found.out) == (2, "")
    assert "--ranking needs a model; give the directory of a campaign" in found.err


@pytest.mark.parametrize("healthy", [True, False])
def test_doctor(latf, monkeypatch, healthy):
    status = "works" if healthy else "crashed"
    probes = tuple(doctor.Probe("pythonforce", name, status, "") for name in ("Reference", "CPU"))
    blank = {field.name: () for field in dataclasses.fields(doctor.Report)}
    report = doctor.Report(**{**blank, "system": "Linux", "versions": {}, "probes": probes})
    monkeypatch.setattr(doctor, "examine", lambda: report)
    found = latf("doctor", "--json")
    assert found.code == (0 if healthy else 1)
    content = json.loads(found.out)
    assert content["healthy"] is healthy
    assert {probe["backend"] for probe in content["probes"]} == {"pythonforce"}
    found = latf("doctor")
    assert found.code == (0 if healthy else 1)
    assert ("This installation works." in found.out) is healthy


def test_run_of_a_finished_campaign(latf, copy, tmp_path, monkeypatch):
    monkeypatch.setattr("latf_sampling.campaign.campaign.Campaign._report", lambda *_: None)
    found = latf("run", write_protocol(tmp_path / "given"), "-o", copy)
    assert found.code == 0
    assert found.err.splitlines()[0] == "round 0: simulate: done. finished before"
    assert f"Report: {copy / 'report.html'}" in found.out
    assert "\x1b" not in found.err and "\r" not in found.err


def test_warnings_are_sentences(latf, monkeypatch):
    def warn(*_):
        import warnings

        warnings.warn("little data", stacklevel=1)
        raise SystemExit(0)

    monkeypatch.setattr(cli, "app", lambda **_: warn())
    assert latf("status").err == "latf: little data\n"


# ---------------------------------------------------------------------------------------------------------- wrong input


def changed(**changes):
    return lambda path: ("run", write_protocol(path / "given", **changes), "-o", path / "new")


def without_structure(path: Path) -> tuple:
    protocol = write_protocol(path / "given")
    (path / "given" / TINY["system"]["structure"]).unlink()
    return "run", protocol, "-o", path / "new"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda path: ("run", path / "none.yaml", "-o", path / "new"), "none.yaml: cannot be read"),
        (without_structure, "system.structure: there is no file"),
        (changed(colour="red"), "colour: no such key."),
        (changed(frame_interval="0.1"), "frame_interval: '0.1' has no unit"),
        (changed(learning={"lag": "0.15 ps"}), "frame_interval (0.1 ps); 0.1 or 0.2 ps would be"),
        (changed(features=[{"torsions": "chi1"}]), "features[0].torsions: 'chi1' finds no torsion"),
        (changed(system={**TINY["system"], "platform": "Abacus"}), "platform: OpenMM has none called 'Abacus'"),
        (lambda path: ("status", path / "new"), NO_CAMPAIGN),
        (lambda path: ("report", path / "new"), NO_CAMPAIGN),
        (lambda path: ("train", path / "new", "-o", path / "own"), NO_CAMPAIGN),
        (lambda path: ("export", path / "new", "-o", path / "cv.pt"), NO_CAMPAIGN),
        (lambda path: ("starts", path / "new", "--temperature", "450 K", "-n", 1, "-o", path / "own"), NO_CAMPAIGN),
        (lambda path: ("train", finished_campaign(), "-o", path / "own", "--round", 9), "has rounds 0 to 2; got 9"),
        (lambda path: ("export", finished_campaign(), "-o", path / "cv.pt", "--round", 9), "learned after round 9"),
        (
            lambda path: ("starts", finished_campaign(), "--temperature", "450", "-n", 1, "-o", path / "own"),
            "--temperature: '450' has no unit; write a temperature with its unit, like '300 K'.",
        ),
        (
            lambda path: ("starts", finished_campaign(), "--temperature", "3 nm", "-n", 1, "-o", path / "own"),
            "--temperature: '3 nm' is not a temperature",
        ),
        (
            lambda path: ("starts", finished_campaign(), "--temperature", "-3 K", "-n", 1, "-o", path / "own"),
            "temperature: must be more than 0 K",
        ),
        (
            lambda path: ("starts", finished_campaign(), "--temperature", "450 K", "-n", 0, "-o", path / "own"),
            "n must be at least 1",
        ),
    ],
    ids=[
        "no protocol", "no structure", "key", "unit", "multiple", "torsion", "platform", "status of none",
        "report of none", "train of none", "export of none", "starts of none", "train round", "export round",
        "temperature", "length", "below zero", "no starts",
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(latf, tmp_path, arguments, words):
    entered = arguments(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = latf(*entered)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith("latf: ") and found.err.count("\n") == 1
    assert words in found.err
    assert sorted(tmp_path.rglob("*")) == before  # nothing was written


def test_every_fault_of_a_protocol_has_a_line(latf, tmp_path):
    found = latf("run", write_protocol(tmp_path, colour="red", seed=-1), "-o", "new")
    assert found.code == 2
    assert len(found.err.splitlines()) == 2
    assert "colour" in found.err and "seed" in found.err


@pytest.mark.parametrize("arguments", [(), ("dance",), ("run",), ("status",), ("starts", "here", "-n", "many")])
def test_usage(latf, arguments):
    found = latf(*arguments)
    assert found.code == 2
    assert "Usage: " in found.out + found.err
    assert "Traceback" not in found.err


def test_an_unfinished_campaign_has_no_model_to_export(latf, copy):
    for index in range(3):
        shutil.rmtree(copy / "rounds" / f"{index:02d}" / "learning")
    for arguments in (("export", copy, "-o", "cv.pt"), ("starts", copy, "--temperature", "450 K", "-n", 1, "-o", "s")):
        found = latf(*arguments)
        assert found.code == 2
        assert found.err == f"latf: {copy}: no model is learned yet; run the campaign first.\n"


def test_a_changed_file_is_named(latf, copy, tmp_path):
    with open(copy / "rounds" / "00" / "walker-00" / "segment-003.nc", "ab") as handle:
        handle.write(b" ")
    found = latf("train", copy, "-o", "own")
    assert found.code == 2
    assert "segment-003.nc: was changed" in found.err
    assert not (tmp_path / "own").exists()


def test_a_directory_with_other_files_is_left_alone(latf, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    found = latf("run", write_protocol(tmp_path / "given"), "-o", "mine")
    assert found.code == 2
    assert "holds other files (notes.txt)" in found.err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
