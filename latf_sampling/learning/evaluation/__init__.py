"""How good a trained model is; see `latf_sampling.learning.evaluation.evaluate`."""

from latf_sampling.learning.evaluation.evaluator import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
