"""How good a classifier is on a set of messages."""

import json
import os
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..inference.classifier import SpamClassifier
from .metrics import SPAM, SpamMetrics


def trained_recipe(model: str | os.PathLike | None) -> dict[str, Any]:
    """The recipe that a model folder was trained by, from its `history.json`; empty where it has none."""
    path = Path(model or "", "history.json")
    return json.loads(path.read_text(encoding="utf-8")).get("recipe", {}) if model and path.is_file() else {}


def evaluate_classifier(
    classifier: SpamClassifier, data: DatasetDict, *, progress: bool = False
) -> dict[str, dict[str, float | None]]:
    """The metrics of a classifier on every split of `data` (columns `text` and `label`, 1 for spam)."""
    results = {}
    for split, messages in data.items():
        probabilities = classifier.probabilities(messages["text"][:], progress=progress)
        results[split] = SpamMetrics().compute(
            predictions=probabilities.argmax(-1),
            references=messages["label"][:],
            scores=probabilities[:, SPAM].tolist(),
        )
    return results
