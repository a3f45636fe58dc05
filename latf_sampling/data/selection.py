"""Selection of columns: which of many candidates to learn from, and why the others are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from latf_sampling.analysis.vamp import forward_selection, lagged_covariances
from latf_sampling.core import arguments
from latf_sampling.core.words import plural
from latf_sampling.data.columns import NEARLY_CONSTANT, aligned
from latf_sampling.data.dataset import Dataset, Series, check_widths, lag_in_frames, series_list
from latf_sampling.errors import DataError
from latf_sampling.units import TimeLike


@dataclass(frozen=True)
class Candidate:
    """Outcome of the selection for one column.

    Attributes
    ----------
    index : int
    name : str
    score : float
        Squared correlation of the column with itself one lag later, 0 to 1.
    kept : bool
    gain : float or None
        Increase of the VAMP-2 score by a kept column, over that of the columns kept before it.
    reason : str
        Why the column is not kept; empty for a kept one.
    """

    index: int
    name: str
    score: float
    kept: bool
    gain: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """Columns that are kept, and the reasons.

    Attributes
    ----------
    kept : numpy.ndarray of int64
        Indices of the kept columns, ascending.
    candidates : list of Candidate
        All columns: the kept ones, the most important first, then the others.
    lag : int
        Frames.
    vamp2 : float
        Score of the kept columns together.
    """

    kept: np.ndarray
    candidates: list[Candidate]
    lag: int
    vamp2: float

    def table(self) -> str:
        """All columns with their scores and the reasons, as text."""
        rows = [["column", "score", "gain", "kept"]]
        for entry in self.candidates:
            gain = "" if entry.gain is None else f"{entry.gain:.4f}"
            rows.append([entry.name, f"{entry.score:.4f}", gain, "yes" if entry.kept else f"no: {entry.reason}"])
        return aligned(rows, words=len(rows[0]))

    def as_dict(self) -> dict:
        """All results, for JSON."""
        return {
            "kept": self.kept.tolist(),
            "lag": self.lag,
            "vamp2": self.vamp2,
            "candidates": [asdict(entry) for entry in self.candidates],
        }


def select_columns(
    data: Dataset | Series | Sequence[Series],
    lag: TimeLike | str | None = None,
    keep: int | None = None,
    *,
    correlation: float = 0.95,
    names: Sequence[str] | None = None,
) -> Selection:
    """Choose columns to learn from, in three steps.

    1. Nearly constant columns are left out: their standard deviation is below 0.001 of 1 + \\|mean\\|.
    2. Each column has a score, the square of its correlation with itself one lag later. Of columns that are correlated
       by more than `correlation`, with either sign, the one with the highest score stays.
    3. Columns are then added one by one: always the one that adds most to the VAMP-2 score of those before it, until
       there are `keep`, or until all others are linear combinations of these.

    The VAMP-2 score of columns together is 1 + \\|C00^(-1/2) C0t Ctt^(-1/2)\\|^2, with their covariances at the first
    frames of pairs, at the last, and between the two (Wu and Noé, doi:10.1007/s00332-019-09567-y). That of one
    column is 1 + its score.

    Series whose frames differ in weight are left out where there are others: under a changing bias, correlations in
    time are not those of the molecule. All temperatures count alike.

    Parameters
    ----------
    data
        A data set, or one or several series.
    lag
        Frames, or a time as in `Dataset`; None takes that of the data set.
    keep
        Largest number of columns; None keeps all that are no linear combinations of others.
    correlation
        Threshold above 0 and up to 1; 1 leaves out no column.
    names
        Names of the columns; without them columns are numbered.

    Raises
    ------
    SettingsError
        The data are no series, or a number is out of its range.
    DataError
        The lag is missing, all series are too short for it, they have different columns, or no column changes.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> slow = np.cumsum(rng.normal(size=2000)) / 50
    >>> x = np.column_stack([rng.normal(size=2000), slow, 3 * slow + 0.01 * rng.normal(size=2000), np.ones(2000)])
    >>> selection = select_columns(Series(x), lag=5, keep=1, names=["noise", "slow", "same", "constant"])
    >>> selection.kept
    array([1])
    >>> {entry.name: entry.reason for entry in selection.candidates if entry.score > 0.9}
    {'slow': '', 'same': "correlation 1.000 with 'slow', which has a higher score"}
    """
    if isinstance(data, Dataset):
        lag = data.lag if lag is None else lag
        names = data.names if names is None else names
        data = data.series
    series = [data] if isinstance(data, Series) else series_list("select_columns", data)
    if lag is None:
        raise DataError("select_columns: give a lag, in frames, such as select_columns(series, lag=10).")
    lag = lag_in_frames("select_columns", lag, series)
    keep = None if keep is None else arguments.whole("select_columns", "keep", keep, 1, "columns")
    correlation = arguments.number("select_columns", "correlation", correlation, above=0, most=1)
    check_widths("select_columns", series)
    unbiased = [entry for entry in series if np.ptp(entry.weights) == 0 and len(entry) > lag]
    used = unbiased or [entry for entry in series if len(entry) > lag]
    if not used:
        raise DataError(
            f"select_columns: no series is longer than the lag of {plural(lag, 'frame')}; give a shorter lag, or "
            "longer series."
        )
    width = used[0].x.shape[1]
    if names is None:
        names = [f"column {k}" for k in range(width)]
    names = arguments.names("select_columns", names, width, "columns")
    covariances = lagged_covariances([piece for entry in used for piece in entry.continuous(entry.x)], lag)
    mean, early, late, between = covariances
    deviation = np.sqrt(np.minimum(np.diagonal(early), np.diagonal(late)))
    varies = deviation >= NEARLY_CONSTANT * (1 + np.abs(mean))
    if not varies.any():
        raise DataError(
            "select_columns: no column changes from frame to frame, and there is nothing to choose from; give other "
            "descriptors, or frames of a simulation in which something happens."
        )
    reasons = {int(k): f"is nearly constant (standard deviation {deviation[k]:.2g})" for k in np.nonzero(~varies)[0]}
    with np.errstate(divide="ignore", invalid="ignore"):
        autocorrelation = np.diagonal(between) ** 2 / (np.diagonal(early) * np.diagonal(late))
    scores = np.where(varies, np.clip(np.nan_to_num(autocorrelation), 0, 1), 0.0)
    order = [int(k) for k in np.argsort(-scores, kind="stable") if varies[k]]
    safe = np.where(varies, np.sqrt(np.diagonal(early)), 1.0)
    r = early / np.outer(safe, safe)
    distinct: list[int] = []
    for k in order:
        close = np.abs(r[k, distinct]) > correlation
        if close.any():
            other = distinct[int(np.argmax(np.abs(r[k, distinct])))]
            reasons[k] = f"correlation {r[k, other]:.3f} with '{names[other]}', which has a higher score"
        else:
            distinct.append(k)
    distinct.sort()
    kept, gains, others = forward_selection(covariances, distinct, len(distinct) if keep is None else keep)
    for k, gain in others.items():
        reasons[k] = (
            "is a linear combination of those kept"
            if gain is None
            else f"would add {gain:.4f} to the score, less than those kept"
        )
    candidates = [Candidate(k, names[k], float(scores[k]), True, gain) for k, gain in zip(kept, gains)]
    candidates += [Candidate(k, names[k], float(scores[k]), False, None, reasons[k]) for k in sorted(reasons)]
    return Selection(np.array(sorted(kept), np.int64), candidates, lag, 1.0 + float(sum(gains)))
