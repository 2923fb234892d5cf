"""Intervals: the bootstrap has the known standard error, samples groups, and is reproducible."""

import numpy as np
import pytest
from scipy.stats import norm

from hf_spam.data.labels import LABEL_NAMES
from hf_spam.evaluation.intervals import RESAMPLES, bootstrap, difference, percentiles, proportions, wilson
from hf_spam.evaluation.metrics import Predictions, probability_table


def spam_predictions(actual, scores) -> Predictions:
    actual, scores = np.array(actual, dtype=int), np.array(scores)
    return Predictions(tuple(LABEL_NAMES), actual, (scores > 0.5).astype(int), probability_table(scores, positive=1))


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
    """The Brier score is a mean, so its standard error is known; copies of a message in one group do not change it.

    Both use the same samples, drawn in several batches.
    """
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


def test_samples_of_a_single_class_do_not_count():
    samples = bootstrap(spam_predictions([True, False, False], [0.9, 0.2, 0.1]), np.arange(3))
    assert len(samples["f1"]) == RESAMPLES  # few messages take one batch
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
