"""Training a `LaTF`; see `latf_sampling.learning.training.train`."""

from latf_sampling.learning.training.stages import TrainingResult, train

__all__ = ["TrainingResult", "train"]
