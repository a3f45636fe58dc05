"""Tables of descriptors, of campaigns and of trajectories, and the command that writes them."""

from __future__ import annotations

import csv
import json
import sys

import mdtraj
import numpy as np
import pytest
from helpers import molecules
from rich.console import Console

from latf_sampling import Features
from latf_sampling.cli import main as cli
from latf_sampling.core import storage
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.records.feature_table import Source, write_features
from latf_sampling.records.records import Records
from latf_sampling.records.setup import Setup
from latf_sampling.settings import Protocol

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture
def setup(tmp_path) -> Setup:
    """Alanine dipeptide, from a protocol that was not run."""
    return Setup(Protocol.load(molecules.write_protocol(tmp_path)))


@pytest.fixture
def paths(tmp_path) -> list[str]:
    made = []
    for number, suffix in enumerate(("dcd", "xtc")):
        trajectory = mdtraj.Trajectory(
            molecules.frames(30 + 10 * number, seed=number, noise=0.003),
            mdtraj.Topology.from_openmm(molecules.alanine().topology),
        )
        made.append(str(tmp_path / f"run.{suffix}"))
        trajectory.save(made[-1])
    return made


def expected(setup: Setup, paths: list[str]) -> np.ndarray:
    return np.concatenate([setup.features.transform(mdtraj.load(path, top=setup.topology)) for path in paths])


def test_an_npz_file_holds_everything(setup, paths, tmp_path, monkeypatch):
    monkeypatch.setattr("latf_sampling.data.trajectory_files.PIECE_BYTES", 12 * 22 * 7)
    monkeypatch.setattr("latf_sampling.records.feature_table.ROWS", 9)
    seen: list[tuple[float, str]] = []
    found = write_features(
        setup.features, Source.from_files(setup, paths), tmp_path / "x.npz", lambda *words: seen.append(words)
    )
    with np.load(tmp_path / "x.npz") as content:
        x = content["x"]
        np.testing.assert_array_equal(x, expected(setup, paths))
        assert content["names"].tolist() == setup.features.names
        assert content["units"].tolist() == setup.features.units
        np.testing.assert_array_equal(content["trajectory"], [0] * 30 + [1] * 40)
        about = json.loads(str(content["provenance"]))
        assert set(content.files) == {"x", "names", "units", "trajectory", "provenance"}
    assert about["features"] == [{"torsions": "phi psi"}]
    assert about["topology"] == setup.features.topology_fingerprint
    assert about["versions"]["numpy"] == np.__version__
    assert about["trajectories"] == [
        {
            "name": f"run.{suffix}",
            "frames": frames,
            "temperature_K": None,
            "files": [{"path": path, "sha256": storage.checksum(path)}],
        }
        for path, suffix, frames in zip(paths, ("dcd", "xtc"), (30, 40))
    ]
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-5)
    assert seen[-1] == (1.0, "70 frames, 4 columns")


def test_an_npy_file_can_be_mapped_and_learned_from(setup, paths, tmp_path):
    write_features(setup.features, Source.from_files(setup, paths), tmp_path / "x.npy")
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, expected(setup, paths))
    about = json.loads((tmp_path / "x.json").read_text())
    assert about["names"] == setup.features.names
    assert [entry["frames"] for entry in about["trajectories"]] == [30, 40]


def test_a_csv_file_has_one_line_per_frame(setup, paths, tmp_path):
    features = Features(setup.topology, [{"distances": {"pairs": [[1, 4], [4, 6]]}}, {"torsions": "phi"}])
    write_features(features, Source.from_files(setup, paths), tmp_path / "x.csv")
    with (tmp_path / "x.csv").open() as file:
        head, *rows = list(csv.reader(file))
    assert head == ["trajectory", *(f"{name} / nm" for name in features.names[:2]), *features.names[2:]]
    x = np.concatenate([features.transform(mdtraj.load(path, top=setup.topology)) for path in paths])
    np.testing.assert_allclose(np.array(rows, float)[:, 1:], x, rtol=1e-6)
    assert [row[0] for row in rows] == ["0"] * 30 + ["1"] * 40


def test_frames_of_a_campaign_come_with_their_numbers(tmp_path):
    records = Records.load(molecules.finished_campaign())
    write_features(records.features, Source.from_records(records), tmp_path / "x.npz")
    walkers = records.frames()
    with np.load(tmp_path / "x.npz") as content:
        assert len(content["x"]) == sum(map(len, walkers))
        np.testing.assert_array_equal(content["temperatures"], [walker.temperature for walker in walkers])
        np.testing.assert_array_equal(content["energies"], np.concatenate([walker.energies for walker in walkers]))
        np.testing.assert_array_equal(content["weights"], np.concatenate([walker.weights for walker in walkers]))
        about = json.loads(str(content["provenance"]))
    assert [entry["name"] for entry in about["trajectories"]][:2] == ["round 0, walker 0", "round 1, walker 0"]
    for entry in about["trajectories"]:
        for file in entry["files"]:
            assert storage.checksum(file["path"]) == file["sha256"]


@pytest.mark.parametrize(
    "name, sources, words",
    [
        ("x.txt", True, "features are written as .npz, .npy, .csv"),
        ("x.npz", False, "there is no trajectory to compute descriptors of"),
        ("nowhere/x.npz", True, "there is no folder"),
    ],
)
def test_what_cannot_be_written(setup, paths, tmp_path, name, sources, words):
    with pytest.raises(SettingsError, match=words):
        write_features(setup.features, Source.from_files(setup, paths if sources else []), tmp_path / name)


def test_a_failure_leaves_no_file(setup, paths, tmp_path):
    content = (tmp_path / "run.dcd").read_bytes()
    (tmp_path / "run.dcd").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="run.dcd: is truncated"):
        write_features(setup.features, Source.from_files(setup, paths), tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def call(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line."""
    monkeypatch.setattr(cli, "_out", Console(width=200))
    monkeypatch.setattr(cli, "_err", Console(width=200, stderr=True))
    monkeypatch.setattr(sys, "argv", ["latf", "features", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return (ended.value.code, *capsys.readouterr())


def test_the_command_computes_descriptors_of_trajectories_of_a_protocol(setup, paths, tmp_path, monkeypatch, capsys):
    rows = {"pairs": [[1, 4], [4, 5], [4, 6]]}  # C and O of the acetyl group: next to each other, and hardly moving
    spec = [{"torsions": "phi psi"}, {"distances": rows}]
    protocol = molecules.write_protocol(tmp_path / "other", features=spec)
    stiff = mdtraj.load(paths[0], top=setup.topology)
    stiff.xyz[:, 5] = stiff.xyz[:, 4] + np.array([0.12, 0, 0], np.float32)
    stiff.save(paths[0])
    code, out, err = call(monkeypatch, capsys, protocol, paths[0], "-o", tmp_path / "x.npz")
    assert (code, "features: done. 30 frames, 7 columns" in err) == (0, True)
    assert "1 column is nearly constant: 'distance ACE1-C ACE1-O'." in out
    assert next(line for line in out.splitlines() if line.startswith("distance ACE1-C ACE1-O")).endswith(" 0.12")
    assert (tmp_path / "x.npz").exists() and not (tmp_path / "other" / "protocol-features").exists()


def test_the_command_ranks_the_descriptors_of_a_campaign(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, molecules.finished_campaign(), "--ranking")
    assert code == 0
    lines = out[out.index("descriptor") :].splitlines()
    shares = [float(line.split("%")[0].split()[-1]) for line in lines[1:5]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing.yaml"], "nothing.yaml: cannot be read"),
        (["protocol.yaml"], "there is no trajectory to compute descriptors of"),
        (["protocol.yaml", "nothing.dcd"], "there is no file"),
        (["protocol.yaml", "run.xtc", "-o", "x.txt"], "features are written as"),
    ],
)
def test_the_command_says_what_is_wrong(setup, paths, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err and len(err.strip().splitlines()) == 1
