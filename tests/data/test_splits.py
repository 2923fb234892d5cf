"""Splits give the book's rows, leak no duplicates and lose nothing; fingerprints identify data."""

import hashlib
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import rows

from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.formats import DataError
from hf_spam.data.labels import FEATURES, features_of
from hf_spam.data.sources import load_sms_spam, read_messages
from hf_spam.data.splits import digest, fingerprints, full_split, grouped_folds


def book_digest(dataset: Dataset) -> str:
    return hashlib.sha256("\n".join(f"{label}\t{text}" for label, text in rows(dataset)).encode()).hexdigest()


def keys(dataset: Dataset) -> set[str]:
    return set(map(duplicate_key, dataset["text"][:]))


def word(number: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in str(number))


def small_dataset(ham: int, spam: int, groups: list[int] | None = None) -> Dataset:
    """Return messages of different words, each in a group of its own unless there are `groups`."""
    columns = {"text": [word(i) for i in range(ham + spam)], "label": [0] * ham + [1] * spam}
    return Dataset.from_dict(columns, features=FEATURES).add_column("group", groups or [*range(ham + spam)])


# The real collection


@pytest.fixture(scope="module")
def collection(sms_collection) -> DatasetDict:
    return load_sms_spam(sms_collection)


def test_the_book_protocol_gives_the_books_rows_with_their_leak(sms_collection):
    """The published comparison with the book depends on exactly these rows in this order."""
    splits = load_sms_spam(sms_collection, protocol="book")
    assert {name: (len(split), sum(split["label"][:]), book_digest(split)) for name, split in splits.items()} == {
        "train": (1045, 517, "e162fed00c6689c3dca7ec1013d317f3c4820a84244b78b3b33ef37d7a0db5da"),
        "validation": (149, 79, "696ee4e1fec0e5287a1c15632c941fc63d01c0135945307d2023f455ab45cd4b"),
        "test": (300, 151, "be3a08e1a72e62a89660063748f89ca13300a0a681f42f857e70e48af406ed94"),
    }
    seen = set(splits["train"]["text"][:])
    assert [sum(text in seen for text in splits[name]["text"][:]) for name in ("validation", "test")] == [13, 37]


def test_the_full_split_is_complete_stratified_and_without_leaks(sms_collection, collection):
    """Test scores mean nothing if a test message or its duplicate is in train. The rows never change."""
    parts = list(collection.values())
    assert len(set.union(*map(keys, parts))) == sum(len(keys(part)) for part in parts)
    everything = rows(read_messages(sms_collection))
    assert Counter(row for part in parts for row in rows(part)) == Counter(everything)
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert len(part) / len(everything) == pytest.approx(share, abs=0.01)
        assert sum(part["label"][:]) / len(part) == pytest.approx(747 / 5574, abs=0.01)
    assert [book_digest(part)[:8] for part in parts] == ["ed098e28", "536e6557", "dc8d7029"]


# Other data


def test_a_rare_label_is_refused_by_its_name():
    """Forty messages may be seven: with only the seven named, the count would look wrong."""
    dataset = small_dataset(20, 40, [*range(20), *(20 + i % 7 for i in range(40))])
    with pytest.raises(DataError, match=r"a 70/10/20 split needs 10 different messages .*; 'spam' has 6: add some$"):
        full_split(dataset.select(range(26)), 1)
    alike = "40 messages, but those that differ only in case, digits or punctuation count as one"
    with pytest.raises(DataError, match=rf"^8 folds need 8 different messages .*; 'spam' has 7 \({alike}\): add some$"):
        grouped_folds(dataset, 8)


words = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=24, max_size=60, unique=True)
tails = st.lists(st.tuples(st.integers(0, 23), st.integers(0, 1), st.sampled_from(["!", " 1", "?2 "])))


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(words, tails, st.data())
def test_splits_of_any_messages_are_disjoint_and_complete(words, twins, data):
    """No duplicates leak and no messages get lost, even if the labels of duplicates disagree."""
    table = [(int(i % 3 == 0 or i < 12), word) for i, word in enumerate(words)]
    table = [(1 - label, word) if 12 <= i < 24 and label else (label, word) for i, (label, word) in enumerate(table)]
    table = data.draw(st.permutations(table + [(label, words[i].upper() + tail) for i, label, tail in twins]))
    labels, texts = zip(*table, strict=True)
    dataset = Dataset.from_dict({"text": texts, "label": labels}, features=FEATURES)
    parts = list(load_sms_spam(dataset).values())
    assert Counter(row for part in parts for row in rows(part)) == Counter(table)
    assert sum(len(keys(part)) for part in parts) == len({duplicate_key(text) for _, text in table})
    assert all(map(len, parts))
    book = load_sms_spam(dataset, protocol="book").values()
    drawn = Counter(row for part in book for row in rows(part))
    rarest = min(Counter(label for label, _ in table).values())  # spam may be the larger class
    assert not drawn - Counter(table) and [label for label, _ in drawn.elements()].count(1) == rarest
    assert [len(part) for part in book][:2] == [int(0.7 * 2 * rarest), int(0.1 * 2 * rarest)]
    assert drawn.total() == 2 * rarest


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    dataset = small_dataset(40, 40)
    for protocol in ("book", "full"):
        first, again, other = (
            list(map(rows, load_sms_spam(dataset, protocol=protocol, seed=seed).values())) for seed in (1, 1, 2)
        )
        assert first == again != other and first[2] != other[2]


def test_folds_cover_everything_once_and_share_no_group():
    """Cross-validation tests each message once, and never trains on its duplicates. A group may have both labels."""
    groups = [*range(60), *range(60)]
    dataset = small_dataset(60, 60, groups)
    folds = list(grouped_folds(dataset, k=4, seed=1))
    assert Counter(row for _, test in folds for row in rows(test)) == Counter(rows(dataset))
    for train, test in folds:
        assert Counter(rows(train) + rows(test)) == Counter(rows(dataset))
        assert not {*train["group"]} & {*test["group"]} and Counter(test["label"]) == {0: 15, 1: 15}
    assert [rows(test) for _, test in grouped_folds(dataset, k=4, seed=1)] == [rows(test) for _, test in folds]
    assert len(list(grouped_folds(dataset))) == 5
    splits = [[groups[row] for row in part] for part in full_split(dataset, 1)]
    assert [len(part) for part in splits] == [84, 12, 24] and sum(len(set(part)) for part in splits) == 60


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("WIN £100 now!!", " win £5000... now", True),
        ("Call 0800-123 456", "call 0800 9 9", True),
        ("I'm_here", "i m here?", True),
        ("win now", "win not", False),
        ("की!", "का", False),
        ("see you \u2764\ufe0f", "see you", True),
        ("a1b", "ab", False),
        ("16", "18", False),
        (":)", ":(", False),
    ],
)
def test_duplicate_key(one, other, same):
    """Messages without letters are duplicates only if they are equal."""
    assert (duplicate_key(one) == duplicate_key(other)) is same


def test_a_digest_depends_on_texts_labels_their_names_and_the_order():
    """It also depends on further columns, such as token ids. Fingerprints hold it and the size of each split."""

    def of(texts=("a secret", "b"), labels=(0, 1), names=("x", "y"), columns=()) -> str:
        messages = Dataset.from_dict({"text": list(texts), "label": list(labels)}, features=features_of(names))
        return digest(messages, *columns)

    same = of()
    assert same == of() and len(same) == 64 and int(same, 16)
    others = [of(texts=("b", "a secret")), of(labels=(1, 1)), of(names=("y", "x")), of(columns=([[1], [2]],))]
    assert len({same, *others}) == 5
    data = DatasetDict(train=small_dataset(2, 1), test=small_dataset(1, 1))
    assert fingerprints(data) == {
        split: {"messages": len(part), "sha256": digest(part)} for split, part in data.items()
    }
