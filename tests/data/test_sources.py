"""Messages are read from every kind of source. The Hub is local or replaced."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_spam.data import sources
from hf_spam.data.formats import DataError
from hf_spam.data.labels import FEATURES
from hf_spam.data.sources import check_splits, load_sms_spam, read_messages


def rows(dataset: Dataset) -> list[tuple[int, str]]:
    return list(zip(dataset["label"][:], dataset["text"][:], strict=True))


def test_both_protocols_read_the_uci_file(sms_collection):
    """Protocol "full" keeps every message; "book" interprets quotes, which merges two lines into others."""
    everything = read_messages(sms_collection)
    assert Counter(everything["label"][:]) == {0: 4827, 1: 747}
    assert rows(everything) == [
        (int(label == "spam"), text)
        for label, text in (line.split("\t") for line in sms_collection.read_text("utf-8").split("\n")[:-1])
    ]
    assert Counter(read_messages(sms_collection, protocol="book")["label"][:]) == {0: 4825, 1: 747}


EXTENSION = ": unknown file extension; use one of .csv, .tsv, .jsonl, .json, .parquet, .zip"
UNUSABLE = {
    "one class": ("a.tsv", b"spam\ta\nspam\tb\n", ": every message is 'spam'; at least two labels are needed"),
    "extension": ("a.txt", b"ham\ta\n", EXTENSION),
    "no extension": ("a", b"ham\ta\n", EXTENSION),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_files_are_refused_in_one_line(case, tmp_path):
    name, data, message = UNUSABLE[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_sms_spam(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize("name", ["no.csv", "no/no.csv", "no/SMSSpamCollection", "./no", "no"])
def test_a_missing_file_is_refused(name, tmp_path, monkeypatch):
    """A mistyped path must not start a search on the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load_dataset", None)
    with pytest.raises(DataError) as caught:
        read_messages(name)
    assert str(caught.value) == f"{name}: not a file, 'sample', 'uci' or a Hub dataset id 'owner/name'"


def test_a_directory_is_refused(tmp_path, monkeypatch):
    """Even one whose name looks like a Hub dataset id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for name in ("owner/name", "owner"):
        with pytest.raises(DataError, match=rf"^{name}: cannot be read \(.*\)$"):
            read_messages(name)


def test_an_unknown_protocol_is_refused(tmp_path):
    """A misspelt protocol must not fall back to another one."""
    with pytest.raises(DataError, match=r"^unknown protocol 'books': use 'book' or 'full'$"):
        load_sms_spam(tmp_path / "no.csv", protocol="books")


def test_passed_splits_may_have_what_files_may_have():
    """Column names in any case, words as labels, and unused columns and splits."""
    part = Dataset.from_dict({"Text": ["a", "b"], "LABEL": ["ham", "Spam"], "id": [1, 2]})
    checked = check_splits(DatasetDict(train=part, test=part, more=part))
    assert list(checked) == ["train", "test"] and checked["test"].features == FEATURES
    assert rows(checked["train"]) == [(0, "a"), (1, "b")]
    with pytest.raises(DataError, match="a split named 'train' is needed; found: 'test'"):
        check_splits(DatasetDict(test=part))
    with pytest.raises(DataError, match="no messages found"):
        check_splits(DatasetDict(train=part, test=part.select([])))
    with pytest.raises(DataError, match=r"^train: there is no text column .*; found: \['LABEL', 'id'\]"):
        check_splits(DatasetDict(train=part.remove_columns("Text")))


# The Hub

HUB_FEATURES = Features({"sms": Value("string"), "label": ClassLabel(names=["spam", "ham"]), "id": Value("int32")})


@pytest.fixture
def serve(monkeypatch):
    """Return a function that replaces a Hub dataset with a DatasetDict of ham and spam messages."""

    def serve(**sizes: int) -> None:
        splits = {}
        for split, size in sizes.items():
            columns = {"sms": [f"{split} {'ab'[i % 2] * (i + 1)}" for i in range(size)], "id": list(range(size))}
            splits[split] = Dataset.from_dict(columns | {"label": [i % 2 for i in range(size)]}, features=HUB_FEATURES)
        monkeypatch.setattr(sources, "load_dataset", lambda name: DatasetDict(splits))

    return serve


def test_a_hub_datasets_own_splits_are_used_as_they_are(serve):
    """Published results refer to these splits. ClassLabel ids are mapped by name."""
    serve(test=4, train=20, validation=2, extra=2)
    splits = load_sms_spam("owner/name")
    assert {name: len(split) for name, split in splits.items()} == {"train": 20, "validation": 2, "test": 4}
    assert rows(splits["validation"]) == [(1, "validation a"), (0, "validation bb")]
    assert all(split.features == FEATURES for split in splits.values())


def test_a_hub_dataset_is_split_again_for_the_book_protocol_or_without_its_own_splits(serve):
    """No message is left out."""
    serve(test=4, train=20, validation=2)
    assert [len(split) for split in load_sms_spam("owner/name", protocol="book").values()] == [18, 2, 6]
    assert len(read_messages("owner/name")) == 26
    serve(train=30, test=10)
    splits = load_sms_spam("owner/name")
    assert list(splits) == ["train", "validation", "test"] and sum(map(len, splits.values())) == 40


def test_a_bad_row_of_a_hub_dataset_is_named(monkeypatch):
    data = Dataset.from_dict({"label": [0, 1, 7], "text": ["a", "b", "c"]})
    monkeypatch.setattr(sources, "load_dataset", lambda name: DatasetDict(train=data))
    with pytest.raises(DataError, match=r"^owner/name, train, row 3: unknown label 7; known"):
        read_messages("owner/name")


@pytest.mark.parametrize("reachable", [True, False])
def test_a_missing_or_unreachable_hub_dataset_is_one_line(hub, reachable):
    """The client is the real one."""
    if not reachable:
        hub.stop()
    with pytest.raises(DataError) as caught:
        load_sms_spam("owner/name-that-is-not-there")
    message = str(caught.value)
    assert message.startswith("owner/name-that-is-not-there: no such file, and not loaded from the Hub (")
    assert message.endswith("; check the id, the network and your login, or use 'sample'") and "\n" not in message
