"""Metrics agree with scikit-learn for two or more classes, and work offline like any metric of `evaluate`."""

import os
from dataclasses import replace
from pathlib import Path

import evaluate
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from small_data import MESSAGES

from hf_spam import SpamClassifier
from hf_spam.data.labels import LABEL_NAMES
from hf_spam.data.sources import read_messages
from hf_spam.evaluation.metrics import (
    BINS,
    LOW_RATES,
    Predictions,
    SpamMetrics,
    lowest_threshold,
    probability_table,
    weighted_metrics,
)
from hf_spam.files import BUNDLED

# A label, a score and how often the message occurs. Some scores are equal, and some are on the edges of bins.
SCORE = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.4, 0.45, 0.5, 0.55, 1.0])
ROWS = st.lists(st.tuples(st.booleans(), SCORE, st.integers(0, 3)), min_size=1, max_size=20)
ROWS_3 = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20)
NEED_BOTH_LABELS = ("balanced_accuracy", "roc_auc", "average_precision", "recall_at_fpr_0.01", "recall_at_fpr_0.001")


def written_out(given: Predictions, times: np.ndarray) -> tuple[Predictions, dict[str, float | None]]:
    """Write each message out as often as it occurs, and return the metrics; weighted messages must have the same."""
    rows = np.repeat(np.arange(len(times)), times)
    assume(len(rows))
    written = replace(given, labels=given.labels[rows], predicted=given.predicted[rows])
    written = replace(written, probabilities=given.probabilities[rows])
    values = SpamMetrics(given.names).compute(
        predictions=written.predicted, references=written.labels, scores=written.probabilities
    )
    weighted = weighted_metrics(given, np.array([times, np.ones(len(times))], dtype=float))
    expected = {name: np.nan if value is None else value for name, value in values.items()}
    assert {name: value for name, (value, _) in weighted.items()} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    return written, values


@settings(max_examples=50)
@given(ROWS)
def test_two_classes_agree_with_scikit_learn(rows):
    actual, scores, times = map(np.array, zip(*rows, strict=True))
    table = probability_table(scores, positive=1)
    given = Predictions(tuple(LABEL_NAMES), actual.astype(int), (scores > 0.5).astype(int), table)
    given, values = written_out(given, times)
    actual, predicted, scores = given.labels, given.predicted, given.scores
    for name, expected in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
        assert values[name] == pytest.approx(expected(actual, predicted, zero_division=0)), name
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(actual, predicted))
    assert values["mcc"] == (pytest.approx(sk.matthews_corrcoef(actual, predicted)) if len(actual) > 1 else 0)
    if len(set(actual)) == 2:
        assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(actual, scores))
        assert values["average_precision"] == pytest.approx(sk.average_precision_score(actual, scores))
        rates, recalls, _ = sk.roc_curve(actual, scores, drop_intermediate=False)
        for name, rate in LOW_RATES.items():
            assert values[name] == pytest.approx(recalls[rates <= rate].max()), name
        assert values["false_positive_rate"] == pytest.approx(1 - sk.recall_score(actual, predicted, pos_label=0))
        assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(actual, predicted))
    else:
        assert {values[name] for name in NEED_BOTH_LABELS} == {None}
    assert values["brier"] == pytest.approx(sk.mean_squared_error(actual, scores))
    assert values["log_loss"] == pytest.approx(sk.log_loss(actual, scores, labels=[0, 1]))
    errors = [0.0] * BINS  # scikit-learn has no calibration error
    for spam, score in zip(actual, scores, strict=True):
        errors[min(int(score * BINS), BINS - 1)] += score - spam
    assert values["ece"] == pytest.approx(sum(map(abs, errors)) / len(scores))


@settings(max_examples=40)
@given(ROWS_3)
def test_more_classes_agree_with_scikit_learn(rows):
    """Precision, recall and F1 are macro averages over the classes that occur."""
    labels, predicted, times = map(np.array, zip(*rows, strict=True))
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5]])[predicted]
    given, values = written_out(Predictions(("home", "promo", "work"), labels, predicted, table), times)
    labels, predicted, table = given.labels, given.predicted, given.probabilities
    macro, one_class = {"average": "macro", "zero_division": 0}, len({*labels, *predicted}) == 1
    recall_of_present = sk.recall_score(labels, predicted, labels=sorted(set(labels)), **macro)
    assert values == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, predicted),
            "balanced_accuracy": recall_of_present if len(set(labels)) > 1 else None,
            "precision": sk.precision_score(labels, predicted, **macro),
            "recall": sk.recall_score(labels, predicted, **macro),
            "f1": sk.f1_score(labels, predicted, **macro),
            "mcc": 0 if one_class else sk.matthews_corrcoef(labels, predicted),
            "log_loss": sk.log_loss(labels, table, labels=[0, 1, 2]),
        }
    )


def test_positive_class_is_the_one_named_spam_or_the_second():
    actual, predicted, spam = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.array([0.9, 0.2, 0.1, 0.3])
    usual = SpamMetrics().compute(predictions=predicted, references=actual, scores=spam)
    table = np.stack([1 - spam, spam], -1)
    assert SpamMetrics(["no", "yes"]).compute(predictions=predicted, references=actual, scores=table) == usual
    turned = SpamMetrics(["spam", "work"])
    assert turned.compute(predictions=1 - predicted, references=1 - actual, scores=table[:, ::-1]) == usual
    assert turned.compute(predictions=1 - predicted, references=1 - actual, scores=spam) == usual


def test_batches_and_combination_without_a_cache_file():
    metric = SpamMetrics()
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add_batch(predictions=[0], references=[0])
    values = metric.compute(scores=[0.8, 0.3, 0.1])
    assert values["recall"] == 0.5 and values["roc_auc"] == 1.0
    both = evaluate.combine([SpamMetrics(), SpamMetrics()])
    assert both.compute(predictions=[1], references=[1])["spam_metrics_0_accuracy"] == 1.0
    assert not list(Path(os.environ["HF_HOME"]).glob("metrics/**/*.arrow"))


def test_a_model_works_with_an_evaluator():
    """Which chooses the likeliest label, without the threshold."""
    texts, labels = read_messages(MESSAGES)["text"][:40], [i % 2 for i in range(40)]
    predicted = SpamClassifier.from_pretrained().predict_proba(texts).argmax(1)
    values = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=str(BUNDLED),
        data=Dataset.from_dict({"text": texts, "label": labels}),
        metric=SpamMetrics(),
        label_mapping={"not spam": 0, "spam": 1},
    )
    expected = SpamMetrics().compute(predictions=predicted, references=labels)
    assert {name: values[name] for name in expected} == expected and 0 < expected["f1"] < 1


@pytest.mark.parametrize(("predictions", "references"), [([0, 2], [0, 1]), ([0, 1], [-1, 1]), ([], [])])
def test_unknown_classes_and_empty_input_are_refused(predictions, references):
    with pytest.raises(ValueError, match=r"^Expected at least one message and class indices from 0 to 1"):
        SpamMetrics()._compute(predictions, references)


def test_the_lowest_threshold_is_above_a_score_next_to_it():
    """Half the sum of neighbouring numbers can be the lower one."""
    for low in np.random.default_rng(0).uniform(0.5, 1, 200):
        scores = np.array([low, np.nextafter(low, 1)])
        assert lowest_threshold(np.array([False, True]), scores, 0.0) == scores[1]


@given(ROWS, st.floats(0, 0.99), st.randoms())
def test_lowest_threshold_within_the_rate(rows, rate, random):
    """Any lower score would flag too much ham; with no threshold, even the highest score does."""
    actual, scores, _ = map(np.array, zip(*rows, strict=True))
    assume(0 < actual.sum() < len(actual))
    threshold = lowest_threshold(actual, scores, rate)
    rates = {score: (scores[~actual] >= score).mean() for score in scores}
    if threshold is None:
        assert rates[scores.max()] > rate
    else:
        assert (scores[~actual] >= threshold).mean() <= rate and (scores >= threshold).any() and 0 < threshold <= 1
        assert all(rates[score] > rate for score in scores if score < threshold)
        # Between two scores, so that rounding cannot change a prediction, unless there is no number between them.
        assert threshold not in scores or np.nextafter(threshold, 0) in scores
    order = random.sample(range(len(rows)), len(rows))
    assert lowest_threshold(actual[order], scores[order], rate) == threshold
