"""Training a `LaTF`; see `latf_sampling.learning.training.train`."""

from latf_sampling.learning.training.restarts import rank_models
from latf_sampling.learning.training.stages import TrainingResult, train

__all__ = ["TrainingResult", "rank_models", "train"]
