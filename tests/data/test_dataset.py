"""Pairs that never cross an end, weights of mean one, a split without leakage, and errors that name the place."""

import numpy as np
import pytest
import torch
from openmm import unit

from latf_sampling.data import dataset as dataset_module
from latf_sampling.data.dataset import Dataset, Series, enthalpy
from latf_sampling.data.selection import select_columns
from latf_sampling.errors import DataError, LatfError
from latf_sampling.units import KB


def tagged(lengths, **options):
    """Series whose frames hold (series, frame), so that every pair can be traced."""
    return [Series([[k, t] for t in range(length)], **options) for k, length in enumerate(lengths)]


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_all_those_inside_one_series(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, size=rng.integers(1, 8))
    lag = int(rng.integers(1, max(lengths.max(), 2)))
    if lengths.max() <= lag:
        lengths[0] = lag + 1
    dataset = Dataset(tagged(lengths), lag=lag)
    now, later = dataset.x[dataset.first], dataset.x[dataset.first + lag]
    pairs = {(int(k), int(t), int(m), int(s)) for (k, t), (m, s) in zip(now, later)}
    wanted = {(k, t, k, t + lag) for k, length in enumerate(lengths) for t in range(length) if t + lag < length}
    assert pairs == wanted
    assert len(dataset) == len(dataset.first) == len(wanted)


def test_series_not_longer_than_the_lag_give_no_pair_but_keep_their_frames():
    dataset = Dataset(tagged([5, 30, 4]), lag=5)
    assert len(dataset.x) == 39
    assert set(dataset.x[dataset.first][:, 0].tolist()) == {1.0}
    assert len(dataset) == 25


def test_weights_have_mean_one_and_keep_their_ratios():
    series = [
        Series(np.zeros((3, 1)), weights=[1.0, 2.0, 3.0]),
        Series(np.zeros((2, 1)), weights=np.array([0.0, 14.0], dtype=np.float32)),
    ]
    weights = Dataset(series, lag=1).weights
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights, np.array([1, 2, 3, 0, 14]) / 4.0, rtol=1e-6)
    assert (Dataset(tagged([4, 5]), lag=1).weights == 1).all()


def test_weights_beyond_single_precision():
    # A bias of 400 kJ/mol at 300 K: exp(V / kT) is 4e69.
    weights = np.exp(np.array([400.0, 399.0, 390.0]) / (KB * 300))
    dataset = Dataset([Series(np.zeros((3, 1)), weights=weights)], lag=1)
    np.testing.assert_allclose(dataset.weights, weights / weights.mean(), rtol=1e-6)


def test_frames_keep_temperature_labels_and_order():
    series = [
        Series(np.full((3, 2), 1.0), temperature=300.0, labels=[0, 1, 1]),
        Series(np.full((2, 2), 2.0), temperature=400 * unit.kelvin, labels=torch.tensor([2, 0])),
    ]
    dataset = Dataset(series, lag=1)
    assert dataset.temperatures.tolist() == [300, 300, 300, 400, 400]
    assert dataset.labels.tolist() == [0, 1, 1, 2, 0]
    assert dataset.labels.dtype == torch.int64
    assert dataset.x[:, 0].tolist() == [1, 1, 1, 2, 2]
    assert dataset.boltzmann == KB
    assert Dataset(series, lag=1, boltzmann=1.0).boltzmann == 1.0


def test_torch_and_numpy_give_the_same_and_the_caller_s_array_is_not_shared():
    x = np.random.default_rng(0).normal(size=(20, 3))
    a, b = Dataset([Series(x)], lag=2), Dataset([Series(torch.from_numpy(x))], lag=2)
    assert torch.equal(a.x, b.x)
    x[:] = 0
    assert not (a.x == 0).any()


def test_every_series_has_energies_or_none_has():
    first, second = (Series(np.zeros((3, 1)), energies=e) for e in ([1.0, 2.0, 1e9 + 0.125], torch.tensor([4, 5, 6])))
    energies = Dataset([first, second], lag=1).energies
    assert energies.dtype == np.float64
    assert energies.tolist() == [1, 2, 1e9 + 0.125, 4, 5, 6]  # single precision would lose the eighth
    without = Series(np.zeros((3, 1)))
    assert Dataset([without, without], lag=1).energies is None
    with pytest.raises(
        DataError, match="Dataset: series 0, 2 carry energies, and series 1 carry no energies; give them"
    ):
        Dataset([first, without, second], lag=1)


def test_reweighting_counts_a_biased_series_by_its_effective_frames():
    rng = np.random.default_rng(0)
    energies, weights = rng.gamma(2.0, 1.0, 300), rng.uniform(0.1, 5.0, 200)
    plain = Series(np.zeros((300, 1)), 1.0, energies=energies)
    biased = Series(np.zeros((200, 1)), 1.5, 1e6 * weights, energies=rng.gamma(2.0, 1.5, 200))
    reweighting = Dataset([plain, biased], lag=1, boltzmann=1.0).reweighting(rng)
    assert reweighting.temperatures.tolist() == [1.0, 1.5]
    np.testing.assert_allclose(reweighting.counts, [300, weights.sum() ** 2 / np.sum(weights**2)], rtol=1e-5)
    assert reweighting.boltzmann == 1.0
    with pytest.raises(DataError, match="no energies"):
        Dataset([plain, Series(np.zeros((5, 1)))], lag=1).reweighting(rng)


def test_enthalpy_is_energy_and_pressure_times_volume():
    work = 2 * unit.bar * (30.0 * unit.nanometer**3) * unit.AVOGADRO_CONSTANT_NA
    exact = 7.0 + work.value_in_unit(unit.kilojoule_per_mole)
    assert enthalpy([7.0], [30.0], 2.0)[0] == pytest.approx(exact, rel=1e-8)
    assert enthalpy([7.0], [30.0], 2.0 * unit.bar)[0] == pytest.approx(exact, rel=1e-8)
    assert enthalpy(np.zeros(3), np.arange(3.0), 1.0).shape == (3,)


# ------------------------------------------------------------------------------------------- where frames lie


def mapped(x, path) -> np.memmap:
    np.save(path, x.astype(np.float32))
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("kinds", ["m", "mm", "mdm", "d", "dd"])
def test_rows_are_those_of_all_series_joined_wherever_they_lie(tmp_path, kinds):
    rng = np.random.default_rng(len(kinds))
    parts = [rng.normal(size=(length, 3)).astype(np.float32) for length in (17, 1, 40)[: len(kinds)]]
    given = [mapped(x, tmp_path / f"{k}.npy") if kinds[k] == "m" else x.copy() for k, x in enumerate(parts)]
    dataset, joined = Dataset([Series(x) for x in given], lag=2), torch.from_numpy(np.concatenate(parts))
    assert dataset.frames == len(joined)
    assert dataset.n_features == 3
    assert torch.equal(dataset.x, joined)
    for frames in (torch.from_numpy(rng.integers(len(joined), size=100)), torch.arange(0), torch.tensor([16, 17, 17])):
        if len(frames) == 0 or frames.max() < len(joined):
            assert torch.equal(dataset.rows(frames), joined[frames])
    for piece in (slice(None), slice(None, None, 7), slice(10, 1000), slice(5, 20, 3)):
        assert torch.equal(dataset.rows(piece), joined[piece])


def test_a_memory_map_stays_on_the_disk(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    maps = [mapped(x, tmp_path / name) for name in ("a.npy", "b.npy")]
    dataset = Dataset([Series(each) for each in maps], lag=1)
    for series, each in zip(dataset.series, maps):
        assert series.mapped
        assert np.shares_memory(series.x, each)
    assert not Series(x).mapped


def test_series_become_views_of_one_array_in_memory():
    series = tagged([5, 8])
    dataset = Dataset(series, lag=1)
    for part, entry in zip(torch.split(dataset.x, [5, 8]), series):
        assert np.shares_memory(part.numpy(), entry.x)


# ------------------------------------------------------------------------------------------- time between frames


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ([1.0, 5.0], ["series 0 has a frame every 1 ps", "series 1 every 5 ps", "one frame in 5 of series 0"]),
        ([5.0, None, 1.0], ["one frame in 5 of series 2"]),
        ([0.2 * unit.picosecond, 100 * unit.femtosecond], ["one frame in 2 of series 1"]),
        ([1.0, 1.5], ["series 0", "series 1", "common interval"]),
    ],
)
def test_series_with_other_times_between_frames_are_refused(intervals, words):
    with pytest.raises(DataError) as refused:
        Dataset([Series(np.zeros((5, 2)), interval=interval) for interval in intervals], lag=1)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("intervals", [[None, None], [1.0, None], [0.1 + 0.2, 0.3], [1 * unit.picosecond, 1.0]])
def test_series_with_the_same_time_between_frames_or_none_known_fit_together(intervals):
    assert Dataset([Series(np.zeros((5, 2)), interval=interval) for interval in intervals], lag=1).frames == 10


# ------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("lengths", [[100], [100, 37], [3, 250, 11]])
def test_blocks_are_consecutive_of_one_size_and_of_one_series(lengths):
    dataset = Dataset(tagged(lengths), lag=1)
    assert len(dataset.blocks) == sum(lengths)
    assert (np.diff(dataset.blocks) >= 0).all()
    which = dataset.x[:, 0].numpy()
    for k, length in enumerate(lengths):
        sizes = np.unique(dataset.blocks[which == k], return_counts=True)[1]
        assert len(sizes) == min(length, dataset_module.BLOCKS)
        assert np.ptp(sizes) <= 1
    assert all(len(np.unique(which[dataset.blocks == block])) == 1 for block in np.unique(dataset.blocks))


@pytest.mark.parametrize("seed", range(20))
def test_split_has_no_leakage(seed):
    rng = np.random.default_rng(1000 + seed)
    lengths = rng.integers(20, 200, size=rng.integers(1, 6))
    lag = int(rng.integers(1, 6))
    dataset = Dataset(tagged(lengths), lag=lag)
    training, validation = dataset.split(0.2, np.random.default_rng(seed))
    frames = {
        name: set(part.tolist()) | set((part + lag).tolist())
        for name, part in (("training", training), ("validation", validation))
    }
    assert not frames["training"] & frames["validation"]
    assert set(training.tolist()) | set(validation.tolist()) <= set(dataset.first.tolist())
    assert len(training) > len(validation)


def test_split_is_by_blocks_of_the_share_that_was_asked_for():
    dataset = Dataset(tagged([10_000]), lag=1)
    training, validation = dataset.split(0.3, np.random.default_rng(3))
    # Three blocks of 1,000 frames are held out. Each block loses its last pair, unless its neighbor is held out too.
    assert 2997 <= len(validation) <= 2999
    assert 10_000 - 1 - len(training) - len(validation) <= 6
    blocks = (validation // 1000).unique()
    assert len(blocks) == 3
    again = dataset.split(0.3, np.random.default_rng(3))
    assert torch.equal(again[0], training)
    assert torch.equal(again[1], validation)
    other = dataset.split(0.3, np.random.default_rng(4))
    assert not torch.equal((other[1] // 1000).unique(), blocks)


def test_split_never_holds_out_what_is_most_of_a_state():
    # State 1 is visited once, in the third block of ten; the others are spread over all of them.
    labels = torch.arange(1000) % 2 * 2
    labels[200:300] = 1
    dataset = Dataset(tagged([1000]), lag=1)
    held = set()
    for seed in range(50):
        training, validation = dataset.split(0.3, np.random.default_rng(seed), labels)
        assert not ((validation >= 200) & (validation < 300)).any()
        assert ((training >= 200) & (training < 300)).any()
        held |= set((validation // 100).unique().tolist())
    assert held == set(range(10)) - {2}
    # Where each block is a state of its own, none can be held out.
    training, validation = dataset.split(0.3, np.random.default_rng(0), torch.arange(1000) // 100)
    assert len(validation) == 0
    assert len(training) == 999


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": np.zeros(5)}, ["frames, descriptors", "(5,)"]),
        ({"x": np.zeros((2, 3, 4))}, ["(2, 3, 4)"]),
        ({"x": np.zeros((0, 3))}, ["(0, 3)"]),
        ({"x": np.zeros((5, 0))}, ["(5, 0)"]),
        ({"temperature": 0.0}, ["temperature", "more than 0 K"]),
        ({"temperature": -300.0}, ["temperature", "more than 0 K"]),
        ({"temperature": float("nan")}, ["temperature", "finite"]),
        ({"temperature": 1.0 * unit.nanometer}, ["temperature"]),
        ({"weights": np.ones(4)}, ["weights", "5 frames", "(4,)"]),
        ({"weights": np.ones((5, 1))}, ["weights", "(5, 1)"]),
        ({"weights": [1, 1, -1, 1, 1]}, ["weights", "negative"]),
        ({"weights": np.zeros(5)}, ["weights", "some must be positive"]),
        ({"weights": [1, 1, 1, np.inf, 1]}, ["weights", "frame 3"]),
        ({"labels": [0, 1, 1]}, ["labels", "5 frames"]),
        ({"labels": [0, 1, -2, 0, 1]}, ["labels", "frame 2", "-2"]),
        ({"labels": [0, 1, 0.5, 0, 1]}, ["labels", "frame 2", "whole numbers"]),
        ({"labels": [0, np.nan, 0, 0, 1]}, ["labels", "frame 1"]),
        ({"energies": [0, 1, 2, 3]}, ["energies", "5 frames"]),
        ({"energies": [0, 1, 2, 3, np.nan]}, ["energies", "frame 4"]),
        ({"interval": 0.0}, ["interval", "positive"]),
        ({"interval": -1.0}, ["interval", "positive"]),
        ({"interval": 1.0 * unit.nanometer}, ["interval"]),
    ],
)
def test_a_bad_series_is_refused(options, words):
    with pytest.raises(LatfError) as refused:
        Series(**{"x": np.zeros((5, 3)), **options})
    assert isinstance(refused.value, ValueError)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("chunk", [7, dataset_module.CHUNK])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_a_value_that_is_not_finite_is_named_by_frame_and_column(monkeypatch, bad, chunk):
    monkeypatch.setattr(dataset_module, "CHUNK", chunk)
    x = np.zeros((50, 4))
    x[17, 2] = x[30, 1] = bad
    with np.errstate(over="ignore"), pytest.raises(DataError, match=r"frame 17, column 2,"):
        Series(x)


@pytest.mark.parametrize(
    ("series", "lag", "words"),
    [
        ([], 1, ["no series"]),
        (tagged([5]), 0, ["lag", "at least 1"]),
        (tagged([5]), -1, ["lag"]),
        (tagged([5]), 1.5, ["lag", "1.5"]),
        (tagged([5, 3]), 5, ["longest series has 5 frames", "lag of 5"]),
        (
            [*tagged([5]), Series(np.zeros((5, 3)))],
            1,
            ["descriptors, 2 in series 0 and 3 in series 1"],
        ),
        ([*tagged([5]), Series(np.zeros((5, 2)), labels=np.zeros(5))], 1, ["labels"]),
    ],
)
def test_a_bad_data_set_is_refused(series, lag, words):
    with pytest.raises(DataError) as refused:
        Dataset(series, lag)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("lag", ["2 ps", "2000 fs", 2 * unit.picosecond, 0.002 * unit.nanosecond, 4, 4.0, np.int64(4)])
def test_a_lag_is_frames_or_a_time(lag):
    series = [Series(np.zeros((9, 1))), Series(np.zeros((9, 1)), interval=0.5)]
    assert Dataset(series, lag).lag == 4
    assert type(Dataset(series, lag).lag) is int


def test_energies_may_have_a_unit():
    series = Series(np.zeros((3, 1)), energies=[1.0, 2.0, 3.0] * unit.kilocalorie_per_mole)
    np.testing.assert_allclose(series.energies, [4.184, 8.368, 12.552])


@pytest.mark.parametrize("spread", [1.0, 1100.0, 1e5])
@pytest.mark.parametrize("outlier", [1e10, -1e10, 1e30])
def test_a_frame_whose_energy_is_beyond_all_others_is_named(spread, outlier):
    energies = -1e6 + spread * np.random.default_rng(0).normal(size=500)
    Series(np.zeros((500, 1)), energies=energies)
    energies[[70, 71]] = outlier / 2, outlier
    with pytest.raises(
        DataError, match=rf"the energy of frame 71 is {outlier:g}.*2 frames are as far off".replace("+", r"\+")
    ):
        Series(np.zeros((500, 1)), energies=energies)


def test_energies_of_heating_are_no_outliers():
    thermal = -1e6 + 1000 * np.random.default_rng(0).normal(size=500)
    thermal[:10] = np.linspace(-1.4e6, -1e6, 10)  # from the minimum on: 400 standard deviations
    assert Series(np.zeros((500, 1)), energies=thermal).energies is not None
    assert Series(np.zeros((500, 1)), energies=np.zeros(500)).energies is not None


def test_no_pair_spans_a_break_and_pieces_are_continuous():
    x = np.arange(20.0)[:, None]
    series, other = Series(x, breaks=[7, 9]), Series(x[:6])
    dataset = Dataset([series, other], lag=3)
    assert dataset.first.tolist() == [0, 1, 2, 3, *range(9, 17), 20, 21, 22]
    assert [len(piece) for piece in series.continuous(series.x)] == [7, 2, 11]
    assert series.subset([0]).breaks.tolist() == [7, 9] and Series(x).breaks.tolist() == []
    with pytest.raises(DataError, match="exchanged their configurations at least once in each lag of 3 frames"):
        Dataset([Series(x, breaks=range(1, 20, 2))], lag=3)
    # What else is computed from pairs has none across a break either: a jump there would look like fast motion.
    rng = np.random.default_rng(0)
    slow = np.repeat(rng.normal(size=(10, 1)), 50, axis=0) + 1e-3 * rng.normal(size=(500, 1))
    broken = Series(slow, breaks=range(50, 500, 50))
    scores = [select_columns(series, lag=5).candidates[0].score for series in (broken, Series(slow))]
    assert scores[0] > 0.999 > scores[1]


@pytest.mark.parametrize("breaks", [[0], [20], [1.5], [-1], [np.nan]])
def test_breaks_are_frames_after_the_first(breaks):
    with pytest.raises(DataError, match="Series: breaks"):
        Series(np.zeros((20, 1)), breaks=breaks)


def test_series_and_data_sets_are_one_line():
    series = [Series(np.zeros((1200, 2)), energies=np.zeros(1200)), Series(np.zeros((50, 2)), 450 * unit.kelvin)]
    assert repr(series[0]) == "<Series: 1,200 frames of 2 descriptors at 300 K, energies>"
    series[0].energies = None
    assert repr(Dataset(series, 3)) == (
        "<Dataset: 1,250 frames of 2 descriptors in 2 series at 300, 450 K, lag of 3 frames>"
    )


def test_temperatures_that_differ_by_rounding_are_refused():
    series = [Series(np.zeros((10, 1)), temperature) for temperature in (300.0, 300.0000001)]
    with pytest.raises(DataError, match="differ by rounding alone"):
        Dataset(series, lag=1)
