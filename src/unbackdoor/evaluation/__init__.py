"""What a model answers, and how often it is right."""

from unbackdoor.evaluation.rates import evaluate_images, evaluate_kept
from unbackdoor.evaluation.retrieval import evaluate_retrieval
from unbackdoor.evaluation.task import Task

__all__ = ["Task", "evaluate_images", "evaluate_kept", "evaluate_retrieval"]
