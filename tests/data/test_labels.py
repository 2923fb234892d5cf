"""Labels of any name: they arrive as they stand in the file, and what is no label is an error that names its place."""

import csv
import io
import json
import logging
import re

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import FOREIGN

from hf_spam import finetune
from hf_spam.data import sources
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.formats import LABELS, DataError
from hf_spam.data.labels import FEATURES, LABEL_NAMES, check_classes, features_of, label_names
from hf_spam.data.sources import check_splits, load_sms_spam, read_messages, read_sets
from hf_spam.data.splits import undersample

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], database=None)
COLUMNS = {"text_column": "body", "label_column": "kind"}


def named(dataset: Dataset) -> list[tuple[str, str]]:
    """Each message with the name of its label."""
    names = label_names(dataset)
    return [(names[label], text) for label, text in zip(dataset["label"][:], dataset["text"][:], strict=True)]


def write(path, rows) -> None:
    """Labels and texts in the columns `kind` and `body`, of which `kind` is the last, as the file's suffix says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, "body": text, "kind": label}) + "\n" for label, text in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame({"body": [text for _, text in rows], "kind": [label for label, _ in rows]}).to_parquet(path)
    else:
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter="," if path.suffix == ".csv" else "\t")
        writer.writerows([("id", "body", "kind"), *((i, text, label) for i, (label, text) in enumerate(rows))])
        path.write_bytes(out.getvalue().encode())


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(characters, max_size=6).map(str.strip).filter(bool)


@quick
@given(st.lists(names, min_size=2, max_size=5, unique=True), st.lists(st.text(characters).filter(str.strip)), st.data())
def test_labels_and_texts_come_back_as_they_were(tmp_path_factory, pool, texts, data):
    """From every format, in the same order; two readings of a file have the same classes."""
    rows = [*zip(pool, "abcde", strict=False), *((data.draw(st.sampled_from(pool)), text) for text in texts)]
    known = all(label.lower() in LABELS for label in pool)
    expected = [(LABEL_NAMES[LABELS[label.lower()]] if known else label, text) for label, text in rows]
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        path = tmp_path_factory.getbasetemp() / f"any{suffix}"
        write(path, rows)
        found = read_messages(path, one_label=True, **COLUMNS)
        assert named(found) == expected
        assert label_names(found) == (LABEL_NAMES if known else sorted(pool, key=natural(pool)))
        again = read_sets(path, **COLUMNS, classes=label_names(found)[::-1])[path.name]
        assert named(again) == expected and label_names(again) == (
            LABEL_NAMES if known and not set(pool) <= set(LABEL_NAMES) else label_names(found)[::-1]
        )


def natural(pool):
    ascii_number = all(label.removeprefix("-").isdigit() and label.isascii() for label in pool)
    return (lambda label: (int(label), label)) if ascii_number else None


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_texts_in_any_language_stay_byte_for_byte(suffix, tmp_path):
    rows = [(["اشتراك", "工作", "vacation é"][i % 3], text) for i, text in enumerate(FOREIGN)]
    write(tmp_path / f"a{suffix}", rows)
    found = named(read_messages(tmp_path / f"a{suffix}", **COLUMNS))
    assert [(label.encode(), text.encode()) for label, text in found] == [(a.encode(), b.encode()) for a, b in rows]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, -1], ["-1", "9", "10"]),  # by value, not as text
        (["10", "9", "x"], ["10", "9", "x"]),
        (["b", " a ", "B"], ["B", "a", "b"]),
        ([True, "yes"], ["True", "yes"]),
        (["ham", "Spam", "promotion"], ["Spam", "ham", "promotion"]),
        # What says ham or spam is that, wherever it stands.
        (["Ham", "SPAM"], LABEL_NAMES),
        ([True, False], LABEL_NAMES),
        ([1, 0], LABEL_NAMES),
    ],
)
def test_classes_and_their_order(labels, classes, tmp_path):
    rows = [(label, f"text {i}") for i, label in enumerate(labels)]
    write(tmp_path / "a.jsonl", rows)
    found = read_messages(tmp_path / "a.jsonl", **COLUMNS)
    assert label_names(found) == classes
    if classes is not LABEL_NAMES:
        assert [label for label, _ in named(found)] == [str(label).strip() for label in labels]
    else:
        assert found.features == FEATURES


@pytest.mark.parametrize("protocol", ["book", "full"])
def test_the_positive_label_comes_second_and_nothing_else_changes(protocol, tmp_path, caplog):
    """The same messages in the same splits, with the same names; a model's own order gives its splits again."""
    caplog.set_level(logging.INFO)
    rows = [
        (("fraud", "legit")[i % 2], f"{'free' if i % 2 else 'hi'} {chr(97 + i % 26) * (1 + i // 26)}")
        for i in range(80)
    ]
    write(tmp_path / "a.csv", rows)
    reading = {"protocol": protocol, **COLUMNS}
    by_default = load_sms_spam(tmp_path / "a.csv", **reading)
    assert caplog.text.endswith("labelled fraud, legit; the positive label is legit (--positive-label chooses)\n")
    caplog.clear()
    found = load_sms_spam(tmp_path / "a.csv", **reading, positive_label="fraud")
    assert caplog.text.endswith("labelled legit, fraud\n")
    for split in found:
        assert label_names(found[split]) == ["legit", "fraud"]
        assert sorted(named(found[split])) == sorted(named(by_default[split])) or protocol == "book"
    again = load_sms_spam(tmp_path / "a.csv", **reading, classes=["legit", "fraud"])
    assert {split: again[split][:] for split in again} == {split: found[split][:] for split in found}
    checked = check_splits(by_default, "fraud")
    for split in checked:
        assert label_names(checked[split]) == ["legit", "fraud"] and named(checked[split]) == named(by_default[split])
    assert check_splits(checked, "fraud")["train"][:] == checked["train"][:]


@pytest.mark.parametrize(
    ("labels", "positive", "message"),
    [
        (
            ["ham", "spam"],
            "ham",
            "the positive label must be spam if there is spam, not 'ham'",
        ),
        (["a", "Spam"], "a", "the positive label must be spam if there is spam, not 'a'"),
        (["a", "b"], "c", "the positive label must be one of two labels, not 'c'; found: a, b"),
        (["a", "b", "c"], "c", "the positive label must be one of two labels, not 'c'; found: a, b, c"),
    ],
)
def test_what_cannot_be_the_positive_label(labels, positive, message, tmp_path):
    write(tmp_path / "a.csv", [(label, "text") for label in labels])
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'a.csv'))}: {message}$"):
        read_messages(tmp_path / "a.csv", **COLUMNS, positive_label=positive)
    rows = Dataset.from_dict(
        {"text": labels, "label": range(len(labels))},
        features=Features({"text": Value("string"), "label": ClassLabel(names=labels)}),
    )
    with pytest.raises(DataError, match=f"^the data: {message}$"):
        check_splits(DatasetDict(train=rows), positive)


def test_spam_may_be_named_as_what_it_is(tmp_path):
    write(tmp_path / "a.csv", [("ham", "a"), ("spam", "b"), ("SPAM", "c")])
    assert label_names(read_messages(tmp_path / "a.csv", **COLUMNS, positive_label="spam")) == LABEL_NAMES
    write(tmp_path / "a.csv", [("zzz", "a"), ("Spam", "b")])
    assert label_names(read_messages(tmp_path / "a.csv", **COLUMNS)) == ["Spam", "zzz"]
    assert label_names(read_messages(tmp_path / "a.csv", **COLUMNS, positive_label="Spam")) == ["zzz", "Spam"]


TOPICS = Features({"text": Value("string"), "label": ClassLabel(names=["World", "Sports", "Business", "none"])})


def topics(size: int, first: int = 0) -> Dataset:
    """Messages of all topics but the last."""
    texts = [chr(97 + i % 26) * (1 + i // 26) for i in range(first, first + size)]
    return Dataset.from_dict({"text": texts, "label": [i % 3 for i in range(size)]}, features=TOPICS)


def test_a_classlabel_keeps_its_order_and_the_classes_that_do_not_occur(tmp_path, monkeypatch):
    """In a Parquet file, on the Hub and handed over; it needs no flag."""
    topics(60).to_parquet(tmp_path / "a.parquet")
    assert read_messages(tmp_path / "a.parquet").features == TOPICS
    for protocol in ("book", "full"):
        assert sum(map(len, load_sms_spam(tmp_path / "a.parquet", protocol=protocol).values())) == 60
    splits = DatasetDict(train=topics(60), validation=topics(9, 60), test=topics(9, 70))
    monkeypatch.setattr(sources, "load_dataset", lambda name: splits)
    loaded = load_sms_spam("owner/name")
    assert {name: part.to_list() for name, part in loaded.items()} == {
        name: part.to_list() for name, part in splits.items()
    }
    assert all(part.features == TOPICS for part in (*loaded.values(), *check_splits(splits).values()))


def test_a_models_labels_are_read_by_its_names(tmp_path):
    """In its order; a file that has some of them only, or says ham and spam, can be measured too."""
    write(tmp_path / "a.csv", [("b", "one"), ("c", "two")])
    found = read_messages(tmp_path / "a.csv", classes=["c", "a", "b"], **COLUMNS)
    assert found["label"][:] == [2, 0] and label_names(found) == ["c", "a", "b"]
    write(tmp_path / "two.csv", [("spam", "one"), ("ham", "two")])
    assert label_names(read_messages(tmp_path / "two.csv", classes=["spam", "ham", "promo"], **COLUMNS)) == [
        *("spam", "ham", "promo")
    ]
    assert label_names(read_messages(tmp_path / "two.csv", classes=["a", "b", "c"], **COLUMNS)) == LABEL_NAMES


# What is no label

KNOWN = "known: ham, not spam, not_spam, 0, 0.0, false, spam, 1, 1.0, true"
SECOND = '{"body": "a", "kind": "a"}\n{"body": "b", "kind": ?}\n'
ANOTHER = "does not look like a column of labels; name another with --label-column"
REFUSED = {
    "a label among known ones, no column named": (
        '{"text": "a", "label": "ham"}\n{"text": "b", "label": "work"}\n',
        {},
        f", line 2: unknown label 'work'; {KNOWN}; if these are your own classes, name their column: --label-column",
    ),
    "not the model's": (
        SECOND.replace("?", '"x"'),
        {"classes": ["a", "b"]},
        ", line 2: unknown label 'x'; known: a, b",
    ),
    "not the bundled model's": (
        '{"body": "a", "kind": "spam"}\n{"body": "b", "kind": "x"}\n',
        {"classes": LABEL_NAMES},
        f", line 2: unknown label 'x'; {KNOWN}",
    ),
    "no such label column": (
        '{"body": "a", "label": "a"}\n',
        {},
        ", line 1: there is no label column ('kind'); found: ['body', 'label']; name it with --label-column",
    ),
    "NaN": (SECOND.replace("?", "NaN"), {}, ", line 2: the label is missing"),
    "a list": (
        SECOND.replace("?", '["b"]'),
        {},
        ", line 2: a label must be a string, a number or a boolean, not ['b']",
    ),
    "half a surrogate pair": (
        SECOND.replace("?", '"\\ud800"'),
        {},
        ", line 2: the label is not valid Unicode: '\\ud800'",
    ),
    "one class": ('{"body": "a", "kind": "a"}\n', {}, ": every message is 'a'; at least two labels are needed"),
    "the texts": (
        "".join(f'{{"body": "a{i}", "kind": "b{i}"}}\n' for i in range(30)),
        {},
        f": 30 different labels in 30 messages, so kind {ANOTHER}",
    ),
    "identifiers": (
        "".join(f'{{"body": "a", "kind": {i % 1001}}}\n' for i in range(3000)),
        {},
        f": 1,001 different labels in 3,000 messages, so kind {ANOTHER}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_label_is_refused_in_one_line(case, tmp_path):
    data, reading, message = REFUSED[case]
    reading = {**COLUMNS, **reading} if "body" in data else reading
    path = tmp_path / "a.jsonl"
    path.write_text(data)
    with pytest.raises(DataError) as caught:
        read_messages(path, **reading)
    assert str(caught.value) == f"{path}{message}"


def test_a_class_without_a_message_of_a_classlabel_is_refused(tmp_path):
    Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]}, features=TOPICS).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 2: unknown label -1; known: World, Sports, Business, none$"):
        read_messages(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train": TOPICS, "test": FEATURES},
            r"test: its classes .* differ from those of train, \['World",
        ),
        ({"train": Features({"text": Value("string"), "label": ClassLabel(names=["a"])})}, "every message is 'a'"),
    ],
)
def test_splits_handed_over_have_the_same_classes(splits, message):
    data = {name: Dataset.from_dict({"text": ["a"], "label": [0]}, features=kind) for name, kind in splits.items()}
    with pytest.raises(DataError, match=message):
        check_splits(DatasetDict(data))
    unlabelled = Dataset.from_dict({"text": ["a"], "label": [-1]}, features=TOPICS)
    with pytest.raises(DataError, match=r"train, row 1: unknown label -1; known: World, Sports"):
        check_splits(DatasetDict(train=unlabelled))


def test_a_misspelt_label_is_pointed_out_before_the_training(caplog):
    """One message in many, in splits that came with the data; where it is in the test split alone, it is an error."""
    features, small = features_of(["ham", "sp\x1bma", "spam"]), {"n_embd": 16, "n_head": 2, "vocab_size": 300}
    texts = [f"{'win' if label else 'meet'} {n}" for n, label in enumerate([0, 2] * 8)]

    def splits(train: int, test: int) -> DatasetDict:
        labels = [0, 2] * 8
        train, test = (Dataset.from_dict({"text": texts, "label": [x, *labels[1:]]}, features) for x in (train, test))
        return DatasetDict(train=train, test=test)

    finetune("pocket", data=splits(1, 0), max_steps=1, eval_iter=1, **small)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[0] == "Few training messages: 1 labelled 'sp\\x1bma'. Is a label misspelt?" and len(warnings) == 1
    assert check_classes(splits(0, 2)) == ""
    with pytest.raises(DataError, match=r"^test: there are messages labelled 'sp\\x1bma', but none in train$"):
        finetune("pocket", data=splits(0, 1), **small)


# Splits of several classes


@pytest.fixture
def three(tmp_path):
    """A file of 120, 60 and 20 messages, each of which has a near duplicate in its class."""
    rows = [(label, f"{label} {chr(97 + i % 26) * (1 + i // 26)}") for label, n in SIZES.items() for i in range(n // 2)]
    write(tmp_path / "a.csv", rows + [(label, text.upper() + "!") for label, text in rows])
    return tmp_path / "a.csv"


SIZES = {"work": 120, "home": 60, "rare": 20}


def test_the_full_split_is_stratified_by_every_label(three):
    splits = load_sms_spam(three, **COLUMNS)
    seen = [set(map(duplicate_key, part["text"][:])) for part in splits.values()]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 100
    for part, share in zip(splits.values(), (0.7, 0.1, 0.2), strict=True):
        for label, size in SIZES.items():
            assert sum(name == label for name, _ in named(part)) == pytest.approx(size * share, abs=1)


def test_the_book_split_and_undersampling_go_down_to_the_rarest(three):
    """Every message at most once; undersampling leaves the test split as it is."""
    splits = load_sms_spam(three, protocol="book", **COLUMNS)
    drawn = [row for part in splits.values() for row in named(part)]
    assert [len(part) for part in splits.values()] == [42, 6, 12] and len(set(drawn)) == 60
    assert {label: sum(name == label for name, _ in drawn) for label in SIZES} == dict.fromkeys(SIZES, 20)
    train = load_sms_spam(three, **COLUMNS)["train"]
    rows = named(undersample(train, 1))
    assert {label: sum(name == label for name, _ in rows) for label in SIZES} == dict.fromkeys(SIZES, 14)
    places = [named(train).index(row) for row in rows]
    assert places == sorted(set(places)) and rows == named(undersample(train, 1)) != named(undersample(train, 2))


def test_labels_of_strangers_do_not_drive_the_terminal(tmp_path, caplog):
    """The log names them, as it may; the classes keep their names."""
    caplog.set_level(logging.INFO, logger="hf_spam")
    names = ["a\x1b[2J", "b"]
    (tmp_path / "m.csv").write_text("body,kind\n" + "".join(f"text {i},{name}\n" for i, name in enumerate(names)))
    assert label_names(read_messages(tmp_path / "m.csv", **COLUMNS)) == names
    assert "labelled a\ufffd[2J, b" in caplog.text and "\x1b" not in caplog.text
