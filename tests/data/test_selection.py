"""Statistics, selection and sensitivity of columns, against numpy and deeptime."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from deeptime.covariance import Covariance
from deeptime.decomposition import VAMP
from helpers import molecules

import latf_sampling.data.columns as columns_module
from latf_sampling import Dataset, Features, LaTF, Series, rank_descriptors, select_columns, train
from latf_sampling.data.columns import column_statistics
from latf_sampling.errors import ColumnWarning, DataError, SettingsError, TrainingError
from latf_sampling.learning.networks import Networks

LAG = 4


def vamp2(parts: list[np.ndarray], lag: int = LAG) -> float:
    """Score of columns together, by deeptime."""
    estimator = Covariance(compute_c00=True, compute_c0t=True, compute_ctt=True, remove_data_mean=True)
    for x in parts:
        estimator.partial_fit((x[:-lag].astype(np.float64), x[lag:].astype(np.float64)))
    return VAMP(epsilon=1e-12).fit(estimator.fetch_model()).fetch_model().score(2)


@cache
def mixed() -> list[np.ndarray]:
    """Two series of nine columns that mix six processes of different speed, with noise."""
    rng = np.random.default_rng(1)
    mixing, memory = rng.normal(size=(6, 9)), np.array([0.99, 0.95, 0.9, 0.7, 0.3, 0.0])
    series = []
    for frames in (900, 1500):
        u = rng.normal(size=(frames, 6))
        for t in range(1, frames):
            u[t] += memory * u[t - 1]
        series.append((u @ mixing + 0.5 * rng.normal(size=(frames, 9)) + 7).astype(np.float32))
    return series


def wells(decoys: int = 3, frames: int = 6000, seed: int = 0) -> np.ndarray:
    """Jumps between two wells in the first column, half as far in the second; the rest is noise of the same size."""
    rng = np.random.default_rng(seed)
    side = np.cumsum(rng.random(frames) < 0.01) % 2 * 2.0 - 1
    x = rng.normal(size=(frames, 2 + decoys))
    x[:, 0] = side + 0.2 * x[:, 0]
    x[:, 1] = 0.5 * side + 0.6 * x[:, 1]
    return x.astype(np.float32)


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize("bytes_kept", [2**26, 4000])
def test_statistics_are_numpys_in_any_pieces(bytes_kept, monkeypatch):
    monkeypatch.setattr(columns_module, "SAMPLE_BYTES", bytes_kept)
    x = np.concatenate(mixed()) * np.logspace(-3, 4, 9).astype(np.float32)
    statistics = column_statistics([x[:1], x[1:700], x[:0], x[700:]], list("abcdefghi"), ["nm"] * 9)
    exact = x.astype(np.float64)
    for name, values in (("mean", exact.mean(0)), ("deviation", exact.std(0))):
        np.testing.assert_allclose(getattr(statistics, name), values, rtol=1e-9)
    np.testing.assert_array_equal([statistics.minimum, statistics.maximum], [x.min(0), x.max(0)])
    assert (statistics.frames, statistics.duplicates, statistics.constant) == (2400, [], [])
    assert statistics.table().splitlines()[1].split()[:2] == ["a", "nm"]


@pytest.mark.parametrize("bytes_kept", [2**26, 4000])
def test_nearly_constant_and_duplicate_columns_are_named(bytes_kept, monkeypatch):
    monkeypatch.setattr(columns_module, "SAMPLE_BYTES", bytes_kept)
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, 3000))
    table = {
        "a": a,
        "fixed": np.full(3000, 5.0),
        "b": b,
        "twin": a,
        "stiff": 0.1 + 5e-4 * noise,
        "mirror": -b,
        "close": 3 * a + 0.05 * noise + 40,
        "near": a + 0.1 * noise,  # correlation 0.995
    }
    statistics = column_statistics([np.column_stack(list(table.values())).astype(np.float32)], list(table))
    names = statistics.names
    assert [names[k] for k in statistics.constant] == ["fixed", "stiff"]
    assert [(names[i], names[j]) for i, j, _ in statistics.duplicates] == [
        ("a", "twin"),
        ("b", "mirror"),
        ("a", "close"),
    ]
    assert [r for *_, r in statistics.duplicates][:2] == [1.0, -1.0]
    assert 0.999 < statistics.duplicates[2][2] < 1
    assert statistics.remarks() == [
        "2 columns are nearly constant: 'fixed', 'stiff'.",
        "3 columns are duplicates: 'twin' equals 'a', 'mirror' equals minus 'b', 'close' follows 'a'.",
    ]


def test_many_columns_are_compared_block_by_block():
    x = np.random.default_rng(0).normal(size=(50, 1200)).astype(np.float32)
    x[:, 1100] = x[:, 3]
    x[:, 600] = -x[:, 599]
    assert column_statistics([x]).duplicates == [(599, 600, -1.0), (3, 1100, 1.0)]


@pytest.mark.parametrize(
    "parts, words", [([], "no frame"), ([np.zeros((2, 3)), np.zeros((2, 4))], "4 columns, those before it 3")]
)
def test_parts_that_do_not_fit(parts, words):
    with pytest.raises(DataError, match=words):
        column_statistics(parts)


def test_training_warns_of_such_columns_by_name():
    x = wells(1, 800)
    x = np.column_stack([x, x[:, 0], np.full(len(x), 3.0)])
    quick = {
        "initial_states": 2,
        "refinements": 1,
        "refinement_epochs": 1,
        "joint_epochs": 0,
        "flow_epochs": 0,
        "ensemble": 0,
    }
    names = ["slow", "half", "noise", "again", "fixed"]
    with pytest.warns(ColumnWarning) as caught:
        train(LaTF(latent_dim=1, temperature_mode="steered"), Dataset([Series(x)], LAG, names=names), **quick)
    (text,) = [str(entry.message) for entry in caught if entry.category is ColumnWarning]
    assert "1 column is nearly constant: 'fixed'" in text and "'again' equals 'slow'" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error", ColumnWarning)
        train(LaTF(latent_dim=1, temperature_mode="steered"), Dataset([Series(x[:, :3])], LAG), **quick)


# ------------------------------------------------------------------------------------------------ selection


def test_scores_are_deeptimes_and_the_choice_is_greedy():
    series = mixed()
    chosen = select_columns([Series(x) for x in series], LAG, keep=5, correlation=1)
    for entry in chosen.candidates:
        assert 1 + entry.score == pytest.approx(vamp2([x[:, [entry.index]] for x in series]), abs=1e-6)
    taken: list[int] = []
    for entry in chosen.candidates[:5]:
        gains = {k: vamp2([x[:, [*taken, k]] for x in series]) for k in range(9) if k not in taken}
        assert entry.index == max(gains, key=gains.get)
        assert entry.gain == pytest.approx(gains[entry.index] - (vamp2([x[:, taken] for x in series]) if taken else 1))
        taken.append(entry.index)
    assert chosen.kept.tolist() == sorted(taken)
    assert chosen.vamp2 == pytest.approx(vamp2([x[:, chosen.kept] for x in series]))


def test_of_correlated_columns_the_one_that_remembers_longest_is_kept():
    rng = np.random.default_rng(2)
    slow = mixed()[1][:, 0]
    x = np.column_stack([slow + noise * rng.normal(size=len(slow)) for noise in (1.0, 0.0, 2.0, 40.0)])
    r = np.corrcoef(x[:-LAG].T)
    assert r[0, 1] > 0.9 and r[2, 1] > 0.8 and abs(r[3, 1]) < 0.3
    strict = select_columns(Series(x), LAG, correlation=0.8)
    assert strict.kept.tolist() == [1, 3]
    reasons = {entry.index: entry.reason for entry in strict.candidates}
    assert reasons[0] == f"correlation {r[0, 1]:.3f} with 'column 1', which has a higher score"
    mild = select_columns(Series(x), LAG, correlation=0.5 * (r[0, 1] + max(r[2, 1], r[0, 2])))
    assert mild.kept.tolist() == [1, 2, 3]


def test_constant_and_dependent_columns_are_left_out_with_their_reasons():
    x = mixed()[1]
    x = np.column_stack([x[:, :3], np.full(len(x), 2.0), x[:, 0] - 2 * x[:, 1] + 0.5 * x[:, 2]])
    chosen = select_columns(Dataset([Series(x)], LAG, names=list("abcde")), correlation=1)
    reasons = {entry.name: entry.reason for entry in chosen.candidates}
    assert len(chosen.kept) == 3 and 3 not in chosen.kept
    assert reasons["d"] == "is nearly constant (standard deviation 0)"
    assert list(reasons.values()).count("is a linear combination of those kept") == 1
    assert "no: is nearly constant" in chosen.table()


def test_biased_series_are_used_only_where_there_are_no_others():
    one, other = mixed()
    biased = Series(other, weights=np.linspace(1, 2, len(other)))
    both, alone = select_columns([Series(one), biased], LAG), select_columns(Series(one), LAG)
    assert both.as_dict() == alone.as_dict()
    assert select_columns(biased, LAG).as_dict() == select_columns(Series(other), LAG).as_dict()


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "give a lag"),
        ({"lag": 900}, "no series is longer than the lag"),
        ({"lag": 1, "keep": 0}, "keep must be at least 1"),
        ({"lag": 1, "correlation": 0.0}, "correlation must be a number above 0"),
        ({"lag": 1, "names": ["a"]}, "1 name for 9 columns"),
    ],
)
def test_choices_that_cannot_be_made(options, words):
    with pytest.raises((DataError, SettingsError), match=words):
        select_columns(Series(mixed()[0]), **options)
    with pytest.raises(DataError, match="no column changes"):
        select_columns(Series(np.ones((20, 2))), lag=1)


# ------------------------------------------------------------------------------------------------ fewer columns


SPEC = [
    {"torsions": "phi psi"},
    {"distances": "name CA C N"},
    {"coordination": {"of": "element == O", "r0": 0.4}},
    {"coordination": {"of": "element == N", "r0": 0.4, "moments": [2]}},
]


@pytest.mark.parametrize("periodic", [False, True])
def test_a_subset_measures_the_same_with_fewer_atoms(periodic):
    features = Features(molecules.alanine_topology(), SPEC, periodic=periodic)
    x, boxes = molecules.frames(6), np.tile(molecules.TRICLINIC, (6, 1, 1)) if periodic else None
    everything = features(x, boxes)
    for wanted in ([0], [3, 1], [2, 8, 5], [len(features.names) - 1, 0], list(range(len(features.names)))):
        part = features.subset(wanted)
        np.testing.assert_allclose(part(x, boxes), everything[:, wanted], atol=1e-12)
        assert part.names == [features.names[k] for k in wanted]
        assert part.units == [features.units[k] for k in wanted]
        again = Features(molecules.alanine_topology(), part.spec, periodic=periodic)
        assert (again.names, again.atoms.tolist(), again.spec) == (part.names, part.atoms.tolist(), part.spec)
    assert len(features.subset([0]).atoms) == 4  # of one torsion
    assert features.subset(["cos phi ALA 2"]).names == ["cos phi ALA 2"]
    assert features.subset([4, 0]).subset([1]).names == [features.names[0]]


@pytest.mark.parametrize(
    "columns, words",
    [
        ([99], "there is no column 99; there are 0 to"),
        (["tan phi ALA 2"], "there is no column 'tan phi ALA 2'"),
        ([1, 1], "is named twice"),
        ([], "need a list of names"),
    ],
)
def test_subsets_that_cannot_be(columns, words):
    features = Features(molecules.alanine_topology(), SPEC)
    with pytest.raises(SettingsError, match=words):
        features.subset(columns)
    with pytest.raises(SettingsError, match=r"features\[0\].columns: has to be the last entry"):
        Features(molecules.alanine_topology(), [{"columns": ["sin phi ALA 2"]}, *SPEC])


# ------------------------------------------------------------------------------------------------ ranking


@pytest.fixture(scope="module")
def trained() -> tuple[LaTF, Dataset]:
    """A variable of two wells, with three columns of noise among its descriptors."""
    dataset = Dataset([Series(wells())], lag=20, names=["slow", "half", "noise 1", "noise 2", "noise 3"])
    model = LaTF(latent_dim=1, temperature_mode="steered", encoder_hidden=(16,))
    train(
        model,
        dataset,
        initial_states=4,
        refinements=3,
        refinement_epochs=4,
        learning_rate=0.01,
        joint_epochs=0,
        flow_epochs=0,
        ensemble=0,
    )
    return model, dataset


def test_noise_comes_last(trained):
    model, dataset = trained
    ranked = rank_descriptors(model, dataset)
    assert [ranked.names[k] for k in ranked.order[:2]] == ["slow", "half"]
    assert ranked.total[0] > 5 * ranked.total[2:].max()
    assert ranked.total.sum() == pytest.approx(1)
    np.testing.assert_allclose(ranked.components[:, 0], ranked.total, rtol=1e-6)  # of a single component
    assert ranked.table(2).splitlines()[1].startswith("slow")


def test_shuffling_a_column_gives_the_same_order(trained):
    """Permutation, an independent measure: how far the variable moves when a column comes from other frames."""
    model, dataset = trained
    x, rng = dataset.x.numpy(), np.random.default_rng(0)
    moved = []
    for k in range(5):
        other = x.copy()
        other[:, k] = rng.permutation(other[:, k])
        moved.append(float(np.sqrt(((model.encode(other) - model.encode(x)) ** 2).mean())))
    order = rank_descriptors(model, dataset).order
    assert order[:2].tolist() == np.argsort(moved)[::-1][:2].tolist() == [0, 1]
    assert set(order[2:].tolist()) == set(np.argsort(moved)[:3].tolist())


def test_dependence_on_a_linear_variable_is_known():
    """Of u = W (x - mean) / sd, shares are |W_kj|, and in total the root of their squares over the spread of u_k."""
    rng = np.random.default_rng(3)
    scale = np.array([0.01, 1.0, 50.0, 3.0])
    x = (rng.normal(size=(4000, 4)) * scale + 5).astype(np.float32)
    weight = np.array([[1.0, -2.0, 0.0, 0.5], [0.0, 1.0, 3.0, 0.0]])
    model = LaTF(latent_dim=2, encoder_hidden=(), flow_transforms=1, flow_hidden=(4,))
    model.networks = Networks(model.settings, 4, 2)
    model.trained = True
    with torch.no_grad():
        model.networks.feature_mean.copy_(torch.from_numpy(x.mean(0)))
        model.networks.feature_scale.copy_(torch.from_numpy(1 / x.std(0)))
        model.networks.encoder[0].weight.copy_(torch.from_numpy(weight))
    for data in (x, Series(x), Dataset([Series(x)], lag=1)):
        ranked = rank_descriptors(model, data)
        np.testing.assert_allclose(
            ranked.components, (np.abs(weight) / np.abs(weight).sum(1, keepdims=True)).T, rtol=1e-4
        )
        total = np.sqrt(((weight / model.encode(x).std(0)[:, None]) ** 2).sum(0))
        np.testing.assert_allclose(ranked.total, total / total.sum(), rtol=1e-4)
    assert ranked.names == [f"column {k}" for k in range(4)]
    with pytest.raises(DataError, match="2 names for 4 columns"):
        rank_descriptors(model, x, ["a", "b"])
    with pytest.raises(DataError, match=r"\(n, 4\)"):
        rank_descriptors(model, x[:, :2])
    with pytest.raises(TrainingError, match="not trained"):
        rank_descriptors(LaTF(), x)
