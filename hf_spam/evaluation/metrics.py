"""The metrics of a spam filter as an `evaluate.Metric` that needs no network."""

import datasets
import evaluate
import numpy as np
from sklearn import metrics

SPAM = 1  # index of the label "spam"


class SpamMetrics(evaluate.Metric):
    """Accuracy, precision, recall, F1, Matthews correlation (MCC), ROC AUC, average precision, false-positive rate.

    Spam (label 1) is the positive class. Used as any metric of `evaluate`, `add_batch` and `combine` included:

        SpamMetrics().compute(predictions=[1, 0], references=[1, 0], scores=[0.9, 0.2])

    `predictions` and `references` are class indices; `scores`, an option of `compute`, the probabilities of spam of
    all of them. Without `scores`, and where the messages are all of one class, the two areas (`roc_auc`,
    `average_precision`) are None; so is the `false_positive_rate` where nothing is ham. Precision, recall and F1 are 0
    where nothing is, or is called, spam. The values are those of scikit-learn.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"keep_in_memory": True, **kwargs})  # no cache file is written

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions, references: class indices. scores: probabilities of spam (optional).",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, scores=None) -> dict[str, float | None]:
        predicted = np.asarray(predictions) == SPAM
        actual = np.asarray(references) == SPAM
        areas = scores is not None and 0 < actual.sum() < len(actual)
        one_class = len({*actual, *predicted}) == 1  # scikit-learn warns of it, and answers 0
        ham = ~actual
        values = {
            "accuracy": metrics.accuracy_score(actual, predicted),
            "precision": metrics.precision_score(actual, predicted, zero_division=0),
            "recall": metrics.recall_score(actual, predicted, zero_division=0),
            "f1": metrics.f1_score(actual, predicted, zero_division=0),
            "mcc": 0.0 if one_class else metrics.matthews_corrcoef(actual, predicted),
            "roc_auc": metrics.roc_auc_score(actual, scores) if areas else None,
            "average_precision": metrics.average_precision_score(actual, scores) if areas else None,
            "false_positive_rate": predicted[ham].mean() if ham.any() else None,
        }
        return {name: None if value is None else float(value) for name, value in values.items()}
