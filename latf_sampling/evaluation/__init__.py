"""How good a trained model is; see `latf_sampling.evaluation.evaluate`."""

from latf_sampling.evaluation.judgement import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
