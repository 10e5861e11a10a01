"""Evaluates GLM on tasks by the rules of GLM-130B's evaluation, alone or under EleutherAI's lm-eval.

``encoding`` turns a task's texts into GLM sequences, ``scoring`` computes their log-probabilities, ``writing``
continues prompts; none of these needs lm-eval. ``harness`` registers all of it with lm-eval as the model ``glm``, and
``python -m glm_model.evaluation`` is lm-eval's own command with that model registered. See docs/evaluation.md.
"""

from .encoding import EvaluationOptions, Prompt, ScoredSequence, TaskEncoder
from .scoring import Score, score, scores_as_computed

__all__ = [
    "EvaluationOptions",
    "Prompt",
    "Score",
    "ScoredSequence",
    "TaskEncoder",
    "score",
    "scores_as_computed",
]
