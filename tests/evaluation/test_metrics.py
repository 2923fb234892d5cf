"""Metrics agree with scikit-learn for two or more classes, and work offline like any metric of `evaluate`."""

import math
import os
from pathlib import Path

import evaluate
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from small_data import MESSAGES

from hf_spam.evaluation.metrics import BINS, LOW_RATES, SpamMetrics, lowest_threshold

ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=30)
NEED_BOTH_LABELS = ("balanced_accuracy", "roc_auc", "average_precision", "recall_at_fpr_0.01", "recall_at_fpr_0.001")


def test_two_classes_by_hand():
    """Two spam and four ham; one of each is misclassified."""
    values = SpamMetrics().compute(
        predictions=[1, 0, 1, 0, 0, 0], references=[1, 1, 0, 0, 0, 0], scores=[0.9, 0.4, 0.6, 0.1, 0.2, 0.3]
    )
    assert values == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": (1 / 2 + 3 / 4) / 2,
            "precision": 1 / 2,
            "recall": 1 / 2,
            "f1": 1 / 2,
            "mcc": 1 / 4,
            "log_loss": -sum(map(math.log, (0.9, 0.4, 0.4, 0.9, 0.8, 0.7))) / 6,
            "roc_auc": 7 / 8,
            "average_precision": (1 + 2 / 3) / 2,
            "recall_at_fpr_0.01": 1 / 2,
            "recall_at_fpr_0.001": 1 / 2,
            "false_positive_rate": 1 / 4,
            "brier": (0.1**2 + 0.6**2 + 0.6**2 + 0.1**2 + 0.2**2 + 0.3**2) / 6,
            "ece": (0.1 + 0.6 + 0.6 + 0.1 + 0.2 + 0.3) / 6,  # each message is in a bin of its own
        }
    )


@settings(max_examples=20)
@given(ROWS)
def test_two_classes_agree_with_scikit_learn(rows):
    actual, scores = [int(spam) for spam, _ in rows], [score for _, score in rows]
    predicted = [int(score > 0.5) for score in scores]
    values = SpamMetrics().compute(predictions=predicted, references=actual, scores=scores)
    for name, expected in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
        assert values[name] == pytest.approx(expected(actual, predicted, zero_division=0)), name
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(actual, predicted))
    if len({*actual, *predicted}) == 2:
        assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(actual, predicted))
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
    edges = np.linspace(0, 1, BINS + 1)
    if not set(scores) & set(edges):  # a score on an edge belongs to the bin above it, in scikit-learn below
        part, mean = calibration_curve(actual, scores, n_bins=BINS)
        counts = np.histogram(scores, edges)[0]
        assert values["ece"] == pytest.approx(np.abs(part - mean) @ counts[counts > 0] / len(scores))


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_more_classes_agree_with_scikit_learn(rows):
    """Precision, recall and F1 are macro averages over the classes that occur."""
    labels, predicted = map(list, zip(*rows, strict=True))
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5]])[predicted]
    macro, one_class = {"average": "macro", "zero_division": 0}, len({*labels, *predicted}) == 1
    recall_of_present = sk.recall_score(labels, predicted, labels=sorted(set(labels)), **macro)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": recall_of_present if len(set(labels)) > 1 else None,
        "precision": sk.precision_score(labels, predicted, **macro),
        "recall": sk.recall_score(labels, predicted, **macro),
        "f1": sk.f1_score(labels, predicted, **macro),
        "mcc": 0 if one_class else sk.matthews_corrcoef(labels, predicted),
        "log_loss": sk.log_loss(labels, table, labels=[0, 1, 2]),
    }
    metric = SpamMetrics(["home", "promo", "work"])
    assert metric.compute(predictions=predicted, references=labels, scores=table) == pytest.approx(expected)
    assert metric.compute(predictions=predicted, references=labels)["log_loss"] is None


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


def test_saved_model_works_with_an_evaluator(tmp_path):
    from hf_spam import finetune, load_sms_spam

    data = load_sms_spam(MESSAGES)
    run = finetune("pocket", data=data, output_dir=tmp_path / "out", max_steps=3, n_embd=16, vocab_size=300)
    values = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=str(tmp_path / "out"),
        data=Dataset.from_list(data["validation"].to_list()),
        metric=SpamMetrics(),
        label_mapping={"not spam": 0, "spam": 1},
    )
    assert values["accuracy"] == pytest.approx(run.metrics["validation"]["accuracy"])


@pytest.mark.parametrize(("predictions", "references"), [([0, 2], [0, 1]), ([0, 1], [-1, 1]), ([], [])])
def test_unknown_classes_and_empty_input_are_refused(predictions, references):
    with pytest.raises(ValueError, match=r"^Expected at least one message and class indices from 0 to 1"):
        SpamMetrics()._compute(predictions, references)


@given(ROWS, st.floats(0, 0.99), st.randoms())
def test_lowest_threshold_within_the_rate(rows, rate, random):
    """Any lower score would flag too much ham; with no threshold, even the highest score does."""
    actual, scores = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < actual.sum() < len(actual))
    threshold = lowest_threshold(actual, scores, rate)
    rates = {score: (scores[~actual] >= score).mean() for score in scores}
    if threshold is None:
        assert rates[scores.max()] > rate
    else:
        assert (scores[~actual] >= threshold).mean() <= rate and (scores >= threshold).any() and 0 < threshold <= 1
        assert all(rates[score] > rate for score in scores if score < threshold)
        assert threshold not in scores  # so that rounding cannot change a prediction
    order = random.sample(range(len(rows)), len(rows))
    assert lowest_threshold(actual[order], scores[order], rate) == threshold
