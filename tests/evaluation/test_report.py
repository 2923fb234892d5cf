"""The report of an evaluation: its figures are right, it leaves no leak unsaid, and its page runs nobody's script."""

import json
from collections import Counter
from html.parser import HTMLParser
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from hf_spam import SpamClassifier, SpamMetrics, load_sms_spam
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.labels import FEATURES, LABEL_NAMES
from hf_spam.evaluation import plots
from hf_spam.evaluation.baseline import fit_baseline, measure_baseline
from hf_spam.evaluation.eval_data import Evaluated, messages_for
from hf_spam.evaluation.page import headline, render_page, report_tables, write_report
from hf_spam.evaluation.report import make_report
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig, class_names, spam_index

POCKET = SpamClassifier.from_pretrained()


class Scorer:
    """A classifier that knows the score of each text."""

    def __init__(self, scores: dict[str, float], config=POCKET.model.config):
        self.scores, self.model = scores, SimpleNamespace(config=config)

    def probabilities(self, texts, *, progress=False):
        spam = torch.tensor([self.scores[text] for text in texts])
        return torch.stack([1 - spam, spam], -1)


def messages(rows) -> Dataset:
    texts, labels = [text for text, _ in rows], [int(label) for _, label in rows]
    return Dataset.from_dict({"text": texts, "label": labels}, features=FEATURES)


def report_of(rows, train=None, config=POCKET.model.config, **options) -> dict:
    """The report of messages with their labels and scores."""
    sets = DatasetDict(test=messages([(text, label) for text, label, _ in rows]))
    evaluated = Evaluated(sets, "by hand", None if train is None else messages(train), "by hand")
    return make_report(Scorer({text: score for text, _, score in rows}, config), evaluated, **options).values


def points(measured: dict, kind: str = "model") -> dict:
    return {name: estimate["value"] for name, estimate in measured[kind].items()}


TRAIN = [("win a prize now", 1), ("win 100 pounds", 1), ("see you at home", 0), ("are you at work", 0)]
ROWS = [
    ("win a prize now", 1, 0.99),  # word for word in training
    ("WIN 500 pounds!", 1, 0.9),  # nearly
    ("free ringtone " * 12, 1, 0.3),  # missed
    ("see you at home", 0, 0.1),  # word for word
    ("lunch?", 0, 0.7),  # a false alarm
    ("running late", 0, 0.2),
    ("call me", 0, 0.05),
    ("good night", 0, 0.01),
]


def test_by_hand():
    """Confusion, thresholds, duplicates, lengths and errors of eight messages."""
    values = report_of(ROWS, TRAIN)
    closer = values["closer"]
    assert closer["confusion"] == {"spam": {"spam": 2, "not spam": 1}, "not spam": {"spam": 1, "not spam": 4}}
    assert [(row["threshold"], row["false_alarms"], row["missed"]) for row in closer["thresholds"]] == [
        (None, 1, 1),
        *[(pytest.approx(0.8), 0, 1)] * 3,  # between the lowest that will do and the ham below it
    ]
    assert values["duplicates"] == {"test": {"training": {"exact": 2, "near": 3}}}
    assert [(row["part"], row["messages"], row["missed"], row["false_alarms"]) for row in closer["by_length"]] == [
        ("0 to 40", 7, 0, 1),
        ("161 and more", 1, 1, 0),
    ]
    assert [(row["part"], row["messages"]) for row in closer["by_standing_in_training"]] == [
        ("word for word", 2),
        ("nearly", 1),
        ("no", 5),
    ]
    assert [(error["text"], error["label"], error["in_training"]) for error in closer["errors"]] == [
        ("free ringtone " * 12, "spam", "no"),
        ("lunch?", "not spam", "no"),
    ]
    test = values["sets"]["test"]
    assert (test["messages"], test["without_exact"]["messages"], test["without_near"]["messages"]) == (8, 6, 5)
    assert test["model"]["recall"]["value"] == pytest.approx(2 / 3)
    assert test["without_near"]["model"]["recall"]["value"] == 0
    filled = [(row["messages"], round(row["spam"]["value"], 2)) for row in closer["calibration"]]
    assert filled == [(2, 0), (1, 0), (1, 0), (1, 1), (1, 0), (1, 1), (1, 1)]


@pytest.mark.parametrize(("threshold", "alarms", "missed"), [(0.15, 2, 0), (0.8, 0, 1), (0.95, 0, 2)])
def test_a_models_own_threshold(threshold, alarms, missed):
    """All that counts labels counts them by it, and the report says so; scores and their order are what they were."""
    rows = [(text, label, score) for text, label, score in ROWS]
    plain, values = report_of(rows, TRAIN), report_of(rows, TRAIN, config=SpamGPTConfig(threshold=threshold))
    closer, test = values["closer"], values["sets"]["test"]
    assert closer["confusion"] == {
        "spam": {"spam": 3 - missed, "not spam": missed},
        "not spam": {"spam": alarms, "not spam": 5 - alarms},
    }
    assert closer["thresholds"][0]["threshold"] == values["threshold"] == threshold
    assert closer["thresholds"][1:] == plain["closer"]["thresholds"][1:] and closer["calibration"]
    assert len(closer["errors"]) == alarms + missed
    assert points(test)["accuracy"] == pytest.approx(1 - (alarms + missed) / 8)
    assert points(test)["roc_auc"] == points(plain["sets"]["test"])["roc_auc"]
    assert test["baseline"] == plain["sets"]["test"]["baseline"]
    (verdict,) = [line for line in headline(values) if line.startswith("On test, the ")]
    assert "(the model goes by its threshold, the baseline by none)" in verdict
    assert not [line for line in headline(plain) if "goes by" in line]
    said = [line for line in headline(values) if "score of at least" in line]
    assert said == [f"It calls spam what has a score of at least {threshold:.7f}, and is measured so."]
    assert not [line for line in headline(plain) if "score" in line] and plain["threshold"] is None


def test_where_all_samples_agree_there_is_no_interval():
    """Of a set without an error no sample has one, which is no certainty: Wilson's intervals say how little it is."""
    rows = [("win now", 1, 0.9), ("win here", 1, 0.8), ("hello", 0, 0.2), ("good night", 0, 0.1)]
    values = report_of(rows, TRAIN)
    model = values["sets"]["test"]["model"]
    for name in ("f1", "mcc", "balanced_accuracy", "roc_auc", "recall_at_fpr_0.001"):
        assert model[name] == {"value": 1.0, "low": None, "high": None}
    assert model["recall"]["low"] < 0.5 and model["accuracy"]["low"] < 0.6 and model["brier"]["low"] is not None
    cells = {row[0]: row[2] for row in report_tables(values)[0].rows}
    assert cells["f1"] == "-" and cells["recall"].endswith("1.000")
    assert "they tell nothing, and there is none" in report_tables(values)[0].note
    same = report_of(rows[:1], TRAIN)["sets"]["test"]["model"]  # one message, which every sample is of
    assert same["log_loss"]["value"] > 0 and same["log_loss"]["low"] is None


SCORES = st.floats(0, 1, width=32)
ANY_ROWS = st.lists(
    st.tuples(st.text("ab1 !", max_size=4), st.integers(0, 1), SCORES),
    min_size=1,
    max_size=20,
    unique_by=itemgetter(0),
)


@settings(max_examples=15)
@given(ANY_ROWS, st.randoms())
def test_the_order_of_the_messages_does_not_matter(rows, random):
    """Figures are of a set; only the bootstrap draws by position, and moves a little."""
    shuffled = random.sample(rows, len(rows))
    one, two = (report_of(each, TRAIN) for each in (rows, shuffled))
    assert points(one["sets"]["test"]) == pytest.approx(points(two["sets"]["test"]))
    for part in ("confusion", "thresholds", "by_length", "by_standing_in_training"):
        assert one["closer"][part] == two["closer"][part]
    assert Counter(error["text"] for error in one["closer"]["errors"]) == Counter(
        text for text, label, score in rows if (score > 0.5) != label
    )


@settings(max_examples=15)
@given(ANY_ROWS, st.data())
def test_without_duplicates_is_as_if_they_had_not_been_there(rows, data):
    """Against the metrics of the filtered messages, computed apart."""
    train = [(text.upper() if near else text, label) for text, label, _ in rows if (near := data.draw(st.booleans()))]
    train = [*TRAIN, *train, *[(row[0], row[1]) for row in rows[:2]]]
    test = report_of(rows, train)["sets"]["test"]
    exact, near = {text for text, _ in train}, {duplicate_key(text) for text, _ in train}
    for part, left in (
        ("without_exact", [row for row in rows if row[0] not in exact]),
        ("without_near", [row for row in rows if duplicate_key(row[0]) not in near]),
    ):
        if not left:
            assert test[part] is None
            continue
        _, actual, scores = zip(*left, strict=True)
        predicted = [int(score > 0.5) for score in scores]
        expected = SpamMetrics().compute(predictions=predicted, references=actual, scores=scores)
        found = points(test[part])
        assert {k: v for k, v in found.items() if v is not None} == pytest.approx(
            {k: v for k, v in expected.items() if found[k] is not None}
        )
        assert found["accuracy"] is not None and test[part]["messages"] == len(left)


@pytest.mark.parametrize(("exact", "split", "total"), [(37, "test", 300), (13, "validation", 149)])
def test_the_books_split_leaks(sms_collection, exact, split, total, tmp_path):
    """What the README tells of it, found by the report, and scikit-learn's figures without those messages."""
    evaluated = messages_for(tmp_path, sms_collection, protocol="book")
    report = make_report(POCKET, evaluated, split=split, data=sms_collection)
    measured = report.values["sets"][split]
    assert report.values["duplicates"][split]["training"]["exact"] == exact and measured["messages"] == total
    assert measured["without_exact"]["messages"] == total - exact
    seen = set(evaluated.train["text"][:])
    left = np.array([text not in seen for text in evaluated.sets[split]["text"][:]])
    actual = np.array(evaluated.sets[split]["label"][:])
    predicted = POCKET.probabilities(evaluated.sets[split]["text"][:]).argmax(-1).numpy()
    assert points(measured["without_exact"])["f1"] == pytest.approx(f1_score(actual[left], predicted[left]))
    table = confusion_matrix(actual, predicted)
    assert report.values["closer"]["confusion"]["spam"] == {"spam": table[1, 1], "not spam": table[1, 0]}


def test_the_baseline_of_the_books_split(sms_collection, tmp_path):
    """97.67 % of the test split, whoever measures it."""
    data = load_sms_spam(sms_collection, protocol="book")
    assert measure_baseline(data)["test"]["accuracy"] == pytest.approx(293 / 300)
    values = make_report(POCKET, messages_for(tmp_path, sms_collection, protocol="book"), split="test").values
    test = values["sets"]["test"]
    assert points(test, "baseline") == pytest.approx(measure_baseline(data)["test"])
    assert test["baseline"]["brier"]["value"] is None
    difference = points(test)["f1"] - points(test, "baseline")["f1"]
    assert test["f1_difference"]["value"] == pytest.approx(difference)
    assert test["f1_difference"]["low"] <= difference <= test["f1_difference"]["high"]


def test_no_baseline_is_no_error(caplog):
    """Messages of one label, or without a word; the report says so in the place of the figures."""
    for train, why in (
        ([("hello there", 0), ("see you", 0)], "different labels, but all training messages are 'not spam'.\n"),
        ([("", 0), ("", 1)], "empty vocabulary"),
        ([], "different labels, but there are none.\n"),
    ):
        caplog.clear()
        assert fit_baseline(messages(train)) is None
        assert measure_baseline(DatasetDict(train=messages(train), test=messages(TRAIN))) == {}
        values = report_of(ROWS, train)
        assert values["baseline"] is None and values["sets"]["test"]["baseline"] is None
        assert all(len(set(map(len, [table.columns, *table.rows]))) == 1 for table in report_tables(values))
        assert "No baseline: " in caplog.text and why in caplog.text
    assert report_of(ROWS)["duplicates"] == {"test": {}}


def test_messages_of_one_label():
    """What compares the two is left out; what is left has its interval."""
    for label, there in ((0, {"accuracy", "false_positive_rate"}), (1, {"accuracy", "recall", "precision"})):
        rows = [(text, label, 0.9 if i else 0.2) for i, (text, _, _) in enumerate(ROWS)]
        report = report_of(rows, TRAIN)
        found = {name for name, value in points(report["sets"]["test"]).items() if value is not None}
        assert found - {"precision"} == (there | {"brier", "log_loss", "ece"}) - {"precision"}
        assert len(report["closer"]["thresholds"]) == 1


# Which messages


def test_labels_of_other_models():
    """Of many labels, spam is held against the rest; without a spam among them there is nothing to measure."""
    config = type(POCKET.model.config)
    three = config(id2label={0: "ham", 1: "ad", 2: "spam"}, label2id={"ham": 0, "ad": 1, "spam": 2})
    assert spam_index(class_names(three)) == 2
    assert spam_index(["no", "yes"]) == 1 and spam_index(["SPAM", "work"]) == 0
    assert class_names(config(label2id={"spam": 1, "not spam": 0})) == LABEL_NAMES
    with pytest.raises(ValueError, match="None of the model's labels is 'spam': 'a', 'b', 'c'"):
        spam_index(["a", "b", "c"])

    class Three(Scorer):
        def probabilities(self, texts, *, progress=False):
            spam = torch.tensor([self.scores[text] for text in texts])
            return torch.stack([0.6 * (1 - spam), 0.4 * (1 - spam), spam], -1)

    rows = [("a", 1, 0.45), ("b", 0, 0.3)]  # spam with the highest of three, which is below one half
    sets = DatasetDict(test=messages([(text, label) for text, label, _ in rows]))
    scorer = Three({text: score for text, _, score in rows}, three)
    assert make_report(scorer, Evaluated(sets, "", None, "")).values["sets"]["test"]["model"]["accuracy"]["value"] == 1


# The page


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = Counter(), [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += attributes
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)> \"' & {{ 7 * 7 }} \x1b[31m\x00"


def test_the_page_runs_nothing_and_fetches_nothing(tmp_path):
    """A message is text, whatever stands in it; so is the name of a file."""
    rows = [(NASTY, 1, 0.1), *ROWS]
    sets = DatasetDict({"<b>.csv": messages([(text, label) for text, label, _ in rows])})
    evaluated = Evaluated(sets, "by hand", messages(TRAIN), "by hand")
    scorer = Scorer({text: score for text, _, score in rows})
    report = make_report(scorer, evaluated, model="<i>model", data="<b>.csv")
    page = Page(render_page(report))
    assert page.open == [] and not {"script", "img", "b", "i", "iframe", "link", "object"} & set(page.tags)
    assert page.tags["svg"] == 4 and page.tags["table"] == len(report_tables(report.values))
    assert any(NASTY.replace("\x1b", "\ufffd").replace("\x00", "\ufffd") == text for text in page.text)
    assert not any("\x1b" in text or "\x00" in text for text in page.text)
    fetched = [v for k, v in page.attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]
    assert fetched == [] and not any(k.startswith("on") for k, _ in page.attributes)
    assert "url(" not in "".join(v or "" for _, v in page.attributes).replace("url(#", "")
    write_report(report, tmp_path / "new" / "folder")
    left = {path.name: path.read_text() for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(left) == {"report.html", "report.json"} and json.loads(left["report.json"]) == report.values


def test_a_report_replaces_a_report_and_nothing_else(tmp_path):
    report = make_report(Scorer({"a": 0.2}), Evaluated(DatasetDict(mine=messages([("a", 0)])), "", None, ""))
    (tmp_path / "model.safetensors").write_text("kept")
    (tmp_path / "report.html").write_text("old")
    write_report(report, tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "kept" and (tmp_path / "report.html").read_text() != "old"
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(NotADirectoryError, match="is a file: give another --output-dir"):
        write_report(report, tmp_path / "report.html")


# The figures of a run


@pytest.mark.parametrize(
    ("val_values", "title"),
    [([0.8, 0.5], "Loss on training and validation messages"), ([], "Loss on training messages")],
)
def test_the_figure_of_a_run_says_what_it_shows(val_values, title, monkeypatch, tmp_path):
    """On its own, as the card shows it: a title, three axes with names, a legend."""
    drawn = {}
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *to, **about: drawn.update(figure=figure))
    plots.plot_values([0.1, 1.5], [0.7, 0.4], val_values, examples_per_epoch=50, label="loss", output_dir=tmp_path)
    (axes,) = drawn["figure"].axes
    (above,) = axes.child_axes
    assert drawn["figure"].get_suptitle() == title
    assert (axes.get_xlabel(), axes.get_ylabel(), above.get_xlabel()) == ("Epochs", "Loss", "Examples seen")
    for line, values in zip(axes.lines, ([0.7, 0.4], val_values), strict=False):
        assert line.get_xydata().tolist() == [[0.1, values[0]], [1.5, values[1]]]
    assert axes.get_xlim()[0] == 0 and above._functions[0](1.5) == 75
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["Training loss", *["Validation loss"] * bool(val_values)]
