"""Intervals: the fast bootstrap computes scikit-learn's metrics, and draws what it says that it draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_spam import SpamMetrics
from hf_spam.evaluation.intervals import RESAMPLES, bootstrap, percentiles, proportions, weighted_metrics, wilson

# Scores of which many are equal, and a weight: how often a sample has the message.
ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.05, 0.4, 0.5, 0.95, 1.0]), st.integers(0, 3)), min_size=2
)


@given(ROWS)
def test_weighted_metrics_are_those_of_the_messages_written_out(rows):
    """A sample that has a message twice has the metrics that scikit-learn finds for it written down twice."""
    actual, scores, times = map(np.array, zip(*rows, strict=True))
    if not times.any():
        return
    written = np.repeat(np.arange(len(rows)), times)
    expected = SpamMetrics().compute(
        predictions=(scores > 0.5).astype(int)[written],
        references=actual.astype(int)[written],
        scores=scores[written].tolist(),
    )
    found = weighted_metrics(actual, scores > 0.5, scores, np.array([times, np.ones(len(rows))], dtype=float))
    both = len(set(actual[written])) == 2
    for name, (value, _) in found.items():
        if both or name in ("brier", "log_loss", "ece"):
            assert value == pytest.approx(expected[name], abs=1e-9), name
        else:
            assert np.isnan(value), name


def test_wilson_by_hand():
    """5 of 10, as the formula has it with z = 1.96; and no certainty where all or nothing was found."""
    z = 1.959964
    half = z * np.sqrt(0.25 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert wilson(5, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert wilson(0, 149)[0] == 0 and 0.02 < wilson(0, 149)[1] < 0.03
    assert wilson(0, 0) is None


def test_which_part_of_what():
    """Two spam of three found, one of four ham lost: of 3, of 4, of 3 and of 7."""
    actual, predicted = np.array([1, 1, 1, 0, 0, 0, 0]) == 1, np.array([1, 1, 0, 1, 0, 0, 0]) == 1
    expected = {"recall": (2, 3), "false_positive_rate": (1, 4), "precision": (2, 3), "accuracy": (5, 7)}
    assert proportions(actual, predicted) == {name: wilson(*part) for name, part in expected.items()}


def test_the_bootstrap_spreads_as_the_theory_says():
    """The Brier score is a mean: its standard error is known. Where groups are drawn, it is that of their number."""
    rng = np.random.default_rng(1)
    scores = rng.random(400)
    actual = rng.random(400) < scores
    errors = (scores - actual) ** 2
    alone = bootstrap(actual, scores > 0.5, scores, np.arange(400))
    assert len(alone["brier"]) == RESAMPLES
    assert alone["brier"].std() == pytest.approx(errors.std() / np.sqrt(400), rel=0.1)
    twice = bootstrap(*(np.repeat(each, 2) for each in (actual, scores > 0.5, scores, np.arange(400))))
    assert twice["brier"] == pytest.approx(alone["brier"])  # copies of messages make nothing surer
    low, high = percentiles(alone["brier"])
    assert high - low == pytest.approx(2 * 1.96 * errors.std() / np.sqrt(400), rel=0.1)


@pytest.mark.parametrize("size", [7, 3_000])
def test_the_bootstrap_is_the_same_again_whatever_fits_into_a_step(size):
    """Few messages are one step, many are many: the same number of samples, and the same ones every time."""
    rng = np.random.default_rng(1)
    actual, scores = rng.random(size) < 0.5, rng.random(size).round(2)
    first, again = (bootstrap(actual, scores > 0.5, scores, np.arange(size) % 50) for _ in range(2))
    assert all(len(values) == RESAMPLES for values in first.values())
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)


def test_samples_of_one_class_do_not_count():
    """Of one spam among few ham, many samples have none: what compares the classes is told from the others."""
    actual, scores = np.array([True, False, False]), np.array([0.9, 0.2, 0.1])
    samples = bootstrap(actual, scores > 0.5, scores, np.arange(3))
    assert np.isnan(samples["f1"]).any() and percentiles(samples["f1"]) == (1, 1)
    assert percentiles(np.full(3, np.nan)) is None
