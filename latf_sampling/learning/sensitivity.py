"""Which descriptors a learned variable depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from latf_sampling.core import arguments
from latf_sampling.data.columns import aligned
from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.errors import DataError
from latf_sampling.learning.model import LaTF

FRAMES = 20_000
"""Largest number of frames, evenly spaced, that the dependence is averaged over."""


@dataclass(frozen=True)
class Sensitivity:
    """How much a variable depends on each column.

    Attributes
    ----------
    names : list of str
    components : numpy.ndarray (F, d)
        Share of each column in each component of the variable; every component sums to 1.
    total : numpy.ndarray (F,)
        Share in all components together; sums to 1.
    """

    names: list[str]
    components: np.ndarray
    total: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Indices of the columns, the largest share first; (F,)."""
        return np.argsort(-self.total, kind="stable")

    def table(self, most: int | None = None) -> str:
        """The columns with the largest shares (default: all), in per cent, as text."""
        head = ["descriptor", "total", *(f"u{k + 1}" for k in range(self.components.shape[1]))]
        rows = [
            [self.names[k], *(f"{100 * share:.1f} %" for share in (self.total[k], *self.components[k]))]
            for k in self.order[:most]
        ]
        return aligned([head, *rows], words=1)


def rank_descriptors(
    model: LaTF, data: Dataset | Series | np.ndarray, names: Sequence[str] | None = None
) -> Sensitivity:
    """Rank descriptors by how much the collective variable changes with each of them.

    The dependence of component k on column j is sqrt(<(du_k / dx_j)^2>) sd(x_j), the root of the mean square over the
    frames of the gradient, times the standard deviation of the column. For all components together it is the root of
    the sum of their squares, each in units of the component's standard deviation. Shares are these numbers divided by
    their sum. Duplicate columns share the dependence on what they have in common: select columns first.

    Parameters
    ----------
    model
        A trained model.
    data
        Data that the model was trained on: a data set, a series, or descriptors (frames, F). All frames count alike,
        whatever their weights.
    names
        Names of the columns; without them columns are numbered.

    Raises
    ------
    TrainingError
        The model is not trained.
    SettingsError
        The model is no `LaTF`.
    DataError
        There is no frame, a value is no finite number, or the number of columns or of names is not that of the model.

    Examples
    --------
    >>> ranked = rank_descriptors(model, dataset, features.names)  # doctest: +SKIP
    >>> print(ranked.table(3))  # doctest: +SKIP
    descriptor       total      u1      u2
    sin psi ALA 2   43.5 %  60.2 %  20.1 %
    sin phi ALA 2   31.0 %  12.3 %  55.4 %
    cos psi ALA 2   14.7 %  17.2 %  11.6 %
    """
    arguments.instance("rank_descriptors", "model", model, LaTF, "a LaTF", "LaTF.load")
    if isinstance(data, Dataset):
        x = data.rows(slice(None, None, max(1, data.frames // FRAMES)))
    else:
        rows = data.x if isinstance(data, Series) else arguments.real_numbers("rank_descriptors", "data", data)
        if not rows.ndim or not len(rows):
            raise DataError(
                f"rank_descriptors: data must hold one frame or more, (frames, F); got {arguments.describe(data)}."
            )
        x = torch.from_numpy(np.array(rows[:: max(1, len(rows) // FRAMES)], np.float32))
    model.encode(x)  # refuses what does not fit
    if names is None:
        names = data.names if isinstance(data, Dataset) else [f"column {k}" for k in range(model.n_features)]
    names = arguments.names("rank_descriptors", names, model.n_features, "columns")
    squares = torch.zeros(model.n_features, model.latent_dim, dtype=torch.float64)
    networks, latent = model.networks, []
    for part in x.split(2048):
        part = part.to(networks.feature_mean).requires_grad_(True)
        u = networks.mean(part)
        latent.append(u.detach())
        for k in range(model.latent_dim):
            slope = torch.autograd.grad(u[:, k].sum(), part, retain_graph=True)[0]
            squares[:, k] += slope.double().square().sum(0).cpu()
    deviation = x.double().std(0, correction=0).cpu()
    dependence = (torch.sqrt(squares / len(x)) * deviation[:, None]).numpy()
    spread = torch.cat(latent).double().std(0, correction=0).cpu().numpy()
    total = np.sqrt(((dependence / np.where(spread > 0, spread, 1.0)) ** 2).sum(1))
    return Sensitivity(names, _shares(dependence), _shares(total))


def _shares(values: np.ndarray) -> np.ndarray:
    total = values.sum(0)
    return values / np.where(total > 0, total, 1.0)
