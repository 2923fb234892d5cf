"""More than two labels, and two of other names: metrics and intervals are scikit-learn's, the report is right."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hf_spam import SpamMetrics
from hf_spam.data.formats import DataError
from hf_spam.data.labels import features_of
from hf_spam.evaluation import class_figures as module
from hf_spam.evaluation.baseline import measure_baseline
from hf_spam.evaluation.class_figures import class_figures
from hf_spam.evaluation.eval_data import Evaluated
from hf_spam.evaluation.intervals import bootstrap_classes, weighted_class_metrics
from hf_spam.evaluation.page import TEMPLATE, headline, render_page, report_tables
from hf_spam.evaluation.report import Answers, make_report
from hf_spam.evaluation.report_figures import COLOURS

NAMES = ["home", "promo", "work"]
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20)


def probabilities(predicted) -> np.ndarray:
    """Of which the predicted class has the highest, unequal ones."""
    table = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5]])
    return table[np.asarray(predicted)]


@settings(max_examples=40)
@given(ROWS)
def test_parity_with_scikit_learn(rows):
    """Means over the classes that occur; the fast bootstrap has the same of messages that are written out."""
    actual, predicted, times = map(np.array, zip(*rows, strict=True))
    found = SpamMetrics(NAMES).compute(predictions=predicted, references=actual, scores=probabilities(predicted))
    weights = np.array([np.ones(len(rows)), times])
    fast = weighted_class_metrics(actual, predicted, probabilities(predicted), weights)
    for row, written in enumerate((np.arange(len(rows)), np.repeat(np.arange(len(rows)), times))):
        if not len(written):
            continue
        y, p = actual[written], predicted[written]
        there = sorted(set(y.tolist()))
        one = len({*y.tolist(), *p.tolist()}) == 1
        expected = {
            "balanced_accuracy": sk.recall_score(y, p, labels=there, average="macro", zero_division=0),
            "precision": sk.precision_score(y, p, average="macro", zero_division=0),
            "recall": sk.recall_score(y, p, average="macro", zero_division=0),
            "f1": sk.f1_score(y, p, average="macro", zero_division=0),
            "mcc": 0 if one else sk.matthews_corrcoef(y, p),
            "log_loss": sk.log_loss(y, probabilities(p), labels=[0, 1, 2]),
        }
        assert {name: values[row] for name, values in fast.items()} == pytest.approx(expected, abs=1e-9)
        if row == 0:
            assert found == pytest.approx({"accuracy": sk.accuracy_score(y, p), **expected})
    assert SpamMetrics(NAMES).compute(predictions=predicted, references=actual)["log_loss"] is None


def test_the_positive_one_of_two_labels():
    """The one named spam, wherever it stands; else the second. Scores may be those of both."""
    actual, predicted, spam = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.array([0.9, 0.2, 0.1, 0.3])
    usual = SpamMetrics().compute(predictions=predicted, references=actual, scores=spam)
    both = np.stack([1 - spam, spam], -1)
    assert SpamMetrics(["no", "yes"]).compute(predictions=predicted, references=actual, scores=both) == usual
    turned = SpamMetrics(["spam", "work"])
    assert turned.compute(predictions=1 - predicted, references=1 - actual, scores=both[:, ::-1]) == usual


def test_the_bootstrap_is_the_same_again_and_draws_groups():
    rng = np.random.default_rng(1)
    actual = rng.integers(0, 3, 60)
    predicted = np.where(rng.random(60) < 0.8, actual, rng.integers(0, 3, 60))
    alone = bootstrap_classes(actual, predicted, None, np.arange(60))
    assert (
        all(
            np.array_equal(alone[name], again)
            for name, again in bootstrap_classes(actual, predicted, None, np.arange(60)).items()
        )
        and "log_loss" not in alone
    )
    twice = bootstrap_classes(*(np.repeat(each, 2) for each in (actual, predicted)), None, np.repeat(np.arange(60), 2))
    assert all(np.allclose(alone[name], twice[name]) for name in alone)
    assert 0.03 < alone["f1"].std() < 0.1


# The report


class Scorer:
    """A classifier that knows what it calls each text."""

    def __init__(self, called: dict[str, int], names=NAMES):
        self.called, self.model = called, SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(names))))

    def probabilities(self, texts, *, progress=False):
        return torch.tensor(probabilities([self.called[text] for text in texts]))[:, : len(self.model.config.id2label)]


def messages(rows, names=NAMES) -> Dataset:
    texts, labels = zip(*rows, strict=True)
    return Dataset.from_dict({"text": list(texts), "label": list(labels)}, features=features_of(names))


TRAIN = [("kiss mum", 0), ("love mum", 0), ("sale now", 1), ("sale today", 1), ("meeting at nine", 2), ("meeting", 2)]
TEST = [  # text, label, called
    ("kiss mum", 0, 0),  # word for word in training
    ("SALE, now!", 1, 1),  # nearly
    ("meeting at ten", 2, 1),
    ("meeting with mum", 2, 0),
    ("dad " * 20, 0, 0),
]


def report_of(rows=TEST, train=TRAIN, names=NAMES, **options):
    sets = DatasetDict(test=messages([row[:2] for row in rows], names))
    evaluated = Evaluated(sets, "by hand", messages(train, names), "by hand")
    return make_report(Scorer({text: called for text, _, called in rows}, names), evaluated, **options)


def test_a_report_of_three_labels_by_hand():
    """Confusion, labels, errors, parts and duplicates; what needs a positive label is left out."""
    report = report_of()
    values, closer = report.values, report.values["closer"]
    assert closer["confusion"] == {
        "home": {"home": 2, "promo": 0, "work": 0},
        "promo": {"home": 0, "promo": 1, "work": 0},
        "work": {"home": 1, "promo": 1, "work": 0},
    }
    assert [(row["label"], row["messages"], row["called"]) for row in closer["classes"]] == [
        *(("home", 2, 3), ("promo", 1, 2), ("work", 2, 0))
    ]
    home = closer["classes"][0]
    assert (home["precision"]["value"], home["recall"]["value"], home["f1"]) == pytest.approx((2 / 3, 1, 0.8))
    assert [(error["text"], error["label"], error["called"], error["score"]) for error in closer["errors"]] == [
        ("meeting at ten", "work", "promo", pytest.approx(0.7)),
        ("meeting with mum", "work", "home", pytest.approx(0.6)),
    ]
    assert [(row["part"], row["messages"], row["wrong"]) for row in closer["by_length"]] == [
        ("0 to 40", 4, 2),
        ("41 to 80", 1, 0),
    ]
    measured = values["sets"]["test"]
    assert set(measured["model"]) == {
        *("accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "log_loss")
    }
    assert measured["model"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert measured["without_near"]["messages"] == 3 and "spam" not in measured
    assert not {"thresholds", "calibration"} & set(closer)
    assert json.dumps(values, allow_nan=False)


def test_the_threshold_of_spam_among_three_labels(monkeypatch):
    """What comes of it and of others, spam held against the rest; the last of the labels need not be it."""
    names = ["ad", "Spam", "talk"]
    monkeypatch.setattr(Scorer, "__init__", with_threshold(Scorer.__init__, 0.2))
    report = report_of(names=names)
    own, one_percent, *_ = report.values["closer"]["thresholds"]
    assert own["threshold"] == 0.2 and (own["messages"], own["spam"]) == (5, 1)
    called = report.model.scores[:, 1] >= 0.2
    assert (own["missed"], own["false_alarms"]) == (0, called.sum() - 1)
    assert one_percent["false_alarms"] == 0
    (table,) = [table for table in report_tables(report.values) if table.title == "Thresholds, test"]
    assert "an alarm is a message of another label that is called Spam." in table.note
    assert "It calls Spam what has a score of at least 0.2000000, and is measured so." in headline(report.values)


def with_threshold(init, threshold: float):
    def made(self, *arguments):
        init(self, *arguments)
        self.model.config.threshold = threshold

    return made


def test_the_baseline_of_three_labels():
    """Its class is that of the highest score; the same in the report and in `measure_baseline`."""
    values = report_of().values
    sets = DatasetDict(train=messages(TRAIN), test=messages([row[:2] for row in TEST]))
    expected = measure_baseline(sets)["test"]
    assert expected["f1"] > 0.6 and expected["log_loss"] is None
    found = {name: estimate["value"] for name, estimate in values["sets"]["test"]["baseline"].items()}
    assert found == pytest.approx(expected)
    difference = values["sets"]["test"]["f1_difference"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert any("ahead" in line for line in headline(values))


@pytest.mark.parametrize("names", [NAMES, [f"label {i}" for i in range(30)]], ids=["3", "30"])
def test_tables_and_page_of_many_labels(names):
    """All rows are as long as the head; the confusion of many labels is a list of mistakes."""
    report = report_of(names=names)
    tables = report_tables(report.values)
    assert all(len(set(map(len, [table.columns, *table.rows]))) <= 1 for table in tables)
    confusion = next(table for table in tables if table.title.startswith("Confusion"))
    wide = ["label", *(f"called {name}" for name in names)]
    assert confusion.columns == (wide if len(names) == 3 else ["label", "called", "messages"])
    page = render_page(report)
    assert page.count("<svg") == 4 and "Thresholds" not in page


def test_two_labels_of_other_names_are_called_by_them(tmp_path):
    """A name is text, also in a figure."""
    names = ["<i>no</i>", "$yes$ & 是"]
    rows = [("a b", 1, 1), ("b c", 0, 1), ("c d", 0, 0), ("d e", 1, 0)]
    report = report_of(rows, [(text, label) for text, label, _ in rows], names)
    values = report.values
    assert values["labels"] == names and list(values["closer"]["confusion"]) == names[::-1]
    assert values["sets"]["test"]["model"]["recall"]["value"] == 0.5
    page = render_page(report)
    assert "<i>" not in page and "&lt;i&gt;no" in page and page.count("<svg") == 4
    assert "Recall (part of $yes$ &amp; 是 found)</text>" in page  # of a figure: not set as mathematics
    text = " ".join(cell for table in report_tables(values) for row in table.rows for cell in (*table.columns, *row))
    assert "spam" not in text and "called $yes$ & 是" in text


def test_messages_with_other_labels_than_the_model_are_refused():
    sets = DatasetDict(test=messages([("a", 0), ("b", 1)], ["x", "y"]))
    with pytest.raises(DataError, match="the messages are labelled x, y, but the model knows home, promo, work"):
        make_report(Scorer({}), Evaluated(sets, "", None, ""))


def texts_in(figure) -> list[str]:
    return [re.sub("<.*?>", "", text) for text in re.findall(r"<text .*?</text>", figure.svg, re.DOTALL)]


def answers(actual, predicted, scores, names=NAMES) -> Answers:
    return Answers([str(i) for i in range(len(actual))], np.array(actual), np.array(predicted), scores, tuple(names))


def test_figures_of_three_labels_say_what_scikit_learn_does():
    """Counts in the cells, and of each label the area and the mean precision of its own scores."""
    rng = np.random.default_rng(0)
    actual, scores = rng.integers(0, 3, 80), rng.dirichlet(np.ones(3), 80)
    predicted = scores.argmax(-1)
    confusion, calibration, roc, precision = class_figures(answers(actual, predicted, scores))
    cells = [text for text in texts_in(confusion) if text.isdigit()]
    assert list(map(int, cells)) == sk.confusion_matrix(actual, predicted).ravel().tolist()
    for figure, measure, word in ((roc, sk.roc_auc_score, "area"), (precision, sk.average_precision_score, "mean")):
        expected = [f"{name}, {word} {measure(actual == i, scores[:, i]):.3f}" for i, name in enumerate(NAMES)]
        assert [text for text in texts_in(figure) if word in text] == expected
    assert "what it is called" in "".join(texts_in(calibration))
    # Colours are the page's; curves differ in more than colour.
    assert not re.search(r"#0[1-5]0[1-5]\d\d\b", "".join(figure.svg for figure in (confusion, calibration, roc)))
    assert all(f"var(--curve-{i}," in roc.svg for i in range(3)) and "var(--curve-3," not in roc.svg
    assert "var(--curve-" not in confusion.svg + calibration.svg
    used = set(re.findall(r"var\((--[\w-]+),", "".join(COLOURS.values())))
    assert all(re.findall(f"{name}: #", TEMPLATE.read_text()) == [f"{name}: #"] * 2 for name in used)  # light and dark
    assert len(re.findall("stroke-dasharray", roc.svg)) >= 2


def test_calibration_of_several_labels_is_of_what_a_message_is_called():
    """By a threshold of the model's that may not be the likeliest one."""
    scores = np.array([[0.55, 0.35, 0.1]] * 4)
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "draw_calibration", lambda scores, hits, *_: drawn.append((scores, hits)))
        class_figures(answers([0, 1, 1, 2], [1, 1, 0, 1], scores))
    assert drawn[0][0].tolist() == [0.35, 0.35, 0.55, 0.35] and drawn[0][1].tolist() == [False, True, False, False]


def test_of_many_labels_the_worst_are_drawn():
    rng = np.random.default_rng(0)
    names = [f"label-{i}-{'x' * 30}$" for i in range(30)]
    actual = np.repeat(np.arange(30), 4)
    scores = rng.dirichlet(np.ones(30), 120) / 2
    scores[np.arange(120), actual] += np.where((actual >= 4) & (actual < 28), 0.5, 0)  # all right but six
    confusion, _, roc, precision = class_figures(answers(actual, scores.argmax(-1), scores, names))
    shown = re.findall(r"label-(\d+)-x+…", " ".join(texts_in(confusion)))
    assert len(shown) == 40 and {"0", "1", "2", "3", "28", "29"} <= set(shown)
    assert "The 20 labels with the most mistakes are shown." in confusion.text
    for figure in (roc, precision):
        assert re.findall(r"label-(\d+)-", " ".join(texts_in(figure))) == ["0", "1", "2", "3", "28", "29"]
        assert "The 6 labels with the " in figure.text


def test_of_one_label_there_are_no_curves():
    actual = np.zeros(5, int)
    assert len(class_figures(answers(actual, actual, probabilities(actual)))) == 2


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_any_answers_can_be_reported(rows):
    """One label only, none called, all wrong: never an error, and JSON without a number that is none."""
    report = report_of([(f"text {chr(97 + i)}", *row) for i, row in enumerate(rows)])
    json.dumps(report.values, allow_nan=False)
    assert report_tables(report.values) and headline(report.values)
    total = sum(count for called in report.values["closer"]["confusion"].values() for count in called.values())
    assert total == len(rows)
