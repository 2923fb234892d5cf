"""Own columns and own labels, by the command line from a file to a classifier that names them, wherever it is used."""

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from small_runs import FOREIGN
from transformers import pipeline

from hf_spam import finetune
from hf_spam.cli import cli
from hf_spam.data.formats import DataError
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


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """240 messages with what is easily lost in them: foreign scripts, marks, line breaks."""
    path = tmp_path_factory.mktemp("own") / "mine.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "kind", "body"])
        for i in range(240):
            label = LABELS[min(2, i % 4)]
            words = WORDS[label]
            text = f"{words[i % 4]} {words[i // 4 % 4]} {chr(97 + i % 26) * (1 + i // 26)} {FOREIGN[i % len(FOREIGN)]}"
            writer.writerow([i, label, text])
    return path


def hf_spam(*arguments, code: int = 0) -> str:
    """What `hf-spam` prints; in this process, to save the seconds of an import each."""
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture(scope="module")
def trained(source):
    out = source.parent / "out"
    assert "balanced_accuracy" in hf_spam("train", *SMALL, "--data", source, *COLUMNS, "--output-dir", out)
    return out


def test_training_leaves_the_names_everywhere(trained):
    """Configuration, metrics and card."""
    config = json.loads((trained / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS == list(config["label2id"])
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics["test"]) == {*("accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc", "log_loss")}
    assert metrics["test"]["f1"] > 0.8
    card = (trained / "README.md").read_text()
    assert "`, `".join(LABELS) in card and "not spam" not in card and "spam-detection" not in card
    assert "Macro F1" in card and "F1 are unweighted means over the labels" in card and "roc_auc" not in card
    assert "| test, baseline |" in card


def test_evaluation_needs_no_flags_and_agrees_with_training(trained, source, tmp_path):
    """The model's own data are read and split as they were; other files by the labels that it knows."""
    report = json.loads(hf_spam("evaluate", trained, "--data", source, "--json"))
    saved = json.loads((trained / "metrics.json").read_text())
    found = {
        split: {name: estimate["value"] for name, estimate in measured["model"].items()}
        for split, measured in report["sets"].items()
    }
    assert found == {split: pytest.approx(metrics, abs=1e-5) for split, metrics in saved.items()}
    assert list(report["closer"]["confusion"]) == LABELS and report["baseline"]
    other = tmp_path / "other.jsonl"
    rows = [{"message": FOREIGN[i], "category": LABELS[i % 2]} for i in range(6)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = hf_spam("evaluate", trained, "--data", other, "--train-data", source, "--output-dir", tmp_path / "report")
    assert f"called {LABELS[2]}" in shown and "Thresholds" not in shown
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert values["training_messages"] == len(load_sms_spam(source, text_column="body", label_column="kind")["train"])
    assert values["sets"]["other.jsonl"]["messages"] == 6
    assert LABELS[2] in (tmp_path / "report" / "report.html").read_text()
    other.write_text('{"message": "a", "category": "work"}\n')
    done = CliRunner().invoke(cli, ["evaluate", str(trained), "--data", str(other)])
    assert isinstance(done.exception, DataError)
    assert str(done.exception).endswith(f"line 1: unknown label 'work'; known: {', '.join(LABELS)}")


def test_classify_score_export_and_the_stock_pipeline_name_the_labels(trained, source, tmp_path):
    """The same labels and scores from each; and each text comes out as it went in."""
    texts = [f"{WORDS[label][1]} {text}" for label in LABELS for text in FOREIGN]
    answers = [json.loads(line) for line in hf_spam("classify", *texts, "--model", trained, "--json").splitlines()]
    assert [answer["text"] for answer in answers] == texts
    assert {answer["label"] for answer in answers} == set(LABELS)

    stock = pipeline("text-classification", model=str(trained))
    assert [(one["label"], pytest.approx(one["score"], abs=1e-5)) for one in stock(texts)] == [
        (answer["label"], answer["score"]) for answer in answers
    ]

    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["body", "n"], *([text, i] for i, text in enumerate(texts))])
    for name in ("out.csv", "out.jsonl"):
        hf_spam("score", tmp_path / "in.csv", tmp_path / name, "--model", trained, "--text-column", "body")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        scored = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    for rows in (scored, lines):
        assert [(row["body"].encode(), row["label"]) for row in rows] == [
            (text.encode(), answer["label"]) for text, answer in zip(texts, answers, strict=True)
        ]

    hf_spam("export", trained, tmp_path / "onnx", "--onnx", "--data", source, *COLUMNS)
    exported = hf_spam("classify", *texts, "--model", tmp_path / "onnx", "--json")
    assert [json.loads(line)["label"] for line in exported.splitlines()] == [answer["label"] for answer in answers]


def test_cross_validation_of_own_labels(source):
    flags = [*SMALL, "--max-steps", "10", "--balanced-sampling", "--folds", "2", "--json"]
    results = json.loads(hf_spam("crossval", "--data", source, *COLUMNS, *flags))
    assert results["mean"]["model"]["log_loss"] > 0 and results["mean"]["baseline"]["f1"] > 0.8
    assert results["recipe"]["label_column"] == "kind"


def test_a_column_of_another_name_with_ham_and_spam_is_the_ordinary_task(tmp_path):
    """The same run to the bit, whatever the columns are called."""
    rows = load_sms_spam("sample")["train"].select(range(120))
    rows.to_csv(tmp_path / "known.csv", index=False)
    own = rows.rename_columns({"text": "body", "label": "kind"})
    own.to_csv(tmp_path / "own.csv", index=False)
    settings = {"n_embd": 16, "vocab_size": 300, "max_steps": 5}
    known = finetune("pocket", data=tmp_path / "known.csv", **settings)
    other = finetune("pocket", data=tmp_path / "own.csv", text_column="body", label_column="kind", **settings)
    assert other.metrics == known.metrics and other.model.config.id2label == {0: "not spam", 1: "spam"}
    assert all(torch.equal(a, b) for a, b in zip(known.model.parameters(), other.model.parameters(), strict=True))


def test_a_copy_is_calibrated_by_own_labels(trained, source, tmp_path):
    """On the model's own validation split without a flag, on other files with them, and on no other labels."""
    found = json.loads(hf_spam("calibrate", tmp_path / "own", "--model", trained, "--data", source, "--json"))
    splits = load_sms_spam(source, text_column="body", label_column="kind")
    assert found["messages"] == len(splits["validation"]) and found["spam"] is None
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert list(config["id2label"].values()) == LABELS and config["temperature"] == found["temperature"]
    (tmp_path / "own" / "README.md").write_text("in words of my own")  # as before it is pushed
    assert "label" in hf_spam("classify", WORDS[LABELS[1]][0], "--model", tmp_path / "own", "--json")
    other = tmp_path / "other.csv"
    other.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:-1]))  # else these were its own messages
    found = json.loads(hf_spam("calibrate", tmp_path / "all", "--model", trained, "--data", other, *COLUMNS, "--json"))
    assert found["messages"] == 239
    refused = f"the messages are labelled not spam, spam, but the model knows {', '.join(LABELS)}"
    for arguments in (["calibrate", tmp_path / "none", "--model", trained], ["evaluate", trained]):
        with pytest.raises(DataError, match=refused):
            cli.main([str(argument) for argument in (*arguments, "--data", "sample")], standalone_mode=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("spam", "other", "named"),
    [("Spam", "work", []), ("work", "home", []), ("home", "work", ["--positive-label", "home"])],
)
def test_the_threshold_of_two_own_labels(spam, other, named, tmp_path):
    """It is for the one called spam, wherever that sorts, else for the one named or the second; report and card say so.

    What says ham and spam itself is held against a label called spam alone, and is nothing to fit another one to.
    """
    rows = [
        (f"{WORDS[LABELS[i % 2]][i // 2 % 4]} {chr(97 + i % 26) * (1 + i // 26)}", (spam, other)[i % 2])
        for i in range(160)
    ]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("body", "kind"), *rows])
    flags = ["--data", tmp_path / "mine.csv", *COLUMNS, *named, "--max-steps", "20", "--target-fpr", "0.2"]
    hf_spam("train", *SMALL, *flags, "--temperature-scaling", "--output-dir", tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    report = json.loads(hf_spam("evaluate", tmp_path / "out", "--data", tmp_path / "mine.csv", "--json"))
    assert report["labels"] == [other, spam]
    for split, measured in report["sets"].items():
        assert {name: one["value"] for name, one in measured["model"].items()} == pytest.approx(saved[split], abs=1e-5)
    assert saved["validation"]["false_positive_rate"] <= 0.2
    shown = hf_spam("evaluate", tmp_path / "out", "--data", tmp_path / "mine.csv")
    assert f"It calls {spam} what has a score of at least" in shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`hf_spam` labels a message `{spam}` if its score reaches the threshold" in card
    assert f"Precision, recall and F1 are those of `{spam}`." in card
    assert (" ham of the validation split" in card) == (spam == "Spam") and f"are called `{spam}`, of" in card
    calibrated = CliRunner().invoke(
        cli, ["calibrate", str(tmp_path / "no"), "--model", str(tmp_path / "out"), "--data", "sample"]
    )
    assert "the messages are labelled not spam, spam, but the model" in str(calibrated.exception)
    done = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "out"), "--data", "sample", "--json"])
    assert (done.exit_code == 0) == (spam == "Spam"), done.output


def test_a_checkpoint_of_other_labels_is_none_to_go_on_from(source, tmp_path):
    """Not even with --allow-differences, whose head would stand for other labels than it was trained on."""
    train = ["train", *SMALL, *COLUMNS, "--max-steps", "6", "--save-steps", "3"]
    hf_spam(*train, "--data", source, "--output-dir", tmp_path / "out")
    other = tmp_path / "other.csv"
    other.write_text(source.read_text(encoding="utf-8").replace("home", "work"), encoding="utf-8")
    flags = ["--resume-from-checkpoint", tmp_path / "out" / "checkpoint-3", "--allow-differences"]
    arguments = [*train, "--data", other, "--output-dir", tmp_path / "next", *flags]
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert str(done.exception).endswith(f"does not fit this run: its labels are {', '.join(LABELS)}")


def test_experiments_on_own_columns(source, tmp_path):
    flags = [*SMALL[2:], "--max-steps", "3", "--data", source, *COLUMNS, "--output-dir", tmp_path, "--json"]
    (found,) = json.loads(hf_spam("reproduce", "--rows", "pocket", *flags))
    assert found["problem"] is None and found["obtained"]
