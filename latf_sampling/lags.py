"""Which lag time to take: the first stage of training at several lags, and what the states found there are worth.

A lag that is too short resolves motions that nobody asks for, and time scales come out too short; one that is too long
loses states that live shorter than it, and leaves few pairs to learn from. Three numbers per lag tell:

- The metastable states that training finds. A state whose life time is shorter than the lag is no state at this lag.
- The implied time scales -lag / ln(eigenvalue) of a Markov state model on these states, which come out too short at
  short lags and level off where the model is Markovian: Swope, Pitera, Suits, doi:10.1021/jp037421y.
- The VAMP-2 score of the latent space, which is the larger the more of the slow motion it holds: Wu and Noé,
  doi:10.1007/s00332-019-09567-y. Scores at different lags cannot be compared, since every process has decayed further
  at a longer one; all models are therefore scored at one lag, the middle one of the list. At the shortest, fast motions
  that no state is meant to hold would count most; at the longest, little but noise is left to be scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from latf_sampling import runtime, store
from latf_sampling.dataset import Dataset, Series
from latf_sampling.errors import DataError, SettingsError, TrainingError
from latf_sampling.model import LaTF
from latf_sampling.settings import ModelSettings, TrainingSettings
from latf_sampling.trainer import train

FRAMES = 50_000
"""At most so many frames are used, from the beginning of each series: enough to tell lags apart, and quick."""
TRAINING = TrainingSettings(refinements=24, refinement_epochs=2)
"""Shorter rounds than a final model gets, and more of them: the number of states settles by relabelling."""
PAIRS = 10
"""A series carries lags of up to this part of its length."""
LAG_TIMES = 100
"""Lags that are chosen here are at most this part of all frames: a process of three lags is then seen 30 times."""
BLOCKS, RESAMPLES = 20, 200
"""Blocks of time that the bootstrap draws from, and number of draws."""
FOLDS = 5
"""Parts of each series that are held out in turn for the VAMP-2 score."""
RESOLVED = 3
"""A process is resolved by lags of at most this part of its time scale."""
TOLERANCE = 0.1
"""Time scales that differ by this share agree, however small their errors: they never level off entirely."""


@dataclass(frozen=True)
class LagResult:
    """What was found at one lag; times are in frames.

    Attributes
    ----------
    lag : int
    states : tuple of int
        Number of metastable states that the training with each seed found; 1 where it ended in a single one.
    timescales, errors : tuple of float
        Implied time scales, the slowest first, and their standard errors, of the states that the first seed found; one
        fewer than states that are connected by transitions. An infinite error is one that the data do not bound.
    vamp2, vamp2_error : float
        Cross-validated score at the scan's `scoring_lag` with its standard error; nan where there is a single state.
    """

    lag: int
    states: tuple[int, ...]
    timescales: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    vamp2: float = math.nan
    vamp2_error: float = math.nan

    @property
    def resolved(self) -> bool:
        """Whether the lag is at most a third of the slowest time scale."""
        return bool(self.timescales) and RESOLVED * self.lag <= self.timescales[0]
