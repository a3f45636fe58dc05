"""Whether structures cover what the flow asked for, and weights that make up for the difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

SAMPLES = 4000
"""Samples of the flow that a set is compared with."""
DRAWS = 400
"""Sets of fresh samples that say how far a set of this size is from the flow by chance."""
LEVEL = 0.99
"""A set that is farther than this share of them does not cover the flow."""
MOST_REJECTED = 0.05
"""Nor does one that lost a larger share of its targets."""


@dataclass(frozen=True)
class Coverage:
    """How a set of structures compares with the flow's density at its temperature.

    Distances are energy distances in latent space, in units of `cv.sigma`: 2 E|u - s| - E|u - u'| - E|s - s'| of
    structures u and samples s of the flow, zero only for equal distributions (Szekely and Rizzo,
    doi:10.1016/j.jspi.2013.03.018).

    Attributes
    ----------
    targets, reached, weighted : float
        Distance of all targets, of the structures, and of the weighted structures.
    expected : float
        What 99 % of sets of as many samples of the flow stay below.
    rejected : float
        Share of the targets that gave no structure.
    effective : float
        Number of equally weighted structures that the weighted ones are worth, (sum w)^2 / sum w^2.
    """

    targets: float
    reached: float
    weighted: float
    expected: float
    rejected: float
    effective: float

    @property
    def covers(self) -> bool:
        """Whether the set is as good as a sample of the flow."""
        return self.rejected <= MOST_REJECTED and min(self.reached, self.weighted) <= self.expected

    def summary(self) -> str:
        """A sentence."""
        verdict = "cover" if self.covers else "do not cover"
        found = f"energy distance {self.reached:.2g}, weighted {self.weighted:.2g}"
        usual = f"below {self.expected:.2g} in 99 % of such samples"
        lost = f"{100 * self.rejected:.0f} % of the targets were rejected"
        return f"They {verdict} what the flow asked for: {found}, {usual}; {lost}."

    def as_dict(self) -> dict:
        return {**asdict(self), "covers": self.covers}


def weights(reached: np.ndarray, samples: np.ndarray, width) -> np.ndarray:
    """Weights (n,) of mean 1 that bring structures at latent points (n, d) to the density of samples (m, d).

    Each sample s of the flow is shared among the structures by how probable it is under the encoder around each of
    them, and a structure's weight is what it gets:

        w_i = n E_s[ q(s|x_i) / sum_k q(s|x_k) ],   q(s|x) = N(s; mu(x), sigma^2)

    It is one step of expectation and maximisation (Dempster, Laird, Rubin, doi:10.1111/j.2517-6161.1977.tb01600.x) for
    the weights of the mixture of q(s|x_i) that is most likely to give the samples, from equal ones. What no structure
    is near to goes to the nearest.

    Parameters
    ----------
    width
        sigma, one number or (d,).

    Examples
    --------
    Three structures in one well and one in another that is as deep:

    >>> weights(np.array([[0.0], [0.0], [0.0], [9.0]]), np.array([[0.1], [9.1]]), 0.5).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    if not len(reached):
        return np.zeros(0)
    exponents = -0.5 * cdist(np.asarray(samples) / width, np.asarray(reached) / width, "sqeuclidean")
    shares = np.exp(exponents - logsumexp(exponents, axis=1, keepdims=True)).mean(0)
    return len(reached) * shares


def cover(
    targets: np.ndarray, reached: np.ndarray, weight: np.ndarray, samples: np.ndarray, scale: np.ndarray,
    rng: np.random.Generator,
) -> Coverage:  # fmt: skip
    """Compare targets (n, d) and weighted structures (m, d) with samples of the flow, lengths in units of `scale`."""
    pool, targets, reached = (np.asarray(part, np.float64) / scale for part in (samples, targets, reached))
    between = cdist(pool, pool)
    from_pool = between.mean(1)
    within = float(from_pool.mean())

    def distance(points: np.ndarray, w: np.ndarray) -> float:
        if not len(points):
            return float("inf")
        w = w / w.sum()
        return 2 * float(w @ cdist(points, pool).mean(1)) - float(w @ cdist(points, points) @ w) - within

    by_chance = []
    for _ in range(DRAWS):
        drawn = rng.choice(len(pool), len(targets), replace=len(targets) > len(pool))
        by_chance.append(2 * from_pool[drawn].mean() - between[np.ix_(drawn, drawn)].mean() - within)
    return Coverage(
        targets=distance(targets, np.ones(len(targets))),
        reached=distance(reached, np.ones(len(reached))),
        weighted=distance(reached, weight),
        expected=float(np.quantile(by_chance, LEVEL)),
        rejected=1 - len(reached) / len(targets),
        effective=float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0,
    )
