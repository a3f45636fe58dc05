"""Training a `LaTF`; see `latf_sampling.trainer.train`."""

from latf_sampling.trainer.train import TrainingResult, train

__all__ = ["TrainingResult", "train"]
