"""The metrics are scikit-learn's and work as any metric of `evaluate` does, without a network."""

import math
import os
from pathlib import Path

import evaluate
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from hf_spam.evaluation.metrics import BINS, SpamMetrics, lowest_threshold

OF_BOTH_CLASSES = ("balanced_accuracy", "roc_auc", "average_precision", "recall_at_fpr_0.001")
ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=30)


def test_by_hand():
    """Two spam and four ham; one of each is missed."""
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
            "roc_auc": 7 / 8,
            "average_precision": (1 + 2 / 3) / 2,
            "recall_at_fpr_0.001": 1 / 2,
            "false_positive_rate": 1 / 4,
            "brier": (0.1**2 + 0.6**2 + 0.6**2 + 0.1**2 + 0.2**2 + 0.3**2) / 6,
            "log_loss": -sum(map(math.log, (0.9, 0.4, 0.4, 0.9, 0.8, 0.7))) / 6,
            "ece": (0.1 + 0.6 + 0.6 + 0.1 + 0.2 + 0.3) / 6,  # each message is in a bin of its own
        }
    )


@given(ROWS)
def test_parity_with_scikit_learn(rows):
    actual, scores = [int(spam) for spam, _ in rows], [score for _, score in rows]
    predicted = [int(score > 0.5) for score in scores]
    values = SpamMetrics().compute(predictions=predicted, references=actual, scores=scores)
    assert values["f1"] == pytest.approx(sk.f1_score(actual, predicted, zero_division=0))
    assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(actual, predicted))
    if len(set(actual)) == 2:
        assert values["roc_auc"] == pytest.approx(sk.roc_auc_score(actual, scores))
        assert values["false_positive_rate"] == pytest.approx(1 - sk.recall_score(actual, predicted, pos_label=0))
        assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(actual, predicted))
    else:
        assert {values[name] for name in OF_BOTH_CLASSES} == {None}
    assert values["brier"] == pytest.approx(sk.mean_squared_error(actual, scores))
    assert values["log_loss"] == pytest.approx(sk.log_loss(actual, scores, labels=[0, 1]))
    edges = np.linspace(0, 1, BINS + 1)
    if not set(scores) & set(edges):  # an edge is in the bin above it; scikit-learn has it in the one below
        part, mean = calibration_curve(actual, scores, n_bins=BINS)
        counts = np.histogram(scores, edges)[0]
        assert values["ece"] == pytest.approx(np.abs(part - mean) @ counts[counts > 0] / len(scores))


def test_batches_combination_and_evaluator():
    """`add_batch`, `evaluate.combine` and an `Evaluator`, as users of the library combine them."""
    metric = SpamMetrics()
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add_batch(predictions=[0], references=[0])
    values = metric.compute(scores=[0.8, 0.3, 0.1])
    assert values["recall"] == 0.5 and values["roc_auc"] == 1.0
    both = evaluate.combine([SpamMetrics(), SpamMetrics()])
    assert both.compute(predictions=[1], references=[1])["spam_metrics_0_accuracy"] == 1.0


def test_nothing_is_written_to_the_cache():
    SpamMetrics().compute(predictions=[1], references=[0])
    assert not list(Path(os.environ["HF_HOME"]).glob("metrics/**/*.arrow"))


def test_the_evaluator_takes_a_saved_model(tmp_path):
    from hf_spam import finetune, load_sms_spam

    data = load_sms_spam("sample")
    run = finetune("pocket", data=data, output_dir=tmp_path / "out", max_steps=30, n_embd=16, vocab_size=300)
    task = evaluate.evaluator("text-classification")
    rows = data["validation"].to_list()
    values = task.compute(
        model_or_pipeline=str(tmp_path / "out"),
        data=Dataset.from_list(rows),
        metric=SpamMetrics(),
        label_mapping={"not spam": 0, "spam": 1},
    )
    assert values["accuracy"] == pytest.approx(run.metrics["validation"]["accuracy"])


@pytest.mark.parametrize(("predictions", "references"), [([0, 2], [0, 1]), ([0, 1], [-1, 1]), ([], [])])
def test_what_are_no_classes_is_refused(predictions, references):
    """Not counted as ham."""
    with pytest.raises(ValueError, match=r"^Give class indices of one message or more, from 0 to 1"):
        SpamMetrics()._compute(predictions, references)


@given(ROWS, st.floats(0, 0.99), st.randoms())
def test_the_threshold_keeps_the_rate_and_is_the_lowest_that_does(rows, rate, random):
    """From any lower score on, too much ham would be called spam; where none will do, not even the highest does."""
    actual, scores = (np.array(column) for column in zip(*rows, strict=True))
    assume(0 < actual.sum() < len(actual))
    threshold = lowest_threshold(actual, scores, rate)
    rates = {score: (scores[~actual] >= score).mean() for score in scores}
    if threshold is None:
        assert rates[scores.max()] > rate
    else:
        assert (scores[~actual] >= threshold).mean() <= rate and (scores >= threshold).any() and 0 < threshold <= 1
        assert all(rates[score] > rate for score in scores if score < threshold)
        assert threshold not in scores  # so that no rounding can decide
    order = random.sample(range(len(rows)), len(rows))
    assert lowest_threshold(actual[order], scores[order], rate) == threshold
