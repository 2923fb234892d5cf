"""Custom columns and labels are read, learned, and used by the model everywhere."""

import csv
import json

import pytest
from command_line import hf_spam
from small_data import MESSAGES, delimited
from small_reports import values_of
from small_runs import FOREIGN
from transformers import pipeline

from hf_spam.data.sources import load_sms_spam

LABELS = ["home", "promo \U0001f389", "اشتراك"]
WORDS = {
    LABELS[0]: ["mum", "dinner", "garden", "kitchen"],
    LABELS[1]: ["win", "offer", "sale", "discount"],
    LABELS[2]: ["اشتراك", "رصيد", "باقة", "خدمة"],
}
COLUMNS = ["--text-column", "body", "--label-column", "kind"]
SMALL = ["--recipe", "pocket", "--n-embd", "16", "--vocab-size", "400", "--max-steps", "120", "--warmup-steps", "0"]
SMALL += ["--learning-rate", "0.01", "--weight-average", "0"]


def run(*arguments) -> str:
    """Run `hf-spam` and return its output; fail on errors."""
    done = hf_spam(*arguments)
    assert done.code == 0, done.err
    return done.out


def metrics_of(report: dict) -> dict:
    """Return the model's metrics on each set, as in metrics.json."""
    return {name: values_of(measured["model"]) for name, measured in report["sets"].items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """240 messages with foreign scripts, combining marks and line breaks."""
    path = tmp_path_factory.mktemp("own") / "mine.csv"
    table: list[tuple] = [("id", "kind", "body")]
    for i in range(240):
        label = LABELS[min(2, i % 4)]
        words = WORDS[label]
        text = f"{words[i % 4]} {words[i // 4 % 4]} {chr(97 + i % 26) * (1 + i // 26)} {FOREIGN[i % len(FOREIGN)]}"
        table.append((i, label, text))
    path.write_bytes(delimited(table))
    return path


@pytest.fixture(scope="module")
def trained(source):
    out = source.parent / "out"
    run("train", *SMALL, "--data", source, *COLUMNS, "--output-dir", out)
    return out


def test_training_writes_the_labels_to_config_metrics_and_card(trained):
    config = json.loads((trained / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS == list(config["label2id"])
    metrics = json.loads((trained / "metrics.json").read_text())["test"]
    assert list(metrics) == ["accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "log_loss"]
    assert metrics["f1"] > 0.8
    card = (trained / "README.md").read_text()
    assert "`, `".join(LABELS) in card and "not spam" not in card and "spam-detection" not in card
    assert "Macro F1" in card and "roc_auc" not in card and "| test, baseline |" in card


def test_evaluation_needs_no_flags_and_agrees_with_training(trained, source, tmp_path):
    """The model's own data is split as in training; other files are read with the labels that the model knows."""
    report = json.loads(run("evaluate", trained, "--data", source, "--json"))
    saved = json.loads((trained / "metrics.json").read_text())
    assert metrics_of(report) == {split: pytest.approx(metrics, abs=1e-5) for split, metrics in saved.items()}
    assert list(report["details"]["confusion"]) == LABELS and report["baseline"]
    other = tmp_path / "other.jsonl"
    rows = [{"message": FOREIGN[i], "category": LABELS[i % 2]} for i in range(6)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = run("evaluate", trained, "--data", other, "--train-data", source, "--output-dir", tmp_path / "report")
    assert f"predicted {LABELS[2]}" in shown and "Thresholds" not in shown
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert values["training_messages"] == len(load_sms_spam(source, text_column="body", label_column="kind")["train"])
    assert values["sets"]["other.jsonl"]["messages"] == 6
    assert LABELS[2] in (tmp_path / "report" / "report.html").read_text()
    other.write_text('{"message": "a", "category": "work"}\n')
    assert "line 1: unknown label 'work'; known: " in hf_spam("evaluate", trained, "--data", other).err


def test_all_classification_paths_use_the_labels(trained, source, tmp_path):
    """`classify`, `score`, the stock pipeline and an export agree, and no text is changed."""
    texts = [f"{WORDS[label][1]} {text}" for label in LABELS for text in FOREIGN]
    answers = [json.loads(line) for line in run("classify", *texts, "--model", trained, "--json").splitlines()]
    labels = [answer["label"] for answer in answers]
    assert [answer["text"] for answer in answers] == texts and set(labels) == set(LABELS)
    stock = pipeline("text-classification", model=str(trained))
    assert [(one["label"], pytest.approx(one["score"], abs=1e-5)) for one in stock(texts)] == [
        (answer["label"], answer["score"]) for answer in answers
    ]
    (tmp_path / "in.csv").write_bytes(delimited([("body", "n"), *((text, i) for i, text in enumerate(texts))]))
    for name in ("out.csv", "out.jsonl"):
        run("score", tmp_path / "in.csv", tmp_path / name, "--model", trained, "--text-column", "body")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        scored = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    for rows in (scored, lines):
        assert [(row["body"], row["label"]) for row in rows] == [
            (answer["text"], answer["label"]) for answer in answers
        ]
    run("export", trained, tmp_path / "gpt2", "--format", "gpt2", "--data", source, *COLUMNS[:2])
    exported = run("classify", *texts, "--model", tmp_path / "gpt2", "--json")
    assert [json.loads(line)["label"] for line in exported.splitlines()] == labels


def test_experiments_take_own_labels(source, tmp_path):
    flags = [*SMALL[2:], "--max-steps", "3", "--data", source, *COLUMNS, "--json"]
    results = json.loads(run("crossval", "--recipe", "pocket", *flags, "--folds", "2"))
    assert results["mean"]["model"]["log_loss"] > 0 and results["mean"]["baseline"]["f1"] > 0.8
    (found,) = json.loads(run("reproduce", "--rows", "pocket", *flags, "--output-dir", tmp_path))
    assert found["problem"] is None and found["obtained"]


def test_a_calibrated_copy_keeps_the_labels(trained, source, tmp_path):
    """Without a flag it is fitted on the model's own validation split; messages with other labels are refused."""
    found = json.loads(run("calibrate", tmp_path / "own", "--model", trained, "--data", source, "--json"))
    splits = load_sms_spam(source, text_column="body", label_column="kind")
    assert found["messages"] == len(splits["validation"]) and found["spam"] is None
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS and config["temperature"] == found["temperature"]
    refused = f"the messages are labelled not spam, spam, but the model knows {', '.join(LABELS)}"
    for arguments in (["calibrate", tmp_path / "none", "--model", trained], ["evaluate", trained]):
        assert refused in hf_spam(*arguments, "--data", MESSAGES).err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("spam", "other", "named"), [("Spam", "work", []), ("home", "work", ["--positive-label", "home"])]
)
def test_threshold_applies_to_the_positive_label(spam, other, named, tmp_path):
    """That is the label called spam, or the one named by the flag; training, report and card agree on it."""
    rows = [
        (f"{WORDS[LABELS[i % 2]][i // 2 % 4]} {chr(97 + i % 26) * (1 + i // 26)}", (spam, other)[i % 2])
        for i in range(160)
    ]
    (tmp_path / "mine.csv").write_bytes(delimited([("body", "kind"), *rows]))
    flags = ["--data", tmp_path / "mine.csv", *COLUMNS, *named, "--max-steps", "20", "--target-fpr", "0.2"]
    run("train", *SMALL, *flags, "--temperature-scaling", "--output-dir", tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    evaluate = ["evaluate", tmp_path / "out", "--data", tmp_path / "mine.csv"]
    report = json.loads(run(*evaluate, "--json"))
    assert report["positive_label"] == spam and saved["validation"]["false_positive_rate"] <= 0.2
    assert metrics_of(report) == {split: pytest.approx(metrics, abs=1e-5) for split, metrics in saved.items()}
    assert f"The model labels a message {spam} if its score is at least" in run(*evaluate)
    assert f"`hf_spam` labels a message `{spam}` if" in (tmp_path / "out" / "README.md").read_text()
    if spam == "Spam":  # data labelled ham and spam can be evaluated too
        run("evaluate", tmp_path / "out", "--data", MESSAGES)
