"""Pictures for papers, their numbers as CSV, and the page that compares campaigns."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import molecules
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from typer.testing import CliRunner

from latf_sampling.analysis import Convergence
from latf_sampling.cli.main import app
from latf_sampling.cli.plotting import plot_command, report_command
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.learning import model
from latf_sampling.records import observables
from latf_sampling.records.records import Records
from latf_sampling.report import charts, comparison, landscapes, plots


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((landscapes, "GRID", 12), (model, "POPULATION_SAMPLES", 200), (plots, "GRID", 3)):
            patch.setattr(module, name, value)
        patch.setattr(observables, "MARGIN", 0.35)  # so that the tiny campaign crosses
        yield


@pytest.fixture(scope="module")
def source() -> plots.Source:
    """A campaign whose observed variable has a border that frames lie on both sides of, wherever the walkers went."""
    records = Records.load(molecules.finished_campaign())
    phi = np.concatenate([records.observed.values(walker.trajectory) for walker in records.frames()])
    records.observed = replace(records.observed, above=float(np.median(phi)))
    return plots.Source(records)


PICTURES = {
    "convergence", "cost", "crossings", "descriptors", "estimates", "free-energy", "landscape", "melting",
    "populations", "starts", "time-series", "torsions", "training", "weights",
}  # fmt: skip


def test_the_pictures_are_these():
    assert set(plots.PICTURES) == PICTURES
    for name in PICTURES:
        assert getattr(plots, name.replace("-", "_")).__doc__, name


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_axes_have_units_and_numbers_fit_their_heads(source, name):
    picture = plots.PICTURES[name](source)
    figure, axes = plots._figure(picture)
    assert isinstance(figure, Figure) and len(axes) == picture.rows
    assert axes[-1].get_xlabel() or axes[-1].get_xticklabels()
    labels = [text for axis in axes for text in (axis.get_xlabel(), axis.get_ylabel()) if text]
    unitless = ("latent", "prediction", "regularization", "-ln p", "states", "epoch", "crossings", "u")
    for label in labels:
        assert re.search(r"(, [\w/°%]+|degrees|, %)$", label) or label.startswith(unitless), label
    head, rows = picture.table(*axes)
    assert len(rows) > 0 and {len(row) for row in rows} == {len(head)}
    pure = (
        r"(target_|reached_|share_in_)?u\d|walker|round|stage|state|structure|descriptor|from|weights|by|share|in|out"
    )
    pure += r"|epoch|states|iteration|learning_rate|population\w*|error|of_training_frames|(independent_)?frames"
    pure += r"|(validation_)?(loss|prediction|regularization|slowness|unevenness|tilted)"
    for column in plots._csv(head, []).rstrip("\n").split(","):
        assert re.fullmatch(pure + r"|\w+_(kJ_per_mol|degrees|ns|s|K)", column, re.ASCII), column
    for line in figure.findobj(lambda artist: hasattr(artist, "get_color") and isinstance(artist.get_color(), str)):
        assert to_hex(line.get_color()) != charts.LINE


def numbers(source: plots.Source, name: str) -> list[dict[str, str]]:
    """What the file of a picture's numbers says, read back."""
    picture = plots.PICTURES[name](source)
    _, axes = plots._figure(picture)
    return list(csv.DictReader(plots._csv(*picture.table(*axes)).splitlines()))


def test_numbers_are_those_of_the_report(source):
    found = source.estimates
    rows = {row["from"]: row for row in numbers(source, "estimates")}
    assert float(rows["pooled"]["difference_kJ_per_mol"]) == pytest.approx(found.pooled.value)
    assert float(rows["round 1"]["error_kJ_per_mol"]) == pytest.approx(found.rounds[1].error)
    crossed = {row["walker"]: (int(row["in"]), int(row["out"])) for row in numbers(source, "crossings")}
    assert crossed == {f"round {k}, walker {w}": counts for (k, w), counts in found.crossings.items()}
    _, profile = landscapes.surface_and_profile(source.records, found)
    rows = numbers(source, "free-energy")
    energies = [float(row["free_energy_kJ_per_mol"] or "inf") for row in rows]
    assert energies == pytest.approx(profile.values)
    assert [row["weights"] for row in numbers(source, "weights")] == ["c(t)", "last bias", "MBAR"]
    cells = np.array([[float(value or "nan") for value in row.values()] for row in numbers(source, "landscape")])
    learned = source.learned()[1]
    free = cells[np.isfinite(cells[:, -1])]
    energy = learned.model.free_energy(free[:, :2].astype(np.float32))
    assert np.ptp(energy - free[:, 2]) < 1e-2


def test_axes_of_ones_own(source):
    figure = Figure()
    axes = figure.subplots()
    assert plots.crossings(source.records, axes) is axes
    assert axes.get_xlabel() == "crossings"
    assert plots.crossings(source.records).figure is not figure


def test_the_command_writes_a_figure_and_its_numbers(tmp_path):
    directory = str(molecules.finished_campaign())
    answer = CliRunner().invoke(app, ["plot", "populations", directory, "-o", str(tmp_path / "a.pdf"), "--csv"])
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.csv").read_text().startswith("state,population_at_300_K,error,of_training_frames\n")
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        plot_command("cost", Path(directory), tmp_path / f"b{suffix}", False, False)
        assert (tmp_path / f"b{suffix}").read_bytes().startswith(start)
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize(
    ("what", "file", "words"),
    [
        (
            "landscapes",
            "a.pdf",
            r"^plot: there is no picture 'landscapes'; there are convergence, cost, .*, weights\.$",
        ),
        ("landscape", "a.gif", r"a\.gif: pictures are written as \.pdf, \.svg or \.png\.$"),
        ("landscape", "a", r"a: pictures are written as \.pdf, \.svg or \.png\.$"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, what, file, words):
    with pytest.raises(SettingsError, match=words):
        plot_command(what, tmp_path / "missing", tmp_path / file, False, False)


def test_what_a_campaign_does_not_have_yet_is_named(source, monkeypatch):
    records = source.records
    monkeypatch.setattr(records, "rounds", [replace(entry, learned=None) for entry in records.rounds])
    monkeypatch.setattr(records, "observed", None)
    for name in ("landscape", "populations", "melting", "training", "descriptors", "starts"):
        if name != "starts":
            with pytest.raises(DataError, match=r"^plot: .*run has no learned model yet, which this picture shows\.$"):
                plots.PICTURES[name](plots.Source(records))
    for name in ("free-energy", "torsions", "estimates", "convergence", "weights", "crossings"):
        with pytest.raises(DataError, match=r"observes no variable \(key `observe` of its protocol\)"):
            plots.PICTURES[name](plots.Source(records))


def test_campaigns_side_by_side(source, tmp_path, monkeypatch):
    """A campaign and the same by another name: the same numbers, and no difference."""
    first = source.records
    renamed = first.protocol.model_copy(update={"name": "<script>alert(1)</script>"})
    second = Records(renamed, first.directory)
    second.observed = first.observed
    monkeypatch.setattr(comparison.Records, "verify", lambda self: None)
    text = comparison.write_comparison([first, second], tmp_path / "c.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;" in text
    shown = text.replace("\xa0", " ")
    assert re.search(
        r"B minus A: 0\.0+ ± [\d.]+ kJ/mol, 0\.0 combined errors: they agree within their errors[.,]", shown
    )
    content = json.loads(re.search(r'id="numbers">(.*?)</script>', text, re.S)[1])
    assert content["A"]["difference"] == content["B"]["difference"]
    pooled = source.estimates.pooled
    assert content["A"]["difference"]["pooled"]["value_kJ_per_mol"] == pytest.approx(pooled.value)
    walkers = [walker for group in source.estimates.sampled.values() for walker in group]
    crossed = sum(sum(source.estimates.crossings[walker.key]) for walker in walkers)
    time = sum(len(walker.frames) for walker in walkers) * 0.1 / 1000
    assert content["B"]["crossings_per_ns"] == pytest.approx(crossed / time)
    for words in ("MBAR", "last bias", "wall time, together", "their populations", "95 % interval"):
        assert words in shown
    assert not re.search(r">[^<]*\b(None|nan|inf)\b[^<]*<", text.partition("<script")[0])


def test_answers_to_different_questions_are_not_compared(source):
    one = comparison._Column("A", source.records)
    rng = np.random.default_rng(0)
    settled, far = (
        Convergence.from_frames([np.repeat(rng.random(1000) < share, 5)] * 2, [np.zeros(5000)] * 2, 300.0, 800, rng=0)
        for share in (0.3, 0.7)
    )
    one.estimates = replace(one.estimates, convergence=settled)
    for change, words in (
        ({"temperature": 310.0}, "A and B are at different temperatures, 300 K and 310 K."),
        ({"observed": replace(one.estimates.observed, above=0.1)}, "A and B answer different questions: "),
        ({"observed": None}, "the protocol of B names no variable to observe."),
        ({"convergence": far}, "combined errors: they do not agree. One of them, or both, is not converged."),
        ({"convergence": None}, "A and B cannot be compared: there is no estimate of B"),
    ):
        other = comparison._Column("B", source.records)
        other.estimates = replace(one.estimates, **change)
        assert words in comparison._difference(one, other)


@pytest.mark.parametrize(
    ("count", "compare", "words"),
    [(1, True, "--compare needs the directories of two campaigns"), (2, False, "got 2 directories; give one, or")],
)
def test_the_number_of_directories_is_checked(tmp_path, count, compare, words):
    with pytest.raises(SettingsError, match=words):
        report_command([tmp_path] * count, None, compare, False)
