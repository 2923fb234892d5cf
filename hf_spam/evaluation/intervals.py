"""How far the metrics of a set of messages may be off by chance: 95 % intervals."""

import numpy as np
from scipy.stats import binomtest

from .metrics import BINS, LOW_RATE, score_bins

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
HOW = (
    f"Intervals are at {LEVEL:.0%}. They are Wilson's for accuracy, precision, recall and the false-positive rate, "
    f"which are parts of a number of messages, and for the others percentiles of {RESAMPLES:,} bootstrap samples, in "
    "which messages that are alike but for case, digits, punctuation and blanks are drawn together. They tell how the "
    "same model might do on other messages of the same kind, not how another run of the training would."
)

Interval = tuple[float, float]


def wilson(count: int, total: int) -> Interval | None:
    """The interval of a part, count / total; None where the total is 0."""
    if total == 0:
        return None
    low, high = binomtest(int(count), int(total)).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def proportions(actual: np.ndarray, predicted: np.ndarray) -> dict[str, Interval | None]:
    """The intervals of the metrics that are parts of a number of messages.

    Args:
        actual: whether each message is spam, (N,) bool.
        predicted: whether it is called spam, (N,) bool.
    """
    hits = (actual & predicted).sum()
    return {
        "accuracy": wilson((actual == predicted).sum(), len(actual)),
        "precision": wilson(hits, predicted.sum()),
        "recall": wilson(hits, actual.sum()),
        "false_positive_rate": wilson((~actual & predicted).sum(), (~actual).sum()),
    }


def bootstrap(
    actual: np.ndarray, predicted: np.ndarray, scores: np.ndarray, groups: np.ndarray
) -> dict[str, np.ndarray]:
    """The other metrics in each of `RESAMPLES` bootstrap samples, (RESAMPLES,); nan where a sample is of one class.

    The samples depend on `groups` alone, so that two models are compared on the same ones.

    Args:
        actual: whether each message is spam, (N,) bool.
        predicted: whether it is called spam, (N,) bool.
        scores: its probability of spam, (N,).
        groups: the number of its group, (N,), from 0 without a gap. Groups are drawn, not messages.
    """
    rng = np.random.default_rng(SEED)
    count = groups.max() + 1
    at_once = max(1, 2**15 // len(actual))  # samples to a step: its tables stay in the cache of the processor
    parts = []
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        parts.append(weighted_metrics(actual, predicted, scores, times[:, groups].astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentiles(values: np.ndarray) -> Interval | None:
    """The interval that `LEVEL` of the bootstrapped values lie in; None where they are not numbers."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


@np.errstate(divide="ignore", invalid="ignore")
def weighted_metrics(
    actual: np.ndarray, predicted: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of many samples of the same messages at once, (B,) each; a thousand calls of scikit-learn take minutes.

    Args:
        actual, predicted, scores: as for `bootstrap`.
        weights: how many times each sample has each message, (B, N).
    """
    order = np.argsort(-scores, kind="stable")
    actual, predicted, scores, weights = actual[order], predicted[order], scores[order], weights[:, order]
    first = np.flatnonzero(np.append(True, np.diff(scores) != 0))  # a threshold lies between scores that differ
    all_steps = np.add.reduceat(weights, first, axis=1)  # (B, thresholds)
    spam_steps = np.add.reduceat(weights * actual, first, axis=1)
    above, above_spam = all_steps.cumsum(axis=1), spam_steps.cumsum(axis=1)
    total, spam = above[:, -1], above_spam[:, -1]
    ham = total - spam
    # A pair of ham and spam of one score is ordered by half.
    ordered = np.einsum("bt,bt->b", all_steps - spam_steps, above_spam - spam_steps / 2)
    precise = np.einsum("bt,bt->b", spam_steps, above_spam / np.maximum(above, 1))
    rate = (above - above_spam) / ham[:, None]

    tp, fp = weights @ (actual & predicted), weights @ (~actual & predicted)
    fn, tn = spam - tp, ham - fp
    # Where a division by zero is asked for, scikit-learn answers 0.
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    mcc = np.where(margins > 0, (tp * tn - fp * fn) / np.sqrt(margins), 0)
    chance = np.clip(scores, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    bins = np.eye(BINS)[score_bins(scores)] * (scores - actual)[:, None]
    of_both = {
        "balanced_accuracy": (tp / spam + tn / ham) / 2,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": mcc,
        "roc_auc": ordered / (spam * ham),
        "average_precision": precise / spam,
        "recall_at_fpr_0.001": np.where(rate <= LOW_RATE, above_spam, 0).max(1) / spam,
    }
    return {name: np.where((spam > 0) & (ham > 0), values, np.nan) for name, values in of_both.items()} | {
        "brier": weights @ (scores - actual) ** 2 / total,
        "log_loss": weights @ -np.log(np.where(actual, chance, 1 - chance)) / total,
        "ece": np.abs(weights @ bins).sum(1) / total,
    }
