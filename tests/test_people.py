"""Errors about files, columns and labels as people have them name what to type, which then works.

Files that are read without a flag are tested in `data/test_formats.py`.
"""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import flags_of, hf_spam
from datasets import Dataset
from small_data import delimited
from small_runs import SMALL

from hf_spam import finetune, load_sms_spam
from hf_spam.data.splits import fingerprints

HAM, SPAM = "not spam", "spam"
MESSAGES = [
    (SPAM, "WIN £500 now, txt CLAIM to 80703"),
    (HAM, "Running late; start without me"),
    (HAM, 'He said "ok", then left'),
    (SPAM, "Urgent! Call 0900 56183, today"),
    (HAM, "see you at six"),
]
WORDS = [({HAM: "ham", SPAM: "spam"}[label], text) for label, text in MESSAGES]
PLAIN = delimited([("label", "text"), *WORDS])


def labelled(ham: Any, spam: Any, header: tuple[str, str] = ("label", "text")) -> bytes:
    """Return a CSV with other words for the labels; several words for spam are used in turn."""
    spam = spam if isinstance(spam, list) else [spam]
    words = [(spam[i % len(spam)] if label == SPAM else ham, text) for i, (label, text) in enumerate(MESSAGES)]
    return delimited([header, *words])


# A file, the words of the error, and the flags that the error names
BODY = ("kind", "words")
ENRON = [("ID", "Subject", "Message", "Spam/Ham"), *((i, f"S{i}", text, word) for i, (word, text) in enumerate(WORDS))]
GREEK = PLAIN.decode().replace("WIN", "Νίκη").replace("£", "").encode("iso8859-7")
NULL_TEXTS = pd.DataFrame([*WORDS, ("ham", None), ("ham", " ")], columns=["label", "text"])
SKIP = "--skip-bad-rows"
REFUSED = {
    "legit": ("a.csv", labelled("legit", "spam"), "'legit'", "--label-map legit=ham"),
    "smishing": ("a.csv", labelled("ham", ["Spam", "Smishing"]), "'Smishing'", "--label-map Smishing=spam"),
    "1 and -1": ("a.csv", labelled(-1, 1), "'-1'", "--label-map -1=ham,1=spam"),
    "columns": ("a.csv", labelled(0, 1, BODY), "'kind', 'words'", "--label-column KIND --text-column Words"),
    "Enron": ("a.csv", delimited(ENRON), "'Spam/Ham'", "--label-column Spam/Ham"),
    "Greek": ("a.csv", GREEK, "line 2", "--encoding iso8859-7"),
    "empty texts": ("a.csv", PLAIN + b"ham,\nham,  \n", "line 7", SKIP),
    "null texts": ("a.jsonl", NULL_TEXTS.to_json(orient="records", lines=True).encode(), "line 6", SKIP),
    "no labels": ("a.csv", PLAIN + b"nan,hi\n,hi\n", "line 7", SKIP),
    "short rows": ("a.csv", PLAIN + b"ham\nspam\n", "line 7", SKIP),
    "unknown labels": ("a.csv", PLAIN + b"hamm,hi\n?,hi\n", "line 7", SKIP),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_remedy_in_an_error_works(case, tmp_path, caplog):
    """The bundled model is evaluated on the file: refused until the flags that the errors name are typed."""
    name, content, words, remedy = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    command = ["evaluate", "--data", tmp_path / name, "--json"]
    for flag in re.findall(r"--\S+(?: [^-]\S*| -\d\S*)?", remedy):
        refused = hf_spam(*command)
        assert refused.code == 1 and len(refused.err) <= 1000 and refused.err.count("\n") <= 3, refused
        assert name in refused.err and words in refused.err and flag.split()[0] in refused.err, refused.err
        assert "iconv" not in refused.err
        command += flag.split()
    done = hf_spam(*command)
    assert done.code == 0, done.err
    counted = json.loads(done.out)["sets"][name]
    assert (counted["messages"], counted["spam"]) == (5, 2)
    if remedy == SKIP:
        assert "eft out" in caplog.text and re.search(r"\b2\b", caplog.text), caplog.text


def test_score_has_the_flags_of_training(tmp_path):
    """Errors name them one after the other. A row without a text has neither label nor score."""
    (tmp_path / "a.jsonl").write_bytes('{"text": "привет"}\n{"text": null}\n{"text": " "}\n{"text"\n'.encode("cp1251"))
    score = ["score", tmp_path / "a.jsonl", tmp_path / "out.jsonl"]
    for flags in (["--encoding", "cp1251"], [SKIP]):
        refused = hf_spam(*score)
        assert refused.code == 1 and flags[0] in refused.err, refused
        score += flags
    done = hf_spam(*score)
    assert done.code == 0 and "2 without text" in done.err and "Left out 1 rows: line 4" in done.err, done
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in found] == ["привет", None, " "]
    assert [row["score"] is None and row["label"] is None for row in found] == [False, True, True]


# Training, on messages enough for a split

MANY = [(int(i % 3 == 0), f"{chr(97 + i % 9) * 4} {chr(97 + i // 9) * 5}") for i in range(90)]
RUN = {**SMALL, "max_steps": 1, "warmup_steps": 0}


def write(path: Path, rows: list, header: tuple = ("label", "text"), words: tuple = (0, 1)) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(delimited([header, *((words[label], text) for label, text in rows)]))
    return path


def test_a_label_map_is_remembered_by_the_model(tmp_path, caplog):
    """`train` says what labels mean; `evaluate` and `score` find the model's own data without any flag."""
    mine = write(tmp_path / "mine.csv", MANY, ("kind", "Body"), ("legit", "smishing"))
    flags = ["--label-map", "legit=ham,smishing=spam", "--label-column", "kind", "--text-column", "body"]
    pocket = ["--recipe", "pocket", *flags_of(RUN), "--data", mine, *flags]
    for command in (["train", "--output-dir", tmp_path / "out"], ["crossval", "--folds", 2]):
        done = hf_spam(*command, *pocket)
        assert done.code == 0, done.err
    assert "smishing (spam) 30, legit (ham) 60; from column kind, texts from Body" in caplog.text
    history = json.loads((tmp_path / "out/history.json").read_text())
    assert history["splits"] == fingerprints(load_sms_spam(write(tmp_path / "plain.csv", MANY)))
    report = hf_spam("evaluate", tmp_path / "out", "--data", mine, "--json")
    assert report.code == 0 and list(json.loads(report.out)["sets"]) == ["train", "validation", "test"], report.err
    scored = hf_spam("score", mine, tmp_path / "out.csv", "--model", tmp_path / "out")
    assert scored.code == 0 and "90 rows" in scored.err
    done = hf_spam("calibrate", tmp_path / "new", "--data", mine, *flags)
    assert done.code == 0, done.err


def test_tables_in_memory_are_read_like_files(tmp_path):
    """The same messages give the same splits, whatever they come in, also in `finetune`."""
    frame = pd.DataFrame(MANY, columns=["label", "text"])
    strings = frame.assign(label=frame["label"].map({0: "ham", 1: "spam"}))
    expected = fingerprints(load_sms_spam(write(tmp_path / "a.csv", MANY)))
    for data in (frame, Dataset.from_pandas(strings), Dataset.from_pandas(frame.rename(columns={"label": "labels"}))):
        assert fingerprints(load_sms_spam(data)) == expected
    assert finetune("pocket", data=frame.rename(columns=str.title), **RUN).history.splits == expected
