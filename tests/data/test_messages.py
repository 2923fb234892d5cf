"""From every kind of source to its messages, and from messages to splits and folds.

All offline: the Hub is the loopback one, or replaced.
"""

import hashlib
from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_spam.data import sources
from hf_spam.data.duplicates import duplicate_key
from hf_spam.data.formats import DataError
from hf_spam.data.labels import FEATURES
from hf_spam.data.sources import load_sms_spam, read_messages
from hf_spam.data.splits import grouped_folds

quick = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow], database=None)


def rows(dataset: Dataset) -> list[tuple[int, str]]:
    return list(zip(dataset["label"][:], dataset["text"][:], strict=True))


def digest(dataset: Dataset) -> str:
    return hashlib.sha256("\n".join(f"{label}\t{text}" for label, text in rows(dataset)).encode()).hexdigest()


def keys(dataset: Dataset) -> set[str]:
    return set(map(duplicate_key, dataset["text"][:]))


def plain_tsv(table: list) -> bytes:
    return "".join(f"{label}\t{text}\n" for label, text in table).encode()


def small_source(ham: int, spam: int) -> bytes:
    words = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(ham + spam)]
    return plain_tsv([("ham" if i < ham else "spam", word) for i, word in enumerate(words)])


# The real collection


@pytest.fixture(scope="module")
def full_split(sms_collection) -> DatasetDict:
    return load_sms_spam(sms_collection)


def test_the_book_protocol_gives_the_books_rows(sms_collection):
    """The published comparison with the book stands on exactly these rows in this order."""
    splits = load_sms_spam(sms_collection, protocol="book")
    assert {name: (len(split), sum(split["label"][:]), digest(split)) for name, split in splits.items()} == {
        "train": (1045, 517, "e162fed00c6689c3dca7ec1013d317f3c4820a84244b78b3b33ef37d7a0db5da"),
        "validation": (149, 79, "696ee4e1fec0e5287a1c15632c941fc63d01c0135945307d2023f455ab45cd4b"),
        "test": (300, 151, "be3a08e1a72e62a89660063748f89ca13300a0a681f42f857e70e48af406ed94"),
    }


def test_the_two_readings_of_the_uci_file(sms_collection):
    """Reading without quoting keeps every message; the book's reading merges two lines into others."""
    everything = read_messages(sms_collection)
    assert Counter(everything["label"][:]) == {0: 4827, 1: 747}
    assert rows(everything) == [
        (int(label == "spam"), text)
        for label, text in (line.split("\t") for line in sms_collection.read_text("utf-8").split("\n")[:-1])
    ]
    assert Counter(read_messages(sms_collection, protocol="book")["label"][:]) == {0: 4825, 1: 747}


def test_the_full_split_is_complete_stratified_and_without_leaks(sms_collection, full_split):
    """Test scores mean nothing if a test message, or its twin, was trained on."""
    train, validation, test = (full_split[name] for name in ("train", "validation", "test"))
    seen = [keys(split) for split in (train, validation, test)]
    assert len(set.union(*seen)) == sum(map(len, seen))
    everything = rows(read_messages(sms_collection))
    assert Counter(rows(train) + rows(validation) + rows(test)) == Counter(everything)
    for split, share in ((train, 0.7), (validation, 0.1), (test, 0.2)):
        assert len(split) / len(everything) == pytest.approx(share, abs=0.01)
        assert sum(split["label"][:]) / len(split) == pytest.approx(747 / 5574, abs=0.01)


def test_the_full_split_is_the_same_on_every_machine(full_split):
    """Numbers in the card stay comparable only while these rows do."""
    pinned = ["ed098e28", "536e6557", "dc8d7029"]
    assert [digest(full_split[name])[:8] for name in ("train", "validation", "test")] == pinned


# Sources that are refused

EXTENSION = ": unknown file extension; use one of .csv, .tsv, .jsonl, .json, .parquet, .zip"
UNUSABLE = {
    "one class": ("a.tsv", b"spam\ta\nspam\tb\n", ": every message is 'spam'; at least two labels are needed"),
    "extension": (
        "a.txt",
        b"ham\ta\n",
        ": unknown file extension; use one of .csv, .tsv, .jsonl, .json, .parquet, .zip",
    ),
    "no extension": (
        "a",
        b"ham\ta\n",
        ": unknown file extension; use one of .csv, .tsv, .jsonl, .json, .parquet, .zip",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_files_are_refused_in_one_line(case, tmp_path):
    """The user learns which file, and what is the matter with it."""
    name, data, message = UNUSABLE[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_sms_spam(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize("name", ["no.csv", "no/no.csv", "no/SMSSpamCollection", "./no", "no"])
def test_a_missing_file_is_refused(name, tmp_path, monkeypatch):
    """A typing mistake is the most common error of all; it must not start a search on the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load_dataset", None)
    with pytest.raises(DataError) as caught:
        read_messages(name)
    assert str(caught.value) == f"{name}: no such file, nor 'sample', 'uci' or a Hub dataset id 'owner/name'"


def test_a_directory_is_refused(tmp_path, monkeypatch):
    """Also one that is spelled like a Hub dataset id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for name in ("owner/name", "owner"):
        with pytest.raises(DataError, match=rf"^{name}: cannot be read \(.*\)$"):
            read_messages(name)


def test_an_unknown_protocol_is_refused(tmp_path):
    """A misspelt protocol must not fall back to another one."""
    with pytest.raises(DataError, match=r"^unknown protocol 'books': use 'book' or 'full'$"):
        load_sms_spam(tmp_path / "no.csv", protocol="books")


# Splits


@pytest.mark.parametrize("protocol", ["book", "full"])
def test_the_embedded_sample_can_be_split(protocol):
    """The first command of a newcomer needs neither files nor network."""
    splits = load_sms_spam("sample", protocol=protocol)
    assert list(splits) == ["train", "validation", "test"]
    assert all(set(split["label"]) == {0, 1} and split.features == FEATURES for split in splits.values())


@pytest.mark.parametrize(
    ("protocol", "ham", "spam", "message"),
    [
        (
            "full",
            10,
            9,
            "'spam' has 9 (near-duplicates count as one): add some",
        ),
        (
            "full",
            9,
            30,
            "'not spam' has 9 (near-duplicates count as one): add some",
        ),
        ("book", 30, 4, "the book's split needs 5 messages of each label; the rarest one has 4"),
    ],
)
def test_too_few_messages_to_split_are_refused(protocol, ham, spam, message, tmp_path):
    """An empty validation split would only show as a division by zero much later."""
    path = tmp_path / "a.tsv"
    path.write_bytes(small_source(ham, spam))
    with pytest.raises(DataError) as caught:
        load_sms_spam(path, protocol=protocol)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith(message)


def test_a_rare_label_is_refused_in_the_words_of_what_was_asked(tmp_path):
    """A split knows no folds; cross-validation does, by the number that was asked for."""
    words = ["".join(chr(97 + int(digit)) for digit in str(number)) for number in range(66)]
    lines = [f"{word},{'rare' if i < 6 else ('home', 'work')[i % 2]}" for i, word in enumerate(words)]
    (tmp_path / "a.csv").write_text("\n".join(["text,kind", *lines]))
    with pytest.raises(DataError) as caught:
        load_sms_spam(tmp_path / "a.csv", label_column="kind")
    needed = "different messages of each label; 'rare' has 6"
    assert str(caught.value) == (
        f"{tmp_path / 'a.csv'}: a 70/10/20 split needs 10 {needed} (near-duplicates count as one): "
        "add some, or leave this label out"
    )
    with pytest.raises(DataError, match=f"^7 folds need 7 {needed}"):
        grouped_folds(read_messages(tmp_path / "a.csv", label_column="kind"), 7)


@pytest.mark.parametrize(("ham", "spam"), [(30, 5), (5, 30), (8, 8)])
def test_the_book_protocol_balances_towards_the_rarer_label(ham, spam, tmp_path):
    """Also where spam is the larger class, and where there is nothing to balance."""
    path = tmp_path / "a.tsv"
    path.write_bytes(small_source(ham, spam))
    splits = load_sms_spam(path, protocol="book")
    total = 2 * min(ham, spam)
    assert [len(split) for split in splits.values()][:2] == [int(0.7 * total), int(0.1 * total)]
    drawn = [row for split in splits.values() for row in rows(split)]
    assert len(set(drawn)) == total and Counter(label for label, _ in drawn) == {0: total // 2, 1: total // 2}
    assert set(drawn) <= set(rows(read_messages(path)))


words = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=24, max_size=60, unique=True)


@quick
@given(
    words, st.lists(st.tuples(st.integers(0, 23), st.integers(0, 1), st.sampled_from(["!", " 1", "?2 "]))), st.data()
)
def test_splits_of_any_messages_are_disjoint_and_complete(tmp_path_factory, words, twins, data):
    """Whatever duplicates there are (labels that disagree included), no leak and no loss."""
    table = [(int(i % 3 == 0 or i < 12), word) for i, word in enumerate(words)]
    table = [(1 - label, word) if 12 <= i < 24 and label else (label, word) for i, (label, word) in enumerate(table)]
    table += [(label, words[i].upper() + tail) for i, label, tail in twins]
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_bytes(plain_tsv(data.draw(st.permutations(table))))
    parts = list(load_sms_spam(path).values())
    assert Counter(row for part in parts for row in rows(part)) == Counter(table)
    assert sum(len(keys(part)) for part in parts) == len({duplicate_key(text) for _, text in table})
    assert all(map(len, parts))
    book = load_sms_spam(path, protocol="book").values()
    assert not Counter(row for part in book for row in rows(part)) - Counter(table)


def test_a_seed_gives_the_same_split_again_and_another_seed_another(tmp_path):
    """A split left to chance could not be compared; a seed that is ignored would make several runs look like one."""
    path = tmp_path / "a.tsv"
    path.write_bytes(small_source(40, 40))
    for protocol in ("book", "full"):
        first, again, other = (
            list(map(rows, load_sms_spam(path, protocol=protocol, seed=seed).values())) for seed in (1, 1, 2)
        )
        assert first == again != other and first[2] != other[2]


def test_folds_cover_everything_once_and_share_no_duplicates(tmp_path):
    """Cross-validation counts each message once, and never trains on its twin."""
    path = tmp_path / "a.tsv"
    path.write_bytes(small_source(40, 20) + small_source(40, 20).replace(b"\n", b"!\n"))
    dataset = read_messages(path)
    folds = list(grouped_folds(dataset, k=4, seed=1))
    assert Counter(row for _, test in folds for row in rows(test)) == Counter(rows(dataset))
    for train, test in folds:
        assert Counter(rows(train) + rows(test)) == Counter(rows(dataset)) and not keys(train) & keys(test)
        assert Counter(test["label"]) == {0: 20, 1: 10}
    assert [rows(test) for _, test in grouped_folds(dataset, k=4, seed=1)] == [rows(test) for _, test in folds]
    assert len(list(grouped_folds(dataset))) == 5
    for k in (1, 21):
        with pytest.raises(DataError, match="folds"):  # at the call, not at the first fold
            grouped_folds(dataset, k=k)


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
    """What counts as the same message; without letters, only what is equal."""
    assert (duplicate_key(one) == duplicate_key(other)) is same


# The Hub

HUB_FEATURES = Features({"sms": Value("string"), "label": ClassLabel(names=["spam", "ham"]), "id": Value("int32")})


@pytest.fixture
def serve(monkeypatch):
    """Put a DatasetDict with ham and spam messages in the place of a Hub dataset; returns the function that does."""

    def serve(**sizes: int) -> None:
        splits = {}
        for split, size in sizes.items():
            columns = {"sms": [f"{split} {'ab'[i % 2] * (i + 1)}" for i in range(size)], "id": list(range(size))}
            splits[split] = Dataset.from_dict(columns | {"label": [i % 2 for i in range(size)]}, features=HUB_FEATURES)
        monkeypatch.setattr(sources, "load_dataset", lambda name: DatasetDict(splits))

    return serve


def test_a_hub_datasets_own_splits_are_used_as_they_are(serve):
    """Its published numbers are on those splits; ClassLabel ids are translated by name."""
    serve(test=4, train=20, validation=2, extra=2)
    splits = load_sms_spam("owner/name")
    assert {name: len(split) for name, split in splits.items()} == {"train": 20, "validation": 2, "test": 4}
    assert rows(splits["validation"]) == [(1, "validation a"), (0, "validation bb")]
    assert all(split.features == FEATURES for split in splits.values())


def test_a_hub_dataset_is_split_anew_under_the_book_protocol_or_without_its_own_splits(serve):
    """Nothing of it is left out either way."""
    serve(test=4, train=20, validation=2)
    assert [len(split) for split in load_sms_spam("owner/name", protocol="book").values()] == [18, 2, 6]
    assert len(read_messages("owner/name")) == 26
    serve(train=30, test=10)
    splits = load_sms_spam("owner/name")
    assert list(splits) == ["train", "validation", "test"] and sum(map(len, splits.values())) == 40


def test_a_bad_row_of_a_hub_dataset_is_named(monkeypatch):
    """The split and the row, since there is no line."""
    data = Dataset.from_dict({"label": [0, 1, 7], "text": ["a", "b", "c"]})
    monkeypatch.setattr(sources, "load_dataset", lambda name: DatasetDict(train=data))
    with pytest.raises(DataError, match=r"^owner/name, train, row 3: unknown label 7; known"):
        read_messages("owner/name")


@pytest.mark.parametrize("reachable", [True, False])
def test_a_hub_dataset_that_is_missing_or_out_of_reach_is_one_line(hub, reachable):
    """The real client: what happened and what to do."""
    if not reachable:
        hub.stop()
    with pytest.raises(DataError) as caught:
        load_sms_spam("owner/name-that-is-not-there")
    message = str(caught.value)
    assert message.startswith("owner/name-that-is-not-there: no such file, and not loaded from the Hub (")
    assert message.endswith("; check the id, the network and your login, or use 'sample'") and "\n" not in message


def test_the_books_split_leaks_as_the_readme_says(sms_collection):
    """37 of its 300 test messages, and 13 of its 149 validation messages, stand word for word in its training split."""
    data = load_sms_spam(sms_collection, protocol="book")
    seen = set(data["train"]["text"][:])
    assert sum(text in seen for text in data["test"]["text"][:]) == 37
    assert sum(text in seen for text in data["validation"]["text"][:]) == 13
