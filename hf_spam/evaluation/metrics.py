"""Metrics of a classifier as an `evaluate.Metric` that works offline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import datasets
import evaluate
import numpy as np
from sklearn import metrics

from ..data.labels import LABEL_NAMES
from ..modeling.configuration_spam_gpt import spam_index

# False-positive rates at which recall is reported: one legitimate message in a hundred, or a thousand, is lost.
LOW_RATES = {"recall_at_fpr_0.01": 0.01, "recall_at_fpr_0.001": 0.001}
BINS = 10  # equal-width score bins of the calibration error
PROBABILISTIC = {"brier", "log_loss", "ece"}  # metrics that need probabilities, not just a ranking


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on a set of messages, with the true labels."""

    names: tuple[str, ...]  # class names by index
    labels: np.ndarray  # (N,) class indices
    predicted: np.ndarray  # (N,) class indices
    probabilities: np.ndarray | None  # (N, K) float64; None if the model gives none
    texts: tuple[str, ...] = ()  # () if they are not needed
    only_ranks: bool = False  # whether the probabilities only rank the messages, as those of the baseline do

    @property
    def positive(self) -> int | None:
        """Index of the positive class; `None` with more than two classes."""
        return spam_index(self.names) if len(self.names) == 2 else None

    @property
    def is_spam(self) -> np.ndarray:
        """Whether each message belongs to the positive class, (N,) bool."""
        return self.labels == self.positive

    @property
    def predicted_spam(self) -> np.ndarray:
        """Whether the positive class was predicted for each message, (N,) bool."""
        return self.predicted == self.positive

    @property
    def scores(self) -> np.ndarray:
        """Probability of the positive class, (N,)."""
        return self.probabilities[:, self.positive]

    def select(self, chosen: np.ndarray) -> "Predictions":
        """Return the predictions for some of the messages, given as an (N,) bool mask."""
        return replace(
            self,
            labels=self.labels[chosen],
            predicted=self.predicted[chosen],
            probabilities=None if self.probabilities is None else self.probabilities[chosen],
            texts=self.texts and tuple(np.array(self.texts, dtype=object)[chosen]),
        )

    def metrics(self) -> dict[str, float | None]:
        """Return the metrics that `SpamMetrics` describes. Those that need probabilities are `None` without them."""
        values = _class_metrics(self) | ({} if self.positive is None else _spam_metrics(self))
        values |= dict.fromkeys(PROBABILISTIC & values.keys()) if self.only_ranks else {}
        return {name: None if value is None else float(value) for name, value in values.items()}


class SpamMetrics(evaluate.Metric):
    """Metrics of a spam filter, from accuracy to calibration error.

    Works like any other metric of `evaluate`, including `add_batch` and `combine`:

        SpamMetrics().compute(predictions=[1, 0], references=[1, 0], scores=[0.9, 0.2])

    `predictions` and `references` are class indices. `scores` is optional: the probability of spam, (N,), or of every
    class, (N, K). Values agree with scikit-learn:

    - for any number of classes: `accuracy`, `balanced_accuracy`, `precision`, `recall`, `f1`, `mcc` (Matthews
      correlation) and `log_loss`;
    - for two classes also `roc_auc`, `average_precision`, `recall_at_fpr_0.01` and `recall_at_fpr_0.001` (best recall
      at a threshold that flags at most one legitimate message in a hundred, or a thousand), `false_positive_rate`,
      `brier` and `ece` (expected calibration error over ten bins of equal width).

    With two classes, the positive one is the class named "spam", or else the second. With more, precision, recall and
    F1 are macro averages over the classes that occur.

    Undefined metrics are `None`: all that need `scores` if there are none, `balanced_accuracy` and the ranking metrics
    if all messages have the same label, `false_positive_rate` if all are spam. Precision, recall and F1 become 0.

    Args:
        names: Class names, in the order of their indices.
    """

    def __init__(self, names: Sequence[str] = LABEL_NAMES, **kwargs):
        super().__init__(**{"keep_in_memory": True, **kwargs})  # writes no cache file
        self.names = tuple(names)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions, references: class indices. scores: probabilities of spam (optional).",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, scores=None) -> dict[str, float | None]:
        labels, predicted = np.asarray(references), np.asarray(predictions)
        if not len(labels) or not {*labels.tolist(), *predicted.tolist()} <= set(range(len(self.names))):
            raise ValueError(f"Expected at least one message and class indices from 0 to {len(self.names) - 1}.")
        given = Predictions(self.names, labels, predicted, None)
        if scores is not None:
            scores = np.asarray(scores, np.float64)
            table = scores if scores.ndim == 2 else probability_table(scores, given.positive)
            given = replace(given, probabilities=table)
        return given.metrics()


def probability_table(scores: np.ndarray, positive: int) -> np.ndarray:
    """Expand the probabilities of the positive class, (N,), to both classes, (N, 2)."""
    return np.stack([scores, 1 - scores] if positive == 0 else [1 - scores, scores], axis=-1)


def message_losses(predictions: Predictions) -> np.ndarray:
    """Return the log loss of each message, (N,), clipped like scikit-learn's."""
    epsilon = np.finfo(np.float64).eps
    probabilities = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return -np.log(np.clip(probabilities, epsilon, 1 - epsilon))


def score_bins(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each score, from 0 to `BINS` - 1. A score on an edge belongs to the bin above it."""
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def lowest_threshold(actual: np.ndarray, scores: np.ndarray, rate: float) -> float | None:
    """Return the lowest spam threshold that keeps the false-positive rate at or below `rate`.

    It lies halfway between two scores, so that rounding cannot change a prediction. `None` if even the highest score
    belongs to too many legitimate messages. Of `actual`, (N,) bool, both classes must occur; `scores`, (N,), are
    float64.
    """
    rates, _, thresholds = metrics.roc_curve(actual, scores, drop_intermediate=False)
    last = np.flatnonzero(rates <= rate)[-1]  # never empty: the first threshold lies above all scores
    return float(thresholds[last] + thresholds[last + 1]) / 2 if last else None


def _class_metrics(given: Predictions) -> dict[str, float | None]:
    """Compute the metrics defined for any number of classes."""
    labels, predicted = given.labels, given.predicted
    present, macro = np.unique(labels), {"average": "macro", "zero_division": 0}
    positive = None if given.positive is None else [given.positive]
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(labels, predicted, labels=positive, **macro)
    # Not `balanced_accuracy_score`, which warns about predicted classes that do not occur.
    balanced_accuracy = metrics.recall_score(labels, predicted, labels=present, **macro)
    one_class = len({*labels.tolist(), *predicted.tolist()}) == 1  # scikit-learn returns 0 as well, but warns
    return {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": balanced_accuracy if len(present) > 1 else None,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "mcc": 0.0 if one_class else metrics.matthews_corrcoef(labels, predicted),
        "log_loss": None if given.probabilities is None else message_losses(given).mean(),
    }


def _spam_metrics(given: Predictions) -> dict[str, float | None]:
    """Compute the metrics that need a positive class."""
    actual, ham = given.is_spam, ~given.is_spam
    names = ("roc_auc", "average_precision", *LOW_RATES, "false_positive_rate", "brier", "ece")
    values: dict[str, float | None] = dict.fromkeys(names)
    if ham.any():
        values["false_positive_rate"] = given.predicted_spam[ham].mean()
    if given.probabilities is None:
        return values
    scores = given.scores
    values["brier"] = metrics.brier_score_loss(actual, scores, pos_label=True)
    values["ece"] = np.abs(np.bincount(score_bins(scores), scores - actual)).sum() / len(actual)
    if actual.any() and ham.any():
        rates, recalls, _ = metrics.roc_curve(actual, scores, drop_intermediate=False)
        values["roc_auc"] = metrics.roc_auc_score(actual, scores)
        values["average_precision"] = metrics.average_precision_score(actual, scores)
        values |= {name: recalls[rates <= rate].max() for name, rate in LOW_RATES.items()}
    return values
