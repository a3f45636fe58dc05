"""Many small clusters of frames, which are merged to metastable states by the transitions between them."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from latf_sampling.data.dataset import CHUNK, Dataset
from latf_sampling.errors import TrainingError

FRAMES = 50_000
"""Clusters are computed from at most so many frames; all frames are then assigned to them."""
ORDINARY = 2e-3, 1e3
"""Standard deviations between which columns are taken as they are. TICA leaves out directions whose variance is below
1e-6, whatever the unit, and cannot tell small columns beside huge ones from rounding."""
FEWEST = 50
"""Frames of a cluster, on average, at least: transitions between clusters are counted."""
SEED = 0
"""Of the initial centers, always the same one: which states there are is no matter of chance."""


def cluster(dataset: Dataset, count: int, scale: np.ndarray | None = None) -> Tensor:
    """k-means (deeptime) on the slow coordinates that TICA finds.

    Parameters
    ----------
    dataset
        All frames; TICA takes its lag.
    count
        Number of clusters; fewer where some stay empty, or would have few frames.
    scale
        Inverse of the standard deviation of each column (F,), 1 for constant ones; None takes columns as they are.

    Returns
    -------
    Tensor (frames,) int64
        Labels from 0, none of them empty.

    Raises
    ------
    TrainingError
        No descriptor ever changes.
    """
    from deeptime.clustering import KMeans, KMeansModel
    from deeptime.decomposition import TICA
    from deeptime.numeric import ZeroRankError

    inverse = np.ones(dataset.n_features) if scale is None else scale
    factors = np.where((inverse > 1 / ORDINARY[0]) | (inverse < 1 / ORDINARY[1]), inverse, 1.0)

    def columns(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) * factors

    tica = TICA(lagtime=dataset.lag, var_cutoff=0.95, scaling="kinetic_map")
    for x in (piece for series in dataset.series for piece in series.continuous(series.x)):
        for first in range(0, len(x) - dataset.lag, CHUNK):  # parts overlap by the lag, so that no pair is lost
            tica.partial_fit(columns(x[first : first + CHUNK + dataset.lag]))
    try:
        projection = tica.fetch_model()
        stride = max(1, dataset.frames // FRAMES)
        sample = projection.transform(columns(dataset.rows(slice(None, None, stride)).numpy()))
    except ZeroRankError as error:
        raise TrainingError("train: no descriptor ever changes; there is nothing to learn from.") from error
    estimator = KMeans(
        max(2, min(count, dataset.frames // FEWEST)),
        max_iter=100,
        fixed_seed=SEED,  # pyright: ignore[reportArgumentType] - annotated as bool, documented as seed
        n_jobs=1,
        init_strategy="kmeans++",
        tolerance=1e-3,
    )
    clusters = cast(KMeansModel, estimator.fit_fetch(sample))  # pyright: ignore[reportArgumentType] - takes any array
    labels = [
        clusters.transform(projection.transform(columns(dataset.rows(slice(first, first + CHUNK)).numpy())))
        for first in range(0, dataset.frames, CHUNK)
    ]
    return torch.unique(torch.from_numpy(np.concatenate(labels).astype(np.int64)), return_inverse=True)[1]
