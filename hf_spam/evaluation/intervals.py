"""How far the metrics of a set of messages may be off by chance: 95 % intervals."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest

from .metrics import BINS, LOW_RATE, clipped, score_bins

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
_SAMPLED = (
    f"percentiles of {RESAMPLES:,} bootstrap samples, in which messages that are alike but for case, digits, "
    "punctuation and blanks are drawn together. They tell how the same model might do on other messages of the same "
    "kind, not how another run of the training would. Where all samples agree, they tell nothing, and there is none."
)
HOW = (
    f"Intervals are at {LEVEL:.0%}. They are Wilson's for accuracy, precision, recall and the false-positive rate, "
    f"which are parts of a number of messages, and for the others {_SAMPLED}"
)
HOW_OF_SEVERAL = (
    "Precision, recall and F1 are plain means over the classes. Intervals are at "
    f"{LEVEL:.0%}. They are Wilson's for accuracy, and for the others {_SAMPLED}"
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
    parts = [weighted_metrics(actual, predicted, scores, weights) for weights in _samples(groups)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def bootstrap_classes(
    actual: np.ndarray, predicted: np.ndarray, scores: np.ndarray | None, groups: np.ndarray
) -> dict[str, np.ndarray]:
    """The same for more than two classes, of which `actual` and `predicted` are the indices, (N,).

    Args:
        actual, predicted, groups: as for `bootstrap`.
        scores: the probability of each class, (N, K). None: there is no `log_loss`.
    """
    parts = [weighted_class_metrics(actual, predicted, scores, weights) for weights in _samples(groups)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _samples(groups: np.ndarray) -> Iterator[np.ndarray]:
    """How many times each sample has each message, some samples at a time, (B, N)."""
    rng = np.random.default_rng(SEED)
    count = groups.max() + 1
    at_once = max(1, 2**15 // len(groups))  # samples to a step: its tables stay in the cache of the processor
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield times[:, groups].astype(np.float64)


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
    chance = clipped(scores)
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


@np.errstate(divide="ignore", invalid="ignore")
def weighted_class_metrics(
    actual: np.ndarray, predicted: np.ndarray, scores: np.ndarray | None, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of many samples of the same messages of several classes, (B,) each.

    Args:
        actual, predicted, scores: as for `bootstrap_classes`.
        weights: how many times each sample has each message, (B, N).
    """
    size, classes = len(actual), max(actual.max(), predicted.max()) + 1

    def counts(members: np.ndarray, labels: np.ndarray) -> np.ndarray:  # (B, K)
        table = (np.ones(len(members)), (labels[members], members))
        return (csr_array(table, shape=(classes, size)) @ weights.T).T

    there, called = counts(np.arange(size), actual), counts(np.arange(size), predicted)
    hits = counts(np.flatnonzero(actual == predicted), actual)
    total, right = weights.sum(1), hits.sum(1)
    occurs = (there > 0) | (called > 0)
    recall = np.where(there > 0, hits / there, 0)

    def mean(values: np.ndarray, over: np.ndarray) -> np.ndarray:
        return (values * over).sum(1) / over.sum(1)

    # As scikit-learn has it: Gorodkin 2004, and 0 where all is, or is called, one class.
    squares = (total**2 - (called**2).sum(1)) * (total**2 - (there**2).sum(1))
    mcc = np.where(squares > 0, (right * total - (there * called).sum(1)) / np.sqrt(squares), 0)
    values = {
        "balanced_accuracy": mean(recall, there > 0),
        "precision": mean(np.where(called > 0, hits / called, 0), occurs),
        "recall": mean(recall, occurs),
        "f1": mean(np.where(occurs, 2 * hits / (there + called), 0), occurs),
        "mcc": mcc,
    }
    if scores is not None:
        values["log_loss"] = weights @ -np.log(clipped(scores[np.arange(size), actual])) / total
    return values
