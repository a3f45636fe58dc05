"""Training a `LaTF`; see `latf_sampling.trainer.train`."""

from latf_sampling.trainer.stages import TrainingResult, train

__all__ = ["TrainingResult", "train"]
