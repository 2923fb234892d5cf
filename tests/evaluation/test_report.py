"""The numbers in a report are correct, including duplicates of training messages, for two labels and for more."""

import json

import pytest
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from small_reports import HOME, NAMES, PROMO, ROWS, ROWS_3, TRAIN, TRAIN_3, messages, report_of, scorer, values_of

from hf_spam.evaluation.eval_data import EvalData
from hf_spam.evaluation.figures import report_figures
from hf_spam.evaluation.page import headline, report_tables
from hf_spam.evaluation.report import make_report


def test_two_labels_by_hand():
    """Confusion, thresholds, duplicates, lengths, errors and calibration of eight messages."""
    values = report_of(ROWS, TRAIN).values
    details, test = values["details"], values["sets"]["test"]
    assert details["confusion"] == {"spam": {"spam": 2, "not spam": 1}, "not spam": {"spam": 1, "not spam": 4}}
    assert [(row["threshold"], row["false_alarms"], row["missed"]) for row in details["thresholds"]] == [
        (None, 1, 1),
        *[(pytest.approx(0.8), 0, 1)] * 3,  # halfway between the lowest sufficient score and the ham below it
    ]
    assert values["duplicates"] == {"test": {"exact": 2, "near": 3}}
    assert [(row["part"], row["messages"], row["missed"], row["false_alarms"]) for row in details["by_length"]] == [
        ("0 to 40", 7, 0, 1),
        ("161 or more", 1, 1, 0),
    ]
    assert [(error["text"], error["label"], error["score"], error["in_training"]) for error in details["errors"]] == [
        ("free ringtone " * 12, "spam", pytest.approx(0.3), "no"),
        ("lunch?", "not spam", pytest.approx(0.7), "no"),
    ]
    assert (test["messages"], test["without_exact"]["messages"], test["without_near"]["messages"]) == (8, 6, 5)
    assert test["model"]["recall"]["value"] == pytest.approx(2 / 3)
    for part, rows in (("without_exact", [1, 2, 4, 5, 6, 7]), ("without_near", [2, 4, 5, 6, 7])):
        assert test[part]["model"] == report_of([ROWS[i] for i in rows]).values["sets"]["test"]["model"]
    filled = [(row["messages"], round(row["spam"]["value"], 2)) for row in details["calibration"]]
    assert filled == [(2, 0), (1, 0), (1, 0), (1, 1), (1, 0), (1, 1), (1, 1)]
    assert report_of(ROWS).values["duplicates"] == {}  # training messages unknown
    only = report_of(ROWS[:2], TRAIN).values["sets"]["test"]  # an exact duplicate, and a near one
    assert only["without_exact"]["messages"] == 1 and only["without_near"] is None


def test_scores_that_only_rank_have_no_calibration():
    report = report_of(ROWS, TRAIN, only_ranks=True)
    assert "calibration" not in report.values["details"]
    assert not any("BINS" in text or "too high" in text for _, text in report_figures(report))
    (errors,) = (table for table in report_tables(report.values) if "only ranks the messages" in table.note)
    assert errors.rows


def test_three_labels_by_hand():
    """The same, without the parts that need a positive label."""
    values = report_of(ROWS_3, TRAIN_3, NAMES).values
    details, test = values["details"], values["sets"]["test"]
    assert details["confusion"] == {
        "home": {"home": 2, "promo": 0, "work": 0},
        "promo": {"home": 0, "promo": 1, "work": 0},
        "work": {"home": 1, "promo": 1, "work": 0},
    }
    assert [(error["text"], error["label"], error["predicted"], error["score"]) for error in details["errors"]] == [
        ("meeting at ten", "work", "promo", pytest.approx(0.7)),
        ("meeting with mum", "work", "home", pytest.approx(0.6)),
    ]
    assert [(row["part"], row["messages"], row["wrong"]) for row in details["by_length"]] == [
        ("0 to 40", 4, 2),
        ("41 to 80", 1, 0),
    ]
    assert list(test["model"]) == ["accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "log_loss"]
    assert test["model"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert test["model"]["f1"]["low"] < test["model"]["f1"]["value"] < test["model"]["f1"]["high"]
    assert test["without_near"]["messages"] == 3 and "spam" not in test
    assert values["positive_label"] is None and not {"thresholds", "calibration"} & set(details)


@pytest.mark.parametrize(("threshold", "alarms", "missed"), [(0.15, 2, 0), (0.8, 0, 1), (0.95, 0, 2)])
def test_a_models_own_threshold(threshold, alarms, missed):
    """It changes all counts of predicted labels, but not the scores and their order."""
    plain, values = report_of(ROWS, TRAIN).values, report_of(ROWS, TRAIN, threshold=threshold).values
    details, test = values["details"], values["sets"]["test"]
    assert details["confusion"] == {
        "spam": {"spam": 3 - missed, "not spam": missed},
        "not spam": {"spam": alarms, "not spam": 5 - alarms},
    }
    assert details["thresholds"][0]["threshold"] == values["threshold"] == threshold
    assert details["thresholds"][1:] == plain["details"]["thresholds"][1:]
    assert len(details["errors"]) == alarms + missed
    assert test["model"]["accuracy"]["value"] == pytest.approx(1 - (alarms + missed) / 8)
    assert test["model"]["roc_auc"] == plain["sets"]["test"]["model"]["roc_auc"]
    assert test["baseline"] == plain["sets"]["test"]["baseline"]


def test_no_interval_if_all_samples_agree():
    """Without errors, no bootstrap sample has any, which proves nothing; Wilson's intervals remain."""
    rows = [("win now", 1, 0.9), ("win here", 1, 0.8), ("hello", 0, 0.2), ("good night", 0, 0.1)]
    model = report_of(rows, TRAIN).values["sets"]["test"]["model"]
    for name in ("f1", "mcc", "balanced_accuracy", "roc_auc", "recall_at_fpr_0.01", "recall_at_fpr_0.001"):
        assert model[name] == {"value": 1.0, "low": None, "high": None}
    assert model["recall"]["low"] < 0.5 and model["accuracy"]["low"] < 0.6 and model["brier"]["low"] is not None


@pytest.mark.parametrize(
    ("label", "defined"),
    [(0, {"accuracy", "false_positive_rate", "precision"}), (1, {"accuracy", "recall", "precision"})],
)
def test_messages_of_a_single_label(label, defined):
    """Metrics that compare the labels are undefined."""
    rows = [(text, label, 0.9 if i else 0.2) for i, (text, _, _) in enumerate(ROWS)]
    values = report_of(rows, TRAIN).values
    found = {name for name, value in values_of(values["sets"]["test"]["model"]).items() if value is not None}
    assert found == defined | {"brier", "log_loss", "ece"}
    assert len(values["details"]["thresholds"]) == 1


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_any_three_label_predictions_can_be_reported(rows):
    """A single label, a label never predicted, all predictions wrong: no exception, and no nan in the JSON."""
    answers = [HOME, PROMO, [0.25, 0.25, 0.5]]
    rows = [(f"text {chr(97 + i)}", label, answers[called]) for i, (label, called) in enumerate(rows)]
    values = report_of(rows, TRAIN_3, NAMES).values
    json.dumps(values, allow_nan=False)
    assert report_tables(values) and headline(values)
    assert sum(sum(called.values()) for called in values["details"]["confusion"].values()) == len(rows)


def test_spam_against_the_rest():
    """A model with "spam" among several labels can be evaluated on messages labelled spam and not spam."""
    model = scorer({"a": [0.33, 0.22, 0.45], "b": [0.42, 0.28, 0.3]}, ["ham", "ad", "Spam"])
    data = EvalData(DatasetDict(test=messages([("a", 1), ("b", 0)])), "", None, "")
    test = make_report(model, data).values["sets"]["test"]["model"]
    assert test["accuracy"]["value"] == 1  # 0.45 is the highest of three, though below one half
    assert test["brier"]["value"] == pytest.approx((0.55**2 + 0.3**2) / 2)
