"""How well a set of structures covers the flow's density, and weights that correct for the difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

SAMPLES = 4000
"""Number of samples of the flow that a set is compared with."""
DRAWS = 400
"""Number of sets of samples that show how far a set of this size is from the flow by chance."""
LEVEL = 0.99
"""A set does not cover the flow if it is farther from it than this share of these sets."""
MOST_REJECTED = 0.05
"""A set does not cover the flow if a larger share of its targets was rejected."""


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
        Upper limit of this distance for 99 % of sets of as many samples of the flow.
    rejected : float
        Share of the targets that gave no structure.
    effective : float
        Effective number of structures under their weights, (sum w)^2 / sum w^2 (Kish).
    """

    targets: float
    reached: float
    weighted: float
    expected: float
    rejected: float
    effective: float

    @property
    def covers(self) -> bool:
        """Whether the set is as close to the flow as a set of its samples."""
        return self.rejected <= MOST_REJECTED and min(self.reached, self.weighted) <= self.expected

    def summary(self) -> str:
        """The comparison as a sentence."""
        verdict = "cover" if self.covers else "do not cover"
        distances = f"their distance from samples of the flow is {self.reached:.2g}, with weights {self.weighted:.2g}"
        usual = f"of as many samples of the flow itself it is below {self.expected:.2g} in 99 of 100 cases"
        lost = f"{100 * self.rejected:.0f} % of the targets gave no structure"
        return f"They {verdict} the flow's density: {distances}; {usual}; {lost}."

    def as_dict(self) -> dict:
        """The values for a JSON file."""
        return {**asdict(self), "covers": self.covers}

    @classmethod
    def from_dict(cls, content: dict) -> Coverage:
        """The comparison from what `as_dict` gave."""
        return cls(**{key: value for key, value in content.items() if key != "covers"})


def weights(reached: np.ndarray, samples: np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """Weights (n,) of mean 1 that bring structures at latent points (n, d) to the density of samples (m, d).

    Each sample s of the flow is shared among the structures in proportion to its probability under the encoder around
    each of them, and a structure's weight is the sum of its shares:

        w_i = n E_s[ q(s|x_i) / sum_k q(s|x_k) ],   q(s|x) = N(s; mu(x), sigma^2)

    This is one step of expectation maximization (Dempster, Laird, Rubin, doi:10.1111/j.2517-6161.1977.tb01600.x), from
    equal weights, towards the mixture of q(s|x_i) that has the largest likelihood of the samples. A sample that is far
    from all structures belongs to the nearest one.

    Parameters
    ----------
    reached, samples
        Latent points of structures (n, d), and samples of the flow (m, d).
    sigma
        Standard deviation of the encoder, one number or (d,).

    Examples
    --------
    Three structures in one well, and one in another well of the same depth:

    >>> weights(np.array([[0.0], [0.0], [0.0], [9.0]]), np.array([[0.1], [9.1]]), 0.5).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    if not len(reached):
        return np.zeros(0)
    exponents = -0.5 * cdist(np.asarray(samples) / sigma, np.asarray(reached) / sigma, "sqeuclidean")
    shares = np.exp(exponents - np.asarray(logsumexp(exponents, axis=1, keepdims=True))).mean(0)
    return len(reached) * shares


def cover(
    targets: np.ndarray,
    reached: np.ndarray,
    weight: np.ndarray,
    samples: np.ndarray,
    scale: np.ndarray,
    rng: np.random.Generator,
) -> Coverage:
    """Compare targets (n, d) and structures (m, d) of weights (m,) with samples of the flow (k, d).

    Distances are in units of `scale` (d,).
    """
    samples, targets, reached = (np.asarray(part, np.float64) / scale for part in (samples, targets, reached))
    between_samples = cdist(samples, samples)
    from_samples = between_samples.mean(1)
    within_samples = float(from_samples.mean())

    def distance(points: np.ndarray, w: np.ndarray) -> float:
        if not len(points):
            return float("inf")
        w = w / w.sum()
        return 2 * float(w @ cdist(points, samples).mean(1)) - float(w @ cdist(points, points) @ w) - within_samples

    by_chance = []
    for _ in range(DRAWS):
        drawn = rng.choice(len(samples), len(targets), replace=len(targets) > len(samples))
        within_drawn = between_samples[np.ix_(drawn, drawn)].mean()
        by_chance.append(2 * from_samples[drawn].mean() - within_drawn - within_samples)
    return Coverage(
        targets=distance(targets, np.ones(len(targets))),
        reached=distance(reached, np.ones(len(reached))),
        weighted=distance(reached, weight),
        expected=float(np.quantile(by_chance, LEVEL)),
        rejected=1 - len(reached) / len(targets),
        effective=float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0,
    )
