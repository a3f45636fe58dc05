"""What a new model takes over from an earlier one, so that pictures, walls and states stay comparable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latf_sampling.core import arguments
from latf_sampling.errors import DataError
from latf_sampling.learning.networks import Networks

LARGEST = 1e18
"""Of the variable: squares of larger values do not fit in single precision."""
LARGEST_STATE = 1e9


@dataclass(frozen=True)
class EarlierModel:
    """Variable and states of an earlier model at the frames of a training.

    Attributes
    ----------
    variable : numpy.ndarray (frames, k), or None
        NaN where it is not known.
    states : numpy.ndarray (frames,) int64, or None
        -1 where they are not known.
    """

    variable: np.ndarray | None = None
    states: np.ndarray | None = None

    @classmethod
    def from_arguments(cls, align: ArrayLike | None, align_states: ArrayLike | None, frames: int) -> EarlierModel:
        """From the arguments of `train`.

        Raises
        ------
        DataError
            They are no numbers, or not one for each frame.
        """
        variable, states = None, None
        if align is not None:
            variable = arguments.real_numbers("train", "align", align).astype(np.float64)
            if variable.ndim != 2 or len(variable) != frames or variable.shape[1] == 0:
                raise DataError(f"train: align must have the shape ({frames}, components); got {variable.shape}.")
            large = (np.abs(variable) > LARGEST).any(1)
            if large.any():
                raise DataError(f"train: align is infinite, or beyond {LARGEST:g}, in frame {int(large.argmax())}.")
        if align_states is not None:
            numbers = arguments.real_numbers("train", "align_states", align_states)
            if numbers.shape != (frames,):
                raise DataError(f"train: align_states must have the shape ({frames},); got {numbers.shape}.")
            bad = (numbers != np.round(numbers)) | (numbers < -1) | (numbers > LARGEST_STATE)
            if bad.any():
                raise DataError(
                    f"train: align_states must be state indices, or -1; frame {int(bad.argmax())} has "
                    f"{numbers[bad.argmax()]:g}."
                )
            states = numbers.astype(np.int64)
        return cls(variable, states)

    @property
    def arrays(self) -> list[np.ndarray]:
        """What a training depends on."""
        return [array for array in (self.variable, self.states) if array is not None]

    def in_order(self, states: np.ndarray) -> np.ndarray:
        """New states (frames,) with the indices of the earlier ones, if there are as many."""
        if self.states is None:
            return states
        known = self.states >= 0
        count = int(states.max()) + 1
        if not known.any() or self.states.max() + 1 != count:
            return states
        shared = np.zeros((count, count))
        np.add.at(shared, (states[known], self.states[known]), 1.0)
        return linear_sum_assignment(-shared)[1][states]

    def align(self, networks: Networks, u: Tensor) -> None:
        """Map the latent space of a model onto the earlier one; u is its variable at all frames (frames, d).

        The rotation or reflection is that of Procrustes' problem (Schönemann, doi:10.1007/BF02289451). Scale and shift
        give the frames the same mean and spread: the scale of the closest fit would be smaller, the less the variables
        have to do with each other.
        """
        if self.variable is None or self.variable.shape[1] != networks.latent_dim:
            return
        known = np.isfinite(self.variable).all(1)
        new, earlier = u.double().cpu().numpy()[known], self.variable[known]
        if len(new) == 0:
            return
        center, image = new.mean(0), earlier.mean(0)
        spread, wanted = np.linalg.norm(new - center), np.linalg.norm(earlier - image)
        if spread == 0 or wanted == 0:
            return
        left, _, right = np.linalg.svd((earlier - image).T @ (new - center))
        matrix = wanted / spread * left @ right
        networks.map_latent(*(torch.from_numpy(part).to(u) for part in (matrix, center, image)))


def take_weights(networks: Networks, start: Networks) -> bool:
    """Give the encoder and decoder of a model the weights of an earlier one, if they fit; returns whether they do.

    The scaling of the descriptors stays that of the new model: the first layer is changed so that the encoder is the
    same function of them.
    """
    new, old = ([*m.encoder.parameters(), *m.decoder.parameters(), m.representatives] for m in (networks, start))
    if [part.shape for part in new] != [part.shape for part in old]:
        return False
    with torch.no_grad():
        for target, source in zip([*new, networks.log_variance], [*old, start.log_variance]):
            target.copy_(source)
        weight, bias = networks.encoder[0].parameters()
        bias += weight @ ((networks.feature_mean - start.feature_mean) * start.feature_scale)
        weight *= start.feature_scale / networks.feature_scale
    return True
