"""Lags of chains of known time scales, and the rule that recommends one, on constructed results."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from latf_sampling.data.dataset import Series
from latf_sampling.errors import DataError, SettingsError, TrainingError
from latf_sampling.learning import lag_scan as lags
from latf_sampling.learning.lag_scan import LagResult, LagScan, scan_lags
from latf_sampling.report.lags import write_lags
from latf_sampling.settings import ModelSettings, TrainingSettings

SMALL = ModelSettings(latent_dim=2, encoder_hidden=(16,), decoder_hidden=(16,))
QUICK = TrainingSettings(initial_states=6, refinements=6, refinement_epochs=2, learning_rate=1e-2)
CENTERS = np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]])

TWO = np.array([[0.99, 0.01], [0.01, 0.99]])
"""One time scale, -1 / ln(0.98): 49.5 frames."""
THREE = np.array([[0.995, 0.005, 0.0], [0.005, 0.975, 0.02], [0.0, 0.08, 0.92]])
"""The third state is left within 12 frames; time scales are 10 and 111 frames."""


def chain(matrix: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """States of a Markov chain."""
    cumulated, draws = matrix.cumsum(1), rng.random(n)
    states = np.zeros(n, dtype=int)
    for t in range(1, n):
        states[t] = np.searchsorted(cumulated[states[t - 1]], draws[t])
    return states


def observed(matrix: np.ndarray, n: int, seed: int, **options) -> Series:
    """Hidden states, each a Gaussian in three dimensions that overlaps with no other."""
    rng = np.random.default_rng(seed)
    states = chain(matrix, n, rng)
    return Series(CENTERS[states] + 0.3 * rng.normal(size=(n, 3)), **options)


def exact(matrix: np.ndarray) -> np.ndarray:
    """Time scales in frames, the slowest first."""
    return -1 / np.log(np.sort(np.linalg.eigvals(matrix).real)[-2::-1])


@pytest.fixture(scope="module")
def two() -> LagScan:
    series = [observed(TWO, 6000, seed, interval=0.5) for seed in range(2)]
    return scan_lags(series, [1, 4, 16], model=SMALL, training=QUICK, seeds=2)


@pytest.fixture(scope="module")
def three() -> LagScan:
    return scan_lags([observed(THREE, 20_000, 3)], [2, 4, 32], model=SMALL, training=QUICK)


def test_two_states_at_all_lags_below_their_time_scale(two):
    assert [result.states for result in two.results] == [(2, 2)] * 3
    for result in two.results:
        (timescale,), (error,) = result.timescales, result.errors
        assert abs(timescale - exact(TWO)[0]) < 4 * error
        assert 0.02 < error / timescale < 0.3


def test_the_score_is_that_of_the_exact_eigenvalue(two):
    assert two.scoring_lag == 4
    for result in two.results:
        # A constant, and the process; the latent space adds nothing to a state that it shows without overlap.
        assert abs(result.vamp2 - 1 - np.exp(-2 * 4 / exact(TWO)[0])) < 4 * result.vamp2_error + 0.01


def test_the_shortest_lag_of_a_markovian_chain_is_recommended(two):
    assert two.recommended == 1
    assert two.reason.startswith("1 frame (0.5 ps) is the shortest lag")


def test_expected_crossings_are_a_column(two):
    head, rows = two.cells()
    column = head.index("expected crossings / ns")
    for result, row in zip(two.results, rows):
        assert result.crossings > 0
        assert result.crossings_error > 0
        written = [float(number) for number in row[column].split(" ± ")]
        assert written == pytest.approx([result.crossings, result.crossings_error], rel=0.05)
        assert "e" not in row[column]  # as in "324 ± 1.3e+02"
        assert two.as_dict()["results"][0]["crossings"] == two.results[0].crossings


def test_a_state_vanishes_at_lags_beyond_its_life_time(three):
    assert [result.states for result in three.results] == [(3,), (3,), (2,)]
    slow, fast = exact(THREE)
    for result in three.results[:2]:
        assert abs(result.timescales[0] - slow) < 4 * result.errors[0]
        assert abs(result.timescales[1] - fast) < 4 * result.errors[1]


def test_the_lag_with_more_states_is_preferred_where_it_resolves_them(three):
    assert three.recommended == 2


def test_only_the_lowest_temperature_with_transitions_is_scored():
    cold = Series(CENTERS[[0] * 500] + 0.3 * np.random.default_rng(0).normal(size=(500, 3)), temperature=200.0)
    warm = observed(TWO, 4000, 1, temperature=300.0)
    hot = observed(np.full((2, 2), 0.5), 2000, 2, temperature=400.0)
    scan = scan_lags([hot, cold, warm], [2], model=SMALL, training=QUICK)
    assert scan.temperature == 300.0
    assert scan.frames == 6500
    (result,) = scan.results
    assert abs(result.timescales[0] - exact(TWO)[0]) < 4 * result.errors[0]


def test_the_same_seed_gives_the_same_scan():
    series = observed(TWO, 1500, 4)
    first, second, other = (
        scan_lags([series], [2, 4], model=SMALL, training=QUICK, seed=seed).results for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


def test_a_single_state_is_a_result():
    noise = Series(np.random.default_rng(0).normal(size=(1000, 2)))
    scan = scan_lags([noise], [2, 8], model=SMALL, training=QUICK)
    assert scan.results == (LagResult(2, (1,)), LagResult(8, (1,)))
    assert scan.recommended is None
    assert "single state" in scan.reason and "single" not in scan.table()


def test_other_failures_of_training_are_errors():
    with pytest.raises(TrainingError, match="no descriptor ever changes"):
        scan_lags([Series(np.zeros((1000, 2)))], [1], training=QUICK)


def test_progress_goes_from_nothing_to_all():
    calls = []
    scan_lags(
        [observed(TWO, 1000, 0)], [1, 2], model=SMALL, training=QUICK, progress=lambda *entry: calls.append(entry)
    )
    fractions = [fraction for fraction, _ in calls]
    assert fractions == sorted(fractions) and 0 < fractions[0] < 0.2 and 0.5 < fractions[-1] <= 1
    assert {words.split(":")[0] for _, words in calls} == {"lag 1", "lag 2"}


# Which lags, and which frames


def test_lags_are_powers_of_two_by_default():
    assert lags._checked(None, 1000, 100_000) == [1, 2, 4, 8, 16, 32, 64]  # a tenth of the longest series
    assert lags._checked(None, 50_000, 50_000) == [1, 2, 4, 8, 16, 32, 64, 128, 256]  # a hundredth of all frames
    assert lags._checked(None, 20, 20) == [1]


def test_the_first_frames_of_each_series_are_used(monkeypatch):
    monkeypatch.setattr(lags, "FRAMES", 60)
    long, short = (Series(np.arange(n, dtype=float)[:, None], labels=np.arange(n)) for n in (90, 30))
    used = lags._leading([long, short])
    assert [len(entry) for entry in used] == [45, 15]
    np.testing.assert_array_equal(used[0].x[:, 0], np.arange(45))
    np.testing.assert_array_equal(used[1].labels, np.arange(15))


@pytest.mark.parametrize("wrong", [[], [0, 1], [2, 1], [1, 1], [1.5]])
def test_wrong_lags_are_refused(wrong):
    with pytest.raises(SettingsError, match="whole numbers of frames in ascending order"):
        scan_lags([Series(np.zeros((100, 1)))], wrong)


def test_series_that_cannot_be_used_are_refused():
    with pytest.raises(DataError, match="has 9 frames in use, too few for any lag"):
        scan_lags([Series(np.zeros((9, 1)))])
    with pytest.raises(DataError, match="a lag of 11 is more than a tenth"):
        scan_lags([Series(np.zeros((100, 1)))], [1, 11])
    with pytest.raises(DataError, match="give one of plain dynamics"):
        scan_lags([Series(np.zeros((100, 1)), weights=np.linspace(1, 2, 100))])
    with pytest.raises(SettingsError, match="seeds must be at least 1"):
        scan_lags([Series(np.zeros((100, 1)))], [1], seeds=0)


# The rule


def result(lag, states, timescale=100.0, error=5.0, vamp2=2.0) -> LagResult:
    return LagResult(lag, (states,), (timescale,), (error,), vamp2, 0.1)


def chosen(*results: LagResult) -> int | None:
    return LagScan(results, scoring_lag=4, temperature=300.0, frames=1000).recommended


def test_a_lag_that_falls_short_of_longer_ones_is_passed_over():
    assert chosen(result(1, 2, 60), result(4, 2, 95), result(16, 2, 100)) == 4
    assert chosen(result(1, 2, 60, 60), result(4, 2, 95)) == 1  # within the error
    assert chosen(result(1, 2, 60), result(16, 2, 60), result(64, 2, 95)) == 1  # too long a lag is ignored


def test_the_first_plateau_of_states_is_taken():
    assert chosen(result(1, 9), result(2, 5), result(4, 3), result(8, 3), result(16, 2), result(32, 2)) == 4


def test_a_lag_that_has_lost_something_slow_is_passed_over():
    assert chosen(result(1, 4, vamp2=2.3), result(2, 3, vamp2=2.25), result(4, 3, vamp2=2.0)) == 2


def test_without_a_plateau_the_fewest_states_are_taken():
    assert chosen(result(1, 9), result(4, 5), result(8, 3), result(64, 2)) == 8


def test_where_nothing_is_resolved_the_rest_decides():
    assert chosen(result(40, 3), result(50, 2), result(60, 2)) == 50


def test_states_that_depend_on_the_seed_are_no_plateau():
    unsure = LagResult(1, (3, 4), (100.0,), (5.0,), 2.0, 0.1)
    scan = LagScan((unsure, result(2, 3)), 1, 300.0, 1000)
    assert not scan.meets(unsure)["states"]
    assert "No lag meets all conditions" in scan.reason
    assert "3 or 4" in scan.table()


# What is written


class Page(HTMLParser):
    """Words, tags and JSON of a page; refuses tags that do not close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.tags, self.words, self.script = [], [], "", ""
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        else:
            self.words += data.replace("\u00a0", " ")


def test_page_and_file_hold_the_numbers_of_the_scan(two, tmp_path):
    write_lags(two, tmp_path / "lags.html")
    two.save(tmp_path / "lags.json")
    page = Page(tmp_path / "lags.html")
    numbers = json.loads(page.script)
    assert numbers == json.loads((tmp_path / "lags.json").read_text()) == json.loads(json.dumps(two.as_dict()))
    assert [entry["lag"] for entry in numbers["results"]] == [1, 4, 16]
    assert numbers["results"][0]["timescales"] == list(two.results[0].timescales)
    assert two.reason in page.words
    assert all(cell in page.words for row in two.cells()[1] for cell in row)
    assert page.tags.count("svg") == page.tags.count("figcaption") == 1
    assert not {"link", "img"} & set(page.tags)


def test_a_page_without_any_state(tmp_path):
    scan = LagScan((LagResult(1, (1,)),), scoring_lag=1, temperature=300.0, frames=100)
    write_lags(scan, tmp_path / "lags.html")
    numbers = json.loads(Page(tmp_path / "lags.html").script)
    assert numbers["recommended"] is numbers["results"][0]["vamp2"] is None
