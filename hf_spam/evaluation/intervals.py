"""95 % confidence intervals of the metrics: Wilson for proportions, a bootstrap over messages for the rest."""

import numpy as np
from scipy.stats import binom, binomtest

from .metrics import Predictions, weighted_metrics

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
ROUNDING = 1e-9  # bootstrap intervals narrower than this are rounding errors
INTERVALS_NOTE = (
    f"{LEVEL:.0%} intervals: Wilson's for proportions (accuracy; with two labels also precision, recall and the "
    f"false-positive rate), percentiles of {RESAMPLES:,} bootstrap samples for the rest, with near-duplicates sampled "
    "together. They cover the choice of test messages, not the randomness of training. There is no interval if all "
    "bootstrap samples agree."
)

Interval = tuple[float, float]
Estimate = dict[str, float | None]
"""A `value` and its interval, `low` to `high`. `None` where the metric is undefined (recall with no spam), or where
there is no interval (all bootstrap samples agree)."""
Measured = tuple[dict[str, Estimate], dict[str, np.ndarray]]
"""Every metric with its interval, and its values on the bootstrap samples, (RESAMPLES,)."""


def estimate(value: float | None, interval: Interval | None = None) -> Estimate:
    """Return a value with its interval, if there is one."""
    low, high = interval if interval and interval[1] - interval[0] > ROUNDING else (None, None)
    return {"value": None if value is None else float(value), "low": low, "high": high}


def estimates(given: Predictions, samples: dict[str, np.ndarray] | None = None) -> dict[str, Estimate]:
    """Compute every metric with its interval: Wilson's for proportions, for the others that of bootstrap samples."""
    intervals = {name: percentiles(sample) for name, sample in (samples or {}).items()} | proportions(given)
    found = {}
    for name, value in given.metrics().items():
        undefined = value is None or intervals.get(name, ()) is None
        found[name] = estimate(None) if undefined else estimate(value, intervals.get(name))
    return found


def measure(given: Predictions, groups: np.ndarray) -> Measured:
    """Return `estimates` and the bootstrap samples behind them; `groups` as for `bootstrap`."""
    samples = bootstrap(given, groups)
    return estimates(given, samples), samples


def difference(first: Measured, second: Measured, metric: str) -> Estimate:
    """Estimate the difference of a metric of two models on the same messages.

    `p` is the two-sided p-value of no difference; the samples are the bootstrap distribution of the difference.
    """
    samples = first[1][metric] - second[1][metric]
    values = first[0][metric]["value"], second[0][metric]["value"]
    found = estimate(None if None in values else values[0] - values[1], percentiles(samples))
    samples = samples[np.isfinite(samples)]
    tail = min((samples <= 0).sum(), (samples >= 0).sum())
    return {**found, "p": min(1.0, 2 * (tail + 1) / (len(samples) + 1))}


def wilson(count: int, total: int) -> Interval | None:
    """Return the Wilson interval of the proportion `count / total`, or `None` if the total is 0."""
    if total == 0:
        return None
    low, high = binomtest(int(count), int(total)).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def allowed_false_alarms(ham: int, rate: float, confidence: float) -> int | None:
    """Return how many of `ham` messages a threshold may call spam to keep a promise; `None` if even 0 is too many.

    The promise: with this confidence over draws of the messages, the threshold's false-positive rate on new messages
    like them is at most `rate`. It holds for any model and any distribution of scores (the umbrella algorithm of Tong,
    Feng and Li 2018, *Neyman-Pearson classification algorithms and NP receiver operating characteristics*).
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
    """Compute each metric on bootstrap samples, (RESAMPLES,); nan in samples of one class if it compares classes.

    Whole groups are drawn, given as the group of each message, (N,), numbered from 0 without gaps. The samples depend
    on them only, so two models are compared on the same ones.
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
    samples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    single = np.isnan(samples["balanced_accuracy"])
    return samples | {name: np.where(single, np.nan, samples[name]) for name in ("precision", "recall", "f1", "mcc")}


def percentiles(values: np.ndarray) -> Interval | None:
    """Return the percentile interval of bootstrapped values, ignoring nan. `None` if nothing is left."""
    values = values[np.isfinite(values)]
    return tuple(np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()) if len(values) else None
