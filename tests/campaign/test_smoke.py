"""A protocol made as small as it can be, and run from end to end in a folder that is removed."""

from __future__ import annotations

import tempfile

import pytest
from helpers.molecules import STRUCTURE, TINY, TINY_WELLS, InThisProcess, step_here, write_protocol
from rich.console import Console

from latf_sampling.campaign import smoke
from latf_sampling.campaign.smoke import SmokeTest, smoke_protocol, smoke_test
from latf_sampling.cli import main as cli
from latf_sampling.errors import LatfError, SimulationError
from latf_sampling.settings import Protocol, n_steps

PROTOCOLS = sorted(STRUCTURE.parent.glob("*.yaml"))
BIAS = {"kind": "metadynamics", "bias_factor": 5, "height": "1 kJ/mol", "interval": "24 fs", "stride": 3}
TRIPLE = {"rounds": [TINY["rounds"][0], {"walkers": ["300 K"], "length": "12 ps", "bias": BIAS}]}
VARIANTS = {
    "a bias at every third step": {**TRIPLE, "frame_interval": "0.12 ps", "segment": "6 ps"}
    | {"learning": {**TINY["learning"], "lag": "0.24 ps"}},
    "many walkers": {"rounds": [{"walkers": ["300 K"] * 50 + ["600 K"] * 50, "length": "40 ps"}]},
    "replica exchange": {
        "rounds": [{"walkers": ["300 K", "400 K"], "length": "40 ps", "exchange": {"interval": "10 ps"}}]
    },
    "disagreement": {"rounds": [TINY["rounds"][0], {**TINY["rounds"][1], "restart": "disagreement"}]},
}


def small_enough(protocol: Protocol, small: Protocol) -> None:
    runs = [(full, part) for full, part in zip(protocol.runs, small.runs, strict=True) if hasattr(part, "length")]
    for full, part in runs:
        assert len(part.walkers) == min(2, len(full.walkers))
        assert set(part.walkers) <= set(full.walkers) and len(set(part.walkers)) == min(2, len(set(full.walkers)))
        assert n_steps(part.length, small.frame_interval) == 32
        assert (part.bias is None) == (full.bias is None)
        assert part.bias is None or (part.bias.kind, part.bias.interval) == (full.bias.kind, small.frame_interval)
    assert n_steps(small.frame_interval, small.integrator.timestep) <= 12
    assert small.learning.lag == small.frame_interval
    for key in ("features", "model", "observe", "integrator", "seed"):
        assert getattr(small, key) == getattr(protocol, key)
    if protocol.starts is not None:
        assert small.starts.count == 2 and small.starts.temperature == protocol.starts.temperature


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_each_protocol_is_made_small(path):
    protocol = Protocol.load(path)
    small_enough(protocol, smoke_protocol(protocol))


@pytest.mark.parametrize("name", VARIANTS)
def test_whatever_is_asked_for_is_made_small(tmp_path, name):
    protocol = Protocol.load(write_protocol(tmp_path, **VARIANTS[name]))
    small_enough(protocol, smoke_protocol(protocol))


def test_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("latf_sampling.campaign.campaign.run_step", step_here)  # which tells of every bit of progress
    protocol, told = Protocol(**TINY_WELLS), []
    test = smoke_test(protocol, lambda *step: told.append(step), InThisProcess())
    assert list(test.steps) == [
        "round 0: simulate", "round 0: learn", "round 0: free energy", "references: simulate", "evaluate", "report",
    ]  # fmt: skip
    assert sum(test.steps.values()) <= test.seconds
    text = test.summary(protocol)
    assert "Smoke test of 'tiny wells': 2 rounds with 3 walkers of 32 frames each" in text
    assert "nothing about" in text and "  evaluate: " in text
    assert not list(tmp_path.glob("latf-smoke-*"))
    assert not [words for _, _, words in told if "latf-smoke-" in words]  # what is gone is not named
    for step in test.steps:  # each step tells how much of it is done on its way
        fractions = [fraction for name, fraction, _ in told if name == step]
        assert fractions == sorted(fractions) and fractions[-1] == 1.0
        assert step not in ("evaluate", "report") or len(fractions) > 4


def test_what_fails_is_told_and_the_folder_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(*_, **__):
        raise SimulationError("round 0, walker 0: exploded.")

    monkeypatch.setattr("latf_sampling.campaign.campaign.run_walkers", fail)
    with pytest.raises(SimulationError, match="exploded"):
        smoke_test(Protocol(**TINY_WELLS))
    assert not list(tmp_path.glob("latf-smoke-*"))


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(cli, "_err", Console(width=300, stderr=True))
    monkeypatch.setattr(cli, "_out", Console(width=300))
    monkeypatch.setattr("sys.argv", ["latf", "run", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "run: -o, the directory of the campaign, is missing"),
        (["--smoke", "-o", "x"], "--smoke runs in a temporary folder, and -o has no meaning there"),
        (["--smoke", "--until", "1 kJ/mol"], "and --until has no meaning there"),
        (["--smoke", "--max-time", "1 h"], "and --max-time has no meaning there"),
        (["--smoke", "--settled"], "and --settled has no meaning there"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, monkeypatch, capsys, options, words):
    code, _, err = run(monkeypatch, capsys, write_protocol(tmp_path), *options)
    assert code == 2 and words in err


def test_the_command(tmp_path, monkeypatch, capsys):
    path = write_protocol(tmp_path)

    def test(protocol, progress):
        if protocol.seed != 1:
            raise LatfError("the sentence.")
        progress("report", 1.0, "")
        return SmokeTest({"report": 1.0}, ["A remark."], 61.0)

    monkeypatch.setattr(smoke, "smoke_test", test)
    code, out, _ = run(monkeypatch, capsys, path, "--smoke")
    assert code == 0 and "in 1.0 min" in out and out.endswith("  report: 1.0 s\nA remark.\n")
    code, out, err = run(monkeypatch, capsys, write_protocol(tmp_path, seed=2), "--smoke")
    assert (code, out) == (2, "") and "latf: the sentence." in err
