"""Files, columns and labels as people have them are read rightly, or an error names what to type, which then works."""

import csv
import gzip
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import Result, hf_spam
from datasets import Dataset, DatasetDict
from small_runs import SMALL

from hf_spam import SpamClassifier, finetune, load_sms_spam
from hf_spam.data.formats import DataError
from hf_spam.data.sources import read_messages

HAM, SPAM = "not spam", "spam"
MESSAGES = [
    (SPAM, "WIN £500 now, txt CLAIM to 80703"),
    (HAM, "Running late; start without me"),
    (HAM, 'He said "ok", then left'),
    (SPAM, "Urgent! Call 0900 56183, today"),
    (HAM, "see you at six"),
]
WORDS = [({HAM: "ham", SPAM: "spam"}[label], text) for label, text in MESSAGES]


def table(rows: list, delimiter: str = ",", end: str = "\n", **how: Any) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end, **how).writerows(rows)
    return out.getvalue()


def plain(*how: str, **options: Any) -> str:
    return table([("label", "text"), *WORDS], *how, **options)


def labelled(ham: Any, spam: Any, header: tuple[str, str] = ("label", "text")) -> bytes:
    """Return a CSV with other words for the labels; several words for one label are used in turn."""
    ham, spam = [one if isinstance(one, list) else [one] for one in (ham, spam)]
    words = [(spam if label == SPAM else ham, text) for label, text in MESSAGES]
    return table([header, *((of[i % len(of)], text) for i, (of, text) in enumerate(words))]).encode()


def zipped(name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


PLAIN = plain()
CUT = [(label, *text.split(","), *[""] * (2 - text.count(","))) for label, text in WORDS]  # at commas, as in Kaggle's
KAGGLE, RESAVED = ["v1", "v2", "", ""], ["v1", "v2", "Unnamed: 2", "Unnamed: 3"]
NULLS = pd.DataFrame([[cell or None for cell in row] for row in CUT], columns=RESAVED)
NAMES = [("labels", "text"), ("v1", "v2"), ("Category", "Message"), ("Label", "Text")]

# Read without a flag
READ = {
    "semicolons, BOM, CRLF": ("a.csv", plain(";", "\r\n").encode("utf-8-sig")),
    "Excel's sep line": ("a.csv", f"sep=,\r\n{PLAIN}".encode("utf-8-sig")),
    "Excel's sep line, semicolon": ("a.csv", ("sep=;\r\n" + plain(";", "\r\n")).encode()),
    "tabs in a .csv": ("a.csv", plain("\t").encode()),
    "Excel's Unicode text": ("a.csv", plain("\t", "\r\n").encode("utf-16")),
    "UTF-16 without a mark": ("a.csv", PLAIN.encode("utf-16-le")),
    "Windows-1252": ("a.csv", PLAIN.encode("cp1252")),
    "no header, the text first": ("a.csv", table([(text, label) for label, text in WORDS], "|").encode()),
    "a table in a .txt": ("a.txt", table(WORDS, "\t").encode()),
    "an array": ("a.json", json.dumps([{"text": text, "label": label} for label, text in WORDS]).encode()),
    "backslashes": ("a.csv", plain(escapechar="\\", doublequote=False).encode()),
    "Kaggle": ("spam.csv", table([KAGGLE, *CUT]).encode("latin-1")),
    "Kaggle, saved by pandas": ("spam.csv", table([RESAVED, *CUT]).encode()),
    "Kaggle, in Parquet": ("spam.parquet", NULLS.to_parquet()),
    "Kaggle, in JSON": ("a.jsonl", NULLS.to_json(orient="records", lines=True).encode()),
    "extra empty cells": ("a.csv", PLAIN.replace("\n", ",,\n").encode()),
    "gz": ("a.csv.gz", gzip.compress(PLAIN.encode())),
    "zip": ("a.zip", zipped("spam.csv", table([KAGGLE, *CUT]).encode("latin-1"))),
    **{text: ("a.csv", table([(label, text), *WORDS]).encode()) for label, text in NAMES},
    "case of labels": ("a.csv", labelled(["Ham", "ham", "HAM "], ["Spam", "spam"])),
}


def read(path: Path, **how: Any) -> list[tuple[str, str]]:
    messages = read_messages(path, **how)
    names = messages.features["label"].names
    return [(names[label], text) for label, text in zip(messages["label"][:], messages["text"][:], strict=True)]


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    texts = [text for _, text in MESSAGES]
    return dict(zip(texts, SpamClassifier.from_pretrained().predict(texts), strict=True))


@pytest.mark.parametrize("case", READ)
def test_common_files_need_no_flag(case, tmp_path, answers):
    """They are read alike for training and by `score`, which needs no labels and keeps the rows."""
    path = tmp_path / READ[case][0]
    path.write_bytes(READ[case][1])
    assert read(path) == MESSAGES
    output = tmp_path / ("out.jsonl" if path.suffix in (".json", ".jsonl", ".parquet") else "out.csv")
    done = hf_spam("score", path, output, "--prefix", "pred_")
    assert done.code == 0, done.err
    found = pd.read_csv(output) if output.suffix == ".csv" else pd.read_json(output, lines=True)
    assert found["pred_label"].to_list() == [answers[text] for _, text in MESSAGES]


def test_a_header_above_the_uci_file_does_not_give_its_quotes_a_meaning(tmp_path):
    texts = ['"Oh well" she said', '"WIN now, txt CLAIM', "he is 6'2\" tall", 'Call me "later']
    (tmp_path / "a.tsv").write_text("\n".join(["label\tmessage", *(f"ham\t{text}" for text in texts)]))
    assert [text for _, text in read(tmp_path / "a.tsv", allow_single_label=True)] == texts


# A file, the words of the error, and the flags that the error names
BODY = ("kind", "words")
ENRON = [("ID", "Subject", "Message", "Spam/Ham"), *((i, f"S{i}", text, word) for i, (word, text) in enumerate(WORDS))]
GREEK = PLAIN.replace("WIN", "Νίκη").replace("£", "").encode("iso8859-7")
CYRILLIC = PLAIN.replace("WIN", "Привет").replace("£", "").encode("cp1251")
NULL_TEXTS = pd.DataFrame([*WORDS, ("ham", None), ("ham", " ")], columns=["label", "text"])
SKIP = "--skip-bad-rows"
REFUSED = {
    "legit": ("a.csv", labelled("legit", "spam"), "'legit'", "--label-map legit=ham"),
    "smishing": ("a.csv", labelled("ham", ["Spam", "Smishing"]), "'Smishing'", "--label-map Smishing=spam"),
    "case": ("a.csv", labelled(["Legit", "legit"], "Spam"), "'legit'", "--label-map legit=ham"),
    "yes and no": ("a.csv", labelled("no", "yes"), "'yes'", "--label-map yes=spam,no=ham"),
    "1 and -1": ("a.csv", labelled(-1, 1), "'-1'", "--label-map -1=ham,1=spam"),
    "columns": ("a.csv", labelled(0, 1, BODY), "'kind', 'words'", "--label-column kind --text-column words"),
    "their case": ("a.csv", labelled(0, 1, BODY), "'kind', 'words'", "--label-column KIND --text-column Words"),
    "Enron": ("a.csv", table(ENRON).encode(), "'Spam/Ham'", "--label-column Spam/Ham"),
    "Greek": ("a.csv", GREEK, "line 2", "--encoding iso8859-7"),
    "cp1251": ("a.csv", CYRILLIC, "line 2", "--encoding cp1251"),
    "empty texts": ("a.csv", (PLAIN + "ham,\nham,  \n").encode(), "line 7", SKIP),
    "null texts": ("a.jsonl", NULL_TEXTS.to_json(orient="records", lines=True).encode(), "line 6", SKIP),
    "no labels": ("a.csv", (PLAIN + "nan,hi\n,hi\n").encode(), "line 7", SKIP),
    "short rows": ("a.csv", (PLAIN + "ham\nspam\n").encode(), "line 7", SKIP),
    "unknown labels": ("a.csv", (PLAIN + "hamm,hi\n?,hi\n").encode(), "line 7", SKIP),
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


GREEK_MESSAGES = [(label, text.replace("WIN", "Νίκη").replace("£", "")) for label, text in MESSAGES]
OWN = [({HAM: "work", SPAM: "home"}[label], text) for label, text in MESSAGES]
INVERTED = pd.DataFrame([(int(label == HAM), text) for label, text in MESSAGES], columns=["label", "text"]).to_parquet()
MIXED = labelled(["legit", "Legit"], ["spam", "smishing"])
FLAGGED = {
    "Greek": ("a.csv", GREEK, {"encoding": "iso8859-7"}, GREEK_MESSAGES),
    "0 is spam": ("a.csv", labelled(1, 0), {"label_map": "0=spam,1=ham"}, MESSAGES),
    "0 is spam, a dict": ("a.csv", labelled(1, 0), {"label_map": {"0": "spam", "1": "ham"}}, MESSAGES),
    "0 is spam, integers": ("a.parquet", INVERTED, {"label_map": "0=spam,1=ham"}, MESSAGES),
    "case": ("a.csv", MIXED, {"label_map": "legit=ham,smishing=spam"}, MESSAGES),
    "empty text": ("a.csv", (PLAIN + "ham,\n").encode(), {"skip_bad_rows": True}, MESSAGES),
    "own classes": ("a.csv", labelled(["Work", "work"], ["home", "Home "]), {"label_column": "label"}, OWN),
}


@pytest.mark.parametrize("case", FLAGGED)
def test_flags_give_the_true_messages(case, tmp_path):
    """Labels that differ in case alone are one class."""
    name, content, flags, expected = FLAGGED[case]
    (tmp_path / name).write_bytes(content)
    found = read(tmp_path / name, **flags)
    assert [(label.lower(), text) for label, text in found] == expected
    assert len({label for label, _ in found}) == 2


def test_two_columns_make_a_text(tmp_path):
    """An empty or blank one of the two adds nothing; a row in which both are has no text."""
    rows = [("Subject", "Message", "Category"), ("WIN big", "txt CLAIM", "spam"), (" ", "see you", "ham")]
    (tmp_path / "a.csv").write_text(table([*rows, ("late", "", "ham")]))
    texts = [text for _, text in read(tmp_path / "a.csv", text_column="Subject,Message")]
    assert texts == ["WIN big\ntxt CLAIM", "see you", "late"]
    done = hf_spam("score", tmp_path / "a.csv", tmp_path / "out.csv", "--text-column", "subject,message")
    assert done.code == 0 and pd.read_csv(tmp_path / "out.csv")["Subject"].to_list()[0] == "WIN big", done.err
    (tmp_path / "a.csv").write_text(table([*rows, ("", " ", "ham")]))
    with pytest.raises(DataError, match="line 4"):
        read(tmp_path / "a.csv", text_column="Subject,Message")


INBOX = b"text,id\nhello there,1\n,2\n   ,3\nWIN cash now,4\n"
SCORED = {
    "cp1252": ("lat.txt", "price €500\nhello\n".encode("cp1252"), "", ["price €500", "hello"]),
    "cp1251": ("a.txt", "привет\nhello\n".encode("cp1251"), "--encoding cp1251", ["привет", "hello"]),
    "UTF-16": ("a.txt", "price €500\nhello\n".encode("utf-16"), "", ["price €500", "hello"]),
    "null in JSON": ("a.jsonl", b'{"text": "hello"}\n{"text": null}\n', "", ["hello", None]),
    "null in Parquet": ("a.parquet", pd.DataFrame({"text": ["you", None]}).to_parquet(), "", ["you", None]),
    "empty": ("inbox.csv", INBOX, "", ["hello there", "", "   ", "WIN cash now"]),
    "broken": ("a.jsonl", b'{"text": "hello"}\n{"text"\n', SKIP, ["hello"]),
}


@pytest.mark.parametrize("case", SCORED)
def test_score_has_the_flags_of_training(case, tmp_path):
    """Without the flag an error names it. A row without a text has neither label nor score."""
    name, content, flags, rows = SCORED[case]
    (tmp_path / name).write_bytes(content)
    score = ["score", tmp_path / name, tmp_path / "out.jsonl"]
    if flags:
        refused = hf_spam(*score)
        assert refused.code == 1 and flags.split()[0] in refused.err and "iconv" not in refused.err, refused
    done = hf_spam(*score, *flags.split())
    assert done.code == 0, done
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    missing = [not (text or "").strip() for text in rows]
    assert [row["text"] for row in found] == rows
    assert [row["score"] is None and row["label"] is None for row in found] == missing
    assert (f"{sum(missing)} without text" in done.err) == any(missing), done.err
    assert ("Left out 1 rows: line 2" in done.err) == (flags == SKIP), done.err


# Training, on messages enough for a split

MANY = [(int(i % 3 == 0), f"{chr(97 + i % 9) * 4} {chr(97 + i // 9) * 5}") for i in range(90)]
RUN = {**SMALL, "max_steps": 1, "warmup_steps": 0}
FLAGS = [word for name, value in RUN.items() for word in (f"--{name.replace('_', '-')}", value)]


def write(path: Path, rows: list, header: tuple = ("label", "text"), words: tuple = (0, 1)) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(table([header, *((words[label], text) for label, text in rows)]))
    return path


def train(*arguments: object) -> Result:
    done = hf_spam("train", "--recipe", "pocket", *FLAGS, *arguments)
    assert done.code == 0, done.err
    return done


def test_a_label_map_is_remembered_by_the_model(tmp_path, caplog):
    """`train` says what labels mean; `evaluate` and `score` find the model's own data without any flag."""
    plain = write(tmp_path / "plain.csv", MANY)
    mine = write(tmp_path / "mine.csv", MANY, ("kind", "Body"), ("legit", "smishing"))
    flags = ["--label-map", "legit=ham,smishing=spam", "--label-column", "kind", "--text-column", "body"]
    done = train("--data", mine, *flags, "--output-dir", tmp_path / "out")
    assert "smishing (spam) 30, legit (ham) 60; from column kind, texts from Body" in caplog.text
    train("--data", plain, "--output-dir", tmp_path / "same")
    ours, theirs = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("out", "same"))
    assert ours["splits"] == theirs["splits"]
    report = hf_spam("evaluate", tmp_path / "out", "--data", mine, "--json")
    assert report.code == 0 and list(json.loads(report.out)["sets"]) == ["train", "validation", "test"], report.err
    scored = hf_spam("score", mine, tmp_path / "out.csv", "--model", tmp_path / "out")
    assert scored.code == 0 and "90 rows" in scored.err
    for command in (["calibrate", tmp_path / "new"], ["crossval", "--recipe", "pocket", "--folds", 2, *FLAGS]):
        done = hf_spam(*command, "--data", mine, *flags)
        assert done.code == 0, done.err


def test_a_folder_with_the_books_three_files(tmp_path):
    """The folder's own splits are kept, by `train`, `evaluate` and `load_sms_spam`."""
    sizes = {"train": MANY[:60], "validation": MANY[60:70], "test": MANY[70:]}
    for split, rows in sizes.items():
        write(tmp_path / "own" / f"{split}.csv", rows, ("Label", "Text"))
    splits = load_sms_spam(tmp_path / "own")
    for split, rows in sizes.items():
        assert list(zip(splits[split]["label"][:], splits[split]["text"][:], strict=True)) == rows
    train("--data", tmp_path / "own", "--output-dir", tmp_path / "out")
    report = hf_spam("evaluate", tmp_path / "out", "--data", tmp_path / "own", "--json")
    sets = json.loads(report.out)["sets"]
    assert {name: values["messages"] for name, values in sets.items()} == {"train": 60, "validation": 10, "test": 20}


FRAME = pd.DataFrame(MANY, columns=["label", "text"])
STRINGS = FRAME.assign(label=FRAME["label"].map({0: "ham", 1: "spam"}))
OTHER_FORMS = {
    "DataFrame": FRAME.rename(columns=str.title),
    "Dataset": Dataset.from_pandas(STRINGS),
    "labels": Dataset.from_pandas(FRAME.rename(columns={"label": "labels"})),
    "DatasetDict": DatasetDict(train=Dataset.from_pandas(STRINGS.rename(columns=str.title))),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_finetune_takes_what_the_reader_of_files_takes(form, tmp_path):
    """The same messages give the same splits, whatever they come in."""
    file = str(write(tmp_path / "a.csv", MANY))
    plain = DatasetDict(train=Dataset.from_pandas(FRAME)) if form == "DatasetDict" else file
    found = finetune("pocket", data=OTHER_FORMS[form], **RUN).history.splits
    assert found == finetune("pocket", data=plain, **RUN).history.splits and found["train"]["messages"] > 60
