"""Evaluation is right where the truth is known: Gaussians, Markov chains, planted faults."""

from __future__ import annotations

import io
import json
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from scipy.integrate import quad
from scipy.stats import norm

from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.errors import DataError, ExtrapolationWarning, SettingsError, TrainingError
from latf_sampling.learning import model as model_module
from latf_sampling.learning.evaluation import comparison, evaluate, histograms, populations
from latf_sampling.learning.evaluation.histograms import Grid
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.networks import Networks
from latf_sampling.learning.training import train
from latf_sampling.report.evaluation import write_evaluation
from latf_sampling.report.page import escape


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fewer samples and temperatures, which cost most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "POPULATION_SAMPLES", 2000)
        patch.setattr(populations, "TEMPERATURES", 9)
        yield


class Exact(LaTF):
    """A model without fault: the descriptors are u, at T a Gaussian of variance T; state 1 is where |u_1| > 1."""

    faulty_temperature = 1.0
    """Factor between the temperature that the results belong to and the one that is passed."""

    def for_validation(self):
        return self

    def encode(self, x):
        return np.asarray(x)

    def assign(self, x):
        return (np.abs(np.asarray(x)[:, 0]) > 1).astype(int)

    def sample(self, n, temperature=None, seed=None):
        rng = np.random.default_rng(seed)
        return np.sqrt(self.faulty_temperature * temperature) * rng.standard_normal((n, self.latent_dim))

    def log_prob(self, u, temperature=None, return_std=False):
        return norm.logpdf(u, scale=np.sqrt(self.faulty_temperature * temperature)).sum(1)

    def populations(self, temperature=None, return_std=False, seed=0):
        return outer(self.faulty_temperature * temperature)

    def effective_sample_size(self, temperature=None):
        return 1000.0

    def extrapolates(self, temperature=None):
        return temperature > 3


def outer(temperature: float) -> np.ndarray:
    """Populations of the two states of `Exact`."""
    inside = 1 - 2 * norm.sf(1 / np.sqrt(temperature))
    return np.array([inside, 1 - inside])


def exact(dataset: Dataset, held: tuple[int, ...] = (0, 5, 12)) -> Exact:
    model = Exact(latent_dim=dataset.n_features, reference_temperature=1.0)
    model.networks = Networks(model.settings, dataset.n_features, n_states=2)
    model.trained = True
    model.networks.log_variance.data.fill_(-6.0)
    model.boltzmann = dataset.boltzmann
    model.provenance = {
        "frames": dataset.frames,
        "density": True,
        "held_blocks": list(held),
        "temperatures": sorted({series.temperature for series in dataset.series}),
        "minimum_effective_size": 200.0,
        "training": {"flow_epochs": 1},
    }
    return model


def gaussian(n: int, dim: int, temperature: float, rng, **options) -> Series:
    """Independent frames of the Gaussian, with their energies |u|^2 / 2."""
    x = np.sqrt(temperature) * rng.standard_normal((n, dim))
    return Series(x, temperature=temperature, energies=0.5 * (x**2).sum(1), **options)


def pair(dim: int = 1, n: int = 20_000, seed: int = 0) -> tuple[Exact, Dataset, np.random.Generator]:
    """A model without fault, its data at T = 1 and 2, and a generator for references."""
    rng = np.random.default_rng(seed)
    dataset = Dataset([gaussian(n, dim, 1.0, rng), gaussian(n, dim, 2.0, rng)], lag=5, boltzmann=1.0)
    return exact(dataset), dataset, rng


def chain(n: int, matrix, rng) -> np.ndarray:
    """A Markov chain with a transition matrix."""
    cumulative, uniform = np.cumsum(matrix, axis=1), rng.random(n)
    states = np.zeros(n, int)
    for t in range(1, n):
        states[t] = np.searchsorted(cumulative[states[t - 1]], uniform[t])
    return states


# ------------------------------------------------------------------------------------------------- histograms


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_divergence_and_distance_of_gaussians(dim):
    rng = np.random.default_rng(1)
    shift = np.zeros(dim)
    shift[0] = 0.6
    p, q = rng.standard_normal((2, 400_000, dim))
    grid = Grid(np.full(dim, -5.0), np.full(dim, 5.5), bins=40)
    p, q = grid.histogram(p), grid.histogram(q + shift)
    # Of the three pairs in three dimensions, two hold the component that differs.
    part = 2 / 3 if dim == 3 else 1.0
    assert histograms.divergence(p, q) == pytest.approx(part * 0.6**2 / 2, abs=0.006)

    def integrand(x: float) -> float:
        a, b = norm.pdf(x), norm.pdf(x, 0.6)
        return 0.5 * (a * np.log(2 * a / (a + b)) + b * np.log(2 * b / (a + b)))

    if dim < 3:
        assert histograms.distance(p, q) == pytest.approx(np.sqrt(quad(integrand, -8, 8)[0]), abs=0.006)


def test_half_a_sample_replaces_none():
    grid = Grid(np.zeros(1), np.ones(1), bins=2)
    p, q = grid.histogram(np.array([[0.2], [0.7]])), grid.histogram(np.full((4, 1), 0.2))
    other = np.array([1.0, 0.125]) / 1.125
    assert histograms.divergence(p, q) == pytest.approx(0.5 * np.log(0.5 / other).sum())
    assert histograms.divergence(q, p) == pytest.approx(np.log(2))


def test_samples_outside_the_grid_are_counted():
    grid = Grid(np.zeros(2), np.ones(2), bins=3)
    histogram = grid.histogram(np.array([[0.5, 0.5], [1.0, 1.0], [1.1, 0.5], [0.5, -0.1]]))
    assert histogram.counts.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 1, 2]]  # the upper corner is inside


def test_divergence_of_two_samples_is_what_theory_says():
    # n times the divergence of two samples of the same distribution is chi-squared with (bins - 1) degrees of freedom.
    rng = np.random.default_rng(2)
    grid = Grid(np.zeros(1), np.ones(1), bins=10)
    divergences = [
        histograms.divergence(*(grid.histogram(rng.random((5000, 1))) for _ in range(2))) for _ in range(100)
    ]
    assert 5000 * np.mean(divergences) == pytest.approx(9, rel=0.2)


@pytest.mark.parametrize("dim", [1, 2])
def test_density_integrated_over_bins(dim):
    grid = Grid(np.full(dim, -3.0), np.full(dim, 4.0), bins=20)
    log_shares = grid.log_shares(lambda u: norm.logpdf(u).sum(1))
    truth = np.diff(norm.cdf(grid.edges[0]))
    np.testing.assert_allclose(np.exp(log_shares), truth if dim == 1 else np.outer(truth, truth), rtol=0.05, atol=1e-6)


def test_outside_is_neither_in_nor_next_to_a_bin_with_data():
    grid = Grid(np.zeros(2), np.full(2, 10.0), bins=10)
    occupied = grid.occupied(np.array([[5.5, 5.5], [0.5, 9.5]]))
    near = [[5.5, 5.5], [6.5, 4.5], [-0.5, 10.5], [1.5, 8.5]]
    far = [[7.5, 5.5], [5.5, 3.5], [-1.5, 9.5], [0.5, 1e9], [50.0, 50.0]]
    assert grid.outside(np.array(near), occupied) == 0
    assert grid.outside(np.array(near + far), occupied) == len(far)


# ----------------------------------------------------------------------------------------- model against data


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_model_without_fault_reaches_the_floor(dim, monkeypatch):
    model, dataset, rng = pair(dim)
    references = [gaussian(20_000, dim, temperature, rng) for temperature in (1.0, 1.5)]
    bins = 200 if dim == 1 else 30  # the fewer bins, the noisier a divergence of noise
    evaluation = evaluate(model, dataset, references, samples=40_000, bins=bins)
    kinds = [(row.kind, row.temperature) for row in evaluation.rows]
    assert kinds == [("held out", 1.0), ("reference", 1.0), ("reference", 1.5), ("held out", 2.0)]
    assert [row.frames for row in evaluation.rows] == [4000, 20_000, 20_000, 2000]
    for measure in ("divergence", "noisy_divergence", "distance"):
        parts = [getattr(row, measure) for row in evaluation.rows]
        assert np.mean([np.log(part.half / part.floor) for part in parts]) == pytest.approx(0, abs=0.4)
        assert all(part.full < part.half for part in parts)
    for row in evaluation.rows:
        assert row.effective_frames == pytest.approx(row.frames)
        assert row.population_difference < 5 * np.sqrt(0.25 / row.frames)
        assert not row.extrapolated
    monkeypatch.setattr(Exact, "faulty_temperature", 1.6)
    for row in evaluate(model, dataset, references, samples=40_000, bins=bins).rows:
        if row.kind == "reference":
            assert row.divergence.half > 2 * row.divergence.floor
            # Of Gaussians whose variances differ by a factor r: d/2 (1/r - 1 + ln r), in pairs for d = 3.
            truth = min(dim, 2) / 2 * (1 / 1.6 - 1 + np.log(1.6))
            assert row.divergence.full == pytest.approx(truth, rel=0.4)
            assert row.population_difference > 0.05


@pytest.mark.parametrize("dim", [1, 2])
def test_free_energy_error(dim, monkeypatch):
    model, dataset, rng = pair(dim)
    reference = gaussian(100_000, dim, 1.0, rng)
    row = evaluate(model, dataset, [reference], samples=1000, bins=20).rows[1]
    assert row.kind == "reference"
    assert row.free_energy.rms < 1.7 * row.free_energy.noise  # nothing but noise and the average over a bin
    assert row.free_energy.coverage > 0.99
    assert row.free_energy.largest < 2.5
    # A tilt of 0.3 kT per unit of u, whose spread is 1.
    plain = Exact.log_prob
    monkeypatch.setattr(Exact, "log_prob", lambda self, u, T: plain(self, u, T) + 0.3 * u[:, 0])
    tilted = evaluate(model, dataset, [reference], samples=1000, bins=20).rows[1].free_energy
    assert tilted.rms == pytest.approx(0.3, rel=0.1)
    assert tilted.largest > 0.6
    assert tilted.coverage == row.free_energy.coverage


def test_free_energies_need_populated_bins_and_at_most_two_dimensions():
    model, dataset, rng = pair(3, n=500)
    assert all(row.free_energy is None for row in evaluate(model, dataset, samples=500).rows)
    model, dataset, rng = pair(2, n=100)
    evaluation = evaluate(model, dataset, [gaussian(4, 2, 1.0, rng)], samples=500)
    assert evaluation.rows[1].kind == "reference"
    assert evaluation.rows[1].free_energy is None
    assert np.isfinite(evaluation.rows[1].divergence.full)


def test_weights_undo_a_bias():
    model, dataset, rng = pair(1)
    x = rng.uniform(-5, 5, (40_000, 1))
    weights = np.exp(-0.5 * x[:, 0] ** 2)
    for weighted in (True, False):
        reference = Series(x, temperature=1.0, weights=weights if weighted else None)
        row = next(row for row in evaluate(model, dataset, [reference], bins=25).rows if row.kind == "reference")
        if weighted:
            assert row.effective_frames == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
            assert row.divergence.full < 0.005
            np.testing.assert_allclose(row.populations, outer(1.0), atol=5 * row.errors.max())
            assert row.free_energy.rms < 0.1
        else:
            assert row.divergence.full > 0.5
            assert row.population_difference > 0.4
    # Frames without weight are excluded: they neither widen the bins nor add occupied ones.
    far = np.concatenate([x, np.full((10, 1), 100.0)])
    without = Series(far, temperature=1.0, weights=np.append(weights, np.zeros(10)))
    evaluation = evaluate(model, dataset, [without], bins=25)
    assert evaluation.edges.max() < 10
    assert next(row for row in evaluation.rows if row.kind == "reference").frames == len(x)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_planted_outliers_are_counted(dim, monkeypatch):
    model, dataset, _ = pair(dim)
    plain = Exact.sample

    def planted(self, n, temperature=None, seed=None):
        u = 0.3 * plain(self, n, temperature, seed)  # well inside, so that no other sample is outside
        u[:7] = 50.0
        return u

    monkeypatch.setattr(Exact, "sample", planted)
    assert [row.outside for row in evaluate(model, dataset, samples=5000).rows] == [7, 7]


def test_error_bars_of_populations_hold_the_answer():
    rng = np.random.default_rng(3)
    rates, held = (0.02, 0.06), 0
    flips = rng.random((300, 4000))
    states = np.zeros((300, 4000), int)
    states[:, 0] = rng.random(300) < 0.25
    for t in range(1, 4000):
        leaves = flips[:, t] < np.where(states[:, t - 1], rates[1], rates[0])
        states[:, t] = np.where(leaves, 1 - states[:, t - 1], states[:, t - 1])
    for series in states:
        values, errors = populations.populations(series, np.ones(4000), np.arange(4000) // 400, 2, rng)
        held += abs(values[1] - 0.25) < 1.96 * errors[1]
    assert 0.85 <= held / 300 <= 0.99
    assert populations.populations(states[0], np.ones(4000), np.zeros(4000, int), 2, rng)[1] is None


def test_melting_curve_by_model_and_by_reweighting():
    model, dataset, rng = pair(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExtrapolationWarning)
        curve = evaluate(model, dataset, [gaussian(1000, 1, 4.0, rng)], samples=1000).melting
    assert len(curve.temperatures) == 9
    assert curve.temperatures[0] < 1.0 < 4.0 < curve.temperatures[-1]
    np.testing.assert_array_equal(curve.extrapolated, curve.temperatures > 3)
    truth = np.array([outer(temperature) for temperature in curve.temperatures])
    np.testing.assert_allclose(curve.model, truth)
    reach = (curve.temperatures > 0.9) & (curve.temperatures < 2.5)
    away = np.abs(curve.reweighted - truth)[reach] / curve.reweighted_errors[reach]
    assert away.max() < 6
    assert (curve.reweighted_errors[reach] < 0.02).all()
    assert curve.effective_sizes[reach].min() > 10_000
    assert curve.errors is None


def test_without_energies_there_is_no_reweighted_curve_and_without_held_blocks_no_row():
    rng = np.random.default_rng(4)
    dataset = Dataset([Series(rng.standard_normal((500, 1)), temperature=1.0)], lag=5, boltzmann=1.0)
    evaluation = evaluate(exact(dataset, held=()), dataset, samples=100)
    assert evaluation.rows == ()
    assert evaluation.melting.reweighted is None
    assert any("No block was held out from training at 1" in note for note in evaluation.notes)
    assert any("no energies" in note for note in evaluation.notes)


def test_frames_are_encoded_in_pieces(monkeypatch):
    model, dataset, _ = pair(2, n=1000)
    at_once = comparison.LatentFrames.from_series(model, dataset.series, np.random.default_rng(0))
    monkeypatch.setattr(comparison, "CHUNK", 64)
    pieces = comparison.LatentFrames.from_series(model, dataset.series, np.random.default_rng(0))
    for name in ("u", "noisy", "states", "blocks"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(pieces, name))
    np.testing.assert_array_equal(at_once.blocks, dataset.blocks)
    assert (at_once.noisy - at_once.u).std() == pytest.approx(
        model.networks.flow.BLUR * model.networks.flow.spread, rel=0.1
    )
    model.provenance["training"]["flow_epochs"] = 0
    noisy = comparison.blurred(model, at_once.u, np.random.default_rng(0))
    assert (noisy - at_once.u).std() == pytest.approx(np.exp(-3.0), rel=0.1)


# --------------------------------------------------------------------------------------------------- kinetics


def test_kinetics_are_those_of_unbiased_series():
    model, dataset, rng = pair(1, n=1000)
    assert [entry.temperature for entry in evaluate(model, dataset, samples=100).kinetics] == [1.0, 2.0]
    biased = gaussian(1000, 1, 2.0, rng, interval=2.0)
    biased.weights = rng.random(1000)
    dataset = Dataset([gaussian(1000, 1, 1.0, rng), biased], lag=5, boltzmann=1.0)
    estimates = evaluate(exact(dataset), dataset, samples=100).kinetics
    assert [(entry.temperature, entry.interval, entry.lag) for entry in estimates] == [(1.0, 2.0, 5)]


# ------------------------------------------------------------------------------------------ results and errors


class Page(HTMLParser):
    """Refuses tags that do not close; collects tags, attributes and the script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.script = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data


@pytest.fixture(scope="module", params=[1, 2, 3])
def trained(request):
    """A model that was really trained, with an ensemble, on two noisy wells at two temperatures, and its evaluation."""
    rng = np.random.default_rng(9)

    def series(temperature: float) -> Series:
        states = chain(800, [[0.98, 0.02], [0.04, 0.96]], rng)
        x = np.column_stack([2.0 * states - 1, states]) + 0.2 * np.sqrt(temperature) * rng.standard_normal((800, 2))
        return Series(x, temperature=temperature, labels=states, energies=rng.random(800), interval=0.5)

    dataset = Dataset([series(1.0), series(2.0)], lag=3, boltzmann=1.0)
    model = LaTF(latent_dim=request.param, encoder_hidden=(8, 8), flow_transforms=1, flow_hidden=(8, 8))
    settings = {"refinements": 2, "refinement_epochs": 2, "joint_epochs": 1, "flow_epochs": 2, "ensemble_epochs": 1}
    train(model, dataset, ensemble=2, learning_rate=1e-2, device="cpu", **settings)
    progress = []
    references = [series(1.5)]
    evaluation = evaluate(
        model,
        dataset,
        references,
        samples=2000,
        progress=lambda fraction, message: progress.append((fraction, message)),
    )
    return model, dataset, references, evaluation, progress


def test_evaluation_of_a_trained_model(trained):
    model, dataset, references, evaluation, progress = trained
    assert {row.kind for row in evaluation.rows} == {"held out", "reference"}
    for row in evaluation.rows:
        assert row.populations.sum() == pytest.approx(1) and row.model_populations.sum() == pytest.approx(1)
        assert row.model_errors.shape == (evaluation.n_states,)
        assert all(np.isfinite(value) for part in (row.divergence, row.distance) for value in vars(part).values())
        assert (row.free_energy is None) == (model.latent_dim == 3)
        shape = (3 if model.latent_dim == 3 else 1,) + (50,) * min(model.latent_dim, 2)
        assert row.histogram.shape == row.generated.shape == shape
        np.testing.assert_allclose(row.histogram.sum(axis=tuple(range(1, len(shape)))), 1)
    assert evaluation.melting.errors.shape == (9, evaluation.n_states)
    assert [entry.temperature for entry in evaluation.kinetics] == [1.0, 2.0]
    assert evaluation.crossings is not None
    assert (evaluation.crossings.temperature, evaluation.crossings.slowest.states) == (1.0, (0, 1))
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    again = evaluate(model, dataset, references, samples=2000)
    assert again.as_dict() == evaluation.as_dict()


def test_numbers_are_json(trained):
    evaluation = trained[3]
    numbers = evaluation.as_dict()
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["rows"][0]["divergence"]["floor"] == evaluation.rows[0].divergence.floor
    assert "histogram" not in numbers["rows"][0]


def test_table(trained):
    evaluation = trained[3]
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(evaluation.table())
    text = console.export_text()
    for row in evaluation.rows:
        assert f"{row.kind}, T = {row.temperature:g}" in text
        assert f"{row.divergence.half:.3f} ({row.divergence.floor:.3f})" in text
    assert "nan" not in text


def test_page(trained, tmp_path):
    model, _, _, evaluation, _ = trained
    write_evaluation(evaluation, tmp_path / "evaluation.html")
    text = (tmp_path / "evaluation.html").read_text()
    page = Page(text)
    assert json.loads(page.script) == evaluation.as_dict()
    assert not [value for name, value in page.attributes if name in ("src", "href") and not value.startswith("#")]
    latent = {1: 1, 2: 2, 3: 6}[model.latent_dim] * len(evaluation.rows)
    energies = len(evaluation.rows) if model.latent_dim < 3 else 0
    assert page.tags.count("figure") == latent + energies + 2 + 2 * len(evaluation.kinetics)
    assert page.tags.count("table") >= 3
    assert escape(evaluation.crossings.sentence) in text
    assert "Thermodynamics of the states" in text and "overlap" in text
    assert text.index("Kinetics of the states") < text.index("<figure>")  # tables first
    identities = [value for name, value in page.attributes if name == "id"]
    assert len(identities) == len(set(identities))


def test_page_of_an_empty_evaluation(tmp_path):
    rng = np.random.default_rng(10)
    series = Series(rng.standard_normal((50, 1)), temperature=1.0, weights=rng.random(50))
    dataset = Dataset([series], lag=5, boltzmann=1.0)
    evaluation = evaluate(exact(dataset, held=()), dataset, samples=100)
    write_evaluation(evaluation, tmp_path / "evaluation.html")
    text = (tmp_path / "evaluation.html").read_text()
    Page(text)
    assert "no data to evaluate the model on" in text
    assert "No temperature was simulated without a bias" in text


def test_what_cannot_be_evaluated():
    model, dataset, rng = pair(2, n=200)
    with pytest.raises(TrainingError, match="not trained yet"):
        evaluate(LaTF(), dataset)
    with pytest.raises(DataError, match="reference 1 has 3 descriptors; the model was trained on 2"):
        evaluate(model, dataset, [gaussian(10, 2, 1.0, rng), gaussian(10, 3, 1.0, rng)])
    with pytest.raises(DataError, match="data set has 1 descriptors"):
        evaluate(model, pair(1, n=200)[1])
    with pytest.raises(DataError, match="has 600 frames; the model was trained on another one, of 400"):
        evaluate(model, pair(2, n=300)[1])
    for wrong in ({"samples": 0}, {"bins": 1}):
        with pytest.raises(SettingsError, match="at least 1 sample and 2 bins"):
            evaluate(model, dataset, **wrong)
    model.provenance["density"] = False
    with pytest.raises(TrainingError, match="without a density"):
        evaluate(model, dataset)
