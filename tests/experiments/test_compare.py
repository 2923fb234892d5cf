"""A comparison: the figures are those of each model, leaks are found, and chance is not taken for a difference."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import flags_of, hf_spam
from small_data import MESSAGES
from small_models import save_small
from small_reports import messages, predictions_of, scorer

from hf_spam.data.sources import load_sms_spam
from hf_spam.data.splits import fingerprints
from hf_spam.evaluation.candidates import split_label_map
from hf_spam.evaluation.eval_data import find_training_texts
from hf_spam.experiments.compare import METRICS, compare, compare_tables, holm

# Text, label, and the scores of two models.
ROWS = [
    ("win a prize", 1, 0.9, 0.95),
    ("free cash", 1, 0.8, 0.4),
    ("claim it now", 1, 0.6, 0.3),
    ("cheap loans", 1, 0.2, 0.45),
    ("see you at home", 0, 0.7, 0.1),
    ("lunch?", 0, 0.3, 0.35),
    ("running late", 0, 0.1, 0.2),
    ("good night", 0, 0.05, 0.05),
    ("call me", 0, 0.01, 0.02),
]
WORDS = ["ash", "bay", "cat", "dew", "elm", "fog", "gem", "hay", "ice", "joy"]


def models_of(rows, *columns: int):
    return [scorer({row[0]: [1 - row[column], row[column]] for row in rows}) for column in columns or (2, 3)]


def test_every_figure_is_that_of_the_model_alone():
    values = compare(models_of(ROWS), messages(ROWS))
    labels, *answers = ([row[i] for row in ROWS] for i in (1, 2, 3))
    expected = [predictions_of(labels, scores).metrics() for scores in answers]
    pair = values["all"]["pairs"][0]
    for metric in METRICS:
        found = [measured[metric]["value"] for measured in values["all"]["metrics"]]
        assert found == pytest.approx([one[metric] for one in expected]), metric
        assert pair["differences"][metric]["value"] == pytest.approx(found[0] - found[1], abs=1e-12)
    assert pair["only_right"] == [2, 1]
    assert pair["p"] == pair["p_holm"] == 1
    assert (values["messages"], values["spam"], values["unseen"]) == (9, 4, None)
    json.dumps(values, allow_nan=False)


def test_differences_resample_messages_in_pairs():
    """The interval of a difference of accuracies is that of the mean of paired differences."""
    rng = np.random.default_rng(0)
    rows = [(f"{WORDS[i % 10]} {WORDS[i // 10]}", i % 2, *rng.random(2)) for i in range(100)]
    difference = compare(models_of(rows), messages(rows))["all"]["pairs"][0]["differences"]["accuracy"]
    paired = [int((a > 0.5) == label) - int((b > 0.5) == label) for _, label, a, b in rows]
    drawn = np.array(paired)[np.random.default_rng(1).integers(100, size=(10_000, 100))].mean(1)
    assert difference["low"] == pytest.approx(np.percentile(drawn, 2.5), abs=0.02)
    assert difference["high"] == pytest.approx(np.percentile(drawn, 97.5), abs=0.02)


def test_holm_by_hand():
    """The smallest of four is multiplied by 4, the next by 3, and none is below the one before it."""
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1, 1] and holm([]) == []


def thousand(wrong: dict[int, set[int]]) -> list:
    """Return 1,000 messages, half of them spam, and scores that are wrong on some of them for each model."""
    rows = []
    for i in range(1000):
        text = f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100]}"
        right = 0.5 + (0.4 + i / 1e5) * (1 if i % 2 else -1)
        rows.append((text, i % 2, *(1 - right if i in missed else right for missed in wrong.values())))
    return rows


def test_copies_are_level_and_a_planted_difference_is_found():
    """Among three models, with the correction: 30 messages that only the first gets right, of 1,000."""
    rows = thousand({2: set(range(20)), 3: set(range(50))})
    values = compare(models_of(rows, 2, 2, 3), messages(rows))
    copies, *others = values["all"]["pairs"]
    assert copies["p"] == copies["p_holm"] == 1 and copies["only_right"] == [0, 0]
    for difference in copies["differences"].values():
        assert (difference["value"], difference["p"], difference["p_holm"]) == (0, 1, 1)
    for pair in others:
        assert pair["only_right"] == [30, 0] and pair["p"] == pytest.approx(2 / 2**30)
        assert pair["p_holm"] == pytest.approx(3 * pair["p"])
        assert pair["differences"]["accuracy"]["value"] == pytest.approx(0.03)
        assert all(pair["differences"][metric]["p_holm"] < 0.05 for metric in ("accuracy", "f1", "mcc"))
        assert pair["differences"]["accuracy"]["low"] > 0.015
    assert [about["name"] for about in values["models"]] == ["scorer", "scorer (2)", "scorer (3)"]


def test_a_planted_leak_is_found():
    """The figures without it are those of the other messages; a model that has seen all is left out of them."""
    first, second = models_of(ROWS)
    leaky = replace(first, train=("free cash", "LUNCH!", "something else"), name="leaky")
    values = compare([leaky, second, replace(second, train=tuple(row[0] for row in ROWS))], messages(ROWS))
    assert [about["training"]["exact"] for about in values["models"]] == [1, None, 9]
    assert [about["training"]["near"] for about in values["models"]] == [2, None, 9]
    rest = [row for row in ROWS if row[0] not in ("free cash", "lunch?")]
    alone = compare(models_of(rest), messages(rest))["all"]
    assert values["unseen"] == alone and values["unseen"]["models"] == [0, 1]
    ham = [row for row in ROWS if not row[1]]
    only_ham = compare([leaky, second], messages(ham))["unseen"]
    assert only_ham == compare(models_of(ham[:1] + ham[2:]), messages(ham[:1] + ham[2:]))["all"]
    shown = {table.title: table for table in compare_tables(values)}
    assert all(table.rows for table in shown.values()), "here nothing is known to group messages by"
    assert "Not shown: scorer (2)" in shown["Without messages that a model was trained on: 7, 3 spam"].note


def test_training_messages_are_found_by_their_fingerprints(tmp_path):
    """In the data or one of its sources; those of `train_data` are used as they are if there is no record."""
    path = tmp_path / "messages.csv"
    path.write_bytes(b"".join(MESSAGES.read_bytes().splitlines(keepends=True)[:60]))
    data = load_sms_spam(path, seed=5)
    recipe = {"protocol": "full", "seed": 5}
    (tmp_path / "history.json").write_text(json.dumps({"recipe": recipe, "splits": fingerprints(data)}))
    other = tmp_path / "other.csv"
    other.write_text("label,text\nham,lunch?\nspam,win now\n")
    for source in (path, f"{other},{path}"):
        assert find_training_texts(tmp_path, source) == (data["train"]["text"][:], "known")
    assert find_training_texts(tmp_path, other) == (None, "recorded, but not in --data")
    assert find_training_texts(tmp_path, other, path) == (data["train"]["text"][:], "known")
    assert find_training_texts(tmp_path / "none", other) == (None, "not recorded")
    assert find_training_texts(tmp_path / "none", path, other)[0] == ["lunch?", "win now"]


def test_label_maps_are_for_data_and_models():
    shared = "smishing=spam,LABEL_1=spam,o/m:LABEL_0=spam"
    assert split_label_map(shared, ["a", "o/m"]) == (
        "smishing=spam",
        {"a": "smishing=spam,LABEL_1=spam", "o/m": "LABEL_0=spam"},
    )
    assert split_label_map(None, ["a"]) == (None, {"a": None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data with categories, training data that share a message with it, and two models."""
    folder = tmp_path_factory.mktemp("compare")
    frame = pd.read_csv(MESSAGES).sample(240, random_state=0)
    frame["category"] = np.where(frame.index % 2, "odd", "even")
    frame[:120].to_csv(folder / "data.csv", index=False)
    frame[119:].to_csv(folder / "train.csv", index=False)
    save_small(folder / "bert", labels=("LABEL_0", "LABEL_1"))
    save_small(folder / "gpt2", "gpt2")
    return folder


def test_on_the_command_line(folder, monkeypatch):
    """`evaluate` takes the same models, and agrees."""
    monkeypatch.chdir(folder)
    models = ["bert", "gpt2", "baseline=train.csv"]
    how = ["--data", "data.csv", "--label-map", "bert:LABEL_1=spam", "--output-dir", "out"]
    done = hf_spam("compare", *models, *how)
    assert done.code == 0, done.err
    for part in ("bert", "ROC AUC", "category odd", "1 of the 120 messages", "out/compare.html"):
        assert part in " ".join(done.out.split()), part
    values = json.loads((folder / "out" / "compare.json").read_text())
    assert [about["name"] for about in values["models"]] == models
    assert values["models"][2]["training"]["near"] == 1 and values["unseen"]["messages"] == 119
    assert all(about["messages_per_second"] > 0 and about["size"] > 1000 for about in values["models"])
    counted = {group["name"]: group["spam"] + group["ham"] for group in values["groups"]}
    assert counted == pd.read_csv("data.csv")["category"].value_counts().to_dict()
    page = (folder / "out" / "compare.html").read_text()
    assert page.count("<table>") == len(compare_tables(values)) and "<script" not in page
    done = hf_spam("evaluate", "bert", "--data", "data.csv", "--label-map", "LABEL_1=spam", "--json")
    assert done.code == 0, done.err
    measured, compared = json.loads(done.out)["sets"]["data.csv"]["model"], values["all"]["metrics"][0]
    assert {name: measured[name]["value"] for name in METRICS} == {name: compared[name]["value"] for name in METRICS}


def test_named_columns_are_those_of_the_data_and_of_baselines_that_have_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    renamed = {"text": "body", "label": "kind"}
    pd.read_csv("data.csv").rename(columns=renamed).to_csv("odd.csv", index=False)
    models, columns = ["baseline=odd.csv", "baseline=train.csv"], {"text_column": "body", "label_column": "kind"}
    values = compare(models, "odd.csv", **columns)
    assert [about["training"]["exact"] for about in values["models"]] == [120, 1]
    done = hf_spam("evaluate", *models[:1], "--data", "odd.csv", *flags_of(columns), "--train-data", "train.csv")
    assert done.code == 0, done.err
    done = hf_spam("evaluate", models[1], "--data", "data.csv", "--json")
    values = json.loads(done.out)
    assert values["trained_on"] == "those of --train-data" and values["remark"] == "", done.err
    assert values["duplicates"]["data.csv"]["near"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bert", "--data", "data.csv"], "bert: none of its labels is known to mean spam ('LABEL_0', 'LABEL_1'): say"),
        (["none", "--data", "data.csv"], "none: no such file or folder"),
        (["gpt2", "--data", "data.csv", "--train-data", "data.csv"], "--train-data data.csv: write MODEL=SOURCE"),
        (["gpt2", "--data", "data.csv", *["--train-data", "gpt2=data.csv"] * 2], "--train-data names a model twice: "),
        (["gpt2", "--data", "data.csv", "--label-column", "category"], "the messages are labelled even, odd"),
    ],
)
def test_a_mistake_is_one_line(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    done = hf_spam("compare", *arguments)
    lines = [line for line in done.err.splitlines() if not line.startswith("data.csv: ")]
    assert done.code == 1 and len(lines) == 1 and lines[0].startswith(f"hf-spam: {message}"), done.err
