"""95 % confidence intervals of the metrics: Wilson for proportions, a bootstrap over messages for the rest."""

import numpy as np
from scipy.stats import binom, binomtest

from .metrics import BINS, LOW_RATES, Predictions, message_losses, score_bins

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
INTERVALS_NOTE = (
    f"{LEVEL:.0%} intervals: Wilson's for proportions (accuracy; with two labels also precision, recall and the "
    f"false-positive rate), percentiles of {RESAMPLES:,} bootstrap samples for the rest, with near-duplicates sampled "
    "together. They cover the choice of test messages, not the randomness of training. There is no interval if all "
    "bootstrap samples agree."
)

Interval = tuple[float, float]


def wilson(count: int, total: int) -> Interval | None:
    """Return the Wilson interval of the proportion `count / total`, or `None` if the total is 0."""
    if total == 0:
        return None
    low, high = binomtest(int(count), int(total)).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def allowed_false_alarms(ham: int, rate: float, confidence: float) -> int | None:
    """Return how many of `ham` messages a threshold may call spam to keep a promise about new ones.

    The promise: with this confidence over draws of the messages, the threshold's false-positive rate on new messages
    like them is at most `rate`. It holds for any model and any distribution of scores (the umbrella algorithm of Tong,
    Feng and Li 2018, *Neyman-Pearson classification algorithms and NP receiver operating characteristics*).

    Returns:
        The largest such number; `None` if even 0 is too many, because there are fewer messages than `ham_needed`.
    """
    allowed = int(binom.ppf(1 - confidence, ham, rate)) - 1
    return allowed if allowed >= 0 else None


def ham_needed(rate: float, confidence: float) -> int:
    """Return the smallest number of ham messages for which `allowed_false_alarms` is not `None`."""
    return int(np.log(1 - confidence) // np.log1p(-rate)) + 1


def proportions(given: Predictions) -> dict[str, Interval | None]:
    """Return the Wilson intervals of the metrics that are proportions of messages."""
    intervals = {"accuracy": wilson((given.labels == given.predicted).sum(), len(given.labels))}
    if given.positive is not None:
        actual, called = given.is_spam, given.predicted_spam
        hits = (actual & called).sum()
        intervals["precision"] = wilson(hits, called.sum())
        intervals["recall"] = wilson(hits, actual.sum())
        intervals["false_positive_rate"] = wilson((~actual & called).sum(), (~actual).sum())
    return intervals


def bootstrap(given: Predictions, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the metrics on `RESAMPLES` bootstrap samples.

    Whole groups are drawn, given as the group of each message, (N,), numbered from 0 without gaps. The samples depend
    on them only, so two models are compared on the same ones. Returns the values of each metric, (RESAMPLES,).
    """
    rng = np.random.default_rng(SEED)
    count = groups.max() + 1
    batch = max(1, 2**15 // len(groups))  # samples at a time; small enough for the CPU cache
    parts = []
    for start in range(0, RESAMPLES, batch):
        size = min(batch, RESAMPLES - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        parts.append(weighted_metrics(given, times[:, groups].astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentiles(values: np.ndarray) -> Interval | None:
    """Return the percentile interval of bootstrapped values, ignoring nan. `None` if nothing is left."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


@np.errstate(divide="ignore", invalid="ignore")
def weighted_metrics(given: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the metrics of many samples of the same messages at once.

    The weights say how often each sample contains each message, (B, N). Returns each metric, (B,); nan in samples that
    contain a single class, where the metric compares classes.
    """
    classes = np.eye(len(given.names))
    actual, called = classes[given.labels], classes[given.predicted]  # (N, K)
    true, claimed, hits = weights @ actual, weights @ called, weights @ (actual * called)  # (B, K)
    total, right = weights.sum(1), hits.sum(1)
    occurs = true + claimed > 0 if given.positive is None else np.tile(classes[given.positive] > 0, (len(weights), 1))

    def macro(part: np.ndarray, whole: np.ndarray, averaged: np.ndarray) -> np.ndarray:
        """Average `part / whole` over some of the classes; 0 where `whole` is 0, as in scikit-learn."""
        return np.where(averaged & (whole > 0), part / whole, 0).sum(1) / averaged.sum(1)

    # Matthews correlation of K classes (Gorodkin 2004); 0 if only one class occurs or is predicted.
    margins = (total**2 - (claimed**2).sum(1)) * (total**2 - (true**2).sum(1))
    compared = {
        "balanced_accuracy": macro(hits, true, true > 0),
        "precision": macro(hits, claimed, occurs),
        "recall": macro(hits, true, occurs),
        "f1": macro(2 * hits, true + claimed, occurs),
        "mcc": np.where(margins > 0, (right * total - (true * claimed).sum(1)) / np.sqrt(margins), 0),
    }
    values = {"accuracy": right / total}
    if given.probabilities is not None:
        values["log_loss"] = weights @ message_losses(given) / total
        if given.positive is not None:
            errors = given.scores - given.is_spam
            compared |= _ranking_metrics(given.is_spam, given.scores, weights)
            values["brier"] = weights @ errors**2 / total
            values["ece"] = np.abs(weights @ (np.eye(BINS)[score_bins(given.scores)] * errors[:, None])).sum(1) / total
    several = (true > 0).sum(1) > 1
    return {name: np.where(several, value, np.nan) for name, value in compared.items()} | values


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
    found = {
        name: np.where(above - spam_above <= rate * total_ham[:, None], spam_above, 0).max(1) / total_spam
        for name, rate in LOW_RATES.items()
    }
    return {
        "roc_auc": ordered / (total_spam * total_ham),
        "average_precision": precisions / total_spam,
        **found,
    }
