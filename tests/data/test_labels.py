"""Labels of any name are read unchanged; an invalid one is an error that names its place."""

import json
import logging
import re

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import delimited

from hf_spam.data.formats import DataError
from hf_spam.data.labels import FEATURES, LABEL_NAMES, check_classes, features_of, label_names
from hf_spam.data.reading import LABELS, label_key
from hf_spam.data.sources import check_splits, load_sms_spam, read_messages, read_sets

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], database=None)
COLUMNS = {"text_column": "body", "label_column": "kind"}


def named(dataset: Dataset) -> list[tuple[str, str]]:
    """Return each message with the name of its label."""
    names = label_names(dataset)
    return [(names[label], text) for label, text in zip(dataset["label"][:], dataset["text"][:], strict=True)]


def write(path, rows) -> None:
    """Write labels and texts in the columns `kind` and `body`, in the format of the suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, "body": text, "kind": label}) + "\n" for label, text in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame({"body": [text for _, text in rows], "kind": [label for label, _ in rows]}).to_parquet(path)
    else:
        table = [("id", "body", "kind"), *((i, text, label) for i, (label, text) in enumerate(rows))]
        path.write_bytes(delimited(table, "," if path.suffix == ".csv" else "\t"))


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(characters, max_size=6).map(str.strip).filter(label_key)


@quick
@given(
    st.lists(names, min_size=2, max_size=5, unique=True),
    st.lists(st.text(characters).filter(str.strip)),
    st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    st.data(),
)
def test_labels_and_texts_are_read_unchanged(tmp_path_factory, pool, texts, suffix, data):
    """The order is kept in every format, with and without the classes of a model."""
    pool = list({label_key(label): label for label in pool}.values())
    rows = [*zip(pool, "abcde", strict=False), *((data.draw(st.sampled_from(pool)), text) for text in texts)]
    known = all(label.lower() in LABELS for label in pool)
    expected = [(LABEL_NAMES[LABELS[label.lower()]] if known else label, text) for label, text in rows]
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    write(path, rows)
    found = read_messages(path, allow_single_label=True, **COLUMNS)
    assert named(found) == expected
    assert label_names(found) == (LABEL_NAMES if known else sorted(pool, key=natural(pool)))
    again = read_sets(path, **COLUMNS, classes=label_names(found)[::-1])[path.name]
    assert named(again) == expected and label_names(again) == (
        LABEL_NAMES if known and not set(pool) <= set(LABEL_NAMES) else label_names(found)[::-1]
    )


def natural(pool):
    ascii_number = all(label.removeprefix("-").isdigit() and label.isascii() for label in pool)
    return (lambda label: (int(label), label)) if ascii_number else None


@pytest.mark.parametrize(
    ("labels", "reading", "classes"),
    [
        ([10, 9, -1], {}, ["-1", "9", "10"]),  # by value, not as text
        (["10", "9", "x"], {}, ["10", "9", "x"]),
        (["b", " a ", "B"], {}, ["a", "b"]),  # case and white space make no classes
        ([True, "yes"], {}, ["True", "yes"]),
        (["ham", "Spam", "promotion"], {}, ["Spam", "ham", "promotion"]),
        (["zzz", "Spam"], {}, ["Spam", "zzz"]),
        (["zzz", "Spam"], {"positive_label": "Spam"}, ["zzz", "Spam"]),
        # Of a model, in its order; the file may have only some of them
        (["b", "c"], {"classes": ["c", "a", "b"]}, ["c", "a", "b"]),
        (["spam", "ham"], {"classes": ["spam", "ham", "promo"]}, ["spam", "ham", "promo"]),
        # Words for ham and spam
        (["Ham", "SPAM"], {}, LABEL_NAMES),
        ([True, False], {}, LABEL_NAMES),
        ([1, 0], {}, LABEL_NAMES),
        (["ham", "spam", "SPAM"], {"positive_label": "spam"}, LABEL_NAMES),
        (["spam", "ham"], {"classes": ["a", "b", "c"]}, LABEL_NAMES),
    ],
)
def test_classes_and_their_order(labels, reading, classes, tmp_path):
    rows = [(label, f"text {i}") for i, label in enumerate(labels)]
    write(tmp_path / "a.jsonl", rows)
    found = read_messages(tmp_path / "a.jsonl", **COLUMNS, **reading)
    assert label_names(found) == classes
    if classes is not LABEL_NAMES:
        assert [label_key(label) for label, _ in named(found)] == [label_key(label) for label in labels]
    else:
        assert found.features["label"] == FEATURES["label"]


def test_the_positive_label_comes_second(tmp_path, caplog):
    """Nothing else changes, and the class order of a model gives the same splits."""
    caplog.set_level(logging.INFO)
    texts = [f"{'free' if i % 2 else 'hi'} {chr(97 + i % 26) * (1 + i // 26)}" for i in range(80)]
    write(tmp_path / "a.csv", [(("fraud", "legit")[i % 2], text) for i, text in enumerate(texts)])
    by_default = load_sms_spam(tmp_path / "a.csv", **COLUMNS)
    assert "80 messages: fraud 40, legit 40; from column kind, texts from body" in caplog.text
    assert caplog.text.endswith("The positive label is legit (change it with --positive-label)\n")
    found = load_sms_spam(tmp_path / "a.csv", **COLUMNS, positive_label="fraud")
    assert caplog.text.count("The positive label") == 1
    again = load_sms_spam(tmp_path / "a.csv", **COLUMNS, classes=["legit", "fraud"])
    checked = check_splits(by_default, positive_label="fraud")
    for split in found:
        assert label_names(found[split]) == ["legit", "fraud"] == label_names(checked[split])
        assert sorted(named(found[split])) == sorted(named(by_default[split])) == sorted(named(checked[split]))
        assert again[split][:] == found[split][:]


@pytest.mark.parametrize(
    ("labels", "positive", "message"),
    [
        (["a", "Spam"], "a", "a class is named spam, so it must be the positive label, not 'a'"),
        (["a", "b", "c"], "c", "the positive label must be one of two labels, not 'c'; found: a, b, c"),
    ],
)
def test_an_impossible_positive_label_is_refused(labels, positive, message, tmp_path):
    write(tmp_path / "a.csv", [(label, "text") for label in labels])
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'a.csv'))}: {message}$"):
        read_messages(tmp_path / "a.csv", **COLUMNS, positive_label=positive)


TOPICS = features_of(["World", "Sports", "Business", "none"])


def topics(size: int, first: int = 0) -> Dataset:
    """Return messages of all topics but the last."""
    texts = [chr(97 + i % 26) * (1 + i // 26) for i in range(first, first + size)]
    return Dataset.from_dict({"text": texts, "label": [i % 3 for i in range(size)]}, features=TOPICS)


def test_a_classlabel_keeps_its_order_and_its_unused_classes(tmp_path):
    """In a Parquet file, or passed as splits, without any flag."""
    topics(60).to_parquet(tmp_path / "a.parquet")
    assert read_messages(tmp_path / "a.parquet").features["label"] == TOPICS["label"]
    for protocol in ("book", "full"):
        assert sum(map(len, load_sms_spam(tmp_path / "a.parquet", protocol=protocol).values())) == 60
    splits = DatasetDict(train=topics(60), validation=topics(9, 60), test=topics(9, 70))
    loaded = load_sms_spam(splits)
    assert all(loaded[name].to_list() == splits[name].to_list() for name in splits)
    assert all(part.features == TOPICS for part in (*loaded.values(), *check_splits(splits).values()))


# Errors


def second(label: str) -> str:
    return f'{{"body": "a", "kind": "a"}}\n{{"body": "b", "kind": {label}}}\n'


SKIP = "; --skip-bad-rows leaves such rows out"
ADD = "say what it means by adding x=ham or x=spam to --label-map, after a comma"
KNOWN = "known: ham, spam, 0, 1, true, false"
ONE_CLASS = "at least two classes are needed; --label-map says what labels mean, for example 0=spam,1=ham"


ANOTHER = "is not a label column; name another with --label-column"
REFUSED = {
    "not the model's": (
        second('"x"'),
        {"classes": ["a", "b"]},
        f", line 2: unknown label 'x'; known: a, b; say what it means with --label-map x=a or x=b{SKIP}",
    ),
    "another label of the map": (
        second('"x"'),
        {"label_map": "a=ham"},
        f", line 2: unknown label 'x'; {KNOWN}; {ADD}{SKIP}",
    ),
    "a comma": (
        second('"x, y"'),
        {"label_map": "a=ham"},
        f", line 2: unknown label 'x, y'; {KNOWN}; rename it{SKIP}",
    ),
    "no such label column": (
        '{"body": "a", "label": "a"}\n',
        {},
        ", line 1: there is no label column 'kind'; found: ['body', 'label']; name it with --label-column",
    ),
    "NaN": (second("NaN"), {}, f", line 2: the label is missing{SKIP}"),
    "a list": (second("[1]"), {}, f", line 2: the label is not a string, a number or a boolean: [1]{SKIP}"),
    "one class": ('{"body": "a", "kind": "a"}\n', {}, f": every message is 'a' (labels: a); {ONE_CLASS}"),
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
def test_a_bad_label_is_refused_in_one_line(case, tmp_path):
    data, reading, message = REFUSED[case]
    path = tmp_path / "a.jsonl"
    path.write_text(data)
    with pytest.raises(DataError) as caught:
        read_messages(path, **COLUMNS, **reading)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": TOPICS, "test": FEATURES}, "^test, row 1: unknown label 'not spam'; known: World, Sports"),
        ({"train": features_of(["a"])}, "every message is 'a'"),
    ],
)
def test_passed_splits_must_have_the_same_classes(splits, message):
    data = {name: Dataset.from_dict({"text": ["a"], "label": [0]}, features=kind) for name, kind in splits.items()}
    with pytest.raises(DataError, match=message):
        check_splits(DatasetDict(data))


def test_a_misspelt_label_is_reported():
    """A rare label is reported; one that is only in the test split is an error."""
    features = features_of(["ham", "sp\x1bma", "spam"])

    def splits(train: int, test: int) -> DatasetDict:
        parts = {"train": [train, *[0, 2] * 8], "test": [test, *[0, 2] * 8]}
        return DatasetDict(
            {name: Dataset.from_dict({"text": ["a"] * 17, "label": labels}, features) for name, labels in parts.items()}
        )

    assert check_classes(splits(1, 0)) == "1 labelled 'sp\\x1bma'" and check_classes(splits(0, 2)) == ""
    with pytest.raises(DataError, match=r"^test: there are messages labelled 'sp\\x1bma', but none in train$"):
        check_classes(splits(0, 1))


def test_splits_of_several_classes(tmp_path):
    """The full split is stratified by class; the book's split samples every class down to the rarest."""
    sizes, three = {"work": 120, "home": 60, "rare": 20}, tmp_path / "a.csv"  # half of them near-duplicates
    rows = [(label, f"{label} {chr(97 + i % 26) * (1 + i // 26)}") for label, n in sizes.items() for i in range(n // 2)]
    write(three, rows + [(label, text.upper() + "!") for label, text in rows])
    for split, share in zip(load_sms_spam(three, **COLUMNS).values(), (0.7, 0.1, 0.2), strict=True):
        for label, size in sizes.items():
            assert sum(name == label for name, _ in named(split)) == pytest.approx(size * share, abs=1)
    splits = load_sms_spam(three, protocol="book", **COLUMNS)
    drawn = [row for part in splits.values() for row in named(part)]
    assert [len(part) for part in splits.values()] == [42, 6, 12] and len(set(drawn)) == 60
    assert {label: sum(name == label for name, _ in drawn) for label in sizes} == dict.fromkeys(sizes, 20)


def test_control_characters_in_labels_do_not_reach_the_terminal(tmp_path, caplog):
    """The log replaces them; the classes keep their names."""
    caplog.set_level(logging.INFO, logger="hf_spam")
    names = ["a\x1b[2J", "b"]
    (tmp_path / "m.csv").write_text("body,kind\n" + "".join(f"text {i},{name}\n" for i, name in enumerate(names)))
    assert label_names(read_messages(tmp_path / "m.csv", **COLUMNS)) == names
    assert "a\ufffd[2J 1, b 1" in caplog.text and "\x1b" not in caplog.text


# The label map


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ("legit", "label map: 'legit' is not OLD=NEW; write, for example, legit=ham,smishing=spam"),
        ("legit=", "label map: 'legit=' is not OLD=NEW; write, for example, legit=ham,smishing=spam"),
        ("0=spam,0=ham", "label map: '0' cannot mean both 'spam' and 'not spam'"),
    ],
)
def test_a_label_map_that_cannot_be_read_is_refused(label_map, message, tmp_path):
    write(tmp_path / "a.csv", [("a", "one"), ("b", "two")])
    with pytest.raises(DataError) as caught:
        read_messages(tmp_path / "a.csv", label_map=label_map, **COLUMNS)
    assert str(caught.value) == message


@pytest.mark.parametrize("label_map", ["0=spam,1=ham", {"0": "spam", "1": "ham"}])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])  # strings and integers
def test_a_label_map_may_say_that_0_is_spam(suffix, label_map, tmp_path):
    write(tmp_path / f"a{suffix}", [(1, "one"), (0, "two")])
    assert named(read_messages(tmp_path / f"a{suffix}", label_map=label_map, **COLUMNS)) == [
        ("not spam", "one"),
        ("spam", "two"),
    ]


def test_a_label_map_may_name_classes_of_ones_own(tmp_path):
    """Labels that mean the same are one class; those that are not mapped keep their name."""
    write(tmp_path / "a.csv", [("job", "one"), ("Task", "two"), ("HOME", "three"), ("home", "four"), ("x=y", "five")])
    found = read_messages(tmp_path / "a.csv", label_map={"job": "work", "task": "work", "x=y": "home"}, **COLUMNS)
    assert named(found) == [("work", "one"), ("work", "two"), ("HOME", "three"), ("HOME", "four"), ("HOME", "five")]


def test_unknown_labels_are_left_out_and_counted(tmp_path, caplog):
    """With `skip_bad_rows`, their number and the place of the first are logged."""
    caplog.set_level(logging.INFO, logger="hf_spam")
    write(tmp_path / "a.csv", [("ham", "one"), ("maybe", "two"), ("spam", "three"), ("Maybe", "four")])
    found = read_messages(tmp_path / "a.csv", skip_bad_rows=True, text_column="body", remembered=(None, "kind"))
    assert named(found) == [("not spam", "one"), ("spam", "three")]
    assert "ham 1, maybe/Maybe (left out) 2, spam 1" in caplog.text
    assert "Left out 2 rows labelled 'maybe', the first at" in caplog.text and "a.csv, line 3" in caplog.text


def test_a_label_map_of_ham_and_spam_leaves_no_class_of_its_own(tmp_path):
    """A stray label would become a third class, since the label column is named; the map can still keep it as one."""
    (tmp_path / "a.csv").write_text("kind,text\n1,see you\n0,win cash\n?,hello\n")
    named = {"label_column": "kind", "text_column": "text"}
    with pytest.raises(DataError, match="line 4: unknown label") as error:
        read_messages(tmp_path / "a.csv", label_map="1=ham,0=spam", **named)
    assert "by adding '?'=ham or '?'=spam to --label-map" in str(error.value)
    kept = read_messages(tmp_path / "a.csv", label_map="1=ham,0=spam,?=?", **named)
    assert kept.features["label"].names == ["?", "not spam", "spam"] and kept["label"][:] == [1, 2, 0]
