"""How good a classifier is on a set of messages."""

from datasets import DatasetDict

from ..inference.classifier import SpamClassifier
from .metrics import SPAM, SpamMetrics


def evaluate_classifier(
    classifier: SpamClassifier, data: DatasetDict, *, progress: bool = False
) -> dict[str, dict[str, float | None]]:
    """The metrics of a classifier on every split of `data` (columns `text` and `label`, 1 for spam)."""
    results = {}
    for split, messages in data.items():
        probabilities = classifier.probabilities(messages["text"], progress=progress)
        results[split] = SpamMetrics().compute(
            predictions=probabilities.argmax(-1), references=messages["label"], scores=probabilities[:, SPAM].tolist()
        )
    return results
