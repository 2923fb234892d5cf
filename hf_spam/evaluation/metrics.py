"""The metrics of a spam filter as an `evaluate.Metric` that needs no network."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from sklearn import metrics

from ..data.labels import LABEL_NAMES
from ..modeling.configuration_spam_gpt import spam_index

LOW_RATE = 0.001  # a false-positive rate that a person may live with: one honest message in a thousand is lost
BINS = 10  # of equal width, over the scores, for the calibration error
PROBABILISTIC = ("brier", "log_loss", "ece")  # metrics that ask more of scores than their order


class SpamMetrics(evaluate.Metric):
    """What a spam filter is measured by, from the accuracy to the calibration error.

    Spam (label 1) is the positive class. Used as any metric of `evaluate`, `add_batch` and `combine` included:

        SpamMetrics().compute(predictions=[1, 0], references=[1, 0], scores=[0.9, 0.2])

    `predictions` and `references` are class indices; `scores`, an option of `compute`, the probabilities of spam of
    all of them, (N,), or those of each class, (N, K). The values are those of scikit-learn: `accuracy`,
    `balanced_accuracy`, `precision`, `recall`, `f1`, `mcc` (Matthews correlation), `roc_auc`, `average_precision`,
    `recall_at_fpr_0.001` (the highest at a score for which no more than one ham in a thousand is called spam),
    `false_positive_rate`, `brier`, `log_loss`, and `ece`, the expected calibration error: the mean, over ten bins of
    equal width and weighted by their messages, of the distance between the mean score and the part that is spam.

    Without `scores` all that is computed from them is None. Where the messages are all of one class, so are
    `balanced_accuracy` and what depends on the order of the scores, and the `false_positive_rate` where nothing is ham.
    Precision, recall and F1 are 0 where nothing is, or is called, spam.

    Of two other classes the positive one is that named "spam", or the second. Of more than two there are `accuracy`,
    `balanced_accuracy`, `precision`, `recall` and `f1`, which are then the plain means over the classes that occur,
    `mcc` and `log_loss`.

    Args:
        names: of the classes, in the order of their indices.
    """

    def __init__(self, names: Sequence[str] = LABEL_NAMES, **kwargs):
        super().__init__(**{"keep_in_memory": True, **kwargs})  # no cache file is written
        self.names = list(names)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions, references: class indices. scores: probabilities of spam (optional).",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, scores=None) -> dict[str, float | None]:
        if not len(references) or not {*predictions, *references} <= set(range(len(self.names))):
            raise ValueError(f"Give class indices of one message or more, from 0 to {len(self.names) - 1}.")
        if len(self.names) > 2:
            return self._of_several(np.asarray(predictions), np.asarray(references), scores)
        positive = spam_index(self.names)
        predicted = np.asarray(predictions) == positive
        actual = np.asarray(references) == positive
        if np.ndim(scores) == 2:
            scores = np.asarray(scores)[:, positive]
        ham = ~actual
        both = 0 < actual.sum() < len(actual)
        one_class = len({*actual, *predicted}) == 1  # scikit-learn warns of it, and answers 0
        values = {
            "accuracy": metrics.accuracy_score(actual, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(actual, predicted) if both else None,
            "precision": metrics.precision_score(actual, predicted, zero_division=0),
            "recall": metrics.recall_score(actual, predicted, zero_division=0),
            "f1": metrics.f1_score(actual, predicted, zero_division=0),
            "mcc": 0.0 if one_class else metrics.matthews_corrcoef(actual, predicted),
            "roc_auc": None,
            "average_precision": None,
            "recall_at_fpr_0.001": None,
            "false_positive_rate": predicted[ham].mean() if ham.any() else None,
            "brier": None,
            "log_loss": None,
            "ece": None,
        }
        if scores is not None and both:
            values["roc_auc"] = metrics.roc_auc_score(actual, scores)
            values["average_precision"] = metrics.average_precision_score(actual, scores)
            rates, recalls, _ = metrics.roc_curve(actual, scores, drop_intermediate=False)
            values["recall_at_fpr_0.001"] = recalls[rates <= LOW_RATE].max()
        if scores is not None:
            scores = np.asarray(scores, dtype=np.float64)
            values["brier"] = metrics.brier_score_loss(actual, scores, pos_label=True)
            values["log_loss"] = metrics.log_loss(actual, scores, labels=[False, True])
            values["ece"] = np.abs(np.bincount(score_bins(scores), scores - actual)).sum() / len(actual)
        return {name: None if value is None else float(value) for name, value in values.items()}

    def _of_several(self, predicted: np.ndarray, actual: np.ndarray, scores) -> dict[str, float | None]:
        mean = {"average": "macro", "zero_division": 0}
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(actual, predicted, **mean)
        values = {
            "accuracy": metrics.accuracy_score(actual, predicted),
            # Not `balanced_accuracy_score`, which is the same, but warns where a class that is not there is predicted.
            "balanced_accuracy": metrics.recall_score(actual, predicted, labels=np.unique(actual), **mean),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "mcc": 0.0 if len({*actual, *predicted}) == 1 else metrics.matthews_corrcoef(actual, predicted),
            "log_loss": None,
        }
        if scores is not None:
            chances = np.asarray(scores, dtype=np.float64)[np.arange(len(actual)), actual]
            values["log_loss"] = -np.log(clipped(chances)).mean()
        return {name: None if value is None else float(value) for name, value in values.items()}


def clipped(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities whose logarithm is a number, as scikit-learn has it."""
    return np.clip(probabilities, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)


def lowest_threshold(actual: np.ndarray, scores: np.ndarray, rate: float) -> float | None:
    """The score from which on messages may be called spam, so that of the ham no more than a part is.

    Of the scores for which that holds it is the lowest, or rather the middle between it and the next one below: so
    neither rounding nor the last digit of a score decides.

    Args:
        actual: whether each message is spam, (N,) bool; both kinds are among them.
        scores: their probabilities of spam, (N,), in float64.
        rate: the part of the ham that may be called spam, from 0 to below 1.

    Returns:
        None where even the highest score is that of too many ham.
    """
    rates, _, thresholds = metrics.roc_curve(actual, scores, drop_intermediate=False)
    last = np.flatnonzero(rates <= rate)[-1]  # the first, above all scores, always is among them
    return float(thresholds[last] + thresholds[last + 1]) / 2 if last else None


def filled_bins(scores: np.ndarray, hits: np.ndarray) -> list[tuple[int, int, int, float]]:
    """Of each bin that a score is in: its number, how many are, how many of these are hits, and their mean.

    Args:
        scores: of the messages, (N,).
        hits: whether each is what its score is for, (N,) bool.
    """
    bins = score_bins(scores)
    chosen = ((int(number), bins == number) for number in np.unique(bins))
    return [(number, int(at.sum()), int(hits[at].sum()), float(scores[at].mean())) for number, at in chosen]


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The number of the bin of each score, 0 to `BINS` - 1; a score on an edge belongs to the bin above it."""
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)
