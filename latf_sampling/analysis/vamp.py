"""The VAMP-2 score: how much of the slow motion a set of features holds.

The score of features together is 1 + |C00^(-1/2) C0t Ctt^(-1/2)|^2, with their covariances at the first frames of all
pairs (t, t + lag), at the last frames, and between the two. Of one feature it is 1 plus the square of its correlation
with itself one lag later. Source: Wu and Noé, doi:10.1007/s00332-019-09567-y. Covariances and cross-validated scores
are deeptime's (Hoffmann et al., doi:10.1088/2632-2153/ac3de0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FOLDS = 5
"""Parts of each series that are held out in turn for the cross-validated score."""
DEPENDENT = 1e-4
"""A feature of which the others explain all but this share of the variance is a linear combination of them."""
CHUNK = 65536
"""Pairs of frames that covariances are summed over at a time, since series may lie on the disk."""


def cross_validated_vamp2(features: Sequence[np.ndarray], lag: int, processes: int) -> tuple[float, float] | None:
    """Cross-validated VAMP-2 score: fitted to four fifths of each series, scored on the rest.

    Parameters
    ----------
    features
        Features of each series (frames, F).
    lag
        Frames.
    processes
        At most so many of the slowest processes are scored, besides the constant one.

    Returns
    -------
    tuple of float, or None
        Mean over five folds and its standard error. Each series is cut into five parts, one for each fold; no pair of
        frames reaches from one part into another. None where two folds or fewer have parts that are longer than two
        lags.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> states = np.cumsum(rng.random(50_000) < 0.02) % 2  # its eigenvalue at a lag of 1 is 0.96
    >>> score, error = cross_validated_vamp2([states[:, None].astype(float)], lag=1, processes=1)
    >>> bool(abs(score - 1 - 0.96**2) < 4 * error + 0.005)
    True
    """
    from deeptime.decomposition import VAMP

    parts = [np.array_split(entry, FOLDS) for entry in features]
    folds = [[entry[fold] for entry in parts if len(entry[fold]) > 2 * lag] for fold in range(FOLDS)]
    folds = [fold for fold in folds if fold]
    if len(folds) < 3:
        return None
    scores = []
    for held in range(len(folds)):
        training, validation = VAMP(lagtime=lag), VAMP(lagtime=lag)
        for number, fold in enumerate(folds):
            for part in fold:
                (validation if number == held else training).partial_fit(part)
        scores.append(training.fetch_model().score(2, test_model=validation.fetch_model(), dim=processes))
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(len(scores)))


class LaggedCovariances(NamedTuple):
    """Moments of the pairs (t, t + lag) of frames.

    Attributes
    ----------
    mean : numpy.ndarray (F,)
        Mean of the first frames.
    early, late, between : numpy.ndarray (F, F)
        Covariances of the first frames, of the last frames, and of the first with the last ones.
    """

    mean: np.ndarray
    early: np.ndarray
    late: np.ndarray
    between: np.ndarray


def lagged_covariances(features: Sequence[np.ndarray], lag: int) -> LaggedCovariances:
    """Moments of all pairs inside each series (frames, F), in double precision; some series must exceed the lag."""
    from deeptime.covariance import Covariance

    covariance = Covariance(
        compute_c00=True, compute_c0t=True, compute_ctt=True, remove_data_mean=True, bessels_correction=False
    )
    for x in features:
        for start in range(0, len(x) - lag, CHUNK):
            stop = min(start + CHUNK, len(x) - lag)
            now, later = x[start:stop], x[start + lag : stop + lag]
            covariance.partial_fit((now.astype(np.float64), later.astype(np.float64)))
    model = covariance.fetch_model()
    moments = model.mean_0, model.cov_00, model.cov_tt, model.cov_0t
    return LaggedCovariances(*(moment for moment in moments if moment is not None))  # None if switched off above


def forward_selection(
    covariances: LaggedCovariances, candidates: Sequence[int], most: int
) -> tuple[list[int], list[float], dict[int, float | None]]:
    """Choose features one by one, always the one that adds most to the VAMP-2 score of those chosen before it.

    After each choice the chosen feature is projected out of all others, at both ends of the pairs separately, as in a
    Cholesky decomposition with pivots. In the orthonormal bases that arise, one at each end, the score is the sum of
    the squares of the matrix between them, which a further feature enlarges by a row, a column and their corner.

    Parameters
    ----------
    covariances
        From `lagged_covariances`.
    candidates
        Indices of the features to choose from.
    most
        At most so many are chosen; fewer where the others are linear combinations of them.

    Returns
    -------
    tuple
        Indices of the chosen features in order; what each added to the score; and, of every other candidate, what it
        would add, or None where it is a linear combination of the chosen ones.
    """
    _, early, late, between = covariances
    columns = list(candidates)
    a, b, c = (matrix[np.ix_(columns, columns)].copy() for matrix in (early, late, between))
    variance_a, variance_b = np.diagonal(a).copy(), np.diagonal(b).copy()
    # Covariances of each column's remainder, at one end, with the basis at the other.
    with_late_basis, with_early_basis = np.zeros((len(columns), 0)), np.zeros((len(columns), 0))
    chosen: list[int] = []
    gains: list[float] = []
    while True:
        remainder_a, remainder_b, corner = np.diagonal(a), np.diagonal(b), np.diagonal(c)
        free = (remainder_a > DEPENDENT * variance_a) & (remainder_b > DEPENDENT * variance_b)
        free[chosen] = False
        remainder_a, remainder_b = np.where(free, remainder_a, 1.0), np.where(free, remainder_b, 1.0)
        gain = (
            (with_late_basis**2).sum(1) / remainder_a
            + (with_early_basis**2).sum(1) / remainder_b
            + corner**2 / (remainder_a * remainder_b)
        )
        gain = np.where(free, gain, -1.0)
        if len(chosen) == most or not free.any():
            break
        k = int(np.argmax(gain))
        chosen.append(k)
        gains.append(float(gain[k]))
        # The new member of each basis, and what remains of every column without it.
        share_a, share_b = a[:, k] / a[k, k], b[:, k] / b[k, k]
        length_a, length_b = np.sqrt(a[k, k]), np.sqrt(b[k, k])
        with_late_basis = with_late_basis - np.outer(share_a, with_late_basis[k])
        with_early_basis = with_early_basis - np.outer(share_b, with_early_basis[k])
        new_late, new_early = c[:, k] / length_b, c[k] / length_a
        with_late_basis = np.column_stack([with_late_basis, new_late - share_a * new_late[k]])
        with_early_basis = np.column_stack([with_early_basis, new_early - share_b * new_early[k]])
        c = c - np.outer(share_a, c[k]) - np.outer(c[:, k], share_b) + np.outer(share_a, share_b) * c[k, k]
        a = a - np.outer(share_a, a[k])
        b = b - np.outer(share_b, b[k])
    others = {columns[k]: float(gain[k]) if free[k] else None for k in range(len(columns)) if k not in chosen}
    return [columns[k] for k in chosen], gains, others
