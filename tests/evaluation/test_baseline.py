"""The baseline is trained on the training split only and measured like the model."""

import numpy as np
import pytest
from datasets import DatasetDict
from small_reports import NAMES, ROWS, ROWS_3, TRAIN, TRAIN_3, messages, report_of, values_of

from hf_spam import load_sms_spam
from hf_spam.evaluation.baseline import ahead, fit_baseline, measure_baseline, predict_baseline
from hf_spam.evaluation.page import report_tables


def test_baseline_of_the_books_split(sms_collection):
    """97.67 % on the test split, without the metrics that need probabilities."""
    measured = measure_baseline(load_sms_spam(sms_collection, protocol="book"))
    assert measured["test"]["accuracy"] == pytest.approx(293 / 300) and set(measured) == {"validation", "test"}
    assert {measured["test"][name] for name in ("brier", "log_loss", "ece")} == {None}


def test_baseline_of_three_labels_in_a_report():
    data = DatasetDict(train=messages(TRAIN_3, NAMES), test=messages(ROWS_3, NAMES))
    expected = measure_baseline(data)["test"]
    assert expected["f1"] > 0.6 and expected["log_loss"] is None
    test = report_of(ROWS_3, TRAIN_3, NAMES).values["sets"]["test"]
    assert values_of(test["baseline"]) == pytest.approx(expected)
    difference = test["f1_difference"]
    assert difference["value"] == pytest.approx(test["model"]["f1"]["value"] - expected["f1"])
    assert difference["low"] <= difference["value"] <= difference["high"]


@pytest.mark.parametrize("names", [["not spam", "spam"], ["spam", "work"], ["no", "yes"]])
def test_scores_are_those_of_the_positive_class(names):
    """At either index: the scores exceed 0.5 exactly where the positive class is predicted."""
    positive = 0 if names[0] == "spam" else 1
    data = messages([(text, label if positive else 1 - label) for text, label in TRAIN], names)
    given = predict_baseline(fit_baseline(data), data)
    assert np.array_equal(given.predicted == positive, given.scores > 0.5)
    assert given.predicted.tolist() == data["label"][:]


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ([("hello there", 0), ("see you", 0)], "needs samples of at least 2 classes"),
        ([("", 0), ("", 1)], "empty vocabulary"),
        ([], "empty vocabulary"),
    ],
)
def test_no_baseline_is_no_error(train, reason, caplog):
    assert fit_baseline(messages(train)) is None
    assert "No baseline: " in caplog.text and reason in caplog.text
    assert measure_baseline(DatasetDict(train=messages(train), test=messages(TRAIN))) == {}
    values = report_of(ROWS, train).values
    assert values["baseline"] is None and values["sets"]["test"]["baseline"] is None
    assert all(len(set(map(len, [table.columns, *table.rows]))) == 1 for table in report_tables(values) if table.rows)


def test_verdict_names_the_winner_and_the_threshold():
    assert ahead(0.9, 0.8, None) == "the model is ahead of the baseline, F1 0.9000 against 0.8000"
    assert ahead(0.8, 0.9, None) == "the baseline is ahead of the model, F1 0.9000 against 0.8000"
    assert ahead(0.8, 0.8, 0.5).startswith("the model and the baseline are level, F1 0.8000 (the model uses its thresh")
