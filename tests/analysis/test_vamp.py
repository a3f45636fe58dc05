"""Scores against deeptime's own, on explicit splits."""

import numpy as np
import pytest
from deeptime.covariance import Covariance
from deeptime.decomposition import VAMP

from latf_sampling.analysis import vamp
from latf_sampling.analysis.vamp import cross_validated_vamp2, forward_selection, lagged_covariances


def test_cross_validated_score_is_deeptimes_own_on_a_split_by_hand():
    rng = np.random.default_rng(0)
    features = np.cumsum(rng.normal(size=(1000, 3)), 0) % 7
    parts = [features[200 * fold : 200 * (fold + 1)] for fold in range(5)]
    scores = []
    for fold in range(5):
        training = VAMP(lagtime=3).fit([part for number, part in enumerate(parts) if number != fold]).fetch_model()
        validation = VAMP(lagtime=3).fit(parts[fold]).fetch_model()
        scores.append(training.score(2, test_model=validation, dim=2))
    score, error = cross_validated_vamp2([features], 3, processes=2)
    assert score == pytest.approx(np.mean(scores), rel=1e-6)
    assert error == pytest.approx(np.std(scores, ddof=1) / np.sqrt(5), rel=1e-6)


def test_short_series_have_no_score():
    assert cross_validated_vamp2([np.random.default_rng(0).normal(size=(50, 2))], 5, processes=2) is None


def test_covariances_are_those_of_all_pairs_in_any_chunks(monkeypatch):
    rng = np.random.default_rng(1)
    features = [rng.normal(size=(frames, 4)).astype(np.float32) + 1e3 for frames in (500, 3, 211)]
    now, later = (np.concatenate([part(x) for x in features]) for part in (lambda x: x[:-3], lambda x: x[3:]))
    exact = np.cov(now.T.astype(float), later.T.astype(float), bias=True)
    for chunk in (100_000, 64):
        monkeypatch.setattr(vamp, "CHUNK", chunk)
        covariances = lagged_covariances(features, 3)
        np.testing.assert_allclose(covariances.mean, now.mean(0, dtype=float), rtol=1e-12)
        for matrix, part in (
            (covariances.early, exact[:4, :4]),
            (covariances.late, exact[4:, 4:]),
            (covariances.between, exact[:4, 4:]),
        ):
            np.testing.assert_allclose(matrix, part, atol=1e-10)


def test_gains_add_up_to_deeptimes_score_and_dependent_features_are_named():
    rng = np.random.default_rng(2)
    x = np.cumsum(rng.normal(size=(2000, 4)), 0) + rng.normal(size=(2000, 4))
    x = np.column_stack([x, x[:, 0] - x[:, 2]])
    chosen, gains, others = forward_selection(lagged_covariances([x], 5), range(5), most=5)
    assert len(chosen) == 4 and list(others.values()) == [None]
    covariance = Covariance(lagtime=5, compute_c0t=True, compute_ctt=True, remove_data_mean=True).fit(x[:, chosen])
    assert 1 + sum(gains) == pytest.approx(VAMP(epsilon=1e-12).fit(covariance).fetch_model().score(2))
