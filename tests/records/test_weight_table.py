"""Weights of every frame as a file: what follows from it alone is the campaign's own estimate."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
from helpers.molecules import finished_campaign

from latf_sampling.analysis import free_energy_difference
from latf_sampling.cli import main as cli
from latf_sampling.core import streams
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.records.weight_table import WAYS, WeightTable, observed_column, weight_file
from latf_sampling.records.weighting import weightings
from latf_sampling.units import KB

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture(scope="module")
def records() -> Records:
    return Records.load(finished_campaign())


@pytest.fixture(scope="module")
def tables(records) -> dict[str, WeightTable]:
    return {way: WeightTable.from_records(records, 300.0, way) for way in WAYS}


def read_csv(path) -> dict[str, np.ndarray]:
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return dict(zip(head, np.array(rows, dtype=float).T))


@pytest.mark.parametrize("way", WAYS)
def test_reweighted_means_follow_from_the_file_alone(records, tables, tmp_path, way):
    """They are the campaign's own, as its report computes them, of the observed variable and of a half of its range."""
    tables[way].write(tmp_path / "w.csv")
    columns = read_csv(tmp_path / "w.csv")
    weights, values = np.exp(columns["log_weight"]), columns[observed_column(records.observed)]
    middle = np.median(values[weights > 0])
    rng = streams.stream(records.protocol.seed, "report", "weights")
    weighting = next(w for w in weightings(records, records.frames(), 300.0, rng) if w.name == WAYS[way])
    own = [
        np.concatenate([records.observed.values(piece) for piece in walker.pieces()])[part]
        for walker, part in zip(weighting.walkers, weighting.selected)
    ]
    inside = [part > middle for part in own]
    difference = free_energy_difference(inside, weighting.log_weights, 300.0, rng, weighting.states)
    from_file = -KB * 300.0 * np.log(weights[values > middle].sum() / weights[values <= middle].sum())
    assert weights.sum() == pytest.approx(1.0, abs=1e-6) and np.isfinite(from_file)
    assert from_file == pytest.approx(difference.value, abs=1e-5)
    mean = np.average(np.concatenate(own), weights=np.exp(np.concatenate(weighting.log_weights)))
    assert weights @ values == pytest.approx(mean, abs=1e-6)
    assert {"time_ps", "temperature_K", "u1"} < columns.keys() and observed_column(records.observed).endswith("_rad")


def test_every_frame_has_its_row(records, tables, tmp_path):
    table, walkers = tables["mbar"], records.frames()
    assert len(table) == sum(map(len, walkers))
    tables["mbar"].write(tmp_path / "w.npz")
    tables["mbar"].write(tmp_path / "w.npy")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
        for name, column in table.columns.items():
            assert np.array_equal(file[name], column)
        about = json.loads(str(file["about"]))
    assert (about["temperature_K"], about["weighting"]) == (300.0, "MBAR")
    structured = np.load(tmp_path / "w.npy", allow_pickle=False)
    assert np.array_equal(structured["u1"], table.columns["u1"]) and len(structured) == len(table)
    model, cv = records.model(records.last_learned())
    rows = [(w, k) for w in walkers for k in range(len(w))]
    for row in (0, len(rows) // 2, len(rows) - 1):
        walker, frame = rows[row]
        found = {name: column[row] for name, column in table.columns.items()}
        assert (found["round"], found["walker"], found["frame"]) == (walker.round_index, walker.walker, frame)
        assert found["time_ps"] == pytest.approx((frame + 1) * records.protocol.frame_interval)
        assert found["temperature_K"] == walker.temperature
        u = cv(np.asarray(walker.take([frame]).xyz, float))[0]
        assert [found["u1"], found["u2"]] == pytest.approx(u.tolist(), abs=1e-5)
        assert found["state"] == model.state_probabilities(u[None]).argmax()


def test_other_temperatures_are_reached_by_mbar_alone(records):
    table = WeightTable.from_records(records, "350 K")
    assert table.temperature == 350.0 and np.exp(table.columns["log_weight"]).sum() == pytest.approx(1.0)
    with pytest.raises(SettingsError, match=r"c\(t\) weights frames of biased walkers .* biased walkers are at 300 K"):
        WeightTable.from_records(records, 350.0, "c(t)")
    with pytest.raises(SettingsError, match="there is no weighting 'wham'; there are mbar"):
        WeightTable.from_records(records, 350.0, "wham")


@pytest.mark.parametrize("name, error", [("w.xlsx", SettingsError), ("w", SettingsError), ("no/w.csv", StoreError)])
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, name, error):
    with pytest.raises(error):
        weight_file(tmp_path / name)


def test_the_command_says_how_many_frames_count(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["latf", "weights", str(finished_campaign()), "-o", "w.csv"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "weights at 300 K by MBAR" in capsys.readouterr().out and (tmp_path / "w.csv").exists()
