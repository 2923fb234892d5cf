"""Metrics of a classifier as an `evaluate.Metric` that works offline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import datasets
import evaluate
import numpy as np
from sklearn.metrics import roc_curve

from ..data.labels import LABEL_NAMES
from ..modeling.configuration_spam_gpt import spam_index

# False-positive rates at which recall is reported: one legitimate message in a hundred, or a thousand, is lost.
LOW_RATES = {"recall_at_fpr_0.01": 0.01, "recall_at_fpr_0.001": 0.001}
BINS = 10  # equal-width score bins of the calibration error
PROBABILISTIC = {"brier", "log_loss", "ece"}  # metrics that need probabilities, not just a ranking
CLASS_METRICS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "log_loss")
SPAM_METRICS = ("roc_auc", "average_precision", *LOW_RATES, "false_positive_rate", "brier", "ece")


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
        """Return the predictions for some of the messages, given as an (N,) bool mask or a slice."""
        return replace(
            self,
            labels=self.labels[chosen],
            predicted=self.predicted[chosen],
            probabilities=None if self.probabilities is None else self.probabilities[chosen],
            texts=self.texts and tuple(np.array(self.texts, dtype=object)[chosen]),
        )

    def metrics(self) -> dict[str, float | None]:
        """Return the metrics that `SpamMetrics` describes, `None` where they are undefined."""
        values = weighted_metrics(self, np.ones((1, len(self.labels))))
        hidden = PROBABILISTIC if self.only_ranks else ()
        return {name: None if name in hidden or np.isnan(value) else float(value) for name, (value,) in values.items()}


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
        given = Predictions(self.names, labels, predicted, None if scores is None else np.asarray(scores, np.float64))
        if scores is not None and given.probabilities.ndim == 1:
            given = replace(given, probabilities=probability_table(given.probabilities, given.positive))
        return given.metrics()


def probability_table(scores: np.ndarray, positive: int) -> np.ndarray:
    """Expand the probabilities of the positive class, (N,), to both classes, (N, 2)."""
    return np.stack([scores, 1 - scores] if positive == 0 else [1 - scores, scores], axis=-1)


def score_bins(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each score, from 0 to `BINS` - 1. A score on an edge belongs to the bin above it."""
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def lowest_threshold(actual: np.ndarray, scores: np.ndarray, rate: float) -> float | None:
    """Return the lowest spam threshold that keeps the false-positive rate at or below `rate`; `None` without one.

    It lies halfway between two scores, so that rounding cannot change a prediction. Of `actual`, (N,) bool, both
    classes must occur; `scores`, (N,), are float64.
    """
    rates, _, thresholds = roc_curve(actual, scores, drop_intermediate=False)
    last = np.flatnonzero(rates <= rate)[-1]  # never empty: the first threshold lies above all scores
    if not last:
        return None
    upper, lower = thresholds[last], thresholds[last + 1]
    return max(float(upper + lower) / 2, float(np.nextafter(lower, np.inf)))  # never the score below


@np.errstate(divide="ignore", invalid="ignore")
def weighted_metrics(given: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute each metric on many samples of the same messages at once, (B,); nan where it is undefined.

    The weights say how often each sample contains each message, (B, N).
    """
    one_hot = np.eye(len(given.names))
    labels, predicted = one_hot[given.labels], one_hot[given.predicted]  # (N, K)
    true, claimed, hits = weights @ labels, weights @ predicted, weights @ (labels * predicted)  # (B, K)
    total, right = weights.sum(1), hits.sum(1)
    averaged = true + claimed > 0  # classes that precision, recall and F1 are averages of
    if given.positive is not None:
        averaged[:] = one_hot[given.positive]
    several = (true > 0).sum(1) > 1

    def macro(part: np.ndarray, whole: np.ndarray, averaged: np.ndarray) -> np.ndarray:
        """Average `part / whole` over some of the classes; 0 where `whole` is 0, as in scikit-learn."""
        return np.where(averaged & (whole > 0), part / whole, 0).sum(1) / averaged.sum(1)

    # Matthews correlation of K classes (Gorodkin 2004); 0 if only one class occurs or is predicted.
    margins = (total**2 - (claimed**2).sum(1)) * (total**2 - (true**2).sum(1))
    names = CLASS_METRICS if given.positive is None else CLASS_METRICS + SPAM_METRICS
    values = dict.fromkeys(names, np.full(len(weights), np.nan)) | {
        "accuracy": right / total,
        "balanced_accuracy": np.where(several, macro(hits, true, true > 0), np.nan),
        "precision": macro(hits, claimed, averaged),
        "recall": macro(hits, true, averaged),
        "f1": macro(2 * hits, true + claimed, averaged),
        "mcc": np.where(margins > 0, (right * total - (true * claimed).sum(1)) / np.sqrt(margins), 0),
    }
    if given.positive is not None:
        values["false_positive_rate"] = (claimed - hits)[:, given.positive] / (total - true[:, given.positive])
    if given.probabilities is None:
        return values
    epsilon = np.finfo(np.float64).eps  # scikit-learn's
    chosen = given.probabilities[np.arange(len(given.labels)), given.labels]
    values["log_loss"] = weights @ -np.log(np.clip(chosen, epsilon, 1 - epsilon)) / total
    if given.positive is not None:
        errors = given.scores - given.is_spam
        values["brier"] = weights @ errors**2 / total
        values["ece"] = np.abs(weights @ (np.eye(BINS)[score_bins(given.scores)] * errors[:, None])).sum(1) / total
        ranking = _ranking_metrics(given.is_spam, given.scores, weights)
        values |= {name: np.where(several, value, np.nan) for name, value in ranking.items()}
    return values


def _ranking_metrics(actual: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the metrics that depend on the order of the scores; arguments as for `weighted_metrics`."""
    order = np.argsort(-scores, kind="stable")
    actual, scores, weights = actual[order], scores[order], weights[:, order]
    first = np.flatnonzero(np.append(True, np.diff(scores) != 0))  # thresholds lie between different scores
    messages = np.add.reduceat(weights, first, axis=1)  # at each score, (B, thresholds)
    spam = np.add.reduceat(weights * actual, first, axis=1)
    above, spam_above = messages.cumsum(axis=1), spam.cumsum(axis=1)
    total_spam = spam_above[:, -1]
    total_ham = above[:, -1] - total_spam
    # A spam and a legitimate message with equal scores count half.
    ordered = np.einsum("bt,bt->b", messages - spam, spam_above - spam / 2)
    precisions = np.einsum("bt,bt->b", spam, spam_above / np.maximum(above, 1))
    values = {"roc_auc": ordered / (total_spam * total_ham), "average_precision": precisions / total_spam}
    for name, rate in LOW_RATES.items():
        allowed = above - spam_above <= rate * total_ham[:, None]
        values[name] = np.where(allowed, spam_above, 0).max(1) / total_spam
    return values
