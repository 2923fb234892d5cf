"""Intervals: the vectorized bootstrap matches scikit-learn's metrics, samples groups, and is reproducible."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from hf_spam import SpamMetrics
from hf_spam.evaluation.intervals import RESAMPLES, bootstrap, difference, percentiles, proportions, wilson
from hf_spam.evaluation.metrics import Predictions, weighted_metrics

NAMES = ("not spam", "spam")
# Few different scores, so that many are equal, and how often a sample contains the message.
ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.05, 0.4, 0.5, 0.95, 1.0]), st.integers(0, 3)), min_size=2
)
ROWS_3 = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20)


def spam_predictions(actual, scores, threshold: float = 0.5) -> Predictions:
    actual, scores = np.asarray(actual), np.asarray(scores)
    table = np.stack([1 - scores, scores], -1)
    return Predictions(NAMES, actual.astype(int), (scores > threshold).astype(int), table)


def check_against_messages_written_out(predictions: Predictions, times) -> None:
    """A message with weight two counts like two copies of it."""
    written = np.repeat(np.arange(len(times)), times)
    assume(len(written))
    labels = predictions.labels[written]
    expected = SpamMetrics(predictions.names).compute(
        predictions=predictions.predicted[written], references=labels, scores=predictions.probabilities[written]
    )
    found = weighted_metrics(predictions, np.array([times, np.ones(len(times))], dtype=float))
    assert list(found) == list(expected)
    for name, (value, _) in found.items():
        wanted = np.nan if expected[name] is None else expected[name]
        assert value == pytest.approx(wanted, abs=1e-9, nan_ok=True), name


@settings(max_examples=40)
@given(ROWS)
def test_weighted_metrics_of_two_classes(rows):
    actual, scores, times = map(np.array, zip(*rows, strict=True))
    check_against_messages_written_out(spam_predictions(actual, scores), times)


@settings(max_examples=40)
@given(ROWS_3)
def test_weighted_metrics_of_three_classes(rows):
    labels, predicted, times = map(np.array, zip(*rows, strict=True))
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5]])[predicted]
    check_against_messages_written_out(Predictions(("home", "promo", "work"), labels, predicted, table), times)


def test_wilson_by_hand():
    """5 of 10, by the formula with z = 1.96; the interval keeps a width even for none or all."""
    z = 1.959964
    half = z * np.sqrt(0.25 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert wilson(5, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert wilson(0, 149)[0] == 0 and 0.02 < wilson(0, 149)[1] < 0.03
    assert wilson(0, 0) is None


def test_proportions_by_hand():
    """Two of three spam found, one of four ham flagged."""
    predictions = spam_predictions([1, 1, 1, 0, 0, 0, 0], [0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1])
    expected = {"recall": (2, 3), "false_positive_rate": (1, 4), "precision": (2, 3), "accuracy": (5, 7)}
    assert proportions(predictions) == {name: wilson(*counts) for name, counts in expected.items()}


def test_bootstrap_has_the_known_standard_error():
    """The Brier score is a mean, so its standard error is known; copies of a message in one group do not change it."""
    rng = np.random.default_rng(1)
    scores = rng.random(400)
    actual = rng.random(400) < scores
    errors = (scores - actual) ** 2
    alone = bootstrap(spam_predictions(actual, scores), np.arange(400))
    assert len(alone["brier"]) == RESAMPLES
    assert alone["brier"].std() == pytest.approx(errors.std() / np.sqrt(400), rel=0.1)
    twice = bootstrap(spam_predictions(np.repeat(actual, 2), np.repeat(scores, 2)), np.repeat(np.arange(400), 2))
    assert twice["brier"] == pytest.approx(alone["brier"])
    low, high = percentiles(alone["brier"])
    assert high - low == pytest.approx(2 * 1.96 * errors.std() / np.sqrt(400), rel=0.1)


@pytest.mark.parametrize("size", [7, 3_000])
def test_bootstrap_is_reproducible_whatever_the_batch(size):
    """Few messages take one batch of samples, many take several."""
    rng = np.random.default_rng(1)
    predictions = spam_predictions(rng.random(size) < 0.5, rng.random(size).round(2))
    first, again = (bootstrap(predictions, np.arange(size) % 50) for _ in range(2))
    assert all(len(values) == RESAMPLES for values in first.values())
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)


def test_samples_of_a_single_class_do_not_count():
    samples = bootstrap(spam_predictions([True, False, False], [0.9, 0.2, 0.1]), np.arange(3))
    assert np.isnan(samples["f1"]).any() and percentiles(samples["f1"]) == (1, 1)
    assert percentiles(np.full(3, np.nan)) is None


@pytest.mark.parametrize("shift", [0.0, 1.0, -2.0])
def test_the_p_value_of_a_difference_is_two_sided(shift):
    """If the bootstrap differences are normal, it is that of the normal distribution."""
    samples = np.random.default_rng(0).normal(shift, 1, 20_000)
    first = {"f1": {"value": shift}}, {"f1": samples}
    second = {"f1": {"value": 0.0}}, {"f1": np.zeros_like(samples)}
    found = difference(first, second, "f1")
    assert found["value"] == shift and found["p"] == pytest.approx(2 * norm.sf(abs(shift)), abs=0.02)
    assert found["low"] == pytest.approx(shift - 1.96, abs=0.05)
