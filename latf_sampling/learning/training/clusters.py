"""Many small clusters: the first labels, which the refinement merges into metastable states."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from latf_sampling.data.dataset import CHUNK, Dataset
from latf_sampling.errors import TrainingError

FRAMES = 50_000
"""Clusters are computed from at most so many frames; all frames are then assigned to them."""
TRIES = 5
"""Number of clusterings, of which the one with the least inertia is taken."""


def cluster(dataset: Dataset, count: int, seed: int) -> Tensor:
    """k-means (deeptime) on the slow coordinates that TICA finds.

    Parameters
    ----------
    dataset
        All frames; TICA takes its lag.
    count
        Number of clusters; fewer where some stay empty.
    seed
        Of the initial centers.

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

    tica = TICA(lagtime=dataset.lag, var_cutoff=0.95, scaling="kinetic_map")
    for series in dataset.series:
        for first in range(0, len(series) - dataset.lag, CHUNK):  # pieces overlap by the lag, so that no pair is lost
            tica.partial_fit(series.x[first : first + CHUNK + dataset.lag].astype(np.float64))
    try:
        projection = tica.fetch_model()
        stride = max(1, dataset.frames // FRAMES)
        sample = projection.transform(dataset.rows(slice(None, None, stride)).numpy().astype(np.float64))
    except ZeroRankError as error:
        raise TrainingError("train: no descriptor ever changes; there is nothing to learn from.") from error
    # One choice of initial centers easily misses a rare state, which then adds much to the inertia.
    tries: list[KMeansModel] = []
    for attempt in range(TRIES):
        estimator = KMeans(
            min(count, len(sample)),
            max_iter=100,
            fixed_seed=seed + attempt,  # pyright: ignore[reportArgumentType] - annotated as bool, documented as seed
            n_jobs=1,
            init_strategy="kmeans++",
            tolerance=1e-3,
        )
        tries.append(estimator.fit_fetch(sample))  # pyright: ignore[reportArgumentType] - annotated as any Model
    clusters = min(tries, key=lambda model: cast(float, model.inertia))
    labels = [
        clusters.transform(projection.transform(dataset.rows(slice(first, first + CHUNK)).numpy().astype(np.float64)))
        for first in range(0, dataset.frames, CHUNK)
    ]
    return torch.unique(torch.from_numpy(np.concatenate(labels).astype(np.int64)), return_inverse=True)[1]
